//! Backups of servers that send what no server does, and restores that are cancelled.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backup_common;
mod store_common;

use std::cell::Cell;
use std::path::Path;

use backup_common::*;
use varve_core::backup::*;
use varve_core::replication::ConnInfo;
use varve_core::store::{Store, StoreConfig};
use varve_core::wait::{Stopped, never};

const VERSION: &[u8] = b"17\n";

fn store(directory: &Path) -> Store {
    Store::open(&StoreConfig::from_url(&format!("file://{}", directory.display())).unwrap())
        .unwrap()
}

/// Takes a backup of these entries and this manifest, and restores it; the error of either.
fn around(work: &Path, entries: &[Vec<u8>], manifest: &[u8]) -> Result<Restored, BackupError> {
    let info = backup_server(work, pieces(entries, manifest));
    let root = work.join("store");
    std::fs::create_dir(&root).unwrap();
    let store = store(&root);
    let backup = take(
        &store,
        &info,
        &TakeOptions::new(Kind::Full),
        &mut |_| {},
        &never,
    )?;
    restore(&[&store], &backup.id, &options(work), &mut |_| {}, &never)
}

fn options(work: &Path) -> RestoreOptions {
    RestoreOptions {
        pgdata: work.join("pgdata"),
        tablespaces: Vec::new(),
        threads: 2,
        recovery: Recovery::default(),
        identities: None,
    }
}

/// Takes a full backup, and tells its id.
fn full(store: &Store, server: &ConnInfo) -> String {
    let options = TakeOptions::new(Kind::Full);
    take(store, server, &options, &mut |_| {}, &never)
        .unwrap()
        .id
}

#[test]
fn a_small_backup_there_and_back() {
    let work = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..20_000_000u32).map(|n| (n / 7) as u8).collect();
    let files: [(&str, &[u8]); 3] = [
        ("PG_VERSION", VERSION),
        ("base/1/2", &large),
        ("global/pg_control", b"c"),
    ];
    let mut entries = vec![header("base", b'5', 0, ""), header("base/1", b'5', 0, "")];
    entries.extend(files.iter().map(|(path, content)| tar_file(path, content)));
    let restored = around(work.path(), &entries, &manifest(&files)).unwrap();
    assert!(!restored.resumed && restored.repaired.is_empty());
    let pgdata = work.path().join("pgdata");
    for (path, content) in files {
        assert_eq!(std::fs::read(pgdata.join(path)).unwrap(), content, "{path}");
    }
    assert!(pgdata.join("recovery.signal").exists() && !pgdata.join("varve_restore").exists());
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&pgdata).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn archives_that_lie() {
    let good = tar_file("PG_VERSION", VERSION);
    let listed = manifest(&[("PG_VERSION", VERSION)]);
    let link = |path: &str| header(path, b'2', 0, "/etc");
    for (name, entries, manifest) in [
        (
            "a way out",
            vec![good.clone(), tar_file("../evil", b"x")],
            listed.clone(),
        ),
        (
            "a whole path",
            vec![good.clone(), tar_file("/tmp/varve-evil", b"x")],
            listed.clone(),
        ),
        ("a link", vec![good.clone(), link("base")], listed.clone()),
        (
            "a link of no tablespace",
            vec![good.clone(), link("pg_tblspc/../x")],
            listed.clone(),
        ),
        (
            "a file that is not listed",
            vec![good.clone(), tar_file("more", b"x")],
            listed.clone(),
        ),
        (
            "a file twice",
            vec![good.clone(), good.clone()],
            listed.clone(),
        ),
        (
            "a file that is missing",
            vec![good.clone()],
            manifest(&[("PG_VERSION", VERSION), ("x", b"")]),
        ),
        (
            "other bytes",
            vec![tar_file("PG_VERSION", b"16\n")],
            listed.clone(),
        ),
        ("no manifest", vec![good.clone()], b"{}".to_vec()),
        ("no archive", vec![b"abc".repeat(1000)], listed.clone()),
    ] {
        let work = tempfile::tempdir().unwrap();
        let result = around(work.path(), &entries, &manifest);
        let error = result.err().unwrap_or_else(|| panic!("{name} was taken"));
        let expected = matches!(error, BackupError::Corrupt { .. } | BackupError::Io { .. });
        assert!(expected, "{name}: {error:?}");
        assert!(!work.path().join("pgdata/global/pg_control").exists());
        assert!(
            !work.path().join("pgdata/evil").exists()
                && !work.path().join("pgdata/varve_restore/evil").exists()
        );
    }
}

#[test]
fn servers_that_break_off_leave_no_backup() {
    let whole = pieces(
        &[tar_file("PG_VERSION", VERSION)],
        &manifest(&[("PG_VERSION", VERSION)]),
    );
    let base = &whole[..1];
    for broken in [
        vec![],
        base.to_vec(),
        [base, &[b"?".to_vec()]].concat(),
        [base, &[b"n../../x.tar\0\0".to_vec()]].concat(),
        vec![b"dx".to_vec()],
        whole[..whole.len() - 2].to_vec(),
        [&whole[..], base].concat(),
    ] {
        let work = tempfile::tempdir().unwrap();
        let info = backup_server(work.path(), broken.clone());
        let store = store(work.path());
        let taken = take(
            &store,
            &info,
            &TakeOptions::new(Kind::Full),
            &mut |_| {},
            &never,
        );
        assert!(taken.is_err(), "{broken:?}");
        assert!(list(&store, &never).unwrap().is_empty());
        let left: Vec<_> = store.list(BACKUP_PREFIX, &never).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_cancelled_restore_is_gone_on_with() {
    let work = tempfile::tempdir().unwrap();
    let large = vec![7; 30_000_000];
    let files: [(&str, &[u8]); 2] = [("PG_VERSION", VERSION), ("base/1", &large)];
    let entries: Vec<_> = files
        .iter()
        .map(|(path, content)| tar_file(path, content))
        .collect();
    let info = backup_server(work.path(), pieces(&entries, &manifest(&files)));
    let root = work.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let store = store(&root);
    let id = full(&store, &info);
    let options = options(work.path());
    let enough = Cell::new(false);
    let error = restore(
        &[&store],
        &id,
        &options,
        &mut |now| enough.set(now.bytes > 10_000_000),
        &|| match enough.get() {
            true => Err(Stopped::new("on purpose")),
            false => Ok(()),
        },
    )
    .unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
    assert!(options.pgdata.join("varve_restore/marker.json").exists());
    assert!(!options.pgdata.join("PG_VERSION").exists());
    let mut other = options.clone();
    other.recovery.immediate = true;
    let error = restore(&[&store], &id, &other, &mut |_| {}, &never).unwrap_err();
    assert!(matches!(error, BackupError::Refused { .. }), "{error:?}");
    let restored = restore(&[&store], &id, &options, &mut |_| {}, &never).unwrap();
    assert!(restored.resumed);
    assert_eq!(std::fs::read(options.pgdata.join("base/1")).unwrap(), large);
}

/// Through a real S3 server: a backup and a file of WAL, and what it has lost comes from a directory.
#[test]
fn a_backup_in_s3() {
    use store_common::s3::Server;
    let work = tempfile::tempdir().unwrap();
    let large: Vec<u8> = store_common::noise(1, 20_000_000);
    let files: [(&str, &[u8]); 2] = [("PG_VERSION", VERSION), ("base/1", &large)];
    let entries: Vec<_> = files
        .iter()
        .map(|(path, content)| tar_file(path, content))
        .collect();
    let info = backup_server(work.path(), pieces(&entries, &manifest(&files)));
    let server = Server::start(&work.path().join("s3"));
    let s3 = server.store(&[]);
    let id = full(&s3, &info);
    let mut bad = 0;
    let backup = load(&s3, &id, &never).unwrap();
    verify(
        &s3,
        &backup,
        &mut |check| bad += usize::from(!check.ok),
        &never,
    )
    .unwrap();
    assert_eq!(bad, 0);
    let segment = work.path().join("segment");
    std::fs::write(&segment, &large[..1 << 20]).unwrap();
    let name: WalName = "000000010000000000000002".parse().unwrap();
    for expected in [Archived::Written, Archived::Same] {
        let seal = SealOptions::default();
        assert_eq!(
            archive(&s3, &segment, &name, &seal, &never).unwrap(),
            expected
        );
    }
    let to = work.path().join("fetched");
    fetch(&s3, &name, &to, None, &never).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), large[..1 << 20]);
    let root = work.path().join("copy");
    std::fs::create_dir(&root).unwrap();
    let copy = store(&root);
    for object in s3.list("", &never).unwrap() {
        let key = object.unwrap().key;
        let sum = s3.sha256(&key, &never).unwrap().sha256;
        copy.copy_verified(&s3, &key, &key, &sum, &never).unwrap();
    }
    let base = &backup.object(Archive::Base).unwrap().key;
    s3.delete(base, &never).unwrap();
    let restored = restore(
        &[&s3, &copy],
        &id,
        &options(work.path()),
        &mut |_| {},
        &never,
    )
    .unwrap();
    assert_eq!(restored.repaired.len(), 1);
    assert_eq!(
        std::fs::read(work.path().join("pgdata/base/1")).unwrap(),
        large
    );
}

/// Frames that are fetched together: those before a damaged one have been handed on when it is found.
#[test]
fn a_frame_in_the_midst_is_damaged() {
    let work = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..30u64)
        .flat_map(|n| store_common::noise(n, 1000).repeat(1 << 10))
        .collect();
    let files: [(&str, &[u8]); 2] = [("PG_VERSION", VERSION), ("base/1", &large)];
    let entries = files.map(|(path, content)| tar_file(path, content));
    let info = backup_server(work.path(), pieces(&entries, &manifest(&files)));
    let [one, two] = ["one", "two"].map(|name| {
        std::fs::create_dir(work.path().join(name)).unwrap();
        store(&work.path().join(name))
    });
    let id = full(&one, &info);
    for object in one.list("", &never).unwrap() {
        let key = object.unwrap().key;
        let sum = one.sha256(&key, &never).unwrap().sha256;
        two.copy_verified(&one, &key, &key, &sum, &never).unwrap();
    }
    let backup = load(&one, &id, &never).unwrap();
    let base = backup.object(Archive::Base).unwrap();
    assert!(base.frames.len() > 5 && base.stored_bytes < 1 << 20);
    let mut bytes = one.get(&base.key, 1 << 20, &never).unwrap();
    let before: u32 = base.frames[..3].iter().sum();
    bytes[before as usize + 100] ^= 1;
    one.put(&base.key, bytes, &never).unwrap();
    let from = |stores: &[&Store]| restore(stores, &id, &options(work.path()), &mut |_| {}, &never);
    let error = from(&[&one]).unwrap_err();
    assert!(matches!(error, BackupError::Corrupt { .. }), "{error}");
    assert_eq!(from(&[&one, &two]).unwrap().repaired.len(), 1);
    let found = std::fs::read(work.path().join("pgdata/base/1")).unwrap();
    assert!(found == large);
}

#[test]
fn checks_are_in_the_record() {
    let work = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 1] = [("PG_VERSION", VERSION)];
    let entries = [tar_file("PG_VERSION", VERSION)];
    let info = backup_server(work.path(), pieces(&entries, &manifest(&files)));
    let store = store(work.path());
    let options = TakeOptions::new(Kind::Full);
    let with = |checks: &mut dyn FnMut(&Backup) -> Result<serde_json::Value, BackupError>| {
        take_with_checks(&store, &info, &options, &mut |_| {}, checks, &never)
    };
    let noted = serde_json::json!({"public.prices": {"rows": 3}});
    let id = with(&mut |so_far| {
        assert_eq!(so_far.stop_lsn.to_string(), "0/2000120");
        // Until it is whole it says that it is alive.
        let sign = format!("backups/{}/running", so_far.id);
        assert!(store.head(&sign, &never).is_ok());
        Ok(noted.clone())
    })
    .unwrap()
    .id;
    assert_eq!(load(&store, &id, &never).unwrap().checks, noted);
    assert!(
        store
            .head(&format!("backups/{id}/running"), &never)
            .is_err()
    );
    let failed = with(&mut |_| {
        Err(BackupError::Refused {
            message: "no".to_owned(),
            hint: String::new(),
        })
    });
    assert!(failed.is_err());
    assert_eq!(list(&store, &never).unwrap().len(), 1);
}

/// A record may say anything of the manifest's size: no more memory is had for it than a manifest can need.
#[test]
fn a_manifest_that_is_too_large() {
    let work = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 1] = [("PG_VERSION", VERSION)];
    let entries = [tar_file("PG_VERSION", VERSION)];
    let info = backup_server(work.path(), pieces(&entries, &manifest(&files)));
    let store = store(work.path());
    let id = full(&store, &info);
    let mut record = load(&store, &id, &never).unwrap();
    for object in &mut record.objects {
        if object.archive == Archive::Manifest {
            object.frame_bytes = 1 << 24;
            object.frames = vec![object.frames[0]; 70];
            object.raw_bytes = 70 << 24;
            object.stored_bytes = 70 * u64::from(object.frames[0]);
        }
    }
    made_up::put_record(&store, &record);
    let error = restore(&[&store], &id, &options(work.path()), &mut |_| {}, &never).unwrap_err();
    assert!(
        error.to_string().contains("no manifest has more"),
        "{error}"
    );
}

/// What one store has damaged comes from the next, wherever the byte is, and the rest is verified.
#[test]
fn a_byte_of_an_encrypted_files_head() {
    use age::secrecy::ExposeSecret;
    use varve_core::seal::{Identities, Recipients};
    let secret = age::x25519::Identity::generate();
    let to = Recipients::from_keys([secret.to_public().to_string().as_str()]).unwrap();
    let identities = Identities::from_text(secret.to_string().expose_secret()).unwrap();
    let work = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        std::fs::create_dir(work.path().join(name)).unwrap();
        store(&work.path().join(name))
    };
    let (one, two) = (open("one"), open("two"));
    let name = made_up::segment(1, 1);
    for store in [&one, &two] {
        made_up::put_wal(store, work.path(), &name, Some(&to));
        made_up::put_wal(store, work.path(), &made_up::segment(1, 2), Some(&to));
    }
    let files = wal_list(&one, &never).unwrap();
    let key = &files[0].key;
    let whole = one.get(key, 1 << 20, &never).unwrap();
    let parsed: WalName = name.parse().unwrap();
    let fetched = work.path().join("fetched");
    for at in 0..260 {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        one.put(key, bytes, &never).unwrap();
        let stores = [&one, &two];
        let from = fetch_from_any(&stores, &parsed, &fetched, Some(&identities), &never);
        let (number, troubles) = from.unwrap_or_else(|error| panic!("byte {at}: {error}"));
        assert_eq!((number, troubles.len()), (1, 1), "byte {at}");
        let mut found = Vec::new();
        let mut each = |check: ObjectCheck| found.push(check.ok);
        verify_wal(&one, &files, Some(&identities), &mut each, &never).unwrap();
        assert_eq!(found, [false, true], "byte {at}");
    }
}

/// A bench with a server that takes increments, and a full backup in the store.
fn increments(work: &Path, tell: impl Fn(&Store, &str) + Send + 'static) -> (Store, ConnInfo) {
    let root = work.join("store");
    std::fs::create_dir(&root).unwrap();
    let files: [(&str, &[u8]); 1] = [("PG_VERSION", VERSION)];
    let sent = pieces(&[tar_file("PG_VERSION", VERSION)], &manifest(&files));
    let told = store(&root);
    let info = backup_server_telling(work, sent, move |text| tell(&told, text));
    let store = store(&root);
    (store, info)
}

fn increment(store: &Store, server: &ConnInfo) -> Result<Backup, BackupError> {
    let options = TakeOptions::new(Kind::Incremental);
    take(store, server, &options, &mut |_| {}, &never)
}

fn signs(store: &Store) -> Vec<String> {
    let all = store_common::keys(store, BACKUP_PREFIX).into_iter();
    all.filter(|key| key.ends_with("/running")).collect()
}

/// Its sign of life names the parent before the parent is read for the last time.
#[test]
fn the_parent_is_kept_before_it_is_read() {
    let work = tempfile::tempdir().unwrap();
    let (sender, told) = std::sync::mpsc::channel();
    let (store, info) = increments(work.path(), move |store, text| {
        if text == "UPLOAD_MANIFEST" {
            let sign = store.get(&signs(store)[0], 1000, &never).unwrap();
            sender.send(String::from_utf8(sign).unwrap()).unwrap();
        }
    });
    let parent = full(&store, &info);
    let child = increment(&store, &info).unwrap();
    assert_eq!(child.parent, Some(parent.clone()));
    assert_eq!(told.recv().unwrap().lines().next(), Some(parent.as_str()));
    assert!(signs(&store).is_empty());
}

#[test]
fn a_parent_that_is_removed_meanwhile() {
    for at in ["SHOW summarize_wal", "BASE_BACKUP"] {
        let work = tempfile::tempdir().unwrap();
        let (store, info) = increments(work.path(), move |store, text| {
            if text.starts_with(at)
                && let Some(parent) = list(store, &never).unwrap().first()
            {
                remove(store, &parent.id, &never).unwrap();
            }
        });
        let parent = full(&store, &info);
        let error = increment(&store, &info).unwrap_err();
        let expected = matches!(error, BackupError::Refused { .. });
        assert!(
            expected && error.to_string().contains(&parent),
            "{at}: {error}"
        );
        let left = store_common::keys(&store, "");
        assert_eq!(left, [CLUSTER_KEY], "{at}");
    }
}

/// What lacks an object, or is based on what does, is no parent.
#[test]
fn a_parent_that_is_not_whole() {
    let work = tempfile::tempdir().unwrap();
    let (store, info) = increments(work.path(), |_, _| {});
    let sound = full(&store, &info);
    let lost = full(&store, &info);
    let on_lost = increment(&store, &info).unwrap();
    assert_eq!(on_lost.parent.as_ref(), Some(&lost));
    let base = format!("backups/{lost}/base.tar.zst");
    let whole = store.get(&base, 1 << 20, &never).unwrap();
    store.delete(&base, &never).unwrap();
    assert_eq!(increment(&store, &info).unwrap().parent, Some(sound));
    for listed in list(&store, &never).unwrap() {
        if listed.id != lost && listed.id != on_lost.id {
            remove(&store, &listed.id, &never).unwrap();
        }
    }
    let none = increment(&store, &info).unwrap_err();
    assert!(matches!(none, BackupError::Refused { .. }), "{none}");
    store.put(&base, whole, &never).unwrap();
    assert_eq!(increment(&store, &info).unwrap().parent, Some(on_lost.id));
}

#[test]
fn leftovers_are_swept_and_backups_removed() {
    let work = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 1] = [("PG_VERSION", VERSION)];
    let info = backup_server(
        work.path(),
        pieces(&[tar_file("PG_VERSION", VERSION)], &manifest(&files)),
    );
    let root = work.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let store = store(&root);
    let id = full(&store, &info);
    let left = "backups/20260101T000000000-full/base.tar.zst";
    store.put(left, vec![1], &never).unwrap();
    let others = [
        "backups/mine/notes.txt",
        "backups/20260101T000000000-full/notes.txt",
    ];
    for other in others {
        store.put(other, vec![1], &never).unwrap();
    }
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(sweep(&store, hour, &never).unwrap(), 0);
    assert_eq!(sweep(&store, std::time::Duration::ZERO, &never).unwrap(), 1);
    assert!(store.head(left, &never).is_err());
    for other in others {
        assert!(store.head(other, &never).is_ok());
        store.delete(other, &never).unwrap();
    }
    assert_eq!(list(&store, &never).unwrap().len(), 1);
    remove(&store, &id, &never).unwrap();
    assert_eq!(store.list(BACKUP_PREFIX, &never).unwrap().count(), 0);
    assert!(load(&store, &id, &never).unwrap_err().is_not_found());
    assert!(
        load(&store, "../../etc", &never)
            .unwrap_err()
            .is_not_found()
    );
}
