//! What is kept of a speculative append: see `speculation`.

use std::collections::VecDeque;

use backstitch_core::RunId;
use backstitch_core::matcher::Moment;
use backstitch_ledger::Append;

use crate::env::Env;
use crate::waiting::Waiting;

/// A start or an outcome that its guest has already, and that is not sent.
pub(crate) struct Speculative<E: Env> {
    /// The start, or what ends with the outcome.
    pub(crate) append: Append,
    /// Who waits for its commit.
    pub(crate) waiting: Waiting<E>,
    /// When it goes without the guest.
    pub(crate) until: Moment,
}

/// Runs with a speculative append, and when that goes. Those that have gone before their time are here a little longer.
#[derive(Default)]
pub(crate) struct Deadlines(pub(crate) VecDeque<(RunId, Moment)>);

impl Deadlines {
    /// The first.
    pub(crate) fn first(&self) -> Option<Moment> {
        self.0.front().map(|(_, until)| *until)
    }

    /// Whether nothing is kept back.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
