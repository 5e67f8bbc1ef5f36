//! Appends: how they get to the writer, and what follows when they are committed, or refused.

use backstitch_core::{Event, Fault, FaultKind, RunId, Seq};
use backstitch_ledger::{Acks, Append, Item, Outcome, PoisonKind, StatusChange};

use uuid::Uuid;

use super::input::Settlement;
use super::pending::Pending;
use super::plan::{full, received};
use super::slot;
use super::state::Scheduler;
use super::waiting::Waiting;
use crate::guests::Ahead;

impl Scheduler {
    /// Sends an append of a run in memory. `note` says what else hangs on it.
    pub(super) fn send(&mut self, id: RunId, mut append: Append, note: impl FnOnce(&mut Pending)) {
        self.send_draft(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.unacked += 1;
        slot.follow(&mut append);
        let (upto, closes) = (slot.run.next_seq(), !slot.run.is_open());
        self.enqueue(id, append, |pending| {
            (pending.upto, pending.closes) = (upto, closes);
            note(pending);
        });
    }

    /// Puts an append in line for the writer.
    pub(super) fn enqueue(&mut self, id: RunId, append: Append, note: impl FnOnce(&mut Pending)) {
        let mut pending = Pending {
            run: id,
            upto: Seq(0),
            children: Vec::new(),
            messages: Vec::new(),
            posted: append.inbox.iter().map(|sent| received(append.scope, sent)).collect(),
            consumed: append.inbox_done.clone(),
            put_back: Vec::new(),
            offers: Vec::new(),
            calls: Vec::new(),
            given_up: Vec::new(),
            held: None,
            waiting: Waiting::default(),
            closes: false,
            then_load: false,
            goes_on: matches!(append.status, Some(StatusChange::Run)),
            due_ms: append.timers.iter().map(|timer| timer.due_ms).min(),
        };
        note(&mut pending);
        if let Some(reading) = self.reading.get_mut(&id) {
            reading.has_written = true;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.pending.insert(ticket, pending);
        self.outbox.push_back(Item { ticket, append });
    }

    pub(super) fn acknowledged(&mut self, acks: Acks) {
        for ticket in acks.tickets {
            let Some(pending) = self.pending.remove(&ticket) else { continue };
            match &acks.outcome {
                Outcome::Committed { refused } => self.committed(pending, refused),
                Outcome::Poisoned { kind, message } => self.poisoned(pending, *kind, message),
                Outcome::Fenced => {}
            }
        }
    }

    pub(super) fn committed(&mut self, pending: Pending, refused: &[RunId]) {
        let Pending {
            run: id,
            upto,
            children,
            posted,
            messages,
            consumed,
            put_back,
            offers,
            calls,
            given_up,
            held,
            waiting: Waiting { guard, settled, started },
            closes,
            then_load,
            goes_on,
            due_ms,
        } = pending;
        self.done_with_messages(id, consumed, put_back);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.unacked = slot.unacked.saturating_sub(1);
            slot.durable = slot.durable.max(upto);
        }
        self.proven(id);
        self.try_again(id);
        if let Some(started) = started {
            if refused.contains(&id) {
                // Nothing of it was written, whatever its guest has asked for.
                self.warm.pop(&id);
                self.slots.remove(&id);
                let _ = started.send(Ok(None));
                return;
            }
            let started_at_ms = self.slots.get(&id).map(|slot| slot.started_at_ms);
            let _ = started.send(Ok(started_at_ms));
        }
        if then_load {
            self.load(id);
        }
        if goes_on {
            self.goes_on(id);
        }
        if let Some(due_ms) = due_ms {
            self.tools.timer_hint.sooner(due_ms);
        }
        if let Some((settled, _others)) = settled {
            let _ = settled.send(Settlement::Done);
        }
        if let Some(held) = held {
            self.held(id, held);
        }
        offers.into_iter().for_each(|offer| self.offered(offer));
        calls.into_iter().for_each(|op| self.queue_up(id, op));
        given_up.into_iter().for_each(slot::Attempt::give_up);
        for child in children {
            self.child_committed(id, child, refused);
        }
        for item in posted {
            self.posted(item);
        }
        self.send_messages(id, messages);
        if closes {
            self.tools.closings.tell(id);
        }
        drop(guard);
        self.advance(id);
    }

    /// These messages have had their effect, or are not heard for now.
    fn done_with_messages(&mut self, id: RunId, consumed: Vec<(RunId, Uuid)>, put_back: Vec<Uuid>) {
        for (run, item) in consumed {
            self.tools.in_hand.put_back(run, item);
            self.consumed.put((run, item), false);
        }
        put_back.into_iter().for_each(|item| self.tools.in_hand.put_back(id, item));
    }

    /// A run goes on that was parked or held: what was not looked for meanwhile may be there.
    fn goes_on(&mut self, id: RunId) {
        self.tools.timer_hint.sooner(0);
        self.tools.inbox_hint.notify_one();
        self.make_anew(id);
    }

    /// Postgres refused what this run wanted to write, and will refuse it again. Nothing of it was
    /// written, so the run stands where its ledger says.
    pub(super) fn poisoned(&mut self, pending: Pending, kind: PoisonKind, problem: &str) {
        for (run, item) in pending.consumed {
            self.tools.in_hand.put_back(run, item);
        }
        pending.put_back.into_iter().for_each(|item| self.tools.in_hand.put_back(pending.run, item));
        if kind == PoisonKind::Gap && !self.slots.contains_key(&pending.run) {
            // Of a run whose start was refused.
            return;
        }
        if let Some(started) = pending.waiting.started {
            let _ = started.send(Err(problem.to_owned()));
            self.warm.pop(&pending.run);
            self.slots.remove(&pending.run);
            return;
        }
        if let Some(slot) = self.slots.get_mut(&pending.run) {
            slot.unacked = slot.unacked.saturating_sub(1);
            if slot.stale {
                return self.advance(pending.run);
            }
            if matches!(kind, PoisonKind::Behind | PoisonKind::SeqTaken) {
                // The ledger ends elsewhere than this host thought.
                return self.rewind(pending.run);
            }
            tracing::error!(run = %pending.run, problem, "a write was refused for good; the run is parked");
            // What the database holds of it is not what was sent.
            slot.sent = None;
            let message = format!("Postgres refused this run's rows: {problem}");
            self.park(pending.run, &Fault::new(FaultKind::Corrupt, message));
        }
    }

    /// Appends one outcome to a run and lays it ahead of the guest. `fill` adds what goes with it.
    pub(super) fn outcome(
        &mut self,
        id: RunId,
        event: Event,
        waiting: impl Into<Waiting>,
        fill: impl FnOnce(&mut Append),
    ) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.stale {
            return;
        }
        let mut append = Append::new(slot.facts.scope, id);
        fill(&mut append);
        if let Err(full) = self.lay(id, event, &mut append) {
            for (run, item) in &append.inbox_done {
                self.tools.in_hand.put_back(*run, *item);
            }
            return self.park(id, &full);
        }
        self.send_or_draft(id, append, waiting.into());
    }

    /// Adds one outcome to an append, and lays it ahead of the guest. Fails if the run must be parked.
    pub(super) fn lay(&mut self, id: RunId, event: Event, append: &mut Append) -> Result<(), Fault> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        match slot.run.append(self.tools.clock.now_ms(), &event) {
            Ok(row) => {
                if !slot.run.has_room(0, 0) {
                    return Err(full());
                }
                let is_told = !event.is_operators() && !matches!(event, Event::AttemptFailed { .. });
                if is_told {
                    slot.ahead.push_back(Ahead { seq: row.seq, at_ms: row.at_ms, event });
                }
                append.rows.push(row);
            }
            // Callers look before they ask; if one did not, the ledger stays as it is.
            Err(illegal) => tracing::error!(run = %id, %illegal, "an event was not recorded"),
        }
        Ok(())
    }
}
