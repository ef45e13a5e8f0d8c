//! WAL: how much was written between two positions, and for what.

use crate::Result;
use postgres::Client;
use postgres::types::PgLsn;

/// Records that the server writes by itself, whoever does what.
const OTHERS: [&str; 3] = [
    "Standby/RUNNING_XACTS",
    "XLOG/CHECKPOINT_ONLINE",
    "XLOG/CHECKPOINT_REDO",
];

/// The records between two positions by kind: by resource manager, type, and relation where they have one.
const KINDS: &str = "\
    SELECT r.resource_manager || '/' || r.record_type || coalesce(' of ' || b.relation, ''), \
           count(*), sum(r.record_length)::bigint \
    FROM pg_get_wal_records_info($1, $2) r \
    LEFT JOIN (SELECT start_lsn, min(pg_filenode_relation(reltablespace, relfilenode)::text) AS relation \
               FROM pg_get_wal_block_info($1, $2) GROUP BY start_lsn) b USING (start_lsn) \
    GROUP BY 1";

/// The WAL between two positions.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: PgLsn,
    pub to: PgLsn,
}

impl Span {
    /// Bytes, headers of pages included.
    pub fn bytes(&self) -> i64 {
        u64::from(self.to).saturating_sub(u64::from(self.from)) as i64
    }
}

/// Where the next record will begin.
pub fn position(client: &mut Client) -> Result<PgLsn> {
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()", &[])?;
    Ok(row.get(0))
}

/// Records of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Resource manager, type, relation.
    pub name: String,
    pub records: i64,
    pub bytes: i64,
}

impl Kind {
    /// Whether they are written whoever does what: by the server itself, or by whoever reads a page of a catalog next that
    /// others have left to be pruned.
    pub fn is_others(&self) -> bool {
        OTHERS.contains(&self.name.as_str())
            || self.name.starts_with("Heap2/PRUNE_ON_ACCESS of pg_")
    }
}

/// The records in some spans by kind, the most bytes first; none where the server has no `pg_walinspect`.
fn kinds(client: &mut Client, spans: &[Span]) -> Result<Option<Vec<Kind>>> {
    let available = "SELECT FROM pg_available_extensions WHERE name = 'pg_walinspect'";
    if client.query_opt(available, &[])?.is_none() {
        return Ok(None);
    }
    // Only what has been flushed can be read.
    client.batch_execute(
        "CREATE EXTENSION IF NOT EXISTS pg_walinspect SCHEMA public; \
         SELECT pg_logical_emit_message(false, 'bench', '', true)",
    )?;
    let mut all: Vec<Kind> = Vec::new();
    for span in spans.iter().filter(|span| span.bytes() > 0) {
        let rows = client.query(KINDS, &[&span.from, &span.to])?;
        for row in rows {
            add(
                &mut all,
                Kind {
                    name: row.get(0),
                    records: row.get(1),
                    bytes: row.get(2),
                },
            );
        }
    }
    all.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    Ok(Some(all))
}

fn add(all: &mut Vec<Kind>, kind: Kind) {
    match all.iter_mut().find(|other| other.name == kind.name) {
        Some(other) => {
            other.records += kind.records;
            other.bytes += kind.bytes;
        }
        None => all.push(kind),
    }
}

/// A sentence on what WAL was written for: by those whose spans they are, and by others.
pub fn told(client: &mut Client, spans: &[Span]) -> Result<String> {
    let Some(kinds) = kinds(client, spans)? else {
        return Ok("what it was written for is not known: the server has no pg_walinspect".into());
    };
    let listed = |others: bool| {
        let list = list(kinds.iter().filter(|kind| kind.is_others() == others));
        if list.is_empty() {
            "nothing".into()
        } else {
            list
        }
    };
    Ok(format!(
        "in it, of the upserts: {}; not theirs: {}",
        listed(false),
        listed(true)
    ))
}

/// Kinds as a list: `3 Standby/RUNNING_XACTS (162 B)`.
fn list<'a>(kinds: impl Iterator<Item = &'a Kind>) -> String {
    let texts: Vec<String> = kinds
        .map(|kind| {
            format!(
                "{} {} ({})",
                varve_demo::show::count(kind.records),
                kind.name,
                varve_demo::show::bytes(kind.bytes)
            )
        })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, records: i64, bytes: i64) -> Kind {
        Kind {
            name: name.into(),
            records,
            bytes,
        }
    }

    #[test]
    fn kinds_add_up_and_are_listed() {
        let mut all = vec![kind("Heap/INSERT", 2, 200)];
        add(&mut all, kind("Standby/RUNNING_XACTS", 1, 54));
        add(&mut all, kind("Heap/INSERT", 1, 100));
        assert_eq!(
            list(all.iter()),
            "3 Heap/INSERT (300 B), 1 Standby/RUNNING_XACTS (54 B)"
        );
        let others: Vec<bool> = all.iter().map(Kind::is_others).collect();
        assert_eq!(others, [false, true]);
        assert!(kind("Heap2/PRUNE_ON_ACCESS of pg_statistic", 1, 8).is_others());
        assert!(!kind("Heap2/PRUNE_ON_ACCESS of ingest.stage", 1, 8).is_others());
    }

    #[test]
    fn spans_have_lengths() {
        let span = |from: u64, to: u64| Span {
            from: from.into(),
            to: to.into(),
        };
        assert_eq!(span(0x100, 0x180).bytes(), 128);
        assert_eq!(span(0x100, 0x100).bytes(), 0);
    }
}
