//! Waiting for another thread, in steps between which the caller is asked whether to go on.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// The longest time that a call waits without asking the caller's [`Tick`].
pub const TICK: Duration = Duration::from_millis(20);

/// Asked on the calling thread while a call waits, at least every 50 ms; an error ends the call.
///
/// It may unwind: what was begun is then abandoned as it is after an error. In a PostgreSQL backend this is the place for
/// `CHECK_FOR_INTERRUPTS`.
pub type Tick<'t> = &'t dyn Fn() -> Result<(), Stopped>;

/// A tick of a caller who waits to the end.
pub fn never() -> Result<(), Stopped> {
    Ok(())
}

/// The caller's tick ended the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cancelled: {reason}")]
pub struct Stopped {
    /// Why, in the caller's words.
    pub reason: String,
}

impl Stopped {
    /// A reason to stop.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// What came of waiting.
pub(crate) enum Outcome<T> {
    /// The other side sent this.
    Sent(T),
    /// The other side is gone and will send no more.
    Gone,
}

/// Waits for the next message, with the tick asked before and in between.
pub(crate) fn receive<T>(from: &Receiver<T>, tick: Tick<'_>) -> Result<Outcome<T>, Stopped> {
    loop {
        tick()?;
        match from.recv_timeout(TICK) {
            Ok(message) => return Ok(Outcome::Sent(message)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::Gone),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::sync::mpsc::channel;
    use std::time::Instant;

    #[test]
    fn the_tick_is_asked_often_and_may_end_the_wait() {
        let (sender, receiver) = channel::<()>();
        let last = Cell::new(Instant::now());
        let gaps = RefCell::new(Vec::new());
        let stopped = receive(&receiver, &|| {
            gaps.borrow_mut()
                .push(last.replace(Instant::now()).elapsed());
            if gaps.borrow().len() > 20 {
                return Err(Stopped::new("enough"));
            }
            Ok(())
        });
        assert_eq!(stopped.err(), Some(Stopped::new("enough")));
        let mut gaps = gaps.into_inner();
        gaps.sort_unstable();
        // The middle one: on a busy machine a single one may be late.
        assert!(gaps[10] < Duration::from_millis(50), "{gaps:?}");
        drop(sender);
        assert!(matches!(receive(&receiver, &never), Ok(Outcome::Gone)));
    }
}
