//! What a component is: the world that it exports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a component is to us: which world it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentKind {
    /// It decides: deterministic, only the `host` interface.
    Workflow,
    /// It acts: WASI, without files and sockets, HTTP to where it may reach, and heartbeats.
    Activity,
}

impl ComponentKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Workflow, Self::Activity];

    /// The name of its world.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Activity => "activity",
        }
    }

    pub(crate) fn exports(self) -> &'static [&'static str] {
        match self {
            Self::Workflow => &["describe", "start", "resume", "query"],
            Self::Activity => &["describe", "invoke"],
        }
    }
}

impl fmt::Display for ComponentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is neither `workflow` nor `activity`.
#[derive(Debug, thiserror::Error)]
#[error("neither `workflow` nor `activity`")]
pub struct NotAKind;

impl FromStr for ComponentKind {
    type Err = NotAKind;

    fn from_str(text: &str) -> Result<Self, NotAKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(NotAKind)
    }
}
