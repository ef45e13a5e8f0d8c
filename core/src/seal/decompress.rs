//! Decompression with several threads, frame by frame.

use std::io::{self, Read};

use zstd::bulk;

use super::error::SealError;
use super::frame::{MAX_FRAME_BYTES, Scanner, Stored};
use super::pool::{Pool, Work};
use crate::wait::Tick;

/// How to decompress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecompressOptions {
    /// Threads that decompress, from 1 to 64. Memory is bounded by two more frames than there are threads, each stored and
    /// plain.
    pub threads: usize,
    /// Size of the plain stream, if it is known. Without it a stream that was cut between two frames passes for a shorter
    /// one.
    pub expected: Option<u64>,
}

impl Default for DecompressOptions {
    /// Two threads, and no size that is expected.
    fn default() -> Self {
        Self {
            threads: 2,
            expected: None,
        }
    }
}

/// What a thread does.
#[derive(Clone)]
struct Decompress;

impl Work for Decompress {
    type Job = Stored;
    type Result = Result<Vec<u8>, SealError>;
    type Context = bulk::Decompressor<'static>;

    fn work(&self, context: &mut Option<Self::Context>, frame: Stored) -> Self::Result {
        let context = match context {
            Some(context) => context,
            none => none.insert(bulk::Decompressor::new().map_err(|error| {
                SealError::system(format!("zstd could not be set up: {error}"))
            })?),
        };
        let mut plain = Vec::with_capacity(frame.plain);
        context
            .decompress_to_buffer(&frame.bytes, &mut plain)
            .map_err(|error| SealError::corrupt(format!("zstd: {error}")))?;
        match plain.len() == frame.plain {
            true => Ok(plain),
            false => Err(SealError::corrupt(format!(
                "a frame of zstd gave {} bytes instead of {}",
                plain.len(),
                frame.plain
            ))),
        }
    }
}

/// Decompresses what it reads from beneath: frames of zstd that say how long they are, up to [`MAX_FRAME_BYTES`] each. Frames
/// are read ahead. The tick is asked while it waits for the threads, and for each block that is read.
pub struct Decompressor<'t, R> {
    scanner: Scanner<R>,
    pool: Pool<Decompress>,
    plain: io::Cursor<Vec<u8>>,
    given: u64,
    expected: Option<u64>,
    state: State,
    tick: Tick<'t>,
}

/// How far the stream beneath was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

impl<'t, R: Read> Decompressor<'t, R> {
    /// Begins to read. Options out of their bounds are moved to them.
    pub fn new(inner: R, options: DecompressOptions, tick: Tick<'t>) -> Self {
        Self {
            scanner: Scanner::new(inner, MAX_FRAME_BYTES),
            pool: Pool::new(options.threads, Decompress),
            plain: io::Cursor::default(),
            given: 0,
            expected: options.expected,
            state: State::Reading,
            tick,
        }
    }

    fn next(&mut self) -> Result<bool, SealError> {
        while self.state == State::Reading && !self.pool.is_full() {
            match self.scanner.next(self.tick)? {
                Some(frame) => self.pool.submit(frame)?,
                None => self.state = State::Ended,
            }
        }
        if self.state == State::Failed {
            return Err(SealError::system("reading the stream has failed before"));
        }
        let plain = self.pool.next(self.tick)?;
        let more = plain.is_some();
        let plain = plain.transpose()?.unwrap_or_default();
        self.given += plain.len() as u64;
        if let Some(expected) = self.expected
            && (self.given > expected || (!more && self.given < expected))
        {
            let than = if more { "more" } else { "fewer" };
            return Err(SealError::corrupt(format!(
                "the stream holds {than} than the {expected} bytes that are expected"
            )));
        }
        self.plain = io::Cursor::new(plain);
        Ok(more)
    }
}

impl<R: Read> Read for Decompressor<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let got = self.plain.read(buffer)?;
            if got > 0 {
                return Ok(got);
            }
            match self.next() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error.into_io());
                }
            }
        }
    }
}
