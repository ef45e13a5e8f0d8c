//! Reading objects.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Sender, SyncSender};
use std::time::SystemTime;

use bytes::Bytes;
use nix::errno::Errno;

use super::PIECE_BYTES;
use super::job::Job;
use crate::store::error::{ErrorKind, StoreError};
use crate::store::flow::{Message, Piece};
use crate::store::handle::ObjectMeta;

/// Opens the object's file.
fn open(job: &Job) -> Result<(File, std::fs::Metadata), StoreError> {
    let (directories, name) = job.components();
    let opened = job
        .root()?
        .path(&directories, false)
        .and_then(|path| path.last().ok_or(Errno::ENOENT)?.open(name));
    let file = opened.map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => not_found(job),
        Errno::ELOOP => job.at.error(
            ErrorKind::Other,
            "it is a symbolic link, which is not followed",
        ),
        errno => job.failed("the file cannot be opened", errno),
    })?;
    let metadata = file
        .metadata()
        .map_err(|error| job.io_failed("the file's size cannot be read", &error))?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        // A directory of other objects, or nothing of ours.
        false => Err(not_found(job)),
    }
}

fn not_found(job: &Job) -> StoreError {
    job.at.error(ErrorKind::NotFound, "there is no such object")
}

pub(super) fn head(job: &Job) -> Result<ObjectMeta, StoreError> {
    let (_, metadata) = open(job)?;
    Ok(ObjectMeta {
        key: job.at.key.clone().unwrap_or_default(),
        size: metadata.len(),
        modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

/// The part of the range that the object has.
pub(super) fn range(job: &Job, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
    let (file, metadata) = open(job)?;
    // What the file does not have is not asked for, so that nobody's idea of its size costs memory.
    let end = range.end.min(metadata.len());
    let mut bytes = Vec::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut at = range.start;
    while at < end {
        job.check()?;
        let want = usize::try_from(end - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let room = buffer.get_mut(..want).unwrap_or_default();
        let got = match file.read_at(room, at) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(job.io_failed("the file cannot be read", &error)),
        };
        bytes.extend_from_slice(buffer.get(..got).unwrap_or_default());
        at += got as u64;
    }
    Ok(bytes)
}

/// Sends the object's size, then the object.
pub(super) fn stream(
    job: &Job,
    size: &Sender<Result<u64, StoreError>>,
    pieces: &SyncSender<Message<Bytes>>,
) {
    let (mut file, metadata) = match open(job) {
        Ok(opened) => opened,
        Err(error) => {
            // If nobody listens any more, nobody wants to know; the same holds below.
            let _ = size.send(Err(error));
            return;
        }
    };
    let mut left = metadata.len();
    let _ = size.send(Ok(left));
    while left > 0 && job.check().is_ok() {
        let want = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let mut buffer = vec![0; want];
        let message = match file.read_exact(&mut buffer) {
            Ok(()) => {
                left -= want as u64;
                Ok(Some(Piece {
                    value: Bytes::from(buffer),
                    _place: None,
                }))
            }
            Err(error) => Err(job.io_failed("the file cannot be read to its end", &error)),
        };
        let last = message.is_err();
        if pieces.send(message).is_err() || last {
            return;
        }
    }
    let _ = pieces.send(Ok(None));
}
