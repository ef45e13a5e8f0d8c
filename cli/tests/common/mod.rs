//! A server whose WAL goes into a store, the program `varve`, and servers that are restored.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use postgres::{Client, NoTls};
use varve_tests::cluster::Cluster;
use varve_tests::wait::until;

/// Where the program is.
pub const VARVE: &str = env!("CARGO_BIN_EXE_varve");

/// A server, its store, and a client.
pub struct Bench {
    pub cluster: Cluster,
    pub client: Client,
}

impl Bench {
    /// A server that summarizes its WAL and archives it into the store.
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(settings: &[&str]) -> Self {
        let plain = ["shared_preload_libraries = ''", "summarize_wal = on"];
        let settings: Vec<&str> = plain.iter().chain(settings).copied().collect();
        let cluster = Cluster::start_new(&settings).unwrap();
        let mut bench = Self {
            client: cluster.connect().unwrap(),
            cluster,
        };
        for name in ["store", "second"] {
            bench.directory(name);
        }
        let command = format!("{VARVE} wal-put %p --to {}", bench.store());
        bench.archive_with(&command);
        bench
    }

    /// Archives WAL with a command from now on.
    pub fn archive_with(&mut self, command: &str) {
        let line = format!("archive_command = '{}'", command.replace('\'', "''"));
        self.cluster
            .restart_with(&["archive_mode = on", &line])
            .unwrap();
        self.client = self.cluster.connect().unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    /// A directory of the server's user.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(
            user("mkdir")
                .arg("-p")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        path
    }

    pub fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    pub fn store(&self) -> String {
        self.url("store")
    }

    /// The program, set to talk to the server.
    pub fn varve(&self, arguments: &[&str]) -> Command {
        let mut command = user(VARVE);
        command
            .args(arguments)
            .env("PGHOST", self.cluster.dir())
            .env("PGPORT", "5432")
            .env("PGUSER", "postgres")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program, which must succeed; what it prints.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.varve(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "varve {arguments:?}: {}",
            all(&output)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs the program, which must fail; its code and all that it says.
    pub fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.varve(arguments).output().unwrap();
        assert!(
            !output.status.success(),
            "varve {arguments:?}: {}",
            all(&output)
        );
        (output.status.code().unwrap(), all(&output))
    }

    /// Takes a backup into the store; its id.
    pub fn backup(&self, kind: &str) -> String {
        self.ok(&["backup", "--to", &self.store(), "--kind", kind, "--quiet"])
    }

    /// Ends a segment of WAL and waits until it is in the store.
    pub fn archived(&mut self) {
        varve_tests::wait::archived(&mut self.client);
    }

    /// Restores with some arguments into a new directory and starts the server there.
    pub fn restored(&self, name: &str, arguments: &[&str]) -> Restored {
        let pgdata = self.path(name);
        let socket = format!("unix_socket_directories={}", pgdata.display());
        let mut all = vec![
            "restore",
            "--pgdata",
            pgdata.to_str().unwrap(),
            "--set",
            &socket,
        ];
        all.extend(["--set", "archive_mode=off"]);
        let url = self.store();
        if !arguments.contains(&"--from") {
            all.extend(["--from", &url]);
        }
        all.extend(arguments);
        self.ok(&all);
        let verified = self
            .cluster
            .tool("pg_verifybackup")
            .arg("-n")
            .arg(&pgdata)
            .output()
            .unwrap();
        assert!(
            verified.status.success(),
            "{}",
            crate::common::all(&verified)
        );
        let restored = Restored { pgdata };
        restored.start(&self.cluster);
        restored
    }
}

/// A server that was restored. Stopped when it is dropped.
pub struct Restored {
    pub pgdata: PathBuf,
}

impl Restored {
    fn start(&self, cluster: &Cluster) {
        let log = self.pgdata.join("test.log");
        // What it prints to is not ours to wait for: the server keeps it open.
        let status = cluster
            .tool("pg_ctl")
            .args(["-w", "-t", "120", "-D"])
            .arg(&self.pgdata)
            .arg("-l")
            .arg(&log)
            .arg("start")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let said =
            || String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        assert!(status.success(), "{}", said());
        let mut client = self.connect();
        until("recovery to end", || {
            !client
                .query_one("SELECT pg_is_in_recovery()", &[])
                .unwrap()
                .get::<_, bool>(0)
        });
    }

    pub fn connect(&self) -> Client {
        Client::configure()
            .host_path(&self.pgdata)
            .port(5432)
            .user("postgres")
            .dbname("postgres")
            .connect(NoTls)
            .unwrap()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = user("/usr/lib/postgresql/17/bin/pg_ctl")
            .args(["-w", "-m", "immediate", "stop", "-D"])
            .arg(&self.pgdata)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// A program, run by the user who runs servers.
pub fn user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let mut command = if root {
        let mut runuser = Command::new("runuser");
        runuser.args(["-u", "postgres", "--"]).arg(program);
        runuser
    } else {
        Command::new(program)
    };
    command.current_dir("/").process_group(0);
    command
}

pub fn all(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Count and order-independent sum of a table.
pub fn sum(client: &mut Client, table: &str) -> String {
    client
        .query_one(
            &format!("SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} t"),
            &[],
        )
        .unwrap()
        .get(0)
}

/// The files below a directory whose paths end so.
pub fn files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Changes a byte in the midst of a file.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}
