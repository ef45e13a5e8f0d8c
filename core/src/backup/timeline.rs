//! Where timelines came from: `00000002.history`.

use super::lsn::Lsn;

/// The timelines that led to one, oldest first, and where each was left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimelineHistory {
    /// A timeline, and where the next one begins.
    pub left: Vec<(u32, Lsn)>,
}

impl TimelineHistory {
    /// Reads a history file: lines of a timeline, the position where it was left, and why; lines that begin with `#` are
    /// comments.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut left: Vec<(u32, Lsn)> = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_whitespace();
            let entry = || {
                let timeline: u32 = fields.next()?.parse().ok()?;
                let at: Lsn = fields.next()?.parse().ok()?;
                let ascends = left.last().is_none_or(|(before, _)| *before < timeline);
                ascends.then_some((timeline, at))
            };
            left.push({ entry }().ok_or_else(|| format!("\"{line}\" is no line of a history"))?);
        }
        Ok(Self { left })
    }

    /// Where a timeline was left on the way.
    pub fn left_at(&self, timeline: u32) -> Option<Lsn> {
        self.left
            .iter()
            .find(|(left, _)| *left == timeline)
            .map(|(_, at)| *at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn histories() {
        let text = "1\t0/A000198\tbefore 2026-11-29\n\n# x\n3\t0/B000000\tno recovery target\n";
        let history = TimelineHistory::parse(text).unwrap();
        assert_eq!(history.left_at(3), Some(Lsn(0xB00_0000)));
        assert_eq!(history.left_at(2), None);
        for wrong in ["1", "x 0/1", "2 0/1 a\n1 0/2 b"] {
            assert!(TimelineHistory::parse(wrong).is_err(), "{wrong}");
        }
    }
}
