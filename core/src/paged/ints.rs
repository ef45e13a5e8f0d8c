//! A page of integers.
//!
//! | field | bytes | |
//! |---|---|---|
//! | tag | 1 | 0 frame, 1 delta, 2 runs, 3 raw; bit 4: patches follow |
//!
//! - *frame*: width (1, below 64), reference (zigzag), [patches], block. A number is the packed one
//!   plus the reference.
//! - *delta*: width (1), first number (zigzag), reference (zigzag), [patches], block. The packed
//!   ones plus the reference are the steps from number to number; the first of them counts as zero.
//! - *runs*: number of runs (varint), width of the values (1), width of the lengths (1), reference
//!   (zigzag); stream of the values, less the reference; stream of the lengths, less one.
//! - *raw*: 8 bytes a number.
//! - *patches*: how many (varint), bytes of each (1; 1 to 8), positions (2 each), what is to be
//!   added (signed) after a shift to the left by the width.
//! - *block*: of 1,024 numbers, FastLanes words (see [`super::kernels`]); of fewer, a stream (see
//!   [`super::bits`]).
//!
//! All sums wrap around at 64 bits.

use super::kernels::{Block, Stream, Words};
use super::plan::{Plan, Shape, Window, block_len, plan, width};
use super::varint::{read_i64, read_usize, write_i64, write_usize};
use super::{PAGE_ROWS, bits, kernels, simd};
use crate::error::CoreError;
use crate::wire::Reader;

const FRAME: u8 = 0;
const DELTA: u8 = 1;
const RUNS: u8 = 2;
const RAW: u8 = 3;
const PATCHED: u8 = 0x10;

/// Encodes pages of integers; keeps its buffers.
pub(crate) struct IntWriter {
    steps: Vec<i64>,
    words: Box<Words>,
}

impl IntWriter {
    pub(crate) fn new() -> Self {
        Self {
            steps: Vec::with_capacity(PAGE_ROWS),
            words: Box::new([0; PAGE_ROWS]),
        }
    }

    /// How the numbers are best encoded; there must be between 1 and [`PAGE_ROWS`].
    pub(crate) fn plan(&mut self, values: &[i64]) -> Plan {
        self.steps.clear();
        let differences = values
            .iter()
            .zip(values.iter().skip(1))
            .map(|(a, b)| b.wrapping_sub(*a));
        self.steps.push(0);
        self.steps.extend(differences);
        if let [first, second, ..] = self.steps.as_mut_slice() {
            *first = *second;
        }
        plan(values, &self.steps)
    }

    /// Appends a page in its best encoding, which is returned.
    pub(crate) fn write(&mut self, values: &[i64], out: &mut Vec<u8>) -> Shape {
        let plan = self.plan(values);
        match plan.shape {
            Shape::Frame(window) => {
                out.push(FRAME | patched(window));
                out.push(window.width as u8);
                write_i64(out, window.reference.cast_signed());
                self.write_block(values, window, out);
            }
            Shape::Delta(window) => {
                out.push(DELTA | patched(window));
                out.push(window.width as u8);
                write_i64(out, values.first().copied().unwrap_or_default());
                write_i64(out, window.reference.cast_signed());
                let steps = std::mem::take(&mut self.steps);
                self.write_block(&steps, window, out);
                self.steps = steps;
            }
            Shape::Runs { count, longest } => write_runs(values, count, longest, out),
            Shape::Raw => {
                out.push(RAW);
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
        plan.shape
    }

    fn write_block(&mut self, values: &[i64], window: Window, out: &mut Vec<u8>) {
        if window.patches > 0 {
            write_patches(values, window, out);
        }
        let Window {
            reference, width, ..
        } = window;
        match values.first_chunk::<PAGE_ROWS>() {
            Some(block) => {
                kernels::pack(width, block, reference, &mut self.words);
                let words = self.words.iter().take(16 * width);
                out.extend(words.flat_map(|word| word.to_le_bytes()));
            }
            None => bits::pack(values, reference, width, out),
        }
    }
}

fn patched(window: Window) -> u8 {
    if window.patches > 0 { PATCHED } else { 0 }
}

fn write_patches(values: &[i64], window: Window, out: &mut Vec<u8>) {
    let high = |value: &i64| {
        value
            .wrapping_sub(window.reference.cast_signed())
            .checked_shr(window.width as u32)
            .unwrap_or_default()
    };
    let mut positions = Vec::with_capacity(2 * window.patches);
    let mut highs = Vec::with_capacity(window.patches);
    let mut all = 0u64;
    for (i, value) in values.iter().enumerate() {
        let high = high(value);
        if high != 0 {
            positions.extend_from_slice(&(i as u16).to_le_bytes());
            highs.push(high);
            all |= (high ^ (high >> 63)).cast_unsigned();
        }
    }
    let each = (width(all) + 1).div_ceil(8);
    write_usize(out, highs.len());
    out.push(each as u8);
    out.extend_from_slice(&positions);
    for high in highs {
        out.extend(high.to_le_bytes().iter().take(each));
    }
}

fn write_runs(values: &[i64], count: usize, longest: usize, out: &mut Vec<u8>) {
    let mut firsts: Vec<i64> = Vec::with_capacity(count);
    let mut lengths = Vec::with_capacity(count);
    for run in values.chunk_by(|a, b| a == b) {
        firsts.extend(run.first());
        lengths.push(run.len() as i64);
    }
    let min = firsts.iter().copied().min().unwrap_or_default();
    let max = firsts.iter().copied().max().unwrap_or_default();
    let value_width = width(max.wrapping_sub(min).cast_unsigned());
    let length_width = width(longest as u64 - 1);
    out.push(RUNS);
    write_usize(out, count);
    out.push(value_width as u8);
    out.push(length_width as u8);
    write_i64(out, min);
    bits::pack(&firsts, min.cast_unsigned(), value_width, out);
    bits::pack(&lengths, 1, length_width, out);
}

/// Where packed bytes lie while they are unpacked.
#[derive(Debug)]
pub(crate) struct Scratch {
    words: Box<Words>,
    bytes: Box<Stream>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            words: Box::new([0; PAGE_ROWS]),
            bytes: Box::new([0; 8 * PAGE_ROWS + 16]),
        }
    }

    fn stream(&mut self, stored: &[u8], reference: u64, width: usize, out: &mut [i64]) {
        if let Some(bytes) = self.bytes.get_mut(..stored.len()) {
            bytes.copy_from_slice(stored);
        }
        simd::unpack_stream(&self.bytes, reference, width, out);
    }
}

/// Reads a page of `count` numbers (at most [`PAGE_ROWS`]) into the beginning of `out`; what
/// follows there is left undefined.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    count: usize,
    scratch: &mut Scratch,
    out: &mut Block,
) -> Result<(), CoreError> {
    let tag = reader.u8()?;
    match tag & !PATCHED {
        FRAME => read_block(reader, tag, count)?.unpack(count, scratch, out),
        DELTA => {
            let block = read_block(reader, tag, count)?;
            block.unpack(count, scratch, out)?;
            if let Some(step) = out.first_mut() {
                *step = block.first;
            }
            simd::sum_up(out);
            Ok(())
        }
        RUNS if tag == RUNS => read_runs(reader, count, scratch, out),
        RAW if tag == RAW => {
            let (values, _) = reader.take(8 * count)?.as_chunks::<8>();
            for (value, bytes) in out.iter_mut().zip(values) {
                *value = i64::from_le_bytes(*bytes);
            }
            Ok(())
        }
        _ => Err(CoreError::corrupt(format!(
            "unknown page of integers {tag}"
        ))),
    }
}

fn read_width(reader: &mut Reader<'_>) -> Result<usize, CoreError> {
    let width = reader.u8()?;
    if width < 64 {
        Ok(usize::from(width))
    } else {
        Err(CoreError::corrupt(format!("numbers of {width} bits")))
    }
}

/// A frame or a delta as it is stored.
pub(crate) struct Packed<'a> {
    /// Numbers are sums of what is packed.
    pub(crate) delta: bool,
    /// The first number of a delta.
    pub(crate) first: i64,
    pub(crate) reference: u64,
    /// Below 64.
    pub(crate) width: usize,
    patches: Option<Patches<'a>>,
    /// The block.
    pub(crate) stored: &'a [u8],
}

#[derive(Clone, Copy)]
struct Patches<'a> {
    positions: &'a [u8],
    highs: &'a [u8],
    each: usize,
}

fn read_block<'a>(reader: &mut Reader<'a>, tag: u8, count: usize) -> Result<Packed<'a>, CoreError> {
    let width = read_width(reader)?;
    let delta = tag & !PATCHED == DELTA;
    let first = if delta { read_i64(reader)? } else { 0 };
    let reference = read_i64(reader)?.cast_unsigned();
    let patches = if tag & PATCHED == 0 {
        None
    } else {
        let patches = read_usize(reader, count)?;
        let each = usize::from(reader.u8()?);
        if !(1..=8).contains(&each) {
            return Err(CoreError::corrupt(format!("patches of {each} bytes")));
        }
        Some(Patches {
            positions: reader.take(2 * patches)?,
            highs: reader.take(each * patches)?,
            each,
        })
    };
    Ok(Packed {
        delta,
        first,
        reference,
        width,
        patches,
        stored: reader.take(block_len(count, width))?,
    })
}

/// A page as it is stored, if its numbers can be had one by one.
pub(crate) fn read_packed<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<Option<Packed<'a>>, CoreError> {
    let tag = reader.u8()?;
    match tag & !PATCHED {
        FRAME | DELTA => read_block(reader, tag, count).map(Some),
        _ => Ok(None),
    }
}

impl Packed<'_> {
    /// The numbers that are packed, with their patches, to the beginning of `out`.
    fn unpack(
        &self,
        count: usize,
        scratch: &mut Scratch,
        out: &mut Block,
    ) -> Result<(), CoreError> {
        if count == PAGE_ROWS {
            simd::load(self.stored, &mut scratch.words);
            simd::unpack(self.width, &scratch.words, self.reference, out);
        } else if let Some(out) = out.get_mut(..count) {
            scratch.stream(self.stored, self.reference, self.width, out);
        }
        for (position, high) in self.patches() {
            let value = out
                .get_mut(..count)
                .and_then(|out| out.get_mut(position))
                .ok_or_else(|| CoreError::corrupt(format!("a patch of number {position}")))?;
            *value = value.wrapping_add(high);
        }
        Ok(())
    }

    /// Positions, and what is to be added to the numbers (or steps) there.
    pub(crate) fn patches(&self) -> impl Iterator<Item = (usize, i64)> {
        let Patches {
            positions,
            highs,
            each,
        } = self.patches.unwrap_or(Patches {
            positions: &[],
            highs: &[],
            each: 8,
        });
        let (positions, _) = positions.as_chunks::<2>();
        let width = self.width;
        positions
            .iter()
            .zip(highs.chunks_exact(each))
            .map(move |(position, high)| {
                let mut bytes = [0; 8];
                for (byte, stored) in bytes.iter_mut().rev().zip(high.iter().rev()) {
                    *byte = *stored;
                }
                let high = i64::from_le_bytes(bytes) >> (64 - 8 * each);
                (usize::from(u16::from_le_bytes(*position)), high << width)
            })
    }
}

fn read_runs(
    reader: &mut Reader<'_>,
    count: usize,
    scratch: &mut Scratch,
    out: &mut Block,
) -> Result<(), CoreError> {
    let runs = read_usize(reader, count)?;
    let value_width = read_width(reader)?;
    let length_width = read_width(reader)?;
    let reference = read_i64(reader)?.cast_unsigned();
    let mut firsts = [0; PAGE_ROWS];
    let mut lengths = [0; PAGE_ROWS];
    let stored = reader.take(bits::packed_len(runs, value_width))?;
    let firsts = firsts.get_mut(..runs).unwrap_or_default();
    scratch.stream(stored, reference, value_width, firsts);
    let stored = reader.take(bits::packed_len(runs, length_width))?;
    let lengths = lengths.get_mut(..runs).unwrap_or_default();
    scratch.stream(stored, 1, length_width, lengths);
    let mut rest = out.get_mut(..count).unwrap_or_default();
    for (first, length) in firsts.iter().zip(&*lengths) {
        let (run, after) = usize::try_from(*length)
            .ok()
            .and_then(|length| std::mem::take(&mut rest).split_at_mut_checked(length))
            .ok_or_else(|| CoreError::corrupt(format!("a run of {length} numbers")))?;
        run.fill(*first);
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(CoreError::corrupt("runs that do not fill their page"))
    }
}
