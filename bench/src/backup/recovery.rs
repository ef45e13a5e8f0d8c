//! What recovery takes: from nothing but a store to a server that answers.

use super::contest::Varve;
use super::{fingerprint, timed};
use crate::Result;
use crate::numbers::figure;
use postgres::{Config, NoTls};
use std::time::Instant;
use varve_demo::show;
use varve_tests::cluster::Cluster;

/// Restores the newest backup, with the WAL that it needs in it, and starts a server; what is not as it was.
pub fn run(
    cluster: &Cluster,
    varve: &Varve,
    cluster_bytes: u64,
    expected: &str,
) -> Result<Vec<String>> {
    let mut backup = varve.program();
    backup.args(["backup", "--quiet", "--include-wal", "--to", &varve.url()]);
    timed(&mut backup)?;
    let to = cluster.dir().join("recovered");
    let socket = cluster.dir().join("recovered-socket");
    timed(cluster.tool("/bin/mkdir").arg(&socket))?;
    let begin = Instant::now();
    let mut restore = varve.program();
    restore
        .args(["restore", "--quiet", "--start", "--from", &varve.url()])
        .args([
            "--set",
            &format!("unix_socket_directories={}", socket.display()),
        ])
        .arg("--pgdata")
        .arg(&to);
    timed(&mut restore)?;
    let mut client = Config::new()
        .host_path(&socket)
        .port(5432)
        .user("postgres")
        .dbname("postgres")
        .connect(NoTls)?;
    let rows: i64 = client.query_one("SELECT count(*) FROM bars", &[])?.get(0);
    let took = begin.elapsed();
    let found = fingerprint(&mut client);
    drop(client);
    let mut stop = cluster.tool("pg_ctl");
    stop.args(["-m", "immediate", "-D"]).arg(&to).arg("stop");
    timed(&mut stop)?;
    let gigabytes = cluster_bytes as f64 / 1e9;
    let per_gigabyte = took.as_secs_f64() / gigabytes;
    show::say(&format!(
        "Recovery from the store alone to a server that has counted {} rows: {} s for {} GB, {} s/GB; at this rate {} minutes for 100 GB.",
        show::count(rows),
        figure(took.as_secs_f64()),
        figure(gigabytes),
        figure(per_gigabyte),
        figure(per_gigabyte * 100.0 / 60.0)
    ));
    Ok(match found? == expected {
        true => Vec::new(),
        false => vec!["backup: the recovered rows are not those that were backed up".to_string()],
    })
}
