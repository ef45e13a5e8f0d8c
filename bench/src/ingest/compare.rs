//! Whether tables hold the same rows.

use super::Ingest;
use super::stage::COLUMNS;
use crate::Result;
use postgres::Client;
use varve_demo::show;

/// How many rows, and the sum and the exclusive or of their hashes.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    rows: i64,
    sum: String,
    xor: i64,
}

/// Takes the fingerprint of a table, or of a query in parentheses.
fn fingerprint(client: &mut Client, from: &str) -> Result<Fingerprint> {
    let row = client.query_one(
        &format!(
            "SELECT count(*), coalesce(sum(hash::numeric), 0)::text, coalesce(bit_xor(hash), 0) \
             FROM (SELECT hash_record_extended(t, 0) AS hash FROM (SELECT {COLUMNS} FROM {from} f) t) h"
        ),
        &[],
    )?;
    Ok(Fingerprint {
        rows: row.get(0),
        sum: row.get(1),
        xor: row.get(2),
    })
}

/// How many rows of one table another lacks, and one of them.
fn lacking(client: &mut Client, from: &str, other: &str) -> Result<(i64, String)> {
    let row = client.query_one(
        &format!(
            "SELECT count(*), coalesce(min(d::text), '') \
             FROM (SELECT {COLUMNS} FROM {from} f EXCEPT ALL SELECT {COLUMNS} FROM {other} o) d"
        ),
        &[],
    )?;
    Ok((row.get(0), row.get(1)))
}

/// How a table differs from the one that is right, if it does.
fn difference(client: &mut Client, right: &str, other: &str) -> Result<Option<String>> {
    let (a, b) = (fingerprint(client, right)?, fingerprint(client, other)?);
    if a == b {
        return Ok(None);
    }
    let (missing, missed) = lacking(client, right, other)?;
    let (more, one_more) = lacking(client, other, right)?;
    Ok(Some(format!(
        "{other} has {} rows, {right} {}: {} are missing {missed}, {} should not be there {one_more}",
        show::count(b.rows),
        show::count(a.rows),
        show::count(missing),
        show::count(more),
    )))
}

impl Ingest {
    /// Compares a table with the one that is right; false if they differ, which is written down.
    pub fn same(&mut self, what: &str, right: &str, other: &str) -> Result<bool> {
        let difference = difference(&mut self.client, right, other)?;
        if let Some(difference) = &difference {
            self.failures.push(format!("{what}: {difference}"));
        }
        Ok(difference.is_none())
    }
}

/// Dead rows in the chunks of a hypertable, as the statistics have it.
pub fn dead_rows(client: &mut Client, table: &str) -> Result<i64> {
    // What this session has done is counted when the statement ends.
    client.batch_execute("SELECT pg_stat_force_next_flush()")?;
    let row = client.query_one(
        "SELECT coalesce(sum(s.n_dead_tup), 0)::bigint \
         FROM show_chunks($1::text::regclass) c JOIN pg_stat_all_tables s ON s.relid = c",
        &[&table],
    )?;
    Ok(row.get(0))
}
