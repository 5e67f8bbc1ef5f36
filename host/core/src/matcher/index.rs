//! The index of one queue: which of its pollers to ask, found without asking all.
//!
//! Pollers of one kind, whose workers take the same activities, stand together: an activity is taken by a few
//! kinds, and a kind may have thousands of pollers. Each kind has two lists, in the order in which they are asked:
//! pollers that may have room for a reservation, and pollers that may be told to check. A poller's state changes
//! without the index, so an entry may be out of date: whoever meets such a one takes it out, and whatever may give a
//! poller room again puts it back ([`Index::refresh`]). So no entry is met in vain twice, and a fan-out costs what it
//! hands out, however many wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::request::{Names, PollRequest, PollerId};

/// A place in a list: who has the lowest is asked next.
type Rank = u64;
type Ranks = BTreeMap<Rank, PollerId>;
type KindId = u64;

/// See the module.
#[derive(Default)]
pub(super) struct Index {
    kinds: BTreeMap<KindId, Kind>,
    ids: HashMap<Names, KindId>,
    /// Kinds that take an activity by its name.
    by_name: HashMap<String, BTreeSet<KindId>>,
    places: HashMap<PollerId, Place>,
    /// Pollers whose workers are away, by what every poll of the worker asks for.
    away: HashMap<PollRequest, BTreeSet<PollerId>>,
    last: Rank,
    /// Pollers that were asked, so that a test can see that it is not all of them.
    #[cfg(test)]
    pub(super) asked: u64,
}

/// Pollers whose workers take the same activities.
struct Kind {
    names: Names,
    pollers: usize,
    ready: Ranks,
    idle: Ranks,
}

/// Where a poller stands.
struct Place {
    kind: KindId,
    ready: Option<Rank>,
    idle: Option<Rank>,
}

/// One of the lists of a kind.
#[derive(Clone, Copy)]
pub(super) enum List {
    /// Those that may have room for a reservation.
    Ready,
    /// Those that may be told to check.
    Idle,
}

impl Kind {
    fn list(&self, list: List) -> &Ranks {
        match list {
            List::Ready => &self.ready,
            List::Idle => &self.idle,
        }
    }

    fn list_mut(&mut self, list: List) -> &mut Ranks {
        match list {
            List::Ready => &mut self.ready,
            List::Idle => &mut self.idle,
        }
    }
}

impl Place {
    fn rank(&mut self, list: List) -> &mut Option<Rank> {
        match list {
            List::Ready => &mut self.ready,
            List::Idle => &mut self.idle,
        }
    }
}

impl Index {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A new poller.
    pub(super) fn add(&mut self, poller: PollerId, names: &Names) {
        let kind = self.ids.get(names).copied().unwrap_or_else(|| self.new_kind(names.clone()));
        if let Some(kind) = self.kinds.get_mut(&kind) {
            kind.pollers += 1;
        }
        self.places.insert(poller, Place { kind, ready: None, idle: None });
    }

    fn new_kind(&mut self, names: Names) -> KindId {
        self.last += 1;
        let id = self.last;
        for name in names.iter().flat_map(|names| names.iter()) {
            self.by_name.entry(name.clone()).or_default().insert(id);
        }
        self.ids.insert(names.clone(), id);
        self.kinds.insert(id, Kind { names, pollers: 0, ready: Ranks::new(), idle: Ranks::new() });
        id
    }

    /// A poller that is there no more.
    pub(super) fn remove(&mut self, poller: PollerId, request: &PollRequest) {
        let Some(place) = self.places.remove(&poller) else { return };
        self.is_back(poller, &request.of_the_worker());
        let Some(kind) = self.kinds.get_mut(&place.kind) else { return };
        for (list, rank) in [(List::Ready, place.ready), (List::Idle, place.idle)] {
            rank.and_then(|rank| kind.list_mut(list).remove(&rank));
        }
        kind.pollers -= 1;
        if kind.pollers == 0 {
            self.forget_kind(place.kind);
        }
    }

    fn forget_kind(&mut self, id: KindId) {
        let Some(kind) = self.kinds.remove(&id) else { return };
        for name in kind.names.iter().flat_map(|names| names.iter()) {
            if let Some(kinds) = self.by_name.get_mut(name) {
                kinds.remove(&id);
                if kinds.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        self.ids.remove(&kind.names);
    }

    /// The worker of a poller is away.
    pub(super) fn is_away(&mut self, poller: PollerId, request: &PollRequest) {
        self.away.entry(request.of_the_worker()).or_default().insert(poller);
    }

    fn is_back(&mut self, poller: PollerId, worker: &PollRequest) {
        if let Some(away) = self.away.get_mut(worker) {
            away.remove(&poller);
            if away.is_empty() {
                self.away.remove(worker);
            }
        }
    }

    /// The poller that is away and was the worker's which asks for this.
    pub(super) fn take_away(&mut self, request: &PollRequest) -> Option<PollerId> {
        let worker = request.of_the_worker();
        let poller = *self.away.get(&worker)?.first()?;
        self.is_back(poller, &worker);
        Some(poller)
    }

    /// A poller may have room now that had none, or be one to be told that was not: to be called after whatever may
    /// have done that.
    pub(super) fn refresh(&mut self, poller: PollerId, has_room: bool, is_idle: bool) {
        if !has_room && !is_idle {
            return;
        }
        let Some(place) = self.places.get_mut(&poller) else { return };
        let Some(kind) = self.kinds.get_mut(&place.kind) else { return };
        for (list, belongs) in [(List::Ready, has_room), (List::Idle, is_idle)] {
            let rank = place.rank(list);
            if belongs && rank.is_none() {
                self.last += 1;
                *rank = Some(self.last);
                kind.list_mut(list).insert(self.last, poller);
            }
        }
    }

    /// Takes the poller out of a list that is to be asked next about an activity.
    pub(super) fn take(&mut self, list: List, name: &str) -> Option<PollerId> {
        let named = self.by_name.get(name).into_iter().flatten();
        let ids = named.chain(self.ids.get(&None)).copied();
        let first = |id: KindId| Some((*self.kinds.get(&id)?.list(list).first_key_value()?.0, id));
        let (_, kind) = ids.filter_map(first).min()?;
        self.take_of_kind(list, kind)
    }

    /// Takes the poller of one kind out of a list that is to be asked next.
    pub(super) fn take_of_kind(&mut self, list: List, kind: KindId) -> Option<PollerId> {
        let (_, poller) = self.kinds.get_mut(&kind)?.list_mut(list).pop_first()?;
        if let Some(place) = self.places.get_mut(&poller) {
            *place.rank(list) = None;
        }
        #[cfg(test)]
        {
            self.asked += 1;
        }
        Some(poller)
    }

    /// Whether it can be found in a list.
    #[cfg(test)]
    pub(super) fn has(&self, list: List, poller: PollerId) -> bool {
        self.kinds.values().any(|kind| kind.list(list).values().any(|other| *other == poller))
    }

    /// The kinds of its pollers.
    pub(super) fn kinds(&self) -> Vec<KindId> {
        self.kinds.keys().copied().collect()
    }
}
