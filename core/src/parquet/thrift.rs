//! The compact protocol of Apache Thrift, as far as Parquet's descriptions need it.

use super::error::ParquetError;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

/// How deep structures may lie in one another.
const DEEPEST: u32 = 16;

/// A structure that is being written; fields come in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct StructWriter {
    bytes: Vec<u8>,
    last: i16,
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

impl StructWriter {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn header(&mut self, id: i16, kind: u8) {
        let delta = id - self.last;
        if (1..=15).contains(&delta) {
            self.bytes.push((delta as u8) << 4 | kind);
        } else {
            self.bytes.push(kind);
            varint(&mut self.bytes, zigzag(i64::from(id)));
        }
        self.last = id;
    }

    pub(super) fn boolean(&mut self, id: i16, value: bool) {
        self.header(id, if value { TRUE } else { FALSE });
    }

    pub(super) fn byte(&mut self, id: i16, value: u8) {
        self.header(id, BYTE);
        self.bytes.push(value);
    }

    pub(super) fn i32(&mut self, id: i16, value: i32) {
        self.header(id, I32);
        varint(&mut self.bytes, zigzag(i64::from(value)));
    }

    pub(super) fn i64(&mut self, id: i16, value: i64) {
        self.header(id, I64);
        varint(&mut self.bytes, zigzag(value));
    }

    pub(super) fn binary(&mut self, id: i16, value: &[u8]) {
        self.header(id, BINARY);
        self.bare_binary(value);
    }

    fn bare_binary(&mut self, value: &[u8]) {
        varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn structure(&mut self, id: i16, fill: impl FnOnce(&mut Self)) {
        self.header(id, STRUCT);
        let mut inner = Self::new();
        fill(&mut inner);
        self.bytes.extend(inner.finish());
    }

    fn list_header(&mut self, id: i16, kind: u8, len: usize) {
        self.header(id, LIST);
        match len {
            0..15 => self.bytes.push((len as u8) << 4 | kind),
            _ => {
                self.bytes.push(0xF0 | kind);
                varint(&mut self.bytes, len as u64);
            }
        }
    }

    pub(super) fn structures(&mut self, id: i16, items: Vec<Self>) {
        self.list_header(id, STRUCT, items.len());
        for item in items {
            self.bytes.extend(item.finish());
        }
    }

    pub(super) fn i32s(&mut self, id: i16, items: &[i32]) {
        self.list_header(id, I32, items.len());
        for item in items {
            varint(&mut self.bytes, zigzag(i64::from(*item)));
        }
    }

    pub(super) fn texts(&mut self, id: i16, items: &[&str]) {
        self.list_header(id, BINARY, items.len());
        for item in items {
            self.bare_binary(item.as_bytes());
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Int(i64),
    Binary(Vec<u8>),
    List(Vec<Value>),
    Struct(Struct),
    /// Something that nobody here asks for.
    Other,
}

/// A structure that was read: its fields by their numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Struct(Vec<(i16, Value)>);

impl Struct {
    fn get(&self, id: i16) -> Option<&Value> {
        self.0.iter().find(|(n, _)| *n == id).map(|(_, v)| v)
    }

    pub(super) fn int(&self, id: i16) -> Option<i64> {
        match self.get(id)? {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A number that counts or measures something.
    pub(super) fn size(&self, id: i16) -> Option<u64> {
        u64::try_from(self.int(id)?).ok()
    }

    pub(super) fn text(&self, id: i16) -> Option<String> {
        match self.get(id)? {
            Value::Binary(bytes) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        }
    }

    pub(super) fn structure(&self, id: i16) -> Option<&Struct> {
        match self.get(id)? {
            Value::Struct(inner) => Some(inner),
            _ => None,
        }
    }

    pub(super) fn structures(&self, id: i16) -> Option<Vec<&Struct>> {
        let Value::List(items) = self.get(id)? else {
            return None;
        };
        let items = items.iter().map(|item| match item {
            Value::Struct(inner) => Some(inner),
            _ => None,
        });
        items.collect()
    }
}

/// Reads a structure of at most so many values at the beginning of some bytes; and how many of them it took.
pub(super) fn read(bytes: &[u8], values: usize) -> Result<(Struct, usize), ParquetError> {
    let mut input = Input {
        left: bytes,
        values,
    };
    let read = input.structure(0)?;
    Ok((read, bytes.len() - input.left.len()))
}

struct Input<'b> {
    left: &'b [u8],
    /// Values that may still come: a few bytes make one that takes many.
    values: usize,
}

fn corrupt() -> ParquetError {
    ParquetError::corrupt("a description cannot be read")
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, ParquetError> {
        let (first, rest) = self.left.split_first().ok_or_else(corrupt)?;
        self.left = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, ParquetError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(corrupt())
    }

    fn signed(&mut self) -> Result<i64, ParquetError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn take(&mut self, len: usize) -> Result<&[u8], ParquetError> {
        let (taken, rest) = self.left.split_at_checked(len).ok_or_else(corrupt)?;
        self.left = rest;
        Ok(taken)
    }

    fn structure(&mut self, depth: u32) -> Result<Struct, ParquetError> {
        let mut fields = Vec::new();
        let mut id = 0i16;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Ok(Struct(fields));
            }
            id = match header >> 4 {
                0 => i16::try_from(self.signed()?).map_err(|_| corrupt())?,
                delta => id.checked_add(i16::from(delta)).ok_or_else(corrupt)?,
            };
            let value = match header & 15 {
                TRUE | FALSE => {
                    self.values = self.values.checked_sub(1).ok_or_else(corrupt)?;
                    Value::Other
                }
                kind => self.value(kind, depth)?,
            };
            fields.push((id, value));
        }
    }

    fn value(&mut self, kind: u8, depth: u32) -> Result<Value, ParquetError> {
        self.values = self.values.checked_sub(1).ok_or_else(corrupt)?;
        if depth > DEEPEST {
            return Err(corrupt());
        }
        Ok(match kind {
            // In a list a Boolean takes a byte.
            TRUE | FALSE | BYTE => {
                self.byte()?;
                Value::Other
            }
            I16 | I32 | I64 => Value::Int(self.signed()?),
            DOUBLE => {
                self.take(8)?;
                Value::Other
            }
            BINARY => {
                let len = usize::try_from(self.varint()?).map_err(|_| corrupt())?;
                Value::Binary(self.take(len)?.to_vec())
            }
            LIST | SET => {
                let header = self.byte()?;
                let len = match header >> 4 {
                    15 => self.varint()?,
                    len => u64::from(len),
                };
                // Each item takes a byte or more.
                if len > self.left.len() as u64 {
                    return Err(corrupt());
                }
                let items = (0..len).map(|_| self.value(header & 15, depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            STRUCT => Value::Struct(self.structure(depth + 1)?),
            _ => return Err(corrupt()),
        })
    }
}
