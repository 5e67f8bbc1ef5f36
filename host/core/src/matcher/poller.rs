//! A poller: one worker's poll, and the grace after it in which the worker's next poll is expected.
//!
//! | event | Arrived | Checking | Waiting | Collecting | Away |
//! |---|---|---|---|---|---|
//! | Check: it checks the database | Checking | Checking | Checking | Checking | – |
//! | Wait: it waits for tasks | Waiting | Waiting | Waiting | Waiting | – |
//! | Resume: it was woken, or its time has come | – | – | Waiting or Collecting, and its next step | Collecting, and its next step | – |
//! | Offer: a task waits in the database | declined | told, if it has room | told and woken, if it has room | declined | declined |
//! | Reserve: a call is about to be recorded | declined | reserved, if it shares and has room | reserved, if it has room | reserved, if it comes back and has room | reserved, if it has room |
//! | Commit: the call is recorded with its lease | has the task | has the task | has the task, woken | has the task, woken if it has enough | has the task |
//! | Release: the call is not recorded | less reserved | less reserved | less reserved; woken if it was told and nothing is reserved | less reserved; woken if it has enough | less reserved |
//! | Answer: a task of its worker is answered | room for one more | room for one more | room for one more | room for one more | room for one more |
//! | Heard: the worker knows of that | counted | counted | counted | counted | counted |
//! | Leave: its poll is answered | Away or gone | Away or gone | Away or gone | Away or gone | – |
//! | HangUp: nobody waits for the answer | gone | gone | gone | gone | – |
//! | Return: the worker polls again | – | – | – | – | Arrived |
//! | Tick: a timer of its grace rings | declined | declined | declined | declined | gone, if the grace is over |
//!
//! A dash is a mistake of the caller: nothing changes, and the outcome says [`Outcome::Misplaced`]. A poller that is
//! gone gives its tasks back; what was reserved for it goes back when it is committed.
//!
//! Its *room* is what may be reserved for it: none before it checks or waits; while it checks, a share of what it
//! takes, if the check is expected to find little; all it takes when it waits or is away. One that has tasks and is
//! collecting those that are being committed has room only if it comes back for them.

use std::time::Duration;

use super::request::{Moment, PollRequest, Queue, Step};
use crate::limits::RESERVED_WAIT_MS;

const RESERVED_WAIT: Duration = Duration::from_millis(RESERVED_WAIT_MS);

/// See the module. `W` is what the driver wakes its poll with.
pub(super) struct Poller<T, W> {
    pub(super) queue: Queue,
    pub(super) request: PollRequest,
    pub(super) waker: W,
    state: State,
    /// Tasks that this poll takes.
    asked: u32,
    /// Tasks that the worker takes, with this poll or the next.
    takes: u32,
    /// Answers that the worker has not heard to have arrived. It may not have counted with them when it said what it
    /// takes.
    unheard: u32,
    /// Tasks that are reserved for it and not committed.
    reserved: u32,
    tasks: Vec<T>,
    /// There is something in the database, and it is told to check.
    told: bool,
}

/// See the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It polls, and has neither checked nor waited.
    Arrived,
    /// It checks the database for at most `limit` tasks. Shared: the rest of what it takes may be reserved meanwhile.
    Checking { limit: u32, shared: bool },
    /// It waits for a task.
    Waiting { until: Moment },
    /// It has tasks, and waits until it has `enough`: those that were reserved when it resumed are being committed.
    /// Open: more may be reserved, for its next poll.
    Collecting { enough: usize, until: Moment, open: bool },
    /// Its worker has been answered, and is expected back.
    Away { until: Moment },
}

/// What happens to a poller: see the table.
#[derive(Debug)]
pub(super) enum Event<T> {
    Check { shared: bool },
    Wait { until: Moment },
    Resume { now: Moment, comes_back: bool },
    Offer,
    Reserve,
    Commit(T),
    Release,
    Answer,
    Heard,
    Leave { found: Vec<T>, away_until: Option<Moment> },
    HangUp,
    Return { max: u32 },
    Tick { now: Moment },
}

/// What comes of an event.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// Nothing that anybody else has to hear of.
    Quiet,
    /// The poller has no use for it.
    Declined,
    /// Its poll has to resume.
    Wake,
    /// It may check for so many tasks.
    Limit(u32),
    /// What its poll does now.
    Step(Step),
    /// Its poll is answered with these tasks.
    Left(Leaving<T>),
    /// It is no more.
    Gone(Leaving<T>),
    /// The event has no place in this state.
    Misplaced,
}

/// What a poller leaves with, and what it leaves behind.
#[derive(Debug)]
pub(super) struct Leaving<T> {
    /// For its worker.
    pub(super) delivered: Vec<T>,
    /// For others.
    pub(super) undelivered: Vec<T>,
    /// It was told to check, and others have to.
    pub(super) told: bool,
    /// The worker takes more than it has got.
    pub(super) has_room: bool,
}

impl<T, W> Poller<T, W> {
    /// One whose poll has come.
    pub(super) fn new(queue: Queue, request: PollRequest, waker: W) -> Self {
        let (asked, takes) = (request.max, request.max);
        let (unheard, reserved, tasks, told) = (0, 0, Vec::new(), false);
        Self { queue, request, waker, state: State::Arrived, asked, takes, unheard, reserved, tasks, told }
    }

    /// Tasks that may be reserved for it.
    pub(super) fn room(&self) -> u32 {
        match self.state {
            State::Checking { limit, shared: true } => self.free().saturating_sub(limit),
            State::Waiting { .. } | State::Collecting { open: true, .. } | State::Away { .. } => self.free(),
            State::Arrived
            | State::Checking { shared: false, .. }
            | State::Collecting { open: false, .. } => 0,
        }
    }

    /// Whether it may be told to check the database. One that has been told, or has tasks and is about to leave, need
    /// not be, and one that is away checks when it comes.
    pub(super) fn is_idle(&self) -> bool {
        let is_away = matches!(self.state, State::Away { .. });
        !self.told && !is_away && self.tasks.is_empty() && self.room() > 0
    }

    /// It has tasks, and others are being committed.
    pub(super) fn lacks(&self) -> bool {
        self.reserved > 0 && !self.tasks.is_empty()
    }

    #[cfg(test)]
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// Tasks that its worker takes besides those that it has or that are reserved.
    fn free(&self) -> u32 {
        self.takes.saturating_sub(self.reserved.saturating_add(count(&self.tasks)))
    }

    /// The transition table of the module.
    pub(super) fn on(&mut self, event: Event<T>) -> Outcome<T> {
        use {Event as E, State as S};
        match (self.state, event) {
            (S::Away { .. }, E::Check { .. } | E::Wait { .. } | E::Leave { .. } | E::HangUp)
            | (S::Arrived | S::Checking { .. } | S::Away { .. }, E::Resume { .. })
            | (
                S::Arrived | S::Checking { .. } | S::Waiting { .. } | S::Collecting { .. },
                E::Return { .. },
            ) => Outcome::Misplaced,

            (_, E::Check { shared }) => self.check(shared),
            (_, E::Wait { until }) => {
                self.state = S::Waiting { until };
                Outcome::Quiet
            }
            (S::Waiting { until }, E::Resume { now, comes_back }) => {
                Outcome::Step(self.resume(now, until, comes_back))
            }
            (S::Collecting { enough, until, .. }, E::Resume { now, .. }) => {
                let is_over = self.has(enough) || now >= until;
                Outcome::Step(if is_over { Step::Deliver } else { Step::Wait(until) })
            }

            (S::Checking { .. }, E::Offer) if self.is_idle() => {
                // It sees that when it waits.
                self.told = true;
                Outcome::Quiet
            }
            (S::Waiting { .. }, E::Offer) if self.is_idle() => {
                self.told = true;
                Outcome::Wake
            }
            (_, E::Offer) => Outcome::Declined,
            (_, E::Reserve) if self.room() > 0 => {
                self.reserved += 1;
                Outcome::Quiet
            }
            (_, E::Reserve) => Outcome::Declined,
            (_, E::Commit(task)) => {
                self.tasks.push(task);
                self.end_reservation(true)
            }
            (_, E::Release) => self.end_reservation(false),
            (_, E::Answer) => {
                self.takes = self.takes.saturating_add(1);
                self.unheard += 1;
                Outcome::Quiet
            }
            (_, E::Heard) => {
                self.unheard -= 1;
                Outcome::Quiet
            }

            (_, E::Leave { found, away_until }) => self.leave(found, away_until),
            (_, E::HangUp) => Outcome::Gone(self.end(Vec::new())),
            (S::Away { .. }, E::Return { max }) => {
                (self.asked, self.takes) = (max, max.saturating_add(self.unheard));
                self.state = S::Arrived;
                Outcome::Quiet
            }
            (S::Away { until }, E::Tick { now }) if now >= until => Outcome::Gone(self.end(Vec::new())),
            // Its worker was back in time; it may be away again.
            (_, E::Tick { .. }) => Outcome::Declined,
        }
    }

    /// What its poll does that has waited.
    fn resume(&mut self, now: Moment, until: Moment, comes_back: bool) -> Step {
        let is_over = now >= until;
        if !is_over && !self.has(self.asked as usize) {
            if self.tasks.is_empty() {
                return Step::Wait(until);
            }
            // What is reserved from now on is for the next poll, if there will be one.
            let enough = self.tasks.len() + self.reserved as usize;
            let until = until.min(now + RESERVED_WAIT);
            self.state = State::Collecting { enough, until, open: comes_back };
            return Step::Wait(until);
        }
        if !self.tasks.is_empty() {
            return Step::Deliver;
        }
        if std::mem::take(&mut self.told) {
            return Step::Check;
        }
        if is_over { Step::Over } else { Step::Wait(until) }
    }

    /// Whether it need not wait for what is reserved.
    fn has(&self, enough: usize) -> bool {
        self.reserved == 0 || self.tasks.len() >= enough.min(self.asked as usize)
    }

    /// It checks the database for what it takes, or for a part of that.
    fn check(&mut self, shared: bool) -> Outcome<T> {
        let free = self.free().min(self.asked);
        let limit = if shared { free - free / 2 } else { free };
        // Whatever is offered from now on is counted behind what the poll has seen.
        (self.state, self.told) = (State::Checking { limit, shared }, false);
        Outcome::Limit(limit)
    }

    fn end_reservation(&mut self, is_committed: bool) -> Outcome<T> {
        debug_assert!(self.reserved > 0, "a reservation ends once");
        self.reserved = self.reserved.saturating_sub(1);
        let is_due = match self.state {
            // One that has tasks has been woken by them. One that was told has waited for what was reserved.
            State::Waiting { .. } => is_committed || self.told && self.reserved == 0,
            State::Collecting { enough, .. } => self.has(enough),
            State::Arrived | State::Checking { .. } | State::Away { .. } => false,
        };
        if is_due { Outcome::Wake } else { Outcome::Quiet }
    }

    /// Its poll is answered with what it found in the database and with what it has, as far as it asks for it.
    fn leave(&mut self, mut found: Vec<T>, away_until: Option<Moment>) -> Outcome<T> {
        let more = (self.asked as usize).saturating_sub(found.len()).min(self.tasks.len());
        found.extend(self.tasks.drain(..more));
        self.takes = self.takes.saturating_sub(count(&found));
        match away_until.filter(|_| self.takes > 0) {
            None => Outcome::Gone(self.end(found)),
            Some(until) => {
                self.state = State::Away { until };
                let told = std::mem::take(&mut self.told);
                let (undelivered, has_room) = (Vec::new(), true);
                Outcome::Left(Leaving { delivered: found, undelivered, told, has_room })
            }
        }
    }

    fn end(&mut self, delivered: Vec<T>) -> Leaving<T> {
        let undelivered = std::mem::take(&mut self.tasks);
        Leaving { delivered, undelivered, told: self.told, has_room: self.takes > 0 }
    }
}

fn count<T>(tasks: &[T]) -> u32 {
    u32::try_from(tasks.len()).unwrap_or(u32::MAX)
}
