//! What varve's end-to-end tests and its demonstration stand on.
//!
//! - [`cluster`]: a private server that is gone afterwards, however its user ends.
//! - [`wait`]: waiting for a condition.

pub mod cluster;
pub mod wait;
