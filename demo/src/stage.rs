//! What the chapters share: the server, a connection to it, the prices, and what earlier chapters found out.

use crate::data::Prices;
use crate::show;
use postgres::Client;
use std::fmt::Display;
use std::io::Write;
use std::time::Duration;
use varve_tests::cluster::Cluster;

/// Anything that ends the demonstration.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// Result of a chapter.
pub type Result<T> = std::result::Result<T, Error>;

/// What `varve.upsert` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub rows_in: i64,
    pub inserted: i64,
    pub updated: i64,
    pub unchanged: i64,
    pub duplicates: i64,
}

impl Summary {
    /// Adds the counts of one more batch.
    pub fn add(&mut self, other: Summary) {
        self.rows_in += other.rows_in;
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.duplicates += other.duplicates;
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} rows in = {} inserted + {} updated + {} unchanged + {} duplicate",
            show::count(self.rows_in),
            show::count(self.inserted),
            show::count(self.updated),
            show::count(self.unchanged),
            show::count(self.duplicates)
        )
    }
}

/// One chunk, as `varve.chunks` shows it.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Name, quoted as SQL wants it.
    pub name: String,
    /// First day that may lie in it.
    pub from: String,
    pub tier: String,
    pub rows: i64,
    pub delta_rows: i64,
    pub segments: i32,
    pub bytes_before: i64,
    pub bytes_now: i64,
}

/// What a question was answered, and how long that took.
pub struct Answer {
    pub text: String,
    pub took: Duration,
}

/// The stage of all chapters.
pub struct Stage {
    pub cluster: Cluster,
    pub client: Client,
    pub prices: Prices,
    /// Answers while all was heap, in the order of the questions.
    pub answers: Vec<Answer>,
    /// What the database took before anything was frozen.
    pub database_bytes: i64,
    claims: usize,
}

impl Stage {
    /// A stage on a running server.
    pub fn new(cluster: Cluster, prices: Prices) -> Result<Stage> {
        let client = cluster.connect_with_varve()?;
        Ok(Stage {
            cluster,
            client,
            prices,
            answers: Vec::new(),
            database_bytes: 0,
            claims: 0,
        })
    }

    /// Stops the server; returns how many claims were checked.
    pub fn end(self) -> usize {
        let Stage {
            cluster,
            client,
            claims,
            ..
        } = self;
        drop(client);
        drop(cluster);
        claims
    }

    /// Shows a claim where it holds; an error that says what is so instead where it does not.
    pub fn claim(&mut self, text: &str, holds: bool, instead: impl Display) -> Result<()> {
        if !holds {
            return Err(format!("not so: {text} ({instead})").into());
        }
        show::claim(text);
        self.claims += 1;
        Ok(())
    }

    /// Shows a claim that two values are the same.
    pub fn same<T: PartialEq + Display>(
        &mut self,
        text: &str,
        found: T,
        expected: T,
    ) -> Result<()> {
        let instead = format!("found {found}, expected {expected}");
        self.claim(text, found == expected, instead)
    }

    /// The one value of a query, as text.
    pub fn text(&mut self, sql: &str) -> Result<String> {
        text_of(&mut self.client, sql)
    }

    /// The one value of a query, as a number.
    pub fn number(&mut self, sql: &str) -> Result<i64> {
        let text = self.text(sql)?;
        text.parse()
            .map_err(|_| format!("not a number: {text} ({sql})").into())
    }

    /// Fingerprint of the rows of a table or chunk, in the order of their key, where `condition` holds.
    pub fn fingerprint(&mut self, table: &str, condition: &str) -> Result<String> {
        let sql = fingerprint_sql(table, condition);
        self.text(&sql)
    }

    /// The chunks of `prices`, oldest first.
    pub fn chunks(&mut self) -> Result<Vec<Chunk>> {
        let rows = self.client.query(
            "SELECT chunk::text, range_start::date::text, tier, rows, delta_rows, segments, \
                    bytes_before, bytes_now \
             FROM varve.chunks WHERE hypertable = 'prices'::regclass ORDER BY range_start",
            &[],
        )?;
        Ok(rows
            .iter()
            .map(|row| Chunk {
                name: row.get(0),
                from: row.get(1),
                tier: row.get(2),
                rows: row.get(3),
                delta_rows: row.get(4),
                segments: row.get(5),
                bytes_before: row.get(6),
                bytes_now: row.get(7),
            })
            .collect())
    }

    /// One chunk out of the middle of the range, by its place from 0 (oldest) to 1 (newest).
    pub fn chunk_at(&mut self, place: f64) -> Result<Chunk> {
        let chunks = self.chunks()?;
        let index = ((chunks.len().max(1) - 1) as f64 * place).round() as usize;
        chunks
            .into_iter()
            .nth(index)
            .ok_or_else(|| "prices has no chunk".into())
    }

    /// Upserts what lies in `incoming`.
    pub fn upsert(&mut self) -> Result<Summary> {
        upsert(&mut self.client)
    }

    /// Upserts all prices in batches, with a progress bar; returns the sum of the counts.
    pub fn upsert_all(&mut self, batch: usize) -> Result<Summary> {
        let bar = show::progress(self.prices.records.len() as u64, "rows");
        let mut sum = Summary::default();
        for records in self.prices.records.chunks(batch) {
            self.client.batch_execute("TRUNCATE incoming")?;
            let copy = self.client.copy_in(
                "COPY incoming (date, symbol, open, high, low, close, volume) FROM STDIN (FORMAT csv)",
            )?;
            let mut csv = csv::Writer::from_writer(copy);
            for record in records {
                csv.write_record(record)?;
            }
            let mut copy = csv.into_inner().map_err(|e| e.to_string())?;
            copy.flush()?;
            copy.finish()?;
            sum.add(upsert(&mut self.client)?);
            bar.inc(records.len() as u64);
        }
        bar.finish_and_clear();
        Ok(sum)
    }
}

/// Upserts what lies in `incoming` into `prices`.
fn upsert(client: &mut Client) -> Result<Summary> {
    let row = client.query_one(
        "SELECT rows_in, inserted, updated, unchanged, duplicates FROM varve.upsert('prices', 'incoming'::regclass)",
        &[],
    )?;
    Ok(Summary {
        rows_in: row.get(0),
        inserted: row.get(1),
        updated: row.get(2),
        unchanged: row.get(3),
        duplicates: row.get(4),
    })
}

/// SQL for a fingerprint of rows in the order of their key.
pub fn fingerprint_sql(table: &str, condition: &str) -> String {
    format!(
        "SELECT md5(string_agg(p::text, E'\\n' ORDER BY symbol, date)) FROM {table} p WHERE {condition}"
    )
}

/// The one value of a query, as text.
pub fn text_of(client: &mut Client, sql: &str) -> Result<String> {
    answer(client, sql).map(|text| text.trim_end().to_string())
}

/// Everything that a query answers, as text: columns separated by tabs, rows by line ends.
pub fn answer(client: &mut Client, sql: &str) -> Result<String> {
    let mut text = String::new();
    for message in client.simple_query(sql)? {
        if let postgres::SimpleQueryMessage::Row(row) = message {
            for i in 0..row.len() {
                text += if i > 0 { "\t" } else { "" };
                text += row.get(i).unwrap_or("\\N");
            }
            text.push('\n');
        }
    }
    Ok(text)
}
