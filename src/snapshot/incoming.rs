//! Rows as they come from elsewhere.

use pgrx::pg_sys;

/// Rows, one after the other.
pub trait Incoming {
    /// Goes on to the next row; whether there is one. May be asked again at the end.
    fn next(&mut self) -> bool;

    /// The row at hand: a value and a NULL flag for each column. Values live until [`forget`](Self::forget).
    fn row(&self) -> (&[pg_sys::Datum], &[bool]);

    /// Bytes that rows take since [`forget`](Self::forget).
    fn bytes(&self) -> usize;

    /// Gives back the memory of the rows until now.
    fn forget(&mut self);
}
