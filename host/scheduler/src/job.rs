//! One activation, as it goes to a guest thread and comes back.

use std::sync::Arc;

use backstitch_core::{
    Attributes, Command, Event, Failure, Fault, Json, Op, ProjectionChanges, RunId, Seq, StartOptions,
    Status, UnusedSignal,
};

use crate::env::Env;
use crate::identity::RunIdentity;

/// Tells an activation from all others of a host, in all of its terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActivationId(pub u64);

/// A row that a guest has yet to be told of: committed, or part of a speculative append.
#[derive(Clone, Debug)]
pub struct PendingEvent {
    /// The row's place.
    pub seq: Seq,
    /// When it was recorded, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What it says.
    pub event: Event,
}

/// All that a guest is made of.
#[derive(Clone, Debug)]
pub struct Origin<P> {
    /// The run.
    pub identity: Arc<RunIdentity>,
    /// The code it is pinned to.
    pub program: P,
    /// Its input.
    pub input: Json,
    /// On which terms it was started.
    pub options: Arc<StartOptions>,
    /// When row 0 was recorded, in milliseconds since the epoch.
    pub started_at_ms: u64,
}

/// One activation to run.
pub enum Job<E: Env> {
    /// Of a guest that is not in memory.
    Begin {
        /// Comes back in [`Activated`].
        activation: ActivationId,
        /// What to make it of.
        origin: Origin<E::Program>,
        /// Its whole ledger, row 0 left out or not.
        events: Vec<PendingEvent>,
        /// Whether to go over it twice more and compare: see [`Check`].
        check: bool,
        /// The room that the rows take, if they were read: given back when the guest has replayed them.
        room: Option<E::Room>,
    },
    /// Of a guest that is.
    Resume {
        /// Comes back in [`Activated`].
        activation: ActivationId,
        /// The run.
        identity: Arc<RunIdentity>,
        /// The guest.
        guest: E::Guest,
        /// The outcomes that it has not had.
        events: Vec<PendingEvent>,
        /// Debug builds may go over everything again: see [`Check`].
        check: Option<Check<E::Program>>,
    },
}

impl<E: Env> Job<E> {
    /// The run, and which activation of it.
    pub fn key(&self) -> (RunId, ActivationId) {
        match self {
            Self::Begin { activation, origin, .. } => (origin.identity.run, *activation),
            Self::Resume { activation, identity, .. } => (identity.run, *activation),
        }
    }
}

/// What is needed to repeat a warm activation from nothing and to compare.
pub struct Check<P> {
    /// What to make the second guest of.
    pub origin: Origin<P>,
    /// The whole ledger, the events that are pending included.
    pub events: Vec<PendingEvent>,
}

/// What came of a job.
pub struct Activated<E: Env> {
    /// The run.
    pub run: RunId,
    /// Which of its activations.
    pub activation: ActivationId,
    /// The guest and what it did; or why it is gone.
    pub result: Result<ActivationResult<E::Guest>, ActivationError<E>>,
}

/// An activation that ended.
pub struct ActivationResult<G> {
    /// The guest, ready for the next one.
    pub guest: G,
    /// Commands that are new, in call order; each with whether the guest still waits for it.
    pub commands: Vec<(Op, Command, bool)>,
    /// How it ended.
    pub status: Status,
    /// What the commands change of what is known about the run.
    pub projection: ProjectionChanges,
    /// It replayed a ledger that was there.
    pub replayed: bool,
    /// First attempts of activities among the commands that were made already.
    pub inline: Vec<(Op, Result<Json, Failure>)>,
    /// What the next run begins with, if it continues as new.
    pub next: Option<Next>,
}

/// What a guest that continues as new leaves to the next run.
#[derive(Clone, Debug, Default)]
pub struct Next {
    /// Signals that it has not had, in ledger order.
    pub unused: Vec<UnusedSignal>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its entity, unless that is empty.
    pub entity: Option<Json>,
}

/// Why there is no guest any more.
pub enum ActivationError<E: Env> {
    /// It broke a rule, a bound or its promise.
    Fault(Fault),
    /// It was abandoned: nothing of it is left.
    Abandoned,
    /// Every slot for instances was taken: the job comes back.
    NoRoom(Box<Job<E>>),
}
