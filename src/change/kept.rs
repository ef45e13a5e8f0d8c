//! Sums of rows' checksums that segments keep in their headers.
//!
//! A sum is made as a segment is encoded, column by column, and of all its rows: whoever reads it takes off those that his
//! snapshot does not see. It counts for as long as the table's columns are what they were: the header says by a fingerprint
//! of which names and classes it is. Where values become cells by what the catalogue says of their type (labels of
//! enums, fields of rows, the names of types that only their send function knows), a change would leave the fingerprint as it is, so
//! no sum is kept.

use super::canonical::{self, Form};
use super::encoding::Encoding;
use super::plan::{Plans, Unsendable};
use crate::pg::memory::for_this_call;
use crate::pg::relation;
use pgrx::pg_sys;
use varve_core::change::cell::Class;
use varve_core::change::{CellHash, Fixed, RowSums, columns_fingerprint};
use varve_core::column::{Column, Values};
use varve_core::header::{RowsChecksum, SegmentHeader};

/// Stands for the class of text of which blanks at the end do not count.
const PADDED: u8 = Class::Text.tag() | 0x80;

/// Rows after which a cancel is looked for.
const AT_A_TIME: usize = 1024;

/// Puts what says how values of a form become cells; `false` where the catalogue has a part in that, or where they may have no
/// cell at all: text that UTF-8 has nothing for must not keep a chunk from being frozen.
fn put_class(form: &Form, encoding: Encoding, to: &mut Vec<u8>) -> bool {
    let (class, element) = match form {
        Form::Boolean => (Class::Boolean.tag(), None),
        Form::Int2 | Form::Int4 | Form::Int8 => (Class::Integer.tag(), None),
        Form::Oid => (Class::Oid.tag(), None),
        Form::Float4 | Form::Float8 => (Class::Float.tag(), None),
        Form::Numeric => (Class::Numeric.tag(), None),
        Form::Text | Form::Name if encoding.as_is() => (Class::Text.tag(), None),
        Form::Padded if encoding.as_is() => (PADDED, None),
        Form::Char => (Class::Text.tag(), None),
        Form::Bytes => (Class::Bytes.tag(), None),
        Form::Date => (Class::Date.tag(), None),
        Form::Micros(class) => (class.tag(), None),
        Form::Timetz => (Class::Timetz.tag(), None),
        Form::Interval => (Class::Interval.tag(), None),
        Form::Uuid => (Class::Uuid.tag(), None),
        Form::Json if encoding.as_is() => (Class::Json.tag(), None),
        Form::Jsonb if encoding.as_is() => (Class::Jsonb.tag(), None),
        Form::Array(element) => (Class::Array.tag(), Some(element)),
        Form::Range(element) => (Class::Range.tag(), Some(element)),
        Form::Multirange(element) => (Class::Multirange.tag(), Some(element)),
        Form::Text | Form::Name | Form::Padded | Form::Json | Form::Jsonb => return false,
        Form::Row | Form::Enum | Form::Sent(_) => return false,
    };
    to.push(class);
    element.is_none_or(|element| put_class(&element.form, encoding, to))
}

/// A column that is not dropped.
struct Here {
    attnum: u16,
    name: Vec<u8>,
    /// `None` where no sum is kept of it.
    class: Option<Vec<u8>>,
    /// Whether rows from before it have a value in it.
    missing: bool,
}

/// A table's columns, as far as sums that are kept depend on them.
pub struct Columns {
    attributes: u16,
    here: Vec<Here>,
    /// Fingerprints that were asked for, by the number of attributes.
    known: Vec<(u16, Option<u64>)>,
}

impl Columns {
    /// Those of a row shape.
    pub fn of(desc: pg_sys::TupleDesc) -> Self {
        let here = for_this_call(|| {
            // SAFETY: the current context outlives the plans; nothing of them stays.
            let plans = unsafe { Plans::new(pg_sys::CurrentMemoryContext, Unsendable::Write) };
            let encoding = plans.encoding();
            let column = |place: usize| {
                let attr = relation::attribute(desc, place);
                if attr.attisdropped {
                    return None;
                }
                let name = Plans::raw_name(attr);
                let named = encoding.as_is() || name.is_ascii();
                let mut class = Vec::new();
                let form = plans.form(attr.atttypid).ok().filter(|_| named);
                let kept = form.is_some_and(|form| put_class(&form, encoding, &mut class));
                Some(Here {
                    attnum: place as u16 + 1,
                    name: name.to_vec(),
                    class: kept.then_some(class),
                    missing: attr.atthasmissing,
                })
            };
            (0..relation::natts(desc)).filter_map(column).collect()
        });
        Columns {
            attributes: relation::natts(desc) as u16,
            here,
            known: Vec::new(),
        }
    }

    /// The fingerprint of those among the first attributes; `None` where no sum is kept of one.
    fn fingerprint(&mut self, attributes: u16) -> Option<u64> {
        if let Some((_, known)) = self.known.iter().find(|(n, _)| *n == attributes) {
            return *known;
        }
        let among = self.here.iter().filter(|c| c.attnum <= attributes);
        let columns: Option<Vec<_>> = among
            .map(|c| Some((c.attnum, c.name.as_slice(), c.class.as_deref()?)))
            .collect();
        let found = columns.and_then(|columns| columns_fingerprint(columns).ok());
        self.known.push((attributes, found));
        found
    }

    /// The sum of a segment's rows, dead ones included, if it is kept and still is what they say: columns among those that it
    /// was made of are what they were, and those that came later are NULL in its rows.
    pub fn kept(&mut self, header: &SegmentHeader) -> Option<u128> {
        let kept = header.checksum?;
        let later = |attnum: u16| attnum > kept.attributes;
        let whole = kept.attributes <= self.attributes
            && self.fingerprint(kept.attributes) == Some(kept.fingerprint)
            && !self.here.iter().any(|c| later(c.attnum) && c.missing)
            && !header.columns.iter().any(|c| later(c.attnum));
        whole.then_some(kept.total)
    }

    /// What the header of a segment says that is written anew with these columns, its rows as they were.
    pub fn carried(&mut self, header: &SegmentHeader) -> Option<RowsChecksum> {
        Some(RowsChecksum {
            total: self.kept(header)?,
            attributes: self.attributes,
            fingerprint: self.fingerprint(self.attributes)?,
        })
    }
}

/// How the cells of a column are made.
enum How {
    /// Of the column as it is.
    Fixed(Fixed),
    /// Of values, one by one.
    Values(Form),
}

impl How {
    fn of(form: Form) -> Self {
        How::Fixed(match form {
            Form::Boolean => Fixed::Boolean,
            Form::Int2 | Form::Int4 | Form::Int8 => Fixed::Integer,
            Form::Oid => Fixed::Oid,
            Form::Float4 | Form::Float8 => Fixed::Float,
            Form::Date => Fixed::Date,
            Form::Micros(Class::Timestamp) => Fixed::Timestamp,
            Form::Micros(Class::Timestamptz) => Fixed::Timestamptz,
            Form::Micros(Class::Time) => Fixed::Time,
            Form::Uuid => Fixed::Uuid,
            Form::Text => Fixed::Text,
            Form::Bytes => Fixed::Bytes,
            form => return How::Values(form),
        })
    }
}

/// A column that sums are made of.
struct Part {
    attnum: u16,
    name: Vec<u8>,
    how: How,
}

/// How the sums of segments are made that are being written.
pub struct Keeping {
    attributes: u16,
    fingerprint: u64,
    parts: Vec<Part>,
}

impl Keeping {
    /// For a row shape; `None` where no sum is kept.
    pub fn of(desc: pg_sys::TupleDesc) -> Option<Self> {
        let columns = Columns::of(desc);
        let attributes = columns.attributes;
        Self::of_first(desc, columns, attributes)
    }

    /// As it was when a segment was written; `None` where that has none, or none that counts.
    pub fn of_segment(desc: pg_sys::TupleDesc, header: &SegmentHeader) -> Option<Self> {
        let mut columns = Columns::of(desc);
        columns.kept(header)?;
        Self::of_first(desc, columns, header.checksum?.attributes)
    }

    fn of_first(desc: pg_sys::TupleDesc, mut columns: Columns, attributes: u16) -> Option<Self> {
        let fingerprint = columns.fingerprint(attributes)?;
        for_this_call(|| {
            // SAFETY: as above. Forms that need memory of the plans' are none that a sum is kept of.
            let plans = unsafe { Plans::new(pg_sys::CurrentMemoryContext, Unsendable::Write) };
            let part = |here: Here| {
                let attr = relation::attribute(desc, usize::from(here.attnum) - 1);
                Some(Part {
                    attnum: here.attnum,
                    name: here.name,
                    how: How::of(plans.form(attr.atttypid).ok()?),
                })
            };
            let first = columns.here.into_iter().filter(|c| c.attnum <= attributes);
            let parts: Option<Vec<Part>> = first.map(part).collect();
            Some(Keeping {
                attributes,
                fingerprint,
                parts: parts?,
            })
        })
    }

    /// Begins a segment.
    pub fn begin(&self, rows: u32) -> Summing<'_> {
        Summing {
            keeping: self,
            rows: RowSums::new(rows as usize),
            missing: self.parts.len(),
            whole: true,
        }
    }
}

/// The sum of a segment to which columns are added.
pub struct Summing<'a> {
    keeping: &'a Keeping,
    rows: RowSums,
    /// Columns that were not added yet.
    missing: usize,
    whole: bool,
}

impl Summing<'_> {
    /// Whether a column is added as it is, whatever its bytes are: others must be values of their type.
    pub fn takes_any(&self, attnum: u16) -> bool {
        let mut parts = self.keeping.parts.iter();
        parts.any(|p| p.attnum == attnum && matches!(p.how, How::Fixed(_)))
    }

    /// Adds a column, whose values are of the attribute's type.
    pub fn add(&mut self, attnum: u16, column: &Column) {
        let part = self.keeping.parts.iter().find(|p| p.attnum == attnum);
        self.missing = self.missing.wrapping_sub(1);
        self.whole &= match part {
            None => false,
            Some(part) => match &part.how {
                How::Fixed(class) => self.rows.add_column(&part.name, *class, column).is_ok(),
                How::Values(form) => add_values(&mut self.rows, &part.name, form, column),
            },
        };
    }

    /// What the header is to say.
    pub fn end(self) -> Option<RowsChecksum> {
        (self.whole && self.missing == 0).then(|| RowsChecksum {
            attributes: self.keeping.attributes,
            fingerprint: self.keeping.fingerprint,
            total: self.rows.total(),
        })
    }
}

/// Adds a column's values one by one; `false` where it has none of such a form.
fn add_values(rows: &mut RowSums, name: &[u8], form: &Form, column: &Column) -> bool {
    let mut room = Vec::new();
    for_this_call(|| {
        // SAFETY: the current context outlives the plans.
        let mut plans = unsafe { Plans::new(pg_sys::CurrentMemoryContext, Unsendable::Write) };
        let put = |row: usize, cell: &mut CellHash| {
            if row.is_multiple_of(AT_A_TIME) {
                pgrx::check_for_interrupts!();
            }
            if column.is_null(row) {
                return Ok::<bool, ()>(false);
            }
            let value = value_at(column, row, &mut room).ok_or(())?;
            // SAFETY: a value of the column's type.
            unsafe { canonical::put(form, value, &mut plans, cell) };
            Ok(true)
        };
        rows.add_with(name, put).is_ok()
    })
}

/// A value of a column as the server has it, which lies in the column or in `room`; `None` where it has none there, or is one of
/// kinds that [`Fixed`] is for.
fn value_at(column: &Column, row: usize, room: &mut Vec<u64>) -> Option<pg_sys::Datum> {
    match &column.values {
        Values::I8(values) => values.get(row).map(|v| pg_sys::Datum::from(*v)),
        Values::Fixed { .. } => Some(pg_sys::Datum::from(column.bytes_at(row)?.as_ptr())),
        Values::Bytes { .. } => {
            const HEADER: usize = 4;
            let bytes = column.bytes_at(row)?;
            let size = bytes.len() + HEADER;
            room.resize(size.div_ceil(8), 0);
            let start = room.as_mut_ptr();
            // SAFETY: there is room for `size` bytes, aligned as varlenas are.
            unsafe {
                pgrx::set_varsize_4b(start.cast(), i32::try_from(size).ok()?);
                let to = start.cast::<u8>().add(HEADER);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }
            Some(pg_sys::Datum::from(start))
        }
        _ => None,
    }
}
