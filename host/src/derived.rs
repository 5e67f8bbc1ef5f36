//! What the database has beside the ledgers of some runs, as far as it follows from them: timers, tasks, and what their
//! children have left for them. Read with the ledger by whoever takes a run into memory; the scheduler compares, and
//! makes anew what is missing.
//!
//! It is asked for after the ledgers and while nothing of the runs is on its way, so that whatever changes in between is
//! made by others: an answer that replaces a task, a child that closes.

use std::collections::HashMap;

use backstitch_core::run::OpenOp;
use backstitch_core::{Failure, FailureKind, Json, Kind, Op, Row, Run, RunId, RunStatus};
use backstitch_ledger::{Awaited, ChildState, DueTimer, Ledger};

use crate::retry::until_answered;

/// What stands beside the ledger of one run.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    /// When its timers are due, in milliseconds since the epoch.
    pub(crate) timers: HashMap<Op, u64>,
    /// Calls that have a task, or had one of which a message tells.
    pub(crate) offered: Vec<Op>,
    /// Children that it waits for and that were never started: refused, by a host that died before it recorded that.
    pub(crate) unborn: Vec<Op>,
    /// Children that have closed, and of which no message tells.
    pub(crate) untold: Vec<(Op, Result<Json, Failure>)>,
}

/// Reads what is beside these ledgers, however long the database takes to answer.
pub(crate) async fn read(ledger: &Ledger, ledgers: &[(RunId, Vec<Row>)]) -> HashMap<RunId, Derived> {
    let mut derived: HashMap<RunId, Derived> =
        ledgers.iter().map(|(run, _)| (*run, Derived::default())).collect();
    let of = |may: fn(&[Row]) -> bool| -> Vec<RunId> {
        ledgers.iter().filter(|(_, rows)| may(rows)).map(|(run, _)| *run).collect()
    };
    let timed = of(may_have_timers);
    if !timed.is_empty() {
        for DueTimer { run, op, due_ms, .. } in
            until_answered("reading timers", || ledger.timers_of(&timed)).await
        {
            derived.entry(run).or_default().timers.insert(op, due_ms);
        }
    }
    let calling = of(may_wait_for_calls);
    if !calling.is_empty() {
        for (run, op) in until_answered("reading tasks", || ledger.tasks_of(&calling)).await {
            derived.entry(run).or_default().offered.push(op);
        }
    }
    let awaited: Vec<Awaited> = ledgers.iter().flat_map(|(run, rows)| awaited(*run, rows)).collect();
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

/// Whether a run may have timers: one that was given up counts as well.
fn may_have_timers(rows: &[Row]) -> bool {
    let timing = [Kind::TimerStarted, Kind::ActivityAttemptFailed];
    let is_timing = |row: &Row| timing.iter().any(|kind| kind.tag() == row.kind);
    // Those of the run itself are among the terms of its start.
    rows.first().is_some_and(|first| first.detail.is_some()) || rows.iter().any(is_timing)
}

/// Whether calls of the run may be open: one that was given up counts as open here.
fn may_wait_for_calls(rows: &[Row]) -> bool {
    let count =
        |kinds: &[Kind]| rows.iter().filter(|row| kinds.iter().any(|kind| kind.tag() == row.kind)).count();
    count(&[Kind::ActivityScheduled]) > count(&[Kind::ActivityCompleted, Kind::ActivityFailed])
}

/// The children that a run waits for. A damaged ledger has none: it is refused itself.
fn awaited(parent: RunId, rows: &[Row]) -> Vec<Awaited> {
    if rows.iter().all(|row| row.kind != Kind::ChildStarted.tag()) {
        return Vec::new();
    }
    let Ok((run, _)) = Run::load_all(parent, rows) else { return Vec::new() };
    let children = run.open_ops().filter_map(|(op, open)| match open {
        OpenOp::Child { run: child, .. } => Some(Awaited { parent, op, child: *child }),
        _ => None,
    });
    children.collect()
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
