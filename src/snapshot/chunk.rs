//! `varve.restore_chunk`: one chunk from a snapshot or a base backup, as it was, where it was.

use super::copied::Spool;
use super::describe;
use super::incoming::Incoming;
use super::restore::{self, Loaded};
use super::session::settled;
use super::source::Source;
use super::{build, error, hypertable, load};
use crate::am::error::{null_argument, raise};
use crate::backup::choice::{self, Stores};
use crate::backup::scratch::{Origin, Scratch, Until};
use crate::pg::function::Args;
use crate::pg::relation::{self, OpenRel, quote};
use crate::pg::spi;
use crate::progress::{Operation, Phase, Work};
use crate::tier;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use varve_core::backup::snapshot::{SNAPSHOT_SUFFIX, Slice, Snapshot, Table};
use varve_core::backup::{BackupError, Timestamp};
use varve_core::replication::{ReplicationError, Row};
use varve_core::wait::Stopped;

/// What is known of a chunk where it comes from.
struct Known {
    /// The table that it is a chunk of, or the table itself.
    root: Table,
    slices: Vec<Slice>,
    tier: String,
}

/// The chunk in this database.
struct Here {
    /// Its table.
    root: pg_sys::Oid,
    /// None where it was dropped.
    chunk: Option<pg_sys::Oid>,
}

impl Here {
    /// Opens the table.
    fn root(&self) -> OpenRel {
        OpenRel::table(self.root, pg_sys::RowExclusiveLock)
    }
}

fn lookup(table: &Table) -> Option<pg_sys::Oid> {
    let schema = std::ffi::CString::new(table.schema.as_str()).ok()?;
    // SAFETY: a catalogue look-up.
    let namespace = unsafe { pg_sys::get_namespace_oid(schema.as_ptr(), true) };
    relation::lookup(&table.name, namespace)
}

fn sql_name(table: &Table) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.name))
}

/// Looks for the chunk and its table, which must be as they were.
fn here(name: &Table, known: &Known) -> Here {
    let Some(root) = lookup(&known.root) else {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("table {}, whose chunk it is, does not exist", sql_name(&known.root)),
            None,
            Some("varve.restore_snapshot brings back a whole table from a snapshot; the program varve restores a base backup beside this server.".into()),
        );
    };
    tier::set_tier::check_table(root);
    let here = Here {
        root,
        chunk: lookup(name),
    };
    // Nobody changes its definition from now on.
    drop(here.root());
    if let Some(chunk) = here.chunk {
        let same =
            tier::catalog::root_of(chunk) == root && hypertable::slices(chunk) == known.slices;
        if !same {
            raise(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{} is not the chunk that it was", sql_name(name)),
                Some("It is of another table, or has another range.".into()),
                Some("varve.restore_snapshot(id, into_table => '...') restores a snapshot beside what there is.".into()),
            );
        }
    }
    here
}

/// Refuses columns of the table that do not come: the chunk would not be as it was.
fn check_columns(table: &OpenRel, names: &[String]) {
    let desc = relation::tupdesc(table.as_ptr());
    for i in 0..relation::natts(desc) {
        let attr = relation::attribute(desc, i);
        let name = relation::attribute_name(attr);
        if !attr.attisdropped && attr.attgenerated == 0 && !names.contains(&name) {
            raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!("the chunk had no column \"{name}\""),
                None,
                Some("Restore into a table of its own, and insert the rows from there.".into()),
            );
        }
    }
}

/// Brings the rows where they were.
fn put(
    name: &Table,
    known: &Known,
    here: &Here,
    columns: &[String],
    rows: &mut dyn Incoming,
    work: &mut Work,
) -> Loaded {
    let loaded = match here.chunk {
        Some(chunk) => {
            restore::truncate(chunk);
            let table = OpenRel::table(chunk, pg_sys::AccessExclusiveLock);
            let count = if restore::has_triggers(&table) {
                // One row after the other, as INSERT does it: through the hypertable they find their way back.
                drop(table);
                load::insert_rest(rows, &here.root(), columns, work)
            } else {
                load::into_new_storage(rows, false, table, columns, work)
            };
            Some(Loaded { chunk, rows: count })
        }
        None => {
            let dimensions = describe::describe(here.root).hypertable;
            let dimensions = dimensions.map(|h| h.dimensions).unwrap_or_default();
            let functions = hypertable::functions().unwrap_or_default();
            let target = relation::qualified_name(here.root);
            let mut lengths: Vec<_> = dimensions.iter().map(|d| d.interval).collect();
            restore::set_lengths(&functions, &target, &dimensions, &mut lengths, |d| {
                restore::length_of(&known.slices, d)
            });
            let loaded = restore::load_chunk(rows, columns, &known.slices, &here.root(), work);
            restore::set_lengths(&functions, &target, &dimensions, &mut lengths, |d| {
                d.interval
            });
            loaded
        }
    };
    let Some(loaded) = loaded else {
        raise(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            format!("{} had no rows", sql_name(name)),
            None,
            Some("There is nothing to restore.".into()),
        );
    };
    work.phase(Phase::Finishing, 0);
    if known.tier != "hot" {
        restore::set_tier(loaded.chunk, &known.tier);
    }
    loaded
}

/// Refuses a snapshot that may not have all rows of this database's chunk: what is here goes when it comes.
fn check_origin(snapshot: &Snapshot) {
    // SAFETY: read from the control file at start.
    let here = unsafe { pg_sys::GetSystemIdentifier() }.to_string();
    let database = super::take::database();
    let why = if snapshot.system_identifier != here {
        format!(
            "It is of the cluster with system identifier {}, and this is {here}.",
            snapshot.system_identifier
        )
    } else if snapshot.database != database {
        format!(
            "It is of database {}, and this is {database}.",
            snapshot.database
        )
    } else if snapshot.filtered {
        "Row security may have hidden rows from who took it; they would be lost.".into()
    } else {
        return;
    };
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "snapshot \"{}\" is not one that chunks are restored from",
            snapshot.id
        ),
        Some(why),
        Some("varve.restore_snapshot(id, into_table => '...') restores it beside what there is; insert the rows from there.".into()),
    );
}

fn from_snapshot(id: &str, name: &Table) -> Loaded {
    let source = Source::open(id, None);
    check_origin(&source.snapshot);
    let number = source.snapshot.chunks.iter().position(|c| c.table == *name);
    let Some((number, record)) = number.and_then(|n| Some((n, source.snapshot.chunks.get(n)?)))
    else {
        raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("snapshot \"{id}\" has no rows of {}", sql_name(name)),
            None,
            Some(
                "Name the chunk as it was called when the snapshot was taken, with its schema."
                    .into(),
            ),
        );
    };
    let known = Known {
        root: source.snapshot.table.clone(),
        slices: record.slices.clone(),
        tier: record.tier.clone(),
    };
    let here = here(name, &known);
    let columns = source.names();
    check_columns(&here.root(), &columns);
    let given = source.snapshot.columns.iter();
    let given = given.map(|c| (c.name.clone(), c.type_name.clone()));
    types(&here.root(), &given.collect::<Vec<_>>());
    let mut work = Work::begin(Operation::RestoreSnapshot, here.root);
    work.phase(Phase::Rows, record.rows);
    let mut rows = source.rows(number, &restore::shapes(&here.root()));
    put(name, &known, &here, &columns, &mut rows, &mut work)
}

/// What the restored server says of a chunk: its table's schema, name and owner, and its tier.
const CHUNK: &str = "SELECT rn.nspname, r.relname, pg_catalog.pg_get_userbyid(r.relowner), s.tier, c.oid::pg_catalog.int8 \
    FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) c.oid \
    JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) coalesce(i.inhparent, c.oid) \
    JOIN pg_catalog.pg_namespace rn ON rn.oid OPERATOR(pg_catalog.=) r.relnamespace \
    CROSS JOIN LATERAL varve.chunk_stats(c.oid::pg_catalog.regclass) s WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(";

/// Its slices there.
const SLICES: &str = "SELECT d.column_name, s.range_start, s.range_end FROM _timescaledb_catalog.chunk c \
    JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) c.schema_name \
    JOIN pg_catalog.pg_class k ON k.relnamespace OPERATOR(pg_catalog.=) n.oid AND k.relname OPERATOR(pg_catalog.=) c.table_name \
    JOIN _timescaledb_catalog.chunk_constraint cc ON cc.chunk_id OPERATOR(pg_catalog.=) c.id \
    JOIN _timescaledb_catalog.dimension_slice s ON s.id OPERATOR(pg_catalog.=) cc.dimension_slice_id \
    JOIN _timescaledb_catalog.dimension d ON d.id OPERATOR(pg_catalog.=) s.dimension_id \
    WHERE k.oid OPERATOR(pg_catalog.=) ";

/// Its columns there: those that are not computed.
const COLUMNS: &str = "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a \
    WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped AND a.attgenerated OPERATOR(pg_catalog.=) '' AND a.attrelid OPERATOR(pg_catalog.=) ";

fn field(row: &Row, column: usize) -> String {
    row.get(column).cloned().flatten().unwrap_or_default()
}

/// What the restored server has of a chunk.
struct There {
    known: Known,
    owner: String,
    columns: Vec<(String, String)>,
    spool: Spool,
}

fn io(error: std::io::Error) -> BackupError {
    BackupError::Io {
        path: "temporary file".into(),
        error,
    }
}

/// Copies a chunk out of a server that is made of a backup for that.
fn copy_out(
    id: &str,
    time: Option<Timestamp>,
    name: &Table,
    work: &mut Work,
) -> Result<There, BackupError> {
    let mut stores = Stores::usable();
    let chosen = choice::choose(&mut stores, Some(id), time)?;
    if !chosen.is_usable() {
        return Err(BackupError::Refused {
            message: format!(
                "backup {id} cannot be started: {}",
                chosen.gaps().join("; ")
            ),
            hint: "Take another backup.".into(),
        });
    }
    let database = super::take::database();
    let origin = Origin {
        stores: stores.refs(),
        backup: &chosen.backup,
        chain: &chosen.chain,
        last_segment: chosen.last_segment(),
        later_timeline: chosen.later_timeline(),
        database: &database,
    };
    let mut begun = false;
    let mut restored = 0;
    let mut scratch = Scratch::restore(&origin, &mut |now| {
        if !std::mem::replace(&mut begun, true) {
            work.phase(Phase::Restoring, now.total);
        }
        work.add(now.bytes.saturating_sub(restored));
        restored = now.bytes.max(restored);
    })?;
    work.phase(Phase::Replaying, 0);
    scratch.start(time.map_or(Until::Consistent, Until::Time), &mut |_| {})?;
    let mut session = scratch.connect(&database)?;
    for setting in [
        "search_path = pg_catalog",
        "statement_timeout = 0",
        "lock_timeout = 0",
        "row_security = off",
        "default_transaction_read_only = on",
    ] {
        scratch.query(&mut session, &format!("SET {setting}"))?;
    }
    // Names come in this database's encoding, as they are here.
    let chunk = build::literal(&sql_name(name));
    let found = scratch.query(&mut session, &format!("{CHUNK}{chunk})"))?;
    let Some(row) = found.first() else {
        return Err(BackupError::NotFound {
            what: format!("chunk {} in backup {id}", sql_name(name)),
        });
    };
    let oid = field(row, 4);
    let slices = scratch.query(
        &mut session,
        &format!("{SLICES}{oid} ORDER BY d.num_slices IS NOT NULL, d.id"),
    )?;
    let slices = slices.iter().map(|row| Slice {
        column: field(row, 0),
        start: field(row, 1).parse().unwrap_or(0),
        end: field(row, 2).parse().unwrap_or(0),
    });
    let known = Known {
        root: Table {
            schema: field(row, 0),
            name: field(row, 1),
        },
        slices: slices.collect(),
        tier: field(row, 3),
    };
    let columns = scratch.query(&mut session, &format!("{COLUMNS}{oid} ORDER BY a.attnum"))?;
    let columns: Vec<(String, String)> =
        columns.iter().map(|c| (field(c, 0), field(c, 1))).collect();
    let names: Vec<String> = columns.iter().map(|(name, _)| quote(name)).collect();
    work.phase(Phase::Rows, 0);
    let mut spool = Spool::new().map_err(io)?;
    let mut failed = None;
    let copy = format!(
        "COPY (SELECT {} FROM ONLY {}) TO STDOUT (FORMAT binary)",
        names.join(", "),
        sql_name(name)
    );
    let copied = scratch.copy_out(&mut session, &copy, &mut |bytes| {
        work.add(1);
        spool.add(bytes).map_err(|e| {
            failed = Some(e);
            ReplicationError::Cancelled(Stopped::new("the rows cannot be kept"))
        })
    });
    if let Some(error) = failed {
        return Err(io(error));
    }
    copied?;
    scratch.stop()?;
    Ok(There {
        known,
        owner: field(row, 2),
        columns,
        spool,
    })
}

/// The types of a table's columns, which must be what they were.
fn types(table: &OpenRel, columns: &[(String, String)]) -> Vec<(pg_sys::Oid, i32)> {
    let desc = relation::tupdesc(table.as_ptr());
    let find = |name: &str| {
        (0..relation::natts(desc))
            .map(|i| relation::attribute(desc, i))
            .find(|a| !a.attisdropped && relation::attribute_name(a) == name)
    };
    let each = columns.iter().map(|(name, typ)| {
        // SAFETY: format_type gives a palloc'd text.
        let now = find(name).map(|attr| unsafe {
            let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN as u16;
            let text = pg_sys::format_type_extended(attr.atttypid, attr.atttypmod, flags);
            let text = CStr::from_ptr(text).to_string_lossy().into_owned();
            (attr, text)
        });
        match now {
            Some((attr, now)) if now == *typ => (attr.atttypid, attr.atttypmod),
            _ => raise(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!("column \"{name}\" of the table is not what it was, {typ}"),
                None,
                Some("Restore the backup beside this server with the program varve, and copy the rows from there.".into()),
            ),
        }
    });
    each.collect()
}

fn from_backup(id: &str, time: Option<Timestamp>, name: &Table) -> Loaded {
    let mut work = Work::begin(Operation::RestoreSnapshot, pg_sys::InvalidOid);
    let there = copy_out(id, time, name, &mut work).unwrap_or_else(|e| error::raise(&e));
    let here = here(name, &there.known);
    // Somebody else's table of the same name would show what was in this one.
    // SAFETY: a look-up that returns NULL where there is no such role.
    let owner = unsafe {
        let owner = relation::form(here.root().as_ptr()).relowner;
        let name = pg_sys::GetUserNameFromId(owner, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    // SAFETY: reads the session's state.
    if owner.as_ref() != Some(&there.owner) && !unsafe { pg_sys::superuser() } {
        raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("table {} had another owner", sql_name(&there.known.root)),
            None,
            Some("A superuser can restore the chunk.".into()),
        );
    }
    let columns: Vec<String> = there.columns.iter().map(|(name, _)| name.clone()).collect();
    check_columns(&here.root(), &columns);
    let types = types(&here.root(), &there.columns);
    let rows = there.spool.rows(&types);
    let mut rows = rows.unwrap_or_else(|e| error::raise(&io(e)));
    work.phase(Phase::Rows, 0);
    put(name, &there.known, &here, &columns, &mut rows, &mut work)
}

/// Restores a chunk; returns what it is called now, and how many rows it has.
fn restore_chunk(args: &Args) -> pg_sys::Datum {
    tier::check_writable(c"varve.restore_chunk()");
    let id = args
        .get::<String>(0)
        .unwrap_or_else(|| null_argument("the backup"));
    let name = args
        .get::<String>(1)
        .unwrap_or_else(|| null_argument("the chunk"));
    let name = restore::named(&name);
    let time = args.get::<TimestampWithTimeZone>(2).map(|time| {
        let text = spi::read_one::<String>(
            "SELECT pg_catalog.to_char(pg_catalog.timezone('UTC', $1), 'YYYY-MM-DD HH24:MI:SS.US\"+00\"')",
            &[time.into()],
        );
        text.and_then(|text| text.parse::<Timestamp>().ok()).unwrap_or_else(|| {
            raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "target_time is no moment".into(),
                None,
                Some("Give a time with its zone.".into()),
            )
        })
    });
    if id.ends_with(SNAPSHOT_SUFFIX) && time.is_some() {
        raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a snapshot is of one moment".into(),
            None,
            Some("Leave target_time out, or name a base backup.".into()),
        );
    }
    let loaded = settled(|| match id.ends_with(SNAPSHOT_SUFFIX) {
        true => from_snapshot(&id, &name),
        false => from_backup(&id, time, &name),
    });
    crate::jobs::note_done(loaded.rows as i64, 0);
    let values = [
        pg_sys::Datum::from(loaded.chunk),
        pg_sys::Datum::from(loaded.rows as i64),
    ];
    args.row(&values, &[false, false])
}

crate::sql_function!(
    varve_restore_chunk,
    pg_finfo_varve_restore_chunk,
    restore_chunk
);
