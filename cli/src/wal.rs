//! `varve wal-get` and `varve wal-put`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{
    Archived, BackupError, WAL_PREFIX, WalName, archive, claim, cluster_of, fetch_from_any,
    system_identifier_of,
};
use varve_core::store::{ErrorKind, Store};

use crate::backup::Seal;
use crate::common::{From, StoreOptions};
use crate::exit::{self, Failure};
use crate::signals::tick;
use crate::stores;

/// What `wal-get` answers where it is not known whether there is more WAL: PostgreSQL ends recovery at anything above 125.
pub const UNKNOWN: u8 = 200;

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
            // Standard error may be a log on a full disk.
            let _ = writeln!(std::io::stderr(), "{failure}");
            UNKNOWN.into()
        }
    }
}

fn fetch(arguments: &GetArguments) -> Result<(), Failure> {
    let (urls, options) = (&arguments.from.from, &arguments.from.options);
    let identities = arguments.from.identity.open()?;
    // Each file is fetched by a process of its own, which knows nothing of stores that were away for the last one: so all of
    // them are asked before one that is away is waited for.
    if urls.len() > 1 {
        let hasty = stores::open_hasty(urls, options)?;
        let hasty: Vec<&Store> = hasty.iter().collect();
        let to = &arguments.to;
        match fetch_from_any(&hasty, &arguments.name, to, identities.as_ref(), &tick) {
            Ok((_, troubles)) => {
                warn(&arguments.name, &troubles);
                return Ok(());
            }
            Err(error) if error.is_cancelled() => return Err(error.into()),
            Err(_) => {}
        }
    }
    let stores = stores::open(urls, options)?;
    let stores: Vec<&Store> = stores.iter().collect();
    let name = &arguments.name;
    let fetched = fetch_from_any(&stores, name, &arguments.to, identities.as_ref(), &tick);
    if fetched.as_ref().is_err_and(BackupError::is_not_found) {
        all_are_ours(&stores)?;
    }
    let (_, troubles) = fetched?;
    warn(name, &troubles);
    Ok(())
}

/// Fails where one of the stores does not have what a store of the cluster has, though it answers that it has no such file: so
/// does a bucket that is not there, a prefix with a slip of the pen, and a directory that nothing is mounted on. PostgreSQL
/// would take that for the end of WAL, and open a database without the rest.
fn all_are_ours(stores: &[&Store]) -> Result<(), Failure> {
    let mut known: Option<(&str, String)> = None;
    for store in stores {
        let url = store.url();
        let cluster = match cluster_of(store, &tick) {
            // A bucket that does not exist has no object either, and is asked for its listing below.
            Err(error) if error.is_not_found() => None,
            cluster => cluster?,
        };
        let Some(cluster) = cluster else {
            let mut wal = store.list(WAL_PREFIX, &tick)?;
            match wal.next().transpose() {
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            return Err(Failure::system(format!(
                "{url} has nothing of varve's: is it the right one, and mounted?"
            )));
        };
        let identifier = cluster.system_identifier;
        match &known {
            Some((first, other)) if *other != identifier => {
                return Err(Failure::system(format!(
                    "{first} is of cluster {other}, and {url} of cluster {identifier}: one of them is not the right one"
                )));
            }
            Some(_) => {}
            None => known = Some((url, identifier)),
        }
    }
    Ok(())
}

fn warn(name: &WalName, troubles: &[BackupError]) {
    for trouble in troubles {
        let _ = writeln!(
            std::io::stderr(),
            "varve: warning: {name} came from another store: {trouble}"
        );
    }
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
