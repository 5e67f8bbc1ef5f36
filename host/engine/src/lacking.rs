//! Looks over the open runs of this host, again and again, for those that wait for a timer which is not there. See
//! `ledger/src/lacking.rs` for which those are.
//!
//! Timers of the run itself are set here, from what its first row says: such a run need not be in memory, and is not
//! brought there. All others are the scheduler's affair, which knows what is under way.

use std::collections::HashMap;
use std::time::Duration;

use backstitch_core::{Op, RunId};
use backstitch_ledger::{Began, Lacking, NewTimer};
use backstitch_scheduler::{START_OP, own_timers};
use tokio::time::Instant;

use crate::driver::Input;
use crate::pollers::Pollers;
use crate::retry::until_answered;

/// Runs in one look: a part of their ledgers is read.
const ROWS: i64 = 200;
/// First rows in one question: each may have hundreds of kilobytes of what its starter said.
const FIRST_ROWS: usize = 20;
/// Shortest wait between two looks, in milliseconds; one that took long has the next wait longer.
const MS_MIN: u64 = 250;
/// How much longer the wait is than the look before it took: a twentieth of a connection at most goes into them.
const REST: u32 = 20;
/// How long to wait when all runs were looked at, in leases: a minute by default.
const LEASES: u64 = 20;

impl Pollers {
    /// See the module. Ends with the term.
    pub async fn lacking(self) {
        let mut after = None;
        loop {
            let began = Instant::now();
            let look = || self.ledger.timers_lacking(self.lease.host, after, ROWS);
            let (mut found, last) = until_answered("looking for runs without timers", look).await;
            self.set_own_timers(&mut found).await;
            let waiting: Vec<(RunId, Vec<Op>)> =
                found.into_iter().filter(|run| !run.ops.is_empty()).map(|run| (run.run, run.ops)).collect();
            if !waiting.is_empty() && self.inputs.send(Input::Lacking(waiting)).await.is_err() {
                return;
            }
            after = last;
            let rest = (began.elapsed() * REST).max(Duration::from_millis(MS_MIN));
            let all_seen = Duration::from_millis(self.lease_ms * LEASES);
            tokio::time::sleep(if after.is_none() { all_seen } else { rest }).await;
        }
    }

    /// Sets the timers of delayed starts and of bounds on runs that are not there. A run whose start should have come is
    /// among those that lack something: it begins if it is not in memory.
    async fn set_own_timers(&self, found: &mut [Lacking]) {
        for some in found.chunks_mut(FIRST_ROWS) {
            let runs: Vec<RunId> = some.iter().map(|run| run.run).collect();
            let began = until_answered("reading first rows", || self.ledger.began(&runs)).await;
            let now_ms = self.clock.now_ms();
            let is_past = |run: &&Began| run.options.start_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
            for past in began.iter().filter(is_past) {
                let late = some.iter_mut().find(|run| run.run == past.run && run.is_running);
                if let Some(late) = late.filter(|late| !late.own.contains(&START_OP)) {
                    late.ops.push(START_OP);
                }
            }
            let own: HashMap<RunId, &[Op]> = some.iter().map(|run| (run.run, &*run.own)).collect();
            let timers = began.iter().flat_map(|run| own_timers(run.run, &run.options, run.at_ms, now_ms));
            let is_there = |timer: &NewTimer| own.get(&timer.run).is_some_and(|own| own.contains(&timer.op));
            let missing: Vec<NewTimer> = timers.filter(|timer| !is_there(timer)).collect();
            if missing.is_empty() {
                continue;
            }
            let set = || self.ledger.set_missing_timers(self.lease.host, &missing);
            for (run, _) in until_answered("setting timers", set).await {
                tracing::warn!(%run, "a timer of this run was not there; it is set again");
            }
            let soonest = missing.iter().map(|timer| timer.due_ms).min().unwrap_or(u64::MAX);
            self.timer_wakeup.sooner(soonest);
        }
    }
}
