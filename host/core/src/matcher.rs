//! The task matcher: which call goes to which poll of a worker, within one host.
//!
//! A call whose worker polls here is recorded with that worker's lease, in the append that records the call, and
//! delivered when it is committed: no commit of its own, and no check of the database. Every other call waits in the
//! database until a worker that polls, or is woken, takes it there.
//!
//! A worker that has got tasks and has room for more polls again at once. Its poller is kept for it meanwhile, and
//! calls are reserved for it as if it were there: most calls of a busy queue would otherwise be recorded while the
//! poll is on its way, and each wave of them would cost a claim. Only who came back in time before is expected; what
//! was reserved waits for [`POLLER_GRACE_MS`](crate::limits::POLLER_GRACE_MS) at most, and goes to the next worker if
//! nobody comes. While a poll checks the database, a part of its room is for reservations, so that one wave that had
//! to be claimed does not make the next one be claimed, too.
//!
//! An answer makes room for one task more before the worker can say so, for the call that follows upon it is about
//! to be recorded. That is more than some workers have places for; no poll is given more than it asks for.
//!
//! Nothing here waits, reads a clock or draws a number: the driver says when something happens, brings the ids, and
//! carries the [`Action`]s out. What becomes of a poller is the table of `poller.rs`; `index.rs` finds the poller to ask,
//! `offers.rs` knows whether the database is worth a check, `grace.rs` whether a worker comes back. `T` is a task and `W`
//! what the driver wakes a poll with; both are opaque. Maps with an order of their own are looked up only, and not
//! walked: the same calls have the same outcome.
//!
//! Called with the calls of a scheduler and the polls of workers. Nothing here is needed for a task to be carried
//! out, only for it to be soon: a matcher may be dropped at any time.

mod grace;
mod index;
mod offers;
mod poller;
mod request;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::ids::{TaskLease, TenantId};
use crate::limits::LEASES_REMEMBERED_MAX;
use crate::task::LeaseGrant;
use grace::{GRACE, Grace};
use index::{Index, List};
pub use offers::OfferVersion;
use offers::Offers;
use poller::{Event, Leaving, Outcome, Poller};
pub use request::{Action, Moment, Names, PollRequest, PollerId, Queue, Step};

const LEASES: NonZeroUsize = NonZeroUsize::new(LEASES_REMEMBERED_MAX).expect("a bound above zero");

/// See the module.
pub struct Matcher<T, W> {
    queues: BTreeMap<Queue, Index>,
    pollers: HashMap<PollerId, Poller<T, W>>,
    last_poller: u64,
    offers: Offers,
    grace: Grace,
    /// Who has what was granted.
    leases: LruCache<TaskLease, PollerId>,
}

/// A call that is about to be recorded with a worker's lease. Ends with [`Matcher::commit`] or [`Matcher::release`].
#[must_use = "what is reserved takes room until it is committed or released"]
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    poller: PollerId,
    tenant: TenantId,
}

/// A task that is answered, whose worker does not know that yet. Ends with [`Matcher::heard`].
#[must_use = "the worker hears of it"]
#[derive(Debug, PartialEq, Eq)]
pub struct Answered(PollerId);

/// What is known of the database when a poll may check it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// To be shown when the check is over, or the poll waits.
    pub version: OfferVersion,
    /// There is nothing in the database for such a worker, as far as this host has heard.
    pub is_known_empty: bool,
}

impl<T, W: Clone> Matcher<T, W> {
    /// Nobody polls. `seed` is any number; hosts have different ones.
    pub fn new(seed: u64) -> Self {
        Self {
            queues: BTreeMap::new(),
            pollers: HashMap::new(),
            last_poller: 0,
            offers: Offers::new(seed),
            grace: Grace::new(),
            leases: LruCache::new(LEASES),
        }
    }

    /// A worker polls: its poller that was kept, or a new one. Nothing is reserved for a new one before it checks or
    /// waits.
    pub fn poll(
        &mut self,
        now: Moment,
        queue: &Queue,
        request: PollRequest,
        new_waker: impl FnOnce() -> W,
    ) -> (PollerId, W) {
        self.grace.arrived(now, queue, &request);
        let kept = self.queues.get_mut(queue).and_then(|index| index.take_away(&request));
        if let Some(id) = kept
            && let Some(poller) = self.pollers.get_mut(&id)
        {
            poller.on(Event::Return { max: request.max });
            return (id, poller.waker.clone());
        }
        self.last_poller += 1;
        let (id, waker) = (PollerId(self.last_poller), new_waker());
        // Looked up before it is made: most polls come to a queue that others wait at.
        match self.queues.get_mut(queue) {
            Some(index) => index.add(id, &request.names),
            None => self.queues.entry(queue.clone()).or_default().add(id, &request.names),
        }
        self.pollers.insert(id, Poller::new(queue.clone(), request, waker.clone()));
        (id, waker)
    }

    /// What is known of the database: to be asked before a poll checks it, or waits.
    pub fn backlog(&mut self, poller: PollerId) -> Option<Backlog> {
        let Poller { queue, request, .. } = self.pollers.get(&poller)?;
        let version = self.offers.version(queue);
        Some(Backlog { version, is_known_empty: self.offers.is_known_empty(queue, &request.names) })
    }

    /// A poll checks the database: for how many tasks. The others that it takes may be reserved meanwhile.
    pub fn check(&mut self, id: PollerId) -> u32 {
        let Some(poller) = self.pollers.get_mut(&id) else { return 0 };
        let Poller { queue, request, .. } = &*poller;
        let shared = self.grace.comes_back(queue, request) && self.offers.was_empty(queue, &request.names);
        let outcome = poller.on(Event::Check { shared });
        self.refresh(id);
        if let Outcome::Limit(limit) = outcome { limit } else { 0 }
    }

    /// A check that began at this version is over, and left more in the database, or nothing.
    pub fn checked(&mut self, id: PollerId, version: OfferVersion, left_some: bool) -> Vec<Action<T, W>> {
        let Some(Poller { queue, request, .. }) = self.pollers.get(&id) else { return Vec::new() };
        if !left_some {
            self.offers.left_none(queue, &request.names, version);
            return Vec::new();
        }
        self.offers.left_some(queue, &request.names);
        // For others, too.
        let queue = queue.clone();
        self.offered_any(&queue)
    }

    /// A lease for tasks that a poll takes from the database.
    pub fn grant(&mut self, id: PollerId, lease: TaskLease) -> Option<LeaseGrant> {
        let PollRequest { lease_ms, worker, .. } = &self.pollers.get(&id)?.request;
        self.leases.put(lease, id);
        Some(LeaseGrant { lease, lease_ms: Some(*lease_ms), worker: worker.clone() })
    }

    /// A poll waits until it has something to do; there was nothing in the database at this version.
    pub fn wait(&mut self, now: Moment, id: PollerId, until: Moment, version: OfferVersion) -> Step {
        let Some(poller) = self.pollers.get_mut(&id) else { return Step::Over };
        poller.on(Event::Wait { until });
        // An offer counts itself before it looks for a poller to tell, who has room.
        let is_stale = self.offers.version(&poller.queue) != version;
        self.refresh(id);
        if is_stale { Step::Check } else { self.resume(now, id) }
    }

    /// A poll that waits was woken, or its time has come.
    pub fn resume(&mut self, now: Moment, id: PollerId) -> Step {
        let Some(poller) = self.pollers.get_mut(&id) else { return Step::Over };
        // Asked only of one that may have to collect: most that are woken have all there is.
        let comes_back = poller.lacks() && self.grace.comes_back(&poller.queue, &poller.request);
        if let Outcome::Step(step) = poller.on(Event::Resume { now, comes_back }) { step } else { Step::Over }
    }

    /// A poll is answered with these tasks and those that it was given. If its worker has room for more and is one
    /// that comes back, its poller is kept.
    pub fn leave(&mut self, now: Moment, id: PollerId, found: Vec<T>) -> (Vec<T>, Vec<Action<T, W>>) {
        let Some(poller) = self.pollers.get_mut(&id) else { return (found, Vec::new()) };
        let Poller { queue, request, .. } = &*poller;
        let comes_back = self.grace.comes_back(queue, request);
        let until = now + GRACE;
        let outcome = poller.on(Event::Leave { found, away_until: comes_back.then_some(until) });
        let Poller { queue, request, .. } = &*poller;
        match outcome {
            Outcome::Left(leaving) => {
                self.grace.left(now, queue, request, (leaving.has_room, comes_back));
                if let Some(index) = self.queues.get_mut(queue) {
                    index.is_away(id, request);
                }
                let queue = leaving.told.then(|| queue.clone());
                self.refresh(id);
                let mut actions = queue.map(|queue| self.offered_any(&queue)).unwrap_or_default();
                actions.push(Action::SetTimer(id, until));
                (leaving.delivered, actions)
            }
            Outcome::Gone(leaving) => {
                self.grace.left(now, queue, request, (leaving.has_room, comes_back));
                self.remove(id, leaving)
            }
            _ => unreachable!("only the poll of a poller leaves, and it leaves once"),
        }
    }

    /// Nobody waits for the answer of a poll any more.
    pub fn hang_up(&mut self, id: PollerId) -> Vec<Action<T, W>> {
        self.end(id, Event::HangUp)
    }

    /// A timer rings that was set for this poller.
    pub fn tick(&mut self, now: Moment, id: PollerId) -> Vec<Action<T, W>> {
        self.end(id, Event::Tick { now })
    }

    fn end(&mut self, id: PollerId, event: Event<T>) -> Vec<Action<T, W>> {
        match self.pollers.get_mut(&id).map(|poller| poller.on(event)) {
            Some(Outcome::Gone(leaving)) => self.remove(id, leaving).1,
            _ => Vec::new(),
        }
    }

    fn remove(&mut self, id: PollerId, leaving: Leaving<T>) -> (Vec<T>, Vec<Action<T, W>>) {
        let Leaving { delivered, undelivered, told, .. } = leaving;
        let mut actions = Vec::new();
        let Some(Poller { queue, request, .. }) = self.pollers.remove(&id) else {
            return (delivered, actions);
        };
        if let Some(index) = self.queues.get_mut(&queue) {
            index.remove(id, &request);
            if index.is_empty() {
                self.queues.remove(&queue);
            }
        }
        if !undelivered.is_empty() {
            actions.push(Action::GiveBack(queue.tenant, undelivered));
        }
        if told {
            // Somebody else has to.
            actions.extend(self.offered_any(&queue));
        }
        (delivered, actions)
    }

    /// A worker for a call that is about to be recorded, if one waits or is expected, and the lease to record it with.
    pub fn reserve(
        &mut self,
        queue: &Queue,
        name: &str,
        new_lease: impl FnOnce() -> TaskLease,
    ) -> Option<(Reservation, LeaseGrant)> {
        let index = self.queues.get_mut(queue)?;
        let id = loop {
            let id = index.take(List::Ready, name)?;
            let Some(poller) = self.pollers.get_mut(&id) else { continue };
            if matches!(poller.on(Event::Reserve), Outcome::Quiet) {
                // In turns: each worker gets as much as the others.
                index.refresh(id, poller.room() > 0, poller.is_idle());
                break id;
            }
        };
        let grant = self.grant(id, new_lease())?;
        Some((Reservation { poller: id, tenant: queue.tenant }, grant))
    }

    /// The call is recorded with the worker's lease.
    pub fn commit(&mut self, reservation: Reservation, task: T) -> Option<Action<T, W>> {
        let Reservation { poller: id, tenant } = reservation;
        let Some(poller) = self.pollers.get_mut(&id) else {
            return Some(Action::GiveBack(tenant, vec![task]));
        };
        let outcome = poller.on(Event::Commit(task));
        woken(id, &poller.waker, outcome)
    }

    /// The call is not recorded.
    pub fn release(&mut self, reservation: Reservation) -> Option<Action<T, W>> {
        let id = reservation.poller;
        let poller = self.pollers.get_mut(&id)?;
        let outcome = poller.on(Event::Release);
        let action = woken(id, &poller.waker, outcome);
        self.refresh(id);
        action
    }

    /// A task under this lease is answered.
    pub fn answered(&mut self, lease: TaskLease) -> Option<Answered> {
        let id = *self.leases.get(&lease)?;
        self.pollers.get_mut(&id)?.on(Event::Answer);
        self.refresh(id);
        Some(Answered(id))
    }

    /// The worker knows of the answer.
    pub fn heard(&mut self, answered: Answered) {
        if let Some(poller) = self.pollers.get_mut(&answered.0) {
            poller.on(Event::Heard);
        }
    }

    /// A call waits in the database: a poller whose worker takes it is told to check.
    pub fn offered(&mut self, queue: &Queue, name: &str) -> Option<Action<T, W>> {
        self.offers.count(queue);
        let index = self.queues.get_mut(queue)?;
        loop {
            let id = index.take(List::Idle, name)?;
            let Some(poller) = self.pollers.get_mut(&id) else { continue };
            match poller.on(Event::Offer) {
                Outcome::Declined => {}
                outcome => return woken(id, &poller.waker, outcome),
            }
        }
    }

    /// Calls of any name may wait in the database: one poller of each kind is told to check.
    pub fn offered_any(&mut self, queue: &Queue) -> Vec<Action<T, W>> {
        self.offers.count(queue);
        let mut actions = Vec::new();
        let Some(index) = self.queues.get_mut(queue) else { return actions };
        for kind in index.kinds() {
            while let Some(id) = index.take_of_kind(List::Idle, kind) {
                let Some(poller) = self.pollers.get_mut(&id) else { continue };
                match poller.on(Event::Offer) {
                    Outcome::Declined => {}
                    outcome => {
                        actions.extend(woken(id, &poller.waker, outcome));
                        break;
                    }
                }
            }
        }
        actions
    }

    /// Queues at which workers poll, or are expected.
    pub fn queues(&self) -> Vec<Queue> {
        self.queues.keys().cloned().collect()
    }

    /// See [`Index::refresh`].
    fn refresh(&mut self, id: PollerId) {
        let Some(poller) = self.pollers.get(&id) else { return };
        let (has_room, is_idle) = (poller.room() > 0, poller.is_idle());
        if has_room && let Some(index) = self.queues.get_mut(&poller.queue) {
            index.refresh(id, has_room, is_idle);
        }
    }
}

fn woken<T, W: Clone>(id: PollerId, waker: &W, outcome: Outcome<T>) -> Option<Action<T, W>> {
    matches!(outcome, Outcome::Wake).then(|| Action::Wake(id, waker.clone()))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
