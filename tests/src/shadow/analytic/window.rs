//! Window functions.

use super::{Answer, filter, group, keys};
use crate::shadow::rng::Rng;
use crate::shadow::shape::{Column, Shape};
use crate::shadow::text::{int_column, range};
use crate::shadow::value::Kind;

/// A query with a window function.
pub fn windowed(shape: &Shape, rng: &mut Rng) -> Answer {
    if rng.chance(30) {
        return over_groups(shape, rng);
    }
    let name = shape.name;
    let order = shape.order("");
    let descending = shape.order(" DESC");
    let by = if rng.chance(50) { &order } else { &descending };
    let part = match rng.below(3) {
        0 => String::new(),
        1 => format!("PARTITION BY {} ", keys::key(shape, rng)),
        _ => match shape.keys().as_slice() {
            [first, _, ..] if shape.keyed() => format!("PARTITION BY t.{} ", first.name),
            _ => String::new(),
        },
    };
    let (a, b) = (call(shape, rng), call(shape, rng));
    let frame = *rng.pick(&[
        "",
        "",
        " ROWS BETWEEN 3 PRECEDING AND CURRENT ROW",
        " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
        " ROWS BETWEEN 1 FOLLOWING AND 5 FOLLOWING",
    ]);
    let filter = if shape.large || rng.chance(60) {
        format!(" WHERE {}", range(shape, rng))
    } else {
        filter::maybe(shape, rng)
    };
    let inner = format!(
        "SELECT {order}, {a} OVER w AS a, {b} OVER w AS b, row_number() OVER w AS r FROM {name} t{filter} WINDOW w AS ({part}ORDER BY {by}{frame})"
    );
    // Rows that are alike in every column may change places within the window, not what comes out of it as a whole.
    match rng.below(3) {
        0 => Answer::rows(format!(
            "SELECT * FROM ({inner}) x WHERE x.r <= {}",
            1 + rng.below(4)
        )),
        1 if shape.keyed() => {
            Answer::ordered(format!("{inner} ORDER BY {by}{}", group::limit(rng)))
        }
        _ => Answer::rows(inner),
    }
}

fn call(shape: &Shape, rng: &mut Rng) -> String {
    let exact: Vec<&Column> = shape
        .columns
        .iter()
        .filter(|c| {
            matches!(
                c.kind,
                Kind::Int(..) | Kind::Double | Kind::Decimal | Kind::Big | Kind::Small
            )
        })
        .collect();
    let number = match exact.len() {
        0 => &int_column(shape, rng).name,
        n => &exact[rng.below(n as u64) as usize].name,
    };
    let any = &rng.pick(&shape.columns).name;
    match rng.below(9) {
        0 => format!("lag(t.{any}, {})", 1 + rng.below(3)),
        1 => format!("lead(t.{any})"),
        2 => format!("first_value(t.{any})"),
        3 => format!("last_value(t.{any})"),
        4 => format!("nth_value(t.{any}, 2)"),
        5 => format!("count(t.{any})"),
        6 => format!("max(t.{number})"),
        7 => "rank()".into(),
        _ => format!("sum(t.{number})"),
    }
}

/// A window over groups.
fn over_groups(shape: &Shape, rng: &mut Rng) -> Answer {
    let key = keys::key(shape, rng);
    let int = &int_column(shape, rng).name;
    let call = *rng.pick(&[
        "sum(sum(t.$))",
        "lag(count(*))",
        "rank()",
        "max(count(t.$))",
    ]);
    let down = if rng.chance(40) { " DESC" } else { "" };
    Answer::ordered(format!(
        "SELECT {key}, count(*), {} OVER (ORDER BY {key}{down}) FROM {} t{} GROUP BY {key} ORDER BY {key}{down}{}",
        call.replace('$', int),
        shape.name,
        filter::maybe(shape, rng),
        group::limit(rng)
    ))
}
