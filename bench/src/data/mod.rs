//! The rows of the two tables: made, not stored, and the same at every run.

pub mod bars;
pub mod copy;
pub mod cpu;
#[cfg(test)]
mod csv;

/// The seed from which both tables are made.
pub const SEED: u32 = 20_250_106;

/// Midnight (UTC) of the first day, 2025-01-06, in seconds from PostgreSQL's epoch, 2000-01-01.
const FIRST_DAY: i64 = 9_137 * DAY;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Takes the values of rows, one after the other.
pub trait Sink {
    /// A row begins.
    fn row(&mut self, columns: u16);
    /// A text.
    fn text(&mut self, text: &str);
    /// An instant, in seconds from PostgreSQL's epoch.
    fn time(&mut self, seconds: i64);
    /// A float.
    fn float(&mut self, value: f64);
    /// A whole number of 64 bits.
    fn int(&mut self, value: i64);
}

/// Makes the rows of a table, in their order.
pub trait Source {
    /// How many rows there are in all.
    fn rows(&self) -> u64;

    /// Gives the rows of the next instant to a sink; how many, and none at the end.
    fn next(&mut self, sink: &mut impl Sink) -> u64;
}
