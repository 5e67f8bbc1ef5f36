//! What a check of a schedule leads to. The order matters: runs that closed make room, then what waits
//! takes it, then what somebody asked for, then the calendar, then backfills.
//!
//! | a time whose policy is … | no run open, nobody waits | otherwise |
//! |---|---|---|
//! | `allow-all` | starts | starts |
//! | `skip` | starts | is skipped |
//! | `buffer-one` | starts | waits if nobody does, else is skipped |
//! | `buffer-all` | starts | waits; skipped if too many do |
//! | `cancel-other`, `terminate-other` | starts | stops what is open, waits; whoever waited is skipped |
//!
//! Actions are carried out before the new state is written, and again if it never is. That is harmless:
//! a run is named by its nominal time and a run that closes takes no second request.

use std::sync::Arc;

use super::spec::{Overlap, Spec};
use super::state::{Paused, Recent, Running, State, Stop, Waiting};
use crate::limits;

/// What is to be done before the new state is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the run of a nominal time.
    Start {
        /// The time, in milliseconds since the epoch.
        at_ms: u64,
        /// What the run is called.
        workflow_id: Arc<str>,
    },
    /// Make an open run close.
    Stop {
        /// Which.
        workflow_id: Arc<str>,
        /// How.
        how: Stop,
    },
}

/// A run that is not open any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// What it is called.
    pub workflow_id: Arc<str>,
    /// Whether it failed or timed out.
    pub failed: bool,
}

/// Nominal times in their order, in milliseconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The times. If there are more, the last one only says when the next check is worth it.
    pub ms: Vec<u64>,
    /// Whether there are more.
    pub more: bool,
}

/// What is known at a check.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// The schedule.
    pub name: &'a str,
    /// The time, in milliseconds since the epoch.
    pub now_ms: u64,
    /// Those of [`State::running`] that have closed.
    pub closed: &'a [Closing],
    /// The times after [`State::considered_ms`].
    pub calendar: &'a Times,
    /// The times of the first of [`State::backfills`]; none of them is left out at its end.
    pub backfill: &'a Times,
}

/// What a check leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// To be carried out first, in any order.
    pub actions: Vec<Action>,
    /// To be written then.
    pub state: State,
    /// When to look again, in milliseconds since the epoch; none: when somebody changes the schedule.
    pub due_ms: Option<u64>,
}

/// Decides.
pub fn decide(spec: &Spec, state: &State, snapshot: &Snapshot<'_>) -> Decision {
    let mut decider = Decider { spec, snapshot, state: state.clone(), actions: Vec::new(), starts: 0 };
    decider.close();
    decider.go_on_waiting();
    decider.answer_requests();
    let calendar = decider.go_by_the_calendar();
    let backfill = decider.backfill();
    let waiting = decider.waiting_due();
    let due_ms = [calendar, backfill, waiting].into_iter().flatten().min();
    Decision { actions: decider.actions, state: decider.state, due_ms }
}

/// A decision in the making.
struct Decider<'a> {
    spec: &'a Spec,
    snapshot: &'a Snapshot<'a>,
    state: State,
    actions: Vec<Action>,
    starts: usize,
}

/// A time that is dealt with.
struct Taken {
    at_ms: u64,
    workflow_id: Arc<str>,
    asked: bool,
}

impl Decider<'_> {
    fn close(&mut self) {
        let closed = |id: &Arc<str>| self.snapshot.closed.iter().find(|closing| closing.workflow_id == *id);
        let failed = self
            .state
            .running
            .iter()
            .find(|run| closed(&run.workflow_id).is_some_and(|closing| closing.failed))
            .map(|run| Arc::clone(&run.workflow_id));
        self.state.running.retain(|run| closed(&run.workflow_id).is_none());
        if let Some(failed) = failed.filter(|_| self.spec.policy.pause_on_failure)
            && self.state.paused.is_none()
        {
            // No time that has not been dealt with comes before the failure.
            let (at_ms, through_ms) = (self.snapshot.now_ms, self.state.considered_ms);
            let note = format!("the run {failed} failed");
            self.state.paused = Some(Paused { at_ms, through_ms, note });
        }
        self.drop_exhausted();
    }

    /// The first that may start does, if nothing is open.
    fn go_on_waiting(&mut self) {
        let may_start = |waiting: &Waiting| waiting.undecided.is_none();
        if !self.state.running.is_empty() {
            return;
        }
        let paused = self.state.paused.is_some();
        let first =
            self.state.waiting.iter().position(|waiting| may_start(waiting) && (waiting.asked || !paused));
        if let Some(Waiting { at_ms, workflow_id, asked, .. }) =
            first.and_then(|first| self.state.waiting.remove(first))
        {
            self.start(Taken { at_ms, workflow_id, asked });
        }
    }

    /// Decides about the requests that have come in since the last check, and the times of a calendar before this one.
    fn answer_requests(&mut self) {
        let all = std::mem::take(&mut self.state.waiting).into_iter();
        let (requests, waiting): (Vec<_>, Vec<_>) = all.partition(|waiting| waiting.undecided.is_some());
        self.state.waiting = waiting.into();
        for Waiting { at_ms, workflow_id, asked, undecided } in requests {
            if !asked && self.state.is_exhausted() {
                self.state.skipped += 1;
                continue;
            }
            self.take(Taken { at_ms, workflow_id, asked }, undecided.unwrap_or_default());
        }
    }

    /// Deals with the nominal times that have come; when the next one does.
    fn go_by_the_calendar(&mut self) -> Option<u64> {
        let Times { ms: times, more } = self.snapshot.calendar;
        let through_ms = self.state.paused.as_ref().map_or(u64::MAX, |paused| paused.through_ms);
        for (index, at_ms) in times.iter().copied().enumerate() {
            if self.state.is_exhausted() {
                return None;
            }
            let next_ms = times.get(index + 1).copied();
            if *more && next_ms.is_none() || self.starts >= limits::SCHEDULE_STARTS_MAX {
                return (at_ms <= through_ms).then_some(at_ms);
            }
            let due_ms = at_ms.saturating_add(self.spec.jitter_ms(self.snapshot.name, at_ms, next_ms));
            if due_ms > through_ms {
                return None;
            }
            if due_ms > self.snapshot.now_ms {
                return Some(due_ms);
            }
            self.state.considered_ms = at_ms;
            if self.snapshot.now_ms - due_ms > self.spec.catch_up_ms() {
                self.state.missed += 1;
                continue;
            }
            let workflow_id = self.spec.workflow_id(self.snapshot.name, at_ms);
            self.take(Taken { at_ms, workflow_id, asked: false }, self.spec.policy.overlap);
        }
        None
    }

    /// Deals with the times of the first backfill; when to go on with it.
    fn backfill(&mut self) -> Option<u64> {
        let Times { ms: times, more } = self.snapshot.backfill;
        let mut backfill = self.state.backfills.pop_front()?;
        for at_ms in times.iter().copied() {
            let waits = backfill.overlap == Overlap::BufferAll
                && self.state.waiting.len() >= limits::SCHEDULE_WAITING_MAX;
            if waits || self.starts >= limits::SCHEDULE_STARTS_MAX {
                self.state.backfills.push_front(backfill);
                return Some(self.snapshot.now_ms + if waits { limits::SCHEDULE_CHECK_MS } else { 0 });
            }
            let workflow_id = self.spec.workflow_id(self.snapshot.name, at_ms);
            self.take(Taken { at_ms, workflow_id, asked: true }, backfill.overlap);
            backfill.after_ms = at_ms;
        }
        if *more {
            self.state.backfills.push_front(backfill);
        }
        (!self.state.backfills.is_empty()).then_some(self.snapshot.now_ms)
    }

    /// When to look again on behalf of those that wait.
    fn waiting_due(&self) -> Option<u64> {
        let paused = self.state.paused.is_some();
        let waits = self.state.waiting.iter().any(|waiting| waiting.asked || !paused);
        let wait_ms = if self.state.running.is_empty() { 0 } else { limits::SCHEDULE_CHECK_MS };
        waits.then_some(self.snapshot.now_ms + wait_ms)
    }

    fn take(&mut self, taken: Taken, overlap: Overlap) {
        let waiting = self.state.waiting.len();
        let is_free = self.state.running.is_empty() && waiting == 0;
        match overlap {
            Overlap::AllowAll => self.start(taken),
            _ if is_free => self.start(taken),
            Overlap::BufferOne if waiting == 0 => self.wait(taken),
            Overlap::BufferAll if waiting < limits::SCHEDULE_WAITING_MAX => self.wait(taken),
            Overlap::Skip | Overlap::BufferOne | Overlap::BufferAll => self.state.skipped += 1,
            Overlap::CancelOther => self.stop_others(taken, Stop::Cancel),
            Overlap::TerminateOther => self.stop_others(taken, Stop::Terminate),
        }
    }

    fn start(&mut self, Taken { at_ms, workflow_id, asked }: Taken) {
        if !asked && let Some(left) = &mut self.state.remaining_starts {
            *left = left.saturating_sub(1);
        }
        let state = &mut self.state;
        state.started += 1;
        state.running.push(Running { workflow_id: Arc::clone(&workflow_id), at_ms, stop: None });
        if state.running.len() > limits::SCHEDULE_RUNNING_MAX {
            state.running.remove(0);
        }
        let started_ms = self.snapshot.now_ms;
        state.recent.push_back(Recent {
            at_ms,
            started_ms,
            workflow_id: Arc::clone(&workflow_id),
            error: None,
        });
        if state.recent.len() > limits::SCHEDULE_RECENT_MAX {
            state.recent.pop_front();
        }
        self.starts += 1;
        self.actions.push(Action::Start { at_ms, workflow_id });
        self.drop_exhausted();
    }

    fn wait(&mut self, Taken { at_ms, workflow_id, asked }: Taken) {
        self.state.waiting.push_back(Waiting { at_ms, workflow_id, asked, undecided: None });
    }

    fn stop_others(&mut self, taken: Taken, how: Stop) {
        self.state.skipped += self.state.waiting.len() as u64;
        self.state.waiting.clear();
        for run in &mut self.state.running {
            if run.stop < Some(how) {
                run.stop = Some(how);
                self.actions.push(Action::Stop { workflow_id: Arc::clone(&run.workflow_id), how });
            }
        }
        self.wait(taken);
    }

    /// The calendar's last start leaves nothing behind that would be one more.
    fn drop_exhausted(&mut self) {
        if self.state.is_exhausted() {
            let before = self.state.waiting.len();
            self.state.waiting.retain(|waiting| waiting.asked);
            self.state.skipped += (before - self.state.waiting.len()) as u64;
        }
    }
}
