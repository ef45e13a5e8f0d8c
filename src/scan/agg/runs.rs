//! Runs of rows that have one token of a key.

use super::engine::floor;
use super::groups::Token;

/// The token of NULL.
pub const NULL: Token = (0, true);

/// The tokens of the rows at hand, each with the row where its run ends.
#[derive(Default)]
pub struct Runs(Vec<(Token, usize)>);

impl Runs {
    /// Forgets all runs.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a run up to a row.
    fn push(&mut self, token: Token, end: usize) {
        match self.0.last_mut() {
            Some(last) if last.0 == token => last.1 = end,
            _ => self.0.push((token, end)),
        }
    }

    /// Takes in values: `token` gives the token of one, and says which of those behind it have the same; NULLs have
    /// `of_null`.
    pub fn fill<T: Copy, S: Fn(T) -> bool>(
        &mut self,
        values: &[T],
        nulls: Option<&[bool]>,
        of_null: Token,
        mut token: impl FnMut(T) -> (Token, S),
    ) {
        let null = |row: usize| nulls.is_some_and(|n| n.get(row).copied().unwrap_or(true));
        let mut start = 0;
        while let Some(first) = values.get(start) {
            if null(start) {
                start += 1;
                self.push(of_null, start);
                continue;
            }
            let (token, same) = token(*first);
            let rest = values.get(start + 1..).unwrap_or_default();
            let length = match nulls {
                None => rest.iter().position(|value| !same(*value)),
                Some(_) => rest
                    .iter()
                    .zip(start + 1..)
                    .position(|(value, row)| null(row) || !same(*value)),
            };
            start += 1 + length.unwrap_or(rest.len());
            self.push(token, start);
        }
    }

    /// Takes in values whose tokens are where their buckets begin.
    pub fn fill_buckets(
        &mut self,
        values: &[i64],
        nulls: Option<&[bool]>,
        width: i64,
        origin: i64,
    ) {
        self.fill(values, nulls, NULL, |value| {
            let begin = floor(value, width, origin);
            let end = begin.saturating_add(width);
            ((begin, false), move |other| other >= begin && other < end)
        });
    }

    /// A cursor at the first run.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor(&self.0)
    }
}

/// Goes over the runs of a key.
pub struct Cursor<'a>(&'a [(Token, usize)]);

impl Cursor<'_> {
    /// The token of a row, none of which is before one that was asked for, and where its run ends (past all rows, where the
    /// key has no values).
    pub fn at(&mut self, row: usize) -> (Token, usize) {
        while let [(_, end), rest @ ..] = self.0
            && *end <= row
        {
            self.0 = rest;
        }
        self.0.first().copied().unwrap_or((NULL, usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(runs: &Runs, rows: usize) -> Vec<Token> {
        let mut cursor = runs.cursor();
        (0..rows).map(|row| cursor.at(row).0).collect()
    }

    #[test]
    fn every_row_has_its_token() {
        let values = [3, 3, 3, 4, 4, 3, 9, 9];
        let nulls = [false, false, true, true, false, false, false, true];
        let mut runs = Runs::default();
        runs.fill(&values, None, NULL, |v| ((v, false), move |o| o == v));
        let plain: Vec<Token> = values.iter().map(|v| (*v, false)).collect();
        assert_eq!(tokens(&runs, 8), plain);
        assert_eq!(runs.0.len(), 4);
        runs.clear();
        runs.fill(&values, Some(&nulls), NULL, |v| {
            ((v, false), move |o| o == v)
        });
        let with_nulls: Vec<Token> = values
            .iter()
            .zip(nulls)
            .map(|(v, null)| if null { NULL } else { (*v, false) })
            .collect();
        assert_eq!(tokens(&runs, 8), with_nulls);
        runs.clear();
        assert_eq!(tokens(&runs, 2), [NULL, NULL]);
    }

    #[test]
    fn buckets_are_those_of_each_value() {
        let values = [-7, -6, -5, 0, 4, 5, 9, 10, i64::MAX, i64::MAX, i64::MIN, 3];
        let mut runs = Runs::default();
        runs.fill_buckets(&values, None, 5, 0);
        let each: Vec<Token> = values.iter().map(|v| (floor(*v, 5, 0), false)).collect();
        assert_eq!(tokens(&runs, values.len()), each);
    }
}
