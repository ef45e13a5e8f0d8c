//! Tiers by name, and which one a chunk is in.

use super::catalog;
use crate::am::directory::{self, Directory};
use pgrx::pg_sys;
use varve_core::paged::Effort;

/// A tier that chunks can be brought into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Nothing is frozen.
    Hot,
    /// Frozen, to be read fast.
    Warm,
    /// Frozen, to be small.
    Cold,
}

impl Tier {
    /// The tier of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Tier::Hot, Tier::Warm, Tier::Cold]
            .into_iter()
            .find(|tier| tier.name() == name)
    }

    /// The name that users know it by.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Hot => "hot",
            Tier::Warm => "warm",
            Tier::Cold => "cold",
        }
    }

    /// What its segments are encoded for; it has none when hot.
    pub fn effort(self) -> Option<Effort> {
        match self {
            Tier::Hot => None,
            Tier::Warm => Some(Effort::Fast),
            Tier::Cold => Some(Effort::Small),
        }
    }

    /// The tier of a chunk that has companions: its segments tell. Without any (it has no rows, or none that every
    /// snapshot sees) it is what it was last brought to.
    pub fn of_frozen(chunk: pg_sys::Oid, segments: &Directory) -> Self {
        match directory::effort(segments) {
            Some(Effort::Small) => Tier::Cold,
            Some(Effort::Fast) => Tier::Warm,
            None => catalog::last_tier(chunk).unwrap_or(Tier::Warm),
        }
    }
}
