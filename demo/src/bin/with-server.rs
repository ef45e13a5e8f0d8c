//! `with-server [name=value …] -- command [argument …]`: runs a command against a private server with varve in it.
//!
//! The command finds the server by `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE`, and PostgreSQL's own programs on its
//! `PATH`. The server is gone when the command ends; its exit code is the command's.

use std::error::Error;
use std::ffi::OsString;
use std::process::{Command, ExitCode};
use varve_tests::cluster::Cluster;

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let settings: Vec<String> = args
        .by_ref()
        .take_while(|a| a != "--")
        .map(|a| a.replacen('=', " = ", 1))
        .collect();
    let Some(program) = args.next() else {
        return Err("usage: with-server [name=value …] -- command [argument …]".into());
    };
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let cluster = Cluster::start_new(&settings)?;
    cluster.connect_with_varve()?;
    let config = cluster.config("postgres");
    let port = config.get_ports().first().ok_or("no port")?;
    let mut path: OsString = std::env::var_os("VARVE_PG_BINDIR").unwrap_or_default();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let status = Command::new(&program)
        .args(args)
        .env("PGHOST", cluster.dir())
        .env("PGPORT", port.to_string())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "postgres")
        .env("PATH", path)
        .status()
        .map_err(|e| format!("{program}: {e}"))?;
    drop(cluster);
    Ok(ExitCode::from(status.code().unwrap_or(1) as u8))
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("with-server: {error}");
        ExitCode::FAILURE
    })
}
