//! What a verification of a backup finds, and which backup is chosen.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backup_common;
mod store_common;

use backup_common::made_up::*;
use backup_common::{ready, row, serve, welcome};
use store_common::file_store;
use varve_core::backup::*;
use varve_core::seal::Recipients;
use varve_core::store::Store;
use varve_core::wait::never;

const FULL: &str = "20260101T020000000-full";
const CHILD: &str = "20260101T040000000-incremental";
const LAST: &str = "20260101T060000000-incremental";

struct Bench {
    work: tempfile::TempDir,
    store: Store,
    last: Backup,
}

/// A chain of three, the last of which needs the segments 6 to 8, and WAL.
fn bench() -> Bench {
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let store = file_store(&root);
    MadeUp::new(FULL, None, 2).put(&store);
    MadeUp::new(CHILD, Some(FULL), 4).put(&store);
    let mut last = MadeUp::new(LAST, Some(CHILD), 6);
    last.segments = (6, 8);
    let last = last.put(&store);
    for number in 1..12 {
        put_wal(&store, work.path(), &segment(1, number), None);
    }
    Bench { work, store, last }
}

impl Bench {
    fn found(&self, backup: &Backup) -> Vec<ObjectCheck> {
        let mut found = Vec::new();
        let mut each = |check| found.push(check);
        verify_chain(&self.store, backup, None, &mut each, &never).unwrap();
        found
    }

    /// The keys of what is not sound, and what is said of it.
    fn bad(&self) -> Vec<(String, String)> {
        let bad = self.found(&self.last).into_iter().filter(|check| !check.ok);
        bad.map(|check| (check.key, check.detail.unwrap()))
            .collect()
    }
}

fn wal(number: u64) -> String {
    format!("wal/00000001/{}.zst", segment(1, number))
}

#[test]
fn the_chain_and_its_wal() {
    let bench = bench();
    let found = bench.found(&bench.last);
    assert!(found.iter().all(|check| check.ok), "{found:?}");
    let keys: Vec<&str> = found.iter().map(|check| check.key.as_str()).collect();
    let mut expected = Vec::new();
    for id in [FULL, CHILD, LAST] {
        expected.push(format!("backups/{id}/base.tar.zst"));
        expected.push(format!("backups/{id}/backup_manifest.zst"));
    }
    expected.extend([6, 7, 8].map(wal));
    assert_eq!(keys, expected);
    assert!(
        found
            .iter()
            .all(|check| Some(&check.expected) == check.actual.as_ref())
    );
}

/// A record may say that it ends at the end of all WAL, or before it begins.
#[test]
fn records_that_lie_of_where_they_end() {
    let mut bench = bench();
    bench.last.stop_lsn = Lsn(u64::MAX);
    bench.last.includes_wal = true;
    let found = bench.found(&bench.last);
    // What there is of it, and no more.
    assert_eq!(found.len(), 6 + 6);
    assert!(found.iter().all(|check| check.ok), "{found:?}");
    bench.last.stop_lsn = Lsn(bench.last.start_lsn.0 - 1);
    let json = bench.last.to_json().unwrap();
    let error = Backup::from_json(LAST, &json).unwrap_err();
    assert!(error.to_string().contains("before it begins"), "{error}");
}

#[test]
fn all_that_is_wrong_is_named() {
    for (what, key, detail) in [
        ("flip", format!("backups/{FULL}/base.tar.zst"), "its bytes"),
        ("cut", format!("backups/{CHILD}/base.tar.zst"), "999 bytes"),
        (
            "lose",
            format!("backups/{CHILD}/backup_manifest.zst"),
            "not found",
        ),
        ("lose", format!("backups/{LAST}/base.tar.zst"), "not found"),
        (
            "lose",
            format!("backups/{FULL}/backup.json"),
            "does not exist",
        ),
        ("flip", format!("backups/{CHILD}/backup.json"), "damaged"),
        ("flip", wal(6), "damaged"),
        ("cut", wal(8), "damaged"),
        ("lose", wal(7), "missing"),
    ] {
        let bench = bench();
        match what {
            "flip" => flip(&bench.store, &key),
            "lose" => bench.store.delete(&key, &never).unwrap(),
            _ => {
                let whole = bench.store.get(&key, 1 << 20, &never).unwrap();
                let cut = whole[..whole.len() - 1].to_vec();
                bench.store.put(&key, cut, &never).unwrap();
            }
        }
        let bad = bench.bad();
        let expected = match detail {
            "missing" => segment(1, 7),
            _ => key,
        };
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert_eq!(bad[0].0, expected);
        let text = &bad[0].1;
        assert!(
            text.contains(detail) || text.contains("corrupt"),
            "{expected}: {text}"
        );
    }
}

#[test]
fn wal_that_the_backup_has_or_nobody_can_read() {
    let bench = bench();
    for number in 6..9 {
        bench.store.delete(&wal(number), &never).unwrap();
    }
    let mut alone = bench.last.clone();
    alone.includes_wal = true;
    assert!(bench.found(&alone).iter().all(|check| check.ok));
    let secret = age::x25519::Identity::generate();
    let to = Recipients::from_keys([secret.to_public().to_string().as_str()]).unwrap();
    for number in 6..9 {
        put_wal(
            &bench.store,
            bench.work.path(),
            &segment(1, number),
            Some(&to),
        );
    }
    let key = wal(7) + ".age";
    let found = bench.found(&bench.last);
    let check = found.iter().find(|check| check.key == key).unwrap();
    assert!(check.ok && check.actual.is_none() && check.expected.is_empty());
    assert!(
        check.detail.as_ref().unwrap().contains("no key"),
        "{check:?}"
    );
    bench.store.put(&key, Vec::new(), &never).unwrap();
    assert_eq!(bench.bad(), [(key, "it is empty".to_owned())]);
}

/// No record makes a verification tell of segments without end.
#[test]
fn a_backup_that_needs_all_wal_that_there_can_be() {
    let bench = bench();
    let mut endless = bench.last.clone();
    endless.stop_lsn = Lsn(u64::MAX);
    let found = bench.found(&endless);
    let missing = found.iter().filter(|check| !check.ok).count();
    assert_eq!(missing, 1001);
    let last = found.last().unwrap();
    assert!(
        last.detail.as_ref().unwrap().contains("no more"),
        "{last:?}"
    );
}

/// A timeline was left at segment 5 for the next one: what ended on it later leads nowhere.
#[test]
fn backups_of_a_timeline_that_was_left() {
    let at = |id, segment| MadeUp::new(id, None, segment).record(10).0;
    let before = at("20260101T020000000-full", 2);
    let left = at("20260101T060000000-full", 6);
    let mut timelines = Timelines::default();
    let history = TimelineHistory::parse(&format!("1\t0/{:X}\twhy\n", 5 * SEGMENT)).unwrap();
    timelines.insert(2, history);
    let both = [before.clone(), left.clone()];
    let chosen = |backups: &[Backup], target, timeline| {
        choose_along(backups, target, &timelines, timeline).map(|b| b.id.clone())
    };
    let (late, early) = (Target::Time(moment(7)), Target::Time(moment(1)));
    let (first, second) = (Some(before.id.clone()), Some(left.id.clone()));
    assert_eq!(choose(&both, Target::Latest).map(|b| b.id.clone()), second);
    assert_eq!(chosen(&both, Target::Latest, None), first);
    assert_eq!(chosen(&both, late, None), first);
    assert_eq!(chosen(&both, early, None), None);
    // One may want the old one.
    assert_eq!(chosen(&both, Target::Latest, Some(1)), second);
    assert_eq!(chosen(&both, late, Some(3)), None);
    // Where none leads to the newest, there is no better one.
    assert_eq!(chosen(&both[1..], Target::Latest, None), second);
    let mut new = at("20260101T080000000-full", 8);
    new.timeline = 2;
    let all = [before, left, new.clone()];
    assert_eq!(chosen(&all, Target::Latest, None), Some(new.id));
    assert_eq!(chosen(&all, late, None), first);
    // Nothing is known of where a timeline came from.
    let none = Timelines::default();
    let ids = |backup: Option<&Backup>| backup.map(|b| b.id.clone());
    assert_eq!(ids(choose_along(&both, late, &none, None)), second);
}

/// A server that went on from segment 5 on a timeline of its own takes nothing against what ended behind that on the old one.
#[test]
fn parents_are_of_the_servers_past() {
    let bench = bench();
    let info = serve(bench.work.path(), |number, text| {
        let rows = match text {
            _ if number == 0 => return welcome(),
            "IDENTIFY_SYSTEM" => row(&[Some("7"), Some("2"), Some("0/900000"), None]),
            "TIMELINE_HISTORY 2" => row(&[Some("00000002.history"), Some("1\t0/500000\twhy\n")]),
            "SHOW server_version" => row(&[Some("17.12")]),
            "SHOW wal_segment_size" => row(&[Some("1MB")]),
            "SHOW archive_mode" | "SHOW summarize_wal" => row(&[Some("on")]),
            "SHOW block_size" => row(&[Some("8192")]),
            "SHOW segment_size" => row(&[Some("1GB")]),
            _ => return Vec::new(),
        };
        [rows, ready()].concat()
    });
    let taken = |kind| {
        let options = TakeOptions::new(kind);
        take(&bench.store, &info, &options, &mut |_| {}, &never)
            .unwrap_err()
            .to_string()
    };
    // What was made up has no manifest that anybody could read: the error says whose it is.
    assert!(taken(Kind::Incremental).contains(&format!("{CHILD}/backup_manifest")));
    assert!(taken(Kind::Differential).contains(&format!("{FULL}/backup_manifest")));
    for id in [FULL, CHILD] {
        remove(&bench.store, id, &never).unwrap();
    }
    assert!(taken(Kind::Incremental).contains("this timeline's past"));
}

/// Histories come from the stores, from the first that has them undamaged.
#[test]
fn timelines_of_stores() {
    let bench = bench();
    let path = bench.work.path().join("history");
    std::fs::write(&path, "1\t0/500000\twhy\n").unwrap();
    let name: WalName = "00000002.history".parse().unwrap();
    let seal = SealOptions::default();
    archive(&bench.store, &path, &name, &seal, &never).unwrap();
    let root = bench.work.path().join("other");
    std::fs::create_dir(&root).unwrap();
    let other = file_store(&root);
    let broken = "wal/00000002/00000002.history.zst";
    other.put(broken, b"x".to_vec(), &never).unwrap();
    let known = Timelines::of(&[&other, &bench.store], None, &never).unwrap();
    assert_eq!(known.newest(), Some(2));
    assert!(known.lead(1, Lsn(0x50_0000), 2) && !known.lead(1, Lsn(0x50_0001), 2));
    assert!(known.lead(2, Lsn(u64::MAX), 2) && !known.lead(2, Lsn(0), 1));
    assert_eq!(
        Timelines::of(&[&other], None, &never).unwrap(),
        Timelines::default()
    );
}
