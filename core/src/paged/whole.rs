//! A whole column out of its pages.

use super::index::ColumnIndex;
use super::page::{Page, PageValues};
use crate::bitmap::Bitmap;
use crate::error::CoreError;
use crate::wire::len_u32;
use crate::{Column, Kind, MAX_DECODED_BYTES, Values};

/// Decodes a whole column, of which the first `index_len` bytes are the index.
///
/// # Errors
/// [`CoreError::Corrupt`] when the bytes are not those of an encoded column,
/// [`CoreError::Unsupported`] when a newer version wrote them.
pub fn decode_all(bytes: &[u8], index_len: usize) -> Result<Column, CoreError> {
    let stored = bytes
        .get(..index_len)
        .ok_or_else(|| CoreError::corrupt("the index is longer than the column"))?;
    let index = ColumnIndex::parse(stored)?;
    if index.column_len() != bytes.len() {
        return Err(CoreError::corrupt(format!(
            "the column has not the {} bytes that its index says",
            bytes.len()
        )));
    }
    index.check_filters(bytes)?;
    let mut builder = Builder::new(&index);
    let mut page = Page::new();
    for i in 0..index.pages() {
        let range = index.page_range(i).unwrap_or_default();
        index.decode(i, bytes.get(range).unwrap_or_default(), &mut page)?;
        builder.add(&page)?;
    }
    Ok(builder.finish())
}

/// A column that is put together from pages.
struct Builder<'a> {
    index: &'a ColumnIndex,
    validity: Bitmap,
    rows: usize,
    values: Values,
}

impl<'a> Builder<'a> {
    fn new(index: &'a ColumnIndex) -> Self {
        let values = match index.kind {
            Kind::I8 => Values::I8(Vec::new()),
            Kind::I16 => Values::I16(Vec::new()),
            Kind::I32 => Values::I32(Vec::new()),
            Kind::I64 => Values::I64(Vec::new()),
            Kind::F32 => Values::F32(Vec::new()),
            Kind::F64 => Values::F64(Vec::new()),
            Kind::Fixed { len } => Values::Fixed {
                len,
                data: Vec::new(),
            },
            Kind::Bytes => Values::Bytes {
                offsets: vec![0],
                data: Vec::new(),
            },
        };
        Self {
            index,
            validity: Bitmap::new(index.rows),
            rows: 0,
            values,
        }
    }

    fn add(&mut self, page: &Page) -> Result<(), CoreError> {
        for row in (0..page.rows()).filter(|row| !page.is_null(*row)) {
            self.validity.set(self.rows + row, true);
        }
        self.rows += page.rows();
        match (&mut self.values, page.values()) {
            (Values::I8(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::I16(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::I32(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::I64(all), PageValues::Ints(page)) => narrow(page, all),
            (Values::F32(all), PageValues::F32(page)) => {
                all.extend_from_slice(page);
                Ok(())
            }
            (Values::F64(all), PageValues::F64(page)) => {
                all.extend_from_slice(page);
                Ok(())
            }
            (Values::Fixed { data, .. }, PageValues::Fixed { data: page, .. }) => {
                data.extend_from_slice(page);
                Ok(())
            }
            (Values::Fixed { len, data }, PageValues::Codes(codes)) => {
                for (row, code) in codes.iter().enumerate() {
                    match self.index.dictionary().filter(|_| !page.is_null(row)) {
                        Some(dictionary) => data.extend_from_slice(dictionary.get(*code)),
                        None => data.resize(data.len() + *len, 0),
                    }
                }
                Ok(())
            }
            (Values::Bytes { offsets, data }, PageValues::Bytes { .. } | PageValues::Codes(_)) => {
                for row in 0..page.rows() {
                    data.extend_from_slice(bytes_of(self.index, page, row));
                    if data.len() > MAX_DECODED_BYTES {
                        return Err(CoreError::corrupt("a column of more bytes than allowed"));
                    }
                    offsets.push(len_u32(data.len())?);
                }
                Ok(())
            }
            _ => Err(CoreError::corrupt("a page of another kind")),
        }
    }

    fn finish(self) -> Column {
        Column {
            validity: (self.index.summary().nulls > 0).then_some(self.validity),
            values: self.values,
        }
    }
}

/// The bytes of a row; none for a NULL.
fn bytes_of<'a>(index: &'a ColumnIndex, page: &'a Page, row: usize) -> &'a [u8] {
    match page.values() {
        _ if page.is_null(row) => &[],
        PageValues::Codes(codes) => match (index.dictionary(), codes.get(row)) {
            (Some(dictionary), Some(code)) => dictionary.get(*code),
            _ => &[],
        },
        PageValues::Bytes { offsets, data } => match (offsets.get(row), offsets.get(row + 1)) {
            (Some(start), Some(end)) => {
                data.get(*start as usize..*end as usize).unwrap_or_default()
            }
            _ => &[],
        },
        _ => &[],
    }
}

fn narrow<T: TryFrom<i64>>(page: &[i64], all: &mut Vec<T>) -> Result<(), CoreError> {
    for value in page {
        let value = T::try_from(*value)
            .map_err(|_| CoreError::corrupt(format!("{value} is out of its type's range")))?;
        all.push(value);
    }
    Ok(())
}
