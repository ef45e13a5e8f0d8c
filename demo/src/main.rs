//! `varve-demo`: varve at work on real prices, chapter by chapter, on a private server that is gone afterwards.
//!
//! A chapter says what it did only after it has checked it; the first thing that is not as said ends the program with
//! an error. To add a chapter, write its file in [`varve_demo::chapters`] and name it in [`CHAPTERS`].

use std::process::ExitCode;
use varve_demo::chapters::{
    again, changes, correct, damage, disaster, freeze, load, queries, server, sizes, thaw, verify,
};
use varve_demo::stage::{Result, Stage};
use varve_demo::{data, show};
use varve_tests::cluster::Cluster;

/// A chapter: its title, and what it does.
type Chapter = (&'static str, fn(&mut Stage) -> Result<()>);

/// The chapters, in their order: each finds the table as those before it left it.
const CHAPTERS: &[Chapter] = &[
    ("A private server", server::run),
    ("Prices come in", load::run),
    ("The same prices again", again::run),
    ("Questions while everything is heap", queries::before),
    ("Chunks are frozen", freeze::run),
    ("The same questions of frozen chunks", queries::after),
    ("What it saves", sizes::run),
    ("A corrected day in a frozen chunk", correct::run),
    ("Every byte is verified", verify::run),
    ("A damaged segment", damage::run),
    ("One chunk is thawed", thaw::run),
    ("What has changed", changes::run),
    ("Everything is lost, and recovered", disaster::run),
];

fn run() -> Result<()> {
    let prices = data::load()?;
    let cluster = Cluster::start_new(&[
        "shared_buffers = 512MB",
        "max_wal_size = 4GB",
        "jit = off",
        "log_min_messages = warning",
    ])?;
    let dir = cluster.dir().to_path_buf();
    let mut stage = Stage::new(cluster, prices)?;
    for (number, (title, chapter)) in CHAPTERS.iter().enumerate() {
        show::heading(number + 1, title);
        chapter(&mut stage)?;
    }
    show::heading(CHAPTERS.len() + 1, "The end");
    let claims = stage.end();
    if dir.exists() {
        return Err(format!("{} is still there", dir.display()).into());
    }
    show::claim("the server is stopped and its directory gone");
    show::say(&format!(
        "{} statements made above, each checked.",
        claims + 1
    ));
    println!();
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show::failure(&*error);
            ExitCode::FAILURE
        }
    }
}
