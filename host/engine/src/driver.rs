//! Carries out what a [`Scheduler`] decides, for one term of a host.
//!
//! One task owns the scheduler and gives it one input at a time: what the writer acknowledges, what guest threads, attempts,
//! pollers and clients say, what time it is. It never waits for what the scheduler wants done, so that no channel can close
//! a circle of waiting: appends wait in an outbox until the writer takes them, and everything else has a task of its own,
//! which comes back with an input. Dropping it ends attempts and guests; the ledgers of their runs are all that matters.

mod actions;
mod inputs;
mod live;
mod places;
mod state;

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstitch_core::matcher::Moment;
use backstitch_ledger::Outcome;
use backstitch_scheduler::{Action, Now};
use tokio::sync::mpsc;
use tokio::time::Instant;

use inputs::Message;
pub use inputs::{Batch, Deferring, Gone, InHandNow, Input, Inputs, Settle, Start, channel};
pub use live::Live;
pub use state::{Deps, Driver};

/// Inputs taken in one go, before acknowledgements are looked at again.
const INPUTS_PER_TURN: usize = 256;

impl Driver {
    /// Works until the writer is fenced or gone, or a drain is complete.
    pub async fn run(mut self) {
        let mut messages = Vec::with_capacity(INPUTS_PER_TURN);
        let (items, memory) = (self.deps.items.clone(), self.deps.programs.sandbox().room());
        let places = Arc::clone(&self.places);
        loop {
            tokio::select! {
                biased;
                acks = self.deps.acks.recv() => match acks {
                    Some(acks) if matches!(acks.outcome, Outcome::Fenced) => return,
                    Some(acks) => self.step(Input::Acknowledged(acks)),
                    None => return,
                },
                permit = items.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(item) = self.outbox.pop_front() {
                            permit.send(item);
                        }
                    }
                    Err(_) => return,
                },
                Ok(()) = self.deps.connections.changed() => self.step(Input::Reconnected),
                () = memory.short() => self.step(Input::ShortOfMemory),
                count = places.freed() => self.step(Input::PlacesFree(count)),
                // Its sender is held by the scheduler's own answers.
                _ = self.deps.restored.changed() => self.step(Input::Tick),
                () = until(self.origin, self.scheduler.next_deadline()) => self.step(Input::Tick),
                taken = self.messages.recv_many(&mut messages, INPUTS_PER_TURN) => {
                    if taken == 0 {
                        return;
                    }
                    messages.drain(..).for_each(|message| self.told(message));
                }
            }
            self.send_appends();
            // Those that have ended.
            while self.tasks.try_join_next().is_some() {}
            self.publish();
            if self.scheduler.is_drained() {
                return;
            }
        }
    }

    fn told(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.step(input),
            Message::InHand(runs, reply) => {
                let in_hand = self.scheduler.in_hand();
                let _ = reply
                    .send(InHandNow { readers: in_hand.readers(&runs), unreadable: in_hand.unreadable() });
            }
            Message::Absent(reply) => {
                let _ = reply.send(self.scheduler.absent());
            }
        }
    }

    fn step(&mut self, input: Input) {
        self.forget_ended(&input);
        let now = self.now();
        let actions: Vec<Action<Live>> = self.scheduler.on(now, input);
        for action in actions {
            self.carry_out(action);
        }
    }

    /// Nobody needs the handle of an attempt or a guest that has come to its end.
    fn forget_ended(&mut self, input: &Input) {
        if let Input::AttemptEnded { run, op, attempt, .. } = input
            && let Entry::Occupied(running) = self.attempts.entry((*run, *op))
            && running.get().attempt == *attempt
        {
            running.remove();
        }
        if let Input::Activated(activated) = input
            && let Entry::Occupied(guest) = self.guests.entry(activated.run)
            && guest.get().0 == activated.activation
        {
            guest.remove();
        }
    }

    fn now(&self) -> Now {
        Now { at: Moment(self.origin.elapsed()), ms: self.deps.clock.now_ms() }
    }

    /// Gives as much to the writer as it takes now.
    fn send_appends(&mut self) {
        while let Some(item) = self.outbox.pop_front() {
            if let Err(error) = self.deps.items.try_send(item) {
                match error {
                    mpsc::error::TrySendError::Full(item) | mpsc::error::TrySendError::Closed(item) => {
                        self.outbox.push_front(item);
                    }
                }
                break;
            }
        }
    }

    /// Shows what the scheduler has counted.
    fn publish(&mut self) {
        let (now, before) = (self.scheduler.figures(), self.published);
        let counters = &self.deps.counters;
        counters.runs_loaded.store(now.runs_loaded, Ordering::Relaxed);
        counters.runs_warm.store(now.runs_warm, Ordering::Relaxed);
        counters.activities_running.store(now.activities_running, Ordering::Relaxed);
        let add = |counter: &AtomicU64, now: u64, before: u64| {
            if now > before {
                counter.fetch_add(now - before, Ordering::Relaxed);
            }
        };
        add(&counters.activities_started, now.activities_started, before.activities_started);
        add(&counters.activations, now.activations, before.activations);
        add(&counters.runs_taken_over, now.runs_taken_over, before.runs_taken_over);
        add(&counters.runs_rewound, now.runs_rewound, before.runs_rewound);
        self.published = now;
    }
}

/// Ends when the scheduler is to be told of the time.
async fn until(origin: Instant, deadline: Option<Moment>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(origin + deadline.0).await,
        None => std::future::pending().await,
    }
}
