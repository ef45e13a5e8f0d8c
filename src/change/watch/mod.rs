//! `varve.watch` and `varve.detect_changes`: a table against its own past.
//!
//! A checkpoint remembers of each chunk which segments it had and which of their rows were dead, and of rows that lay in no segment
//! where they lay, their checksums and their keys ([`checkpoint`], [`store`], [`log`]). The segments themselves are the record of what
//! was frozen: those that a checkpoint refers to outlive the storage that they were of (`am/retained.rs`).
//!
//! - [`subject`]: the relation that is watched, and whether it may be; [`shape`], [`value`]: columns and values as they are kept.
//! - [`part`]: what of a chunk may have changed since; [`frozen`], [`loose`]: rows of segments, and in none; [`rows`]: rows of either side.
//! - [`compare`]: both sides read, what is the same in both forgotten; [`output`]: what is told of the rest; [`save`]: the checkpoint
//!   as it is afterwards.
//! - [`error`]: what cannot be.

mod checkpoint;
mod compare;
mod error;
mod frozen;
mod log;
mod loose;
mod output;
mod part;
mod rows;
mod save;
mod shape;
mod store;
mod subject;
mod value;

use crate::am::error::null_argument;
use crate::am::retained;
use crate::pg::function::Args;
use crate::pg::snapshot::Statement;
use checkpoint::Checkpoint;
use pgrx::pg_sys;
use subject::Subject;

pub use store::{forget_relation, refers_to};

/// The arguments that all functions have: the relation, and the name of the checkpoint.
fn named(args: &Args, at: usize) -> (pg_sys::Oid, String) {
    let Some(relation) = args.get(0) else {
        null_argument("the relation")
    };
    let Some(name) = args.name(at) else {
        null_argument("the checkpoint's name")
    };
    (relation, name)
}

fn watch(args: &Args) -> pg_sys::Datum {
    let (relation, name) = named(args, 2);
    crate::require_preload();
    checkpoint::writes(c"varve.watch()");
    checkpoint::lock(relation, &name, true);
    let subject = Subject::open(relation);
    let key = subject.key(args.names(1));
    let mut statement = Statement::begin();
    let tables = subject.settle(&mut statement);
    let old = Checkpoint::find(relation, &name);
    if let Some(old) = &old {
        old.check_owner(&subject.name);
    }
    let parts = part::all(&subject, tables, statement.snapshot());
    retained::sweep();
    if let Some(old) = old {
        store::remove(old.id);
    }
    let rows = save::anew(&subject, &name, key, parts, statement.snapshot());
    pg_sys::Datum::from(rows as i64)
}

fn detect_changes(args: &Args) -> pg_sys::Datum {
    let (relation, name) = named(args, 2);
    let Some(advance) = args.get::<bool>(1) else {
        null_argument("whether the checkpoint advances")
    };
    crate::require_preload();
    if advance {
        checkpoint::writes(c"varve.detect_changes() that advances its checkpoint");
    }
    let mut output = output::Output::new(args);
    checkpoint::lock(relation, &name, advance);
    let subject = Subject::open(relation);
    let mut statement = Statement::begin();
    let tables = subject.settle(&mut statement);
    let Some(checkpoint) = Checkpoint::find(relation, &name) else {
        error::no_checkpoint(&name, &subject.name)
    };
    checkpoint.check_owner(&subject.name);
    checkpoint.check_columns(&subject);
    let mut parts = part::changed(&subject, &checkpoint, tables, statement.snapshot());
    compare::tell(
        &subject,
        &checkpoint,
        &mut parts,
        statement.snapshot(),
        &mut output,
    );
    if advance {
        retained::sweep();
        save::advance(&subject, &checkpoint, parts, statement.snapshot());
    }
    args.null()
}

fn unwatch(args: &Args) -> pg_sys::Datum {
    let (relation, name) = named(args, 1);
    checkpoint::writes(c"varve.unwatch()");
    checkpoint::lock(relation, &name, true);
    let subject = Subject::locked(relation);
    let _statement = Statement::begin();
    let Some(checkpoint) = Checkpoint::find(relation, &name) else {
        error::no_checkpoint(&name, &subject.name)
    };
    // What a checkpoint keeps is the table owner's to end.
    if !subject.is_own() {
        checkpoint.check_owner(&subject.name);
    }
    retained::sweep();
    store::remove(checkpoint.id);
    args.null()
}

crate::sql_function!(varve_watch, pg_finfo_varve_watch, watch);
crate::sql_function!(
    varve_detect_changes,
    pg_finfo_varve_detect_changes,
    detect_changes
);
crate::sql_function!(varve_unwatch, pg_finfo_varve_unwatch, unwatch);
