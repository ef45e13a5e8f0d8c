//! The chunk of a row, out of TimescaleDB's catalogue: `dimension` says by which columns a hypertable is cut,
//! `dimension_slice` where. Chunks that are not there yet are made by TimescaleDB itself, on an ordinary INSERT.

use super::eligible::Reason;
use crate::ingest::batch::Spec;
use crate::ingest::columns::Used;
use crate::ingest::target::Target;
use crate::pg::function::Unary;
use crate::pg::relation;
use crate::pg::spi::read_all;
use pgrx::pg_sys;

/// Microseconds between PostgreSQL's epoch and that of Unix, by which TimescaleDB counts.
const EPOCH: i64 = 10_957 * 86_400_000_000;

/// How the values of a dimension's column become its coordinates.
enum Coordinate {
    /// Integers are their own.
    Integer(i16),
    /// Timestamps, in microseconds.
    Timestamp,
    /// Dates, in microseconds.
    Date,
    /// The partitioning function's result.
    Hash(Unary),
}

struct Dimension {
    id: i32,
    /// The column's position among the batch's.
    column: usize,
    coordinate: Coordinate,
}

/// A chunk and the span that it takes of each dimension.
struct Slot {
    chunk: pg_sys::Oid,
    spans: Vec<(i64, i64)>,
}

/// Where a row belongs.
pub enum Route {
    /// Into this table.
    Chunk(pg_sys::Oid),
    /// Into a chunk that there is not, or not as far as the transaction's snapshot shows.
    Missing,
    /// Its coordinates are not known: that of infinity, say.
    Unknown,
}

/// Finds the chunks of rows.
pub struct Router {
    /// The table itself, where it is no hypertable.
    table: pg_sys::Oid,
    dimensions: Vec<Dimension>,
    slots: Vec<Slot>,
    /// The slot that was found last.
    last: usize,
    point: Vec<i64>,
}

impl Router {
    /// A router for a table. Dimensions that it cannot compute are a reason for the ordinary path.
    pub fn new(spec: &Spec) -> Result<Self, Reason> {
        let Spec { target, used, .. } = spec;
        let mut router = Router {
            table: target.oid,
            dimensions: Vec::new(),
            slots: Vec::new(),
            last: 0,
            point: Vec::new(),
        };
        if target.time.is_some() {
            router.dimensions = dimensions(target, used)?;
            if router.dimensions.is_empty() {
                return Err("its dimensions are not known");
            }
        }
        Ok(router)
    }

    /// Where a row belongs. The catalogue is asked where no chunk is known to take it.
    pub fn find(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> Route {
        if self.dimensions.is_empty() {
            return Route::Chunk(self.table);
        }
        self.point.clear();
        for dimension in &mut self.dimensions {
            let coordinate = match (values.get(dimension.column), nulls.get(dimension.column)) {
                (Some(value), Some(false)) => dimension.coordinate.of(*value),
                _ => None,
            };
            match coordinate {
                Some(coordinate) => self.point.push(coordinate),
                None => return Route::Unknown,
            }
        }
        match self.known() {
            Some(chunk) => Route::Chunk(chunk),
            None => {
                self.load();
                self.known().map_or(Route::Missing, Route::Chunk)
            }
        }
    }

    fn known(&mut self) -> Option<pg_sys::Oid> {
        let holds = |slot: &Slot| {
            let mut spans = slot.spans.iter().zip(&self.point);
            spans.all(|((start, end), at)| start <= at && (at < end || *end == i64::MAX))
        };
        if let Some(slot) = self.slots.get(self.last)
            && holds(slot)
        {
            return Some(slot.chunk);
        }
        let found = self.slots.iter().position(holds)?;
        self.last = found;
        self.slots.get(found).map(|slot| slot.chunk)
    }

    /// Reads the chunks that take the point's first coordinate.
    fn load(&mut self) {
        let (Some(first), Some(at)) = (self.dimensions.first(), self.point.first()) else {
            return;
        };
        let found = chunks(first.id, *at, self.dimensions.len());
        for slot in found {
            if !self.slots.iter().any(|known| known.chunk == slot.chunk) {
                self.slots.push(slot);
            }
        }
    }
}

impl Coordinate {
    fn of(&mut self, value: pg_sys::Datum) -> Option<i64> {
        let bits = value.value();
        match self {
            Coordinate::Integer(2) => Some(i64::from(bits as i16)),
            Coordinate::Integer(4) => Some(i64::from(bits as i32)),
            Coordinate::Integer(_) => Some(bits as i64),
            Coordinate::Timestamp => match bits as i64 {
                i64::MIN | i64::MAX => None,
                at => at.checked_add(EPOCH),
            },
            Coordinate::Date => match bits as i32 {
                i32::MIN | i32::MAX => None,
                at => i64::from(at)
                    .checked_mul(86_400_000_000)?
                    .checked_add(EPOCH),
            },
            Coordinate::Hash(function) => {
                // SAFETY: a value of the column's type, which the function was prepared for.
                let hash = unsafe { function.call(value) };
                Some(i64::from(hash.value() as i32))
            }
        }
    }
}

const DIMENSIONS: &str = "SELECT d.id, d.column_name::pg_catalog.text, \
     COALESCE(d.partitioning_func_schema::pg_catalog.text, ''), COALESCE(d.partitioning_func::pg_catalog.text, '') \
     FROM _timescaledb_catalog.dimension d JOIN _timescaledb_catalog.hypertable h ON h.id OPERATOR(pg_catalog.=) d.hypertable_id \
     JOIN pg_catalog.pg_class c ON c.relname OPERATOR(pg_catalog.=) h.table_name \
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace AND n.nspname OPERATOR(pg_catalog.=) h.schema_name \
     WHERE c.oid OPERATOR(pg_catalog.=) $1 ORDER BY d.num_slices IS NOT NULL, d.id";

fn dimensions(target: &Target, used: &[Used]) -> Result<Vec<Dimension>, Reason> {
    let all: Vec<(i32, String, String, String)> =
        read_all(DIMENSIONS, &[target.oid.into()], |tuple| {
            Ok((|| {
                Some((
                    tuple.get(1).ok()??,
                    tuple.get(2).ok()??,
                    tuple.get(3).ok()??,
                    tuple.get(4).ok()??,
                ))
            })())
        });
    all.into_iter()
        .map(|(id, name, schema, function)| {
            let column = used
                .iter()
                .position(|u| u.column.name == name)
                .ok_or("a dimension's column is not in the batch")?;
            let typ = used
                .get(column)
                .map_or(pg_sys::InvalidOid, |u| u.column.typ);
            let coordinate = match (schema.as_str(), function.as_str()) {
                ("", "") => match typ {
                    pg_sys::INT2OID => Coordinate::Integer(2),
                    pg_sys::INT4OID => Coordinate::Integer(4),
                    pg_sys::INT8OID => Coordinate::Integer(8),
                    pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Coordinate::Timestamp,
                    pg_sys::DATEOID => Coordinate::Date,
                    _ => return Err("its time is of a type of its own"),
                },
                ("_timescaledb_functions", "get_partition_hash") => {
                    hash(typ).ok_or("a dimension's function is not known")?
                }
                _ => return Err("a dimension has a function of its own"),
            };
            Ok(Dimension {
                id,
                column,
                coordinate,
            })
        })
        .collect()
}

/// TimescaleDB's partitioning function for values of a type.
fn hash(typ: pg_sys::Oid) -> Option<Coordinate> {
    let name = c"_timescaledb_functions.get_partition_hash";
    Unary::polymorphic(name, typ).map(Coordinate::Hash)
}

const CHUNKS: &str = "SELECT c.schema_name::pg_catalog.text, c.table_name::pg_catalog.text, \
     pg_catalog.array_agg(s.range_start ORDER BY d.num_slices IS NOT NULL, d.id), \
     pg_catalog.array_agg(s.range_end ORDER BY d.num_slices IS NOT NULL, d.id) \
     FROM _timescaledb_catalog.dimension_slice f \
     JOIN _timescaledb_catalog.chunk_constraint fc ON fc.dimension_slice_id OPERATOR(pg_catalog.=) f.id \
     JOIN _timescaledb_catalog.chunk c ON c.id OPERATOR(pg_catalog.=) fc.chunk_id \
     JOIN _timescaledb_catalog.chunk_constraint cc ON cc.chunk_id OPERATOR(pg_catalog.=) c.id \
     JOIN _timescaledb_catalog.dimension_slice s ON s.id OPERATOR(pg_catalog.=) cc.dimension_slice_id \
     JOIN _timescaledb_catalog.dimension d ON d.id OPERATOR(pg_catalog.=) s.dimension_id \
     WHERE f.dimension_id OPERATOR(pg_catalog.=) $1 AND f.range_start OPERATOR(pg_catalog.<=) $2 \
     AND (f.range_end OPERATOR(pg_catalog.>) $2 OR f.range_end OPERATOR(pg_catalog.=) 9223372036854775807) \
     AND NOT c.dropped AND NOT c.osm_chunk AND c.status OPERATOR(pg_catalog.=) 0 \
     GROUP BY c.id, c.schema_name, c.table_name";

/// The chunks whose span of a dimension holds a coordinate.
fn chunks(dimension: i32, at: i64, dimensions: usize) -> Vec<Slot> {
    read_all(CHUNKS, &[dimension.into(), at.into()], |tuple| {
        let (Some(schema), Some(table), Some(starts), Some(ends)) = (
            tuple.get::<String>(1)?,
            tuple.get::<String>(2)?,
            tuple.get::<Vec<i64>>(3)?,
            tuple.get::<Vec<i64>>(4)?,
        ) else {
            return Ok(None);
        };
        let Ok(schema) = std::ffi::CString::new(schema) else {
            return Ok(None);
        };
        // SAFETY: a syscache look-up.
        let namespace = unsafe { pg_sys::get_namespace_oid(schema.as_ptr(), true) };
        let spans: Vec<(i64, i64)> = starts.into_iter().zip(ends).collect();
        let chunk = relation::lookup(&table, namespace).filter(|_| spans.len() == dimensions);
        Ok(chunk.map(|chunk| Slot { chunk, spans }))
    })
}
