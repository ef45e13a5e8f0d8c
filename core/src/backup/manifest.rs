//! PostgreSQL's backup manifest. Source: the PostgreSQL documentation, "Backup Manifest Format".

use std::collections::HashMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::error::BackupError;
use super::seal::{hex, unhex};

/// What a manifest says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestFile {
    /// In bytes.
    pub(super) size: u64,
    /// SHA-256 of its content.
    pub(super) sha256: [u8; 32],
}

/// The files of a backup by their paths in the data directory.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) files: HashMap<Vec<u8>, ManifestFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    checksum_algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    files: Vec<File>,
}

impl Manifest {
    /// Reads a manifest and checks the checksum of itself that it ends with.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let corrupt = |detail: String| BackupError::corrupt(name, detail);
        check_itself(bytes).map_err(corrupt)?;
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let mut files = HashMap::with_capacity(document.files.len());
        for file in document.files {
            let (path, entry) = file
                .read()
                .ok_or_else(|| corrupt("a file's line is not understood".to_owned()))?;
            files.insert(path, entry);
        }
        Ok(Self { files })
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
