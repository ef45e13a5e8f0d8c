//! A table that gets batches through `varve.upsert…`, and the same table on heap that gets them through INSERT … ON
//! CONFLICT: what each batch comes to must be the same, down to the counts, the errors and what triggers saw.
//!
//! A [`Case`] is run once on heap, and on varve as often as there are states that its chunks can be in: hot, frozen,
//! and frozen with half of the rows thawed, where batches go to the delta, and once more where they go to segments. The table is called `t` and lies in the schema `s` whichever way it goes,
//! so that names of constraints are the same.

use crate::cluster::Cluster;
use postgres::{Client, SimpleQueryMessage};
use std::fmt::Write as _;

/// A server with the extension, and a connection to it. Panics where it cannot be started.
#[allow(clippy::expect_used)] // A test ends here as it would at its own unwrap.
pub fn start() -> (Cluster, Client) {
    let cluster =
        Cluster::start_new(&["fsync = off", "max_connections = 20"]).expect("a server starts");
    let client = cluster.connect_with_varve().expect("varve is created");
    (cluster, client)
}

/// The rows of a batch for [`hypertable`]: keys from 1 on over three days, with a value each.
pub const ROWS: &str = "SELECT i, timestamptz '2024-03-04 00:00Z' + i % 3 * interval '1 day', i FROM generate_series(1, 60) i";

/// A hypertable `t (s, ts, v)` with more in its parentheses.
pub fn hypertable(more: &str) -> String {
    format!(
        "CREATE TABLE t (s int, ts timestamptz, v int, {more} PRIMARY KEY (s, ts));
         SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day')"
    )
}

/// Those rows from `from` to `to` with another value.
pub fn rows(from: i32, to: i32, value: &str) -> String {
    format!(
        "SELECT i, timestamptz '2024-03-04 00:00Z' + i % 3 * interval '1 day', {value} FROM generate_series({from}, {to}) i ORDER BY md5(i::text)"
    )
}

/// One step of a case.
#[derive(Clone, Copy, Debug)]
pub enum Do<'a> {
    /// A statement for either side.
    Sql(&'a str),
    /// Statements for varve and for heap that must come to the same contents, or to the same error.
    Each(&'a str, &'a str),
    /// A batch: its columns, and the query that makes its rows.
    Batch(&'a str, &'a str),
    /// A batch that leaves stored rows as they are.
    Ignore(&'a str, &'a str),
}

/// A table and what is done to it.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// For messages.
    pub name: &'a str,
    /// Makes the table `t` and what belongs to it; chunks that do not exist yet come with the first batch.
    pub setup: &'a str,
    /// Columns of the key, with commas between.
    pub key: &'a str,
    /// What is done, in this order. The chunks are brought into their state before each batch.
    pub steps: &'a [Do<'a>],
    /// Queries whose rows must agree, in any order, after each step.
    pub checks: &'a [&'a str],
    /// Who writes the batches, if not the owner.
    pub role: Option<&'a str>,
    /// Whether the table cannot be frozen.
    pub hot_only: bool,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Case {
            name: "",
            setup: "",
            key: "k",
            steps: &[],
            checks: &["SELECT * FROM t"],
            role: None,
            hot_only: false,
        }
    }
}

/// What the chunks are when a batch comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hot,
    Warm,
    HalfThawed,
    /// Half thawed, and any batch is large enough to be written as segments.
    Merged,
}

/// Where a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Heap,
    Varve(State),
}

/// The relations that hold the rows of `t`.
const LEAVES: &str = "WITH RECURSIVE part (relid) AS (SELECT 't'::regclass::oid UNION ALL SELECT inhrelid FROM pg_inherits JOIN part ON relid = inhparent)
    SELECT relid::regclass AS leaf FROM part JOIN pg_class ON oid = relid WHERE relkind = 'r' AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = relid)
      AND relid NOT IN (SELECT format('%I.%I', schema_name, table_name)::regclass FROM _timescaledb_catalog.hypertable)";

/// Runs all cases; panics with every disagreement.
pub fn check(client: &mut Client, cases: &[Case]) {
    let mut wrong = String::new();
    for case in cases {
        let heap = run(client, case, Side::Heap);
        let batches = |b: &&Do| matches!(b, Do::Batch(..) | Do::Ignore(..) | Do::Each(..));
        assert!(
            case.steps.iter().filter(batches).count() > 0,
            "{}: no batch",
            case.name
        );
        let states = if case.hot_only {
            &[State::Hot][..]
        } else {
            &[State::Hot, State::Warm, State::HalfThawed, State::Merged]
        };
        for state in states {
            let varve = run(client, case, Side::Varve(*state));
            let differ = |h: &String, v: &String| without_message(h) != without_message(v);
            if heap.len() != varve.len() || heap.iter().zip(&varve).any(|(h, v)| differ(h, v)) {
                let _ = write!(wrong, "\n{} ({state:?}):", case.name);
                for (h, v) in heap.iter().zip(&varve).filter(|(h, v)| differ(h, v)) {
                    let _ = write!(
                        wrong,
                        "\n  heap:  {}\n  varve: {}",
                        beyond(h, v),
                        beyond(v, h)
                    );
                }
                for more in varve.iter().skip(heap.len()) {
                    let _ = write!(wrong, "\n  varve: {more}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A line without the rows that the other line has too.
fn beyond(line: &str, other: &str) -> String {
    let (Some((head, rows)), Some((_, others))) = (line.split_once(": "), other.split_once(": "))
    else {
        return line.to_string();
    };
    let others: Vec<&str> = others.split(ROW).collect();
    let rows: Vec<&str> = rows
        .split(ROW)
        .filter(|r| !others.contains(r))
        .take(20)
        .collect();
    format!("{head}: {}", rows.join(ROW))
}

/// What stands between rows.
const ROW: &str = "  ";

/// What stands before an error's message, which is for people and need not agree.
const MESSAGE: &str = " -- ";

fn without_message(line: &str) -> &str {
    line.split(MESSAGE).next().unwrap_or(line)
}

/// Runs a case on one side and tells what each step came to, in lines.
fn run(client: &mut Client, case: &Case, side: Side) -> Vec<String> {
    let fail = |what: &str, e: String| -> ! { panic!("{} ({side:?}): {what}: {e}", case.name) };
    let mut must = |sql: &str| match ask(client, sql) {
        Ok(rows) => rows,
        Err(e) => fail(sql, e),
    };
    must("RESET ALL; RESET ROLE; SET client_min_messages = error");
    must(
        "DROP SCHEMA IF EXISTS s CASCADE; DROP TABLE IF EXISTS pg_temp.t; CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO PUBLIC",
    );
    must("SET search_path = s, public; SET timezone = 'UTC'");
    must(case.setup);
    if side != Side::Heap && !case.hot_only {
        must("SELECT varve.enable('t')");
    }
    let mut lines = Vec::new();
    for (number, step) in case.steps.iter().enumerate() {
        if let (Side::Varve(state), Do::Batch(..) | Do::Ignore(..) | Do::Each(..)) = (side, step) {
            bring(client, state, number).unwrap_or_else(|e| fail("tiers", e));
        }
        let outcome = apply(client, case, *step, side, number);
        println!("{} ({side:?}), step {number}: {outcome}", case.name);
        lines.push(format!("step {number}: {outcome}"));
        for check in case.checks {
            let mut rows = ask(client, check).unwrap_or_else(|e| vec![format!("{check}: {e}")]);
            rows.sort();
            lines.push(format!("after step {number}: {}", rows.join(ROW)));
        }
    }
    if side != Side::Heap {
        lines.extend(damage(client, case).unwrap_or_else(|e| vec![e]));
    }
    lines
}

/// Brings the chunks into the state that the next batch is to find.
fn bring(client: &mut Client, state: State, step: usize) -> Result<(), String> {
    if state == State::Hot {
        return Ok(());
    }
    ask(
        client,
        &format!("SELECT varve.set_tier(leaf, 'warm') FROM ({LEAVES}) l"),
    )?;
    let least = if state == State::Merged {
        "1"
    } else {
        "DEFAULT"
    };
    ask(client, &format!("SET varve.upsert_merge_rows = {least}"))?;
    if state != State::Warm {
        ask(
            client,
            &format!(
                "SELECT count(*) FROM (SELECT FROM t WHERE (hashtextextended(t::text, {step}) & 1) = 0 FOR UPDATE) l"
            ),
        )?;
    }
    Ok(())
}

/// Runs one step; what it came to, in words.
fn apply(client: &mut Client, case: &Case, step: Do, side: Side, number: usize) -> String {
    let outcome = match (step, side) {
        (Do::Sql(sql), _) => ask(client, sql),
        (Do::Each(sql, _), Side::Varve(_)) | (Do::Each(_, sql), Side::Heap) => {
            ask(client, sql).map(|_| Vec::new())
        }
        (Do::Batch(columns, source), Side::Heap) => {
            written(client, case, &on_heap(case, columns, source, false))
        }
        (Do::Ignore(columns, source), Side::Heap) => {
            written(client, case, &on_heap(case, columns, source, true))
        }
        (Do::Batch(columns, source), Side::Varve(_)) => {
            written(client, case, &on_varve(case, columns, source, "", number))
        }
        (Do::Ignore(columns, source), Side::Varve(_)) => {
            let ignore = ", on_conflict => 'ignore'";
            written(
                client,
                case,
                &on_varve(case, columns, source, ignore, number),
            )
        }
    };
    match outcome {
        Ok(rows) => rows.join(" "),
        Err(e) => {
            // A transaction that failed is left.
            let _ = client.batch_execute("ROLLBACK");
            e
        }
    }
}

fn written(client: &mut Client, case: &Case, sql: &str) -> Result<Vec<String>, String> {
    let Some(role) = case.role else {
        return ask(client, sql);
    };
    ask(client, &format!("SET ROLE {role}"))?;
    let outcome = ask(client, sql);
    if outcome.is_err() {
        let _ = client.batch_execute("ROLLBACK");
    }
    ask(client, "RESET ROLE")?;
    outcome
}

/// The call; every second batch comes out of a table.
fn on_varve(case: &Case, columns: &str, source: &str, options: &str, number: usize) -> String {
    let options = format!(", key => '{{{}}}'{options}", case.key);
    let source = format!("SELECT * FROM ({source}) s ({columns})");
    if number.is_multiple_of(2) {
        format!("SELECT * FROM varve.upsert_query('t', $b${source}$b${options})")
    } else {
        format!(
            "BEGIN; CREATE TEMP TABLE stage ON COMMIT DROP AS {source};
             SELECT * FROM varve.upsert('t', 'stage'{options}); COMMIT"
        )
    }
}

/// The same with INSERT … ON CONFLICT: of several rows with one key the last is written, rows that are stored bit for
/// bit are not. The counts are reckoned before the INSERT, but for the rows that it returns.
fn on_heap(case: &Case, columns: &str, source: &str, ignore: bool) -> String {
    let key = case.key;
    let keys: Vec<&str> = key.split(',').map(str::trim).collect();
    let values: Vec<&str> = columns
        .split(',')
        .map(str::trim)
        .filter(|c| !keys.contains(c))
        .collect();
    let side = |of: &str| {
        let list: Vec<String> = values.iter().map(|c| format!("{of}.{c}")).collect();
        list.join(", ")
    };
    let differs = |a: &str, b: &str| {
        if values.is_empty() || ignore {
            "false".to_string()
        } else {
            format!("ROW({})::record *<> ROW({})::record", side(a), side(b))
        }
    };
    let matched: Vec<String> = keys.iter().map(|k| format!("t.{k} = l.{k}")).collect();
    let first = keys.first().unwrap_or(&"");
    let action = if values.is_empty() || ignore {
        "NOTHING".to_string()
    } else {
        let set: Vec<String> = values
            .iter()
            .map(|c| format!("{c} = excluded.{c}"))
            .collect();
        format!(
            "UPDATE SET {} WHERE {}",
            set.join(", "),
            differs("t", "excluded")
        )
    };
    // Types of the table without its constraints, so that values are cast as an assignment casts them.
    format!(
        "BEGIN;
         CREATE TEMP TABLE batch ON COMMIT DROP AS SELECT 0::bigint AS batch_row, {columns} FROM t LIMIT 0;
         INSERT INTO batch SELECT row_number() OVER (), s.* FROM ({source}) s;
         CREATE TEMP TABLE last ON COMMIT DROP AS SELECT DISTINCT ON ({key}) * FROM batch ORDER BY {key}, batch_row DESC;
         CREATE TEMP TABLE needed ON COMMIT DROP AS SELECT l.*
           FROM last l LEFT JOIN t ON {} WHERE t.{first} IS NULL OR {};
         CREATE TEMP TABLE counted (n bigint) ON COMMIT DROP; CREATE TEMP TABLE before ON COMMIT DROP AS SELECT count({first}) AS a FROM t;
         WITH done AS (INSERT INTO t ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM needed ORDER BY {key}
           ON CONFLICT ({key}) DO {action} RETURNING 1) INSERT INTO counted SELECT count(*) FROM done;
         SELECT b, z - a, n - (z - a), l - n, b - l FROM (SELECT count(*) AS b FROM batch) b, (SELECT count(*) AS l FROM last) l,
           (SELECT count({first}) AS z FROM t) z, before, counted;
         COMMIT",
        matched.join(" AND "),
        differs("t", "l"),
    )
}

/// What is wrong with the table in itself: segments, and rows that the index of the key lacks or has twice.
fn damage(client: &mut Client, case: &Case) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    if !case.hot_only {
        let bad = ask(
            client,
            "SELECT v::text FROM varve.verify('t') v WHERE NOT ok",
        )?;
        wrong.extend(bad.into_iter().map(|b| format!("verify: {b}")));
    }
    let same: Vec<String> = case
        .key
        .split(',')
        .map(|k| format!("b.{0} = a.{0}", k.trim()))
        .collect();
    // Of a large table, about a thousand rows.
    let lookup = format!(
        "SELECT found, count(*) FROM (SELECT t.* FROM t WHERE hashtextextended(t::text, 7) % (1 + (SELECT count(*) FROM t) / 1000) = 0) a,
           LATERAL (SELECT count(*) AS found FROM t b WHERE {}) b WHERE found <> 1 GROUP BY 1",
        same.join(" AND ")
    );
    for setting in ["enable_indexscan", "enable_seqscan"] {
        let bitmap = setting
            .replace("seqscan", "bitmapscan")
            .replace("indexscan", "bitmapscan");
        let bad = ask(
            client,
            &format!(
                "SET {setting} = off; SET {bitmap} = off; {lookup}; RESET {setting}; RESET {bitmap}"
            ),
        )?;
        wrong.extend(bad.into_iter().map(|b| format!("key, {setting} off: {b}")));
    }
    Ok(wrong)
}

/// Rows of all statements, columns joined by `|`; or the error: SQLSTATE, constraint and column.
pub fn ask(client: &mut Client, sql: &str) -> Result<Vec<String>, String> {
    let messages = client
        .simple_query(sql)
        .map_err(|e| match e.as_db_error() {
            Some(e) => format!(
                "error {} constraint {} column {}{MESSAGE}{}",
                e.code().code(),
                plain(e.constraint().unwrap_or("-")),
                e.column().unwrap_or("-"),
                e.message(),
            ),
            None => format!("{e}"),
        })?;
    let rows = messages.iter().filter_map(|m| match m {
        SimpleQueryMessage::Row(row) => {
            let fields: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("∅")).collect();
            Some(fields.join("|"))
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// A constraint's name without what TimescaleDB puts before it for a chunk.
fn plain(name: &str) -> &str {
    let name = match name.strip_prefix("_hyper_") {
        Some(rest) => rest.split_once("_chunk_").map_or(rest, |(_, name)| name),
        None => name,
    };
    name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_')
}
