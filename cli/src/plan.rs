//! `varve plan`.

use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{chain_of, load_from_any, wal_list, wal_reach};
use varve_core::store::Store;

use crate::common::From;
use crate::exit::Failure;
use crate::restore::Goal;
use crate::signals::tick;
use crate::{list, stores, text};

/// Says what a restore would do.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    goal: Goal,
    /// How fast archives are fetched and unpacked, in MB/s of plain data
    #[arg(long, value_name = "MB", default_value_t = 300.0)]
    restore_rate: f64,
    /// How fast WAL is replayed, in MB/s of plain WAL
    #[arg(long, value_name = "MB", default_value_t = 50.0)]
    replay_rate: f64,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let opened = stores::open(&arguments.from.from, &arguments.from.options)?;
    let identities = arguments.from.identity.open()?;
    let stores: Vec<&Store> = opened.iter().collect();
    let found = list::find(&opened)?;
    let backup = arguments
        .goal
        .backup(&found, &stores, identities.as_ref())?
        .clone();
    let chain = chain_of(backup.clone(), &mut |id| {
        load_from_any(&stores, id, &tick).map(|(_, backup)| backup)
    })?;
    let mut step = 0;
    let mut total = 0.0;
    let mut say = |action: String, seconds: f64| {
        step += 1;
        total += seconds;
        println!("{step}. {action} (about {})", text::duration(seconds));
    };
    let rate = |bytes: u64, megabytes: f64| bytes as f64 / (megabytes.max(0.001) * 1e6);
    for member in chain.iter().rev() {
        let seconds = rate(member.raw_bytes(), arguments.restore_rate);
        say(
            format!(
                "Fetch and unpack backup {}: {} stored, {} plain",
                member.id,
                text::size(member.stored_bytes()),
                text::size(member.raw_bytes())
            ),
            seconds,
        );
    }
    let mut reached = None;
    let mut troubles = found.troubles;
    for store in &stores {
        let reach = wal_list(store, &tick)
            .and_then(|files| wal_reach(store, &backup, &files, identities.as_ref(), &tick));
        let reach = match reach {
            Ok(reach) => reach,
            Err(error) if error.is_cancelled() => return Err(error.into()),
            Err(error) => {
                troubles.push(error.to_string());
                continue;
            }
        };
        if reached
            .as_ref()
            .is_none_or(|r: &varve_core::backup::WalReach| r.end < reach.end)
        {
            reached = Some(reach);
        }
    }
    match reached {
        Some(reach) if reach.end.is_some() => {
            let end = reach.end.unwrap_or_default();
            let bytes = end.0.saturating_sub(backup.start_lsn.0);
            let last = reach.last.map_or(String::new(), |last| last.to_string());
            say(
                format!(
                    "Replay WAL from {} to {last} at most, {}, on timeline {}; {}",
                    reach.first,
                    text::size(bytes),
                    reach.timelines.last().copied().unwrap_or(backup.timeline),
                    arguments.goal.describe()
                ),
                rate(bytes, arguments.replay_rate),
            );
            for gap in &reach.gaps {
                println!(
                    "   Missing: {} from {} to {}; what is behind is lost",
                    text::segments(gap.segments),
                    gap.first,
                    gap.last
                );
            }
        }
        _ if backup.includes_wal => say(
            "Replay the WAL in the backup; there is none in the stores".to_owned(),
            1.0,
        ),
        _ => println!(
            "There is no WAL in the stores that can be read, and the backup needs some: it cannot be started"
        ),
    }
    println!("Together about {}", text::duration(total));
    troubles.dedup();
    for trouble in &troubles {
        eprintln!("varve: warning: {trouble}");
    }
    println!(
        "Command: {}",
        arguments.goal.command(&arguments.from, &backup)
    );
    Ok(ExitCode::SUCCESS)
}
