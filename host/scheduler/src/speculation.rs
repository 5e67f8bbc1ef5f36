//! Speculative appends: what a guest is given before it is committed.
//!
//! A start, or an outcome, that comes while nothing else of its run is on its way is kept back for as long as the guest is
//! at work on it, and goes to the writer together with what the guest makes of it: one commit instead of two.
//!
//! | a run has | when | then |
//! |---|---|---|
//! | nothing on its way | a start or an outcome comes, and [`may_speculate`](Slot::may_speculate) | it is kept, and the guest is given it |
//! | a speculative append | the guest comes back | both are sent as one, if they may join, or one behind the other |
//! | a speculative append | anything else of the run is to be sent | it is sent before that |
//! | a speculative append | a tick finds it [`SPECULATIVE_MAX`] old | it is sent, and what the guest makes of it follows alone |
//!
//! Nothing that follows from it leaves the host before the commit, but for attempts of components without imports.

use std::time::Duration;

use backstitch_core::matcher::Moment;
use backstitch_core::{RunId, Seq};
use backstitch_ledger::Append;

use crate::env::Env;
use crate::slot::{Guest, Slot};
use crate::speculative::Speculative;
use crate::state::Scheduler;
use crate::waiting::Waiting;

/// How long an outcome waits for what its guest makes of it: longer than nearly every activation takes, and
/// not much longer than a commit.
const SPECULATIVE_MAX: Duration = Duration::from_millis(1);

impl<E: Env> Slot<E> {
    /// Whether `append` may wait for what the guest makes of it: it is the run's start or ends with an outcome, the
    /// guest can have that at once, and has nothing else that is not committed.
    fn may_speculate(&self, append: &Append, now_ms: u64) -> bool {
        let last = append.rows.last().map(|row| row.seq);
        let ends_with_an_outcome = last.is_some() && self.undelivered.back().map(|event| event.seq) == last;
        (ends_with_an_outcome || append.starts(self.identity.run))
            && matches!(self.guest, Guest::Idle(_) | Guest::Cold(_))
            && !self.is_writing()
            && append.status.is_none()
            && !self.is_stale
            && self.terminate.is_none()
            && self.overdue.is_none()
            && !self.is_on_hold(now_ms)
    }
}

impl<E: Env> Scheduler<E> {
    /// Sends an append, or lets its guest go to work on what it ends with before that.
    pub(crate) fn send_or_speculate(&mut self, id: RunId, append: Append, waiting: Waiting<E>) {
        let now = self.now;
        match self.slots.get_mut(&id) {
            Some(slot) if slot.may_speculate(&append, now.ms) => {
                let until = now.at + SPECULATIVE_MAX;
                slot.speculative = Some(Speculative { append, waiting, until });
                self.deadlines.0.push_back((id, until));
                self.dispatch(id);
            }
            _ => self.send(id, append, |sent| sent.waiting = waiting),
        }
    }

    /// What a guest came back with, behind what was kept for it, if they may go as one. The last: whether it was.
    pub(crate) fn join_speculative(&mut self, id: RunId, commands: Append) -> (Append, Waiting<E>, bool) {
        let slot = self.slots.get_mut(&id);
        let kept = slot.and_then(|slot| slot.speculative.take_if(|kept| kept.append.may_join(&commands)));
        match kept {
            Some(Speculative { mut append, waiting, .. }) => {
                append.join(commands);
                (append, waiting, true)
            }
            None => (commands, Waiting::default(), false),
        }
    }

    /// Sends what a run's guest is still at work on.
    pub(crate) fn send_speculative(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(Speculative { mut append, waiting, .. }) = slot.speculative.take() else { return };
        slot.unacked += 1;
        slot.follow(&mut append);
        // The run may have gone on since.
        let upto = append.rows.last().map_or(Seq(1), |row| Seq(row.seq.0 + 1));
        self.submit(id, append, |sent| (sent.upto, sent.waiting) = (upto, waiting));
    }

    /// Sends those that have waited for long enough. For a tick only, and not for every input: what their guests made of
    /// them may be among the inputs that are there already, and each that goes alone costs an append more.
    pub(crate) fn send_expired(&mut self) {
        let now = self.now.at;
        while let Some((id, until)) = self.deadlines.0.pop_front_if(|(_, until)| *until <= now) {
            let kept = self.slots.get(&id).and_then(|slot| slot.speculative.as_ref());
            if kept.is_some_and(|kept| kept.until <= until) {
                self.send_speculative(id);
            }
        }
    }

    /// Forgets the oldest deadlines of those that were sent: nobody has to wake up for them.
    pub(crate) fn forget_joined(&mut self) {
        let slots = &self.slots;
        let is_gone =
            |(id, _): &mut (RunId, Moment)| slots.get(id).is_none_or(|slot| slot.speculative.is_none());
        while self.deadlines.0.pop_front_if(is_gone).is_some() {}
    }
}
