//! Attempts of activities: whose turn it is, where they run, what follows a failure.
//!
//! A call that no component serves is offered to workers outside: its task is a row beside the ledger, in the
//! append of the call. What a worker answers comes back as a message, or, if this host knows of its lease,
//! at once. An attempt on this host may leave its call to be answered in the same way: `crate::deferral`.
//!
//! An attempt on this host starts as soon as its call is on its way to the ledger, or, if its guest is ahead of that,
//! when the call is committed. The row with its outcome goes after the call's row, so no outcome is durable
//! without its call. A host that dies in between leaves an attempt that nobody recorded; the next owner makes it again under the same
//! idempotency key. An attempt whose call was given up while it ran, and that hears of it by its heartbeat,
//! keeps its place among those that run until it ends; what it ends with is logged and nothing else.
//! Attempts that nobody outside can notice are made by the guest threads instead, ahead
//! of both rows.

use std::sync::Arc;

use backstitch_core::matcher::Queue;
use backstitch_core::retry::Verdict;
use backstitch_core::run::OpenOp;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Event, Failure, Json, Op, Run, RunId, StartOptions, TaskLease, TaskToken};
use backstitch_ledger::{Append, NewTask, NewTimer};
use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::input::{AttemptEnd, Deferring, Ended, Guard, Input, Settle, Settlement};
use super::pending::{Held, Offer, Pending};
use super::plan::Purpose;
use super::slot::{Attempt, Running};
use super::state::Scheduler;
use super::waiting::Waiting;

/// Answers to tasks that are remembered while they are on their way, before those that are not any more are forgotten.
const SETTLING_MAX: usize = 1_024;
use crate::deferral::Deferral;
use crate::{ambient, attempt, crash};

impl Scheduler {
    /// Whether a component of this host makes the attempts of an open call.
    fn is_served(&self, id: RunId, op: Op) -> bool {
        let Some(slot) = self.slots.get(&id) else { return false };
        let Some(OpenOp::Activity { name, options, .. }) = slot.run.open_op(op) else { return false };
        self.tools.programs.activity(slot.facts.scope, options.queue(), name).is_some()
    }

    /// Sees to the next attempts of calls: here, or outside.
    pub(super) fn enqueue_attempts(&mut self, id: RunId, calls: Vec<Op>) {
        let Some(slot) = self.slots.get(&id).filter(|slot| !slot.run.is_paused()) else { return };
        let append = Append::new(slot.facts.scope, id);
        if !slot.is_sure() || calls.iter().any(|op| !self.is_served(id, *op)) {
            return self.send_with_calls(id, append, calls, None, |_| {});
        }
        for op in calls {
            if self.awaits_turn(id, op) {
                self.queue_up(id, op);
            }
        }
    }

    /// Sends an append, and with it the tasks of those calls that are for workers outside; the others get in line
    /// for their next attempt here. `heartbeat`: what the attempts themselves have said so far.
    pub(super) fn send_with_calls(
        &mut self,
        id: RunId,
        mut append: Append,
        calls: impl IntoIterator<Item = Op>,
        heartbeat: Option<&Json>,
        note: impl FnOnce(&mut Pending),
    ) {
        let (here, outside): (Vec<Op>, Vec<Op>) = calls.into_iter().partition(|op| self.is_served(id, *op));
        let offers: Vec<Offer> =
            outside.into_iter().filter_map(|op| self.offer(id, op, heartbeat, &mut append)).collect();
        let here: Vec<Op> = here.into_iter().filter(|op| self.awaits_turn(id, *op)).collect();
        let is_sure = self.slots.get(&id).is_some_and(super::slot::Slot::is_sure);
        let (at_once, later) = if is_sure { (here, Vec::new()) } else { (Vec::new(), here) };
        self.send(id, append, |pending| {
            (pending.offers, pending.calls) = (offers, later);
            note(pending);
        });
        for op in at_once {
            self.queue_up(id, op);
        }
    }

    /// Offers the next attempt of a call to workers outside; the task goes with `append`. `heartbeat`: what the
    /// attempt itself has said so far. None: the run waits for no such call, or is held.
    fn offer(&mut self, id: RunId, op: Op, heartbeat: Option<&Json>, append: &mut Append) -> Option<Offer> {
        let slot = self.slots.get_mut(&id)?;
        if slot.run.is_paused() {
            // Its turn comes when the run is resumed.
            return None;
        }
        let Some(OpenOp::Activity { input, heartbeat: said, .. }) = slot.run.open_op(op) else { return None };
        let heartbeat = heartbeat.or(said.as_ref()).cloned();
        let mut task = task(&slot.run, op, heartbeat.as_ref())?;
        let queue = Queue { tenant: slot.facts.scope.tenant, name: Arc::clone(&task.task_queue) };
        let name = Arc::clone(&task.name);
        let reservation = self.tools.matcher.reserve(&queue, &name);
        task.taken = reservation.as_ref().map(|reservation| reservation.grant.clone());
        let lease = reservation.as_ref().map(|reservation| reservation.grant.lease);
        let view = lease.map(|lease| {
            let token = TaskToken { run: id, op, attempt: task.attempt, lease };
            attempt::outside(&slot.facts, token, &task, input.clone(), heartbeat, self.tools.clock.now_ms())
        });
        append.tasks.push(task);
        slot.attempts.insert(op, Attempt::Offered { lease });
        Some(Offer { run: id, op, queue, name, reserved: reservation.zip(view) })
    }

    /// A task is committed: the worker that waits for it gets it, or workers hear that there is one.
    pub(super) fn offered(&mut self, offer: Offer) {
        let Offer { run, op, queue, name, reserved } = offer;
        if let Some((reservation, task)) = reserved {
            attempt::log_outside(&task);
            let started = &self.tools.counters.activities_started;
            started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return reservation.deliver(task);
        }
        if self.is_served(run, op) {
            // Deployed while it was being committed: whoever has deployed it may have missed it.
            return self.tools.crier.deployed();
        }
        self.tools.matcher.offered(&queue, &name);
        self.tools.crier.offered(&queue);
    }

    /// An attempt leaves its call to whoever it gives the token. It gets none if nobody waits for an outcome.
    pub(super) fn defer(&mut self, deferring: Deferring) {
        let Deferring { run: id, op, attempt, until_ms, heartbeat, reply } = deferring;
        let known = self.slots.get_mut(&id).filter(|slot| slot.run.is_open() && !slot.stale);
        let Some(slot) = known.filter(|slot| slot.awaits_attempt(op, attempt)) else { return };
        let Some(Attempt::Running(running)) = slot.attempts.get_mut(&op) else { return };
        if running.number != attempt || running.lease.is_some() {
            return;
        }
        let Some(task) = task(&slot.run, op, heartbeat.as_ref()) else { return };
        let lease = ambient::new_task_lease();
        running.lease = Some(lease);
        let task = NewTask {
            // It has been taken, whoever answers it.
            start_by_ms: None,
            attempt_ms: until_ms.map(|until_ms| until_ms.saturating_sub(self.tools.clock.now_ms())),
            // The attempt's own silence is its sandbox's affair, and nobody else's is bounded.
            heartbeat_timeout_ms: None,
            taken: Some(LeaseGrant { lease, lease_ms: None, worker: "".into() }),
            ..task
        };
        let token = TaskToken { run: id, op, attempt, lease };
        let append = Append { tasks: vec![task], ..Append::new(slot.facts.scope, id) };
        self.send(id, append, |pending| pending.held = Some(Held { token, reply }));
    }

    /// A call is held: its attempt may give the token away.
    pub(super) fn held(&mut self, id: RunId, held: Held) {
        let Held { token, reply } = held;
        let op = token.op;
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.stale) else { return };
        match slot.attempts.get(&op) {
            Some(attempt) if attempt.holds(token.lease) => {
                let _ = reply.send(token);
            }
            // A later attempt has made it its own.
            Some(attempt) if attempt.has_task() => {}
            // The attempt was stopped meanwhile: nobody will ever show this token.
            _ => {
                let append = Append { tasks_done: vec![op], ..Append::new(slot.facts.scope, id) };
                self.send(id, append, |_| {});
            }
        }
    }

    /// Workers have tasks of runs of this host.
    pub(super) fn leased(&mut self, tokens: &[TaskToken]) {
        for token in tokens {
            let attempt = self.slots.get_mut(&token.run).and_then(|slot| slot.attempts.get_mut(&token.op));
            if let Some(Attempt::Offered { lease: lease @ None }) = attempt {
                *lease = Some(token.lease);
            }
        }
    }

    /// A worker has carried out a task. One whose lease this host knows becomes a row at once, and whoever else shows
    /// that lease waits for it: only one answer counts.
    pub(super) fn settle(&mut self, settle: Settle) {
        let Settle { scope, token: TaskToken { run: id, op, attempt, lease }, output, reply } = settle;
        if let Some(first) = self.settling.get(&lease).filter(|first| !first.is_cancelled()) {
            let _ = reply.send(Settlement::Later(first.clone()));
            return;
        }
        let known = self.slots.get_mut(&id).filter(|slot| slot.run.is_open() && !slot.stale);
        let known = known.filter(|slot| slot.facts.scope == scope);
        let known = known.filter(|slot| {
            matches!(slot.attempts.get(&op), Some(Attempt::Offered { lease: Some(known) }) if *known == lease)
                && slot.awaits_attempt(op, attempt)
        });
        let (Some(slot), Some(output)) = (known, output) else {
            if let Some(Attempt::Offered { lease: known }) =
                self.slots.get_mut(&id).and_then(|slot| slot.attempts.get_mut(&op))
            {
                // From now on it is for the task's row to say which answer was the first.
                known.take_if(|known| *known == lease);
            }
            let _ = reply.send(Settlement::Elsewhere);
            return;
        };
        slot.attempts.remove(&op);
        let event = Event::ActivityClosed { op, attempt, outcome: Ok(output) };
        let on_its_way = CancellationToken::new();
        if self.settling.len() >= SETTLING_MAX {
            self.settling.retain(|_, other| !other.is_cancelled());
        }
        self.settling.insert(lease, on_its_way.clone());
        let waiting = Waiting { settled: Some((reply, on_its_way.drop_guard())), ..Waiting::default() };
        self.outcome(id, event, waiting, |append| append.tasks_done.push(op));
        self.advance(id);
    }

    /// A task of the run is gone, and this is how it ended.
    pub(super) fn ended_outside(&mut self, id: RunId, ended: Ended, item: Uuid, guard: Option<Guard>) {
        let Ended { op, attempt, outcome, heartbeat } = ended;
        let Some((event, timer)) = self.judge(id, op, attempt, outcome, heartbeat) else {
            tracing::info!(run = %id, %op, attempt, "an attempt ended outside that nobody waited for");
            return self.consume(id, item);
        };
        if let Some(attempt) = self.slots.get_mut(&id).and_then(|slot| slot.attempts.remove(&op)) {
            attempt.answered();
        }
        self.outcome(id, event, guard, |append| {
            append.inbox_done.push((id, item));
            // A statement of unknown fate may have offered it again, an operator's word come before its time.
            append.tasks_done.push(op);
            append.timers_done.push((id, op));
            append.timers.extend(timer);
        });
    }

    /// Marks a call as one whose next attempt is made on this host. False: the run waits for no such call, or is held.
    fn awaits_turn(&mut self, id: RunId, op: Op) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        let waits = !slot.run.is_paused() && matches!(slot.run.open_op(op), Some(OpenOp::Activity { .. }));
        if waits {
            slot.attempts.insert(op, Attempt::Queued);
        }
        waits
    }

    /// Puts a call in line for its attempt, behind those of its priority.
    pub(super) fn queue_up(&mut self, id: RunId, op: Op) {
        let priority =
            self.slots.get(&id).map_or(StartOptions::PRIORITY_DEFAULT, |slot| slot.run.start().priority());
        self.attempt_queue[usize::from(priority - 1)].push_back((id, op));
    }

    /// Starts attempts while there is room, and the host has its lease: in the order of the priorities of their runs.
    pub(super) fn start_attempts(&mut self) {
        while self.draining.is_none() {
            let Some(line) = self.attempt_queue.iter().position(|line| !line.is_empty()) else { return };
            if !self.tools.tenure.holds() {
                return;
            }
            let Ok(permit) = Arc::clone(&self.attempts_running).try_acquire_owned() else { return };
            let Some((id, op)) = self.attempt_queue[line].pop_front() else { return };
            if !self.may_attempt(id, op) {
                continue;
            }
            self.start_attempt(id, op, Turn { permit: Some(permit), ended: Arc::clone(&self.attempt_ended) });
        }
    }

    /// Starts an attempt that is on trial: one more than there are places for, if need be.
    pub(super) fn start_tried(&mut self, id: RunId, op: Op) {
        let permit = Arc::clone(&self.attempts_running).try_acquire_owned().ok();
        self.start_attempt(id, op, Turn { permit, ended: Arc::clone(&self.attempt_ended) });
    }

    fn start_attempt(&mut self, id: RunId, op: Op, turn: Turn) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if !matches!(slot.attempts.get(&op), Some(Attempt::Queued)) {
            return;
        }
        if slot.run.is_paused() {
            // Its turn comes again when the run is resumed.
            slot.attempts.remove(&op);
            return;
        }
        let Some(OpenOp::Activity { name, input, options, scheduled_at_ms, attempts, heartbeat, .. }) =
            slot.run.open_op(op)
        else {
            slot.attempts.remove(&op);
            return;
        };
        let number = attempts + 1;
        let now_ms = self.tools.clock.now_ms();
        let due = attempt::Due::new(options, *scheduled_at_ms, now_ms);
        let served = self.tools.programs.activity(slot.facts.scope, options.queue(), name);
        let Some(digest) = served else {
            slot.attempts.remove(&op);
            return self.enqueue_attempts(id, vec![op]);
        };
        let this = attempt::Attempt { op, name, input, number, heartbeat: heartbeat.as_ref() };
        let mut call = due.call(&slot.facts, this, now_ms);
        attempt::log(&call);
        let pulse = Arc::clone(&call.heartbeat);
        let deferral = Arc::new(Deferral {
            run: id,
            op,
            attempt: number,
            until_ms: options.start_to_close_ms.map(|_| due.deadline_ms),
            pulse: Arc::clone(&pulse),
            inputs: self.sender.clone(),
            clock: self.tools.clock.clone(),
            handed: OnceCell::new(),
        });
        call.defer = Some(Arc::clone(&deferral) as _);
        let (programs, scope) = (self.tools.programs.clone(), slot.facts.scope);
        let (ledger, crier, sender) =
            (self.tools.ledger.clone(), self.tools.crier.clone(), self.sender.clone());
        let task = tokio::spawn(async move {
            let outcome = programs.invoke(scope, digest, call).await;
            crash::point("activity-done");
            let end = deferral.end(outcome, scope, &ledger, &crier).await;
            drop(turn);
            // The scheduler is gone only when nobody needs the outcome any more.
            let _ = sender.send(Input::Attempted { run: id, op, attempt: number, end }).await;
        });
        slot.attempts.insert(op, Attempt::Running(Running::new(number, task.abort_handle(), pulse)));
        let started = &self.tools.counters.activities_started;
        started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// An attempt ended.
    pub(super) fn attempted(&mut self, id: RunId, op: Op, attempt: u32, end: AttemptEnd) {
        self.attempt_survived(id, op);
        let outcome = match end {
            AttemptEnd::Outcome(outcome) => outcome,
            AttemptEnd::Held(lease) => return self.left(id, op, lease),
        };
        let (mut heartbeat, mut has_task) = (None, false);
        if let Some(slot) = self.slots.get_mut(&id)
            && let Some(Attempt::Running(running)) = slot.attempts.get(&op)
            && running.number == attempt
        {
            (heartbeat, has_task) = (running.details(), running.lease.is_some());
            slot.attempts.remove(&op);
        }
        let code = outcome.as_ref().err().map(|failure| failure.code.clone());
        match self.judge(id, op, attempt, outcome, heartbeat) {
            Some((event, timer)) => self.outcome(id, event, None, |append| {
                append.timers.extend(timer);
                // It ended before it heard that its call is held: nobody has the token.
                append.tasks_done.extend(has_task.then_some(op));
            }),
            None => tracing::info!(run = %id, %op, attempt, code, "an attempt ended that nobody waited for"),
        }
    }

    /// An attempt ended whose call is somebody else's to answer: from now on all of it is in the database.
    fn left(&mut self, id: RunId, op: Op, lease: TaskLease) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.attempts.get(&op).is_some_and(|attempt| attempt.holds(lease)) {
            // Whether the call is answered is for the task's row to say, so the lease is not used as a short cut.
            slot.attempts.insert(op, Attempt::Offered { lease: None });
        }
    }

    /// What the ledger says of an attempt that ended, and when the next one is due. None: nobody waits
    /// for it.
    pub(super) fn judge(
        &self,
        id: RunId,
        op: Op,
        attempt: u32,
        outcome: Result<Json, Failure>,
        heartbeat: Option<Json>,
    ) -> Option<(Event, Option<NewTimer>)> {
        let slot = self.slots.get(&id)?;
        let OpenOp::Activity { options, scheduled_at_ms, attempts, .. } = slot.run.open_op(op)? else {
            return None;
        };
        if attempts + 1 != attempt {
            return None;
        }
        let failure = match outcome {
            Ok(output) => return Some((Event::ActivityClosed { op, attempt, outcome: Ok(output) }, None)),
            Err(failure) => failure,
        };
        let now_ms = self.tools.clock.now_ms();
        let due = attempt::Due::new(options, *scheduled_at_ms, now_ms);
        let policy = options.retry.clone().unwrap_or_default();
        Some(match policy.decide(attempt, &failure, now_ms, due.close_by_ms) {
            Verdict::RetryAt(retry_at_ms) => {
                let timer = NewTimer { run: id, op, due_ms: retry_at_ms, purpose: Purpose::Retry.tag() };
                (Event::AttemptFailed { op, attempt, failure, retry_at_ms, heartbeat }, Some(timer))
            }
            Verdict::Final => (Event::ActivityClosed { op, attempt, outcome: Err(failure) }, None),
        })
    }
}

/// The next attempt of an open call, as a task that nobody has. `heartbeat`: what the attempts have said.
fn task(run: &Run, op: Op, heartbeat: Option<&Json>) -> Option<NewTask> {
    let OpenOp::Activity { name, options, seq, scheduled_at_ms, attempts, .. } = run.open_op(op)? else {
        return None;
    };
    let bound = |ms: Option<u64>| ms.map(|ms| scheduled_at_ms.saturating_add(ms));
    let close_by_ms = bound(options.schedule_to_close_ms);
    Some(NewTask {
        op,
        seq: *seq,
        attempt: attempts + 1,
        task_queue: options.queue().into(),
        name: Arc::clone(name),
        priority: run.start().priority(),
        start_by_ms: bound(options.schedule_to_start_ms).into_iter().chain(close_by_ms).min(),
        close_by_ms,
        attempt_ms: options.start_to_close_ms,
        heartbeat_timeout_ms: options.heartbeat_ms,
        heartbeat: heartbeat.map(Json::text),
        taken: None,
    })
}

/// A place among the running attempts; the scheduler hears when it is given back, even by a task that
/// was aborted.
struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    ended: Arc<Notify>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.ended.notify_one();
    }
}
