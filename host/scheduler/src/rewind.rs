//! When the database has lost what it had committed: a replica that was promoted lagged, a backup was restored under
//! running hosts, commits were not flushed before a crash.
//!
//! Then guests here are ahead of their ledgers. Nothing can be written behind the gap, for every append names the row that
//! it follows. What is left to do here is to notice it soon, to drop the guests that are ahead, and to say what is gone:
//!
//! | noticed by | then |
//! |---|---|
//! | an append whose predecessor is not there ([`PoisonKind::Behind`](backstitch_ledger::PoisonKind)) | [`rewind`](Scheduler::rewind) |
//! | a new connection of the writer: the ends of all ledgers in memory are compared | [`rewind`](Scheduler::rewind) of those that differ |
//! | the same, of runs that have left memory of late | they are read, and go on if they are open |
//! | the same; tasks that were offered by appends without rows are compared as well | they are offered again |
//! | a ledger that was read for a guest that had been dropped, and is shorter than what was committed | [`rewind`](Scheduler::rewind) |
//!
//! A run that is rewound goes as soon as nothing of it is on its way, and is read again: it goes on from what is left.
//! One whose ledger never is as its appends say, although it was just read, is parked after [`REWINDS_MAX`] tries: then
//! reads and writes do not reach the same database.

use std::sync::Arc;

use backstitch_core::{Fault, FaultKind, RunId, Seq};
use backstitch_ledger::{Head, Loss};
use uuid::Uuid;

use crate::action::Action;
use crate::env::Env;
use crate::in_flight::{Left, Rewound};
use crate::loaded::{Damaged, LoadedRun};
use crate::slot::{Guest, Slot};
use crate::state::Scheduler;

/// How often a run is read again before anything of it could be written.
const REWINDS_MAX: u32 = 5;

impl<E: Env> Scheduler<E> {
    /// The writer has a new connection: the database may be another one, or have lost its last commits.
    pub(crate) fn prove_all(&mut self) {
        self.unproven = self.slots.keys().copied().collect();
        let settled = |id: &RunId| Some((*id, self.slots.get(id)?.settled_head()?));
        let mut heads: Vec<(RunId, Head)> = self.unproven.iter().filter_map(settled).collect();
        for (id, _) in &heads {
            self.unproven.remove(id);
            self.prove_offers(*id);
        }
        heads.extend(self.left.iter().filter_map(|(id, left)| Some((*id, left.head?))));
        self.act(Action::CompareHeads(heads));
        let doubtful = self.left.iter().filter(|(_, left)| left.is_doubtful);
        let doubtful: Vec<RunId> = doubtful.map(|(id, _)| *id).collect();
        doubtful.into_iter().for_each(|id| self.load(id));
        let consumed: Vec<(RunId, Uuid)> = self.consumed.iter().map(|(item, _)| *item).collect();
        if !consumed.is_empty() {
            self.act(Action::CompareConsumed(consumed));
        }
    }

    /// An append of the run was committed. It may have been before the database lost something.
    pub(crate) fn proven(&mut self, id: RunId) {
        self.rewound.remove(&id);
        if self.unproven.is_empty() {
            return;
        }
        let Some(slot) = self.slots.get(&id) else {
            self.unproven.remove(&id);
            return;
        };
        if let Some(head) = slot.settled_head()
            && self.unproven.remove(&id)
        {
            self.prove_offers(id);
            self.act(Action::CompareHeads(vec![(id, head)]));
        }
    }

    /// Tasks that were offered behind the rows of their calls may be gone, and the rows are all there.
    fn prove_offers(&mut self, id: RunId) {
        if self.slots.get(&id).is_some_and(|slot| slot.offers_alone) {
            self.make_anew(id);
        }
    }

    /// Runs whose ledgers do not end as this host thought when it asked.
    pub(crate) fn on_lost(&mut self, runs: &[(RunId, Head)]) {
        for (id, head) in runs {
            // One that has gone on since has an append that will tell.
            if self.slots.get(id).and_then(Slot::settled_head) == Some(*head) {
                self.rewind(*id);
            }
            if self.left.peek(id).is_some_and(|left| left.head == Some(*head)) {
                self.come_back(*id);
            }
        }
    }

    /// A run that had left memory lacks its last rows: it may have to go on from what is left.
    fn come_back(&mut self, id: RunId) {
        let Some(Left { identity, head, .. }) = self.left.pop(&id) else { return };
        let durable = head.map_or(Seq(0), |head| Seq(head.seq.0 + 1));
        self.rewound.insert(id, Rewound { identity, durable, times: 1, untold: true });
        self.load(id);
    }

    /// Messages whose consumption is lost: they are to be read again.
    pub(crate) fn on_reappeared(&mut self, items: &[(RunId, Uuid)]) {
        for item in items {
            self.consumed.pop(item);
        }
        self.act(Action::ReadInbox);
    }

    /// The database does not have this run as this host knows it: whatever its guest has seen of what is gone is
    /// dropped, and the run goes on from what its ledger holds.
    pub(crate) fn rewind(&mut self, id: RunId) {
        self.abandon_activation(id);
        self.abort_attempts(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        // What led here was on its way, or the ledger of a guest that was dropped: nothing is kept back beside either.
        debug_assert!(slot.speculative.is_none(), "a run is rewound that has something kept back");
        (slot.is_stale, slot.is_reloaded) = (true, true);
        if !matches!(slot.guest, Guest::Busy { .. }) {
            slot.guest = Guest::Evicted;
        }
        let rewound = self.rewound.entry(id).or_insert_with(|| Rewound {
            identity: Arc::clone(&slot.identity),
            durable: Seq(0),
            times: 0,
            untold: true,
        });
        rewound.durable = rewound.durable.max(slot.durable);
        (rewound.times, rewound.untold) = (rewound.times + 1, true);
        self.warm.pop(&id);
        self.advance(id);
    }

    /// The slot of a run that was rewound is gone.
    pub(crate) fn reload(&mut self, id: RunId) {
        // Whatever arrives meanwhile waits for the ledger.
        self.loading.entry(id).or_default();
        self.load(id);
    }

    /// Says what is gone of a run that was rewound, now that its ledger was read.
    pub(crate) fn report_rewound(&mut self, id: RunId, loaded: Option<&LoadedRun<E>>) {
        let Some(rewound) = self.rewound.get_mut(&id).filter(|rewound| rewound.untold) else { return };
        rewound.untold = false;
        let rows = loaded.map_or(0, |loaded| match &loaded.ledger {
            Ok((_, rows)) => rows.len(),
            Err(Damaged { rows, .. }) => *rows,
        });
        let kept = Seq(u32::try_from(rows).unwrap_or(u32::MAX));
        let loss = Loss {
            run: id,
            workflow_id: rewound.identity.workflow_id.to_string(),
            kept,
            committed: rewound.durable,
            host: self.config.host,
        };
        let scope = rewound.identity.scope;
        if loaded.is_none() {
            self.rewound.remove(&id);
        }
        if loss.committed <= kept {
            tracing::warn!(run = %id, "a run was not in the database as this host knew it; it is read again");
            return;
        }
        self.figures.runs_rewound += 1;
        tracing::error!(
            run = %id, workflow_id = loss.workflow_id, rows_committed = %loss.committed, rows_kept = %loss.kept,
            "the database has lost rows of this run that were committed; what clients and workers were told of them no \
             longer holds, and the run goes on from what is left"
        );
        self.act(Action::NoteLoss(scope, loss));
    }

    /// Parks a run that was read again so often that there is no use in it.
    pub(crate) fn stop_rewinding(&mut self, id: RunId) {
        let Some(times) = self.rewound.get(&id).map(|rewound| rewound.times) else { return };
        if times <= REWINDS_MAX {
            return;
        }
        self.rewound.remove(&id);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.sent = None;
        }
        let message = format!(
            "{times} times in a row the ledger did not end where it had just been read to end; check that reads and \
             writes reach the same database"
        );
        self.park(id, &Fault::new(FaultKind::Corrupt, message));
    }
}
