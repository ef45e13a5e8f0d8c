//! Some values of a page, without unpacking all of it.
//!
//! A point query wants one row of each page that it meets, and unpacking a thousand numbers for one costs more than all else
//! that is done for it.

use super::PAGE_ROWS;
use super::floats::{self, BITS, DECIMALS, Real};
use super::index::{ColumnIndex, Mapping, Packing};
use super::ints::{self, Packed};
use super::layout::Validity;
use super::page::{Buffers, Form};
use super::unit::Unit;
use crate::Kind;
use crate::error::CoreError;
use crate::wire::Reader;

/// The most rows of a page that are worth decoding one by one.
pub const MOST_PICKED: usize = 64;

/// The rows that are wanted of a page.
pub(crate) struct Wanted<'a> {
    /// Their numbers.
    pub(crate) rows: &'a [u16],
    /// Where the page has NULLs.
    pub(crate) validity: Option<&'a Validity>,
    /// How many rows the page has; others are not there, and are left out.
    pub(crate) count: usize,
    /// How many of them are not NULL.
    pub(crate) present: usize,
}

impl Wanted<'_> {
    /// Puts the values of the rows where [`Page::values`](super::Page::values) has them; those of others stay what they
    /// were. `None` if the page is stored so that they cannot be had one by one; nothing was done then.
    pub(crate) fn pick(
        &self,
        index: &ColumnIndex,
        mut reader: Reader<'_>,
        buffers: &mut Buffers,
    ) -> Result<Option<Form>, CoreError> {
        if self.rows.len() > MOST_PICKED || reader.remaining() == 0 {
            return Ok(None);
        }
        if let Packing::Pco(_) = index.packing {
            return Ok(None);
        }
        let mut scaled = None;
        if let Mapping::Floats(scale, _) = &index.mapping {
            scaled = match (reader.u8()?, scale) {
                (BITS, _) => None,
                (DECIMALS, Some(scale)) => Some(*scale),
                _ => return Ok(None),
            };
        }
        if let Mapping::Plain = index.mapping {
            return Ok(None);
        }
        let Some(packed) = ints::read_packed(&mut reader, self.present)? else {
            return Ok(None);
        };
        reader.finish()?;
        if packed.delta && packed.width > 0 {
            return Ok(None);
        }
        let mut numbers = [0; MOST_PICKED];
        self.numbers(&packed, &mut numbers)?;
        let picked = || {
            let rows = self.rows.iter().map(|row| usize::from(*row));
            rows.zip(numbers).filter(|(row, _)| !self.is_null(*row))
        };
        Ok(Some(match (&index.mapping, index.kind) {
            (Mapping::Ints(unit), kind) => {
                let bits = match kind {
                    Kind::I8 => 8,
                    Kind::I16 => 16,
                    Kind::I32 => 32,
                    _ => 64,
                };
                self.integers(picked(), *unit, bits, &mut buffers.ints)?;
                Form::Ints
            }
            (Mapping::Codes(dictionary), _) => {
                let out = buffers.codes.get();
                for (row, number) in picked() {
                    let code = u32::try_from(number)
                        .ok()
                        .filter(|code| (*code as usize) < dictionary.len());
                    let code = code.ok_or_else(|| {
                        CoreError::corrupt(format!("{number} is no code of the dictionary"))
                    })?;
                    put(out, row, code);
                }
                self.blank(out);
                Form::Codes
            }
            (Mapping::Floats(scale, unit), Kind::F32) => {
                let unit = unit_of_floats(*scale, scaled, *unit);
                self.floats(picked(), scaled, unit, buffers.f32s.get());
                Form::F32
            }
            (Mapping::Floats(scale, unit), _) => {
                let unit = unit_of_floats(*scale, scaled, *unit);
                self.floats(picked(), scaled, unit, buffers.f64s.get());
                Form::F64
            }
            (Mapping::Plain, _) => return Ok(None),
        }))
    }

    /// The packed numbers of the rows that are not NULL.
    fn numbers(&self, packed: &Packed<'_>, out: &mut [i64; MOST_PICKED]) -> Result<(), CoreError> {
        for (position, _) in packed.patches() {
            if position >= self.present {
                return Err(CoreError::corrupt(format!("a patch of number {position}")));
            }
        }
        if packed.delta {
            self.steps(packed, out);
            return Ok(());
        }
        let mut places = [usize::MAX; MOST_PICKED];
        let mut wanted = [0u64; PAGE_ROWS / 64];
        for ((row, place), number) in self.rows.iter().zip(&mut places).zip(out.iter_mut()) {
            let row = usize::from(*row);
            if self.is_null(row) {
                continue;
            }
            *place = self.place(row);
            if let Some(word) = wanted.get_mut(*place / 64) {
                *word |= 1 << (*place % 64);
            }
            *number = one(packed.stored, packed.width, self.present, *place)
                .wrapping_add(packed.reference)
                .cast_signed();
        }
        for (position, high) in packed.patches() {
            let word = wanted.get(position / 64).copied().unwrap_or_default();
            if word >> (position % 64) & 1 == 0 {
                continue;
            }
            for (place, number) in places.iter().zip(out.iter_mut()) {
                if *place == position {
                    *number = number.wrapping_add(high);
                }
            }
        }
        Ok(())
    }

    /// As [`numbers`](Self::numbers), where the steps from one to the next are all alike, but for the patches. What stands for
    /// the first step is not looked at.
    fn steps(&self, packed: &Packed<'_>, out: &mut [i64; MOST_PICKED]) {
        let mut places = [0; MOST_PICKED];
        for ((row, place), number) in self.rows.iter().zip(&mut places).zip(out.iter_mut()) {
            let row = usize::from(*row);
            if !self.is_null(row) {
                *place = self.place(row);
                let steps = (*place as i64).wrapping_mul(packed.reference.cast_signed());
                *number = packed.first.wrapping_add(steps);
            }
        }
        for (position, step) in packed.patches().filter(|(position, _)| *position > 0) {
            for (place, number) in places.iter().zip(out.iter_mut()) {
                let step = if *place >= position { step } else { 0 };
                *number = number.wrapping_add(step);
            }
        }
    }

    /// Whether a row has no value.
    fn is_null(&self, row: usize) -> bool {
        let word = |validity: &Validity| validity.get(row / 64).copied();
        row >= self.count
            || self
                .validity
                .and_then(word)
                .is_some_and(|word| word >> (row % 64) & 1 == 0)
    }

    /// Where the value of a row is among those that are not NULL.
    fn place(&self, row: usize) -> usize {
        let Some(validity) = self.validity else {
            return row;
        };
        let words = validity.iter().take(row / 64);
        let before: u32 = words.map(|word| word.count_ones()).sum();
        let word = validity.get(row / 64).copied().unwrap_or_default();
        before as usize + (word & !(u64::MAX << (row % 64))).count_ones() as usize
    }

    fn integers(
        &self,
        picked: impl Iterator<Item = (usize, i64)>,
        unit: Unit,
        bits: u32,
        out: &mut [i64; PAGE_ROWS],
    ) -> Result<(), CoreError> {
        for (row, number) in picked {
            let value = unit.value(number);
            if value << (64 - bits) >> (64 - bits) != value {
                return Err(CoreError::corrupt(
                    "a number that is out of its type's range",
                ));
            }
            put(out, row, value);
        }
        self.blank(out);
        Ok(())
    }

    fn floats<T: Real>(
        &self,
        picked: impl Iterator<Item = (usize, i64)>,
        scaled: Option<u8>,
        unit: Unit,
        out: &mut [T; PAGE_ROWS],
    ) {
        for (row, number) in picked {
            let whole = unit.value(number);
            let value = match scaled {
                Some(scale) => T::nearest(floats::to_float(whole) / floats::power(scale)),
                None => T::from_ordered(whole),
            };
            put(out, row, value);
        }
        self.blank(out);
    }

    /// Blanks the rows that have no value.
    fn blank<T: Copy + Default>(&self, out: &mut [T; PAGE_ROWS]) {
        for row in self.rows.iter().map(|row| usize::from(*row)) {
            if self.is_null(row) {
                put(out, row, T::default());
            }
        }
    }
}

/// Ordered bits are counted in the column's unit only where it has no scale.
fn unit_of_floats(scale: Option<u8>, scaled: Option<u8>, unit: Unit) -> Unit {
    if scale.is_some() && scaled.is_none() {
        Unit::ONE
    } else {
        unit
    }
}

fn put<T>(out: &mut [T; PAGE_ROWS], row: usize, value: T) {
    if let Some(slot) = out.get_mut(row) {
        *slot = value;
    }
}

/// Number `at` of the `count` that are packed at `width` bits (below 64); 0 beyond the end.
fn one(stored: &[u8], width: usize, count: usize, at: usize) -> u64 {
    let mask = (1u64 << width) - 1;
    let word = |n: usize| {
        let bytes = stored.get(8 * n..).unwrap_or_default();
        let mut word = [0; 8];
        word.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    };
    // In a full page the words of sixteen streams alternate (see `docs/format.md`).
    let (bit, streams, stream) = if count == PAGE_ROWS {
        const ORDER: [usize; 8] = [0, 4, 2, 6, 1, 5, 3, 7];
        let order = ORDER.get(at / 16 % 8).copied().unwrap_or_default();
        ((8 * order + at / 128) * width, 16, at % 16)
    } else {
        (at * width, 1, 0)
    };
    let (first, shift) = (streams * (bit / 64) + stream, bit % 64);
    let mut value = word(first) >> shift;
    if shift + width > 64 {
        value |= word(first + streams) << (64 - shift);
    }
    value & mask
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{bits, kernels};
    use super::*;

    #[test]
    fn one_number_is_what_all_together_say() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let values: Vec<i64> = (0..PAGE_ROWS)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.cast_signed()
            })
            .collect();
        for width in 0..64 {
            let mask = (1u64 << width) - 1;
            let mut words = [0; PAGE_ROWS];
            kernels::pack(width, values.first_chunk().unwrap(), 0, &mut words);
            let full: Vec<u8> = words[..16 * width]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            for (at, value) in values.iter().enumerate() {
                let wanted = value.cast_unsigned() & mask;
                assert_eq!(one(&full, width, PAGE_ROWS, at), wanted);
            }
            for count in [1, 7, 64, 500, 1023] {
                let mut stream = Vec::new();
                bits::pack(&values[..count], 0, width, &mut stream);
                for (at, value) in values[..count].iter().enumerate() {
                    let wanted = value.cast_unsigned() & mask;
                    assert_eq!(one(&stream, width, count, at), wanted);
                }
            }
        }
    }
}
