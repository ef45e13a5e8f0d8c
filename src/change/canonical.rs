//! Values into cells.

use super::error::damaged;
use super::nested::{self, Element};
use super::plan::Plans;
use super::{jsonb, numeric};
use crate::pg::tuple::with_payload;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::CStr;
use varve_core::change::cell::{self, Class};
use varve_core::change::hash::CellHash;

/// How values of a type become cells; domains are what they are made of.
pub enum Form {
    /// `boolean`
    Boolean,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `oid`
    Oid,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric`
    Numeric,
    /// `text`, `varchar`
    Text,
    /// `character(n)`, whose blanks at the end say nothing.
    Padded,
    /// `name`, and other texts that end with a NUL.
    Name,
    /// `"char"`
    Char,
    /// `bytea`
    Bytes,
    /// `date`
    Date,
    /// `time`, `timestamp`, `timestamptz`
    Micros(Class),
    /// `timetz`
    Timetz,
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// Arrays, `int2vector` and `oidvector` too.
    Array(Box<Element>),
    /// Ranges.
    Range(Box<Element>),
    /// Multiranges.
    Multirange(Box<Element>),
    /// Rows, of which each says what it is.
    Row,
    /// Enums.
    Enum,
    /// All others.
    Sent(Box<Sent>),
}

impl Form {
    /// Whether values of both forms are of one class, so that there may be equal ones among them.
    pub fn same_class(&self, other: &Form) -> bool {
        match (self, other) {
            (Form::Array(a), Form::Array(b))
            | (Form::Range(a), Form::Range(b))
            | (Form::Multirange(a), Form::Multirange(b)) => a.form.same_class(&b.form),
            (Form::Sent(a), Form::Sent(b)) => a.type_name == b.type_name,
            _ => self.class() == other.class(),
        }
    }

    fn class(&self) -> Class {
        match self {
            Form::Boolean => Class::Boolean,
            Form::Int2 | Form::Int4 | Form::Int8 => Class::Integer,
            Form::Oid => Class::Oid,
            Form::Float4 | Form::Float8 => Class::Float,
            Form::Numeric => Class::Numeric,
            Form::Text | Form::Padded | Form::Name | Form::Char => Class::Text,
            Form::Bytes => Class::Bytes,
            Form::Date => Class::Date,
            Form::Micros(class) => *class,
            Form::Timetz => Class::Timetz,
            Form::Interval => Class::Interval,
            Form::Uuid => Class::Uuid,
            Form::Json => Class::Json,
            Form::Jsonb => Class::Jsonb,
            Form::Array(_) => Class::Array,
            Form::Range(_) => Class::Range,
            Form::Multirange(_) => Class::Multirange,
            Form::Row => Class::Row,
            Form::Enum => Class::Enum,
            Form::Sent(sent) if sent.sends => Class::Other,
            Form::Sent(_) => Class::Written,
        }
    }
}

/// Values of a type that only the type itself knows.
pub struct Sent {
    /// The name of the type in UTF-8, without its schema.
    pub type_name: Vec<u8>,
    /// The function that sends them; that which writes them where there is none.
    pub function: RefCell<pg_sys::FmgrInfo>,
    /// Whether that sends.
    pub sends: bool,
}

/// A value of a class whose values all have 64 bits or fewer, as such; `None` for other classes. Values of one class are the same where
/// these numbers are.
#[inline]
pub fn word(form: &Form, value: pg_sys::Datum) -> Option<u64> {
    let raw = value.value() as u64;
    Some(match form {
        Form::Boolean => u64::from(raw as u8 != 0),
        Form::Int2 => i64::from(raw as i16) as u64,
        Form::Int4 | Form::Date => i64::from(raw as i32) as u64,
        Form::Int8 | Form::Micros(_) => raw,
        Form::Oid => u64::from(raw as u32),
        Form::Float4 => cell::float_bits(f32::from_bits(raw as u32).into()),
        Form::Float8 => cell::float_bits(f64::from_bits(raw)),
        _ => return None,
    })
}

/// Puts the cell of a value.
///
/// # Safety
/// A value of a type of that form.
#[inline]
pub unsafe fn put(form: &Form, value: pg_sys::Datum, plans: &mut Plans, to: &mut CellHash) {
    let raw = value.value() as u64;
    match form {
        Form::Boolean => to.put_cell(cell::boolean(raw as u8 != 0)),
        Form::Int2 => to.put_cell(cell::integer((raw as i16).into())),
        Form::Int4 => to.put_cell(cell::integer((raw as i32).into())),
        Form::Int8 => to.put_cell(cell::integer(raw as i64)),
        Form::Oid => to.put_cell(cell::oid(raw as u32)),
        Form::Float4 => to.put_cell(cell::float(f32::from_bits(raw as u32).into())),
        Form::Float8 => to.put_cell(cell::float(f64::from_bits(raw))),
        Form::Date => to.put_cell(cell::date(raw as i32)),
        Form::Micros(class) => to.put_cell(cell::micros(*class, raw as i64)),
        // SAFETY: by contract.
        Form::Text => unsafe { put_text(value, plans, to) },
        // SAFETY: by contract.
        _ => unsafe { put_other(form, value, plans, to) },
    }
}

/// Puts a text.
///
/// # Safety
/// A value of type `text`.
unsafe fn put_text(value: pg_sys::Datum, plans: &Plans, to: &mut CellHash) {
    let encoding = plans.encoding();
    // SAFETY: by contract.
    unsafe {
        with_payload(value, |text| {
            encoding.utf8(text, |text| cell::put_bytes(to, Class::Text, text));
        });
    }
}

/// Puts the cell of a value that is not among those of [`put`] itself.
///
/// # Safety
/// As there.
unsafe fn put_other(form: &Form, value: pg_sys::Datum, plans: &mut Plans, to: &mut CellHash) {
    let raw = value.value() as u64;
    let encoding = plans.encoding();
    // SAFETY: by contract, a value of the type that the arm is for; what is read of those passed by reference is as long as
    // they are.
    unsafe {
        match form {
            Form::Numeric => {
                let whole = with_payload(value, |bytes| {
                    numeric::parse(bytes).is_some_and(|number| cell::put_decimal(to, number))
                });
                if !whole {
                    damaged("a value of type numeric");
                }
            }
            Form::Padded => with_payload(value, |text| {
                let blanks = text.iter().rev().take_while(|c| **c == b' ').count();
                let text = text.get(..text.len() - blanks).unwrap_or_default();
                encoding.utf8(text, |text| cell::put_bytes(to, Class::Text, text));
            }),
            Form::Name => {
                let name = CStr::from_ptr(value.cast_mut_ptr()).to_bytes();
                encoding.utf8(name, |name| cell::put_bytes(to, Class::Text, name));
            }
            Form::Char => put_char(raw as u8, to),
            Form::Bytes => with_payload(value, |bytes| cell::put_bytes(to, Class::Bytes, bytes)),
            Form::Timetz => {
                let time = value.cast_mut_ptr::<pg_sys::TimeTzADT>().read_unaligned();
                to.put_cell(cell::timetz(time.time, time.zone));
            }
            Form::Interval => {
                let span = value.cast_mut_ptr::<pg_sys::Interval>().read_unaligned();
                to.put_cell(cell::interval(span.month, span.day, span.time));
            }
            Form::Uuid => to.put_cell(cell::uuid(&*value.cast_mut_ptr::<[u8; 16]>())),
            Form::Json => with_payload(value, |text| {
                encoding.utf8(text, |text| cell::put_bytes(to, Class::Json, text));
            }),
            Form::Jsonb => {
                if with_payload(value, |bytes| jsonb::put(bytes, encoding, to)).is_none() {
                    damaged("a value of type jsonb");
                }
            }
            Form::Array(element) => nested::put_array(element, value, plans, to),
            Form::Range(element) => nested::put_range(element, value, plans, to),
            Form::Multirange(element) => nested::put_multirange(element, value, plans, to),
            Form::Row => put_row(value, plans, to),
            Form::Enum => cell::put_bytes(to, Class::Enum, plans.label(raw as u32)),
            Form::Sent(sent) => put_sent(sent, value, plans, to),
            Form::Boolean
            | Form::Int2
            | Form::Int4
            | Form::Int8
            | Form::Oid
            | Form::Float4
            | Form::Float8
            | Form::Date
            | Form::Micros(_)
            | Form::Text => put(form, value, plans, to),
        }
    }
}

/// As the cast to text makes it: nothing of 0, and octal of what is no ASCII.
fn put_char(byte: u8, to: &mut CellHash) {
    let octal = |shift: u8| b'0' + (byte >> shift & 7);
    match byte {
        0 => cell::put_bytes(to, Class::Text, b""),
        1..=127 => cell::put_bytes(to, Class::Text, &[byte]),
        _ => {
            let text = [b'\\', octal(6), octal(3), octal(0)];
            cell::put_bytes(to, Class::Text, &text);
        }
    }
}

/// Puts a row within a row: the number of its fields that are not NULL, and these by their name.
///
/// # Safety
/// A row.
unsafe fn put_row(value: pg_sys::Datum, plans: &mut Plans, to: &mut CellHash) {
    // SAFETY: by contract; raises an error where values lie too deep within each other.
    unsafe {
        pg_sys::check_stack_depth();
        plans.with_row(value, |row, plans| {
            to.put(&[Class::Row.tag()]);
            to.put(&(row.cells().count() as u32).to_le_bytes());
            for (column, value) in row.cells() {
                cell::put_sized(to, &column.name);
                put(&column.form, value, plans, to);
            }
        });
    }
}

/// Puts what the type's function makes of a value.
///
/// # Safety
/// A value of the type.
unsafe fn put_sent(sent: &Sent, value: pg_sys::Datum, plans: &Plans, to: &mut CellHash) {
    let encoding = plans.encoding();
    let mut function = sent.function.borrow_mut();
    // SAFETY: by contract; what the function gives is in the current memory context, and ours.
    unsafe {
        if sent.sends {
            let bytes = encoding.sending(|| pg_sys::SendFunctionCall(&raw mut *function, value));
            let content = pgrx::varlena_to_byte_slice(bytes.cast());
            cell::put_named(to, Class::Other, &sent.type_name, content);
            pg_sys::pfree(bytes.cast());
        } else {
            let text = pg_sys::OutputFunctionCall(&raw mut *function, value);
            encoding.utf8(CStr::from_ptr(text).to_bytes(), |text| {
                cell::put_named(to, Class::Written, &sent.type_name, text);
            });
            pg_sys::pfree(text.cast());
        }
    }
}
