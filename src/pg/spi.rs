//! PostgreSQL's server programming interface, as far as pgrx's own wrapper does not go: results into a tuplestore, and
//! a tuplestore that statements read under a name.

use super::{ffi, relation};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement, SpiHeapTupleData};
use pgrx::{PgOid, pg_sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;

/// A value for a parameter of a statement.
#[derive(Clone, Copy)]
pub struct Param {
    /// Its type.
    pub typ: pg_sys::Oid,
    /// The value; `None` for NULL.
    pub value: Option<pg_sys::Datum>,
}

/// Runs a query that only reads under the active snapshot. `row` is given a tuple and its description, which live as long as the
/// call.
pub fn read_active<T>(
    query: &str,
    row: impl Fn(pg_sys::HeapTuple, pg_sys::TupleDesc) -> T,
) -> Vec<T> {
    let _connection = Connection::open();
    let text = CString::new(query).unwrap_or_default();
    // SAFETY: a NUL-terminated text; read only, it runs under the active snapshot. Its rows live as long as the connection.
    unsafe {
        let status = pg_sys::SPI_execute(text.as_ptr(), true, 0);
        let table = pg_sys::SPI_tuptable;
        if status != pg_sys::SPI_OK_SELECT as i32 || table.is_null() {
            pgrx::error!("varve's own query returned {status}");
        }
        (0..(*table).numvals as usize)
            .map(|i| row(*(*table).vals.add(i), (*table).tupdesc))
            .collect()
    }
}

/// A connection, closed when dropped; after an error PostgreSQL closes it itself.
pub struct Connection(());

impl Connection {
    /// Connects.
    pub fn open() -> Self {
        // SAFETY: inside a function call; paired with SPI_finish below.
        let status = unsafe { pg_sys::SPI_connect() };
        if status != pg_sys::SPI_OK_CONNECT as i32 {
            pgrx::error!("SPI_connect returned {status}");
        }
        Connection(())
    }

    /// Runs one statement that returns rows and keeps them, out-of-line values fetched. `None` when the text is not
    /// one such statement.
    pub fn fetch(&self, query: &str, params: &[Param]) -> Option<Rows> {
        let mut types: Vec<pg_sys::Oid> = params.iter().map(|p| p.typ).collect();
        let text = CString::new(query).ok()?;
        // SAFETY: the plan and everything else lives in the connection's memory; the store is ours.
        unsafe {
            let plan = pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr());
            if plan.is_null() {
                return None;
            }
            let sources = pg_sys::SPI_plan_get_plan_sources(plan);
            if sources.is_null() || (*sources).length != 1 {
                return None;
            }
            let source = (*(*sources).elements)
                .ptr_value
                .cast::<pg_sys::CachedPlanSource>();
            if (*source).resultDesc.is_null() {
                return None;
            }
            let desc = pg_sys::CreateTupleDescCopy((*source).resultDesc);
            let store = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
            let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestTuplestore);
            ffi::SetTuplestoreDestReceiverParams(
                receiver,
                store,
                pg_sys::CurrentMemoryContext,
                true,
                std::ptr::null_mut(),
                std::ptr::null(),
            );
            let mut options = pg_sys::SPIExecuteOptions {
                dest: receiver,
                must_return_tuples: true,
                ..Default::default()
            };
            options.params = param_list(params);
            pg_sys::SPI_execute_plan_extended(plan, &options);
            Some(Rows {
                desc,
                store,
                count: pg_sys::SPI_processed,
            })
        }
    }

    /// Lets the statements of this connection read `rows` as the relation `name`.
    pub fn name(&self, name: &str, rows: &Rows) {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the registration lives in the connection's memory, as the rows do.
        unsafe {
            let entry: *mut pg_sys::EphemeralNamedRelationData =
                pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>()).cast();
            (*entry).md.name = pg_sys::pstrdup(name.as_ptr());
            (*entry).md.tupdesc = rows.desc;
            (*entry).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
            (*entry).md.enrtuples = rows.count as f64;
            (*entry).reldata = rows.store.cast();
            let status = pg_sys::SPI_register_relation(entry);
            if status != pg_sys::SPI_OK_REL_REGISTER as i32 {
                pgrx::error!("SPI_register_relation returned {status}");
            }
        }
    }

    /// Takes a name back.
    pub fn forget(&self, name: &str) {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: a NUL-terminated name.
        unsafe { pg_sys::SPI_unregister_relation(name.as_ptr()) };
    }

    /// Runs a statement or several for what they do.
    pub fn run(&self, sql: &str) {
        let text = CString::new(sql).unwrap_or_default();
        // SAFETY: a NUL-terminated text; errors of the statements go on.
        let status = unsafe { pg_sys::SPI_execute(text.as_ptr(), false, 0) };
        if status < 0 {
            pgrx::error!("SPI_execute returned {status}");
        }
    }

    /// Runs a statement that returns one row, and gives its values. They live as long as the connection.
    pub fn one_row(&self, query: &str, params: &[Param]) -> Vec<Option<pg_sys::Datum>> {
        let text = CString::new(query).unwrap_or_default();
        let mut types: Vec<pg_sys::Oid> = params.iter().map(|p| p.typ).collect();
        let mut values: Vec<pg_sys::Datum> = params
            .iter()
            .map(|p| p.value.unwrap_or(pg_sys::Datum::from(0usize)))
            .collect();
        let nulls: Vec<std::ffi::c_char> = params
            .iter()
            .map(|p| if p.value.is_some() { b' ' } else { b'n' } as std::ffi::c_char)
            .collect();
        // SAFETY: one value, type and NULL flag for each parameter; the result is read before the next statement.
        unsafe {
            pg_sys::SPI_execute_with_args(
                text.as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_ptr(),
                false,
                0,
            );
            let table = pg_sys::SPI_tuptable;
            if table.is_null() || (*table).numvals != 1 {
                pgrx::error!("an internal query of varve did not return one row");
            }
            let row = *(*table).vals;
            (1..=(*(*table).tupdesc).natts)
                .map(|i| {
                    let mut null = false;
                    let datum = pg_sys::SPI_getbinval(row, (*table).tupdesc, i, &mut null);
                    (!null).then_some(datum)
                })
                .collect()
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: connected by `open`.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// # Safety
/// The list lives in the current memory context; values stay valid as long.
unsafe fn param_list(params: &[Param]) -> pg_sys::ParamListInfo {
    if params.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: a list with room for all parameters.
    unsafe {
        let list = pg_sys::makeParamList(params.len() as i32);
        for (i, param) in params.iter().enumerate() {
            *(*list).params.as_mut_ptr().add(i) = pg_sys::ParamExternData {
                value: param.value.unwrap_or(pg_sys::Datum::from(0usize)),
                isnull: param.value.is_none(),
                pflags: pg_sys::PARAM_FLAG_CONST as u16,
                ptype: param.typ,
            };
        }
        list
    }
}

/// Rows that a statement returned, in their order, in memory or (beyond `work_mem`) on disk.
pub struct Rows {
    desc: pg_sys::TupleDesc,
    store: *mut pg_sys::Tuplestorestate,
    count: u64,
}

impl Rows {
    /// None yet, of columns with these attributes.
    pub fn new(attributes: &[pg_sys::FormData_pg_attribute]) -> Self {
        Rows {
            desc: relation::row_shape(attributes, 0),
            // SAFETY: a store of our own, in the current memory context.
            store: unsafe { pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem) },
            count: 0,
        }
    }

    /// Adds a row.
    ///
    /// # Safety
    /// A value of its type, and a NULL flag, for each column.
    pub unsafe fn push(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) {
        // SAFETY: by contract; values are copied.
        unsafe {
            pg_sys::tuplestore_putvalues(self.store, self.desc, values.as_ptr(), nulls.as_ptr());
        }
        self.count += 1;
    }

    /// Hands on some columns (by their positions) of each row, in order; values live until the next row, and may be replaced.
    pub fn for_each(
        &self,
        columns: &[usize],
        mut f: impl FnMut(&mut [pg_sys::Datum], &mut [bool]),
    ) {
        let mut values = vec![pg_sys::Datum::from(0usize); columns.len()];
        let mut nulls = vec![true; columns.len()];
        // SAFETY: a slot of the rows' shape, dropped afterwards; its arrays have an entry for each column.
        unsafe {
            let minimal = &raw const pg_sys::TTSOpsMinimalTuple;
            let slot = pg_sys::MakeSingleTupleTableSlot(self.desc, minimal);
            pg_sys::tuplestore_rescan(self.store);
            while pg_sys::tuplestore_gettupleslot(self.store, true, false, slot) {
                pgrx::check_for_interrupts!();
                let natts = relation::natts(self.desc);
                let (from, from_nulls) = super::tuple::slot_values(slot, natts);
                for ((value, null), column) in values.iter_mut().zip(&mut nulls).zip(columns) {
                    if let (Some(v), Some(n)) = (from.get(*column), from_nulls.get(*column)) {
                        (*value, *null) = (*v, *n);
                    }
                }
                f(&mut values, &mut nulls);
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::tuplestore_rescan(self.store);
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Names and types of the columns.
    pub fn columns(&self) -> Vec<(String, pg_sys::Oid, i32)> {
        (0..relation::natts(self.desc))
            .map(|i| {
                let attr = relation::attribute(self.desc, i);
                (
                    relation::attribute_name(attr),
                    attr.atttypid,
                    attr.atttypmod,
                )
            })
            .collect()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: ours; nobody reads it any more.
            unsafe { pg_sys::tuplestore_end(self.store) };
        }
    }
}

thread_local! {
    /// Plans of our own queries, by their text.
    static PLANS: RefCell<HashMap<&'static str, Rc<OwnedPreparedStatement>>> = RefCell::new(HashMap::new());
}

/// The rows of a query that only reads, so that it works on standbys and uses no transaction id. It is planned once a
/// session. `row` says what becomes of each row, `None` leaves it out.
pub fn read_all<T>(
    query: &'static str,
    args: &[DatumWithOid],
    row: impl Fn(SpiHeapTupleData) -> spi::Result<Option<T>>,
) -> Vec<T> {
    let read = || {
        Spi::connect(|client| -> spi::Result<Vec<T>> {
            let known = PLANS.with_borrow(|plans| plans.get(query).cloned());
            let plan = match known {
                Some(plan) => plan,
                None => {
                    let types: Vec<PgOid> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
                    let plan = Rc::new(client.prepare(query, &types)?.keep());
                    PLANS.with_borrow_mut(|plans| plans.insert(query, plan.clone()));
                    plan
                }
            };
            let mut all = Vec::new();
            for tuple in client.select(&*plan, None, args)? {
                all.extend(row(tuple)?);
            }
            Ok(all)
        })
    };
    read().unwrap_or_else(|e| pgrx::error!("varve's own query: {e}"))
}

/// The first value of the first row of such a query; `None` for NULL or no row.
pub fn read_one<T: FromDatum + IntoDatum>(query: &'static str, args: &[DatumWithOid]) -> Option<T> {
    let first = |tuple: SpiHeapTupleData| tuple.get::<T>(1).map(Some);
    read_all(query, args, first).into_iter().next().flatten()
}

/// The rows that a statement returns which may write.
pub fn write_all<T>(
    query: &str,
    args: &[DatumWithOid],
    row: impl Fn(SpiHeapTupleData) -> spi::Result<T>,
) -> Vec<T> {
    let write = || {
        Spi::connect_mut(|client| -> spi::Result<Vec<T>> {
            client.update(query, None, args)?.map(&row).collect()
        })
    };
    write().unwrap_or_else(|e| pgrx::error!("varve's own query: {e}"))
}

/// Runs a statement for what it does; tells how many rows it wrote.
pub fn write(query: &str, args: &[DatumWithOid]) -> usize {
    let write = || {
        Spi::connect_mut(|client| -> spi::Result<usize> {
            Ok(client.update(query, None, args)?.len())
        })
    };
    write().unwrap_or_else(|e| pgrx::error!("varve's own query: {e}"))
}

/// Runs `f` with a setting changed; it is put back on every way out.
pub fn with_setting<T>(name: &std::ffi::CStr, value: &std::ffi::CStr, f: impl FnOnce() -> T) -> T {
    // SAFETY: as a function with a SET clause does it; an abort of the transaction takes the level back too.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        let result = f();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}
