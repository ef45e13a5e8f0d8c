//! `varve list`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{Backup, WalName, list, wal_list};
use varve_core::store::Store;

use crate::common::From;
use crate::exit::{self, Failure};
use crate::signals::tick;
use crate::{stores, text};

/// Lists backups and WAL.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    from: From,
    /// Writes one JSON document a backup, as its record has it, instead of a table
    #[arg(long)]
    json: bool,
}

/// The backups in several stores.
pub struct Found {
    /// By their ids; with each the numbers of the stores that have it undamaged, from 1 on.
    pub backups: BTreeMap<String, (Backup, Vec<usize>)>,
    /// What is wrong with a backup or a store.
    pub troubles: Vec<String>,
    /// Stores that could be read.
    pub readable: usize,
}

/// Looks for backups; a store that cannot be read is a trouble, if another can.
pub fn find(stores: &[Store]) -> Result<Found, Failure> {
    let mut found = Found {
        backups: BTreeMap::new(),
        troubles: Vec::new(),
        readable: 0,
    };
    for (number, store) in stores.iter().enumerate() {
        let listed = match list(store, &tick) {
            Ok(listed) => listed,
            Err(error) if error.is_cancelled() => return Err(error.into()),
            Err(error) => {
                found.troubles.push(error.to_string());
                continue;
            }
        };
        found.readable += 1;
        for entry in listed {
            match entry.backup {
                Ok(backup) => {
                    let known = found
                        .backups
                        .entry(entry.id)
                        .or_insert((backup, Vec::new()));
                    known.1.push(number + 1);
                }
                Err(error) => found.troubles.push(format!("{}: {error}", store.url())),
            }
        }
    }
    match found.readable {
        0 => Err(Failure::system(found.troubles.join("; "))),
        _ => Ok(found),
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let stores = stores::open(&arguments.from.from, &arguments.from.options)?;
    let found = find(&stores)?;
    if arguments.json {
        for (backup, _) in found.backups.values() {
            let text = serde_json::to_string(backup)
                .map_err(|error| Failure::system(error.to_string()))?;
            println!("{text}");
        }
    } else {
        let rows: Vec<Vec<String>> = found.backups.values().map(row).collect();
        let head = [
            "backup",
            "finished (UTC)",
            " took",
            " size",
            " stored",
            "timeline",
            "WAL from",
            "to",
            "stores",
            "parent",
        ];
        print!("{}", text::table(&head, &rows));
        tablespaces(&found);
        for store in &stores {
            wal(store)?;
        }
    }
    for trouble in &found.troubles {
        eprintln!("varve: {trouble}");
    }
    Ok(match found.troubles.is_empty() {
        true => ExitCode::SUCCESS,
        false => exit::DAMAGED.into(),
    })
}

fn row((backup, stores): &(Backup, Vec<usize>)) -> Vec<String> {
    let finished = backup.stopped_at.to_string();
    let numbers: Vec<String> = stores.iter().map(usize::to_string).collect();
    vec![
        backup.id.clone(),
        finished.get(..19).unwrap_or(&finished).replace('T', " "),
        text::duration(backup.seconds()),
        text::size(backup.raw_bytes()),
        text::size(backup.stored_bytes()),
        backup.timeline.to_string(),
        backup.start_lsn.to_string(),
        backup.stop_lsn.to_string(),
        numbers.join(","),
        backup.parent.clone().unwrap_or_default(),
    ]
}

fn tablespaces(found: &Found) {
    let newest = found.backups.values().next_back();
    for tablespace in newest
        .map(|(b, _)| b.tablespaces.as_slice())
        .unwrap_or_default()
    {
        println!("tablespace {} lay in {}", tablespace.oid, tablespace.path);
    }
}

fn wal(store: &Store) -> Result<(), Failure> {
    let files = match wal_list(store, &tick) {
        Ok(files) => files,
        Err(error) if error.is_cancelled() => return Err(error.into()),
        // Said before.
        Err(_) => return Ok(()),
    };
    let segments = || {
        files
            .iter()
            .map(|file| &file.name)
            .filter(|name| matches!(name, WalName::Segment { partial: false, .. }))
    };
    let bytes: u64 = files.iter().map(|file| file.stored_bytes).sum();
    match (segments().next(), segments().next_back()) {
        (Some(first), Some(last)) => println!(
            "WAL in {}: {}, {first} to {last}, {}",
            store.url(),
            text::segments(segments().count() as u64),
            text::size(bytes)
        ),
        _ => println!("WAL in {}: none", store.url()),
    }
    Ok(())
}
