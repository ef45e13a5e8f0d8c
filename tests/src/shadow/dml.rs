//! Statements that write rows.

use super::rng::Rng;
use super::shape::{Column, Role, Shape};
use super::step::{Step, Who};
use super::text::{
    assignments, condition, filled, int_column, names, on_column, other, point, range, rows, values,
};
use super::value::{Kind, copy_field};

/// A random statement that writes.
pub fn any(who: Who, shapes: &[Shape], rng: &mut Rng) -> Step {
    let shape = rng.pick(shapes);
    let weights = [14, 8, 6, 12, 16, 6, 5, 5, 12, 4, 8, 5, 6, 2, 3];
    let kind = rng.weighted(&weights);
    let mut step = match kind {
        0 => insert(who, shape, rng),
        1 => copy(who, shape, rng),
        2 => insert_select(who, shape, rng),
        3 => on_conflict(who, shape, rng),
        4 => update(who, shape, rng),
        5 => update_key(who, shape, rng),
        6 => update_join(who, shape, shapes, rng),
        7 => update_subselect(who, shape, rng),
        8 => delete(who, shape, rng),
        9 => delete_using(who, shape, shapes, rng),
        10 => merge(who, shape, rng),
        11 => with(who, shape, rng),
        12 => return prepared(who, rng),
        13 => by_ctid(who, shape, rng),
        _ => bulk(who, shape, rng),
    };
    step.meets_keys = matches!(kind, 0..=3 | 5 | 10 | 11 | 14);
    let mut tables = shape.touched();
    if step.sql.contains("INTO log") && shape.name != "log" {
        tables.push("log".into());
    }
    if shape.name == "item" || step.sql.contains("UPDATE item") {
        // Foreign keys lead from here to `line`.
        tables.push("line".into());
    }
    tables.sort();
    tables.dedup();
    step.touching(tables)
}

fn returning(shape: &Shape, rng: &mut Rng) -> String {
    match rng.below(8) {
        0 => " RETURNING t.*".into(),
        1 => format!(" RETURNING {}, {}", shape.order(""), shape.origin()),
        2 => " RETURNING t.ctid IS NOT NULL, t".into(),
        _ => String::new(),
    }
}

fn insert(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let columns = filled(shape, rng);
    let n = if rng.chance(50) { 1 } else { 2 + rng.below(12) };
    let repeat = rng.chance(10);
    let new = rows(&columns, n, repeat, rng);
    Step::new(
        who,
        format!(
            "INSERT INTO {} AS t ({}) {}{}",
            shape.name,
            names(&columns),
            values(&columns, &new),
            returning(shape, rng)
        ),
    )
}

fn copy(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let columns = filled(shape, rng);
    let n = 1 + rng.below(20);
    let data: String = rows(&columns, n, rng.chance(10), rng)
        .iter()
        .map(|row| {
            let fields: Vec<String> = row.iter().map(|v| copy_field(v.as_deref())).collect();
            format!("{}\n", fields.join("\t"))
        })
        .collect();
    let mut step = Step::new(
        who,
        format!("COPY {} ({}) FROM STDIN", shape.name, names(&columns)),
    );
    step.copy = Some(data);
    // Rows of a batch meet the table before the first of them meets an index.
    step.any_error()
}

/// Rows out of the table itself, with other keys.
fn insert_select(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let columns = filled(shape, rng);
    let picked: Vec<String> = columns
        .iter()
        .map(|c| match (c.role, c.kind) {
            (Role::Key, Kind::Int(..)) => format!("t.{} + {}", c.name, rng.between(1, 40)),
            (Role::Key, Kind::Bar) => format!("t.{} + interval '{} days'", c.name, rng.below(5)),
            (Role::Unique, Kind::Int(..)) => format!("t.{} + {}", c.name, rng.between(1, 500)),
            (Role::Unique, Kind::Varchar) => "NULL".into(),
            _ => format!("t.{}", c.name),
        })
        .collect();
    let conflict = if rng.chance(50) && shape.keyed() {
        " ON CONFLICT DO NOTHING"
    } else {
        ""
    };
    Step::new(
        who,
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM {} t WHERE {} ORDER BY {}{conflict}",
            shape.name,
            names(&columns),
            picked.join(", "),
            shape.name,
            range(shape, rng),
            shape.order(""),
        ),
    )
}

/// The whole domain of keys at once, what exists excepted.
pub fn bulk(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let from = rng.below(200);
    let to = from + rng.below(120);
    let (columns, picked) = match shape.name {
        "bars" => (
            "symbol, ts, open, close, volume",
            "'elm', '2024-01-01 00:00+00'::timestamptz + i * interval '6 hours', i / 4.0, i * 2, i",
        ),
        "item" => (
            "id, grp, name, qty, price",
            "i, i % 20, 'n' || i, i % 90, i * 1.25",
        ),
        "line" => ("ord, pos, amount", "i / 6, i % 6, i % 40"),
        "gen" => ("a, b", "i % 20, 'g' || i"),
        "slot" => (
            "a, b, code, active, v",
            "i / 15, i % 15, i, i % 3 = 0, i % 20",
        ),
        "log" => (
            "a, b, c",
            "i % 40, 'l' || i % 7, '2024-01-01 00:00+00'::timestamptz + i * interval '1 hour'",
        ),
        "part" => ("k, v, w", "i, repeat('p', i % 5), i % 20"),
        _ => (
            "k, c_big, c_text, c_ints",
            "i, i * 1000000007::bigint, md5(i::text), ARRAY[i, NULL, i % 3]",
        ),
    };
    let conflict = if shape.keyed() {
        " ON CONFLICT DO NOTHING"
    } else {
        ""
    };
    Step::new(
        who,
        format!(
            "INSERT INTO {} ({columns}) SELECT {picked} FROM generate_series({from}, {to}) i ORDER BY i{conflict}",
            shape.name
        ),
    )
}

fn on_conflict(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    if !shape.keyed() {
        return insert(who, shape, rng);
    }
    let columns = filled(shape, rng);
    let n = 1 + rng.below(10);
    let new = rows(&columns, n, rng.chance(15), rng);
    let arbiter = rng.pick(shape.arbiters);
    let action = if rng.chance(30) {
        let arbiter = if rng.chance(50) { *arbiter } else { "" };
        format!("{arbiter} DO NOTHING")
    } else {
        let mut set: Vec<String> = Vec::new();
        for c in &columns {
            let name = &c.name;
            match c.role {
                Role::Plain if rng.chance(40) => set.push(match (rng.below(3), c.kind) {
                    (0, Kind::Int(..) | Kind::Double | Kind::Decimal) => {
                        format!("{name} = t.{name} + EXCLUDED.{name}")
                    }
                    (1, _) => format!("{name} = coalesce(t.{name}, EXCLUDED.{name})"),
                    _ => format!("{name} = EXCLUDED.{name}"),
                }),
                Role::Unique if rng.chance(25) => set.push(format!("{name} = EXCLUDED.{name}")),
                _ => {}
            }
        }
        if set.is_empty() {
            set.push(assignments(shape, rng));
        }
        let filter = if rng.chance(30) {
            format!(" WHERE {}", on_column(shape, rng))
        } else {
            String::new()
        };
        format!("{arbiter} DO UPDATE SET {}{filter}", set.join(", "))
    };
    Step::new(
        who,
        format!(
            "INSERT INTO {} AS t ({}) {} ON CONFLICT {action}{}",
            shape.name,
            names(&columns),
            values(&columns, &new),
            returning(shape, rng)
        ),
    )
}

fn update(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let (filter, one) = if rng.chance(45) {
        (point(shape, rng), shape.keyed())
    } else {
        (condition(shape, rng), false)
    };
    let step = Step::new(
        who,
        format!(
            "UPDATE {} AS t SET {} WHERE {filter}{}",
            shape.name,
            assignments(shape, rng),
            returning(shape, rng)
        ),
    );
    if one { step } else { step.any_error() }
}

/// Columns of unique indexes: one row to any value, or many rows to one value, or many rows far away.
fn update_key(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let keyed: Vec<&Column> = shape
        .columns
        .iter()
        .filter(|c| matches!(c.role, Role::Key | Role::Unique))
        .collect();
    let column = *rng.pick(&keyed);
    let far = 10_000;
    let (set, filter) = match (column.kind, rng.below(3)) {
        (Kind::Int(..), 0) => (format!("t.{} + {far}", column.name), range(shape, rng)),
        (Kind::Int(low, high), 1) => (
            format!("t.{} - {far}", column.name),
            format!("t.{} BETWEEN {} AND {}", column.name, far + low, far + high),
        ),
        (_, 2) if column.role == Role::Unique => (column.literal(rng), condition(shape, rng)),
        _ => (column.literal(rng), point(shape, rng)),
    };
    // A far shift must not meet rows that it shifts itself.
    let guard = if set.contains(" + 10000") {
        format!(" AND t.{} < {far}", column.name)
    } else {
        String::new()
    };
    Step::new(
        who,
        format!(
            "UPDATE {} AS t SET {} = {set} WHERE {filter}{guard}{}",
            shape.name,
            column.name,
            returning(shape, rng)
        ),
    )
    .any_error()
}

/// New values from another table, of which at most one row matches.
fn update_join(who: Who, shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Step {
    let from = other(shapes, rng);
    let mine = int_column(shape, rng);
    let theirs = int_column(from, rng);
    let target = shape
        .plain()
        .into_iter()
        .find(|c| matches!(c.kind, Kind::Int(..) | Kind::Double));
    let Some(target) = target else {
        return update(who, shape, rng);
    };
    Step::new(
        who,
        format!(
            "UPDATE {} AS t SET {} = o.n FROM (SELECT {theirs} AS x, count(*) AS n FROM {} WHERE {theirs} IS NOT NULL GROUP BY 1) o WHERE t.{} = o.x AND {}{}",
            shape.name,
            target.name,
            from.name,
            mine.name,
            range(shape, rng),
            returning(shape, rng),
            theirs = theirs.name,
        ),
    )
    .any_error()
}

fn update_subselect(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let column = int_column(shape, rng);
    let target = shape
        .plain()
        .into_iter()
        .find(|c| matches!(c.kind, Kind::Int(..) | Kind::Double));
    let set = match target {
        Some(target) if rng.chance(50) => format!(
            "{} = (SELECT count(*) FROM {} u WHERE u.{c} = t.{c})",
            target.name,
            shape.name,
            c = column.name
        ),
        _ => assignments(shape, rng),
    };
    Step::new(
        who,
        format!(
            "UPDATE {name} AS t SET {set} WHERE t.{c} IN (SELECT u.{c} FROM {name} u WHERE u.{c} < {})",
            column.literal(rng),
            name = shape.name,
            c = column.name
        ),
    )
    .any_error()
}

fn delete(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let filter = if rng.chance(50) {
        point(shape, rng)
    } else {
        condition(shape, rng)
    };
    Step::new(
        who,
        format!(
            "DELETE FROM {} AS t WHERE {filter}{}",
            shape.name,
            returning(shape, rng)
        ),
    )
    .any_error()
}

fn delete_using(who: Who, shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Step {
    let from = other(shapes, rng);
    Step::new(
        who,
        format!(
            "DELETE FROM {} AS t USING {} u WHERE t.{} = u.{} AND {}{}",
            shape.name,
            from.name,
            int_column(shape, rng).name,
            int_column(from, rng).name,
            range(shape, rng),
            returning(shape, rng)
        ),
    )
    .any_error()
}

fn merge(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let columns: Vec<Column> = shape.writable().into_iter().cloned().collect();
    let n = 1 + rng.below(8);
    let new = rows(&columns, n, rng.chance(8), rng);
    let on: Vec<String> = shape
        .keys()
        .iter()
        .map(|c| {
            let equal = if shape.null_keys {
                "IS NOT DISTINCT FROM"
            } else {
                "="
            };
            format!("t.{n} {equal} s.{n}", n = c.name)
        })
        .collect();
    let mut clauses: Vec<String> = Vec::new();
    if rng.chance(30) {
        let action = if rng.chance(50) {
            "DELETE"
        } else {
            "DO NOTHING"
        };
        clauses.push(format!(
            "WHEN MATCHED AND {} THEN {action}",
            on_column(shape, rng)
        ));
    }
    if rng.chance(80) {
        let set: Vec<String> = columns
            .iter()
            .filter(|c| c.role == Role::Plain)
            .take(3)
            .map(|c| format!("{n} = s.{n}", n = c.name))
            .collect();
        clauses.push(format!("WHEN MATCHED THEN UPDATE SET {}", set.join(", ")));
    }
    if rng.chance(75) || clauses.is_empty() {
        let picked: Vec<String> = columns.iter().map(|c| format!("s.{}", c.name)).collect();
        clauses.push(format!(
            "WHEN NOT MATCHED THEN INSERT ({}) VALUES ({})",
            names(&columns),
            picked.join(", ")
        ));
    }
    if rng.chance(15) && !shape.null_keys {
        let action = if rng.chance(40) {
            "DELETE".to_string()
        } else {
            format!("UPDATE SET {}", assignments(shape, rng))
        };
        let filter = format!("{} AND {}", range(shape, rng), on_column(shape, rng));
        clauses.push(format!(
            "WHEN NOT MATCHED BY SOURCE AND {filter} THEN {action}"
        ));
    }
    // TimescaleDB 2.19.3 crashes in MERGE … RETURNING on a hypertable with an added column, without varve too.
    let returning = if rng.chance(25) && !shape.hypertable {
        format!(" RETURNING merge_action(), {}", shape.order(""))
    } else {
        String::new()
    };
    Step::new(
        who,
        format!(
            "MERGE INTO {} AS t USING ({}) AS s ({}) ON {} {}{returning}",
            shape.name,
            values(&columns, &new),
            names(&columns),
            on.join(" AND "),
            clauses.join(" ")
        ),
    )
    .any_error()
}

/// Common table expressions that write.
fn with(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let int = int_column(shape, rng).name.clone();
    let sql = match rng.below(4) {
        0 if shape.name != "log" => format!(
            "WITH gone AS (DELETE FROM {} AS t WHERE {} RETURNING t.{int} AS n) INSERT INTO log (a, b) SELECT n, 'gone' FROM gone ORDER BY n",
            shape.name,
            range(shape, rng)
        ),
        1 => format!(
            "WITH new AS (UPDATE {} AS t SET {} WHERE {} RETURNING t.*) SELECT count(*), count(DISTINCT {int}), (SELECT count(*) FROM {}) FROM new",
            shape.name,
            assignments(shape, rng),
            condition(shape, rng),
            shape.name
        ),
        2 => {
            let columns = filled(shape, rng);
            let n = 1 + rng.below(5);
            let new = rows(&columns, n, false, rng);
            format!(
                "WITH new AS (INSERT INTO {} AS t ({}) {} ON CONFLICT DO NOTHING RETURNING t.{int}) SELECT (SELECT count(*) FROM {}), * FROM new",
                shape.name,
                names(&columns),
                values(&columns, &new),
                shape.name
            )
        }
        _ => format!(
            "WITH gone AS (DELETE FROM {name} AS t WHERE {} RETURNING t.*) SELECT u.{int}, g.{int} FROM {name} u LEFT JOIN gone g ON g.{int} = u.{int}",
            point(shape, rng),
            name = shape.name
        ),
    };
    Step::new(who, sql).any_error()
}

fn prepared(who: Who, rng: &mut Rng) -> Step {
    let id = rng.between(1, 300);
    let item: Vec<String> = ["item", "item_audit", "item_statements", "line"]
        .map(String::from)
        .into();
    match rng.below(8) {
        0 => Step::new(who, format!("EXECUTE item_get({id})")),
        1 => Step::new(who, format!("EXECUTE item_set({id}, {})", rng.below(50))).touching(item),
        2 => Step::new(who, format!("EXECUTE item_del({id})")).touching(item),
        3 => {
            let symbol = Kind::Word.value(rng);
            let (low, high) = Kind::Bar.range(rng).unwrap_or_default();
            Step::new(
                who,
                format!("EXECUTE bars_get('{symbol}', '{low}', '{high}')"),
            )
        }
        4 => {
            let (symbol, ts, close) = (
                Kind::Word.value(rng),
                Kind::Bar.value(rng),
                Kind::Double.value(rng),
            );
            Step::new(
                who,
                format!("EXECUTE bars_put('{symbol}', '{ts}', {close})"),
            )
            .meeting_keys()
            .touching(vec!["bars".into()])
        }
        5 => {
            let (a, b, v) = (rng.below(15), rng.below(15), rng.below(20));
            Step::new(who, format!("EXECUTE slot_set({a}, {b}, {v})")).touching(vec!["slot".into()])
        }
        6 => Step::new(who, format!("EXECUTE log_sum({})", rng.below(40))),
        _ => Step::new(
            who,
            format!(
                "EXECUTE many_get('{{{id},{},{}}}')",
                rng.below(200),
                rng.below(200)
            ),
        ),
    }
}

/// Rows by their place, as people remove duplicates from tables without a key.
fn by_ctid(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let place = format!(
        "ARRAY(SELECT t.ctid FROM {} t WHERE {})",
        shape.name,
        condition(shape, rng)
    );
    let sql = match rng.below(3) {
        // The same place exists in every chunk or partition.
        _ if shape.hypertable || shape.name == "part" => return delete(who, shape, rng),
        0 => format!("DELETE FROM {} t WHERE t.ctid = ANY ({place})", shape.name),
        1 if shape.name == "log" => {
            "DELETE FROM log t USING log u WHERE t.ctid < u.ctid AND t IS NOT DISTINCT FROM u"
                .into()
        }
        _ => format!(
            "UPDATE {} AS t SET {} WHERE t.ctid = ANY ({place})",
            shape.name,
            assignments(shape, rng)
        ),
    };
    Step::new(who, sql).any_error()
}
