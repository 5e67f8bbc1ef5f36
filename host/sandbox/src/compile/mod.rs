//! From a component's bytes to machine code, and to what the component says of itself.
//!
//! Looking at a component, compiling it and asking it what it holds are the steps where a small input can ask for
//! hours and gigabytes, and where a stranger's bytes meet most of our code. So they happen in a child process:
//! this program again, started with a hidden subcommand, in a [`crate::cage`], without an environment. It is fed
//! through its standard input and answers in frames on its standard output ([`frame`]):
//!
//! | frame | when | bound |
//! |---|---|---|
//! | what the cage lacks on this kernel | always, first | |
//! | what the component is, or why it is refused | always | [`limits::ADMIT_MS_MAX`] |
//! | machine code, or why there is none | if it is admitted | [`limits::COMPILE_MS_MAX`] |
//! | what it describes, or its fault | if there is machine code | [`limits::DESCRIBE_MS_MAX`] |
//!
//! Nothing of the component has run before the machine code is out of the child's hands.

mod child;
mod frame;
mod parent;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use backstitch_core::{Fault, Rules, limits};

pub use self::child::compile_child_main;
use crate::admit::{self, ComponentKind, Refused};
use crate::artefact::Artefact;
use crate::cage::CageReport;
use crate::describe::Described;
use crate::engine::{self, Build};

/// Where components are looked at, compiled and described.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, without bounds. For tests and for components of one's own.
    InProcess,
    /// In a child: `program args… JOB`, which must end in [`compile_child_main`].
    Child {
        /// The executable, usually our own.
        program: PathBuf,
        /// What makes it a compiler, before the [`Job`].
        args: Vec<OsString>,
    },
}

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

    fn of(rules: Rules) -> Self {
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

impl Compiler {
    /// Admits and compiles for [`engine::runner`]: a workflow for runs under these rules. A child asks the component what it holds as well; in this process
    /// the caller has better means.
    pub(crate) async fn compile(&self, bytes: Arc<[u8]>, rules: Rules) -> Result<Compiled, CompileError> {
        match self {
            Self::InProcess => {
                let compiled = tokio::task::spawn_blocking(move || {
                    let kind = admit::admit(&bytes).map_err(CompileError::Refused)?.kind;
                    let artefact = Artefact::vouched(machine_code(Build::new(kind, rules), &bytes)?);
                    Ok(Compiled { kind, artefact, described: None })
                });
                let panicked = |panic| Err(CompileError::Rejected(format!("the compiler panicked: {panic}")));
                compiled.await.unwrap_or_else(panicked)
            }
            Self::Child { program, args } => {
                // What needs no child to be seen starts none.
                admit::check_header(&bytes).map_err(CompileError::Refused)?;
                parent::compile(program, args, Job::of(rules), bytes, parent::Bounds::DEFAULT).await
            }
        }
    }

    /// How tight the cage of the child is on this machine. None: there is no child.
    pub async fn probe(&self) -> Result<Option<CageReport>, CompileError> {
        match self {
            Self::InProcess => Ok(None),
            Self::Child { program, args } => Ok(Some(parent::probe(program, args).await?)),
        }
    }
}

fn machine_code(build: Build, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let rejected = |error: wasmtime::Error| CompileError::Rejected(format!("{error:#}"));
    engine::compiler(build).and_then(|engine| engine.precompile_component(bytes)).map_err(rejected)
}

fn out_of_memory() -> CompileError {
    CompileError::TooCostly { what: format!("{} MiB of memory", limits::COMPILE_MEMORY_BYTES_MAX >> 20) }
}
