//! Attempts of in-host activities: whose turn it is, where they run, what follows a failure.
//!
//! An attempt starts as soon as its call is on its way to the ledger: the row with its outcome goes
//! after the call's row, so a guest never sees an outcome whose call is not durable. A host that dies
//! in between leaves an attempt that nobody recorded; the next owner makes it again under the same
//! idempotency key.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::retry::Verdict;
use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Failure, FailureKind, Json, Op, RunId};
use backstitch_ledger::NewTimer;
use backstitch_sandbox::{ActivityCall, ActivityContext};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::activation::deadlines;
use super::slot::{Attempt, Purpose};
use super::{Input, Scheduler};
use crate::{ambient, crash};

impl Scheduler {
    /// Puts a call in line for its next attempt.
    pub(super) fn enqueue_attempt(&mut self, id: RunId, op: Op) {
        if let Some(slot) = self.slots.get_mut(&id)
            && matches!(slot.run.open_op(op), Some(OpenOp::Activity { .. }))
        {
            slot.attempts.insert(op, Attempt::Queued);
            self.attempt_queue.push_back((id, op));
        }
    }

    /// Starts attempts while there is room.
    pub(super) fn start_attempts(&mut self) {
        while self.draining.is_none() && !self.attempt_queue.is_empty() {
            let Ok(permit) = Arc::clone(&self.attempts_running).try_acquire_owned() else { return };
            let Some((id, op)) = self.attempt_queue.pop_front() else { return };
            self.start_attempt(id, op, Turn { permit: Some(permit), ended: Arc::clone(&self.attempt_ended) });
        }
    }

    /// Calls that no component served are tried again.
    pub(super) fn requeue_unserved(&mut self) {
        for (id, op) in std::mem::take(&mut self.unserved) {
            let attempt = self.slots.get_mut(&id).and_then(|slot| slot.attempts.get_mut(&op));
            if let Some(attempt @ Attempt::Unserved) = attempt {
                *attempt = Attempt::Queued;
                self.attempt_queue.push_back((id, op));
            }
        }
    }

    fn start_attempt(&mut self, id: RunId, op: Op, turn: Turn) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if !matches!(slot.attempts.get(&op), Some(Attempt::Queued)) {
            return;
        }
        let Some(OpenOp::Activity { name, input, options, scheduled_at_ms, attempts, .. }) =
            slot.run.open_op(op)
        else {
            slot.attempts.remove(&op);
            return;
        };
        let attempt = attempts + 1;
        let now_ms = ambient::now_ms();
        let (deadline_ms, close_by_ms) = deadlines(options, *scheduled_at_ms, now_ms);
        let served = self.tools.programs.activity(slot.facts.scope, options.queue(), name);
        let Some(digest) = served else {
            if close_by_ms.is_some_and(|bound| now_ms >= bound) {
                let failure = late(name, options.queue());
                return self.attempted(id, op, attempt, Err(failure));
            }
            slot.attempts.insert(op, Attempt::Unserved);
            self.unserved.push((id, op));
            return;
        };
        let call = ActivityCall {
            name: Arc::clone(name),
            input: input.clone(),
            context: ActivityContext {
                run_id: id,
                workflow_id: Arc::clone(&slot.facts.workflow_id),
                op,
                attempt,
                deadline_ms: Some(deadline_ms),
            },
            timeout: Duration::from_millis(deadline_ms.saturating_sub(now_ms)),
        };
        tracing::debug!(target: "backstitch::activity", run = %id, %op, attempt, name = &**name, "attempt");
        let (programs, scope, sender) = (self.tools.programs.clone(), slot.facts.scope, self.sender.clone());
        let task = tokio::spawn(async move {
            let outcome = programs.invoke(scope, digest, call).await;
            crash::point("activity-done");
            drop(turn);
            // The scheduler is gone only when nobody needs the outcome any more.
            let _ = sender.send(Input::Attempted { run: id, op, attempt, outcome }).await;
        });
        slot.attempts.insert(op, Attempt::Running(task.abort_handle()));
        let started = &self.tools.counters.activities_started;
        started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// An attempt ended.
    pub(super) fn attempted(&mut self, id: RunId, op: Op, attempt: u32, outcome: Result<Json, Failure>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.attempts.remove(&op);
        let Some(OpenOp::Activity { options, scheduled_at_ms, attempts, .. }) = slot.run.open_op(op) else {
            return;
        };
        if attempts + 1 != attempt {
            return;
        }
        let now_ms = ambient::now_ms();
        let (_, close_by_ms) = deadlines(options, *scheduled_at_ms, now_ms);
        let policy = options.retry.clone().unwrap_or_default();
        let verdict = match &outcome {
            Ok(_) => Verdict::Final,
            Err(failure) => policy.decide(attempt, failure, now_ms, close_by_ms),
        };
        match (outcome, verdict) {
            (Err(failure), Verdict::RetryAt(retry_at_ms)) => {
                let event = Event::AttemptFailed { op, attempt, failure, retry_at_ms };
                self.outcome(id, event, None, |append| {
                    append.timers.push(NewTimer {
                        run: id,
                        op,
                        due_ms: retry_at_ms,
                        purpose: Purpose::Retry.tag(),
                    });
                });
            }
            (outcome, _) => self.outcome(id, Event::ActivityClosed { op, attempt, outcome }, None, |_| {}),
        }
    }
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

fn late(name: &str, queue: &str) -> Failure {
    let message = format!("no deployed component offered {name:?} on the task queue {queue:?} in time");
    Failure::fatal(FailureKind::Timeout, "schedule-to-close", message)
}
