//! The rows of a query, some at a time, as they leave the executor: nothing is copied.

use super::spi::Connection;
use super::{ffi, guard, list, memory};
use pgrx::pg_sys;
use std::ffi::CString;

/// A running query that only reads. It sees what the statement sees from which it is run.
pub struct Cursor {
    portal: pg_sys::Portal,
    /// Memory of the row at hand.
    row: pg_sys::MemoryContext,
    ended: bool,
}

/// Takes rows for a closure.
#[repr(C)]
struct Receiver<'a> {
    /// What the executor knows of it; it comes first.
    server: pg_sys::DestReceiver,
    take: &'a mut dyn FnMut(*mut pg_sys::TupleTableSlot),
    attributes: i32,
    row: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Cursor {
    /// Begins a query.
    pub fn open(connection: &Connection, query: &str) -> Self {
        // SAFETY: without parameters.
        unsafe { Self::open_with(connection, query, std::ptr::null_mut()) }
    }

    /// Begins a query that has none of these parameters, but is planned with them.
    ///
    /// # Safety
    /// NULL or a valid list.
    pub unsafe fn open_with(
        _connection: &Connection,
        query: &str,
        params: pg_sys::ParamListInfo,
    ) -> Self {
        let text = CString::new(query).unwrap_or_default();
        // SAFETY: plan and portal live in the connection's memory at least; errors of the query go on.
        unsafe {
            let plan = pg_sys::SPI_prepare(text.as_ptr(), 0, std::ptr::null_mut());
            if plan.is_null() {
                pgrx::error!("varve's own query cannot be prepared");
            }
            let name = std::ptr::null();
            Cursor {
                portal: pg_sys::SPI_cursor_open_with_paramlist(name, plan, params, true),
                row: memory::child(pg_sys::CurrentMemoryContext, c"varve row"),
                ended: false,
            }
        }
    }

    /// Its rows' shape.
    pub fn desc(&self) -> pg_sys::TupleDesc {
        // SAFETY: an open portal of a query that returns rows.
        unsafe { (*self.portal).tupDesc }
    }

    /// The relations that its plan depends on.
    pub fn relations(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: an open portal of planned statements, which have lists of OIDs.
        unsafe {
            list::nodes::<pg_sys::PlannedStmt>((*self.portal).stmts)
                .flat_map(|statement| list::cells((*statement).relationOids))
                .map(|cell| cell.oid_value)
                .collect()
        }
    }

    /// Whether there are no more rows.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Hands on the next `count` rows, or as many as there are. Of each the first `attributes` values are there; memory that the
    /// closure allocates is given back after the row.
    pub fn fetch(
        &mut self,
        count: u32,
        attributes: usize,
        take: &mut dyn FnMut(*mut pg_sys::TupleTableSlot),
    ) {
        // SAFETY: the receiver lives longer than the call, which is all that uses it.
        unsafe {
            let mut receiver = Receiver {
                server: pg_sys::DestReceiver {
                    receiveSlot: Some(receive),
                    rStartup: Some(start),
                    rShutdown: Some(end),
                    rDestroy: Some(end),
                    mydest: pg_sys::CommandDest::DestNone,
                },
                take,
                attributes: attributes as i32,
                row: self.row,
                owner: pg_sys::CurrentResourceOwner,
            };
            let forward = pg_sys::FetchDirection::FETCH_FORWARD;
            let to = (&raw mut receiver).cast::<pg_sys::DestReceiver>();
            let fetched = pg_sys::PortalRunFetch(self.portal, forward, count.into(), to);
            self.ended = fetched < u64::from(count);
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // After an error the end of the (sub)transaction closes it.
        if !std::thread::panicking() {
            // SAFETY: opened by `open`.
            unsafe {
                pg_sys::SPI_cursor_close(self.portal);
                pg_sys::MemoryContextDelete(self.row);
            }
        }
    }
}

unsafe extern "C-unwind" fn start(
    _: *mut pg_sys::DestReceiver,
    _: std::ffi::c_int,
    _: pg_sys::TupleDesc,
) {
}

unsafe extern "C-unwind" fn end(_: *mut pg_sys::DestReceiver) {}

unsafe extern "C-unwind" fn receive(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: the executor hands us our receiver, and a slot with a row. What is taken from the row is not the portal's: files of a
    // sort must not be closed with it. Where the closure fails, the portal's own error handling sets context and owner.
    unsafe {
        let receiver = receiver.cast::<Receiver>();
        if i32::from((*slot).tts_nvalid) < (*receiver).attributes {
            ffi::raw::slot_getsomeattrs_int(slot, (*receiver).attributes);
        }
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::CurrentResourceOwner = (*receiver).owner;
        let context = pg_sys::MemoryContextSwitchTo((*receiver).row);
        guard::entry(|| ((*receiver).take)(slot));
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        if !(*(*receiver).row).isReset {
            pg_sys::MemoryContextReset((*receiver).row);
        }
        true
    }
}
