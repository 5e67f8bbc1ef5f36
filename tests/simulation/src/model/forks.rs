//! Runs that begin with more than one row. See `fork.rs` of the ledger crate.

use std::sync::Arc;

use backstitch_core::{Row, TenantId};
use backstitch_ledger::{ForkedRun, NewRun};

use super::database::{Database, Mutant, Tables};
use super::rows::{Message, Run, Timer};

impl Database {
    /// Puts a run into the database that nobody owns, with all that belongs to it. False: its workflow id is taken in that
    /// generation, or its own id, and nothing was written. In Postgres it is one transaction of several statements.
    pub fn insert_fork(&mut self, fork: &ForkedRun) -> bool {
        let tenant = fork.scope.tenant;
        if is_taken(self.tables(), tenant, &fork.run) && !self.is(Mutant::ForksOverATakenId) {
            return false;
        }
        let sets_none = self.is(Mutant::SetsNoTimersOfAFork);
        let tables = self.commit();
        insert_run(tables, tenant, &fork.run, &fork.rows);
        for child in &fork.children {
            // One that is not started is left out.
            if !is_taken(tables, tenant, child) {
                insert_run(tables, tenant, child, &[]);
            }
        }
        for timer in fork.timers.iter().filter(|_| !sets_none) {
            let new = Timer { tenant, due_ms: timer.due_ms, purpose: timer.purpose, owner: None };
            Arc::make_mut(&mut tables.timers).insert((timer.run, timer.op), new);
        }
        let projection = &fork.projection;
        if let Some(entity) = &projection.entity {
            Arc::make_mut(&mut tables.entities).insert(projection.run, (tenant, Arc::clone(entity)));
        }
        for (name, value) in projection.attributes.iter().filter(|(_, value)| value.is_some()) {
            let key = (projection.run, Arc::clone(name));
            Arc::make_mut(&mut tables.attributes).insert(key, (tenant, value.clone()));
        }
        for item in &fork.inbox {
            let message = Message { tenant, row: item.message.clone(), at_ms: item.at_ms, owner: None };
            tables.add_item(item.run, item.item_id, message);
        }
        true
    }
}

/// Whether there is a run of this id, or of this workflow id and generation.
fn is_taken(tables: &Tables, tenant: TenantId, new: &NewRun) -> bool {
    tables.runs.contains_key(&new.run) || tables.runs.values().any(|run| run.is_called(tenant, new))
}

/// A run without an owner, with its first rows.
fn insert_run(tables: &mut Tables, tenant: TenantId, new: &NewRun, rows: &[Row]) {
    Arc::make_mut(&mut tables.runs).insert(new.run, Run::started(tenant, new, None));
    let ledger = Arc::make_mut(Arc::make_mut(&mut tables.ledger).entry(new.run).or_default());
    for row in std::iter::once(&new.first).chain(&new.further).chain(rows) {
        ledger.insert(row.seq, (tenant, row.clone()));
    }
}
