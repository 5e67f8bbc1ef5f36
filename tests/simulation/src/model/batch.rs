//! Which appends go into one statement: `Batch` of the ledger crate, once more.

use std::collections::{HashMap, HashSet};

use backstitch_core::{Op, RunId};
use backstitch_ledger::{Append, Head, StatusChange};
use uuid::Uuid;

/// The keys that a batch has spoken about.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Those that it appends to.
    runs: HashSet<RunId>,
    new_runs: HashSet<RunId>,
    statuses: HashSet<RunId>,
    timers: HashSet<(RunId, Op)>,
    timer_runs: HashSet<RunId>,
    items: HashSet<Uuid>,
    memories: HashSet<RunId>,
    tasks: HashSet<(RunId, Op)>,
    heads: HashMap<RunId, Head>,
    bytes: usize,
}

impl Batch {
    /// Whether `append` goes into the same statement as those before it; if so, it is counted in.
    pub(super) fn fits(&mut self, append: &Append, bytes_max: usize) -> bool {
        let bytes = self.bytes + append.text_bytes();
        if (self.bytes > 0 && bytes > bytes_max) || self.collides(append) || !self.is_followed_by(append) {
            return false;
        }
        self.bytes = bytes;
        self.runs.insert(append.run);
        for new in &append.new_runs {
            self.heads.insert(new.run, Head::at(new.further.last().unwrap_or(&new.first)));
            self.new_runs.insert(new.run);
        }
        self.heads.extend(append.head().map(|head| (append.run, head)));
        self.statuses.extend(append.status.as_ref().map(|_| append.run));
        self.timers.extend(append.timers.iter().map(|timer| (timer.run, timer.op)));
        self.timer_runs.extend(append.timers.iter().map(|timer| timer.run));
        self.timers.extend(&append.timers_done);
        self.items.extend(append.inbox.iter().map(|item| item.item_id));
        self.memories.extend(append.memories.iter().map(|memory| memory.run));
        self.tasks.extend(tasks_of(append));
        true
    }

    fn is_followed_by(&self, append: &Append) -> bool {
        let end = self.heads.get(&append.run);
        end.is_none_or(|end| append.after.is_none_or(|after| *end == after))
    }

    fn collides(&self, append: &Append) -> bool {
        let closes = matches!(append.status, Some(StatusChange::Close(_)));
        self.new_runs.contains(&append.run)
            // A start that is refused, for the run is there: what the run itself appends must not go with it.
            || append.new_runs.iter().any(|new| self.new_runs.contains(&new.run) || self.runs.contains(&new.run))
            || (append.status.is_some() && self.statuses.contains(&append.run))
            || append.timers.iter().any(|timer| self.timers.contains(&(timer.run, timer.op)))
            || append.timers_done.iter().any(|key| self.timers.contains(key))
            || (closes && self.timer_runs.contains(&append.run))
            || append.inbox_done.iter().any(|(_, item)| self.items.contains(item))
            || append.memories.iter().any(|memory| self.memories.contains(&memory.run))
            || tasks_of(append).any(|key| self.tasks.contains(&key))
    }
}

/// Every task that an append says something about.
fn tasks_of(append: &Append) -> impl Iterator<Item = (RunId, Op)> + '_ {
    let offered = append.tasks.iter().map(|task| task.op);
    let ended = append.tasks_done.iter().chain(&append.tasks_given_up).copied();
    offered.chain(ended).map(|op| (append.run, op))
}
