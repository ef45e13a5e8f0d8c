//! Grouping, and rows that come first.

use super::{Answer, filter, keys, sums};
use crate::shadow::rng::Rng;
use crate::shadow::shape::Shape;
use crate::shadow::value::Kind;

/// LIMIT and OFFSET, often none.
pub fn limit(rng: &mut Rng) -> String {
    match rng.below(10) {
        0..=5 => String::new(),
        6 => format!(" LIMIT {} OFFSET {}", 1 + rng.below(20), rng.below(10)),
        7 => format!(" OFFSET {}", rng.below(10)),
        _ => format!(" LIMIT {}", 1 + rng.below(12)),
    }
}

fn having(shape: &Shape, rng: &mut Rng) -> String {
    if !rng.chance(25) {
        return String::new();
    }
    let column = &rng.pick(&shape.columns).name;
    let condition = match rng.below(5) {
        0 => format!("count(*) > {}", rng.below(30)),
        1 => format!("count(t.{column}) < {}", 1 + rng.below(60)),
        2 => format!("count(*) FILTER (WHERE {}) > 0", filter::simple(shape, rng)),
        3 => format!("count(*) % 2 = 0 AND count(t.{column}) IS NOT NULL"),
        _ => format!("NOT bool_and(t.{column} IS NULL)"),
    };
    format!(" HAVING {condition}")
}

/// GROUP BY, or one row for everything.
pub fn grouped(shape: &Shape, rng: &mut Rng) -> Answer {
    if rng.chance(60) {
        return by_columns(shape, rng);
    }
    let name = shape.name;
    let filter = filter::maybe(shape, rng);
    if rng.chance(25) {
        let sums = sums::several(shape, &[], rng);
        let having = having(shape, rng);
        let sql = format!(
            "SELECT {} FROM {name} t{filter}{having}",
            sums.calls.join(", ")
        );
        return Answer::ordered(sql).about(sums.digits);
    }
    let keys = keys::several(shape, rng);
    let sums = sums::several(shape, &keys, rng);
    let n = keys.len();
    let by: Vec<String> = (1..=n).map(|i| i.to_string()).collect();
    let order = keys::order(1..=n, rng);
    let order = if rng.chance(15) {
        // By a count first, which everything that is whole is exact in.
        format!("count(*) DESC, {order}")
    } else {
        order
    };
    let sql = format!(
        "SELECT {}, {} FROM {name} t{filter} GROUP BY {}{} ORDER BY {order}{}",
        keys.join(", "),
        sums.calls.join(", "),
        by.join(", "),
        having(shape, rng),
        limit(rng)
    );
    let sql = if rng.chance(8) {
        sql.replace(
            &format!("GROUP BY {}", by.join(", ")),
            &format!("GROUP BY ROLLUP ({})", keys.join(", ")),
        )
    } else {
        sql
    };
    let rolled = sql.contains("ROLLUP");
    // A NULL of ROLLUP's and one of the key's are alike in the order.
    let limited = sql.contains(" LIMIT ") || sql.contains(" OFFSET ");
    if rolled && (limited || sums.digits.is_some()) {
        let sql = format!(
            "SELECT {}, count(*) FROM {name} t{filter} GROUP BY 1",
            keys[0]
        );
        return Answer::rows(sql);
    }
    Answer {
        sql,
        ordered: !rolled,
        digits: sums.digits,
    }
}

/// The same, such as can be grouped by columns as a whole.
fn by_columns(shape: &Shape, rng: &mut Rng) -> Answer {
    let shape = &shape.plain_types();
    let name = shape.name;
    let filter = if rng.chance(35) {
        String::new()
    } else {
        format!(" WHERE {}", filter::by_columns(shape, rng))
    };
    if rng.chance(30) {
        let sums = sums::by_columns(shape, &[], rng);
        let sql = format!("SELECT {} FROM {name} t{filter}", sums.calls.join(", "));
        return Answer::ordered(sql).about(sums.digits);
    }
    if rng.chance(15)
        && let Some(answer) = first_groups(shape, &filter, rng)
    {
        return answer;
    }
    let keys = keys::several(shape, rng);
    let sums = sums::by_columns(shape, &keys, rng);
    let n = keys.len();
    let by: Vec<String> = (1..=n).map(|i| i.to_string()).collect();
    let having = if rng.chance(15) {
        format!(" HAVING count(*) > {}", rng.below(20))
    } else {
        String::new()
    };
    let sql = format!(
        "SELECT {}, {} FROM {name} t{filter} GROUP BY {}{having} ORDER BY {}{}",
        keys.join(", "),
        sums.calls.join(", "),
        by.join(", "),
        keys::order(1..=n, rng),
        limit(rng)
    );
    Answer::ordered(sql).about(sums.digits)
}

/// The first or last groups by a key that is never NULL.
fn first_groups(shape: &Shape, filter: &str, rng: &mut Rng) -> Option<Answer> {
    if !shape.keyed() || shape.null_keys {
        return None;
    }
    let all = shape.keys();
    let column = *rng.pick(&all);
    let key = match column.kind {
        Kind::Bar => *rng.pick(&["time_bucket('1 day', $)", "time_bucket('3 hours', $)", "$"]),
        Kind::Int(..) => *rng.pick(&["time_bucket(7, $)", "$"]),
        _ => return None,
    };
    let keys = [key.replace('$', &format!("t.{}", column.name))];
    let sums = sums::by_columns(shape, &keys, rng);
    let sql = format!(
        "SELECT {}, {} FROM {} t{filter} GROUP BY 1 ORDER BY 1{} LIMIT {}{}",
        keys[0],
        sums.calls.join(", "),
        shape.name,
        rng.pick(&["", " DESC"]),
        1 + rng.below(9),
        rng.pick(&["", "", " OFFSET 2"]),
    );
    Some(Answer::ordered(sql).about(sums.digits))
}

/// DISTINCT, and aggregates of it.
pub fn distinct(shape: &Shape, rng: &mut Rng) -> Answer {
    let keys = keys::several(shape, rng);
    let filter = filter::maybe(shape, rng);
    let inner = format!(
        "SELECT DISTINCT {} FROM {} t{filter}",
        keys.join(", "),
        shape.name
    );
    match rng.below(4) {
        0 => Answer::rows(format!("SELECT count(*) FROM ({inner}) d")),
        1 => Answer::rows(format!(
            "SELECT DISTINCT count(*) FROM {} t{filter} GROUP BY {}",
            shape.name,
            keys.join(", ")
        )),
        _ => Answer::ordered(format!(
            "{inner} ORDER BY {}{}",
            keys::order(1..=keys.len(), rng),
            limit(rng)
        )),
    }
}

/// The first row of each group.
pub fn distinct_on(shape: &Shape, rng: &mut Rng) -> Answer {
    let filter = filter::maybe(shape, rng);
    if !shape.keyed() {
        return distinct(shape, rng);
    }
    let key: Vec<String> = shape
        .keys()
        .iter()
        .map(|c| format!("t.{}", c.name))
        .collect();
    let descending = if rng.chance(50) { " DESC" } else { "" };
    let picked = *rng.pick(&["t.*", "t", "1 AS one, t.*"]);
    let (group, order) = if key.len() > 1 && rng.chance(70) {
        let up = if rng.chance(80) { "" } else { " DESC" };
        let nulls = if rng.chance(10) { " NULLS LAST" } else { "" };
        let group = &key[0];
        let rest = key[1..].join(", ");
        (
            group.clone(),
            format!("{group}{up}, {rest}{descending}{nulls}"),
        )
    } else {
        let group = keys::key(shape, rng);
        let list: Vec<String> = key.iter().map(|k| format!("{k}{descending}")).collect();
        (group.clone(), format!("{group}, {}", list.join(", ")))
    };
    let sql = format!(
        "SELECT DISTINCT ON ({group}) {picked} FROM {} t{filter} ORDER BY {order}",
        shape.name
    );
    if rng.chance(15) {
        return Answer::rows(format!("SELECT count(*) FROM ({sql}) d"));
    }
    Answer::ordered(format!("{sql}{}", limit(rng)))
}

/// ORDER BY and LIMIT.
pub fn first_rows(shape: &Shape, rng: &mut Rng) -> Answer {
    let descending = rng.chance(50);
    let filter = filter::maybe(shape, rng);
    let columns: Vec<String> = if shape.keyed() {
        shape
            .keys()
            .iter()
            .map(|c| format!("t.{}", c.name))
            .collect()
    } else {
        shape
            .columns
            .iter()
            .map(|c| format!("t.{}", c.name))
            .collect()
    };
    let mut list: Vec<String> = columns
        .iter()
        .map(|c| {
            let down = if rng.chance(75) {
                descending
            } else {
                !descending
            };
            format!("{c}{}", if down { " DESC" } else { "" })
        })
        .collect();
    match rng.below(4) {
        0 => list.insert(0, keys::key(shape, rng)),
        1 => list.reverse(),
        _ => {}
    }
    let picked = match rng.below(3) {
        0 => "t.*".to_string(),
        1 => format!("{}, {}", columns.join(", "), keys::key(shape, rng)),
        _ => format!(
            "t.{}, {}",
            rng.pick(&shape.columns).name,
            columns.join(", ")
        ),
    };
    let more = if rng.chance(70) {
        format!(" LIMIT {}", 1 + rng.below(15))
    } else {
        limit(rng)
    };
    Answer::ordered(format!(
        "SELECT {picked} FROM {} t{filter} ORDER BY {}{more}",
        shape.name,
        list.join(", ")
    ))
}
