//! The engine that writes batches: rows are sorted by chunk and key, compared with what is stored in one pass along the key's
//! index, and written in key order, new ones many at a time.
//!
//! - [`run`]: the engine, from the first row of a batch to its summary; [`eligible`]: what it leaves to the ordinary path.
//! - [`rows`]: the rows of a batch, sorted; [`route`]: the chunk of a row.
//! - [`chunk`]: writing sorted rows into one chunk; [`direct`]: as segments, past the delta.

pub mod chunk;
pub mod direct;
pub mod eligible;
pub mod route;
pub mod rows;
pub mod run;

pub use eligible::note;
pub use run::Engine;
