//! Arguments that several commands have.

use std::path::PathBuf;

use clap::Args;
use varve_core::seal::{IDENTITY_VARIABLE, Identities};

use crate::exit::Failure;

/// Where backups are.
#[derive(Args, Clone, Debug)]
pub struct From {
    /// A store, file:///directory, s3://bucket/prefix, gs://… or az://…; several times: in the order in which they are asked
    #[arg(long, value_name = "URL", required = true)]
    pub from: Vec<String>,
    #[command(flatten)]
    pub options: StoreOptions,
    #[command(flatten)]
    pub identity: Identity,
}

/// Options of stores.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreOptions {
    /// An option of the stores that take it, say endpoint=https://host:9000; with 2. before it of the second store only
    #[arg(long, value_name = "[N.]KEY=VALUE")]
    pub store_option: Vec<String>,
    /// A file of such lines with credentials, whose mode must be 0600; what it does not say comes from the environment
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
}

/// Who can decrypt.
#[derive(Args, Clone, Debug, Default)]
pub struct Identity {
    /// A file with the secret key of age that backups are encrypted to; without it VARVE_AGE_IDENTITY is read
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// A file with the passphrase that backups are encrypted with
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    pub passphrase_file: Option<PathBuf>,
}

impl Identity {
    /// The keys, if any are named.
    pub fn open(&self) -> Result<Option<Identities>, Failure> {
        let identities = match (&self.identity, &self.passphrase_file) {
            (Some(file), _) => Identities::from_file(file),
            (None, Some(file)) => Identities::from_passphrase_file(file),
            (None, None) => match std::env::var_os(IDENTITY_VARIABLE) {
                Some(_) => Identities::from_environment(),
                None => return Ok(None),
            },
        };
        identities
            .map(Some)
            .map_err(|error| Failure::usage(error.to_string()))
    }
}

/// How many threads are worth while.
pub fn threads(wanted: Option<usize>) -> usize {
    wanted.unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map_or(2, |n| n.get())
            .min(8)
    })
}
