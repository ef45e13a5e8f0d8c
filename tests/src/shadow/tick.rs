//! Changes of the large table: many new rows at a time, or a few that are there.

use super::rng::Rng;
use super::shape::Shape;
use super::step::{Step, Who};
use super::text::{assignments, filled, names, point, range, rows, values};
use super::value::{Kind, literal};

/// The large table; the last of all.
pub fn large(shapes: &[Shape]) -> Option<&Shape> {
    shapes.iter().find(|s| s.large)
}

/// All the others.
pub fn small(shapes: &[Shape]) -> &[Shape] {
    shapes.split_last().map_or(&[], |(_, small)| small)
}

/// A change.
pub fn change(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let step = match rng.weighted(&[20, 25, 12, 20, 12, 10]) {
        0 => bulk(who, shape, rng),
        1 => insert(who, shape, rng),
        2 => delete(who, &point(shape, rng), shape, rng),
        3 => update(who, &point(shape, rng), shape, rng),
        4 => {
            let some = some(shape, rng);
            delete(who, &some, shape, rng)
        }
        _ => {
            let some = some(shape, rng);
            update(who, &some, shape, rng).any_error()
        }
    };
    step.touching(shape.touched())
}

/// Every half hour of some weeks, for some words.
pub fn bulk(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let from = rng.below(800);
    let to = from + 100 + rng.below(500);
    let n = 2 + rng.below(3);
    let words: Vec<String> = (0..n)
        .map(|_| literal(Kind::Word, Some(&Kind::Word.value(rng))))
        .collect();
    let odd = 1 + 2 * rng.below(20);
    Step::new(
        who,
        format!(
            "INSERT INTO {} (symbol, ts, price, qty, size, volume, rate, flag, mood, fee, venue, day) \
             SELECT w, '2024-01-01 00:00+00'::timestamptz + i * interval '30 minutes', (i * {odd} % 997) / 4.0, nullif(i % 90, 17), \
             (i % 300 - 150)::smallint, i * {odd}, (i % 40)::real / 4, i % 5 < 2, \
             (ARRAY['sad', 'ok', 'happy', NULL])[1 + i % 4]::mood, (i * {odd} % 5000) / 100.0, (ARRAY['elm', 'fir', NULL])[1 + i / 200 % 3], \
             date '2024-01-01' + i / 48 \
             FROM generate_series({from}, {to}) i, unnest(ARRAY[{}]) WITH ORDINALITY AS u (w, n) ORDER BY n, i ON CONFLICT DO NOTHING",
            shape.name,
            words.join(", ")
        ),
    )
    .meeting_keys()
    .touching(shape.touched())
}

/// A few rows of one word.
fn some(shape: &Shape, rng: &mut Rng) -> String {
    let word = literal(Kind::Word, Some(&Kind::Word.value(rng)));
    format!("t.symbol = {word} AND {}", range(shape, rng))
}

fn insert(who: Who, shape: &Shape, rng: &mut Rng) -> Step {
    let columns = filled(shape, rng);
    let n = 1 + rng.below(10);
    let new = rows(&columns, n, false, rng);
    let action = if rng.chance(50) {
        " ON CONFLICT DO NOTHING".to_string()
    } else {
        format!(
            " ON CONFLICT (symbol, ts) DO UPDATE SET {}",
            assignments(shape, rng)
        )
    };
    Step::new(
        who,
        format!(
            "INSERT INTO {} AS t ({}) {}{action}",
            shape.name,
            names(&columns),
            values(&columns, &new)
        ),
    )
    .meeting_keys()
}

fn delete(who: Who, filter: &str, shape: &Shape, rng: &mut Rng) -> Step {
    let returning = if rng.chance(20) { " RETURNING t.*" } else { "" };
    Step::new(
        who,
        format!("DELETE FROM {} t WHERE {filter}{returning}", shape.name),
    )
}

fn update(who: Who, filter: &str, shape: &Shape, rng: &mut Rng) -> Step {
    Step::new(
        who,
        format!(
            "UPDATE {} AS t SET {} WHERE {filter}",
            shape.name,
            assignments(shape, rng)
        ),
    )
}
