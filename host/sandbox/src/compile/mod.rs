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
mod job;
mod parent;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use backstitch_core::Rules;

pub use self::child::compile_child_main;
pub(crate) use self::job::Compiled;
use self::job::machine_code;
pub use self::job::{CompileError, Job, NotAJob};
use crate::admit;
use crate::artefact::Artefact;
use crate::cage::CageReport;
use crate::engine::Build;

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
