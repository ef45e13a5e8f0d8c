//! Bringing batches of rows into tables: upsert.
//!
//! - [`upsert`]: the SQL functions; [`json`]: rows out of JSON.
//! - [`target`]: the table, its columns and its key; [`columns`]: those of a batch.
//! - [`batch`]: a batch and what becomes of it; [`engine`] writes it by itself, [`statement`], [`window`] by one statement.
//! - [`deduplicate`]: removing repetitions afterwards.
//! - [`sink`]: relations that upsert what is copied or inserted into them.

pub mod batch;
pub mod columns;
pub mod deduplicate;
pub mod engine;
pub mod json;
pub mod sink;
pub mod statement;
pub mod target;
pub mod upsert;
pub mod window;
