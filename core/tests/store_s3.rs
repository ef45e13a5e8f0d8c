//! Stores in a real S3 server on the loopback interface.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod store_common;

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use store_common::s3::{BUCKET, KEY, SECRET, Server, open, options};
use store_common::*;
use varve_core::store::*;
use varve_core::wait::{Stopped, never};

#[test]
fn everything() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    check_store(&server.store(&[]));
    check_store(&server.store(&[("url", "s3://backups")]));
}

#[test]
fn more_objects_than_a_page_of_a_listing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let folder = directory.path().join(BUCKET).join("some/prefix/wal");
    std::fs::create_dir_all(&folder).unwrap();
    let expected: Vec<String> = (0..2_345).map(|n| format!("wal/{n:08X}")).collect();
    for key in &expected {
        std::fs::write(folder.join(&key[4..]), key).unwrap();
    }
    // A neighbour whose name begins alike, and one above the store.
    std::fs::create_dir_all(directory.path().join(BUCKET).join("some/prefix2")).unwrap();
    std::fs::write(directory.path().join(BUCKET).join("some/prefix2/x"), b"").unwrap();
    std::fs::write(directory.path().join(BUCKET).join("some/y"), b"").unwrap();
    let store = server.store(&[]);
    assert_eq!(keys(&store, "wal"), expected);
    assert_eq!(keys(&store, ""), expected);
    // A listing that is not read to its end.
    let some: Vec<_> = store.list("wal", &never).unwrap().take(3).collect();
    assert_eq!(some.len(), 3);
}

#[test]
fn wrong_credentials_and_buckets() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let wrong = "wr0ng+secret/of-varve==";
    for others in [
        &[("secret_access_key", wrong)][..],
        &[
            ("access_key_id", "AKIDUNKNOWN"),
            ("secret_access_key", wrong),
        ],
    ] {
        let store = server.store(others);
        let began = Instant::now();
        for error in [
            store.put("x", vec![1], &never).unwrap_err(),
            store.put_new("x", vec![1], &never).unwrap_err(),
            store.get("x", 1, &never).unwrap_err(),
            store.head("x", &never).unwrap_err(),
            store.delete("x", &never).unwrap_err(),
            store.list("", &never).unwrap().next().unwrap().unwrap_err(),
            store
                .put_stream("x", &mut &noise(1, 20 << 20)[..], &never)
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
            assert_eq!(error.store(), "s3://backups/some/prefix");
            for shown in [error.to_string(), format!("{error:?}")] {
                for secret in [wrong, SECRET, KEY, "AKIDUNKNOWN", "wr0ng%2Bsecret"] {
                    assert!(!shown.contains(secret), "{shown}");
                }
            }
        }
        // None of it was tried again.
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    let store = server.store(&[("url", "s3://nobody")]);
    let error = store.list("", &never).unwrap().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[test]
fn plain_http_must_be_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let store = server.store(&[("allow_http", "false")]);
    let error = store.put("x", vec![1], &never).unwrap_err();
    assert!(error.to_string().contains("allow_http"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Other);
}

/// Stops the server when it is told, and starts it again some ticks later.
struct Outage<'d> {
    directory: &'d Path,
    server: RefCell<Option<Server>>,
    address: std::net::SocketAddr,
    ticks: Cell<u32>,
    outages: Cell<u32>,
}

impl<'d> Outage<'d> {
    fn new(directory: &'d Path) -> Self {
        let server = Server::start(directory);
        Self {
            directory,
            address: server.address,
            server: RefCell::new(Some(server)),
            ticks: Cell::new(0),
            outages: Cell::new(0),
        }
    }

    fn begin(&self) {
        self.server.replace(None);
        self.ticks.set(0);
        self.outages.set(self.outages.get() + 1);
    }

    fn tick(&self) -> Result<(), Stopped> {
        self.ticks.set(self.ticks.get() + 1);
        if self.server.borrow().is_none() && self.ticks.get() > 10 {
            let server = Server::start_at(self.directory, self.address);
            self.server.replace(Some(server));
        }
        Ok(())
    }
}

/// A source during which the server goes away twice.
struct Source<'o, 'd> {
    bytes: &'o [u8],
    at: usize,
    outage: &'o Outage<'d>,
}

impl Read for Source<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let before = self.at / (20 << 20);
        let got = (&self.bytes[self.at..]).read(buffer)?;
        self.at += got;
        if self.at / (20 << 20) > before {
            self.outage.begin();
        }
        Ok(got)
    }
}

#[test]
fn a_server_that_is_killed_and_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let outage = Outage::new(directory.path());
    let tick = || outage.tick();
    let store = open(&options(outage.address, &[("retry_timeout", "1min")]));
    let bytes = noise(5, 50 << 20);
    let mut source = Source {
        bytes: &bytes,
        at: 0,
        outage: &outage,
    };
    let written = store.put_stream("large", &mut source, &tick).unwrap();
    assert_eq!(outage.outages.get(), 2);
    assert_eq!(written.sha256, sha256(&bytes));

    let mut reader = store.get_stream("large", &tick).unwrap();
    let mut read = Vec::new();
    while let Some(chunk) = reader.chunk().unwrap() {
        if read.is_empty() {
            outage.begin();
        }
        read.extend_from_slice(&chunk);
    }
    assert_eq!(outage.outages.get(), 3);
    assert!(read == bytes);

    outage.begin();
    store.put("small", vec![1], &tick).unwrap();
    outage.begin();
    assert_eq!(store.get("small", 9, &tick).unwrap(), [1]);
    outage.begin();
    assert_eq!(store.list("", &tick).unwrap().count(), 2);
}

#[test]
fn a_server_that_stays_away() {
    let address = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let store = open(&options(address, &[("retry_timeout", "1s")]));
    for call in [
        |store: &Store| store.put("x", vec![1], &never),
        |store: &Store| store.put_new("x", vec![1], &never),
        |store: &Store| store.get("x", 1, &never).map(drop),
        |store: &Store| {
            store
                .list("", &never)
                .and_then(|mut all| all.next().unwrap().map(drop))
        },
        |store: &Store| {
            store
                .put_stream("x", &mut &noise(1, 20 << 20)[..], &never)
                .map(drop)
        },
    ] {
        let began = Instant::now();
        let error = call(&store).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(500),
            "it was not tried again: {took:?}"
        );
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
    let once = open(&options(address, &[("max_retries", "0")]));
    let began = Instant::now();
    assert_eq!(kind(once.put("x", vec![1], &never)), ErrorKind::Unreachable);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_that_says_nothing() {
    // The system takes connections for it; nobody reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let store = open(&options(
        address,
        &[
            ("timeout", "400ms"),
            ("max_retries", "1"),
            ("retry_timeout", "2s"),
        ],
    ));
    let last = Cell::new(Instant::now());
    let gaps = RefCell::new(Vec::new());
    let tick = || {
        gaps.borrow_mut()
            .push(last.replace(Instant::now()).elapsed());
        Ok(())
    };
    let error = store.get("x", 9, &tick).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("nothing moved"), "{error}");
    let mut gaps = gaps.into_inner();
    gaps.sort_unstable();
    assert!(gaps.len() > 20);
    // Nine of ten: a busy machine may be late now and then.
    assert!(
        gaps[gaps.len() * 9 / 10] < Duration::from_millis(50),
        "{gaps:?}"
    );

    let left = Cell::new(5);
    let began = Instant::now();
    let stop = || {
        left.set(left.get() - 1);
        match left.get() {
            0 => Err(Stopped::new("statement timeout")),
            _ => Ok(()),
        }
    };
    let patient = open(&options(address, &[]));
    let error = patient.put("x", vec![1], &stop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.detail(), "statement timeout");
    assert!(began.elapsed() < Duration::from_secs(2));
}

/// Files of uploads that were not finished.
fn uploads(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".upload"))
        .collect()
}

/// Waits until the server has forgotten its uploads.
fn forgotten(directory: &Path) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        // Parts that were on their way when the upload was given up are left by this server.
        if uploads(directory)
            .iter()
            .all(|name| name.contains(".part-"))
        {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn cancelled_uploads_are_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let store = server.store(&[]);
    // Until there is an upload to give up.
    let begun = || match uploads(directory.path()).is_empty() {
        true => Ok(()),
        false => Err(Stopped::new("the user said so")),
    };
    let error = store
        .put_stream("x", &mut std::io::repeat(1), &begun)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(
        forgotten(directory.path()),
        "{:?}",
        uploads(directory.path())
    );

    let unwinding = || {
        let begun = uploads(directory.path())
            .iter()
            .any(|name| name.ends_with(".json"));
        assert!(!begun, "interrupted");
        Ok(())
    };
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.put_stream("x", &mut std::io::repeat(1), &unwinding)
    }));
    assert!(unwound.is_err());
    assert!(
        forgotten(directory.path()),
        "{:?}",
        uploads(directory.path())
    );
    assert_eq!(kind(store.head("x", &never)), ErrorKind::NotFound);
    assert_eq!(keys(&store, ""), Vec::<String>::new());
    // And the store can be used on.
    store.put("x", vec![1], &never).unwrap();
}

#[test]
fn copies_between_stores() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(there.path());
    let (local, remote) = (file_store(here.path()), server.store(&[]));
    let bytes = noise(7, 19 << 20);
    let sum = sha256(&bytes);
    local.put("a", bytes.clone(), &never).unwrap();
    remote
        .copy_verified(&local, "a", "b", &sum, &never)
        .unwrap();
    local
        .copy_verified(&remote, "b", "c", &sum, &never)
        .unwrap();
    assert!(local.get("c", 99 << 20, &never).unwrap() == bytes);

    // The remote object rots where it lies.
    let path = there.path().join(BUCKET).join("some/prefix/b");
    let mut rotten = bytes.clone();
    rotten[9 << 20] ^= 1;
    std::fs::write(path, &rotten).unwrap();
    let error = local
        .copy_verified(&remote, "b", "d", &sum, &never)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!((error.store(), error.key()), (remote.url(), Some("b")));
    assert_eq!(keys(&local, ""), ["a", "c"]);
    assert_ne!(remote.sha256("b", &never).unwrap().sha256, sum);
}

#[test]
fn an_object_that_is_replaced_while_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let store = server.store(&[]);
    let len = 60 << 20;
    store
        .put_stream("x", &mut &noise(1, len)[..], &never)
        .unwrap();
    let mut reader = store.get_stream("x", &never).unwrap();
    let first = reader.chunk().unwrap().unwrap();
    store
        .put_stream("x", &mut &noise(2, len)[..], &never)
        .unwrap();
    let mut rest = Vec::new();
    let error = reader.read_to_end(&mut rest).unwrap_err();
    let error = StoreError::from_io(error).unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(first.len() + rest.len() < len);
}
