//! Remote stores whose server does what no good one does.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backup_common;
mod store_common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use store_common::fake::{Asked, plain, serve};
use store_common::s3::{open, options};
use store_common::*;
use varve_core::backup::{BackupError, claim, fetch_from_any, list};
use varve_core::store::Store;
use varve_core::wait::never;

fn store(address: std::net::SocketAddr) -> Store {
    let few = [("max_retries", "2"), ("retry_timeout", "5s")];
    open(&options(address, &few))
}

/// Objects of others whose names are no paths are passed over, and those beside them are not.
#[test]
fn names_that_are_no_paths() {
    let address = serve(|asked: &Asked| {
        let keys = [
            "some//prefix/x",
            "some/prefix/a//b",
            "some/prefix/a/b",
            "some/prefix/c/",
        ];
        let objects = keys.map(|key| {
            format!("<Contents><Key>{key}</Key><LastModified>2026-11-29T08:00:00.000Z</LastModified><ETag>\"x\"</ETag><Size>1</Size></Contents>")
        });
        assert!(asked.path.contains("list-type=2"), "{}", asked.path);
        let name = "<Name>backups</Name><IsTruncated>false</IsTruncated>";
        let body = format!(
            "<ListBucketResult>{name}{}</ListBucketResult>",
            objects.concat()
        );
        plain(200, &body)
    });
    let store = store(address);
    assert_eq!(keys(&store, ""), ["a/b"]);
    assert!(list(&store, &never).unwrap().is_empty());
}

/// The upload is completed, and its answer is lost: who asks again hears that there is no such upload.
fn completes(really: bool, there_before: bool) -> (Result<(), String>, bool) {
    let there: Arc<Mutex<Option<usize>>> = Arc::new(Mutex::new(there_before.then_some(20 << 20)));
    let new = Arc::new(AtomicBool::new(false));
    let (asked_for, aborted) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let (object, fresh, gone) = (Arc::clone(&there), Arc::clone(&new), Arc::clone(&aborted));
    let sizes = Mutex::new(0);
    let address = serve(move |asked: &Asked| {
        let lock =
            |value: &Mutex<Option<usize>>| *value.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.method.as_str() {
            "POST" if asked.path.contains("uploads") => plain(
                200,
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            ),
            "PUT" => {
                *sizes.lock().unwrap() += asked.body.len();
                Some((200, vec![("etag", "\"part\"".to_owned())], Vec::new()))
            }
            "POST" => {
                if asked_for.fetch_add(1, Ordering::Relaxed) == 0 {
                    if really {
                        *object.lock().unwrap() = Some(*sizes.lock().unwrap());
                        fresh.store(true, Ordering::Relaxed);
                    }
                    return None;
                }
                plain(404, "<Error><Code>NoSuchUpload</Code></Error>")
            }
            "HEAD" => match lock(&object) {
                None => plain(404, ""),
                Some(size) => {
                    let tag = if fresh.load(Ordering::Relaxed) {
                        "\"new\""
                    } else {
                        "\"old\""
                    };
                    let headers = vec![
                        ("content-length", size.to_string()),
                        ("etag", tag.to_owned()),
                        ("last-modified", "Sun, 29 Nov 2026 08:00:00 GMT".to_owned()),
                    ];
                    Some((200, headers, Vec::new()))
                }
            },
            "DELETE" => {
                gone.store(true, Ordering::Relaxed);
                plain(204, "")
            }
            other => panic!("{other} {}", asked.path),
        }
    });
    let bytes = noise(3, 20 << 20);
    let written = store(address).put_stream("large", &mut bytes.as_slice(), &never);
    let written = written.map(drop).map_err(|error| error.to_string());
    (written, aborted.load(Ordering::Relaxed))
}

#[test]
fn an_upload_whose_answer_was_lost() {
    for there_before in [false, true] {
        let (written, _) = completes(true, there_before);
        assert_eq!(written, Ok(()), "there before: {there_before}");
        // It was not: an older object of that size does not stand for it, and the upload is given up.
        let (written, aborted) = completes(false, there_before);
        assert!(written.unwrap_err().contains("NoSuchUpload"));
        assert!(aborted);
    }
}

/// Such a server would let two clusters write into one store.
#[test]
fn a_server_that_overwrites_what_should_be_new() {
    let objects = Mutex::new(std::collections::BTreeMap::new());
    let conditional = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&conditional);
    let address = serve(move |asked: &Asked| {
        let mut objects = objects.lock().unwrap();
        let path = asked.path.clone();
        match asked.method.as_str() {
            "PUT" => {
                if asked.headers.contains("if-none-match") {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                objects.insert(path, asked.body.clone());
                Some((200, vec![("etag", "\"x\"".to_owned())], Vec::new()))
            }
            "DELETE" => {
                objects.remove(&path);
                plain(204, "")
            }
            _ => match objects.get(&path) {
                None => plain(404, ""),
                Some(_) => plain(500, "no object should be read"),
            },
        }
    });
    let store = store(address);
    let error = claim(&store, 7, &never).unwrap_err();
    assert!(matches!(error, BackupError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("If-None-Match"), "{error}");
    assert_eq!(conditional.load(Ordering::Relaxed), 2);
    assert!(store.head("cluster.json", &never).is_err());
}

/// A bucket that does not exist is no reason not to ask the next store.
#[test]
fn a_bucket_that_is_missing() {
    let address = serve(|_| plain(404, "<Error><Code>NoSuchBucket</Code></Error>"));
    let missing = store(address);
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let there = file_store(&root);
    let name = backup_common::made_up::segment(1, 1);
    backup_common::made_up::put_wal(&there, work.path(), &name, None);
    let to = work.path().join("fetched");
    let stores = [&missing, &there];
    let fetch = |name: &str| fetch_from_any(&stores, &name.parse().unwrap(), &to, None, &never);
    let (number, troubles) = fetch(&name).unwrap();
    assert_eq!((number, troubles.len()), (1, 1));
    // It may have what the other has not.
    let error = fetch("00000002.history").unwrap_err();
    assert!(error.is_unreachable() && !error.is_not_found(), "{error}");
}

/// A store that is away is asked for the first pieces, and not again for each of the others.
#[test]
fn a_store_that_is_away_is_asked_last() {
    use backup_common::{backup_server, manifest, pieces, tar_file};
    use varve_core::backup::{Kind, Recovery, RestoreOptions, TakeOptions, restore, take};
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = serve(move |asked: &Asked| {
        count.fetch_add(usize::from(asked.path.contains(".zst")), Ordering::SeqCst);
        plain(503, "")
    });
    let none = [("max_retries", "0"), ("retry_timeout", "1s")];
    let away = open(&options(address, &none));
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let there = file_store(&root);
    let large = noise(3, 60_000_000);
    let files: [(&str, &[u8]); 2] = [("PG_VERSION", b"17\n"), ("base/1", &large)];
    let entries: Vec<_> = files
        .iter()
        .map(|(path, bytes)| tar_file(path, bytes))
        .collect();
    let server = backup_server(work.path(), pieces(&entries, &manifest(&files)));
    let full = TakeOptions::new(Kind::Full);
    let backup = take(&there, &server, &full, &mut |_| {}, &never).unwrap();
    let options = RestoreOptions {
        pgdata: work.path().join("pgdata"),
        tablespaces: Vec::new(),
        threads: 2,
        recovery: Recovery::default(),
        identities: None,
    };
    restore(&[&away, &there], &backup.id, &options, &mut |_| {}, &never).unwrap();
    // For the manifest, and by neither thread for any of the ten or more pieces of the archive.
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
