//! Rows that another server has copied out in binary (PostgreSQL's documentation, "COPY", "Binary Format"), kept in a file until they
//! are read: nobody waits for that server while a table is locked.

use super::incoming::Incoming;
use super::source::{temporary, temporary_bytes};
use crate::am::error::raise;
use crate::pg::memory::Context;
use crate::pg::spi::with_setting;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

/// What a copy begins with.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// What is being copied.
pub struct Spool {
    file: BufWriter<File>,
    bytes: u64,
}

impl Spool {
    /// An empty one.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Spool {
            file: BufWriter::with_capacity(1 << 20, temporary()?),
            bytes: 0,
        })
    }

    /// Adds some bytes.
    ///
    /// # Errors
    /// What the system says, or that it is larger than `temp_file_limit`.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > temporary_bytes() {
            return Err(io::Error::other("it exceeds temp_file_limit"));
        }
        self.file.write_all(bytes)
    }

    /// The rows that were copied, of columns of these types and modifiers.
    ///
    /// # Errors
    /// What the system says.
    pub fn rows(self, types: &[(pg_sys::Oid, i32)]) -> io::Result<Copied> {
        let mut file = self.file.into_inner().map_err(|e| e.into_error())?;
        file.rewind()?;
        let columns: Vec<Column> = types.iter().map(|(t, m)| Column::new(*t, *m)).collect();
        Ok(Copied {
            input: BufReader::with_capacity(1 << 20, file),
            begun: false,
            ended: false,
            values: vec![pg_sys::Datum::from(0usize); columns.len()],
            nulls: vec![true; columns.len()],
            columns,
            context: Context::new(),
        })
    }
}

/// How a column's values are read.
struct Column {
    receive: pg_sys::FmgrInfo,
    parameter: pg_sys::Oid,
    modifier: i32,
}

impl Column {
    fn new(typ: pg_sys::Oid, modifier: i32) -> Self {
        let mut receive = pg_sys::FmgrInfo::default();
        let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        // SAFETY: catalogue look-ups, which raise an error for a type without a binary form.
        unsafe {
            pg_sys::getTypeBinaryInputInfo(typ, &mut function, &mut parameter);
            pg_sys::fmgr_info(function, &mut receive);
        }
        Column {
            receive,
            parameter,
            modifier,
        }
    }

    fn value(&mut self, bytes: &mut Vec<u8>) -> pg_sys::Datum {
        let length = bytes.len() as i32;
        // Receive functions want a NUL behind the value.
        bytes.push(0);
        let mut buffer = pg_sys::StringInfoData {
            data: bytes.as_mut_ptr().cast(),
            len: length,
            maxlen: length + 1,
            cursor: 0,
        };
        // SAFETY: the type's own function; it copies what it keeps of the buffer.
        let value = unsafe {
            let (function, parameter) = (&mut self.receive, self.parameter);
            pg_sys::ReceiveFunctionCall(function, &mut buffer, parameter, self.modifier)
        };
        if buffer.cursor != length {
            damaged("a value is longer than its type");
        }
        value
    }
}

fn damaged(what: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_BAD_COPY_FILE_FORMAT,
        format!("rows of the restored server cannot be read: {what}"),
        None,
        Some("Restore another backup.".into()),
    )
}

/// Rows that were copied.
pub struct Copied {
    input: BufReader<File>,
    begun: bool,
    ended: bool,
    columns: Vec<Column>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    context: Context,
}

impl Copied {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => bytes,
            Err(e) => damaged(&e.to_string()),
        }
    }

    fn bytes_of(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.input.by_ref().take(length).read_to_end(&mut bytes) {
            Ok(got) if got as u64 == length => bytes,
            Ok(_) => damaged("they end too early"),
            Err(e) => damaged(&e.to_string()),
        }
    }

    fn read_values(&mut self) {
        for i in 0..self.columns.len() {
            let length = i32::from_be_bytes(self.take());
            let bytes = u64::try_from(length)
                .ok()
                .map(|length| self.bytes_of(length));
            let places = (
                self.columns.get_mut(i),
                self.values.get_mut(i),
                self.nulls.get_mut(i),
            );
            if let (Some(column), Some(value), Some(null)) = places {
                *null = bytes.is_none();
                if let Some(mut bytes) = bytes {
                    *value = self.context.within(|| column.value(&mut bytes));
                }
            }
        }
    }

    fn begin(&mut self) {
        if self.take::<11>() != *SIGNATURE {
            damaged("they are no copy");
        }
        let _flags = self.take::<4>();
        let extension = u32::from_be_bytes(self.take());
        self.bytes_of(extension.into());
        self.begun = true;
    }
}

impl Incoming for Copied {
    fn next(&mut self) -> bool {
        if self.ended {
            return false;
        }
        if !self.begun {
            self.begin();
        }
        let count = i16::from_be_bytes(self.take());
        if count == -1 {
            self.ended = true;
            return false;
        }
        if usize::try_from(count) != Ok(self.columns.len()) {
            damaged("a row has another number of columns");
        }
        // Texts came in UTF-8, and receive functions take them to be in the encoding of the session's client. By the row: what it is
        // told meanwhile has to be in that.
        // SAFETY: reads the session's state.
        match unsafe { pg_sys::pg_get_client_encoding() } == pg_sys::pg_enc::PG_UTF8 as i32 {
            true => self.read_values(),
            false => with_setting(c"client_encoding", c"UTF8", || self.read_values()),
        }
        true
    }

    fn row(&self) -> (&[pg_sys::Datum], &[bool]) {
        (&self.values, &self.nulls)
    }

    fn bytes(&self) -> usize {
        self.context.bytes()
    }

    fn forget(&mut self) {
        self.context.reset();
    }
}
