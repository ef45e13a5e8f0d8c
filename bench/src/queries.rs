//! The queries and their targets, out of `queries.sql`.

use crate::Result;

/// One query to be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub name: String,
    /// Longest time allowed, as a ratio to heap's.
    pub target: f64,
    /// Milliseconds that it takes on heap, at the full scale, where targets in rows per second were measured.
    pub reference: f64,
    pub sql: String,
}

impl Query {
    /// Whether it reads a table.
    pub fn reads(&self, table: &str) -> bool {
        self.sql.contains(&format!(" FROM {table}"))
    }

    /// Whether it fixes the order of its rows.
    pub fn is_ordered(&self) -> bool {
        self.sql.contains(" ORDER BY ")
    }
}

/// All queries, in their order.
pub fn all() -> Result<Vec<Query>> {
    parse(include_str!("../queries.sql"))
}

fn parse(text: &str) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("-- name: ") else {
            continue;
        };
        let target = lines
            .next()
            .and_then(|line| line.strip_prefix("-- target: ")?.parse().ok())
            .ok_or_else(|| format!("{name} has no target"))?;
        let reference = lines
            .next()
            .and_then(|line| {
                let line = line.strip_prefix("-- reference: ")?;
                line.strip_suffix(" ms")?.parse().ok()
            })
            .ok_or_else(|| format!("{name} has no reference"))?;
        let sql = lines
            .next()
            .and_then(|line| line.strip_suffix(';'))
            .ok_or_else(|| format!("{name} is not one line that ends in a semicolon"))?;
        queries.push(Query {
            name: name.into(),
            target,
            reference,
            sql: sql.into(),
        });
    }
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_queries_are_read() {
        let queries = all().unwrap();
        assert_eq!(queries.len(), 24);
        assert_eq!(queries[0].name, "c01_count");
        assert_eq!(queries[0].target, 0.004);
        assert_eq!(queries[0].reference, 91.0);
        assert_eq!(queries[0].sql, "SELECT count(*) FROM cpu");
        let cpu = queries.iter().filter(|q| q.reads("cpu")).count();
        let bars = queries.iter().filter(|q| q.reads("bars")).count();
        assert_eq!((cpu, bars), (16, 8));
        let ordered = queries.iter().filter(|q| q.is_ordered()).count();
        assert_eq!(ordered, 8);
    }

    #[test]
    fn a_query_without_a_target_is_named() {
        let error = parse("-- name: x\nSELECT 1;\n").unwrap_err();
        assert_eq!(error.to_string(), "x has no target");
        let error = parse("-- name: x\n-- target: 1\nSELECT 1;\n").unwrap_err();
        assert_eq!(error.to_string(), "x has no reference");
    }
}
