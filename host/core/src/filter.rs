//! The conditions by which runs are searched: a small language, read into a tree of typed comparisons.
//!
//! ```text
//! condition   = conjunction { "or" conjunction }
//! conjunction = term { "and" term }
//! term        = "not" term | "(" condition ")" | comparison
//! comparison  = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
//!             | field "in" "(" value { "," value } ")"
//! field       = "status" | "workflow" | "workflow_id" | "run_id" | "parent" | "started" | "closed"
//!             | "attributes" "." ( name | text )
//! value       = text | number | "true" | "false" | "time" "(" text ")"
//! ```
//!
//! Texts stand in double or single quotes, with `\\`, `\"`, `\'`, `\n`, `\r` and `\t`. Words of the
//! grammar may be written in capitals, fields may not. A name without quotes holds letters, digits, `_`
//! and `-`, and begins with a letter or `_`.
//!
//! What it means:
//!
//! * A comparison is true or false, never unknown. What a run does not have (the attribute, its end, its
//!   parent) makes each comparison with it false, `!=` too; so does an attribute of another type.
//! * `not` turns that round: `not attributes.a = 1` finds the runs without `a`, `attributes.a != 1` does
//!   not.
//! * `started` and `closed` are compared with RFC 3339 times. An attribute is compared with a time only
//!   as `time("…")`: a text is a text there.
//! * Texts are ordered by their bytes, numbers are 64-bit floats.
//!
//! It refuses what can have no answer, with its place: unknown fields and statuses, comparisons between
//! types, an order of what has none. Times are read by a function of the caller, so that no calendar is
//! needed here. Nothing here decides which runs meet a condition: that is left to the database, which has
//! the indexes.

mod parse;
mod tokens;

use std::sync::Arc;

use crate::ids::RunId;
use crate::run::RunStatus;

/// What runs are asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Each of these holds; at least two.
    All(Vec<Filter>),
    /// One of these holds; at least two.
    Any(Vec<Filter>),
    /// This does not hold.
    Not(Box<Filter>),
    /// This comparison holds.
    Is(Condition),
}

/// A comparison of a field with values of its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// How the run stands. Without an order.
    Status(Test<RunStatus>),
    /// Which workflow it runs.
    Workflow(Test<Arc<str>>),
    /// What the user calls it.
    WorkflowId(Test<Arc<str>>),
    /// Its identity. Without an order.
    Run(Test<RunId>),
    /// The run that started it. Without an order.
    Parent(Test<RunId>),
    /// When it started, in milliseconds since the epoch.
    StartedMs(Test<u64>),
    /// When it closed, in milliseconds since the epoch.
    ClosedMs(Test<u64>),
    /// What it says about itself under a name.
    Attribute(Arc<str>, AttributeTest),
}

/// Which type of attribute is compared with what.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeTest {
    /// By the bytes. Without the character NUL.
    Text(Test<Arc<str>>),
    /// Finite.
    Number(Test<f64>),
    /// Without an order.
    Flag(Test<bool>),
    /// Milliseconds since the epoch.
    TimeMs(Test<u64>),
}

/// What must be true of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test<T> {
    /// It compares so with this.
    Compare(Comparator, T),
    /// It is one of these; at least one.
    In(Vec<T>),
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
}

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (at byte {at})")]
pub struct FilterError {
    /// How many bytes of the text come before the mistake.
    pub at: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Filter {
    /// Reads a condition. `time_ms` reads an RFC 3339 time as milliseconds since the epoch, or says what
    /// is wrong with it.
    ///
    /// # Errors
    ///
    /// [`FilterError`] at the first mistake.
    pub fn parse(text: &str, time_ms: fn(&str) -> Result<u64, String>) -> Result<Self, FilterError> {
        parse::parse(text, time_ms)
    }

    /// Whether a run of this status could meet the condition. A search that leaves out those that cannot
    /// finds the same runs.
    pub fn admits(&self, status: RunStatus) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.admits(status)),
            Self::Any(parts) => parts.iter().any(|part| part.admits(status)),
            Self::Is(Condition::Status(Test::In(statuses))) => statuses.contains(&status),
            Self::Is(Condition::Status(Test::Compare(comparator, wanted))) => {
                (*wanted == status) == (*comparator == Comparator::Equal)
            }
            // Of what is negated, only the whole is known to be false.
            Self::Not(_) | Self::Is(_) => true,
        }
    }
}

impl<T> Test<T> {
    fn try_map<U, E>(self, mut map: impl FnMut(T) -> Result<U, E>) -> Result<Test<U>, E> {
        Ok(match self {
            Self::Compare(comparator, value) => Test::Compare(comparator, map(value)?),
            Self::In(values) => Test::In(values.into_iter().map(map).collect::<Result<_, _>>()?),
        })
    }

    /// The value that the test names first.
    fn first(&self) -> &T {
        match self {
            Self::Compare(_, value) => value,
            Self::In(values) => values.first().expect("a list has a value: checked where it is read"),
        }
    }

    fn needs_order(&self) -> bool {
        use Comparator::{AtLeast, AtMost, Less, More};
        matches!(self, Self::Compare(Less | AtMost | More | AtLeast, _))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text, |_| Ok(0)).unwrap()
    }

    fn admitted(text: &str) -> Vec<RunStatus> {
        let filter = filter(text);
        RunStatus::ALL.into_iter().filter(|status| filter.admits(*status)).collect()
    }

    #[test]
    fn a_search_leaves_out_only_statuses_that_cannot_match() {
        use RunStatus::{Failed, Parked, Running};
        assert_eq!(admitted(r#"status = "failed" and attributes.a = 1"#), [Failed]);
        assert_eq!(admitted(r#"status in ("failed", "running")"#), [Running, Failed]);
        assert_eq!(admitted(r#"status = "failed" or status = "parked""#), [Parked, Failed]);
        assert_eq!(admitted(r#"status = "failed" and status = "parked""#), []);
        assert_eq!(admitted(r#"status != "failed""#).len(), RunStatus::ALL.len() - 1);
        assert_eq!(admitted(r#"status = "failed" or attributes.a = 1"#), RunStatus::ALL);
        let negated = r#"not (status = "failed" and attributes.a = 1)"#;
        assert_eq!(admitted(negated), RunStatus::ALL, "a failed run with another a meets it");
    }
}
