//! Columns out of a fuzzer's bytes: textures that the encoders look for, and deviations from them.

use varve_core::{Bitmap, Column, Values};

/// Bytes that are used up from the front; zeros when there are no more.
pub struct Source<'a>(pub &'a [u8]);

impl<'a> Source<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// The next two.
    pub fn short(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    /// A number of up to eight bytes.
    pub fn number(&mut self) -> i64 {
        let bytes = self.byte() % 9;
        let shift = 64 - 8 * u32::from(bytes);
        let word = (0..bytes).fold(0u64, |word, i| {
            word | u64::from(self.byte()) << (8 * u32::from(i))
        });
        if bytes == 0 {
            0
        } else {
            (word << shift).cast_signed() >> shift
        }
    }

    /// Up to `most` bytes.
    pub fn some(&mut self, most: usize) -> &'a [u8] {
        let n = usize::from(self.byte()).min(most).min(self.0.len());
        let (some, rest) = self.0.split_at(n);
        self.0 = rest;
        some
    }
}

/// Where pages begin and end, and some more.
const ROWS: [usize; 8] = [0, 1, 9, 1023, 1024, 1025, 2048, 2500];

/// A column.
pub fn column(source: &mut Source<'_>) -> Column {
    let choice = source.byte();
    let rows = match choice / 8 {
        n @ 0..8 => ROWS[usize::from(n)],
        _ => source.short() % 1500,
    };
    let values = values(choice % 8, rows, source);
    let validity = match source.byte() % 4 {
        0 => {
            let pattern = source.some(16);
            let bit = |i: usize| {
                pattern
                    .get(i / 8 % pattern.len().max(1))
                    .is_none_or(|byte| byte >> (i % 8) & 1 == 1)
            };
            let mut bits = Bitmap::new(rows);
            (0..rows).for_each(|i| bits.set(i, bit(i)));
            Some(bits)
        }
        1 => Some(Bitmap::new(rows)),
        _ => None,
    };
    Column { validity, values }
}

/// Numbers that repeat, with a step from one round to the next, and a few that are different.
fn numbers(rows: usize, source: &mut Source<'_>) -> Vec<i64> {
    let n = 1 + usize::from(source.byte() % 16);
    let (step, unit) = (source.number(), source.number());
    let repeat = 1 + source.short() % 400;
    let base: Vec<i64> = (0..n).map(|_| source.number()).collect();
    let mut numbers: Vec<i64> = (0..rows)
        .map(|i| {
            let round = (i / repeat) as i64;
            base[i / repeat % n]
                .wrapping_add(round.wrapping_mul(step))
                .wrapping_mul(unit.wrapping_add(1))
        })
        .collect();
    for _ in 0..source.byte() % 8 {
        let at = source.short();
        if let Some(number) = numbers.get_mut(at) {
            *number = source.number();
        }
    }
    numbers
}

fn float(form: u8, number: i64) -> f64 {
    match form % 5 {
        0 => f64::from_bits(number.cast_unsigned()),
        1 => number as f64,
        n => number as f64 / 10f64.powi(i32::from(n) * 2 - 3),
    }
}

fn values(kind: u8, rows: usize, source: &mut Source<'_>) -> Values {
    let narrow = |n: &i64| *n;
    match kind {
        0 => Values::I8(
            numbers(rows, source)
                .iter()
                .map(|n| narrow(n) as i8)
                .collect(),
        ),
        1 => Values::I16(
            numbers(rows, source)
                .iter()
                .map(|n| narrow(n) as i16)
                .collect(),
        ),
        2 => Values::I32(
            numbers(rows, source)
                .iter()
                .map(|n| narrow(n) as i32)
                .collect(),
        ),
        3 => Values::I64(numbers(rows, source)),
        4 => {
            let form = source.byte();
            let numbers = numbers(rows, source);
            let single = |n: &i64| match form % 5 {
                0 => f32::from_bits(*n as u32),
                _ => float(form, *n) as f32,
            };
            Values::F32(numbers.iter().map(single).collect())
        }
        5 => {
            let form = source.byte();
            let numbers = numbers(rows, source);
            Values::F64(numbers.iter().map(|n| float(form, *n)).collect())
        }
        6 => {
            let len = 1 + usize::from(source.byte() % 40);
            let parts = texts(rows, source);
            let mut data = Vec::with_capacity(len * rows);
            for part in parts {
                let padded = part.iter().copied().chain(std::iter::repeat(0));
                data.extend(padded.take(len));
            }
            Values::Fixed { len, data }
        }
        _ => {
            let (mut offsets, mut data) = (vec![0], Vec::new());
            for part in texts(rows, source) {
                data.extend(part);
                offsets.push(data.len() as u32);
            }
            Values::Bytes { offsets, data }
        }
    }
}

/// Texts out of few, with or without a number behind.
fn texts(rows: usize, source: &mut Source<'_>) -> Vec<Vec<u8>> {
    let n = 1 + usize::from(source.byte() % 24);
    let mode = source.byte();
    let repeat = 1 + source.short() % 400;
    let base: Vec<&[u8]> = (0..n).map(|_| source.some(64)).collect();
    (0..rows)
        .map(|i| {
            let mut text = base[i / repeat % n].to_vec();
            match mode % 4 {
                0 => text.extend(format!("{i}").bytes()),
                1 => text = text.repeat(1 + i % 5),
                2 => text.extend((i as u64 * 0x9e37_79b9).to_be_bytes()),
                _ => {}
            }
            text
        })
        .collect()
}
