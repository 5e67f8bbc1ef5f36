//! What has become of a schedule, and the changes that people make to it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::spec::{Overlap, Spec};
use crate::{limits, printable};

/// What has become of a schedule. Persisted: names are append-only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Set while nothing is started by the calendar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// Every nominal time up to this one has been dealt with, in milliseconds since the epoch.
    pub considered_ms: u64,
    /// Starts that the calendar has left; none: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_starts: Option<u64>,
    /// Runs that were open when last looked at, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<Running>,
    /// Times that wait for them to close, in the order in which they start.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    pub waiting: VecDeque<Waiting>,
    /// Backfills that are not finished.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    pub backfills: VecDeque<Backfill>,
    /// Runs that were started.
    pub started: u64,
    /// Times that had no run because another run was open.
    pub skipped: u64,
    /// Times that nobody was there for until it was too late.
    pub missed: u64,
    /// Starts that were refused, such as that of a workflow which nothing serves.
    pub failed: u64,
    /// The latest starts, oldest first.
    pub recent: VecDeque<Recent>,
}

/// Why nothing is started by the calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What was due up to then has its run all the same: it came before.
    pub through_ms: u64,
    /// Who paused it, and why.
    pub note: String,
}

/// A run that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What it is called.
    pub workflow_id: Arc<str>,
    /// Its nominal time, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What it was asked to do, to make room for another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
}

/// How a run is made to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// By a request.
    Cancel,
    /// Without being asked.
    Terminate,
}

/// A time that waits for a run to close.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The time, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What its run will be called.
    pub workflow_id: Arc<str>,
    /// Whether somebody asked for it: then it is started in a paused schedule too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
    /// What becomes of it when a run is open, if that has not been decided yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undecided: Option<Overlap>,
}

/// Nominal times of the past that shall have their runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// Times after this one, in milliseconds since the epoch.
    pub after_ms: u64,
    /// Up to this one.
    pub through_ms: u64,
    /// What becomes of them when a run is open.
    pub overlap: Overlap,
}

/// A start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// Its nominal time, in milliseconds since the epoch.
    pub at_ms: u64,
    /// When it was decided, in milliseconds since the epoch.
    pub started_ms: u64,
    /// What the run is called.
    pub workflow_id: Arc<str>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl State {
    /// That of a schedule which is made now: earlier times are not its own.
    pub fn new(spec: &Spec, now_ms: u64) -> Self {
        let remaining_starts = spec.policy.remaining_starts;
        Self { considered_ms: now_ms, remaining_starts, ..Self::default() }
    }

    /// Nothing is started by the calendar from `now_ms` on. One that is paused already gets the new note.
    pub fn pause(&mut self, now_ms: u64, mut note: String) {
        printable::cut(&mut note, limits::MESSAGE_BYTES_MAX);
        match &mut self.paused {
            Some(paused) => paused.note = note,
            None => self.paused = Some(Paused { at_ms: now_ms, through_ms: now_ms, note }),
        }
    }

    /// The calendar goes on. Times that came meanwhile have no run.
    pub fn resume(&mut self, now_ms: u64) {
        if self.paused.take().is_some() {
            self.considered_ms = self.considered_ms.max(now_ms);
        }
    }

    /// Asks for a run now; what it will be called. Several requests of one millisecond are told apart.
    pub fn trigger(&mut self, spec: &Spec, name: &str, now_ms: u64, overlap: Overlap) -> Arc<str> {
        let taken = |id: &Arc<str>| {
            let known = self.waiting.iter().map(|waiting| &waiting.workflow_id);
            let known = known.chain(self.running.iter().map(|run| &run.workflow_id));
            known.chain(self.recent.iter().map(|recent| &recent.workflow_id)).any(|known| known == id)
        };
        let named = |at_ms| -> (u64, Arc<str>) {
            (at_ms, format!("{}:trigger", spec.workflow_id(name, at_ms)).into())
        };
        let free = (now_ms..).map(named).find(|(_, id)| !taken(id));
        let (at_ms, workflow_id) = free.expect("of endless names, finitely many are taken");
        let id = Arc::clone(&workflow_id);
        self.waiting.push_back(Waiting { at_ms, workflow_id, asked: true, undecided: Some(overlap) });
        id
    }

    /// Notes that a start was refused for good.
    pub fn refused(&mut self, workflow_id: &str, mut error: String) {
        printable::cut(&mut error, limits::CODE_BYTES_MAX * 8);
        self.running.retain(|run| &*run.workflow_id != workflow_id);
        self.started -= 1;
        self.failed += 1;
        if let Some(recent) = self.recent.iter_mut().rfind(|recent| &*recent.workflow_id == workflow_id) {
            recent.error = Some(error);
        }
    }

    /// Goes over to another spec. `times` are those of the old calendar after [`State::considered_ms`], in order, up
    /// to the first that comes after `now_ms`; what was due until `settled_ms` has been dealt with.
    pub fn replace(
        &mut self,
        name: &str,
        (old, new): (&Spec, &Spec),
        times: &[u64],
        settled_ms: u64,
        now_ms: u64,
    ) {
        // Times that were nobody's, under other times or with no start left, are not made up for.
        if old.when != new.when || self.is_exhausted() {
            if !self.is_exhausted() {
                self.keep_promises(name, old, new.policy.overlap, times, (settled_ms, now_ms));
            }
            self.considered_ms = self.considered_ms.max(now_ms);
        }
        if old.policy.remaining_starts != new.policy.remaining_starts {
            self.remaining_starts = new.policy.remaining_starts;
        }
    }

    /// Times that have come, and whose starts only wait for their jitter to be over, are no longer the calendar's
    /// when it changes: each waits by itself, for the next check.
    fn keep_promises(
        &mut self,
        name: &str,
        old: &Spec,
        overlap: Overlap,
        times: &[u64],
        (settled_ms, now_ms): (u64, u64),
    ) {
        let through_ms = self.paused.as_ref().map_or(u64::MAX, |paused| paused.through_ms);
        for (index, at_ms) in times.iter().copied().enumerate().filter(|(_, at_ms)| *at_ms <= now_ms) {
            let due_ms = at_ms.saturating_add(old.jitter_ms(name, at_ms, times.get(index + 1).copied()));
            let is_promised = due_ms > settled_ms && due_ms <= through_ms;
            if is_promised && self.waiting.len() < limits::SCHEDULE_WAITING_MAX {
                let workflow_id = old.workflow_id(name, at_ms);
                let undecided = Some(overlap);
                self.waiting.push_back(Waiting { at_ms, workflow_id, asked: false, undecided });
            }
        }
    }

    /// Whether the calendar starts anything more, paused or not.
    pub fn is_exhausted(&self) -> bool {
        self.remaining_starts == Some(0)
    }
}
