//! Two segments in which rows of the same keys lie in the same places: in which columns and in which rows they differ.
//!
//! Values that are stored in the same way are the same; it is not so the other way round (1.0 and 1.00), and need not be: rows that differ here are
//! compared by what they say.

use crate::am::body::BodyReader;
use crate::am::directory::SegmentRef;
use crate::scan::columns::{Columns, Stored};
use crate::scan::eval::{Bits, NO_ROWS, first_rows, valid};
use varve_core::change::Side;
use varve_core::paged::{Dictionary, Page, PageValues};

/// Bytes that are compared at a time.
const AT_A_TIME: usize = 64 << 10;

/// What is wrong with a segment of the old or of the new relation, in words.
pub type Damage = (Side, String);

/// Those of the columns (attributes of the old relation's segment and of the new one's) that are not encoded in the same bytes.
pub fn unequal(
    a: &SegmentRef,
    b: &SegmentRef,
    columns: Vec<(i16, i16)>,
) -> Result<Vec<(i16, i16)>, Damage> {
    let mut found = Vec::new();
    let (old, new) = (|detail| (Side::Old, detail), |detail| (Side::New, detail));
    let (mut bytes_a, mut bytes_b) = (Vec::new(), Vec::new());
    let bodies = [a, b].map(|segment| BodyReader::new(&segment.companion));
    let [body_a, body_b] = &bodies;
    for (attnum_a, attnum_b) in columns {
        let same = match (a.column(attnum_a.into()), b.column(attnum_b.into())) {
            (None, None) => true,
            (Some((entry_a, start_a)), Some((entry_b, start_b))) => {
                let stored = |e: &varve_core::header::ColumnEntry| (e.bytes, e.kind, e.form);
                let mut same = stored(entry_a) == stored(entry_b);
                let mut done = 0;
                let length = entry_a.bytes as usize;
                while same && done < length {
                    let end = length.min(done + AT_A_TIME);
                    bytes_a.clear();
                    bytes_b.clear();
                    body_a
                        .read(a.location(), start_a + done..start_a + end, &mut bytes_a)
                        .map_err(old)?;
                    body_b
                        .read(b.location(), start_b + done..start_b + end, &mut bytes_b)
                        .map_err(new)?;
                    same = bytes_a == bytes_b;
                    done = end;
                }
                same
            }
            _ => false,
        };
        if !same {
            found.push((attnum_a, attnum_b));
        }
    }
    Ok(found)
}

/// The rows of the pages that both are at that differ in one of these columns.
pub fn differing(a: &mut Columns, b: &mut Columns, columns: &[(i16, i16)]) -> Result<Bits, Damage> {
    let mut differ = NO_ROWS;
    let rows = a.rows();
    if b.rows() != rows {
        return Err((
            Side::New,
            "it has other pages than the one beside it".into(),
        ));
    }
    for (attnum_a, attnum_b) in columns {
        let of_a = a.stored(*attnum_a).map_err(|detail| (Side::Old, detail))?;
        let of_b = b.stored(*attnum_b).map_err(|detail| (Side::New, detail))?;
        let found = match (of_a, of_b) {
            (Stored::Page(a, of_a), Stored::Page(b, of_b)) => differing_values(a, of_a, b, of_b),
            _ => first_rows(rows),
        };
        differ
            .iter_mut()
            .zip(found)
            .for_each(|(all, one)| *all |= one);
    }
    Ok(differ)
}

fn differing_values(
    a: &Page,
    of_a: Option<&Dictionary>,
    b: &Page,
    of_b: Option<&Dictionary>,
) -> Bits {
    let mut differ = match (a.values(), b.values()) {
        (PageValues::Ints(a), PageValues::Ints(b)) => where_not(a.iter().zip(b), |(a, b)| a == b),
        (PageValues::F64(a), PageValues::F64(b)) => {
            where_not(a.iter().zip(b), |(a, b)| a.to_bits() == b.to_bits())
        }
        (PageValues::F32(a), PageValues::F32(b)) => {
            where_not(a.iter().zip(b), |(a, b)| a.to_bits() == b.to_bits())
        }
        (values_a, values_b) => {
            let rows = 0..a.rows();
            where_not(rows, |row| {
                let bytes = (bytes(&values_a, of_a, row), bytes(&values_b, of_b, row));
                matches!(bytes, (Some(a), Some(b)) if a == b)
            })
        }
    };
    for ((differ, a), b) in differ.iter_mut().zip(valid(a)).zip(valid(b)) {
        // Of two NULLs, neither has a value.
        *differ = *differ & (a | b) | (a ^ b);
    }
    differ
}

/// Rows for which something does not hold.
#[inline]
fn where_not<T>(rows: impl Iterator<Item = T>, holds: impl Fn(T) -> bool) -> Bits {
    let mut bits = NO_ROWS;
    for (at, row) in rows.enumerate() {
        if let Some(word) = bits.get_mut(at / 64) {
            *word |= u64::from(!holds(row)) << (at % 64);
        }
    }
    bits
}

/// The bytes of a value.
fn bytes<'a>(
    values: &PageValues<'a>,
    dictionary: Option<&'a Dictionary>,
    row: usize,
) -> Option<&'a [u8]> {
    match values {
        PageValues::Codes(codes) => Some(dictionary?.get(*codes.get(row)?)),
        PageValues::Bytes { offsets, data } => {
            data.get(*offsets.get(row)? as usize..*offsets.get(row + 1)? as usize)
        }
        PageValues::Fixed { len, data } => data.get(row * len..(row + 1) * len),
        PageValues::Ints(_) | PageValues::F32(_) | PageValues::F64(_) => None,
    }
}
