//! Sinks: views that rows are copied or inserted into, and that upsert them into a table.
//!
//! - [`create`]: making one; [`trigger`]: what its triggers do.
//! - [`given`]: which columns a statement gives, which its triggers are not told.
//! - [`open`]: the batches of statements under way.

pub mod create;
pub mod given;
pub mod open;
pub mod trigger;
