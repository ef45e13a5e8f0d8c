//! Bringing batches of rows into tables: upsert.
//!
//! - [`upsert`]: the SQL functions; [`json`]: rows out of JSON.
//! - [`target`]: the table, its columns and its key; [`batch`], [`window`]: the statement that writes a batch.

pub mod batch;
pub mod json;
pub mod target;
pub mod upsert;
pub mod window;
