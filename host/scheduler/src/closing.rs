//! How runs end, are held and are parked, and what follows from that for others.

use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{
    Chain, Event, Failure, FailureKind, Fault, Json, Message, Op, ParentClose, Run, RunId, RunStatus, Seq,
    StartOptions, UnusedSignal, date,
};
use backstitch_ledger::{Append, Close, NewItem, StatusChange};
use uuid::Uuid;

use crate::env::Env;
use crate::identity::RunIdentity;
use crate::in_flight::NewRunInFlight;
use crate::job::{Next, PendingEvent};
use crate::on_commit::OnCommit;
use crate::plan::{
    begin_run, due_calls, ending, new_inbox_item, parking, projection_at_start, timers_of_start,
};
use crate::slot::{Guest, Request, Slot};
use crate::state::Scheduler;
use crate::waiting::Waiting;

impl<E: Env> Scheduler<E> {
    /// Asks a quiescent run to cancel: every open op ends, and children hear of it.
    pub(crate) fn request_cancel(&mut self, id: RunId, request: Request) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let children = slot.run.children_to_cancel();
        let mut timers: Vec<Op> = timers_of(slot);
        timers.retain(|op| !slot.run.is_shielded(*op));
        let (abandoned, offered) = slot.take_attempts(|run, op| !run.is_shielded(op));
        let mut told = Vec::with_capacity(children.len());
        for child in children {
            told.push(self.new_message(child, &Message::Cancel { reason: request.reason.clone(), id: None }));
        }
        let event = Event::CancelRequested { reason: request.reason, id: request.id };
        self.outcome(id, event, None, |append| {
            append.inbox_done.push((id, request.item));
            append.timers_done.extend(timers.into_iter().map(|op| (id, op)));
            append.tasks_given_up.extend(offered);
            append.inbox.extend(told);
        });
        // Whoever has the run next finds the request and does the same.
        abandoned.into_iter().for_each(|(op, attempt)| self.abandon_attempt(id, op, attempt));
    }

    /// Closes a run that has taken as long as its start allows.
    pub(crate) fn time_out(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let batch = slot.overdue.take().and_then(|overdue| overdue.0);
        let Some((due_ms, bound)) = slot.run.start().deadline(slot.run.started_at_ms()) else { return };
        let message = format!("the run was not over at {}", date::rfc3339(due_ms));
        let failure = Failure::fatal(FailureKind::Timeout, bound, message);
        self.end(id, &Event::RunTimedOut { failure }, None, batch);
    }

    /// Holds a run until it is resumed: its guest hears of nothing, no timer fires and no attempt begins.
    pub(crate) fn pause(&mut self, id: RunId, reason: String, item: Uuid, batch: Option<E::Batch>) {
        let Some(slot) = self.slots.get(&id) else { return };
        if slot.run.is_paused() || matches!(slot.guest, Guest::Parked) {
            return self.consume(id, item);
        }
        self.outcome(id, Event::RunPaused { reason }, batch, |append| {
            append.inbox_done.push((id, item));
            append.status = Some(StatusChange::Pause);
        });
    }

    /// Lets a paused run go on.
    pub(crate) fn resume(&mut self, id: RunId, reason: String, item: Uuid, batch: Option<E::Batch>) {
        let Some(slot) = self.slots.get(&id) else { return };
        if !slot.run.is_paused() {
            return self.consume(id, item);
        }
        self.outcome(id, Event::RunResumed { reason }, batch, |append| {
            append.inbox_done.push((id, item));
            append.status = Some(StatusChange::Run);
        });
        let Some(slot) = self.slots.get(&id) else { return };
        let mut idle = due_calls(&slot.run, self.now.ms);
        idle.retain(|op| !slot.attempts.contains_key(op));
        self.enqueue_attempts(id, idle);
    }

    /// Closes a run from outside its guest.
    pub(crate) fn end(&mut self, id: RunId, event: &Event, item: Option<Uuid>, batch: Option<E::Batch>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let mut append = Append::new(slot.identity.scope, id);
        append.inbox_done.extend(item.map(|item| (id, item)));
        let mut on_commit = OnCommit::default();
        self.close(id, event, &mut append, &mut on_commit);
        self.send(id, append, |sent| {
            (sent.abandoned, sent.waiting) = (on_commit.abandoned, Waiting::of(batch));
        });
    }

    /// The closing row and all that follows from it, in one append.
    pub(crate) fn close(&mut self, id: RunId, event: &Event, append: &mut Append, on_commit: &mut OnCommit) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let children = slot.run.children_to_stop();
        let (cancel, terminate) = (slot.cancel.take(), slot.terminate.take());
        let goes_on = matches!(event, Event::RunContinued { .. });
        // The run that goes on is the one to cancel: there the request is found in its inbox.
        let (unheard, cancel) = if goes_on { (cancel, None) } else { (None, cancel) };
        if let Some(request) = unheard {
            self.in_hand.put_back(id, request.item);
        }
        append.inbox_done.extend([cancel, terminate].into_iter().flatten().map(|request| (id, request.item)));
        // A sleep that began with its run's last breath: one statement cannot both set its timer and remove it, and what is
        // left of a closed run is nobody's to remove.
        append.timers.retain(|timer| timer.run != id);
        append.tasks_given_up.extend(remote_calls(slot));
        on_commit.abandoned.extend(slot.take_attempts(|_, _| true).0);
        slot.guest = Guest::Evicted;
        slot.undelivered.clear();
        let row = match slot.run.append(self.now.ms, event) {
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
        let identity = Arc::clone(&slot.identity);
        if let Event::RunContinued { input } = event {
            self.continue_as_new(&identity, input, append, on_commit);
        } else {
            let outcome = failure.map_or_else(|| Ok(output.unwrap_or_else(Json::null)), Err);
            self.tell_parent(&identity, outcome, append);
        }
        self.stop_children(id, children, append);
        self.warm.pop(&id);
    }

    /// The next run of the same workflow id, started by the very append that closes this one.
    fn continue_as_new(
        &mut self,
        identity: &RunIdentity,
        input: &Json,
        append: &mut Append,
        on_commit: &mut OnCommit,
    ) {
        let now_ms = self.now.ms;
        let digest = self.env.workflow(identity.scope, &identity.workflow).unwrap_or(identity.digest);
        let next = RunIdentity {
            run: RunId::derived(identity.run, Op(u32::MAX), now_ms),
            generation: identity.generation + 1,
            digest,
            ..identity.clone()
        };
        let (Next { unused, attributes, entity }, heard) = on_commit.next.take().unwrap_or_default();
        let Some(slot) = self.slots.get(&identity.run) else { return };
        let options = StartOptions {
            start_at_ms: None,
            forked: None,
            attributes,
            entity,
            heard,
            ..(**slot.run.start()).clone()
        };
        let options = Arc::new(options.beginning(self.env.new_seed()));
        match begin_run(&next, input, options, now_ms) {
            Ok((mut new_run, mut run)) => {
                // Before anything that is sent to the new run itself.
                let mut events = Vec::with_capacity(unused.len());
                for UnusedSignal { name, payload, id, .. } in unused {
                    let event = Event::SignalReceived { name, payload, id };
                    match run.append(now_ms, &event) {
                        Ok(row) => {
                            events.push(PendingEvent { seq: row.seq, at_ms: row.at_ms, event });
                            new_run.further.push(row);
                        }
                        Err(illegal) => tracing::error!(run = %next.run, %illegal, "a signal is lost"),
                    }
                }
                append.new_runs.push(new_run);
                append.timers.extend(timers_of_start(&run, now_ms));
                append.projections.extend(projection_at_start(&run));
                let input = input.clone();
                on_commit.children.push(NewRunInFlight { identity: next, run, input, events, op: None });
            }
            Err(problem) => {
                tracing::error!(run = %identity.run, problem, "the run could not continue as new");
            }
        }
    }

    /// Closes a run that cannot be replayed: with the row that says so, if its ledger takes one.
    pub(crate) fn close_unreplayed(
        &mut self,
        identity: &RunIdentity,
        reason: String,
        ledger: Result<Run, usize>,
        append: &mut Append,
    ) {
        let mut at_ms = self.now.ms;
        let mut message = reason.clone();
        let (rows, chain) = match ledger {
            Ok(mut run) => {
                self.stop_children(identity.run, run.children_to_stop(), append);
                append.tasks_given_up.extend(open_calls(&run));
                if let Ok(row) = run.append(at_ms, &Event::RunTerminated { reason }) {
                    at_ms = row.at_ms;
                    append.rows.push(row);
                }
                (run.next_seq(), run.chain())
            }
            Err(rows) => {
                message.push_str(" (its ledger is damaged and was left as it is)");
                (Seq(u32::try_from(rows).unwrap_or(u32::MAX)), Chain(0))
            }
        };
        let failure = Failure::fatal(FailureKind::Terminated, "terminated", message);
        append.status = Some(StatusChange::Close(Close {
            status: RunStatus::Terminated,
            at_ms,
            output: None,
            error: failure.to_json().ok().map(|json| json.text()),
            rows,
            chain,
        }));
        // Without a row, a commit of unknown fate may be repeated and send this twice: a parent that has
        // had an outcome of its op drops the second.
        self.tell_parent(identity, Err(failure), append);
    }

    /// A message that this host sends now.
    pub(crate) fn new_message(&mut self, to: RunId, message: &Message) -> NewItem {
        new_inbox_item(self.env.new_id(), self.now.ms, to, message)
    }

    /// What the parent of a run that closes hears of it.
    fn tell_parent(&mut self, identity: &RunIdentity, outcome: Result<Json, Failure>, append: &mut Append) {
        if let Some((parent, op)) = identity.parent {
            append.inbox.push(self.new_message(parent, &Message::ChildClosed { op, outcome }));
        }
    }

    /// What the open children of a run that closes are asked to do.
    fn stop_children(&mut self, id: RunId, children: Vec<(RunId, ParentClose)>, append: &mut Append) {
        for (child, policy) in children {
            let reason = format!("its parent {id} closed");
            let message = match policy {
                ParentClose::RequestCancel => Message::Cancel { reason, id: None },
                _ => Message::Terminate { reason, only_this: false },
            };
            append.inbox.push(self.new_message(child, &message));
        }
    }

    /// Stops a run until an operator acts. Its ledger stays as it is.
    pub(crate) fn park(&mut self, id: RunId, fault: &Fault) {
        tracing::warn!(run = %id, kind = %fault.kind, message = fault.message, "a run is parked");
        self.abandon_activation(id);
        self.abort_attempts(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.guest = Guest::Parked;
        slot.is_stale = true;
        self.warm.pop(&id);
        let mut append = Append::new(slot.identity.scope, id);
        append.status = Some(parking(fault));
        self.send(id, append, |sent| sent.closes = true);
        self.advance(id);
    }
}

/// Open calls that may have a task: of a run that was parked, this host has forgotten which do.
fn remote_calls<E: Env>(slot: &Slot<E>) -> Vec<Op> {
    let may_have_one = |op: &Op| slot.attempts.get(op).is_none_or(|attempt| attempt.has_task());
    open_calls(&slot.run).filter(may_have_one).collect()
}

/// Calls of activities that have no outcome yet.
fn open_calls(run: &Run) -> impl Iterator<Item = Op> {
    run.open_ops().filter(|(_, open)| matches!(open, OpenOp::Activity { .. })).map(|(op, _)| op)
}

/// Ops that have a row in the timers table.
fn timers_of<E: Env>(slot: &Slot<E>) -> Vec<Op> {
    let open = slot.run.open_ops().filter(|(_, open)| {
        matches!(open, OpenOp::Timer { .. } | OpenOp::Activity { retry_at_ms: Some(_), .. })
    });
    open.map(|(op, _)| op).collect()
}
