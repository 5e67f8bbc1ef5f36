//! How runs end, are held and are parked, and what follows from that for others.

use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Failure, FailureKind, Fault, Json, Message, Op, RunId, UnusedSignal};
use backstitch_ledger::{Append, Close, StatusChange};
use uuid::Uuid;

use super::effects::Effects;
use super::input::Guard;
use super::pending::Child;
use super::plan::{
    begin_run, due_calls, ending, memory_at_start, note, parking, stop_children, tell_parent, timers_of_start,
};
use super::slot::{Attempt, Guest};
use super::state::Scheduler;
use crate::ambient;
use crate::guests::Ahead;
use crate::identity::Facts;

impl Scheduler {
    /// Asks a quiescent run to cancel: every open op ends, and children hear of it.
    pub(super) fn request_cancel(&mut self, id: RunId, request: super::slot::Request) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let children = slot.run.children_to_cancel();
        let mut timers: Vec<Op> = timers_of(slot);
        timers.retain(|op| !slot.run.is_shielded(*op));
        let (given_up, offered) = slot.take_attempts(|run, op| !run.is_shielded(op));
        let (reason, clock) = (request.reason.clone(), self.tools.clock.clone());
        let event = Event::CancelRequested { reason: request.reason, id: request.id };
        self.outcome(id, event, None, |append| {
            append.inbox_done.push((id, request.item));
            append.timers_done.extend(timers.into_iter().map(|op| (id, op)));
            append.tasks_given_up.extend(offered);
            for child in children {
                append.inbox.push(note(&clock, child, &Message::Cancel { reason: reason.clone(), id: None }));
            }
        });
        // Whoever has the run next finds the request and does the same.
        given_up.into_iter().for_each(Attempt::give_up);
    }

    /// Closes a run that has taken as long as its start allows.
    pub(super) fn time_out(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let guard = slot.overdue.take().and_then(|overdue| overdue.0);
        let Some((due_ms, bound)) = slot.run.start().deadline(slot.run.started_at_ms()) else { return };
        let message = format!("the run was not over at {}", crate::time::rfc3339(due_ms));
        let failure = Failure::fatal(FailureKind::Timeout, bound, message);
        self.end(id, &Event::RunTimedOut { failure }, None, guard);
    }

    /// Holds a run until it is resumed: its guest hears of nothing, no timer fires and no attempt begins.
    pub(super) fn pause(&mut self, id: RunId, reason: String, item: Uuid, guard: Option<Guard>) {
        let Some(slot) = self.slots.get(&id) else { return };
        if slot.run.is_paused() || matches!(slot.guest, Guest::Parked) {
            return self.consume(id, item);
        }
        self.outcome(id, Event::RunPaused { reason }, guard, |append| {
            append.inbox_done.push((id, item));
            append.status = Some(StatusChange::Pause);
        });
    }

    /// Lets a paused run go on.
    pub(super) fn resume(&mut self, id: RunId, reason: String, item: Uuid, guard: Option<Guard>) {
        let Some(slot) = self.slots.get(&id) else { return };
        if !slot.run.is_paused() {
            return self.consume(id, item);
        }
        self.outcome(id, Event::RunResumed { reason }, guard, |append| {
            append.inbox_done.push((id, item));
            append.status = Some(StatusChange::Run);
        });
        let Some(slot) = self.slots.get(&id) else { return };
        let mut idle = due_calls(&slot.run, self.tools.clock.now_ms());
        idle.retain(|op| !slot.attempts.contains_key(op));
        self.enqueue_attempts(id, idle);
    }

    /// Closes a run from outside its guest.
    pub(super) fn end(&mut self, id: RunId, event: &Event, item: Option<Uuid>, guard: Option<Guard>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let mut append = Append::new(slot.facts.scope, id);
        append.inbox_done.extend(item.map(|item| (id, item)));
        let mut effects = Effects::default();
        self.close(id, event, &mut append, &mut effects);
        self.send(id, append, |pending| {
            (pending.given_up, pending.waiting) = (effects.given_up, guard.into());
        });
    }

    /// The closing row and all that follows from it, in one append.
    pub(super) fn close(&mut self, id: RunId, event: &Event, append: &mut Append, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let children = slot.run.children_to_stop();
        let (cancel, terminate) = (slot.cancel.take(), slot.terminate.take());
        let goes_on = matches!(event, Event::RunContinued { .. });
        // The run that goes on is the one to cancel: there the request is found in its inbox.
        let (unheard, cancel) = if goes_on { (cancel, None) } else { (None, cancel) };
        if let Some(request) = unheard {
            self.tools.in_hand.put_back(id, request.item);
        }
        append.inbox_done.extend([cancel, terminate].into_iter().flatten().map(|request| (id, request.item)));
        append.tasks_given_up.extend(calls_outside(slot));
        effects.given_up.extend(slot.take_attempts(|_, _| true).0);
        slot.guest = Guest::Evicted;
        slot.ahead.clear();
        let row = match slot.run.append(self.tools.clock.now_ms(), event) {
            Ok(row) => row,
            Err(illegal) => {
                tracing::error!(run = %id, %illegal, "a run could not be closed");
                return;
            }
        };
        let (status, output, failure) = ending(event);
        append.status = Some(StatusChange::Close(Close {
            status,
            at_ms: row.at_ms,
            output: output.as_ref().map(Json::text),
            error: failure.as_ref().and_then(|failure| failure.to_json().ok()).map(|json| json.text()),
            rows: slot.run.next_seq(),
            chain: slot.run.chain(),
        }));
        append.rows.push(row);
        let facts = Arc::clone(&slot.facts);
        if let Event::RunContinued { input } = event {
            self.continue_as_new(&facts, input, append, effects);
        } else {
            let outcome = failure.map_or_else(|| Ok(output.unwrap_or_else(Json::null)), Err);
            tell_parent(&self.tools.clock, &facts, outcome, append);
        }
        stop_children(&self.tools.clock, id, children, append);
        self.warm.pop(&id);
    }

    /// The next run of the same workflow id, started by the very append that closes this one.
    pub(super) fn continue_as_new(
        &mut self,
        facts: &Facts,
        input: &Json,
        append: &mut Append,
        effects: &mut Effects,
    ) {
        let now_ms = self.tools.clock.now_ms();
        let digest = self.tools.programs.workflow(facts.scope, &facts.workflow).unwrap_or(facts.digest);
        let next = Facts {
            run: RunId::derived(facts.run, Op(u32::MAX), now_ms),
            generation: facts.generation + 1,
            digest,
            ..facts.clone()
        };
        let options = Arc::unwrap_or_clone(effects.next.take().unwrap_or_default());
        let options = Arc::new(options.beginning(ambient::new_seed()));
        match begin_run(&next, input, options, now_ms) {
            Ok((mut new_run, mut run)) => {
                // Before anything that is sent to the new run itself.
                let mut ahead = Vec::with_capacity(effects.unused.len());
                for UnusedSignal { name, payload, id, .. } in effects.unused.drain(..) {
                    let event = Event::SignalReceived { name, payload, id };
                    match run.append(now_ms, &event) {
                        Ok(row) => {
                            ahead.push(Ahead { seq: row.seq, at_ms: row.at_ms, event });
                            new_run.further.push(row);
                        }
                        Err(illegal) => tracing::error!(run = %next.run, %illegal, "a signal is lost"),
                    }
                }
                append.new_runs.push(new_run);
                append.timers.extend(timers_of_start(&run, now_ms));
                append.projections.extend(memory_at_start(&run));
                effects.children.push(Child { facts: next, run, input: input.clone(), ahead, op: None });
            }
            Err(problem) => tracing::error!(run = %facts.run, problem, "the run could not continue as new"),
        }
    }

    /// Stops a run until an operator acts. Its ledger stays as it is.
    pub(super) fn park(&mut self, id: RunId, fault: &Fault) {
        tracing::warn!(run = %id, kind = %fault.kind, message = fault.message, "a run is parked");
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.guest = Guest::Parked;
        slot.stale = true;
        slot.attempts.clear();
        self.warm.pop(&id);
        let mut append = Append::new(slot.facts.scope, id);
        append.status = Some(parking(fault));
        self.send(id, append, |pending| pending.closes = true);
        self.advance(id);
    }
}

/// Open calls that may have a task: of a run that was parked, this host has forgotten which do.
fn calls_outside(slot: &super::slot::Slot) -> Vec<Op> {
    let calls = slot.run.open_ops().filter(|(op, open)| {
        matches!(open, OpenOp::Activity { .. }) && slot.attempts.get(op).is_none_or(Attempt::has_task)
    });
    calls.map(|(op, _)| op).collect()
}

/// Ops that have a row in the timers table.
fn timers_of(slot: &super::slot::Slot) -> Vec<Op> {
    let open = slot.run.open_ops().filter(|(_, open)| {
        matches!(open, OpenOp::Timer { .. } | OpenOp::Activity { retry_at_ms: Some(_), .. })
    });
    open.map(|(op, _)| op).collect()
}
