//! Cells into a row's sum, and that into its checksum.
//!
//! A row's *sum* is that of its cells' hashes modulo 2^128: it does not ask for the order of columns, NULLs add nothing to it, and
//! many rows' sums can be had column by column. Its checksum is the hash of that sum. Without this last step the checksum of a
//! table, which is the sum of its rows', would be linear in the cells: values that change places between rows of a column
//! would go unnoticed.
//!
//! XXH3 is no cryptographic hash: it finds what accidents do, not what somebody does on purpose. SHA-256 is for that.

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128, xxh3_128_with_seed};

/// What a column's cells are hashed with: XXH3-64 of its name in UTF-8.
pub fn seed(name: &[u8]) -> u64 {
    xxh3_64(name)
}

/// What a cell adds to its row's sum: XXH3-128 with its column's [`seed`].
#[inline]
pub fn cell_hash(seed: u64, cell: &[u8]) -> u128 {
    xxh3_128_with_seed(cell, seed)
}

/// The checksum of a row, as a number, by its sum.
#[inline]
pub fn finish(sum: u128) -> u128 {
    xxh3_128(&sum.to_le_bytes())
}

/// A checksum as bytes: big-endian, the canonical form of XXH3.
pub fn to_bytes(checksum: u128) -> [u8; 16] {
    checksum.to_be_bytes()
}

/// Bytes of a cell that are kept until they are hashed; what is longer is hashed as it comes.
const KEPT: usize = 64 << 10;

/// Takes the bytes of a cell, however many, in memory that does not grow with them.
#[derive(Default)]
pub struct CellHash {
    bytes: Vec<u8>,
    kind: Kind,
}

#[derive(Default)]
enum Kind {
    /// Nothing was begun.
    #[default]
    Idle,
    /// XXH3 with a seed; nothing is hashed yet.
    Xxh3(u64),
    /// XXH3 with a seed, of which the beginning is hashed.
    Begun(Box<Xxh3>),
    /// SHA-256, of one or more cells.
    Sha256(Sha256),
}

impl CellHash {
    /// Begins a cell.
    #[inline]
    pub fn begin_xxh3(&mut self, seed: u64) {
        self.bytes.clear();
        self.kind = Kind::Xxh3(seed);
    }

    /// Adds bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() <= KEPT {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.spill(bytes);
        }
    }

    #[cold]
    fn spill(&mut self, bytes: &[u8]) {
        if let Kind::Xxh3(seed) = self.kind {
            self.kind = Kind::Begun(Box::new(Xxh3::with_seed(seed)));
        }
        match &mut self.kind {
            Kind::Begun(hash) => {
                hash.update(&self.bytes);
                hash.update(bytes);
            }
            Kind::Sha256(hash) => {
                hash.update(&self.bytes);
                hash.update(bytes);
            }
            Kind::Idle | Kind::Xxh3(_) => {}
        }
        self.bytes.clear();
    }

    /// The hash of what was put since [`CellHash::begin_xxh3`]: what [`cell_hash`] gives for it.
    #[inline]
    pub fn end_xxh3(&mut self) -> u128 {
        match &mut self.kind {
            Kind::Xxh3(seed) => cell_hash(*seed, &self.bytes),
            Kind::Begun(hash) => {
                hash.update(&self.bytes);
                hash.digest128()
            }
            Kind::Idle | Kind::Sha256(_) => 0,
        }
    }

    /// The bytes that were put, if they are few enough to be kept.
    #[cfg(test)]
    pub fn bytes(&self) -> Option<&[u8]> {
        matches!(self.kind, Kind::Xxh3(_)).then_some(&self.bytes)
    }
}

/// A row's checksum by SHA-256: of its cells by their columns' names, in the order of these names' bytes, the length of the
/// name (32 bits), the name, and the cell.
pub struct Sha256Row<'a>(&'a mut CellHash);

impl<'a> Sha256Row<'a> {
    /// Begins a row, in memory that is used again.
    pub fn begin(memory: &'a mut CellHash) -> Self {
        memory.bytes.clear();
        memory.kind = Kind::Sha256(Sha256::new());
        Sha256Row(memory)
    }

    /// Begins a cell, whose bytes are to be put; columns come in the order of their names.
    pub fn cell(&mut self, name: &[u8]) -> &mut CellHash {
        super::cell::put_sized(self.0, name);
        self.0
    }

    /// The checksum.
    pub fn end(self) -> [u8; 32] {
        let mut hash = match std::mem::take(&mut self.0.kind) {
            Kind::Sha256(hash) => hash,
            Kind::Idle | Kind::Xxh3(_) | Kind::Begun(_) => Sha256::new(),
        };
        hash.update(&self.0.bytes);
        self.0.bytes.clear();
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell;
    use super::*;

    /// By the program xxhsum's own library, through Python: `xxhash.xxh3_128_hexdigest(b'\x02' + (42).to_bytes(8, 'little'),
    /// seed=xxhash.xxh3_64_intdigest(b'id'))` and so on.
    #[test]
    fn known_answers() {
        assert_eq!(format!("{:016x}", seed(b"id")), KNOWN_SEED);
        let id = cell_hash(seed(b"id"), &cell::integer(42));
        assert_eq!(format!("{id:032x}"), KNOWN_CELL);
        let mut text = CellHash::default();
        text.begin_xxh3(seed("größe".as_bytes()));
        cell::put_bytes(&mut text, cell::Class::Text, "zwölf".as_bytes());
        let sum = id.wrapping_add(text.end_xxh3());
        assert_eq!(format!("{:032x}", finish(sum)), KNOWN_ROW);
        assert_eq!(to_bytes(finish(0)), KNOWN_EMPTY.to_be_bytes());
        let mut memory = CellHash::default();
        let mut row = Sha256Row::begin(&mut memory);
        let text = row.cell("größe".as_bytes());
        cell::put_bytes(text, cell::Class::Text, "zwölf".as_bytes());
        row.cell(b"id").put(&cell::integer(42));
        let hex: String = row.end().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, KNOWN_SHA256);
    }

    const KNOWN_SEED: &str = "d2a44dfe8653ba83";
    const KNOWN_CELL: &str = "464e4f1b0f9535d49065d8faa8a4779b";
    const KNOWN_ROW: &str = "4b00cc521c7aeae075e396ccdfd5a88f";
    const KNOWN_EMPTY: u128 = 0xe5189a9599e3f86205ea23ef06e28b2d;
    const KNOWN_SHA256: &str = "3883a8dddb273fdfd478b1f6b174a8eb53d3b797e2f56c462c08e3a48474c4f3";

    /// Long cells are hashed in pieces, and come to the same.
    #[test]
    fn cells_of_any_length() {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let mut hash = CellHash::default();
        for length in [0, 1, 16, 17, 128, 129, 240, 241, KEPT, KEPT + 1, 300_000] {
            for piece in [1, 7, 4096, KEPT + 1] {
                let bytes = &bytes[..length];
                hash.begin_xxh3(length as u64);
                bytes.chunks(piece).for_each(|piece| hash.put(piece));
                assert_eq!(hash.end_xxh3(), cell_hash(length as u64, bytes), "{length}");
                assert!(hash.bytes.capacity() <= 2 * KEPT);
                let mut row = Sha256Row::begin(&mut hash);
                let cell = row.cell(b"n");
                bytes.chunks(piece).for_each(|piece| cell.put(piece));
                let whole = [b"\x01\0\0\0n", bytes].concat();
                assert_eq!(row.end(), <[u8; 32]>::from(Sha256::digest(whole)));
            }
        }
    }

    #[test]
    fn rows_that_swap_values_have_another_sum() {
        let row = |a: i64, b: i64| {
            cell_hash(seed(b"a"), &cell::integer(a))
                .wrapping_add(cell_hash(seed(b"b"), &cell::integer(b)))
        };
        // The sums of the rows' sums are the same: this is why rows are hashed once more.
        assert_eq!(
            row(1, 2).wrapping_add(row(3, 4)),
            row(1, 4).wrapping_add(row(3, 2))
        );
        assert_ne!(
            finish(row(1, 2)).wrapping_add(finish(row(3, 4))),
            finish(row(1, 4)).wrapping_add(finish(row(3, 2)))
        );
        assert_ne!(row(1, 2), row(2, 1));
    }
}
