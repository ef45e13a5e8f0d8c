//! The server, and what runs in it.

use crate::show;
use crate::stage::{Result, Stage};

/// Shows versions and where the server lives.
pub fn run(stage: &mut Stage) -> Result<()> {
    let version = stage.text("SHOW server_version")?;
    show::say(&format!(
        "PostgreSQL {version} in {}, on a Unix socket; it is removed at the end, also after Ctrl-C.",
        stage.cluster.dir().display()
    ));
    let extension =
        |name: &str| format!("SELECT extversion FROM pg_extension WHERE extname = '{name}'");
    let timescale = stage.text(&extension("timescaledb"))?;
    let varve = stage.text(&extension("varve"))?;
    let license = stage.text("SHOW timescaledb.license")?;
    show::say(&format!(
        "TimescaleDB {timescale}, {license} edition; varve {varve}."
    ));
    let addresses =
        stage.text("SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL")?;
    stage.same(
        "nobody is connected over the network",
        addresses,
        "0".into(),
    )
}
