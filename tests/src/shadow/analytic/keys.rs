//! What rows are grouped by: columns, and expressions of them whose equal values print alike.

use crate::shadow::rng::Rng;
use crate::shadow::shape::{Column, Shape};
use crate::shadow::value::Kind;

/// A random key of alias `t`.
pub fn key(shape: &Shape, rng: &mut Rng) -> String {
    let few: Vec<&Column> = shape.columns.iter().filter(|c| c.kind.groups()).collect();
    let column = if !few.is_empty() && rng.chance(50) {
        few[rng.below(few.len() as u64) as usize]
    } else {
        rng.pick(&shape.columns)
    };
    if column.kind.canonical() && rng.chance(35) {
        return format!("t.{}", column.name);
    }
    expression(column, rng)
}

/// A key for joins. Grouping or ordering a join by `time_bucket` or `date_trunc` fails now and then on heap, too, with
/// "could not find pathkey item to sort": TimescaleDB takes an order by the time itself for one by the bucket.
pub fn timeless(shape: &Shape, rng: &mut Rng) -> String {
    loop {
        let key = key(shape, rng);
        if !key.contains("time_bucket(") && !key.contains("date_trunc(") {
            return key;
        }
    }
}

/// One to three different keys.
pub fn several(shape: &Shape, rng: &mut Rng) -> Vec<String> {
    let n = 1 + rng.weighted(&[50, 38, 12]);
    let mut keys = Vec::new();
    for _ in 0..n {
        let key = key(shape, rng);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The pattern with the column in the place of `$`.
fn one_of(patterns: &[&str], column: &Column, rng: &mut Rng) -> String {
    rng.pick(patterns)
        .replace('$', &format!("t.{}", column.name))
}

/// An expression of one column.
pub fn expression(column: &Column, rng: &mut Rng) -> String {
    let patterns: &[&str] = match column.kind {
        Kind::Int(..) | Kind::Positive => &[
            "$ / 10",
            "$ % 7",
            "$ + 1",
            "-$",
            "$ > 10",
            "coalesce($, -1)",
            "$ IS NULL",
            "time_bucket(5, $)",
            "time_bucket(10, $, 3)",
            "$::text",
            "$::bigint",
            "$::float8",
            "$::smallint",
            "CASE WHEN $ < 10 THEN 'few' ELSE 'many' END",
            "date '2024-01-01' + $",
        ],
        Kind::Small => &[
            "$",
            "$ / 100",
            "$ > 0",
            "$::int",
            "$::text",
            "abs($::int) % 5",
        ],
        Kind::Big => &[
            "$",
            "$ / 1000000007",
            "$ % 5",
            "$ < 0",
            "$::text",
            "$::numeric",
        ],
        Kind::Real | Kind::Double => &[
            "$",
            "floor($)",
            "$::int",
            "$ > 100",
            "$::text",
            "$::numeric(12,2)",
            "trunc($ / 500)::int",
            "$ IS NULL",
        ],
        Kind::Wild => &["$", "$ > 1", "$ IS NULL", "$ = 'NaN'"],
        Kind::Numeric => &["$ > 0", "$ IS NULL", "$ = 'NaN'"],
        Kind::Decimal => &[
            "$",
            "floor($)",
            "$ > 50",
            "$::int",
            "$::float8",
            "round($, 1)",
        ],
        Kind::Bool => &[
            "$",
            "NOT $",
            "$ IS TRUE",
            "$ IS NOT FALSE",
            "$::int",
            "$::text",
        ],
        Kind::Text | Kind::Word | Kind::Varchar => &[
            "$",
            "left($, 1)",
            "length($)",
            "lower($)",
            "$ || '!'",
            "md5($)",
            "$ < 'd'",
            "coalesce($, '-')",
            "$ COLLATE \"C\"",
            "left($, 2)::varchar",
            "nullif($, '')",
            "octet_length($)",
            "$ IS NULL",
        ],
        Kind::Char => &["$", "$::text", "left($, 1)"],
        Kind::Bytea => &["$", "length($)", "substring($ for 1)"],
        Kind::Date => &[
            "$",
            "date_trunc('month', $)",
            "extract(year FROM $)",
            "date_part('dow', $)",
            "$ > date '2015-01-01'",
            "$::timestamp",
            "$::text",
        ],
        Kind::TimeOfDay => &[
            "extract(hour FROM $)",
            "date_part('minute', $)::int",
            "$ > time '12:00'",
            "date_trunc('hour', $)",
        ],
        Kind::Timestamp => &[
            "date_trunc('day', $)",
            "date_trunc('quarter', $)",
            "time_bucket('1 day', $)",
            "time_bucket('90 minutes', $)",
            "time_bucket('1 year', $)",
            "time_bucket('10 days', $, timestamp '2000-01-02')",
            "extract(month FROM $)",
            "$::date",
            "$::time",
        ],
        Kind::Bar => &[
            "$",
            "time_bucket('1 day', $)",
            "time_bucket('6 hours', $)",
            "time_bucket('13 hours', $)",
            "time_bucket('7 days', $)",
            "time_bucket('2 weeks', $)",
            "time_bucket('1 month', $)",
            "time_bucket('7 days', $, \"offset\" => interval '11 hours')",
            "time_bucket('5 days', $, origin => timestamptz '2024-01-03 05:00+00')",
            "time_bucket('1 day', $, 'Europe/Berlin')",
            "time_bucket('1 week', $, timezone => 'America/New_York')",
            "date_trunc('day', $)",
            "date_trunc('week', $)",
            "date_trunc('month', $)",
            "date_trunc('hour', $, 'Asia/Kathmandu')",
            "extract(hour FROM $)",
            "extract(dow FROM $)",
            "extract(epoch FROM $)",
            "date_part('day', $)",
            "extract(week FROM $)::int",
            "$::date",
            "$::time",
            "$ AT TIME ZONE 'Europe/Berlin'",
            "to_char($, 'YYYY-MM-DD')",
            "$ >= timestamptz '2024-01-15 00:00+00'",
            "$ + interval '1 hour'",
        ],
        Kind::Instant => &[
            "date_trunc('year', $)",
            "extract(year FROM $)",
            "time_bucket('1 year', $)",
            "$::date",
            "isfinite($)",
        ],
        Kind::Interval => &["extract(day FROM $)", "$ > interval '0'"],
        Kind::Uuid => &["$", "left($::text, 2)"],
        Kind::Json => &["$->>'a'", "($->>'b')::int"],
        Kind::Jsonb => &["$", "$->>'b'", "jsonb_typeof($)"],
        Kind::Ints => &["$", "$[1]", "cardinality($)"],
        Kind::Texts => &["$", "$[1]", "array_length($, 1)"],
        Kind::Range => &["$", "lower($)", "isempty($)"],
        Kind::Inet => &["$", "family($)", "host($)"],
        Kind::Mood => &["$", "$::text", "$ > 'sad'"],
        Kind::Pair => &["($).n", "($).w", "$"],
        Kind::Bits => &["$", "length($)"],
    };
    one_of(patterns, column, rng)
}

/// Random directions for columns of a result by their numbers.
pub fn order(columns: std::ops::RangeInclusive<usize>, rng: &mut Rng) -> String {
    let nulls = ["", "", "", " NULLS FIRST", " NULLS LAST"];
    let descending = rng.chance(40);
    let list: Vec<String> = columns
        .map(|n| {
            let down = if rng.chance(85) {
                descending
            } else {
                !descending
            };
            let down = if down { " DESC" } else { "" };
            format!("{n}{down}{}", rng.pick(&nulls))
        })
        .collect();
    list.join(", ")
}
