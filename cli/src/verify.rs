//! `varve verify`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{
    Backup, ObjectCheck, WalFile, chain_of, list, load, verify, verify_wal, wal_list, wal_reach,
};
use varve_core::seal::Identities;
use varve_core::store::Store;

use crate::common::From;
use crate::exit::{self, Failure};
use crate::signals::tick;
use crate::{stores, text};

/// Reads backups and WAL again.
#[derive(Args)]
pub struct Arguments {
    /// The backups; all if none is named
    backup: Vec<String>,
    #[command(flatten)]
    from: From,
    /// Leaves WAL out
    #[arg(long)]
    no_wal: bool,
    /// Names what is sound, too
    #[arg(long, short)]
    verbose: bool,
}

/// What was counted.
#[derive(Default)]
struct Count {
    sound: u64,
    bad: u64,
}

impl Count {
    fn bad(&mut self, what: &str, detail: &str) {
        self.bad += 1;
        println!("BAD  {what}  {detail}");
    }

    fn object(&mut self, store: &Store, check: &ObjectCheck, verbose: bool) {
        let name = format!("{}/{}", store.url(), check.key);
        if check.ok {
            self.sound += 1;
            if verbose {
                println!("ok   {name}  {}", check.expected);
            }
            return;
        }
        let detail = check.detail.as_deref().unwrap_or_default();
        let sums = match (&check.actual, check.expected.as_str()) {
            (Some(actual), expected) if !expected.is_empty() => {
                format!("; SHA-256 expected {expected}, found {actual}")
            }
            _ => String::new(),
        };
        self.bad(&name, &format!("{detail}{sums}"));
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let stores = stores::open(&arguments.from.from, &arguments.from.options)?;
    let identities = arguments.from.identity.open()?;
    let mut count = Count::default();
    for store in &stores {
        match one_store(store, arguments, identities.as_ref(), &mut count) {
            Err(failure) if failure.code == exit::FAILED => {
                count.bad(store.url(), &failure.message);
            }
            result => result?,
        }
    }
    println!("{} sound, {} damaged or missing", count.sound, count.bad);
    Ok(match count.bad {
        0 => ExitCode::SUCCESS,
        _ => exit::DAMAGED.into(),
    })
}

/// A backup and those that it needs, the full one first, as far as the store has them.
fn chain(store: &Store, backup: &Backup, count: &mut Count) -> Result<Vec<Backup>, Failure> {
    match chain_of(backup.clone(), &mut |id| load(store, id, &tick)) {
        Ok(chain) => Ok(chain),
        Err(error) if error.is_cancelled() => Err(error.into()),
        Err(error) => {
            let name = format!("{}/backups/{}", store.url(), backup.id);
            count.bad(&name, &format!("what it needs: {error}"));
            Ok(vec![backup.clone()])
        }
    }
}

fn one_store(
    store: &Store,
    arguments: &Arguments,
    identities: Option<&Identities>,
    count: &mut Count,
) -> Result<(), Failure> {
    let wanted = &arguments.backup;
    let mut missing: Vec<&String> = wanted.iter().collect();
    let mut backups: Vec<Backup> = Vec::new();
    for listed in list(store, &tick)? {
        if !wanted.is_empty() && !wanted.contains(&listed.id) {
            continue;
        }
        missing.retain(|id| **id != listed.id);
        match listed.backup {
            Ok(backup) => backups.push(backup),
            Err(error) => count.bad(
                &format!("{}/backups/{}", store.url(), listed.id),
                &error.to_string(),
            ),
        }
    }
    for id in missing {
        count.bad(
            &format!("{}/backups/{id}", store.url()),
            "it does not exist",
        );
    }
    let mut sound: BTreeMap<String, bool> = BTreeMap::new();
    for backup in &backups {
        let before = count.bad;
        let mut whole = true;
        for member in chain(store, backup, count)? {
            if let Some(known) = sound.get(&member.id) {
                whole &= known;
                continue;
            }
            let before = count.bad;
            let mut each = |check: ObjectCheck| count.object(store, &check, arguments.verbose);
            verify(store, &member, &mut each, &tick)?;
            whole &= count.bad == before;
            sound.insert(member.id, count.bad == before);
        }
        let word = match whole && count.bad == before {
            true => "sound",
            false => "DAMAGED",
        };
        println!(
            "{word}: backup {} in {}, {}",
            backup.id,
            store.url(),
            text::size(backup.stored_bytes())
        );
    }
    if arguments.no_wal {
        return Ok(());
    }
    let files = wal_list(store, &tick)?;
    let mut each = |check: ObjectCheck| count.object(store, &check, arguments.verbose);
    let readable: Vec<WalFile> = files
        .iter()
        .filter(|file| !file.encrypted || identities.is_some())
        .cloned()
        .collect();
    verify_wal(store, &readable, identities, &mut each, &tick)?;
    if readable.len() < files.len() {
        println!(
            "{} encrypted files of WAL in {} were not read: no key was given",
            files.len() - readable.len(),
            store.url()
        );
    }
    for backup in &backups {
        let reach = match wal_reach(store, backup, &files, identities, &tick) {
            Ok(reach) => reach,
            Err(error) if error.is_cancelled() => return Err(error.into()),
            Err(error) => {
                let name = format!("{}/wal", store.url());
                count.bad(&name, &format!("behind backup {}: {error}", backup.id));
                continue;
            }
        };
        // A backup with its own WAL stands alone where there is no archive.
        if backup.includes_wal && reach.last.is_none() {
            continue;
        }
        for gap in &reach.gaps {
            let name = format!("{}/wal", store.url());
            let detail = format!(
                "missing behind backup {}: {} from {} to {}",
                backup.id,
                text::segments(gap.segments),
                gap.first,
                gap.last
            );
            count.bad(&name, &detail);
        }
    }
    Ok(())
}
