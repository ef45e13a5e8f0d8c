//! Prepared statements and functions with parameters. Every session runs them again and again, so that their plans
//! become generic ones, and are made anew after DDL and moves between tiers.

use crate::shadow::rng::Rng;
use crate::shadow::step::{Step, Who};
use crate::shadow::value::{Kind, literal};

/// Statements that every session prepares.
pub const PREPARED: &[&str] = &[
    "PREPARE tick_sum (text, timestamptz, timestamptz) AS SELECT time_bucket('1 day', ts), count(*), sum(qty), min(price), max(price), first(price, ts), last(qty, ts) FROM tick WHERE symbol = $1 AND ts >= $2 AND ts < $3 GROUP BY 1 ORDER BY 1",
    "PREPARE tick_in (text[], int) AS SELECT symbol, count(*), avg(price) FILTER (WHERE qty < $2) FROM tick WHERE symbol = ANY ($1) GROUP BY symbol ORDER BY symbol",
    "PREPARE tick_last (text, int) AS SELECT * FROM tick WHERE symbol = $1 ORDER BY ts DESC LIMIT $2",
    "PREPARE tick_width (interval, bool) AS SELECT time_bucket($1, ts), count(*), sum(price) FROM tick WHERE flag = $2 GROUP BY 1 ORDER BY 1",
    "PREPARE tick_range (timestamptz, timestamptz, float8) AS SELECT symbol, ts, price FROM tick WHERE ts BETWEEN $1 AND $2 AND price > $3 ORDER BY symbol, ts",
    "PREPARE bars_day (timestamptz) AS SELECT symbol, count(*), max(close), sum(volume) FROM bars WHERE ts >= $1 AND ts < $1 + interval '1 day' GROUP BY 1 ORDER BY 1",
    "PREPARE bars_join (text, int) AS SELECT d.sector, b.symbol, count(*), sum(b.volume) FROM bars b JOIN dim d ON d.word = b.symbol WHERE d.sector = $1 AND d.num > $2 GROUP BY 1, 2 ORDER BY 1, 2",
    "PREPARE item_groups (int, int) AS SELECT grp, count(*), sum(qty), min(price) FROM item WHERE qty BETWEEN $1 AND $2 GROUP BY grp HAVING count(*) > $1 ORDER BY grp",
    "PREPARE many_of (text, float8, date) AS SELECT c_mood, count(*), sum(c_double), max(c_date) FROM many WHERE c_text > $1 OR c_double < $2 OR c_date = $3 GROUP BY 1 ORDER BY 1",
    "PREPARE log_null (text) AS SELECT b, count(*), min(c) FROM log WHERE b IS NOT DISTINCT FROM $1 OR a IS NULL GROUP BY 1 ORDER BY 1",
];

/// Functions that run queries with parameters.
pub const FUNCTIONS: &[&str] = &[
    "CREATE FUNCTION word_sum(w text) RETURNS numeric LANGUAGE plpgsql STABLE AS
       $$ BEGIN RETURN (SELECT coalesce(sum(qty), 0) + count(*) FROM tick WHERE symbol = w); END $$",
    "CREATE FUNCTION day_count(d timestamptz) RETURNS bigint LANGUAGE sql STABLE AS
       'SELECT count(*) FROM bars WHERE ts >= d AND ts < d + interval ''1 day'''",
    "CREATE FUNCTION walk(n int) RETURNS text LANGUAGE plpgsql STABLE AS
       $$ DECLARE r record; found text := ''; BEGIN
         FOR r IN SELECT a, max(b) AS b, count(*) AS c FROM log WHERE a < n GROUP BY a ORDER BY a LOOP
           found := found || r.a || ':' || coalesce(r.b, '-') || ':' || r.c || ' ';
           EXIT WHEN length(found) > 60;
         END LOOP;
         RETURN found; END $$",
];

/// Runs one of them.
pub fn execute(who: Who, rng: &mut Rng) -> Step {
    let mut maybe = |kind: Kind| {
        let value = kind.value(rng);
        let null = rng.chance(4);
        literal(kind, (!null).then_some(value.as_str()))
    };
    let (word, time, later) = (maybe(Kind::Word), maybe(Kind::Bar), maybe(Kind::Bar));
    let (double, date) = (maybe(Kind::Double), maybe(Kind::Date));
    let n = rng.between(0, 99);
    let sql = match rng.below(13) {
        0 | 1 => format!("EXECUTE tick_sum({word}, {time}, {later})"),
        2 => {
            let words: Vec<String> = (0..rng.below(4))
                .map(|_| literal(Kind::Word, Some(&Kind::Word.value(rng))))
                .collect();
            format!("EXECUTE tick_in(ARRAY[{}]::text[], {n})", words.join(", "))
        }
        3 => format!("EXECUTE tick_last({word}, {})", n / 10),
        4 => {
            let width = *rng.pick(&["1 day", "7 days", "1 month", "90 minutes"]);
            format!("EXECUTE tick_width('{width}', {})", rng.chance(50))
        }
        5 => format!("EXECUTE tick_range({time}, {later}, {double})"),
        6 => format!("EXECUTE bars_day({time})"),
        7 => format!(
            "EXECUTE bars_join('{}', {})",
            rng.pick(&["soft", "hard", "none"]),
            n / 8
        ),
        8 => format!("EXECUTE item_groups({}, {n})", n / 30),
        9 => format!("EXECUTE many_of({word}, {double}, {date})"),
        10 => format!("EXECUTE log_null({word})"),
        11 => "SELECT word, word_sum(word), day_count(since) FROM dim ORDER BY word".into(),
        _ => format!("SELECT walk({n}), walk({})", n / 3),
    };
    Step::new(who, sql).ordered().any_error()
}
