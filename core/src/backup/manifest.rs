//! PostgreSQL's backup manifest. Source: the PostgreSQL documentation, "Backup Manifest Format".

use std::collections::HashMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::lsn::Lsn;
use super::seal::{hex, unhex};

/// What a manifest says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestFile {
    /// In bytes.
    pub(super) size: u64,
    /// SHA-256 of its content.
    pub(super) sha256: [u8; 32],
}

/// The files of a backup by their paths in the data directory, and what else the manifest says.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) files: HashMap<Vec<u8>, ManifestFile>,
    /// When each was changed last, as the manifest has it.
    modified: HashMap<Vec<u8>, String>,
    version: u32,
    /// Which cluster it is of, from version 2 on.
    pub(super) system_identifier: Option<u64>,
    wal_ranges: Vec<WalRange>,
}

/// WAL that a backup needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WalRange {
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Last-Modified", default)]
    last_modified: String,
    #[serde(rename = "Checksum-Algorithm")]
    checksum_algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    files: Vec<File>,
    #[serde(rename = "WAL-Ranges", default)]
    wal_ranges: Vec<WalRange>,
}

impl Manifest {
    /// Reads a manifest and checks the checksum of itself that it ends with.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let corrupt = |detail: String| BackupError::corrupt(name, detail);
        check_itself(bytes).map_err(corrupt)?;
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let mut files = HashMap::with_capacity(document.files.len());
        let mut modified = HashMap::with_capacity(document.files.len());
        for mut file in document.files {
            let last_modified = std::mem::take(&mut file.last_modified);
            let (path, entry) = file
                .read()
                .ok_or_else(|| corrupt("a file's line is not understood".to_owned()))?;
            modified.insert(path.clone(), last_modified);
            files.insert(path, entry);
        }
        Ok(Self {
            files,
            modified,
            version: document.version,
            system_identifier: document.system_identifier,
            wal_ranges: document.wal_ranges,
        })
    }

    /// A file goes by another name, with other content.
    pub(super) fn replace(&mut self, path: &[u8], by: Vec<u8>, with: ManifestFile) {
        self.files.remove(path);
        if let Some(modified) = self.modified.remove(path) {
            self.modified.insert(by.clone(), modified);
        }
        self.files.insert(by, with);
    }

    /// The manifest in PostgreSQL's form, with the checksum of itself at its end.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": {},\n",
            self.version
        );
        if let Some(identifier) = self.system_identifier {
            text += &format!("\"System-Identifier\": {identifier},\n");
        }
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(path, _)| *path);
        let lines: Vec<String> = files
            .into_iter()
            .map(|(path, file)| {
                let name = match std::str::from_utf8(path) {
                    Ok(path) => format!("\"Path\": {}", quoted(path)),
                    Err(_) => format!("\"Encoded-Path\": \"{}\"", hex(path)),
                };
                format!(
                    "{{ {name}, \"Size\": {}, \"Last-Modified\": {}, \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{}\" }}",
                    file.size,
                    quoted(self.modified.get(path).map_or("", String::as_str)),
                    hex(&file.sha256)
                )
            })
            .collect();
        text += &format!("\"Files\": [\n{}\n],\n", lines.join(",\n"));
        let ranges: Vec<String> = self
            .wal_ranges
            .iter()
            .map(|range| {
                format!(
                    "{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                    range.timeline, range.start, range.end
                )
            })
            .collect();
        text += &format!("\"WAL-Ranges\": [\n{}\n],\n", ranges.join(",\n"));
        let sum = hex(&Sha256::digest(text.as_bytes()));
        text += &format!("\"Manifest-Checksum\": \"{sum}\"}}\n");
        text.into_bytes()
    }
}

impl File {
    fn read(self) -> Option<(Vec<u8>, ManifestFile)> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_bytes(),
            (None, Some(encoded)) => unhex(&encoded)?,
            _ => return None,
        };
        if self.checksum_algorithm.as_deref() != Some("SHA256") {
            return None;
        }
        let sha256 = unhex(&self.checksum?)?.try_into().ok()?;
        Some((
            path,
            ManifestFile {
                size: self.size,
                sha256,
            },
        ))
    }
}

/// The last line is the SHA-256 of those before it.
fn check_itself(bytes: &[u8]) -> Result<(), String> {
    const FIELD: &[u8] = b"\"Manifest-Checksum\": \"";
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let last = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let (before, line) = text.split_at(last);
    let stated = line
        .strip_prefix(FIELD)
        .and_then(|rest| rest.get(..64))
        .ok_or("it does not end with its checksum")?;
    let sum = hex(&Sha256::digest(before));
    match sum.as_bytes() == stated {
        true => Ok(()),
        false => Err(format!(
            "the checksum at its end should be {sum} and is {}",
            String::from_utf8_lossy(stated)
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_noticed() {
        let zeros = "0".repeat(64);
        let body = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"Files\": [\n{{ \"Path\": \"a\", \"Size\": 3, \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{zeros}\" }},\n{{ \"Encoded-Path\": \"ff2f\", \"Size\": 4, \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{zeros}\" }}\n],\n"
        );
        let sum = hex(&Sha256::digest(body.as_bytes()));
        let whole = format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes();
        let manifest = Manifest::parse("m", &whole).unwrap();
        assert_eq!(manifest.files[b"a".as_slice()].size, 3);
        assert_eq!(manifest.files[[0xff, 0x2f].as_slice()].size, 4);
        for at in 0..whole.len() - 3 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(Manifest::parse("m", &damaged).is_err(), "byte {at}");
        }
        for len in 0..whole.len() - 3 {
            assert!(Manifest::parse("m", &whole[..len]).is_err(), "{len} bytes");
        }
    }
}
