//! Threads that handle no signals.
//!
//! PostgreSQL's signal handlers may run on the main thread only. A signal that is sent to a process goes to any of its
//! threads that does not block it, so every thread of ours blocks all of them. A thread inherits the mask of the one that
//! creates it: the mask is set around the creation, so that there is no moment at which the new thread has another.

use std::io;
use std::thread::{Builder, JoinHandle};

use nix::sys::signal::{SigSet, SigmaskHow};

/// Blocks all signals in the calling thread, runs `work` and puts the mask back, also where `work` panics.
pub(crate) fn without_signals<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let _restore = Restore(before);
    Ok(work())
}

struct Restore(SigSet);

impl Drop for Restore {
    fn drop(&mut self) {
        // It fails for a wrong `how` only.
        let _ = self.0.thread_set_mask();
    }
}

/// Starts a thread with all signals blocked.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    without_signals(|| Builder::new().name(name.to_owned()).spawn(work))?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;

    #[test]
    fn threads_block_signals_and_the_caller_does_not() {
        let before = SigSet::thread_get_mask().unwrap();
        let inside = spawn("test", || SigSet::thread_get_mask().unwrap())
            .unwrap()
            .join()
            .unwrap();
        for signal in [
            Signal::SIGUSR1,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGALRM,
        ] {
            assert!(inside.contains(signal), "{signal}");
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
        let panicked = std::panic::catch_unwind(|| without_signals(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
