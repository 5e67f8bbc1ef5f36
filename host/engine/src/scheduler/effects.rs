//! What one activation, or one ending, sets in motion when its append is committed.

use std::sync::Arc;

use backstitch_core::{Failure, Op, StartOptions, UnusedSignal};

use super::pending::Child;
use super::slot::Attempt;

/// What one activation, or one ending, adds to the append that carries it.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) children: Vec<Child>,
    pub(super) calls: Vec<Op>,
    pub(super) messages: Vec<Op>,
    /// Attempts that nobody waits for any more.
    pub(super) given_up: Vec<Attempt>,
    /// Children that could not be started, with the reason.
    pub(super) stillborn: Vec<(Op, Failure)>,
    /// Signals that the next run begins with, because this one closes without having had them.
    pub(super) unused: Vec<UnusedSignal>,
    /// On which terms the next run starts.
    pub(super) next: Option<Arc<StartOptions>>,
}
