//! Grouping and aggregating by columns.
//!
//! - [`spec`]: what a query asks for; [`plan`]: when the planner is offered to do it here.
//! - [`node`]: the executor's node, which reads chunks into [`block`]s; [`engine`]: groups and accumulators.
//! - [`groups`], [`strings`], [`accumulate`], [`finish`]: keys, texts, partial and final results.

pub mod accumulate;
pub mod block;
pub mod engine;
pub mod finish;
pub mod groups;
pub mod node;
pub mod plan;
pub mod spec;
pub mod strings;
