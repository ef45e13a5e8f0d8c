//! Sums of many rows, column by column.

use super::cell::{self, Class};
use super::hash::{CellHash, cell_hash, finish, seed};
use crate::column::{Column, Values};
use crate::error::CoreError;

/// Classes of values whose cells can be made of a [`Column`] as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// Of [`Values::I8`].
    Boolean,
    /// Of integers of any width.
    Integer,
    /// Of floats of either width.
    Float,
    /// Of [`Values::I32`].
    Oid,
    /// Of [`Values::I32`].
    Date,
    /// Of [`Values::I64`].
    Timestamp,
    /// Of [`Values::I64`].
    Timestamptz,
    /// Of [`Values::I64`].
    Time,
    /// Of [`Values::Fixed`] with a length of 16.
    Uuid,
    /// Of [`Values::Bytes`] in UTF-8.
    Text,
    /// Of [`Values::Bytes`].
    Bytes,
}

/// The sums of rows to which columns are added one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSums(Vec<u128>);

impl RowSums {
    /// Rows without cells.
    pub fn new(rows: usize) -> Self {
        RowSums(vec![0; rows])
    }

    /// Adds a column of that name: of each row the cell, or none for NULL. Rows that `cells` has none for stay as they are.
    pub fn add_cells<C: AsRef<[u8]>>(
        &mut self,
        name: &[u8],
        cells: impl IntoIterator<Item = Option<C>>,
    ) {
        let seed = seed(name);
        for (sum, cell) in self.0.iter_mut().zip(cells) {
            if let Some(cell) = cell {
                *sum = sum.wrapping_add(cell_hash(seed, cell.as_ref()));
            }
        }
    }

    /// Adds a column of that name whose cells `put` makes, and says of each whether there is one.
    ///
    /// # Errors
    /// That of `put`; some rows have got their cell then.
    pub fn add_with<E>(
        &mut self,
        name: &[u8],
        mut put: impl FnMut(usize, &mut CellHash) -> Result<bool, E>,
    ) -> Result<(), E> {
        let seed = seed(name);
        let mut cell = CellHash::default();
        for (row, sum) in self.0.iter_mut().enumerate() {
            cell.begin_xxh3(seed);
            if put(row, &mut cell)? {
                *sum = sum.wrapping_add(cell.end_xxh3());
            }
        }
        Ok(())
    }

    /// Adds a column of that name.
    ///
    /// # Errors
    /// [`CoreError::Invalid`] where it has another number of rows, or values of another kind than the class is made of.
    pub fn add_column(
        &mut self,
        name: &[u8],
        class: Fixed,
        column: &Column,
    ) -> Result<(), CoreError> {
        if column.rows() != self.0.len() {
            return Err(CoreError::invalid(format!(
                "a column of {} rows among those of {}",
                column.rows(),
                self.0.len()
            )));
        }
        let at = |i: usize| !column.is_null(i);
        match (class, &column.values) {
            (Fixed::Boolean, Values::I8(v)) => self.each(name, v, at, |v| cell::boolean(v != 0)),
            (Fixed::Integer, Values::I16(v)) => self.each(name, v, at, |v| cell::integer(v.into())),
            (Fixed::Integer, Values::I32(v)) => self.each(name, v, at, |v| cell::integer(v.into())),
            (Fixed::Integer, Values::I64(v)) => self.each(name, v, at, cell::integer),
            (Fixed::Float, Values::F32(v)) => self.each(name, v, at, |v| cell::float(v.into())),
            (Fixed::Float, Values::F64(v)) => self.each(name, v, at, cell::float),
            (Fixed::Oid, Values::I32(v)) => self.each(name, v, at, |v| cell::oid(v as u32)),
            (Fixed::Date, Values::I32(v)) => self.each(name, v, at, cell::date),
            (Fixed::Timestamp, Values::I64(v)) => {
                self.each(name, v, at, |v| cell::micros(Class::Timestamp, v));
            }
            (Fixed::Timestamptz, Values::I64(v)) => {
                self.each(name, v, at, |v| cell::micros(Class::Timestamptz, v));
            }
            (Fixed::Time, Values::I64(v)) => {
                self.each(name, v, at, |v| cell::micros(Class::Time, v));
            }
            (Fixed::Uuid, Values::Fixed { len: 16, data }) => {
                self.each(name, data.as_chunks().0, at, |v| cell::uuid(&v));
            }
            (Fixed::Text, Values::Bytes { .. }) => self.sized(name, Class::Text, column),
            (Fixed::Bytes, Values::Bytes { .. }) => self.sized(name, Class::Bytes, column),
            _ => {
                return Err(CoreError::invalid(format!(
                    "a column of {:?} is none of {class:?}",
                    column.kind()
                )));
            }
        }
        Ok(())
    }

    fn each<T: Copy, const WIDTH: usize>(
        &mut self,
        name: &[u8],
        values: &[T],
        there: impl Fn(usize) -> bool,
        cell: impl Fn(T) -> [u8; WIDTH],
    ) {
        let seed = seed(name);
        let Some(first) = values.first() else { return };
        // Equal values often lie next to each other, in what is sorted.
        let mut known = cell(*first);
        let mut hash = cell_hash(seed, &known);
        for (i, (sum, value)) in self.0.iter_mut().zip(values).enumerate() {
            if there(i) {
                let cell = cell(*value);
                if cell != known {
                    hash = cell_hash(seed, &cell);
                    known = cell;
                }
                *sum = sum.wrapping_add(hash);
            }
        }
    }

    fn sized(&mut self, name: &[u8], class: Class, column: &Column) {
        let seed = seed(name);
        let mut cell = CellHash::default();
        let mut known: Option<(&[u8], u128)> = None;
        for (i, sum) in self.0.iter_mut().enumerate() {
            let Some(bytes) = column.bytes_at(i) else {
                continue;
            };
            let hash = match known {
                Some((same, hash)) if same == bytes => hash,
                _ => {
                    cell.begin_xxh3(seed);
                    cell::put_bytes(&mut cell, class, bytes);
                    cell.end_xxh3()
                }
            };
            known = Some((bytes, hash));
            *sum = sum.wrapping_add(hash);
        }
    }

    /// Of each row the sum of its cells.
    pub fn sums(&self) -> &[u128] {
        &self.0
    }

    /// The checksums of the rows, added modulo 2^128: the checksum of all of them, in whichever order.
    pub fn total(&self) -> u128 {
        self.0
            .iter()
            .fold(0, |all, sum| all.wrapping_add(finish(*sum)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::bitmap::Bitmap;

    fn column(values: Values) -> Column {
        Column {
            validity: None,
            values,
        }
    }

    fn sums(name: &[u8], class: Fixed, column: &Column) -> RowSums {
        let mut sums = RowSums::new(column.rows());
        sums.add_column(name, class, column).unwrap();
        sums
    }

    #[test]
    fn columns_come_to_what_rows_come_to() {
        let mut valid = Bitmap::full(3);
        valid.set(1, false);
        let ids = column(Values::I32(vec![1, -2, 3]));
        let words = Column {
            validity: Some(valid),
            values: Values::Bytes {
                offsets: vec![0, 2, 2, 2],
                data: b"ab".to_vec(),
            },
        };
        let mut all = RowSums::new(3);
        all.add_column(b"id", Fixed::Integer, &ids).unwrap();
        all.add_column(b"word", Fixed::Text, &words).unwrap();
        let id = |v| cell_hash(seed(b"id"), &cell::integer(v));
        let word = |v: &[u8]| cell_hash(seed(b"word"), v);
        let rows = [
            id(1).wrapping_add(word(b"\x05\x02\0\0\0ab")),
            id(-2),
            id(3).wrapping_add(word(b"\x05\0\0\0\0")),
        ];
        assert_eq!(all.sums(), rows);
        assert_eq!(
            all.total(),
            rows.iter().fold(0u128, |a, s| a.wrapping_add(finish(*s)))
        );
        // The other way round, and with cells made by the caller.
        let mut other = RowSums::new(3);
        let put = |row: usize, cell: &mut CellHash| match words.bytes_at(row) {
            Some(bytes) => {
                cell::put_bytes(cell, Class::Text, bytes);
                Ok::<_, ()>(true)
            }
            None => Ok(false),
        };
        other.add_with(b"word", put).unwrap();
        other.add_cells(b"id", [1, -2, 3].map(|v| Some(cell::integer(v))));
        assert_eq!(other, all);
        assert_eq!(other.add_with(b"word", |_, _| Err("no")), Err("no"));
    }

    #[test]
    fn width_is_no_difference() {
        let ints = [
            column(Values::I16(vec![-7, 8])),
            column(Values::I32(vec![-7, 8])),
            column(Values::I64(vec![-7, 8])),
        ];
        let [a, b, c] = ints.map(|column| sums(b"n", Fixed::Integer, &column));
        assert!(a == b && b == c);
        assert_eq!(
            sums(b"n", Fixed::Float, &column(Values::F32(vec![0.1, -0.0]))),
            sums(
                b"n",
                Fixed::Float,
                &column(Values::F64(vec![f64::from(0.1f32), 0.0]))
            )
        );
    }

    #[test]
    fn classes_and_names_are_differences() {
        let longs = column(Values::I64(vec![5]));
        let ints = column(Values::I32(vec![5]));
        let bytes = column(Values::Bytes {
            offsets: vec![0, 1],
            data: vec![5],
        });
        let mut data = vec![0; 16];
        data[0] = 5;
        let uuid = column(Values::Fixed { len: 16, data });
        let all = [
            sums(b"n", Fixed::Integer, &longs),
            sums(b"m", Fixed::Integer, &longs),
            sums(b"n", Fixed::Timestamp, &longs),
            sums(b"n", Fixed::Timestamptz, &longs),
            sums(b"n", Fixed::Time, &longs),
            sums(b"n", Fixed::Date, &ints),
            sums(b"n", Fixed::Oid, &ints),
            sums(b"n", Fixed::Boolean, &column(Values::I8(vec![5]))),
            sums(b"n", Fixed::Text, &bytes),
            sums(b"n", Fixed::Bytes, &bytes),
            sums(b"n", Fixed::Uuid, &uuid),
            RowSums::new(1),
        ];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(all.iter().filter(|b| *b == a).count(), 1, "{i}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let longs = column(Values::I64(vec![5]));
        let mut sums = RowSums::new(1);
        assert!(sums.add_column(b"n", Fixed::Text, &longs).is_err());
        assert!(sums.add_column(b"n", Fixed::Date, &longs).is_err());
        assert!(
            RowSums::new(2)
                .add_column(b"n", Fixed::Integer, &longs)
                .is_err()
        );
        assert_eq!(sums, RowSums::new(1));
    }
}
