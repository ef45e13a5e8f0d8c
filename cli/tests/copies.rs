//! Copies of stores, and what is removed from them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Bench, files, flip, sum};

fn filled() -> Bench {
    let mut bench = Bench::new();
    let setup = "CREATE TABLE x AS SELECT i, md5(i::text) h FROM generate_series(1, 50000) i";
    bench.client.batch_execute(setup).unwrap();
    bench
}

fn insert(bench: &mut Bench, text: &str) {
    let insert = format!("INSERT INTO x VALUES (0, '{text}')");
    bench.client.batch_execute(&insert).unwrap();
}

/// What a copy brings over is all that a restore needs; what is damaged where it comes from is named and not copied.
#[test]
fn a_copy_is_restored_from() {
    let mut bench = filled();
    bench.backup("full");
    insert(&mut bench, "later");
    let child = bench.backup("incremental");
    bench.archived();
    let (first, second) = (bench.store(), bench.url("second"));
    let both = ["--from", &first, "--to", &second];
    let (code, said) = bench.fails(&["copy", "--from", &second, "--to", &first]);
    assert!(code == 4 && said.contains("nothing of varve's"), "{said}");
    let said = bench.ok(&[&["copy", "--dry-run"], &both[..]].concat());
    assert!(said.contains(&format!("missing: backup {child}")), "{said}");
    assert!(said.contains("missing: 2 backups"), "{said}");
    assert!(!bench.path("second/cluster.json").exists());
    let said = bench.ok(&[&["copy"], &both[..]].concat());
    assert!(said.contains("nothing is missing"), "{said}");
    let said = bench.ok(&[&["copy"], &both[..]].concat());
    assert!(said.starts_with("copied 0 objects"), "{said}");
    let verified = bench.ok(&["verify", "--from", &second]);
    assert!(verified.contains(" 0 damaged"), "{verified}");
    let restored = bench.restored("restored", &["--from", &second]);
    assert_eq!(
        sum(&mut restored.connect(), "x"),
        sum(&mut bench.client, "x")
    );
    drop(restored);

    bench.backup("full");
    let damaged = files(&bench.path("store"), "base.tar.zst").pop().unwrap();
    flip(&damaged);
    let (code, said) = bench.fails(&[&["copy"], &both[..]].concat());
    assert!(
        code == 3 && said.contains("its SHA-256 should be"),
        "{said}"
    );
    assert!(said.contains("missing: 1 backup, 0 files of WAL"), "{said}");
    assert_eq!(files(&bench.path("second"), "backup.json").len(), 2);
}

/// Nothing goes without being asked for, and what is left can be restored.
#[test]
fn what_is_old_is_removed() {
    let mut bench = filled();
    let store = bench.store();
    let old = [bench.backup("full"), bench.backup("incremental")];
    insert(&mut bench, "between");
    bench.archived();
    let new = bench.backup("full");
    insert(&mut bench, "after");
    bench.archived();
    let all = files(&bench.path("store"), "");
    let (code, said) = bench.fails(&["expire", "--from", &store]);
    assert!(code == 2 && said.contains("--keep-full"), "{said}");
    let one = ["expire", "--from", &store, "--keep-full", "1"];
    for more in [&[][..], &["--dry-run"]] {
        let said = bench.ok(&[&one[..], more].concat());
        assert!(
            said.contains(&format!("would go: backup {}", old[1])),
            "{said}"
        );
        assert!(said.contains("would be removed: 2 backups"), "{said}");
        assert!(said.contains("--yes"), "{said}");
        assert_eq!(files(&bench.path("store"), ""), all);
    }
    let said = bench.ok(&["expire", "--from", &store, "--keep-for", "1", "--yes"]);
    assert!(said.contains("removed: 0 backups"), "{said}");
    let said = bench.ok(&[&one[..], &["--yes"]].concat());
    assert!(
        said.contains(&format!("removed: backup {}", old[0])),
        "{said}"
    );
    let listed = bench.ok(&["list", "--from", &store]);
    assert!(
        listed.contains(&new) && !listed.contains(&old[0]),
        "{listed}"
    );
    assert!(files(&bench.path("store"), "").len() < all.len() - 6);
    let verified = bench.ok(&["verify", "--from", &store]);
    assert!(verified.contains(" 0 damaged"), "{verified}");
    let restored = bench.restored("restored", &[]);
    assert_eq!(
        sum(&mut restored.connect(), "x"),
        sum(&mut bench.client, "x")
    );
}
