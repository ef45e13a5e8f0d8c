//! Starting a restored server, and waiting until it has recovered.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use varve_core::replication::{ConnInfo, Session};

use crate::exit::{self, Failure};
use crate::signals::tick;
use crate::text::shell;

/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How much of the end of a log is read, in bytes.
const READ: u64 = 64 << 10;

/// What PostgreSQL says where WAL ends before the target of recovery.
const TOO_FAR: &str = "recovery ended before configured recovery target was reached";
/// What stands before the moment of the last commit that was replayed.
const LAST_COMMIT: &str = "last completed transaction was at log time ";

/// A restored server.
pub struct Server {
    /// PostgreSQL's program that starts it.
    pub pg_ctl: PathBuf,
    /// Its data directory.
    pub pgdata: PathBuf,
    /// What comes after the target of recovery: `pause`, `promote` or `shutdown`.
    pub action: String,
}

/// Where a server that runs is reached, as `postmaster.pid` says.
struct Address {
    pid: i32,
    port: u16,
    socket: String,
}

impl Address {
    /// As it is now; none when the server has ended.
    fn read(pgdata: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
        let line = |number: usize| text.lines().nth(number).unwrap_or_default().trim();
        Some(Self {
            pid: line(0).parse().unwrap_or_default(),
            port: line(3).parse().unwrap_or_default(),
            socket: line(4).to_owned(),
        })
    }
}

impl Address {
    /// Whether the server's process is: one that was killed leaves its file.
    fn is_there(&self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        nix::sys::signal::kill(pid, None) != Err(nix::errno::Errno::ESRCH)
    }
}

impl Server {
    fn log(&self) -> PathBuf {
        self.pgdata.join("startup.log")
    }

    /// The command that starts it.
    pub fn command(&self) -> String {
        format!(
            "{} -D {} -l {} -t 86400 start",
            shell(&self.pg_ctl.to_string_lossy()),
            shell(&self.pgdata.to_string_lossy()),
            shell(&self.log().to_string_lossy())
        )
    }

    /// Starts it, and waits until recovery has come to its end, or has paused at its target.
    pub fn start(&self) -> Result<ExitCode, Failure> {
        // An earlier start may have left something there.
        let said = self.log().metadata().map_or(0, |m| m.len());
        let status = Command::new(&self.pg_ctl)
            .args(["-w", "-t", "86400", "-D"])
            .arg(&self.pgdata)
            .arg("-l")
            .arg(self.log())
            .arg("start")
            .status()
            .map_err(|error| Failure::system(format!("{}: {error}", self.pg_ctl.display())))?;
        if !status.success() && !self.has_shut_down() {
            return Err(self.failed("the server did not start", said));
        }
        // It takes connections while it recovers.
        while let Some(address) = Address::read(&self.pgdata).filter(Address::is_there) {
            tick().map_err(varve_core::backup::BackupError::from)?;
            if self.state_is("in production") || self.action == "pause" && paused(&address) {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        match self.has_shut_down() {
            true => Ok(ExitCode::SUCCESS),
            false => Err(self.failed("the server ended while it recovered", said)),
        }
    }

    /// Whether it has ended by itself at its target, as it was told.
    fn has_shut_down(&self) -> bool {
        self.action == "shutdown" && self.state_is("shut down in recovery")
    }

    /// Whether the control file has the cluster in a state: that changes when recovery has ended.
    fn state_is(&self, state: &str) -> bool {
        let output = Command::new(self.pg_ctl.with_file_name("pg_controldata"))
            .arg(&self.pgdata)
            .env("LC_ALL", "C")
            .output();
        output.is_ok_and(|o| {
            let text = String::from_utf8_lossy(&o.stdout).into_owned();
            let mut lines = text.lines();
            lines.any(|line| {
                line.strip_prefix("Database cluster state:")
                    .is_some_and(|found| found.trim() == state)
            })
        })
    }

    /// What has gone wrong; the log had so many bytes before.
    fn failed(&self, message: &str, said: u64) -> Failure {
        let log = self.said_since(said);
        if log.contains(TOO_FAR)
            && let Some((name, value)) = self.target()
        {
            return self.target_is_too_far(&name, &value, &log);
        }
        Failure {
            code: exit::FAILED,
            message: format!("{message}; {} says why", self.log().display()),
            hint: Some(format!("Try again with: {}", self.command())),
        }
    }
}

impl Server {
    /// The WAL that there is ends before the target.
    fn target_is_too_far(&self, name: &str, value: &str, log: &str) -> Failure {
        let last = log
            .lines()
            .rev()
            .find_map(|line| Some(line.split_once(LAST_COMMIT)?.1.trim()));
        let last = last.map_or_else(
            || "no transaction was committed in it".to_owned(),
            |last| format!("its last commit was at {last}"),
        );
        let settings = self.pgdata.join("postgresql.auto.conf");
        Failure {
            code: exit::REFUSED,
            message: format!(
                "the WAL that there is ends before {name} = {value}, and PostgreSQL then does not open the database; {last}"
            ),
            hint: Some(format!(
                "If that is all that there should be, leave the target out: echo \"{name} = ''\" >> {} && {} recovers to the end of WAL, \
                 and fetches nothing anew but WAL. An earlier target can be set in the same way. If there should be more, look why it is not in the stores.",
                shell(&settings.to_string_lossy()),
                self.command()
            )),
        }
    }

    /// The target of recovery as `varve restore` has written it: the setting and its value.
    fn target(&self) -> Option<(String, String)> {
        let text = std::fs::read_to_string(self.pgdata.join("postgresql.auto.conf")).ok()?;
        let of_target = |line: &str| {
            let (name, value) = line.split_once('=')?;
            let name = name.trim();
            let targets = ["time", "lsn", "xid", "name"];
            let target = name.strip_prefix("recovery_target_")?;
            let value = value.trim();
            (targets.contains(&target) && value != "''")
                .then(|| (name.to_owned(), value.to_owned()))
        };
        text.lines().rev().find_map(of_target)
    }

    /// What the server's logs have from a place in the first on: it goes elsewhere where the server collects its logs.
    fn said_since(&self, said: u64) -> String {
        let mut text = end_of(&self.log(), said);
        let current = std::fs::read_to_string(self.pgdata.join("current_logfiles"));
        for line in current.unwrap_or_default().lines() {
            if let Some((_, path)) = line.split_once(' ') {
                text.push_str(&end_of(&self.pgdata.join(path), 0));
            }
        }
        text
    }
}

/// The end of a file, from a place on; empty where it cannot be read.
fn end_of(path: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().map_or(0, |m| m.len());
        let from = from.max(length.saturating_sub(READ));
        // It is for a message only.
        let _ = file
            .seek(SeekFrom::Start(from))
            .and_then(|_| file.take(READ).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a server that lets us in has paused at its target. One that does not is taken to have: nobody can tell.
fn paused(address: &Address) -> bool {
    let host = match address.socket.is_empty() {
        true => "127.0.0.1",
        false => &address.socket,
    };
    let info = format!("host='{host}' port={}", address.port);
    let asked = ConnInfo::parse(&info).and_then(|info| {
        let mut session = Session::connect(&info.with_database("postgres"), &tick)?;
        session.query("SELECT pg_get_wal_replay_pause_state()", &tick)
    });
    match asked {
        Ok(rows) => rows.first().and_then(|row| row.first()?.as_deref()) == Some("paused"),
        Err(error) => {
            eprintln!("varve: whether recovery has paused cannot be told: {error}");
            true
        }
    }
}
