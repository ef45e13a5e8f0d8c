//! Which columns a sum of rows' checksums is of: by their names and classes, which cells and their hashes depend on.

use crate::error::CoreError;
use crate::wire::len_u32;
use xxhash_rust::xxh3::xxh3_64;

/// XXH3-64 of a table's columns that are not dropped (attribute number, name in UTF-8, class), in the order of their numbers:
/// of each the number (16 bits), and name and class with their lengths (32 bits) before them.
///
/// # Errors
/// [`CoreError::Invalid`] where a name or a class has 4 GiB.
pub fn columns_fingerprint<'a>(
    columns: impl IntoIterator<Item = (u16, &'a [u8], &'a [u8])>,
) -> Result<u64, CoreError> {
    let mut all = Vec::new();
    for (attnum, name, class) in columns {
        all.extend_from_slice(&attnum.to_le_bytes());
        for part in [name, class] {
            all.extend_from_slice(&len_u32(part.len())?.to_le_bytes());
            all.extend_from_slice(part);
        }
    }
    Ok(xxh3_64(&all))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    type Columns = &'static [(u16, &'static [u8], &'static [u8])];

    #[test]
    fn every_part_counts() {
        let columns: [Columns; 8] = [
            &[],
            &[(1, b"a", &[2])],
            &[(2, b"a", &[2])],
            &[(1, b"b", &[2])],
            &[(1, b"a", &[3])],
            &[(1, b"a", &[16, 2])],
            &[(1, b"a", &[2]), (2, b"b", &[2])],
            &[(1, b"a", &[2]), (3, b"b", &[2])],
        ];
        let mut found: Vec<u64> = columns
            .iter()
            .map(|columns| columns_fingerprint(columns.iter().copied()).unwrap())
            .collect();
        assert_eq!(
            found.get(1),
            Some(&xxh3_64(b"\x01\0\x01\0\0\0a\x01\0\0\0\x02"))
        );
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), columns.len());
    }
}
