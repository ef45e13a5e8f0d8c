//! Starting a restored server, and waiting until it has recovered.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use varve_core::replication::{ConnInfo, Session};

use crate::exit::{self, Failure};
use crate::signals::tick;
use crate::text::shell;

/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
        let status = Command::new(&self.pg_ctl)
            .args(["-w", "-t", "86400", "-D"])
            .arg(&self.pgdata)
            .arg("-l")
            .arg(self.log())
            .arg("start")
            .status()
            .map_err(|error| Failure::system(format!("{}: {error}", self.pg_ctl.display())))?;
        if !status.success() && !self.has_shut_down() {
            return Err(self.failed("the server did not start"));
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
            false => Err(self.failed("the server ended while it recovered")),
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

    fn failed(&self, message: &str) -> Failure {
        Failure {
            code: exit::FAILED,
            message: format!("{message}; {} says why", self.log().display()),
            hint: Some(format!("Try again with: {}", self.command())),
        }
    }
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
