//! What flows from the threads that do the work to the caller, in bounded memory.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use super::error::{At, StoreError};
use crate::wait::{Outcome, Tick, receive};

/// What a sender sends: pieces, then `None` for the end, or an error.
pub(super) type Message<T> = Result<Option<Piece<T>>, StoreError>;

/// A piece of what flows. Where the sender must not block, the piece holds its place in the queue until it is dropped.
pub(super) struct Piece<T> {
    pub(super) value: T,
    pub(super) _place: Option<Box<dyn Any + Send>>,
}

/// The caller's end.
pub(super) struct Flow<T> {
    pieces: Receiver<Message<T>>,
    at: At,
    /// Ends the work when it is dropped.
    _work: Box<dyn Any>,
    ended: bool,
}

impl<T> Flow<T> {
    pub(super) fn new(pieces: Receiver<Message<T>>, at: At, work: impl Any) -> Self {
        Self {
            pieces,
            at,
            _work: Box::new(work),
            ended: false,
        }
    }

    pub(super) fn at(&self) -> &At {
        &self.at
    }

    /// The next piece; none at the end and after an error.
    pub(super) fn next(&mut self, tick: Tick<'_>) -> Result<Option<Piece<T>>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let message = answer(&self.pieces, &self.at, tick);
        self.ended = !matches!(message, Ok(Some(_)));
        message
    }
}

/// Waits for what a thread or task sends next.
pub(super) fn answer<T>(
    from: &Receiver<Result<T, StoreError>>,
    at: &At,
    tick: Tick<'_>,
) -> Result<T, StoreError> {
    match receive(from, tick).map_err(|stopped| at.stopped(stopped))? {
        Outcome::Sent(answer) => answer,
        Outcome::Gone => Err(at.gone()),
    }
}

/// Tells a thread that nobody waits for it any more: raised when it is dropped.
#[derive(Default)]
pub(super) struct Abandon(Arc<AtomicBool>);

impl Abandon {
    /// What the thread looks at.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
