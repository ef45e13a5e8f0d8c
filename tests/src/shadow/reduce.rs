//! Makes a script that shows a difference shorter.

use super::pair::{Difference, Pair, Setting};
use super::shape::TABLES;
use super::step::Step;
use crate::cluster::Cluster;
use std::time::{Duration, Instant};

/// Runs a script from the start; the difference that it shows, if any, and how many statements it took.
pub fn replay(cluster: &Cluster, setting: Setting, steps: &[Step]) -> Option<(Difference, usize)> {
    // After a crash of the server it takes a moment to come back.
    let mut made = Pair::new(cluster, setting);
    for _ in 0..20 {
        if let Err(e) = &made {
            eprintln!("both sides cannot be made anew: {e}");
            crate::wait::until("the server to take connections", || {
                cluster.connect().is_ok()
            });
            made = Pair::new(cluster, setting);
        }
    }
    let mut pair = made.ok()?;
    for (i, step) in steps.iter().enumerate() {
        if let Err(difference) = pair.apply(step) {
            return Some((*difference, i + 1));
        }
    }
    pair.compare_all().err().map(|d| (*d, steps.len()))
}

/// Leaves out what the difference does not need, for as long as `limit`.
pub fn reduce(cluster: &Cluster, setting: Setting, steps: Vec<Step>, limit: Duration) -> Vec<Step> {
    let begin = Instant::now();
    let Some((difference, n)) = replay(cluster, setting, &steps) else {
        return steps;
    };
    let signature = difference.signature();
    let mut steps = steps;
    steps.truncate(n);
    // Statements on other tables seldom matter, and leaving them all out at once saves most of the time.
    let near = related(&steps);
    if let Some((found, n)) = replay(cluster, setting, &near)
        && found.signature() == signature
    {
        steps = near;
        steps.truncate(n);
        eprintln!("reduced to {} statements", steps.len());
    }
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut removed = false;
        while at < steps.len() {
            if begin.elapsed() > limit {
                return steps;
            }
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match replay(cluster, setting, &fewer) {
                Some((found, n)) if found.signature() == signature => {
                    fewer.truncate(n);
                    eprintln!("reduced to {} statements", fewer.len());
                    steps = fewer;
                    removed = true;
                }
                _ => at += size,
            }
        }
        if size == 1 && !removed {
            break;
        }
        size = if size == 1 { 1 } else { size / 2 };
    }
    steps
}

/// The statements that name a table of the last one, or no table at all.
fn related(steps: &[Step]) -> Vec<Step> {
    let wanted = steps.last().map(|s| names(&s.sql)).unwrap_or_default();
    let matters = |step: &&Step| {
        let named = names(&step.sql);
        named.is_empty() || named.iter().any(|n| wanted.contains(n))
    };
    steps.iter().filter(matters).cloned().collect()
}

/// The tables that a statement names.
fn names(sql: &str) -> Vec<&str> {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| TABLES.contains(word))
        .collect()
}
