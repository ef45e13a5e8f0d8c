//! Object stores: where backups, WAL and archived segments are kept.
//!
//! A [`StoreConfig`] says which store and how it is reached; [`Store::open`] makes a [`Store`] of it, whose calls block and
//! ask the caller's [`Tick`](crate::wait::Tick) while they wait. `file://` stores are written by code of our own, so that an
//! object that was written has reached the disk; `s3://`, `gs://` and `az://` go through the crate `object_store`.
//! `docs/stores.md` is the users' page.

mod config;
mod error;
mod flow;
mod handle;
mod key;
mod local;
mod options;
mod parts;
mod place;
mod reader;
mod remote;
mod secret;
mod url;
mod writer;

pub use config::{Role, StoreConfig};
pub use error::{ErrorKind, StoreError};
pub use handle::{ObjectMeta, Store};
pub use key::{MAX_KEY_BYTES, check_key};
pub use options::{OPTIONS, OptionSpec, Place};
pub use place::StorePlace;
pub use reader::{Listing, ObjectReader};
pub use secret::Secret;
pub use url::{Scheme, StoreUrl};
pub use writer::{ObjectWriter, Written};
