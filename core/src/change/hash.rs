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

/// Bytes that are kept until they are hashed; what is longer is hashed as it comes.
const KEPT: usize = 64 << 10;

/// Bytes that come to lie in a place of a fixed size first: most cells and rows have no more.
const SHORT: usize = 256;

/// The longest cell that [`CellHash::put_cell`] takes.
const WIDEST: usize = 17;

/// Takes the bytes of a cell, however many, in memory that does not grow with them.
pub struct CellHash {
    /// What was put last, up to `length`. From [`SHORT`] on there is room for one more cell.
    short: [u8; SHORT + WIDEST],
    length: usize,
    /// What was put before that and is not hashed yet.
    bytes: Vec<u8>,
    /// How many bytes are hashed.
    hashed: usize,
    kind: Kind,
}

impl Default for CellHash {
    fn default() -> Self {
        CellHash {
            short: [0; SHORT + WIDEST],
            length: 0,
            bytes: Vec::new(),
            hashed: 0,
            kind: Kind::Idle,
        }
    }
}

enum Kind {
    /// Nothing was begun.
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
        self.begin(Kind::Xxh3(seed));
    }

    #[inline]
    fn begin(&mut self, kind: Kind) {
        self.length = 0;
        self.bytes.clear();
        self.hashed = 0;
        self.kind = kind;
    }

    /// Adds bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        match self.short.get_mut(self.length..end) {
            Some(room) if end <= SHORT => {
                room.copy_from_slice(bytes);
                self.length = end;
            }
            _ => self.put_long(bytes),
        }
    }

    /// Adds a cell of a fixed length, as [`CellHash::put`] does, with one comparison.
    #[inline]
    pub fn put_cell<const LENGTH: usize>(&mut self, cell: [u8; LENGTH]) {
        const { assert!(LENGTH <= WIDEST) };
        if self.length > SHORT {
            self.empty();
        }
        let behind = self.short.get_mut(self.length..);
        if let Some(room) = behind.and_then(|behind| behind.first_chunk_mut()) {
            *room = cell;
            self.length += LENGTH;
        }
    }

    /// Adds zeros up to a multiple of eight bytes.
    #[inline]
    pub fn pad(&mut self) {
        const ZEROS: [u8; 8] = [0; 8];
        let behind = (self.hashed + self.bytes.len() + self.length) % 8;
        if behind > 0 {
            self.put(ZEROS.get(behind..).unwrap_or_default());
        }
    }

    #[cold]
    fn put_long(&mut self, bytes: &[u8]) {
        self.empty();
        self.hashed += push(&mut self.kind, &mut self.bytes, bytes);
    }

    /// Puts what lies in the place for short cells behind the rest.
    #[cold]
    fn empty(&mut self) {
        let short = self.short.get(..self.length).unwrap_or_default();
        self.hashed += push(&mut self.kind, &mut self.bytes, short);
        self.length = 0;
    }

    /// The hash of what was put since [`CellHash::begin_xxh3`]: what [`cell_hash`] gives for it.
    #[inline]
    pub fn end_xxh3(&mut self) -> u128 {
        match self.kind {
            Kind::Xxh3(seed) if self.bytes.is_empty() => {
                cell_hash(seed, self.short.get(..self.length).unwrap_or_default())
            }
            _ => self.end_long(),
        }
    }

    #[cold]
    fn end_long(&mut self) -> u128 {
        self.empty();
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
    pub fn bytes(&mut self) -> Option<&[u8]> {
        self.empty();
        matches!(self.kind, Kind::Xxh3(_)).then_some(&self.bytes)
    }
}

/// Keeps bytes behind others, or hashes them all; says how many were hashed.
fn push(kind: &mut Kind, kept: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let length = kept.len() + bytes.len();
    if length <= KEPT {
        kept.extend_from_slice(bytes);
        return 0;
    }
    if let Kind::Xxh3(seed) = kind {
        *kind = Kind::Begun(Box::new(Xxh3::with_seed(*seed)));
    }
    match kind {
        Kind::Begun(hash) => {
            hash.update(kept);
            hash.update(bytes);
        }
        Kind::Sha256(hash) => {
            hash.update(&*kept);
            hash.update(bytes);
        }
        Kind::Idle | Kind::Xxh3(_) => {}
    }
    kept.clear();
    length
}

/// A row's checksum by SHA-256: of its cells by their columns' names, in the order of these names' bytes, the length of the
/// name (32 bits), the name, and the cell.
pub struct Sha256Row<'a>(&'a mut CellHash);

impl<'a> Sha256Row<'a> {
    /// Begins a row, in memory that is used again.
    pub fn begin(memory: &'a mut CellHash) -> Self {
        memory.begin(Kind::Sha256(Sha256::new()));
        Sha256Row(memory)
    }

    /// Begins a cell, whose bytes are to be put; columns come in the order of their names.
    pub fn cell(&mut self, name: &[u8]) -> &mut CellHash {
        super::cell::put_sized(self.0, name);
        self.0
    }

    /// The checksum.
    pub fn end(self) -> [u8; 32] {
        self.0.empty();
        let mut hash = match std::mem::replace(&mut self.0.kind, Kind::Idle) {
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
        let around = [SHORT - 1, SHORT, SHORT + 1, KEPT, KEPT + 1, 300_000];
        for length in [0, 1, 16, 17, 128, 129, 240, 241].into_iter().chain(around) {
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

    /// Cells of a fixed length, others between them, wherever they lie.
    #[test]
    fn cells_that_are_put_as_one() {
        let mut hash = CellHash::default();
        for before in (SHORT - 40..SHORT + 3).chain([0, KEPT - 20, KEPT, KEPT + SHORT]) {
            let mut all = vec![9; before];
            hash.begin_xxh3(3);
            hash.put(&all);
            for i in 0..40i64 {
                hash.put_cell(cell::integer(i));
                hash.put_cell(cell::uuid(&[i as u8; 16]));
                hash.put_cell([7]);
                hash.put(&all[..i as usize % 3]);
                all.extend(cell::integer(i));
                all.extend(cell::uuid(&[i as u8; 16]));
                all.push(7);
                all.extend_from_within(..i as usize % 3);
            }
            assert_eq!(hash.end_xxh3(), cell_hash(3, &all), "{before}");
        }
    }

    #[test]
    fn padded_alike_however_it_was_put() {
        let mut hash = CellHash::default();
        for length in (0..20).chain([SHORT - 3, SHORT + 5, KEPT + 1, KEPT + SHORT + 3, 200_003]) {
            let mut all = vec![5; length];
            let mut pad = |piece: usize| {
                hash.begin_xxh3(0);
                all[..length]
                    .chunks(piece)
                    .for_each(|piece| hash.put(piece));
                hash.pad();
                hash.put_cell([1, 2]);
                hash.end_xxh3()
            };
            let found = [1, 7, 4096, 300_000].map(&mut pad);
            all.resize(length.next_multiple_of(8), 0);
            all.extend([1, 2]);
            assert_eq!(found, [cell_hash(0, &all); 4], "{length}");
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
