//! What a condition is once it is read: a tree of typed comparisons.

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
    pub(super) fn try_map<U, E>(self, mut map: impl FnMut(T) -> Result<U, E>) -> Result<Test<U>, E> {
        Ok(match self {
            Self::Compare(comparator, value) => Test::Compare(comparator, map(value)?),
            Self::In(values) => Test::In(values.into_iter().map(map).collect::<Result<_, _>>()?),
        })
    }

    /// The value that the test names first.
    pub(super) fn first(&self) -> &T {
        match self {
            Self::Compare(_, value) => value,
            Self::In(values) => values.first().expect("a list has a value: checked where it is read"),
        }
    }

    pub(super) fn needs_order(&self) -> bool {
        use Comparator::{AtLeast, AtMost, Less, More};
        matches!(self, Self::Compare(Less | AtMost | More | AtLeast, _))
    }
}
