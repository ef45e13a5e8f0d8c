//! The backup that another is taken against.

use std::collections::BTreeMap;

use super::chain::chain_of;
use super::error::BackupError;
use super::list::{list, load};
use super::record::{Backup, Kind};
use super::state::{chains, sizes};
use crate::store::Store;
use crate::wait::Tick;

/// The newest backup that one of a kind can be taken against, which the server that `fits` it has in its past, and which is
/// whole with all that it needs, as far as listings tell.
///
/// # Errors
/// [`BackupError::Refused`] if there is none; what the store answers.
pub(super) fn choose_parent(
    store: &Store,
    kind: Kind,
    fits: &dyn Fn(&Backup) -> bool,
    tick: Tick<'_>,
) -> Result<Backup, BackupError> {
    let listed = list(store, tick)?.into_iter();
    let backups: Vec<Backup> = listed.filter_map(|listed| listed.backup.ok()).collect();
    let found = sizes(store, &BTreeMap::new(), tick)?;
    let chains = chains(&backups, &found);
    let is_whole = |backup: &&Backup| matches!(chains.get(backup.id.as_str()), Some(Ok(())));
    let parent = backups
        .iter()
        .filter(|backup| kind == Kind::Incremental || backup.kind == Kind::Full)
        .filter(|backup| fits(backup))
        .filter(is_whole)
        .max_by_key(|backup| backup.stopped_at);
    parent.cloned().ok_or_else(|| {
        BackupError::refused(
            format!(
                "the store {} has no whole backup of this timeline's past that a backup of kind {kind} could be taken against",
                store.url()
            ),
            "Take a full backup first.",
        )
    })
}

/// Reads the parent of a backup, and the records of all that this needs.
///
/// # Errors
/// [`BackupError::Refused`] if one of them is not there any more; [`BackupError::Corrupt`], or what the store answers.
pub(super) fn chain_holds(
    store: &Store,
    id: &str,
    parent: &str,
    tick: Tick<'_>,
) -> Result<Backup, BackupError> {
    let chain = load(store, parent, tick)
        .and_then(|parent| chain_of(parent, &mut |id| load(store, id, tick)));
    match chain {
        Ok(mut chain) => chain.pop().ok_or_else(|| BackupError::NotFound {
            what: format!("backup {parent}"),
        }),
        Err(error) if error.is_not_found() => Err(BackupError::refused(
            format!(
                "backup {id} is based on backup {parent}, which was removed meanwhile: {error}"
            ),
            "Take it again.",
        )),
        Err(error) => Err(error),
    }
}
