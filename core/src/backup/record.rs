//! What a store says of a backup: `backup.json`; and of itself: `cluster.json`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::BackupError;
use super::lsn::Lsn;
use super::timestamp::Timestamp;
use super::{keys, signed};

/// The version of the format that is written.
pub(super) const VERSION: u32 = 1;

/// Largest `backup.json`, in bytes: that of a backup of some terabytes.
pub(super) const MAX_RECORD_BYTES: u64 = 256 << 20;

/// Whose store it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Version of the format.
    pub version: u32,
    /// The cluster's system identifier, in decimal.
    pub system_identifier: String,
}

/// What kind of backup it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Everything.
    Full,
    /// What changed since the last full backup.
    Differential,
    /// What changed since the last backup of any kind.
    Incremental,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Differential => "differential",
            Self::Incremental => "incremental",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Full, Self::Differential, Self::Incremental]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("\"{text}\" is none of full, differential and incremental"))
    }
}

/// What an object of a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// The data directory, as a tar archive.
    Base,
    /// The tablespace with that oid, as a tar archive.
    Tablespace(u32),
    /// The backup manifest.
    Manifest,
}

/// An object of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Where it is.
    pub key: String,
    /// What it holds.
    pub archive: Archive,
    /// Its size, in bytes.
    pub stored_bytes: u64,
    /// Size of what it holds, in bytes.
    pub raw_bytes: u64,
    /// SHA-256 of the object, in hexadecimal digits.
    pub sha256: String,
    /// Plain bytes of each frame but the last.
    pub frame_bytes: u64,
    /// Compressed bytes of each frame, in order; before encryption, if there is any.
    pub frames: Vec<u32>,
}

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTablespace {
    /// Its oid.
    pub oid: u32,
    /// Where it lay when the backup was taken.
    pub path: String,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// Version of the format.
    pub version: u32,
    /// Its name: when it began, and its kind.
    pub id: String,
    /// Its kind.
    pub kind: Kind,
    /// The backup that it needs.
    pub parent: Option<String>,
    /// What its maker called it.
    pub label: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended: what was committed before is in it.
    pub stopped_at: Timestamp,
    /// Where the WAL begins that it needs.
    pub start_lsn: Lsn,
    /// Where that ends.
    pub stop_lsn: Lsn,
    /// The timeline of both.
    pub timeline: u32,
    /// The server's version.
    pub server_version: String,
    /// Size of a segment of WAL, in bytes.
    pub wal_segment_bytes: u64,
    /// The cluster's system identifier, in decimal.
    pub system_identifier: String,
    /// Whether the WAL that it needs is in it.
    pub includes_wal: bool,
    /// The cluster's tablespaces but for those that always are.
    pub tablespaces: Vec<BackupTablespace>,
    /// How its objects are compressed: `zstd`.
    pub compression: String,
    /// How they are encrypted: `age`.
    pub encryption: Option<String>,
    /// Its objects.
    pub objects: Vec<StoredObject>,
    /// What the server knew of its tables; varve-core does not look into it.
    #[serde(default)]
    pub checks: serde_json::Value,
}

/// What the object is: the backup's text, and its SHA-256, so that a changed byte is noticed.
#[derive(Serialize, Deserialize)]
struct Signed<'r> {
    sha256: String,
    #[serde(borrow)]
    backup: &'r RawValue,
}

impl Backup {
    /// As it is stored.
    ///
    /// # Errors
    /// [`BackupError::Corrupt`] if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, BackupError> {
        let failed = |error: serde_json::Error| {
            BackupError::corrupt(keys::record(&self.id), error.to_string())
        };
        let (text, sha256) = signed::text_of(self).map_err(failed)?;
        let signed = Signed {
            sha256,
            backup: &text,
        };
        serde_json::to_vec(&signed).map_err(failed)
    }

    /// Reads what was stored under the name of a backup.
    ///
    /// # Errors
    /// [`BackupError::Corrupt`], [`BackupError::Unsupported`].
    pub fn from_json(id: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let key = keys::record(id);
        let corrupt = |detail: String| BackupError::corrupt(&key, detail);
        let signed: Signed<'_> =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let backup: Self = signed::read(&key, &signed.sha256, signed.backup, VERSION)?;
        backup.check(id).map_err(corrupt)?;
        Ok(backup)
    }

    /// What others rely on.
    fn check(&self, id: &str) -> Result<(), String> {
        if self.id != id {
            return Err(format!("it is the record of {}", self.id));
        }
        let segment = self.wal_segment_bytes;
        if !segment.is_power_of_two() || !((1 << 20)..=(1 << 30)).contains(&segment) {
            return Err(format!("no segment of WAL has {segment} bytes"));
        }
        if self.stop_lsn < self.start_lsn {
            return Err("it ends before it begins".to_owned());
        }
        if self.parent.is_some() == (self.kind == Kind::Full)
            || self.parent.as_deref().is_some_and(|p| !keys::is_id(p))
        {
            return Err("its parent is wrong".to_owned());
        }
        for object in &self.objects {
            let mine = keys::split(&object.key).is_some_and(|(of, _)| of == id);
            if !mine || crate::store::check_key(&object.key).is_err() {
                return Err(format!("{} is no object of it", object.key));
            }
            object.check()?;
        }
        for wanted in [Archive::Base, Archive::Manifest] {
            if self.objects.iter().filter(|o| o.archive == wanted).count() != 1 {
                return Err("it does not have one data directory and one manifest".to_owned());
            }
        }
        Ok(())
    }

    /// The object that holds something.
    pub fn object(&self, archive: Archive) -> Option<&StoredObject> {
        self.objects.iter().find(|o| o.archive == archive)
    }

    /// Bytes of all its objects.
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|o| o.stored_bytes).sum()
    }

    /// Bytes of what they hold.
    pub fn raw_bytes(&self) -> u64 {
        self.objects.iter().map(|o| o.raw_bytes).sum()
    }

    /// How long it took, in seconds.
    pub fn seconds(&self) -> f64 {
        self.stopped_at.seconds_since(self.started_at)
    }

    /// Whether its objects are encrypted.
    pub fn encrypted(&self) -> bool {
        self.encryption.is_some()
    }
}

impl StoredObject {
    /// Whether the frames make up the object.
    fn check(&self) -> Result<(), String> {
        let frames = self.frames.len() as u64;
        let limit = crate::seal::MAX_FRAME_BYTES as u64;
        let plain = frames.checked_mul(self.frame_bytes);
        let last = frames.saturating_sub(1).saturating_mul(self.frame_bytes);
        let covered = plain.is_some_and(|plain| self.raw_bytes <= plain)
            && (self.raw_bytes > last || frames == 1);
        let stored: u64 = self.frames.iter().map(|f| u64::from(*f)).sum();
        if self.frame_bytes == 0
            || self.frame_bytes > limit
            || !covered
            || stored > self.stored_bytes
        {
            return Err(format!("the frames of {} do not make it up", self.key));
        }
        if self.frames.iter().any(|f| u64::from(*f) > 2 * limit) || self.sha256.len() != 64 {
            return Err(format!("a frame or the SHA-256 of {} is wrong", self.key));
        }
        Ok(())
    }
}
