//! Rows into a table by `COPY … (FORMAT binary)`, as they are made.

use super::{Sink, Source};
use postgres::Client;
use std::io::Write;

/// A stream begins with this: a signature, flags, and the length of an extension, both 0.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// In place of a number of columns: the end of the stream.
const TRAILER: [u8; 2] = (-1i16).to_be_bytes();

/// Rows are sent when so many bytes of them are there.
const BLOCK: usize = 1 << 18;

/// Rows in the binary format of COPY.
struct Binary(Vec<u8>);

impl Binary {
    fn field(&mut self, bytes: &[u8]) {
        self.0
            .extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }
}

impl Sink for Binary {
    fn row(&mut self, columns: u16) {
        self.0.extend_from_slice(&columns.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.field(text.as_bytes());
    }

    fn time(&mut self, seconds: i64) {
        self.field(&(seconds * 1_000_000).to_be_bytes());
    }

    fn float(&mut self, value: f64) {
        self.field(&value.to_be_bytes());
    }

    fn int(&mut self, value: i64) {
        self.field(&value.to_be_bytes());
    }
}

/// Copies all rows of a source into a table, and says how many; `progress` is told of rows that have been sent.
pub fn copy(
    client: &mut Client,
    table: &str,
    mut source: impl Source,
    progress: impl Fn(u64),
) -> std::io::Result<u64> {
    let mut stream = client
        .copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)"))
        .map_err(std::io::Error::other)?;
    let mut block = Binary(HEADER.to_vec());
    let mut fresh = 0;
    loop {
        let made = source.next(&mut block);
        fresh += made;
        if made == 0 || block.0.len() >= BLOCK {
            stream.write_all(&block.0)?;
            block.0.clear();
            progress(std::mem::take(&mut fresh));
        }
        if made == 0 {
            break;
        }
    }
    stream.write_all(&TRAILER)?;
    stream.finish().map_err(std::io::Error::other)
}
