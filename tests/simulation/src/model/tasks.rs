//! Tasks: handed out, extended, held, shown. See `tasks.rs` of the ledger crate. Its clock is `now_ms`.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstitch_core::inbox::{LEFT_BY_TASKS, MessageRow};
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Json, Kind, Op, RunId, RunStatus, Scope, TaskToken, TenantId};
use backstitch_ledger::{OpenTask, Taken, TakenTask, TaskCheck, TaskHeartbeat, TaskPage, TaskState};
use uuid::Uuid;

use super::database::{Database, Mutant};
use super::rows::{Task, least};

impl Task {
    /// Whether it waits for a worker.
    pub(super) fn is_free(&self) -> bool {
        self.lease.is_none() && !self.given_up
    }

    /// Whether a token of this attempt and lease is good for it.
    pub(super) fn is_of(&self, scope: Scope, token: TaskToken) -> bool {
        self.tenant == scope.tenant && self.attempt == token.attempt && self.lease == Some(token.lease)
    }
}

impl Database {
    /// Hands out tasks of running runs, by priority and age.
    pub fn take_tasks(
        &mut self,
        scope: Scope,
        check: TaskCheck<'_>,
        grant: &LeaseGrant,
        now_ms: u64,
    ) -> Taken {
        let tables = self.tables();
        let hands_out_all = self.is(Mutant::HandsOutTasksOfAPausedRun);
        let waits = |(key, task): &(&(RunId, Op), &Task)| {
            task.tenant == scope.tenant
                && *task.task_queue == *check.task_queue
                && (task.is_free() || (self.is(Mutant::HandsATaskOutTwice) && !task.given_up))
                && check.names.is_none_or(|names| names.contains(&*task.name))
                && task.start_by_ms.is_none_or(|start_by| start_by > now_ms)
                && tables
                    .runs
                    .get(&key.0)
                    .is_some_and(|run| run.status == RunStatus::Running || hands_out_all)
        };
        let mut free: Vec<_> = tables
            .tasks
            .iter()
            .filter(waits)
            .map(|(key, task)| (task.priority, task.offered_ms, *key))
            .collect();
        free.sort_unstable();
        if self.is(Mutant::HandsOutTheYoungestFirst) {
            free.reverse();
        }
        let limit = check.limit as usize;
        let more = free.len() > limit;
        free.truncate(limit);
        let tables = self.commit();
        let mut tasks = Vec::new();
        for (_, _, key) in free {
            let task = tables.task_mut(key).expect("it was just found");
            let after = |ms: Option<u64>| ms.map(|ms| now_ms.saturating_add(ms));
            (task.lease, task.lease_ms) = (Some(grant.lease), grant.lease_ms);
            task.worker = Some(Arc::clone(&grant.worker));
            task.deadline_ms = least([after(task.attempt_ms), task.close_by_ms]);
            let heartbeat_timeout =
                after(least([grant.lease_ms, task.heartbeat_timeout_ms, task.attempt_ms]));
            task.leased_until_ms = least([heartbeat_timeout, task.close_by_ms]);
            let task = task.clone();
            // One whose input is lost is not told of.
            let Some(input) = tables.row(key.0, task.seq).and_then(|row| row.payload.as_deref()) else {
                continue;
            };
            let run = &tables.runs[&key.0];
            tasks.push(TakenTask {
                token: TaskToken { run: key.0, op: key.1, attempt: task.attempt, lease: grant.lease },
                workflow_id: run.workflow_id.to_string(),
                owner: run.owner,
                name: task.name.to_string(),
                input: input.to_owned(),
                lease_ms: least([task.lease_ms, task.heartbeat_timeout_ms]).unwrap_or(u64::MAX),
                deadline_ms: task.deadline_ms,
                heartbeat: task.heartbeat.as_deref().map(str::to_owned),
            });
        }
        Taken { tasks, more }
    }

    /// Those of `queues` on which tasks wait for a worker.
    pub fn queues_with_tasks(&self, queues: &[(TenantId, String)]) -> Vec<(TenantId, String)> {
        let waits = |(tenant, queue): &&(TenantId, String)| {
            let mut tasks = self.tables().tasks.values();
            tasks.any(|task| task.tenant == *tenant && *task.task_queue == **queue && task.is_free())
        };
        queues.iter().filter(waits).cloned().collect()
    }

    /// Extends a lease, and keeps what the worker says with it; none: the lease is gone.
    pub fn heartbeat_task(
        &mut self,
        scope: Scope,
        token: TaskToken,
        details: Option<&Json>,
        now_ms: u64,
    ) -> Option<TaskHeartbeat> {
        let task = self.commit().task_mut((token.run, token.op)).filter(|task| task.is_of(scope, token))?;
        let heartbeat_timeout = least([task.lease_ms, task.heartbeat_timeout_ms]);
        if task.lease_ms.is_some() {
            let until = heartbeat_timeout.map(|ms| now_ms.saturating_add(ms));
            task.leased_until_ms = least([until, task.deadline_ms]);
        }
        if let Some(details) = details {
            task.heartbeat = Some(details.text());
        }
        Some(TaskHeartbeat { given_up: task.given_up, lease_ms: heartbeat_timeout })
    }

    /// The worker will answer later; false: the lease is gone.
    pub fn hold_task(&mut self, scope: Scope, token: TaskToken) -> bool {
        let task = self.commit().task_mut((token.run, token.op));
        match task.filter(|task| task.is_of(scope, token) && !task.given_up) {
            Some(task) => {
                (task.lease_ms, task.leased_until_ms) = (None, task.deadline_ms);
                true
            }
            None => false,
        }
    }

    /// What is recorded as the outcome of an attempt; of several rows the last.
    pub fn outcome_of(&self, token: TaskToken, kinds: &[Kind]) -> Option<String> {
        let is_outcome = |row: &&backstitch_core::Row| {
            row.op == Some(token.op)
                && row.attempt == Some(token.attempt)
                && kinds.iter().any(|kind| kind.tag() == row.kind)
        };
        let row = self.tables().rows(token.run).filter(is_outcome).last()?;
        row.payload.as_deref().map(str::to_owned)
    }

    /// The message that waits for the run with this very answer to an attempt; of several the first.
    pub fn answer_waiting(&self, token: TaskToken, answer: &MessageRow) -> Option<Uuid> {
        let attempt = |message: &MessageRow| {
            let detail: serde_json::Value = serde_json::from_str(message.detail.as_deref()?).ok()?;
            detail.get("attempt")?.as_u64()
        };
        let (item, message) = self.tables().messages(token.run).find(|(_, message)| {
            message.row.op == Some(token.op)
                && message.row.kind == answer.kind
                && attempt(&message.row) == Some(u64::from(token.attempt))
        })?;
        (message.row.payload == answer.payload).then_some(item)
    }

    /// Which of these runs' calls have a task, or the message of one that is gone.
    pub fn tasks_of(&self, runs: &[RunId]) -> BTreeSet<(RunId, Op)> {
        let tasks =
            self.tables().tasks.iter().filter(|((run, _), task)| runs.contains(run) && !task.given_up);
        let left = runs.iter().flat_map(|run| {
            let messages = self.tables().messages(*run);
            let left = messages.filter(|(_, message)| LEFT_BY_TASKS.contains(&message.row.kind));
            left.filter_map(|(_, message)| Some((*run, message.row.op?)))
        });
        tasks.map(|(key, _)| *key).chain(left).collect()
    }

    /// Open tasks in the order of their runs and calls.
    pub fn tasks(&self, scope: Scope, page: TaskPage<'_>) -> Vec<OpenTask> {
        let is_wanted = |((run, op), task): &(&(RunId, Op), &Task)| {
            task.tenant == scope.tenant
                && page.run.is_none_or(|wanted| wanted == *run)
                && page.task_queue.is_none_or(|queue| queue == &*task.task_queue)
                && page.after.is_none_or(|after| (*run, *op) > after)
        };
        let wanted = self.tables().tasks.iter().filter(is_wanted).take(page.limit as usize);
        let shown = |(key, task): (&(RunId, Op), &Task)| {
            let workflow_id = self.tables().runs.get(&key.0).map(|run| run.workflow_id.to_string());
            shown(*key, task, workflow_id.unwrap_or_default())
        };
        wanted.map(shown).collect()
    }

    /// Makes the bounds of an attempt that is under way so much earlier: for a test whose Postgres has a clock of its own.
    pub fn backdate_task(&mut self, run: RunId, op: Op, ms: u64) {
        if let Some(task) = self.commit().task_mut((run, op)) {
            for bound in [&mut task.leased_until_ms, &mut task.deadline_ms] {
                *bound = bound.map(|bound| bound.saturating_sub(ms));
            }
        }
    }
}

fn shown((run, op): (RunId, Op), task: &Task, workflow_id: String) -> OpenTask {
    OpenTask {
        run,
        op,
        workflow_id,
        attempt: task.attempt,
        task_queue: task.task_queue.to_string(),
        name: task.name.to_string(),
        state: match (task.given_up, task.lease, task.lease_ms) {
            (true, ..) => TaskState::GivenUp,
            (_, None, _) => TaskState::Offered,
            (_, Some(_), None) => TaskState::Held,
            (_, Some(_), Some(_)) => TaskState::Leased,
        },
        worker: task.worker.as_deref().map(str::to_owned),
        offered_ms: task.offered_ms,
        leased_until_ms: task.leased_until_ms,
        deadline_ms: task.deadline_ms,
        heartbeat: task.heartbeat.as_deref().map(str::to_owned),
    }
}
