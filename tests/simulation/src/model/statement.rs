//! The one statement of an append. All of its parts see the tables as they were before it: only which runs were started is
//! known to the others.

use std::collections::HashSet;
use std::sync::Arc;

use backstitch_core::{HostId, RunId, RunStatus};
use backstitch_ledger::{Append, Close, Item, Lease, NewTask, PoisonKind, StatusChange};

use super::database::{Database, Mutant, Tables};
use super::fence::rows_of;
use super::rows::{Message, Run, Task, Timer, least};

/// What a statement reports.
pub(super) enum Appended {
    Fenced,
    Behind(Vec<RunId>),
    /// New runs that were not started.
    Done(Vec<RunId>),
    /// An error of the data: nothing was written.
    Guilty(PoisonKind),
}

/// One statement, while its parts are carried out.
struct Parts<'a> {
    host: HostId,
    now_ms: u64,
    before: &'a Tables,
    items: &'a [Item],
    refused: HashSet<RunId>,
    started: HashSet<RunId>,
    mutant: Option<Mutant>,
}

impl Database {
    /// Sends one statement for all of `items`, which are a batch.
    pub(super) fn execute(&mut self, lease: Lease, items: &[Item], now_ms: u64) -> Appended {
        if !self.is_held(lease) {
            return Appended::Fenced;
        }
        let behind = self.behind(lease.host, items);
        if !behind.is_empty() {
            return Appended::Behind(behind);
        }
        let before = self.tables().clone();
        let mut after = before.clone();
        let mut parts = Parts {
            host: lease.host,
            now_ms,
            before: &before,
            items,
            refused: HashSet::new(),
            started: HashSet::new(),
            mutant: self.mutant(),
        };
        let refused = parts.start(&mut after);
        let written = parts.append(&mut after).and_then(|()| parts.set_timers(&mut after));
        if let Err(kind) = written {
            return Appended::Guilty(kind);
        }
        parts.send(&mut after);
        parts.remember(&mut after);
        parts.hand_out(&mut after);
        *self.commit() = after;
        Appended::Done(refused)
    }
}

impl Parts<'_> {
    fn appends(&self) -> impl Iterator<Item = &Append> {
        self.items.iter().map(|item| &item.append)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// New runs; those that are not started, for their id or workflow id is taken.
    fn start(&mut self, after: &mut Tables) -> Vec<RunId> {
        let mut refused = Vec::new();
        for Item { append, .. } in self.items {
            let tenant = append.scope.tenant;
            for new in &append.new_runs {
                let is_named = !self.is(Mutant::StartsAWorkflowIdTwice)
                    && after.runs.values().any(|run| run.is_called(tenant, new));
                if is_named || after.runs.contains_key(&new.run) {
                    self.refused.insert(new.run);
                    refused.push(new.run);
                    continue;
                }
                self.started.insert(new.run);
                let run = Run::started(tenant, new, Some(self.host));
                Arc::make_mut(&mut after.runs).insert(new.run, run);
            }
        }
        refused
    }

    /// Ledger rows, and what becomes of runs.
    fn append(&self, after: &mut Tables) -> Result<(), PoisonKind> {
        for (append, run, row) in rows_of(self.items) {
            if self.refused.contains(&run) {
                continue;
            }
            let rows = Arc::make_mut(Arc::make_mut(&mut after.ledger).entry(run).or_default());
            let taken = rows.insert(row.seq, (append.scope.tenant, row.clone())).is_some();
            if taken && !self.is(Mutant::OverwritesARow) {
                return Err(PoisonKind::SeqTaken);
            }
        }
        for append in self.appends() {
            let Some(change) = &append.status else { continue };
            if let StatusChange::Close(close) = change
                && !close.status.is_open()
                && !self.is(Mutant::KeepsTimersOfAClosedRun)
            {
                Arc::make_mut(&mut after.timers).retain(|(run, _), _| *run != append.run);
            }
            // One that is started by the same statement is not seen.
            let may = |run: &Run| {
                (run.owner == Some(self.host) || self.is(Mutant::ClosesARunOfAnother))
                    && run.closed_ms.is_none()
            };
            if self.before.runs.get(&append.run).is_some_and(may)
                && let Some(run) = after.run_mut(append.run)
            {
                let losses = run.losses;
                change_run(run, change);
                if self.is(Mutant::KeepsLossesOfARunThatGoesOn) {
                    run.losses = losses;
                }
            }
        }
        Ok(())
    }

    fn set_timers(&self, after: &mut Tables) -> Result<(), PoisonKind> {
        let timers = Arc::make_mut(&mut after.timers);
        // One that the same append sets again is replaced, not removed.
        let replaces = self.appends().filter(|append| !append.timers_done.is_empty());
        let again: HashSet<_> =
            replaces.flat_map(|append| append.timers.iter().map(|timer| (timer.run, timer.op))).collect();
        for key in self.appends().flat_map(|append| &append.timers_done).filter(|key| !again.contains(key)) {
            timers.remove(key);
        }
        for append in self.appends() {
            for timer in &append.timers {
                if self.refused.contains(&timer.run) && !self.is(Mutant::KeepsTimersOfARefusedStart) {
                    continue;
                }
                if timer.purpose < 0 {
                    return Err(PoisonKind::BadData);
                }
                let (key, owner) = ((timer.run, timer.op), Some(self.host));
                // One that is there keeps its tenant.
                let tenant = timers.get(&key).map_or(append.scope.tenant, |there| there.tenant);
                timers.insert(key, Timer { tenant, due_ms: timer.due_ms, purpose: timer.purpose, owner });
            }
        }
        Ok(())
    }

    /// Messages to other runs, and those that were read.
    fn send(&self, after: &mut Tables) {
        for append in self.appends() {
            for item in &append.inbox {
                let is_new = self.started.contains(&item.run);
                let is_there = is_new || self.before.runs.contains_key(&item.run);
                if !is_there && !self.is(Mutant::SendsToAMissingRun) {
                    continue;
                }
                let owner = if is_new { Some(self.host) } else { self.before.owner(item.run) };
                let (tenant, row) = (append.scope.tenant, item.message.clone());
                after.add_item(item.run, item.item_id, Message { tenant, row, at_ms: item.at_ms, owner });
            }
        }
        if self.is(Mutant::KeepsAConsumedMessage) {
            return;
        }
        for key in self.appends().flat_map(|append| &append.inbox_done) {
            if self.before.inbox.contains_key(key) {
                after.remove_item(key.0, key.1);
            }
        }
    }

    /// Entities and attributes.
    fn remember(&self, after: &mut Tables) {
        for append in self.appends() {
            let tenant = append.scope.tenant;
            for projection in
                append.projections.iter().filter(|projection| !self.refused.contains(&projection.run))
            {
                if let Some(entity) = &projection.entity {
                    let entities = Arc::make_mut(&mut after.entities);
                    entities.entry(projection.run).or_insert_with(|| (tenant, Arc::clone(entity))).1 =
                        Arc::clone(entity);
                }
                let attributes = Arc::make_mut(&mut after.attributes);
                for (name, value) in &projection.attributes {
                    attributes.entry((projection.run, Arc::clone(name))).or_insert((tenant, None)).1 =
                        value.clone();
                }
            }
        }
    }

    /// Tasks: offered, ended, given up.
    fn hand_out(&self, after: &mut Tables) {
        let tasks = Arc::make_mut(&mut after.tasks);
        for append in self.appends() {
            for op in &append.tasks_done {
                tasks.remove(&(append.run, *op));
            }
            for op in &append.tasks_given_up {
                if let Some(task) = tasks.get_mut(&(append.run, *op)) {
                    task.given_up = true;
                }
            }
        }
        for append in self.appends() {
            if self.refused.contains(&append.run) && !self.is(Mutant::OffersTasksOfARefusedStart) {
                continue;
            }
            for new in &append.tasks {
                let key = (append.run, new.op);
                let there = self.before.tasks.get(&key);
                let replaces = |there: &Task| {
                    there.attempt < new.attempt
                        || there.attempt == new.attempt && there.lease.is_none() && new.taken.is_some()
                        || self.is(Mutant::ReplacesATaskByAnEarlierAttempt)
                };
                if there.is_none_or(replaces) {
                    let tenant = there.map_or(append.scope.tenant, |there| there.tenant);
                    tasks.insert(key, Task { tenant, ..offered(new, append, self.now_ms) });
                }
            }
        }
    }
}

fn change_run(run: &mut Run, change: &StatusChange) {
    let was_parked = run.status == RunStatus::Parked;
    (run.output, run.error, run.fault, run.end, run.closed_ms) = (None, None, None, None, None);
    run.status = match change {
        StatusChange::Close(Close { status, at_ms, output, error, rows, chain }) => {
            run.output.clone_from(output);
            run.error.clone_from(error);
            (run.end, run.closed_ms) = (Some((*rows, *chain)), Some(*at_ms));
            *status
        }
        StatusChange::Park { fault } => {
            run.fault = Some(Arc::clone(fault));
            RunStatus::Parked
        }
        StatusChange::Pause => RunStatus::Paused,
        StatusChange::Run => RunStatus::Running,
    };
    if was_parked && matches!(run.status, RunStatus::Running | RunStatus::Paused) {
        run.losses = 0;
    }
}

fn offered(new: &NewTask, append: &Append, now_ms: u64) -> Task {
    let after = |ms: Option<u64>| ms.map(|ms| now_ms.saturating_add(ms));
    let taken = new.taken.as_ref();
    let lease_ms = taken.and_then(|taken| taken.lease_ms);
    let until = |bounds: Option<u64>| taken.and_then(|_| least([after(bounds), new.close_by_ms]));
    Task {
        tenant: append.scope.tenant,
        seq: new.seq,
        attempt: new.attempt,
        task_queue: Arc::clone(&new.task_queue),
        name: Arc::clone(&new.name),
        priority: new.priority,
        offered_ms: now_ms,
        start_by_ms: new.start_by_ms,
        close_by_ms: new.close_by_ms,
        attempt_ms: new.attempt_ms,
        heartbeat_timeout_ms: new.heartbeat_timeout_ms,
        heartbeat: new.heartbeat.clone(),
        lease: taken.map(|taken| taken.lease),
        lease_ms,
        leased_until_ms: until(least([lease_ms, new.heartbeat_timeout_ms, new.attempt_ms])),
        deadline_ms: until(new.attempt_ms),
        worker: taken.map(|taken| Arc::clone(&taken.worker)),
        given_up: false,
    }
}
