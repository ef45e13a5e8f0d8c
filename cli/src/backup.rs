//! `varve backup`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{Kind, Phase, SealOptions, TakeOptions, sweep, take};
use varve_core::replication::ConnInfo;
use varve_core::seal::Recipients;

use crate::common::{Identity, StoreOptions, threads};
use crate::exit::Failure;
use crate::progress::Progress;
use crate::signals::tick;
use crate::{stores, text};

/// Takes a base backup.
#[derive(Args)]
pub struct Arguments {
    /// How to reach the server, as libpq has it: host=/run/postgresql user=backup; what it does not say comes from PGHOST, …
    #[arg(long, value_name = "CONNINFO", default_value = "")]
    conninfo: String,
    /// The store
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    options: StoreOptions,
    /// full, differential (to the last full one) or incremental (to the last one)
    #[arg(long, default_value = "full")]
    kind: Kind,
    /// What it is called
    #[arg(long, default_value = "varve")]
    label: String,
    /// Puts the WAL that the backup needs into it, so that it can be restored without an archive
    #[arg(long)]
    include_wal: bool,
    /// Does not wait until the WAL that it needs is archived
    #[arg(long)]
    no_wait: bool,
    /// Spreads the checkpoint that it begins with, instead of making it at once
    #[arg(long)]
    spread_checkpoint: bool,
    /// The most that the server sends, in kB/s
    #[arg(long, value_name = "KB", value_parser = clap::value_parser!(u32).range(32..=1_048_576))]
    max_rate: Option<u32>,
    #[command(flatten)]
    seal: Seal,
    #[command(flatten)]
    identity: Identity,
    /// Says nothing but the backup's id
    #[arg(long)]
    quiet: bool,
}

/// How what is stored is compressed and encrypted.
#[derive(Args, Clone, Debug)]
pub struct Seal {
    /// Level of zstd
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    level: i32,
    /// Threads that compress [default: one for each processor, at most 8]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// A public key of age to encrypt to; several times: whoever has the secret of one can decrypt
    #[arg(long, value_name = "age1…")]
    recipient: Vec<String>,
    /// A file with the passphrase to encrypt with
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    encrypt_passphrase_file: Option<PathBuf>,
}

impl Seal {
    /// As the library has it.
    pub fn options(&self) -> Result<SealOptions, Failure> {
        let wrong = |error: varve_core::seal::SealError| Failure::usage(error.to_string());
        let recipients = match &self.encrypt_passphrase_file {
            Some(file) => Some(Recipients::from_passphrase_file(file).map_err(wrong)?),
            None if self.recipient.is_empty() => None,
            None => Some(
                Recipients::from_keys(self.recipient.iter().map(String::as_str)).map_err(wrong)?,
            ),
        };
        Ok(SealOptions {
            level: self.level,
            threads: threads(self.threads),
            recipients,
        })
    }
}

/// How long leftovers of failed backups are kept, since they may be those of one that is under way.
pub const KEEP_LEFTOVERS: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let server =
        ConnInfo::parse(&arguments.conninfo).map_err(|error| Failure::usage(error.to_string()))?;
    let store = stores::open_single(&arguments.to, &arguments.options)?;
    let options = TakeOptions {
        label: arguments.label.clone(),
        fast_checkpoint: !arguments.spread_checkpoint,
        include_wal: arguments.include_wal,
        wait_for_archive: !arguments.no_wait,
        max_rate: arguments.max_rate,
        seal: arguments.seal.options()?,
        identities: arguments.identity.open()?,
        ..TakeOptions::new(arguments.kind)
    };
    let mut progress = Progress::new(arguments.quiet);
    let mut tell = |now: &varve_core::backup::TakeProgress| {
        let phase = match now.phase {
            Phase::Preparing => "preparing",
            Phase::Checkpoint => "checkpoint",
            Phase::Files => "files",
            Phase::Finishing => "finishing",
        };
        progress.tell(phase, now.bytes, now.estimated);
    };
    let taken = take(&store, &server, &options, &mut tell, &tick);
    progress.end();
    let backup = taken?;
    if let Err(error) = sweep(&store, KEEP_LEFTOVERS, &tick) {
        eprintln!("varve: warning: leftovers of failed backups were not removed: {error}");
    }
    println!("{}", backup.id);
    if !arguments.quiet {
        eprintln!(
            "{} became {} in {}; WAL from {} to {} on timeline {}",
            text::size(backup.raw_bytes()),
            text::size(backup.stored_bytes()),
            text::duration(backup.seconds()),
            backup.start_lsn,
            backup.stop_lsn,
            backup.timeline
        );
    }
    Ok(ExitCode::SUCCESS)
}
