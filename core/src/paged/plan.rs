//! Which encoding a page of integers gets: decided from minimum, maximum and a histogram of
//! widths, not by trial.

use super::PAGE_ROWS;
use super::bits::packed_len;
use super::varint::zigzag;

/// An encoding and the bytes it takes (near enough for a comparison).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    /// Distances from a reference.
    Frame(Window),
    /// The first value; then the distances of the steps from a reference step.
    Delta(Window),
    /// Values and how often each repeats.
    Runs { count: usize, longest: usize },
    /// 64 bits a value.
    Raw,
}

/// Which numbers are packed: `[reference, reference + 2^width)`; the others are patched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub(crate) reference: u64,
    pub(crate) width: usize,
    pub(crate) patches: usize,
}

/// Bytes of a tag, a width and a reference.
const HEADER: usize = 6;

/// Decides for the numbers of a page, of which there must be at least one. `steps` are the
/// differences to the number before, the first of them repeating the second.
pub(crate) fn plan(values: &[i64], steps: &[i64]) -> Plan {
    let range = Range::of(values);
    if range.span == 0 {
        return Plan {
            shape: Shape::Frame(range.window()),
            size: HEADER,
        };
    }
    let mut best = frame(values, &range);
    let raw = Plan {
        shape: Shape::Raw,
        size: 1 + 8 * values.len(),
    };
    if raw.size <= best.size {
        best = raw;
    }
    let delta = frame(steps, &Range::of(steps));
    if let Shape::Frame(window) = delta.shape
        && better(delta.size + HEADER, best.size)
    {
        best = Plan {
            shape: Shape::Delta(window),
            size: delta.size + HEADER,
        };
    }
    if let Some(runs) = runs(values, range.width())
        && better(runs.size, best.size)
    {
        best = runs;
    }
    best
}

/// Whether an encoding that takes longer to decode is worth it.
fn better(slower: usize, faster: usize) -> bool {
    slower + slower / 32 + 4 < faster
}

/// Between what the numbers lie.
struct Range {
    min: i64,
    span: u64,
}

impl Range {
    fn of(values: &[i64]) -> Self {
        let mut min = i64::MAX;
        let mut max = i64::MIN;
        for value in values {
            min = min.min(*value);
            max = max.max(*value);
        }
        Self {
            min,
            span: max.wrapping_sub(min).cast_unsigned(),
        }
    }

    fn width(&self) -> usize {
        width(self.span)
    }

    /// All of them, without patches.
    fn window(&self) -> Window {
        Window {
            reference: self.min.cast_unsigned(),
            width: self.width(),
            patches: 0,
        }
    }
}

/// The best window for distances from a reference.
fn frame(values: &[i64], range: &Range) -> Plan {
    let count = values.len();
    let full = range.width();
    let size = |width: usize, patches: usize, each: usize| {
        HEADER + if patches > 0 { 2 } else { 0 } + patches * (2 + each) + block_len(count, width)
    };
    let mut best = if full < 64 {
        (size(full, 0, 0), range.window())
    } else {
        (usize::MAX, range.window())
    };
    // Outliers above: all that is packed begins at the smallest number.
    let min = range.min.cast_unsigned();
    let above = Histogram::of(values, |value| value.cast_unsigned().wrapping_sub(min));
    for (width, patches) in above.patches(full) {
        let each = (full - width + 1).div_ceil(8).min(8);
        let size = size(width, patches, each);
        if better(size, best.0) {
            best = (
                size,
                Window {
                    reference: min,
                    width,
                    patches,
                },
            );
        }
    }
    // Outliers on both sides: all that is packed lies around the median.
    let median = median(values);
    let around = Histogram::of(values, |value| zigzag(value.wrapping_sub(median)));
    let widest = around.widest();
    for (width, patches) in around.patches(widest) {
        let each = (widest - width + 1).div_ceil(8).min(8);
        let size = size(width, patches, each);
        if better(size, best.0) {
            let below = if width == 0 { 0 } else { 1 << (width - 1) };
            best = (
                size,
                Window {
                    reference: median.cast_unsigned().wrapping_sub(below),
                    width,
                    patches,
                },
            );
        }
    }
    Plan {
        shape: Shape::Frame(best.1),
        size: best.0,
    }
}

/// How many numbers need how many bits.
struct Histogram([u16; 65]);

impl Histogram {
    fn of(values: &[i64], distance: impl Fn(i64) -> u64) -> Self {
        // Two counters in turn, so that equal widths in a row do not wait for each other.
        let mut counts = [[0u16; 65]; 2];
        let [even, odd] = &mut counts;
        let (pairs, rest) = values.as_chunks::<2>();
        let add = |counts: &mut [u16; 65], value: i64| {
            if let Some(count) = counts.get_mut(width(distance(value))) {
                *count += 1;
            }
        };
        for [a, b] in pairs {
            add(even, *a);
            add(odd, *b);
        }
        for value in rest {
            add(even, *value);
        }
        let mut sums = *even;
        for (sum, count) in sums.iter_mut().zip(odd) {
            *sum += *count;
        }
        Self(sums)
    }

    fn widest(&self) -> usize {
        self.0.iter().rposition(|count| *count > 0).unwrap_or(0)
    }

    /// Each width below `limit`, and how many numbers need more; the widest first.
    fn patches(&self, limit: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut wider = 0;
        (0..limit.min(64)).rev().map(move |width| {
            wider += usize::from(self.0.get(width + 1).copied().unwrap_or_default());
            (width, wider)
        })
    }
}

/// The middle one of a few of the numbers.
fn median(values: &[i64]) -> i64 {
    const SAMPLES: usize = 31;
    let mut sample = [0; SAMPLES];
    for (i, slot) in sample.iter_mut().enumerate() {
        *slot = values
            .get((2 * i + 1) * values.len() / (2 * SAMPLES))
            .copied()
            .unwrap_or_default();
    }
    sample.sort_unstable();
    sample.get(SAMPLES / 2).copied().unwrap_or_default()
}

/// Runs of equal numbers, where there are few.
fn runs(values: &[i64], width_of_values: usize) -> Option<Plan> {
    let changes = values
        .iter()
        .zip(values.iter().skip(1))
        .map(|(a, b)| usize::from(a != b))
        .sum::<usize>();
    let count = changes + 1;
    if count > values.len() / 4 || width_of_values > 63 {
        return None;
    }
    let longest = values
        .chunk_by(|a, b| a == b)
        .map(<[i64]>::len)
        .max()
        .unwrap_or(1);
    let lengths = packed_len(count, width(longest as u64 - 1));
    Some(Plan {
        shape: Shape::Runs { count, longest },
        size: HEADER + 3 + packed_len(count, width_of_values) + lengths,
    })
}

/// Bytes of `count` packed numbers.
pub(crate) fn block_len(count: usize, width: usize) -> usize {
    if count == PAGE_ROWS {
        PAGE_ROWS / 8 * width
    } else {
        packed_len(count, width)
    }
}

/// Bits that a number takes.
pub(crate) fn width(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::super::ints::IntWriter;
    use super::*;

    fn shape(values: impl IntoIterator<Item = i64>) -> Shape {
        let values: Vec<_> = values.into_iter().collect();
        IntWriter::new().plan(&values).shape
    }

    /// Noise of 24 bits (splitmix64).
    fn noise(i: i64) -> i64 {
        let mut z = (i.cast_unsigned() + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) & 0xff_ffff).cast_signed()
    }

    #[test]
    fn shapes_are_found() {
        // Even steps with a few gaps do not need a bit each.
        let minutes = shape((0..1_024).map(|i| i + i / 390 * 1_050));
        assert!(
            matches!(
                minutes,
                Shape::Delta(Window {
                    width: 0,
                    patches: 2,
                    ..
                })
            ),
            "{minutes:?}"
        );
        let noise_of = |n: i64| (0..1_024).map(move |i| noise(i) % n);
        let even = shape(noise_of(1_000));
        assert!(
            matches!(
                even,
                Shape::Frame(Window {
                    width: 10,
                    patches: 0,
                    ..
                })
            ),
            "{even:?}"
        );
        let outliers =
            |far: i64| (0..1_024).map(move |i| if i % 100 == 7 { far } else { noise(i) % 16 });
        for far in [1 << 40, -1 << 40] {
            let shape = shape(outliers(far));
            assert!(
                matches!(
                    shape,
                    Shape::Frame(Window {
                        width: 4..6,
                        patches: 11..,
                        ..
                    })
                ),
                "{shape:?}"
            );
        }
        let walk = shape((0..1_024).map(|i| i * 1_000_000 + noise(i) % 100));
        assert!(
            matches!(walk, Shape::Delta(Window { patches: 0, .. })),
            "{walk:?}"
        );
        let runs = shape((0..1_024).map(|i| noise(i / 50)));
        assert!(
            matches!(
                runs,
                Shape::Runs {
                    count: 21,
                    longest: 50
                }
            ),
            "{runs:?}"
        );
        let wide =
            shape((0..1_024).map(|i| noise(i) << 40 ^ noise(i + 7_000) << 20 ^ noise(i + 9_000)));
        assert_eq!(wide, Shape::Raw);
        let extremes = shape([i64::MIN, i64::MAX, 0]);
        assert!(
            matches!(extremes, Shape::Raw | Shape::Frame(_)),
            "{extremes:?}"
        );
        let same = shape([-5; 1_000]);
        assert!(
            matches!(
                same,
                Shape::Frame(Window {
                    width: 0,
                    patches: 0,
                    ..
                })
            ),
            "{same:?}"
        );
    }
}
