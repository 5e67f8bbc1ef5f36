//! The line of one queue: its chairs, and which of them to ask, found without asking all.
//!
//! Chairs of one kind, whose workers take the same activities, stand together: an activity is taken by a few
//! kinds, and a kind may have thousands of chairs. Each kind has two lists, in turns: chairs that may have room for
//! a promise, and chairs that may be told to look. A chair's state changes without the line, so an entry may be out
//! of date: whoever meets such a one takes it out, and whatever may give a chair room again puts it back
//! ([`Line::refresh`]). So no entry is met in vain twice, and a fan-out costs what it hands out, however many wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::chair::Chair;
use super::{Names, Wish, locked};

/// A place in a list: who has the lowest is next.
type Turn = u64;
type Turns = BTreeMap<Turn, Arc<Chair>>;
type KindId = u64;

/// See the module.
#[derive(Default)]
pub(super) struct Line {
    kinds: BTreeMap<KindId, Kind>,
    ids: HashMap<Names, KindId>,
    /// Kinds that take an activity by its name.
    by_name: HashMap<String, BTreeSet<KindId>>,
    /// Where each chair stands, by its number.
    places: HashMap<u64, Place>,
    /// Chairs whose workers are expected.
    kept: HashMap<Wish, BTreeMap<u64, Arc<Chair>>>,
    next: Turn,
    /// Chairs that were asked, so that a test can see that it is not all of them.
    #[cfg(test)]
    pub(super) asked: u64,
}

/// Chairs whose workers take the same activities.
struct Kind {
    names: Names,
    chairs: usize,
    ready: Turns,
    idle: Turns,
}

struct Place {
    kind: KindId,
    ready: Option<Turn>,
    idle: Option<Turn>,
}

/// One of the lists of a kind.
#[derive(Clone, Copy)]
enum List {
    Ready,
    Idle,
}

impl Kind {
    fn list(&mut self, list: List) -> &mut Turns {
        match list {
            List::Ready => &mut self.ready,
            List::Idle => &mut self.idle,
        }
    }
}

impl Place {
    fn turn(&mut self, list: List) -> &mut Option<Turn> {
        match list {
            List::Ready => &mut self.ready,
            List::Idle => &mut self.idle,
        }
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A new chair.
    pub(super) fn join(&mut self, chair: &Arc<Chair>) {
        let names = &chair.wish.names;
        let kind = self.ids.get(names).copied().unwrap_or_else(|| self.new_kind(names.clone()));
        if let Some(kind) = self.kinds.get_mut(&kind) {
            kind.chairs += 1;
        }
        self.places.insert(chair.number, Place { kind, ready: None, idle: None });
    }

    fn new_kind(&mut self, names: Names) -> KindId {
        let id = self.turn();
        for name in names.iter().flat_map(|names| names.iter()) {
            self.by_name.entry(name.clone()).or_default().insert(id);
        }
        self.ids.insert(names.clone(), id);
        self.kinds.insert(id, Kind { names, chairs: 0, ready: Turns::new(), idle: Turns::new() });
        id
    }

    fn turn(&mut self) -> Turn {
        self.next += 1;
        self.next
    }

    /// A chair that is there no more.
    pub(super) fn leave(&mut self, chair: &Chair) {
        let Some(place) = self.places.remove(&chair.number) else { return };
        self.forget_kept(chair);
        let Some(kind) = self.kinds.get_mut(&place.kind) else { return };
        for (list, turn) in [(List::Ready, place.ready), (List::Idle, place.idle)] {
            turn.and_then(|turn| kind.list(list).remove(&turn));
        }
        kind.chairs -= 1;
        if kind.chairs == 0 {
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

    /// The worker of a chair is expected back.
    pub(super) fn keep(&mut self, chair: &Arc<Chair>) {
        if self.places.contains_key(&chair.number) {
            let kept = self.kept.entry(chair.wish.of_the_worker()).or_default();
            kept.insert(chair.number, Arc::clone(chair));
        }
    }

    fn forget_kept(&mut self, chair: &Chair) {
        let worker = chair.wish.of_the_worker();
        if let Some(kept) = self.kept.get_mut(&worker) {
            kept.remove(&chair.number);
            if kept.is_empty() {
                self.kept.remove(&worker);
            }
        }
    }

    /// The chair that was kept for a worker which polls with this wish.
    pub(super) fn take_again(&mut self, wish: &Wish) -> Option<Arc<Chair>> {
        loop {
            let chair = Arc::clone(self.kept.get(&wish.of_the_worker())?.first_key_value()?.1);
            self.forget_kept(&chair);
            if chair.take_again(wish.max) {
                return Some(chair);
            }
        }
    }

    /// A chair may have room now that had none, or be one to be told that was not: to be called, without its state
    /// being held, after whatever may have done that.
    pub(super) fn refresh(&mut self, chair: &Arc<Chair>) {
        let (has_room, is_idle) = {
            let state = locked(&chair.state);
            (state.room() > 0, state.is_idle())
        };
        for (list, belongs) in [(List::Ready, has_room), (List::Idle, is_idle)] {
            let turn = self.next + 1;
            let Some(place) = self.places.get_mut(&chair.number) else { return };
            if belongs && place.turn(list).is_none() {
                *place.turn(list) = Some(turn);
                self.next = turn;
                if let Some(kind) = self.kinds.get_mut(&place.kind) {
                    kind.list(list).insert(turn, Arc::clone(chair));
                }
            }
        }
    }

    /// Promises a call to the chair whose turn it is.
    pub(super) fn promise(&mut self, name: &str) -> Option<Arc<Chair>> {
        loop {
            let kind = self.next_of(List::Ready, name)?;
            let chair = self.take(List::Ready, kind)?;
            if chair.promise() {
                // In turns: each worker gets as much as the others.
                self.refresh(&chair);
                return Some(chair);
            }
        }
    }

    /// Tells one whose worker takes this activity to look.
    pub(super) fn wake_one(&mut self, name: &str) {
        while let Some(kind) = self.next_of(List::Idle, name) {
            if self.take(List::Idle, kind).is_none_or(|chair| chair.wake()) {
                return;
            }
        }
    }

    /// Tells one of each kind to look.
    pub(super) fn wake_one_of_each(&mut self) {
        let kinds: Vec<KindId> = self.kinds.keys().copied().collect();
        for kind in kinds {
            while let Some(chair) = self.take(List::Idle, kind) {
                if chair.wake() {
                    break;
                }
            }
        }
    }

    /// The kind that takes an activity and has the chair whose turn it is.
    fn next_of(&mut self, list: List, name: &str) -> Option<KindId> {
        let named = self.by_name.get(name).into_iter().flatten();
        let ids = named.chain(self.ids.get(&None)).copied();
        let first = |id: KindId| {
            let kind = self.kinds.get(&id)?;
            let turns = match list {
                List::Ready => &kind.ready,
                List::Idle => &kind.idle,
            };
            Some((*turns.first_key_value()?.0, id))
        };
        ids.filter_map(first).min().map(|(_, id)| id)
    }

    /// Takes the next chair out of a list.
    fn take(&mut self, list: List, kind: KindId) -> Option<Arc<Chair>> {
        let (_, chair) = self.kinds.get_mut(&kind)?.list(list).pop_first()?;
        if let Some(place) = self.places.get_mut(&chair.number) {
            *place.turn(list) = None;
        }
        #[cfg(test)]
        {
            self.asked += 1;
        }
        Some(chair)
    }
}
