//! What the tests of stores share.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod fake;
pub mod s3;

use std::io::Read;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use varve_core::store::{ErrorKind, Store, StoreConfig, StoreError};
use varve_core::wait::never;

/// Bytes that do not repeat and do not compress, told apart by their seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A store in a directory that is there.
pub fn file_store(directory: &std::path::Path) -> Store {
    let url = format!("file://{}", directory.display());
    Store::open(&StoreConfig::from_url(&url).unwrap()).unwrap()
}

pub fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> ErrorKind {
    result.unwrap_err().kind()
}

pub fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store
        .list(prefix, &never)
        .unwrap()
        .map(|object| object.unwrap().key)
        .collect()
}

/// What every store does.
pub fn check_store(store: &Store) {
    let began = SystemTime::now() - std::time::Duration::from_secs(5);
    let small = noise(1, 1_000);
    assert_eq!(kind(store.get("a/b/c", 10, &never)), ErrorKind::NotFound);
    assert_eq!(kind(store.head("a/b/c", &never)), ErrorKind::NotFound);
    assert_eq!(kind(store.sha256("a/b/c", &never)), ErrorKind::NotFound);
    assert_eq!(
        kind(store.get_range("a/b/c", 0..3, &never)),
        ErrorKind::NotFound
    );
    assert_eq!(keys(store, ""), Vec::<String>::new());
    store.delete("a/b/c", &never).unwrap();

    store.put("a/b/c", small.clone(), &never).unwrap();
    assert_eq!(store.get("a/b/c", 1_000, &never).unwrap(), small);
    assert_eq!(kind(store.get("a/b/c", 999, &never)), ErrorKind::TooLarge);
    let meta = store.head("a/b/c", &never).unwrap();
    assert_eq!((meta.key.as_str(), meta.size), ("a/b/c", 1_000));
    assert!(meta.modified > began, "{meta:?}");
    store.put("a/b/c", vec![7], &never).unwrap();
    assert_eq!(store.get("a/b/c", 9, &never).unwrap(), [7]);

    // Only the first one is new.
    store.put_new("a/new one", small.clone(), &never).unwrap();
    assert_eq!(
        kind(store.put_new("a/new one", vec![0; 9], &never)),
        ErrorKind::AlreadyExists
    );
    assert_eq!(store.get("a/new one", 1_000, &never).unwrap(), small);

    store.put("empty", Vec::new(), &never).unwrap();
    assert_eq!(store.get("empty", 0, &never).unwrap(), Vec::<u8>::new());
    let nothing = store
        .put_stream("nothing", &mut std::io::empty(), &never)
        .unwrap();
    assert_eq!((nothing.size, nothing.sha256), (0, sha256(&[])));
    assert_eq!(store.sha256("nothing", &never).unwrap(), nothing);

    // Large enough for several parts and ranges, and none of them whole.
    for len in [8 << 20, (40 << 20) + 12_345] {
        let large = noise(2, len);
        let written = store
            .put_stream("large", &mut large.as_slice(), &never)
            .unwrap();
        assert_eq!((written.size, written.sha256), (len as u64, sha256(&large)));
        assert_eq!(store.sha256("large", &never).unwrap(), written);
        let mut read = Vec::new();
        let mut reader = store.get_stream("large", &never).unwrap();
        assert_eq!(reader.size(), len as u64);
        reader.read_to_end(&mut read).unwrap();
        assert!(read == large);
        for range in [
            0..1,
            0..len as u64,
            5_000_000..8_388_608,
            len as u64 - 9..len as u64,
        ] {
            let bytes = store.get_range("large", range.clone(), &never).unwrap();
            assert!(
                bytes == large[range.start as usize..range.end as usize],
                "{range:?}"
            );
        }
        for range in [
            len as u64 - 1..len as u64 + 1,
            len as u64..len as u64 + 1,
            u64::MAX - 9..u64::MAX,
        ] {
            assert_eq!(
                kind(store.get_range("large", range.clone(), &never)),
                ErrorKind::Corrupt,
                "{range:?}"
            );
        }
        assert!(store.get_range("large", 9..9, &never).unwrap().is_empty());
    }

    // In the order of the keys, where a slash comes before letters and after a dash.
    store.put("a/b-d", vec![1, 2], &never).unwrap();
    store.put("a/bc", vec![1, 2, 3], &never).unwrap();
    let all = [
        "a/b-d",
        "a/b/c",
        "a/bc",
        "a/new one",
        "empty",
        "large",
        "nothing",
    ];
    assert_eq!(keys(store, ""), all);
    assert_eq!(keys(store, "a"), all[..4]);
    assert_eq!(keys(store, "a/b/"), all[1..2]);
    assert_eq!(keys(store, "a/x"), all[..0]);
    let objects: Vec<_> = store
        .list("a", &never)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        objects.iter().map(|o| o.size).collect::<Vec<_>>(),
        [2, 1, 3, 1_000]
    );
    assert!(objects.iter().all(|object| object.modified > began));

    for key in ["", "../x", "a//b", "/a", "a/", "a/../../b", ".varve-tmp/x"] {
        assert_eq!(
            kind(store.put(key, vec![1], &never)),
            ErrorKind::Config,
            "{key:?}"
        );
        assert_eq!(
            kind(store.get(key, 1, &never)),
            ErrorKind::Config,
            "{key:?}"
        );
        assert_eq!(
            kind(store.delete(key, &never)),
            ErrorKind::Config,
            "{key:?}"
        );
    }
    assert_eq!(kind(store.list("..", &never).map(drop)), ErrorKind::Config);

    for key in all {
        store.delete(key, &never).unwrap();
    }
    assert_eq!(keys(store, ""), Vec::<String>::new());
}
