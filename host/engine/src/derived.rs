//! What the database has beside the ledgers of some runs, as far as it follows from them: timers, tasks, and what their
//! children have left for them. Read with the ledger by whoever takes a run into memory; the scheduler compares, and
//! makes anew what is missing.
//!
//! It is asked for after the ledgers and while nothing of the runs is on its way, so that whatever changes in between is
//! made by others: an answer that replaces a task, a child that closes.

use std::collections::HashMap;

use backstitch_core::run::OpenOp;
use backstitch_core::{Failure, FailureKind, Json, Op, Run, RunId, RunStatus};
use backstitch_ledger::{Awaited, ChildState, DueTimer, Ledger};

use crate::retry::until_answered;
use crate::scheduler::timers_of;

/// What stands beside the ledger of one run.
#[derive(Debug, Default)]
pub struct Derived {
    /// When its timers are due, in milliseconds since the epoch.
    pub timers: HashMap<Op, u64>,
    /// Calls that have a task, or had one of which a message tells.
    pub offered: Vec<Op>,
    /// Children that it waits for and that were never started: refused, by a host that died before it recorded that.
    pub unborn: Vec<Op>,
    /// Children that have closed, and of which no message tells.
    pub untold: Vec<(Op, Result<Json, Failure>)>,
}

/// Reads what is beside the ledgers of these runs, however long the database takes to answer.
pub async fn read(ledger: &Ledger, runs: &[&Run]) -> HashMap<RunId, Derived> {
    let mut derived: HashMap<RunId, Derived> =
        runs.iter().map(|run| (run.id(), Derived::default())).collect();
    let of = |may: fn(&Run) -> bool| -> Vec<RunId> {
        runs.iter().filter(|run| may(run)).map(|run| run.id()).collect()
    };
    let timed = of(has_timers);
    if !timed.is_empty() {
        for DueTimer { run, op, due_ms, .. } in
            until_answered("reading timers", || ledger.timers_of(&timed)).await
        {
            derived.entry(run).or_default().timers.insert(op, due_ms);
        }
    }
    let calling = of(waits_for_calls);
    if !calling.is_empty() {
        for (run, op) in until_answered("reading tasks", || ledger.tasks_of(&calling)).await {
            derived.entry(run).or_default().offered.push(op);
        }
    }
    let awaited: Vec<Awaited> = runs.iter().flat_map(|run| awaited(run)).collect();
    if !awaited.is_empty() {
        let children = until_answered("looking for children", || ledger.untold_children(&awaited)).await;
        for (Awaited { parent, op, .. }, state) in children {
            let of_parent = derived.entry(parent).or_default();
            match state {
                ChildState::Missing => of_parent.unborn.push(op),
                ChildState::Untold { status, output, error } => {
                    of_parent.untold.push((op, outcome(status, output, error)));
                }
            }
        }
    }
    derived
}

/// Whether the run has to have timers.
fn has_timers(run: &Run) -> bool {
    // Also those of a time that has passed: what is there of them is compared.
    !timers_of(run, 0).is_empty()
}

/// Whether calls of the run are open.
fn waits_for_calls(run: &Run) -> bool {
    run.open_ops().any(|(_, open)| matches!(open, OpenOp::Activity { .. }))
}

/// The children that a run waits for.
fn awaited(run: &Run) -> impl Iterator<Item = Awaited> {
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
