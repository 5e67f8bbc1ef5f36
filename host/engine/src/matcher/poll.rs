//! A worker's poll, for as long as somebody waits for its answer.

use std::sync::Arc;

use backstitch_core::matcher::{Backlog, OfferVersion, PollRequest, PollerId, Queue, Step};
use backstitch_core::task::LeaseGrant;
use backstitch_wire::tasks::TaskView;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::shared::{Shared, Waker};
use crate::ambient;

/// What a poll that waited has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Tasks were delivered: it may leave with them.
    Tasks,
    /// There may be some in the database.
    Check,
    /// Nothing in time.
    Over,
}

/// A worker's poll. What it was given and has not left with goes back when it is dropped.
pub struct PollGuard {
    shared: Arc<Shared>,
    poller: PollerId,
    waker: Waker,
    has_left: bool,
}

impl PollGuard {
    pub(super) fn new(shared: &Arc<Shared>, queue: &Queue, request: PollRequest) -> Self {
        let now = shared.now();
        let new_waker = || Arc::new(Notify::new());
        let (poller, waker) = shared.decide(|matcher| matcher.poll(now, queue, request, new_waker));
        Self { shared: Arc::clone(shared), poller, waker, has_left: false }
    }

    /// What is known of the database: to be asked before it is checked.
    pub fn backlog(&self) -> Backlog {
        let backlog = self.shared.decide(|matcher| matcher.backlog(self.poller));
        backlog.expect("a poll that has not left has its poller")
    }

    /// For how many tasks the database may be checked. The others that the worker takes may be reserved meanwhile.
    pub fn check(&self) -> u32 {
        self.shared.decide(|matcher| matcher.check(self.poller))
    }

    /// The terms of one lease to its worker.
    pub fn grant(&self) -> LeaseGrant {
        let lease = ambient::new_task_lease();
        let grant = self.shared.decide(|matcher| matcher.grant(self.poller, lease));
        grant.expect("a poll that has not left has its poller")
    }

    /// A check of the database is over that began at this version, and left more there, or nothing.
    pub fn checked(&self, version: OfferVersion, left_some: bool) {
        let actions = self.shared.decide(|matcher| matcher.checked(self.poller, version, left_some));
        self.shared.carry_out(actions);
    }

    /// Waits for something to do; there was nothing in the database at this version.
    pub async fn wait(&self, until: Instant, version: OfferVersion) -> Woken {
        let (now, until) = (self.shared.now(), self.shared.moment(until));
        let mut step = self.shared.decide(|matcher| matcher.wait(now, self.poller, until, version));
        loop {
            let until = match step {
                Step::Deliver => return Woken::Tasks,
                Step::Check => return Woken::Check,
                Step::Over => return Woken::Over,
                Step::Wait(until) => self.shared.instant(until),
            };
            let _ = timeout_at(until, self.waker.notified()).await;
            let now = self.shared.now();
            step = self.shared.decide(|matcher| matcher.resume(now, self.poller));
        }
    }

    /// Its worker gets these tasks and those that were delivered to it. If it has room for more and is one that comes
    /// back, its poller is kept.
    pub fn leave(mut self, found: Vec<TaskView>) -> Vec<TaskView> {
        let now = self.shared.now();
        self.has_left = true;
        let (tasks, actions) = self.shared.decide(|matcher| matcher.leave(now, self.poller, found));
        self.shared.carry_out(actions);
        tasks
    }
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        if !self.has_left {
            self.shared.carry_out(self.shared.decide(|matcher| matcher.hang_up(self.poller)));
        }
    }
}
