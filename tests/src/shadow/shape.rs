//! The tables that the statements run on.

use super::rng::Rng;
use super::value::{Kind, literal};

/// What a column is to its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Part of the key by which rows are addressed.
    Key,
    /// Part of another unique index: set only where the outcome cannot depend on the order of rows.
    Unique,
    /// Nothing special.
    Plain,
    /// Generated; never written.
    Computed,
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its values.
    pub kind: Kind,
    /// Percentage of NULLs.
    pub nulls: u64,
    /// What it is for.
    pub role: Role,
}

impl Column {
    /// A random value, or NULL.
    pub fn value(&self, rng: &mut Rng) -> Option<String> {
        (!rng.chance(self.nulls)).then(|| self.kind.value(rng))
    }

    /// A random value as a literal.
    pub fn literal(&self, rng: &mut Rng) -> String {
        let value = self.value(rng);
        literal(self.kind, value.as_deref())
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// Columns, those added by ALTER TABLE at the end.
    pub columns: Vec<Column>,
    /// How many columns it has from the start.
    pub base: usize,
    /// Conflict targets for ON CONFLICT.
    pub arbiters: &'static [&'static str],
    /// Tables that its changes change too.
    pub followers: &'static [&'static str],
    /// Its clustering index.
    pub index: Option<&'static str>,
    /// Whether the key comes from a sequence when it is left out.
    pub identity: bool,
    /// Whether it is a hypertable.
    pub hypertable: bool,
    /// Whether key columns may be NULL (and then equal NULL).
    pub null_keys: bool,
    /// Whether it has rows for several pages a chunk, too many to change at random or to join with everything.
    pub large: bool,
}

impl Shape {
    /// Columns that address one row; all columns of a table without a key.
    pub fn keys(&self) -> Vec<&Column> {
        self.columns
            .iter()
            .filter(|c| c.role == Role::Key)
            .collect()
    }

    /// Whether the key columns identify a row.
    pub fn keyed(&self) -> bool {
        !self.arbiters.is_empty()
    }

    /// Columns that may be written.
    pub fn writable(&self) -> Vec<&Column> {
        self.columns
            .iter()
            .filter(|c| c.role != Role::Computed)
            .collect()
    }

    /// Columns that may be set in many rows at once.
    pub fn plain(&self) -> Vec<&Column> {
        self.columns
            .iter()
            .filter(|c| c.role == Role::Plain)
            .collect()
    }

    /// The table as if it had only those columns whose values are numbers, times, or strings that compare byte by byte.
    pub fn plain_types(&self) -> Shape {
        let mut shape = self.clone();
        shape.columns.retain(|c| {
            matches!(
                c.kind,
                Kind::Int(..)
                    | Kind::Small
                    | Kind::Big
                    | Kind::Real
                    | Kind::Double
                    | Kind::Wild
                    | Kind::Bool
                    | Kind::Text
                    | Kind::Word
                    | Kind::Date
                    | Kind::TimeOfDay
                    | Kind::Timestamp
                    | Kind::Instant
                    | Kind::Bar
            )
        });
        shape
    }

    /// A total order, as the list of ORDER BY, of rows of alias `t`.
    pub fn order(&self, direction: &str) -> String {
        let columns: Vec<&Column> = if self.keyed() {
            self.keys()
        } else {
            self.columns.iter().collect()
        };
        columns
            .iter()
            .map(|c| format!("t.{}{direction}", c.name))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Where a row of alias `t` lies. An upsert makes chunks in another order than an INSERT does, so they have no names.
    pub fn origin(&self) -> &'static str {
        if self.large {
            "t.tableoid <> 'tick'::regclass"
        } else if self.hypertable {
            "t.tableoid <> 'bars'::regclass"
        } else {
            "t.tableoid::regclass"
        }
    }

    /// The table and all that follow it.
    pub fn touched(&self) -> Vec<String> {
        let mut all = vec![self.name.to_string()];
        all.extend(self.followers.iter().map(|f| f.to_string()));
        all
    }
}

/// Types, tables and triggers, in the order in which they are made.
pub const SETUP: &[&str] = &[
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE TYPE pair AS (n int, w text)",
    "CREATE TABLE bars (symbol text, ts timestamptz, open float8, close float8, volume int, note text,
       PRIMARY KEY (symbol, ts))",
    "SELECT create_hypertable('bars', by_range('ts', interval '7 days'))",
    "CREATE TABLE tick (symbol text, ts timestamptz, price float8, qty int, size smallint, volume bigint, rate real,
       flag bool, mood mood, fee numeric(12,2), venue text, day date, note text, PRIMARY KEY (symbol, ts))",
    "SELECT create_hypertable('tick', by_range('ts', interval '10 days'))",
    "CREATE TABLE dim (word text PRIMARY KEY, num int, sector text, since timestamptz)",
    "INSERT INTO dim SELECT w, 2 * n, CASE n % 3 WHEN 0 THEN 'soft' WHEN 1 THEN 'hard' END, '2024-01-01 00:00+00'::timestamptz + n * interval '50 hours'
       FROM unnest(ARRAY['ash','Birch','cedar','elm','fir','','yew','oak']) WITH ORDINALITY AS u (w, n)",
    "CREATE TABLE item (id int PRIMARY KEY, grp int, name text, qty int CHECK (qty >= -5000), price numeric(12,2),
       touched int NOT NULL DEFAULT 0)",
    "CREATE TABLE item_audit (op text, old jsonb, new jsonb)",
    "CREATE TABLE item_statements (op text, n bigint, total bigint)",
    "CREATE FUNCTION item_touch() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN NEW.touched := OLD.touched + 1; RETURN NEW; END $$",
    "CREATE FUNCTION item_log() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN INSERT INTO item_audit VALUES (TG_OP, to_jsonb(OLD), to_jsonb(NEW)); RETURN NULL; END $$",
    "CREATE FUNCTION item_count() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN INSERT INTO item_statements SELECT TG_OP, count(*), sum(id) FROM rows; RETURN NULL; END $$",
    "CREATE TRIGGER touch BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION item_touch()",
    "CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION item_log()",
    "CREATE TRIGGER count_i AFTER INSERT ON item REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION item_count()",
    "CREATE TRIGGER count_u AFTER UPDATE ON item REFERENCING OLD TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION item_count()",
    "CREATE TRIGGER count_d AFTER DELETE ON item REFERENCING OLD TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION item_count()",
    "CREATE TABLE line (ord int, pos int, item_id int REFERENCES item ON UPDATE CASCADE ON DELETE SET NULL, amount int,
       PRIMARY KEY (ord, pos))",
    "CREATE TABLE gen (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a int, b text,
       twice int GENERATED ALWAYS AS (a * 2) STORED, hash text GENERATED ALWAYS AS (md5(b)) STORED)",
    "CREATE TABLE slot (a int, b int, code int, active bool, label text, v int, UNIQUE NULLS NOT DISTINCT (a, b))",
    "CREATE UNIQUE INDEX slot_code ON slot (code) WHERE active",
    "CREATE UNIQUE INDEX slot_label ON slot (lower(label))",
    "CREATE TABLE log (a int, b text, c timestamptz)",
    "CREATE TABLE part (k int PRIMARY KEY, v text, w int) PARTITION BY RANGE (k)",
    "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (60)",
    "CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (60) TO (120)",
    "CREATE TABLE part_3 PARTITION OF part DEFAULT",
    "CREATE TABLE many (k int PRIMARY KEY, c_small smallint, c_big bigint, c_real real, c_double float8, c_wild float8,
       c_numeric numeric, c_decimal numeric(12,2), c_bool bool, c_text text, c_varchar varchar(20), c_char char(5),
       c_bytea bytea, c_date date, c_time time, c_timestamp timestamp, c_instant timestamptz, c_interval interval,
       c_uuid uuid, c_json json, c_jsonb jsonb, c_ints int[], c_texts text[], c_range int4range, c_inet inet, c_mood mood,
       c_positive positive, c_pair pair, c_bits varbit)",
];

/// Puts the tables under varve's care; on the varve side only.
pub const ENABLE: &[&str] = &[
    "SELECT varve.enable('bars')",
    "SELECT varve.enable('tick')",
    "SELECT varve.enable('item')",
    "SELECT varve.enable('line')",
    "SELECT varve.enable('gen', order_by => '{a,id}')",
    "SELECT varve.enable('slot', segment_by => '{a}', order_by => '{b}')",
    "SELECT varve.enable('log', order_by => '{c}')",
    "SELECT varve.enable('part')",
    "SELECT varve.enable('many')",
    "SELECT varve.enable('item_audit', order_by => '{op}')",
];

/// All tables whose contents are compared.
pub const TABLES: &[&str] = &[
    "bars",
    "tick",
    "item",
    "item_audit",
    "item_statements",
    "line",
    "gen",
    "slot",
    "log",
    "part",
    "many",
];

fn column(name: &str, kind: Kind, nulls: u64, role: Role) -> Column {
    Column {
        name: name.into(),
        kind,
        nulls,
        role,
    }
}

fn shape(
    name: &'static str,
    columns: Vec<Column>,
    arbiters: &'static [&'static str],
    index: Option<&'static str>,
) -> Shape {
    Shape {
        name,
        base: columns.len(),
        columns,
        arbiters,
        followers: &[],
        index,
        identity: false,
        hypertable: false,
        null_keys: false,
        large: false,
    }
}

/// The tables that statements are made for.
pub fn shapes() -> Vec<Shape> {
    use Role::{Computed, Key, Plain, Unique};
    let small = Kind::Int(0, 20);
    let mut bars = shape(
        "bars",
        vec![
            column("symbol", Kind::Word, 0, Key),
            column("ts", Kind::Bar, 0, Key),
            column("open", Kind::Double, 10, Plain),
            column("close", Kind::Double, 0, Plain),
            column("volume", Kind::Int(0, 9999), 10, Plain),
            column("note", Kind::Text, 60, Plain),
        ],
        &["(symbol, ts)"],
        Some("bars_ts_idx"),
    );
    bars.hypertable = true;
    let mut item = shape(
        "item",
        vec![
            column("id", Kind::Int(1, 300), 0, Key),
            column("grp", small, 10, Plain),
            column("name", Kind::Text, 20, Plain),
            column("qty", Kind::Int(-50, 200), 10, Plain),
            column("price", Kind::Decimal, 10, Plain),
        ],
        &["(id)"],
        Some("item_pkey"),
    );
    item.followers = &["item_audit", "item_statements", "line"];
    let line = shape(
        "line",
        vec![
            column("ord", Kind::Int(1, 60), 0, Key),
            column("pos", Kind::Int(1, 6), 0, Key),
            column("item_id", Kind::Int(1, 300), 60, Plain),
            column("amount", Kind::Int(0, 40), 10, Plain),
        ],
        &["(ord, pos)"],
        Some("line_pkey"),
    );
    let mut r#gen = shape(
        "gen",
        vec![
            column("id", Kind::Int(1, 500), 0, Key),
            column("a", small, 10, Plain),
            column("b", Kind::Text, 10, Plain),
            column("twice", Kind::Int(0, 40), 0, Computed),
            column("hash", Kind::Text, 0, Computed),
        ],
        &["(id)"],
        Some("gen_pkey"),
    );
    r#gen.identity = true;
    let mut slot = shape(
        "slot",
        vec![
            column("a", Kind::Int(0, 15), 10, Key),
            column("b", Kind::Int(0, 15), 10, Key),
            column("code", Kind::Int(0, 400), 10, Unique),
            column("active", Kind::Bool, 10, Unique),
            column("label", Kind::Varchar, 60, Unique),
            column("v", small, 10, Plain),
        ],
        &["(a, b)", "(code) WHERE active", "(lower(label))"],
        Some("slot_a_b_key"),
    );
    slot.null_keys = true;
    let log = shape(
        "log",
        vec![
            column("a", Kind::Int(0, 40), 5, Key),
            column("b", Kind::Word, 10, Plain),
            column("c", Kind::Bar, 10, Plain),
        ],
        &[],
        None,
    );
    let part = shape(
        "part",
        vec![
            column("k", Kind::Int(0, 180), 0, Key),
            column("v", Kind::Text, 10, Plain),
            column("w", small, 10, Plain),
        ],
        &["(k)"],
        None,
    );
    vec![bars, item, line, r#gen, slot, log, part, many(), tick()]
}

/// A large hypertable, the last of all.
fn tick() -> Shape {
    use Role::{Key, Plain};
    let mut tick = shape(
        "tick",
        vec![
            column("symbol", Kind::Word, 0, Key),
            column("ts", Kind::Bar, 0, Key),
            column("price", Kind::Double, 5, Plain),
            column("qty", Kind::Int(0, 99), 10, Plain),
            column("size", Kind::Small, 10, Plain),
            column("volume", Kind::Int(0, 9999), 10, Plain),
            column("rate", Kind::Real, 10, Plain),
            column("flag", Kind::Bool, 10, Plain),
            column("mood", Kind::Mood, 10, Plain),
            column("fee", Kind::Decimal, 10, Plain),
            column("venue", Kind::Word, 10, Plain),
            column("day", Kind::Date, 10, Plain),
            column("note", Kind::Text, 80, Plain),
        ],
        &["(symbol, ts)"],
        Some("tick_ts_idx"),
    );
    tick.hypertable = true;
    tick.large = true;
    tick
}

fn many() -> Shape {
    use Kind::*;
    let kinds = [
        ("c_small", Small),
        ("c_big", Big),
        ("c_real", Real),
        ("c_double", Double),
        ("c_wild", Wild),
        ("c_numeric", Numeric),
        ("c_decimal", Decimal),
        ("c_bool", Bool),
        ("c_text", Text),
        ("c_varchar", Varchar),
        ("c_char", Char),
        ("c_bytea", Bytea),
        ("c_date", Date),
        ("c_time", TimeOfDay),
        ("c_timestamp", Timestamp),
        ("c_instant", Instant),
        ("c_interval", Interval),
        ("c_uuid", Uuid),
        ("c_json", Json),
        ("c_jsonb", Jsonb),
        ("c_ints", Ints),
        ("c_texts", Texts),
        ("c_range", Range),
        ("c_inet", Inet),
        ("c_mood", Mood),
        ("c_positive", Positive),
        ("c_pair", Pair),
        ("c_bits", Bits),
    ];
    let mut columns = vec![column("k", Int(1, 200), 0, Role::Key)];
    columns.extend(kinds.map(|(name, kind)| column(name, kind, 30, Role::Plain)));
    shape("many", columns, &["(k)"], Some("many_pkey"))
}

/// Kinds of columns that ALTER TABLE adds, and how the catalogue names their types.
pub const ADDED: &[(Kind, &str)] = &[
    (Kind::Int(0, 20), "integer"),
    (Kind::Text, "text"),
    (Kind::Decimal, "numeric(12,2)"),
    (Kind::Bool, "boolean"),
    (Kind::Instant, "timestamp with time zone"),
    (Kind::Ints, "integer[]"),
];

/// A column that was added later, by its type's name.
pub fn added(name: &str, sql_type: &str) -> Column {
    let kind = ADDED
        .iter()
        .find(|(_, t)| *t == sql_type)
        .map_or(Kind::Big, |(kind, _)| *kind);
    column(name, kind, 20, Role::Plain)
}
