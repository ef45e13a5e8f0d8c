//! A client in a thread of its own, so that a test can start a statement, see it wait, and go on with another.

use crate::cluster::Cluster;
use postgres::{Client, Config, NoTls, SimpleQueryMessage};
use std::fmt;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// What a statement came to: rows as text (columns joined by `|`, NULL as `∅`), or an error.
pub type Outcome = Result<Vec<String>, Failure>;

/// An error that the server (or the lost connection) reported.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// SQLSTATE; `lost` when the connection broke.
    pub code: String,
    /// The message.
    pub message: String,
    /// The hint, if there is one.
    pub hint: Option<String>,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        match error.as_db_error() {
            Some(e) => Failure {
                code: e.code().code().to_string(),
                message: e.message().to_string(),
                hint: e.hint().map(str::to_string),
            },
            None => Failure {
                code: "lost".into(),
                message: error.to_string(),
                hint: None,
            },
        }
    }
}

/// Runs statements over the simple protocol and returns the rows of all of them.
pub fn simple(client: &mut Client, sql: &str) -> Outcome {
    let messages = client.simple_query(sql)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let columns: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("∅")).collect();
            Some(columns.join("|"))
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// The rows of statements that must succeed, as [`simple`] has them.
///
/// # Panics
/// With the statement and the error, if one fails.
pub fn rows(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// Such rows put together: of one row, it.
///
/// # Panics
/// As [`rows`].
pub fn one(client: &mut Client, sql: &str) -> String {
    rows(client, sql).concat()
}

/// Blocks of shared buffers that a query asks for, those that it reads among them. What the session remembers of the catalogue should be
/// there by then.
pub fn blocks(client: &mut Client, sql: &str) -> u64 {
    let plan = one(
        client,
        &format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}"),
    );
    let count = |name: &str| -> u64 {
        let digits = plan.split_once(name).map(|(_, rest)| {
            rest.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
        });
        digits
            .and_then(|d| d.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {plan}"))
    };
    count("\"Shared Hit Blocks\": ") + count("\"Shared Read Blocks\": ")
}

/// A client, and what the server tells it beside results from now on, down to its DEBUG1 messages. A statement's words are there when it
/// has ended.
pub fn listening(config: &mut Config) -> Result<(Client, Receiver<String>), postgres::Error> {
    let (words, heard) = channel();
    config.notice_callback(move |notice| {
        // Whoever has stopped listening does not miss it.
        let _ = words.send(notice.message().to_string());
    });
    let mut client = config.connect(NoTls)?;
    client.batch_execute("SET client_min_messages = debug1")?;
    Ok((client, heard))
}

/// A session whose statements run in a thread of its own, one after the other.
pub struct Session {
    pid: i32,
    statements: Option<Sender<String>>,
    outcomes: Receiver<Outcome>,
    ready: Option<Outcome>,
    last: String,
    thread: Option<JoinHandle<()>>,
}

impl Session {
    /// Connects to the database `postgres`.
    pub fn new(cluster: &Cluster) -> Result<Session, postgres::Error> {
        let mut client = cluster.config("postgres").connect(NoTls)?;
        let pid = client
            .query_one("SELECT pg_backend_pid()", &[])?
            .try_get(0)?;
        let (statements, inbox) = channel::<String>();
        let (outbox, outcomes) = channel();
        let thread = std::thread::spawn(move || {
            for sql in inbox {
                if outbox.send(simple(&mut client, &sql)).is_err() {
                    break;
                }
            }
        });
        Ok(Session {
            pid,
            statements: Some(statements),
            outcomes,
            ready: None,
            last: String::new(),
            thread: Some(thread),
        })
    }

    /// Process id of the session's backend.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Starts a statement without waiting for it. What it comes to must be fetched before the next one starts.
    pub fn start(&mut self, sql: &str) {
        assert!(self.ready.is_none(), "the last outcome was not fetched");
        self.last = sql.to_string();
        if let Some(statements) = &self.statements {
            assert!(
                statements.send(sql.to_string()).is_ok(),
                "the session's thread ended"
            );
        }
    }

    /// Waits for the started statement.
    pub fn finish(&mut self) -> Outcome {
        if let Some(outcome) = self.ready.take() {
            return outcome;
        }
        let limit = std::time::Duration::from_secs(120);
        match self.outcomes.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(e) => panic!("process {}: {}: no end of it: {e}", self.pid, self.last),
        }
    }

    /// Runs a statement to its end.
    pub fn run(&mut self, sql: &str) -> Outcome {
        self.start(sql);
        self.finish()
    }

    /// Runs a statement that must succeed.
    pub fn ok(&mut self, sql: &str) -> Vec<String> {
        match self.run(sql) {
            Ok(rows) => rows,
            Err(e) => panic!("{sql}: {e:?}"),
        }
    }

    /// Runs a statement that must fail, and returns its SQLSTATE.
    pub fn err(&mut self, sql: &str) -> String {
        match self.run(sql) {
            Ok(rows) => panic!("{sql}: no error, but {rows:?}"),
            Err(e) => e.code,
        }
    }

    /// Whether the started statement has ended.
    pub fn done(&mut self) -> bool {
        if self.ready.is_some() {
            return true;
        }
        match self.outcomes.try_recv() {
            Ok(outcome) => {
                self.ready = Some(outcome);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => panic!("the session's thread ended"),
        }
    }

    /// Waits until the started statement has ended or waits for a lock; tells whether it waits.
    pub fn waits(&mut self, observer: &mut Client) -> bool {
        let mut waiting = false;
        crate::wait::until("a statement to end or to wait", || {
            if self.done() {
                return true;
            }
            // The lock queue itself, not the wait event, which shows before the process is in the queue.
            waiting = observer
                .query_one("SELECT cardinality(pg_blocking_pids($1)) > 0", &[&self.pid])
                .is_ok_and(|row| row.get(0));
            waiting
        });
        waiting && !self.done()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.statements.take();
        // A statement that hangs would hang the test; a test that fails leaves the thread to the end of the process.
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            let _ = thread.join();
        }
    }
}
