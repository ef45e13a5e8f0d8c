//! Being interrupted: Ctrl-C and SIGTERM end a call at its next tick, so that it cleans up.

use std::sync::OnceLock;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use varve_core::wait::Stopped;

use crate::exit::Failure;

static SIGNALS: OnceLock<SignalFd> = OnceLock::new();

/// From now on signals are seen by [`tick`] only. Must come before any thread.
pub fn listen() -> Result<(), Failure> {
    let failed = |errno: nix::Error| Failure::system(format!("signals: {errno}"));
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGINT);
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGHUP);
    mask.thread_block().map_err(failed)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(failed)?;
    // It is called once.
    let _ = SIGNALS.set(signals);
    Ok(())
}

/// The tick of all calls.
pub fn tick() -> Result<(), Stopped> {
    match SIGNALS.get().and_then(|signals| signals.read_signal().ok()) {
        Some(Some(_)) => Err(Stopped::new("interrupted")),
        _ => Ok(()),
    }
}
