//! What one activation, or one ending, sets in motion when its append is committed.

use backstitch_core::{Failure, HeardId, Op};

use crate::in_flight::NewRunInFlight;
use crate::job::Next;
use crate::slot::Attempt;

/// See the module.
#[derive(Default)]
pub(crate) struct OnCommit {
    pub(crate) children: Vec<NewRunInFlight>,
    pub(crate) calls: Vec<Op>,
    pub(crate) messages: Vec<Op>,
    /// Attempts that nobody waits for any more.
    pub(crate) abandoned: Vec<(Op, Attempt)>,
    /// Children that could not be started, with the reason.
    pub(crate) rejected: Vec<(Op, Failure)>,
    /// What the next run begins with, and the ids of the messages that this one has heard, the latest last.
    pub(crate) next: Option<(Next, Vec<HeardId>)>,
}
