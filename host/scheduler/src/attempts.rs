//! Attempts of activities: whose turn it is, what follows a failure.
//!
//! An attempt on this host starts as soon as its call is on its way to the ledger, or, if its guest is ahead of that,
//! when the call is committed. The row with its outcome goes after the call's row, so no outcome is durable
//! without its call. A host that dies in between leaves an attempt that nobody recorded; the next owner makes it again under the same
//! idempotency key. An attempt whose call was given up while it ran, and that hears of it by its heartbeat,
//! keeps its place among those that run until it ends; what it ends with is logged and nothing else.
//! Attempts that nobody outside can notice are made by the guest threads instead, ahead
//! of both rows.
//!
//! | an attempt | when | becomes |
//! |---|---|---|
//! | | a component serves its call | queued |
//! | | none does | offered: a task of the database (`remote`) |
//! | queued | there is a place, and the host has its lease | running |
//! | queued | nobody serves it any more | offered |
//! | running | it ends | a row: an outcome, or a failed attempt and the time of the next |
//! | running | it leaves its call to others | offered, when it ends |
//! | running | its call is given up, completed by others, or its run goes | stopped |
//! | offered | a worker answers, is silent, or gives it back | a row; queued or offered again |

use std::sync::Arc;

use backstitch_core::retry::Verdict;
use backstitch_core::run::OpenOp;
use backstitch_core::{ActivityOptions, Event, Failure, Json, Op, RunId, StartOptions, TaskLease, limits};
use backstitch_ledger::{Append, NewTimer};

use crate::action::{Action, AttemptBounds, NewAttempt, StopAttempt};
use crate::env::Env;
use crate::in_flight::{InFlight, Offer};
use crate::input::AttemptEnd;
use crate::plan::Purpose;
use crate::slot::{Attempt, Slot};
use crate::state::Scheduler;

impl AttemptBounds {
    /// The bounds of an attempt that begins now, as they follow from its call's options.
    pub fn new(options: &ActivityOptions, scheduled_at_ms: u64, now_ms: u64) -> Self {
        let attempt_ms = options.start_to_close_ms.unwrap_or(limits::ACTIVITY_MS_DEFAULT);
        let close_by_ms = options.schedule_to_close_ms.map(|ms| scheduled_at_ms.saturating_add(ms));
        let until = now_ms.saturating_add(attempt_ms);
        Self {
            now_ms,
            deadline_ms: close_by_ms.map_or(until, |bound| until.min(bound)),
            close_by_ms,
            heartbeat_ms: options.heartbeat_ms,
        }
    }
}

impl<E: Env> Scheduler<E> {
    /// Whether a component of this host makes the attempts of an open call.
    pub(crate) fn is_served(&self, id: RunId, op: Op) -> bool {
        let Some(slot) = self.slots.get(&id) else { return false };
        let Some(OpenOp::Activity { name, options, .. }) = slot.run.open_op(op) else { return false };
        self.env.activity(slot.identity.scope, options.queue(), name).is_some()
    }

    /// Sees to the next attempts of calls: on this host, or elsewhere.
    pub(crate) fn enqueue_attempts(&mut self, id: RunId, calls: Vec<Op>) {
        let Some(slot) = self.slots.get(&id).filter(|slot| !slot.run.is_paused()) else { return };
        let append = Append::new(slot.identity.scope, id);
        if !slot.is_sure() || calls.iter().any(|op| !self.is_served(id, *op)) {
            return self.send_with_calls(id, append, calls, None, |_| {});
        }
        for op in calls {
            if self.awaits_turn(id, op) {
                self.queue_up(id, op);
            }
        }
    }

    /// Sends an append, and with it the tasks of those calls that are for remote workers; the others get in line
    /// for their next attempt on this host. `heartbeat`: what the attempts themselves have said so far.
    pub(crate) fn send_with_calls(
        &mut self,
        id: RunId,
        mut append: Append,
        calls: impl IntoIterator<Item = Op>,
        heartbeat: Option<&Json>,
        note: impl FnOnce(&mut InFlight<E>),
    ) {
        let (in_host, remote): (Vec<Op>, Vec<Op>) = calls.into_iter().partition(|op| self.is_served(id, *op));
        let offers: Vec<Offer<E>> =
            remote.into_iter().filter_map(|op| self.offer(id, op, heartbeat, &mut append)).collect();
        let in_host: Vec<Op> = in_host.into_iter().filter(|op| self.awaits_turn(id, *op)).collect();
        let is_sure = self.slots.get(&id).is_some_and(Slot::is_sure);
        let (now, later) = if is_sure { (in_host, Vec::new()) } else { (Vec::new(), in_host) };
        self.send(id, append, |sent| {
            (sent.offers, sent.calls) = (offers, later);
            note(sent);
        });
        for op in now {
            self.queue_up(id, op);
        }
    }

    /// Marks a call as one whose next attempt is made on this host. False: the run waits for no such call, or is paused.
    fn awaits_turn(&mut self, id: RunId, op: Op) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        let waits = !slot.run.is_paused() && matches!(slot.run.open_op(op), Some(OpenOp::Activity { .. }));
        if waits {
            slot.attempts.insert(op, Attempt::Queued);
        }
        waits
    }

    /// Puts a call in line for its attempt, behind those of its priority.
    pub(crate) fn queue_up(&mut self, id: RunId, op: Op) {
        let priority =
            self.slots.get(&id).map_or(StartOptions::PRIORITY_DEFAULT, |slot| slot.run.start().priority());
        self.attempt_queue[usize::from(priority - 1)].push_back((id, op));
    }

    /// Starts attempts while there is room, and the host has its lease: in the order of the priorities of their runs.
    pub(crate) fn start_attempts(&mut self) {
        while self.draining.is_none() && self.has_place() {
            let Some(line) = self.attempt_queue.iter().position(|line| !line.is_empty()) else { return };
            if !self.env.has_lease() {
                return;
            }
            let Some((id, op)) = self.attempt_queue[line].pop_front() else { return };
            if self.may_attempt(id, op) {
                self.start_attempt(id, op);
            }
        }
    }

    /// Starts an attempt. One that is on trial may be one more than there are places for.
    pub(crate) fn start_attempt(&mut self, id: RunId, op: Op) {
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
        let Some(digest) = self.env.activity(slot.identity.scope, options.queue(), name) else {
            slot.attempts.remove(&op);
            return self.enqueue_attempts(id, vec![op]);
        };
        let bounds = AttemptBounds::new(options, *scheduled_at_ms, self.now.ms);
        let number = attempts + 1;
        let attempt = NewAttempt {
            identity: Arc::clone(&slot.identity),
            op,
            attempt: number,
            name: Arc::clone(name),
            digest,
            input: input.clone(),
            heartbeat: heartbeat.clone(),
            bounds,
            until_ms: options.start_to_close_ms.map(|_| bounds.deadline_ms),
        };
        slot.attempts.insert(op, Attempt::Running { number, lease: None });
        self.attempts_running += 1;
        self.figures.activities_started += 1;
        self.act(Action::StartAttempt(attempt));
    }

    /// An attempt ended.
    pub(crate) fn on_attempt_ended(
        &mut self,
        id: RunId,
        op: Op,
        attempt: u32,
        heartbeat: Option<Json>,
        end: AttemptEnd,
    ) {
        self.attempt_survived(id, op);
        let outcome = match end {
            AttemptEnd::Outcome(outcome) => outcome,
            AttemptEnd::Deferred(lease) => return self.left_to_others(id, op, lease),
        };
        let (mut said, mut has_task) = (None, false);
        if let Some(slot) = self.slots.get_mut(&id)
            && let Some(Attempt::Running { number, lease }) = slot.attempts.get(&op).copied()
            && number == attempt
        {
            (said, has_task) = (heartbeat, lease.is_some());
            slot.attempts.remove(&op);
        }
        let code = outcome.as_ref().err().map(|failure| failure.code.clone());
        match self.decide_retry(id, op, attempt, outcome, said) {
            Some((event, timer)) => self.outcome(id, event, None, |append| {
                append.timers.extend(timer);
                // It ended before it heard that its call is left to others: nobody has the token.
                append.tasks_done.extend(has_task.then_some(op));
            }),
            None => tracing::info!(run = %id, %op, attempt, code, "an attempt ended that nobody waited for"),
        }
    }

    /// An attempt ended whose call is somebody else's to complete: from now on all of it is in the database.
    fn left_to_others(&mut self, id: RunId, op: Op, lease: TaskLease) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.attempts.get(&op).is_some_and(|attempt| attempt.is_deferred(lease)) {
            // Whether the call is completed is for the task's row to say, so the lease is not used as a short cut.
            slot.attempts.insert(op, Attempt::Offered { lease: None });
        }
    }

    /// The call of an attempt was given up.
    pub(crate) fn abandon_attempt(&mut self, id: RunId, op: Op, attempt: Attempt) {
        if attempt.is_running() {
            self.act(Action::StopAttempt(id, op, StopAttempt::RequestCancel));
        }
    }

    /// The call of an attempt was completed. An attempt that had left it to others may have something to put away: what it
    /// does must not depend on how soon they answer. Any other ends here and now.
    pub(crate) fn supersede_attempt(&mut self, id: RunId, op: Op, attempt: Attempt) {
        if let Attempt::Running { lease, .. } = attempt {
            let how = lease.map_or(StopAttempt::Abort, |_| StopAttempt::Superseded);
            self.act(Action::StopAttempt(id, op, how));
        }
    }

    /// Nobody will read what an attempt gives.
    pub(crate) fn abort_attempt(&mut self, id: RunId, op: Op, attempt: Attempt) {
        if attempt.is_running() {
            self.act(Action::StopAttempt(id, op, StopAttempt::Abort));
        }
    }

    /// The same, for all attempts of a run.
    pub(crate) fn abort_attempts(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        for (op, attempt) in std::mem::take(&mut slot.attempts) {
            self.abort_attempt(id, op, attempt);
        }
    }

    /// What the ledger says of an attempt that ended, and when the next one is due. None: nobody waits
    /// for it.
    pub(crate) fn decide_retry(
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
        let bounds = AttemptBounds::new(options, *scheduled_at_ms, self.now.ms);
        let policy = options.retry.clone().unwrap_or_default();
        Some(match policy.decide(attempt, &failure, self.now.ms, bounds.close_by_ms) {
            Verdict::RetryAt(retry_at_ms) => {
                let timer = NewTimer { run: id, op, due_ms: retry_at_ms, purpose: Purpose::Retry.tag() };
                (Event::AttemptFailed { op, attempt, failure, retry_at_ms, heartbeat }, Some(timer))
            }
            Verdict::Final => (Event::ActivityClosed { op, attempt, outcome: Err(failure) }, None),
        })
    }
}
