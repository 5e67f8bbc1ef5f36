//! What an operator's repair asks, and how runs began. See `repairs.rs` and `lacking.rs` of the ledger crate.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstitch_core::inbox::MessageRow;
use backstitch_core::{Kind, RunId, Scope, Seq, StartOptions};
use backstitch_ledger::Began;
use uuid::Uuid;

use super::database::Database;
use super::rows::Message;

impl Database {
    /// Sends a message that is nothing but its kind to those of these runs that are open; how many there were.
    pub fn post_to_open(
        &mut self,
        scope: Scope,
        runs: &[RunId],
        message: &MessageRow,
        at_ms: u64,
        mut item_id: impl FnMut() -> Uuid,
    ) -> u64 {
        let mut posted = 0;
        let wanted: BTreeSet<RunId> = runs.iter().copied().collect();
        let tables = self.commit();
        for id in wanted {
            let Some(run) = tables.runs.get(&id) else { continue };
            if run.tenant != scope.tenant || !run.status.is_open() {
                continue;
            }
            let row = MessageRow { kind: message.kind, ..MessageRow::default() };
            let (tenant, owner) = (scope.tenant, run.owner);
            posted += u64::from(tables.add_item(id, item_id(), Message { tenant, row, at_ms, owner }));
        }
        posted
    }

    /// Removes timers and tasks that closed runs have left behind; of how many runs there were any.
    pub fn forget_leftovers(&mut self, closed: &[RunId]) -> u64 {
        let tables = self.commit();
        let runs = Arc::clone(&tables.runs);
        let is_over =
            |run: &RunId| closed.contains(run) && runs.get(run).is_some_and(|run| !run.status.is_open());
        let mut left: BTreeSet<RunId> = BTreeSet::new();
        let timers = Arc::make_mut(&mut tables.timers);
        left.extend(timers.keys().map(|(run, _)| *run).filter(is_over));
        timers.retain(|(run, _), _| !is_over(run));
        Arc::make_mut(&mut tables.tasks).retain(|(run, _), task| {
            if !is_over(run) || (task.lease.is_some() && task.given_up) {
                return true;
            }
            left.insert(*run);
            // One that a worker has stays until that is told.
            task.given_up = true;
            task.lease.is_some()
        });
        left.len() as u64
    }

    /// What the first rows of these runs say. One that cannot be read is left out.
    pub fn began(&self, runs: &[RunId]) -> Vec<Began> {
        let began = |run: &RunId| {
            let row = self.tables().row(*run, Seq(0)).filter(|row| row.kind == Kind::RunStarted.tag())?;
            let options: StartOptions = match &row.detail {
                Some(detail) => serde_json::from_str(detail).ok()?,
                None => StartOptions::default(),
            };
            Some(Began { run: *run, at_ms: row.at_ms, options })
        };
        runs.iter().filter_map(began).collect()
    }
}
