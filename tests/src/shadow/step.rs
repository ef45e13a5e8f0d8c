//! One statement of a run, and what came of it.

use postgres::{Client, SimpleQueryMessage};
use std::io::Read;

/// Which session runs a statement; there is one of each on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The session that does most.
    Main,
    /// The other one, often with an older snapshot.
    Second,
}

/// What of the two outcomes must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Rows in their order.
    Ordered,
    /// Rows in any order.
    Rows,
    /// Whether it failed; the statements differ between the sides.
    Success,
}

/// A statement for both sides, or for the varve side alone.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who runs it.
    pub who: Who,
    /// The statement.
    pub sql: String,
    /// What the varve side runs instead.
    pub varve_sql: Option<String>,
    /// Data for COPY FROM STDIN. It takes the way through a file, since the client library loses its place when a COPY
    /// fails before the first row.
    pub copy: Option<String>,
    /// What must agree.
    pub compare: Compare,
    /// Whether the error must be the same one. Not so where several rows can fail for different reasons, since the
    /// order in which they are met is nobody's promise.
    pub strict: bool,
    /// Set where floats need to agree in so many digits only.
    pub digits: Option<u32>,
    /// Tables whose contents are compared afterwards.
    pub tables: Vec<String>,
    /// Whether it may meet a unique key, and so wait for whoever has taken a row with that key out of its segment.
    pub meets_keys: bool,
    /// Whether it is a move between tiers, which heap knows nothing of.
    pub varve_only: bool,
}

impl Step {
    /// A statement whose rows may come in any order and whose error must be the same.
    pub fn new(who: Who, sql: impl Into<String>) -> Step {
        Step {
            who,
            sql: sql.into(),
            varve_sql: None,
            copy: None,
            compare: Compare::Rows,
            strict: true,
            digits: None,
            tables: Vec::new(),
            meets_keys: false,
            varve_only: false,
        }
    }

    /// The rows' order counts.
    pub fn ordered(mut self) -> Step {
        self.compare = Compare::Ordered;
        self
    }

    /// Any error will do when both sides fail.
    pub fn any_error(mut self) -> Step {
        self.strict = false;
        self
    }

    /// New keys may meet old ones.
    pub fn meeting_keys(mut self) -> Step {
        self.meets_keys = true;
        self
    }

    /// These tables are compared afterwards.
    pub fn touching(mut self, tables: Vec<String>) -> Step {
        self.tables = tables;
        self
    }

    /// As a line of a script that a person reads.
    pub fn script(&self) -> String {
        let who = match (self.who, self.varve_only) {
            (_, true) => "varve only",
            (Who::Main, _) => "main",
            (Who::Second, _) => "second",
        };
        let mut text = format!("/* {who} */ {};", self.sql);
        if let Some(other) = &self.varve_sql {
            text.push_str(&format!("\n   /* on varve: */ {other};"));
        }
        if let Some(data) = &self.copy {
            text.push_str(&format!("\n{data}\\."));
        }
        text
    }
}

/// An error as the server reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// SQLSTATE, or `lost` when the connection is.
    pub code: String,
    /// The message.
    pub message: String,
}

/// What came of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows as text.
    pub rows: Vec<String>,
    /// Row counts of the command tags.
    pub counts: Vec<u64>,
    /// The error.
    pub error: Option<Failure>,
}

impl Outcome {
    /// SQLSTATE of the error; empty without one.
    pub fn code(&self) -> &str {
        self.error.as_ref().map_or("", |e| e.code.as_str())
    }

    /// As a person reads it, at most `limit` rows.
    pub fn show(&self, limit: usize) -> String {
        let mut text = match &self.error {
            Some(e) => format!("  error {}: {}\n", e.code, e.message),
            None => format!("  {} rows, tag counts {:?}\n", self.rows.len(), self.counts),
        };
        for row in self.rows.iter().take(limit) {
            let short: String = row.chars().take(300).collect();
            text.push_str(&format!("    {short}\n"));
        }
        text
    }
}

/// A message without the numbers of chunks, which an upsert makes in another order than an INSERT does.
fn without_chunks(message: &str) -> String {
    if message.contains("_hyper_") || message.contains("bars") {
        message.replace(|c: char| c.is_ascii_digit(), "")
    } else {
        message.to_string()
    }
}

fn failure(error: &postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(e) => Failure {
            code: e.code().code().to_string(),
            message: without_chunks(e.message()),
        },
        None => Failure {
            code: "lost".into(),
            message: error.to_string(),
        },
    }
}

/// Runs one statement.
pub fn run(client: &mut Client, sql: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let done = if sql.ends_with("TO STDOUT") {
        copy_out(client, sql, &mut outcome)
    } else {
        query(client, sql, &mut outcome)
    };
    if let Err(e) = done {
        outcome.error = Some(e);
    }
    outcome
}

fn query(client: &mut Client, sql: &str, outcome: &mut Outcome) -> Result<(), Failure> {
    for message in client.simple_query(sql).map_err(|e| failure(&e))? {
        match message {
            SimpleQueryMessage::Row(row) => {
                let fields: Vec<&str> = (0..row.len())
                    .map(|i| row.get(i).unwrap_or("\\N"))
                    .collect();
                outcome.rows.push(fields.join(" | "));
            }
            SimpleQueryMessage::CommandComplete(n) => outcome.counts.push(n),
            _ => {}
        }
    }
    Ok(())
}

fn copy_out(client: &mut Client, sql: &str, outcome: &mut Outcome) -> Result<(), Failure> {
    let mut text = String::new();
    let mut reader = client.copy_out(sql).map_err(|e| failure(&e))?;
    if let Err(e) = reader.read_to_string(&mut text) {
        return Err(
            match e
                .get_ref()
                .and_then(|e| e.downcast_ref::<postgres::Error>())
            {
                Some(e) => failure(e),
                None => Failure {
                    code: "lost".into(),
                    message: e.to_string(),
                },
            },
        );
    }
    outcome.rows = text.lines().map(str::to_string).collect();
    Ok(())
}
