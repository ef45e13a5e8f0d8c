//! Running the loaders and taking apart what they say.

use postgres::{Client, NoTls};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use varve_tests::cluster::Cluster;

/// A program, and the ways that it knows.
pub struct Loader {
    pub command: Vec<OsString>,
    pub ways: [&'static str; 2],
    /// The way for which a file must have all columns, if there is one.
    pub needs_all: Option<&'static str>,
}

/// The first interpreter that has what the loader needs. Debian's own counts beside that of the PATH, since
/// `make setup` installs Debian's package `python3-asyncpg`.
fn python() -> OsString {
    let mut tried = String::new();
    let named = std::env::var_os("VARVE_PYTHON");
    let usual = ["python3", "/usr/bin/python3"].map(OsString::from);
    let all = named.map_or(usual.to_vec(), |python| vec![python]);
    for python in all {
        let output = Command::new(&python)
            .args([
                "-c",
                "import sys, asyncpg; assert sys.version_info >= (3, 11), sys.version",
            ])
            .output();
        let why = match output {
            Ok(output) if output.status.success() => return python,
            Ok(output) => String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_string(),
            Err(error) => error.to_string(),
        };
        write!(tried, "\n{}: {why}", python.display()).unwrap();
    }
    panic!(
        "no Python with asyncpg. `make setup` installs Debian's python3-asyncpg; else `pip install asyncpg` into a \
         Python of 3.11 or later, and name it by VARVE_PYTHON.{tried}"
    );
}

impl Loader {
    /// `examples/python`.
    pub fn python() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../python/load_prices.py");
        Loader {
            command: vec![python(), script.into()],
            ways: ["sink", "rows"],
            needs_all: Some("rows"),
        }
    }

    /// `examples/rust`.
    pub fn rust() -> Self {
        Loader {
            command: vec![env!("CARGO_BIN_EXE_varve-example-loader").into()],
            ways: ["sink", "json"],
            needs_all: None,
        }
    }
}

/// What a loader says of one pass.
#[derive(Debug, PartialEq)]
pub struct Report {
    pub what: String,
    pub rows: usize,
    pub inserted: usize,
    pub updated: usize,
    pub unchanged: usize,
    pub duplicates: usize,
}

impl Report {
    pub fn new(what: &str, inserted: usize, updated: usize, unchanged: usize) -> Self {
        Report {
            what: what.into(),
            rows: inserted + updated + unchanged,
            inserted,
            updated,
            unchanged,
            duplicates: 0,
        }
    }

    /// Takes a line apart; it must tell rows a second.
    pub fn parse(line: &str) -> Self {
        let (what, told) = line.split_once(": ").unwrap();
        let numbers: Vec<f64> = told
            .split(|c: char| c != '.' && !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect();
        let [
            rows,
            seconds,
            rate,
            inserted,
            updated,
            unchanged,
            duplicates,
        ] = numbers[..]
        else {
            panic!("{line}");
        };
        assert!(line.contains(&format!(" {rate} rows/s: ")), "{line}");
        assert!(seconds >= 0.0 && rate > 0.0, "{line}");
        Report {
            what: what.into(),
            rows: rows as usize,
            inserted: inserted as usize,
            updated: updated as usize,
            unchanged: unchanged as usize,
            duplicates: duplicates as usize,
        }
    }
}

/// A database of its own, and files, for one way of one loader.
pub struct Bench<'a> {
    pub loader: &'a Loader,
    pub way: &'static str,
    pub cluster: &'a Cluster,
    pub database: String,
    pub files: PathBuf,
}

impl Bench<'_> {
    pub fn client(&self) -> Client {
        self.cluster.config(&self.database).connect(NoTls).unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        let [program, first @ ..] = &self.loader.command[..] else {
            panic!("no program");
        };
        let config = self.cluster.config(&self.database);
        Command::new(program)
            .args(first)
            .args(["--via", self.way])
            .args(args)
            .current_dir(&self.files)
            .env("PGHOST", self.cluster.dir())
            .env("PGPORT", config.get_ports()[0].to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", &self.database)
            .output()
            .unwrap()
    }

    /// A load that goes well.
    pub fn loads(&self, args: &[&str], expected: &[Report]) {
        let output = self.run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        assert_eq!(err, "", "{args:?}");
        print!("{out}");
        let reports: Vec<Report> = out.lines().map(Report::parse).collect();
        assert_eq!(reports, expected, "{args:?}");
    }

    /// A load that stops; its message must have these parts.
    pub fn stops(&self, args: &[&str], parts: &[&str]) {
        let output = self.run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        print!("{err}");
        assert_eq!(output.status.code(), Some(1), "{args:?}: {out}{err}");
        assert_eq!(out, "", "{args:?}");
        assert!(
            !err.contains("Traceback") && !err.contains("panicked"),
            "{err}"
        );
        for part in parts {
            assert!(err.contains(part), "{args:?}: {part:?} is not in: {err}");
        }
    }

    pub fn file(&self, name: &str, content: &str) {
        std::fs::write(self.files.join(name), content).unwrap();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory that goes with the value.
pub struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Directory {
    /// Makes one.
    pub fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("varve-examples-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
