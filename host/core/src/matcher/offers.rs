//! Offers: what waits in the database, as far as this host has heard.
//!
//! Each offer moves the version of its queue on. A poll reads the version before it checks the database, so an offer
//! that comes during the check is seen as another version afterwards, and one that found nothing need not be repeated
//! before the version has moved.

use std::num::NonZeroUsize;

use lru::LruCache;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::request::{Names, Queue};
use crate::limits::{EMPTY_CHECKS_MAX, OFFER_COUNTERS};

const EMPTY_CHECKS: NonZeroUsize = NonZeroUsize::new(EMPTY_CHECKS_MAX).expect("a bound above zero");

/// How many offers there were, as far as a queue can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferVersion(u64);

/// See the module.
pub(super) struct Offers {
    counters: Box<[u64; OFFER_COUNTERS]>,
    /// Which queues share a counter is nobody's choice.
    seed: u64,
    /// The version at which a check left nothing in the database, for pollers that take these activities.
    empty: LruCache<(Queue, Names), OfferVersion>,
}

impl Offers {
    pub(super) fn new(seed: u64) -> Self {
        Self { counters: Box::new([0; OFFER_COUNTERS]), seed, empty: LruCache::new(EMPTY_CHECKS) }
    }

    pub(super) fn version(&self, queue: &Queue) -> OfferVersion {
        OfferVersion(self.counters[self.counter(queue)])
    }

    /// There is an offer.
    pub(super) fn count(&mut self, queue: &Queue) {
        let counter = self.counter(queue);
        self.counters[counter] += 1;
    }

    fn counter(&self, queue: &Queue) -> usize {
        let seed = self.seed ^ u64::from(queue.tenant.0.cast_unsigned());
        (xxh3_64_with_seed(queue.name.as_bytes(), seed) % OFFER_COUNTERS as u64) as usize
    }

    /// Whether a check left nothing in the database, and there was no offer since.
    pub(super) fn is_known_empty(&mut self, queue: &Queue, names: &Names) -> bool {
        let version = self.version(queue);
        self.empty.get(&(queue.clone(), names.clone())).is_some_and(|empty| *empty == version)
    }

    /// Whether the last check left nothing in the database.
    pub(super) fn was_empty(&self, queue: &Queue, names: &Names) -> bool {
        self.empty.contains(&(queue.clone(), names.clone()))
    }

    /// A check left some in the database.
    pub(super) fn left_some(&mut self, queue: &Queue, names: &Names) {
        self.empty.pop(&(queue.clone(), names.clone()));
    }

    /// A check that began at this version left nothing in the database.
    pub(super) fn left_none(&mut self, queue: &Queue, names: &Names, version: OfferVersion) {
        self.empty.put((queue.clone(), names.clone()), version);
    }
}
