//! What follows from a run's ledger, and is not in the database beside it: made anew.
//!
//! Timers, tasks, messages of children, entities and attributes have rows of their own, written with the ledger rows that
//! they follow from. A restore, a mistaken hand or a defect may take one away, and nothing would ever happen to the run
//! again. So they are compared with the ledger whenever a run is taken into memory, when it goes on after a retry or a
//! pause, when an operator asks for it ([`Message::Repair`](backstitch_core::Message)), and when a look over all runs finds
//! one that lacks a timer ([`Input::Lacking`](crate::Input)).

use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Op, Projection, Run, RunId};
use backstitch_ledger::Append;

use crate::derived::Derived;
use crate::env::Env;
use crate::plan::{due_calls, head, projection_of, timers_of};
use crate::slot::{Guest, Slot};
use crate::state::{Scheduler, TRIES};

impl<E: Env> Scheduler<E> {
    /// Compares a run with its ledger, and makes all anew that follows from it.
    pub(crate) fn make_anew(&mut self, id: RunId) {
        self.anew.insert(id, TRIES);
        if !self.reading.contains_key(&id) {
            self.load(id);
        }
    }

    /// The run was to be compared, and was at work when the answer came. It may be at rest now.
    pub(crate) fn try_again(&mut self, id: RunId) {
        let settled = || self.slots.get(&id).and_then(Slot::settled_head).is_some();
        if self.anew.contains_key(&id) && !self.reading.contains_key(&id) && settled() {
            self.load(id);
        }
    }

    /// Runs that seem to lack timers of these ops, which the database cannot know for sure: an attempt may be under way
    /// here, or the op cancelled with its run. Those that do are read, which mends them.
    pub(crate) fn on_lacking(&mut self, runs: Vec<(RunId, Vec<Op>)>) {
        for (id, ops) in runs {
            let waits = |slot: &Slot<E>, op: &Op| match slot.run.open_op(*op) {
                Some(OpenOp::Timer { .. }) => true,
                Some(OpenOp::Activity { .. }) => !slot.attempts.contains_key(op),
                _ => false,
            };
            let lacks = self.slots.get(&id).is_none_or(|slot| ops.iter().any(|op| waits(slot, op)));
            if lacks && !self.reading.contains_key(&id) {
                self.load(id);
            }
        }
    }

    /// What was read of a run that is in memory. If anything of it was on its way meanwhile, the answer is of no use: a
    /// later look finds what is still missing.
    pub(crate) fn compare_derived(
        &mut self,
        id: RunId,
        run: &Run,
        derived: Derived,
        projection: Option<&Projection>,
    ) {
        let settled = self.slots.get(&id).and_then(Slot::settled_head);
        if settled.is_some() && settled == head(run) {
            self.amend(id, derived, projection);
        } else {
            self.compare_later(id);
        }
    }

    /// What was read of a run in memory is of no use, for the run has written meanwhile. It is read again, a few times.
    pub(crate) fn compare_later(&mut self, id: RunId) {
        if let Some(tries) = self.anew.get_mut(&id) {
            *tries -= 1;
            if *tries == 0 {
                self.anew.remove(&id);
            }
        }
        self.try_again(id);
    }

    /// Makes anew what a run lacks: its timers, tasks, and what its children have to say; with a projection, what is
    /// known of it as well.
    pub(crate) fn amend(&mut self, id: RunId, derived: Derived, projection: Option<&Projection>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        self.anew.remove(&id);
        // Their tasks are gone, and no message says why.
        let (gone, _) = slot.take_attempts(|_, op| !derived.offered.contains(&op));
        let (gone, others): (Vec<_>, Vec<_>) = gone.into_iter().partition(|(_, attempt)| attempt.has_task());
        slot.attempts.extend(others);
        gone.into_iter().for_each(|(op, attempt)| self.abort_attempt(id, op, attempt));
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let now_ms = self.now.ms;
        let mut append = Append::new(slot.identity.scope, id);
        append.timers = timers_of(&slot.run, now_ms);
        append.timers.retain(|timer| derived.timers.get(&timer.op) != Some(&timer.due_ms));
        append
            .projections
            .extend(projection.map(|known| projection_of(id, known)).filter(|known| !known.is_empty()));
        let parked = matches!(slot.guest, Guest::Parked);
        let mut calls = if parked { Vec::new() } else { due_calls(&slot.run, now_ms) };
        calls.retain(|op| !derived.offered.contains(op) && !slot.attempts.contains_key(op));
        if !append.timers.is_empty() || !append.projections.is_empty() {
            self.send(id, append, |_| {});
        }
        self.enqueue_attempts(id, calls);
        if parked {
            return;
        }
        self.tell_of_rejected(id, derived.rejected);
        for (op, outcome) in derived.untold {
            let waits = self.slots.get(&id).is_some_and(|slot| slot.run.open_op(op).is_some());
            if waits {
                tracing::warn!(run = %id, %op, "the message of a child that closed was not there; its run tells");
                self.outcome(id, Event::ChildClosed { op, outcome }, None, |_| {});
            }
        }
    }
}
