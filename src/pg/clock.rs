//! The time of day.

use pgrx::pg_sys;

/// The time now, in microseconds since 2000.
pub fn now() -> pg_sys::TimestampTz {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
