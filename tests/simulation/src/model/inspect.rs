//! What checks ask of the tables, and no host does.

use std::collections::BTreeMap;

use backstitch_core::inbox::SIGNALS;
use backstitch_core::{Chain, Message as Sent, Op, RunId, RunStatus, Seq};
use uuid::Uuid;

use super::database::Database;
use super::rows::{Message, Trial};

impl Database {
    /// All runs, and how they stand.
    pub fn runs(&self) -> BTreeMap<RunId, RunStatus> {
        self.tables().runs.iter().map(|(id, run)| (*id, run.status)).collect()
    }

    /// All runs, with what their starters called them.
    pub fn named_runs(&self) -> Vec<(RunId, String, u32, RunStatus)> {
        let named = self.tables().runs.iter();
        named.map(|(id, run)| (*id, run.workflow_id.to_string(), run.generation, run.status)).collect()
    }

    /// What the starter of a run called it, and which run of that workflow id it is.
    pub fn name_of(&self, run: RunId) -> Option<(String, u32)> {
        self.tables().runs.get(&run).map(|run| (run.workflow_id.to_string(), run.generation))
    }

    /// Whether a run was closed whose ledger could not be read, and took no row that says so.
    pub fn is_closed_damaged(&self, run: RunId) -> bool {
        self.end(run).is_some_and(|(_, chain)| chain == Chain(0))
    }

    /// Where the ledger of a run ended when it closed.
    pub fn end(&self, run: RunId) -> Option<(Seq, Chain)> {
        self.tables().runs.get(&run)?.end
    }

    /// Whether a signal of this id waits for a run.
    pub fn has_signal(&self, run: RunId, id: &str) -> bool {
        let mut signals = self.tables().messages(run).filter(|(_, message)| message.row.kind == SIGNALS);
        signals.any(|(_, message)| {
            matches!(message.row.message(), Ok(Sent::Signal { id: Some(known), .. }) if *known == *id)
        })
    }

    /// Whether the ledger of a run begins with so many rows, the last of which has this checksum.
    pub fn has_row(&self, run: RunId, rows: Seq, chain: Chain) -> bool {
        let last = rows.0.checked_sub(1).and_then(|last| self.tables().row(run, Seq(last)));
        last.is_some_and(|row| row.chain == chain)
    }

    /// The timers of a run: when they are due, and what for.
    pub fn timers_there(&self, run: RunId) -> BTreeMap<Op, (u64, i16)> {
        let of_run = (run, Op(0))..=(run, Op(u32::MAX));
        let timers = self.tables().timers.range(of_run);
        timers.map(|((_, op), timer)| (*op, (timer.due_ms, timer.purpose))).collect()
    }

    /// How a run stands.
    pub fn status_of(&self, run: RunId) -> Option<RunStatus> {
        Some(self.tables().runs.get(&run)?.status)
    }

    /// How many hosts were lost with a run since it last went on, and whether it is on trial, or the attempt of which call.
    pub fn losses_of(&self, run: RunId) -> Option<(u16, Option<Option<Op>>)> {
        let run = self.tables().runs.get(&run)?;
        let trial = match run.trial {
            Trial::On(op) => Some(op),
            Trial::Over | Trial::Unreplayed => None,
        };
        Some((run.losses, trial))
    }

    /// Whether a message asks its run to end, and no other one does.
    pub fn is_last_word(&self, run: RunId, item: Uuid) -> bool {
        let ends = |(id, message): (Uuid, &Message)| {
            matches!(message.row.message(), Ok(Sent::Terminate { .. })).then_some(id)
        };
        let ending: Vec<Uuid> = self.tables().messages(run).filter_map(ends).collect();
        ending == [item]
    }

    /// Whether a run is asked to end by a message that waits for it; or to cancel, if that will do.
    pub fn has_request(&self, run: RunId, or_cancel: bool) -> bool {
        let mut messages = self.tables().messages(run).map(|(_, message)| message.row.message());
        messages.any(|message| match message {
            Ok(Sent::Terminate { .. }) => true,
            Ok(Sent::Cancel { .. }) => or_cancel,
            _ => false,
        })
    }

    /// Calls of a run that have a task which was not given up, and for which attempt.
    pub fn tasks_to_do(&self, run: RunId) -> Vec<(Op, u32)> {
        let of_run = (run, Op(0))..=(run, Op(u32::MAX));
        let tasks = self.tables().tasks.range(of_run).filter(|(_, task)| !task.given_up);
        tasks.map(|((_, op), task)| (*op, task.attempt)).collect()
    }

    /// How many messages, timers and tasks there are of runs that are closed.
    pub fn left_of_closed(&self) -> (usize, usize, usize) {
        let tables = self.tables();
        let is_closed = |run: &RunId| tables.runs.get(run).is_some_and(|run| !run.status.is_open());
        (
            tables.inbox.keys().filter(|(run, _)| is_closed(run)).count(),
            tables.timers.keys().filter(|(run, _)| is_closed(run)).count(),
            tables.tasks.keys().filter(|(run, _)| is_closed(run)).count(),
        )
    }
}
