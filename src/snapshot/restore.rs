//! `varve.restore_snapshot`: a table from a snapshot.

use super::build::{Script, Statement};
use super::ddl::{Ddl, Dimension};
use super::incoming::Incoming;
use super::kept::Shape;
use super::session::settled;
use super::source::Source;
use super::{error, hypertable, load};
use crate::am::error::{null_argument, raise};
use crate::pg::function::Args;
use crate::pg::relation::{self, OpenRel};
use crate::pg::spi::{self, Connection};
use crate::progress::{Operation, Phase, Work};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use varve_core::backup::snapshot::{Slice, Table};

/// The table that is named, by a name that may say its schema.
pub fn named(text: &str) -> Table {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: parsed as regclassin does it; names are NUL-terminated.
    unsafe {
        let names = pg_sys::stringToQualifiedNameList(text.as_ptr(), std::ptr::null_mut());
        let (mut schema, mut name) = (std::ptr::null_mut(), std::ptr::null_mut());
        pg_sys::DeconstructQualifiedName(names, &mut schema, &mut name);
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        let schema = match schema.is_null() {
            false => CStr::from_ptr(schema).to_string_lossy().into_owned(),
            true => {
                spi::read_one::<String>("SELECT pg_catalog.current_schema()::pg_catalog.text", &[])
                    .unwrap_or_else(|| {
                        raise(
                            PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
                            "no schema has been selected to create in".into(),
                            None,
                            Some("Name it: into_table => 'schema.table'.".into()),
                        )
                    })
            }
        };
        Table { schema, name }
    }
}

/// Runs a statement that must be one, and of its kind: parts of it are texts of the snapshot's.
fn run(connection: &Connection, statement: &Statement, source: &Source) {
    let text = CString::new(statement.sql.as_str()).unwrap_or_default();
    // SAFETY: the parser's own list of statements.
    let one = unsafe {
        let mode = pg_sys::RawParseMode::RAW_PARSE_DEFAULT;
        let list = pg_sys::raw_parser(text.as_ptr(), mode);
        !list.is_null() && (*list).length == 1 && {
            let raw = (*(*list).elements).ptr_value.cast::<pg_sys::RawStmt>();
            (*(*raw).stmt).type_ == statement.tag
        }
    };
    if !one {
        error::damaged(&source.snapshot.id, "its definition is none");
    }
    connection.run(&statement.sql);
}

/// Names of what belongs to a new table. Each is chosen once, before what has it is made, and no other thing gets it.
struct Names<'d> {
    namespace: pg_sys::Oid,
    original: String,
    table: String,
    /// The names of the table's constraints without an index, which stay what they are.
    constraints: HashSet<&'d str>,
    chosen: RefCell<HashMap<String, String>>,
}

/// Numbers behind a name that are tried.
const NUMBERS: u32 = 100_000;

/// A name of at most so many bytes, cut between characters.
fn cut(name: &str, bytes: usize) -> &str {
    let mut ends = (0..=bytes.min(name.len())).rev();
    let end = ends.find(|end| name.is_char_boundary(*end));
    end.and_then(|end| name.get(..end)).unwrap_or_default()
}

impl Names<'_> {
    fn is_free(&self, name: &str) -> bool {
        name.len() < pg_sys::NAMEDATALEN as usize
            && relation::lookup(name, self.namespace).is_none()
            && !self.chosen.borrow().values().any(|chosen| chosen == name)
    }

    /// The name that it had, with the table's new name in the place of the old one at its beginning; else the one that it had; where
    /// both are taken, that with a number behind it.
    fn choose(&self, wanted: &str) -> String {
        if let Some(chosen) = self.chosen.borrow().get(wanted) {
            return chosen.clone();
        }
        let is_other = |name: &String| !self.constraints.contains(name.as_str());
        let renamed = wanted
            .strip_prefix(&self.original)
            .map(|rest| format!("{}{rest}", self.table));
        let numbered = (1..NUMBERS).map(|n| {
            pgrx::check_for_interrupts!();
            let number = n.to_string();
            let bytes = pg_sys::NAMEDATALEN as usize - 1 - number.len();
            format!("{}{number}", cut(wanted, bytes))
        });
        let renamed = renamed.into_iter().filter(is_other);
        let mut candidates = renamed
            .chain([wanted.to_string()])
            .chain(numbered.filter(is_other));
        let chosen = candidates.find(|name| self.is_free(name));
        let chosen = chosen.unwrap_or_else(|| {
            raise(
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("all names like \"{wanted}\" are taken"),
                None,
                Some("Restore it into another schema.".into()),
            )
        });
        let mut all = self.chosen.borrow_mut();
        all.insert(wanted.to_string(), chosen.clone());
        chosen
    }
}

/// The shapes of a table's columns by their names.
pub fn shapes(table: &OpenRel) -> impl Fn(&str) -> Option<Shape> + use<> {
    let desc = relation::tupdesc(table.as_ptr());
    let all: HashMap<String, Shape> = (0..relation::natts(desc))
        .map(|i| relation::attribute(desc, i))
        .filter(|attr| !attr.attisdropped)
        .map(|attr| {
            let shape = Shape::of(attr.atttypid, attr.atttypmod);
            (relation::attribute_name(attr), shape)
        })
        .collect();
    move |name| all.get(name).copied()
}

/// What became of the rows of a chunk.
pub struct Loaded {
    /// The chunk that they, or the first of them, are in now.
    pub chunk: pg_sys::Oid,
    /// How many there were.
    pub rows: u64,
}

/// Whether an INSERT into a table would call triggers, those of foreign keys among them.
pub fn has_triggers(table: &OpenRel) -> bool {
    // SAFETY: an open relation.
    unsafe { !(*table.as_ptr()).trigdesc.is_null() }
}

/// Brings the rows of a chunk that lay in these slices into a hypertable, whose chunk may have to be made for them. None where
/// there are none.
pub fn load_chunk(
    rows: &mut dyn Incoming,
    columns: &[String],
    slices: &[Slice],
    root: &OpenRel,
    work: &mut Work,
) -> Option<Loaded> {
    if !rows.next() {
        return None;
    }
    let before = relation::children(relation::oid(root.as_ptr()));
    let chunk = load::insert_one(rows, root, columns);
    let mut count = 1;
    let table = OpenRel::table(chunk, pg_sys::AccessExclusiveLock);
    if !before.contains(&chunk) && hypertable::slices(chunk) == slices && !has_triggers(&table) {
        // A new chunk for the same range: all rows go straight into it, the first one once more.
        drop(table);
        truncate(chunk);
        let table = OpenRel::table(chunk, pg_sys::AccessExclusiveLock);
        count = load::into_new_storage(rows, true, table, columns, work);
    } else {
        count += load::insert_rest(rows, root, columns, work);
    }
    Some(Loaded { chunk, rows: count })
}

/// Empties a chunk, which gets a new storage.
pub fn truncate(chunk: pg_sys::Oid) {
    let name = relation::qualified_name(chunk);
    Connection::open().run(&format!("TRUNCATE TABLE ONLY {name}"));
}

/// The length of a chunk in a dimension.
pub fn length_of(slices: &[Slice], dimension: &Dimension) -> Option<i64> {
    let slice = slices.iter().find(|s| s.column == dimension.column)?;
    slice.end.checked_sub(slice.start)
}

/// Lets the next new chunks of a hypertable have the length in each dimension that `wanted` says; `now` is what it is.
pub fn set_lengths(
    functions: &str,
    target: &str,
    dimensions: &[Dimension],
    now: &mut [Option<i64>],
    wanted: impl Fn(&Dimension) -> Option<i64>,
) {
    for (dimension, now) in dimensions.iter().zip(now) {
        let length = wanted(dimension).filter(|length| *length > 0);
        if dimension.partitions.is_none() && length.is_some() && length != *now {
            let connection = Connection::open();
            let length_now = length.unwrap_or(1);
            hypertable::set_length(&connection, functions, target, dimension, length_now);
            *now = length;
        }
    }
}

fn build(source: &Source, ddl: &Ddl, target: &Table) -> u64 {
    let schema = CString::new(target.schema.as_str()).unwrap_or_default();
    // SAFETY: a look-up that raises its own error.
    let namespace = unsafe { pg_sys::get_namespace_oid(schema.as_ptr(), false) };
    if relation::lookup(&target.name, namespace).is_some() {
        raise(
            PgSqlErrorCode::ERRCODE_DUPLICATE_TABLE,
            format!("relation \"{}\" already exists", target.name),
            None,
            Some(
                "Restore it under another name: varve.restore_snapshot(id, into_table => '...')."
                    .into(),
            ),
        );
    }
    let constraints = ddl.constraints.iter();
    let constraints = constraints.filter(|c| matches!(c.kind, 'c' | 'f'));
    let names = Names {
        namespace,
        original: source.snapshot.table.name.clone(),
        table: target.name.clone(),
        constraints: constraints.map(|c| c.name.as_str()).collect(),
        chosen: RefCell::default(),
    };
    let functions = hypertable::functions().unwrap_or_default();
    let script = Script {
        ddl,
        schema: target.schema.clone(),
        table: target.name.clone(),
        timescaledb: functions.clone(),
        name: &|wanted| names.choose(wanted),
    };
    let each = |statements: Vec<Statement>| {
        for statement in statements {
            run(&Connection::open(), &statement, source);
        }
    };
    each(script.begin());
    let Some(oid) = relation::lookup(&target.name, namespace) else {
        error::damaged(&source.snapshot.id, "its definition makes no table");
    };
    let mut work = Work::begin(Operation::RestoreSnapshot, oid);
    work.phase(Phase::Rows, source.snapshot.rows);
    let root = OpenRel::table(oid, pg_sys::AccessShareLock);
    let qualified = script.target();
    let dimensions = ddl.hypertable.iter().flat_map(|h| h.dimensions.clone());
    let dimensions: Vec<Dimension> = dimensions.collect();
    let mut lengths: Vec<Option<i64>> = dimensions.iter().map(|d| d.interval).collect();
    let mut tiers: Vec<(pg_sys::Oid, String)> = Vec::new();
    let columns = source.names();
    let mut rows = 0;
    for (number, record) in source.snapshot.chunks.iter().enumerate() {
        let loaded = if dimensions.is_empty() {
            let table = OpenRel::table(oid, pg_sys::AccessExclusiveLock);
            let mut from = source.rows(number, &shapes(&root));
            let count = load::into_new_storage(&mut from, false, table, &columns, &mut work);
            Some(Loaded {
                chunk: oid,
                rows: count,
            })
        } else {
            set_lengths(&functions, &qualified, &dimensions, &mut lengths, |d| {
                length_of(&record.slices, d)
            });
            let mut from = source.rows(number, &shapes(&root));
            load_chunk(&mut from, &columns, &record.slices, &root, &mut work)
        };
        if let Some(loaded) = loaded {
            rows += loaded.rows;
            if record.tier != "hot" {
                tiers.push((loaded.chunk, record.tier.clone()));
            }
        }
    }
    set_lengths(&functions, &qualified, &dimensions, &mut lengths, |d| {
        d.interval
    });
    drop(root);
    work.phase(Phase::Finishing, 0);
    each(script.end());
    for (chunk, tier) in tiers {
        set_tier(chunk, &tier);
    }
    rows
}

/// Brings a chunk into a tier.
pub fn set_tier(chunk: pg_sys::Oid, tier: &str) {
    let name = super::build::literal(&relation::qualified_name(chunk));
    let tier = super::build::literal(tier);
    Connection::open().run(&format!(
        "SELECT varve.set_tier({name}::pg_catalog.regclass, {tier})"
    ));
}

fn restore(args: &Args) -> pg_sys::Datum {
    crate::tier::check_writable(c"varve.restore_snapshot()");
    let id = args
        .get::<String>(0)
        .unwrap_or_else(|| null_argument("the snapshot"));
    let source = Source::open(&id, args.name(2));
    let ddl = source.ddl();
    let target = match args.get::<String>(1) {
        Some(name) => named(&name),
        None => source.snapshot.table.clone(),
    };
    let rows = settled(|| build(&source, &ddl, &target)) as i64;
    crate::jobs::note_done(rows, source.snapshot.stored_bytes() as i64);
    rows.into_datum().unwrap_or_else(|| args.null())
}

crate::sql_function!(
    varve_restore_snapshot,
    pg_finfo_varve_restore_snapshot,
    restore
);
