//! What of the inbox a scheduler has in hand, so that whoever reads the inbox for it can leave that out.
//!
//! A message is in hand from the moment it is read until the append that removes it is committed, or until it is put
//! back because its run cannot hear it now. What cannot be read stays here for the term: it is logged once.

use std::collections::{BTreeMap, BTreeSet};

use backstitch_core::{RunId, limits};
use backstitch_ledger::Reader;
use uuid::Uuid;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct InHand {
    items: BTreeMap<RunId, BTreeSet<Uuid>>,
    /// Runs that take no more signals until they have awaited some.
    full: BTreeSet<RunId>,
    unreadable: BTreeSet<Uuid>,
}

impl InHand {
    /// Takes a message. False: it is in hand already.
    pub(crate) fn take(&mut self, run: RunId, item: Uuid) -> bool {
        self.items.entry(run).or_default().insert(item)
    }

    /// A message is done with, or its run cannot hear it now.
    pub(crate) fn put_back(&mut self, run: RunId, item: Uuid) {
        if let Some(items) = self.items.get_mut(&run) {
            items.remove(&item);
            if items.is_empty() {
                self.items.remove(&run);
            }
        }
    }

    /// Whether a run takes no more signals. True: that is news.
    pub(crate) fn set_full(&mut self, run: RunId, is_full: bool) -> bool {
        if is_full { self.full.insert(run) } else { self.full.remove(&run) }
    }

    /// A message that cannot be read.
    pub(crate) fn set_unreadable(&mut self, item: Uuid) {
        if self.unreadable.len() >= limits::UNREADABLE_ITEMS_MAX {
            // They are found, and logged, once more.
            self.unreadable.clear();
        }
        self.unreadable.insert(item);
    }

    /// Messages that cannot be read.
    pub fn unreadable(&self) -> Vec<Uuid> {
        self.unreadable.iter().copied().collect()
    }

    /// How many messages are in hand.
    pub fn len(&self) -> usize {
        self.items.values().map(BTreeSet::len).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What is to be read for these runs.
    pub fn readers(&self, runs: &[RunId]) -> Vec<Reader> {
        let reader = |run: &RunId| Reader {
            run: *run,
            is_full: self.full.contains(run),
            except: self.items.get(run).into_iter().flatten().copied().collect(),
        };
        runs.iter().map(reader).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_in_hand_until_it_is_put_back_and_of_its_run_alone() {
        let mut in_hand = InHand::default();
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
