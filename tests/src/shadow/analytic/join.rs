//! Joins, LATERAL, subqueries, common table expressions.

use super::{Answer, filter, group, keys};
use crate::shadow::rng::Rng;
use crate::shadow::shape::{Column, Shape};
use crate::shadow::text::{int_column, other, range};
use crate::shadow::value::Kind;

/// A column of a type, if there is one.
fn of_kind(shape: &Shape, kind: Kind) -> Option<&Column> {
    shape.columns.iter().find(|c| c.kind == kind)
}

/// `t` joined with the table of words, with another table, or with another time of itself.
pub fn joined(shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Answer {
    match (of_kind(shape, Kind::Word), of_kind(shape, Kind::Bar)) {
        (Some(word), _) if rng.chance(40) => words(shape, word, rng),
        (Some(word), Some(time)) if rng.chance(40) => times(shape, word, time, shapes, rng),
        _ => on_numbers(shape, shapes, rng),
    }
}

const KINDS: [&str; 5] = ["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];

/// With a small table, which may rule out most of `t` while the query runs.
fn words(shape: &Shape, word: &Column, rng: &mut Rng) -> Answer {
    let kind = *rng.pick(&KINDS);
    let (name, word) = (shape.name, &word.name);
    let filter = match rng.below(4) {
        0 => String::new(),
        1 => format!(" WHERE d.num < {}", rng.below(10)),
        2 => format!(
            " WHERE d.sector = 'soft' AND {}",
            filter::simple(shape, rng)
        ),
        _ => format!(" WHERE {}", filter::simple(shape, rng)),
    };
    let int = &int_column(shape, rng).name;
    let key = keys::timeless(shape, rng);
    match rng.below(4) {
        0 => Answer::rows(format!(
            "SELECT d.sector, {key}, count(*), count(t.{int}), sum(t.{int}) FROM {name} t {kind} dim d ON d.word = t.{word}{filter} GROUP BY 1, 2"
        )),
        1 => Answer::rows(format!(
            "SELECT d.*, t.* FROM dim d {kind} {name} t ON t.{word} = d.word AND {}{filter}",
            range(shape, rng)
        )),
        2 => Answer::rows(format!(
            "SELECT t.{word}, count(*), max(t.{int}) FROM {name} t WHERE t.{word} IN (SELECT d.word FROM dim d WHERE d.num > {}) GROUP BY 1",
            rng.below(12)
        )),
        _ => Answer::rows(format!(
            "SELECT d.word, e.sector, count(t.{int}), min(t.{int}) FROM dim d JOIN {name} t ON t.{word} = d.word JOIN dim e ON e.num = t.{int} % 10{filter} GROUP BY 1, 2"
        )),
    }
}

/// Hypertables with each other, by word and time.
fn times(shape: &Shape, word: &Column, time: &Column, shapes: &[Shape], rng: &mut Rng) -> Answer {
    let (name, word, time) = (shape.name, &word.name, &time.name);
    let kind = *rng.pick(&KINDS);
    let steps = *rng.pick(&["30 minutes", "6 hours", "1 day", "0"]);
    let span = range(shape, rng);
    let int = &int_column(shape, rng).name;
    let others: Vec<&Shape> = shapes
        .iter()
        .filter(|s| of_kind(s, Kind::Word).is_some() && of_kind(s, Kind::Bar).is_some())
        .collect();
    let with = others[rng.below(others.len() as u64) as usize];
    let their_word = of_kind(with, Kind::Word).map_or("", |c| c.name.as_str());
    let their_time = of_kind(with, Kind::Bar).map_or("", |c| c.name.as_str());
    let their_int = &int_column(with, rng).name;
    match rng.below(3) {
        0 => Answer::rows(format!(
            "SELECT t.{word}, t.{time}, t.{int}, u.{their_int} FROM (SELECT * FROM {name} t WHERE {span}) t {kind} {} u ON u.{their_word} = t.{word} AND u.{their_time} = t.{time} - interval '{steps}'",
            with.name
        )),
        1 => Answer::ordered(format!(
            "SELECT t.{word}, t.{time}::date, count(*), sum(u.{their_int}), max(t.{int}) FROM {name} t JOIN {} u ON u.{their_word} = t.{word} AND u.{their_time} = t.{time} WHERE {span} GROUP BY 1, 2 ORDER BY 1, 2",
            with.name
        )),
        _ => Answer::rows(format!(
            "SELECT a.w, a.b, a.n, b.n FROM (SELECT t.{word} w, time_bucket('1 day', t.{time}) b, count(*) n FROM {name} t WHERE {span} GROUP BY 1, 2) a {kind} (SELECT u.{their_word} w, time_bucket('1 day', u.{their_time}) b, sum(u.{their_int}) n FROM {} u GROUP BY 1, 2) b ON a.w = b.w AND a.b = b.b",
            with.name
        )),
    }
}

fn on_numbers(shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Answer {
    let with = other(shapes, rng);
    let kind = *rng.pick(&KINDS);
    let mine = &int_column(shape, rng).name;
    let theirs = &int_column(with, rng).name;
    let (inner, outer) = (range(shape, rng), range(with, rng));
    let key = keys::timeless(shape, rng);
    Answer::rows(format!(
        "SELECT {key}, count(*), count(u.{theirs}), sum(t.{mine}) FROM (SELECT * FROM {} t WHERE {inner}) t {kind} (SELECT * FROM {} t WHERE {outer}) u ON t.{mine} = u.{theirs} GROUP BY 1",
        shape.name, with.name
    ))
}

/// Rows of `t` for each row of something small.
pub fn lateral(shape: &Shape, rng: &mut Rng) -> Answer {
    let name = shape.name;
    let keys: Vec<String> = shape
        .columns
        .iter()
        .map(|c| format!("t.{}", c.name))
        .collect();
    let order = shape.order(if rng.chance(50) { " DESC" } else { "" });
    let n = 1 + rng.below(3);
    let left = *rng.pick(&["CROSS JOIN LATERAL", "LEFT JOIN LATERAL"]);
    let on = if left.starts_with("LEFT") {
        " ON true"
    } else {
        ""
    };
    if let Some(word) = of_kind(shape, Kind::Word) {
        let word = &word.name;
        let time = of_kind(shape, Kind::Bar).map(|time| format!("t.{} <= d.since", time.name));
        let extra = match time {
            Some(time) if rng.chance(50) => format!(" AND {time}"),
            _ => String::new(),
        };
        let inner = match rng.below(3) {
            0 => format!(
                "SELECT count(*), max({0}) COLLATE \"C\", min({0}) FROM {name} t WHERE t.{word} = d.word{extra}",
                format_args!("t.{word}")
            ),
            1 => format!(
                "SELECT {} AS k, count(*) FROM {name} t WHERE t.{word} = d.word{extra} GROUP BY 1",
                keys::key(shape, rng)
            ),
            _ => format!(
                "SELECT t.* FROM {name} t WHERE t.{word} = d.word{extra} ORDER BY {order} LIMIT {n}"
            ),
        };
        return Answer::rows(format!(
            "SELECT d.word, x.* FROM dim d {left} ({inner}) x{on}"
        ));
    }
    let int = &int_column(shape, rng).name;
    let test = *rng.pick(&["=", "<", ">="]);
    Answer::rows(format!(
        "SELECT d.num, x.* FROM dim d {left} (SELECT {} FROM {name} t WHERE t.{int} {test} d.num ORDER BY {order}, {} LIMIT {n}) x{on}",
        keys.join(", "),
        keys.iter()
            .map(|k| format!("{k}::text"))
            .collect::<Vec<_>>()
            .join(", ")
    ))
}

/// Subqueries in the list of results and in conditions.
pub fn subquery(shape: &Shape, shapes: &[Shape], rng: &mut Rng) -> Answer {
    let name = shape.name;
    let with = other(shapes, rng);
    let mine = &int_column(shape, rng).name;
    let theirs = &int_column(with, rng).name;
    let order = shape.order("");
    let span = range(shape, rng);
    let inner = filter::simple(with, rng).replace("t.", "u.");
    let other = with.name;
    match rng.below(6) {
        0 => Answer::rows(format!(
            "SELECT {order}, (SELECT count(*) FROM {other} u WHERE u.{theirs} = t.{mine} AND {inner}) FROM {name} t WHERE {span} AND t.{mine} % 5 = 0"
        )),
        1 => Answer::rows(format!(
            "SELECT {order} FROM {name} t WHERE {span} AND t.{mine} > (SELECT avg(u.{theirs}) FROM {other} u WHERE {inner})"
        )),
        2 => Answer::rows(format!(
            "SELECT count(*), sum(t.{mine}) FROM {name} t WHERE t.{mine} NOT IN (SELECT u.{theirs} FROM {other} u WHERE {inner} AND u.{theirs} IS NOT NULL)"
        )),
        3 => Answer::rows(format!(
            "SELECT ARRAY(SELECT DISTINCT t.{mine} FROM {name} t WHERE {span} ORDER BY 1), (SELECT max(u.{theirs}) FROM {other} u WHERE {inner})"
        )),
        4 => Answer::rows(format!(
            "SELECT g.n, (SELECT sum(t.{mine}) FROM {name} t WHERE t.{mine} = g.n), EXISTS (SELECT FROM {name} t WHERE t.{mine} > g.n AND {span}) FROM generate_series(0, 12) g (n)"
        )),
        _ => Answer::rows(format!(
            "SELECT {}, count(*) FROM {name} t WHERE EXISTS (SELECT FROM {other} u WHERE u.{theirs} = t.{mine} AND {inner}) GROUP BY 1",
            keys::key(shape, rng)
        )),
    }
}

/// Common table expressions.
pub fn with(shape: &Shape, rng: &mut Rng) -> Answer {
    let name = shape.name;
    let int = &int_column(shape, rng).name;
    let once = *rng.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
    if rng.chance(30) {
        // From one distinct value to the next.
        let column = match of_kind(shape, Kind::Word) {
            Some(word) if rng.chance(60) => &word.name,
            _ => int,
        };
        return Answer::ordered(format!(
            "WITH RECURSIVE r (v) AS ((SELECT t.{column} FROM {name} t WHERE t.{column} IS NOT NULL ORDER BY 1 LIMIT 1) UNION ALL SELECT (SELECT t.{column} FROM {name} t WHERE t.{column} > r.v ORDER BY 1 LIMIT 1) FROM r WHERE r.v IS NOT NULL) SELECT v, (SELECT count(*) FROM {name} t WHERE t.{column} = r.v) FROM r ORDER BY 1"
        ));
    }
    let key = keys::timeless(shape, rng);
    let filter = filter::maybe(shape, rng);
    let sql = format!(
        "WITH g AS {once}(SELECT {key} AS k, count(*) AS n, sum(t.{int}) AS s FROM {name} t{filter} GROUP BY 1)"
    );
    match rng.below(3) {
        0 => Answer::rows(format!(
            "{sql} SELECT a.k, a.n, b.s FROM g a JOIN g b ON a.k = b.k WHERE a.n >= (SELECT avg(n) FROM g)"
        )),
        1 => Answer::rows(format!(
            "{sql} SELECT n, count(*), sum(s) FROM g GROUP BY 1 UNION ALL SELECT sum(n), count(*), sum(s) FROM g"
        )),
        _ => Answer::ordered(format!(
            "{sql} SELECT k, n, s, sum(n) OVER (ORDER BY k) FROM g ORDER BY k{}",
            group::limit(rng)
        )),
    }
}
