//! The pages of a column of numbers: which encoding each gets, or pco for all.

use super::Effort;
use super::codec::{Codec, Tally};
use super::floats::{self, BITS, DECIMALS, EXCEPTIONS, Real};
use super::index::{Mapping, Packing};
use super::ints::IntWriter;
use super::layout::Layout;
use super::packed::{self, Packed};
use super::plan::Shape;
use super::unit::Unit;
use super::varint::write_usize;
use super::zones::{self, IntZone};
use crate::error::CoreError;

/// Pages, and what they share.
pub(crate) struct Numbers {
    pub(crate) pages: Vec<Vec<u8>>,
    pub(crate) mapping: Mapping,
    pub(crate) packing: Packing,
    pub(crate) tally: Tally,
    /// Min, max and sum of each page in counts of the unit, where all floats are decimals.
    pub(crate) zones: Option<Vec<IntZone>>,
}

impl Numbers {
    /// Bytes of the pages and of the metadata of pco.
    pub(crate) fn size(&self) -> usize {
        let meta = match &self.packing {
            Packing::Bits => 0,
            Packing::Pco(meta) => meta.len(),
        };
        meta + self.pages.iter().map(Vec::len).sum::<usize>()
    }

    /// Takes another encoding of the same column when it is smaller.
    fn offer(&mut self, other: Option<Self>) {
        if let Some(other) = other
            && other.size() + other.size() / 100 < self.size()
        {
            *self = other;
        }
    }
}

/// Encodes integers that are not NULL. A page of which `constant` is true stays empty.
pub(crate) fn encode_ints(
    mut values: Vec<i64>,
    layout: &Layout,
    constant: &[bool],
    effort: Effort,
) -> Result<Numbers, CoreError> {
    let unit = Unit::of(&values);
    unit.count(&mut values);
    encode_pages(&values, layout, constant, effort, Mapping::Ints(unit), &[])
}

/// Encodes codes of a dictionary that are not NULL. A page of which `constant` is true stays empty.
pub(crate) fn encode_codes(
    codes: &[i64],
    layout: &Layout,
    constant: &[bool],
    effort: Effort,
    mapping: Mapping,
) -> Result<Numbers, CoreError> {
    let mut numbers = encode_pages(codes, layout, constant, effort, mapping, &[])?;
    numbers.tally = Tally::default();
    numbers.tally.add(Codec::Dictionary);
    Ok(numbers)
}

/// Encodes integers as they are, each page behind a head.
fn encode_pages(
    values: &[i64],
    layout: &Layout,
    constant: &[bool],
    effort: Effort,
    mapping: Mapping,
    head: &[u8],
) -> Result<Numbers, CoreError> {
    let mut writer = IntWriter::new();
    let mut tally = Tally::default();
    let mut pages = Vec::with_capacity(layout.pages.len());
    for (page, constant) in pages_of(values, layout).zip(constant) {
        let mut bytes = Vec::new();
        if *constant {
            tally.add(Codec::Constant);
        } else {
            bytes.extend_from_slice(head);
            tally.add(codec(writer.write(page, &mut bytes)));
        }
        pages.push(bytes);
    }
    let mut best = Numbers {
        pages,
        mapping,
        packing: Packing::Bits,
        tally,
        zones: None,
    };
    if effort == Effort::Small {
        let blank = constant.iter().map(|constant| match constant {
            true => Vec::new(),
            false => head.to_vec(),
        });
        let packed = pack(values, layout, constant, blank.collect())?;
        best.offer(packed.map(|packed| packed.into_numbers(&best)));
    }
    Ok(best)
}

/// Encodes floats that are not NULL. A page of which `constant` is true stays empty.
pub(crate) fn encode_floats<T: Real>(
    values: &[T],
    layout: &Layout,
    constant: &[bool],
    effort: Effort,
) -> Result<Numbers, CoreError> {
    let bits = || values.iter().map(|value| value.to_ordered()).collect();
    let Some(scale) = floats::find_scale(values) else {
        return encode_bits(bits(), layout, constant, effort);
    };
    let decimals = Decimals::of(values, scale);
    let mapping = Mapping::Floats(Some(scale), decimals.unit);
    let mut writer = IntWriter::new();
    let mut tally = Tally::default();
    let mut pages = Vec::with_capacity(layout.pages.len());
    let mut heads = Vec::with_capacity(layout.pages.len());
    let mut ordered: Vec<i64> = Vec::new();
    for ((rows, page), constant) in layout
        .pages
        .iter()
        .zip(pages_of(values, layout))
        .zip(constant)
    {
        if *constant {
            tally.add(Codec::Constant);
            pages.push(Vec::new());
            heads.push(Vec::new());
            continue;
        }
        let mut bytes = Vec::new();
        let exceptions = decimals.write_head(page, rows.dense.start, &mut bytes);
        heads.push(bytes.clone());
        let counts = decimals.counts.get(rows.dense.clone()).unwrap_or_default();
        writer.write(counts, &mut bytes);
        if exceptions * 10 > page.len() {
            ordered.clear();
            ordered.extend(page.iter().map(|value| value.to_ordered()));
            let mut bits = vec![BITS];
            writer.write(&ordered, &mut bits);
            if bits.len() < bytes.len() {
                bytes = bits;
            }
        }
        tally.add(Codec::Decimal);
        pages.push(bytes);
    }
    let mut best = Numbers {
        pages,
        mapping,
        packing: Packing::Bits,
        tally,
        // The digits of single-precision decimals add up to something else than the floats.
        zones: (T::BYTES == 8 && decimals.exceptions.is_empty()).then(|| {
            pages_of(&decimals.counts, layout)
                .map(zones::summarise)
                .collect()
        }),
    };
    if effort == Effort::Small {
        let packed = pack(&decimals.counts, layout, constant, heads)?;
        best.offer(packed.map(|packed| packed.into_numbers(&best)));
        if decimals.exceptions.len() > values.len() / 50 {
            best.offer(Some(encode_bits(bits(), layout, constant, effort)?));
        }
    }
    Ok(best)
}

/// Encodes floats by their bits.
fn encode_bits(
    mut bits: Vec<i64>,
    layout: &Layout,
    constant: &[bool],
    effort: Effort,
) -> Result<Numbers, CoreError> {
    let unit = Unit::of(&bits);
    unit.count(&mut bits);
    let mapping = Mapping::Floats(None, unit);
    encode_pages(&bits, layout, constant, effort, mapping, &[BITS])
}

/// The values of each page.
fn pages_of<'a, T>(values: &'a [T], layout: &'a Layout) -> impl Iterator<Item = &'a [T]> {
    layout
        .pages
        .iter()
        .map(|page| values.get(page.dense.clone()).unwrap_or_default())
}

/// Puts pco pages behind the heads of the pages that are not constant.
fn pack(
    values: &[i64],
    layout: &Layout,
    constant: &[bool],
    mut heads: Vec<Vec<u8>>,
) -> Result<Option<Packed>, CoreError> {
    let varied: Vec<&[i64]> = pages_of(values, layout)
        .zip(constant)
        .filter_map(|(page, constant)| (!*constant).then_some(page))
        .collect();
    let Some(packed) = packed::pack(&varied)? else {
        return Ok(None);
    };
    let mut pages = packed.pages.into_iter();
    for (head, constant) in heads.iter_mut().zip(constant) {
        if !*constant {
            head.extend(pages.next().unwrap_or_default());
        }
    }
    Ok(Some(Packed {
        meta: packed.meta,
        pages: heads,
    }))
}

impl Packed {
    /// In place of the pages of another encoding of the same numbers.
    fn into_numbers(self, other: &Numbers) -> Numbers {
        let mut tally = Tally::default();
        tally.add(Codec::Pco);
        Numbers {
            pages: self.pages,
            mapping: other.mapping.clone(),
            packing: Packing::Pco(self.meta.into()),
            tally,
            zones: other.zones.clone(),
        }
    }
}

fn codec(shape: Shape) -> Codec {
    match shape {
        Shape::Frame(_) => Codec::Frame,
        Shape::Delta(_) => Codec::Delta,
        Shape::Runs { .. } => Codec::Runs,
        Shape::Raw => Codec::Raw,
    }
}

/// A column of floats as whole numbers.
struct Decimals {
    unit: Unit,
    /// In the unit; that of an exception repeats the one before.
    counts: Vec<i64>,
    /// Places of the values that are no decimals, ascending.
    exceptions: Vec<usize>,
}

impl Decimals {
    fn of<T: Real>(values: &[T], scale: u8) -> Self {
        let power = floats::power(scale);
        let mut counts = Vec::with_capacity(values.len());
        let mut exceptions = Vec::new();
        let mut before = None;
        for (i, value) in values.iter().enumerate() {
            let (whole, exact) = floats::to_decimal(*value, power);
            if exact {
                before = Some(whole);
                counts.push(whole);
            } else {
                exceptions.push(i);
                counts.push(before.unwrap_or_default());
            }
        }
        // Exceptions at the beginning repeat the first decimal, so that they do not spoil the unit.
        let first = counts
            .iter()
            .enumerate()
            .find(|(i, _)| exceptions.get(*i) != Some(i))
            .map(|(i, whole)| (i, *whole));
        if let Some((end, whole)) = first {
            counts.iter_mut().take(end).for_each(|count| *count = whole);
        }
        let unit = Unit::of(&counts);
        unit.count(&mut counts);
        Self {
            unit,
            counts,
            exceptions,
        }
    }

    /// Writes the form and the exceptions of a page whose values begin at `start`; returns how many
    /// there are.
    fn write_head<T: Real>(&self, page: &[T], start: usize, out: &mut Vec<u8>) -> usize {
        let from = self.exceptions.partition_point(|place| *place < start);
        let to = self
            .exceptions
            .partition_point(|place| *place < start + page.len());
        let exceptions = self.exceptions.get(from..to).unwrap_or_default();
        if exceptions.is_empty() {
            out.push(DECIMALS);
            return 0;
        }
        out.push(EXCEPTIONS);
        write_usize(out, exceptions.len());
        for place in exceptions {
            out.extend_from_slice(&((place - start) as u16).to_le_bytes());
        }
        for place in exceptions {
            if let Some(value) = page.get(place - start) {
                value.write(out);
            }
        }
        exceptions.len()
    }
}
