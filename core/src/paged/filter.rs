//! Filters: which pages may hold a value that is looked for.
//!
//! One split-block Bloom filter a page (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient
//! Bloom Filters, 2007; blocks and salts are those of the Parquet specification). A value sets one
//! bit in each of the eight words of one block of 32 bytes. All pages of a column have equally many
//! blocks, and blocks of the same number lie together, so that one short piece of the column tells of
//! all pages whether they may hold a value.

use std::ops::Range;

use super::PAGE_ROWS;
use super::index::{ColumnIndex, page_checksum};
use super::layout::Layout;
use crate::error::CoreError;
use crate::{Column, Values};

/// Words of a block.
const WORDS: usize = 8;
/// Bytes of a block.
const BLOCK_BYTES: usize = 4 * WORDS;
/// Bytes of the checksum behind the blocks of one number.
const SUM_BYTES: usize = 4;
/// Bits of a page's filter for each distinct value on the page that has most.
const BITS_PER_VALUE: usize = 8;
/// The most blocks of a page that a column may have.
pub(crate) const MAX_BLOCKS: usize = PAGE_ROWS;

/// What the lower half of a hash is multiplied by for each word of a block.
const SALTS: [u32; WORDS] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// The hash of a value, by which filters know it: xxh3-64 (seed 0) of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ValueHash(u64);

impl ValueHash {
    /// Of an integer of any width.
    pub fn of_int(value: i64) -> Self {
        Self::of_bytes(&value.to_le_bytes())
    }

    /// Of a float of either precision. -0 has the hash of 0, and all NaN have the same.
    pub fn of_float(value: f64) -> Self {
        let bits = if value == 0.0 {
            0
        } else if value.is_nan() {
            0x7ff8_0000_0000_0000
        } else {
            value.to_bits()
        };
        Self::of_bytes(&bits.to_le_bytes())
    }

    /// Of the bytes of a value of any or of a fixed length.
    pub fn of_bytes(value: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(value))
    }

    /// Which of so many blocks (at most 2^32).
    fn block(self, blocks: usize) -> usize {
        (((self.0 >> 32) * blocks as u64) >> 32) as usize
    }

    /// The bit of each word of the block.
    fn words(self) -> [u32; WORDS] {
        SALTS.map(|salt| 1 << ((self.0 as u32).wrapping_mul(salt) >> 27))
    }
}

/// The filters of a column.
pub(crate) struct Filters {
    /// Blocks of each page.
    pub(crate) blocks: usize,
    /// Their stored form.
    pub(crate) bytes: Vec<u8>,
}

impl Filters {
    /// The filters of a column; `None` where no page has two distinct values, since zones tell as much then.
    pub(crate) fn of(column: &Column, layout: &Layout) -> Option<Self> {
        let hashes = hashes(column);
        let pages: Vec<&[ValueHash]> = layout
            .pages
            .iter()
            .map(|page| hashes.get(page.dense.clone()).unwrap_or_default())
            .collect();
        let mut distinct = Distinct::new();
        let most = pages.iter().map(|page| distinct.count(page)).max()?;
        if most < 2 {
            return None;
        }
        let blocks = (most * BITS_PER_VALUE).div_ceil(8 * BLOCK_BYTES);
        let mut words = vec![[0u32; WORDS]; blocks * pages.len()];
        for (at, page) in pages.iter().enumerate() {
            for hash in *page {
                if let Some(block) = words.get_mut(hash.block(blocks) * pages.len() + at) {
                    for (word, bit) in block.iter_mut().zip(hash.words()) {
                        *word |= bit;
                    }
                }
            }
        }
        let mut bytes = Vec::with_capacity(blocks * piece_len(pages.len()));
        for piece in words.chunks_exact(pages.len().max(1)) {
            let start = bytes.len();
            for word in piece.as_flattened() {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            let sum = page_checksum(bytes.get(start..).unwrap_or_default());
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
        Some(Self { blocks, bytes })
    }
}

/// Bytes of the blocks of one number.
fn piece_len(pages: usize) -> usize {
    pages * BLOCK_BYTES + SUM_BYTES
}

/// Bytes of the filters of so many pages.
pub(crate) fn filters_len(pages: usize, blocks: usize) -> usize {
    blocks * piece_len(pages)
}

/// The hashes of the values that are not NULL.
fn hashes(column: &Column) -> Vec<ValueHash> {
    fn keep<T: Copy>(
        column: &Column,
        values: &[T],
        hash: impl Fn(T) -> ValueHash,
    ) -> Vec<ValueHash> {
        values
            .iter()
            .enumerate()
            .filter(|(row, _)| !column.is_null(*row))
            .map(|(_, value)| hash(*value))
            .collect()
    }
    match &column.values {
        Values::I8(values) => keep(column, values, |v| ValueHash::of_int(v.into())),
        Values::I16(values) => keep(column, values, |v| ValueHash::of_int(v.into())),
        Values::I32(values) => keep(column, values, |v| ValueHash::of_int(v.into())),
        Values::I64(values) => keep(column, values, ValueHash::of_int),
        Values::F32(values) => keep(column, values, |v| ValueHash::of_float(v.into())),
        Values::F64(values) => keep(column, values, ValueHash::of_float),
        Values::Fixed { .. } | Values::Bytes { .. } => (0..column.rows())
            .filter_map(|row| column.bytes_at(row).map(ValueHash::of_bytes))
            .collect(),
    }
}

/// Slots of [`Distinct`], twice as many as a page has rows.
const SLOTS: usize = 2 * PAGE_ROWS;

/// Counts the distinct hashes of a page.
struct Distinct(Box<[u64; SLOTS]>);

impl Distinct {
    fn new() -> Self {
        Self(Box::new([0; SLOTS]))
    }

    fn count(&mut self, hashes: &[ValueHash]) -> usize {
        self.0.fill(0);
        // Zero marks a free slot, and is counted aside.
        let zero = hashes.iter().any(|hash| hash.0 == 0);
        let mut count = usize::from(zero);
        for hash in hashes.iter().map(|hash| hash.0).filter(|hash| *hash != 0) {
            let mut at = hash as usize % SLOTS;
            while let Some(slot) = self.0.get_mut(at) {
                if *slot == 0 {
                    *slot = hash;
                    count += 1;
                }
                if *slot == hash {
                    break;
                }
                at = (at + 1) % SLOTS;
            }
        }
        count
    }
}

impl ColumnIndex {
    /// Whether the column has filters.
    pub fn has_filters(&self) -> bool {
        self.filter_blocks > 0
    }

    /// Where the bytes are that tell of every page whether it may hold a value, counted from the
    /// beginning of the column; `None` where the column has no filters.
    pub fn filter_range(&self, hash: ValueHash) -> Option<Range<usize>> {
        self.has_filters()
            .then(|| self.piece_range(hash.block(self.filter_blocks)))
    }

    fn piece_range(&self, block: usize) -> Range<usize> {
        let len = piece_len(self.pages());
        let start = self.pages_end() + block * len;
        start..start + len
    }

    /// The pages that may hold a value, a bit each, the first page's the lowest. `bytes` must be those
    /// at [`filter_range`](Self::filter_range).
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the bytes are not those of filters of the column.
    pub fn filter_mask(&self, hash: ValueHash, bytes: &[u8]) -> Result<u64, CoreError> {
        let blocks = self.check_piece(bytes)?;
        let wanted = hash.words();
        let mut mask = 0;
        for (page, block) in blocks.iter().enumerate() {
            let missing = block
                .as_chunks::<4>()
                .0
                .iter()
                .zip(wanted)
                .fold(0, |all, (word, bit)| {
                    all | (bit & !u32::from_le_bytes(*word))
                });
            mask |= u64::from(missing == 0) << (page % 64);
        }
        Ok(mask)
    }

    /// The blocks of one number, one a page, out of the bytes that hold them.
    fn check_piece<'a>(&self, bytes: &'a [u8]) -> Result<&'a [[u8; BLOCK_BYTES]], CoreError> {
        let fits = self.has_filters() && bytes.len() == piece_len(self.pages());
        let (blocks, sum) = bytes
            .split_last_chunk::<SUM_BYTES>()
            .filter(|_| fits)
            .ok_or_else(|| CoreError::corrupt(format!("{} bytes of filters", bytes.len())))?;
        // As in `wire::unseal`, fuzzers get behind the checksum.
        if *sum != page_checksum(blocks).to_le_bytes() && !cfg!(fuzzing) {
            return Err(CoreError::corrupt(format!(
                "checksum does not match the {} bytes of filters",
                bytes.len()
            )));
        }
        Ok(blocks.as_chunks::<BLOCK_BYTES>().0)
    }

    /// Verifies the filters of a whole column.
    pub(crate) fn check_filters(&self, column: &[u8]) -> Result<(), CoreError> {
        for block in 0..self.filter_blocks {
            let piece = column.get(self.piece_range(block)).unwrap_or_default();
            self.check_piece(piece)?;
        }
        Ok(())
    }
}
