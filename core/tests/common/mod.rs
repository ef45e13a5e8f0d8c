//! What the tests share: columns to encode, and comparison bit for bit.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part, and may panic"
)]

pub mod pages;
pub mod sound;

use proptest::prelude::*;
use varve_core::{Bitmap, Column, MAX_ROWS, Values};

/// Validity with a NULL wherever `is_null` says so.
pub fn validity(rows: usize, is_null: impl Fn(usize) -> bool) -> Option<Bitmap> {
    let mut bitmap = Bitmap::new(rows);
    for i in 0..rows {
        bitmap.set(i, !is_null(i));
    }
    Some(bitmap)
}

pub fn bytes_of<T: AsRef<[u8]>>(values: impl IntoIterator<Item = T>) -> Values {
    let mut offsets = vec![0];
    let mut data = Vec::new();
    for value in values {
        data.extend_from_slice(value.as_ref());
        offsets.push(u32::try_from(data.len()).unwrap());
    }
    Values::Bytes { offsets, data }
}

pub fn column(values: Values) -> Column {
    Column {
        validity: None,
        values,
    }
}

/// Each row as its bytes; NULL as `None`.
pub fn rows_of(column: &Column) -> Vec<Option<Vec<u8>>> {
    (0..column.rows())
        .map(|i| {
            (!column.is_null(i)).then(|| match &column.values {
                Values::I8(v) => v[i].to_le_bytes().to_vec(),
                Values::I16(v) => v[i].to_le_bytes().to_vec(),
                Values::I32(v) => v[i].to_le_bytes().to_vec(),
                Values::I64(v) => v[i].to_le_bytes().to_vec(),
                Values::F32(v) => v[i].to_bits().to_le_bytes().to_vec(),
                Values::F64(v) => v[i].to_bits().to_le_bytes().to_vec(),
                Values::Fixed { len, data } => data[i * len..(i + 1) * len].to_vec(),
                Values::Bytes { offsets, data } => {
                    data[offsets[i] as usize..offsets[i + 1] as usize].to_vec()
                }
            })
        })
        .collect()
}

/// What stands at the NULLs of a decoded column must be zero or empty.
pub fn assert_blank_nulls(column: &Column) {
    for i in (0..column.rows()).filter(|i| column.is_null(*i)) {
        let blank = match &column.values {
            Values::I8(v) => v[i] == 0,
            Values::I16(v) => v[i] == 0,
            Values::I32(v) => v[i] == 0,
            Values::I64(v) => v[i] == 0,
            Values::F32(v) => v[i].to_bits() == 0,
            Values::F64(v) => v[i].to_bits() == 0,
            Values::Fixed { len, data } => data[i * len..(i + 1) * len].iter().all(|b| *b == 0),
            Values::Bytes { offsets, .. } => offsets[i] == offsets[i + 1],
        };
        assert!(blank, "row {i} is NULL but not blank");
    }
}

/// The first `rows` rows of a column of every kind, each of a texture that some codec likes.
pub fn textures(rows: usize) -> Vec<(&'static str, Values)> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise: Vec<u64> = Vec::with_capacity(rows);
    for _ in 0..rows {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        noise.push(random);
    }
    let each = || 0..rows;
    vec![
        (
            "i8 flags",
            Values::I8(each().map(|i| (i / 100 % 2) as i8).collect()),
        ),
        (
            "i8 noise",
            Values::I8(noise.iter().map(|n| *n as i8).collect()),
        ),
        ("i8 same", Values::I8(vec![-7; rows])),
        (
            "i16 steps",
            Values::I16(each().map(|i| (i / 7) as i16).collect()),
        ),
        (
            "i16 noise",
            Values::I16(noise.iter().map(|n| *n as i16).collect()),
        ),
        (
            "i32 dates",
            Values::I32(each().map(|i| 4_800 + i as i32).collect()),
        ),
        (
            "i32 noise",
            Values::I32(noise.iter().map(|n| *n as i32).collect()),
        ),
        (
            "i64 times",
            Values::I64(each().map(|i| i as i64 * 60_000_000).collect()),
        ),
        (
            "i64 noise",
            Values::I64(noise.iter().map(|n| *n as i64).collect()),
        ),
        (
            "i64 runs",
            Values::I64(each().map(|i| (i / 500) as i64 * 1_000_003).collect()),
        ),
        ("i64 same", Values::I64(vec![i64::MIN; rows])),
        (
            "f32 prices",
            Values::F32(noise.iter().map(|n| (n % 9_000) as f32 / 100.0).collect()),
        ),
        (
            "f32 noise",
            Values::F32(noise.iter().map(|n| f32::from_bits(*n as u32)).collect()),
        ),
        (
            "f64 prices",
            Values::F64(noise.iter().map(|n| (n % 9_000) as f64 / 100.0).collect()),
        ),
        (
            "f64 prices with gaps",
            Values::F64(
                noise
                    .iter()
                    .map(|n| {
                        if n % 40 == 0 {
                            f64::NAN
                        } else {
                            (n % 9_000) as f64 / 100.0
                        }
                    })
                    .collect(),
            ),
        ),
        (
            "f64 price runs",
            Values::F64(each().map(|i| (i / 9 * 37 % 1_000) as f64 / 10.0).collect()),
        ),
        (
            "f64 noise",
            Values::F64(noise.iter().map(|n| f64::from_bits(*n)).collect()),
        ),
        (
            "fixed noise",
            Values::Fixed {
                len: 16,
                data: noise
                    .iter()
                    .flat_map(|n| [n.to_le_bytes(), [7; 8]].concat())
                    .collect(),
            },
        ),
        (
            "fixed runs",
            Values::Fixed {
                len: 3,
                data: each()
                    .flat_map(|i| [(i / 50) as u8, 1, (i / 50) as u8])
                    .collect(),
            },
        ),
        (
            "bytes symbols",
            bytes_of(each().map(|i| format!("SYM{}", i / 20 % 90))),
        ),
        (
            "bytes choices",
            bytes_of(
                noise.iter().map(|n| {
                    ["New York", "Frankfurt", "London", "Tokyo", "Zurich"][(n % 5) as usize]
                }),
            ),
        ),
        (
            "bytes texts",
            bytes_of(
                noise
                    .iter()
                    .map(|n| format!("order {} filled", n % 100_000)),
            ),
        ),
        (
            "bytes noise",
            bytes_of(noise.iter().map(|n| n.to_le_bytes())),
        ),
        ("bytes empty", bytes_of(each().map(|_| ""))),
        ("bytes same", bytes_of(each().map(|_| "constant"))),
    ]
}

/// Floats that compare or convert badly.
pub fn odd_doubles() -> Vec<f64> {
    vec![
        0.0,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        -f64::NAN,
        f64::from_bits(0x7ff0_0000_0000_0001),
        f64::from_bits(0x7ff8_0000_dead_beef),
        f64::from_bits(0xfff4_0000_0000_0002),
        f64::from_bits(1),
        -f64::from_bits(1),
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        f64::EPSILON,
        0.1,
        45.07,
        -45.07,
        9_007_199_254_740_993.0,
        1e300,
        0.1 + 0.2,
    ]
}

pub fn odd_singles() -> Vec<f32> {
    let mut values: Vec<f32> = odd_doubles().iter().map(|v| *v as f32).collect();
    values.extend([
        f32::from_bits(0x7f80_0001),
        f32::from_bits(0xffc0_dead),
        f32::from_bits(1),
        f32::MAX,
        16_777_217.0,
    ]);
    values
}

fn singles() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<u32>().prop_map(f32::from_bits),
        prop::sample::select(odd_singles()),
        (-100_000i32..100_000).prop_map(|i| i as f32 / 100.0),
    ]
}

fn doubles() -> impl Strategy<Value = f64> {
    prop_oneof![
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => prop::sample::select(odd_doubles()),
        4 => (-1_000_000i64..1_000_000).prop_map(|i| i as f64 / 1_000.0),
    ]
}

fn string() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        prop::sample::select(vec![b"a".to_vec(), b"AAPL".to_vec(), b"buy".to_vec()]),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

/// Any values of any kind.
pub fn any_values(rows: usize) -> BoxedStrategy<Values> {
    let of = |n: usize| n..=n;
    let times = prop::collection::vec(-3i64..200, of(rows)).prop_map(|steps| {
        let mut now = 1_700_000_000_000_000;
        Values::I64(
            steps
                .iter()
                .map(|s| {
                    now += s * 1_000;
                    now
                })
                .collect(),
        )
    });
    prop_oneof![
        prop::collection::vec(any::<i8>(), of(rows)).prop_map(Values::I8),
        prop::collection::vec(0i8..2, of(rows)).prop_map(Values::I8),
        prop::collection::vec(any::<i16>(), of(rows)).prop_map(Values::I16),
        prop::collection::vec(any::<i32>(), of(rows)).prop_map(Values::I32),
        prop::collection::vec(-2i32..2, of(rows)).prop_map(Values::I32),
        prop::collection::vec(any::<i64>(), of(rows)).prop_map(Values::I64),
        times,
        prop::collection::vec(singles(), of(rows)).prop_map(Values::F32),
        prop::collection::vec(doubles(), of(rows)).prop_map(Values::F64),
        (1usize..20).prop_flat_map(move |len| {
            prop::collection::vec(0u8..4, of(rows * len))
                .prop_map(move |data| Values::Fixed { len, data })
        }),
        prop::collection::vec(string(), of(rows)).prop_map(bytes_of),
    ]
    .boxed()
}

/// Any column: without NULLs, with some, or with nothing else.
pub fn any_column(max_rows: usize) -> impl Strategy<Value = Column> {
    assert!(max_rows <= MAX_ROWS as usize);
    (0..=max_rows).prop_flat_map(|rows| {
        let some = prop::collection::vec(any::<bool>(), rows)
            .prop_map(move |bits| validity(rows, |i| bits[i]));
        let nulls = prop_oneof![
            Just(None),
            some,
            Just(validity(rows, |_| true)),
            Just(validity(rows, |_| false)),
        ];
        (any_values(rows), nulls).prop_map(|(values, validity)| Column { validity, values })
    })
}
