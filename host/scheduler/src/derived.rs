//! What stands beside a ledger, as far as it follows from it: timers, tasks, and what children have left for their parents.

use std::collections::HashMap;

use backstitch_core::run::OpenOp;
use backstitch_core::{Failure, FailureKind, Json, Op, Run, RunStatus};
use backstitch_ledger::{Awaited, ChildState};

use crate::plan::timers_of;

/// What stands beside the ledger of one run.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    /// When its timers are due, in milliseconds since the epoch.
    pub timers: HashMap<Op, u64>,
    /// Calls that have a task, or had one of which a message tells.
    pub offered: Vec<Op>,
    /// Children that it waits for and that were never started: rejected, by a host that died before it recorded that.
    pub rejected: Vec<Op>,
    /// Children that have closed, and of which no message tells.
    pub untold: Vec<(Op, Result<Json, Failure>)>,
}

impl Derived {
    /// What was found out about a child that the run waits for.
    pub fn add_child(&mut self, op: Op, state: ChildState) {
        match state {
            ChildState::Missing => self.rejected.push(op),
            ChildState::Untold { status, output, error } => {
                self.untold.push((op, outcome(status, output, error)));
            }
        }
    }
}

/// Whether the run has to have timers, those of a time that has passed included.
pub fn has_timers(run: &Run) -> bool {
    !timers_of(run, 0).is_empty()
}

/// Whether calls of the run are open.
pub fn waits_for_calls(run: &Run) -> bool {
    run.open_ops().any(|(_, open)| matches!(open, OpenOp::Activity { .. }))
}

/// The children that a run waits for.
pub fn awaited(run: &Run) -> impl Iterator<Item = Awaited> {
    run.open_ops().filter_map(|(op, open)| match open {
        OpenOp::Child { run: child, .. } => Some(Awaited { parent: run.id(), op, child: *child }),
        _ => None,
    })
}

/// What a parent hears of a child that closed so.
fn outcome(status: RunStatus, output: Option<String>, error: Option<String>) -> Result<Json, Failure> {
    if status == RunStatus::Completed {
        return Ok(output.and_then(|text| Json::new(text).ok()).unwrap_or_else(Json::null));
    }
    let failure = error.and_then(|text| serde_json::from_str(&text).ok());
    Err(failure.unwrap_or_else(|| {
        let message = format!("the child is {}", status.as_str());
        Failure::fatal(FailureKind::Application, "child-closed", message)
    }))
}
