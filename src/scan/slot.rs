//! The slot in which rows of a scan leave: attributes are decoded when somebody asks for them.
//!
//! A parent that compares one column of a row and drops it (Merge Append, Unique, a merge join) then decodes that column
//! alone. Where nothing is left to be decoded it is a virtual slot, and does what one does; so a slot of this kind that
//! somebody else made, to copy rows into, needs nothing more.

use super::node::Run;
use crate::pg::{guard, relation};
use pgrx::pg_sys;

/// The slot: one of PostgreSQL's virtual ones, and whom to ask for attributes.
#[repr(C)]
struct LazySlot {
    virt: pg_sys::VirtualTupleTableSlot,
    source: *mut Run,
}

/// What the executor calls.
pub static OPS: Ops = Ops(pg_sys::TupleTableSlotOps {
    base_slot_size: size_of::<LazySlot>(),
    init: Some(init),
    release: Some(release),
    clear: Some(clear),
    getsomeattrs: Some(get_some_attributes),
    getsysattr: Some(get_system_attribute),
    is_current_xact_tuple: Some(is_of_this_transaction),
    materialize: Some(materialize),
    copyslot: Some(copy_slot),
    get_heap_tuple: None,
    get_minimal_tuple: None,
    copy_heap_tuple: Some(copy_heap_tuple),
    copy_minimal_tuple: Some(copy_minimal_tuple),
});

/// A table of functions that never changes.
pub struct Ops(pub pg_sys::TupleTableSlotOps);

// SAFETY: functions and a size are constants.
unsafe impl Sync for Ops {}

/// Tells a slot whose rows it holds.
///
/// # Safety
/// `slot` was made with [`OPS`]; `source` lives until the slot is dropped or told otherwise.
pub unsafe fn set_source(slot: *mut pg_sys::TupleTableSlot, source: *mut Run) {
    // SAFETY: by contract.
    unsafe { (*slot.cast::<LazySlot>()).source = source };
}

/// Gets what a slot does not have yet.
///
/// # Safety
/// A slot of this kind that holds a row.
unsafe fn get_all(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: by contract.
    unsafe {
        let natts = relation::natts((*slot).tts_tupleDescriptor);
        if ((*slot).tts_nvalid as usize) < natts {
            get_some_attributes(slot, natts as i32);
        }
    }
}

unsafe extern "C-unwind" fn get_some_attributes(slot: *mut pg_sys::TupleTableSlot, natts: i32) {
    guard::entry(|| {
        // SAFETY: the executor asks for attributes of the row in the slot, which the scan put there last.
        unsafe {
            let source = (*slot.cast::<LazySlot>()).source;
            if source.is_null() {
                pgrx::error!("attributes of a row were asked for after its scan ended");
            }
            (*source).fill(slot, natts as usize);
        }
    });
}

// What follows calls PostgreSQL's own functions for virtual slots. An error in one of them passes over frames that hold
// nothing.

/// The functions of virtual slots.
fn virtual_slots() -> &'static pg_sys::TupleTableSlotOps {
    // SAFETY: a constant of the server.
    unsafe { &pg_sys::TTSOpsVirtual }
}

unsafe extern "C-unwind" fn init(_slot: *mut pg_sys::TupleTableSlot) {}

unsafe extern "C-unwind" fn release(_slot: *mut pg_sys::TupleTableSlot) {}

unsafe extern "C-unwind" fn clear(slot: *mut pg_sys::TupleTableSlot) {
    if let Some(clear) = virtual_slots().clear {
        // SAFETY: our slot begins with a virtual one.
        unsafe { clear(slot) };
    }
}

unsafe extern "C-unwind" fn get_system_attribute(
    slot: *mut pg_sys::TupleTableSlot,
    attnum: i32,
    isnull: *mut bool,
) -> pg_sys::Datum {
    match virtual_slots().getsysattr {
        // SAFETY: our slot begins with a virtual one.
        Some(get) => unsafe { get(slot, attnum, isnull) },
        None => pg_sys::Datum::from(0usize),
    }
}

unsafe extern "C-unwind" fn is_of_this_transaction(slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: our slot begins with a virtual one.
    virtual_slots()
        .is_current_xact_tuple
        .is_some_and(|is| unsafe { is(slot) })
}

unsafe extern "C-unwind" fn materialize(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: our slot begins with a virtual one, which is complete after the first line.
    unsafe {
        get_all(slot);
        if let Some(materialize) = virtual_slots().materialize {
            materialize(slot);
        }
    }
}

unsafe extern "C-unwind" fn copy_slot(
    to: *mut pg_sys::TupleTableSlot,
    from: *mut pg_sys::TupleTableSlot,
) {
    if let Some(copy) = virtual_slots().copyslot {
        // SAFETY: our slot begins with a virtual one; every attribute of the other one is asked for.
        unsafe { copy(to, from) };
    }
}

unsafe extern "C-unwind" fn copy_heap_tuple(
    slot: *mut pg_sys::TupleTableSlot,
) -> pg_sys::HeapTuple {
    // SAFETY: our slot begins with a virtual one, which is complete after the first line.
    unsafe {
        get_all(slot);
        match virtual_slots().copy_heap_tuple {
            Some(copy) => copy(slot),
            None => std::ptr::null_mut(),
        }
    }
}

unsafe extern "C-unwind" fn copy_minimal_tuple(
    slot: *mut pg_sys::TupleTableSlot,
) -> pg_sys::MinimalTuple {
    // SAFETY: our slot begins with a virtual one, which is complete after the first line.
    unsafe {
        get_all(slot);
        match virtual_slots().copy_minimal_tuple {
            Some(copy) => copy(slot),
            None => std::ptr::null_mut(),
        }
    }
}
