//! `varve wal-get` and `varve wal-put`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{Archived, WalName, archive, claim, fetch_from_any, system_identifier_of};
use varve_core::store::Store;

use crate::backup::Seal;
use crate::common::{From, StoreOptions};
use crate::exit::{self, Failure};
use crate::signals::tick;
use crate::stores;

/// What `wal-get` answers where it is not known whether there is more WAL: PostgreSQL ends recovery at anything above 125.
const UNKNOWN: u8 = 200;

/// Fetches a file of WAL.
#[derive(Args)]
pub struct GetArguments {
    /// The file's name: %f
    name: WalName,
    /// Where it shall be: %p
    to: PathBuf,
    #[command(flatten)]
    from: From,
}

/// Archives a file of WAL.
#[derive(Args)]
pub struct PutArguments {
    /// The file: %p
    file: PathBuf,
    /// The store
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    options: StoreOptions,
    #[command(flatten)]
    seal: Seal,
}

pub fn get(arguments: &GetArguments) -> ExitCode {
    match fetch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Every new server asks for what is not there yet: that is not worth a line in its log.
        Err(failure) if failure.code == exit::NOT_FOUND => failure.code.into(),
        Err(failure) => {
            eprintln!("{failure}");
            UNKNOWN.into()
        }
    }
}

fn fetch(arguments: &GetArguments) -> Result<(), Failure> {
    let stores = stores::open(&arguments.from.from, &arguments.from.options)?;
    let stores: Vec<&Store> = stores.iter().collect();
    let identities = arguments.from.identity.open()?;
    let name = &arguments.name;
    let (_, troubles) = fetch_from_any(&stores, name, &arguments.to, identities.as_ref(), &tick)?;
    for trouble in troubles {
        eprintln!("varve: warning: {name} came from another store: {trouble}");
    }
    Ok(())
}

pub fn put(arguments: &PutArguments) -> Result<ExitCode, Failure> {
    let wrong = || {
        Failure::usage(format!(
            "{} is no file that PostgreSQL archives",
            arguments.file.display()
        ))
    };
    let name = arguments.file.file_name().ok_or_else(wrong)?;
    let name: WalName = name.to_string_lossy().parse().map_err(|_| wrong())?;
    let store = stores::open_single(&arguments.to, &arguments.options)?;
    // Two clusters that archive into one store would overwrite, or rather block, each other.
    if let WalName::Segment { .. } = name
        && let Some(identifier) = system_identifier_of(&arguments.file)?
    {
        claim(&store, identifier, &tick)?;
    }
    let archived = archive(
        &store,
        &arguments.file,
        &name,
        &arguments.seal.options()?,
        &tick,
    )?;
    if archived == Archived::Repaired {
        eprintln!(
            "varve: warning: {name} was damaged in {} and was written again",
            store.url()
        );
    }
    Ok(ExitCode::SUCCESS)
}
