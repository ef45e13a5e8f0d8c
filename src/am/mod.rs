//! The table access method `varve`: a delta, which is an ordinary heap, and frozen rows in immutable columnar segments.
//!
//! - [`handler`]: the routine, heap's with our callbacks.
//! - [`companion`], [`body`], [`directory`], [`zone`], [`bloom`], [`datum`]: where segments are, and reading them.
//! - [`retained`]: segments that outlive their storage.
//! - [`builder`], [`ranks`], [`writer`], [`append`]: writing segments.
//! - [`tid`], [`tombstone`], [`thaw`], [`toast`], [`share`], [`chain`]: how a frozen row is named, and how it comes back into the delta.
//! - [`scan`], [`sample`], [`analyze`], [`fetch`], [`lookup`]: reading.
//! - [`modify`], [`unique`], [`keyset`], [`merge`], [`evaluator`], [`command`]: writing.
//! - [`index_build`], [`storage`]: indexes, and the relation as a whole.
//! - [`inplace`] is `varve.debug_freeze`.
//! - [`cache`]: what a backend remembers; [`error`]: how it complains.

pub mod analyze;
pub mod append;
pub mod bloom;
pub mod body;
pub mod builder;
pub mod cache;
pub mod chain;
pub mod command;
pub mod companion;
pub mod datum;
pub mod directory;
pub mod error;
pub mod evaluator;
pub mod fetch;
pub mod handler;
pub mod index_build;
pub mod inplace;
pub mod keyset;
pub mod lookup;
pub mod merge;
pub mod modify;
pub mod ranks;
pub mod retained;
pub mod sample;
pub mod scan;
pub mod share;
pub mod storage;
pub mod thaw;
pub mod tid;
pub mod toast;
pub mod tombstone;
pub mod unique;
pub mod writer;
pub mod zone;
