//! What workers and operators say about tasks: calls that are carried out outside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backstitch_core::inbox::MessageRow;
use backstitch_core::matcher::{OfferVersion, PollRequest, Queue};
use backstitch_core::names::check_name;
use backstitch_core::run::OpenOp;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{
    Failure, FailureKind, HostId, Json, Kind, Message, Op, Run, RunId, RunStatus, Scope, TaskLease,
    TaskToken, date, limits,
};
use backstitch_engine::attempt;
use backstitch_engine::driver::{Input, Settle};
use backstitch_engine::matcher::{PollGuard, Woken};
use backstitch_ledger::{OpenTask, Settled, Taken, TakenTask, TaskCheck, TaskPage, TaskState};
use backstitch_scheduler::Settlement;
use backstitch_wire::params::WAIT_MS_ASKED_MAX;
use backstitch_wire::tasks::{
    ActivityListView, ActivityView, AnswerTask, HeartbeatTask, HeartbeatView, ListActivities, PollTasks,
    SettledTask, TaskFailure, TaskView,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::{ServiceError, internal, invalid};
use super::state::Service;
use super::views::{json, page_limit};

/// How long an answer waits to be read by a run of another host: longer than a host lives that does not.
const DECISION: Duration = Duration::from_secs(10);
/// Looks whether it was grow rarer from the one to the other.
const POLLS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

impl Service {
    /// Tasks for a worker: those that wait, or the first ones that come within its wait.
    pub async fn poll_tasks(&self, scope: Scope, poll: PollTasks) -> Result<Vec<TaskView>, ServiceError> {
        let wait = Duration::from_millis(poll.wait_ms.min(limits::TASK_WAIT_MS_MAX));
        let (queue, request) = poll_request(scope, poll)?;
        let until = Instant::now() + wait;
        let guard = self.matcher.poll(&queue, request.clone());
        loop {
            let backlog = guard.backlog();
            // One that does not wait wants to know for sure.
            if wait.is_zero() || !backlog.is_known_empty {
                let tasks = self.check_for_tasks(scope, &queue, &guard, &request, backlog.version).await?;
                if !tasks.is_empty() || Instant::now() >= until {
                    return Ok(self.deliver(scope, guard.leave(tasks)));
                }
            }
            match guard.wait(until, backlog.version).await {
                Woken::Tasks | Woken::Over => return Ok(self.deliver(scope, guard.leave(Vec::new()))),
                Woken::Check => {}
            }
        }
    }

    /// Tasks for their worker, if this host may still give them; else they go back.
    fn deliver(&self, scope: Scope, tasks: Vec<TaskView>) -> Vec<TaskView> {
        let undelivered = self.matcher.undelivered(scope.tenant, tasks);
        if self.tenure.holds() { undelivered.deliver() } else { Vec::new() }
    }

    /// Tasks that wait in the database; the matcher is told what that says of it.
    async fn check_for_tasks(
        &self,
        scope: Scope,
        queue: &Queue,
        guard: &PollGuard,
        request: &PollRequest,
        version: OfferVersion,
    ) -> Result<Vec<TaskView>, ServiceError> {
        let max = guard.check();
        if max == 0 || !self.tenure.holds() {
            return Ok(Vec::new());
        }
        let part = PollRequest { max, ..request.clone() };
        let (tasks, more) = self.take_tasks_safely(scope, queue, part, guard.grant()).await?;
        guard.checked(version, more);
        Ok(tasks)
    }

    /// As [`take_tasks`](Self::take_tasks), for a worker that may hang up at any moment: what is committed as its
    /// own then goes to the next at once, and not when the lease is over. And whether there are more.
    async fn take_tasks_safely(
        &self,
        scope: Scope,
        queue: &Queue,
        request: PollRequest,
        grant: LeaseGrant,
    ) -> Result<(Vec<TaskView>, bool), ServiceError> {
        let (service, queue) = (self.clone(), queue.clone());
        let taken = tokio::spawn(async move {
            let (tasks, more) = service.take_tasks(scope, &queue, &request, &grant).await?;
            Ok::<_, ServiceError>((service.matcher.undelivered(scope.tenant, tasks), more))
        });
        let (undelivered, more) = taken.await.map_err(|error| internal(&error))??;
        Ok((undelivered.deliver(), more))
    }

    async fn take_tasks(
        &self,
        scope: Scope,
        queue: &Queue,
        request: &PollRequest,
        grant: &LeaseGrant,
    ) -> Result<(Vec<TaskView>, bool), ServiceError> {
        let names = request.names.as_deref();
        let check = TaskCheck { task_queue: &queue.name, names, limit: request.max };
        let Taken { tasks: taken, more } = self.ledger.take_tasks(scope, check, grant).await?;
        self.counters.activities_started.fetch_add(taken.len() as u64, Ordering::Relaxed);
        if let Ok(term) = self.term() {
            let ours = taken.iter().filter(|task| task.owner == Some(term.host));
            let tokens: Vec<TaskToken> = ours.map(|task| task.token).collect();
            if !tokens.is_empty() {
                // Before the worker has them: its answer must not be there first.
                let _ = term.inputs.send(Input::Leased(tokens)).await;
            }
        }
        let tasks = taken.into_iter().map(|task| view(queue, task)).collect::<Result<_, _>>()?;
        Ok((tasks, more))
    }

    /// A worker's sign of life.
    pub async fn heartbeat_task(
        &self,
        scope: Scope,
        heartbeat: HeartbeatTask,
    ) -> Result<HeartbeatView, ServiceError> {
        let token = token(&heartbeat.token)?;
        if let Some(details) = &heartbeat.details
            && details.as_str().len() > limits::HEARTBEAT_BYTES_MAX
        {
            let message = format!(
                "heartbeat details of {} bytes; the most is {}: say where to go on, not what was done",
                details.as_str().len(),
                limits::HEARTBEAT_BYTES_MAX
            );
            return Err(ServiceError::TooLarge { code: "heartbeat-too-large", message });
        }
        let heartbeat = self.ledger.heartbeat_task(scope, token, heartbeat.details.as_ref()).await?;
        let heartbeat = heartbeat.ok_or_else(|| stale(token))?;
        Ok(HeartbeatView { cancel: heartbeat.given_up, lease_ms: heartbeat.lease_ms })
    }

    /// A worker has carried out a task.
    pub async fn answer_task(&self, scope: Scope, answer: AnswerTask) -> Result<(), ServiceError> {
        let token = token(&answer.token)?;
        let outcome = match (answer.output, answer.failure) {
            (Some(output), None) => Ok(output),
            (None, Some(failure)) => Err(failed(failure)?),
            _ => {
                let message = "an answer has an `output` or a `failure`, and not both".to_owned();
                return Err(invalid("invalid-body", message));
            }
        };
        if let Ok(output) = &outcome {
            self.admit(scope, output)?;
        }
        let _answered = self.matcher.answered(token.lease);
        if self.complete_in_host(scope, token, outcome.as_ref().ok()).await {
            return Ok(());
        }
        let TaskToken { op, attempt, .. } = token;
        let message = Message::AttemptEnded { op, attempt, outcome, heartbeat: None };
        self.complete_by_inbox(scope, token, &message).await
    }

    /// Workers have carried out tasks. Each answer has an end of its own.
    pub async fn settle_tasks(
        &self,
        scope: Scope,
        answers: Vec<AnswerTask>,
    ) -> Result<Vec<SettledTask>, ServiceError> {
        if answers.len() > limits::TASKS_SETTLED_MAX {
            let message = format!("{} answers; the most is {}", answers.len(), limits::TASKS_SETTLED_MAX);
            return Err(ServiceError::TooLarge { code: "too-many-answers", message });
        }
        let settling = answers.into_iter().map(|answer| async {
            match self.answer_task(scope, answer).await {
                Ok(()) => SettledTask { status: 200, code: None, detail: None },
                Err(error) => {
                    let problem = crate::api::problem::Problem::from(error).document();
                    SettledTask {
                        status: problem.status,
                        code: Some(problem.code),
                        detail: Some(problem.detail),
                    }
                }
            }
        });
        Ok(futures::future::join_all(settling).await)
    }

    /// A worker gives a task back.
    pub async fn release_task(&self, scope: Scope, text: &str) -> Result<(), ServiceError> {
        let token = token(text)?;
        let message = Message::AttemptFreed { op: token.op, attempt: token.attempt, heartbeat: None };
        self.complete_by_inbox(scope, token, &message).await
    }

    /// A worker will answer later.
    pub async fn defer_task(&self, scope: Scope, text: &str) -> Result<(), ServiceError> {
        let token = token(text)?;
        if self.ledger.hold_task(scope, token).await? { Ok(()) } else { Err(stale(token)) }
    }

    /// By the scheduler of this host, if it has the run and knows of the lease: one commit. False: it is for the
    /// database to say what is the first answer, and by now it can.
    async fn complete_in_host(&self, scope: Scope, token: TaskToken, output: Option<&Json>) -> bool {
        let Ok(term) = self.term() else { return false };
        let (reply, settled) = oneshot::channel();
        let settle = Settle { scope, token, output: output.cloned(), reply };
        if term.inputs.send(Input::Settle(settle)).await.is_err() {
            return false;
        }
        matches!(settled.await, Ok(Settlement::Done))
    }

    /// By the inbox of the run, whoever has it.
    async fn complete_by_inbox(
        &self,
        scope: Scope,
        token: TaskToken,
        message: &Message,
    ) -> Result<(), ServiceError> {
        let item = self.clock.new_inbox_item(token.run, message);
        match self.ledger.settle_task(scope, token, &item).await? {
            Settled::Left { owner } => {
                owner.into_iter().for_each(|owner| self.notifier.messages(owner));
                if owner == self.term().ok().map(|term| term.host)
                    || matches!(message, Message::AttemptFreed { .. })
                {
                    return Ok(());
                }
                // The owner may have had an answer before the task was gone.
                match self.is_outcome(scope, token, message, item.item_id).await? {
                    true => Ok(()),
                    false => Err(stale(token)),
                }
            }
            Settled::GivenUp if matches!(message, Message::AttemptFreed { .. }) => Ok(()),
            Settled::GivenUp => {
                let TaskToken { run, op, .. } = token;
                let message = format!("run {run} does not wait for op {op} any more");
                Err(ServiceError::Conflict { code: "task-given-up", message })
            }
            Settled::Stale if matches!(message, Message::AttemptFreed { .. }) => Err(stale(token)),
            // The very same answer may have been given before. It is found twice: what was confirmed in between is safe,
            // if it is still there.
            Settled::Stale => {
                if self.was_given(scope, token, message, &item.message).await? {
                    self.ledger.confirm().await?;
                    if self.was_given(scope, token, message, &item.message).await? {
                        return Ok(());
                    }
                }
                Err(stale(token))
            }
        }
    }

    /// Whether this very answer was given before, and is the outcome or on its way to be.
    async fn was_given(
        &self,
        scope: Scope,
        token: TaskToken,
        message: &Message,
        row: &MessageRow,
    ) -> Result<bool, ServiceError> {
        let waits = match self.ledger.run_status(scope, token.run).await? {
            Some(_) => self.ledger.answer_waiting(scope, token, row).await?,
            None => return Ok(false),
        };
        match waits {
            Some(earlier) => self.is_outcome(scope, token, message, earlier).await,
            None => self.is_recorded(scope, token, message).await,
        }
    }

    /// Whether an answer that was left in the inbox of its run is what the ledger says then, and not one that the run
    /// had from elsewhere at the same time. A run that does not read takes no other answer either.
    async fn is_outcome(
        &self,
        scope: Scope,
        token: TaskToken,
        message: &Message,
        item: Uuid,
    ) -> Result<bool, ServiceError> {
        let over = Instant::now() + DECISION;
        let mut pause = POLLS.0;
        while let Some(status) = self.ledger.status_if_unread(token.run, item).await? {
            if Instant::now() >= over || status == RunStatus::Parked {
                return Ok(true);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLLS.1);
        }
        self.is_recorded(scope, token, message).await
    }

    /// Whether this very answer is in the ledger.
    async fn is_recorded(
        &self,
        scope: Scope,
        token: TaskToken,
        message: &Message,
    ) -> Result<bool, ServiceError> {
        let kinds = match message {
            Message::AttemptEnded { outcome: Ok(_), .. } => &[Kind::ActivityCompleted][..],
            _ => &[Kind::ActivityFailed, Kind::ActivityAttemptFailed],
        };
        let recorded = self.ledger.outcome_of(scope, token, kinds).await?;
        Ok(recorded.is_some() && recorded.as_deref() == message.to_row().payload.as_deref())
    }

    /// A page of open tasks.
    pub async fn list_activities(
        &self,
        scope: Scope,
        list: ListActivities,
    ) -> Result<ActivityListView, ServiceError> {
        let limit = page_limit(list.limit, 100)?;
        let run = match &list.run {
            Some(id) => Some(self.find_id(scope, id).await?),
            None => None,
        };
        let after = list.cursor.as_deref().map(cursor).transpose()?;
        let page = TaskPage { run, task_queue: list.task_queue.as_deref(), after, limit };
        let tasks = self.ledger.tasks(scope, page).await?;
        let full = tasks.len() == limit as usize;
        let next_cursor = tasks.last().filter(|_| full).map(|task| format!("{}.{}", task.run, task.op));
        let activities = tasks.into_iter().map(activity).collect::<Result<_, _>>()?;
        Ok(ActivityListView { activities, next_cursor })
    }

    /// An operator says how a call ends, or that its attempt has failed.
    pub async fn overrule_activity(
        &self,
        scope: Scope,
        id: &str,
        op: Op,
        outcome: Result<Json, TaskFailure>,
    ) -> Result<(), ServiceError> {
        let outcome = match outcome {
            Ok(output) => Ok(output),
            Err(failure) => Err(failed(failure)?),
        };
        if let Ok(output) = &outcome {
            self.admit(scope, output)?;
        }
        let (run, attempt, owner) = self.open_call(scope, id, op).await?;
        let message = Message::AttemptEnded { op, attempt, outcome, heartbeat: None };
        let item = self.clock.new_inbox_item(run, &message);
        let is_first = self.ledger.overrule_task(scope, op, &item).await?;
        owner.into_iter().for_each(|owner| self.notifier.messages(owner));
        // Which task it was does not matter any more.
        let token = TaskToken { run, op, attempt, lease: TaskLease(Uuid::nil()) };
        if is_first && self.is_outcome(scope, token, &message, item.item_id).await? {
            return Ok(());
        }
        let message = format!("op {op} of run {run} was answered otherwise at the same time, or given up");
        Err(ServiceError::Conflict { code: "already-answered", message })
    }

    /// An operator wants the next attempt of a call now.
    pub async fn retry_activity(&self, scope: Scope, id: &str, op: Op) -> Result<(), ServiceError> {
        let (run, ..) = self.open_call(scope, id, op).await?;
        self.post(scope, &run.to_string(), &Message::AttemptWanted { op }).await
    }

    /// A call that a run waits for, which attempt of it is next, and whose the run is.
    async fn open_call(
        &self,
        scope: Scope,
        id: &str,
        op: Op,
    ) -> Result<(RunId, u32, Option<HostId>), ServiceError> {
        let info = self.find(scope, id).await?;
        let run = info.summary.run;
        let (rows, _held) = self.whole(run, 1).await?;
        let (folded, _) = Run::load_all(run, &rows).map_err(|corrupt| {
            let message = format!("the ledger of run {run} is damaged: {corrupt}");
            ServiceError::Conflict { code: "ledger-damaged", message }
        })?;
        match folded.open_op(op) {
            Some(OpenOp::Activity { attempts, .. }) => Ok((run, attempts + 1, info.summary.owner)),
            _ => {
                let message = format!(
                    "run {run} waits for no activity under op {op}; `backstitch run show {run}` lists what \
                     it waits for"
                );
                Err(ServiceError::NotFound { code: "unknown-activity", message })
            }
        }
    }
}

/// Checks what a worker asks for.
fn poll_request(scope: Scope, poll: PollTasks) -> Result<(Queue, PollRequest), ServiceError> {
    let PollTasks { task_queue, names, max, wait_ms, lease_ms, worker } = poll;
    let refuse = |message: String| Err(invalid("invalid-poll", message));
    let named = |problem| invalid("invalid-name", problem);
    check_name("task queue", &task_queue).map_err(named)?;
    if !worker.is_empty() {
        check_name("worker", &worker).map_err(named)?;
    }
    for name in names.iter().flatten() {
        check_name("activity", name).map_err(named)?;
    }
    if names.as_ref().is_some_and(|names| names.is_empty() || names.len() > limits::TASK_NAMES_MAX) {
        return refuse(format!(
            "`names` has 1 to {} activities; leave it away to take all of the queue",
            limits::TASK_NAMES_MAX
        ));
    }
    if !(1..=limits::TASKS_POLLED_MAX).contains(&max) {
        return refuse(format!("a max of {max}; it must be 1 to {}", limits::TASKS_POLLED_MAX));
    }
    if wait_ms > WAIT_MS_ASKED_MAX {
        return refuse(format!("wait_ms is at most {WAIT_MS_ASKED_MAX}; ask again for longer waits"));
    }
    let lease_ms = lease_ms.unwrap_or(limits::TASK_LEASE_MS);
    if !(limits::TASK_LEASE_MS_MIN..=limits::TASK_LEASE_MS_MAX).contains(&lease_ms) {
        return refuse(format!(
            "a lease of {lease_ms} ms; it must be {} to {}: a heartbeat extends it, and `:defer` is for answers \
             that come much later",
            limits::TASK_LEASE_MS_MIN,
            limits::TASK_LEASE_MS_MAX
        ));
    }
    let queue = Queue { tenant: scope.tenant, name: task_queue.into() };
    let names = names.map(|names| Arc::new(BTreeSet::from_iter(names)));
    Ok((queue, PollRequest { names, max, lease_ms, worker: worker.into() }))
}

fn view(queue: &Queue, task: TakenTask) -> Result<TaskView, ServiceError> {
    let token = task.token;
    let view = TaskView {
        token: token.to_string(),
        run_id: token.run,
        workflow_id: task.workflow_id,
        op: token.op,
        attempt: token.attempt,
        name: task.name,
        task_queue: queue.name.to_string(),
        input: json(&task.input)?,
        idempotency_key: attempt::idempotency_key(token),
        lease_ms: task.lease_ms,
        deadline: task.deadline_ms.map(date::rfc3339),
        heartbeat_details: task.heartbeat.as_deref().map(json).transpose()?,
        traceparent: attempt::traceparent(token),
    };
    attempt::log_remote(&view);
    Ok(view)
}

fn activity(task: OpenTask) -> Result<ActivityView, ServiceError> {
    Ok(ActivityView {
        run_id: task.run,
        workflow_id: task.workflow_id,
        op: task.op,
        attempt: task.attempt,
        name: task.name,
        task_queue: task.task_queue,
        state: match task.state {
            TaskState::Offered => "offered",
            TaskState::Leased => "leased",
            TaskState::Held => "held",
            TaskState::GivenUp => "given-up",
        }
        .to_owned(),
        worker: task.worker.filter(|worker| !worker.is_empty()),
        offered_at: date::rfc3339(task.offered_ms),
        leased_until: task.leased_until_ms.map(date::rfc3339),
        deadline: task.deadline_ms.map(date::rfc3339),
        heartbeat_details: task.heartbeat.as_deref().map(json).transpose()?,
    })
}

fn token(text: &str) -> Result<TaskToken, ServiceError> {
    text.parse().map_err(|error: backstitch_core::task::NoToken| invalid("invalid-token", error.to_string()))
}

fn cursor(text: &str) -> Result<(RunId, Op), ServiceError> {
    let parts = text.split_once('.');
    let parsed = parts.and_then(|(run, op)| Some((run.parse().ok()?, Op(op.parse().ok()?))));
    parsed.ok_or_else(|| {
        invalid("invalid-cursor", "the cursor is not one that a page of activities gave".to_owned())
    })
}

/// An author's failure, within bounds.
fn failed(failure: TaskFailure) -> Result<Failure, ServiceError> {
    let TaskFailure { code, message, retryable, retry_after_ms, details } = failure;
    let fatal = Failure::fatal(FailureKind::Application, &code, message);
    let failure = Failure { retryable, retry_after_ms, details, ..fatal }.with_plain_code().clipped();
    match failure.to_json() {
        Ok(_) => Ok(failure),
        Err(error) => {
            let message = format!("the failure is no payload: {error}");
            Err(ServiceError::TooLarge { code: "failure-too-large", message })
        }
    }
}

fn stale(token: TaskToken) -> ServiceError {
    let TaskToken { run, op, attempt, .. } = token;
    let message = format!(
        "attempt {attempt} of op {op} of run {run} is not this worker's any more: its lease ran out, or it was \
         answered otherwise; drop it"
    );
    ServiceError::Conflict { code: "stale-token", message }
}
