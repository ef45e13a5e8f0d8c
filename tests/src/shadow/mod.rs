//! The shadow test: random statements on a heap database and on a varve database, compared after each.
//!
//! Both databases hold the same tables ([`shape`]). Statements come from a seed ([`generate`]), so that a run can be
//! repeated; each is run on both sides ([`pair`]), and rows, row counts, errors and the contents of the tables that it
//! touched must agree. A second session on either side reads under an older snapshot, takes locks, and sometimes writes;
//! waits for locks end after 15 ms, so that one thread drives all sessions and always sees the same. On the varve side alone, chunks move between tiers at random.
//!
//! To repeat or extend a run: `VARVE_SHADOW_SEED` (one seed), `VARVE_SHADOW_STATEMENTS` (statements for each setting of
//! `varve.debug_freeze`), `VARVE_SHADOW_REDUCE` (seconds for making the script of a difference shorter),
//! `VARVE_SHADOW_AVOID` (pieces of SQL with `;` between: statements that contain one are left out, to look past a
//! difference that is known).

pub mod analytic;
pub mod cursor;
pub mod ddl;
pub mod dml;
pub mod generate;
pub mod pair;
pub mod query;
pub mod reduce;
pub mod rng;
pub mod settings;
pub mod shape;
pub mod step;
pub mod text;
pub mod tick;
pub mod upsert;
pub mod value;

use crate::cluster::Cluster;
use generate::Generator;
use pair::{Difference, Pair, Setting};
use std::fmt::Write as _;
use std::time::Duration;
use step::Step;

/// What a run that found no difference did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Statements that both sides ran.
    pub statements: usize,
    /// How many of them failed, on both sides alike.
    pub failed: usize,
    /// Moves between tiers on the varve side.
    pub moves: usize,
}

/// All statements so far, and what went wrong with the last.
pub struct Found {
    /// The statements.
    pub steps: Vec<Step>,
    /// The disagreement.
    pub difference: Difference,
}

const COLUMNS: &str = "SELECT attrelid::regclass, attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = ANY (ARRAY['bars','item','line','gen','slot','log','part','many','tick']::regclass[]) AND attname ~ '^x[0-9]$'
    ORDER BY 1, attnum";

/// Runs `statements` statements from `seed`; an error is a difference, or a failure of the set-up.
pub fn run(
    cluster: &Cluster,
    setting: Setting,
    seed: u64,
    statements: usize,
) -> Result<Tally, Box<Found>> {
    let mut generator = Generator::new(seed, setting.freeze_at_commit);
    let mut steps: Vec<Step> = Vec::new();
    let mut tally = Tally::default();
    let mut pair = match Pair::new(cluster, setting) {
        Ok(pair) => pair,
        Err(e) => return Err(setup_failed(e.to_string())),
    };
    let found = |steps: &[Step], difference: Box<Difference>| {
        Box::new(Found {
            steps: steps.to_vec(),
            difference: *difference,
        })
    };
    let mut load: std::collections::VecDeque<Step> = generator.load().into();
    while tally.statements < statements {
        let step = load.pop_front().unwrap_or_else(|| generator.next_step());
        if avoided(&step.sql) {
            continue;
        }
        steps.push(step);
        let Some(step) = steps.last() else { continue };
        let outcome = pair.apply(step).map_err(|d| found(&steps, d))?;
        let failed = outcome.error.is_some();
        generator.learn(step, failed);
        if step.varve_only {
            tally.moves += 1;
        } else {
            tally.statements += 1;
            tally.failed += usize::from(failed);
        }
        if generator.stale && generator.can_ask() {
            generator.learn_columns(&pair.ask_heap(COLUMNS).rows);
        }
        if steps.len().is_multiple_of(20) {
            pair.compare_all().map_err(|d| found(&steps, d))?;
        }
        if steps.len().is_multiple_of(200) {
            pair.verify().map_err(|d| found(&steps, d))?;
        }
    }
    for end in ["ROLLBACK", "SELECT 1"] {
        for who in [step::Who::Main, step::Who::Second] {
            steps.push(Step::new(who, end));
            if let Some(step) = steps.last() {
                pair.apply(step).map_err(|d| found(&steps, d))?;
            }
        }
    }
    pair.compare_all().map_err(|d| found(&steps, d))?;
    pair.verify().map_err(|d| found(&steps, d))?;
    Ok(tally)
}

/// Whether `VARVE_SHADOW_AVOID` names a piece of a statement.
pub fn avoided(sql: &str) -> bool {
    let avoid = std::env::var("VARVE_SHADOW_AVOID").unwrap_or_default();
    avoid
        .split(';')
        .any(|piece| !piece.is_empty() && sql.contains(piece))
}

fn setup_failed(why: String) -> Box<Found> {
    Box::new(Found {
        steps: Vec::new(),
        difference: Difference {
            what: format!("set-up failed: {why}"),
            heap: step::Outcome::default(),
            varve: step::Outcome::default(),
        },
    })
}

/// What a person needs to know of a difference.
pub fn report(cluster: &Cluster, setting: Setting, seed: u64, found: &Found) -> String {
    let mut text = String::new();
    let Difference { what, heap, varve } = &found.difference;
    let n = found.steps.len();
    let _ = writeln!(
        text,
        "shadow test: seed {seed}, {setting:?}, statement {n}: {what} differs"
    );
    let _ = writeln!(text, "heap:\n{}varve:\n{}", heap.show(20), varve.show(20));
    let _ = writeln!(text, "the last statements:");
    for step in found.steps.iter().skip(n.saturating_sub(20)) {
        let _ = writeln!(text, "{}", step.script());
    }
    let is_internal = |code: &str| code == "lost" || code.starts_with("XX");
    if is_internal(heap.code()) || is_internal(varve.code()) {
        let log = cluster.log();
        let lines: Vec<&str> = log.lines().collect();
        let _ = writeln!(
            text,
            "the server's log:\n{}",
            lines[lines.len().saturating_sub(25)..].join("\n")
        );
    }
    let seconds: u64 = std::env::var("VARVE_SHADOW_REDUCE")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    if seconds > 0 {
        // The rest takes a while.
        eprintln!("{text}");
        text.clear();
        let shorter = reduce::reduce(
            cluster,
            setting,
            found.steps.clone(),
            Duration::from_secs(seconds),
        );
        let _ = writeln!(text, "a shorter script ({} statements):", shorter.len());
        for step in shorter.iter().skip(shorter.len().saturating_sub(40)) {
            let _ = writeln!(text, "{}", step.script());
        }
        if let Some((d, _)) = reduce::replay(cluster, setting, &shorter) {
            let _ = writeln!(
                text,
                "{} differs\nheap:\n{}varve:\n{}",
                d.what,
                d.heap.show(20),
                d.varve.show(20)
            );
        }
    }
    text
}
