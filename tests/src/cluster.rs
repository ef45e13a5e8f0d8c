//! A private server in a directory of its own, on a Unix socket in it.
//!
//! PostgreSQL refuses to run as root, so root runs it as the user `postgres`. A guardian process holds the other end of
//! a pipe: when the pipe closes, because the cluster was dropped or because its owner died of whatever cause, it stops
//! the server and removes the directory.

use postgres::{Client, Config, NoTls};
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// Where Debian puts the programs of PostgreSQL 17; `VARVE_PG_BINDIR` says otherwise.
const BINDIR: &str = "/usr/lib/postgresql/17/bin";

/// Port of every server (it only names the socket).
const PORT: u16 = 5432;

/// A running (or stopped, or crashed) private server.
pub struct Cluster {
    dir: PathBuf,
    guardian: Child,
}

/// How to stop a server, as `pg_ctl -m` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects clients and shuts down cleanly.
    Fast,
    /// Quits without a checkpoint, so that the next start recovers.
    Immediate,
}

/// A command that runs as the user who may run servers, in a process group of its own (Ctrl-C is for us alone).
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = if is_root() {
        let mut runuser = Command::new("runuser");
        runuser.args(["-u", "postgres", "--"]).arg(program);
        runuser
    } else {
        Command::new(program)
    };
    command
        .process_group(0)
        .current_dir("/")
        .env_remove("PGDATABASE")
        .env("LC_ALL", "C.UTF-8");
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Path of one of PostgreSQL's programs.
fn program(name: &str) -> PathBuf {
    let bindir = std::env::var_os("VARVE_PG_BINDIR").unwrap_or_else(|| BINDIR.into());
    Path::new(&bindir).join(name)
}

fn check(what: &str, output: io::Result<Output>) -> io::Result<Output> {
    let output = output.map_err(|e| io::Error::new(e.kind(), format!("{what}: {e}")))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(io::Error::other(format!(
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}

impl Cluster {
    /// Makes and starts a server that preloads TimescaleDB and varve, with more settings (`name = value`) on top.
    pub fn start_new(settings: &[&str]) -> io::Result<Cluster> {
        let cluster = Cluster::prepare()?;
        check(
            "initdb",
            command(program("initdb"))
                .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
                .args(["--locale=C.UTF-8", "--no-sync", "--pgdata"])
                .arg(cluster.data())
                .output(),
        )?;
        let socket = cluster.dir.display();
        let mut lines = vec![
            "shared_preload_libraries = 'timescaledb,varve'".to_string(),
            "timescaledb.telemetry_level = off".into(),
            "listen_addresses = ''".into(),
            format!("unix_socket_directories = '{socket}'"),
            format!("port = {PORT}"),
            "max_worker_processes = 16".into(),
            // A worker that looks what is due has a snapshot for a moment, which keeps rows from being frozen.
            "varve.max_workers = 0".into(),
        ];
        lines.extend(settings.iter().map(|s| s.to_string()));
        cluster.append(&cluster.data().join("postgresql.conf"), &lines)?;
        cluster.start()?;
        Ok(cluster)
    }

    /// A directory and its guardian, without a server yet.
    fn prepare() -> io::Result<Cluster> {
        let made = check(
            "mktemp",
            command("mktemp").args(["-d", "/tmp/varve-XXXXXX"]).output(),
        )?;
        let dir = PathBuf::from(String::from_utf8_lossy(&made.stdout).trim());
        let guardian = command("sh")
            .args([
                "-c",
                "read -r _; \"$1\" -D \"$2/data\" -m immediate stop >/dev/null 2>&1; rm -rf \"$2\"",
                "guardian",
            ])
            .arg(program("pg_ctl"))
            .arg(&dir)
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Cluster { dir, guardian })
    }

    /// Adds lines to a file of the server's.
    fn append(&self, file: &Path, lines: &[String]) -> io::Result<()> {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(file)?;
        writeln!(file, "{}", lines.join("\n"))
    }

    /// The server's directory: socket, log, and data below it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read(self.dir.join("log"))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    fn pg_ctl(&self, args: &[&str]) -> io::Result<Output> {
        let output = command(program("pg_ctl"))
            .arg("-D")
            .arg(self.data())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .output();
        check("pg_ctl", output).map_err(|e| io::Error::other(format!("{e}\n{}", self.log())))
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) -> io::Result<()> {
        let log = self.dir.join("log");
        self.pg_ctl(&["-w", "-t", "120", "-l", &log.to_string_lossy(), "start"])?;
        Ok(())
    }

    /// Stops the server.
    pub fn stop(&self, mode: Stop) -> io::Result<()> {
        let mode = match mode {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.pg_ctl(&["-w", "-m", mode, "stop"])?;
        Ok(())
    }

    /// Stops the server cleanly, adds settings, and starts it again.
    pub fn restart_with(&self, settings: &[&str]) -> io::Result<()> {
        self.stop(Stop::Fast)?;
        let lines: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        self.append(&self.data().join("postgresql.conf"), &lines)?;
        self.start()
    }

    /// Process id of the postmaster.
    pub fn postmaster(&self) -> io::Result<u32> {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid"))?;
        file.lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .ok_or_else(|| io::Error::other("postmaster.pid holds no process id"))
    }

    /// `kill -9` of the postmaster; returns when its children, who notice by themselves, are gone too.
    pub fn kill(&self) -> io::Result<()> {
        let (postmaster, children) = self.processes()?;
        self.kill_processes(&[postmaster], &children)
    }

    /// `kill -9` of the postmaster and of all its children in the same moment.
    pub fn kill_all(&self) -> io::Result<()> {
        let (postmaster, children) = self.processes()?;
        let mut all = vec![postmaster];
        all.extend(children);
        self.kill_processes(&all, &all)
    }

    /// `kill -9` of one process of the server's, say a backend; the postmaster restarts all others.
    pub fn kill_backend(&self, pid: i32) -> io::Result<()> {
        self.kill_processes(&[pid.to_string()], &[])
    }

    /// The postmaster and its children.
    fn processes(&self) -> io::Result<(String, Vec<String>)> {
        let postmaster = self.postmaster()?.to_string();
        let children =
            std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        let children = children.split_whitespace().map(str::to_string).collect();
        Ok((postmaster, children))
    }

    fn kill_processes(&self, killed: &[String], gone: &[String]) -> io::Result<()> {
        check("kill", Command::new("kill").arg("-9").args(killed).output())?;
        for pid in gone {
            crate::wait::until("a process of the server to end", || {
                !Path::new(&format!("/proc/{pid}")).exists()
            });
        }
        Ok(())
    }

    /// A streaming standby of this server, started and ready for queries.
    pub fn standby(&self, settings: &[&str]) -> io::Result<Cluster> {
        let standby = Cluster::prepare()?;
        check(
            "pg_basebackup",
            self.tool("pg_basebackup")
                .args([
                    "--checkpoint=fast",
                    "--write-recovery-conf",
                    "--no-sync",
                    "--pgdata",
                ])
                .arg(standby.data())
                .output(),
        )?;
        let mut lines = vec![format!(
            "unix_socket_directories = '{}'",
            standby.dir.display()
        )];
        lines.extend(settings.iter().map(|s| s.to_string()));
        standby.append(&standby.data().join("postgresql.conf"), &lines)?;
        standby.start()?;
        Ok(standby)
    }

    /// How to connect, as a libpq connection string.
    pub fn conninfo(&self, database: &str) -> String {
        format!(
            "host={} port={PORT} user=postgres dbname={database}",
            self.dir.display()
        )
    }

    /// How to connect, for the client library.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.dir)
            .port(PORT)
            .user("postgres")
            .dbname(database);
        config
    }

    /// A connection to the database `postgres`.
    pub fn connect(&self) -> Result<Client, postgres::Error> {
        self.config("postgres").connect(NoTls)
    }

    /// A connection to the database `postgres`, in which the extension exists from now on.
    pub fn connect_with_varve(&self) -> Result<Client, postgres::Error> {
        let mut client = self.connect()?;
        client.batch_execute("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS varve CASCADE; RESET client_min_messages")?;
        Ok(client)
    }

    /// One of PostgreSQL's programs, set to talk to this server.
    pub fn tool(&self, name: &str) -> Command {
        let mut tool = command(program(name));
        tool.env("PGHOST", &self.dir)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "postgres");
        tool
    }

    /// Runs one of PostgreSQL's programs to its end; an error when it fails.
    pub fn run(&self, name: &str, args: &[&str]) -> io::Result<Output> {
        check(name, self.tool(name).args(args).output())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _: io::Result<ExitStatus> = self.guardian.wait();
    }
}
