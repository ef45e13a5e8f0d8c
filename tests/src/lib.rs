//! What varve's end-to-end tests and its demonstration stand on.
//!
//! - [`cluster`]: a private server that is gone afterwards, however its user ends.
//! - [`wait`]: waiting for a condition.
//! - [`session`]: a client whose statements run beside the test.
//! - [`twin`]: a hypertable under varve and a heap table that get the same statements.
//! - [`shadow`]: random statements on heap and on varve side by side.
//! - [`random`]: repeatable random numbers.
//! - [`s3`]: a real S3 server on loopback; the program `s3-server` is one that can be killed.
//! - [`both_ways`]: upserts beside INSERT … ON CONFLICT.

pub mod both_ways;
pub mod cluster;
pub mod random;
pub mod s3;
pub mod session;
pub mod shadow;
pub mod twin;
pub mod wait;
