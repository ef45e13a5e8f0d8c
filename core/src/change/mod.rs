//! Checksums of rows: what a row says, whatever columns it lies in by which order, tier and layout. `docs/change.md` has it byte
//! by byte.
//!
//! A *cell* is a value that is not NULL, as a class and canonical bytes. A row's checksum is made of its cells and the names
//! of their columns:
//!
//! - [`cell`]: the bytes of cells.
//! - [`hash`]: cells into a row's sum, and that into its checksum; SHA-256 in one go.
//! - [`sums`]: many rows, column by column.
//! - [`fingerprint`]: which columns a sum that is kept is of.
//! - [`checkpoint`], [`entries`]: what is remembered of a table, to tell later what has changed.
//! - [`pairs`]: rows of two tables of which the same ones cancel out, [`lockstep`]: where they come in the same order; [`matching`]: any
//!   number of them; [`wanted`]: which keys remain.

pub mod cell;
pub mod checkpoint;
pub mod entries;
pub mod fingerprint;
pub mod hash;
pub mod lockstep;
pub mod matching;
pub mod pairs;
pub mod sums;
pub mod wanted;

pub use cell::Class;
pub use fingerprint::columns_fingerprint;
pub use hash::{CellHash, Sha256Row, cell_hash, finish, seed};
pub use lockstep::Lockstep;
pub use matching::{Matching, Scratch};
pub use pairs::{Pairs, Seen, Side};
pub use sums::{Fixed, RowSums};
pub use wanted::Wanted;
