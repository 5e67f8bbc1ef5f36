//! Runs that wait for what is not there: timers, and what children leave. See `lacking.rs` and `derived.rs` of the ledger
//! crate.

use std::collections::BTreeMap;

use backstitch_core::inbox::{CHILD_NOTES, LEFT_BY_TASKS};
use backstitch_core::{HostId, Kind, Op, Row, RunId, RunStatus};
use backstitch_ledger::{Awaited, ChildState, Lacking};

use super::database::Database;

const BEGIN: [Kind; 2] = [Kind::TimerStarted, Kind::ActivityAttemptFailed];
const END: [Kind; 4] = [Kind::TimerFired, Kind::ActivityCompleted, Kind::ActivityFailed, Kind::OpCancelled];

impl Database {
    /// The next `limit` open runs of `host` behind `after`, and the last of them unless it was the last of all. Ops are in
    /// their order, where Postgres has none.
    pub fn timers_lacking(
        &self,
        host: HostId,
        after: Option<RunId>,
        limit: usize,
    ) -> (Vec<Lacking>, Option<RunId>) {
        let open = self
            .tables()
            .runs
            .iter()
            .filter(|(id, run)| run.is_open_of(host) && after.is_none_or(|after| **id > after));
        let found: Vec<Lacking> = open
            .take(limit)
            .map(|(id, run)| {
                let is_running = run.status == RunStatus::Running;
                let ops = if is_running { self.lacking_ops(*id) } else { Vec::new() };
                let own = self.tables().timers.keys().filter(|(run, op)| run == id && op.0.cast_signed() < 0);
                Lacking { run: *id, ops, own: own.map(|(_, op)| *op).collect(), is_running }
            })
            .collect();
        let last = found.last().map(|lacking| lacking.run).filter(|_| found.len() >= limit);
        (found, last)
    }

    /// Sleeps and calls that have begun to wait, have not ended, and have nothing that would wake them.
    fn lacking_ops(&self, run: RunId) -> Vec<Op> {
        let tables = self.tables();
        // By op: whether a row begins a wait, and whether one ends it.
        let mut waits: BTreeMap<Op, (bool, bool)> = BTreeMap::new();
        for row in tables.rows(run) {
            let is = |kinds: &[Kind]| kinds.iter().any(|kind| kind.tag() == row.kind);
            let (begins, ends) = (is(&BEGIN), is(&END));
            if let Some(op) = target(row).or(row.op).filter(|_| begins || ends) {
                let wait = waits.entry(op).or_default();
                *wait = (wait.0 || begins, wait.1 || ends);
            }
        }
        let is_told = |op: Op| {
            tables
                .messages(run)
                .any(|(_, message)| message.row.op == Some(op) && LEFT_BY_TASKS.contains(&message.row.kind))
        };
        let lacks = |op: &Op| {
            !tables.timers.contains_key(&(run, *op))
                && !tables.tasks.contains_key(&(run, *op))
                && !is_told(*op)
        };
        let open = waits.into_iter().filter(|(_, (begins, ends))| *begins && !ends).map(|(op, _)| op);
        open.filter(lacks).collect()
    }

    /// Those of these children that are missing, or have closed without a message to their parents.
    pub fn untold_children(&self, awaited: &[Awaited]) -> Vec<(Awaited, ChildState)> {
        let tables = self.tables();
        let state = |awaited: &Awaited| {
            let Some(child) = tables.runs.get(&awaited.child) else { return Some(ChildState::Missing) };
            let latest = tables.runs.values().filter(|run| {
                run.tenant == child.tenant
                    && run.workflow_id == child.workflow_id
                    && run.generation >= child.generation
                    && run.parent == Some((awaited.parent, awaited.op))
            });
            let last = latest.max_by_key(|run| run.generation)?;
            let is_told = tables.messages(awaited.parent).any(|(_, message)| {
                message.row.op == Some(awaited.op) && CHILD_NOTES.contains(&message.row.kind)
            });
            if last.status.is_open() || last.status == RunStatus::Continued || is_told {
                return None;
            }
            let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
            let (output, error) = (text(&last.output), text(&last.error));
            Some(ChildState::Untold { status: last.status, output, error })
        };
        awaited.iter().filter_map(|awaited| Some((*awaited, state(awaited)?))).collect()
    }
}

/// The op that a row of a cancellation is about.
fn target(row: &Row) -> Option<Op> {
    if row.kind != Kind::OpCancelled.tag() {
        return None;
    }
    let detail: serde_json::Value = serde_json::from_str(row.detail.as_deref()?).ok()?;
    Some(Op(u32::try_from(detail.get("target")?.as_u64()?).ok()?))
}
