//! Analytic queries: what dashboards, reports and back-tests ask.
//!
//! - [`keys`]: what rows are grouped by.
//! - [`sums`]: what is computed of a group.
//! - [`filter`]: conditions, many of them ones that can be evaluated on whole pages.
//! - [`group`]: grouping, DISTINCT, DISTINCT ON.
//! - [`join`]: joins, LATERAL, subqueries, common table expressions.
//! - [`window`]: window functions.
//! - [`prepared`]: prepared statements and functions with parameters.
//!
//! Every query's answer is determined: what rows come first is settled by a total order, `first` and `last` go by a
//! column without duplicates in the group, floats have sums that are exact in every order. Where a float is not
//! (standard deviations, quotients), the query says how many digits count ([`Answer::digits`]).

pub mod filter;
pub mod group;
pub mod join;
pub mod keys;
pub mod prepared;
pub mod sums;
pub mod window;

use super::rng::Rng;
use super::shape::Shape;
use super::step::{Step, Who};
use super::tick;

/// A query, and what of its answer counts.
pub struct Answer {
    /// The query.
    pub sql: String,
    /// Whether rows come in a total order.
    pub ordered: bool,
    /// Set where floats are inexact: digits that must agree. Only in a total order, which pairs the rows.
    pub digits: Option<u32>,
}

impl Answer {
    /// A query whose rows come in a total order.
    pub fn ordered(sql: impl Into<String>) -> Answer {
        Answer {
            sql: sql.into(),
            ordered: true,
            digits: None,
        }
    }

    /// A query whose rows may come in any order.
    pub fn rows(sql: impl Into<String>) -> Answer {
        Answer {
            ordered: false,
            ..Answer::ordered(sql)
        }
    }

    /// Floats are inexact.
    pub fn about(mut self, digits: Option<u32>) -> Answer {
        self.digits = digits;
        self
    }

    /// As a statement.
    pub fn step(self, who: Who) -> Step {
        // Which row an expression fails on first is nobody's promise.
        let mut step = Step::new(who, self.sql).any_error();
        step.digits = self.digits;
        if self.ordered { step.ordered() } else { step }
    }
}

/// A random query.
pub fn query(shapes: &[Shape], rng: &mut Rng) -> Answer {
    let shape = match tick::large(shapes) {
        Some(large) if rng.chance(30) => large,
        _ => rng.pick(shapes),
    };
    match rng.weighted(&[36, 8, 8, 10, 14, 8, 8, 8, 10]) {
        0 => group::grouped(shape, rng),
        1 => group::distinct(shape, rng),
        2 => group::distinct_on(shape, rng),
        3 => group::first_rows(shape, rng),
        4 => join::joined(shape, shapes, rng),
        5 => join::lateral(shape, rng),
        6 => join::subquery(shape, shapes, rng),
        7 => join::with(shape, rng),
        _ => window::windowed(shape, rng),
    }
}

/// A random query as a statement, or a prepared one.
pub fn any(who: Who, shapes: &[Shape], rng: &mut Rng) -> Step {
    match rng.below(10) {
        0 => prepared::execute(who, rng),
        1 => copied(query(shapes, rng)).step(who),
        _ => query(shapes, rng).step(who),
    }
}

/// The query in another wrapping.
fn copied(answer: Answer) -> Answer {
    if answer.digits.is_some() {
        return answer;
    }
    Answer {
        sql: format!("COPY ({}) TO STDOUT", answer.sql),
        ..answer
    }
}
