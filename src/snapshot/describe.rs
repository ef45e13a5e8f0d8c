//! Reads a table's definition off the catalogues. The search path has to be that of [`settled`](super::session::settled), so that
//! names say their schema.

use super::ddl::{
    Column, Constraint, Ddl, Dimension, Hypertable, Index, Managed, Sequence, Source,
};
use crate::am::error::gone;
use crate::pg::relation::{self, quote};
use crate::pg::spi::{Connection, read_all, read_one};
use pgrx::pg_sys;

/// The version of the format that is written.
pub const VERSION: u32 = 1;

fn letter(text: Option<String>) -> Option<char> {
    text.and_then(|t| t.chars().next())
}

/// The definition of a table.
pub fn describe(table: pg_sys::Oid) -> Ddl {
    let head = read_all(
        "SELECT c.relpersistence::pg_catalog.text, a.amname::pg_catalog.text, \
             pg_catalog.array_cat(coalesce(c.reloptions, '{}'), (SELECT pg_catalog.array_agg('toast.' OPERATOR(pg_catalog.||) o.o) \
                 FROM pg_catalog.pg_class t, LATERAL pg_catalog.unnest(t.reloptions) o (o) WHERE t.oid OPERATOR(pg_catalog.=) c.reltoastrelid)), \
             pg_catalog.obj_description(c.oid, 'pg_class'), c.relreplident::pg_catalog.text, \
             (SELECT i.indexrelid::pg_catalog.regclass::pg_catalog.oid FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisreplident), \
             (SELECT i.indexrelid::pg_catalog.regclass::pg_catalog.oid FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisclustered) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[table.into()],
        |row| {
            Ok(Some(Ddl {
                version: VERSION,
                persistence: letter(row.get(1)?).unwrap_or('p'),
                access_method: row.get(2)?.unwrap_or_default(),
                options: row.get(3)?.unwrap_or_default(),
                comment: row.get(4)?,
                columns: Vec::new(),
                constraints: Vec::new(),
                indexes: Vec::new(),
                replica_identity: letter(row.get(5)?).unwrap_or('d'),
                replica_index: row.get(6)?.and_then(bare_name),
                clustered_by: row.get(7)?.and_then(bare_name),
                hypertable: None,
                managed: None,
            }))
        },
    );
    let Some(mut ddl) = head.into_iter().next() else {
        gone(&relation::qualified_name(table));
    };
    ddl.columns = columns(table);
    ddl.constraints = constraints(table);
    ddl.indexes = indexes(table);
    ddl.hypertable = hypertable(table);
    ddl.managed = managed(table);
    ddl
}

fn bare_name(relation: pg_sys::Oid) -> Option<String> {
    // SAFETY: a look-up that returns NULL when there is no such relation.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        (!name.is_null()).then(|| {
            std::ffi::CStr::from_ptr(name)
                .to_string_lossy()
                .into_owned()
        })
    }
}

fn columns(table: pg_sys::Oid) -> Vec<Column> {
    let mut columns = read_all(
        "SELECT a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, a.atttypmod), \
             CASE WHEN a.attcollation OPERATOR(pg_catalog.<>) t.typcollation THEN \
                 (SELECT pg_catalog.format('%I.%I', n.nspname, l.collname) FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) l.collnamespace \
                  WHERE l.oid OPERATOR(pg_catalog.=) a.attcollation) END, \
             a.attnotnull, a.attgenerated::pg_catalog.text, a.attidentity::pg_catalog.text, \
             (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d WHERE d.adrelid OPERATOR(pg_catalog.=) a.attrelid AND d.adnum OPERATOR(pg_catalog.=) a.attnum), \
             CASE WHEN a.attstorage OPERATOR(pg_catalog.<>) t.typstorage THEN a.attstorage::pg_catalog.text END, a.attcompression::pg_catalog.text, \
             CASE WHEN a.attstattarget OPERATOR(pg_catalog.>=) 0 THEN a.attstattarget::pg_catalog.int4 END, coalesce(a.attoptions, '{}'), \
             pg_catalog.col_description(a.attrelid, a.attnum) \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid \
         WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped ORDER BY a.attnum",
        &[table.into()],
        |row| {
            let expression: Option<String> = row.get(7)?;
            let source = match (letter(row.get(5)?), letter(row.get(6)?), expression) {
                (Some(_), _, Some(expression)) => Source::Generated(expression),
                // The sequence follows.
                (_, Some(kind), _) => Source::Default(kind.into()),
                (_, _, Some(expression)) => Source::Default(expression),
                _ => Source::Nothing,
            };
            let identity = letter(row.get(6)?);
            let column = Column {
                name: row.get(1)?.unwrap_or_default(),
                type_name: row.get(2)?.unwrap_or_default(),
                collation: row.get(3)?,
                not_null: row.get(4)?.unwrap_or(false),
                source,
                storage: letter(row.get(8)?),
                compression: letter(row.get(9)?),
                statistics: row.get(10)?,
                options: row.get(11)?.unwrap_or_default(),
                comment: row.get(12)?,
            };
            Ok(Some((column, identity)))
        },
    );
    for (sequence, column, call) in sequences(table) {
        let found = columns.iter_mut().find(|(c, _)| c.name == column);
        let Some((column, identity)) = found else {
            continue;
        };
        column.source = match (*identity, &column.source) {
            (Some('a'), _) => Source::Always(sequence),
            (Some(_), _) => Source::Identity(sequence),
            (None, Source::Default(text)) if *text == call => Source::Serial(sequence),
            (None, other) => other.clone(),
        };
    }
    columns.into_iter().map(|(column, _)| column).collect()
}

/// The sequences that belong to a table's columns, those columns, and the call that a default of `serial` is.
fn sequences(table: pg_sys::Oid) -> Vec<(Sequence, String, String)> {
    let all: Vec<((Sequence, Option<pg_sys::Oid>), String, String)> = read_all(
        "SELECT k.relname::pg_catalog.text, pg_catalog.format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle, \
             CASE WHEN pg_catalog.has_sequence_privilege(s.seqrelid, 'USAGE, SELECT') THEN pg_catalog.pg_sequence_last_value(s.seqrelid) END, \
             a.attname::pg_catalog.text, pg_catalog.format('nextval(%L::regclass)', s.seqrelid::pg_catalog.regclass), \
             CASE WHEN pg_catalog.has_sequence_privilege(s.seqrelid, 'SELECT') THEN s.seqrelid END \
         FROM pg_catalog.pg_depend d \
         JOIN pg_catalog.pg_sequence s ON s.seqrelid OPERATOR(pg_catalog.=) d.objid \
         JOIN pg_catalog.pg_class k ON k.oid OPERATOR(pg_catalog.=) s.seqrelid \
         JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) d.refobjid AND a.attnum OPERATOR(pg_catalog.=) d.refobjsubid \
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
           AND d.refobjid OPERATOR(pg_catalog.=) $1 AND d.deptype OPERATOR(pg_catalog.=) ANY ('{a,i}') ORDER BY k.oid",
        &[table.into()],
        |row| {
            let last: Option<i64> = row.get(9)?;
            let sequence = Sequence {
                name: row.get(1)?.unwrap_or_default(),
                type_name: row.get(2)?.unwrap_or_default(),
                start: row.get(3)?.unwrap_or(1),
                increment: row.get(4)?.unwrap_or(1),
                min: row.get(5)?.unwrap_or(1),
                max: row.get(6)?.unwrap_or(i64::MAX),
                cache: row.get(7)?.unwrap_or(1),
                cycle: row.get(8)?.unwrap_or(false),
                last,
                called: last.is_some(),
            };
            let readable: Option<pg_sys::Oid> = row.get(12)?;
            Ok(Some((
                (sequence, readable),
                row.get(10)?.unwrap_or_default(),
                row.get(11)?.unwrap_or_default(),
            )))
        },
    );
    let placed = all
        .into_iter()
        .map(|((mut sequence, readable), column, call)| {
            if let Some(readable) = readable {
                let (last, called) = place(readable);
                (sequence.last, sequence.called) = (Some(last), called);
            }
            (sequence, column, call)
        });
    placed.collect()
}

/// The value that a sequence has come to, and whether it has given it: `pg_sequence_last_value` tells only what was given.
fn place(sequence: pg_sys::Oid) -> (i64, bool) {
    let connection = Connection::open();
    let name = relation::qualified_name(sequence);
    let read = connection.one_row(&format!("SELECT last_value, is_called FROM {name}"), &[]);
    match read.as_slice() {
        [Some(last), Some(called)] => (last.value() as i64, called.value() as u8 != 0),
        _ => pgrx::error!("sequence {name} has no value"),
    }
}

fn constraints(table: pg_sys::Oid) -> Vec<Constraint> {
    let on = relation::qualified_name(table);
    read_all(
        "SELECT c.conname::pg_catalog.text, c.contype::pg_catalog.text, c.convalidated, pg_catalog.pg_get_constraintdef(c.oid), \
             coalesce((SELECT i.reloptions FROM pg_catalog.pg_class i WHERE i.oid OPERATOR(pg_catalog.=) c.conindid AND c.contype OPERATOR(pg_catalog.<>) 'f'), '{}'), \
             pg_catalog.obj_description(c.oid, 'pg_constraint'), \
             CASE WHEN c.contype OPERATOR(pg_catalog.=) 'f' AND c.confrelid OPERATOR(pg_catalog.=) c.conrelid THEN \
                 pg_catalog.format('FOREIGN KEY (%s) REFERENCES ', \
                     (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY k.n) FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY k (attnum, n) \
                      JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid AND a.attnum OPERATOR(pg_catalog.=) k.attnum)) END \
         FROM pg_catalog.pg_constraint c \
         WHERE c.conrelid OPERATOR(pg_catalog.=) $1 AND c.contype OPERATOR(pg_catalog.=) ANY ('{p,u,x,c,f}') \
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint p WHERE p.oid OPERATOR(pg_catalog.=) c.conparentid AND p.conrelid OPERATOR(pg_catalog.=) c.conrelid) \
         ORDER BY pg_catalog.strpos('cpuxf', c.contype::pg_catalog.text), c.oid",
        &[table.into()],
        |row| {
            let mut definition: String = row.get(4)?.unwrap_or_default();
            let mut after_itself = None;
            if let Some(head) = row.get::<String>(7)? {
                let rest = definition.strip_prefix(&head);
                let Some(rest) = rest.and_then(|rest| rest.strip_prefix(&on)) else {
                    pgrx::error!("foreign key {definition} not understood");
                };
                after_itself = Some(rest.to_string());
                definition = head;
            }
            Ok(Some(Constraint {
                name: row.get(1)?.unwrap_or_default(),
                kind: letter(row.get(2)?).unwrap_or('c'),
                valid: row.get(3)?.unwrap_or(true),
                definition,
                after_itself,
                options: row.get(5)?.unwrap_or_default(),
                comment: row.get(6)?,
            }))
        },
    )
}

fn indexes(table: pg_sys::Oid) -> Vec<Index> {
    let on = relation::qualified_name(table);
    let all = read_all(
        "SELECT k.relname::pg_catalog.text, i.indisunique, pg_catalog.pg_get_indexdef(k.oid), pg_catalog.obj_description(k.oid, 'pg_class') \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class k ON k.oid OPERATOR(pg_catalog.=) i.indexrelid \
         WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisvalid \
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid OPERATOR(pg_catalog.=) k.oid AND c.contype OPERATOR(pg_catalog.=) ANY ('{p,u,x}')) \
         ORDER BY k.oid",
        &[table.into()],
        |row| {
            Ok(Some(Index {
                name: row.get(1)?.unwrap_or_default(),
                unique: row.get(2)?.unwrap_or(false),
                definition: row.get(3)?.unwrap_or_default(),
                comment: row.get(4)?,
            }))
        },
    );
    let bare = |mut index: Index| {
        let unique = if index.unique { "UNIQUE " } else { "" };
        let head = format!("CREATE {unique}INDEX {} ON {on} ", quote(&index.name));
        match index.definition.strip_prefix(&head) {
            Some(definition) => index.definition = definition.to_string(),
            None => pgrx::error!("definition of index {} not understood", index.name),
        }
        index
    };
    all.into_iter().map(bare).collect()
}

fn hypertable(table: pg_sys::Oid) -> Option<Hypertable> {
    let dimensions = read_all(
        "SELECT d.column_name::pg_catalog.text, d.interval_length, d.column_type::pg_catalog.oid OPERATOR(pg_catalog.<>) ALL ('{20,21,23}'::pg_catalog.oid[]), d.num_slices::pg_catalog.int4, \
             CASE WHEN d.partitioning_func IS NOT NULL AND d.partitioning_func_schema OPERATOR(pg_catalog.<>) ALL ('{_timescaledb_functions,_timescaledb_internal}') \
                 THEN pg_catalog.format('%I.%I', d.partitioning_func_schema, d.partitioning_func) END, \
             CASE WHEN d.integer_now_func IS NOT NULL THEN pg_catalog.format('%I.%I', d.integer_now_func_schema, d.integer_now_func) END \
         FROM _timescaledb_catalog.dimension d JOIN _timescaledb_catalog.hypertable h ON h.id OPERATOR(pg_catalog.=) d.hypertable_id \
         JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) h.schema_name \
         JOIN pg_catalog.pg_class k ON k.relnamespace OPERATOR(pg_catalog.=) n.oid AND k.relname OPERATOR(pg_catalog.=) h.table_name \
         WHERE k.oid OPERATOR(pg_catalog.=) $1 ORDER BY d.num_slices IS NOT NULL, d.id",
        &[table.into()],
        |row| {
            Ok(Some(Dimension {
                column: row.get(1)?.unwrap_or_default(),
                interval: row.get(2)?,
                times: row.get(3)?.unwrap_or(true),
                partitions: row.get(4)?,
                function: row.get(5)?,
                now: row.get(6)?,
            }))
        },
    );
    (!dimensions.is_empty()).then_some(Hypertable { dimensions })
}

fn managed(table: pg_sys::Oid) -> Option<Managed> {
    let found = read_all(
        "SELECT m.segment_by::pg_catalog.text[], m.order_by::pg_catalog.text[] FROM varve.managed m WHERE m.relation OPERATOR(pg_catalog.=) $1",
        &[table.into()],
        |row| {
            Ok(Some(Managed {
                segment_by: row.get(1)?.unwrap_or_default(),
                order_by: row.get(2)?.unwrap_or_default(),
            }))
        },
    );
    found.into_iter().next()
}

/// What belongs to a table and is not kept: triggers, policies, privileges and more, named.
pub fn left_out(table: pg_sys::Oid, ddl: &Ddl) -> Vec<String> {
    let mut left = read_all(
        "SELECT x.what FROM ( \
             SELECT 1 AS n, pg_catalog.format('trigger %I', t.tgname) AS what FROM pg_catalog.pg_trigger t WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND NOT t.tgisinternal \
                 AND t.tgname OPERATOR(pg_catalog.<>) 'ts_insert_blocker' \
             UNION ALL SELECT 2, pg_catalog.format('policy %I', p.polname) FROM pg_catalog.pg_policy p WHERE p.polrelid OPERATOR(pg_catalog.=) $1 \
             UNION ALL SELECT 3, pg_catalog.format('rule %I', r.rulename) FROM pg_catalog.pg_rewrite r WHERE r.ev_class OPERATOR(pg_catalog.=) $1 \
             UNION ALL SELECT 4, pg_catalog.format('statistics %I', s.stxname) FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid OPERATOR(pg_catalog.=) $1 \
             UNION ALL SELECT 5, pg_catalog.format('privileges of %s', pg_catalog.string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END, ', ')) \
                 FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) a WHERE c.oid OPERATOR(pg_catalog.=) $1 AND a.grantee OPERATOR(pg_catalog.<>) c.relowner HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0 \
             UNION ALL SELECT 6, 'row security' FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1 AND c.relrowsecurity \
             UNION ALL SELECT 7, pg_catalog.format('owner %I', pg_catalog.pg_get_userbyid(c.relowner)) FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1 \
             UNION ALL SELECT 8, pg_catalog.format('tablespace %I', s.spcname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_tablespace s ON s.oid OPERATOR(pg_catalog.=) c.reltablespace WHERE c.oid OPERATOR(pg_catalog.=) $1 \
             UNION ALL SELECT 9, pg_catalog.format('inheritance from %s', i.inhparent::pg_catalog.regclass) FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) $1 \
         ) x ORDER BY x.n, x.what",
        &[table.into()],
        |row| row.get(1),
    );
    let jobs = read_one::<i64>(
        "SELECT pg_catalog.count(*) FROM varve.jobs j WHERE j.subject OPERATOR(pg_catalog.=) $1",
        &[table.into()],
    );
    if jobs.is_some_and(|n| n > 0) {
        left.push("policies of varve's".into());
    }
    for column in &ddl.columns {
        if let Source::Serial(s) | Source::Always(s) | Source::Identity(s) = &column.source
            && s.last.is_none()
        {
            left.push(format!("value of sequence {}", quote(&s.name)));
        }
    }
    left
}
