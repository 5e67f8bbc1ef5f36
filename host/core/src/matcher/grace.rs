//! Which workers are expected back: those that came back in time when they last left with room for more.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::request::{Moment, PollRequest, Queue};
use crate::limits::{POLLER_GRACE_MS, WORKERS_REMEMBERED_MAX};

const WORKERS: NonZeroUsize = NonZeroUsize::new(WORKERS_REMEMBERED_MAX).expect("a bound above zero");

/// How long a poller is expected back.
pub(super) const GRACE: Duration = Duration::from_millis(POLLER_GRACE_MS);

/// See the module.
pub(super) struct Grace(LruCache<(Queue, Arc<str>), Absence>);

/// The last time that a poll of a worker was answered.
struct Absence {
    /// When, if the worker had room for more and has not come back.
    began: Option<Moment>,
    /// The worker was back in time when it had room for more.
    comes_back: bool,
}

impl Grace {
    pub(super) fn new() -> Self {
        Self(LruCache::new(WORKERS))
    }

    /// A poll has come.
    pub(super) fn arrived(&mut self, now: Moment, queue: &Queue, request: &PollRequest) {
        if let Some(absence) = self.0.get_mut(&worker(queue, request))
            && let Some(began) = absence.began.take()
        {
            absence.comes_back = now.since(began) <= GRACE;
        }
    }

    /// A poll is answered. Its worker is one that comes back, or not.
    pub(super) fn left(
        &mut self,
        now: Moment,
        queue: &Queue,
        request: &PollRequest,
        (has_room, comes_back): (bool, bool),
    ) {
        let absence = Absence { began: has_room.then_some(now), comes_back };
        self.0.put(worker(queue, request), absence);
    }

    /// Whether the worker is one that comes back.
    pub(super) fn comes_back(&mut self, queue: &Queue, request: &PollRequest) -> bool {
        self.0.get(&worker(queue, request)).is_some_and(|absence| absence.comes_back)
    }
}

fn worker(queue: &Queue, request: &PollRequest) -> (Queue, Arc<str>) {
    (queue.clone(), Arc::clone(&request.worker))
}
