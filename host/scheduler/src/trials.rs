//! Runs over which hosts may have been lost: a guest that takes its host down takes down the next, and the next.
//!
//! | hosts lost since the run last went on | it is led |
//! |---|---|
//! | 0, 1 | as any other; what it does is noted afterwards, for many runs at once |
//! | 2 | alone, on trial: the database knows of it before the guest does |
//! | 3, the last one while it was on trial | not at all: it is parked as `host-lost` |
//!
//! Being owned by a host that died proves nothing: thousands of runs were. Only a run of which something was under way can
//! have done it, and after two losses that is known of one run at a time. What only repeats old ground, on a host that
//! follows one which has led the run along that ground, is not on trial; nor is anything before the host has lived for
//! [`limits::TRIALS_AFTER_MS`], so that hosts which are killed one after the other convict nobody.
//!
//! An attempt of an activity on this host is put on trial in the same way. If its host dies it has failed, as any attempt
//! whose worker died: the call's retry policy goes on from there.

use std::time::Duration;

use backstitch_core::run::OpenOp;
use backstitch_core::{Digest, Failure, FailureKind, Op, RunId, limits};

use crate::action::Action;
use crate::env::Env;
use crate::input::{Trial, Wake};
use crate::slot::{Guest, Slot};
use crate::state::Scheduler;
use crate::trial_queue::Stage;

impl<E: Env> Slot<E> {
    /// Whether its guest may go on only on trial.
    fn is_suspect(&self) -> bool {
        self.losses + 1 >= limits::HOSTS_LOST_MAX
    }

    /// The same, of what is to be laid before it now.
    fn needs_trial(&self) -> bool {
        let repeats =
            matches!(self.guest, Guest::Cold(_)) && !self.is_unreplayed && self.undelivered.is_empty();
        self.is_suspect() && !repeats
    }
}

impl<E: Env> Scheduler<E> {
    /// Whether a guest of this component may begin before its start is committed.
    pub(crate) fn may_begin_ahead(&mut self, digest: Digest) -> bool {
        !self.env.is_cautious() && self.came_back.get(&digest).is_some()
    }

    /// Whether the guest of a run may be given what it may have. If not, that comes later.
    pub(crate) fn may_dispatch(&mut self, id: RunId) -> bool {
        let Some(slot) = self.slots.get(&id).filter(|slot| slot.needs_trial()) else { return true };
        let has_something = match &slot.guest {
            Guest::Cold(_) => slot.durable.0 > 0 || slot.speculative.is_some(),
            Guest::Idle(_) => slot.deliverable() > 0,
            _ => return true,
        };
        !has_something || self.may_try(Trial { run: id, op: None })
    }

    /// Whether the attempt of a call may begin. If not, it does later.
    pub(crate) fn may_attempt(&mut self, id: RunId, op: Op) -> bool {
        let is_suspect = self.slots.get(&id).is_some_and(Slot::is_suspect);
        !is_suspect || self.may_try(Trial { run: id, op: Some(op) })
    }

    /// Whether the guest of a run waits for its trial.
    pub(crate) fn waits_for_trial(&self, id: RunId) -> bool {
        let trial = Trial { run: id, op: None };
        self.trials.waiting.contains(&trial) || self.trials.now.is_some_and(|(now, _)| now == trial)
    }

    fn may_try(&mut self, trial: Trial) -> bool {
        match self.trials.now {
            Some((now, Stage::Open)) if now == trial => return true,
            Some((now, Stage::Asked)) if now == trial => return false,
            _ => {}
        }
        if !self.trials.waiting.contains(&trial) {
            self.trials.waiting.push_back(trial);
            self.next_trial();
        }
        false
    }

    /// Begins the next trial, if none is under way.
    fn next_trial(&mut self) {
        while self.trials.now.is_none()
            && let Some(trial) = self.trials.waiting.pop_front()
        {
            if !self.slots.contains_key(&trial.run) {
                continue;
            }
            self.trials.now = Some((trial, Stage::Asked));
            self.trials.number += 1;
            let wait = self.trials.not_before.since(self.now.at);
            if wait.is_zero() {
                self.act(Action::BeginTrial(trial));
            } else {
                self.act(Action::Wake(wait, Wake::TrialMayBegin(trial)));
            }
        }
    }

    /// This host has lived for long enough.
    pub(crate) fn trial_may_begin(&mut self, trial: Trial) {
        if self.trials.now == Some((trial, Stage::Asked)) {
            self.act(Action::BeginTrial(trial));
        }
    }

    /// The database knows of a trial, or it could not begin.
    pub(crate) fn on_trial_begun(&mut self, trial: Trial, has_begun: bool) {
        if self.trials.now != Some((trial, Stage::Asked)) {
            return;
        }
        if !has_begun {
            // The term is about to end, or the run is gone.
            let wait = Duration::from_millis(limits::TRIAL_NEWS_MS);
            return self.act(Action::Wake(wait, Wake::TrialIsGone(trial)));
        }
        let Trial { run: id, op } = trial;
        self.trials.now = Some((trial, Stage::Open));
        match op {
            Some(op) => self.start_attempt(id, op),
            None => self.advance(id),
        }
        let is_under_way = self.slots.get(&id).is_some_and(|slot| match op {
            Some(op) => slot.is_attempting(op),
            None => matches!(slot.guest, Guest::Busy { .. }),
        });
        if !is_under_way {
            self.end_trial(trial, false);
        } else if op.is_some() {
            let wait = Duration::from_millis(limits::TRIAL_MS_MAX);
            self.act(Action::Wake(wait, Wake::TrialOutlived(self.trials.number)));
        }
    }

    /// A trial could not begin, and nothing has come of that.
    pub(crate) fn trial_is_gone(&mut self, trial: Trial) {
        if self.trials.now == Some((trial, Stage::Asked)) {
            self.end_trial(trial, false);
        }
    }

    /// The trial of this number has taken so long that it has killed nobody.
    pub(crate) fn trial_outlived(&mut self, number: u64) {
        if let Some((trial, Stage::Open)) = self.trials.now
            && number == self.trials.number
        {
            self.end_trial(trial, true);
        }
    }

    /// The database knows that a trial is over.
    pub(crate) fn on_trial_ended(&mut self, trial: Trial, went_on: bool) {
        if self.trials.now != Some((trial, Stage::Ending)) {
            return;
        }
        self.trials.now = None;
        if let Some(slot) = self.slots.get_mut(&trial.run).filter(|_| went_on) {
            slot.losses = 0;
        }
        self.advance(trial.run);
        self.next_trial();
    }

    fn end_trial(&mut self, trial: Trial, went_on: bool) {
        self.trials.now = Some((trial, Stage::Ending));
        self.act(Action::EndTrial(trial, went_on));
    }

    /// A guest came back from its thread. `went_on`: with something that it had not done before.
    pub(crate) fn survived(&mut self, id: RunId, went_on: bool) {
        if self.trials.is_on(id, None) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.is_unreplayed = false;
            }
            return self.end_trial(Trial { run: id, op: None }, went_on);
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if went_on {
            self.came_back.put(slot.identity.digest, ());
        }
        if slot.losses == 0 && !slot.is_unreplayed {
            return;
        }
        if std::mem::take(&mut slot.is_unreplayed) {
            self.trials.replayed.push(id);
        }
        if went_on && slot.losses > 0 && !slot.is_suspect() {
            slot.losses = 0;
            self.trials.went_on.push(id);
        }
        self.await_news();
    }

    /// A run was read, and nothing is led now: an operator holds it, or its time has not come. That harms no host.
    pub(crate) fn rests(&mut self, id: RunId) {
        if let Some(slot) = self.slots.get_mut(&id)
            && std::mem::take(&mut slot.is_unreplayed)
        {
            self.trials.replayed.push(id);
            self.await_news();
        }
    }

    fn await_news(&mut self) {
        if !std::mem::replace(&mut self.trials.is_awaited, true) {
            self.act(Action::Wake(Duration::from_millis(limits::TRIAL_NEWS_MS), Wake::NoteProgress));
        }
    }

    /// An attempt came to its end, and its host is there.
    pub(crate) fn attempt_survived(&mut self, id: RunId, op: Op) {
        if self.trials.is_on(id, Some(op)) {
            self.end_trial(Trial { run: id, op: Some(op) }, true);
        }
    }

    /// Writes down what runs have done that were claimed from hosts that died.
    pub(crate) fn note_progress(&mut self) {
        self.trials.is_awaited = false;
        let replayed = std::mem::take(&mut self.trials.replayed);
        let went_on = std::mem::take(&mut self.trials.went_on);
        // What is not noted counts against its run once more, which two losses outweigh.
        self.act(Action::NoteProgress(replayed, went_on));
    }

    /// The host before died while it had this attempt on trial.
    pub(crate) fn attempt_lost(&mut self, id: RunId, op: Op) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(OpenOp::Activity { attempts, heartbeat, .. }) = slot.run.open_op(op) else { return };
        // What it has said itself is lost with its host; what those before it have said is not.
        let (attempt, heartbeat) = (attempts + 1, heartbeat.clone());
        slot.attempts.remove(&op);
        let message = "the host that made this attempt died while it was under way";
        let failure = Failure {
            retryable: true,
            ..Failure::fatal(FailureKind::Application, "host-lost", message.to_owned())
        };
        if let Some((event, timer)) = self.decide_retry(id, op, attempt, Err(failure), heartbeat) {
            self.outcome(id, event, None, |append| append.timers.extend(timer));
        }
    }
}
