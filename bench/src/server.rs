//! The private server that is measured, and how its data is kept from run to run.

use crate::{Result, Side};
use postgres::{Client, NoTls};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use varve_tests::cluster::{Cluster, Stop};

/// The settings with which the targets were measured, and none that lets something else run meanwhile.
const SETTINGS: &[&str] = &[
    "shared_buffers = 6GB",
    "work_mem = 64MB",
    "jit = off",
    "max_parallel_workers_per_gather = 0",
    "max_wal_size = 20GB",
    "checkpoint_timeout = 1d",
    "synchronous_commit = off",
    "autovacuum = off",
    "log_min_messages = warning",
    "log_checkpoints = off",
];

/// A running server.
pub struct Server {
    cluster: Cluster,
    kept: bool,
}

impl Server {
    /// Starts a server: an empty one, or the one whose data an earlier run kept in a directory.
    pub fn start(keep: Option<&Path>) -> Result<Server> {
        let cluster = Cluster::start_new(SETTINGS)?;
        if let Some(keep) = keep {
            cluster.stop(Stop::Fast)?;
            stand_in(&cluster.data(), keep)?;
            cluster.start()?;
        }
        Ok(Server {
            cluster,
            kept: keep.is_some(),
        })
    }

    /// A connection that finds the tables of one side.
    pub fn connect(&self, side: Side) -> Result<Client> {
        self.connect_to(side.schema())
    }

    /// A connection that finds the tables of one schema.
    pub fn connect_to(&self, schema: &str) -> Result<Client> {
        let mut config = self.cluster.config("postgres");
        config
            .application_name(&format!("bench {schema}"))
            .options(&format!("-c search_path={schema},public"));
        Ok(config.connect(NoTls)?)
    }

    /// Stops the server. Its directory goes, unless it is kept.
    pub fn end(self) -> Result<()> {
        if self.kept {
            self.cluster.stop(Stop::Fast)?;
        }
        Ok(())
    }
}

/// Puts kept data in the place of a new server's data directory: a link, which goes with the server while the data
/// stays. Where there is none yet, the new data moves there.
fn stand_in(data: &Path, keep: &Path) -> Result<()> {
    let keep = std::path::absolute(keep)?;
    if keep.join("PG_VERSION").exists() {
        // Settings and socket are those of this run.
        fs::copy(data.join("postgresql.conf"), keep.join("postgresql.conf"))?;
        rename(data, &data.with_file_name("unused"))?;
    } else if keep.exists() {
        return Err(format!("{} is there, and holds no server's data", keep.display()).into());
    } else {
        rename(data, &keep)?;
    }
    std::os::unix::fs::symlink(&keep, data)?;
    Ok(())
}

/// Moves a directory, to another file system too.
fn rename(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("mv").arg(from).arg(to).status()?;
    if !status.success() {
        return Err(format!("cannot move {} to {}", from.display(), to.display()).into());
    }
    Ok(())
}

/// Where a server would keep its data, for messages.
pub fn place(keep: Option<&PathBuf>) -> String {
    keep.map_or_else(
        || "in a directory of its own, gone afterwards".into(),
        |dir| format!("in {}, kept", dir.display()),
    )
}
