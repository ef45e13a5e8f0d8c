//! Parquet files, as snapshots of tables have them.

use std::io::Cursor;

use varve_core::parquet::{Entry, Field, Logical, Physical, Reader, Writer};

/// More entries than that are not read: they may be, but it takes long.
const MOST: usize = 1 << 16;

/// Whatever it is, it must be refused, or have rows that hang together.
pub fn check(data: &[u8]) {
    let Ok(mut reader) = Reader::open(Cursor::new(data)) else {
        return;
    };
    let fields = reader.fields().to_vec();
    let (mut rows, mut entries) = (0, 0);
    while entries <= MOST && rows <= MOST as u64 {
        match reader.next_row() {
            Ok(true) => rows += 1,
            Ok(false) => {
                assert_eq!(rows, reader.rows());
                return;
            }
            Err(_) => return,
        }
        for (column, field) in fields.iter().enumerate() {
            loop {
                entries += 1;
                match reader.next(column) {
                    Ok(Entry::Value(value)) => check_value(field, value),
                    Ok(Entry::Null) => {}
                    Ok(Entry::Empty | Entry::Absent) => assert!(field.list),
                    Err(_) => return,
                }
                if !reader.goes_on(column) || entries > MOST {
                    break;
                }
                assert!(field.list);
            }
        }
    }
}

fn check_value(field: &Field, value: &[u8]) {
    match field.physical {
        Physical::Boolean => assert_eq!(value.len(), 1),
        Physical::Int32 | Physical::Float => assert_eq!(value.len(), 4),
        Physical::Int64 | Physical::Double => assert_eq!(value.len(), 8),
        Physical::Fixed(len) => assert_eq!(value.len(), usize::from(len)),
        Physical::Bytes => {}
    }
}

/// What the target begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    let field = |physical, list| Field {
        name: format!("{physical:?}"),
        physical,
        logical: Logical::None,
        list,
    };
    let fields = vec![
        field(Physical::Boolean, false),
        field(Physical::Bytes, false),
        field(Physical::Int64, false),
        field(Physical::Fixed(16), false),
        field(Physical::Int32, true),
        field(Physical::Bytes, true),
    ];
    let value = |physical| -> Vec<u8> {
        match physical {
            Physical::Boolean => vec![1],
            Physical::Int32 | Physical::Float => vec![1, 2, 3, 4],
            Physical::Int64 | Physical::Double => vec![7; 8],
            Physical::Fixed(len) => vec![9; usize::from(len)],
            Physical::Bytes => b"varve".to_vec(),
        }
    };
    let made = |rows: usize, fields: &[Field]| {
        let mut writer = Writer::new(Vec::new(), fields.to_vec(), 1).unwrap();
        for row in 0..rows {
            for (n, column) in writer.columns().iter_mut().enumerate() {
                let (list, value) = (fields[n].list, value(fields[n].physical));
                match (row + n) % 4 {
                    0 => column.push(false, Entry::Null),
                    1 if list => column.push(false, Entry::Empty),
                    2 if list => {
                        column.push(false, Entry::Value(&value));
                        column.push(true, Entry::Absent);
                    }
                    _ => column.push(false, Entry::Value(&value)),
                }
            }
            writer.end_row().unwrap();
        }
        writer.finish(&[("name", "text")]).unwrap()
    };
    let mut seeds = vec![made(0, &fields), made(3, &[]), made(40, &fields)];
    seeds.extend((0..fields.len()).map(|n| made(5, &fields[n..=n])));
    seeds
}
