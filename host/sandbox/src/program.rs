//! A component that is ready to be instantiated.

use std::sync::Arc;

use backstitch_core::Fault;

use crate::activity::ActivityProgram;
use crate::artefact::Component;
use crate::described::Described;
use crate::engine::Build;
use crate::kind::ComponentKind;
use crate::means::Means;
use crate::workflow::WorkflowProgram;

/// A component, ready to be instantiated. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Program {
    /// Of workflows.
    Workflow(WorkflowProgram),
    /// Of activities.
    Activity(ActivityProgram),
}

impl Program {
    /// Which world the component exports.
    pub fn kind(&self) -> ComponentKind {
        match self {
            Self::Workflow(_) => ComponentKind::Workflow,
            Self::Activity(_) => ComponentKind::Activity,
        }
    }

    /// What the component says that it holds, or why it did not say.
    pub fn described(&self) -> Result<&[Described], &Fault> {
        match self {
            Self::Workflow(program) => program.described(),
            Self::Activity(program) => program.described(),
        }
    }

    /// The same, with what it says that it holds.
    pub(crate) fn with_described(self, described: Result<Vec<Described>, Fault>) -> Self {
        match self {
            Self::Workflow(program) => Self::Workflow(program.with_described(described)),
            Self::Activity(program) => Self::Activity(program.with_described(described)),
        }
    }
}

/// Links a component with what it is offered.
pub(crate) fn link(build: Build, component: &Component, means: &Means) -> wasmtime::Result<Program> {
    Ok(match build {
        Build::Workflow(rules) => Program::Workflow(WorkflowProgram::link(component, rules, means)?),
        Build::Activity => {
            let (egress, room) = (Arc::clone(&means.egress), means.room.clone());
            Program::Activity(ActivityProgram::link(component, egress, room)?)
        }
    })
}
