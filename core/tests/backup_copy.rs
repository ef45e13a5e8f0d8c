//! Copies of stores.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backup_common;
mod store_common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use backup_common::made_up::*;
use store_common::{file_store, keys, sha256};
use varve_core::backup::*;
use varve_core::seal::{Identities, Recipients};
use varve_core::store::Store;
use varve_core::wait::{Stopped, never};

const FULL: &str = "20260101T020000000-full";
const INCREMENT: &str = "20260101T040000000-incremental";
const LATER: &str = "20260101T060000000-full";

struct Bench {
    work: tempfile::TempDir,
    from: Store,
    to: Store,
}

/// Two stores; the first has a full backup, an incremental one, another full one, and WAL.
fn bench() -> Bench {
    let work = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let path = work.path().join(name);
        std::fs::create_dir(&path).unwrap();
        file_store(&path)
    };
    let (from, to) = (open("from"), open("to"));
    MadeUp::new(FULL, None, 2).put(&from);
    MadeUp::new(INCREMENT, Some(FULL), 4).put(&from);
    MadeUp::new(LATER, None, 6).put(&from);
    for number in 1..9 {
        put_wal(&from, work.path(), &segment(1, number), None);
    }
    let label = format!("{}.00000028.backup", segment(1, 2));
    let partial = format!("{}.partial", segment(1, 9));
    for name in ["00000002.history", &label, &partial] {
        put_wal(&from, work.path(), name, None);
    }
    Bench { work, from, to }
}

fn copied(bench: &Bench) -> Copied {
    copy_told(bench, &CopyOptions::default()).0
}

/// Copies, and tells the keys that were copied, in order.
fn copy_told(bench: &Bench, options: &CopyOptions) -> (Copied, Vec<String>) {
    let mut told = Vec::new();
    let mut each = |event| {
        if let CopyEvent::Copied { key, .. } = event {
            told.push(key);
        }
    };
    let copied = copy(&bench.from, &bench.to, options, &mut each, &never).unwrap();
    (copied, told)
}

/// What is in a store, by SHA-256.
fn contents(store: &Store) -> BTreeMap<String, [u8; 32]> {
    let sum = |key: String| (store.sha256(&key, &never).unwrap().sha256, key);
    let sums = keys(store, "").into_iter().map(sum);
    sums.map(|(sum, key)| (key, sum)).collect()
}

/// Somebody removes from the copy what was copied a moment ago.
#[test]
fn what_goes_from_the_copy_meanwhile() {
    let bench = bench();
    let lost_wal = format!("wal/00000001/{}.zst", segment(1, 6));
    let mut removed = false;
    let mut each = |event| {
        if let CopyEvent::Begun { key, .. } = event
            && key == format!("backups/{LATER}/backup_manifest.zst")
            && !std::mem::replace(&mut removed, true)
        {
            bench.to.delete(&base(LATER), &never).unwrap();
            bench.to.delete(&lost_wal, &never).unwrap();
        }
    };
    let options = CopyOptions::default();
    // WAL comes before the newest backup only where a backup is there already.
    MadeUp::new(FULL, None, 2).put(&bench.to);
    let found = copy(&bench.from, &bench.to, &options, &mut each, &never).unwrap();
    assert!(removed);
    let failed: Vec<&str> = found.failed.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(failed, [record(LATER)]);
    let there = keys(&bench.to, "");
    assert!(!there.contains(&record(LATER)) && there.contains(&lost_wal));
    assert_eq!(found.behind.backups, [LATER]);
    assert!(copied(&bench).failed.is_empty());
    assert_eq!(contents(&bench.to), contents(&bench.from));
}

/// What stores have, and what one lacks of the other, is known from one listing of each prefix of each.
#[test]
fn each_store_is_listed_once() {
    use std::sync::{Arc, Mutex};
    use store_common::{fake, s3};
    let serve = || {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let address = fake::serve(move |request: &fake::Asked| {
            if let Some((_, prefix)) = request.path.split_once("prefix=") {
                let prefix = prefix.split('&').next().unwrap_or_default();
                log.lock().unwrap().push(prefix.to_owned());
            }
            let body = "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>";
            fake::plain(200, body)
        });
        (s3::open(&s3::options(address, &[])), asked)
    };
    let (from, asked_from) = serve();
    let (to, asked_to) = serve();
    let [here, there] = [&from, &to].map(|store| Contents::of(store, &never).unwrap());
    for (store, contents) in [(&from, &here), (&to, &there)] {
        let state = state(store, contents, &BTreeMap::new(), None, &never).unwrap();
        assert!(state.newest_good().is_none());
    }
    assert!(here.lacking_in(&there).is_none());
    for asked in [asked_from, asked_to] {
        let mut asked = asked.lock().unwrap().clone();
        asked.sort();
        let below = |name: &str| format!("some%2Fprefix%2F{name}%2F");
        assert_eq!(asked, ["backups", "snapshots", "wal"].map(below));
    }
}

/// The state that listings tell is the same as that of stores that are compared.
#[test]
fn what_contents_tell() {
    let bench = bench();
    copied(&bench);
    bench.to.delete(&base(LATER), &never).unwrap();
    let [here, there] = [&bench.from, &bench.to].map(|s| Contents::of(s, &never).unwrap());
    let lag = here.lacking_in(&there);
    assert_eq!(lag, compare(&bench.from, &bench.to, &never).unwrap());
    assert_eq!(lag.backups, [LATER]);
    let damaged = BTreeMap::from([(base(INCREMENT), "rotten".to_owned())]);
    let state = state(&bench.to, &there, &damaged, None, &never).unwrap();
    assert_eq!(state.wal, wal_list(&bench.to, &never).unwrap());
    let ids: Vec<&str> = state.backups.iter().map(|b| b.id.as_str()).collect();
    assert_eq!(ids, [FULL, INCREMENT, LATER]);
    let faults: Vec<&str> = state.incomplete.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(faults, [INCREMENT, LATER]);
    assert_eq!(state.newest_good().unwrap().id, FULL);
}

fn base(id: &str) -> String {
    format!("backups/{id}/base.tar.zst")
}

fn record(id: &str) -> String {
    format!("backups/{id}/backup.json")
}

fn has(store: &Store, key: &str) -> bool {
    store.head(key, &never).is_ok()
}

#[test]
fn a_copy_is_the_same_and_the_next_one_does_nothing() {
    let bench = bench();
    let lag = compare(&bench.from, &bench.to, &never).unwrap();
    assert_eq!(lag.backups, [FULL, INCREMENT, LATER]);
    assert_eq!(lag.wal_files, 11);
    assert!(!lag.is_none() && lag.bytes > 6000);
    let (first, order) = copy_told(&bench, &CopyOptions::default());
    assert_eq!(contents(&bench.from), contents(&bench.to));
    assert_eq!((first.objects, first.bytes), (20, lag.bytes));
    assert!(first.failed.is_empty() && first.behind.is_none());
    // The newest backup first, and of WAL that which it needs.
    let at = |key: &str| order.iter().position(|other| other == key).unwrap();
    let wal = |number| format!("wal/00000001/{}.zst", segment(1, number));
    assert!(at(&base(LATER)) < at(&wal(7)) && at(&wal(7)) < at(&wal(3)));
    assert!(at(&record(LATER)) < at(&base(FULL)));
    assert!(at(&record(FULL)) < at(&base(INCREMENT)));
    for id in [FULL, INCREMENT, LATER] {
        assert!(at(&base(id)) < at(&record(id)));
    }
    assert!(at(&wal(2)) < at(&record(FULL)) && at(&wal(4)) < at(&record(INCREMENT)));
    let again = copied(&bench);
    assert_eq!((again.objects, again.behind.is_none()), (0, true));
    assert!(compare(&bench.from, &bench.to, &never).unwrap().is_none());
}

#[test]
fn only_what_a_record_misses_is_copied_again() {
    let bench = bench();
    copied(&bench);
    bench.to.delete(&base(INCREMENT), &never).unwrap();
    bench.to.put(&base(LATER), vec![1], &never).unwrap();
    let wal = format!("wal/00000001/{}.zst", segment(1, 3));
    bench.to.put(&wal, vec![1], &never).unwrap();
    let lag = compare(&bench.from, &bench.to, &never).unwrap();
    assert_eq!((lag.backups.len(), lag.wal_files), (2, 1));
    let (again, _) = copy_told(&bench, &CopyOptions::default());
    // Each of the two with its record.
    assert_eq!((again.objects, again.failed.len()), (5, 0));
    assert_eq!(contents(&bench.from), contents(&bench.to));
}

#[test]
fn what_is_known_to_be_damaged_in_the_copy_is_replaced() {
    let bench = bench();
    copied(&bench);
    let wal = format!("wal/00000001/{}.zst", segment(1, 3));
    let damaged = [base(INCREMENT), record(LATER), wal];
    for key in &damaged {
        flip(&bench.to, key);
    }
    // A listing does not show it.
    let (again, _) = copy_told(&bench, &CopyOptions::default());
    assert_eq!(again.objects, 0);
    let options = CopyOptions {
        replace: damaged.iter().cloned().collect(),
        ..CopyOptions::default()
    };
    let (again, _) = copy_told(&bench, &options);
    let mut replaced = again.replaced.clone();
    replaced.sort();
    assert_eq!((replaced, again.failed.len()), (damaged.to_vec(), 0));
    assert_eq!(contents(&bench.from), contents(&bench.to));
}

#[test]
fn what_is_damaged_is_told_and_not_copied() {
    let bench = bench();
    let good = format!("wal/00000001/{}.zst", segment(1, 2));
    let whole = bench.from.get(&good, 1 << 20, &never).unwrap();
    claim(&bench.to, 7, &never).unwrap();
    bench.to.put(&good, whole.clone(), &never).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    bench.from.put(&good, half, &never).unwrap();
    let bad = format!("wal/00000001/{}.zst", segment(1, 7));
    flip(&bench.from, &bad);
    flip(&bench.from, &base(FULL));
    let copied = copied(&bench);
    let failed: Vec<&str> = copied.failed.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(
        failed,
        [&record(FULL), &base(FULL), &record(INCREMENT), &good, &bad]
    );
    assert!(copied.failed[1].reason.contains("SHA-256"), "{copied:?}");
    assert!(copied.failed[2].reason.contains(FULL), "{copied:?}");
    assert_eq!(bench.to.get(&good, 1 << 20, &never).unwrap(), whole);
    assert!(!has(&bench.to, &bad) && !has(&bench.to, &base(FULL)));
    assert!(!has(&bench.to, &record(FULL)) && !has(&bench.to, &record(INCREMENT)));
    assert!(has(&bench.to, &record(LATER)));
    assert!(has(
        &bench.to,
        &format!("wal/00000001/{}.zst", segment(1, 8))
    ));
    assert_eq!(copied.behind.backups, [FULL, INCREMENT]);
    assert_eq!(copied.behind.wal_files, 2);
}

#[test]
fn a_damaged_object_does_not_replace_a_sound_one() {
    let bench = bench();
    copied(&bench);
    let whole = bench.to.get(&base(FULL), 1 << 20, &never).unwrap();
    for bytes in [whole[1..].to_vec(), vec![0; whole.len()]] {
        bench.from.put(&base(FULL), bytes, &never).unwrap();
        copied(&bench);
        assert_eq!(bench.to.get(&base(FULL), 1 << 20, &never).unwrap(), whole);
    }
    // A record that is damaged does not replace one either.
    let sound = bench.to.get(&record(FULL), 1 << 20, &never).unwrap();
    bench
        .from
        .put(&record(FULL), vec![b'{'; 9], &never)
        .unwrap();
    let copied = copied(&bench);
    assert_eq!(copied.failed[0].key, record(FULL));
    assert_eq!(bench.to.get(&record(FULL), 1 << 20, &never).unwrap(), sound);
}

#[test]
fn different_things_of_one_name_are_left_alone() {
    let bench = bench();
    copied(&bench);
    let mut other = MadeUp::new(LATER, None, 6).record(500);
    other.0.label = "another".to_owned();
    put_record(&bench.to, &other.0);
    let wal = segment(1, 5);
    let key = format!("wal/00000001/{wal}.zst");
    bench.to.delete(&key, &never).unwrap();
    let path = bench.work.path().join("other");
    std::fs::write(&path, b"another file").unwrap();
    let name = wal.parse().unwrap();
    archive(&bench.to, &path, &name, &SealOptions::default(), &never).unwrap();
    let before = contents(&bench.to);
    let copied = copied(&bench);
    let failed: Vec<&str> = copied.failed.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(failed, [&record(LATER), &key]);
    assert_eq!(contents(&bench.to), before);
}

/// Wherever it is cut off, it leaves no record of what is not there, and the next one does not begin what is whole again.
#[test]
fn an_interrupted_copy_is_gone_on_with() {
    for cut in (0..70).step_by(5) {
        let bench = bench();
        let events = Cell::new(0);
        let done = RefCell::new(Vec::new());
        let mut each = |event| {
            events.set(events.get() + 1);
            if let CopyEvent::Copied { key, .. } = event {
                done.borrow_mut().push(key);
            }
        };
        let tick = || match events.get() > cut {
            true => Err(Stopped::new("on purpose")),
            false => Ok(()),
        };
        let options = CopyOptions::default();
        let cut_off = copy(&bench.from, &bench.to, &options, &mut each, &tick);
        for listed in list(&bench.to, &never).unwrap() {
            let backup = listed.backup.unwrap();
            let mut bad = 0;
            let mut each = |check: ObjectCheck| bad += usize::from(!check.ok);
            verify(&bench.to, &backup, &mut each, &never).unwrap();
            assert_eq!(bad, 0, "cut at {cut}");
            assert!(
                backup
                    .parent
                    .is_none_or(|parent| has(&bench.to, &record(&parent)))
            );
        }
        assert!(
            keys(&bench.to, "")
                .iter()
                .all(|key| !key.ends_with("running"))
        );
        let finished = cut_off.is_ok();
        let (_, again) = copy_told(&bench, &options);
        assert_eq!(contents(&bench.from), contents(&bench.to), "cut at {cut}");
        let twice: Vec<_> = again.iter().filter(|k| done.borrow().contains(k)).collect();
        assert!(twice.is_empty(), "cut at {cut}: {twice:?}");
        if finished {
            assert!(cut > 30);
            return;
        }
    }
    panic!("it was never finished");
}

#[test]
fn a_backup_that_is_removed_meanwhile_gets_no_record() {
    let bench = bench();
    let mut each = |event| {
        if matches!(event, CopyEvent::Copied { key, .. } if key == base(LATER)) {
            remove(&bench.from, LATER, &never).unwrap();
        }
    };
    let options = CopyOptions::default();
    let copied = copy(&bench.from, &bench.to, &options, &mut each, &never).unwrap();
    assert!(
        copied.failed.is_empty() && copied.behind.is_none(),
        "{copied:?}"
    );
    assert!(!has(&bench.to, &record(LATER)) && has(&bench.to, &record(INCREMENT)));
}

#[test]
fn wal_does_not_wait_for_the_whole_backup() {
    let bench = bench();
    let late = RefCell::new(String::new());
    let order = RefCell::new(Vec::new());
    let mut each = |event| {
        if let CopyEvent::Copied { key, .. } = event {
            if key == base(LATER) {
                let key = put_wal(&bench.from, bench.work.path(), &segment(1, 20), None);
                late.replace(key);
            }
            order.borrow_mut().push(key);
        }
    };
    copy(
        &bench.from,
        &bench.to,
        &CopyOptions::default(),
        &mut each,
        &never,
    )
    .unwrap();
    let order = order.into_inner();
    let at = |key: &str| order.iter().position(|other| other == key).unwrap();
    assert!(at(&late.borrow()) < at(&format!("backups/{LATER}/backup_manifest.zst")));
}

#[test]
fn encrypted_wal_with_and_without_keys() {
    let secret = age::x25519::Identity::generate();
    let to = Recipients::from_keys([secret.to_public().to_string().as_str()]).unwrap();
    use age::secrecy::ExposeSecret;
    let options = CopyOptions {
        identities: Some(Identities::from_text(secret.to_string().expose_secret()).unwrap()),
        ..CopyOptions::default()
    };
    let bench = bench();
    let work = bench.work.path();
    let sound = put_wal(&bench.from, work, &segment(2, 9), Some(&to));
    let damaged = put_wal(&bench.from, work, &segment(2, 10), Some(&to));
    let no_sum = put_wal(&bench.from, work, &segment(2, 11), Some(&to));
    flip(&bench.from, &damaged);
    let sum = no_sum.replace("zst.age", "sha256");
    bench.from.put(&sum, b"x".to_vec(), &never).unwrap();
    let (first, order) = copy_told(&bench, &options);
    let failed: Vec<&str> = first.failed.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(failed, [&damaged, &sum, &no_sum]);
    let at = |key: &str| order.iter().position(|other| other == key).unwrap();
    assert!(at(&sound.replace("zst.age", "sha256")) < at(&sound));
    // Without keys nobody can tell, and it is what it is.
    let (second, _) = copy_told(&bench, &CopyOptions::default());
    assert_eq!(second.failed.len(), 2, "{second:?}");
    let bytes = bench.from.get(&damaged, 1 << 20, &never).unwrap();
    let there = bench.to.sha256(&damaged, &never).unwrap();
    assert_eq!(there.sha256, sha256(&bytes));
    // Nor can it be told which one of two is the right one.
    bench.from.put(&sound, bytes[1..].to_vec(), &never).unwrap();
    let (third, _) = copy_told(&bench, &CopyOptions::default());
    assert!(third.failed.iter().any(|f| f.key == sound), "{third:?}");
    assert_ne!(
        bench.to.head(&sound, &never).unwrap().size,
        bytes.len() as u64 - 1
    );
}

#[test]
fn whose_stores_they_are() {
    let bench = bench();
    let refused = |from: &Store, to: &Store| {
        let error = copy(from, to, &CopyOptions::default(), &mut |_| {}, &never).unwrap_err();
        assert!(matches!(error, BackupError::Refused { .. }), "{error:?}");
        error.to_string()
    };
    assert!(refused(&bench.to, &bench.from).contains("cluster.json"));
    assert!(refused(&bench.from, &bench.from).contains("itself"));
    claim(&bench.to, 8, &never).unwrap();
    assert!(refused(&bench.from, &bench.to).contains("belongs to the cluster"));
    assert_eq!(keys(&bench.to, ""), ["cluster.json"]);
}
