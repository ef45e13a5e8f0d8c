//! A server that speaks the replication protocol as it is told.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod made_up;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use sha2::{Digest, Sha256};
use varve_core::replication::ConnInfo;

/// A message: its kind, its length, its body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

/// A result of one row of texts.
pub fn row(fields: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for field in fields {
        match field {
            None => body.extend(u32::MAX.to_be_bytes()),
            Some(text) => {
                body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                body.extend(text.as_bytes());
            }
        }
    }
    let described = message(b'T', &0u16.to_be_bytes());
    [described, message(b'D', &body), message(b'C', b"SELECT\0")].concat()
}

/// That the server is ready.
pub fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// What lets the client in.
pub fn welcome() -> Vec<u8> {
    let key = message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]);
    [message(b'R', &[0; 4]), key, ready()].concat()
}

/// Reads a message of the client's: of the first one the kind is missing.
fn read(client: &mut UnixStream, first: bool) -> Option<Vec<u8>> {
    if !first {
        client.read_exact(&mut [0]).ok()?;
    }
    let mut length = [0; 4];
    client.read_exact(&mut length).ok()?;
    let mut body = vec![0; u32::from_be_bytes(length).checked_sub(4)? as usize];
    client.read_exact(&mut body).ok()?;
    Some(body)
}

/// Answers each message of every client with what `answer` makes of it; the first one is the start-up message.
pub fn serve(
    directory: &Path,
    answer: impl Fn(usize, &str) -> Vec<u8> + Send + 'static,
) -> ConnInfo {
    let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut number = 0;
            while let Some(body) = read(&mut client, number == 0) {
                let text = String::from_utf8_lossy(&body).into_owned();
                // The client may be gone.
                if client
                    .write_all(&answer(number, text.trim_end_matches('\0')))
                    .is_err()
                {
                    break;
                }
                number += 1;
            }
        }
    });
    ConnInfo::socket(directory, 5432, "me")
}

/// What a server answers whose base backup is these pieces of copied data.
pub fn backup_server(directory: &Path, pieces: Vec<Vec<u8>>) -> ConnInfo {
    backup_server_telling(directory, pieces, |_| {})
}

/// As [`backup_server`]; tells each message before it is answered.
pub fn backup_server_telling(
    directory: &Path,
    pieces: Vec<Vec<u8>>,
    tell: impl Fn(&str) + Send + 'static,
) -> ConnInfo {
    serve(directory, move |number, text| {
        if number == 0 {
            return welcome();
        }
        tell(text);
        let rows = match text {
            "IDENTIFY_SYSTEM" => row(&[Some("7"), Some("1"), Some("0/3000000"), None]),
            "SHOW server_version" => row(&[Some("17.12")]),
            "SHOW wal_segment_size" => row(&[Some("16MB")]),
            "SHOW archive_mode" | "SHOW summarize_wal" => row(&[Some("on")]),
            "SHOW block_size" => row(&[Some("8192")]),
            "SHOW segment_size" => row(&[Some("1GB")]),
            "UPLOAD_MANIFEST" => return message(b'G', &[0, 0, 0]),
            // The manifest, and its end.
            "" => message(b'C', b"UPLOAD_MANIFEST\0"),
            text if text.starts_with("BASE_BACKUP") => {
                let mut all = row(&[Some("0/2000028"), Some("1")]);
                all.extend(row(&[None, None, Some("1")]));
                all.extend(message(b'H', &[0, 0, 0]));
                for piece in &pieces {
                    all.extend(message(b'd', piece));
                }
                all.extend(message(b'c', b""));
                all.extend(row(&[Some("0/2000120"), Some("1")]));
                all
            }
            _ => return Vec::new(),
        };
        [rows, ready()].concat()
    })
}

/// The header of a tar archive's entry.
pub fn header(path: &str, kind: u8, size: usize, link: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"0000700\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A file in a tar archive.
pub fn tar_file(path: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(path, b'0', content.len(), "");
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A manifest of some files.
pub fn manifest(files: &[(&str, &[u8])]) -> Vec<u8> {
    let lines: Vec<String> = files
        .iter()
        .map(|(path, content)| {
            format!(
                "{{ \"Path\": \"{path}\", \"Size\": {}, \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \"{}\" }}",
                content.len(),
                hex(&Sha256::digest(content))
            )
        })
        .collect();
    let body = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"Files\": [\n{}\n],\n",
        lines.join(",\n")
    );
    let sum = hex(&Sha256::digest(body.as_bytes()));
    format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
}

/// The copied data of a backup with one archive and a manifest.
pub fn pieces(entries: &[Vec<u8>], manifest: &[u8]) -> Vec<Vec<u8>> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    let mut pieces = vec![b"nbase.tar\0\0".to_vec()];
    pieces.extend(tar.chunks(32 << 10).map(|chunk| [b"d", chunk].concat()));
    pieces.push(b"m".to_vec());
    pieces.push([b"d", manifest].concat());
    pieces
}
