//! Guests: when one is activated, and what becomes of its commands.

use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{
    Command, Event, Failure, FailureKind, Fault, FaultKind, Json, Message, Op, ProjectionChanges, RunId, Seq,
    Status, UnusedSignal, limits,
};
use backstitch_ledger::{Append, NewProjection, NewTimer};

use crate::action::Action;
use crate::env::Env;
use crate::in_flight::Left;
use crate::job::{Activated, ActivationError, ActivationId, ActivationResult, Check, Job, PendingEvent};
use crate::on_commit::OnCommit;
use crate::plan::{Purpose, full};
use crate::slot::{Attempt, Guest, Slot, Standing};
use crate::state::Scheduler;

impl<E: Env> Scheduler<E> {
    /// Does whatever can be done for a run now. Called after everything that happens to it.
    pub(crate) fn advance(&mut self, id: RunId) {
        self.go_on(id);
        // If its guest does not begin now, others may have the room; but for a large ledger that begins on trial, and waits
        // for nobody who needs room.
        let room = self.slots.get_mut(&id).and_then(|slot| slot.room.take());
        if let Some((room, true)) = room
            && self.waits_for_trial(id)
            && let Some(slot) = self.slots.get_mut(&id)
        {
            slot.room = Some((room, true));
        }
    }

    fn go_on(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match slot.standing(self.now.ms) {
            Standing::Stale | Standing::Leaving | Standing::Computing | Standing::Reading => {}
            Standing::Gone => self.leave(id),
            Standing::Abandoned => self.abandon_activation(id),
            Standing::Terminated => {
                if let Some(request) = slot.terminate.take() {
                    self.end(id, &Event::RunTerminated { reason: request.reason }, Some(request.item), None);
                }
            }
            Standing::Overdue => self.time_out(id),
            Standing::Parked | Standing::OnHold => self.wait_on_hold(id),
            Standing::Cancelled => {
                if let Some(request) = slot.cancel.take() {
                    self.request_cancel(id, request);
                }
            }
            Standing::Ready => self.dispatch(id),
        }
    }

    /// A slot of a run that is closed or stale goes.
    fn leave(&mut self, id: RunId) {
        let Some(slot) = self.remove_slot(id) else { return };
        self.release(&slot);
        if slot.is_reloaded {
            self.reload(id);
        } else if !self.loading.contains_key(&id) {
            // A read that was begun for its guest is of what the run was before.
            self.reading.remove(&id);
        }
    }

    /// Nothing is done for a run that is parked or paused, or whose start is delayed.
    fn wait_on_hold(&mut self, id: RunId) {
        // What it does not hear now stays in its inbox, and is not looked for as long as it is on hold.
        if let Some(request) = self.slots.get_mut(&id).and_then(|slot| slot.cancel.take()) {
            self.in_hand.put_back(id, request.item);
        }
        self.rests(id);
        // Everything of it is in the database: it comes back with whatever happens to it.
        if self.slots.get(&id).is_some_and(Slot::can_leave) {
            self.remove_slot(id);
        }
    }

    /// Takes a slot out of memory. What it has under way is not waited for.
    pub(crate) fn remove_slot(&mut self, id: RunId) -> Option<Slot<E>> {
        self.warm.pop(&id);
        self.abandon_activation(id);
        self.abort_attempts(id);
        let slot = self.slots.remove(&id)?;
        // Of a start that was refused, nothing is there.
        if slot.durable.0 > 0 {
            let is_doubtful = slot.offers_alone || matches!(slot.guest, Guest::Parked);
            let left = Left { identity: Arc::clone(&slot.identity), head: slot.sent, is_doubtful };
            self.left.put(id, left);
        }
        Some(slot)
    }

    /// Nobody waits for the guest of a run any more, if it computes.
    pub(crate) fn abandon_activation(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if let Guest::Busy { is_abandoned: is_abandoned @ false } = &mut slot.guest {
            *is_abandoned = true;
            let activation = slot.activation;
            self.act(Action::AbandonActivation(id, activation));
        }
    }

    /// Gives the guest what it may have now, in a job.
    pub(crate) fn dispatch(&mut self, id: RunId) {
        if !self.may_dispatch(id) {
            return;
        }
        let check_wanted = self.config.check_activations;
        let activation = ActivationId(self.config.activations + self.figures.activations + 1);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let ready = slot.deliverable();
        let job = match std::mem::replace(&mut slot.guest, Guest::Busy { is_abandoned: false }) {
            // Nothing of the ledger may be missing that is committed or kept back for it.
            Guest::Cold(mut events) if slot.durable.0 > 0 || slot.speculative.is_some() => {
                events.extend(slot.undelivered.drain(..ready));
                if let Some(history) = &mut slot.history {
                    history.clone_from(&events);
                }
                let room = slot.room.take().map(|(room, _)| room);
                Job::Begin { activation, origin: slot.origin(), events, check: check_wanted, room }
            }
            Guest::Idle(guest) if ready > 0 => {
                let events: Vec<PendingEvent> = slot.undelivered.drain(..ready).collect();
                let check = slot.history.as_mut().map(|history| {
                    history.extend(events.iter().cloned());
                    history.clone()
                });
                let check = check.map(|events| Check { origin: slot.origin(), events });
                Job::Resume { activation, identity: Arc::clone(&slot.identity), guest, events, check }
            }
            Guest::Evicted if (ready > 0 || slot.is_behind) && slot.unacked == 0 => {
                slot.guest = Guest::Loading(slot.durable);
                return self.load(id);
            }
            other => {
                slot.guest = other;
                return;
            }
        };
        let (Job::Begin { events, .. } | Job::Resume { events, .. }) = &job;
        slot.seen = slot.seen.max(events.last().map_or(Seq(1), |last| Seq(last.seq.0 + 1)));
        slot.activation = activation;
        self.warm.pop(&id);
        self.activate(job);
    }

    fn activate(&mut self, job: Job<E>) {
        self.figures.activations += 1;
        self.act(Action::Activate(job));
    }

    /// An activation came back.
    pub(crate) fn on_activated(&mut self, activated: Activated<E>) {
        let Activated { run: id, activation, result } = activated;
        if !matches!(result, Err(ActivationError::NoRoom(_))) {
            // One that ends its run, or is parked for what it did, has not harmed its host either.
            // One that was abandoned on its way has shown nothing.
            let went_on = match &result {
                Ok(done) => {
                    !done.commands.is_empty() || !matches!(done.status, Status::Blocked) || !done.replayed
                }
                Err(error) => !matches!(error, ActivationError::Abandoned),
            };
            self.survived(id, went_on);
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.activation != activation || !matches!(slot.guest, Guest::Busy { .. }) {
            // Of a slot that was given up while its guest was on a thread.
            return;
        }
        if !slot.run.is_open() || slot.is_stale || slot.terminate.is_some() || slot.overdue.is_some() {
            slot.guest = Guest::Evicted;
            return self.advance(id);
        }
        match result {
            Ok(done) => self.accept(id, done),
            Err(ActivationError::NoRoom(job)) if !slot.is_unwanted() => {
                self.evict_one();
                self.activate(*job);
            }
            Err(ActivationError::Abandoned | ActivationError::NoRoom(_)) => {
                slot.guest = Guest::Evicted;
                slot.is_behind = true;
                self.advance(id);
            }
            Err(ActivationError::Fault(fault)) => self.park(id, &fault),
        }
    }

    /// Records what a guest asked for, and starts it.
    fn accept(&mut self, id: RunId, done: ActivationResult<E::Guest>) {
        let ActivationResult { guest, commands, status, projection, inline, next, replayed: _ } = done;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let bytes = commands.iter().map(|(_, command, _)| command.payload_bytes()).sum();
        if !slot.run.has_room(commands.len() + 1, bytes) {
            return self.park(id, &full());
        }
        let mut append = Append::new(slot.identity.scope, id);
        let mut on_commit = OnCommit::default();
        let ProjectionChanges { entity, attributes } = projection;
        let projection = NewProjection { run: id, entity: entity.map(|json| json.text()), attributes };
        append.projections.extend((!projection.is_empty()).then_some(projection));
        on_commit.next = next.map(|mut next| {
            let late = slot.undelivered.iter();
            next.unused.extend(late.filter_map(|event| UnusedSignal::of(event.seq, &event.event)));
            // A run that has closed knows of none.
            (next, slot.run.heard().latest())
        });
        slot.guest = Guest::Idle(guest);
        if let Err(fault) = self.record(id, commands, inline, &mut append, &mut on_commit) {
            return self.park(id, &fault);
        }
        let closing = closing(status);
        let is_blocked = closing.is_none();
        if let Some(event) = closing {
            self.close(id, &event, &mut append, &mut on_commit);
        }
        self.makes_room(id);
        let OnCommit { children, calls, messages, abandoned, rejected, next: _ } = on_commit;
        let is_empty = is_empty(&append);
        let (append, waiting, is_joined) = self.join_speculative(id, append);
        if is_empty && !is_joined {
            self.warmed(id);
            return self.advance(id);
        }
        // What is for remote workers goes with the calls themselves.
        let calls = if is_blocked { calls } else { Vec::new() };
        self.send_with_calls(id, append, calls, None, |sent| {
            (sent.children, sent.messages) = (children, messages);
            (sent.abandoned, sent.waiting) = (abandoned, waiting);
        });
        if is_blocked {
            for (op, failure) in rejected {
                self.outcome(id, Event::ChildClosed { op, outcome: Err(failure) }, None, |_| {});
            }
            self.warmed(id);
        }
        self.advance(id);
    }

    /// One row for each command, and what each sets in motion; then the outcomes that are there already.
    fn record(
        &mut self,
        id: RunId,
        commands: Vec<(Op, Command, bool)>,
        inline: Vec<(Op, Result<Json, Failure>)>,
        append: &mut Append,
        on_commit: &mut OnCommit,
    ) -> Result<(), Fault> {
        for (op, command, is_open) in commands {
            self.record_command(id, op, command, is_open, append, on_commit)?;
        }
        for (op, outcome) in inline {
            self.made_inline(id, op, outcome, append, on_commit)?;
        }
        Ok(())
    }

    fn record_command(
        &mut self,
        id: RunId,
        op: Op,
        command: Command,
        is_open: bool,
        append: &mut Append,
        on_commit: &mut OnCommit,
    ) -> Result<(), Fault> {
        if let Command::Cancel { target } = &command {
            let abandoned = self.abandon_op(id, *target, append);
            on_commit.abandoned.extend(abandoned);
        }
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let event = Event::Commanded { op, command };
        let row = slot.run.append(self.now.ms, &event).map_err(|illegal| {
            Fault::new(FaultKind::Corrupt, format!("a command could not be recorded: {illegal}"))
        })?;
        if let Some(history) = &mut slot.history {
            history.push(PendingEvent { seq: row.seq, at_ms: row.at_ms, event: event.clone() });
        }
        let at_ms = row.at_ms;
        append.rows.push(row);
        let Event::Commanded { command, .. } = event else { unreachable!("made above") };
        match command {
            Command::ScheduleActivity { .. } if is_open => on_commit.calls.push(op),
            Command::SignalRun { .. } | Command::CancelRun { .. } if is_open => on_commit.messages.push(op),
            Command::StartTimer { ms } if is_open => append.timers.push(NewTimer {
                run: id,
                op,
                due_ms: at_ms.saturating_add(ms),
                purpose: Purpose::Sleep.tag(),
            }),
            Command::StartChild { workflow, input, options } => {
                let child = self.child_identity(id, op, at_ms, &workflow, options.workflow_id);
                self.start_child(id, child, op, input, append, on_commit);
            }
            _ => {}
        }
        Ok(())
    }

    /// A first attempt whose outcome goes with its call.
    fn made_inline(
        &mut self,
        id: RunId,
        op: Op,
        outcome: Result<Json, Failure>,
        append: &mut Append,
        on_commit: &mut OnCommit,
    ) -> Result<(), Fault> {
        // In the order of their ops, both of them.
        let Ok(place) = on_commit.calls.binary_search(&op) else { return Ok(()) };
        on_commit.calls.remove(place);
        self.figures.activities_started += 1;
        // It imports nothing, so it has no heartbeats.
        match self.decide_retry(id, op, 1, outcome, None) {
            Some((event, timer)) => {
                append.timers.extend(timer);
                self.enqueue(id, event, append)
            }
            None => Ok(()),
        }
    }

    /// Gives up an op that may be open: its timer, its child, and its attempt, which is to be told.
    fn abandon_op(&mut self, id: RunId, target: Op, append: &mut Append) -> Vec<(Op, Attempt)> {
        let Some(slot) = self.slots.get_mut(&id) else { return Vec::new() };
        let (abandoned, remote) = slot.take_attempts(|_, op| op == target);
        append.tasks_given_up.extend(remote);
        match slot.run.open_op(target) {
            Some(OpenOp::Timer { .. } | OpenOp::Activity { retry_at_ms: Some(_), .. }) => {
                append.timers_done.push((id, target));
            }
            Some(OpenOp::Child { run, .. }) => {
                let (child, reason) = (*run, format!("its parent {id} gave it up"));
                append.inbox.push(self.new_message(child, &Message::Cancel { reason, id: None }));
            }
            _ => {}
        }
        abandoned
    }

    /// Signals that wait for the run come in again, if they had to wait for room.
    fn makes_room(&mut self, id: RunId) {
        let kept = self.slots.get(&id).map_or(0, |slot| slot.run.signals_kept() as usize);
        if kept < limits::SIGNALS_BUFFERED_MAX && self.in_hand.set_full(id, false) {
            self.act(Action::ReadInbox);
        }
    }

    /// A guest is idle: the oldest ones go if there are too many.
    fn warmed(&mut self, id: RunId) {
        self.warm.put(id, ());
        while self.warm.len() > self.config.warm_runs_max {
            self.evict_one();
        }
        self.make_room();
    }

    /// Drops guests that only wait, the oldest first, until what guests have together is within its bound.
    pub(crate) fn make_room(&mut self) {
        while self.env.is_short_of_memory() && !self.warm.is_empty() {
            self.evict_one();
        }
    }

    /// Drops the guest that has been idle longest; the whole slot if nothing is on its way.
    fn evict_one(&mut self) {
        let Some((id, ())) = self.warm.pop_lru() else { return };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if matches!(slot.guest, Guest::Idle(_)) {
            slot.guest = Guest::Evicted;
            if slot.is_at_rest() {
                self.remove_slot(id);
            }
        }
    }
}

/// The row that closes a run whose guest has ended so.
fn closing(status: Status) -> Option<Event> {
    Some(match status {
        Status::Blocked => return None,
        Status::Completed(output) => Event::RunCompleted { output },
        Status::Failed(failure) if failure.kind == FailureKind::Cancelled => Event::RunCancelled { failure },
        Status::Failed(failure) => Event::RunFailed { failure },
        Status::ContinueAsNew(input) => Event::RunContinued { input },
    })
}

/// Whether an activation changed nothing.
fn is_empty(append: &Append) -> bool {
    append.rows.is_empty() && append.status.is_none()
}
