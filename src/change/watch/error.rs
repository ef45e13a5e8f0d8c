//! Errors of `varve.watch` and `varve.detect_changes`.

use crate::am::error::raise;
use pgrx::PgSqlErrorCode as Code;

const ANEW: &str =
    "SELECT varve.watch(...) takes the checkpoint anew; what has changed until then is not told.";

/// Raises `wrong_object_type` for a relation that has no rows to be read.
pub fn no_rows(relation: &str) -> ! {
    raise(
        Code::ERRCODE_WRONG_OBJECT_TYPE,
        format!("{relation} has no rows to watch"),
        None,
        Some("varve.watch takes tables, views, materialized views and foreign tables.".into()),
    )
}

/// Raises `feature_not_supported` for a temporary relation.
pub fn temporary(relation: &str) -> ! {
    raise(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{relation} is temporary and cannot be watched"),
        Some("A checkpoint outlives the session.".into()),
        Some("Compare two tables by varve.diff, or watch a permanent table.".into()),
    )
}

/// Raises `undefined_column` for a column of the key.
pub fn no_column(relation: &str, column: &str) -> ! {
    raise(
        Code::ERRCODE_UNDEFINED_COLUMN,
        format!("column \"{column}\" of {relation} does not exist"),
        Some("It was named as a column of the key.".into()),
        None,
    )
}

/// Raises `invalid_parameter_value` for a key without columns.
pub fn empty_key() -> ! {
    raise(
        Code::ERRCODE_INVALID_PARAMETER_VALUE,
        "the key has no columns".into(),
        None,
        Some("Name one at least, or leave the key out: then it is the relation's own.".into()),
    )
}

/// Raises `insufficient_privilege` for whom row security lets see some rows only.
pub fn row_security(relation: &str) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("row security of {relation} applies to the current user"),
        Some("Rows that a policy hides would look as if they were deleted.".into()),
        Some("Watch it as its owner, or as a role with BYPASSRLS.".into()),
    )
}

/// Raises `insufficient_privilege` for whom the relation's rows are not.
pub fn may_not_read(relation: &str) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied for {relation}"),
        None,
        Some("Whole rows are read: SELECT on all of its columns is needed.".into()),
    )
}

/// Raises `insufficient_privilege` for a checkpoint of somebody else's.
pub fn not_yours(checkpoint: &str, relation: &str, owner: &str) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("checkpoint \"{checkpoint}\" of {relation} belongs to {owner}"),
        None,
        Some("Take one under another name: checkpoint => '...'.".into()),
    )
}

/// Raises `undefined_object` for a checkpoint that there is not.
pub fn no_checkpoint(checkpoint: &str, relation: &str) -> ! {
    raise(
        Code::ERRCODE_UNDEFINED_OBJECT,
        format!("{relation} has no checkpoint \"{checkpoint}\""),
        None,
        Some("SELECT varve.watch(...) takes one; varve.watches lists those that there are.".into()),
    )
}

/// Raises `serialization_failure` where somebody has moved the checkpoint after the transaction's snapshot was taken.
pub fn moved(checkpoint: &str, relation: &str) -> ! {
    raise(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("could not serialize access to checkpoint \"{checkpoint}\" of {relation}"),
        Some("It was moved or removed by somebody else meanwhile.".into()),
        Some("Run the transaction again.".into()),
    )
}

/// Raises `object_not_in_prerequisite_state` for a column of the checkpoint that is not any more what it was.
pub fn altered(checkpoint: &str, relation: &str, column: &str, what: &str) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{relation} was altered since checkpoint \"{checkpoint}\" was taken"),
        Some(format!("Its column \"{column}\" {what}.")),
        Some(ANEW.into()),
    )
}

/// Raises `object_not_in_prerequisite_state` where segments that the checkpoint refers to are not there.
pub fn lost(relation: &str, what: &str) -> ! {
    // SAFETY: reads the server's state.
    if unsafe { pgrx::pg_sys::RecoveryInProgress() } {
        // A standby cannot keep the checkpoint from moving while it is read.
        raise(
            Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!("a checkpoint of {relation} has moved while it was read"),
            Some(format!("{what} is gone.")),
            Some("Run the transaction again.".into()),
        )
    }
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{relation} has lost what its checkpoint refers to"),
        Some(format!("{what} is gone.")),
        Some(ANEW.into()),
    )
}

/// Raises `serialization_failure` for a relation whose query gives other rows each time it is run.
pub fn unsteady(relation: &str) -> ! {
    raise(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("{relation} has changed while it was read"),
        Some("It is read by a query several times, which has not given the same rows each time.".into()),
        Some("Try again; a view with volatile functions, or over what has no snapshots, cannot be watched.".into()),
    )
}

/// Raises `data_corrupted` for a checkpoint that is not as it was written.
pub fn damaged(what: &dyn std::fmt::Display) -> ! {
    raise(
        Code::ERRCODE_DATA_CORRUPTED,
        "a checkpoint is damaged".into(),
        Some(what.to_string()),
        Some(ANEW.into()),
    )
}
