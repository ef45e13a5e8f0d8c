//! Decoded columns as PostgreSQL's datums.

use super::zone;
use pgrx::pg_sys;
use std::borrow::Borrow;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use varve_core::column::{Column, Kind, Values};
use varve_core::paged::{
    BOUND_BYTES, Bounds, ColumnIndex, Dictionary, Page, PageValues, Sum, Zone,
};

/// Rows of a column as datums. References point into the column itself or into its dictionary.
pub struct DatumColumn {
    values: Vec<pg_sys::Datum>,
    /// `None` where no row is NULL.
    nulls: Option<Vec<bool>>,
    _memory: Memory,
}

/// What the datums of a column point into.
enum Memory {
    None,
    /// Values, each on a multiple of eight bytes.
    Words {
        _words: Vec<u64>,
    },
    Dictionary {
        _dictionary: Rc<DatumDictionary>,
    },
}

/// The distinct values of a column as datums.
pub struct DatumDictionary {
    values: Vec<pg_sys::Datum>,
    _words: Vec<u64>,
}

impl DatumDictionary {
    /// The values of a dictionary of fixed-length values or varlenas.
    pub fn new(attr: &pg_sys::FormData_pg_attribute, dictionary: &Dictionary) -> Self {
        let mut arena = Arena::default();
        for code in 0..dictionary.len() as u32 {
            arena.push(attr.attlen, dictionary.get(code));
        }
        let (values, words) = arena.finish();
        DatumDictionary {
            values,
            _words: words,
        }
    }

    /// The datum of a code.
    pub fn get(&self, code: u32) -> Option<pg_sys::Datum> {
        self.values.get(code as usize).copied()
    }
}

/// Values laid out as PostgreSQL reads them.
#[derive(Default)]
struct Arena {
    words: Vec<u64>,
    starts: Vec<usize>,
}

impl Arena {
    /// Adds a value of a type of length `attlen` (-1: a varlena, given without its header).
    fn push(&mut self, attlen: i16, value: &[u8]) {
        let header = if attlen == -1 { 4 } else { 0 };
        let size = value.len() + header;
        let start = self.words.len();
        self.starts.push(start);
        self.words.resize(start + size.div_ceil(8), 0);
        // SAFETY: the words just added hold `size` bytes.
        unsafe {
            let target = self.words.as_mut_ptr().add(start).cast::<u8>();
            if attlen == -1 {
                pgrx::set_varsize_4b(target.cast(), size as i32);
            }
            std::ptr::copy_nonoverlapping(value.as_ptr(), target.add(header), value.len());
        }
    }

    /// Datums that point to the values, and what they point into.
    fn finish(self) -> (Vec<pg_sys::Datum>, Vec<u64>) {
        let base = self.words.as_ptr();
        let datums = self
            .starts
            .iter()
            // An empty value of a fixed length does not exist; the pointer of the last one may be one past the end.
            .map(|start| pg_sys::Datum::from(base.wrapping_add(*start)))
            .collect();
        (datums, self.words)
    }
}

/// Largest varlena without its header.
const MAX_VALUE: usize = (1 << 30) - 1 - 4;

/// Whether values of a kind are how an attribute's values are stored; what is wrong if not.
pub fn check_kind(attr: &pg_sys::FormData_pg_attribute, kind: Kind) -> Result<(), String> {
    let len = attr.attlen;
    let fits = match kind {
        Kind::I8 => attr.attbyval && len == 1,
        Kind::I16 => attr.attbyval && len == 2,
        Kind::I32 | Kind::F32 => attr.attbyval && len == 4,
        Kind::I64 | Kind::F64 => attr.attbyval && len == 8,
        Kind::Fixed { len: stored } => !attr.attbyval && len > 0 && stored == len as usize,
        Kind::Bytes => len == -1,
    };
    if fits {
        return Ok(());
    }
    Err(format!(
        "stored as {} where the column has length {len}",
        kind_name(kind)
    ))
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::I8 => "int1",
        Kind::I16 => "int2",
        Kind::I32 => "int4",
        Kind::I64 => "int8",
        Kind::F32 => "float4",
        Kind::F64 => "float8",
        Kind::Fixed { .. } => "fixed bytes",
        Kind::Bytes => "bytes",
    }
}

fn float4(value: f32) -> pg_sys::Datum {
    pg_sys::Datum::from(value.to_bits() as i32 as isize as usize)
}

impl DatumColumn {
    /// Rows of a decoded page, all of them or those chosen. `dictionary` is that of the column, for pages of codes.
    pub fn from_page(
        attr: &pg_sys::FormData_pg_attribute,
        page: &Page,
        chosen: Option<&[u16]>,
        dictionary: impl FnOnce() -> Option<Rc<DatumDictionary>>,
    ) -> Result<Self, String> {
        match chosen.filter(|rows| rows.len() < page.rows()) {
            None => Self::of_rows(attr, page, 0..page.rows(), dictionary),
            Some(rows) => {
                let rows = rows.iter().map(|row| usize::from(*row));
                Self::of_rows(attr, page, rows, dictionary)
            }
        }
    }

    fn of_rows(
        attr: &pg_sys::FormData_pg_attribute,
        page: &Page,
        rows: impl ExactSizeIterator<Item = usize> + Clone,
        dictionary: impl FnOnce() -> Option<Rc<DatumDictionary>>,
    ) -> Result<Self, String> {
        const BEYOND: &str = "a row beyond the end of its page";
        let nulls = page
            .validity()
            .map(|_| rows.clone().map(|i| page.is_null(i)).collect());
        let (values, memory) = match page.values() {
            PageValues::Ints(v) => (
                pick(rows, |i| Some(pg_sys::Datum::from(*v.get(i)? as usize))),
                Memory::None,
            ),
            PageValues::F32(v) => (pick(rows, |i| Some(float4(*v.get(i)?))), Memory::None),
            PageValues::F64(v) => (
                pick(rows, |i| {
                    Some(pg_sys::Datum::from(v.get(i)?.to_bits() as usize))
                }),
                Memory::None,
            ),
            PageValues::Codes(codes) => {
                let dictionary = dictionary().ok_or("codes without a dictionary")?;
                let none = pg_sys::Datum::from(0usize);
                let datums = pick(rows, |i| {
                    let datum = dictionary.get(*codes.get(i)?);
                    datum.or_else(|| page.is_null(i).then_some(none))
                });
                let memory = Memory::Dictionary {
                    _dictionary: dictionary,
                };
                (datums, memory)
            }
            PageValues::Fixed { len, data } => {
                let mut arena = Arena::default();
                for i in rows {
                    let value = data.get(i * len..(i + 1) * len).ok_or(BEYOND)?;
                    arena.push(attr.attlen, value);
                }
                let (datums, _words) = arena.finish();
                (Some(datums), Memory::Words { _words })
            }
            PageValues::Bytes { offsets, data } => {
                let mut arena = Arena::default();
                for i in rows {
                    let from = *offsets.get(i).ok_or(BEYOND)? as usize;
                    let to = *offsets.get(i + 1).ok_or(BEYOND)? as usize;
                    push_varlena(&mut arena, attr, data, from..to)?;
                }
                let (datums, _words) = arena.finish();
                (Some(datums), Memory::Words { _words })
            }
        };
        Ok(DatumColumn {
            values: values.ok_or("a value that is not in its page or dictionary")?,
            nulls,
            _memory: memory,
        })
    }

    /// Turns a column that was never encoded into datums of an attribute.
    pub fn from_column(
        attr: &pg_sys::FormData_pg_attribute,
        column: Column,
    ) -> Result<Self, String> {
        check_kind(attr, column.kind())?;
        let rows = column.rows();
        let nulls = column
            .validity
            .as_ref()
            .map(|v| (0..rows).map(|i| !v.get(i)).collect());
        let int = |x: i64| pg_sys::Datum::from(x as usize);
        let (values, memory) = match column.values {
            Values::I8(v) => (v.iter().map(|x| int((*x).into())).collect(), Memory::None),
            Values::I16(v) => (v.iter().map(|x| int((*x).into())).collect(), Memory::None),
            Values::I32(v) => (v.iter().map(|x| int((*x).into())).collect(), Memory::None),
            Values::I64(v) => (v.iter().map(|x| int(*x)).collect(), Memory::None),
            Values::F32(v) => (v.iter().map(|x| float4(*x)).collect(), Memory::None),
            Values::F64(v) => (
                v.iter()
                    .map(|x| pg_sys::Datum::from(x.to_bits() as usize))
                    .collect(),
                Memory::None,
            ),
            Values::Fixed { len, data } => {
                let mut arena = Arena::default();
                for value in data.chunks_exact(len.max(1)) {
                    arena.push(attr.attlen, value);
                }
                let (datums, _words) = arena.finish();
                (datums, Memory::Words { _words })
            }
            Values::Bytes { offsets, data } => {
                let (datums, _words) = varlenas(attr, &offsets, &data)?;
                (datums, Memory::Words { _words })
            }
        };
        Ok(DatumColumn {
            values,
            nulls,
            _memory: memory,
        })
    }

    /// The value that rows from before `ADD COLUMN` have, for `rows` rows.
    pub fn missing(desc: pg_sys::TupleDesc, index: usize, rows: usize) -> Self {
        let mut null = true;
        // SAFETY: `index` is below natts; the datum lives as long as the tuple descriptor.
        let datum = unsafe { pg_sys::getmissingattr(desc, index as i32 + 1, &mut null) };
        DatumColumn {
            values: vec![datum; rows],
            nulls: null.then(|| vec![true; rows]),
            _memory: Memory::None,
        }
    }

    /// The datum of a row, `None` for NULL and beyond the end.
    pub fn get(&self, row: usize) -> Option<pg_sys::Datum> {
        match &self.nulls {
            Some(nulls) if nulls.get(row).copied().unwrap_or(true) => None,
            _ => self.values.get(row).copied(),
        }
    }

    /// Bytes that it takes, a dictionary left out.
    pub fn memory(&self) -> usize {
        let words = match &self._memory {
            Memory::Words { _words } => _words.len(),
            Memory::None | Memory::Dictionary { .. } => 0,
        };
        self.values.len() * size_of::<pg_sys::Datum>() + words * 8
    }
}

/// The datums of some rows.
fn pick(
    rows: impl ExactSizeIterator<Item = usize>,
    value: impl Fn(usize) -> Option<pg_sys::Datum>,
) -> Option<Vec<pg_sys::Datum>> {
    rows.map(value).collect()
}

fn push_varlena(
    arena: &mut Arena,
    attr: &pg_sys::FormData_pg_attribute,
    data: &[u8],
    range: std::ops::Range<usize>,
) -> Result<(), String> {
    let value = data.get(range).ok_or("offsets out of order")?;
    if value.len() > MAX_VALUE {
        return Err("a value of more than 1 GiB".into());
    }
    arena.push(attr.attlen, value);
    Ok(())
}

fn varlenas(
    attr: &pg_sys::FormData_pg_attribute,
    offsets: &[u32],
    data: &[u8],
) -> Result<(Vec<pg_sys::Datum>, Vec<u64>), String> {
    let mut arena = Arena::default();
    arena.words.reserve(data.len() / 8 + offsets.len());
    for pair in offsets.windows(2) {
        let &[from, to] = pair else { continue };
        push_varlena(&mut arena, attr, data, from as usize..to as usize)?;
    }
    Ok(arena.finish())
}

/// The index of an encoded column, and its dictionary as datums once somebody asked for it.
pub struct CachedColumn {
    /// Where the column begins in the segment's body.
    pub start: usize,
    /// The column's index.
    pub index: ColumnIndex,
    dictionary: RefCell<Option<Rc<DatumDictionary>>>,
    zones: OnceCell<Zones>,
}

/// Zones of a column's pages.
struct Zones {
    of_pages: Vec<Zone>,
    ascending: bool,
}

/// What is known of a page of a column.
pub enum PageZone {
    /// The column keeps it; it has a page of that number.
    Kept(Rc<CachedColumn>, usize),
    /// The segment does not have the column.
    Missing(Zone),
}

impl Borrow<Zone> for PageZone {
    fn borrow(&self) -> &Zone {
        const NO_ROWS: &Zone = &Zone {
            rows: 0,
            nulls: 0,
            bounds: Bounds::None,
            sum: Sum::None,
        };
        match self {
            PageZone::Kept(column, page) => column.zones().get(*page).unwrap_or(NO_ROWS),
            PageZone::Missing(zone) => zone,
        }
    }
}

impl CachedColumn {
    /// A column whose index was read.
    pub fn new(start: usize, index: ColumnIndex) -> Self {
        CachedColumn {
            start,
            index,
            dictionary: RefCell::new(None),
            zones: OnceCell::new(),
        }
    }

    fn all_zones(&self) -> &Zones {
        self.zones.get_or_init(|| {
            let of_pages: Vec<Zone> = (0..self.index.pages())
                .filter_map(|page| self.index.zone(page))
                .collect();
            let ascending = zone::ascending(of_pages.iter());
            Zones {
                of_pages,
                ascending,
            }
        })
    }

    /// What is known of each page, kept once somebody asked.
    pub fn zones(&self) -> &[Zone] {
        &self.all_zones().of_pages
    }

    /// Whether the zones lie one behind the other.
    pub fn ascending(&self) -> bool {
        self.all_zones().ascending
    }

    /// The dictionary as datums of an attribute; `None` where the column has none.
    pub fn dictionary(&self, attr: &pg_sys::FormData_pg_attribute) -> Option<Rc<DatumDictionary>> {
        let core = self.index.dictionary()?;
        let mut cached = self.dictionary.borrow_mut();
        Some(
            cached
                .get_or_insert_with(|| Rc::new(DatumDictionary::new(attr, core)))
                .clone(),
        )
    }

    /// Bytes that it takes, the dictionary's datums and the zones included.
    pub fn memory(&self) -> usize {
        let datums = self.index.dictionary().map_or(0, |d| d.len() * 40);
        let bounds = match self.index.kind() {
            Kind::Bytes | Kind::Fixed { .. } => 2 * BOUND_BYTES,
            _ => 0,
        };
        let zones = self.index.pages() * (size_of::<Zone>() + bounds);
        self.index.memory() + datums + zones
    }
}
