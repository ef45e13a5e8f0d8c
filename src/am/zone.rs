//! What a zone (rows, NULLs, bounds of some rows of a column) says of a condition before anything is decoded.

use crate::pg::{ffi, relation, tuple};
use pgrx::pg_sys;
use std::cmp::Ordering;
use varve_core::paged::{Bounds, Zone};

/// A value to compare with the bounds of zones.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// For types that are stored as integers.
    Int(i64),
    /// For floats.
    Float(f64),
    /// For types that are compared byte by byte.
    Bytes(Box<[u8]>),
}

/// Which comparisons of a type agree with the order of zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparable {
    /// Not even equality.
    No,
    /// Equal values are equal bits.
    Equality,
    /// Greater and smaller too.
    Order,
}

/// The kind of probe that values of a type make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeKind {
    /// [`Probe::Int`]
    Int,
    /// [`Probe::Int`] of four bytes without a sign, which are stored as if they had one.
    Oid,
    /// [`Probe::Int`] of one byte, likewise.
    Char,
    /// [`Probe::Float`] of a float4.
    Float4,
    /// [`Probe::Float`] of a float8.
    Float8,
    /// [`Probe::Bytes`] of a varlena.
    Varlena,
    /// [`Probe::Bytes`] of so many bytes.
    Fixed(usize),
}

/// How values of an attribute compare with zones by the default operators of its type, under a collation.
pub fn comparable(typ: pg_sys::Oid, collation: pg_sys::Oid) -> (Comparable, Option<ProbeKind>) {
    let base = relation::base_type(typ);
    match base {
        pg_sys::INT2OID
        | pg_sys::INT4OID
        | pg_sys::INT8OID
        | pg_sys::DATEOID
        | pg_sys::TIMEOID
        | pg_sys::TIMESTAMPOID
        | pg_sys::TIMESTAMPTZOID
        | pg_sys::BOOLOID
        | pg_sys::MONEYOID => (Comparable::Order, Some(ProbeKind::Int)),
        pg_sys::OIDOID => (Comparable::Equality, Some(ProbeKind::Oid)),
        pg_sys::CHAROID => (Comparable::Equality, Some(ProbeKind::Char)),
        pg_sys::FLOAT4OID => (Comparable::Order, Some(ProbeKind::Float4)),
        pg_sys::FLOAT8OID => (Comparable::Order, Some(ProbeKind::Float8)),
        pg_sys::UUIDOID => (Comparable::Order, Some(ProbeKind::Fixed(16))),
        pg_sys::BYTEAOID => (Comparable::Order, Some(ProbeKind::Varlena)),
        pg_sys::TEXTOID | pg_sys::VARCHAROID => {
            (text_comparable(collation), Some(ProbeKind::Varlena))
        }
        // SAFETY: a syscache look-up.
        _ if unsafe { pg_sys::type_is_enum(base) } => (Comparable::Equality, Some(ProbeKind::Oid)),
        _ => (Comparable::No, None),
    }
}

fn text_comparable(collation: pg_sys::Oid) -> Comparable {
    if collation == pg_sys::InvalidOid {
        return Comparable::No;
    }
    // SAFETY: syscache and locale cache look-ups of an existing collation.
    unsafe {
        if ffi::lc_collate_is_c(collation) {
            Comparable::Order
        } else if pg_sys::get_collation_isdeterministic(collation) {
            Comparable::Equality
        } else {
            Comparable::No
        }
    }
}

impl ProbeKind {
    /// The probe of a value.
    ///
    /// # Safety
    /// `datum` is a valid datum of the type that the kind was made for.
    pub unsafe fn probe(self, datum: pg_sys::Datum) -> Probe {
        match self {
            ProbeKind::Int => Probe::Int(datum.value() as i64),
            ProbeKind::Oid => Probe::Int((datum.value() as i32).into()),
            ProbeKind::Char => Probe::Int((datum.value() as i8).into()),
            ProbeKind::Float4 => Probe::Float(f32::from_bits(datum.value() as u32).into()),
            ProbeKind::Float8 => Probe::Float(f64::from_bits(datum.value() as u64)),
            // SAFETY: by contract.
            ProbeKind::Varlena => unsafe {
                tuple::with_payload(datum, |bytes| Probe::Bytes(bytes.into()))
            },
            // SAFETY: by contract.
            ProbeKind::Fixed(len) => unsafe {
                let bytes = std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), len);
                Probe::Bytes(bytes.into())
            },
        }
    }
}

/// Floats in PostgreSQL's order: NaN above everything and equal to itself, -0 equal to 0.
pub fn float_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// How a probe lies to the smallest and to the greatest value of a zone: (probe ? min, probe ? max). A bound that is not
/// exact counts as an unequal one beyond. `None` where the zone has no bounds of that kind.
fn against(zone: &Zone, probe: &Probe) -> Option<(Ordering, Ordering)> {
    match (&zone.bounds, probe) {
        (Bounds::Int { min, max }, Probe::Int(v)) => Some((v.cmp(min), v.cmp(max))),
        (Bounds::Float { min, max }, Probe::Float(v)) => {
            Some((float_order(*v, *min), float_order(*v, *max)))
        }
        (
            Bounds::Bytes {
                min,
                max,
                min_exact,
                max_exact,
            },
            Probe::Bytes(v),
        ) => {
            let below = match v.as_ref().cmp(min.as_ref()) {
                Ordering::Equal if !min_exact => Ordering::Less,
                // Behind a cut minimum lies what begins with it; the value itself may too.
                other => other,
            };
            let above = if *max_exact {
                v.as_ref().cmp(max.as_ref())
            } else if v.starts_with(max) {
                Ordering::Less
            } else {
                v.as_ref().cmp(max.as_ref())
            };
            Some((below, above))
        }
        _ => None,
    }
}

/// Whether zones lie one behind the other, as those of a sorted column do; NULLs last.
pub fn ascending<'a>(zones: impl Iterator<Item = &'a Zone>) -> bool {
    let mut last: Option<&Bounds> = None;
    let mut nulls = false;
    for zone in zones {
        if zone.nulls >= zone.rows {
            nulls = true;
            continue;
        }
        let follows = match (last, &zone.bounds) {
            (_, Bounds::None) => false,
            (None, _) => true,
            (Some(Bounds::Int { min, max }), Bounds::Int { min: a, max: b }) => {
                min <= a && max <= b
            }
            (Some(Bounds::Float { min, max }), Bounds::Float { min: a, max: b }) => {
                float_order(*min, *a).is_le() && float_order(*max, *b).is_le()
            }
            (
                Some(Bounds::Bytes {
                    min,
                    max,
                    min_exact,
                    max_exact,
                }),
                Bounds::Bytes {
                    min: a,
                    max: b,
                    min_exact: a_exact,
                    max_exact: b_exact,
                },
            ) => {
                // A bound that was cut lies above the same bytes in full.
                (min, !min_exact) <= (a, !a_exact) && (max, !max_exact) <= (b, !b_exact)
            }
            _ => false,
        };
        if nulls || !follows {
            return false;
        }
        last = Some(&zone.bounds);
    }
    true
}

/// What is known of a condition on the rows of a zone that are not NULL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// No row satisfies it.
    Never,
    /// Some may.
    Maybe,
    /// Every row does.
    Always,
}

/// A comparison, column on the left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `=`
    Equal,
    /// `>=`
    GreaterEqual,
    /// `>`
    Greater,
    /// `<>`
    NotEqual,
}

impl Comparison {
    /// The comparison with its sides exchanged.
    pub fn commuted(self) -> Self {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::LessEqual => Comparison::GreaterEqual,
            Comparison::GreaterEqual => Comparison::LessEqual,
            Comparison::Greater => Comparison::Less,
            same => same,
        }
    }

    /// Whether a value that lies so to the other satisfies it.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Less => order.is_lt(),
            Comparison::LessEqual => order.is_le(),
            Comparison::Equal => order.is_eq(),
            Comparison::GreaterEqual => order.is_ge(),
            Comparison::Greater => order.is_gt(),
            Comparison::NotEqual => order.is_ne(),
        }
    }
}

/// Whether rows of a zone satisfy `column <comparison> probe`. NULLs never do.
pub fn judge(zone: &Zone, comparison: Comparison, probe: &Probe) -> Verdict {
    if zone.nulls >= zone.rows {
        return Verdict::Never;
    }
    let Some((to_min, to_max)) = against(zone, probe) else {
        return Verdict::Maybe;
    };
    let (always, never) = match comparison {
        Comparison::Less => (to_max.is_gt(), to_min.is_le()),
        Comparison::LessEqual => (to_max.is_ge(), to_min.is_lt()),
        Comparison::Equal => (
            to_min.is_eq() && to_max.is_eq(),
            to_min.is_lt() || to_max.is_gt(),
        ),
        Comparison::GreaterEqual => (to_min.is_le(), to_max.is_gt()),
        Comparison::Greater => (to_min.is_lt(), to_max.is_ge()),
        Comparison::NotEqual => (
            to_min.is_lt() || to_max.is_gt(),
            to_min.is_eq() && to_max.is_eq(),
        ),
    };
    match (always, never) {
        (true, _) => Verdict::Always,
        (_, true) => Verdict::Never,
        _ => Verdict::Maybe,
    }
}

/// How the values of an attribute compare with zones.
pub fn of_attribute(attr: &pg_sys::FormData_pg_attribute) -> (Comparable, Option<ProbeKind>) {
    comparable(attr.atttypid, attr.attcollation)
}

/// The zone of rows that all have the value that `ADD COLUMN` gave them: bounds are not known.
pub fn of_missing(desc: pg_sys::TupleDesc, index: usize, rows: u32) -> Zone {
    let mut null = true;
    debug_assert!(index < relation::natts(desc));
    // SAFETY: `index` is below natts.
    unsafe { pg_sys::getmissingattr(desc, index as i32 + 1, &mut null) };
    Zone {
        rows,
        nulls: if null { rows } else { 0 },
        bounds: Bounds::None,
        sum: varve_core::paged::Sum::None,
    }
}
