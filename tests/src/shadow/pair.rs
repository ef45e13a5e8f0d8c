//! The two sides: the same database twice, once on heap and once on varve.

use super::analytic::prepared;
use super::shape::{ENABLE, SETUP, TABLES};
use super::step::{Compare, Outcome, Step, Who, run};
use crate::cluster::Cluster;
use postgres::{Client, NoTls};

/// How the varve side is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `varve.debug_freeze = commit`.
    pub freeze_at_commit: bool,
    /// Tables begin on heap and become varve tables when they are first frozen.
    pub start_on_heap: bool,
}

/// Statements that every session prepares.
pub const PREPARED: &[&str] = &[
    "PREPARE item_get AS SELECT id, name, qty, price FROM item WHERE id = $1",
    "PREPARE item_set AS UPDATE item SET qty = $2 WHERE id = $1",
    "PREPARE item_del AS DELETE FROM item WHERE id = $1 RETURNING id",
    "PREPARE bars_get AS SELECT symbol, ts, close FROM bars WHERE symbol = $1 AND ts BETWEEN $2 AND $3",
    "PREPARE bars_put AS INSERT INTO bars (symbol, ts, close) VALUES ($1, $2, $3) ON CONFLICT (symbol, ts) DO UPDATE SET close = EXCLUDED.close",
    "PREPARE slot_set AS UPDATE slot SET v = $3 WHERE a = $1 AND b = $2 RETURNING code",
    "PREPARE log_sum AS SELECT count(*), sum(a) FROM log WHERE a < $1",
    "PREPARE many_get AS SELECT k, c_text, c_numeric FROM many WHERE k = ANY ($1)",
];

/// One side: a database and three sessions in it.
struct Side {
    main: Client,
    second: Client,
    watcher: Client,
}

impl Side {
    fn of(&mut self, who: Who) -> &mut Client {
        match who {
            Who::Main => &mut self.main,
            Who::Second => &mut self.second,
        }
    }
}

/// A disagreement.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What disagrees.
    pub what: String,
    /// What heap said.
    pub heap: Outcome,
    /// What varve said.
    pub varve: Outcome,
}

impl Difference {
    /// What is the same in a smaller script that shows the same difference.
    pub fn signature(&self) -> String {
        let kind = self.what.split(':').next().unwrap_or_default();
        format!("{kind}/{}/{}", self.heap.code(), self.varve.code())
    }
}

/// Both sides.
pub struct Pair {
    heap: Side,
    varve: Side,
    /// Whether the varve side's main transaction has moved a chunk, and holds it exclusively.
    exclusive: bool,
    /// File for the data of COPY.
    data: std::path::PathBuf,
}

type Failed = Box<dyn std::error::Error>;

const BASE: &str = "shadow_base";

/// Makes the database that both sides are copies of; called once for a cluster.
pub fn prepare(cluster: &Cluster) -> Result<(), Failed> {
    cluster
        .connect()?
        .batch_execute(&format!("CREATE DATABASE {BASE}"))?;
    cluster.config(BASE).connect(NoTls)?.batch_execute(
        "SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS timescaledb; CREATE EXTENSION varve",
    )?;
    cluster
        .connect()?
        .batch_execute(&format!("ALTER DATABASE {BASE} ALLOW_CONNECTIONS false"))?;
    Ok(())
}

fn database(cluster: &Cluster, name: &str, settings: &[&str]) -> Result<Side, Failed> {
    let mut admin = cluster.connect()?;
    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))?;
    admin.batch_execute(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{BASE}'"
    ))?;
    crate::wait::until("the base database to be left alone", || {
        admin
            .batch_execute(&format!(
                "CREATE DATABASE {name} TEMPLATE {BASE} STRATEGY file_copy"
            ))
            .is_ok()
    });
    let common = [
        "lock_timeout = '15ms'",
        "statement_timeout = '60s'",
        "timezone = 'UTC'",
        "client_min_messages = error",
        "jit = off",
    ];
    for setting in common.iter().chain(settings) {
        admin.batch_execute(&format!("ALTER DATABASE {name} SET {setting}"))?;
    }
    let connect = || cluster.config(name).connect(NoTls);
    Ok(Side {
        main: connect()?,
        second: connect()?,
        watcher: connect()?,
    })
}

impl Pair {
    /// Both sides anew, with empty tables.
    pub fn new(cluster: &Cluster, setting: Setting) -> Result<Pair, Failed> {
        let method = if setting.start_on_heap {
            "heap"
        } else {
            "varve"
        };
        let method = format!("default_table_access_method = '{method}'");
        let freeze = if setting.freeze_at_commit {
            "commit"
        } else {
            "off"
        };
        let freeze = format!("varve.debug_freeze = '{freeze}'");
        let settings = [method.as_str(), &freeze, "varve.lock_timeout = '50ms'"];
        let mut pair = Pair {
            heap: database(cluster, "shadow_heap", &[])?,
            varve: database(cluster, "shadow_varve", &settings)?,
            exclusive: false,
            data: cluster.dir().join("copy"),
        };
        for side in [&mut pair.heap, &mut pair.varve] {
            for sql in SETUP.iter().chain(prepared::FUNCTIONS) {
                side.main
                    .simple_query(sql)
                    .map_err(|e| format!("{sql}: {e:?}"))?;
            }
            for sql in PREPARED.iter().chain(prepared::PREPARED) {
                side.main.simple_query(sql)?;
                side.second.simple_query(sql)?;
            }
        }
        for sql in ENABLE.iter().filter(|sql| !super::avoided(sql)) {
            pair.varve
                .main
                .simple_query(sql)
                .map_err(|e| format!("{sql}: {e:?}"))?;
        }
        Ok(pair)
    }

    /// Runs a statement on both sides and compares; returns what heap said.
    pub fn apply(&mut self, step: &Step) -> Result<Outcome, Box<Difference>> {
        if step.who == Who::Second && self.exclusive {
            return Ok(Outcome::default());
        }
        if step.varve_only {
            self.apply_to_varve(&step.sql)?;
        } else {
            let text = self.with_data(step);
            let heap = run(self.heap.of(step.who), &text);
            let varve_sql = step.varve_sql.as_ref().unwrap_or(&text);
            let varve = run(self.varve.of(step.who), varve_sql);
            let sql = step.sql.trim_start();
            let ends = sql.starts_with("COMMIT")
                || (sql.starts_with("ROLLBACK") && !sql.starts_with("ROLLBACK TO"));
            if step.who == Who::Main && ends {
                self.exclusive = false;
            }
            let agreed = step.digits.map(|digits| agreed(&heap, &varve, digits));
            let varve = agreed.unwrap_or(varve);
            compare("outcome", step.compare, step.strict, &heap, &varve)?;
            if heap.error.is_some() {
                return Ok(heap);
            }
            self.contents(step.who, &step.tables)?;
            return Ok(heap);
        }
        self.contents(step.who, &step.tables)?;
        Ok(Outcome::default())
    }

    /// The statement, with the data of a COPY in a file.
    fn with_data(&self, step: &Step) -> String {
        let Some(data) = &step.copy else {
            return step.sql.clone();
        };
        // Without the file, COPY fails on both sides, and too many failures fail the test.
        let _: std::io::Result<()> = std::fs::write(&self.data, data);
        step.sql
            .replace("FROM STDIN", &format!("FROM '{}'", self.data.display()))
    }

    /// Compares the contents of tables as a session sees them.
    fn contents(&mut self, who: Who, tables: &[String]) -> Result<(), Box<Difference>> {
        for table in tables {
            let sql = format!("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t");
            let heap = run(self.heap.of(who), &sql);
            let varve = run(self.varve.of(who), &sql);
            if heap != varve {
                return Err(self.explain(who, table, heap, varve));
            }
        }
        Ok(())
    }

    /// The rows that one side has and the other lacks.
    fn explain(&mut self, who: Who, table: &str, heap: Outcome, varve: Outcome) -> Box<Difference> {
        let what = format!("contents: {table}");
        if heap.error.is_some() || varve.error.is_some() {
            return Box::new(Difference { what, heap, varve });
        }
        let sql = format!("SELECT t::text FROM {table} t");
        let mut heap = run(self.heap.of(who), &sql);
        let mut varve = run(self.varve.of(who), &sql);
        let mut count = std::collections::BTreeMap::<String, i64>::new();
        for row in &heap.rows {
            *count.entry(row.clone()).or_default() += 1;
        }
        for row in &varve.rows {
            *count.entry(row.clone()).or_default() -= 1;
        }
        let only = |sign: i64| {
            count
                .iter()
                .filter(|(_, n)| n.signum() == sign)
                .map(|(row, n)| format!("{} x {row}", n.abs()))
                .collect()
        };
        heap.rows = only(1);
        varve.rows = only(-1);
        let what = format!("{what} (rows that the other side lacks)");
        Box::new(Difference { what, heap, varve })
    }

    /// Moves a chunk between tiers: in a savepoint when a transaction is open, since the move may be refused.
    fn apply_to_varve(&mut self, sql: &str) -> Result<(), Box<Difference>> {
        let client = &mut self.varve.main;
        let begun = run(client, "SAVEPOINT shadow_only");
        let in_transaction = match begun.code() {
            "" => true,
            "25P01" => false,
            _ => return Ok(()),
        };
        let outcome = run(client, sql);
        if in_transaction {
            let back = if outcome.error.is_some() {
                "ROLLBACK TO SAVEPOINT shadow_only"
            } else {
                "RELEASE SAVEPOINT shadow_only"
            };
            run(client, back);
            if back.starts_with("ROLLBACK") {
                run(client, "RELEASE SAVEPOINT shadow_only");
            } else {
                self.exclusive = true;
            }
        }
        // Refused because another session uses the chunk, this one has it open in a cursor, or varve's note of the chunk
        // has changed since the snapshot (the bystander verifies now and then).
        if matches!(outcome.code(), "" | "55P03" | "55006" | "40001") {
            return Ok(());
        }
        Err(Box::new(Difference {
            what: "tier move".into(),
            heap: Outcome::default(),
            varve: outcome,
        }))
    }

    /// Compares all tables, as the main session and as a bystander sees them.
    pub fn compare_all(&mut self) -> Result<(), Box<Difference>> {
        let tables: Vec<String> = TABLES.iter().map(|t| t.to_string()).collect();
        self.contents(Who::Main, &tables)?;
        if self.exclusive {
            return Ok(());
        }
        for table in &tables {
            let sql = format!("SELECT t::text FROM {table} t");
            let heap = run(&mut self.heap.watcher, &sql);
            let varve = run(&mut self.varve.watcher, &sql);
            compare(
                &format!("bystander: {table}"),
                Compare::Rows,
                true,
                &heap,
                &varve,
            )?;
        }
        Ok(())
    }

    /// Checks the segments of all tables.
    pub fn verify(&mut self) -> Result<(), Box<Difference>> {
        if self.exclusive {
            return Ok(());
        }
        let sql = "SELECT v.* FROM varve.managed m, varve.verify(m.relation) v WHERE NOT v.ok";
        let varve = run(&mut self.varve.watcher, sql);
        if matches!(varve.code(), "55P03") || (varve.error.is_none() && varve.rows.is_empty()) {
            return Ok(());
        }
        Err(Box::new(Difference {
            what: "varve.verify".into(),
            heap: Outcome::default(),
            varve,
        }))
    }

    /// Runs something on the heap side alone, as its main session.
    pub fn ask_heap(&mut self, sql: &str) -> Outcome {
        run(&mut self.heap.main, sql)
    }

    /// Runs something on the varve side alone, as its main session.
    pub fn ask_varve(&mut self, sql: &str) -> Outcome {
        run(&mut self.varve.main, sql)
    }
}

fn compare(
    what: &str,
    how: Compare,
    strict: bool,
    heap: &Outcome,
    varve: &Outcome,
) -> Result<(), Box<Difference>> {
    let same = match (&heap.error, &varve.error) {
        // A lost connection is never as it should be; an internal error only where heap has it too, as TimescaleDB's
        // MERGE does after ALTER TABLE. Its message may name an OID.
        (Some(a), Some(b)) => match b.code.as_str() {
            "lost" => false,
            "XX000" => a.code == b.code,
            _ => a == b || !strict,
        },
        (None, None) => match how {
            Compare::Ordered => heap == varve,
            Compare::Rows => {
                heap.counts == varve.counts && sorted(&heap.rows) == sorted(&varve.rows)
            }
            Compare::Success => true,
        },
        _ => false,
    };
    if same {
        return Ok(());
    }
    Err(Box::new(Difference {
        what: what.into(),
        heap: heap.clone(),
        varve: varve.clone(),
    }))
}

/// What varve said, with heap's floats in the place of those that agree with them in so many digits.
fn agreed(heap: &Outcome, varve: &Outcome, digits: u32) -> Outcome {
    let mut agreed = varve.clone();
    for (row, other) in agreed.rows.iter_mut().zip(&heap.rows) {
        if row.matches(" | ").count() != other.matches(" | ").count() {
            continue;
        }
        let fields = row.split(" | ").zip(other.split(" | "));
        let fields: Vec<&str> = fields
            .map(|(field, other)| {
                if close(field, other, digits) {
                    other
                } else {
                    field
                }
            })
            .collect();
        *row = fields.join(" | ");
    }
    agreed
}

/// Whether two texts are floats that agree in so many digits, where at least one is no whole number.
fn close(a: &str, b: &str, digits: u32) -> bool {
    let whole = |text: &str| text.parse::<i128>().is_ok();
    let (Ok(x), Ok(y)) = (a.parse::<f64>(), b.parse::<f64>()) else {
        return false;
    };
    let tolerance = 10f64.powi(-(digits as i32));
    !(whole(a) && whole(b) && x != y) && (x - y).abs() <= tolerance * x.abs().max(y.abs()).max(1.0)
}

fn sorted(rows: &[String]) -> Vec<&String> {
    let mut rows: Vec<&String> = rows.iter().collect();
    rows.sort();
    rows
}
