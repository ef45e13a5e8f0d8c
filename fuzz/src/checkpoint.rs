//! What a checkpoint of `varve.watch` remembers.

use varve_core::Bitmap;
use varve_core::change::checkpoint::{
    Attribute, Chunk, Generation, MOST_GENERATIONS, Segment, attributes_from_bytes,
    attributes_to_bytes,
};
use varve_core::change::entries::{Block, BlockWriter, Entry, Kept};

/// Whatever it is, it must be refused, or be what comes back. The first byte tells what it is taken for.
pub fn check(data: &[u8]) {
    let Some((what, bytes)) = data.split_first() else {
        return;
    };
    match what % 3 {
        0 => chunk(bytes),
        1 => {
            if let Ok(attributes) = attributes_from_bytes(bytes) {
                let again = attributes_to_bytes(&attributes).unwrap();
                assert_eq!(attributes_from_bytes(&again).unwrap(), attributes);
            }
        }
        _ => block(bytes),
    }
}

fn chunk(bytes: &[u8]) {
    let Ok(chunk) = Chunk::from_bytes(bytes) else {
        return;
    };
    for segment in &chunk.segments {
        assert_eq!(segment.gone().unwrap().len(), segment.rows as usize);
    }
    for added in [0, 1, 1 << 20, u64::MAX] {
        let from = chunk.merged_from(added);
        assert!(from <= chunk.generations.len() && from < MOST_GENERATIONS);
    }
    let again = chunk.to_bytes().unwrap();
    assert_eq!(Chunk::from_bytes(&again).unwrap(), chunk);
}

fn block(bytes: &[u8]) {
    let Ok(mut block) = Block::new(bytes.to_vec()) else {
        return;
    };
    let mut writer = BlockWriter::default();
    let mut last = None;
    while let Some(entry) = block.peek() {
        assert!(last < Some(entry.place));
        last = Some(entry.place);
        writer.push(entry).unwrap();
        if block.advance().is_err() {
            return;
        }
    }
    // The checksum at the end is not looked at here.
    let again = writer.take();
    assert_eq!(again[..again.len() - 8], bytes[..bytes.len() - 8]);
}

/// Bytes to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut gone = Bitmap::new(3000);
    (100..180).step_by(7).for_each(|row| gone.set(row, true));
    let attributes = vec![Attribute {
        name: b"id".to_vec(),
        typ: 20,
        typmod: -1,
        collation: 0,
        len: 8,
        by_value: true,
        align: b'd',
        storage: b'p',
        dropped: false,
        missing: Some(vec![1, 7, 0, 0, 0, 0, 0, 0, 0]),
    }];
    let of_attributes = attributes_to_bytes(&attributes).unwrap();
    let generation = |(number, entries)| Generation { number, entries };
    let chunk = Chunk {
        storage: (1663, 16_400),
        rows: 5000,
        sum: Some(7),
        loose: 2000,
        generations: [(0, 2000), (3, 40), (4, 7)].map(generation).to_vec(),
        segments: vec![
            Segment::new(0, 700, &gone),
            Segment::new(2, 701, &Bitmap::new(5)),
        ],
        attributes,
    };
    let mut writer = BlockWriter::default();
    for place in [1, 5, 1 << 40] {
        let kept = (place != 5).then_some(Kept {
            row: 9,
            key: &[1, 2, 3],
        });
        writer.push(Entry { place, kept }).unwrap();
    }
    let bytes = [chunk.to_bytes().unwrap(), of_attributes, writer.take()];
    let seed = |(what, bytes): (usize, Vec<u8>)| [&[what as u8], bytes.as_slice()].concat();
    bytes.into_iter().enumerate().map(seed).collect()
}
