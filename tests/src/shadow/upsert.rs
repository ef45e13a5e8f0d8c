//! `varve.upsert…` on the varve side, and the INSERT … ON CONFLICT that does the same on heap, with the counts that the
//! call must return.

use super::rng::Rng;
use super::shape::{Column, Role, Shape};
use super::step::{Step, Who};
use super::text::{Row, names, range, rows, values};
use super::value::{Kind, literal};

/// Tables that are upserted into. Not `item`, whose statement triggers tell how an upsert is put together.
const TARGETS: [&str; 6] = ["bars", "line", "gen", "slot", "part", "many"];

/// Columns of the large table whose values follow from the row's number.
const FORMULAS: [&str; 6] = ["symbol", "ts", "price", "qty", "size", "volume"];

/// What becomes of rows that are stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// They are updated where the batch differs from them.
    Changed,
    /// They are updated all.
    Rewritten,
    /// They stay.
    Kept,
    /// They make the batch fail.
    Refused,
}

impl Stored {
    fn options(self) -> &'static str {
        match self {
            Stored::Changed => "",
            Stored::Rewritten => ", skip_unchanged => false",
            Stored::Kept => ", on_conflict => 'ignore'",
            Stored::Refused => ", on_conflict => 'error'",
        }
    }
}

/// Where the rows of a batch come from.
enum Source {
    /// They stand in the statement.
    Rows(Vec<Row>),
    /// A query, some of whose rows may be those that are stored.
    Query(String),
}

/// A batch, as the steps that it takes.
pub fn any(who: Who, shapes: &[Shape], rng: &mut Rng) -> Vec<Step> {
    let large = shapes.iter().find(|s| s.large && rng.chance(12));
    let targets: Vec<&Shape> = shapes
        .iter()
        .filter(|s| TARGETS.contains(&s.name))
        .collect();
    let shape = large.unwrap_or_else(|| targets[rng.below(targets.len() as u64) as usize]);
    let stored = match rng.weighted(&[60, 10, 25, 5]) {
        0 => Stored::Changed,
        1 => Stored::Rewritten,
        2 => Stored::Kept,
        _ => Stored::Refused,
    };
    // A row that is ignored is not held against constraints, as the heap's INSERT is: no columns that may be NOT NULL.
    let known = if stored == Stored::Kept {
        shape.base
    } else {
        shape.columns.len()
    };
    // Without the columns that are random, many rows of a large batch are stored already.
    let few = shape.large && rng.chance(50);
    let columns: Vec<Column> = shape
        .columns
        .iter()
        .take(known)
        .filter(|c| !few || FORMULAS.contains(&c.name.as_str()))
        .filter(|c| c.role != Role::Computed)
        // Which row of a batch meets another unique index first is nobody's promise.
        .filter(|c| c.role == Role::Key || (c.role == Role::Plain && rng.chance(85)))
        .cloned()
        .collect();
    let batch = some_rows(&columns, rng);
    let mut options = String::new();
    if shape.arbiters.len() > 1 {
        let keys: Vec<&str> = shape.keys().iter().map(|c| c.name.as_str()).collect();
        options.push_str(&format!(", key => '{{{}}}'", keys.join(",")));
    }
    options.push_str(stored.options());
    let source = if shape.large {
        Source::Query(bulk(&columns, rng))
    } else if batch.is_empty() || rng.chance(60) {
        Source::Query(mixed(shape, &columns, &batch, rng))
    } else {
        Source::Rows(batch)
    };
    let query = match &source {
        Source::Rows(batch) => format!(
            "SELECT * FROM ({}) s ({})",
            values(&columns, batch),
            names(&columns)
        ),
        Source::Query(query) => query.clone(),
    };
    let heap = on_heap(shape, &columns, &query, stored);
    let whole = columns.len() == shape.columns.len();
    let simple = !columns.iter().any(|c| {
        matches!(
            c.kind,
            Kind::Ints | Kind::Texts | Kind::Pair | Kind::Json | Kind::Jsonb
        )
    });
    let call = match (rng.below(4), &source) {
        (0, Source::Rows(batch)) if whole => format!(
            "upsert_rows('{}', {}",
            shape.name,
            array(shape.name, &columns, batch)
        ),
        (1, Source::Rows(batch)) if simple => {
            format!("upsert_json('{}', {}", shape.name, json(&columns, batch))
        }
        (2, _) => return through_table(who, shape, &query, heap, &options),
        _ => format!(
            "upsert_query('{}', {}",
            shape.name,
            literal(Kind::Text, Some(&query))
        ),
    };
    vec![step(who, shape, heap, &call, &options)]
}

/// A few rows with random values; many of their keys are new.
fn some_rows(columns: &[Column], rng: &mut Rng) -> Vec<Row> {
    let n = 1 + rng.below(25);
    let mut batch = rows(columns, n, rng.chance(50), rng);
    // A NULL in the key is refused.
    batch.retain(|row| {
        !columns
            .iter()
            .zip(row)
            .any(|(c, v)| c.role == Role::Key && v.is_none())
    });
    batch
}

/// Rows that are stored, rows with one value changed, and new ones, in random order, with keys in common.
fn mixed(shape: &Shape, columns: &[Column], batch: &[Row], rng: &mut Rng) -> String {
    let payload: Vec<&Column> = columns.iter().filter(|c| c.role != Role::Key).collect();
    let order: Vec<String> = shape
        .keys()
        .iter()
        .map(|c| format!("t.{}", c.name))
        .collect();
    let stored = |changed: Option<&Column>, rng: &mut Rng| {
        let list: Vec<String> = columns
            .iter()
            .map(|c| match changed {
                Some(other) if other.name == c.name => c.literal(rng),
                _ => format!("t.{}", c.name),
            })
            .collect();
        let filled: Vec<String> = order.iter().map(|k| format!("{k} IS NOT NULL")).collect();
        format!(
            "(SELECT {} FROM {} t WHERE {} AND {} ORDER BY {} LIMIT {})",
            list.join(", "),
            shape.name,
            range(shape, rng),
            filled.join(" AND "),
            order.join(", "),
            1 + rng.below(60)
        )
    };
    let mut pieces = Vec::new();
    if !batch.is_empty() {
        pieces.push(format!("({})", values(columns, batch)));
    }
    if batch.is_empty() || rng.chance(70) {
        pieces.push(stored(None, rng));
    }
    for _ in 0..rng.below(3) {
        if let Some(changed) = payload.get(rng.below(payload.len() as u64) as usize) {
            pieces.push(stored(Some(changed), rng));
        }
    }
    shuffled(columns, &pieces.join(" UNION ALL "), rng)
}

/// Every half hour of some weeks for a few words: 500 to 3000 rows of the large table, often stored already.
fn bulk(columns: &[Column], rng: &mut Rng) -> String {
    let words = 2 + rng.below(4);
    let from = rng.below(800);
    let to = from + 249 + rng.below(350);
    let every = 3 + rng.below(3);
    let [from_odd, to_odd] = [0; 2].map(|_| 1 + 2 * rng.below(3));
    // Values are as the table's first rows have them, for one or another of these numbers.
    let odd = format!("CASE WHEN i % {every} = 0 THEN {from_odd} ELSE {to_odd} END");
    let list: Vec<String> = columns
        .iter()
        .map(|c| match c.name.as_str() {
            "symbol" => "w".into(),
            "ts" => "timestamptz '2024-01-01 00:00+00' + i * interval '30 minutes'".into(),
            "price" => format!("(i * ({odd}) % 997) / 4.0::float8"),
            "qty" => "nullif(i % 90, 17)".into(),
            "size" => "(i % 300 - 150)::smallint".into(),
            "volume" => format!("(i * ({odd}))::bigint"),
            _ => format!(
                "CASE WHEN i % 7 > 0 THEN {} ELSE {} END",
                c.literal(rng),
                c.literal(rng)
            ),
        })
        .collect();
    let some: Vec<String> = (0..words)
        .map(|_| literal(Kind::Word, Some(&Kind::Word.value(rng))))
        .collect();
    let rows = format!(
        "SELECT {} FROM generate_series({from}, {to}) i, unnest(ARRAY[{}]) w",
        list.join(", "),
        some.join(", ")
    );
    shuffled(columns, &rows, rng)
}

/// A query's rows in an order that is random, and the same on both sides.
fn shuffled(columns: &[Column], query: &str, rng: &mut Rng) -> String {
    format!(
        "SELECT * FROM ({query}) s ({}) ORDER BY hashtextextended(s::text, {}), s::text",
        names(columns),
        rng.below(1000)
    )
}

fn step(who: Who, shape: &Shape, heap: String, call: &str, options: &str) -> Step {
    let mut step = Step::new(who, heap)
        .touching(shape.touched())
        .meeting_keys()
        .any_error();
    step.varve_sql = Some(format!("SELECT * FROM varve.{call}{options})"));
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

/// INSERT … ON CONFLICT of the last row of each key, without those that are stored bit for bit; and the numbers of rows,
/// of new, changed and unchanged ones, and of those that a later one replaced.
fn on_heap(shape: &Shape, columns: &[Column], source: &str, stored: Stored) -> String {
    let payload: Vec<&Column> = columns.iter().filter(|c| c.role != Role::Key).collect();
    let keys: Vec<&str> = shape.keys().iter().map(|c| c.name.as_str()).collect();
    let first = keys.first().unwrap_or(&"");
    let side = |of: &str| {
        let list: Vec<String> = payload.iter().map(|c| format!("{of}.{}", c.name)).collect();
        format!("ROW({})::record", list.join(", "))
    };
    let stored = if payload.is_empty() && stored != Stored::Refused {
        Stored::Kept
    } else {
        stored
    };
    let set: Vec<String> = payload
        .iter()
        .map(|c| format!("{n} = EXCLUDED.{n}", n = c.name))
        .collect();
    let set = set.join(", ");
    let arbiter = shape.arbiters.first().unwrap_or(&"");
    let (needed, conflict) = match stored {
        Stored::Changed => (
            format!("{} *<> {}", side("t"), side("l")),
            format!("ON CONFLICT {arbiter} DO UPDATE SET {set}"),
        ),
        Stored::Rewritten => (
            "true".into(),
            format!("ON CONFLICT {arbiter} DO UPDATE SET {set}"),
        ),
        Stored::Kept => ("false".into(), format!("ON CONFLICT {arbiter} DO NOTHING")),
        Stored::Refused => ("true".into(), String::new()),
    };
    let typed: Vec<String> = columns
        .iter()
        .map(|c| format!("s.{n}::{t} AS {n}", n = c.name, t = sql_type(shape, c)))
        .collect();
    let matched: Vec<String> = keys.iter().map(|k| format!("t.{k} = l.{k}")).collect();
    let (key, names) = (keys.join(", "), names(columns));
    format!(
        "WITH batch AS MATERIALIZED (SELECT row_number() OVER () AS batch_row, {} FROM ({source}) s), \
         last AS MATERIALIZED (SELECT DISTINCT ON ({key}) * FROM batch ORDER BY {key}, batch_row DESC), \
         needed AS MATERIALIZED (SELECT l.*, t.{first} IS NULL AS batch_new FROM last l LEFT JOIN {table} t ON {} WHERE t.{first} IS NULL OR {needed}), \
         done AS (INSERT INTO {table} AS t ({names}) SELECT {names} FROM needed ORDER BY {key} {conflict} RETURNING 1) \
         SELECT b, n, d - n, l - d, b - l FROM (SELECT count(*) FROM batch) b (b), (SELECT count(*) FROM last) l (l), \
         (SELECT count(*) FROM needed WHERE batch_new) n (n), (SELECT count(*) FROM done) d (d)",
        typed.join(", "),
        matched.join(" AND "),
        table = shape.name,
    )
}

/// A column's type; numbers that fit an `integer` may lie in another.
fn sql_type(shape: &Shape, column: &Column) -> &'static str {
    match (shape.large, column.name.as_str()) {
        (true, "volume") => Kind::Big.sql(),
        _ => column.kind.sql(),
    }
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
