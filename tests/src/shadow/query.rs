//! Statements that read, and those that lock.

use super::analytic;
use super::rng::Rng;
use super::shape::{Column, Shape};
use super::step::{Step, Who};
use super::text::{condition, int_column, on_column, other, point, range};

/// A random query.
pub fn any(who: Who, shapes: &[Shape], rng: &mut Rng) -> Step {
    if rng.chance(60) {
        return analytic::any(who, shapes, rng);
    }
    let shape = rng.pick(shapes);
    match rng.weighted(&[16, 12, 8, 10, 8, 6, 6, 5, 4, 4, 4]) {
        0 => plain(who, shape, rng),
        1 => aggregate(who, shape, rng),
        2 => window(who, shape, rng),
        3 => join(who, shape, shapes, rng),
        4 => limit(who, shape, rng),
        5 => semi_join(who, shape, shapes, rng),
        6 => sets(who, shape, rng),
        7 => copy_to(who, shape, rng),
        8 => by_ctid(who, shape, rng),
        9 => lateral(who, shape, shapes, rng),
        _ => time_series(who, rng),
    }
}

fn plain(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let picked = match rng.below(5) {
        0 => "t".into(),
        1 => format!("t.*, {}, t.ctid IS NULL", shape.origin()),
        2 => format!("t.{}", rng.pick(&shape.columns).name),
        3 => "1".into(),
        _ => "t.*".to_string(),
    };
    let filter = if rng.chance(15) {
        String::new()
    } else {
        format!(" WHERE {}", condition(shape, rng))
    };
    let sql = format!("SELECT {picked} FROM {} t{filter}", shape.name);
    if rng.chance(50) {
        let direction = if rng.chance(50) { "" } else { " DESC" };
        Step::new(who, format!("{sql} ORDER BY {}", shape.order(direction))).ordered()
    } else {
        Step::new(who, sql)
    }
}

fn summed(shape: &Shape, rng: &mut Rng) -> String {
    let mut list = vec!["count(*)".to_string()];
    for _ in 0..3 {
        let c = rng.pick(&shape.columns);
        let n = &c.name;
        list.push(match rng.below(4) {
            0 => format!("count(t.{n})"),
            1 if c.kind.canonical() => format!("count(DISTINCT t.{n})"),
            2 if c.kind.summable() => format!("min(t.{n}), max(t.{n})"),
            3 if c.kind.summable() => format!("sum(t.{n}), avg(t.{n})"),
            _ => format!("md5(string_agg(t.{n}::text, ',' ORDER BY t.{n}::text COLLATE \"C\"))"),
        });
    }
    list.join(", ")
}

fn aggregate(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let filter = if rng.chance(40) {
        String::new()
    } else {
        format!(" WHERE {}", condition(shape, rng))
    };
    let groups: Vec<&Column> = shape.columns.iter().filter(|c| c.kind.groups()).collect();
    let sums = summed(shape, rng);
    if groups.is_empty() || rng.chance(40) {
        return Step::new(who, format!("SELECT {sums} FROM {} t{filter}", shape.name));
    }
    let group = &rng.pick(&groups).name;
    let having = if rng.chance(30) {
        " HAVING count(*) > 2"
    } else {
        ""
    };
    Step::new(
        who,
        format!(
            "SELECT t.{group}, {sums} FROM {} t{filter} GROUP BY 1{having} ORDER BY 1",
            shape.name
        ),
    )
    .ordered()
}

fn window(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let int = &int_column(shape, rng).name;
    let order = shape.order("");
    let over = match shape.columns.iter().find(|c| c.kind.groups()) {
        Some(c) if rng.chance(50) => format!("PARTITION BY t.{} ORDER BY {order}", c.name),
        _ => format!("ORDER BY {order}"),
    };
    let call = match rng.below(4) {
        0 => "row_number()".to_string(),
        1 => format!("lag(t.{int}) "),
        2 => format!("sum(t.{int})"),
        _ => format!("first_value(t.{int})"),
    };
    Step::new(
        who,
        format!(
            "SELECT {order}, {call} OVER ({over}) FROM {} t WHERE {}",
            shape.name,
            range(shape, rng)
        ),
    )
}

fn join(who: Who, shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Step {
    let with = other(shapes, rng);
    let kind = *rng.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
    let mine = &int_column(shape, rng).name;
    let theirs = &int_column(with, rng).name;
    Step::new(
        who,
        format!(
            "SELECT t.{mine}, u.{theirs}, count(*) FROM (SELECT * FROM {} t WHERE {}) t {kind} (SELECT * FROM {} t WHERE {}) u ON t.{mine} = u.{theirs} GROUP BY 1, 2",
            shape.name,
            condition(shape, rng),
            with.name,
            range(with, rng)
        ),
    )
}

fn limit(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let direction = if rng.chance(50) { "" } else { " DESC" };
    let filter = if rng.chance(50) {
        format!(" WHERE {}", on_column(shape, rng))
    } else {
        String::new()
    };
    let offset = if rng.chance(30) {
        format!(" OFFSET {}", rng.below(20))
    } else {
        String::new()
    };
    Step::new(
        who,
        format!(
            "SELECT t.* FROM {} t{filter} ORDER BY {} LIMIT {}{offset}",
            shape.name,
            shape.order(direction),
            rng.below(15)
        ),
    )
    .ordered()
}

fn semi_join(who: Who, shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Step {
    let with = other(shapes, rng);
    let mine = &int_column(shape, rng).name;
    let theirs = &int_column(with, rng).name;
    let inner = range(with, rng).replace("t.", "u.");
    let test = match rng.below(3) {
        0 => format!(
            "EXISTS (SELECT FROM {} u WHERE u.{theirs} = t.{mine} AND {inner})",
            with.name
        ),
        1 => format!(
            "NOT EXISTS (SELECT FROM {} u WHERE u.{theirs} = t.{mine} AND {inner})",
            with.name
        ),
        _ => format!(
            "t.{mine} = ANY (SELECT u.{theirs} FROM {} u WHERE {inner})",
            with.name
        ),
    };
    Step::new(
        who,
        format!(
            "SELECT {}, t.{mine} FROM {} t WHERE {test}",
            shape.order(""),
            shape.name
        ),
    )
}

fn sets(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let canonical: Vec<&Column> = shape
        .columns
        .iter()
        .filter(|c| c.kind.canonical())
        .collect();
    let column = &rng.pick(&canonical).name;
    let part = |rng: &mut Rng| {
        format!(
            "SELECT t.{column} FROM {} t WHERE {}",
            shape.name,
            range(shape, rng)
        )
    };
    let operator = *rng.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL"]);
    if rng.chance(30) {
        return Step::new(
            who,
            format!(
                "SELECT DISTINCT t.{column} FROM {} t WHERE {}",
                shape.name,
                condition(shape, rng)
            ),
        );
    }
    let (left, right) = (part(rng), part(rng));
    Step::new(who, format!("{left} {operator} {right}"))
}

fn copy_to(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    if rng.chance(50) {
        return Step::new(who, format!("COPY {} TO STDOUT", shape.name));
    }
    Step::new(
        who,
        format!(
            "COPY (SELECT t.* FROM {} t WHERE {} ORDER BY {}) TO STDOUT",
            shape.name,
            condition(shape, rng),
            shape.order("")
        ),
    )
    .ordered()
}

fn by_ctid(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    Step::new(
        who,
        format!(
            "SELECT u.* FROM {name} t JOIN {name} u ON u.ctid = t.ctid AND u.tableoid = t.tableoid WHERE {}",
            condition(shape, rng),
            name = shape.name
        ),
    )
}

fn lateral(who: Who, shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Step {
    let with = other(shapes, rng);
    let mine = &int_column(shape, rng).name;
    let theirs = &int_column(with, rng).name;
    Step::new(
        who,
        format!(
            "SELECT o.{mine}, i.n FROM (SELECT t.* FROM {} t WHERE {}) o, LATERAL (SELECT count(*) AS n FROM {} t WHERE t.{theirs} <= o.{mine} AND {}) i",
            shape.name,
            point(shape, rng),
            with.name,
            range(with, rng)
        ),
    )
}

fn time_series(who: Who, rng: &mut Rng) -> Step {
    let sql = match rng.below(3) {
        0 => {
            "SELECT symbol, time_bucket('1 day', ts) AS day, first(open, ts), max(close), min(close), last(close, ts), sum(volume) FROM bars GROUP BY 1, 2 ORDER BY 1, 2"
        }
        1 => "SELECT DISTINCT ON (symbol) symbol, ts, close FROM bars ORDER BY symbol, ts DESC",
        _ => {
            "SELECT b.symbol, b.ts, b.close - p.close FROM bars b JOIN bars p ON p.symbol = b.symbol AND p.ts = b.ts - interval '6 hours' ORDER BY 1, 2"
        }
    };
    Step::new(who, sql).ordered()
}

/// A statement that locks rows.
pub fn lock(who: Who, shapes: &[Shape], rng: &mut Rng) -> Step {
    let shape = rng.pick(shapes);
    let strength = *rng.pick(&["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"]);
    let wait = *rng.pick(&["", "", " NOWAIT", " SKIP LOCKED"]);
    // Shared locks on single rows: who holds more than 64 of them on frozen rows thaws the others, a documented limit.
    let filter = if strength.contains("SHARE") || rng.chance(60) {
        point(shape, rng)
    } else {
        range(shape, rng)
    };
    Step::new(
        who,
        format!(
            "SELECT t.* FROM {} t WHERE {filter} ORDER BY {} FOR {strength}{wait}",
            shape.name,
            shape.order("")
        ),
    )
    .touching(shape.touched())
    .any_error()
}
