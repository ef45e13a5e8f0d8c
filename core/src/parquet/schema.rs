//! What a column is.

use super::error::ParquetError;
use super::thrift::{Struct, StructWriter};

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Physical {
    /// One bit.
    Boolean,
    /// Four bytes.
    Int32,
    /// Eight bytes.
    Int64,
    /// A number of single precision.
    Float,
    /// A number of double precision.
    Double,
    /// Bytes of any number.
    Bytes,
    /// So many bytes.
    Fixed(u16),
}

impl Physical {
    fn number(self) -> i64 {
        match self {
            Self::Boolean => 0,
            Self::Int32 => 1,
            Self::Int64 => 2,
            Self::Float => 4,
            Self::Double => 5,
            Self::Bytes => 6,
            Self::Fixed(_) => 7,
        }
    }

    fn of(number: i64, length: Option<i64>) -> Option<Self> {
        Some(match number {
            0 => Self::Boolean,
            1 => Self::Int32,
            2 => Self::Int64,
            4 => Self::Float,
            5 => Self::Double,
            6 => Self::Bytes,
            7 => Self::Fixed(u16::try_from(length?).ok().filter(|length| *length > 0)?),
            _ => return None,
        })
    }

    /// Bytes of a value; none where that differs from value to value, or is less than one.
    pub(super) fn width(self) -> Option<usize> {
        match self {
            Self::Boolean | Self::Bytes => None,
            Self::Int32 | Self::Float => Some(4),
            Self::Int64 | Self::Double => Some(8),
            Self::Fixed(length) => Some(usize::from(length)),
        }
    }
}

/// What a value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    /// What its physical type says.
    None,
    /// A text in UTF-8.
    Text,
    /// A JSON document.
    Json,
    /// A UUID.
    Uuid,
    /// An integer of 16 bits.
    Int16,
    /// Days since 1970.
    Date,
    /// Microseconds since midnight, in no time zone.
    Time,
    /// Microseconds since 1970.
    Timestamp {
        /// Whether it is a moment, rather than what a clock shows.
        utc: bool,
    },
    /// An integer that is to be divided by a power of ten; its most significant byte comes first.
    Decimal {
        /// Digits.
        precision: u8,
        /// Those of them behind the point.
        scale: u8,
    },
}

impl Logical {
    /// Its number among the older annotations, where it has one that means the same.
    fn converted(self) -> Option<i64> {
        Some(match self {
            Self::Text => 0,
            Self::Decimal { .. } => 5,
            Self::Date => 6,
            Self::Timestamp { utc: true } => 10,
            Self::Int16 => 16,
            Self::Json => 19,
            Self::None | Self::Uuid | Self::Time | Self::Timestamp { utc: false } => return None,
        })
    }

    fn write(self, to: &mut StructWriter) {
        let micros = |s: &mut StructWriter, utc: bool| {
            s.boolean(1, utc);
            s.structure(2, |unit| unit.structure(2, |_| {}));
        };
        match self {
            Self::None => {}
            Self::Text => to.structure(10, |l| l.structure(1, |_| {})),
            Self::Json => to.structure(10, |l| l.structure(12, |_| {})),
            Self::Uuid => to.structure(10, |l| l.structure(14, |_| {})),
            Self::Int16 => to.structure(10, |l| {
                l.structure(10, |i| {
                    i.byte(1, 16);
                    i.boolean(2, true);
                });
            }),
            Self::Date => to.structure(10, |l| l.structure(6, |_| {})),
            Self::Time => to.structure(10, |l| l.structure(7, |t| micros(t, false))),
            Self::Timestamp { utc } => to.structure(10, |l| l.structure(8, |t| micros(t, utc))),
            Self::Decimal { precision, scale } => to.structure(10, |l| {
                l.structure(5, |d| {
                    d.i32(1, i32::from(scale));
                    d.i32(2, i32::from(precision));
                });
            }),
        }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// How values are stored.
    pub physical: Physical,
    /// What they mean.
    pub logical: Logical,
    /// Whether it has lists of such values.
    pub list: bool,
}

impl Field {
    /// The level of a value that is there.
    pub(super) fn depth(&self) -> u8 {
        match self.list {
            false => 1,
            true => 3,
        }
    }

    /// The names on the way to its values.
    pub(super) fn path(&self) -> Vec<&str> {
        match self.list {
            false => vec![&self.name],
            true => vec![&self.name, "list", "element"],
        }
    }

    /// Its elements of the schema: that of the value, below those of the list.
    pub(super) fn write(&self, to: &mut Vec<StructWriter>) {
        if self.list {
            let mut outer = StructWriter::new();
            outer.i32(3, 1);
            outer.binary(4, self.name.as_bytes());
            outer.i32(5, 1);
            outer.i32(6, 3);
            outer.structure(10, |l| l.structure(3, |_| {}));
            let mut list = StructWriter::new();
            list.i32(3, 2);
            list.binary(4, b"list");
            list.i32(5, 1);
            to.extend([outer, list]);
        }
        let mut value = StructWriter::new();
        value.i32(1, self.physical.number() as i32);
        if let Physical::Fixed(length) = self.physical {
            value.i32(2, i32::from(length));
        }
        value.i32(3, 1);
        value.binary(
            4,
            match self.list {
                false => self.name.as_bytes(),
                true => b"element",
            },
        );
        if let Some(converted) = self.logical.converted() {
            value.i32(6, converted as i32);
        }
        if let Logical::Decimal { precision, scale } = self.logical {
            value.i32(7, i32::from(scale));
            value.i32(8, i32::from(precision));
        }
        self.logical.write(&mut value);
        to.push(value);
    }

    /// Number of its physical type.
    pub(super) fn number(&self) -> i64 {
        self.physical.number()
    }
}

/// Reads the columns off a schema. What values mean is not looked at: it is known to who wrote them.
pub(super) fn read(elements: &[&Struct]) -> Result<Vec<Field>, ParquetError> {
    let corrupt = || ParquetError::corrupt("its schema is of another kind");
    let mut elements = elements.iter();
    let root = elements.next().ok_or_else(corrupt)?;
    let count = root.int(5).unwrap_or(0);
    let mut fields = Vec::new();
    for _ in 0..count {
        let mut element = elements.next().ok_or_else(corrupt)?;
        let name = element.text(4).ok_or_else(corrupt)?;
        let list = element.int(1).is_none();
        if list {
            let inner = elements.next().ok_or_else(corrupt)?;
            let shape = [element, inner].map(|e| (e.int(3), e.int(5)));
            if shape != [(Some(1), Some(1)), (Some(2), Some(1))] {
                return Err(corrupt());
            }
            element = elements.next().ok_or_else(corrupt)?;
        }
        if element.int(3) != Some(1) {
            return Err(corrupt());
        }
        let physical = element
            .int(1)
            .and_then(|number| Physical::of(number, element.int(2)))
            .ok_or_else(corrupt)?;
        fields.push(Field {
            name,
            physical,
            logical: Logical::None,
            list,
        });
    }
    match elements.next() {
        None => Ok(fields),
        Some(_) => Err(corrupt()),
    }
}
