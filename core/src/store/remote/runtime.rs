//! The threads that talk to remote stores.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Runtime};

use crate::wait::without_signals;

/// Threads that drive connections.
const WORKERS: usize = 2;

/// Threads that look up names.
const RESOLVERS: usize = 4;

/// The runtime of this process, started when it is first wanted. Its threads handle no signals: the workers inherit the mask
/// that holds while they are made, and those that they start later inherit theirs.
///
/// A forked child has none of its parent's threads, so it gets a runtime of its own. Runtimes live until the process ends.
pub(super) fn get() -> io::Result<&'static Runtime> {
    static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);
    let mut known = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some((owner, runtime)) = *known
        && owner == process
    {
        return Ok(runtime);
    }
    let runtime = without_signals(|| {
        Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(RESOLVERS)
            .thread_name("varve-store")
            .enable_io()
            .enable_time()
            .build()
    })??;
    let runtime: &'static Runtime = Box::leak(Box::new(runtime));
    *known = Some((process, runtime));
    Ok(runtime)
}
