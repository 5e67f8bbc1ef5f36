//! How tasks come to their end. See `tasks/endings.rs` of the ledger crate. Its clock is `now_ms`.

use std::sync::Arc;

use backstitch_core::inbox::{ANSWERS, MessageRow};
use backstitch_core::task::{Lapse, lapsed, untaken};
use backstitch_core::{HostId, Json, Message as Sent, Op, RunId, Scope, TaskToken};
use backstitch_ledger::{NewItem, Settled, Sweep};
use uuid::Uuid;

use super::database::{Database, Mutant};
use super::rows::{Message, Task};

impl Database {
    /// Removes a task and leaves the answer in its run's inbox.
    pub fn settle_task(&mut self, scope: Scope, token: TaskToken, item: &NewItem) -> Settled {
        let key = (token.run, token.op);
        let takes_any = self.is(Mutant::TakesAStaleAnswer);
        let drops = self.is(Mutant::DropsAHeartbeat);
        let posts_all = self.is(Mutant::LeavesAnAnswerNobodyWaitsFor);
        let is_meant = |task: &&Task| task.is_of(scope, token) || takes_any;
        let Some(task) = self.tables().tasks.get(&key).filter(is_meant).cloned() else {
            return Settled::Stale;
        };
        let tables = self.commit();
        Arc::make_mut(&mut tables.tasks).remove(&key);
        if task.given_up && !posts_all {
            return Settled::GivenUp;
        }
        let owner = tables.owner(token.run);
        let detail = match &task.heartbeat {
            // As json_build_object writes it.
            Some(said) if !drops => {
                Some(format!("{{\"attempt\" : {}, \"heartbeat\" : {said}}}", token.attempt).into())
            }
            _ => item.message.detail.clone(),
        };
        let row = MessageRow { op: Some(token.op), name: None, detail, ..item.message.clone() };
        let message = Message { tenant: scope.tenant, row, at_ms: item.at_ms, owner };
        tables.add_item(token.run, item.item_id, message);
        Settled::Left { owner }
    }

    /// An operator's word about a call: removes its task, whoever has it; false: an answer is there already.
    pub fn overrule_task(&mut self, scope: Scope, op: Op, item: &NewItem) -> bool {
        let is_answer = |(_, message): (Uuid, &Message)| {
            message.row.op == Some(op) && ANSWERS.contains(&message.row.kind)
        };
        if self.tables().messages(item.run).any(is_answer) && !self.is(Mutant::OverrulesAnAnswer) {
            return false;
        }
        let tables = self.commit();
        if tables.tasks.get(&(item.run, op)).is_some_and(|task| task.tenant == scope.tenant) {
            Arc::make_mut(&mut tables.tasks).remove(&(item.run, op));
        }
        let row = MessageRow { op: Some(op), name: None, ..item.message.clone() };
        let (tenant, owner) = (scope.tenant, tables.owner(item.run));
        tables.add_item(item.run, item.item_id, Message { tenant, row, at_ms: item.at_ms, owner });
        true
    }

    /// Ends leases that have run out, calls that nobody took in time, and tasks that were given up, at most `limit` of each.
    /// `item_id` makes the ids of messages; the order of the tasks is Postgres' choice, so it is told which.
    pub fn sweep_tasks(
        &mut self,
        now_ms: u64,
        at_ms: u64,
        limit: usize,
        item_id: impl FnMut(RunId, Op) -> Uuid,
    ) -> Sweep {
        let sweeps_living = self.is(Mutant::SweepsALivingLease);
        let tasks = &self.tables().tasks;
        let is_past = |bound: Option<u64>| bound.is_some_and(|bound| bound <= now_ms);
        let keys = |is_over: &dyn Fn(&Task) -> bool| {
            let over = tasks.iter().filter(|(_, task)| is_over(task)).map(|(key, _)| *key);
            over.take(limit).collect::<Vec<_>>()
        };
        let mut over =
            keys(&|task| is_past(task.leased_until_ms) || (sweeps_living && task.leased_until_ms.is_some()));
        over.extend(keys(&|task| task.lease.is_none() && is_past(task.start_by_ms)));
        over.extend(keys(&|task| task.lease.is_none() && task.given_up));
        over.sort_unstable();
        over.dedup();
        self.take_away(&over, at_ms, |key, task| ended(key, task, now_ms), item_id)
    }

    /// In how many milliseconds the next lease or wait for a worker is over.
    pub fn next_sweep_ms(&self, now_ms: u64) -> Option<u64> {
        let bounds = self
            .tables()
            .tasks
            .values()
            .flat_map(|task| [task.leased_until_ms, task.start_by_ms.filter(|_| task.lease.is_none())]);
        bounds.flatten().min().map(|bound| bound.saturating_sub(now_ms))
    }

    /// Takes back tasks that no worker has, of the activities that a component serves now.
    pub fn free_tasks(
        &mut self,
        scope: Scope,
        served: &[(String, String)],
        at_ms: u64,
        limit: usize,
        item_id: impl FnMut(RunId, Op) -> Uuid,
    ) -> Sweep {
        let is_served = |task: &Task| {
            let mut served = served.iter();
            served.any(|(queue, name)| **queue == *task.task_queue && **name == *task.name)
        };
        let free = self
            .tables()
            .tasks
            .iter()
            .filter(|(_, task)| task.tenant == scope.tenant && task.is_free() && is_served(task));
        let free: Vec<(RunId, Op)> = free.map(|(key, _)| *key).take(limit).collect();
        self.take_away(&free, at_ms, freed, item_id)
    }

    /// Forgets tasks that nobody has, of runs that are closed; how many.
    pub fn forget_tasks(&mut self) -> u64 {
        let tables = self.commit();
        let runs = Arc::clone(&tables.runs);
        let tasks = Arc::make_mut(&mut tables.tasks);
        let before = tasks.len();
        tasks.retain(|(run, _), task| {
            task.lease.is_some() || runs.get(run).is_none_or(|run| run.status.is_open())
        });
        (before - tasks.len()) as u64
    }

    fn take_away(
        &mut self,
        over: &[(RunId, Op)],
        at_ms: u64,
        message: impl Fn((RunId, Op), &Task) -> Sent,
        mut item_id: impl FnMut(RunId, Op) -> Uuid,
    ) -> Sweep {
        let tables = self.commit();
        let mut owners: Vec<HostId> = Vec::new();
        for key in over {
            let Some(task) = Arc::make_mut(&mut tables.tasks).remove(key) else { continue };
            let item = item_id(key.0, key.1);
            if task.given_up {
                continue;
            }
            let owner = tables.owner(key.0);
            owners.extend(owner);
            let row = message(*key, &task).to_row();
            tables.add_item(key.0, item, Message { tenant: task.tenant, row, at_ms, owner });
        }
        owners.sort_unstable();
        owners.dedup();
        Sweep { tasks: over.len(), owners }
    }
}

fn heartbeat(task: &Task) -> Option<Json> {
    task.heartbeat.as_ref().and_then(|said| Json::new(Arc::clone(said)).ok())
}

/// What a run hears of a task whose time is over.
fn ended((_, op): (RunId, Op), task: &Task, now_ms: u64) -> Sent {
    let is_past = |bound: Option<u64>| bound.is_some_and(|bound| bound <= now_ms);
    let (is_late, is_overdue) = (is_past(task.deadline_ms), is_past(task.close_by_ms));
    let lapsed = |lapse| lapsed(lapse, &task.name, task.worker.as_deref().unwrap_or_default());
    let failure = match (task.lease.is_some(), is_late, is_overdue) {
        (false, ..) => untaken(is_overdue, &task.name, &task.task_queue),
        (true, _, true) => lapsed(Lapse::ScheduleToClose),
        (true, true, false) => lapsed(Lapse::StartToClose),
        (true, false, false) => lapsed(Lapse::HeartbeatTimeout),
    };
    Sent::AttemptEnded { op, attempt: task.attempt, outcome: Err(failure), heartbeat: heartbeat(task) }
}

/// What a run hears of a task that is offered no more.
fn freed((_, op): (RunId, Op), task: &Task) -> Sent {
    Sent::AttemptFreed { op, attempt: task.attempt, heartbeat: heartbeat(task) }
}
