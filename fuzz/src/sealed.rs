//! Streams that were compressed or encrypted.

use std::io::Read;

use varve_core::seal::{
    CompressOptions, Compressor, DecompressOptions, Decompressor, Decryptor, Encryptor, Identities,
    Recipients,
};
use varve_core::wait::never;

/// A key that opens nothing but what is made here.
const SECRET: &str = "AGE-SECRET-KEY-1N8ZCTQVZF3528V2AYEX8P9EUJQNHANF2RN30U0QE5JKWTLPHTYHQ8JSC8K";

/// The other half of it.
const PUBLIC: &str = "age1h5n6rq84h9zmycxvqzukyqug08j78ccp0z7npgtlhc00tvv2a4sqyfxxpr";

/// More than that is not read: it may be, but it takes long.
const MOST: u64 = 1 << 24;

/// Whatever it is, it must be refused, or end. The first byte tells how it is read.
pub fn check(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    if how & 1 == 0 {
        drain(decompressor(bytes, *how));
        return;
    }
    let identities = Identities::from_text(SECRET).unwrap();
    if let Ok(decryptor) = Decryptor::new(bytes, &identities, &never) {
        match how & 2 {
            0 => drain(decryptor),
            _ => drain(decompressor(decryptor, *how)),
        }
    }
}

fn decompressor<R: Read>(from: R, how: u8) -> Decompressor<'static, R> {
    let options = DecompressOptions {
        threads: 1,
        expected: (how & 4 != 0).then_some(u64::from(how)),
    };
    Decompressor::new(from, options, &never)
}

/// Reads to the end or to an error, and goes on after the error: it must stay one.
fn drain(reader: impl Read) {
    let mut reader = reader.take(MOST);
    let mut sink = std::io::sink();
    if std::io::copy(&mut reader, &mut sink).is_err() {
        assert!(reader.read(&mut [0; 9]).is_err());
    }
}

/// What the target begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for plain in [&b""[..], b"varve", &[7; 3_000]] {
        let options = CompressOptions {
            level: 1,
            frame_bytes: 1 << 10,
            threads: 1,
        };
        let mut compressor = Compressor::new(Vec::new(), options, &never);
        std::io::Write::write_all(&mut compressor, plain).unwrap();
        let compressed = compressor.finish().unwrap().inner;
        let to = Recipients::from_keys([PUBLIC]).unwrap();
        for (how, bytes) in [(1, plain), (3, compressed.as_slice())] {
            let mut encryptor = Encryptor::new(Vec::new(), &to, &never).unwrap();
            std::io::Write::write_all(&mut encryptor, bytes).unwrap();
            seeds.push([&[how][..], &encryptor.finish().unwrap()].concat());
        }
        seeds.push([&[0][..], &compressed].concat());
    }
    seeds
}
