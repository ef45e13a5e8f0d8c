//! Stores in a directory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod store_common;

use std::cell::Cell;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store_common::*;
use varve_core::store::*;
use varve_core::wait::{Stopped, never};

fn temporaries(root: &Path) -> usize {
    std::fs::read_dir(root.join(".varve-tmp")).map_or(0, Iterator::count)
}

#[test]
fn everything() {
    let directory = tempfile::tempdir().unwrap();
    check_store(&file_store(directory.path()));
    // Only the directory of temporary files is left, and nothing in it.
    assert_eq!(temporaries(directory.path()), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("not/mounted");
    let url = format!("file://{}", root.display());
    let store = Store::open(&StoreConfig::from_url(&url).unwrap()).unwrap();
    for error in [
        store.put("x", vec![1], &never).unwrap_err(),
        store.get("x", 1, &never).unwrap_err(),
        store.list("", &never).unwrap().next().unwrap().unwrap_err(),
        store.put_stream("x", &mut &b"abc"[..], &never).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains("create"), "{error}");
    }
    assert!(!directory.path().join("not").exists());

    let config = StoreConfig::from_options([("url", url.as_str()), ("create", "true")]).unwrap();
    let store = Store::open(&config).unwrap();
    assert!(!root.exists());
    store.put("a/b", vec![1], &never).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&root.join("a")), 0o700);
    assert_eq!(mode(&root.join("a/b")), 0o600);
}

#[test]
fn what_the_system_refuses() {
    let store = Store::open(&StoreConfig::from_url("file:///sys/kernel").unwrap()).unwrap();
    assert_eq!(kind(store.put("x", vec![1], &never)), ErrorKind::Permission);
    let mut writer = store.writer("x", &never).unwrap();
    writer.write_from(&mut &b"abc"[..]).map_or_else(
        |error| assert_eq!(error.kind(), ErrorKind::Permission),
        |()| assert_eq!(kind(writer.finish()), ErrorKind::Permission),
    );
}

#[test]
fn objects_in_the_way_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = file_store(directory.path());
    store.put("a/b", vec![1], &never).unwrap();
    for key in ["a", "a/b/c"] {
        assert_eq!(
            kind(store.put(key, vec![2], &never)),
            ErrorKind::Other,
            "{key}"
        );
        assert_eq!(
            kind(store.get(key, 9, &never)),
            ErrorKind::NotFound,
            "{key}"
        );
        store.delete(key, &never).unwrap();
    }
    assert_eq!(store.get("a/b", 9, &never).unwrap(), [1]);
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
fn symbolic_links_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), b"secret").unwrap();
    let directory = tempfile::tempdir().unwrap();
    symlink(outside.path(), directory.path().join("dir")).unwrap();
    symlink(outside.path().join("file"), directory.path().join("link")).unwrap();
    let store = file_store(directory.path());
    assert!(store.get("dir/file", 99, &never).is_err());
    assert!(store.get("link", 99, &never).is_err());
    assert!(store.put("dir/new", vec![1], &never).is_err());
    store.delete("dir/file", &never).unwrap();
    assert_eq!(keys(&store, ""), Vec::<String>::new());
    assert_eq!(
        std::fs::read(outside.path().join("file")).unwrap(),
        b"secret"
    );
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    // A link in the place of an object is replaced, not followed.
    store.put("link", vec![1], &never).unwrap();
    assert_eq!(store.get("link", 9, &never).unwrap(), [1]);
    assert_eq!(
        std::fs::read(outside.path().join("file")).unwrap(),
        b"secret"
    );
}

#[test]
fn what_is_no_object_is_not_listed() {
    let directory = tempfile::tempdir().unwrap();
    let store = file_store(directory.path());
    store.put("x/y", vec![1], &never).unwrap();
    for name in ["ümlaut", "a?b", "x/with\nnewline"] {
        std::fs::write(directory.path().join(name), b"1").unwrap();
    }
    std::fs::write(directory.path().join(".varve-tmp/1-2-3"), b"half").unwrap();
    nix::unistd::mkfifo(
        &directory.path().join("pipe"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .unwrap();
    assert_eq!(keys(&store, ""), ["x/y"]);
    assert_eq!(kind(store.get("pipe", 9, &never)), ErrorKind::NotFound);
}

#[test]
fn one_of_many_writes_what_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let store = file_store(directory.path());
    for round in 0..20 {
        let key = format!("{round}/new");
        let won: Vec<u8> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u8)
                .map(|n| {
                    scope.spawn({
                        let (store, key) = (&store, &key);
                        move || store.put_new(key, vec![n; 1_000], &never).map(|()| n)
                    })
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| match thread.join().unwrap() {
                    Ok(n) => Some(n),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                        None
                    }
                })
                .collect()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(store.get(&key, 9_999, &never).unwrap(), vec![won[0]; 1_000]);
    }
}

#[test]
fn readers_see_whole_objects_and_directories_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = file_store(directory.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=2_u8)
            .map(|n| {
                scope.spawn({
                    let store = &store;
                    move || {
                        for _ in 0..60 {
                            store.put("deep/er/x", vec![n; 2 << 20], &never).unwrap();
                            // The other writer's directories go away with it.
                            store.delete("deep/er/x", &never).unwrap();
                        }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                match store.get("deep/er/x", 9 << 20, &never) {
                    Ok(bytes) => {
                        assert_eq!(bytes.len(), 2 << 20);
                        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                        seen += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                }
                for key in keys(&store, "") {
                    assert_eq!(key, "deep/er/x");
                }
            }
            seen
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
        assert!(reader.join().unwrap() > 0);
    });
    assert!(!directory.path().join("deep").exists());
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
fn cancelled_writers_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = file_store(directory.path());
    let left = Cell::new(10);
    let tick = || {
        left.set(left.get() - 1);
        match left.get() {
            0 => Err(Stopped::new("the user said so")),
            _ => Ok(()),
        }
    };
    let error = store
        .put_stream("x", &mut std::io::repeat(1), &tick)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.detail(), "the user said so");
    assert_eq!(error.key(), Some("x"));

    // A tick that unwinds, as PostgreSQL's interrupts do.
    let left = Cell::new(10);
    let tick = || {
        left.set(left.get() - 1);
        assert!(left.get() > 0, "interrupted");
        Ok(())
    };
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.put_stream("x", &mut std::io::repeat(1), &tick)
    }));
    assert!(unwound.is_err());
    let never_asked = || Err(Stopped::new("at once"));
    assert_eq!(
        kind(store.put("y", vec![1], &never_asked)),
        ErrorKind::Cancelled
    );
    assert_eq!(
        kind(store.sweep(Duration::ZERO, &never_asked)),
        ErrorKind::Cancelled
    );

    // A writer that is dropped, and one whose source breaks.
    drop(store.writer("x", &never).unwrap());
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is on fire"))
        }
    }
    let error = store.put_stream("x", &mut Broken, &never).unwrap_err();
    assert!(error.to_string().contains("on fire"), "{error}");
    assert_eq!(kind(store.get("x", 9, &never)), ErrorKind::NotFound);
    assert_eq!(temporaries(directory.path()), 0);
}

#[test]
fn leftovers_are_swept() {
    let directory = tempfile::tempdir().unwrap();
    let store = file_store(directory.path());
    assert_eq!(store.sweep(Duration::ZERO, &never).unwrap(), 0);
    store.put("x", vec![1], &never).unwrap();
    let old = directory.path().join(".varve-tmp/1-2-3");
    std::fs::write(&old, b"half").unwrap();
    assert_eq!(store.sweep(Duration::from_secs(3_600), &never).unwrap(), 0);
    let hours_ago = std::time::SystemTime::now() - Duration::from_secs(7_200);
    std::fs::File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(hours_ago)
        .unwrap();
    assert_eq!(store.sweep(Duration::from_secs(3_600), &never).unwrap(), 1);
    assert!(!old.exists());
    assert_eq!(keys(&store, ""), ["x"]);
}

#[test]
fn copies_are_verified() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (file_store(one.path()), file_store(two.path()));
    let bytes = noise(3, 3 << 20);
    let sum = sha256(&bytes);
    from.put("a", bytes.clone(), &never).unwrap();
    let copied = to.copy_verified(&from, "a", "b/c", &sum, &never).unwrap();
    assert_eq!((copied.size, copied.sha256), (3 << 20, sum));
    assert!(to.get("b/c", 9 << 20, &never).unwrap() == bytes);

    // The disk lost a bit.
    let mut damaged = bytes.clone();
    damaged[1_234_567] ^= 4;
    std::fs::write(one.path().join("a"), &damaged).unwrap();
    let error = to.copy_verified(&from, "a", "d", &sum, &never).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.store(), from.url());
    assert_eq!(keys(&to, ""), ["b/c"]);
    let missing = to.copy_verified(&from, "x", "d", &sum, &never).unwrap_err();
    assert_eq!(
        (missing.kind(), missing.store()),
        (ErrorKind::NotFound, from.url())
    );
}
