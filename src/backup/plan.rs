//! `varve.recovery_plan`: what to do, command by command, to have the cluster back as it was at a moment.

use super::choice::{self, Choice, Stores};
use super::drill::{interval, past};
use super::error;
use super::scratch::{bindir, data_directory, setting};
use crate::pg::owner::as_owner;
use crate::pg::spi::read_all;
use crate::stores;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use std::path::{Path, PathBuf};
use std::time::Duration;
use varve_core::backup::{Backup, BackupError, Timestamp};
use varve_core::store::{Scheme, StoreUrl};

/// A step: what is done, by which command, and how long that takes.
struct Step {
    action: String,
    command: Option<String>,
    estimated: Option<Duration>,
}

/// How fast drills were, in bytes a second.
struct Rates {
    restore: Option<f64>,
    replay: Option<f64>,
}

impl Rates {
    /// Those of the last five good drills.
    fn measured() -> Self {
        let found = as_owner(|| {
            read_all(
                "SELECT pg_catalog.sum(d.restored_bytes)::pg_catalog.float8 OPERATOR(pg_catalog./) NULLIF(pg_catalog.sum(d.restore_seconds), 0), \
                        pg_catalog.sum(d.replayed_bytes)::pg_catalog.float8 OPERATOR(pg_catalog./) NULLIF(pg_catalog.sum(d.replay_seconds), 0) \
                 FROM (SELECT * FROM varve.drill g WHERE g.ok ORDER BY g.id DESC LIMIT 5) d",
                &[],
                |tuple| Ok(Some((tuple.get::<f64>(1)?, tuple.get::<f64>(2)?))),
            )
        });
        let (restore, replay) = found.into_iter().next().unwrap_or_default();
        Rates { restore, replay }
    }

    fn time(bytes: u64, rate: Option<f64>) -> Option<Duration> {
        let seconds = bytes as f64 / rate.filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn path(path: &Path) -> String {
    shell(&path.to_string_lossy())
}

/// One of PostgreSQL's programs, or the program `varve` where it lies beside them.
fn program(name: &str) -> String {
    let whole = bindir().join(name);
    match whole.exists() {
        true => path(&whole),
        false => name.to_owned(),
    }
}

/// The options of a store's server, without those that say what it is for.
fn server_options(name: &str) -> Vec<(String, String)> {
    let options: Vec<Vec<String>> = as_owner(|| {
        read_all(
            "SELECT s.srvoptions FROM pg_catalog.pg_foreign_server s WHERE s.srvname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
            &[name.into()],
            |tuple| tuple.get(1),
        )
    });
    let all = options.into_iter().flatten().collect::<Vec<_>>();
    stores::pairs(&all)
        .into_iter()
        .filter(|(name, _)| !["url", "role", "create"].contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What a file of credentials has to say of a kind of store.
fn credentials(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::File => &[],
        Scheme::S3 => &["access_key_id", "secret_access_key"],
        Scheme::Gcs => &["service_account_key"],
        Scheme::Azure => &["account_name", "access_key"],
    }
}

/// The words that name the stores, and the lines that a file of credentials needs.
fn store_words(stores: &Stores) -> (Vec<String>, Vec<String>) {
    let mut words = Vec::new();
    let mut options = Vec::new();
    let mut lines = Vec::new();
    for (number, named) in stores.all.iter().enumerate() {
        let number = number + 1;
        words.extend(["--from".to_owned(), shell(named.store.url())]);
        for (name, value) in server_options(&named.name) {
            let option = format!("{number}.{name}={value}");
            options.extend(["--store-option".to_owned(), shell(&option)]);
        }
        if let Ok(url) = StoreUrl::parse(named.store.url()) {
            let wanted = credentials(url.scheme()).iter();
            lines.extend(wanted.map(|name| format!("{number}.{name}=...")));
        }
    }
    words.extend(options);
    (words, lines)
}

/// Where the file of credentials lies that the commands name.
const CREDENTIALS: &str = "varve.credentials";

/// What is being planned.
struct Plan<'p> {
    stores: &'p Stores,
    chosen: &'p Choice,
    rates: Rates,
    /// The moment; none for all that is archived.
    target: Option<Timestamp>,
    /// Stores without anything: they are not asked, but may have copies later.
    empty: Vec<String>,
    pgdata: PathBuf,
    steps: Vec<Step>,
}

impl Plan<'_> {
    fn say(&mut self, action: impl Into<String>) {
        self.add(action, None, None);
    }

    fn add(
        &mut self,
        action: impl Into<String>,
        command: Option<String>,
        estimated: Option<Duration>,
    ) {
        self.steps.push(Step {
            action: action.into(),
            command,
            estimated,
        });
    }

    /// What does not work, or not wholly.
    fn warn(&mut self) {
        for gap in self.chosen.gaps() {
            let end = self.chosen.reach.end.unwrap_or(self.chosen.backup.stop_lsn);
            self.say(format!(
                "Warning: {gap}. Recovery ends at {end}; if the moment is after that, leave --to-time out"
            ));
        }
        if self.rates.restore.is_none() {
            self.add(
                "Nothing was measured yet: a recovery drill tells how long the steps take",
                Some("SELECT * FROM varve.recovery_drill()".to_owned()),
                None,
            );
        }
        for trouble in &self.stores.troubles {
            self.steps.push(Step {
                action: format!("Warning: {trouble}"),
                command: None,
                estimated: None,
            });
        }
    }

    fn make_room(&mut self) {
        let mut moved = vec![self.pgdata.clone()];
        let tablespaces = self.chosen.backup.tablespaces.iter();
        moved.extend(tablespaces.map(|t| PathBuf::from(&t.path)));
        let there: Vec<String> = moved
            .iter()
            .filter(|old| std::fs::read_dir(old).is_ok_and(|mut d| d.next().is_some()))
            .map(|old| {
                let kept = format!("{}.before", old.display());
                format!("mv {} {}", path(old), shell(&kept))
            })
            .collect();
        if there.is_empty() {
            return;
        }
        let stop = format!(
            "{} -D {} -m fast stop; ",
            program("pg_ctl"),
            path(&self.pgdata)
        );
        self.add(
            "Stop the old server, if it still runs, and keep what is left of it: the new directories must be empty",
            Some(format!("{stop}{}", there.join(" && "))),
            None,
        );
    }

    fn restore(&mut self) {
        let (mut words, lines) = store_words(self.stores);
        if !lines.is_empty() {
            let text = lines.join("\\n");
            self.add(
                "Write the credentials of the stores into a file that nobody else can read, and fill them in; without one they come from the environment",
                Some(format!(
                    "install -m 600 /dev/null {CREDENTIALS} && printf '{text}\\n' >> {CREDENTIALS}"
                )),
                None,
            );
            words.extend(["--credentials".to_owned(), CREDENTIALS.to_owned()]);
        }
        let backup = &self.chosen.backup;
        words.extend(["--backup".to_owned(), backup.id.clone()]);
        if let Some(time) = self.target {
            words.push("--to-time".to_owned());
            words.push(shell(&time.for_postgresql()));
        }
        words.extend(["--pgdata".to_owned(), path(&self.pgdata)]);
        for tablespace in &backup.tablespaces {
            let map = format!("{}={}", tablespace.oid, tablespace.path);
            words.extend(["--tablespace-map".to_owned(), shell(&map)]);
        }
        let bytes: u64 = self.chosen.chain.iter().map(Backup::raw_bytes).sum();
        let ids: Vec<&str> = self.chosen.chain.iter().map(|b| b.id.as_str()).collect();
        let action = format!(
            "As the user who runs the server: restore {} ({} MB)",
            ids.join(" + "),
            bytes.div_ceil(1_000_000)
        );
        let command = format!("{} restore {}", program("varve"), words.join(" "));
        let estimated = Rates::time(bytes, self.rates.restore);
        self.add(action, Some(command), estimated);
    }

    fn start(&mut self) {
        let pgdata = path(&self.pgdata);
        let log = path(&self.pgdata.join("startup.log"));
        // Where the settings lie elsewhere, as on Debian, they name a data directory themselves.
        let file = setting(c"config_file")
            .map(PathBuf::from)
            .unwrap_or_default();
        let options = match file.starts_with(data_directory()) {
            true => String::new(),
            false => {
                let words = format!("-c config_file={} -c data_directory={pgdata}", path(&file));
                format!(" -o {}", shell(&words))
            }
        };
        let control = program("pg_ctl");
        let segments = self.chosen.segments();
        let bytes = segments * self.chosen.backup.wal_segment_bytes;
        let files = match (&self.chosen.reach.last, segments) {
            (Some(last), 1) => format!("1 file of WAL, {last}"),
            (Some(last), n) => format!(
                "{n} files of WAL at most, {} to {last}",
                self.chosen.reach.first
            ),
            (None, _) => "the WAL in the backup".to_owned(),
        };
        self.add(
            format!("Start it; it replays {files}, and takes writes when it is done"),
            // pg_ctl is content when the server can be read.
            Some(format!(
                "{control} -D {pgdata}{options} -l {log} -t 86400 start; while {control} -D {pgdata} status >/dev/null && [ \"$({} -XAt)\" != f ]; do sleep 1; done",
                Self::psql("SELECT pg_is_in_recovery()")
            )),
            Rates::time(bytes, self.rates.replay),
        );
    }

    fn psql(sql: &str) -> String {
        let database = shell(&super::checks::database_name());
        format!("{} -d {database} -c {}", program("psql"), shell(sql))
    }

    fn afterwards(&mut self) {
        self.add(
            "Check it: no row is good",
            Some(Self::psql(
                "SELECT v.* FROM varve.managed m, varve.verify(m.relation) v WHERE NOT v.ok",
            )),
            None,
        );
        let full = self.chosen.chain.first();
        let took = full.and_then(|full| Duration::try_from_secs_f64(full.seconds()).ok());
        self.add(
            "Take a full backup: the server is on a timeline of its own now",
            Some(Self::psql("SELECT varve.backup('full')")),
            took,
        );
        let names = self.stores.all.iter().map(|named| &named.name);
        let mut others: Vec<String> = names.chain(&self.empty).cloned().collect();
        if others.len() < 2 {
            return;
        }
        let first = others.remove(0);
        let copies = as_owner(|| {
            read_all(
                "SELECT pg_catalog.to_regproc('varve.copy_backups') IS NOT NULL",
                &[],
                |tuple| tuple.get::<bool>(1),
            )
        });
        let copies = copies == [true];
        for other in others {
            let literal = |name: &str| format!("'{}'", name.replace('\'', "''"));
            let command = copies.then(|| {
                Self::psql(&format!(
                    "SELECT * FROM varve.copy_backups({}, {})",
                    literal(&first),
                    literal(&other)
                ))
            });
            self.add(
                format!("Have a copy of it in store \"{other}\" again"),
                command,
                None,
            );
        }
    }
}

/// Why there is nothing to begin with.
fn hopeless(stores: &mut Stores, target: Option<Timestamp>) -> Result<Vec<Step>, BackupError> {
    let mut steps = Vec::new();
    let mut say = |action: String, command: Option<&str>| {
        steps.push(Step {
            action,
            command: command.map(str::to_owned),
            estimated: None,
        });
    };
    let found = stores.backups()?;
    let earliest = found.values().min_by_key(|backup| backup.stopped_at);
    match (target, earliest) {
        (Some(target), Some(earliest)) => say(
            format!(
                "There is no backup from before {}: the earliest moment that can be reached is {}, by backup {}",
                target.for_postgresql(),
                earliest.stopped_at.for_postgresql(),
                earliest.id
            ),
            None,
        ),
        _ => say(
            "There is no backup in any store that you may use".to_owned(),
            Some("SELECT varve.backup('full')"),
        ),
    }
    for trouble in &stores.troubles {
        say(format!("Warning: {trouble}"), None);
    }
    Ok(steps)
}

/// The newest moment that the WAL in the stores covers, as far as the running server knows.
fn archived_until() -> Option<Timestamp> {
    let found = as_owner(|| {
        read_all(
            "SELECT pg_catalog.to_char(pg_catalog.timezone('UTC', a.last_archived_time), 'YYYY-MM-DD HH24:MI:SS.US\"+00\"') FROM pg_catalog.pg_stat_archiver a",
            &[],
            |tuple| tuple.get::<String>(1),
        )
    });
    found.into_iter().next()?.parse().ok()
}

fn plan(target: Option<Timestamp>, pgdata: Option<&str>) -> Result<Vec<Step>, BackupError> {
    let mut stores = Stores::usable();
    let empty = stores.take_out_empty();
    let chosen = match choice::choose(&mut stores, None, target) {
        Ok(chosen) => chosen,
        Err(error) if error.is_not_found() => return hopeless(&mut stores, target),
        Err(error) => return Err(error),
    };
    let mut plan = Plan {
        stores: &stores,
        chosen: &chosen,
        rates: Rates::measured(),
        target,
        empty,
        pgdata: pgdata.map_or_else(data_directory, PathBuf::from),
        steps: Vec::new(),
    };
    if !chosen.is_usable() {
        let id = &chosen.backup.id;
        plan.say(format!(
            "Backup {id} cannot be started: WAL that it needs itself is missing"
        ));
        plan.warn();
        return Ok(plan.steps);
    }
    if let Some(target) = target
        && let Some(until) = archived_until()
        && until < target
    {
        plan.add(
            format!(
                "WAL up to that moment is not archived yet: the latest moment that can be reached is about {}. While the server runs, end the segment",
                until.for_postgresql()
            ),
            Some("SELECT pg_switch_wal()".to_owned()),
            None,
        );
    }
    plan.warn();
    plan.make_room();
    plan.restore();
    plan.start();
    plan.afterwards();
    Ok(plan.steps)
}

/// One row for each step, in order.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn recovery_plan(
    target_time: Option<TimestampWithTimeZone>,
    pgdata: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(step, i32),
        name!(action, String),
        name!(command, Option<String>),
        name!(estimated, Option<Interval>),
    ),
> {
    crate::require_preload();
    let target = target_time.and_then(past);
    let steps = plan(target, pgdata).unwrap_or_else(|e| error::raise(&e));
    let rows: Vec<_> = steps
        .into_iter()
        .zip(1..)
        .map(|(step, number)| {
            let estimated = step.estimated.and_then(interval);
            (number, step.action, step.command, estimated)
        })
        .collect();
    TableIterator::new(rows)
}
