//! Pages of bytes.
//!
//! | field | bytes | |
//! |---|---|---|
//! | lengths | n | of kind Bytes only: a page of integers, one for each value that is not NULL |
//! | method | 1 | 0 raw, 1 zstd |
//! | data | rest | the values one after the other, or their zstd frame |

use super::codec::{Codec, Tally};
use super::general::{Compressor, Decompressor};
use super::ints::{self, IntWriter, Scratch};
use super::kernels::Block;
use super::{Effort, PAGE_ROWS};
use crate::MAX_DECODED_BYTES;
use crate::error::CoreError;
use crate::wire::{Reader, len_u32};

const RAW: u8 = 0;
const ZSTD: u8 = 1;

/// Encodes the values of page after page.
pub(crate) struct TextWriter {
    ints: IntWriter,
    lengths: Vec<i64>,
    data: Vec<u8>,
    zstd: Vec<Compressor>,
    effort: Effort,
    tally: Tally,
}

/// From so many bytes on, a page is compressed at the first level only: the higher ones take seconds for it, in which
/// nobody can cancel them.
const LONG_PAGE: usize = 1 << 20;

/// Levels of zstd to be tried. Neither of the two is the shorter one for all texts; the highest ones of zstd take three
/// times as long for a hundredth.
fn levels(effort: Effort) -> &'static [i32] {
    match effort {
        Effort::Fast => &[3],
        Effort::Small => &[12, 15],
    }
}

impl TextWriter {
    pub(crate) fn new(effort: Effort) -> Result<Self, CoreError> {
        Ok(Self {
            ints: IntWriter::new(),
            lengths: Vec::with_capacity(PAGE_ROWS),
            data: Vec::new(),
            zstd: levels(effort)
                .iter()
                .map(|level| Compressor::new(*level))
                .collect::<Result<_, _>>()?,
            effort,
            tally: Tally::default(),
        })
    }

    /// Encodes a page; with their lengths unless all are of one length.
    pub(crate) fn write<'a>(
        &mut self,
        values: impl Iterator<Item = &'a [u8]>,
        with_lengths: bool,
    ) -> Result<Vec<u8>, CoreError> {
        self.lengths.clear();
        self.data.clear();
        for value in values {
            self.lengths.push(value.len() as i64);
            self.data.extend_from_slice(value);
        }
        let mut out = Vec::new();
        if self.lengths.is_empty() {
            return Ok(out);
        }
        if with_lengths {
            self.ints.write(&self.lengths, &mut out);
        }
        let packed = self.compress()?;
        let worth = match self.effort {
            Effort::Fast => self.data.len() / 20 * 17,
            Effort::Small => self.data.len(),
        };
        if packed.len() < worth {
            out.push(ZSTD);
            out.extend(packed);
            self.tally.add(Codec::Zstd);
        } else {
            out.push(RAW);
            out.extend_from_slice(&self.data);
            self.tally.add(Codec::Raw);
        }
        Ok(out)
    }

    /// The shortest of what the levels make of the page.
    fn compress(&mut self) -> Result<Vec<u8>, CoreError> {
        let most = match self.data.len() {
            ..LONG_PAGE => self.zstd.len(),
            _ => 1,
        };
        let mut best = Vec::new();
        for zstd in self.zstd.iter_mut().take(most) {
            let packed = zstd.compress(&self.data)?;
            if best.is_empty() || packed.len() < best.len() {
                best = packed;
            }
        }
        Ok(best)
    }

    pub(crate) fn tally(self) -> Tally {
        self.tally
    }
}

/// Reads the lengths of `count` values to the beginning of `lengths`, and how long they are together.
pub(crate) fn read_lengths(
    reader: &mut Reader<'_>,
    count: usize,
    scratch: &mut Scratch,
    lengths: &mut Block,
) -> Result<usize, CoreError> {
    ints::read(reader, count, scratch, lengths)?;
    let mut total = 0;
    for length in lengths.iter().take(count) {
        total = usize::try_from(*length)
            .ok()
            .and_then(|length| length.checked_add(total))
            .filter(|total| *total <= MAX_DECODED_BYTES)
            .ok_or_else(|| CoreError::corrupt(format!("a value of {length} bytes")))?;
    }
    Ok(total)
}

/// A buffer of more bytes than this is given back when the next page needs much less.
const KEEP_BYTES: usize = 1 << 22;

/// Reads `total` bytes of values.
pub(crate) fn read_data(
    mut reader: Reader<'_>,
    total: usize,
    decompressor: &mut Decompressor,
    out: &mut Vec<u8>,
) -> Result<(), CoreError> {
    if out.capacity() > KEEP_BYTES && total < out.capacity() / 4 {
        *out = Vec::new();
    }
    match reader.u8()? {
        RAW => {
            out.clear();
            out.extend_from_slice(reader.take(total)?);
            reader.finish()
        }
        ZSTD => decompressor.decompress(reader.rest(), total, out),
        method => Err(CoreError::corrupt(format!("unknown method {method}"))),
    }
}

/// Ends of values from their lengths, which must fit.
pub(crate) fn offsets(lengths: &[i64], out: &mut Vec<u32>) -> Result<(), CoreError> {
    out.clear();
    out.reserve(lengths.len() + 1);
    out.push(0);
    let mut end = 0;
    for length in lengths {
        end += *length as usize;
        out.push(len_u32(end)?);
    }
    Ok(())
}
