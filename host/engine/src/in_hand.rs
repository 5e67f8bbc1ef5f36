//! What of the inbox a host has in hand: shared by its scheduler, which works on messages, and the watcher, which reads
//! only what is not here. One of these for each term.
//!
//! A message is in hand from the moment it is read until the append that removes it is committed, or until it is put
//! back because its run cannot hear it now. What cannot be read stays here for the term: it is logged once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstitch_core::{RunId, limits};
use backstitch_ledger::Reader;
use uuid::Uuid;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct InHand(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    items: HashMap<RunId, HashSet<Uuid>>,
    /// Runs that take no more signals until they have awaited some.
    full: HashSet<RunId>,
    unreadable: HashSet<Uuid>,
}

impl InHand {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message. False: it is in hand already.
    pub fn take(&self, run: RunId, item: Uuid) -> bool {
        self.state().items.entry(run).or_default().insert(item)
    }

    /// A message is done with, or its run cannot hear it now.
    pub fn put_back(&self, run: RunId, item: Uuid) {
        let mut state = self.state();
        if let Some(items) = state.items.get_mut(&run) {
            items.remove(&item);
            if items.is_empty() {
                state.items.remove(&run);
            }
        }
    }

    /// Whether a run takes no more signals. True: that is news.
    pub fn set_full(&self, run: RunId, is_full: bool) -> bool {
        let mut state = self.state();
        if is_full { state.full.insert(run) } else { state.full.remove(&run) }
    }

    /// A message that cannot be read.
    pub fn set_unreadable(&self, item: Uuid) {
        let mut state = self.state();
        if state.unreadable.len() >= limits::UNREADABLE_ITEMS_MAX {
            // They are found, and logged, once more.
            state.unreadable.clear();
        }
        state.unreadable.insert(item);
    }

    /// Messages that cannot be read.
    pub fn unreadable(&self) -> Vec<Uuid> {
        self.state().unreadable.iter().copied().collect()
    }

    /// What is to be read for these runs.
    pub fn readers(&self, runs: &[RunId]) -> Vec<Reader> {
        let state = self.state();
        let reader = |run: &RunId| Reader {
            run: *run,
            is_full: state.full.contains(run),
            except: state.items.get(run).into_iter().flatten().copied().collect(),
        };
        runs.iter().map(reader).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_in_hand_until_it_is_put_back_and_of_its_run_alone() {
        let in_hand = InHand::default();
        let (run, other, item) = (RunId(Uuid::from_u128(1)), RunId(Uuid::from_u128(2)), Uuid::from_u128(3));
        assert!(in_hand.take(run, item) && !in_hand.take(run, item));
        assert!(in_hand.take(other, item), "it was passed on meanwhile");
        assert!(in_hand.set_full(run, true) && !in_hand.set_full(run, true));
        let readers = in_hand.readers(&[run, RunId(Uuid::from_u128(4))]);
        assert!(readers[0].is_full && readers[0].except == [item]);
        assert!(!readers[1].is_full && readers[1].except.is_empty());
        in_hand.put_back(run, item);
        assert!(in_hand.readers(&[run])[0].except.is_empty());
        for number in 0..=limits::UNREADABLE_ITEMS_MAX as u128 {
            in_hand.set_unreadable(Uuid::from_u128(number));
        }
        assert_eq!(in_hand.unreadable(), [Uuid::from_u128(limits::UNREADABLE_ITEMS_MAX as u128)]);
    }
}
