//! What a scheduler is given: the handles that it keeps for others, and answers to questions that cannot wait.

use std::sync::Arc;

use backstitch_core::matcher::{Moment, Queue};
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Digest, Scope, Seed, TaskLease};
use uuid::Uuid;

/// The time of one step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// By a clock that never goes back.
    pub at: Moment,
    /// By the database's clock, in milliseconds since the epoch. May go back.
    pub ms: u64,
}

/// The host around a scheduler.
///
/// Its types are opaque: the scheduler moves them, and drops them. What dropping means is said beside each. Its methods
/// answer at once, from memory.
pub trait Env: Sized {
    /// The code of a workflow, loaded.
    type Program: Clone;
    /// A guest in memory. Dropped: its memory is free.
    type Guest;
    /// The room that a ledger takes which was read. Dropped: others may have it.
    type Room: Clone;
    /// A batch that somebody works on. The source of the batch goes on when all clones are dropped.
    type Batch: Clone;
    /// Who waits for an answer. Dropped: there will be none.
    type Reply<T>;
    /// A worker's poll that is reserved for a task. Dropped: it waits on.
    type Reservation;

    /// The component that serves a workflow now.
    fn workflow(&self, scope: Scope, name: &Arc<str>) -> Option<Digest>;
    /// The component that serves an activity now.
    fn activity(&self, scope: Scope, task_queue: &str, name: &str) -> Option<Digest>;
    /// The code of a component for a run that begins now, if it is in memory.
    fn program(&self, digest: Digest) -> Option<Self::Program>;
    /// A worker for a call that is about to be recorded, if one polls or is expected.
    fn reserve(&mut self, queue: &Queue, name: &str) -> Option<(Self::Reservation, LeaseGrant)>;
    /// Whether the host has its lease, as far as it knows: attempts may begin.
    fn has_lease(&self) -> bool;
    /// Whether hosts were lost of late: guests begin behind their first rows.
    fn is_cautious(&self) -> bool;
    /// Whether guests have more memory together than they may.
    fn is_short_of_memory(&self) -> bool;
    /// The identity of a message that is sent now. Later ones are larger.
    fn new_id(&mut self) -> Uuid;
    /// The lease of a task. Nobody can guess it.
    fn new_task_lease(&mut self) -> TaskLease;
    /// What a run draws its random numbers from. Nobody can guess it.
    fn new_seed(&mut self) -> Seed;
}
