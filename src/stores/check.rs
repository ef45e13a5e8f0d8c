//! `varve.check_store`: whether a store can be written, read, listed and cleared.

use super::open::{interrupts, open};
use crate::am::error::null_argument;
use crate::pg::clock;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use varve_core::store::{ErrorKind, Store, StoreError};

type Row = (&'static str, bool, Option<String>, Option<Interval>);

/// One row a step; steps after one that fails are left out.
#[allow(clippy::type_complexity)] // The macro reads the columns' names from the type itself.
#[pg_extern(sql = false)]
fn check_store(
    store: Option<&core::ffi::CStr>,
) -> TableIterator<
    'static,
    (
        name!(step, &'static str),
        name!(ok, bool),
        name!(detail, Option<String>),
        name!(elapsed, Option<Interval>),
    ),
> {
    crate::require_preload();
    let name = store.unwrap_or_else(|| null_argument("the store"));
    let store = open(&name.to_string_lossy());
    TableIterator::new(steps(&store))
}

fn steps(store: &Store) -> Vec<Row> {
    // SAFETY: reads variables of the process.
    let pid = unsafe { pgrx::pg_sys::MyProcPid };
    let key = format!("check/{pid}-{}", clock::now());
    let probe = format!("varve.check_store {key}").into_bytes();
    let mut rows = Vec::new();
    let mut step = |what, run: &dyn Fn() -> Result<(), String>| {
        let begin = clock::now();
        let result = run();
        let elapsed = Interval::new(0, 0, clock::now() - begin).ok();
        let ok = result.is_ok();
        rows.push((what, ok, result.err(), elapsed));
        ok
    };
    let told = |e: StoreError| e.to_string();
    let wrote = step("write", &|| {
        store.put(&key, probe.clone(), &interrupts).map_err(told)
    });
    let _read_and_listed = wrote
        && step("write once", &|| {
            match store.put_new(&key, probe.clone(), &interrupts) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(told(e)),
            Ok(()) => Err(
                "the store writes a new object although there is one of that name: it does not know If-None-Match".into(),
            ),
        }
        })
        && step("read", &|| {
            let read = store.get(&key, 4096, &interrupts).map_err(told)?;
            if read == probe {
                Ok(())
            } else {
                Err("another object came back than was written".into())
            }
        })
        && step("list", &|| {
            for object in store.list("check/", &interrupts).map_err(told)? {
                if object.map_err(told)?.key == key {
                    return Ok(());
                }
            }
            Err("the object is not listed".into())
        });
    if wrote {
        step("remove", &|| {
            store.delete(&key, &interrupts).map_err(told)?;
            match store.head(&key, &interrupts) {
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                Err(e) => Err(told(e)),
                Ok(_) => Err("the object is still there".into()),
            }
        });
    }
    rows
}
