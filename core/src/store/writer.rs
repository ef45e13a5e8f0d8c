//! Objects as they go out.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::error::{At, ErrorKind, StoreError};
use super::flow::{Abandon, answer};
use super::parts::PartSizes;
use crate::wait::Tick;

/// How much is on its way to the store at once, beside the part that is being filled. A single part may be larger.
const IN_FLIGHT_BYTES: usize = 32 << 20;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Size, in bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
}

/// What goes to the thread or task that writes. When the sender is dropped before `Finish`, the object is given up.
pub(super) enum Order {
    /// The next part of the object.
    Part(Bytes),
    /// No more will come: make the object visible, if it has so many bytes.
    Finish(u64),
}

/// What comes back from it; an error is the last that comes.
pub(super) enum Progress {
    /// So many bytes have gone.
    Gone(usize),
    /// The object is there.
    Done,
}

/// The way to the thread or task that writes.
pub(super) enum Feed {
    Thread(Sender<Order>),
    Task(tokio::sync::mpsc::UnboundedSender<Order>),
}

impl Feed {
    /// Whether there is still someone to take it.
    fn send(&self, order: Order) -> bool {
        match self {
            Self::Thread(sender) => sender.send(order).is_ok(),
            Self::Task(sender) => sender.send(order).is_ok(),
        }
    }
}

/// How long a writer that is given up waits for what is left of it to be removed, without asking its tick.
const GIVE_UP: Duration = Duration::from_millis(500);

/// The store's side of an [`ObjectWriter`]. Dropped, it gives the object up, if that is not whole yet.
pub(super) struct Sink {
    feed: Option<Feed>,
    progress: Receiver<Result<Progress, StoreError>>,
    sizes: PartSizes,
    at: At,
    /// Told when the object is given up, where the closed way is not seen at once.
    abandon: Option<Abandon>,
}

impl Sink {
    pub(super) fn new(
        feed: Feed,
        progress: Receiver<Result<Progress, StoreError>>,
        sizes: PartSizes,
        at: At,
        abandon: Option<Abandon>,
    ) -> Self {
        Self {
            feed: Some(feed),
            progress,
            sizes,
            at,
            abandon,
        }
    }

    /// Whether there is still someone to take it.
    fn send(&self, order: Order) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.send(order))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.feed = None;
        self.abandon = None;
        // The other side drops its end when it has cleaned up. Where it is done or has failed, that is at once.
        let end = Instant::now() + GIVE_UP;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.progress.recv_timeout(left).is_err() {
                return;
            }
        }
    }
}

/// An object that is written as its bytes come. Nobody sees it before [`ObjectWriter::finish`]; dropped without that, it is
/// never there.
///
/// An error of the store comes out of `write` inside an [`io::Error`]; [`StoreError::from_io`] gets it back.
pub struct ObjectWriter<'t> {
    sink: Option<Sink>,
    at: At,
    part: Vec<u8>,
    room: usize,
    parts: u64,
    in_flight: usize,
    hash: Sha256,
    size: u64,
    tick: Tick<'t>,
}

impl<'t> ObjectWriter<'t> {
    pub(super) fn new(sink: Sink, tick: Tick<'t>) -> Self {
        Self {
            at: sink.at.clone(),
            room: sink.sizes.size(0),
            sink: Some(sink),
            part: Vec::new(),
            parts: 0,
            in_flight: 0,
            hash: Sha256::new(),
            size: 0,
            tick,
        }
    }

    /// Makes the object visible, and waits until it has reached the disk.
    ///
    /// # Errors
    /// What the store answers. Unless the connection was lost while it did so, the object is then not there.
    pub fn finish(mut self) -> Result<Written, StoreError> {
        if !self.part.is_empty() {
            self.send_part()?;
        }
        self.order(Order::Finish(self.size))?;
        while !self.progress()? {}
        Ok(Written {
            size: self.size,
            sha256: self.hash.clone().finalize().into(),
        })
    }

    /// SHA-256 of what was written until now.
    pub fn sha256(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Writes all that there is to read.
    ///
    /// # Errors
    /// What the store answers; a reader's own error is [`Other`](ErrorKind::Other), unless it is a store's too.
    pub fn write_from(&mut self, from: &mut dyn Read) -> Result<(), StoreError> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.foreign(error)),
            };
            self.append(buffer.get(..got).unwrap_or_default())?;
        }
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        (self.tick)().map_err(|stopped| self.give_up(stopped))?;
        while !bytes.is_empty() {
            if self.part.is_empty() {
                self.part.reserve_exact(self.room.min(1 << 20));
            }
            let take = bytes.len().min(self.room - self.part.len());
            let (now, later) = bytes.split_at(take);
            self.part.extend_from_slice(now);
            self.hash.update(now);
            self.size += take as u64;
            bytes = later;
            if self.part.len() == self.room {
                self.send_part()?;
            }
        }
        Ok(())
    }

    fn send_part(&mut self) -> Result<(), StoreError> {
        let part = std::mem::take(&mut self.part);
        let len = part.len();
        while self.in_flight > 0 && self.in_flight + len > IN_FLIGHT_BYTES {
            self.progress()?;
        }
        self.order(Order::Part(part.into()))?;
        self.in_flight += len;
        self.parts += 1;
        if let Some(sink) = &self.sink {
            self.room = sink.sizes.size(self.parts);
        }
        Ok(())
    }

    fn order(&mut self, order: Order) -> Result<(), StoreError> {
        let sink = self.sink.as_ref().ok_or_else(|| self.over())?;
        if sink.send(order) {
            return Ok(());
        }
        // Whoever should take it has ended: with an error, which is on its way here.
        while !self.progress()? {}
        Err(self.over())
    }

    /// Waits for news; whether the object is there.
    fn progress(&mut self) -> Result<bool, StoreError> {
        let sink = self.sink.as_ref().ok_or_else(|| self.over())?;
        match answer(&sink.progress, &self.at, self.tick) {
            Ok(Progress::Gone(bytes)) => {
                self.in_flight = self.in_flight.saturating_sub(bytes);
                Ok(false)
            }
            Ok(Progress::Done) => Ok(true),
            Err(error) => {
                self.sink = None;
                Err(error)
            }
        }
    }

    fn give_up(&mut self, stopped: crate::wait::Stopped) -> StoreError {
        self.sink = None;
        self.at.stopped(stopped)
    }

    fn over(&self) -> StoreError {
        self.at
            .error(ErrorKind::Other, "writing the object has failed before")
    }

    fn foreign(&self, error: io::Error) -> StoreError {
        StoreError::from_io(error).unwrap_or_else(|error| {
            self.at.error(
                ErrorKind::Other,
                format!("what should be written cannot be read: {error}"),
            )
        })
    }
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(StoreError::into_io)?;
        Ok(bytes.len())
    }

    /// Does nothing: bytes are safe only after [`ObjectWriter::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
