//! Snapshots that are damaged, and snapshots that somebody has forged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod snapshot_common;

use postgres::Client;
use snapshot_common::*;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use varve_tests::session::simple;

/// Changes a byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Copies a snapshot from one store's directory to another's.
fn copy(from: &Path, to: &Path, id: &str) {
    let dir = to.join("snapshots").join(id);
    std::fs::create_dir_all(&dir).unwrap();
    let owner = std::fs::metadata(from).unwrap();
    for path in objects(from, id, "") {
        let copied = dir.join(path.file_name().unwrap());
        std::fs::copy(&path, &copied).unwrap();
        chown(&copied, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    for made in [to.join("snapshots"), dir] {
        chown(made, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

#[test]
fn damage() {
    let (cluster, mut client, first) = start(&[]);
    let second = store(&cluster, &mut client, "second", "secondary");
    prices(&mut client);
    let id = one(&mut client, "SELECT varve.snapshot('prices', 'first')");
    copy(&first, &second, &id);
    assert_eq!(
        one(&mut client, "SELECT stores FROM varve.snapshots"),
        "{first,second}"
    );
    let files = objects(&first, &id, ".parquet");
    assert!(files.len() > 4);
    flip(&files[1]);
    flip(&objects(&first, &id, "ddl.json")[0]);
    std::fs::remove_file(&files[2]).unwrap();
    let bad = format!(
        "SELECT store, object, detail IS NOT NULL FROM varve.verify_snapshot('{id}') WHERE NOT ok ORDER BY 2"
    );
    assert_eq!(
        ok(&mut client, &bad),
        [
            format!("first|snapshots/{id}/00002.parquet|t"),
            format!("first|snapshots/{id}/00003.parquet|t"),
            format!("first|snapshots/{id}/ddl.json|t")
        ]
    );
    // From the other store.
    ok(
        &mut client,
        &format!("SELECT varve.restore_snapshot('{id}', 'again')"),
    );
    assert_eq!(difference(&mut client, "prices", "again"), "0|0|t");
    // From this one alone.
    let restore = format!("SELECT varve.restore_snapshot('{id}', 'third', 'first')");
    let error = simple(&mut client, &restore).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.contains("ddl.json")),
        ("XX001", true)
    );
    std::fs::copy(
        &objects(&second, &id, "ddl.json")[0],
        &objects(&first, &id, "ddl.json")[0],
    )
    .unwrap();
    let error = simple(&mut client, &restore).unwrap_err();
    assert_eq!(
        (
            error.code.as_str(),
            error.message.contains(&format!("{id}/00002.parquet"))
        ),
        ("XX001", true)
    );
    // In both.
    flip(&objects(&second, &id, "00002.parquet")[0]);
    let restore = format!("SELECT varve.restore_snapshot('{id}', 'third')");
    let error = simple(&mut client, &restore).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.contains("00002.parquet")),
        ("XX001", true)
    );
    assert_eq!(one(&mut client, "SELECT to_regclass('third')"), "∅");
    // A damaged record is told, and the other store's is read.
    flip(&objects(&first, &id, "snapshot.json")[0]);
    assert_eq!(
        one(&mut client, "SELECT stores FROM varve.snapshots"),
        "{second}"
    );
    let told = format!(
        "SELECT store FROM varve.list_snapshots() WHERE id = '{id}' AND detail LIKE '%damaged%'"
    );
    assert_eq!(ok(&mut client, &told), ["first"]);
    for wrong in ["none", "../x", "x'\"", ""] {
        let call = format!("SELECT varve.restore_snapshot({})", quoted(wrong));
        assert_eq!(code(&mut client, &call), "42704", "{wrong}");
        let call = format!("SELECT * FROM varve.verify_snapshot({})", quoted(wrong));
        assert_eq!(code(&mut client, &call), "42704", "{wrong}");
    }
    assert_eq!(
        code(&mut client, "SELECT varve.restore_snapshot(NULL)"),
        "22004"
    );
    assert_eq!(code(&mut client, "SELECT varve.snapshot(NULL)"), "22004");
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Puts bytes in the place of an object and lets the record say that they are right, as somebody could who may write to the store.
fn forge(client: &mut Client, dir: &Path, id: &str, object: &str, bytes: &[u8]) {
    let path = objects(dir, id, object).remove(0);
    let before = std::fs::read(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let sum = |client: &mut Client, bytes: &[u8]| -> String {
        client
            .query_one("SELECT encode(sha256($1), 'hex')", &[&bytes])
            .unwrap()
            .get(0)
    };
    let (old, new) = (sum(client, &before), sum(client, bytes));
    let record = objects(dir, id, "snapshot.json").remove(0);
    let text = std::fs::read_to_string(&record).unwrap();
    let (_, body) = text.split_once("\"snapshot\":").unwrap();
    let body = body.strip_suffix('}').unwrap();
    let size = |n: usize| format!("\"stored_bytes\":{n},\"raw_bytes\":{n},\"sha256\":\"");
    let body = body.replace(
        &format!("{}{old}", size(before.len())),
        &format!("{}{new}", size(bytes.len())),
    );
    sign(client, &record, &body);
}

/// Writes a record with the sum that makes it whole.
fn sign(client: &mut Client, record: &Path, body: &str) {
    let sum: String = client
        .query_one("SELECT encode(sha256($1), 'hex')", &[&body.as_bytes()])
        .unwrap()
        .get(0);
    std::fs::write(
        record,
        format!("{{\"sha256\":\"{sum}\",\"snapshot\":{body}}}"),
    )
    .unwrap();
}

#[test]
fn forged() {
    let (_cluster, mut client, dir) = start(&[]);
    ok(
        &mut client,
        "CREATE TABLE victim (x int); \
         CREATE TABLE t (id int PRIMARY KEY, words text, doc jsonb, at timestamptz, price numeric(10, 2), ints int[], truth bool); \
         INSERT INTO t SELECT i, 'w' || i, '{}', now(), i, ARRAY[i, NULL], true FROM generate_series(1, 3000) i",
    );
    let pid = one(&mut client, "SELECT pg_backend_pid()");
    let id = one(&mut client, "SELECT varve.snapshot('t')");
    let restore = format!("SELECT varve.restore_snapshot('{id}', 'u')");
    let good = std::fs::read(&objects(&dir, &id, "00001.parquet")[0]).unwrap();
    let tail = good.len() - 8;
    let mut outcomes = std::collections::BTreeMap::new();
    let mut attempt = |client: &mut Client, bytes: &[u8]| {
        forge(client, &dir, &id, "00001.parquet", bytes);
        let outcome = match simple(client, &restore) {
            Ok(_) => {
                ok(client, "DROP TABLE u");
                "restored".to_string()
            }
            Err(e) => e.code,
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
    };
    for cut in [0, 1, 4, 8, 12, good.len() / 2, good.len() - 1] {
        attempt(&mut client, &good[..cut]);
    }
    let mut long = good.clone();
    long[tail..tail + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    attempt(&mut client, &long);
    let mut random = varve_tests::random::Random::new(7);
    for _ in 0..300 {
        let mut bytes = good.clone();
        // Where descriptions are rather than values.
        let from = if random.below(2) == 0 {
            good.len() - 900
        } else {
            0
        };
        let at = from + random.below((good.len() - from) as u64) as usize;
        bytes[at] = random.below(256) as u8;
        attempt(&mut client, &bytes);
    }
    let known = [
        "XX001", "22003", "22021", "22P02", "23505", "23502", "restored",
    ];
    assert!(
        outcomes.keys().all(|o| known.contains(&o.as_str())),
        "{outcomes:?}"
    );
    assert!(outcomes["XX001"] > 30, "{outcomes:?}");
    forge(&mut client, &dir, &id, "00001.parquet", &good);
    // A definition that does more than define.
    let ddl = std::fs::read_to_string(&objects(&dir, &id, "ddl.json")[0]).unwrap();
    for (part, forged) in [
        ("PRIMARY KEY (id)", "PRIMARY KEY (id); DROP TABLE victim"),
        ("\"integer\"", "\"int); DROP TABLE victim; --\""),
        ("\"heap\"", "\"heap; DROP TABLE victim\""),
        ("\"id\"", "\"id int); DROP TABLE victim; --\""),
        ("\"version\": 1", "\"version\": 2"),
        ("\"columns\"", "\"column\""),
        ("{", "["),
    ] {
        assert!(ddl.contains(part), "{part}");
        let bytes = ddl.replacen(part, forged, 1);
        forge(&mut client, &dir, &id, "ddl.json", bytes.as_bytes());
        let code = code(&mut client, &restore);
        assert!(
            ["XX001", "0A000", "42704", "42804", "42601"].contains(&code.as_str()),
            "{part}: {code}"
        );
    }
    assert_eq!(
        one(
            &mut client,
            "SELECT to_regclass('victim'), to_regclass('u')"
        ),
        "victim|∅"
    );
    forge(&mut client, &dir, &id, "ddl.json", ddl.as_bytes());
    // Records that do not hold together.
    let record = objects(&dir, &id, "snapshot.json").remove(0);
    let text = std::fs::read_to_string(&record).unwrap();
    let (_, body) = text.split_once("\"snapshot\":").unwrap();
    let body = body.strip_suffix('}').unwrap();
    for (part, forged) in [
        ("\"rows\":3000", "\"rows\":3001"),
        ("\"chunk\":0", "\"chunk\":7"),
        ("00001.parquet", "../../../cluster.json"),
        ("\"kept\":\"int32\"", "\"kept\":\"int64\""),
        ("\"raw_bytes\":", "\"raw_bytes\":1"),
        ("\"version\":1", "\"version\":2"),
    ] {
        assert!(body.contains(part), "{part}");
        sign(&mut client, &record, &body.replacen(part, forged, 1));
        let code = code(&mut client, &restore);
        assert!(
            ["XX001", "0A000", "42804"].contains(&code.as_str()),
            "{part}: {code}"
        );
    }
    // A chunk is of this database of this cluster.
    let system = one(
        &mut client,
        "SELECT system_identifier FROM pg_control_system()",
    );
    for (part, forged) in [
        ("\"database\":\"postgres\"", "\"database\":\"other\""),
        (system.as_str(), "7000000000000000000"),
    ] {
        assert!(body.contains(part), "{part}");
        sign(&mut client, &record, &body.replacen(part, forged, 1));
        let call = format!("SELECT varve.restore_chunk('{id}', 't')");
        assert_eq!(code(&mut client, &call), "55000", "{part}");
    }
    sign(&mut client, &record, body);
    assert_eq!(one(&mut client, &restore), "3000");
    assert_eq!(difference(&mut client, "t", "u"), "0|0|t");
    assert_eq!(one(&mut client, "SELECT pg_backend_pid()"), pid);
}
