//! Runs, their rows, and the heads that a failover may have lost. See `runs.rs` and `losses.rs` of the ledger crate.

use backstitch_core::{HostId, Row, RunId, RunStatus, Scope, Seq};
use backstitch_ledger::Head;
use uuid::Uuid;

use super::database::Database;

impl Database {
    /// How a run stands.
    pub fn run_status(&self, scope: Scope, run: RunId) -> Option<RunStatus> {
        self.tables().runs.get(&run).filter(|run| run.tenant == scope.tenant).map(|run| run.status)
    }

    /// Rows of a run from `from` on, at most `limit`.
    pub fn rows(&self, run: RunId, from: Seq, limit: usize) -> Vec<Row> {
        self.tables().rows(run).filter(|row| row.seq >= from).take(limit).cloned().collect()
    }

    /// Where the ledger of a run ends.
    pub fn head(&self, run: RunId) -> Option<Head> {
        self.tables().rows(run).last().map(Head::at)
    }

    /// The latest run of a workflow id.
    pub fn latest_run(&self, scope: Scope, workflow_id: &str) -> Option<RunId> {
        self.generations(scope, workflow_id).max().map(|(_, run)| run)
    }

    /// The earliest run of a workflow id.
    pub fn first_run(&self, scope: Scope, workflow_id: &str) -> Option<RunId> {
        self.generations(scope, workflow_id).min().map(|(_, run)| run)
    }

    fn generations(&self, scope: Scope, workflow_id: &str) -> impl Iterator<Item = (u32, RunId)> {
        let named = self
            .tables()
            .runs
            .iter()
            .filter(move |(_, run)| run.tenant == scope.tenant && &*run.workflow_id == workflow_id);
        named.map(|(id, run)| (run.generation, *id))
    }

    /// The latest run of the workflow id of `run`, if that is a later one.
    pub fn successor(&self, run: RunId) -> Option<RunId> {
        let this = self.tables().runs.get(&run)?;
        let latest = self.generations(self.scope(this.tenant), &this.workflow_id).max();
        latest.filter(|(generation, _)| *generation > this.generation).map(|(_, run)| run)
    }

    /// The run of the same workflow id so many generations later, or earlier.
    pub fn generation_beside(&self, run: RunId, by: i32) -> Option<RunId> {
        let this = self.tables().runs.get(&run)?;
        let wanted = i64::from(this.generation) + i64::from(by);
        let mut all = self.generations(self.scope(this.tenant), &this.workflow_id);
        all.find(|(generation, _)| i64::from(*generation) == wanted).map(|(_, run)| run)
    }

    /// Those of these runs that `host` does not own, or whose ledgers do not hold this row.
    pub fn lost_heads(&self, host: HostId, heads: &[(RunId, Head)]) -> Vec<(RunId, Head)> {
        let is_lost = |(run, head): &&(RunId, Head)| {
            !self.tables().holds(*run, *head) || self.tables().owner(*run) != Some(host)
        };
        heads.iter().filter(is_lost).copied().collect()
    }

    /// Those of these messages that are in the inbox.
    pub fn items_there(&self, items: &[(RunId, Uuid)]) -> Vec<(RunId, Uuid)> {
        items.iter().filter(|key| self.tables().inbox.contains_key(key)).copied().collect()
    }

    /// Who owns a run.
    pub fn owner_of(&self, run: RunId) -> Option<HostId> {
        self.tables().owner(run)
    }
}
