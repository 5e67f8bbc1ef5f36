//! Which runs have lost an append, so that what was sent behind it is not written either.

use std::collections::{HashMap, VecDeque};

use backstitch_core::{RunId, limits};

use crate::append::{Head, Item};

/// Runs whose ledger would get a gap if the items that are still on their way were committed.
#[derive(Default)]
pub(super) struct GapTracker {
    lost: HashMap<RunId, Lost>,
    oldest: VecDeque<RunId>,
}

/// What of a run was lost.
#[derive(Clone, Copy)]
enum Lost {
    /// Its start: there is no such run, and nothing that is said of it counts.
    All,
    /// The rows up to this one: an item that follows it was sent before its sender knew. One that follows another,
    /// be it at the same place, was sent by someone who has read the run again.
    UpTo(Head),
}

impl GapTracker {
    pub(super) fn poisoned(&mut self, item: &Item) {
        let run = item.append.run;
        if item.append.starts(run) {
            self.put(run, Lost::All);
        } else if let Some(last) = item.append.rows.last() {
            self.put(run, Lost::UpTo(Head::at(last)));
        }
    }

    /// These new runs were not started. Of runs that other runs start, nothing is sent before it is known that they are.
    pub(super) fn refused(&mut self, items: &[Item], refused: &[RunId]) {
        let own = items.iter().map(|Item { append, .. }| append).filter(|append| append.starts(append.run));
        for append in own.filter(|append| refused.contains(&append.run)) {
            self.put(append.run, Lost::All);
        }
    }

    fn put(&mut self, run: RunId, lost: Lost) {
        if self.lost.insert(run, lost).is_none() {
            self.oldest.push_back(run);
        }
        if self.oldest.len() > limits::GAP_RUNS_MAX
            && let Some(forgotten) = self.oldest.pop_front()
        {
            self.lost.remove(&forgotten);
        }
    }

    /// Whether `item` goes on where a lost one ended.
    pub(super) fn continues(&mut self, item: &Item) -> bool {
        let append = &item.append;
        let Some(lost) = self.lost.get_mut(&append.run) else { return false };
        let end = match lost {
            Lost::All => return true,
            Lost::UpTo(end) => end,
        };
        // One that does not say what it follows has no rows, and stands for itself.
        let Some(after) = append.after else { return false };
        if after == *end {
            *end = append.head().unwrap_or(after);
            return true;
        }
        self.lost.remove(&append.run);
        self.oldest.retain(|run| *run != append.run);
        false
    }
}
