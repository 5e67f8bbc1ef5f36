//! Which trials there are, and what is to be noted of runs that need none: see `trials`.

use std::collections::VecDeque;
use std::time::Duration;

use backstitch_core::{Op, RunId, limits};
use tokio::time::Instant;

use super::input::Trial;

/// Where the trial is that there is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The database is about to know of it.
    Asked,
    /// What is on trial goes on.
    Open,
    /// The database is about to know that it is over.
    Ending,
}

/// Trials, and what is to be noted of runs that need none.
pub(super) struct Trials {
    pub(super) not_before: Instant,
    pub(super) waiting: VecDeque<Trial>,
    pub(super) now: Option<(Trial, Stage)>,
    /// Runs that were led along their ledgers.
    pub(super) led: Vec<RunId>,
    /// Runs that went on.
    pub(super) went_on: Vec<RunId>,
    /// Somebody comes for them.
    pub(super) is_awaited: bool,
}

impl Trials {
    pub(super) fn new() -> Self {
        Self {
            not_before: Instant::now() + Duration::from_millis(limits::TRIALS_AFTER_MS),
            waiting: VecDeque::new(),
            now: None,
            led: Vec::new(),
            went_on: Vec::new(),
            is_awaited: false,
        }
    }

    pub(super) fn is_on(&self, run: RunId, op: Option<Op>) -> bool {
        self.now == Some((Trial { run, op }, Stage::Open))
    }
}
