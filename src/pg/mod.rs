//! The fence around PostgreSQL: safe (or at least checked) wrappers over `pg_sys`.
//!
//! - [`background`]: background workers; [`clock`], [`zone`]: times.
//! - [`cast`]: values brought to a column's type.
//! - [`catalog`]: rows of catalogues, read past SQL.
//! - [`compare`]: keys compared as a btree index does.
//! - [`context`]: the row at hand, told in errors.
//! - [`cursor`]: rows of a query as they leave the executor.
//! - [`expression`]: what expressions call.
//! - [`ffi`]: functions that `pg_sys` does not bind.
//! - [`function`], [`spi`]: SQL functions, and SQL from within.
//! - [`guard`]: the way into Rust, and the way out of errors.
//! - [`lock`]: locks on things that are no whole relations.
//! - [`memory`]: memory of single calls.
//! - [`heap`]: heap's own table access method, called behind a guard.
//! - [`list`]: lists of nodes and integers.
//! - [`owner`]: work on varve's own tables.
//! - [`page`]: rows as they lie in a heap page.
//! - [`permission`]: privileges of the current user.
//! - [`planner`]: asking the planner about columns and groups.
//! - [`relation`]: opening, closing and naming relations.
//! - [`temp_file`]: temporary files.
//! - [`transaction`]: transactions of processes of our own.
//! - [`tuple`]: item pointers, tuple headers and datums.
//! - [`snapshot`]: snapshots that are released on every way out.
//! - [`sort`]: sorting rows; [`walk`]: finding rows by sorted keys.
//! - [`writer`]: writing rows as the executor does; [`executor`]: its state.

pub mod background;
pub mod cast;
pub mod catalog;
pub mod clock;
pub mod compare;
pub mod context;
pub mod cursor;
pub mod executor;
pub mod expression;
pub mod ffi;
pub mod function;
pub mod guard;
pub mod heap;
pub mod list;
pub mod lock;
pub mod memory;
pub mod owner;
pub mod page;
pub mod permission;
pub mod planner;
pub mod relation;
pub mod snapshot;
pub mod sort;
pub mod spi;
pub mod temp_file;
pub mod transaction;
pub mod tuple;
pub mod walk;
pub mod writer;
pub mod zone;
