//! `varve restore`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use varve_core::backup::{
    Backup, Lsn, Recovery, RestoreOptions, RestorePhase, TablespaceMove, Target, Timelines,
    Timestamp, choose, choose_along, restore, server_program,
};
use varve_core::seal::Identities;
use varve_core::store::Store;

use crate::common::{From, threads};
use crate::exit::{self, Failure};
use crate::list::{self, Found};
use crate::progress::Progress;
use crate::signals::tick;
use crate::start::Server;
use crate::text::shell;
use crate::{stores, text};

/// Restores a backup.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    goal: Goal,
    /// The new data directory: empty, or not there yet
    #[arg(long, value_name = "DIR", env = "PGDATA")]
    pgdata: PathBuf,
    /// Puts a tablespace elsewhere: the directory that it lay in or its oid, and the new directory
    #[arg(long, value_name = "OLD=NEW")]
    tablespace_map: Vec<String>,
    /// What comes after the target: pause, promote or shutdown
    #[arg(long, value_name = "ACTION", default_value = "promote", value_parser = ["pause", "promote", "shutdown"])]
    target_action: String,
    /// A setting for the restored server
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Threads that fetch and decompress [default: one for each processor, at most 8]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// The directory with PostgreSQL's programs
    #[arg(long, value_name = "DIR")]
    bindir: Option<PathBuf>,
    /// Starts the server at the end, and waits until recovery has come to its end or target
    #[arg(long)]
    start: bool,
    /// Says nothing but errors
    #[arg(long)]
    quiet: bool,
}

/// Which backup, and how far.
#[derive(Args, Clone, Debug, Default)]
pub struct Goal {
    /// The backup to begin with [default: the newest from which the target can be reached]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// Recovers to the end of WAL: the default
    #[arg(long, group = "target")]
    latest: bool,
    /// Recovers to a moment, with its zone: '2026-11-29 08:00:00+00'
    #[arg(long, value_name = "TIME", group = "target")]
    to_time: Option<Timestamp>,
    /// Recovers to a position in WAL
    #[arg(long, value_name = "LSN", group = "target")]
    to_lsn: Option<Lsn>,
    /// Recovers to the end of a transaction; begins with the newest backup unless --backup is given
    #[arg(long, value_name = "XID", group = "target")]
    to_xid: Option<u64>,
    /// Recovers to a point made by pg_create_restore_point; begins with the newest backup unless --backup is given
    #[arg(long, value_name = "NAME", group = "target")]
    to_name: Option<String>,
    /// Recovers no further than the backup itself
    #[arg(long, group = "target")]
    to_backup: bool,
    /// Recovers to just before the target
    #[arg(long)]
    exclusive: bool,
    /// The timeline to follow: a number, current or latest
    #[arg(long, value_name = "TIMELINE")]
    timeline: Option<String>,
}

impl Goal {
    /// The backup to begin with.
    pub fn backup<'f>(
        &self,
        found: &'f Found,
        stores: &[&Store],
        identities: Option<&Identities>,
    ) -> Result<&'f Backup, Failure> {
        let target = match (self.to_time, self.to_lsn) {
            (Some(time), _) => Target::Time(time),
            (_, Some(lsn)) => Target::Lsn(lsn),
            _ => Target::Latest,
        };
        let chosen = match &self.backup {
            Some(id) => found.backups.get(id).map(|(backup, _)| backup),
            None => {
                let backups = found.backups.values().map(|(backup, _)| backup);
                let timelines = match self.timeline.as_deref() {
                    // The one that the backup is of.
                    Some("current") => None,
                    _ => Some(known_timelines(stores, identities)?),
                };
                let wanted = self.timeline.as_deref().and_then(number_of);
                match timelines {
                    None => choose(backups, target),
                    Some(known) => choose_along(backups, target, &known, wanted),
                }
            }
        };
        let missing = || Failure {
            code: exit::NOT_FOUND,
            message: match &self.backup {
                Some(id) => format!("backup {id} does not exist"),
                None => format!("there is no backup to begin with: {}", self.describe()),
            },
            hint: Some("varve list shows the backups that there are.".to_owned()),
        };
        chosen.ok_or_else(missing)
    }

    fn recovery(&self, action: &str) -> Recovery {
        let has_target = self.to_time.is_some()
            || self.to_lsn.is_some()
            || self.to_xid.is_some()
            || self.to_name.is_some()
            || self.to_backup;
        Recovery {
            time: self.to_time,
            lsn: self.to_lsn,
            xid: self.to_xid,
            name: self.to_name.clone(),
            immediate: self.to_backup,
            exclusive: self.exclusive,
            timeline: self.timeline.clone(),
            action: has_target.then(|| action.to_owned()),
            ..Recovery::default()
        }
    }

    /// The target in words.
    pub fn describe(&self) -> String {
        let before = if self.exclusive { "just before " } else { "" };
        match (self.to_time, self.to_lsn, self.to_xid, &self.to_name) {
            (Some(time), ..) => format!("up to {before}{time}"),
            (_, Some(lsn), ..) => format!("up to {before}{lsn}"),
            (_, _, Some(xid), _) => format!("up to {before}transaction {xid}"),
            (_, _, _, Some(name)) => format!("up to the restore point {name}"),
            _ if self.to_backup => "no further than the backup".to_owned(),
            _ => "to the end of WAL".to_owned(),
        }
    }

    /// The command that does it.
    pub fn command(&self, from: &From, backup: &Backup) -> String {
        let mut words = vec!["varve".to_owned(), "restore".to_owned()];
        words.extend(store_words(from));
        words.extend(["--backup".to_owned(), backup.id.clone()]);
        let mut add = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("{name}={}", shell(&value))));
        };
        add("--to-time", self.to_time.map(Timestamp::for_postgresql));
        add("--to-lsn", self.to_lsn.map(|lsn| lsn.to_string()));
        add("--to-xid", self.to_xid.map(|xid| xid.to_string()));
        add("--to-name", self.to_name.clone());
        add("--timeline", self.timeline.clone());
        for (name, said) in [
            ("--to-backup", self.to_backup),
            ("--exclusive", self.exclusive),
        ] {
            words.extend(said.then(|| name.to_owned()));
        }
        words.push("--pgdata DIR".to_owned());
        words.join(" ")
    }
}

/// The words that name the stores again.
fn store_words(from: &From) -> Vec<String> {
    let whole = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        shell(&path.to_string_lossy())
    };
    let mut words = Vec::new();
    for url in &from.from {
        words.extend(["--from".to_owned(), shell(url)]);
    }
    for option in &from.options.store_option {
        words.extend(["--store-option".to_owned(), shell(option)]);
    }
    let files = [
        ("--credentials", &from.options.credentials),
        ("--identity", &from.identity.identity),
        ("--passphrase-file", &from.identity.passphrase_file),
    ];
    for (name, file) in files {
        if let Some(file) = file {
            words.extend([name.to_owned(), whole(file)]);
        }
    }
    words
}

/// The command with which the restored server fetches WAL: this program, with the same stores.
fn restore_command(from: &From) -> Result<String, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::system(format!("where is this program? {error}")))?;
    let mut words = vec![shell(&program.to_string_lossy()), "wal-get".to_owned()];
    words.extend(store_words(from));
    // PostgreSQL takes a percent sign for the beginning of one of its own.
    let fixed = words.join(" ").replace('%', "%%");
    Ok(format!("{fixed} %f \"%p\""))
}

fn pair(text: &str) -> Result<(&str, &str), Failure> {
    text.split_once('=')
        .ok_or_else(|| Failure::usage(format!("\"{text}\" has no equals sign")))
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let stores = stores::open(&arguments.from.from, &arguments.from.options)?;
    let found = list::find(&stores)?;
    for trouble in &found.troubles {
        eprintln!("varve: warning: {trouble}");
    }
    let identities = arguments.from.identity.open()?;
    let opened: Vec<&Store> = stores.iter().collect();
    let backup = arguments
        .goal
        .backup(&found, &opened, identities.as_ref())?;
    let mut recovery = arguments.goal.recovery(&arguments.target_action);
    recovery.restore_command = Some(restore_command(&arguments.from)?);
    for setting in &arguments.set {
        let (name, value) = pair(setting)?;
        recovery.settings.push((name.to_owned(), value.to_owned()));
    }
    let mut tablespaces = Vec::new();
    for map in &arguments.tablespace_map {
        let (from, to) = pair(map)?;
        let to =
            std::path::absolute(to).map_err(|error| Failure::usage(format!("{to}: {error}")))?;
        tablespaces.push(TablespaceMove {
            from: from.to_owned(),
            to,
        });
    }
    let options = RestoreOptions {
        pgdata: arguments.pgdata.clone(),
        tablespaces,
        threads: threads(arguments.threads),
        recovery,
        identities: arguments.from.identity.open()?,
    };
    let mut progress = Progress::new(arguments.quiet);
    let mut tell = |now: &varve_core::backup::RestoreProgress| {
        let phase = match now.phase {
            RestorePhase::Files => "restoring",
            RestorePhase::Syncing => "syncing",
        };
        progress.tell(phase, now.bytes, Some(now.total));
    };
    let pg_ctl = server_program("pg_ctl", arguments.bindir.as_deref(), backup);
    let pg_ctl = match arguments.start {
        true => pg_ctl?,
        false => pg_ctl.unwrap_or_else(|_| PathBuf::from("pg_ctl")),
    };
    let begun = std::time::Instant::now();
    let stores: Vec<&Store> = stores.iter().collect();
    let restored = restore(&stores, &backup.id, &options, &mut tell, &tick);
    progress.end();
    let restored = restored?;
    for repaired in &restored.repaired {
        eprintln!(
            "varve: warning: taken from another store: {}",
            repaired.detail
        );
    }
    let pgdata = std::path::absolute(&arguments.pgdata)
        .map_err(|error| Failure::system(error.to_string()))?;
    if !arguments.quiet {
        println!(
            "Restored backup {} in {}, {}; the server will recover {}.",
            restored.chain.join(" + "),
            text::duration(begun.elapsed().as_secs_f64()),
            text::size(restored.bytes),
            arguments.goal.describe()
        );
    }
    let server = Server {
        pg_ctl,
        pgdata,
        action: arguments.target_action.clone(),
    };
    if arguments.start {
        return server.start();
    }
    if !arguments.quiet {
        println!("Start it with: {}", server.command());
    }
    Ok(ExitCode::SUCCESS)
}

/// The number of a timeline as PostgreSQL takes it: decimal, or hexadecimal behind 0x.
fn number_of(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The timelines of those stores that are there.
fn known_timelines(
    stores: &[&Store],
    identities: Option<&Identities>,
) -> Result<Timelines, Failure> {
    let mut known = Timelines::default();
    for store in stores {
        match Timelines::of(&[store], identities, &tick) {
            Ok(found) => known.extend(found),
            Err(error) if error.is_cancelled() => return Err(error.into()),
            // That was said when its backups were listed.
            Err(_) => {}
        }
    }
    Ok(known)
}
