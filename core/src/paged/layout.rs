//! How the rows of a column fall into pages, and which of them are NULL.

use std::borrow::Cow;
use std::ops::Range;

use super::PAGE_ROWS;
use crate::bitmap::Bitmap;
use crate::error::CoreError;

/// One bit for each row of a page, set where the row is not NULL.
pub(crate) type Validity = [u64; PAGE_ROWS / 64];

/// The rows of a column, page by page.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) pages: Vec<PageRows>,
}

/// The rows of one page.
#[derive(Debug)]
pub(crate) struct PageRows {
    pub(crate) rows: usize,
    pub(crate) nulls: usize,
    pub(crate) validity: Validity,
    /// Where its values stand among the values of the column that are not NULL.
    pub(crate) dense: Range<usize>,
}

impl Layout {
    pub(crate) fn new(rows: usize, validity: Option<&Bitmap>) -> Self {
        let mut pages = Vec::with_capacity(rows.div_ceil(PAGE_ROWS));
        let mut dense = 0;
        for start in (0..rows).step_by(PAGE_ROWS) {
            let page_rows = PAGE_ROWS.min(rows - start);
            let mut bits = full(page_rows);
            if let Some(validity) = validity {
                for (i, word) in bits.iter_mut().enumerate() {
                    *word &= validity.word(start / 64 + i);
                }
            }
            let present = ones(&bits);
            pages.push(PageRows {
                rows: page_rows,
                nulls: page_rows - present,
                validity: bits,
                dense: dense..dense + present,
            });
            dense += present;
        }
        Self { rows, pages }
    }

    pub(crate) fn nulls(&self) -> usize {
        self.pages.iter().map(|page| page.nulls).sum()
    }

    /// The values that are not NULL.
    pub(crate) fn keep<'a, T: Copy>(&self, values: &'a [T]) -> Cow<'a, [T]> {
        if self.nulls() == 0 {
            return Cow::Borrowed(values);
        }
        let mut kept = Vec::with_capacity(values.len());
        for (page, values) in self.pages.iter().zip(values.chunks(PAGE_ROWS)) {
            if page.nulls == 0 {
                kept.extend_from_slice(values);
            } else {
                let present = values.iter().zip(bits(&page.validity));
                kept.extend(present.filter_map(|(value, present)| present.then_some(*value)));
            }
        }
        Cow::Owned(kept)
    }
}

impl PageRows {
    /// What a page stores of its NULLs: nothing where all rows are alike.
    pub(crate) fn stored_validity(&self) -> Option<Vec<u8>> {
        if self.nulls == 0 || self.nulls == self.rows {
            return None;
        }
        let mut bitmap = Bitmap::new(self.rows);
        for (i, present) in bits(&self.validity).take(self.rows).enumerate() {
            bitmap.set(i, present);
        }
        Some(bitmap.to_bytes())
    }
}

/// The bits of a page, one after the other.
pub(crate) fn bits(validity: &Validity) -> impl Iterator<Item = bool> {
    validity
        .iter()
        .flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1))
}

/// A page of `rows` rows of which none is NULL.
pub(crate) fn full(rows: usize) -> Validity {
    let mut words = [0; PAGE_ROWS / 64];
    for (i, word) in words.iter_mut().enumerate() {
        *word = match rows.saturating_sub(64 * i) {
            0 => 0,
            count @ 1..64 => (1 << count) - 1,
            _ => u64::MAX,
        };
    }
    words
}

/// How many rows are not NULL.
pub(crate) fn ones(validity: &Validity) -> usize {
    validity.iter().map(|word| word.count_ones() as usize).sum()
}

/// Reads what [`PageRows::stored_validity`] wrote for a page of so many rows and NULLs.
pub(crate) fn read_validity(
    bytes: &[u8],
    rows: usize,
    nulls: usize,
) -> Result<Validity, CoreError> {
    let bitmap = Bitmap::from_bytes(bytes, rows)?;
    let mut words = [0; PAGE_ROWS / 64];
    for (i, word) in words.iter_mut().enumerate() {
        *word = bitmap.word(i);
    }
    if ones(&words) + nulls != rows {
        return Err(CoreError::corrupt(format!(
            "a page of {rows} rows has not the {nulls} NULLs that its index says"
        )));
    }
    Ok(words)
}
