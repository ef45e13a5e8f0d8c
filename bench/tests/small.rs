//! The whole bench at a small scale: loads, freezes, measures, and answers as heap does, ingest too; kept data serves a second
//! run, and a section of it alone.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

const SCALE: [&str; 10] = [
    "--cpu-days",
    "1",
    "--hosts",
    "2",
    "--bars-days",
    "1",
    "--symbols",
    "3",
    "--batches",
    "2",
];

fn bench(keep: &Path, more: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_varve-bench"))
        .arg("--keep")
        .arg(keep)
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn a_small_run_and_one_on_its_data() {
    let parent = std::env::temp_dir().join(format!("varve-bench-test-{}", std::process::id()));
    std::fs::create_dir(&parent).unwrap();
    let keep = parent.join("data");

    let (output, text) = bench(&keep, &SCALE);
    assert!(output.status.success(), "{text}");
    let names: Vec<&str> = include_str!("../queries.sql")
        .lines()
        .filter_map(|line| line.strip_prefix("-- name: "))
        .collect();
    assert_eq!(names.len(), 24);
    for name in names {
        assert!(text.contains(&format!("│ {name} ")), "no {name} in {text}");
    }
    assert!(text.contains("of 24 targets met"), "{text}");
    assert!(text.contains("thaw a chunk of bars"), "{text}");
    assert!(text.contains("freeze cpu "), "{text}");
    let ingest = [
        "half new, half changed",
        "keys in between, new",
        "COPY, sink of such a hypertable",
        "in it, of the upserts: nothing",
        "target none ✓",
    ];
    for text_of_ingest in ingest {
        assert!(
            text.contains(text_of_ingest),
            "no {text_of_ingest} in {text}"
        );
    }

    let (output, text) = bench(&keep, &["--only", "^c01"]);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("of 1 targets met"), "{text}");
    assert!(text.contains("freeze cpu, by an earlier run"), "{text}");
    assert!(!text.contains("Ingest"), "{text}");

    let (output, text) = bench(
        &keep,
        &["--section", "ingest", "--batches", "2", "--runs", "1"],
    );
    assert!(output.status.success(), "{text}");
    assert!(text.contains("rounds: 1;"), "{text}");
    assert!(!text.contains("Queries"), "{text}");

    let (output, text) = bench(&keep, &["--hosts", "3"]);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("another scale"), "{text}");
    std::fs::remove_dir_all(&parent).unwrap();
}
