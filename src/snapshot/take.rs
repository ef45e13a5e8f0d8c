//! `varve.snapshot`: a table at one moment into a store.

use super::build::Script;
use super::ddl::Ddl;
use super::kept::Shape;
use super::outgo::Outgo;
use super::session::settled;
use super::source::MAX_DDL_BYTES;
use super::{describe, error, hypertable, seal};
use crate::am::error::{gone, null_argument, raise};
use crate::pg::function::Args;
use crate::pg::memory::Context;
use crate::pg::relation::{self, OpenRel, quote};
use crate::pg::snapshot::Statement;
use crate::pg::spi::{read_all, read_one};
use crate::pg::{ffi, spi};
use crate::progress::{Operation, Phase, Work};
use crate::stores;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io::Write;
use varve_core::backup::snapshot::{
    Chunk, Column, Holds, Object, ObjectOut, Snapshot, Table, Taking,
};
use varve_core::backup::{BackupError, Lsn, Timestamp};
use varve_core::parquet::Writer;

/// A file ends with the row group that makes it as large as this, in bytes.
const FILE_BYTES: u64 = 1 << 30;

/// Level of zstd.
const LEVEL: i32 = 3;

/// Rows are fetched together up to this number, and to about so many bytes, as large as the ones before were.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 16 << 20;

/// Rows that are fetched first, when it is not known how large they are.
const FIRST_ROWS: usize = 16;

/// Refuses what is no table, or one that the current user may not read any column of.
fn check(table: pg_sys::Oid) {
    let name = relation::qualified_name(table);
    let hint = "Hypertables and ordinary tables can be snapshot; take those of a partitioned table's leaves.";
    crate::tier::set_tier::check_kind(table, hint);
    // SAFETY: a catalogue look-up.
    if unsafe { pg_sys::get_rel_relkind(table) } as u8 != pg_sys::RELKIND_RELATION {
        raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{name} is a partitioned table"),
            None,
            Some(hint.into()),
        );
    }
    let readable = read_one::<bool>(
        "SELECT pg_catalog.has_any_column_privilege($1, 'SELECT')",
        &[table.into()],
    );
    if readable != Some(true) {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for table {name}"),
            None,
            Some(format!(
                "GRANT SELECT ON {name} TO ... lets a role read it."
            )),
        );
    }
    crate::tier::set_tier::check_columnstore(table, &name);
}

/// Refuses a table that is no longer what the snapshot's catalogues say, since the transaction has seen nothing of what was done
/// meanwhile: its columns would be taken for others, and rows that it should see are gone.
fn check_unchanged(table: &OpenRel) {
    let rel = table.as_ptr();
    let target = relation::oid(rel);
    let seen = read_all(
        "SELECT a.attnum::pg_catalog.int4, a.attname::pg_catalog.text, a.atttypid, a.atttypmod, a.attgenerated OPERATOR(pg_catalog.<>) '' FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped ORDER BY a.attnum",
        &[target.into()],
        |row| {
            Ok(Some((
                row.get::<i32>(1)?.unwrap_or(0),
                row.get::<String>(2)?.unwrap_or_default(),
                row.get::<pg_sys::Oid>(3)?.unwrap_or(pg_sys::InvalidOid),
                row.get::<i32>(4)?.unwrap_or(-1),
                row.get::<bool>(5)?.unwrap_or(false),
            )))
        },
    );
    let desc = relation::tupdesc(rel);
    let live = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
    let live = live.filter(|a| !a.attisdropped).map(|a| {
        let name = relation::attribute_name(a);
        let number = i32::from(a.attnum);
        (number, name, a.atttypid, a.atttypmod, a.attgenerated != 0)
    });
    let storage = read_one::<pg_sys::Oid>(
        "SELECT c.relfilenode FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[target.into()],
    );
    let chunks = read_all(
        "SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) $1",
        &[target.into()],
        |row| row.get::<pg_sys::Oid>(1),
    );
    let there: HashSet<pg_sys::Oid> = relation::children(target).into_iter().collect();
    let same = live.eq(seen)
        && storage == Some(relation::form(rel).relfilenode)
        && chunks.iter().all(|chunk| there.contains(chunk));
    if !same {
        raise(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!(
                "{} has been changed since the transaction's snapshot was taken",
                relation::qualified_name(target)
            ),
            Some("It has other columns, another storage, or fewer chunks.".into()),
            Some("Take the snapshot in a new transaction.".into()),
        );
    }
}

/// The name of a relation, in its parts.
fn table_of(oid: pg_sys::Oid) -> Table {
    // SAFETY: look-ups that return NULL when there is no such thing.
    let text = |name: *mut std::ffi::c_char| match name.is_null() {
        true => String::new(),
        // SAFETY: as above, a NUL-terminated name.
        false => unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned(),
    };
    // SAFETY: as above.
    unsafe {
        Table {
            schema: text(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid))),
            name: text(pg_sys::get_rel_name(oid)),
        }
    }
}

/// The columns, for the record, and how their values go out.
fn columns(rel: pg_sys::Relation, ddl: &Ddl) -> (Vec<Column>, Vec<Outgo>) {
    let desc = relation::tupdesc(rel);
    let attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
    let live: Vec<_> = attributes.filter(|a| !a.attisdropped).collect();
    let mut taken: HashSet<String> = live.iter().map(|a| relation::attribute_name(a)).collect();
    let mut all = (Vec::new(), Vec::new());
    for (attr, described) in live.iter().zip(&ddl.columns) {
        let shape = Shape::of(attr.atttypid, attr.atttypmod);
        let name = relation::attribute_name(attr);
        let extra = shape.array.then(|| {
            let mut extra = format!("{name}.dimensions");
            while !taken.insert(extra.clone()) {
                extra.push('_');
            }
            extra
        });
        all.0.push(Column {
            name,
            type_name: described.type_name.clone(),
            typmod: attr.atttypmod,
            collation: described.collation.clone(),
            generated: attr.attgenerated != 0,
            kept: shape.kept,
            shape: extra,
        });
        all.1.push(Outgo::new(shape));
    }
    all
}

/// A file that is being written.
struct Open<'t> {
    key: String,
    chunk: usize,
    writer: Writer<ObjectOut<'t>>,
}

/// The files of a snapshot as they come to be.
struct Files<'s, 't> {
    taking: Taking<'s>,
    columns: Vec<Column>,
    outgo: Vec<Outgo>,
    chunks: Vec<Chunk>,
    /// The chunks by their OIDs.
    numbers: HashMap<pg_sys::Oid, usize>,
    open: Option<Open<'t>>,
    files: usize,
    objects: Vec<Object>,
}

impl Files<'_, '_> {
    fn number(&mut self, table: pg_sys::Oid) -> usize {
        if let Some(number) = self.numbers.get(&table) {
            return *number;
        }
        self.chunks.push(Chunk {
            table: table_of(table),
            tier: hypertable::tier(table).into(),
            slices: hypertable::slices(table),
            rows: 0,
        });
        self.numbers.insert(table, self.chunks.len() - 1);
        self.chunks.len() - 1
    }

    /// Ends the file that is open, if there is one.
    fn end(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let rows = open.writer.rows();
        let id = self.taking.id().to_string();
        let notes = [("varve.snapshot", id.as_str())];
        let out = open.writer.finish(&notes);
        let out = out.unwrap_or_else(|e| error::writing(&open.key, e));
        let part = out.finish().unwrap_or_else(|e| error::raise(&e));
        if let Some(chunk) = self.chunks.get_mut(open.chunk) {
            chunk.rows += rows;
        }
        let chunk = open.chunk;
        self.objects.push(part.holding(Holds::Rows { chunk, rows }));
    }

    /// # Safety
    /// A value of its column's type, and a NULL flag, for each column.
    unsafe fn put(&mut self, chunk: usize, values: &[pg_sys::Datum], nulls: &[bool]) {
        let goes_on =
            |o: &Open| o.chunk == chunk && o.writer.bytes() < FILE_BYTES && !o.writer.is_full();
        if !self.open.as_ref().is_some_and(goes_on) {
            self.end();
            self.files += 1;
            let name = format!("{:05}.parquet", self.files);
            let out = self.taking.object(&name, &stores::interrupts);
            let out = out.unwrap_or_else(|e| error::raise(&e));
            let key = out.key().to_string();
            let fields = self.columns.iter().flat_map(Column::fields).collect();
            let writer = Writer::new(out, fields, LEVEL);
            let writer = writer.unwrap_or_else(|e| error::writing(&key, e));
            self.open = Some(Open { key, chunk, writer });
        }
        let Some(open) = &mut self.open else {
            return;
        };
        let mut to = open.writer.columns();
        for ((outgo, value), null) in self.outgo.iter_mut().zip(values).zip(nulls) {
            let Some((own, rest)) = to.split_at_mut_checked(outgo.width()) else {
                break;
            };
            to = rest;
            // SAFETY: by contract.
            unsafe { outgo.put((!null).then_some(*value), own) };
        }
        let ended = open.writer.end_row();
        ended.unwrap_or_else(|e| error::writing(&open.key, e));
    }

    /// Writes an object that is at hand.
    fn whole(&mut self, name: &str, bytes: &[u8], holds: Holds) {
        let out = self.taking.object(name, &stores::interrupts);
        let mut out = out.unwrap_or_else(|e| error::raise(&e));
        if let Err(e) = out.write_all(bytes) {
            error::raise(&ObjectOut::error(out.key(), e));
        }
        let part = out.finish().unwrap_or_else(|e| error::raise(&e));
        self.objects.push(part.holding(holds));
    }
}

/// Hands on the rows of a query that the active snapshot sees, whose values live until the call returns.
fn each_row(query: &str, mut f: impl FnMut(&[pg_sys::Datum], &[bool])) {
    let _connection = spi::Connection::open();
    let context = Context::new();
    let text = CString::new(query).unwrap_or_default();
    // SAFETY: a cursor that only reads, and so keeps to the active snapshot; each batch of rows is let go of before the next.
    unsafe {
        let plan = pg_sys::SPI_prepare(text.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() {
            pgrx::error!("an internal query of varve was not understood");
        }
        let none = std::ptr::null_mut();
        let portal = pg_sys::SPI_cursor_open(std::ptr::null(), plan, none, std::ptr::null(), true);
        let mut batch = FIRST_ROWS;
        loop {
            pg_sys::SPI_cursor_fetch(portal, true, batch as std::ffi::c_long);
            let table = pg_sys::SPI_tuptable;
            let count = pg_sys::SPI_processed as usize;
            if table.is_null() || count == 0 {
                break;
            }
            let desc = (*table).tupdesc;
            let natts = relation::natts(desc);
            let mut values = vec![pg_sys::Datum::from(0usize); natts];
            let mut nulls = vec![true; natts];
            let mut bytes = 0;
            for i in 0..count {
                let row = *(*table).vals.add(i);
                bytes += (*row).t_len as usize;
                let (values_at, nulls_at) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                ffi::raw::heap_deform_tuple(row, desc, values_at, nulls_at);
                context.within(|| f(&values, &nulls));
                if context.bytes() > 1 << 20 {
                    context.reset();
                }
            }
            pg_sys::SPI_freetuptable(table);
            context.reset();
            batch = (BATCH_BYTES / (bytes / count).max(1)).clamp(1, BATCH_ROWS);
        }
        pg_sys::SPI_cursor_close(portal);
    }
}

/// The end of WAL now.
fn lsn() -> Lsn {
    // SAFETY: reads shared memory.
    unsafe {
        match pg_sys::RecoveryInProgress() {
            true => Lsn(pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut())),
            false => Lsn(pg_sys::GetXLogInsertRecPtr()),
        }
    }
}

/// The definition for people.
fn sql(ddl: &Ddl, table: &Table) -> String {
    let functions = hypertable::functions().unwrap_or_default();
    let script = Script {
        ddl,
        schema: table.schema.clone(),
        table: table.name.clone(),
        timescaledb: functions,
        name: &|name| name.to_string(),
    };
    let lines = |statements: Vec<super::build::Statement>| {
        let each = statements.into_iter().map(|s| format!("{};\n", s.sql));
        each.collect::<String>()
    };
    format!(
        "{}\n-- The rows.\n\n{}",
        lines(script.begin()),
        lines(script.end())
    )
}

fn version() -> String {
    read_one::<String>("SELECT pg_catalog.current_setting('server_version')", &[])
        .unwrap_or_default()
}

/// The database that the session is in.
pub fn database() -> String {
    // SAFETY: a catalogue look-up of the database that the session is in.
    unsafe {
        CStr::from_ptr(pg_sys::get_database_name(pg_sys::MyDatabaseId))
            .to_string_lossy()
            .into_owned()
    }
}

fn encoding() -> String {
    // SAFETY: a constant of the server.
    unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }
        .to_string_lossy()
        .into_owned()
}

fn take(target: pg_sys::Oid, store: Option<String>, label: String) -> Snapshot {
    check(target);
    let store = crate::backup::store(store);
    // Whoever changes the table's definition or drops a chunk waits from now on; what was done before is seen by the snapshot.
    let table = OpenRel::try_open(target, pg_sys::AccessShareLock)
        .unwrap_or_else(|| gone(&relation::qualified_name(target)));
    if relation::form(table.as_ptr()).relpersistence
        == pg_sys::RELPERSISTENCE_TEMP as std::ffi::c_char
    {
        raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("{} is a temporary table", relation::qualified_name(target)),
            None,
            Some("Copy it into a table that stays.".into()),
        );
    }
    let _chunks: Vec<OpenRel> = relation::children(target)
        .into_iter()
        .filter_map(|chunk| OpenRel::try_open(chunk, pg_sys::AccessShareLock))
        .collect();
    let mut work = Work::begin(Operation::Snapshot, target);
    work.phase(Phase::Rows, 0);
    // SAFETY: read from the control file at start.
    let system_identifier = unsafe { pg_sys::GetSystemIdentifier() };
    let options = seal::options();
    let taking = Taking::begin(&store, system_identifier, options, &stores::interrupts);
    let taking = taking.unwrap_or_else(|e| error::raise(&e));
    let statement = Statement::begin();
    let seen = read_one::<String>(
        "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text",
        &[],
    );
    let lsn = lsn();
    check_unchanged(&table);
    let ddl = describe::describe(target);
    // SAFETY: tells whether the query below will be given policies; the table's are locked.
    let filtered = unsafe { pg_sys::check_enable_rls(target, pg_sys::InvalidOid, true) }
        == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32;
    let (columns, outgo) = columns(table.as_ptr(), &ddl);
    let names: Vec<String> = columns.iter().map(|c| quote(&c.name)).collect();
    let only = if ddl.hypertable.is_some() {
        ""
    } else {
        "ONLY "
    };
    let query = format!(
        "SELECT {}tableoid FROM {only}{}",
        names.iter().map(|n| format!("{n}, ")).collect::<String>(),
        relation::qualified_name(target)
    );
    let mut files = Files {
        taking,
        columns,
        outgo,
        chunks: Vec::new(),
        numbers: HashMap::new(),
        open: None,
        files: 0,
        objects: Vec::new(),
    };
    let mut last = (pg_sys::InvalidOid, 0);
    each_row(&query, |values, nulls| {
        let Some((at, values)) = values.split_last() else {
            return;
        };
        let chunk = pg_sys::Oid::from_u32(at.value() as u32);
        if last.0 != chunk {
            last = (chunk, files.number(chunk));
        }
        // SAFETY: a row of the query, whose columns are those of the table and `tableoid`.
        unsafe { files.put(last.1, values, nulls) };
        work.add(1);
    });
    work.phase(Phase::Finishing, 0);
    files.end();
    let name = table_of(target);
    let json = serde_json::to_vec_pretty(&ddl)
        .unwrap_or_else(|e| pgrx::error!("a definition that is no JSON: {e}"));
    if json.len() as u64 > MAX_DDL_BYTES {
        error::too_large(
            format!("the table's definition has {} bytes", json.len()),
            "Let it have shorter comments, defaults or checks.",
        );
    }
    files.whole("ddl.json", &json, Holds::Ddl);
    files.whole("ddl.sql", sql(&ddl, &name).as_bytes(), Holds::Sql);
    drop(statement);
    let mut left_out = describe::left_out(target, &ddl);
    if filtered {
        left_out.push("rows that row security hides".into());
    }
    let snapshot = Snapshot {
        version: files.taking.version(),
        id: files.taking.id().to_string(),
        label,
        database: database(),
        table: name,
        taken_at: files.taking.begun_at(),
        stopped_at: Timestamp::now(),
        snapshot: seen.unwrap_or_default(),
        lsn,
        server_version: version(),
        system_identifier: system_identifier.to_string(),
        encoding: encoding(),
        rows: files.chunks.iter().map(|c| c.rows).sum(),
        columns: files.columns,
        chunks: files.chunks,
        filtered,
        left_out,
        encryption: files.taking.encryption(),
        objects: files.objects,
    };
    match files.taking.finish(&snapshot, &stores::interrupts) {
        Err(BackupError::Refused { message, hint }) => error::too_large(message, &hint),
        other => other.unwrap_or_else(|e| error::raise(&e)),
    }
    snapshot
}

fn snapshot(args: &Args) -> pg_sys::Datum {
    crate::require_preload();
    let target = args
        .get::<pg_sys::Oid>(0)
        .unwrap_or_else(|| null_argument("the table"));
    let label = args.get::<String>(2).unwrap_or_else(|| "varve".into());
    let store = args.name(1);
    let taken = settled(|| take(target, store, label));
    crate::jobs::note_done(taken.rows as i64, taken.stored_bytes() as i64);
    taken.id.into_datum().unwrap_or_else(|| args.null())
}

crate::sql_function!(varve_snapshot, pg_finfo_varve_snapshot, snapshot);
