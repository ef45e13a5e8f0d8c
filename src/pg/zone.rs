//! Time zones, as the server knows them.

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Seconds from 1970-01-01, where clocks of operating systems begin, to 2000-01-01, where PostgreSQL's timestamps do.
const EPOCH: i64 = 946_684_800;

/// Offsets from UTC are smaller than this many seconds.
const WIDEST_OFFSET: i64 = 16 * 3600;

/// A time zone.
#[derive(Clone, Copy)]
pub struct Zone(*const pg_sys::pg_tz);

/// What a clock on the wall shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// The year, of our era where positive.
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
    /// Days since Sunday, 0 to 6.
    pub weekday: u32,
}

impl Zone {
    /// The zone of that name: one of `pg_timezone_names`, or POSIX's way of writing one. `None` where the server knows none.
    pub fn named(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: a NUL-terminated name; what is found lives as long as the process.
        unsafe {
            let zone = pg_sys::pg_tzset(name.as_ptr());
            (!zone.is_null() && pg_sys::pg_tz_acceptable(zone)).then_some(Zone(zone))
        }
    }

    /// The session's setting `TimeZone`.
    pub fn of_session() -> Self {
        // SAFETY: set before anything of a session runs.
        Zone(unsafe { pg_sys::session_timezone })
    }

    /// Its name.
    pub fn name(&self) -> String {
        // SAFETY: a valid zone; its name is NUL-terminated.
        unsafe {
            let name = pg_sys::pg_get_timezone_name(self.0.cast_mut());
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }

    /// What the clock shows at an instant (seconds since 1970), and how many seconds it is ahead of UTC. `None` beyond the
    /// times that the server knows.
    pub fn civil(&self, at: i64) -> Option<(Civil, i64)> {
        // SAFETY: the result is a variable of the function, read before it is called again.
        let tm = unsafe { pg_sys::pg_localtime(&at, self.0).as_ref()? };
        let part = |value: i32| u32::try_from(value).ok();
        let civil = Civil {
            year: tm.tm_year.checked_add(1900)?,
            month: part(tm.tm_mon + 1)?,
            day: part(tm.tm_mday)?,
            hour: part(tm.tm_hour)?,
            minute: part(tm.tm_min)?,
            second: part(tm.tm_sec)?.min(59),
            weekday: part(tm.tm_wday)?,
        };
        Some((civil, tm.tm_gmtoff as i64))
    }

    /// The instants at which the clock shows a time, given as the seconds from 1970-01-01 00:00 of the same clock: none
    /// where it is set forward over that time, two where it is set back.
    pub fn instants(&self, shown: i64) -> Vec<i64> {
        let mut offsets = Vec::new();
        let mut at = shown - WIDEST_OFFSET;
        let last = shown + WIDEST_OFFSET;
        while at <= last {
            let Some((_, offset)) = self.civil(at) else {
                break;
            };
            offsets.push(offset);
            match self.change_after(at) {
                Some(change) if change > at => at = change,
                _ => break,
            }
        }
        let mut found: Vec<i64> = offsets
            .into_iter()
            .map(|offset| (shown - offset, offset))
            .filter(|&(at, offset)| self.civil(at).is_some_and(|(_, o)| o == offset))
            .map(|(at, _)| at)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// When the offset next changes after an instant.
    fn change_after(&self, at: i64) -> Option<i64> {
        let (mut before, mut after) = (0, 0);
        let (mut before_dst, mut after_dst) = (0, 0);
        let mut boundary = 0;
        // SAFETY: a valid zone, and places for the results.
        let found = unsafe {
            pg_sys::pg_next_dst_boundary(
                &at,
                &mut before,
                &mut before_dst,
                &mut boundary,
                &mut after,
                &mut after_dst,
                self.0,
            )
        };
        (found == 1).then_some(boundary)
    }
}

/// Seconds since 1970 of a timestamp of PostgreSQL's, the part of a second left out.
pub fn to_unix(at: pg_sys::TimestampTz) -> i64 {
    at.div_euclid(1_000_000) + EPOCH
}

/// A timestamp of PostgreSQL's from seconds since 1970; `None` where there is none.
pub fn from_unix(at: i64) -> Option<pg_sys::TimestampTz> {
    at.checked_sub(EPOCH)?.checked_mul(1_000_000)
}
