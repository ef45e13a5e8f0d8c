//! How far something is: a bar on a terminal, otherwise a line at the beginning of each phase and every ten seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::text;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Tells how far something is.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    phase: &'static str,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Begins; `quiet` says nothing.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let template = "{msg:>12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            quiet,
            phase: "",
            begun: Instant::now(),
            told: Instant::now(),
        }
    }

    /// So many bytes of so many.
    pub fn tell(&mut self, phase: &'static str, bytes: u64, total: Option<u64>) {
        if self.quiet {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(phase);
            bar.set_length(total.unwrap_or(bytes).max(bytes));
            bar.set_position(bytes);
            return;
        }
        if phase == self.phase && self.told.elapsed() < LINE_EVERY {
            return;
        }
        if phase != self.phase {
            self.begun = Instant::now();
        }
        (self.phase, self.told) = (phase, Instant::now());
        let of = total.map_or(String::new(), |total| format!(" of {}", text::size(total)));
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = match seconds >= 1.0 {
            true => format!(", {}/s", text::size((bytes as f64 / seconds) as u64)),
            false => String::new(),
        };
        eprintln!("{phase}: {}{of}{rate}", text::size(bytes));
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
