//! WAL into a store and back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, files, flip, sum};
use varve_tests::s3::{self, S3Server};

const NAME: &str = "0000000100000000000000A1";

/// The same again is fine, something else under the same name is not, and what is damaged is written again.
#[test]
fn files_are_archived_once() {
    let bench = Bench::new();
    let directory = bench.directory("files");
    let file = directory.join(NAME);
    let content: Vec<u8> = (0..16u32 << 20).map(|n| (n / 1000 % 251) as u8).collect();
    std::fs::write(&file, &content).unwrap();
    let (path, url) = (file.to_str().unwrap(), bench.url("second"));
    let put = ["wal-put", path, "--to", &url];
    bench.ok(&put);
    bench.ok(&put);
    let object = bench.path(&format!("second/wal/00000001/{NAME}.zst"));
    let stored = std::fs::read(&object).unwrap();
    assert_eq!(&stored[..16], b"\x5E\x2A\x4D\x18\x34\0\0\0VARVEWAL");
    let mut changed = content.clone();
    changed[12_345_678] ^= 1;
    std::fs::write(&file, &changed).unwrap();
    let (code, said) = bench.fails(&put);
    assert!(code == 4 && said.contains("different file"), "{said}");
    assert_eq!(std::fs::read(&object).unwrap(), stored);
    std::fs::write(&file, &content).unwrap();
    flip(&object);
    bench.ok(&put);
    assert_eq!(std::fs::read(&object).unwrap(), stored);

    let to = directory.join("RECOVERYXLOG");
    let get = ["wal-get", NAME, to.to_str().unwrap(), "--from", &url];
    bench.ok(&get);
    assert_eq!(std::fs::read(&to).unwrap(), content);
    std::fs::remove_file(&to).unwrap();
    let other = [
        "wal-get",
        "0000000100000000000000A2",
        get[2],
        "--from",
        &url,
    ];
    assert_eq!(bench.fails(&other).0, 1);
    // A store that is away may have it: recovery must not take that for the end.
    let away = [&other[..], &["--from", "file:///nowhere/at/all"]].concat();
    assert_eq!(bench.fails(&away).0, 200);
    flip(&object);
    let (code, said) = bench.fails(&get);
    assert!(
        code == 200 && said.contains("damaged") || said.contains("corrupt"),
        "{said}"
    );
    assert_eq!(files(&directory, "").len(), 1);
    std::fs::write(&object, &stored[..stored.len() - 1]).unwrap();
    assert_eq!(bench.fails(&get).0, 200);
    let odd = directory.join("x");
    std::fs::write(&odd, b"").unwrap();
    assert_eq!(
        bench
            .fails(&["wal-put", odd.to_str().unwrap(), "--to", &url])
            .0,
        2
    );
}

/// That a file is nowhere is believed only of stores that are the cluster's: PostgreSQL would take it for the end of WAL.
#[test]
fn stores_that_are_not_the_right_ones() {
    let bench = Bench::new();
    let file = bench.directory("files").join(NAME);
    for name in ["second", "third"] {
        let url = made(&bench, name);
        std::fs::write(&file, segment_of(1)).unwrap();
        bench.ok(&["wal-put", file.to_str().unwrap(), "--to", &url]);
    }
    let (good, copy) = (bench.url("second"), bench.url("third"));
    let to = bench.path("files/to").to_str().unwrap().to_owned();
    let get = |name: &str, more: &[&str]| {
        let fixed = ["wal-get", name, &to, "--from", &good];
        bench.varve(&[&fixed[..], more].concat())
    };
    const NEXT: &str = "0000000100000000000000A2";
    let answered = |more: &[&str]| {
        let mut command = get(NEXT, more);
        command.env("AWS_ACCESS_KEY_ID", s3::KEY);
        command.env("AWS_SECRET_ACCESS_KEY", s3::SECRET);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), common::all(&output))
    };
    // Both are there and have no such file: that is the end of WAL.
    let (code, said) = answered(&["--from", &copy]);
    assert_eq!(code, 1, "{said}");
    // One that is empty, one that is not there, one of another cluster.
    let empty = made(&bench, "empty");
    let missing = bench.url("secnod");
    let other = made(&bench, "other");
    std::fs::write(&file, segment_of(2)).unwrap();
    bench.ok(&["wal-put", file.to_str().unwrap(), "--to", &other]);
    for (url, message) in [
        (&empty, "has nothing of varve's"),
        (&missing, "is no directory"),
        (&other, "of cluster 2: one of them"),
    ] {
        let (code, said) = answered(&["--from", url]);
        assert!(
            code == 200 && said.contains(message),
            "{url}: {code} {said}"
        );
    }
    // A bucket that is not there answers as one that lacks the object does.
    let buckets = bench.directory("buckets");
    let server = S3Server::start(&buckets).unwrap();
    let endpoint = format!("endpoint=http://{}", server.address());
    for (bucket, message) in [
        ("no-such-bucket", "NoSuchBucket"),
        (s3::BUCKET, "has nothing of varve's"),
    ] {
        let url = format!("s3://{bucket}/varve");
        let options = ["--from", &url, "--store-option", &endpoint];
        let plain = ["--store-option", "allow_http=true"];
        let (code, said) = answered(&[&options[..], &plain, &["--from", &copy]].concat());
        assert!(
            code == 200 && said.contains(&url) && said.contains(message),
            "{bucket}: {code} {said}"
        );
    }
    // What is there is had whatever the others are.
    let had = get(NAME, &["--from", &empty]).output().unwrap();
    assert!(had.status.success(), "{}", common::all(&had));
}

/// The URL of a new, empty store.
fn made(bench: &Bench, name: &str) -> String {
    bench.directory(name);
    bench.url(name)
}

/// The first page of a segment says whose it is; 16 MB in all.
fn segment_of(cluster: u64) -> Vec<u8> {
    let mut page = Vec::new();
    // The long header of PostgreSQL 17: magic, flags, timeline, address, length of what goes on, padding, cluster, sizes.
    page.extend(0xD116u16.to_le_bytes());
    page.extend(2u16.to_le_bytes());
    page.extend(1u32.to_le_bytes());
    page.extend((0xA1u64 << 24).to_le_bytes());
    page.extend([0; 8]);
    page.extend(cluster.to_le_bytes());
    page.extend((16u32 << 20).to_le_bytes());
    page.extend(8192u32.to_le_bytes());
    page.resize(16 << 20, 0);
    page
}

/// A missing segment is named.
#[test]
fn gaps() {
    let mut bench = Bench::new();
    bench.backup("full");
    for n in 0..4 {
        bench
            .client
            .batch_execute(&format!("CREATE TABLE t{n} (n int)"))
            .unwrap();
        bench.archived();
    }
    let url = bench.store();
    let all = files(&bench.path("store/wal"), ".zst");
    let segments: Vec<_> = all
        .iter()
        .filter(|p| !p.to_string_lossy().contains("backup"))
        .collect();
    let lost = segments[segments.len() - 2];
    let name = lost
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .strip_suffix(".zst")
        .unwrap()
        .to_owned();
    assert!(bench.ok(&["verify", "--from", &url]).contains(" 0 damaged"));
    std::fs::remove_file(lost).unwrap();
    let (code, said) = bench.fails(&["verify", "--from", &url]);
    assert!(
        code == 3 && said.contains(&format!("1 segment from {name} to {name}")),
        "{said}"
    );
}

/// Encrypted, nothing can be read without the key, and everything with it.
#[test]
fn encryption() {
    use age::secrecy::ExposeSecret;
    let mut bench = Bench::new();
    let key = age::x25519::Identity::generate();
    let (public, secret) = (key.to_public().to_string(), bench.path("key"));
    std::fs::write(&secret, key.to_string().expose_secret()).unwrap();
    let secret = secret.to_str().unwrap().to_owned();
    bench.directory("sealed");
    let url = bench.url("sealed");
    bench.archive_with(&format!(
        "{} wal-put %p --to {url} --recipient {public}",
        common::VARVE
    ));
    bench
        .client
        .batch_execute("CREATE TABLE x AS SELECT generate_series(1, 100000) n")
        .unwrap();
    let backup = ["backup", "--to", &url, "--recipient", &public];
    bench.ok(&backup);
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (0)")
        .unwrap();
    let incremental = [&backup[..], &["--kind", "incremental"]].concat();
    let (code, said) = bench.fails(&incremental);
    assert!(code == 4 && said.contains("is encrypted"), "{said}");
    bench.ok(&[&incremental[..], &["--identity", &secret]].concat());
    bench
        .client
        .batch_execute("INSERT INTO x VALUES (-1)")
        .unwrap();
    bench.archived();
    for file in files(&bench.path("sealed"), "") {
        let name = file.to_string_lossy().into_owned();
        let plain = ["backup.json", "cluster.json", ".sha256"]
            .iter()
            .any(|end| name.ends_with(end));
        assert!(
            plain
                || std::fs::read(&file)
                    .unwrap()
                    .starts_with(b"age-encryption.org/v1"),
            "{name}"
        );
    }
    let with = ["--from", &url, "--identity", &secret];
    assert!(
        bench
            .ok(&[&["verify"], &with[..]].concat())
            .contains(" 0 damaged")
    );
    let pgdata = bench.path("without");
    let (code, said) = bench.fails(&[
        "restore",
        "--from",
        &url,
        "--pgdata",
        pgdata.to_str().unwrap(),
    ]);
    assert!(code == 4 && said.contains("is encrypted"), "{said}");
    let restored = bench.restored("restored", &with);
    assert_eq!(
        sum(&mut restored.connect(), "x"),
        sum(&mut bench.client, "x")
    );
    // Again under the same name: known by its sum, without the key.
    let segment = bench.directory("files").join(NAME);
    std::fs::write(&segment, vec![1; 1 << 20]).unwrap();
    let put = [
        "wal-put",
        segment.to_str().unwrap(),
        "--to",
        &url,
        "--recipient",
        &public,
    ];
    bench.ok(&put);
    bench.ok(&put);
    std::fs::write(&segment, vec![2; 1 << 20]).unwrap();
    let (code, said) = bench.fails(&put);
    assert!(code == 4 && said.contains("different file"), "{said}");
}
