//! `backup_label`, which says where WAL begins that a backup needs, and of an incremental one what it is based on.

use super::super::lsn::Lsn;

/// Its name.
pub(super) const NAME: &str = "backup_label";

/// Largest one that is read, in bytes.
pub(super) const MAX_BYTES: u64 = 64 << 10;

const FROM_LSN: &[u8] = b"INCREMENTAL FROM LSN: ";
const FROM_TIMELINE: &[u8] = b"INCREMENTAL FROM TLI: ";

/// Where the backup began that an incremental one is based on, and on which timeline; none for one that is not incremental, or
/// where that is not understood.
pub(super) fn based_on(label: &[u8]) -> Option<(Lsn, u32)> {
    let value = |name: &[u8]| {
        let line = label
            .split(|byte| *byte == b'\n')
            .find(|line| line.starts_with(name));
        std::str::from_utf8(line?.strip_prefix(name)?).ok()
    };
    Some((
        value(FROM_LSN)?.parse().ok()?,
        value(FROM_TIMELINE)?.parse().ok()?,
    ))
}

/// The label of the full backup that an incremental one has become.
pub(super) fn of_full(label: &[u8]) -> Vec<u8> {
    let lines = label.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !line.starts_with(FROM_LSN) && !line.starts_with(FROM_TIMELINE));
    kept.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says() {
        let full = b"START WAL LOCATION: 1/2000028 (file 000000010000000100000002)\nLABEL: INCREMENTAL FROM LSN: 0/1\nSTART TIMELINE: 1\n";
        let incremental = [
            full,
            b"INCREMENTAL FROM LSN: 0/6000028\nINCREMENTAL FROM TLI: 3\n".as_slice(),
        ]
        .concat();
        assert_eq!(based_on(full), None);
        assert_eq!(based_on(&incremental), Some((Lsn(0x600_0028), 3)));
        assert_eq!(of_full(&incremental), full);
        assert_eq!(of_full(full), full);
        assert_eq!(
            based_on(b"INCREMENTAL FROM LSN: x\nINCREMENTAL FROM TLI: 3\n"),
            None
        );
    }
}
