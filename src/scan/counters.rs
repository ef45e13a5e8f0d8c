//! What a scan counts of its work, for EXPLAIN.

/// What a scan did, for EXPLAIN.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    /// Segments of which a page was read.
    pub segments_read: u64,
    /// Segments that their headers kept out.
    pub segments_skipped: u64,
    /// Pages of which a column was decoded or that were taken by their zones alone.
    pub pages_read: u64,
    /// Pages that their zones and Bloom filters kept out.
    pub pages_skipped: u64,
    /// Those of them that zones alone would not have kept out.
    pub pages_filtered: u64,
    /// Frozen rows that conditions on pages kept out.
    pub rows_removed: u64,
    /// Columns of pages that were decoded.
    pub columns_decoded: u64,
}

/// How many numbers [`Counters`] has.
pub const COUNTED: usize = 7;

impl From<[u64; COUNTED]> for Counters {
    fn from(numbers: [u64; COUNTED]) -> Self {
        let [
            segments_read,
            segments_skipped,
            pages_read,
            pages_skipped,
            pages_filtered,
            rows_removed,
            columns_decoded,
        ] = numbers;
        Counters {
            segments_read,
            segments_skipped,
            pages_read,
            pages_skipped,
            pages_filtered,
            rows_removed,
            columns_decoded,
        }
    }
}

impl Counters {
    /// As numbers, for another process.
    pub fn numbers(&self) -> [u64; COUNTED] {
        [
            self.segments_read,
            self.segments_skipped,
            self.pages_read,
            self.pages_skipped,
            self.pages_filtered,
            self.rows_removed,
            self.columns_decoded,
        ]
    }

    /// Adds what another process counted.
    pub fn add(&mut self, other: &Counters) {
        self.segments_read += other.segments_read;
        self.segments_skipped += other.segments_skipped;
        self.pages_read += other.pages_read;
        self.pages_skipped += other.pages_skipped;
        self.pages_filtered += other.pages_filtered;
        self.rows_removed += other.rows_removed;
        self.columns_decoded += other.columns_decoded;
    }
}
