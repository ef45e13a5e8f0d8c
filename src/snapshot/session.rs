//! The settings that values and definitions are written and read under, so that they mean the same everywhere.

use crate::pg::spi::with_setting;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::{CStr, CString};

/// Texts of values: exact, in one style, in one time zone, with names that say their schema; and statements that are read as they
/// were written.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
    (c"xmloption", c"content"),
    (c"quote_all_identifiers", c"off"),
    (c"standard_conforming_strings", c"on"),
    (c"array_nulls", c"on"),
    (c"transform_null_equals", c"off"),
];

type Setting = (&'static CStr, CString);

thread_local! {
    /// What the settings were before.
    static CALLERS: RefCell<Vec<Setting>> = const { RefCell::new(Vec::new()) };
}

/// The settings of the caller, forgotten when dropped.
struct Callers {
    /// Those of a call that this one is within.
    outer: Vec<Setting>,
}

impl Callers {
    fn note() -> Self {
        let each = SETTINGS.iter().map(|(name, _)| {
            // SAFETY: a setting that there is; its text is copied at once.
            let value = unsafe {
                let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
                match value.is_null() {
                    true => CString::default(),
                    false => CStr::from_ptr(value).to_owned(),
                }
            };
            (*name, value)
        });
        Callers {
            outer: CALLERS.replace(each.collect()),
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        CALLERS.set(std::mem::take(&mut self.outer));
    }
}

/// Runs `f` under these settings; they are put back on every way out.
pub fn settled<T>(f: impl FnOnce() -> T) -> T {
    let _callers = Callers::note();
    under(SETTINGS, Box::new(f))
}

/// Runs `f`, which is within [`settled`], under the settings of who called it: the user's triggers run as they do elsewhere.
pub fn as_called<T>(f: impl FnOnce() -> T) -> T {
    let callers = CALLERS.with_borrow(Clone::clone);
    let callers: Vec<(&CStr, &CStr)> = callers.iter().map(|(n, v)| (*n, v.as_c_str())).collect();
    under(&callers, Box::new(f))
}

fn under<'f, T: 'f>(settings: &[(&CStr, &CStr)], f: Box<dyn FnOnce() -> T + 'f>) -> T {
    match settings.split_first() {
        Some(((name, value), rest)) => with_setting(name, value, || under(rest, f)),
        None => f(),
    }
}
