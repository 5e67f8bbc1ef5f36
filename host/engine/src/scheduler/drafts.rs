//! Drafts: what a guest has before it is committed. They go to the writer together with what their guests make of
//! them, or without that if it takes too long.

use std::time::Duration;

use backstitch_core::{RunId, Seq};
use backstitch_ledger::Append;
use tokio::time::Instant;

use super::slot::Draft;
use super::state::Scheduler;
use super::waiting::Waiting;

/// How long an outcome waits for what its guest makes of it: longer than nearly every activation takes, and
/// not much longer than a commit.
pub(super) const DRAFT_MAX: Duration = Duration::from_millis(1);

impl Scheduler {
    /// Sends an append, or lets its guest go to work on what it ends with before that.
    pub(super) fn send_or_draft(&mut self, id: RunId, append: Append, waiting: Waiting) {
        if self.slots.get(&id).is_some_and(|slot| slot.may_draft(&append, self.tools.clock.now_ms())) {
            return self.draft(id, append, waiting);
        }
        self.send(id, append, |pending| pending.waiting = waiting);
    }

    /// Keeps an append until its guest has done with the outcome that it ends with.
    fn draft(&mut self, id: RunId, append: Append, waiting: Waiting) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let until = Instant::now() + DRAFT_MAX;
        slot.draft = Some(Draft { append, waiting, until });
        self.drafts.push_back((id, until));
        self.dispatch(id);
    }

    /// Sends what a run's guest is still at work on.
    pub(super) fn send_draft(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(Draft { mut append, waiting, .. }) = slot.draft.take() else { return };
        slot.unacked += 1;
        slot.follow(&mut append);
        // The run may have gone on since.
        let upto = append.rows.last().map_or(Seq(1), |row| Seq(row.seq.0 + 1));
        self.enqueue(id, append, |pending| (pending.upto, pending.waiting) = (upto, waiting));
    }

    /// Sends those that have waited for long enough.
    pub(super) fn send_old_drafts(&mut self) {
        let now = Instant::now();
        while let Some((id, until)) = self.drafts.pop_front_if(|(_, until)| *until <= now) {
            let draft = self.slots.get(&id).and_then(|slot| slot.draft.as_ref());
            if draft.is_some_and(|draft| draft.until <= until) {
                self.send_draft(id);
            }
        }
    }

    /// Forgets the oldest drafts that have gone.
    pub(super) fn forget_drafts(&mut self) {
        let slots = &self.slots;
        let is_gone = |(id, _): &mut (RunId, Instant)| slots.get(id).is_none_or(|slot| slot.draft.is_none());
        while self.drafts.pop_front_if(is_gone).is_some() {}
    }
}

/// Ends when the first draft has waited for long enough.
pub(super) async fn until(draft: Option<&(RunId, Instant)>) {
    match draft {
        Some((_, until)) => tokio::time::sleep_until(*until).await,
        None => std::future::pending().await,
    }
}
