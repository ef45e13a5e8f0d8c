//! Which functions are TimescaleDB's.

use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// What was found out, until a function changes: the catalogues have no cache for it.
    static KNOWN: RefCell<HashMap<pg_sys::Oid, bool>> = RefCell::new(HashMap::new());
}

/// Watches for changed functions; called once from `_PG_init`.
pub fn install() {
    // SAFETY: the callback stays for the life of the process.
    unsafe {
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::PROCOID as i32,
            Some(forget),
            pg_sys::Datum::from(0usize),
        );
    }
}

unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    // Where the process ends, nobody asks.
    let _ = KNOWN.try_with(|known| known.borrow_mut().clear());
}

/// Whether a function or aggregate is a member of the extension.
pub fn is_member(function: pg_sys::Oid) -> bool {
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&function).copied()) {
        return known;
    }
    // SAFETY: catalogue look-ups.
    let member = unsafe {
        let extension = pg_sys::get_extension_oid(c"timescaledb".as_ptr(), true);
        extension != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, function) == extension
    };
    KNOWN.with_borrow_mut(|known| known.insert(function, member));
    member
}
