//! Which trials there are, and what is to be noted of runs that need none: see `trials`.

use std::collections::VecDeque;
use std::time::Duration;

use backstitch_core::matcher::Moment;
use backstitch_core::{Op, RunId, limits};

use crate::input::Trial;

/// Where the trial is that there is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The database is about to know of it.
    Asked,
    /// What is on trial goes on.
    Open,
    /// The database is about to know that it is over.
    Ending,
}

/// Trials, and what is to be noted of runs that need none.
pub(crate) struct Trials {
    pub(crate) not_before: Moment,
    pub(crate) waiting: VecDeque<Trial>,
    pub(crate) now: Option<(Trial, Stage)>,
    /// Counts those that there were.
    pub(crate) number: u64,
    /// Runs that were replayed.
    pub(crate) replayed: Vec<RunId>,
    /// Runs that went on.
    pub(crate) went_on: Vec<RunId>,
    /// Somebody comes for them.
    pub(crate) is_awaited: bool,
}

impl Trials {
    pub(crate) fn new(began: Moment) -> Self {
        Self {
            not_before: began + Duration::from_millis(limits::TRIALS_AFTER_MS),
            waiting: VecDeque::new(),
            now: None,
            number: 0,
            replayed: Vec::new(),
            went_on: Vec::new(),
            is_awaited: false,
        }
    }

    pub(crate) fn is_on(&self, run: RunId, op: Option<Op>) -> bool {
        self.now == Some((Trial { run, op }, Stage::Open))
    }
}
