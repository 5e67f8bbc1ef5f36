//! What checks ask of the tables, and no host does.

use std::collections::BTreeMap;

use backstitch_core::inbox::SIGNALS;
use backstitch_core::{Chain, Message, RunId, RunStatus, Seq};

use super::database::Database;

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

    /// Where the ledger of a run ended when it closed.
    pub fn end(&self, run: RunId) -> Option<(Seq, Chain)> {
        self.tables().runs.get(&run)?.end
    }

    /// Whether a signal of this id waits for a run.
    pub fn has_signal(&self, run: RunId, id: &str) -> bool {
        let mut signals = self.tables().messages(run).filter(|(_, message)| message.row.kind == SIGNALS);
        signals.any(|(_, message)| {
            matches!(message.row.message(), Ok(Message::Signal { id: Some(known), .. }) if *known == *id)
        })
    }

    /// How many messages, timers and tasks there are of runs that are open.
    pub fn left_of_open(&self) -> usize {
        let tables = self.tables();
        let is_open = |run: &RunId| tables.runs.get(run).is_some_and(|run| run.status.is_open());
        tables.inbox.keys().filter(|(run, _)| is_open(run)).count()
            + tables.timers.keys().filter(|(run, _)| is_open(run)).count()
            + tables.tasks.keys().filter(|(run, _)| is_open(run)).count()
    }
}
