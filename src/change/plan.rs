//! What the columns of a row type are, looked up once.

use super::canonical::{Form, Sent};
use super::encoding::Encoding;
use super::error::{damaged, unsendable};
use super::nested::{Element, Layout};
use crate::pg::tuple::with_whole;
use crate::pg::{ffi, memory, relation};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;
use varve_core::change::cell::Class;
use varve_core::change::hash::seed;

/// Row types that are kept; a query with more looks them up again.
const KEPT: usize = 64;

thread_local! {
    /// How often a type or the label of an enum has changed.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    /// Whether that is watched.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Counts changes of types, whose names cells may have, and labels of enums.
fn watch() {
    if WATCHED.replace(true) {
        return;
    }
    for cache in [
        pg_sys::SysCacheIdentifier::TYPEOID,
        pg_sys::SysCacheIdentifier::ENUMOID,
    ] {
        // SAFETY: the callback stays for the life of the process.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(
                cache as i32,
                Some(changed),
                pg_sys::Datum::from(0usize),
            );
        }
    }
}

unsafe extern "C-unwind" fn changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    // Where the process ends, nobody asks.
    let _ = CHANGES.try_with(|changes| changes.set(changes.get().wrapping_add(1)));
}

/// What is done with types that have no send function.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unsendable {
    /// It is an error.
    Refuse,
    /// Their text counts.
    Write,
}

/// A column that is there.
pub struct Column {
    /// Its name in UTF-8.
    pub name: Vec<u8>,
    /// What its cells are hashed with.
    pub seed: u64,
    /// How its values become cells.
    pub form: Form,
    /// Its place in the row, from 0.
    pub place: usize,
}

/// A row type.
struct RowType {
    of: (pg_sys::Oid, i32),
    /// The server's, which changes when the type does.
    identifier: u64,
    desc: pg_sys::TupleDesc,
    /// In the order of their names' bytes.
    columns: Vec<Column>,
}

/// A row, taken apart.
pub struct Row<'a> {
    columns: &'a [Column],
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<'a> Row<'a> {
    /// Its columns that are not NULL, in the order of their names' bytes.
    #[inline]
    pub fn cells(&self) -> impl Iterator<Item = (&'a Column, pg_sys::Datum)> + use<'a> {
        let (values, nulls) = (self.values, self.nulls);
        self.columns.iter().filter_map(move |column| {
            let value = values.get(column.place)?;
            (!nulls.get(column.place)?).then_some((column, *value))
        })
    }
}

/// All that was looked up, for the calls of one expression.
pub struct Plans {
    context: pg_sys::MemoryContext,
    changes: u64,
    encoding: Encoding,
    unsendable: Unsendable,
    types: Vec<Rc<RowType>>,
    labels: HashMap<u32, Vec<u8>>,
    /// Arrays for the values of rows, one for each that is being taken apart.
    spare: Vec<(Vec<pg_sys::Datum>, Vec<bool>)>,
}

impl Plans {
    /// Nothing yet.
    ///
    /// # Safety
    /// A live memory context, which lasts as long as the plans are used.
    pub unsafe fn new(parent: pg_sys::MemoryContext, unsendable: Unsendable) -> Self {
        watch();
        Plans {
            // SAFETY: by contract.
            context: unsafe { memory::child(parent, c"varve row types") },
            changes: CHANGES.get(),
            encoding: Encoding::of_database(),
            unsendable,
            types: Vec::new(),
            labels: HashMap::new(),
            spare: Vec::new(),
        }
    }

    /// Forgets what may have changed, between rows.
    pub fn refresh(&mut self) {
        if self.changes != CHANGES.get() || self.types.len() > KEPT {
            self.forget();
        }
    }

    #[cold]
    fn forget(&mut self) {
        self.types.clear();
        self.labels.clear();
        // SAFETY: a context of our own; what lay in it was forgotten.
        unsafe { pg_sys::MemoryContextReset(self.context) };
        self.changes = CHANGES.get();
    }

    /// How the values of a column become cells, as long as these plans are not refreshed.
    ///
    /// # Errors
    /// The type that stands in the way where they cannot.
    pub fn form_of(&self, attr: &pg_sys::FormData_pg_attribute) -> Result<Form, pg_sys::Oid> {
        // SAFETY: a live context of our own.
        unsafe { memory::within(self.context, || self.form(attr.atttypid)) }
    }

    /// What the database keeps text in.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Hands on a row taken apart.
    ///
    /// # Safety
    /// A row.
    pub unsafe fn with_row<T>(
        &mut self,
        row: pg_sys::Datum,
        f: impl FnOnce(Row, &mut Self) -> T,
    ) -> T {
        // SAFETY: by contract, a row with its header; it says of which type it is.
        unsafe {
            with_whole(row, |bytes| {
                let header = bytes
                    .as_ptr()
                    .cast_mut()
                    .cast::<pg_sys::HeapTupleHeaderData>();
                let fields = (*header).t_choice.t_datum;
                let typ = self.row_type(fields.datum_typeid, fields.datum_typmod);
                let natts = relation::natts(typ.desc);
                let (mut values, mut nulls) = self.spare.pop().unwrap_or_default();
                values.resize(natts, pg_sys::Datum::from(0usize));
                nulls.resize(natts, true);
                let mut tuple = pg_sys::HeapTupleData {
                    t_len: bytes.len() as u32,
                    t_data: header,
                    ..Default::default()
                };
                ffi::raw::heap_deform_tuple(
                    &mut tuple,
                    typ.desc,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
                let row = Row {
                    columns: &typ.columns,
                    values: &values,
                    nulls: &nulls,
                };
                let result = f(row, self);
                self.spare.push((values, nulls));
                result
            })
        }
    }

    /// The label of an enum's value, in UTF-8.
    pub fn label(&mut self, oid: u32) -> &[u8] {
        let encoding = self.encoding;
        self.labels.entry(oid).or_insert_with(|| {
            let cache = pg_sys::SysCacheIdentifier::ENUMOID as i32;
            // SAFETY: a look-up; the row is there until it is released.
            unsafe {
                let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
                if tuple.is_null() {
                    damaged("a value of an enum");
                }
                let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_enum>();
                let label = CStr::from_ptr((*form).enumlabel.data.as_ptr());
                let label = encoding.utf8(label.to_bytes(), <[u8]>::to_vec);
                pg_sys::ReleaseSysCache(tuple);
                label
            }
        })
    }

    #[inline]
    fn row_type(&mut self, typ: pg_sys::Oid, typmod: i32) -> Rc<RowType> {
        // SAFETY: a look-up of a type that a row has.
        let identifier = unsafe { pg_sys::assign_record_type_identifier(typ, typmod) };
        let known = self.types.iter().find(|known| known.of == (typ, typmod));
        match known.filter(|known| known.identifier == identifier) {
            Some(known) => known.clone(),
            None => self.look_up((typ, typmod), identifier),
        }
    }

    #[cold]
    fn look_up(&mut self, of: (pg_sys::Oid, i32), identifier: u64) -> Rc<RowType> {
        // SAFETY: a live context of our own.
        let (desc, columns) = unsafe {
            memory::within(self.context, || {
                let desc = pg_sys::lookup_rowtype_tupdesc_copy(of.0, of.1);
                (desc, self.columns(desc))
            })
        };
        let found = Rc::new(RowType {
            of,
            identifier,
            desc,
            columns,
        });
        // Its predecessor's memory goes when all is forgotten: a row around this one may be of it.
        self.types.retain(|known| known.of != of);
        self.types.push(found.clone());
        found
    }

    /// The columns of a row shape, in the order of their names' bytes. They are used as long as the
    /// plans forget nothing, in whose memory lies what types' functions need.
    pub fn columns(&self, desc: pg_sys::TupleDesc) -> Vec<Column> {
        let columns = (0..relation::natts(desc))
            .map(|place| (place, relation::attribute(desc, place)))
            .filter(|(_, attr)| !attr.attisdropped)
            .map(|(place, attr)| self.column(place, attr));
        let mut columns: Vec<Column> = columns.collect();
        // A row may have several columns of one name: a subselect's.
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        columns
    }

    fn column(&self, place: usize, attr: &pg_sys::FormData_pg_attribute) -> Column {
        let name = self.encoding.utf8(Self::raw_name(attr), <[u8]>::to_vec);
        let form = self.form(attr.atttypid).unwrap_or_else(|typ| {
            // SAFETY: the name of a type, in the current memory context.
            let typ = unsafe { CStr::from_ptr(pg_sys::format_type_be(typ)) };
            unsendable(&relation::attribute_name(attr), &typ.to_string_lossy())
        });
        Column {
            seed: seed(&name),
            name,
            form,
            place,
        }
    }

    /// A column's name as the database has it.
    pub fn raw_name(attr: &pg_sys::FormData_pg_attribute) -> &[u8] {
        // SAFETY: a name ends with a NUL.
        unsafe { CStr::from_ptr(attr.attname.data.as_ptr()) }.to_bytes()
    }

    /// How values of a type become cells; the type that stands in the way where they cannot.
    pub fn form(&self, typ: pg_sys::Oid) -> Result<Form, pg_sys::Oid> {
        let typ = relation::base_type(typ);
        let element = |typ| -> Result<Box<Element>, pg_sys::Oid> {
            let form = self.form(typ)?;
            let layout = Layout::of(typ);
            Ok(Box::new(Element { form, layout }))
        };
        Ok(match typ {
            pg_sys::BOOLOID => Form::Boolean,
            pg_sys::INT2OID => Form::Int2,
            pg_sys::INT4OID => Form::Int4,
            pg_sys::INT8OID => Form::Int8,
            pg_sys::OIDOID => Form::Oid,
            pg_sys::FLOAT4OID => Form::Float4,
            pg_sys::FLOAT8OID => Form::Float8,
            pg_sys::NUMERICOID => Form::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Form::Text,
            pg_sys::BPCHAROID => Form::Padded,
            // A literal in a row that nobody gave a type lies as a name does.
            pg_sys::NAMEOID | pg_sys::UNKNOWNOID | pg_sys::CSTRINGOID => Form::Name,
            pg_sys::CHAROID => Form::Char,
            pg_sys::BYTEAOID => Form::Bytes,
            pg_sys::DATEOID => Form::Date,
            pg_sys::TIMEOID => Form::Micros(Class::Time),
            pg_sys::TIMESTAMPOID => Form::Micros(Class::Timestamp),
            pg_sys::TIMESTAMPTZOID => Form::Micros(Class::Timestamptz),
            pg_sys::TIMETZOID => Form::Timetz,
            pg_sys::INTERVALOID => Form::Interval,
            pg_sys::UUIDOID => Form::Uuid,
            pg_sys::JSONOID => Form::Json,
            pg_sys::JSONBOID => Form::Jsonb,
            pg_sys::RECORDOID => Form::Row,
            pg_sys::INT2VECTOROID => Form::Array(element(pg_sys::INT2OID)?),
            pg_sys::OIDVECTOROID => Form::Array(element(pg_sys::OIDOID)?),
            typ => {
                // SAFETY: catalogue look-ups of a type that there is.
                let (kind, of) = unsafe {
                    (
                        pg_sys::get_typtype(typ) as u8,
                        pg_sys::get_element_type(typ),
                    )
                };
                match kind {
                    _ if of != pg_sys::InvalidOid => Form::Array(element(of)?),
                    pg_sys::TYPTYPE_COMPOSITE => Form::Row,
                    pg_sys::TYPTYPE_ENUM => Form::Enum,
                    pg_sys::TYPTYPE_RANGE => Form::Range(element(subtype(typ))?),
                    pg_sys::TYPTYPE_MULTIRANGE => {
                        // SAFETY: as above.
                        let range = unsafe { pg_sys::get_multirange_range(typ) };
                        Form::Multirange(element(subtype(range))?)
                    }
                    _ => Form::Sent(Box::new(self.sent(typ)?)),
                }
            }
        })
    }

    fn sent(&self, typ: pg_sys::Oid) -> Result<Sent, pg_sys::Oid> {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        // SAFETY: look-ups of a type; its row is there until it is released. The function lives in our context.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(typ));
            if tuple.is_null() {
                return Err(typ);
            }
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
            let name = CStr::from_ptr((*form).typname.data.as_ptr());
            let type_name = self.encoding.utf8(name.to_bytes(), <[u8]>::to_vec);
            let (send, output) = ((*form).typsend, (*form).typoutput);
            pg_sys::ReleaseSysCache(tuple);
            let sends = send != pg_sys::InvalidOid;
            if !sends && self.unsendable == Unsendable::Refuse {
                return Err(typ);
            }
            let mut function = pg_sys::FmgrInfo::default();
            let oid = if sends { send } else { output };
            pg_sys::fmgr_info_cxt(oid, &mut function, self.context);
            Ok(Sent {
                type_name,
                function: RefCell::new(function),
                sends,
            })
        }
    }
}

/// What a range is of.
fn subtype(range: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalogue look-up.
    unsafe { pg_sys::get_range_subtype(range) }
}
