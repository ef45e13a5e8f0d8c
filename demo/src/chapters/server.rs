//! The server, and what runs in it.

use crate::show;
use crate::stage::{Result, Stage};

/// Shows versions and where the server lives.
pub fn run(stage: &mut Stage) -> Result<()> {
    let mut extension = |name: &str| {
        stage.text(&format!(
            "SELECT extversion FROM pg_extension WHERE extname = '{name}'"
        ))
    };
    let (timescale, varve) = (extension("timescaledb")?, extension("varve")?);
    let version = stage.text("SHOW server_version")?;
    let licence = stage.text("SHOW timescaledb.license")?;
    show::say(&format!("PostgreSQL {version}"));
    show::say(&format!(
        "TimescaleDB {timescale}, {licence} edition, and varve {varve}"
    ));
    show::say(&format!(
        "Data and Unix socket in {}, removed at the end, also after Ctrl-C",
        stage.cluster.dir().display()
    ));
    let addresses = stage.text("SHOW listen_addresses")?;
    stage.same(
        "the server listens on no network address",
        addresses,
        String::new(),
    )
}
