//! Orders in which a scan can deliver the rows of a table whose segments are sorted.

use crate::am::directory::Directory;
use crate::pg::{list, planner, relation};
use pgrx::pg_sys;

/// An order of rows by the columns that segments are sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Attribute numbers.
    pub columns: Vec<i16>,
    /// How many of them ascend, the first ones; the others descend, NULLs first. Or the other way round, with `mirrored`.
    pub straight: usize,
    /// The first ones descend, the others ascend.
    pub mirrored: bool,
    /// Only the first row that has each value of the straight columns is wanted.
    pub first_only: bool,
}

impl Order {
    /// Whether rows leave in the order of the segments, or exactly the other way round.
    pub fn is_plain(&self) -> bool {
        self.straight == self.columns.len()
    }

    /// Whether the `n`th column descends.
    pub fn descends(&self, n: usize) -> bool {
        (n < self.straight) == self.mirrored
    }

    /// As a list of integers; [`Order::read`] is the reverse.
    pub fn write(order: Option<&Order>) -> *mut pg_sys::List {
        let numbers: Vec<i32> = match order {
            None => Vec::new(),
            Some(o) => [
                o.straight as i32,
                i32::from(o.mirrored),
                i32::from(o.first_only),
            ]
            .into_iter()
            .chain(o.columns.iter().map(|c| i32::from(*c)))
            .collect(),
        };
        list::of_integers(numbers)
    }

    /// See [`Order::write`].
    ///
    /// # Safety
    /// A list that it made, or a copy of it.
    pub unsafe fn read(list: *mut pg_sys::List) -> Option<Order> {
        // SAFETY: by contract.
        let mut numbers = unsafe { list::integers(list) };
        Some(Order {
            straight: numbers.next()? as usize,
            mirrored: numbers.next()? != 0,
            first_only: numbers.next()? != 0,
            columns: numbers.map(|n| n as i16).collect(),
        })
    }
}

/// The columns that all segments of a directory are sorted by, one after the other; none where they are not.
pub fn sorted_by(directory: &Directory) -> Vec<i16> {
    let Some(first) = directory.first() else {
        return Vec::new();
    };
    let columns = &first.header.order;
    let written_together = directory.len() as u32 == first.header.siblings;
    if !written_together || !directory.iter().all(|s| s.header.order == *columns) {
        return Vec::new();
    }
    columns.iter().map(|key| key.attnum as i16).collect()
}

/// Of how many rows in segments beside those that were written together an order is still offered: they are sorted when the
/// scan starts.
const MOST_LATE: f64 = 0.25;

/// A directory in two: the segments that were written together and ascend by some columns, and those that were added since
/// (see [`sorted_by`]). The first part is empty where there are none that do.
pub fn parts(directory: &Directory, columns: &[i16]) -> (Directory, Directory) {
    let (together, late): (Directory, Directory) = directory
        .iter()
        .cloned()
        .partition(|segment| segment.header.siblings > 0);
    if sorted_by(&together) == columns {
        (together, late)
    } else {
        (Directory::new(), directory.clone())
    }
}

/// The columns that the segments which were written together ascend by, and how many rows lie in others; none where
/// those are too many.
fn sorted_for_the_most_part(directory: &Directory) -> (Vec<i16>, f64) {
    let (together, late): (Directory, Directory) = directory
        .iter()
        .cloned()
        .partition(|segment| segment.header.siblings > 0);
    let rows = |part: &Directory| part.iter().map(|s| s.live_at_birth() as f64).sum::<f64>();
    let late = rows(&late);
    if late > MOST_LATE * rows(&together) {
        return (Vec::new(), late);
    }
    (sorted_by(&together), late)
}

/// An order and the planner's keys for it.
pub struct Offer {
    /// The order.
    pub order: Order,
    /// The planner's keys.
    pub pathkeys: *mut pg_sys::List,
    /// Rows that leave the scan, where that is not all of them.
    pub rows: Option<f64>,
    /// Rows that are sorted when the scan starts, those of the delta not counted.
    pub late: f64,
}

/// The orders of a relation's rows that the query can use.
///
/// # Safety
/// The planner's own nodes; `desc` is the relation's row shape.
pub unsafe fn useful(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    desc: pg_sys::TupleDesc,
    directory: &Directory,
) -> Vec<Offer> {
    let (columns, late) = sorted_for_the_most_part(directory);
    let mut offers: Vec<Offer> = Vec::new();
    let count = columns.len();
    // The planner's own orders first: all ascending, all descending, then those that turn in between.
    let mut shapes: Vec<(usize, bool)> = vec![(count, false), (count, true)];
    shapes.extend((1..count).flat_map(|n| [(n, false), (n, true)]));
    for (straight, mirrored) in shapes {
        let order = Order {
            columns: columns.clone(),
            straight,
            mirrored,
            first_only: false,
        };
        // SAFETY: by contract.
        unsafe {
            let (keys, used) = pathkeys(root, rel, desc, &order);
            let useful = pg_sys::truncate_useless_pathkeys(root, rel, keys);
            let mut length = list::cells(useful).len();
            if is_taken_for_order_of_buckets(root, useful) {
                length -= 1;
            }
            let useful = list::of_nodes(list::nodes::<pg_sys::PathKey>(useful).take(length));
            // An order that turns is of use only where the query gets to the turn.
            if length == 0
                || used
                    .get(length - 1)
                    .is_none_or(|last| *last < straight && straight < count)
            {
                continue;
            }
            if let Some(rows) = first_of_each(root, rel, desc, &order, keys, &used) {
                offers.push(Offer {
                    order: Order {
                        first_only: true,
                        ..order.clone()
                    },
                    pathkeys: useful,
                    rows: Some(rows + late),
                    late,
                });
            }
            offers.push(Offer {
                order,
                pathkeys: useful,
                rows: None,
                late,
            });
        }
    }
    offers
}

/// Whether TimescaleDB would say of a path with these keys, on the table above, that it has the query's: an order by time
/// is one by `time_bucket` of it. It says so without looking at what the path is made of, and a Merge Append whose chunks
/// do not know the bucket's expression is no plan then. Its own index paths lose the key as well.
///
/// # Safety
/// Lists of the planner's.
unsafe fn is_taken_for_order_of_buckets(
    root: *mut pg_sys::PlannerInfo,
    keys: *mut pg_sys::List,
) -> bool {
    // SAFETY: by contract.
    unsafe {
        let ours: Vec<_> = list::nodes::<pg_sys::PathKey>(keys).collect();
        let query: Vec<_> = list::nodes::<pg_sys::PathKey>((*root).query_pathkeys).collect();
        let (Some((last, before)), Some((of_query, others))) =
            (ours.split_last(), query.split_last())
        else {
            return false;
        };
        let is_column = |member: *mut pg_sys::EquivalenceMember| {
            list::tag((*member).em_expr) == pg_sys::NodeTag::T_Var
        };
        before == others
            && last != of_query
            && !list::nodes::<pg_sys::EquivalenceMember>((*(**of_query).pk_eclass).ec_members)
                .any(is_column)
    }
}

/// The planner's keys of an order, as far as the query knows of them, and which column each is.
///
/// # Safety
/// As [`useful`].
unsafe fn pathkeys(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    desc: pg_sys::TupleDesc,
    order: &Order,
) -> (*mut pg_sys::List, Vec<usize>) {
    let mut keys = Vec::new();
    let mut used = Vec::new();
    for (n, attnum) in order.columns.iter().enumerate() {
        let attr = relation::attribute(desc, *attnum as usize - 1);
        // SAFETY: by contract.
        unsafe {
            let var = planner::column(rel, desc, *attnum);
            let operator = relation::ordering_operator(attr.atttypid, order.descends(n));
            let found = pg_sys::build_expression_pathkey(root, var, operator, (*rel).relids, false);
            let Some(key) = list::nodes::<pg_sys::PathKey>(found).next() else {
                break;
            };
            // A column that the query pins to one value orders nothing.
            if (*(*key).pk_eclass).ec_has_const {
                continue;
            }
            if !keys.contains(&key) {
                keys.push(key);
                used.push(n);
            }
        }
    }
    (list::of_nodes(keys), used)
}

/// How many rows there are if only the first one of each value of the straight columns is wanted; `None` where the query
/// wants the others too.
///
/// # Safety
/// As [`useful`].
unsafe fn first_of_each(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    desc: pg_sys::TupleDesc,
    order: &Order,
    keys: *mut pg_sys::List,
    used: &[usize],
) -> Option<f64> {
    // SAFETY: by contract.
    unsafe {
        let parse = &*(*root).parse;
        let distinct = list::cells((*root).distinct_pathkeys).len();
        let others = parse.hasAggs
            || parse.hasWindowFuncs
            || parse.hasTargetSRFs
            || !parse.groupClause.is_null()
            || !parse.groupingSets.is_null()
            || !parse.rowMarks.is_null();
        if distinct == 0
            || others
            || pg_sys::bms_membership((*root).all_baserels) != pg_sys::BMS_Membership::BMS_SINGLETON
        {
            return None;
        }
        let needed = if list::cells((*root).sort_pathkeys).len() > distinct {
            (*root).sort_pathkeys
        } else {
            (*root).distinct_pathkeys
        };
        // The keys of DISTINCT are the straight columns, no more and no less, and rows leave as they are wanted.
        let straight = used.iter().filter(|n| **n < order.straight).count();
        let same = list::nodes::<pg_sys::PathKey>((*root).distinct_pathkeys)
            .zip(list::nodes::<pg_sys::PathKey>(keys))
            .all(|(a, b)| a == b);
        if straight != distinct || !same || !pg_sys::pathkeys_contained_in(needed, keys) {
            return None;
        }
        let clauses = list::nodes::<pg_sys::RestrictInfo>((*rel).baserestrictinfo);
        let scope = super::filter::Scope {
            varno: (*rel).relid as i32,
            outer: false,
        };
        for clause in clauses {
            // What is tested behind the scan may leave out the row that the scan chose.
            super::filter::Compiled::new((*clause).clause, &scope)?;
        }
        let straight = used.iter().filter(|n| **n < order.straight);
        let vars = straight.filter_map(|n| {
            let attnum = order.columns.get(*n)?;
            Some(planner::column(rel, desc, *attnum))
        });
        Some(planner::num_groups(root, vars, (*rel).rows))
    }
}
