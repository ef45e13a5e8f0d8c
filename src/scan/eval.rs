//! Evaluating filters: first on zones and Bloom filters, then on decoded pages.

use super::columns::{Columns, Stored};
use super::filter::Filter;
use crate::am::datum::PageZone;
use crate::am::zone::{Comparison, Probe, Verdict, float_order, judge};
use std::borrow::Borrow;
use std::cmp::Ordering;
use varve_core::bitmap::Bitmap;
use varve_core::paged::{
    Dictionary, PAGE_ROWS, Page, PageValues, Zone, codes_below, floats_below, floats_up_to,
    ints_below,
};

/// One bit a row of a page.
pub type Bits = [u64; PAGE_ROWS / 64];

/// No row.
pub const NO_ROWS: Bits = [0; PAGE_ROWS / 64];

/// The first `rows` rows.
pub fn first_rows(rows: usize) -> Bits {
    let mut bits = NO_ROWS;
    for (word, from) in bits.iter_mut().zip((0..).step_by(64)) {
        *word = match rows.saturating_sub(from) {
            0 => 0,
            n if n >= 64 => u64::MAX,
            n => (1 << n) - 1,
        };
    }
    bits
}

/// Number of rows.
pub fn count(bits: &Bits) -> usize {
    bits.iter().map(|w| w.count_ones() as usize).sum()
}

/// A filter's value for one run of the scan.
#[derive(Clone, Debug)]
pub enum Resolved {
    /// NULL: nothing compares with it.
    Null,
    /// A value.
    One(Probe),
    /// The elements of an array that are not NULL, sorted.
    Many(Vec<Probe>),
}

/// Probes of one kind in the order of their type.
pub fn probe_order(a: &Probe, b: &Probe) -> Ordering {
    match (a, b) {
        (Probe::Int(a), Probe::Int(b)) => a.cmp(b),
        (Probe::Float(a), Probe::Float(b)) => float_order(*a, *b),
        (Probe::Bytes(a), Probe::Bytes(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

/// What is known of some rows before they are decoded.
pub trait Known {
    /// A zone, or what has it.
    type Zone: Borrow<Zone>;

    /// The zone of a column.
    fn zone(&mut self, attnum: i16) -> Option<Self::Zone>;

    /// Whether a column may hold a value that its zone does not rule out.
    fn may_hold(&mut self, _attnum: i16, _probe: &Probe) -> bool {
        true
    }
}

impl<Z: Borrow<Zone>, F: FnMut(i16) -> Option<Z>> Known for F {
    type Zone = Z;

    fn zone(&mut self, attnum: i16) -> Option<Z> {
        self(attnum)
    }
}

/// Values of a list that Bloom filters are asked for; of more, some is likely on any page.
const MOST_ASKED: usize = 64;

/// What is known of a filter. [`Verdict::Always`] means every row, NULLs included.
pub fn verdict(filter: &Filter, values: &[Resolved], known: &mut impl Known) -> Verdict {
    match filter {
        Filter::Compare {
            attnum,
            comparison,
            value,
        } => match values.get(*value) {
            Some(Resolved::One(probe)) => {
                let said = known.zone(*attnum).map_or(Verdict::Maybe, |z| {
                    let z = z.borrow();
                    all_rows(z, judge(z, *comparison, probe))
                });
                let ask = said == Verdict::Maybe && *comparison == Comparison::Equal;
                if ask && !known.may_hold(*attnum, probe) {
                    return Verdict::Never;
                }
                said
            }
            Some(Resolved::Null) => Verdict::Never,
            _ => Verdict::Maybe,
        },
        Filter::In { attnum, value } => match values.get(*value) {
            Some(Resolved::Many(probes)) => in_list(*attnum, probes, known),
            Some(Resolved::Null) => Verdict::Never,
            _ => Verdict::Maybe,
        },
        Filter::Null { attnum, wanted } => known.zone(*attnum).map_or(Verdict::Maybe, |z| {
            let z = z.borrow();
            let matching = if *wanted { z.nulls } else { z.rows - z.nulls };
            match matching {
                0 => Verdict::Never,
                n if n == z.rows => Verdict::Always,
                _ => Verdict::Maybe,
            }
        }),
        Filter::And(parts) => combine(parts, values, known, Verdict::Never, Verdict::Always),
        Filter::Or(parts) => combine(parts, values, known, Verdict::Always, Verdict::Never),
    }
}

/// The page at hand.
struct PageKnown<'a> {
    columns: &'a mut Columns,
    failed: Result<(), String>,
    /// Whether a Bloom filter ruled a value out.
    denied: bool,
}

impl Known for PageKnown<'_> {
    type Zone = PageZone;

    fn zone(&mut self, attnum: i16) -> Option<PageZone> {
        self.columns.page_zone(attnum).unwrap_or_else(|e| {
            self.failed = Err(e);
            None
        })
    }

    fn may_hold(&mut self, attnum: i16, probe: &Probe) -> bool {
        let may = self.columns.may_hold(attnum, probe).unwrap_or_else(|e| {
            self.failed = Err(e);
            true
        });
        self.denied |= !may;
        may
    }
}

/// What zones and Bloom filters of the page at hand say of a filter.
pub fn page_verdict(
    filter: &Filter,
    values: &[Resolved],
    columns: &mut Columns,
) -> Result<Verdict, String> {
    let mut known = PageKnown {
        columns,
        failed: Ok(()),
        denied: false,
    };
    let said = verdict(filter, values, &mut known);
    known.failed?;
    known.columns.filtered += u64::from(known.denied && said == Verdict::Never);
    Ok(said)
}

fn all_rows(zone: &Zone, verdict: Verdict) -> Verdict {
    if verdict == Verdict::Always && zone.nulls > 0 {
        Verdict::Maybe
    } else {
        verdict
    }
}

fn in_list(attnum: i16, probes: &[Probe], known: &mut impl Known) -> Verdict {
    let Some(zone) = known.zone(attnum) else {
        return Verdict::Maybe;
    };
    let zone = zone.borrow();
    let mut open = Vec::new();
    for probe in probes {
        match all_rows(zone, judge(zone, Comparison::Equal, probe)) {
            Verdict::Always => return Verdict::Always,
            // A zone of one value has no room for two.
            Verdict::Maybe if open.len() == MOST_ASKED => return Verdict::Maybe,
            Verdict::Maybe => open.push(probe),
            Verdict::Never => {}
        }
    }
    if open.iter().any(|probe| known.may_hold(attnum, probe)) {
        Verdict::Maybe
    } else {
        Verdict::Never
    }
}

/// AND or OR: `decides` ends it, `neutral` is what it is where no part is another.
fn combine(
    parts: &[Filter],
    values: &[Resolved],
    known: &mut impl Known,
    decides: Verdict,
    neutral: Verdict,
) -> Verdict {
    let mut result = neutral;
    for part in parts {
        let one = verdict(part, values, known);
        if one == decides {
            return decides;
        }
        if one == Verdict::Maybe {
            result = Verdict::Maybe;
        }
    }
    result
}

/// The rows of the page at hand that satisfy a filter. Errors say what is wrong with the stored bytes.
pub fn rows(filter: &Filter, values: &[Resolved], columns: &mut Columns) -> Result<Bits, String> {
    match filter {
        Filter::Compare {
            attnum,
            comparison,
            value,
        } => match values.get(*value) {
            Some(Resolved::One(probe)) => compare(columns, *attnum, *comparison, probe),
            _ => Ok(NO_ROWS),
        },
        Filter::In { attnum, value } => match values.get(*value) {
            Some(Resolved::Many(probes)) => contained(columns, *attnum, probes),
            _ => Ok(NO_ROWS),
        },
        Filter::Null { attnum, wanted } => {
            let rows = columns.rows();
            let present = match columns.stored(*attnum)? {
                Stored::Page(page, _) => valid(page),
                Stored::Missing(null) => {
                    if null {
                        NO_ROWS
                    } else {
                        first_rows(rows)
                    }
                }
            };
            if *wanted {
                Ok(and_not(&first_rows(rows), &present))
            } else {
                Ok(present)
            }
        }
        Filter::And(parts) => {
            let mut all = first_rows(columns.rows());
            for part in parts {
                and(&mut all, &rows(part, values, columns)?);
                if all == NO_ROWS {
                    break;
                }
            }
            Ok(all)
        }
        Filter::Or(parts) => {
            let mut any = NO_ROWS;
            for part in parts {
                let some = rows(part, values, columns)?;
                any.iter_mut().zip(some).for_each(|(a, b)| *a |= b);
            }
            Ok(any)
        }
    }
}

/// Keeps what is in both.
pub fn and(bits: &mut Bits, other: &Bits) {
    bits.iter_mut().zip(other).for_each(|(a, b)| *a &= b);
}

/// What is in `bits` and not in `other`.
pub fn and_not(bits: &Bits, other: &Bits) -> Bits {
    let mut result = *bits;
    result.iter_mut().zip(other).for_each(|(a, b)| *a &= !b);
    result
}

/// Takes the rows of a page out that are set in its segment's bitmap.
pub fn without(rows: &mut Bits, bitmap: &Bitmap, page: usize) {
    for (word, not) in rows.iter_mut().zip(bitmap.words(page * PAGE_ROWS)) {
        *word &= !not;
    }
}

/// The rows that are not NULL.
pub fn valid(page: &Page) -> Bits {
    page.validity()
        .copied()
        .unwrap_or_else(|| first_rows(page.rows()))
}

/// The positions for which `test` holds.
fn collect<T: Copy>(values: &[T], test: impl Fn(T) -> bool) -> Bits {
    let mut bits = NO_ROWS;
    for (word, chunk) in bits.iter_mut().zip(values.chunks(64)) {
        for (i, value) in chunk.iter().enumerate() {
            *word |= u64::from(test(*value)) << i;
        }
    }
    bits
}

/// The rows that a comparison holds for, given those below the value and those below it or equal to it. Bits beyond the
/// page's rows may be set.
fn by_bounds(
    comparison: Comparison,
    below: impl FnOnce() -> Bits,
    up_to: impl FnOnce() -> Bits,
) -> Bits {
    const ALL_ROWS: Bits = [u64::MAX; PAGE_ROWS / 64];
    match comparison {
        Comparison::Less => below(),
        Comparison::LessEqual => up_to(),
        Comparison::Equal => and_not(&up_to(), &below()),
        Comparison::GreaterEqual => and_not(&ALL_ROWS, &below()),
        Comparison::Greater => and_not(&ALL_ROWS, &up_to()),
        Comparison::NotEqual => and_not(&ALL_ROWS, &and_not(&up_to(), &below())),
    }
}

fn collect_ints(values: &[i64], comparison: Comparison, with: i64) -> Bits {
    let up_to = || match with.checked_add(1) {
        Some(next) => ints_below(values, next),
        None => first_rows(values.len()),
    };
    by_bounds(comparison, || ints_below(values, with), up_to)
}

/// Doubles in PostgreSQL's order, in which NaN is above all numbers: it is not below any of them, as the processor says.
fn collect_doubles(values: &[f64], comparison: Comparison, with: f64) -> Bits {
    if with.is_nan() {
        return collect_floats(values, comparison, with);
    }
    by_bounds(
        comparison,
        || floats_below(values, with),
        || floats_up_to(values, with),
    )
}

/// Floats in PostgreSQL's order. Comparisons with a number go by the hardware's, but that NaN is above it.
fn collect_floats<T: Copy + Into<f64>>(values: &[T], comparison: Comparison, with: f64) -> Bits {
    if with.is_nan() {
        return collect(values, |v| comparison.holds(float_order(v.into(), with)));
    }
    match comparison {
        Comparison::Less => collect(values, |v| v.into() < with),
        Comparison::LessEqual => collect(values, |v| v.into() <= with),
        Comparison::Equal => collect(values, |v| v.into() == with),
        Comparison::NotEqual => collect(values, |v| v.into() != with),
        // Not below, which NaN is not.
        Comparison::GreaterEqual => collect(values, |v| {
            let v: f64 = v.into();
            (v >= with) | v.is_nan()
        }),
        Comparison::Greater => collect(values, |v| {
            let v: f64 = v.into();
            (v > with) | v.is_nan()
        }),
    }
}

fn compare(
    columns: &mut Columns,
    attnum: i16,
    comparison: Comparison,
    probe: &Probe,
) -> Result<Bits, String> {
    let rows = columns.rows();
    let (page, dictionary) = match columns.stored(attnum)? {
        Stored::Page(page, dictionary) => (page, dictionary),
        Stored::Missing(true) => return Ok(NO_ROWS),
        Stored::Missing(false) => {
            let holds = columns
                .missing_probe(attnum, probe)
                .is_some_and(|v| comparison.holds(probe_order(&v, probe)));
            return Ok(if holds { first_rows(rows) } else { NO_ROWS });
        }
    };
    let mut bits = match (page.values(), probe) {
        (PageValues::Ints(v), Probe::Int(with)) => collect_ints(v, comparison, *with),
        (PageValues::F64(v), Probe::Float(with)) => collect_doubles(v, comparison, *with),
        (PageValues::F32(v), Probe::Float(with)) => collect_floats(v, comparison, *with),
        (PageValues::Codes(codes), Probe::Bytes(with)) => {
            let dictionary = dictionary.ok_or("codes without a dictionary")?;
            compare_codes(codes, dictionary, comparison, with)
        }
        (PageValues::Bytes { offsets, data }, Probe::Bytes(with)) => {
            each_value(offsets, data, |v| comparison.holds(v.cmp(with)))
        }
        (PageValues::Fixed { len, data }, Probe::Bytes(with)) => {
            each_fixed(len, data, |v| comparison.holds(v.cmp(with)))
        }
        _ => return Err("its values are of another kind than its type's".into()),
    };
    and(&mut bits, &valid(page));
    Ok(bits)
}

fn compare_codes(
    codes: &[u32],
    dictionary: &Dictionary,
    comparison: Comparison,
    with: &[u8],
) -> Bits {
    let at = dictionary.lower_bound(with);
    let found = dictionary.find(with).is_some();
    let behind = at + u32::from(found);
    by_bounds(
        comparison,
        || codes_below(codes, at),
        || codes_below(codes, behind),
    )
}

fn each_value(offsets: &[u32], data: &[u8], test: impl Fn(&[u8]) -> bool) -> Bits {
    let mut bits = NO_ROWS;
    for (i, pair) in offsets.windows(2).enumerate() {
        let &[from, to] = pair else { continue };
        let value = data.get(from as usize..to as usize).unwrap_or_default();
        if let Some(word) = bits.get_mut(i / 64) {
            *word |= u64::from(test(value)) << (i % 64);
        }
    }
    bits
}

fn each_fixed(len: usize, data: &[u8], test: impl Fn(&[u8]) -> bool) -> Bits {
    let mut bits = NO_ROWS;
    for (i, value) in data.chunks_exact(len.max(1)).enumerate() {
        if let Some(word) = bits.get_mut(i / 64) {
            *word |= u64::from(test(value)) << (i % 64);
        }
    }
    bits
}

fn contained(columns: &mut Columns, attnum: i16, probes: &[Probe]) -> Result<Bits, String> {
    let rows = columns.rows();
    let (page, dictionary) = match columns.stored(attnum)? {
        Stored::Page(page, dictionary) => (page, dictionary),
        Stored::Missing(true) => return Ok(NO_ROWS),
        Stored::Missing(false) => {
            let holds = probes
                .first()
                .and_then(|p| columns.missing_probe(attnum, p))
                .is_some_and(|v| is_in(probes, &v));
            return Ok(if holds { first_rows(rows) } else { NO_ROWS });
        }
    };
    let bytes_in = |value: &[u8]| {
        probes
            .binary_search_by(|p| match p {
                Probe::Bytes(b) => b.as_ref().cmp(value),
                _ => Ordering::Less,
            })
            .is_ok()
    };
    let mut bits = match page.values() {
        PageValues::Ints(v) => collect(v, |x| is_in(probes, &Probe::Int(x))),
        PageValues::F64(v) => collect(v, |x| is_in(probes, &Probe::Float(x))),
        PageValues::F32(v) => collect(v, |x| is_in(probes, &Probe::Float(x.into()))),
        PageValues::Codes(codes) => {
            let dictionary = dictionary.ok_or("codes without a dictionary")?;
            let mut wanted: Vec<u32> = probes
                .iter()
                .filter_map(|p| match p {
                    Probe::Bytes(b) => dictionary.find(b),
                    _ => None,
                })
                .collect();
            wanted.sort_unstable();
            collect(codes, |c| wanted.binary_search(&c).is_ok())
        }
        PageValues::Bytes { offsets, data } => each_value(offsets, data, bytes_in),
        PageValues::Fixed { len, data } => each_fixed(len, data, bytes_in),
    };
    and(&mut bits, &valid(page));
    Ok(bits)
}

fn is_in(probes: &[Probe], value: &Probe) -> bool {
    probes.binary_search_by(|p| probe_order(p, value)).is_ok()
}
