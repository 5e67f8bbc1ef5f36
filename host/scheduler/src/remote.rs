//! Calls that others complete: remote workers, and whoever an attempt on this host gives its token to.
//!
//! A call that no component serves is offered: its task is a row beside the ledger, in the append of the call. What a
//! worker answers comes back as a message, or, if this host knows of its lease, at once. An attempt on this host may leave
//! its call to be completed in the same way.

use std::sync::Arc;

use backstitch_core::matcher::Queue;
use backstitch_core::run::OpenOp;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Event, Json, Op, Run, RunId, TaskLease, TaskToken};
use backstitch_ledger::{Append, NewTask};
use uuid::Uuid;

use crate::action::{Action, RemoteAttempt};
use crate::env::Env;
use crate::in_flight::Offer;
use crate::input::{Deferring, Ended, Settle, Settlement};
use crate::slot::Attempt;
use crate::state::Scheduler;
use crate::waiting::Waiting;

impl<E: Env> Scheduler<E> {
    /// Offers the next attempt of a call to remote workers; the task goes with `append`. `heartbeat`: what the
    /// attempt itself has said so far. None: the run waits for no such call, or is paused.
    pub(crate) fn offer(
        &mut self,
        id: RunId,
        op: Op,
        heartbeat: Option<&Json>,
        append: &mut Append,
    ) -> Option<Offer<E>> {
        let slot = self.slots.get_mut(&id)?;
        if slot.run.is_paused() {
            // Its turn comes when the run is resumed.
            return None;
        }
        let Some(OpenOp::Activity { input, heartbeat: said, .. }) = slot.run.open_op(op) else { return None };
        let heartbeat = heartbeat.or(said.as_ref()).cloned();
        let mut task = task(&slot.run, op, heartbeat.as_ref())?;
        let queue = Queue { tenant: slot.identity.scope.tenant, name: Arc::clone(&task.task_queue) };
        let name = Arc::clone(&task.name);
        let reserved = self.env.reserve(&queue, &name);
        let lease = reserved.as_ref().map(|(_, grant)| grant.lease);
        let reserved = reserved.map(|(reservation, grant)| {
            let token = TaskToken { run: id, op, attempt: task.attempt, lease: grant.lease };
            task.taken = Some(grant);
            let (identity, task) = (Arc::clone(&slot.identity), task.clone());
            let attempt =
                RemoteAttempt { identity, token, task, input: input.clone(), heartbeat, now_ms: self.now.ms };
            (reservation, Box::new(attempt))
        });
        append.tasks.push(task);
        slot.attempts.insert(op, Attempt::Offered { lease });
        Some(Offer { run: id, op, queue, name, reserved })
    }

    /// A task is committed: the worker that waits for it gets it, or workers hear that there is one.
    pub(crate) fn offered(&mut self, offer: Offer<E>) {
        let Offer { run, op, queue, name, reserved } = offer;
        if let Some((reservation, attempt)) = reserved {
            self.figures.activities_started += 1;
            return self.act(Action::Deliver(reservation, attempt));
        }
        if self.is_served(run, op) {
            // Deployed while it was being committed: whoever has deployed it may have missed it.
            return self.act(Action::Served);
        }
        self.act(Action::Offered(queue, name));
    }

    /// An attempt leaves its call to whoever it gives the token. It gets none if nobody waits for an outcome.
    pub(crate) fn on_defer(&mut self, deferring: Deferring<E>) {
        let Deferring { run: id, op, attempt, until_ms, heartbeat, reply } = deferring;
        let known = self.slots.get_mut(&id).filter(|slot| slot.run.is_open() && !slot.is_stale);
        let Some(slot) = known.filter(|slot| slot.awaits_attempt(op, attempt)) else { return };
        let Some(Attempt::Running { number, lease: known @ None }) = slot.attempts.get_mut(&op) else {
            return;
        };
        if *number != attempt {
            return;
        }
        let Some(task) = task(&slot.run, op, heartbeat.as_ref()) else { return };
        let lease = self.env.new_task_lease();
        *known = Some(lease);
        let task = NewTask {
            // It has been taken, whoever completes it.
            start_by_ms: None,
            attempt_ms: until_ms.map(|until_ms| until_ms.saturating_sub(self.now.ms)),
            // The attempt's own silence is its sandbox's affair, and nobody else's is bounded.
            heartbeat_timeout_ms: None,
            taken: Some(LeaseGrant { lease, lease_ms: None, worker: "".into() }),
            ..task
        };
        let token = TaskToken { run: id, op, attempt, lease };
        let append = Append { tasks: vec![task], ..Append::new(slot.identity.scope, id) };
        self.send(id, append, |sent| sent.deferred = Some((token, reply)));
    }

    /// A call is left to others: its attempt may give the token away.
    pub(crate) fn deferred(&mut self, id: RunId, token: TaskToken, reply: E::Reply<TaskToken>) {
        let op = token.op;
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.is_stale) else { return };
        match slot.attempts.get(&op) {
            Some(attempt) if attempt.is_deferred(token.lease) => self.act(Action::Deferred(reply, token)),
            // A later attempt has made it its own.
            Some(attempt) if attempt.has_task() => {}
            // The attempt was stopped meanwhile: nobody will ever show this token.
            _ => {
                let append = Append { tasks_done: vec![op], ..Append::new(slot.identity.scope, id) };
                self.send(id, append, |_| {});
            }
        }
    }

    /// Workers have tasks of runs of this host.
    pub(crate) fn on_leased(&mut self, tokens: &[TaskToken]) {
        for token in tokens {
            let attempt = self.slots.get_mut(&token.run).and_then(|slot| slot.attempts.get_mut(&token.op));
            if let Some(Attempt::Offered { lease: lease @ None }) = attempt {
                *lease = Some(token.lease);
            }
        }
    }

    /// A worker has carried out a task. One whose lease this host knows becomes a row at once, and whoever else shows
    /// that lease waits for it: only one answer counts.
    pub(crate) fn on_settle(&mut self, settle: Settle<E>) {
        let Settle { scope, token: TaskToken { run: id, op, attempt, lease }, output, reply } = settle;
        if let Some(others) = self.settling.get_mut(&lease) {
            return others.push(reply);
        }
        let known = self.slots.get_mut(&id).filter(|slot| slot.run.is_open() && !slot.is_stale);
        let known = known.filter(|slot| slot.identity.scope == scope);
        let known = known.filter(|slot| {
            slot.attempts.get(&op) == Some(&Attempt::Offered { lease: Some(lease) })
                && slot.awaits_attempt(op, attempt)
        });
        let (Some(slot), Some(output)) = (known, output) else {
            if let Some(Attempt::Offered { lease: known }) =
                self.slots.get_mut(&id).and_then(|slot| slot.attempts.get_mut(&op))
            {
                // From now on it is for the task's row to say which answer was the first.
                known.take_if(|known| *known == lease);
            }
            return self.act(Action::Settled(reply, Settlement::Elsewhere));
        };
        slot.attempts.remove(&op);
        let event = Event::ActivityClosed { op, attempt, outcome: Ok(output) };
        self.settling.insert(lease, Vec::new());
        let waiting = Waiting { settled: Some((reply, lease)), ..Waiting::default() };
        self.outcome_for(id, event, waiting, |append| append.tasks_done.push(op));
        self.advance(id);
    }

    /// The answer that was on its way under this lease is committed, or will not be: the others ask the database.
    pub(crate) fn has_settled(&mut self, lease: TaskLease) {
        for other in self.settling.remove(&lease).unwrap_or_default() {
            self.act(Action::Settled(other, Settlement::Elsewhere));
        }
    }

    /// A task of the run is gone, and this is how it ended.
    pub(crate) fn remote_attempt_ended(
        &mut self,
        id: RunId,
        ended: Ended,
        item: Uuid,
        batch: Option<E::Batch>,
    ) {
        let Ended { op, attempt, outcome, heartbeat } = ended;
        let Some((event, timer)) = self.decide_retry(id, op, attempt, outcome, heartbeat) else {
            tracing::info!(run = %id, %op, attempt, "a remote attempt ended that nobody waited for");
            return self.consume(id, item);
        };
        if let Some(attempt) = self.slots.get_mut(&id).and_then(|slot| slot.attempts.remove(&op)) {
            self.supersede_attempt(id, op, attempt);
        }
        self.outcome(id, event, batch, |append| {
            append.inbox_done.push((id, item));
            // A statement of unknown fate may have offered it again, an operator's word come before its time.
            append.tasks_done.push(op);
            append.timers_done.push((id, op));
            append.timers.extend(timer);
        });
    }

    /// A worker has given a task back, or was silent: the same attempt is made by somebody else.
    pub(crate) fn attempt_freed(
        &mut self,
        id: RunId,
        (op, attempt): (Op, u32),
        heartbeat: Option<&Json>,
        item: Uuid,
        batch: Option<E::Batch>,
    ) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.run.is_paused() {
            // Nothing is offered now, and what was said is with the message alone: it is heard when the run goes on.
            return self.in_hand.put_back(id, item);
        }
        // A failover may bring back a task that was freed before; the attempt that followed is under way.
        let is_made_here =
            matches!(slot.attempts.get(&op), Some(Attempt::Queued | Attempt::Running { lease: None, .. }));
        let is_next = slot.awaits_attempt(op, attempt) && !is_made_here;
        if is_next {
            slot.attempts.remove(&op);
        }
        let mut append = Append::new(slot.identity.scope, id);
        append.inbox_done.push((id, item));
        let call = is_next.then_some(op);
        self.send_with_calls(id, append, call, heartbeat, |sent| sent.waiting = Waiting::of(batch));
    }

    /// An operator wants the next attempt of a call now.
    pub(crate) fn attempt_wanted(&mut self, id: RunId, op: Op, item: Uuid, batch: Option<E::Batch>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let waits =
            matches!(slot.run.open_op(op), Some(OpenOp::Activity { .. })) && !slot.attempts.contains_key(&op);
        let mut append = Append::new(slot.identity.scope, id);
        append.inbox_done.push((id, item));
        append.timers_done.extend(waits.then_some((id, op)));
        let call = waits.then_some(op);
        self.send_with_calls(id, append, call, None, |sent| sent.waiting = Waiting::of(batch));
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
