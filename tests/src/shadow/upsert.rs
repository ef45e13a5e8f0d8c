//! `varve.upsert…` on the varve side, and the INSERT … ON CONFLICT that does the same on heap.

use super::rng::Rng;
use super::shape::{Column, Role, Shape};
use super::step::{Step, Who};
use super::text::{Row, names, rows, values};
use super::value::{Kind, literal};

/// Tables that are upserted into. Not `item`, whose statement triggers tell how an upsert is put together.
const TARGETS: [&str; 6] = ["bars", "line", "gen", "slot", "part", "many"];

/// A batch, as the steps that it takes.
pub fn any(who: Who, shapes: &[Shape], rng: &mut Rng) -> Vec<Step> {
    let targets: Vec<&Shape> = shapes
        .iter()
        .filter(|s| TARGETS.contains(&s.name))
        .collect();
    let shape = targets[rng.below(targets.len() as u64) as usize];
    let ignore = rng.chance(25);
    // A row that is ignored is not held against constraints, as the heap's INSERT is: no columns that may be NOT NULL.
    let known = if ignore {
        shape.base
    } else {
        shape.columns.len()
    };
    let columns: Vec<Column> = shape
        .columns
        .iter()
        .take(known)
        .filter(|c| c.role != Role::Computed)
        // Which row of a batch meets another unique index first is nobody's promise.
        .filter(|c| c.role == Role::Key || (c.role == Role::Plain && rng.chance(85)))
        .cloned()
        .collect();
    let n = 1 + rng.below(25);
    let mut batch = rows(&columns, n, rng.chance(50), rng);
    // A NULL in the key is refused.
    batch.retain(|row| {
        !columns
            .iter()
            .zip(row)
            .any(|(c, v)| c.role == Role::Key && v.is_none())
    });
    if batch.is_empty() {
        return Vec::new();
    }
    let heap = on_heap(shape, &columns, &last_of_each(&columns, &batch), ignore);
    let mut options = String::new();
    if shape.arbiters.len() > 1 {
        let keys: Vec<&str> = shape.keys().iter().map(|c| c.name.as_str()).collect();
        options.push_str(&format!(", key => '{{{}}}'", keys.join(",")));
    }
    if ignore {
        options.push_str(", on_conflict => 'ignore'");
    }
    let source = format!(
        "SELECT * FROM ({}) s ({})",
        values(&columns, &batch),
        names(&columns)
    );
    let whole = columns.len() == shape.columns.len();
    let simple = !columns.iter().any(|c| {
        matches!(
            c.kind,
            Kind::Ints | Kind::Texts | Kind::Pair | Kind::Json | Kind::Jsonb
        )
    });
    let call = match rng.below(4) {
        0 if whole => format!(
            "upsert_rows('{}', {}",
            shape.name,
            array(shape.name, &columns, &batch)
        ),
        1 if simple => format!("upsert_json('{}', {}", shape.name, json(&columns, &batch)),
        2 => return through_table(who, shape, &source, heap, &options),
        _ => format!(
            "upsert_query('{}', {}",
            shape.name,
            literal(Kind::Text, Some(&source))
        ),
    };
    vec![step(who, shape, heap, &call, &options)]
}

fn step(who: Who, shape: &Shape, heap: String, call: &str, options: &str) -> Step {
    let mut step = Step::new(who, heap).touching(shape.touched()).any_error();
    step.varve_sql = Some(format!(
        "SELECT inserted + updated FROM varve.{call}{options})"
    ));
    step
}

/// With the batch in a table of its own.
fn through_table(who: Who, shape: &Shape, source: &str, heap: String, options: &str) -> Vec<Step> {
    let call = format!("upsert('{}', 'stage'", shape.name);
    vec![
        Step::new(who, format!("CREATE TEMP TABLE stage AS {source}")),
        step(who, shape, heap, &call, options),
        Step::new(who, "DROP TABLE stage"),
    ]
}

fn on_heap(shape: &Shape, columns: &[Column], batch: &[Row], ignore: bool) -> String {
    let payload: Vec<&Column> = columns.iter().filter(|c| c.role != Role::Key).collect();
    let list = |prefix: &str| {
        let names: Vec<String> = payload
            .iter()
            .map(|c| format!("{prefix}.{}", c.name))
            .collect();
        names.join(", ")
    };
    let action = if ignore || payload.is_empty() {
        "NOTHING".to_string()
    } else {
        let set: Vec<String> = payload
            .iter()
            .map(|c| format!("{n} = EXCLUDED.{n}", n = c.name))
            .collect();
        format!(
            "UPDATE SET {} WHERE ROW({})::record *<> ROW({})::record",
            set.join(", "),
            list("t"),
            list("EXCLUDED")
        )
    };
    format!(
        "WITH done AS (INSERT INTO {} AS t ({}) {} ON CONFLICT {} DO {action} RETURNING 1) SELECT count(*) FROM done",
        shape.name,
        names(columns),
        values(columns, batch),
        shape.arbiters.first().unwrap_or(&""),
    )
}

/// The rows without those that a later one with the same key replaces.
fn last_of_each(columns: &[Column], batch: &[Row]) -> Vec<Row> {
    let key = |row: &Row| -> Vec<Option<String>> {
        let fields = columns.iter().zip(row).filter(|(c, _)| c.role == Role::Key);
        fields.map(|(_, v)| v.clone()).collect()
    };
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<Row> = batch
        .iter()
        .rev()
        .filter(|row| seen.insert(key(row)))
        .cloned()
        .collect();
    kept.reverse();
    kept
}

fn array(table: &str, columns: &[Column], batch: &[Row]) -> String {
    let list: Vec<String> = batch
        .iter()
        .map(|row| {
            let fields: Vec<String> = columns
                .iter()
                .zip(row)
                .map(|(c, v)| literal(c.kind, v.as_deref()))
                .collect();
            format!("ROW({})::public.{table}", fields.join(", "))
        })
        .collect();
    format!("ARRAY[{}]", list.join(", "))
}

fn json(columns: &[Column], batch: &[Row]) -> String {
    let list: Vec<String> = batch
        .iter()
        .map(|row| {
            let fields: Vec<String> = columns
                .iter()
                .zip(row)
                .map(|(c, v)| match v {
                    None => format!("\"{}\": null", c.name),
                    Some(v) => format!("\"{}\": \"{}\"", c.name, escaped(v)),
                })
                .collect();
            format!("{{{}}}", fields.join(", "))
        })
        .collect();
    literal(Kind::Jsonb, Some(&format!("[{}]", list.join(", "))))
}

/// Text as it stands within a JSON string.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
        .replace('\t', "\\t")
}
