//! What a store does to the process it is used in: signals, forks, being killed. One process, no harness: the main thread
//! must be the one that works.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod store_common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, gettid};
use store_common::s3::{Server, open, options};
use store_common::*;
use varve_core::store::*;
use varve_core::wait::never;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let part = |n: usize| arguments.get(n).map(String::as_str).unwrap_or_default();
    match part(1) {
        "serve" => serve(Path::new(part(2))),
        "write" => write(Path::new(part(2)), part(3)),
        "fill" => fill(Path::new(part(2))),
        _ => {
            for (name, test) in [
                ("forked_children", forked_children as fn()),
                ("signals_are_the_main_threads", signals_are_the_main_threads),
                ("killed_writers", killed_writers),
                ("no_room", no_room),
            ] {
                test();
                println!("test {name} ... ok");
            }
        }
    }
}

/// This program in another process, and what it says.
fn again(arguments: &[&str]) -> (Kill, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (Kill(child), out)
}

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn line(from: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// A server in a process of its own, so that all threads of this one are the store's.
fn serve(directory: &Path) {
    let server = Server::start(directory);
    println!("{}", server.address);
    // Until nobody is there any more.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn traffic(store: &Store) {
    let bytes = noise(1, 17 << 20);
    let written = store
        .put_stream("large", &mut bytes.as_slice(), &never)
        .unwrap();
    assert_eq!(store.sha256("large", &never).unwrap(), written);
    store.put("small", vec![1], &never).unwrap();
    assert_eq!(keys(store, ""), ["large", "small"]);
    assert_eq!(store.get("small", 9, &never).unwrap(), [1]);
}

/// Forks a child that does that; whether it did.
#[allow(unsafe_code, reason = "fork is unsafe where other threads hold locks")]
fn fork(work: impl FnOnce()) -> bool {
    // SAFETY: the child works with what the C library keeps sound over a fork (memory, threads), as a backend of PostgreSQL
    // does, and leaves without running anything of the parent's.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Child => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            std::process::exit(if done.is_ok() { 7 } else { 8 })
        }
        ForkResult::Parent { child } => {
            matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 7))
        }
    }
}

fn forked_children() {
    let directory = tempfile::tempdir().unwrap();
    let there = directory.path().join("s3");
    let (_server, mut out) = again(&["serve", there.to_str().unwrap()]);
    let address: SocketAddr = line(&mut out).parse().unwrap();
    // Opened before anything was started, as the archiver inherits it from the postmaster.
    let remote = open(&options(address, &[]));
    let local = file_store(directory.path());
    assert_eq!(threads(), 1);
    assert!(fork(|| {
        traffic(&remote);
        assert!(threads() > 1);
    }));
    assert_eq!(threads(), 1);
    // And where the parent had been at work before.
    traffic(&remote);
    assert!(fork(|| traffic(&remote)));
    traffic(&remote);
    assert!(fork(|| local.put("x", vec![1], &never).unwrap()));
    assert_eq!(local.get("x", 9, &never).unwrap(), [1]);
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

static MAIN: AtomicI32 = AtomicI32::new(0);
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static ELSEWHERE: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    if gettid().as_raw() != MAIN.load(Ordering::Relaxed) {
        ELSEWHERE.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(unsafe_code, reason = "a signal handler must be sound in any place")]
fn signals_are_the_main_threads() {
    MAIN.store(gettid().as_raw(), Ordering::Relaxed);
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler asks the system for a number and counts.
    unsafe { nix::sys::signal::sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let shell = format!("while kill -USR1 {}; do :; done", std::process::id());
    let _hammer = Kill(
        Command::new("sh")
            .args(["-c", &shell])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let directory = tempfile::tempdir().unwrap();
    let there = directory.path().join("s3");
    let (_server, mut out) = again(&["serve", there.to_str().unwrap()]);
    let remote = open(&options(line(&mut out).parse().unwrap(), &[]));
    let here = directory.path().join("files");
    std::fs::create_dir(&here).unwrap();
    let local = file_store(&here);
    let mut seen = 0;
    let before = SIGNALS.load(Ordering::Relaxed);
    while SIGNALS.load(Ordering::Relaxed) < before + 2_000 {
        traffic(&local);
        traffic(&remote);
        let writer = local.writer("open", &never).unwrap();
        seen += unblocked();
        drop(writer);
        local.delete("large", &never).unwrap();
    }
    assert!(seen > 0, "there was no thread to look at");
    assert_eq!(ELSEWHERE.load(Ordering::Relaxed), 0);
}

/// Looks at all threads but the main one: they must block the signal. How many there are.
fn unblocked() -> usize {
    let mut others = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap();
        if task.file_name().to_str().unwrap() == MAIN.load(Ordering::Relaxed).to_string() {
            continue;
        }
        // It may have ended meanwhile.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let Some(mask) = status.lines().find_map(|line| line.strip_prefix("SigBlk:")) else {
            continue;
        };
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        let bit = 1_u64 << (Signal::SIGUSR1 as i32 - 1);
        assert!(mask & bit != 0, "{status}");
        others += 1;
    }
    others
}

/// Writes objects for ever, and tells of each that is safe.
fn write(directory: &Path, name: &str) {
    let store = file_store(directory);
    let mut out = std::io::stdout();
    for n in 0_u64.. {
        let bytes = noise(n, 5 << 20);
        let key = format!("{name}/{n}");
        store
            .put_stream(&key, &mut bytes.as_slice(), &never)
            .unwrap();
        writeln!(out, "{key}").unwrap();
    }
}

fn killed_writers() {
    let directory = tempfile::tempdir().unwrap();
    let store = file_store(directory.path());
    let temporary = directory.path().join(".varve-tmp");
    let mut swept = 0;
    for round in 0..8 {
        let name = format!("round{round}");
        let (child, mut out) = again(&["write", directory.path().to_str().unwrap(), &name]);
        let mut safe = vec![line(&mut out), line(&mut out)];
        // In the middle of an object, if there is one: its file is there.
        while std::fs::read_dir(&temporary).unwrap().next().is_none() {
            std::thread::yield_now();
        }
        drop(child);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        safe.extend(rest.lines().map(str::to_owned));
        let left = std::fs::read_dir(&temporary).unwrap().count() as u64;
        let listed = keys(&store, &name);
        for key in &safe {
            assert!(listed.contains(key), "{key} was said to be safe");
        }
        // They are young, until nobody asks for their age.
        assert_eq!(store.sweep(Duration::from_secs(3_600), &never).unwrap(), 0);
        assert_eq!(store.sweep(Duration::ZERO, &never).unwrap(), left);
        swept += left;
        // Each is whole, also one that was not told of any more.
        assert!(listed.len() <= safe.len() + 1);
        for key in listed {
            let n = key.rsplit('/').next().unwrap().parse().unwrap();
            assert!(
                store.get(&key, 9 << 20, &never).unwrap() == noise(n, 5 << 20),
                "{key}"
            );
        }
    }
    assert!(swept > 0, "no writer was killed in the middle of an object");
    assert!(keys(&store, "").iter().all(|key| key.starts_with("round")));
}

/// Writes more than may be written.
fn fill(directory: &Path) {
    let store = file_store(directory);
    for error in [
        store.put("x", noise(1, 3 << 20), &never).unwrap_err(),
        store
            .put_stream("x", &mut noise(1, 3 << 20).as_slice(), &never)
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    }
    store.put("y", vec![1], &never).unwrap();
    assert_eq!(keys(&store, ""), ["y"]);
    println!("full");
}

/// A limit to the size of files stands for a full disk, since it needs no rights: the same call fails in the same place.
fn no_room() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 2048; exec \"$0\" fill \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "full\n");
    let temporary = directory.path().join(".varve-tmp");
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0);
}
