//! Appends: how they get to the writer, and what follows when they are committed, or refused.

use backstitch_core::{Event, Fault, FaultKind, RunId, Seq};
use backstitch_ledger::{Acks, Append, Item, Outcome, PoisonKind, StatusChange};
use uuid::Uuid;

use crate::action::Action;
use crate::env::Env;
use crate::in_flight::InFlight;
use crate::input::Settlement;
use crate::job::PendingEvent;
use crate::plan::{full, received};
use crate::state::Scheduler;
use crate::waiting::Waiting;

impl<E: Env> Scheduler<E> {
    /// Sends an append of a run in memory. `note` says what else hangs on it.
    pub(crate) fn send(&mut self, id: RunId, mut append: Append, note: impl FnOnce(&mut InFlight<E>)) {
        self.send_speculative(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.unacked += 1;
        slot.follow(&mut append);
        slot.offers_alone |= append.rows.is_empty() && !append.tasks.is_empty();
        let (upto, closes) = (slot.run.next_seq(), !slot.run.is_open());
        self.submit(id, append, |sent| {
            (sent.upto, sent.closes) = (upto, closes);
            note(sent);
        });
    }

    /// Gives an append to the writer.
    pub(crate) fn submit(&mut self, id: RunId, append: Append, note: impl FnOnce(&mut InFlight<E>)) {
        let mut sent = InFlight {
            run: id,
            upto: Seq(0),
            children: Vec::new(),
            messages: Vec::new(),
            posted: append.inbox.iter().map(|sent| received(append.scope, sent)).collect(),
            consumed: append.inbox_done.clone(),
            put_back: Vec::new(),
            offers: Vec::new(),
            calls: Vec::new(),
            abandoned: Vec::new(),
            deferred: None,
            waiting: Waiting::default(),
            closes: false,
            unloads: false,
            then_load: false,
            goes_on: matches!(append.status, Some(StatusChange::Run)),
            due_ms: append.timers.iter().map(|timer| timer.due_ms).min(),
        };
        note(&mut sent);
        if let Some(reading) = self.reading.get_mut(&id) {
            reading.has_written = true;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.in_flight.insert(ticket, sent);
        self.act(Action::Append(Item { ticket, append }));
    }

    /// Appends have an answer.
    pub(crate) fn on_acknowledged(&mut self, acks: Acks) {
        for ticket in acks.tickets {
            let Some(sent) = self.in_flight.remove(&ticket) else { continue };
            if sent.unloads {
                self.unloading.remove(&sent.run);
            }
            match &acks.outcome {
                Outcome::Committed { refused } => self.on_committed(sent, refused),
                Outcome::Poisoned { kind, message } => self.on_poisoned(sent, *kind, message),
                Outcome::Fenced => {}
            }
        }
    }

    fn on_committed(&mut self, sent: InFlight<E>, refused: &[RunId]) {
        let id = sent.run;
        let Waiting { batch, settled, started } = sent.waiting;
        self.done_with_messages(id, sent.consumed, sent.put_back);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.unacked = slot.unacked.saturating_sub(1);
            slot.durable = slot.durable.max(sent.upto);
        }
        self.proven(id);
        self.try_again(id);
        if let Some(reply) = started {
            if refused.contains(&id) {
                // Nothing of it was written, whatever its guest has asked for.
                self.remove_slot(id);
                return self.act(Action::Started(reply, Ok(None)));
            }
            let started_at_ms = self.slots.get(&id).map(|slot| slot.started_at_ms);
            self.act(Action::Started(reply, Ok(started_at_ms)));
        }
        if sent.then_load {
            self.load(id);
        }
        if sent.goes_on {
            self.goes_on(id);
        }
        if let Some(due_ms) = sent.due_ms {
            self.act(Action::TimerDue(due_ms));
        }
        if let Some((reply, lease)) = settled {
            self.act(Action::Settled(reply, Settlement::Done));
            self.has_settled(lease);
        }
        if let Some((token, reply)) = sent.deferred {
            self.deferred(id, token, reply);
        }
        sent.offers.into_iter().for_each(|offer| self.offered(offer));
        sent.calls.into_iter().for_each(|op| self.queue_up(id, op));
        sent.abandoned.into_iter().for_each(|(op, attempt)| self.abandon_attempt(id, op, attempt));
        for child in sent.children {
            self.child_committed(id, child, refused);
        }
        for item in sent.posted {
            self.posted(item);
        }
        self.send_messages(id, sent.messages);
        if sent.closes {
            self.act(Action::Closed(id));
        }
        drop(batch);
        self.advance(id);
    }

    /// These messages have had their effect, or are not heard for now.
    fn done_with_messages(&mut self, id: RunId, consumed: Vec<(RunId, Uuid)>, put_back: Vec<Uuid>) {
        for (run, item) in consumed {
            self.in_hand.put_back(run, item);
            self.consumed.put((run, item), false);
        }
        put_back.into_iter().for_each(|item| self.in_hand.put_back(id, item));
    }

    /// A run goes on that was parked or on hold: what was not looked for meanwhile may be there.
    fn goes_on(&mut self, id: RunId) {
        self.act(Action::TimerDue(0));
        self.act(Action::ReadInbox);
        self.make_anew(id);
    }

    /// Postgres refused what this run wanted to write, and will refuse it again. Nothing of it was
    /// written, so the run stands where its ledger says.
    fn on_poisoned(&mut self, sent: InFlight<E>, kind: PoisonKind, problem: &str) {
        let id = sent.run;
        for (run, item) in sent.consumed {
            self.in_hand.put_back(run, item);
        }
        sent.put_back.into_iter().for_each(|item| self.in_hand.put_back(id, item));
        sent.abandoned.into_iter().for_each(|(op, attempt)| self.abort_attempt(id, op, attempt));
        let Waiting { started, settled, batch } = sent.waiting;
        self.disappoint(Waiting { started: None, settled, batch });
        if kind == PoisonKind::Gap && !self.slots.contains_key(&id) {
            // Of a run whose start was refused.
            return;
        }
        if let Some(reply) = started {
            self.act(Action::Started(reply, Err(problem.to_owned())));
            self.remove_slot(id);
            return;
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.unacked = slot.unacked.saturating_sub(1);
        if slot.is_stale {
            return self.advance(id);
        }
        if matches!(kind, PoisonKind::Behind | PoisonKind::SeqTaken) {
            // The ledger ends elsewhere than this host thought.
            return self.rewind(id);
        }
        tracing::error!(run = %id, problem, "a write was refused for good; the run is parked");
        // What the database holds of it is not what was sent.
        slot.sent = None;
        let message = format!("Postgres refused this run's rows: {problem}");
        self.park(id, &Fault::new(FaultKind::Corrupt, message));
    }

    /// What somebody waits for will not be committed.
    pub(crate) fn disappoint(&mut self, waiting: Waiting<E>) {
        let Waiting { batch: _, settled, started } = waiting;
        if let Some((reply, lease)) = settled {
            self.act(Action::Settled(reply, Settlement::Elsewhere));
            self.has_settled(lease);
        }
        if let Some(reply) = started {
            self.act(Action::Started(reply, Err("the start was not written".to_owned())));
        }
    }

    /// Appends one outcome to a run and enqueues it for the guest. `fill` adds what goes with it.
    pub(crate) fn outcome(
        &mut self,
        id: RunId,
        event: Event,
        batch: Option<E::Batch>,
        fill: impl FnOnce(&mut Append),
    ) {
        self.outcome_for(id, event, Waiting::of(batch), fill);
    }

    /// The same, for whoever else waits.
    pub(crate) fn outcome_for(
        &mut self,
        id: RunId,
        event: Event,
        waiting: Waiting<E>,
        fill: impl FnOnce(&mut Append),
    ) {
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.is_stale) else {
            return self.disappoint(waiting);
        };
        let mut append = Append::new(slot.identity.scope, id);
        fill(&mut append);
        if let Err(full) = self.enqueue(id, event, &mut append) {
            for (run, item) in &append.inbox_done {
                self.in_hand.put_back(*run, *item);
            }
            self.disappoint(waiting);
            return self.park(id, &full);
        }
        self.send_or_speculate(id, append, waiting);
    }

    /// Adds one outcome to an append, and enqueues it for the guest. Fails if the run must be parked.
    pub(crate) fn enqueue(&mut self, id: RunId, event: Event, append: &mut Append) -> Result<(), Fault> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        match slot.run.append(self.now.ms, &event) {
            Ok(row) => {
                if !slot.run.has_room(0, 0) {
                    return Err(full());
                }
                let is_told = !event.is_operators() && !matches!(event, Event::AttemptFailed { .. });
                if is_told {
                    slot.undelivered.push_back(PendingEvent { seq: row.seq, at_ms: row.at_ms, event });
                }
                append.rows.push(row);
            }
            // Callers look before they ask; if one did not, the ledger stays as it is.
            Err(illegal) => tracing::error!(run = %id, %illegal, "an event was not recorded"),
        }
        Ok(())
    }
}
