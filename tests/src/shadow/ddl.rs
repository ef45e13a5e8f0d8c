//! Statements on tables as a whole: definitions, upkeep, tiers, settings.

use super::rng::Rng;
use super::shape::{ADDED, Shape};
use super::step::{Step, Who};
use super::text::int_column;

/// Changes of a table's definition, often several statements in a row.
pub fn definition(shapes: &[Shape], rng: &mut Rng) -> Vec<Step> {
    let shape = rng.pick(shapes);
    let name = shape.name;
    let x = format!("x{}", rng.below(3));
    let step = |sql: String| Step::new(Who::Main, sql).touching(shape.touched());
    let extra = shape.columns.get(shape.base..).unwrap_or_default();
    match rng.weighted(&[8, 6, 2, 8, 6, 3, 2, 2]) {
        0 => {
            let (kind, sql_type) = *rng.pick(ADDED);
            let default = match rng.below(4) {
                0 => String::new(),
                1 => format!(
                    " NOT NULL DEFAULT {}",
                    super::value::literal(kind, Some(&kind.value(rng)))
                ),
                _ => format!(
                    " DEFAULT {}",
                    super::value::literal(kind, Some(&kind.value(rng)))
                ),
            };
            vec![step(format!(
                "ALTER TABLE {name} ADD COLUMN {x} {sql_type}{default}"
            ))]
        }
        1 => vec![step(format!(
            "ALTER TABLE {name} DROP COLUMN IF EXISTS {x}"
        ))],
        2 => match extra.first() {
            Some(c) => vec![step(format!(
                "ALTER TABLE {name} ALTER COLUMN {n} TYPE text USING {n}::text",
                n = c.name
            ))],
            None => vec![step(format!("ALTER TABLE {name} ADD COLUMN {x} int"))],
        },
        3 => vec![step(format!(
            "CREATE INDEX IF NOT EXISTS {name}_i{} ON {name} ({})",
            rng.below(2),
            int_column(shape, rng).name
        ))],
        4 => vec![step(format!(
            "DROP INDEX IF EXISTS {name}_i{}",
            rng.below(2)
        ))],
        5 => {
            // Must fail where rows, frozen ones included, hold duplicates; gone again before others meet it.
            let column = &int_column(shape, rng).name;
            vec![
                step(format!(
                    "CREATE UNIQUE INDEX {name}_u ON {name} ({column}{})",
                    if shape.hypertable { ", ts" } else { "" }
                ))
                .meeting_keys(),
                step(format!("DROP INDEX IF EXISTS {name}_u")),
            ]
        }
        6 => {
            let column = int_column(shape, rng).name.clone();
            let limit = rng.below(2000);
            vec![
                step(format!(
                    "ALTER TABLE {name} ADD CONSTRAINT {name}_c CHECK ({column} < {limit})"
                )),
                step(format!(
                    "ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {name}_c"
                )),
            ]
        }
        _ => {
            let column = int_column(shape, rng).name.clone();
            vec![
                step(format!(
                    "ALTER TABLE {name} ALTER COLUMN {column} SET STATISTICS {}",
                    rng.below(200)
                )),
                step(format!(
                    "ALTER TABLE {name} RENAME COLUMN {column} TO renamed"
                )),
                step(format!(
                    "ALTER TABLE {name} RENAME COLUMN renamed TO {column}"
                )),
            ]
        }
    }
}

/// TRUNCATE, of a table and what depends on it.
pub fn truncate(shapes: &[Shape], rng: &mut Rng) -> Step {
    let shape = rng.pick(shapes);
    let more = if rng.chance(50) {
        " RESTART IDENTITY CASCADE"
    } else {
        " CASCADE"
    };
    Step::new(Who::Main, format!("TRUNCATE {}{more}", shape.name)).touching(shape.touched())
}

/// ANALYZE and REINDEX, which may run anywhere.
pub fn upkeep(shapes: &[Shape], rng: &mut Rng) -> Step {
    let shape = rng.pick(shapes);
    let name = shape.name;
    let sql = match rng.below(4) {
        0 => format!("REINDEX TABLE {name}"),
        1 => match shape.index {
            Some(index) => format!("REINDEX INDEX {index}"),
            None => format!("ANALYZE {name}"),
        },
        _ => format!("ANALYZE {name}"),
    };
    // Timescale's and PostgreSQL's order of locking is not ours to compare.
    Step::new(Who::Main, sql)
        .meeting_keys()
        .touching(shape.touched())
        .any_error()
}

/// Upkeep that runs outside a transaction only. `alone`: nobody else has a transaction open.
pub fn vacuum(shapes: &[Shape], alone: bool, rng: &mut Rng) -> Step {
    let shape = rng.pick(shapes);
    let name = shape.name;
    let sql = match rng.below(10) {
        0 | 1 => format!("VACUUM FULL {name}"),
        2 | 3 if shape.index.is_some() => {
            format!("CLUSTER {name} USING {}", shape.index.unwrap_or_default())
        }
        // Not the whole table: after its TOAST index is rebuilt, copying versions that only an old transaction could see
        // fails for want of their chunks, in VACUUM FULL of a heap table too.
        4 if alone && !shape.hypertable && shape.index.is_some() => {
            format!(
                "REINDEX INDEX CONCURRENTLY {}",
                shape.index.unwrap_or_default()
            )
        }
        5 if alone && !shape.hypertable && name != "part" => format!(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS {name}_i1 ON {name} ({})",
            int_column(shape, rng).name
        ),
        6 => format!("VACUUM (ANALYZE, FREEZE) {name}"),
        _ => format!("VACUUM {name}"),
    };
    Step::new(Who::Main, sql)
        .touching(shape.touched())
        .any_error()
}

/// A move of one chunk, or of all, to a tier, on the varve side.
pub fn tier(shapes: &[Shape], rng: &mut Rng) -> Step {
    let shape = rng.pick(shapes);
    let tier = if rng.chance(85) {
        *rng.pick(&["warm", "warm", "cold"])
    } else {
        "hot"
    };
    let n = rng.below(5);
    let which = if rng.chance(50) {
        format!(" ORDER BY c.chunk::text OFFSET {n} LIMIT 1")
    } else {
        String::new()
    };
    moved(shape, tier, &which)
}

/// A move of the chunks that `which` leaves.
pub fn moved(shape: &Shape, tier: &str, which: &str) -> Step {
    let mut step = Step::new(
        Who::Main,
        format!("SELECT varve.set_tier(c.chunk, '{tier}') FROM (SELECT c.chunk FROM varve.chunk_ranges('{}') c{which}) c", shape.name),
    )
    .touching(shape.touched());
    step.varve_only = true;
    step
}
