//! Attempts of in-host activities: whose turn it is, where they run, what follows a failure.
//!
//! An attempt starts as soon as its call is on its way to the ledger: the row with its outcome goes
//! after the call's row, so a guest never sees an outcome whose call is not durable. A host that dies
//! in between leaves an attempt that nobody recorded; the next owner makes it again under the same
//! idempotency key. An attempt whose call was given up while it ran, and that hears of it by its heartbeat,
//! keeps its place among those that run until it ends; what it ends with is logged and nothing else.
//! Attempts that nobody outside can notice are made by the guest threads instead, ahead
//! of both rows.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::retry::Verdict;
use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Failure, FailureKind, Json, Op, RunId, StartOptions};
use backstitch_ledger::NewTimer;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::slot::{Attempt, Purpose, Running};
use super::{Input, Scheduler};
use crate::{ambient, attempt, crash};

impl Scheduler {
    /// Puts a call in line for its next attempt.
    pub(super) fn enqueue_attempt(&mut self, id: RunId, op: Op) {
        if let Some(slot) = self.slots.get_mut(&id)
            && !slot.run.is_paused()
            && matches!(slot.run.open_op(op), Some(OpenOp::Activity { .. }))
        {
            slot.attempts.insert(op, Attempt::Queued);
            self.queue_up(id, op);
        }
    }

    /// Behind those of its priority.
    fn queue_up(&mut self, id: RunId, op: Op) {
        let priority =
            self.slots.get(&id).map_or(StartOptions::PRIORITY_DEFAULT, |slot| slot.run.start().priority());
        self.attempt_queue[usize::from(priority - 1)].push_back((id, op));
    }

    /// Starts attempts while there is room: in the order of the priorities of their runs.
    pub(super) fn start_attempts(&mut self) {
        while self.draining.is_none() {
            let Some(line) = self.attempt_queue.iter().position(|line| !line.is_empty()) else { return };
            let Ok(permit) = Arc::clone(&self.attempts_running).try_acquire_owned() else { return };
            let Some((id, op)) = self.attempt_queue[line].pop_front() else { return };
            self.start_attempt(id, op, Turn { permit: Some(permit), ended: Arc::clone(&self.attempt_ended) });
        }
    }

    /// Calls that no component served are tried again.
    pub(super) fn requeue_unserved(&mut self) {
        for (id, op) in std::mem::take(&mut self.unserved) {
            let attempt = self.slots.get_mut(&id).and_then(|slot| slot.attempts.get_mut(&op));
            if let Some(attempt @ Attempt::Unserved) = attempt {
                *attempt = Attempt::Queued;
                self.queue_up(id, op);
            }
        }
    }

    /// Looks at an unserved call again when its first bound passes.
    fn wake_overdue(&self, run: RunId, op: Op, in_ms: u64) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(in_ms)).await;
            let _ = sender.send(Input::Overdue { run, op }).await;
        });
    }

    /// The first bound of a call has passed that nobody served then.
    pub(super) fn overdue(&mut self, id: RunId, op: Op) {
        let attempt = self.slots.get_mut(&id).and_then(|slot| slot.attempts.get_mut(&op));
        if let Some(attempt @ Attempt::Unserved) = attempt {
            *attempt = Attempt::Queued;
            self.unserved.retain(|unserved| *unserved != (id, op));
            self.queue_up(id, op);
        }
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
        let now_ms = ambient::now_ms();
        let due = attempt::Due::new(options, *scheduled_at_ms, now_ms);
        let served = self.tools.programs.activity(slot.facts.scope, options.queue(), name);
        let Some(digest) = served else {
            let start_by_ms = options.schedule_to_start_ms.map(|ms| scheduled_at_ms.saturating_add(ms));
            let bounds = [("schedule-to-start", start_by_ms), ("schedule-to-close", due.close_by_ms)];
            let bounds = bounds.into_iter().filter_map(|(code, bound)| bound.map(|bound| (bound, code)));
            let bound = bounds.min();
            if let Some((at_ms, code)) = bound
                && now_ms >= at_ms
            {
                let failure = late(code, name, options.queue());
                return self.attempted(id, op, number, Err(failure));
            }
            slot.attempts.insert(op, Attempt::Unserved);
            self.unserved.push((id, op));
            if let Some((at_ms, _)) = bound {
                self.wake_overdue(id, op, at_ms.saturating_sub(now_ms));
            }
            return;
        };
        let this = attempt::Attempt { op, name, input, number, heartbeat: heartbeat.as_ref() };
        let call = due.call(&slot.facts, this, now_ms);
        attempt::log(&call);
        let pulse = Arc::clone(&call.pulse);
        let (programs, scope, sender) = (self.tools.programs.clone(), slot.facts.scope, self.sender.clone());
        let task = tokio::spawn(async move {
            let outcome = programs.invoke(scope, digest, call).await;
            crash::point("activity-done");
            drop(turn);
            // The scheduler is gone only when nobody needs the outcome any more.
            let _ = sender.send(Input::Attempted { run: id, op, attempt: number, outcome }).await;
        });
        slot.attempts.insert(op, Attempt::Running(Running::new(task.abort_handle(), pulse)));
        let started = &self.tools.counters.activities_started;
        started.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// An attempt ended.
    pub(super) fn attempted(&mut self, id: RunId, op: Op, attempt: u32, outcome: Result<Json, Failure>) {
        let ended = self.slots.get_mut(&id).and_then(|slot| slot.attempts.remove(&op));
        let heartbeat = match &ended {
            Some(Attempt::Running(running)) => running.details(),
            _ => None,
        };
        let code = outcome.as_ref().err().map(|failure| failure.code.clone());
        match self.judge(id, op, attempt, outcome, heartbeat) {
            Some((event, timer)) => self.outcome(id, event, None, |append| append.timers.extend(timer)),
            None => tracing::info!(run = %id, %op, attempt, code, "an attempt ended that nobody waited for"),
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
        let now_ms = ambient::now_ms();
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

fn late(bound: &str, name: &str, queue: &str) -> Failure {
    let message = format!("no deployed component offered {name:?} on the task queue {queue:?} in time");
    Failure::fatal(FailureKind::Timeout, bound, message)
}
