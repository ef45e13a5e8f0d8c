//! Bringing batches of rows into tables: upsert.
//!
//! - [`upsert`]: the SQL functions; [`json`]: rows out of JSON.
//! - [`target`]: the table, its columns and its key; [`columns`]: those of a batch.
//! - [`batch`]: a batch and what becomes of it; [`engine`] writes it by itself, [`statement`], [`window`] by one statement.

pub mod batch;
pub mod columns;
pub mod engine;
pub mod json;
pub mod statement;
pub mod target;
pub mod upsert;
pub mod window;
