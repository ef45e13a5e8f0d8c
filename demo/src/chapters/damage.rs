//! One byte of one segment is turned over, as a bad disk would: verification finds it, and no read returns it.

use crate::show;
use crate::stage::{Result, Stage, answer, fingerprint_sql};
use postgres::error::SqlState;

/// Damages a segment, looks, and puts it right again.
pub fn run(stage: &mut Stage) -> Result<()> {
    let chunk = stage.chunk_at(0.6)?;
    let chunks = stage.chunks()?;
    let healthy = chunks.iter().find(|c| c.name != chunk.name);
    let sql = format!(
        "SELECT varve.segment_table('{}')::text",
        chunk.name.replace('\'', "''")
    );
    let table = stage.text(&sql)?;
    let row = stage.client.query_one(
        &format!("SELECT segment, item, data FROM {table} WHERE item > 0 ORDER BY length(data) DESC, segment, item LIMIT 1"),
        &[],
    )?;
    let (segment, item, data): (i32, i32, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
    let update = format!("UPDATE {table} SET data = $3 WHERE segment = $1 AND item = $2");
    let mut damaged = data.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    show::say(&format!(
        "Byte {} of {} of piece {item} of segment {segment} of {}, turned over as superuser:",
        show::count(middle as i64),
        show::count(data.len() as i64),
        chunk.name
    ));
    show::aside(&update);
    stage
        .client
        .execute(&update, &[&segment, &item, &damaged])?;

    let bad = stage.client.query(
        "SELECT chunk::text, segment, coalesce(detail, '') FROM varve.verify('prices') WHERE NOT ok",
        &[],
    )?;
    let found: Vec<String> = bad
        .iter()
        .map(|r| {
            format!(
                "{} segment {}: {}",
                r.get::<_, &str>(0),
                r.get::<_, i32>(1),
                r.get::<_, &str>(2)
            )
        })
        .collect();
    let here = format!("{} segment {segment}: ", chunk.name);
    let holds = found.len() == 1 && found[0].starts_with(&here);
    stage.claim(
        "varve.verify finds this segment and no other",
        holds,
        format!("found {found:?}"),
    )?;
    show::aside(&found.join("\n"));

    // Another session, which has nothing of the segment in memory.
    let mut reader = stage.cluster.connect()?;
    let read = reader.simple_query(&fingerprint_sql(&chunk.name, "true"));
    let (code, message) = match &read {
        Ok(_) => (None, "no error".to_string()),
        Err(e) => (
            e.code().cloned(),
            e.as_db_error()
                .map_or(e.to_string(), |d| d.message().to_string()),
        ),
    };
    let holds = code == Some(SqlState::DATA_CORRUPTED);
    stage.claim(
        "a read of it is an error (SQLSTATE XX001), not a wrong answer",
        holds,
        format!("{code:?}: {message}"),
    )?;
    show::aside(&format!("ERROR:  {message}"));
    if let Some(healthy) = healthy {
        let rows = answer(
            &mut reader,
            &format!("SELECT count(*) FROM {}", healthy.name),
        )?;
        stage.same(
            "the same session goes on reading other chunks",
            rows.trim(),
            healthy.rows.to_string().as_str(),
        )?;
    }

    stage.client.execute(&update, &[&segment, &item, &data])?;
    let bad = stage.number("SELECT count(*) FROM varve.verify('prices') WHERE NOT ok")?;
    stage.same("with the byte put right, everything verifies again", bad, 0)?;
    let rows = answer(
        &mut reader,
        &format!(
            "SELECT count(volume) + count(*) FILTER (WHERE volume IS NULL) FROM {}",
            chunk.name
        ),
    )?;
    stage.same(
        "and is read again",
        rows.trim(),
        chunk.rows.to_string().as_str(),
    )
}
