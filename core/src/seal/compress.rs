//! Compression with several threads, in frames of one size.

use std::io::{self, Write};

use zstd::bulk;
use zstd::zstd_safe::CParameter;

use super::error::SealError;
use super::frame::{FrameTable, MAX_FRAME_BYTES};
use super::pool::{Pool, Work};
use crate::wait::Tick;

/// Smallest frame, in bytes before compression.
const MIN_FRAME_BYTES: usize = 1 << 10;

/// How to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressOptions {
    /// Level of zstd, from -7 to 22.
    pub level: i32,
    /// Plain bytes of a frame, from 1 KiB to [`MAX_FRAME_BYTES`]. Smaller ones are found and read faster, larger ones compress
    /// better.
    pub frame_bytes: usize,
    /// Threads that compress, from 1 to 64. Each takes about two frames and what zstd needs at that level.
    pub threads: usize,
}

impl Default for CompressOptions {
    /// Level 3, frames of 4 MiB, two threads.
    fn default() -> Self {
        Self {
            level: 3,
            frame_bytes: 4 << 20,
            threads: 2,
        }
    }
}

/// What [`Compressor::finish`] gives back.
#[derive(Debug)]
pub struct Compressed<W> {
    /// What lies beneath; it was not flushed.
    pub inner: W,
    /// Where the frames lie.
    pub frames: FrameTable,
}

/// What a thread does.
#[derive(Clone)]
struct Compress {
    level: i32,
}

impl Work for Compress {
    type Job = Vec<u8>;
    /// How long it was, and what became of it.
    type Result = Result<(usize, Vec<u8>), SealError>;
    type Context = bulk::Compressor<'static>;

    fn work(&self, context: &mut Option<Self::Context>, plain: Vec<u8>) -> Self::Result {
        let failed =
            |error: io::Error| SealError::system(format!("zstd could not compress: {error}"));
        let context = match context {
            Some(context) => context,
            none => {
                let mut made = bulk::Compressor::new(self.level).map_err(failed)?;
                made.set_parameter(CParameter::ChecksumFlag(true))
                    .map_err(failed)?;
                none.insert(made)
            }
        };
        let stored = context.compress(&plain).map_err(failed)?;
        Ok((plain.len(), stored))
    }
}

/// Compresses what is written to it into what lies beneath: independent frames, each with its size and a checksum. The tick
/// is asked while it waits for the threads.
///
/// After an error nothing more can be written.
pub struct Compressor<'t, W> {
    inner: W,
    pool: Pool<Compress>,
    frame: Vec<u8>,
    frame_bytes: usize,
    table: FrameTable,
    failed: bool,
    tick: Tick<'t>,
}

impl<'t, W: Write> Compressor<'t, W> {
    /// Begins a stream. Options out of their bounds are moved to them.
    pub fn new(inner: W, options: CompressOptions, tick: Tick<'t>) -> Self {
        let level = options.level.clamp(-7, 22);
        Self {
            inner,
            pool: Pool::new(options.threads, Compress { level }),
            frame: Vec::new(),
            frame_bytes: options.frame_bytes.clamp(MIN_FRAME_BYTES, MAX_FRAME_BYTES),
            table: FrameTable::default(),
            failed: false,
            tick,
        }
    }

    /// Writes what is left. An empty stream becomes one empty frame, so that it is a `.zst` file too.
    ///
    /// # Errors
    /// [`SealError::Cancelled`], [`SealError::System`], or what lies beneath answers.
    pub fn finish(mut self) -> Result<Compressed<W>, SealError> {
        self.check()?;
        let nothing = self.pool.waiting() == 0 && self.table.frames().is_empty();
        if !self.frame.is_empty() || nothing {
            self.submit()?;
        }
        while self.pool.waiting() > 0 {
            self.take()?;
        }
        Ok(Compressed {
            inner: self.inner,
            frames: self.table,
        })
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), SealError> {
        self.check()?;
        while !bytes.is_empty() {
            let room = self.frame_bytes - self.frame.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.frame.extend_from_slice(now);
            bytes = later;
            if self.frame.len() == self.frame_bytes {
                self.submit()?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SealError> {
        match self.failed {
            false => Ok(()),
            true => Err(SealError::system(
                "compressing the stream has failed before",
            )),
        }
    }

    fn submit(&mut self) -> Result<(), SealError> {
        while self.pool.is_full() {
            self.take()?;
        }
        let next = Vec::with_capacity(self.frame.len());
        let frame = std::mem::replace(&mut self.frame, next);
        self.pool.submit(frame)
    }

    /// Waits for the next frame and writes it.
    fn take(&mut self) -> Result<(), SealError> {
        if let Some(done) = self.pool.next(self.tick)? {
            let (plain, stored) = done?;
            self.inner.write_all(&stored).map_err(SealError::Io)?;
            self.table.push(plain, stored.len());
        }
        Ok(())
    }
}

impl<W: Write> Write for Compressor<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failed = true;
                Err(error.into_io())
            }
        }
    }

    /// Does nothing: a frame is written when it is full, the last one by [`Compressor::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
