//! Which runs have lost an append, so that what was sent behind it is not written either.

use std::collections::{HashMap, VecDeque};

use backstitch_core::{RunId, Seq, limits};

use crate::append::Item;

/// Runs whose ledger would get a gap if the items that are still on their way were committed.
///
/// For each the place where those go on: an item that begins there was sent before its sender knew.
/// One that begins elsewhere was sent by someone who has read the run again.
#[derive(Default)]
pub(super) struct Broken {
    next: HashMap<RunId, Seq>,
    oldest: VecDeque<RunId>,
}

impl Broken {
    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    pub(super) fn poisoned(&mut self, item: &Item) {
        if let Some(last) = item.append.rows.last() {
            self.put(item.append.run, Seq(last.seq.0 + 1));
        }
        for new in &item.append.new_runs {
            self.start_refused(new.run);
        }
    }

    pub(super) fn start_refused(&mut self, run: RunId) {
        self.put(run, Seq(1));
    }

    fn put(&mut self, run: RunId, next: Seq) {
        if self.next.insert(run, next).is_none() {
            self.oldest.push_back(run);
        }
        if self.oldest.len() > limits::BROKEN_RUNS_MAX
            && let Some(forgotten) = self.oldest.pop_front()
        {
            self.next.remove(&forgotten);
        }
    }

    /// Whether `item` goes on where a lost one ended.
    pub(super) fn continues(&mut self, item: &Item) -> bool {
        let append = &item.append;
        let (Some(first), Some(last)) = (append.rows.first(), append.rows.last()) else { return false };
        match self.next.get_mut(&append.run) {
            Some(next) if *next == first.seq => {
                *next = Seq(last.seq.0 + 1);
                true
            }
            Some(_) => {
                self.next.remove(&append.run);
                self.oldest.retain(|run| *run != append.run);
                false
            }
            None => false,
        }
    }
}
