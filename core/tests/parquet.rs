//! Parquet files: what is written is read, and whatever else is read is an error.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use std::io::Cursor;
use varve_core::parquet::{Entry, Field, Logical, ParquetError, Physical, Reader, Writer};

/// A column's entries in a row: one, or the elements of a list.
type Cell = Vec<Option<Vec<u8>>>;

/// What a row has in a column.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    One(Vec<u8>),
    List(Cell),
}

fn fields() -> Vec<Field> {
    let field = |name: &str, physical, list| Field {
        name: name.to_owned(),
        physical,
        logical: Logical::None,
        list,
    };
    vec![
        field("truth", Physical::Boolean, false),
        field("words", Physical::Bytes, false),
        field("number", Physical::Int64, false),
        field("fixed", Physical::Fixed(16), false),
        field("truths", Physical::Boolean, true),
        field("lists", Physical::Bytes, true),
        field("floats", Physical::Float, true),
    ]
}

fn write(rows: &[Vec<Value>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), fields(), 1).unwrap();
    for row in rows {
        for (column, value) in writer.columns().iter_mut().zip(row) {
            match value {
                Value::Null => column.push(false, Entry::Null),
                Value::One(value) => column.push(false, Entry::Value(value)),
                Value::List(list) if list.is_empty() => column.push(false, Entry::Empty),
                Value::List(list) => {
                    for (i, element) in list.iter().enumerate() {
                        let entry = element.as_deref().map_or(Entry::Absent, Entry::Value);
                        column.push(i > 0, entry);
                    }
                }
            }
        }
        writer.end_row().unwrap();
    }
    assert_eq!(writer.rows(), rows.len() as u64);
    writer.finish(&[("name", "text")]).unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Vec<Value>>, ParquetError> {
    let mut reader = Reader::open(Cursor::new(bytes))?;
    let shapes: Vec<bool> = reader.fields().iter().map(|f| f.list).collect();
    let mut rows = Vec::new();
    while reader.next_row()? {
        let mut row = Vec::new();
        for (i, list) in shapes.iter().enumerate() {
            let mut cell: Cell = Vec::new();
            let mut null = false;
            loop {
                match reader.next(i)? {
                    Entry::Null => null = true,
                    Entry::Empty => {}
                    Entry::Absent => cell.push(None),
                    Entry::Value(value) => cell.push(Some(value.to_vec())),
                }
                if !reader.goes_on(i) {
                    break;
                }
            }
            row.push(match (null, list) {
                (true, _) => Value::Null,
                (false, true) => Value::List(cell),
                (false, false) => Value::One(cell.remove(0).unwrap()),
            });
        }
        rows.push(row);
    }
    Ok(rows)
}

fn bytes_of(physical: Physical) -> BoxedStrategy<Vec<u8>> {
    let many = |n: usize| proptest::collection::vec(any::<u8>(), n..=n).boxed();
    match physical {
        Physical::Boolean => any::<bool>().prop_map(|b| vec![u8::from(b)]).boxed(),
        Physical::Int32 | Physical::Float => many(4),
        Physical::Int64 | Physical::Double => many(8),
        Physical::Bytes => proptest::collection::vec(any::<u8>(), 0..20).boxed(),
        Physical::Fixed(n) => many(usize::from(n)),
    }
}

fn row() -> impl Strategy<Value = Vec<Value>> {
    let columns: Vec<BoxedStrategy<Value>> = fields()
        .into_iter()
        .map(|field| {
            let value = bytes_of(field.physical);
            let given = match field.list {
                false => value.prop_map(Value::One).boxed(),
                true => proptest::collection::vec(proptest::option::of(value), 0..5)
                    .prop_map(Value::List)
                    .boxed(),
            };
            prop_oneof![1 => Just(Value::Null), 3 => given].boxed()
        })
        .collect();
    columns
}

proptest! {
    #[test]
    fn rows_come_back(rows in proptest::collection::vec(row(), 0..60)) {
        prop_assert_eq!(read(&write(&rows)).unwrap(), rows);
    }

    #[test]
    fn damage_is_an_error_or_other_rows(
        rows in proptest::collection::vec(row(), 1..20),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = write(&rows);
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] = byte,
        }
        match read(&bytes) {
            Ok(_) => prop_assert!(!cut),
            Err(error) => prop_assert!(matches!(error, ParquetError::Corrupt { .. }), "{error}"),
        }
    }
}

#[test]
fn many_rows_make_row_groups_and_pages() {
    let row = |i: u64| -> Vec<Value> {
        vec![
            Value::One(vec![u8::from(i.is_multiple_of(3))]),
            match i % 5 {
                0 => Value::Null,
                _ => Value::One(vec![b'x'; (i % 700) as usize]),
            },
            Value::One(i.to_le_bytes().to_vec()),
            Value::Null,
            Value::List(vec![Some(vec![1]); (i % 4) as usize]),
            Value::List(Vec::new()),
            Value::Null,
        ]
    };
    let rows: Vec<Vec<Value>> = (0..300_000).map(row).collect();
    let bytes = write(&rows);
    assert!(read(&bytes).unwrap() == rows);
    // A value that is larger than any page.
    let mut large = row(1);
    large[1] = Value::One(vec![7; 40 << 20]);
    let rows = vec![row(2), large, row(3)];
    assert!(read(&write(&rows)).unwrap() == rows);
    assert!(read(&write(&[])).unwrap().is_empty());
}

#[test]
fn files_of_others_are_refused() {
    for bytes in [
        &b""[..],
        b"PAR1",
        b"PAR1PAR1",
        b"PAR1\0\0\0\0PAR1",
        b"PAR1\xff\xff\xff\xffPAR1",
    ] {
        assert!(matches!(
            Reader::open(Cursor::new(bytes)),
            Err(ParquetError::Corrupt { .. })
        ));
    }
    // A description whose every byte would take many in memory.
    let mut meta = vec![0x99, 0xF1, 0xC0, 0x96, 0xB1, 0x02];
    meta.resize(meta.len() + 5_000_000, 2);
    meta.push(0);
    let length = (meta.len() as u32).to_le_bytes();
    let bytes = [b"PAR1", meta.as_slice(), &length, b"PAR1"].concat();
    let error = Reader::open(Cursor::new(bytes)).err().unwrap();
    assert!(error.to_string().contains("cannot be read"), "{error}");
    // A page that claims to be larger than it is.
    let bytes = write(&[fields().iter().map(|_| Value::Null).collect()]);
    let mut changed = bytes.clone();
    // Behind the magic: the first page's header, whose third byte is its size.
    assert_eq!(changed[4..6], [0x15, 0x00]);
    changed[7] = 0x7E;
    assert!(read(&bytes).is_ok());
    assert!(read(&changed).is_err());
}
