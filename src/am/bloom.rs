//! Asking the filters of a column of a segment on which pages a value may be.

use super::body::BodyReader;
use super::datum::CachedColumn;
use super::directory::SegmentRef;
use super::zone::Probe;
use varve_core::column::Kind;
use varve_core::paged::{ColumnIndex, ValueHash};

/// By what the filters of a column know a value; `None` where it has none, or its values are of another kind.
pub fn hash(index: &ColumnIndex, probe: &Probe) -> Option<ValueHash> {
    if !index.has_filters() {
        return None;
    }
    match (index.kind(), probe) {
        (Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64, Probe::Int(value)) => {
            Some(ValueHash::of_int(*value))
        }
        (Kind::F32 | Kind::F64, Probe::Float(value)) => Some(ValueHash::of_float(*value)),
        (Kind::Fixed { .. } | Kind::Bytes, Probe::Bytes(value)) => Some(ValueHash::of_bytes(value)),
        _ => None,
    }
}

/// The pages that may hold a value, a bit each; says what is wrong with the filters' bytes.
pub fn pages(
    reader: &BodyReader,
    segment: &SegmentRef,
    column: &CachedColumn,
    hash: ValueHash,
    scratch: &mut Vec<u8>,
) -> Result<u64, String> {
    let Some(range) = column.index.filter_range(hash) else {
        return Ok(u64::MAX);
    };
    let range = column.start + range.start..column.start + range.end;
    reader
        .with_range(segment.location(), range, scratch, |bytes| {
            column.index.filter_mask(hash, bytes)
        })?
        .map_err(|e| e.to_string())
}
