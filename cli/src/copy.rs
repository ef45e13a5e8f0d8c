//! `varve copy`.

use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{CopyEvent, CopyOptions, Lag, compare, copy};
use varve_core::store::Store;

use crate::common::{Identity, StoreOptions};
use crate::exit::{self, Failure};
use crate::progress::Progress;
use crate::signals::tick;
use crate::{stores, text};

/// Copies what is missing.
#[derive(Args)]
pub struct Arguments {
    /// The store that is copied
    #[arg(long, value_name = "URL")]
    from: String,
    /// The store that is brought into step with it; the second one, where an option has a number before it
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    options: StoreOptions,
    #[command(flatten)]
    identity: Identity,
    /// Says what is missing and copies nothing
    #[arg(long)]
    dry_run: bool,
    /// Says nothing but what could not be copied
    #[arg(long)]
    quiet: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let urls = [arguments.from.clone(), arguments.to.clone()];
    let opened = stores::open(&urls, &arguments.options)?;
    let [from, to] = opened.as_slice() else {
        return Err(Failure::usage("two stores are needed"));
    };
    let lag = compare(from, to, &tick)?;
    if arguments.dry_run {
        for id in &lag.backups {
            println!("missing: backup {id}");
        }
        println!("{}", missing(&lag));
        return Ok(ExitCode::SUCCESS);
    }
    copy_all(from, to, &lag, arguments)
}

fn copy_all(
    from: &Store,
    to: &Store,
    lag: &Lag,
    arguments: &Arguments,
) -> Result<ExitCode, Failure> {
    let options = CopyOptions {
        identities: arguments.identity.open()?,
        ..CopyOptions::default()
    };
    let mut progress = Progress::new(arguments.quiet);
    let mut moved = 0;
    let mut each = |event: CopyEvent| match event {
        CopyEvent::Moved { bytes } => {
            moved += bytes;
            progress.tell("copying", moved, Some(lag.bytes.max(moved)));
        }
        CopyEvent::Begun { .. } | CopyEvent::Copied { .. } | CopyEvent::Failed(_) => {}
    };
    let copied = copy(from, to, &options, &mut each, &tick);
    progress.end();
    let copied = copied?;
    for failure in &copied.failed {
        println!("BAD  {}  {}", failure.key, failure.reason);
    }
    if !arguments.quiet {
        println!(
            "copied {} objects, {}; {}",
            copied.objects,
            text::size(copied.bytes),
            missing(&copied.behind)
        );
    }
    Ok(match copied.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => exit::DAMAGED.into(),
    })
}

fn missing(lag: &Lag) -> String {
    match lag.is_none() {
        true => "nothing is missing".to_owned(),
        false => format!(
            "missing: {}, {} of WAL, {}",
            text::number(lag.backups.len() as u64, "backup"),
            text::number(lag.wal_files, "file"),
            text::size(lag.bytes)
        ),
    }
}
