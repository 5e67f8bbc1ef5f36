//! What the database has beside the ledgers of some runs, as far as it follows from them: timers, tasks, and what their
//! children have left for them. Read with the ledger by whoever takes a run into memory; the scheduler compares, and
//! makes anew what is missing.
//!
//! It is asked for after the ledgers and while nothing of the runs is on its way, so that whatever changes in between is
//! made by others: an answer that replaces a task, a child that closes.

use std::collections::HashMap;

use backstitch_core::{Run, RunId};
use backstitch_ledger::{Awaited, DueTimer, Ledger};
use backstitch_scheduler::{Derived, awaited, has_timers, waits_for_calls};

use crate::retry::until_answered;

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
            derived.entry(parent).or_default().add_child(op, state);
        }
    }
    derived
}
