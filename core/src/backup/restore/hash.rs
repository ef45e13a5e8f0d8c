//! The SHA-256 of a file that is put together, computed on a thread of its own while the caller's computes that of what it reads.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::super::error::BackupError;
use crate::wait::{Outcome, Tick, receive, spawn};

/// Bytes that are handed over at once, and how many such pieces may wait. Each may hold a frame of an archive in memory.
const PIECE: usize = 1 << 20;
const QUEUE: usize = 8;

/// A file that is smaller than this is hashed by the caller's thread, in bytes.
const SMALL: u64 = 1 << 20;

/// A checksum that is being computed.
#[derive(Debug)]
pub(super) enum Hashing {
    /// Here and now.
    Here(Sha256),
    /// By a thread.
    There {
        pieces: SyncSender<Bytes>,
        sum: Receiver<[u8; 32]>,
    },
}

impl Hashing {
    /// Of a file of about a size.
    pub(super) fn start(size: u64) -> Result<Self, BackupError> {
        if size < SMALL {
            return Ok(Self::Here(Sha256::new()));
        }
        let (pieces, queue) = sync_channel::<Bytes>(QUEUE);
        let (answer, sum) = channel();
        let run = move || {
            let mut hash = Sha256::new();
            for piece in queue {
                hash.update(&piece);
            }
            // Nobody may be there to hear it.
            let _ = answer.send(hash.finalize().into());
        };
        spawn("varve-hash", run).map_err(BackupError::thread)?;
        Ok(Self::There { pieces, sum })
    }

    /// Adds the next piece.
    pub(super) fn add(&mut self, mut piece: Bytes, tick: Tick<'_>) -> Result<(), BackupError> {
        match self {
            Self::Here(hash) => hash.update(&piece),
            Self::There { pieces, .. } => {
                while !piece.is_empty() {
                    tick()?;
                    // It waits for computing only, which is soon done.
                    let some = piece.split_to(piece.len().min(PIECE));
                    pieces.send(some).map_err(|_| BackupError::ended_early())?;
                }
            }
        }
        Ok(())
    }

    /// The checksum of all.
    pub(super) fn finish(self, tick: Tick<'_>) -> Result<[u8; 32], BackupError> {
        match self {
            Self::Here(hash) => Ok(hash.finalize().into()),
            Self::There { pieces, sum } => {
                drop(pieces);
                match receive(&sum, tick)? {
                    Outcome::Sent(sum) => Ok(sum),
                    Outcome::Gone => Err(BackupError::ended_early()),
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::wait::never;

    #[test]
    fn here_and_there_it_is_the_same() {
        for size in [0, 1, SMALL, 20 * SMALL] {
            let mut hash = Hashing::start(size).unwrap();
            assert_eq!(matches!(hash, Hashing::There { .. }), size >= SMALL);
            let whole: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            for piece in whole.chunks(1_000_003) {
                hash.add(Bytes::copy_from_slice(piece), &never).unwrap();
            }
            let expected: [u8; 32] = Sha256::digest(&whole).into();
            assert_eq!(hash.finish(&never).unwrap(), expected);
        }
    }
}
