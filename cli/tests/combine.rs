//! A chain that is restored is, byte for byte, what `pg_combinebackup` makes of it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Bench, all};

/// Files that say how the server shall recover, and the manifest, which says when each file was changed.
const DIFFERENT: [&str; 3] = ["postgresql.auto.conf", "recovery.signal", "backup_manifest"];

/// What happens between two backups to the files of relations: each table meets something else in each round.
const ROUNDS: [&str; 4] = [
    "UPDATE scattered SET n = -n WHERE n % 5000 = 1; INSERT INTO grows SELECT generate_series(1, 50000);
     DELETE FROM shrinks WHERE n > 1000; VACUUM shrinks;
     INSERT INTO shrinks SELECT generate_series(1, 90000);
     CREATE TABLE younger AS SELECT generate_series(1, 5000) n; TRUNCATE emptied;
     INSERT INTO moved SELECT generate_series(1, 5000)",
    "UPDATE scattered SET n = n WHERE n % 7000 = 1; VACUUM scattered; DELETE FROM shrinks WHERE n > 10; VACUUM shrinks;
     INSERT INTO emptied SELECT generate_series(1, 3000); UPDATE younger SET n = 0 WHERE n = 2500;
     CREATE TABLE in_late (n int) TABLESPACE late; INSERT INTO in_late SELECT generate_series(1, 10000);
     DROP TABLE dropped",
    "CREATE INDEX ON scattered (n); INSERT INTO shrinks SELECT generate_series(1, 20000);
     UPDATE in_late SET n = 5 WHERE n = 6; DELETE FROM grows WHERE n > 5; VACUUM grows; CREATE DATABASE other;
     UPDATE moved SET n = 1 WHERE n = 2",
    "UPDATE younger SET n = 1",
];

/// Unpacks the archives of one backup beside each other, as a plain backup has them; where its tablespaces are.
fn unpack(backup: &Path, to: &Path) -> Vec<PathBuf> {
    let mut tablespaces = Vec::new();
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(backup).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = name.strip_suffix(".zst") else {
            continue;
        };
        let plain = zstd::decode_all(File::open(&path).unwrap()).unwrap();
        let Some(oid) = name.strip_suffix(".tar") else {
            fs::write(to.join(name), plain).unwrap();
            continue;
        };
        let directory = match oid {
            "base" => to.to_owned(),
            oid => PathBuf::from(format!("{}-{oid}", to.display())),
        };
        fs::create_dir_all(&directory).unwrap();
        let tar = directory.join("archive.tar");
        fs::write(&tar, plain).unwrap();
        let mut command = Command::new("tar");
        command.args([
            "-x",
            "--exclude=./pg_tblspc/*",
            "--exclude=pg_tblspc/*",
            "-f",
        ]);
        let status = command.arg(&tar).current_dir(&directory).status().unwrap();
        assert!(status.success(), "{}", path.display());
        fs::remove_file(tar).unwrap();
        if oid != "base" {
            tablespaces.push(directory);
        }
    }
    for directory in &tablespaces {
        let name = directory.display().to_string();
        let link = to.join("pg_tblspc").join(name.rsplit('-').next().unwrap());
        std::os::unix::fs::symlink(directory, link).unwrap();
    }
    tablespaces
}

/// The files in a directory and where its links lead, with what is in them.
fn files(directory: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        match fs::metadata(entry.path()).unwrap().is_dir() {
            true => files(&entry.path(), &format!("{name}/"), found),
            false if DIFFERENT.contains(&name.as_str()) => {}
            false => {
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
}

/// What the manifest says, but for when each file was changed last and its own checksum.
fn manifest(directory: &Path) -> (serde_json::Value, BTreeMap<String, (u64, String)>) {
    let text = fs::read_to_string(directory.join("backup_manifest")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = manifest["Files"].take();
    manifest
        .as_object_mut()
        .unwrap()
        .remove("Manifest-Checksum");
    let files = files.as_array().unwrap().iter().map(|file| {
        let checksum = file["Checksum"].as_str().unwrap().to_owned();
        let size = file["Size"].as_u64().unwrap();
        (file["Path"].as_str().unwrap().to_owned(), (size, checksum))
    });
    let files = files.collect();
    (manifest, files)
}

#[test]
fn what_postgresql_makes_of_a_chain() {
    let mut bench = Bench::with(&["autovacuum = off"]);
    let (early, late) = (bench.directory("early"), bench.directory("late"));
    for (name, directory) in [("early", &early), ("late", &late)] {
        let sql = format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            directory.display()
        );
        bench.client.batch_execute(&sql).unwrap();
    }
    let setup = "CREATE TABLE scattered AS SELECT generate_series(1, 300000) n;
        CREATE TABLE grows (n int); CREATE TABLE emptied AS SELECT generate_series(1, 1000) n;
        CREATE TABLE dropped AS SELECT generate_series(1, 1000) n;
        CREATE TABLE shrinks AS SELECT generate_series(1, 100000) n;
        CREATE TABLE moved TABLESPACE early AS SELECT generate_series(1, 100000) n";
    bench.client.batch_execute(setup).unwrap();
    let mut chain = vec![bench.backup("full")];
    for (number, round) in ROUNDS.into_iter().enumerate() {
        for statement in round.split(';') {
            bench.client.batch_execute(statement).unwrap();
        }
        let kind = ["incremental", "incremental", "incremental", "differential"][number];
        let id = bench.backup(kind);
        match kind {
            "differential" => chain = vec![chain.swap_remove(0), id],
            _ => chain.push(id),
        }
        compare(&bench, &chain, number);
    }
}

fn compare(bench: &Bench, chain: &[String], number: usize) {
    let work = tempfile::tempdir().unwrap();
    let out = work.path().join("out");
    // The server's user works in it.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = bench.cluster.tool("pg_combinebackup");
    command
        .args(["--no-sync", "--manifest-checksums=SHA256", "-o"])
        .arg(&out);
    let mut tablespaces = Vec::new();
    for id in chain {
        let plain = work.path().join(id);
        tablespaces = unpack(&bench.path("store").join("backups").join(id), &plain);
        command.arg(plain);
    }
    for (n, directory) in tablespaces.iter().enumerate() {
        let to = work.path().join(format!("combined{n}"));
        command.arg(format!(
            "--tablespace-mapping={}={}",
            directory.display(),
            to.display()
        ));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", all(&output));

    let restored = bench.path(&format!("restored{number}"));
    let to = restored.display().to_string();
    let id = chain.last().unwrap();
    let mut arguments = vec![
        "restore", "--from", "", "--backup", id, "--pgdata", &to, "--quiet",
    ];
    let (store, mut maps) = (bench.store(), Vec::new());
    arguments[2] = &store;
    for name in ["early", "late"] {
        maps.push(format!("{}={to}-{name}", bench.path(name).display()));
    }
    for map in &maps {
        arguments.extend(["--tablespace-map", map]);
    }
    bench.ok(&arguments);
    let (mut expected, mut found) = (BTreeMap::new(), BTreeMap::new());
    files(&out, "", &mut expected);
    files(&restored, "", &mut found);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (name, content) in &expected {
        assert!(found[name] == *content, "{name} of backup {number} differs");
    }
    let (expected, found) = (manifest(&out), manifest(&restored));
    assert_eq!(found.0, expected.0);
    // What recovery is told is written after the backup was put together.
    assert_eq!(found.1, expected.1);
    let mut verify = bench.cluster.tool("pg_verifybackup");
    let output = verify.arg("-n").arg(&restored).output().unwrap();
    assert!(output.status.success(), "{}", all(&output));
}
