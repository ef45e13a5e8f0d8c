//! BASE_BACKUP.

use postgres_protocol::message::backend::Message;

use super::error::{ReplicationError, ServerError};
use super::session::{Row, Session};
use super::wire::{Batch, Incoming};
use crate::backup::Lsn;
use crate::wait::Tick;

/// What kind of backup is asked for. It always has a manifest with SHA-256, and comes to us.
#[derive(Debug, Clone, Default)]
pub struct BaseBackupOptions {
    /// Its label.
    pub label: String,
    /// Whether the checkpoint that it begins with is made at once, with all the I/O that this takes, or spread.
    pub fast_checkpoint: bool,
    /// Whether the WAL that it needs is in it, so that it can be restored without an archive.
    pub include_wal: bool,
    /// Whether it ends only when its WAL was archived; without `include_wal` only.
    pub wait_for_archive: bool,
    /// Whether it is incremental to the backup whose manifest was uploaded.
    pub incremental: bool,
    /// The most that the server sends, in kB/s, from 32 to 1,048,576.
    pub max_rate: Option<u32>,
}

impl BaseBackupOptions {
    fn command(&self) -> String {
        let mut options = vec![
            format!("LABEL '{}'", self.label.replace('\'', "''")),
            "PROGRESS true".to_owned(),
            format!(
                "CHECKPOINT '{}'",
                if self.fast_checkpoint {
                    "fast"
                } else {
                    "spread"
                }
            ),
            format!("WAL {}", self.include_wal),
            format!("WAIT {}", self.wait_for_archive && !self.include_wal),
            "MANIFEST 'yes'".to_owned(),
            "MANIFEST_CHECKSUMS 'SHA256'".to_owned(),
            "TARGET 'client'".to_owned(),
        ];
        if self.incremental {
            options.push("INCREMENTAL".to_owned());
        }
        if let Some(rate) = self.max_rate {
            options.push(format!("MAX_RATE {rate}"));
        }
        format!("BASE_BACKUP ({})", options.join(", "))
    }
}

/// A tablespace, or with neither oid nor path the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its oid.
    pub oid: Option<u32>,
    /// Where it lies.
    pub path: Option<String>,
    /// How large it was estimated to be, in bytes.
    pub size: Option<u64>,
}

/// What comes in a base backup.
#[derive(Debug, PartialEq, Eq)]
pub enum ArchiveEvent<'b> {
    /// A new archive begins.
    Archive {
        /// `base.tar`, or the oid of a tablespace with `.tar`.
        name: &'b str,
        /// Where the tablespace lies.
        path: &'b str,
    },
    /// The manifest begins.
    Manifest,
    /// Bytes of the archive or of the manifest.
    Data(&'b [u8]),
    /// The server has read so many bytes.
    Progress(u64),
    /// That was the last; the server may still wait until the backup's WAL is archived.
    End,
}

/// A base backup that is under way.
pub struct BaseBackup<'s> {
    session: &'s mut Session,
    batch: Batch,
    /// Where it begins.
    pub start: Lsn,
    /// On which timeline.
    pub timeline: u32,
    /// What is in it; the data directory is the last.
    pub tablespaces: Vec<Tablespace>,
}

impl Session {
    /// Begins a base backup. It waits for a checkpoint.
    ///
    /// # Errors
    /// What the server says; [`ReplicationError::Refused`] where an incremental backup cannot be had.
    pub fn base_backup(
        &mut self,
        options: &BaseBackupOptions,
        tick: Tick<'_>,
    ) -> Result<BaseBackup<'_>, ReplicationError> {
        self.command(&options.command(), tick)?;
        let begun = self.rows(tick).map_err(explained)?;
        let (start, timeline) = position(&begun)?;
        let tablespaces = self.rows(tick).map_err(explained)?;
        let tablespaces = tablespaces
            .iter()
            .map(tablespace)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| ReplicationError::protocol("a tablespace is not understood"))?;
        match self.message(tick)? {
            Message::CopyOutResponse(_) => {}
            _ => return Err(ReplicationError::protocol("no archive comes")),
        }
        Ok(BaseBackup {
            session: self,
            batch: Batch::default(),
            start,
            timeline,
            tablespaces,
        })
    }
}

impl BaseBackup<'_> {
    /// What comes next.
    ///
    /// # Errors
    /// What the server says; a message that is not understood.
    pub fn next(&mut self, tick: Tick<'_>) -> Result<ArchiveEvent<'_>, ReplicationError> {
        while self.batch.is_empty() {
            match self.session.incoming(tick).map_err(explained)? {
                Incoming::Copy(batch) => self.batch = batch,
                Incoming::Message(Message::CopyDone) => return Ok(ArchiveEvent::End),
                Incoming::Message(_) => {
                    return Err(ReplicationError::protocol(
                        "an archive has something else in it",
                    ));
                }
            }
        }
        self.batch
            .next()
            .and_then(event)
            .ok_or_else(|| ReplicationError::protocol("a piece of an archive is not understood"))
    }

    /// Waits for the end: where the backup's WAL ends, and what the server remarked.
    ///
    /// # Errors
    /// What the server says.
    pub fn finish(self, tick: Tick<'_>) -> Result<(Lsn, Vec<ServerError>), ReplicationError> {
        let ended = self.session.rows(tick).map_err(explained)?;
        let (stop, _) = position(&ended)?;
        self.session.ready(tick)?;
        Ok((stop, std::mem::take(&mut self.session.notices)))
    }
}

fn event(message: &[u8]) -> Option<ArchiveEvent<'_>> {
    let (kind, rest) = message.split_first()?;
    match kind {
        b'd' => Some(ArchiveEvent::Data(rest)),
        b'p' => Some(ArchiveEvent::Progress(u64::from_be_bytes(
            rest.try_into().ok()?,
        ))),
        b'm' if rest.is_empty() => Some(ArchiveEvent::Manifest),
        b'n' => {
            let mut texts = rest.split(|byte| *byte == 0);
            let name = std::str::from_utf8(texts.next()?).ok()?;
            let path = std::str::from_utf8(texts.next()?).ok()?;
            Some(ArchiveEvent::Archive { name, path })
        }
        _ => None,
    }
}

fn position(rows: &[Row]) -> Result<(Lsn, u32), ReplicationError> {
    let found = || {
        let [Some(lsn), Some(timeline)] = rows.first()?.as_slice() else {
            return None;
        };
        Some((lsn.parse().ok()?, timeline.parse().ok()?))
    };
    found().ok_or_else(|| ReplicationError::protocol("a position in WAL is not understood"))
}

fn tablespace(row: &Row) -> Option<Tablespace> {
    let [oid, path, size] = row.as_slice() else {
        return None;
    };
    let number = |text: &Option<String>| text.as_ref().map(|t| t.parse::<u64>()).transpose();
    Some(Tablespace {
        oid: oid.as_ref().map(|t| t.parse()).transpose().ok()?,
        path: path.clone(),
        size: number(size)
            .ok()?
            .map(|kilobytes| kilobytes.saturating_mul(1024)),
    })
}

/// What to do where an incremental backup cannot be had.
fn explained(error: ReplicationError) -> ReplicationError {
    let ReplicationError::Server(server) = error else {
        return error;
    };
    let hint = if server.message.contains("WAL summarization") {
        "Set summarize_wal = on, reload the server, and take a full backup first."
    } else if server.message.contains("WAL summaries are required") {
        "The summaries back to the parent backup are gone or were never made (see summarize_wal and wal_summary_keep_time): take a full backup."
    } else if server
        .message
        .contains("timed out waiting for WAL summarization")
        || server
            .message
            .contains("WAL summarization is not progressing")
    {
        "The server does not get on with summarizing its WAL; its log says why. A full backup does not need it."
    } else if server.message.contains("manifest") && server.message.contains("system identifier") {
        "The parent backup is of another cluster: take a full backup."
    } else {
        return ReplicationError::Server(server);
    };
    ReplicationError::Refused {
        message: server.to_string(),
        hint: hint.to_owned(),
        cause: Some(server),
    }
}
