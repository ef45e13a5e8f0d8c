//! The same questions before and after freezing: the answers must be equal to the letter, the times stand side by side.

use crate::show::{self, Align};
use crate::stage::{Answer, Result, Stage, answer, fingerprint_sql};
use std::time::Instant;

/// How often a question is asked; the quickest time counts.
const RUNS: usize = 3;

/// What is asked: a name and the SQL.
fn questions() -> Vec<(&'static str, String)> {
    vec![
        ("rows", "SELECT count(*) FROM prices".into()),
        ("sum of volume", "SELECT sum(volume) FROM prices".into()),
        ("md5 of all rows", fingerprint_sql("prices", "true")),
        (
            "monthly OHLC",
            "SELECT symbol, time_bucket('1 month', date) AS month, first(open, date), max(high), min(low), \
                    last(close, date), sum(volume) FROM prices GROUP BY 1, 2 ORDER BY 1, 2"
                .into(),
        ),
        (
            "top 10 by volume",
            "SELECT symbol, sum(volume) FROM prices GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10".into(),
        ),
        (
            "one symbol's year",
            "SELECT * FROM prices WHERE symbol = (SELECT max(symbol) FROM prices) \
                AND date > (SELECT max(date) - 365 FROM prices) ORDER BY date"
                .into(),
        ),
    ]
}

/// Asks every question a few times.
fn ask(stage: &mut Stage) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for (name, sql) in questions() {
        let mut best: Option<Answer> = None;
        for _ in 0..RUNS {
            let begin = Instant::now();
            let text = answer(&mut stage.client, &sql)?;
            let took = begin.elapsed();
            match &mut best {
                None => best = Some(Answer { text, took }),
                Some(best) if best.text != text => {
                    return Err(format!("asked twice, \"{name}\" is answered differently").into());
                }
                Some(best) => best.took = best.took.min(took),
            }
        }
        answers.extend(best);
    }
    Ok(answers)
}

/// The last line of an answer, shortened.
fn gist(text: &str) -> String {
    let lines = text.lines().count();
    match text.lines().next() {
        Some(line) if lines == 1 && line.len() > 14 => format!("{}…", &line[..12]),
        Some(line) if lines == 1 => line.to_string(),
        _ => format!("{} rows", show::count(lines as i64)),
    }
}

/// Asks while every chunk is heap, and remembers.
pub fn before(stage: &mut Stage) -> Result<()> {
    // Heap at its best: everything vacuumed, statistics fresh.
    show::aside("VACUUM (ANALYZE) prices");
    stage.client.batch_execute("VACUUM (ANALYZE) prices")?;
    stage.client.batch_execute("CHECKPOINT")?;
    stage.database_bytes = stage.number("SELECT pg_database_size(current_database())")?;
    stage.answers = ask(stage)?;
    let rows: Vec<Vec<String>> = questions()
        .iter()
        .zip(&stage.answers)
        .map(|((name, _), a)| vec![name.to_string(), gist(&a.text), show::time(a.took)])
        .collect();
    let head = [
        ("question", Align::Left),
        ("answer", Align::Right),
        ("on heap", Align::Right),
    ];
    show::table(&head, &rows, None);
    let counted = stage.answers.first().map(|a| a.text.trim().to_string());
    let expected = stage.prices.records.len().to_string();
    stage.same(
        "the count is that of the file",
        counted.unwrap_or_default(),
        expected,
    )
}

/// Asks again, and compares.
pub fn after(stage: &mut Stage) -> Result<()> {
    let answers = ask(stage)?;
    let mut rows = Vec::new();
    let mut different = Vec::new();
    for (((name, _), old), new) in questions().iter().zip(&stage.answers).zip(&answers) {
        let same = old.text == new.text;
        if !same {
            different.push(format!(
                "{name}: {} became {}",
                gist(&old.text),
                gist(&new.text)
            ));
        }
        rows.push(vec![
            name.to_string(),
            gist(&new.text),
            if same { "yes" } else { "NO" }.to_string(),
            show::time(old.took),
            show::time(new.took),
            format!("{:.2}", new.took.as_secs_f64() / old.took.as_secs_f64()),
        ]);
    }
    let head = [
        ("question", Align::Left),
        ("answer", Align::Right),
        ("same", Align::Left),
        ("on heap", Align::Right),
        ("frozen", Align::Right),
        ("ratio", Align::Right),
    ];
    show::table(&head, &rows, None);
    let text = format!("all {} answers are equal to the letter", rows.len());
    stage.claim(&text, different.is_empty(), different.join("; "))
}
