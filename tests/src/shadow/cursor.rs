//! Cursors: fetched to and fro, and rows changed where one stands.

use super::analytic;
use super::rng::Rng;
use super::shape::Shape;
use super::step::{Step, Who};
use super::text::{assignments, condition, range};

/// A cursor that stays open over other statements.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// Its name.
    pub name: String,
    /// Whether its rows come in a total order; if not, only complete fetches can be compared.
    pub ordered: bool,
    /// Whether it outlives its transaction.
    pub hold: bool,
}

/// Opens a scroll cursor.
pub fn declare(who: Who, number: u64, shapes: &[Shape], rng: &mut Rng) -> (Cursor, Step) {
    let name = format!("c{number}");
    let hold = rng.chance(15);
    let held = if hold { " WITH HOLD" } else { "" };
    if rng.chance(40) {
        let answer = analytic::query(shapes, rng);
        if answer.digits.is_none() {
            let sql = format!("DECLARE {name} SCROLL CURSOR{held} FOR {}", answer.sql);
            let ordered = answer.ordered;
            let cursor = Cursor {
                name,
                ordered,
                hold,
            };
            return (cursor, Step::new(who, sql));
        }
    }
    let shape = rng.pick(shapes);
    let ordered = rng.chance(65);
    let order = if ordered {
        format!(" ORDER BY {}", shape.order(""))
    } else {
        String::new()
    };
    let sql = format!(
        "DECLARE {name} SCROLL CURSOR{held} FOR SELECT t.* FROM {} t WHERE {}{order}",
        shape.name,
        condition(shape, rng)
    );
    (
        Cursor {
            name,
            ordered,
            hold,
        },
        Step::new(who, sql),
    )
}

/// Fetches from an open cursor.
pub fn fetch(who: Who, cursor: &Cursor, rng: &mut Rng) -> Vec<Step> {
    let name = &cursor.name;
    if !cursor.ordered {
        return [
            format!("MOVE ABSOLUTE 0 FROM {name}"),
            format!("FETCH ALL FROM {name}"),
            format!("FETCH BACKWARD ALL FROM {name}"),
        ]
        .map(|sql| Step::new(who, sql))
        .into();
    }
    let n = rng.below(8);
    let how = match rng.below(9) {
        0 => format!("BACKWARD {n}"),
        1 => "FIRST".into(),
        2 => "LAST".into(),
        3 => format!("ABSOLUTE {n}"),
        4 => format!("RELATIVE {}", n as i64 - 4),
        5 => "ALL".into(),
        6 => "PRIOR".into(),
        _ => format!("FORWARD {n}"),
    };
    vec![Step::new(who, format!("FETCH {how} FROM {name}")).ordered()]
}

/// Locks some rows through a cursor, changes one and deletes another; to be run within a transaction.
pub fn current_of(who: Who, shapes: &[Shape], rng: &mut Rng) -> Vec<Step> {
    let shape = rng.pick(shapes);
    let name = shape.name;
    let declare = format!(
        "DECLARE here CURSOR FOR SELECT t.* FROM {name} t WHERE {} ORDER BY {} FOR UPDATE",
        range(shape, rng),
        shape.order("")
    );
    let mut steps = vec![
        Step::new(who, declare),
        Step::new(who, format!("FETCH {} FROM here", 1 + rng.below(3)))
            .ordered()
            .any_error(),
        Step::new(
            who,
            format!(
                "UPDATE {name} AS t SET {} WHERE CURRENT OF here",
                assignments(shape, rng)
            ),
        )
        .touching(shape.touched()),
    ];
    if rng.chance(60) {
        steps.push(Step::new(who, "FETCH NEXT FROM here").ordered().any_error());
        steps.push(
            Step::new(
                who,
                format!("DELETE FROM {name} AS t WHERE CURRENT OF here RETURNING t.*"),
            )
            .touching(shape.touched()),
        );
    }
    steps.push(Step::new(who, "CLOSE here"));
    steps
}
