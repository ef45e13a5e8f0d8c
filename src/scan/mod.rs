//! Reading frozen chunks by columns: planner hooks and executor nodes.
//!
//! - [`plan`]: when a columnar scan is offered to the planner; [`inner`]: as the inner side of nested loops; [`estimate`]:
//!   what it reads; [`left_out`]: tables that a query of our own need not read.
//! - [`node`], [`parallel`], [`delta`], [`batch`], [`slot`], [`counters`], [`explain`]: the scan node; [`order`], [`ordered`]:
//!   rows in an order.
//! - [`filter`], [`values`], [`eval`]: conditions on zones and on whole pages.
//! - [`agg`]: grouping and aggregating.
//! - [`pages`], [`narrow`], [`edges`], [`around`], [`columns`]: the pages that may hold rows of a query, and their columns.

pub mod agg;
pub mod around;
pub mod batch;
pub mod columns;
pub mod counters;
pub mod delta;
pub mod edges;
pub mod estimate;
pub mod eval;
pub mod explain;
pub mod filter;
pub mod inner;
pub mod left_out;
pub mod narrow;
pub mod node;
pub mod order;
pub mod ordered;
pub mod pages;
pub mod parallel;
pub mod plan;
pub mod slot;
pub mod values;
