//! Compression, encryption and hashing: what goes in comes out, other programs' files are files, and damage is found.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::time::Instant;

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use varve_core::seal::*;
use varve_core::wait::{Stopped, never};

const FRAME: usize = 1 << 10;

fn options(frame_bytes: usize, threads: usize) -> CompressOptions {
    CompressOptions {
        level: 1,
        frame_bytes,
        threads,
    }
}

fn compress(plain: &[u8], options: CompressOptions, step: usize) -> Compressed<Vec<u8>> {
    let mut compressor = Compressor::new(Vec::new(), options, &never);
    for piece in plain.chunks(step.max(1)) {
        compressor.write_all(piece).unwrap();
    }
    compressor.finish().unwrap()
}

fn decompress(stored: &[u8], threads: usize) -> Result<Vec<u8>, SealError> {
    let options = DecompressOptions {
        threads,
        expected: None,
    };
    all(Decompressor::new(stored, options, &never))
}

fn all(mut reader: impl Read) -> Result<Vec<u8>, SealError> {
    let mut plain = Vec::new();
    match reader.read_to_end(&mut plain) {
        Ok(_) => Ok(plain),
        Err(error) => Err(SealError::from_io(error)),
    }
}

/// Bytes of which some compress and some do not.
fn texture(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|i| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            match i / 700 % 3 {
                0 => (state >> 56) as u8,
                1 => (i / 9) as u8,
                _ => 0,
            }
        })
        .collect()
}

fn secret() -> (Recipients, Identities) {
    let identity = age::x25519::Identity::generate();
    use age::secrecy::ExposeSecret;
    let text = format!("# a comment\n\n{}\n", identity.to_string().expose_secret());
    let public = identity.to_public().to_string();
    (
        Recipients::from_keys([public.as_str()]).unwrap(),
        Identities::from_text(&text).unwrap(),
    )
}

fn encrypt(plain: &[u8], to: &Recipients) -> Vec<u8> {
    let mut encryptor = Encryptor::new(Vec::new(), to, &never).unwrap();
    encryptor.write_all(plain).unwrap();
    encryptor.finish().unwrap()
}

fn decrypt(stored: &[u8], identities: &Identities) -> Result<Vec<u8>, SealError> {
    all(Decryptor::new(stored, identities, &never)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_goes_in_comes_out(
        seed in any::<u64>(),
        len in 0_usize..40_000,
        frame in 1_usize..5_000,
        step in 1_usize..9_000,
        threads in 1_usize..6,
    ) {
        let plain = texture(seed, len);
        let Compressed { inner: stored, frames } = compress(&plain, options(frame, threads), step);
        let frame = frame.max(FRAME);
        prop_assert_eq!(frames.frames().len(), len.div_ceil(frame).max(1));
        prop_assert_eq!(frames.plain_bytes(), len as u64);
        prop_assert_eq!(frames.stored_bytes(), stored.len() as u64);
        prop_assert!(decompress(&stored, threads).unwrap() == plain);
        // The reference decoder reads the whole as one file.
        prop_assert!(zstd::decode_all(stored.as_slice()).unwrap() == plain);
    }

    #[test]
    fn every_place_is_found(seed in any::<u64>(), len in 1_usize..40_000, ends in any::<(u64, u64)>()) {
        let plain = texture(seed, len);
        let Compressed { inner: stored, frames } = compress(&plain, options(FRAME, 2), len);
        let (a, b) = (ends.0 % len as u64, ends.1 % len as u64 + 1);
        let range = a.min(b - 1)..b.max(a + 1);
        let covering = frames.covering(&range).unwrap();
        let part = &stored[covering.stored.start as usize..covering.stored.end as usize];
        let decoded = decompress(part, 1).unwrap();
        let skip = covering.skip as usize;
        prop_assert!(skip < FRAME);
        let wanted = (range.end - range.start) as usize;
        prop_assert!(decoded[skip..skip + wanted] == plain[range.start as usize..range.end as usize]);
        prop_assert!(decoded.len() - skip - wanted < FRAME);
    }

    #[test]
    fn damage_is_found(seed in any::<u64>(), len in 1_usize..9_000, at in any::<usize>(), flip in 1_u8..=255) {
        let plain = texture(seed, len);
        let (to, identities) = secret();
        let encrypted = encrypt(&plain, &to);
        prop_assert!(decrypt(&encrypted, &identities).unwrap() == plain);
        let mut damaged = encrypted.clone();
        let place = at % damaged.len();
        damaged[place] ^= flip;
        prop_assert!(decrypt(&damaged, &identities).is_err(), "byte {place}");
        prop_assert!(decrypt(&encrypted[..place], &identities).is_err(), "cut at {place}");

        let stored = compress(&plain, options(FRAME, 2), len).inner;
        let mut damaged = stored.clone();
        let place = at % damaged.len();
        damaged[place] ^= flip;
        // Some bits of a header mean nothing, and a skipped frame is no frame; then nothing else may change, or a frame is gone.
        if let Ok(decoded) = decompress(&damaged, 2) {
            prop_assert!(decoded == plain || decoded.len() < plain.len(), "byte {place}");
        }
        let expected = DecompressOptions { threads: 2, expected: Some(len as u64) };
        let cut = all(Decompressor::new(&stored[..place], expected, &never));
        prop_assert!(matches!(cut, Err(SealError::Corrupt { .. })), "cut at {place}: {cut:?}");
    }

    #[test]
    fn anything_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), frame in any::<bool>()) {
        let mut stored = Vec::new();
        if frame {
            stored.extend_from_slice(&[0x28, 0xB5, 0x2F, 0xFD]);
        }
        stored.extend_from_slice(&bytes);
        if let Ok(plain) = decompress(&stored, 1) {
            // No frame at all holds nothing; zstd itself wants one.
            let expected = match stored.is_empty() {
                true => Vec::new(),
                false => zstd::decode_all(stored.as_slice()).unwrap(),
            };
            prop_assert!(expected == plain);
        }
        let (_, identities) = secret();
        prop_assert!(decrypt(&stored, &identities).is_err());
    }
}

#[test]
fn all_layers_together() {
    let plain = texture(1, 5 << 20);
    let (to, identities) = secret();
    let stored = Hashed::new(Vec::new());
    let encryptor = Encryptor::new(stored, &to, &never).unwrap();
    let compressor = Compressor::new(encryptor, options(1 << 20, 3), &never);
    let mut source = Hashed::new(compressor);
    source.write_all(&plain).unwrap();
    assert_eq!(source.bytes(), plain.len() as u64);
    assert_eq!(source.sha256()[..], Sha256::digest(&plain)[..]);
    let compressed = source.into_inner().finish().unwrap();
    assert_eq!(compressed.frames.frames().len(), 5);
    let stored = compressed.inner.finish().unwrap();
    let sum = stored.sha256();
    let stored = stored.into_inner();
    assert_eq!(sum[..], Sha256::digest(&stored)[..]);

    let mut hashed = Hashed::new(stored.as_slice());
    let decryptor = Decryptor::new(&mut hashed, &identities, &never).unwrap();
    let expected = DecompressOptions {
        threads: 3,
        expected: Some(plain.len() as u64),
    };
    assert!(all(Decompressor::new(decryptor, expected, &never)).unwrap() == plain);
    assert_eq!(hashed.sha256(), sum);
}

#[test]
fn frames_that_lie() {
    let magic = [0x28, 0xB5, 0x2F, 0xFD];
    let frame = |rest: &[u8]| [&magic[..], rest].concat();
    let terabyte = (1_u64 << 40).to_le_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        // A single segment that says it holds 1 TB, and blocks of repeated bytes behind it.
        (
            frame(&[&[0b1110_0000][..], &terabyte, &[0x02, 0, 0x10, 0]].concat()),
            "at most",
        ),
        // 16 MiB, of which nothing comes.
        (
            frame(&[0b1010_0000, 0, 0, 0, 1, 1, 0, 0]),
            "its blocks cannot",
        ),
        (frame(&[0b1010_0000, 0, 0, 0, 1]), "ends within"),
        // A block of 2 MiB.
        (
            frame(&[0b1010_0000, 0, 0, 0, 1, 5, 0, 0xFF]),
            "longer than it can be",
        ),
        (frame(&[0b0010_0000, 1, 0x07, 0, 0]), "no known kind"),
        (
            frame(&[0b0000_0000, 0x50, 1, 0, 0]),
            "does not say how long",
        ),
        (frame(&[0b0010_0001, 7, 1, 1, 0, 0]), "dictionary"),
        (frame(&[0b0010_1000, 1, 1, 0, 0]), "unknown flag"),
        (vec![1, 2, 3, 4, 5], "not a frame"),
        (vec![0x28, 0xB5], "ends within"),
        (
            vec![0x50, 0x2A, 0x4D, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3],
            "ends within",
        ),
        // Says 5 bytes, holds 4.
        (frame(&[0b0010_0000, 5, 0x21, 0, 0, 1, 2, 3, 4]), "cannot"),
    ];
    for (bytes, part) in cases {
        let error = decompress(&bytes, 2).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(part), "{bytes:?}: {message}");
    }
    // An endless row of empty blocks ends where a frame of that size must.
    let endless = frame(&[0b0010_0000, 5]);
    let blocks = io::repeat(0).take(1 << 30);
    let error = all(Decompressor::new(
        endless.as_slice().chain(blocks),
        DecompressOptions::default(),
        &never,
    ))
    .unwrap_err();
    assert!(
        error.to_string().contains("longer than it can be"),
        "{error}"
    );
    // Frames that are to be skipped are.
    let skipped = [
        &[0x53, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3][..],
        &compress(b"abc", options(FRAME, 1), 3).inner,
    ]
    .concat();
    assert_eq!(decompress(&skipped, 1).unwrap(), b"abc");
    assert_eq!(decompress(&[], 1).unwrap(), b"");
    // What the reference encoder makes in one go can be read too.
    let other = zstd::bulk::compress(&texture(3, 300_000), 5).unwrap();
    assert!(decompress(&other, 1).unwrap() == texture(3, 300_000));
}

#[test]
fn sizes_that_are_expected() {
    let stored = compress(&texture(1, 5_000), options(FRAME, 2), 99).inner;
    for (expected, sound) in [(5_000, true), (4_999, false), (5_001, false), (0, false)] {
        let options = DecompressOptions {
            threads: 2,
            expected: Some(expected),
        };
        let read = all(Decompressor::new(stored.as_slice(), options, &never));
        assert_eq!(read.is_ok(), sound, "{expected}");
    }
}

#[test]
fn headers_without_an_end() {
    let (_, identities) = secret();
    for endless in [
        &b"age-encryption.org/v1\n-> X25519 "[..],
        b"age-encryption.org/v1\n-> X25519 abc\n",
        b"age-encryption.org/v1\n",
    ] {
        for byte in [b'a', b'\n', b' '] {
            let stream = endless.chain(io::repeat(byte));
            let began = Instant::now();
            let error = Decryptor::new(stream, &identities, &never)
                .map(drop)
                .unwrap_err();
            let refused = matches!(
                error,
                SealError::Corrupt { .. } | SealError::Unsupported { .. }
            );
            assert!(refused, "{error:?}");
            assert!(began.elapsed().as_secs() < 30);
        }
    }
}

#[test]
fn others_cannot_decrypt() {
    let (to, _) = secret();
    let (other, identities) = secret();
    let encrypted = encrypt(b"abc", &to);
    let error = decrypt(&encrypted, &identities).unwrap_err();
    assert!(matches!(error, SealError::Key { .. }), "{error:?}");
    // To both of them.
    let names = [format!("{to:?}"), format!("{other:?}")];
    let names: Vec<&str> = names
        .iter()
        .map(|name| name.trim_matches(['[', ']', '"']))
        .collect();
    let both = Recipients::from_keys(names).unwrap();
    assert_eq!(
        decrypt(&encrypt(b"abc", &both), &identities).unwrap(),
        b"abc"
    );
    assert_eq!(decrypt(&encrypt(b"", &both), &identities).unwrap(), b"");
}

#[test]
fn passphrases_and_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("right"), "correct horse\nmore\n").unwrap();
    std::fs::write(path("wrong"), "wrong horse\n").unwrap();
    std::fs::write(path("empty"), "\n").unwrap();
    std::fs::write(path("long"), vec![b'#'; 100_000]).unwrap();
    let to = Recipients::from_passphrase_file(&path("right")).unwrap();
    let ticks = Cell::new(0);
    let tick = || {
        ticks.set(ticks.get() + 1);
        Ok(())
    };
    let mut encryptor = Encryptor::new(Vec::new(), &to, &tick).unwrap();
    encryptor.write_all(b"abc").unwrap();
    let encrypted = encryptor.finish().unwrap();
    assert!(ticks.get() > 2, "making a key took {} ticks", ticks.get());
    let right = Identities::from_passphrase_file(&path("right")).unwrap();
    assert_eq!(decrypt(&encrypted, &right).unwrap(), b"abc");
    let stop = || Err(Stopped::new("enough"));
    let stopped = Decryptor::new(encrypted.as_slice(), &right, &stop).map(drop);
    assert!(
        matches!(stopped, Err(SealError::Cancelled(_))),
        "{stopped:?}"
    );
    let wrong = Identities::from_passphrase_file(&path("wrong")).unwrap();
    let error = decrypt(&encrypted, &wrong).unwrap_err();
    assert!(matches!(error, SealError::Key { .. }), "{error:?}");
    // A file that asks for hours of work gets none.
    let text = String::from_utf8_lossy(&encrypted[..encrypted.len().min(120)]).into_owned();
    let at = text.find(" 18\n").unwrap();
    let mut greedy = encrypted.clone();
    greedy[at + 1..at + 3].copy_from_slice(b"40");
    let error = decrypt(&greedy, &right).unwrap_err();
    assert!(matches!(error, SealError::Unsupported { .. }), "{error:?}");

    for shown in [
        format!("{to:?}"),
        format!("{right:?}"),
        format!("{wrong:?}"),
    ] {
        assert!(!shown.contains("horse"), "{shown}");
    }
    for name in ["empty", "long", "missing"] {
        assert!(
            Recipients::from_passphrase_file(&path(name)).is_err(),
            "{name}"
        );
        assert!(Identities::from_file(&path(name)).is_err(), "{name}");
    }
    let error = Identities::from_file(&path("right"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 1") && !error.contains("horse"),
        "{error}"
    );
    let error = Recipients::from_keys(["AGE-SECRET-KEY-1HUNTER2"]).unwrap_err();
    assert!(!error.to_string().contains("HUNTER2"), "{error}");
    assert!(Recipients::from_keys([]).is_err());
    assert!(Identities::from_text("# nothing\n").is_err());
}

#[test]
fn ticks_end_the_work() {
    let left = Cell::new(20);
    let tick = || {
        left.set(left.get() - 1);
        match left.get() {
            ..=0 => Err(Stopped::new("enough")),
            _ => Ok(()),
        }
    };
    let mut compressor = Compressor::new(io::sink(), options(1 << 16, 2), &tick);
    let error = io::copy(&mut io::repeat(1), &mut compressor).unwrap_err();
    assert!(matches!(SealError::from_io(error), SealError::Cancelled(_)));
    assert!(compressor.write(&[1]).is_err());
    assert!(compressor.finish().is_err());

    left.set(20);
    let stored = compress(&texture(1, 1 << 20), options(FRAME, 2), 1 << 20).inner;
    let error = all(Decompressor::new(
        stored.as_slice(),
        DecompressOptions::default(),
        &tick,
    ))
    .unwrap_err();
    assert!(matches!(error, SealError::Cancelled(_)));
}

#[test]
fn errors_from_beneath_come_through() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut compressor = Compressor::new(Broken, options(FRAME, 2), &never);
    compressor.write_all(b"abc").unwrap();
    match compressor.finish() {
        Err(SealError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
        other => panic!("{:?}", other.map(|_| ())),
    }
    struct Torn(usize);
    impl Read for Torn {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            let got = self.0.min(buffer.len());
            buffer[..got].copy_from_slice(&compress(b"abc", options(FRAME, 1), 3).inner[..got]);
            self.0 = 0;
            Ok(got)
        }
    }
    let mut reader = Decompressor::new(Torn(3), DecompressOptions::default(), &never);
    let error = reader.read(&mut [0; 9]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(reader.read(&mut [0; 9]).is_err());
}
