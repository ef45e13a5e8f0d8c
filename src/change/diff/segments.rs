//! Frozen chunks that are read segment by segment, past the executor, since much of them is the same in both relations.
//!
//! Segments with the same sum of rows hold the same rows, and are not read, as [chunks](super::equal_parts) are not. Segments whose keys are
//! encoded in the same bytes have the rows of the same keys in the same places; they are compared [column by column](super::beside), and only rows
//! that differ are read. For relations in which there is one row of each key: what is left out on both sides is what both have. The
//! [rest](super::rest) of these chunks is read by us, too; so most of their rows have to be in such segments.

use super::beside;
use super::chunk::{Chunk, OpenChunk, Pair};
use super::equal_parts::chunks;
use crate::am::companion;
use crate::change::checksums::is_plain;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::Registered;
use crate::scan::batch::positions;
use crate::scan::eval::{self, NO_ROWS, first_rows, without};
use crate::tier::set_tier;
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use varve_core::change::Side;

/// Takes rows of either relation: the values of its columns, in their order.
pub type TakeOf<'a> = &'a mut dyn FnMut(Side, &[pg_sys::Datum], &[bool]);

/// A segment: the place of its chunk among its relation's, and its number there.
type Place = (usize, i32);

/// Two segments, the old relation's first, and how many rows both show.
type Found = (Place, Place, u32);

/// A relation, and the columns of its rows by their names and types.
pub struct Origin<'a> {
    /// The relation.
    pub rel: &'a OpenRel,
    /// Its columns.
    pub columns: Vec<(&'a str, pg_sys::Oid)>,
    /// Chunks that need not be read.
    pub left_out: HashSet<pg_sys::Oid>,
}

/// Chunks of both relations.
pub struct Segments {
    snapshot: Registered,
    old: Vec<Chunk>,
    new: Vec<Chunk>,
    /// Places of columns in the rows of the old and of the new relation, those of the key first; `None` where there are columns that one of
    /// them lacks, or has in another type.
    places: Option<Vec<(usize, usize)>>,
    key: usize,
}

impl Segments {
    /// Looks for chunks that have such segments, in relations of which everything may be read. `places` as above, of which the first `key` are those of the key.
    pub fn find(
        origins: [Origin; 2],
        places: Option<Vec<(usize, usize)>>,
        key: usize,
    ) -> Option<Self> {
        // SAFETY: a statement that calls a function has a snapshot.
        let snapshot = Registered::copy_of(unsafe { pg_sys::GetActiveSnapshot() });
        let [old, new] = &origins;
        let mut segments = Segments {
            old: frozen(old, &snapshot),
            new: frozen(new, &snapshot),
            snapshot,
            places,
            key,
        };
        if segments.old.is_empty() || segments.new.is_empty() {
            return None;
        }
        segments.find_equal();
        segments.find_beside();
        segments.leave_poor();
        let chosen = segments.chosen(Side::Old).chain(segments.chosen(Side::New));
        let chosen: Vec<_> = chosen.map(Chunk::oid).collect();
        // Of what TimescaleDB's columnstore has compressed, some rows are not in the chunk.
        (!chosen.is_empty() && !set_tier::in_columnstore(chosen)).then_some(segments)
    }

    /// The snapshot by which they are read.
    pub fn snapshot(&self) -> &Registered {
        &self.snapshot
    }

    /// The chunks of a relation that are read here.
    pub fn chosen(&self, side: Side) -> impl Iterator<Item = &Chunk> {
        let chunks = self.of(side).iter();
        chunks.filter(|chunk| !chunk.pairs.is_empty())
    }

    /// Hands on the rows of both relations that have the same key, lie in the same places, and differ. Gives the number of those that are
    /// the same, in equal segments too.
    pub fn differing(&self, take: TakeOf) -> u64 {
        let mut same = 0;
        let places = self.places.as_deref().unwrap_or_default();
        let mut beside: Option<(usize, OpenChunk)> = None;
        for chunk in self.chosen(Side::Old) {
            let mut old = OpenChunk::new(chunk, &self.snapshot);
            for segment in old.directory.clone().iter() {
                let Some(pair) = chunk.pairs.get(&segment.number) else {
                    continue;
                };
                if pair.equal {
                    same += u64::from(pair.rows);
                    continue;
                }
                let Some(new) = self.other(Side::Old, pair.at, &mut beside) else {
                    continue;
                };
                let other = new.segment(pair.number);
                let hidden = [old.hidden(segment), new.hidden(&other)];
                let columns = both(places.iter().skip(self.key), chunk, new.chunk);
                let columns = beside::unequal(segment, &other, columns);
                let columns = columns.unwrap_or_else(|e| match e {
                    (Side::Old, detail) => old.corrupt(segment.number, &detail),
                    (Side::New, detail) => new.corrupt(other.number, &detail),
                });
                for page in 0..segment.pages() {
                    pgrx::check_for_interrupts!();
                    let mut seen = first_rows(segment.page_rows(page).len());
                    for hidden in hidden.iter().flatten() {
                        without(&mut seen, hidden, page);
                    }
                    let mut differ = NO_ROWS;
                    if !columns.is_empty() {
                        old.columns.enter(segment, page);
                        new.columns.enter(&other, page);
                        let found = beside::differing(&mut old.columns, &mut new.columns, &columns);
                        differ = found.unwrap_or_else(|e| match e {
                            (Side::Old, detail) => old.corrupt(segment.number, &detail),
                            (Side::New, detail) => new.corrupt(other.number, &detail),
                        });
                        eval::and(&mut differ, &seen);
                    }
                    same += (eval::count(&seen) - eval::count(&differ)) as u64;
                    if differ != NO_ROWS {
                        let rows = positions(&differ);
                        old.hand_on(segment, &rows, None, &mut |values, nulls| {
                            take(Side::Old, values, nulls);
                        });
                        new.hand_on(&other, &rows, None, &mut |values, nulls| {
                            take(Side::New, values, nulls);
                        });
                    }
                }
            }
        }
        same
    }

    /// A chunk of the other relation, which `open` holds until another one is asked for.
    pub fn other<'a, 'b>(
        &'a self,
        side: Side,
        at: usize,
        open: &'b mut Option<(usize, OpenChunk<'a>)>,
    ) -> Option<&'b mut OpenChunk<'a>> {
        if open.as_ref().is_none_or(|(there, _)| *there != at) {
            *open = None;
            let chunk = self.of(side.opposite()).get(at)?;
            *open = Some((at, OpenChunk::new(chunk, &self.snapshot)));
        }
        open.as_mut().map(|(_, chunk)| chunk)
    }

    fn of(&self, side: Side) -> &[Chunk] {
        side.pick(&self.old, &self.new)
    }

    /// Pairs segments whose headers say that they hold the same rows.
    fn find_equal(&mut self) {
        let mut waiting: HashMap<(u32, u128), Vec<Place>> = HashMap::new();
        for (at, chunk) in self.old.iter().enumerate() {
            chunk.each_sum(&self.snapshot, |segment, sum| {
                let waiting = waiting.entry((segment.header.rows, sum)).or_default();
                waiting.push((at, segment.number));
            });
        }
        let mut found = Vec::new();
        for (at, chunk) in self.new.iter().enumerate() {
            chunk.each_sum(&self.snapshot, |segment, sum| {
                let there = waiting.get_mut(&(segment.header.rows, sum));
                if let Some(old) = there.and_then(Vec::pop) {
                    found.push((old, (at, segment.number), segment.header.rows));
                }
            });
        }
        self.pair(found, true);
    }

    /// Pairs segments in which the same keys lie one behind the other.
    fn find_beside(&mut self) {
        let Some(places) = self.places.clone() else {
            return;
        };
        let of_old: Vec<usize> = places.iter().map(|(old, _)| *old).collect();
        let of_new: Vec<usize> = places.iter().map(|(_, new)| *new).collect();
        let mut waiting: HashMap<u128, Vec<(Place, u32)>> = HashMap::new();
        for (at, chunk) in self.old.iter().enumerate() {
            chunk.each_single(&self.snapshot, |segment, shown| {
                if let Some(look) = chunk.look(segment, &of_old, self.key) {
                    let waiting = waiting.entry(look).or_default();
                    waiting.push(((at, segment.number), shown));
                }
            });
        }
        if waiting.is_empty() {
            return;
        }
        let mut found = Vec::new();
        let mut beside = None;
        for (at, chunk) in self.new.iter().enumerate() {
            chunk.each_single(&self.snapshot, |segment, shown| {
                let look = chunk.look(segment, &of_new, self.key);
                let Some(there) = look.and_then(|look| waiting.get_mut(&look)) else {
                    return;
                };
                let same = there.iter().position(|((old, number), _)| {
                    self.other(Side::New, *old, &mut beside).is_some_and(|old| {
                        let keys = both(places.iter().take(self.key), old.chunk, chunk);
                        // What is damaged is read, and told, with the rest.
                        beside::unequal(&old.segment(*number), segment, keys)
                            .is_ok_and(|columns| columns.is_empty())
                    })
                });
                if let Some(same) = same {
                    let (old, shown_there) = there.swap_remove(same);
                    found.push((old, (at, segment.number), shown.min(shown_there)));
                }
            });
        }
        drop(beside);
        self.pair(found, false);
    }

    fn pair(&mut self, found: Vec<Found>, equal: bool) {
        for (old, new, rows) in found {
            let sides = [(&mut self.old, old, new), (&mut self.new, new, old)];
            for (chunks, (at, number), (other, other_number)) in sides {
                if let Some(chunk) = chunks.get_mut(at) {
                    let pair = Pair {
                        at: other,
                        number: other_number,
                        rows,
                        equal,
                    };
                    chunk.pairs.insert(number, pair);
                }
            }
        }
    }

    /// Leaves chunks to the queries of which a large part would have to be read here, past the executor and in both readings.
    fn leave_poor(&mut self) {
        let of = |side| {
            self.of(side)
                .iter()
                .enumerate()
                .map(move |(at, _)| (side, at))
        };
        let mut open: Vec<(Side, usize)> = of(Side::Old).chain(of(Side::New)).collect();
        while let Some((side, at)) = open.pop() {
            pgrx::check_for_interrupts!();
            let (own, others) = match side {
                Side::Old => (&mut self.old, &mut self.new),
                Side::New => (&mut self.new, &mut self.old),
            };
            let poor = own.get_mut(at).filter(|chunk| chunk.is_poor());
            let pairs = poor.map(|chunk| std::mem::take(&mut chunk.pairs));
            for pair in pairs.unwrap_or_default().into_values() {
                if let Some(chunk) = others.get_mut(pair.at) {
                    chunk.pairs.remove(&pair.number);
                    open.push((side.opposite(), pair.at));
                }
            }
        }
    }
}

/// Chunks of a relation that have frozen rows and all of its columns.
fn frozen(origin: &Origin, snapshot: &Registered) -> Vec<Chunk> {
    let is_frozen = &mut |rel| {
        let ours = Some(relation::form(rel).relam) == relation::varve_am();
        ours && !origin.left_out.contains(&relation::oid(rel))
            && is_plain(rel)
            && companion::of(rel).is_some()
    };
    let chunk = |table: OpenRel| {
        let desc = relation::tupdesc(table.as_ptr());
        let attnum = |(name, typ): &(&str, pg_sys::Oid)| {
            let mut attributes = (0..relation::natts(desc)).map(|i| relation::attribute(desc, i));
            let found = attributes.find(|attr| {
                !attr.attisdropped
                    && attr.atttypid == *typ
                    && relation::attribute_name(attr) == *name
            });
            found.map(|attr| attr.attnum)
        };
        let attnums: Option<Vec<i16>> = origin.columns.iter().map(attnum).collect();
        Some(Chunk::new(table, attnums?, snapshot))
    };
    let found = chunks(origin.rel, is_frozen);
    found.into_iter().filter_map(chunk).collect()
}

/// The attributes of columns in a chunk of the old and in one of the new relation.
fn both<'a>(
    places: impl Iterator<Item = &'a (usize, usize)>,
    old: &Chunk,
    new: &Chunk,
) -> Vec<(i16, i16)> {
    let attnums = |(a, b): &(usize, usize)| Some((*old.attnums.get(*a)?, *new.attnums.get(*b)?));
    places.filter_map(attnums).collect()
}
