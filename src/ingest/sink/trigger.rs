//! The triggers of a sink: a statement begins, gives rows, ends.

use super::given::{self, Columns};
use super::open::{self, Open};
use crate::am::error::raise;
use crate::ingest::batch::{self, OnConflict, Options, Spec};
use crate::ingest::target::Target;
use crate::pg::function::Args;
use crate::pg::memory::Context;
use crate::pg::relation;
use crate::pg::{context, list, tuple};
use crate::tier::level::Tier;
use crate::tier::{catalog, set_tier};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;
use std::rc::Rc;

/// `varve.sink()`, called before the statement, for each row, and after the statement.
fn sink(args: &Args) -> pg_sys::Datum {
    // SAFETY: a trigger's call has its data as context; its parts are as the event says.
    unsafe {
        let data = (*args.0).context;
        if data.is_null() || list::tag(data) != pg_sys::NodeTag::T_TriggerData {
            raise(
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "varve.sink() is a trigger function".into(),
                None,
                Some("Make a sink with varve.create_sink(name, table).".into()),
            );
        }
        let data = &*data.cast::<pg_sys::TriggerData>();
        let view = data.tg_relation;
        if data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0 {
            row(view, data);
            return pg_sys::Datum::from(data.tg_trigtuple);
        }
        if data.tg_event & pg_sys::TRIGGER_EVENT_BEFORE != 0 {
            begin(view, &*data.tg_trigger);
        } else if let Some(open) = open::take(relation::oid(view)) {
            batch::remember(open.finish());
        }
        pg_sys::Datum::null()
    }
}

crate::sql_function!(varve_sink, pg_finfo_varve_sink, sink);

/// # Safety
/// The data of a row trigger on an open view.
unsafe fn row(view: pg_sys::Relation, data: &pg_sys::TriggerData) {
    let Some(mut open) = open::take(relation::oid(view)) else {
        raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("sink \"{}\" lacks a trigger", relation::name(view)),
            None,
            Some("Make it anew with varve.create_sink; its triggers belong together.".into()),
        )
    };
    // SAFETY: by contract, the slot holds the row.
    unsafe {
        let natts = relation::natts(relation::tupdesc(view));
        let (values, nulls) = tuple::slot_values(data.tg_trigslot, natts);
        open.push(values, nulls, context::copied_line(view), view);
    }
    open.put();
}

/// The arguments of the triggers: what is done with stored keys, whether equal rows are left alone, the window or nothing, the
/// tier of new chunks or nothing, and the key's columns, if they were named.
fn begin(view: pg_sys::Relation, trigger: &pg_sys::Trigger) {
    crate::tier::check_writable(c"an upsert");
    // SAFETY: a trigger has as many arguments as it says, NUL-terminated.
    let arguments: Vec<String> = unsafe {
        (0..trigger.tgnargs as usize)
            .map(|i| {
                CStr::from_ptr(*trigger.tgargs.add(i))
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    };
    let [on_conflict, skip_unchanged, window, tier, key @ ..] = arguments.as_slice() else {
        pgrx::error!(
            "the triggers of sink \"{}\" have other arguments",
            relation::name(view)
        );
    };
    let memory = Context::new();
    let oid = target_of(view);
    let tier = (!tier.is_empty())
        .then(|| tier_of(view, oid, tier))
        .flatten();
    let target = Target::resolve(oid, (!key.is_empty()).then(|| key.to_vec()));
    let options = Options {
        on_conflict: OnConflict::named(on_conflict),
        skip_unchanged: skip_unchanged == "true",
        dedup_window: (!window.is_empty()).then(|| memory.within(|| interval(window))),
        copied_into: None,
        in_parts: true,
        tier,
        followed: false,
    };
    let given = columns(view);
    let desc = relation::tupdesc(view);
    let columns: Vec<(String, pg_sys::Oid, i32)> = given
        .iter()
        .map(|place| {
            let attr = relation::attribute(desc, *place);
            (
                relation::attribute_name(attr),
                attr.atttypid,
                attr.atttypmod,
            )
        })
        .collect();
    let spec = Rc::new(Spec::new(target, &columns, options));
    // Columns that the table computes are not the batch's.
    let places = spec
        .used
        .iter()
        .filter_map(|u| {
            let at = columns
                .iter()
                .position(|(name, ..)| *name == u.column.name)?;
            given.get(at).copied()
        })
        .collect();
    Open::new(relation::oid(view), spec, places, memory).put();
}

/// The tier that a sink asks for; `None` where the table is not under varve's care any more.
fn tier_of(view: pg_sys::Relation, target: pg_sys::Oid, name: &str) -> Option<Tier> {
    let Some(tier) = Tier::from_name(name) else {
        pgrx::error!(
            "the triggers of sink \"{}\" have other arguments",
            relation::name(view)
        );
    };
    set_tier::check_owner(target, relation::form(view).relowner);
    catalog::is_managed(catalog::root_of(target)).then_some(tier)
}

/// The columns (from 0) of the view that the statement gives.
fn columns(view: pg_sys::Relation) -> Vec<usize> {
    let all = 0..relation::natts(relation::tupdesc(view));
    match given::for_view(view) {
        Columns::All => all.collect(),
        Columns::Some(some) => all.filter(|i| some.contains(&(*i as i16 + 1))).collect(),
        Columns::Mixed => raise(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "a statement gives different columns for sink \"{}\"",
                relation::name(view)
            ),
            None,
            Some("Use one INSERT with all columns, or several statements.".into()),
        ),
    }
}

/// The table that a sink's rows go into: the one that the view reads.
fn target_of(view: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: an open view has its query.
    let table = unsafe {
        let query = pg_sys::get_view_query(view);
        list::nodes::<pg_sys::RangeTblEntry>((*query).rtable)
            .filter(|entry| (**entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .map(|entry| (*entry).relid)
            .find(|oid| *oid != relation::oid(view))
    };
    table.unwrap_or_else(|| {
        pgrx::error!("sink \"{}\" reads no table", relation::name(view));
    })
}

fn interval(text: &str) -> pg_sys::Datum {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: the type's own input function.
    unsafe {
        pg_sys::OidInputFunctionCall(
            pg_sys::Oid::from_u32(pg_sys::F_INTERVAL_IN),
            text.as_ptr().cast_mut(),
            pg_sys::InvalidOid,
            -1,
        )
    }
}
