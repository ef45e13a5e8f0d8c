//! `varve expire`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use varve_core::backup::{Removed, Retention, Timestamp, expire, plan_expiry, sweep};

use crate::common::StoreOptions;
use crate::exit::Failure;
use crate::signals::tick;
use crate::{backup, stores, text};

/// Removes what is old.
#[derive(Args)]
pub struct Arguments {
    /// The store
    #[arg(long, value_name = "URL")]
    from: String,
    #[command(flatten)]
    options: StoreOptions,
    /// Keeps so many of the newest full backups
    #[arg(long, value_name = "N", required_unless_present = "keep_for")]
    keep_full: Option<u32>,
    /// Keeps what is needed to reach every moment of so many days; with --keep-full what either of the two keeps
    #[arg(long, value_name = "DAYS")]
    keep_for: Option<u32>,
    /// Removes it; without this it is only said what would be
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Removes nothing, as without --yes
    #[arg(long)]
    dry_run: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let store = stores::open_single(&arguments.from, &arguments.options)?;
    let day = Duration::from_secs(24 * 3600);
    let retention = Retention {
        keep_full: arguments.keep_full,
        keep_for: arguments.keep_for.map(|days| day * days),
    };
    // What verification has found nobody has written down.
    let damaged = BTreeMap::new();
    let expiry = plan_expiry(&store, &retention, &damaged, Timestamp::now(), &tick)?;
    let (would, done) = match arguments.yes {
        true => ("removed", "removed"),
        false => ("would go", "would be removed"),
    };
    if arguments.yes {
        let mut progress = |removed: &Removed| {
            if let Removed::Backup(backup) = removed {
                println!("{would}: backup {}: {}", backup.id, backup.reason);
            }
        };
        expire(&store, &expiry, &mut progress, &tick)?;
        if let Err(error) = sweep(&store, backup::KEEP_LEFTOVERS, &tick) {
            eprintln!("varve: warning: leftovers of failed backups were not removed: {error}");
        }
    } else {
        for backup in &expiry.backups {
            println!("{would}: backup {}: {}", backup.id, backup.reason);
        }
    }
    for note in &expiry.notes {
        println!("note: {note}");
    }
    println!(
        "{done}: {}, {}, and {} of WAL, {}",
        text::number(expiry.backups.len() as u64, "backup"),
        text::size(expiry.backup_bytes()),
        text::number(expiry.wal.len() as u64, "object"),
        text::size(expiry.wal_bytes())
    );
    if !arguments.yes && !expiry.is_empty() {
        println!("With --yes it is done.");
    }
    Ok(ExitCode::SUCCESS)
}
