//! What a store says of a snapshot: `snapshot.json`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::error::BackupError;
use super::super::keys::is_id;
use super::super::lsn::Lsn;
use super::super::signed;
use super::super::timestamp::Timestamp;
use super::{SNAPSHOT_RECORD, key, split};
use crate::parquet::{Field, Logical, Physical};

/// The version of the format that is written.
pub(super) const VERSION: u32 = 1;

/// Largest `snapshot.json`, in bytes.
pub(super) const MAX_RECORD_BYTES: u64 = 256 << 20;

/// Largest object with rows before it is encrypted, in bytes: a file ends with the row group that makes it as large as 1 GiB, and a
/// row group with the row that makes its pages larger than that, which may take 3 GiB.
const MAX_ROWS_BYTES: u64 = 6 << 30;

/// The name of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its own name.
    pub name: String,
}

/// How the values of a column, or the elements of its arrays, are kept in Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// `boolean`.
    Boolean,
    /// `smallint`.
    Int16,
    /// `integer`.
    Int32,
    /// `bigint`.
    Int64,
    /// `real`.
    Float,
    /// `double precision`.
    Double,
    /// A text, as it is.
    Text,
    /// `bytea`.
    Bytes,
    /// `date`: days since 1970; the largest and the smallest number are `infinity` and `-infinity`.
    Date,
    /// `timestamp`: microseconds since 1970; infinities as for dates.
    Timestamp,
    /// `timestamptz`, likewise, in UTC.
    Timestamptz,
    /// `time`: microseconds since midnight.
    Time,
    /// `uuid`.
    Uuid,
    /// `numeric(p, s)`; the smallest number of 128 bits is `NaN`.
    Decimal {
        /// Digits.
        precision: u8,
        /// Those of them behind the point.
        scale: u8,
    },
    /// `json` and `jsonb`.
    Json,
    /// Any other type: what its output function gives.
    Output,
}

impl Kept {
    /// Its types in Parquet.
    fn types(self) -> (Physical, Logical) {
        match self {
            Self::Boolean => (Physical::Boolean, Logical::None),
            Self::Int16 => (Physical::Int32, Logical::Int16),
            Self::Int32 => (Physical::Int32, Logical::None),
            Self::Int64 => (Physical::Int64, Logical::None),
            Self::Float => (Physical::Float, Logical::None),
            Self::Double => (Physical::Double, Logical::None),
            Self::Text | Self::Output => (Physical::Bytes, Logical::Text),
            Self::Bytes => (Physical::Bytes, Logical::None),
            Self::Date => (Physical::Int32, Logical::Date),
            Self::Timestamp => (Physical::Int64, Logical::Timestamp { utc: false }),
            Self::Timestamptz => (Physical::Int64, Logical::Timestamp { utc: true }),
            Self::Time => (Physical::Int64, Logical::Time),
            Self::Uuid => (Physical::Fixed(16), Logical::Uuid),
            Self::Decimal { precision, scale } => {
                (Physical::Fixed(16), Logical::Decimal { precision, scale })
            }
            Self::Json => (Physical::Bytes, Logical::Json),
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, which is that of its column in the Parquet files too.
    pub name: String,
    /// Its type as SQL writes it, with its modifiers.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The type's modifier as PostgreSQL has it; -1 for none.
    pub typmod: i32,
    /// Its collation as SQL writes it; none where it is that of its type.
    pub collation: Option<String>,
    /// Whether the table computes it.
    pub generated: bool,
    /// How values are kept, or the elements of arrays.
    pub kept: Kept,
    /// Of a column of arrays, the name of another column of the Parquet files: NULL for arrays of one dimension that begin at 1,
    /// and empty ones; else their dimensions as PostgreSQL writes them, `[0:1][1:3]`.
    pub shape: Option<String>,
}

impl Column {
    /// Its columns in Parquet files.
    pub fn fields(&self) -> Vec<Field> {
        let (physical, logical) = self.kept.types();
        let values = Field {
            name: self.name.clone(),
            physical,
            logical,
            list: self.shape.is_some(),
        };
        let shape = self.shape.as_ref().map(|name| Field {
            name: name.clone(),
            physical: Physical::Bytes,
            logical: Logical::Text,
            list: false,
        });
        std::iter::once(values).chain(shape).collect()
    }
}

/// A range of a dimension of a hypertable, as TimescaleDB keeps it: microseconds since 1970 for times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The dimension's column.
    pub column: String,
    /// Its beginning, included.
    pub start: i64,
    /// Its end, left out.
    pub end: i64,
}

/// A chunk of a hypertable; or the table itself, which has no slices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its name when the snapshot was taken.
    pub table: Table,
    /// `hot`, `warm` or `cold`.
    pub tier: String,
    /// Its place in the dimensions.
    pub slices: Vec<Slice>,
    /// Its rows.
    pub rows: u64,
}

/// What an object of a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// Rows, as a Parquet file.
    Rows {
        /// Which of the record's chunks they are of, from 0 on.
        chunk: usize,
        /// How many.
        rows: u64,
    },
    /// The table's definition, for varve.
    Ddl,
    /// The table's definition, for people.
    Sql,
}

/// An object of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Where it is.
    pub key: String,
    /// What it holds.
    pub holds: Holds,
    /// Its size, in bytes.
    pub stored_bytes: u64,
    /// Its size before it was encrypted.
    pub raw_bytes: u64,
    /// SHA-256 of the object, in hexadecimal digits.
    pub sha256: String,
}

/// A snapshot of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the format.
    pub version: u32,
    /// Its name: when it was begun, some random digits, and `-snapshot`.
    pub id: String,
    /// What its maker called it.
    pub label: String,
    /// The database.
    pub database: String,
    /// The table.
    pub table: Table,
    /// When it was begun.
    pub taken_at: Timestamp,
    /// When it was written.
    pub stopped_at: Timestamp,
    /// The transactions that it sees, as `pg_current_snapshot()` has them.
    pub snapshot: String,
    /// The end of WAL when it was begun.
    pub lsn: Lsn,
    /// The server's version.
    pub server_version: String,
    /// The cluster's system identifier, in decimal.
    pub system_identifier: String,
    /// The database's encoding. Texts are in UTF-8, unless that is `SQL_ASCII`.
    pub encoding: String,
    /// Rows of all chunks.
    pub rows: u64,
    /// The table's columns, in their order.
    pub columns: Vec<Column>,
    /// Its chunks.
    pub chunks: Vec<Chunk>,
    /// Whether row security may have hidden rows from its maker.
    pub filtered: bool,
    /// What belongs to the table and is not in the snapshot.
    pub left_out: Vec<String>,
    /// How the objects are encrypted: `age`.
    pub encryption: Option<String>,
    /// The objects.
    pub objects: Vec<Object>,
}

/// What the object is: the snapshot's text, and its SHA-256, so that a changed byte is noticed.
#[derive(Serialize, Deserialize)]
struct Signed<'r> {
    sha256: String,
    #[serde(borrow)]
    snapshot: &'r RawValue,
}

impl Snapshot {
    /// As it is stored.
    ///
    /// # Errors
    /// [`BackupError::Corrupt`] if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, BackupError> {
        let failed = |error: serde_json::Error| {
            BackupError::corrupt(key(&self.id, SNAPSHOT_RECORD), error.to_string())
        };
        let (text, sha256) = signed::text_of(self).map_err(failed)?;
        let signed = Signed {
            sha256,
            snapshot: &text,
        };
        serde_json::to_vec(&signed).map_err(failed)
    }

    /// Reads what was stored under the name of a snapshot.
    ///
    /// # Errors
    /// [`BackupError::Corrupt`], [`BackupError::Unsupported`].
    pub fn from_json(id: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let name = key(id, SNAPSHOT_RECORD);
        let corrupt = |detail: String| BackupError::corrupt(&name, detail);
        let signed: Signed<'_> =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let snapshot: Self = signed::read(&name, &signed.sha256, signed.snapshot, VERSION)?;
        snapshot.check(id).map_err(corrupt)?;
        Ok(snapshot)
    }

    /// What others rely on.
    fn check(&self, id: &str) -> Result<(), String> {
        if self.id != id || !is_id(id) {
            return Err(format!("it is the record of {}", self.id));
        }
        let mut rows = vec![0u64; self.chunks.len()];
        for object in &self.objects {
            let mine = split(&object.key).is_some_and(|(of, _)| of == id);
            if !mine || crate::store::check_key(&object.key).is_err() {
                return Err(format!("{} is no object of it", object.key));
            }
            let digits = object.sha256.bytes().all(|b| b.is_ascii_hexdigit());
            if object.sha256.len() != 64 || !digits {
                return Err(format!("the SHA-256 of {} is wrong", object.key));
            }
            if let Holds::Rows { chunk, rows: more } = object.holds {
                if object.raw_bytes > MAX_ROWS_BYTES {
                    return Err(format!("{} is too large", object.key));
                }
                let sum = rows.get_mut(chunk).ok_or("an object is of no chunk")?;
                *sum = sum.checked_add(more).ok_or("too many rows")?;
            }
        }
        let of_chunks: Vec<u64> = self.chunks.iter().map(|c| c.rows).collect();
        let sum = rows.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
        if rows != of_chunks || sum != Some(self.rows) {
            return Err("its objects do not have its rows".to_owned());
        }
        for wanted in [Holds::Ddl, Holds::Sql] {
            if self.objects.iter().filter(|o| o.holds == wanted).count() != 1 {
                return Err("it does not have one definition".to_owned());
            }
        }
        Ok(())
    }

    /// The columns of its Parquet files.
    pub fn fields(&self) -> Vec<Field> {
        self.columns.iter().flat_map(Column::fields).collect()
    }

    /// The objects with the rows of a chunk, in order.
    pub fn objects_of(&self, chunk: usize) -> impl Iterator<Item = &Object> {
        self.objects
            .iter()
            .filter(move |o| matches!(o.holds, Holds::Rows { chunk: of, .. } if of == chunk))
    }

    /// Bytes of all its objects.
    pub fn stored_bytes(&self) -> u64 {
        self.objects
            .iter()
            .fold(0, |sum, o| sum.saturating_add(o.stored_bytes))
    }

    /// Whether its objects are encrypted.
    pub fn encrypted(&self) -> bool {
        self.encryption.is_some()
    }
}
