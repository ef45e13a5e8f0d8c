//! Backups and WAL that are removed from stores.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backup_common;
mod store_common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use backup_common::made_up::*;
use store_common::{file_store, keys};
use varve_core::backup::*;
use varve_core::seal::Recipients;
use varve_core::store::Store;
use varve_core::wait::{Stopped, never};

const OLD: &str = "20260101T020000000-full";
const CHILD: &str = "20260101T040000000-incremental";
const NEW: &str = "20260101T060000000-full";

const ONE: Retention = Retention {
    keep_full: Some(1),
    keep_for: None,
};

/// A store with an old chain, a new full backup, and WAL of all kinds around them.
fn filled(work: &Path) -> Store {
    let root = work.join("store");
    std::fs::create_dir(&root).unwrap();
    let store = file_store(&root);
    MadeUp::new(OLD, None, 2).put(&store);
    MadeUp::new(CHILD, Some(OLD), 4).put(&store);
    let mut new = MadeUp::new(NEW, None, 6);
    new.timeline = 2;
    new.put(&store);
    let secret = age::x25519::Identity::generate();
    let to = Recipients::from_keys([secret.to_public().to_string().as_str()]).unwrap();
    for number in 1..9 {
        let encrypt = (number == 5).then_some(&to);
        put_wal(&store, work, &segment(1, number), encrypt);
    }
    for name in [
        "00000002.history".to_owned(),
        format!("{}.00000028.backup", segment(1, 2)),
        format!("{}.00000028.backup", segment(1, 6)),
        format!("{}.partial", segment(1, 5)),
        format!("{}.partial", segment(1, 9)),
        segment(2, 5),
        segment(2, 6),
    ] {
        put_wal(&store, work, &name, None);
    }
    store
}

fn plan(store: &Store) -> Expiry {
    plan_with(store, &BTreeMap::new())
}

fn plan_with(store: &Store, damaged: &BTreeMap<String, String>) -> Expiry {
    plan_expiry(store, &ONE, damaged, moment(9), &never).unwrap()
}

fn all_keys(store: &Store) -> Vec<String> {
    keys(store, "")
}

#[test]
fn a_chain_goes_with_its_wal() {
    let work = tempfile::tempdir().unwrap();
    let store = filled(work.path());
    let before = all_keys(&store);
    let expiry = plan(&store);
    assert_eq!(all_keys(&store), before);
    let ids: Vec<&str> = expiry.backups.iter().map(|b| b.id.as_str()).collect();
    assert_eq!(ids, [CHILD, OLD]);
    let size = |prefix: &str| -> u64 {
        let objects = store.list(prefix, &never).unwrap();
        objects.map(|object| object.unwrap().size).sum()
    };
    let bytes = size(&format!("backups/{OLD}")) + size(&format!("backups/{CHILD}"));
    assert_eq!(expiry.backup_bytes(), bytes);
    let wal: Vec<&str> = expiry
        .wal
        .iter()
        .map(|wal| wal.key.rsplit('/').next().unwrap())
        .collect();
    let one = |number| segment(1, number);
    let expected = [
        format!("{}.zst", one(1)),
        format!("{}.00000028.backup.zst", one(2)),
        format!("{}.zst", one(2)),
        format!("{}.zst", one(3)),
        format!("{}.zst", one(4)),
        format!("{}.partial.zst", one(5)),
        format!("{}.zst.age", one(5)),
        format!("{}.zst", segment(2, 5)),
        format!("{}.sha256", one(5)),
    ];
    assert_eq!(wal, expected);
    let mut told = Vec::new();
    let mut progress = |removed: &Removed| told.push(removed.clone());
    expire(&store, &expiry, &mut progress, &never).unwrap();
    assert_eq!(told.len(), 11);
    let left = all_keys(&store);
    let wal: Vec<&str> = left
        .iter()
        .filter(|key| key.starts_with("wal/"))
        .map(|key| key.rsplit('/').next().unwrap())
        .collect();
    let expected = [
        format!("{}.00000028.backup.zst", one(6)),
        format!("{}.zst", one(6)),
        format!("{}.zst", one(7)),
        format!("{}.zst", one(8)),
        format!("{}.partial.zst", one(9)),
        "00000002.history.zst".to_owned(),
        format!("{}.zst", segment(2, 6)),
    ];
    assert_eq!(wal, expected);
    assert_eq!(list(&store, &never).unwrap().len(), 1);
    assert!(
        left.iter()
            .all(|key| !key.contains(OLD) && !key.contains(CHILD))
    );
    assert!(plan(&store).is_empty());
}

/// One that could not be restored takes nobody's place.
#[test]
fn a_full_backup_that_is_not_whole_does_not_count() {
    let work = tempfile::tempdir().unwrap();
    let store = filled(work.path());
    let base = format!("backups/{NEW}/base.tar.zst");
    let wal = format!("wal/00000002/{}.zst", segment(2, 6));
    let stays = |damaged: &BTreeMap<String, String>| {
        let expiry = plan_with(&store, damaged);
        assert!(expiry.backups.is_empty(), "{expiry:?}");
        let note = |note: &String| note.contains(NEW) && note.contains("does not count");
        assert!(expiry.notes.iter().any(note), "{expiry:?}");
    };
    for key in [&base, &wal] {
        stays(&BTreeMap::from([(key.clone(), "a bit".to_owned())]));
        let whole = store.get(key, 1 << 20, &never).unwrap();
        store.delete(key, &never).unwrap();
        stays(&BTreeMap::new());
        store.put(key, whole, &never).unwrap();
    }
    let whole = store.get(&base, 1 << 20, &never).unwrap();
    store.put(&base, whole[1..].to_vec(), &never).unwrap();
    stays(&BTreeMap::new());
    store.put(&base, whole, &never).unwrap();
    // One that is older than what is kept goes as it would.
    let other = format!("backups/{OLD}/base.tar.zst");
    let damaged = [&other, "backups/x/y"].map(|key| (key.to_owned(), String::new()));
    assert_eq!(plan_with(&store, &damaged.into()), plan(&store));
    assert_eq!(plan(&store).backups.len(), 2);
}

#[test]
fn a_damaged_record_keeps_all_that_is_older() {
    let work = tempfile::tempdir().unwrap();
    let store = filled(work.path());
    flip(&store, &format!("backups/{CHILD}/backup.json"));
    let expiry = plan(&store);
    assert!(expiry.is_empty(), "{expiry:?}");
    assert!(expiry.notes.iter().any(|note| note.contains(CHILD)));
    assert!(expiry.notes.iter().any(|note| note.contains("WAL is kept")));
}

#[test]
fn one_of_a_later_version_keeps_all_that_is_older() {
    let work = tempfile::tempdir().unwrap();
    let store = filled(work.path());
    let mut later = MadeUp::new(CHILD, Some(OLD), 4).record(1000).0;
    later.version = 2;
    put_record(&store, &later);
    let expiry = plan(&store);
    assert!(expiry.is_empty(), "{expiry:?}");
    assert!(
        expiry
            .notes
            .iter()
            .any(|note| note.contains("newer version"))
    );
}

#[test]
fn what_was_begun_meanwhile_is_noticed() {
    let work = tempfile::tempdir().unwrap();
    let store = filled(work.path());
    let expiry = plan(&store);
    let before = all_keys(&store).len();
    let refused = || {
        let error = expire(&store, &expiry, &mut |_| {}, &never).unwrap_err();
        assert!(error.to_string().contains(OLD), "{error}");
        assert_eq!(all_keys(&store).len(), before + 1);
    };
    // One that is under way says what it needs.
    let sign = "backups/20260101T070000000-differential/running";
    store.put(sign, OLD.as_bytes().to_vec(), &never).unwrap();
    refused();
    let held = plan(&store);
    assert!(held.is_empty(), "{held:?}");
    store.delete(sign, &never).unwrap();
    let late = MadeUp::new("20260101T070000000-differential", Some(OLD), 7);
    let (late, _) = late.record(1000);
    put_record(&store, &late);
    refused();
}

/// The removal of the first one may take minutes.
#[test]
fn what_is_begun_while_others_go_is_noticed() {
    let work = tempfile::tempdir().unwrap();
    let store = filled(work.path());
    let expiry = plan(&store);
    let wal = expiry.wal.len();
    assert!(wal > 0 && expiry.backups.len() == 2);
    let sign = "backups/20260101T070000000-differential/running";
    let mut progress = |removed: &Removed| {
        assert!(matches!(removed, Removed::Backup(backup) if backup.id == CHILD));
        let text = format!("{OLD}\n1-0\n");
        store.put(sign, text.into_bytes(), &never).unwrap();
    };
    let error = expire(&store, &expiry, &mut progress, &never).unwrap_err();
    assert!(error.to_string().contains(OLD), "{error}");
    assert!(load(&store, OLD, &never).is_ok());
    store.delete(sign, &never).unwrap();
    // So does one that has ended already.
    let expiry = plan(&store);
    let late = MadeUp::new("20260101T070000000-differential", Some(OLD), 7);
    let mut more = expiry.clone();
    more.backups.insert(0, expiry.backups[0].clone());
    more.backups[0].id = NEW.to_owned();
    let mut progress = |_: &Removed| put_record(&store, &late.record(1000).0);
    let error = expire(&store, &more, &mut progress, &never).unwrap_err();
    assert!(error.to_string().contains(OLD), "{error}");
    assert!(load(&store, OLD, &never).is_ok());
}

/// Wherever it is cut off, what is left is whole, and the next one removes the rest.
#[test]
fn an_interrupted_removal_leaves_whole_backups() {
    for cut in 0..11 {
        let work = tempfile::tempdir().unwrap();
        let store = filled(work.path());
        let expiry = plan(&store);
        let removed = Cell::new(0);
        let tick = || match removed.get() > cut {
            true => Err(Stopped::new("on purpose")),
            false => Ok(()),
        };
        let mut progress = |_: &Removed| removed.set(removed.get() + 1);
        let cut_off = expire(&store, &expiry, &mut progress, &tick);
        assert_eq!(cut_off.is_ok(), cut == 10);
        for listed in list(&store, &never).unwrap() {
            let backup = listed.backup.unwrap();
            let there = |key: &str| store.head(key, &never).is_ok();
            assert!(backup.objects.iter().all(|object| there(&object.key)));
            let parent = backup.parent.map(|p| format!("backups/{p}/backup.json"));
            assert!(parent.is_none_or(|parent| there(&parent)));
        }
        let rest = plan(&store);
        expire(&store, &rest, &mut |_| {}, &never).unwrap();
        assert!(plan(&store).is_empty());
        // Objects without a record are those of no backup.
        sweep(&store, std::time::Duration::ZERO, &never).unwrap();
        let left = all_keys(&store);
        assert_eq!(left.len(), 11, "cut at {cut}: {left:#?}");
    }
}
