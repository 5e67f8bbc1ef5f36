//! Messages: sent by anybody, passed on from runs that have closed. See `inbox.rs` and `pass_on.rs` of the ledger crate.

use std::sync::Arc;

use backstitch_core::inbox::{MessageRow, PASSED_ON, PAUSES, SIGNALS};
use backstitch_core::{RunId, RunStatus, Scope, limits};
use backstitch_ledger::{PassedOn, Posted};
use uuid::Uuid;

use super::database::{Database, Mutant};
use super::rows::Message;

impl Database {
    /// Sends a message to an open run, once however often it is sent.
    pub fn post(&mut self, scope: Scope, run: RunId, item: Uuid, at_ms: u64, message: &MessageRow) -> Posted {
        let tables = self.tables();
        let Some(found) = tables.runs.get(&run).filter(|found| found.tenant == scope.tenant) else {
            return Posted::Unknown;
        };
        let room = match message.kind {
            SIGNALS => limits::INBOX_ITEMS_MAX,
            _ => limits::INBOX_ITEMS_MAX + limits::INBOX_REQUESTS_MAX,
        };
        let (status, owner) = (found.status, found.owner);
        if !status.is_open() && !self.is(Mutant::TakesMessagesOfAClosedRun) {
            return Posted::Closed(status);
        }
        // One that is there already is not told from a new one.
        if tables.messages(run).count() >= room as usize {
            return Posted::Full;
        }
        let message = Message { tenant: scope.tenant, row: message.clone(), at_ms, owner };
        self.commit().add_item(run, item, message);
        Posted::Accepted { owner }
    }

    /// How the run of a message stands that has not been consumed.
    pub fn status_if_unread(&self, run: RunId, item: Uuid) -> Option<RunStatus> {
        self.tables().inbox.get(&(run, item))?;
        self.tables().runs.get(&run).map(|run| run.status)
    }

    /// How a run stands, and whether it is to be paused by a message of its own or of the run before it.
    pub fn status_and_pause(&self, scope: Scope, run: RunId) -> Option<(RunStatus, bool)> {
        let tables = self.tables();
        let found = tables.runs.get(&run).filter(|found| found.tenant == scope.tenant)?;
        let pauses = tables.runs.iter().any(|(id, other)| {
            other.tenant == found.tenant
                && other.workflow_id == found.workflow_id
                && (found.generation.saturating_sub(1)..=found.generation).contains(&other.generation)
                && tables.messages(*id).any(|(_, message)| message.row.kind == PAUSES)
        });
        Some((found.status, pauses))
    }

    /// Moves the messages of a run to the latest run of its workflow id; removes those that are for that very run, and all
    /// if there is no later one.
    pub fn pass_on(&mut self, from: RunId, except: &[Uuid]) -> PassedOn {
        let Some(to) = self.successor(from) else {
            self.clear_inbox(&[from]);
            return PassedOn { items: 0, owner: None };
        };
        let passes_all = self.is(Mutant::PassesOnWhatIsForOneRun);
        let tables = self.commit();
        let owner = tables.owner(to);
        let gone: Vec<Uuid> =
            tables.messages(from).map(|(item, _)| item).filter(|item| !except.contains(item)).collect();
        let mut items = 0;
        for item in gone {
            let Some(message) = tables.remove_item(from, item) else { continue };
            if PASSED_ON.contains(&message.row.kind) || passes_all {
                items += usize::from(tables.add_item(to, item, Message { owner, ..message }));
            }
        }
        PassedOn { items, owner }
    }

    /// Removes the messages of runs.
    pub fn clear_inbox(&mut self, closed: &[RunId]) {
        Arc::make_mut(&mut self.commit().inbox).retain(|(run, _), _| !closed.contains(run));
    }
}
