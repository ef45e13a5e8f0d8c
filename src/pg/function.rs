//! SQL functions in PostgreSQL's version-1 calling convention, run through [`guard`](super::guard), for functions below
//! which users' own code runs: its errors must come out whole.

use pgrx::pg_sys;
use pgrx::prelude::*;

/// The arguments of a call.
pub struct Args(pub pg_sys::FunctionCallInfo);

impl Args {
    /// Argument `index` (from 0), `None` when it is NULL.
    pub fn get<T: FromDatum>(&self, index: usize) -> Option<T> {
        // SAFETY: the SQL declaration gives the argument that number and type.
        unsafe { pgrx::fcinfo::pg_getarg(self.0, index) }
    }

    /// Argument `index` as it is.
    pub fn datum(&self, index: usize) -> Option<pg_sys::Datum> {
        // SAFETY: as above.
        unsafe { pgrx::fcinfo::pg_getarg_datum(self.0, index) }
    }

    /// Argument `index`, of whatever type it is, as text.
    pub fn text(&self, index: usize) -> Option<String> {
        let datum = self.datum(index)?;
        let typ = self.type_of(index);
        // SAFETY: a value of its type; literals without one are C strings.
        unsafe {
            let text = if typ == pg_sys::UNKNOWNOID {
                datum.cast_mut_ptr::<std::ffi::c_char>()
            } else {
                let mut function = pg_sys::InvalidOid;
                let mut varlena = false;
                pg_sys::getTypeOutputInfo(typ, &mut function, &mut varlena);
                pg_sys::OidOutputFunctionCall(function, datum)
            };
            let text = std::ffi::CStr::from_ptr(text).to_string_lossy();
            Some(text.into_owned())
        }
    }

    /// Argument `index`, a name.
    pub fn name(&self, index: usize) -> Option<String> {
        let datum = self.datum(index)?;
        // SAFETY: an argument that is declared as a name, which ends with a NUL.
        let name = unsafe { std::ffi::CStr::from_ptr(datum.cast_mut_ptr()) };
        Some(name.to_string_lossy().into_owned())
    }

    /// Argument `index`, an array of names (`name[]`).
    pub fn names(&self, index: usize) -> Option<Vec<String>> {
        let array = self.datum(index)?;
        // SAFETY: a valid array of 64-byte names, which is taken apart into palloc'd arrays.
        unsafe {
            let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let mut elements: *mut pg_sys::Datum = std::ptr::null_mut();
            let mut nulls: *mut bool = std::ptr::null_mut();
            let mut count = 0;
            pg_sys::deconstruct_array(
                array,
                pg_sys::NAMEOID,
                pg_sys::NAMEDATALEN as i32,
                false,
                pg_sys::TYPALIGN_CHAR as std::ffi::c_char,
                &mut elements,
                &mut nulls,
                &mut count,
            );
            Some(
                (0..count as usize)
                    .map(|i| {
                        if *nulls.add(i) {
                            crate::am::error::null_argument("a column's name");
                        }
                        let name = (*elements.add(i)).cast_mut_ptr::<std::ffi::c_char>();
                        std::ffi::CStr::from_ptr(name)
                            .to_string_lossy()
                            .into_owned()
                    })
                    .collect(),
            )
        }
    }

    /// The type that argument `index` has in this call (for polymorphic functions).
    pub fn type_of(&self, index: usize) -> pg_sys::Oid {
        // SAFETY: the call's function information is set by the executor.
        unsafe { pg_sys::get_fn_expr_argtype((*self.0).flinfo, index as i32) }
    }

    /// NULL as the result.
    pub fn null(&self) -> pg_sys::Datum {
        // SAFETY: the call is ours to answer.
        unsafe { pgrx::fcinfo::pg_return_null(self.0) }
    }

    /// A row as the result, of the type that the function is declared to return.
    pub fn row(&self, values: &[pg_sys::Datum], nulls: &[bool]) -> pg_sys::Datum {
        let mut desc: pg_sys::TupleDesc = std::ptr::null_mut();
        // SAFETY: a function declared to return a composite type of so many columns.
        unsafe {
            let class = pg_sys::get_call_result_type(self.0, std::ptr::null_mut(), &mut desc);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE
                || super::relation::natts(desc) != values.len()
            {
                pgrx::error!("the function is declared with another result type");
            }
            let row = pg_sys::heap_form_tuple(desc, values.as_ptr(), nulls.as_ptr());
            pg_sys::HeapTupleHeaderGetDatum((*row).t_data)
        }
    }

    /// Rows without NULLs as the result of a function that returns a set of a composite type of so many columns.
    pub fn set<const N: usize>(
        &self,
        rows: impl Iterator<Item = [pg_sys::Datum; N]>,
    ) -> pg_sys::Datum {
        // SAFETY: makes the store in the query's memory, or raises an error where the caller takes none; rows are copied
        // into it.
        unsafe {
            pg_sys::InitMaterializedSRF(self.0, 0);
            let result = (*self.0).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let (store, desc) = ((*result).setResult, (*result).setDesc);
            if super::relation::natts(desc) != N {
                pgrx::error!("the function is declared with another result type");
            }
            for row in rows {
                pg_sys::tuplestore_putvalues(store, desc, row.as_ptr(), [false; N].as_ptr());
            }
        }
        self.null()
    }
}

/// An SQL function of one argument, prepared to be called many times.
pub struct Unary {
    info: Box<pg_sys::FmgrInfo>,
    collation: pg_sys::Oid,
}

impl Unary {
    /// A function of that (qualified) name with one argument of type `anyelement`, for values of a type; `None` where there is
    /// none. It lives in the current memory context.
    pub fn polymorphic(name: &std::ffi::CStr, typ: pg_sys::Oid) -> Option<Self> {
        // SAFETY: catalogue look-ups; the function is prepared with an expression that tells its argument's type, which a
        // polymorphic function asks for.
        unsafe {
            let names = pg_sys::stringToQualifiedNameList(name.as_ptr(), std::ptr::null_mut());
            let types = [pg_sys::ANYELEMENTOID];
            let oid = pg_sys::LookupFuncName(names, 1, types.as_ptr(), true);
            if oid == pg_sys::InvalidOid {
                return None;
            }
            let mut info = Box::new(pg_sys::FmgrInfo::default());
            pg_sys::fmgr_info(oid, &mut *info);
            let collation = pg_sys::get_typcollation(typ);
            let value = pg_sys::makeNullConst(typ, -1, collation);
            let call = pg_sys::makeFuncExpr(
                oid,
                pg_sys::get_func_rettype(oid),
                pg_sys::lappend(std::ptr::null_mut(), value.cast()),
                pg_sys::InvalidOid,
                collation,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            info.fn_expr = call.cast();
            Some(Unary { info, collation })
        }
    }

    /// The function's result, which must not be NULL.
    ///
    /// # Safety
    /// A value of the type that the function was prepared for.
    pub unsafe fn call(&mut self, value: pg_sys::Datum) -> pg_sys::Datum {
        // SAFETY: by contract.
        unsafe { pg_sys::FunctionCall1Coll(&mut *self.info, self.collation, value) }
    }
}

/// Declares the C symbols of an SQL function: `sql_function!(wrapper, finfo, body)`, `body: fn(&Args) -> Datum`.
#[macro_export]
macro_rules! sql_function {
    ($wrapper:ident, $info:ident, $body:path) => {
        #[doc = concat!("SQL entry of [`", stringify!($body), "`].\n\n# Safety\nCalled by the function manager.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $wrapper(
            fcinfo: pgrx::pg_sys::FunctionCallInfo,
        ) -> pgrx::pg_sys::Datum {
            $crate::pg::guard::entry(|| $body(&$crate::pg::function::Args(fcinfo)))
        }

        #[doc = concat!("Calling convention of [`", stringify!($wrapper), "`].")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record =
                pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}
