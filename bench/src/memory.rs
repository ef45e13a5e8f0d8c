//! How much memory a backend takes.
//!
//! The kernel's own peak (`VmHWM`) counts every page of the shared buffers that the backend has touched. What it holds
//! for itself (`RssAnon`) has no peak of the kernel's, so a thread looks at it every millisecond or two.

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the memory is looked at.
const INTERVAL: Duration = Duration::from_millis(2);

/// A field of `/proc/<pid>/status`, in bytes; 0 where it cannot be read.
fn status(pid: i32, field: &str) -> i64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|text| parse(&text, field))
        .unwrap_or(0)
}

fn parse(text: &str, field: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: i64 = line
        .trim_start_matches(':')
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(kilobytes * 1024)
}

/// Peaks of a backend's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// What it held for itself.
    pub own: i64,
    /// All that was mapped, the shared buffers it touched included, since it began.
    pub all: i64,
}

/// Looks at a backend's memory until it is told to stop.
pub struct Watch {
    pid: i32,
    stop: Sender<()>,
    thread: JoinHandle<i64>,
}

impl Watch {
    /// Begins to look.
    pub fn begin(pid: i32) -> Watch {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            loop {
                peak = peak.max(status(pid, "RssAnon"));
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return peak;
                }
            }
        });
        Watch { pid, stop, thread }
    }

    /// Stops looking; the peaks seen.
    pub fn end(self) -> Peak {
        drop(self.stop);
        Peak {
            own: self
                .thread
                .join()
                .unwrap_or(0)
                .max(status(self.pid, "RssAnon")),
            all: status(self.pid, "VmHWM"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "Name:\tpostgres\nVmHWM:\t   12 kB\nRssAnon:\t 3 kB\n";
        assert_eq!(parse(text, "VmHWM"), Some(12 * 1024));
        assert_eq!(parse(text, "RssAnon"), Some(3 * 1024));
        assert_eq!(parse(text, "VmPeak"), None);
    }

    #[test]
    fn a_peak_is_seen() {
        let watch = Watch::begin(std::process::id() as i32);
        let block = vec![1u8; 64 << 20];
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        assert_eq!(sum, 64 << 20);
        let peak = watch.end();
        assert!(peak.own >= 64 << 20, "{peak:?}");
        assert!(peak.all >= peak.own, "{peak:?}");
    }
}
