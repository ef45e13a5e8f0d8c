//! Grouping and aggregating by columns.
//!
//! - [`spec`], [`timescale`]: what a query asks for; [`plan`], [`parallel`]: when the planner is offered to do it here, [`estimate`]: at what
//!   price, [`private`]: the plan.
//! - [`node`]: the executor's node; [`child`], [`read`]: chunks, which become [`block`]s; [`engine`]: groups and accumulators,
//!   [`runs`]: of keys.
//! - [`groups`], [`strings`], [`accumulate`], [`upkeep`], [`finish`]: keys, texts, partial and final results;
//!   [`part`]: as many of them as fit into memory.
//! - [`shared`]: what processes share that read together; [`state`], [`transfer`]: their groups on the way to one of them.

pub mod accumulate;
pub mod block;
pub mod child;
pub mod engine;
pub mod estimate;
pub mod finish;
pub mod groups;
pub mod node;
pub mod parallel;
pub mod part;
pub mod plan;
pub mod private;
pub mod read;
pub mod runs;
pub mod shared;
pub mod spec;
pub mod state;
pub mod strings;
pub mod timescale;
pub mod transfer;
pub mod upkeep;
