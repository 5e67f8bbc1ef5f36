//! What a compile child is started for, and what comes of it.

use std::fmt;
use std::str::FromStr;

use backstitch_core::{Fault, Rules, limits};

use crate::admit::Refused;
use crate::artefact::Artefact;
use crate::described::Described;
use crate::engine::{self, Build};
use crate::kind::ComponentKind;

/// What a child is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// To look at a component, to compile it, to ask it what it holds.
    Component,
    /// The same for runs under the first rules.
    ComponentOfFirst,
    /// To try to get out of its cage.
    Probe,
}

impl Job {
    const ALL: [Self; 3] = [Self::Component, Self::ComponentOfFirst, Self::Probe];

    pub(super) fn of(rules: Rules) -> Self {
        match rules {
            Rules::First => Self::ComponentOfFirst,
            Rules::Second => Self::Component,
        }
    }

    /// As the child's last argument.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::ComponentOfFirst => "component-0",
            Self::Probe => "probe",
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no [`Job`].
#[derive(Debug, thiserror::Error)]
#[error("neither `component`, `component-0` nor `probe`")]
pub struct NotAJob;

impl FromStr for Job {
    type Err = NotAJob;

    fn from_str(text: &str) -> Result<Self, NotAJob> {
        Self::ALL.into_iter().find(|job| job.as_str() == text).ok_or(NotAJob)
    }
}

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It may not become a component of ours.
    #[error(transparent)]
    Refused(Refused),
    /// The compiler does not take the component.
    #[error("the component does not compile: {0}")]
    Rejected(String),
    /// The component is a compile bomb, or the bounds of [`limits`] are too tight for it.
    #[error("the component takes more than {what} to compile")]
    TooCostly {
        /// The bound it met.
        what: String,
    },
    /// Our side failed; another attempt may succeed.
    #[error("the compiler could not be run: {0}")]
    Host(#[from] std::io::Error),
}

/// What was made of a component.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) kind: ComponentKind,
    pub(crate) artefact: Artefact,
    /// What it says that it holds. None: it was not asked.
    pub(crate) described: Option<Result<Vec<Described>, Fault>>,
}

pub(super) fn machine_code(build: Build, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let rejected = |error: wasmtime::Error| CompileError::Rejected(format!("{error:#}"));
    engine::compiler(build).and_then(|engine| engine.precompile_component(bytes)).map_err(rejected)
}

pub(super) fn out_of_memory() -> CompileError {
    CompileError::TooCostly { what: format!("{} MiB of memory", limits::COMPILE_MEMORY_BYTES_MAX >> 20) }
}
