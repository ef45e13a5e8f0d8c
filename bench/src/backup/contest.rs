//! The two programs, set to do the same.

use super::{Measured, PGBACKREST, size_of, timed};
use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use varve_tests::cluster::Cluster;

/// Makes a directory of the server's user.
fn directory(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let path = cluster.dir().join(name);
    timed(cluster.tool("/bin/mkdir").arg("-p").arg(&path))?;
    Ok(path)
}

/// Removes what a restore has made.
fn remove(cluster: &Cluster, path: &Path) -> Result<()> {
    timed(cluster.tool("/bin/rm").arg("-rf").arg(path))?;
    Ok(())
}

/// What was written to a directory meanwhile.
fn written(
    directory: &Path,
    work: impl FnOnce() -> Result<std::time::Duration>,
) -> Result<Measured> {
    let before = size_of(directory)?;
    let took = work()?;
    let bytes = size_of(directory)?.saturating_sub(before);
    Ok(Measured { took, bytes })
}

/// The program `varve`, with a store in the server's directory.
pub struct Varve<'c> {
    cluster: &'c Cluster,
    store: PathBuf,
}

impl<'c> Varve<'c> {
    /// A store with nothing in it.
    pub fn new(cluster: &'c Cluster) -> Result<Self> {
        Ok(Self {
            cluster,
            store: directory(cluster, "store")?,
        })
    }

    /// The store's URL.
    pub fn url(&self) -> String {
        format!("file://{}", self.store.display())
    }

    /// The program.
    pub fn program(&self) -> Command {
        self.cluster.tool("varve")
    }

    fn backup(&self, kind: &str) -> Result<Measured> {
        let mut program = self.program();
        program.args(["backup", "--quiet", "--no-wait", "--threads", "2"]);
        program.args(["--kind", kind, "--to", &self.url()]);
        written(&self.store, || timed(&mut program))
    }

    /// A full backup.
    pub fn full(&self) -> Result<Measured> {
        self.backup("full")
    }

    /// What has changed since the last backup.
    pub fn incremental(&self) -> Result<Measured> {
        self.backup("incremental")
    }

    /// The newest backup, restored to files.
    pub fn restore(&self) -> Result<Measured> {
        let to = self.cluster.dir().join("restored");
        let mut program = self.program();
        program.args(["restore", "--quiet", "--threads", "2"]);
        program
            .args(["--from", &self.url()])
            .arg("--pgdata")
            .arg(&to);
        let took = timed(&mut program)?;
        let bytes = size_of(&to)?;
        remove(self.cluster, &to)?;
        Ok(Measured { took, bytes })
    }
}

/// pgBackRest, with a repository in the server's directory.
pub struct PgBackRest<'c> {
    cluster: &'c Cluster,
    config: PathBuf,
    repository: PathBuf,
}

impl<'c> PgBackRest<'c> {
    /// A repository with nothing in it. Small files are bundled and large ones stored by blocks, as its documentation advises.
    pub fn new(cluster: &'c Cluster) -> Result<Self> {
        let repository = directory(cluster, "repository")?;
        let logs = directory(cluster, "logs")?;
        let config = cluster.dir().join("pgbackrest.conf");
        let text = format!(
            "[global]\nrepo1-path={repository}\nrepo1-bundle=y\nrepo1-block=y\nrepo1-retention-full=9\nlog-path={logs}\n\
             lock-path={logs}\nspool-path={logs}\nlog-level-console=error\ncompress-type=zst\ncompress-level=1\nprocess-max=2\n\
             start-fast=y\narchive-check=n\narchive-copy=n\n\n[bench]\npg1-path={data}\npg1-socket-path={socket}\npg1-port=5432\n\
             pg1-user=postgres\n",
            repository = repository.display(),
            logs = logs.display(),
            data = cluster.data().display(),
            socket = cluster.dir().display(),
        );
        std::fs::write(&config, text)?;
        let this = Self {
            cluster,
            config,
            repository,
        };
        timed(this.program("stanza-create").arg("--no-online"))?;
        Ok(this)
    }

    fn program(&self, command: &str) -> Command {
        let mut program = self.cluster.tool(PGBACKREST);
        program
            .arg(format!("--config={}", self.config.display()))
            .arg("--stanza=bench")
            .arg(command);
        program
    }

    /// Which version it is.
    pub fn version(&self) -> Result<String> {
        let output = self.cluster.tool(PGBACKREST).arg("version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    }

    fn backup(&self, kind: &str) -> Result<Measured> {
        let mut program = self.program("backup");
        program.arg(format!("--type={kind}"));
        written(&self.repository, || timed(&mut program))
    }

    /// A full backup.
    pub fn full(&self) -> Result<Measured> {
        self.backup("full")
    }

    /// What has changed since the last backup.
    pub fn incremental(&self) -> Result<Measured> {
        self.backup("incr")
    }

    /// The newest backup, restored to files.
    pub fn restore(&self) -> Result<Measured> {
        let to = directory(self.cluster, "restored-other")?;
        let mut program = self.program("restore");
        program.arg(format!("--pg1-path={}", to.display()));
        let took = timed(&mut program)?;
        let bytes = size_of(&to)?;
        remove(self.cluster, &to)?;
        Ok(Measured { took, bytes })
    }
}
