//! Random values of many types, as the text that PostgreSQL reads.

use super::rng::Rng;

/// What values a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `int4` in a range.
    Int(i64, i64),
    /// `int2` of any size.
    Small,
    /// `int8` of any size.
    Big,
    /// `float4`, exact quarters.
    Real,
    /// `float8`, exact quarters, so that sums do not depend on their order.
    Double,
    /// `float8` with infinities and NaN.
    Wild,
    /// `numeric` of any scale.
    Numeric,
    /// `numeric(12,2)`.
    Decimal,
    /// `bool`.
    Bool,
    /// `text`: short, sometimes odd, rarely long enough for TOAST.
    Text,
    /// `text` out of few words.
    Word,
    /// `varchar(20)`.
    Varchar,
    /// `char(5)`.
    Char,
    /// `bytea`.
    Bytea,
    /// `date`.
    Date,
    /// `time`.
    TimeOfDay,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz` at any microsecond, with infinities.
    Instant,
    /// `timestamptz` in steps of six hours over four weeks.
    Bar,
    /// `interval`.
    Interval,
    /// `uuid`.
    Uuid,
    /// `json`, which knows no equality.
    Json,
    /// `jsonb`.
    Jsonb,
    /// `int4[]` with NULLs.
    Ints,
    /// `text[]`.
    Texts,
    /// `int4range`.
    Range,
    /// `inet`.
    Inet,
    /// An enum that the tables' set-up makes.
    Mood,
    /// A domain that the tables' set-up makes.
    Positive,
    /// A composite type that the tables' set-up makes.
    Pair,
    /// `bit varying`.
    Bits,
}

const WORDS: [&str; 8] = ["ash", "Birch", "cedar", "DOGWOOD", "elm", "fir", "", "Ä"];

impl Kind {
    /// The type's name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Kind::Int(..) => "integer",
            Kind::Small => "smallint",
            Kind::Big => "bigint",
            Kind::Real => "real",
            Kind::Double | Kind::Wild => "double precision",
            Kind::Numeric => "numeric",
            Kind::Decimal => "numeric(12,2)",
            Kind::Bool => "boolean",
            Kind::Text | Kind::Word => "text",
            Kind::Varchar => "varchar(20)",
            Kind::Char => "char(5)",
            Kind::Bytea => "bytea",
            Kind::Date => "date",
            Kind::TimeOfDay => "time",
            Kind::Timestamp => "timestamp",
            Kind::Instant | Kind::Bar => "timestamptz",
            Kind::Interval => "interval",
            Kind::Uuid => "uuid",
            Kind::Json => "json",
            Kind::Jsonb => "jsonb",
            Kind::Ints => "integer[]",
            Kind::Texts => "text[]",
            Kind::Range => "int4range",
            Kind::Inet => "inet",
            Kind::Mood => "mood",
            Kind::Positive => "positive",
            Kind::Pair => "pair",
            Kind::Bits => "varbit",
        }
    }

    /// Whether `=` and `<` exist.
    pub fn comparable(self) -> bool {
        self != Kind::Json
    }

    /// Whether equal values print alike, so that grouping, min and max do not depend on the order of rows.
    pub fn canonical(self) -> bool {
        !matches!(self, Kind::Json | Kind::Numeric | Kind::Interval)
    }

    /// Whether sums are exact in every order.
    pub fn summable(self) -> bool {
        matches!(self, Kind::Int(..) | Kind::Double | Kind::Decimal)
    }

    /// Whether few values make up the column.
    pub fn groups(self) -> bool {
        match self {
            Kind::Int(low, high) => high - low <= 50,
            Kind::Bool | Kind::Word | Kind::Mood => true,
            _ => false,
        }
    }

    /// A random value, as text.
    pub fn value(self, rng: &mut Rng) -> String {
        match self {
            Kind::Int(low, high) => rng.between(low, high).to_string(),
            Kind::Small => integer(rng, 16).to_string(),
            Kind::Big => integer(rng, 64).to_string(),
            Kind::Real | Kind::Double => quarter(rng.between(-400, 4000)),
            Kind::Wild => match rng.below(12) {
                0 => "NaN".into(),
                1 => "Infinity".into(),
                2 => "-Infinity".into(),
                3 => "1e-300".into(),
                4 => "1e300".into(),
                _ => format!(
                    "{}.{}e{}",
                    rng.below(10),
                    rng.below(1 << 50),
                    rng.between(-9, 9)
                ),
            },
            Kind::Numeric => match rng.below(10) {
                0 => "NaN".into(),
                1 => "Infinity".into(),
                2 => format!("{}e{}", rng.below(1000), rng.between(-20, 40)),
                _ => {
                    let scale = rng.below(8) as usize;
                    format!(
                        "{}.{:0scale$}",
                        rng.between(-999, 999),
                        rng.below(10u64.pow(scale as u32))
                    )
                }
            },
            Kind::Decimal => format!("{}.{:02}", rng.between(-99, 999), rng.below(100)),
            Kind::Bool => rng.chance(50).to_string(),
            Kind::Text => text(rng),
            Kind::Word => (*rng.pick(&WORDS)).into(),
            Kind::Varchar => hex(rng, 10),
            Kind::Char => hex(rng, 2),
            Kind::Bytea => {
                let n = if rng.chance(3) { 5000 } else { 12 };
                format!("\\x{}", hex(rng, n))
            }
            Kind::Date => match rng.below(20) {
                0 => "infinity".into(),
                _ => format!(
                    "20{:02}-{:02}-{:02}",
                    rng.below(30),
                    1 + rng.below(12),
                    1 + rng.below(28)
                ),
            },
            Kind::TimeOfDay => clock(rng),
            Kind::Timestamp => format!("{} {}", Kind::Date.finite(rng), clock(rng)),
            Kind::Instant => match rng.below(20) {
                0 => "-infinity".into(),
                _ => format!("{} {}+00", Kind::Date.finite(rng), clock(rng)),
            },
            Kind::Bar => bar(rng.below(BARS)),
            Kind::Interval => format!(
                "{} mons {} days {} us",
                rng.between(-9, 9),
                rng.between(-9, 40),
                rng.between(-999_999, 9_999_999)
            ),
            Kind::Uuid => format!("{:016x}{:016x}", rng.bits(), rng.below(3)),
            Kind::Json => format!(r#"{{"b": {}, "a":  "{}"}}"#, rng.below(9), rng.pick(&WORDS)),
            Kind::Jsonb => match rng.below(5) {
                0 => "null".into(),
                1 => format!("[{}, {}.50]", rng.below(9), rng.below(9)),
                _ => format!(
                    r#"{{"b": {}, "a": {{"c": "{}"}}}}"#,
                    rng.below(9),
                    rng.pick(&WORDS)
                ),
            },
            Kind::Ints => match rng.below(4) {
                0 => "{}".into(),
                1 => format!("[2:3]={{{},{}}}", rng.below(99), rng.below(99)),
                _ => format!("{{{},NULL,{}}}", rng.between(-9, 9), rng.below(9)),
            },
            Kind::Texts => format!("{{\"{}\",NULL,{}}}", rng.pick(&WORDS), rng.below(9)),
            Kind::Range => match rng.below(5) {
                0 => "empty".into(),
                1 => format!("[{},)", rng.below(99)),
                _ => format!("[{},{}]", rng.below(50), 50 + rng.below(50)),
            },
            Kind::Inet => match rng.below(3) {
                0 => format!("2001:db8::{:x}/64", rng.below(65536)),
                _ => format!("10.0.{}.{}", rng.below(256), rng.below(256)),
            },
            Kind::Mood => (*rng.pick(&["sad", "ok", "happy"])).into(),
            Kind::Positive => rng.between(1, 500).to_string(),
            Kind::Pair => format!(
                "({},{})",
                rng.below(99),
                rng.pick(&["one", "two", "\"a,b\"", ""])
            ),
            Kind::Bits => format!("{:b}", rng.below(4096)),
        }
    }

    fn finite(self, rng: &mut Rng) -> String {
        loop {
            let value = self.value(rng);
            if value != "infinity" {
                return value;
            }
        }
    }

    /// Ends of a random range of values, for kinds that keys are made of.
    pub fn range(self, rng: &mut Rng) -> Option<(String, String)> {
        match self {
            Kind::Int(low, high) => {
                let from = rng.between(low, high);
                let width = if rng.chance(8) {
                    high - low
                } else {
                    (high - low) / 12
                };
                Some((from.to_string(), (from + rng.between(0, width)).to_string()))
            }
            Kind::Bar => {
                let from = rng.below(BARS);
                let width = if rng.chance(8) { BARS } else { 12 };
                Some((bar(from), bar(from + rng.below(width))))
            }
            _ => None,
        }
    }
}

/// How many points in time [`Kind::Bar`] knows.
const BARS: u64 = 112;

fn bar(step: u64) -> String {
    let day = step / 4;
    // January and February 2024, from the first.
    format!(
        "2024-{:02}-{:02} {:02}:00+00",
        1 + day / 31,
        1 + day % 31,
        step % 4 * 6
    )
}

fn quarter(n: i64) -> String {
    format!("{}", n as f64 / 4.0)
}

/// An integer of up to `bits` bits, often small, now and then the largest or smallest.
fn integer(rng: &mut Rng, bits: u32) -> i64 {
    let most = i64::MAX >> (64 - bits);
    match rng.below(10) {
        0 => most,
        1 => -most - 1,
        2 | 3 => rng.between(-most - 1, most),
        _ => rng.between(-100, 100),
    }
}

fn clock(rng: &mut Rng) -> String {
    let micros = if rng.chance(50) {
        0
    } else {
        rng.below(1_000_000)
    };
    format!(
        "{:02}:{:02}:{:02}.{micros:06}",
        rng.below(24),
        rng.below(60),
        rng.below(60)
    )
}

/// `n` random bytes in hexadecimal.
fn hex(rng: &mut Rng, n: usize) -> String {
    (0..n).map(|_| format!("{:02x}", rng.below(256))).collect()
}

fn text(rng: &mut Rng) -> String {
    match rng.below(50) {
        0 => hex(rng, 4000),
        1 => "z".repeat(9000),
        2 => "quote ' back \\ slash\ttab\nline \u{1F980}".into(),
        3 => String::new(),
        n if n < 20 => (*rng.pick(&WORDS)).into(),
        _ => hex(rng, 6),
    }
}

/// A value as a literal with its type; `None` is NULL.
pub fn literal(kind: Kind, value: Option<&str>) -> String {
    match value {
        None => format!("NULL::{}", kind.sql()),
        Some(v) if v.contains('\\') => {
            format!(
                "E'{}'::{}",
                v.replace('\\', "\\\\").replace('\'', "''"),
                kind.sql()
            )
        }
        Some(v) => format!("'{}'::{}", v.replace('\'', "''"), kind.sql()),
    }
}

/// A value as COPY's text format has it.
pub fn copy_field(value: Option<&str>) -> String {
    match value {
        None => "\\N".into(),
        Some(v) => v
            .replace('\\', "\\\\")
            .replace('\t', "\\t")
            .replace('\n', "\\n"),
    }
}
