//! When a job is due: cron expressions and plain intervals.
//!
//! Cron expressions are the crate `croner`'s: five fields, or six with seconds first, names of months and days, `L`, `W`,
//! `#`, and nicknames such as `@daily`. They are evaluated on the clock of the job's time zone as PostgreSQL knows it: a time that the clock
//! skips in spring is run when it has been set forward, one that it shows twice in autumn is run once.

use crate::pg::ffi;
use crate::pg::zone::{self, Civil, Zone};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Year};
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use pgrx::pg_sys;
use std::cmp::Ordering;
use std::ffi::CString;

/// Shortest interval between two runs: a second.
const SHORTEST: i64 = 1_000_000;
const DAY: i64 = 86_400 * 1_000_000;

/// A schedule.
pub enum Schedule {
    /// A multiple of an interval after the first run.
    Every(pg_sys::Interval),
    /// A cron expression.
    Cron(Box<Cron>),
}

impl Schedule {
    /// Reads a schedule; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let why = match cron(text) {
            Ok(cron) => return Ok(Schedule::Cron(Box::new(cron))),
            Err(why) => why,
        };
        // To an interval's input most punctuation is a space: it takes '*/5 * * * x' for five seconds.
        let is_words = |c: char| c.is_alphanumeric() || " .:+-".contains(c);
        match interval(text).filter(|_| text.chars().all(is_words)) {
            Some(interval) if least(&interval) < SHORTEST => {
                Err("An interval is a second or longer.".into())
            }
            Some(interval) => Ok(Schedule::Every(interval)),
            None => Err(why),
        }
    }

    /// The first time after `now` at which a job is due. `first` is when it was due once: intervals are counted from there.
    /// `None` where there is no such time.
    pub fn next(
        &self,
        zone: Zone,
        first: pg_sys::TimestampTz,
        now: pg_sys::TimestampTz,
    ) -> Option<pg_sys::TimestampTz> {
        match self {
            Schedule::Every(interval) => next_multiple(interval, zone, first, now),
            Schedule::Cron(cron) => {
                let from = Moment::at(zone::to_unix(now), zone)?;
                let found = cron.find_next_occurrence(&from, false).ok()?;
                zone::from_unix(found.at)
            }
        }
    }
}

/// What a text says as a cron expression.
fn cron(text: &str) -> Result<Cron, String> {
    CronParser::builder()
        .year(Year::Disallowed)
        .build()
        .parse(text)
        .map_err(|e| match e {
            CronError::InvalidPattern(why)
            | CronError::IllegalCharacters(why)
            | CronError::ComponentError(why) => why,
            CronError::EmptyPattern => "It is empty.".into(),
            other => other.to_string(),
        })
}

/// What a text says as an interval of PostgreSQL's; `None` where it is none.
fn interval(text: &str) -> Option<pg_sys::Interval> {
    let text = CString::new(text).ok()?;
    // SAFETY: the input function of intervals, told to report errors by the node instead of raising them; the result is
    // copied out of its memory.
    unsafe {
        let mut errors = pg_sys::ErrorSaveContext {
            type_: pg_sys::NodeTag::T_ErrorSaveContext,
            ..Default::default()
        };
        let mut result = pg_sys::Datum::null();
        let valid = pg_sys::DirectInputFunctionCallSafe(
            Some(ffi::raw::interval_in),
            text.as_ptr().cast_mut(),
            pg_sys::InvalidOid,
            -1,
            (&raw mut errors).cast(),
            &mut result,
        );
        valid.then(|| *result.cast_mut_ptr::<pg_sys::Interval>())
    }
}

/// The shortest time that an interval may stand for, in microseconds; 0 where any part of it is negative or it is infinite.
fn least(interval: &pg_sys::Interval) -> i64 {
    if interval.month < 0 || interval.day < 0 || interval.time < 0 || interval.month == i32::MAX {
        return 0;
    }
    let days = i64::from(interval.month) * 28 + i64::from(interval.day);
    days.saturating_mul(DAY - 3_600_000_000)
        .saturating_add(interval.time)
}

/// The longest time that an interval may stand for, in microseconds.
fn most(interval: &pg_sys::Interval) -> i64 {
    let days = i64::from(interval.month) * 31 + i64::from(interval.day);
    days.saturating_mul(DAY + 3_600_000_000)
        .saturating_add(interval.time)
}

fn next_multiple(
    interval: &pg_sys::Interval,
    zone: Zone,
    first: i64,
    now: i64,
) -> Option<pg_sys::TimestampTz> {
    // No multiple below this one can be late enough.
    let passed = now.checked_sub(first)?.max(0);
    let mut n = (passed / most(interval).max(1)).max(0);
    loop {
        let multiple = pg_sys::Interval {
            time: interval.time.checked_mul(n)?,
            day: i32::try_from(i64::from(interval.day).checked_mul(n)?).ok()?,
            month: i32::try_from(i64::from(interval.month).checked_mul(n)?).ok()?,
        };
        let at = add(first, &multiple, zone)?;
        if at > now {
            return Some(at);
        }
        // As many more as it lacks at least.
        n += ((now - at) / most(interval).max(1)).max(1);
    }
}

/// A time and an interval, whose days and months are those of the zone's clock.
fn add(at: i64, interval: &pg_sys::Interval, zone: Zone) -> Option<i64> {
    const FARTHEST: i64 = 200_000 * 365 * DAY;
    if at.checked_add(most(interval))? > FARTHEST {
        return None;
    }
    let name = zone.name();
    // SAFETY: an SQL function of three arguments, called with values of its types.
    unsafe {
        let name = pgrx::IntoDatum::into_datum(name)?;
        let sum = pg_sys::DirectFunctionCall3Coll(
            Some(ffi::raw::timestamptz_pl_interval_at_zone),
            pg_sys::InvalidOid,
            pg_sys::Datum::from(at),
            pg_sys::Datum::from(std::ptr::from_ref(interval).cast_mut()),
            name,
        );
        Some(sum.value() as i64)
    }
}

/// An instant, and what a clock shows then.
#[derive(Clone)]
struct Moment {
    at: i64,
    civil: Civil,
    zone: Zone,
}

impl Moment {
    fn at(at: i64, zone: Zone) -> Option<Self> {
        let (civil, _) = zone.civil(at)?;
        Some(Moment { at, civil, zone })
    }
}

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let c = &self.civil;
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(c.year, c.month, c.day),
            CivilTime::from_parts_unchecked(c.hour, c.minute, c.second),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.civil.weekday)
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let days = days_since_1970(civil.year(), civil.month(), civil.day());
        let time = civil.hour() * 3600 + civil.minute() * 60 + civil.second();
        let found = self.zone.instants(days * 86_400 + i64::from(time));
        let moment = |at| Moment::at(at, self.zone).ok_or(CronError::InvalidTime);
        Ok(match found.as_slice() {
            [] => Resolution::Gap,
            [only] => Resolution::Single(moment(*only)?),
            [earlier, .., later] => Resolution::Ambiguous(moment(*earlier)?, moment(*later)?),
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        Moment::at(self.at.checked_add(seconds)?, self.zone)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

/// Days from 1970-01-01 to a date.
fn days_since_1970(year: i32, month: u32, day: u32) -> i64 {
    // SAFETY: arithmetic.
    let julian = unsafe { pg_sys::date2j(year, month as i32, day as i32) };
    i64::from(julian) - i64::from(pg_sys::UNIX_EPOCH_JDATE)
}
