//! The settings that values and definitions are written and read under, so that they mean the same everywhere.

use crate::pg::spi::with_setting;
use std::ffi::CStr;

/// Texts of values: exact, in one style, in one time zone, with names that say their schema.
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
];

/// Runs `f` under these settings; they are put back on every way out.
pub fn settled<T>(f: impl FnOnce() -> T) -> T {
    under(SETTINGS, Box::new(f))
}

fn under<'f, T: 'f>(settings: &[(&CStr, &CStr)], f: Box<dyn FnOnce() -> T + 'f>) -> T {
    match settings.split_first() {
        Some(((name, value), rest)) => with_setting(name, value, || under(rest, f)),
        None => f(),
    }
}
