//! A run as it was read from the database.

use std::sync::Arc;

use backstitch_core::{Fault, Op, Run, RunId};
use backstitch_ledger::ClaimedRun;
use backstitch_sandbox::WorkflowProgram;

use crate::derived::Derived;
use crate::guests::Ahead;
use crate::identity::Facts;
use crate::room::Held;

/// A run that is wanted.
#[derive(Clone)]
pub struct Wanted {
    /// As it was claimed.
    pub run: ClaimedRun,
    /// Which read of it this is: comes back in [`Loaded`].
    pub number: u64,
}

/// What reading a run gave.
pub struct Loaded {
    /// The run.
    pub run: RunId,
    /// Which read of it this was.
    pub number: u64,
    /// None: it does not exist, is closed, or belongs to another host.
    pub result: Option<LoadedRun>,
}

/// A run as the database has it.
pub struct LoadedRun {
    /// What does not change about it.
    pub facts: Facts,
    /// The code it is pinned to, or why that cannot be loaded.
    pub program: Result<WorkflowProgram, Fault>,
    /// Whether it is parked.
    pub parked: bool,
    /// Its ledger, or what is wrong with that.
    pub ledger: Ledgered,
    /// What stands beside it.
    pub derived: Derived,
    /// The room that its rows take.
    pub held: Arc<Held>,
    /// Hosts that were lost with it since it last went on.
    pub losses: u16,
    /// No host has led it along its ledger since it was claimed from one that died.
    pub unled: bool,
    /// The attempt of this call was on trial when its host died.
    pub lost_attempt: Option<Op>,
}

/// A ledger that was led along, with its events; or what is wrong with it.
pub type Ledgered = Result<(Run, Vec<Ahead>), Damaged>;

/// A ledger that is not what was written.
pub struct Damaged {
    /// What is wrong.
    pub fault: Fault,
    /// How many rows there are.
    pub rows: usize,
}
