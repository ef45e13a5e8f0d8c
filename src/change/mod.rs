//! Checksums of rows, as SQL knows them. What they are made of is in `varve_core::change`.
//!
//! - [`row_checksum`] is `varve.row_checksum`; [`rows_checksum`]: the sum over rows, for backups' counts.
//! - [`checksums`] is `varve.checksums`; [`table`] reads a table for it, with the sums that segments keep: [`kept`].
//! - [`diff`]: what has changed between two relations; [`watch`]: what has changed in one since a checkpoint.
//! - [`delta_scan`]: rows in no segment; [`row_hash`]: rows of a table into hashes; [`plan`]: what the columns of a row type are, looked up once.
//! - [`canonical`]: values into cells; [`nested`]: arrays and ranges; [`jsonb`], [`numeric`]: what these types have on disk.
//! - [`encoding`]: text in UTF-8, whatever the server's and the client's encodings are.
//! - [`error`]: what cannot be.

mod canonical;
mod checksums;
mod delta_scan;
mod diff;
mod encoding;
mod error;
mod jsonb;
pub mod kept;
mod nested;
mod numeric;
mod plan;
mod row_checksum;
mod row_hash;
mod rows_checksum;
mod table;
pub mod watch;
