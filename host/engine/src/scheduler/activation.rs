//! Guests: when one is activated, what becomes of its commands, how its run ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstitch_core::run::OpenOp;
use backstitch_core::{
    Command, Entity, Event, Failure, FailureKind, Fault, FaultKind, Json, Message, Op, ProjectionChanges,
    Run, RunId, Seq, StartOptions, Status, UnusedSignal, limits,
};
use backstitch_ledger::{Append, NewProjection, NewTimer};
use backstitch_sandbox::{Stopped, WorkflowInstance};

use super::effects::Effects;
use super::plan::{Purpose, full, note};
use super::slot::{Attempt, Computing, Guest};
use super::state::Scheduler;
use super::waiting::Waiting;
use crate::clock::Clock;
use crate::guests::{Activated, Ahead, Check, Done, Job, Undone};

impl Scheduler {
    /// Does whatever can be done for a run now. Called after everything that happens to it.
    pub(super) fn advance(&mut self, id: RunId) {
        self.go_on(id);
        // If its guest does not begin now, others may have the room; but for a large ledger that begins on trial, and waits
        // for nobody who needs room.
        let held = self.slots.get_mut(&id).and_then(|slot| slot.held.take());
        if let Some(held) = held.filter(|held| held.is_large())
            && self.waits_for_trial(id)
            && let Some(slot) = self.slots.get_mut(&id)
        {
            slot.held = Some(held);
        }
    }

    fn go_on(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if !slot.run.is_open() || slot.stale {
            if slot.unacked == 0
                && !matches!(slot.guest, Guest::Busy(_))
                && let Some(slot) = self.slots.remove(&id)
            {
                self.warm.pop(&id);
                self.release(&slot);
                if slot.reload {
                    self.reload(id);
                } else if !self.loading.contains_key(&id) {
                    // A read that was begun for its guest is of what the run was before.
                    self.reading.remove(&id);
                }
            }
            return;
        }
        if let Guest::Busy(computing) = &slot.guest {
            if slot.is_unwanted() {
                computing.give_up();
            }
            return;
        }
        if matches!(slot.guest, Guest::Loading(_)) {
            return;
        }
        if let Some(request) = slot.terminate.take() {
            return self.end(id, &Event::RunTerminated { reason: request.reason }, Some(request.item), None);
        }
        if slot.overdue.is_some() {
            return self.time_out(id);
        }
        if matches!(slot.guest, Guest::Parked) {
            return self.rests(id);
        }
        if slot.is_held(self.tools.clock.now_ms()) {
            // What it does not hear now stays in its inbox, and is not looked for as long as it is held.
            if let Some(request) = slot.cancel.take() {
                self.tools.in_hand.put_back(id, request.item);
            }
            self.rests(id);
            let Some(slot) = self.slots.get(&id) else { return };
            // Everything of it is in the database: it comes back with whatever happens to it.
            if slot.can_leave() {
                self.warm.pop(&id);
                self.slots.remove(&id);
            }
            return;
        }
        if slot.is_quiescent()
            && let Some(request) = slot.cancel.take()
        {
            return self.request_cancel(id, request);
        }
        self.dispatch(id);
    }

    /// Gives the guest what it may have now, in a job.
    pub(super) fn dispatch(&mut self, id: RunId) {
        if !self.may_dispatch(id) {
            return;
        }
        let check_wanted = self.tools.check_activations;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let ready = slot.ready_ahead();
        // One count for all terms: a job of an earlier term must not pass for one of this.
        let turn = self.tools.counters.activations.load(Ordering::Relaxed) + 1;
        let computing = Computing::default();
        let stop = computing.stop();
        let job = match std::mem::replace(&mut slot.guest, Guest::Busy(computing)) {
            // Nothing of the ledger may be missing that is committed or drafted.
            Guest::Cold(mut rows) if slot.durable.0 > 0 || slot.draft.is_some() => {
                rows.extend(slot.ahead.drain(..ready));
                if let Some(history) = &mut slot.history {
                    history.clone_from(&rows);
                }
                let held = slot.held.take();
                Job::Begin { turn, stop, origin: slot.origin(), rows, check: check_wanted, held }
            }
            Guest::Idle(guest) if ready > 0 => {
                let rows: Vec<Ahead> = slot.ahead.drain(..ready).collect();
                let check = slot.history.as_mut().map(|history| {
                    history.extend(rows.iter().cloned());
                    history.clone()
                });
                let check = check.map(|rows| Check { origin: slot.origin(), rows });
                Job::Resume { turn, stop, facts: Arc::clone(&slot.facts), guest, rows, check }
            }
            Guest::Evicted if (ready > 0 || slot.behind) && slot.unacked == 0 => {
                slot.guest = Guest::Loading(slot.durable);
                return self.load(id);
            }
            other => {
                slot.guest = other;
                return;
            }
        };
        let (Job::Begin { rows, .. } | Job::Resume { rows, .. }) = &job;
        slot.seen = slot.seen.max(rows.last().map_or(Seq(1), |last| Seq(last.seq.0 + 1)));
        slot.turn = turn;
        self.warm.pop(&id);
        self.give(job);
    }

    fn give(&mut self, job: Job) {
        self.tools.counters.activations.fetch_add(1, Ordering::Relaxed);
        // The channel is unbounded in name only: one job for each run in memory.
        if self.tools.jobs.send(job).is_err() {
            tracing::error!("the guest threads are gone");
        }
    }

    /// An activation came back.
    pub(super) fn activated(&mut self, activated: Activated) {
        let Activated { run: id, turn, result } = activated;
        if !matches!(result, Err(Undone::NoRoom(_))) {
            // One that ends its run, or is parked for what it did, has not harmed its host either.
            // One that was given up on its way has shown nothing.
            let went_on = match &result {
                Ok(done) => {
                    !done.commands.is_empty() || !matches!(done.status, Status::Blocked) || !done.repeats
                }
                Err(undone) => !matches!(undone, Undone::Unwanted),
            };
            self.survived(id, went_on);
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.turn != turn || !matches!(slot.guest, Guest::Busy(_)) {
            // Of a slot that was given up while its guest was on a thread.
            return;
        }
        if !slot.run.is_open() || slot.stale || slot.terminate.is_some() || slot.overdue.is_some() {
            slot.guest = Guest::Evicted;
            return self.advance(id);
        }
        match result {
            Ok(done) => self.accept(id, done),
            Err(Undone::Unwanted | Undone::Stopped(Stopped::Unwanted)) => {
                slot.guest = Guest::Evicted;
                slot.behind = true;
                self.advance(id);
            }
            Err(Undone::NoRoom(job)) => {
                self.evict_one();
                self.give(*job);
            }
            Err(Undone::Stopped(Stopped::Fault(fault))) => self.park(id, &fault),
            Err(Undone::Stopped(Stopped::Divergence(divergence))) => {
                let backtrace = divergence.backtrace.clone().unwrap_or_default();
                let fault = Fault::new(FaultKind::Divergence, divergence.to_string());
                self.park(id, &fault.with_backtrace(backtrace));
            }
        }
    }

    /// Records what a guest asked for, and starts it.
    fn accept(&mut self, id: RunId, done: Done) {
        let Done { mut guest, commands, status, memory, outcomes, repeats: _ } = done;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let bytes = commands.iter().map(|(_, command, _)| command.payload_bytes()).sum();
        if !slot.run.has_room(commands.len() + 1, bytes) {
            return self.park(id, &full());
        }
        let mut append = Append::new(slot.facts.scope, id);
        let mut effects = Effects::default();
        let ProjectionChanges { entity, attributes } = memory;
        let memory = NewProjection { run: id, entity: entity.map(|json| json.text()), attributes };
        append.projections.extend((!memory.is_empty()).then_some(memory));
        if matches!(status, Status::ContinueAsNew(_)) {
            effects.unused = unused_signals(&mut guest, slot);
            effects.next = Some(Arc::new(next_options(&mut guest, &slot.run)));
        }
        slot.guest = Guest::Idle(guest);
        if let Err(fault) = self.record(id, commands, &mut append, &mut effects) {
            return self.park(id, &fault);
        }
        for (op, outcome) in outcomes {
            if let Err(fault) = self.made_at_once(id, op, outcome, &mut append, &mut effects) {
                return self.park(id, &fault);
            }
        }
        let closing = closing(status);
        let is_blocked = closing.is_none();
        if let Some(event) = closing {
            self.close(id, &event, &mut append, &mut effects);
        }
        self.makes_room(id);
        let Effects { children, calls, messages, given_up, stillborn, unused: _, next: _ } = effects;
        let draft = self
            .slots
            .get_mut(&id)
            .and_then(|slot| slot.draft.take_if(|draft| draft.append.may_join(&append)));
        if is_empty(&append) && draft.is_none() {
            self.warmed(id);
            return self.advance(id);
        }
        let mut waiting = Waiting::default();
        if let Some(draft) = draft {
            let commands = std::mem::replace(&mut append, draft.append);
            append.join(commands);
            waiting = draft.waiting;
        }
        // What is for workers outside goes with the calls themselves.
        let calls = if is_blocked { calls } else { Vec::new() };
        self.send_with_calls(id, append, calls, None, |pending| {
            (pending.children, pending.messages) = (children, messages);
            (pending.given_up, pending.waiting) = (given_up, waiting);
        });
        if is_blocked {
            for (op, failure) in stillborn {
                self.outcome(id, Event::ChildClosed { op, outcome: Err(failure) }, None, |_| {});
            }
            self.warmed(id);
        }
        self.advance(id);
    }

    /// A first attempt whose outcome goes with its call.
    fn made_at_once(
        &mut self,
        id: RunId,
        op: Op,
        outcome: Result<Json, Failure>,
        append: &mut Append,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        // In the order of their ops, both of them.
        let Ok(place) = effects.calls.binary_search(&op) else { return Ok(()) };
        effects.calls.remove(place);
        self.tools.counters.activities_started.fetch_add(1, Ordering::Relaxed);
        // It imports nothing, so it has no heartbeats.
        match self.judge(id, op, 1, outcome, None) {
            Some((event, timer)) => {
                append.timers.extend(timer);
                self.lay(id, event, append)
            }
            None => Ok(()),
        }
    }

    /// One row for each command, and what each sets in motion.
    fn record(
        &mut self,
        id: RunId,
        commands: Vec<(Op, Command, bool)>,
        append: &mut Append,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let now_ms = self.tools.clock.now_ms();
        for (op, command, open) in commands {
            let slot = self.slots.get_mut(&id).expect("the caller has just seen it");
            if let Command::Cancel { target } = &command {
                effects.given_up.extend(give_up(&self.tools.clock, slot, *target, append));
            }
            let event = Event::Commanded { op, command };
            let row = slot.run.append(now_ms, &event).map_err(|illegal| {
                Fault::new(FaultKind::Corrupt, format!("a command could not be recorded: {illegal}"))
            })?;
            if let Some(history) = &mut slot.history {
                history.push(Ahead { seq: row.seq, at_ms: row.at_ms, event: event.clone() });
            }
            let at_ms = row.at_ms;
            append.rows.push(row);
            let Event::Commanded { command, .. } = event else { unreachable!("made above") };
            match command {
                Command::ScheduleActivity { .. } if open => effects.calls.push(op),
                Command::SignalRun { .. } | Command::CancelRun { .. } if open => effects.messages.push(op),
                Command::StartTimer { ms } if open => append.timers.push(NewTimer {
                    run: id,
                    op,
                    due_ms: at_ms.saturating_add(ms),
                    purpose: Purpose::Sleep.tag(),
                }),
                Command::StartChild { workflow, input, options } => {
                    let facts = self.child_facts(id, op, at_ms, &workflow, options.workflow_id);
                    self.start_child(id, facts, op, input, append, effects);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Signals that wait for the run come in again, if they had to wait for room.
    fn makes_room(&self, id: RunId) {
        let kept = self.slots.get(&id).map_or(0, |slot| slot.run.signals_kept() as usize);
        if kept < limits::SIGNALS_BUFFERED_MAX && self.tools.in_hand.set_full(id, false) {
            self.tools.inbox_hint.notify_one();
        }
    }

    /// A guest is idle: the oldest ones go if there are too many.
    fn warmed(&mut self, id: RunId) {
        self.warm.put(id, ());
        while self.warm.len() > self.tools.warm_runs_max {
            self.evict_one();
        }
        self.make_room();
    }

    /// Drops guests that only wait, the oldest first, until what guests have together is within its bound.
    pub(super) fn make_room(&mut self) {
        while self.tools.room.is_short() && !self.warm.is_empty() {
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
                self.slots.remove(&id);
            }
        }
    }
}

/// On which terms the next run of a guest starts that continues as new.
fn next_options(guest: &mut WorkflowInstance, run: &Run) -> StartOptions {
    let replay = guest.replay();
    StartOptions {
        start_at_ms: None,
        forked: None,
        attributes: replay.attributes().clone(),
        entity: (*replay.entity() != Entity::default()).then(|| replay.entity().to_json()),
        heard: run.heard().latest(),
        ..(**run.start()).clone()
    }
}

/// Gives up an op that may be open: its timer, its child, and its attempt, which is to be told.
fn give_up(clock: &Clock, slot: &mut super::slot::Slot, target: Op, append: &mut Append) -> Vec<Attempt> {
    let id = slot.facts.run;
    let (given_up, outside) = slot.take_attempts(|_, op| op == target);
    append.tasks_given_up.extend(outside);
    match slot.run.open_op(target) {
        Some(OpenOp::Timer { .. } | OpenOp::Activity { retry_at_ms: Some(_), .. }) => {
            append.timers_done.push((id, target));
        }
        Some(OpenOp::Child { run, .. }) => {
            let reason = format!("its parent {id} gave it up");
            append.inbox.push(note(clock, *run, &Message::Cancel { reason, id: None }));
        }
        _ => {}
    }
    given_up
}

/// The signals that a guest which continues as new has not had, in ledger order.
fn unused_signals(guest: &mut WorkflowInstance, slot: &super::slot::Slot) -> Vec<UnusedSignal> {
    let mut signals = guest.replay().unused_signals();
    signals.extend(slot.ahead.iter().filter_map(|row| UnusedSignal::of(row.seq, &row.event)));
    signals
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
