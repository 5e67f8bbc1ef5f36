//! What is known of a remote worker, and who waits for answers.

use backstitch_core::matcher::{Answered, Backlog, PollerId};
use backstitch_core::{Json, RunId};

use super::env::Task;

/// A worker.
#[derive(Default)]
pub(super) struct Worker {
    /// Counts its polls.
    pub(super) polls: u64,
    /// The poll under way.
    pub(super) polling: Option<Polling>,
}

/// A poll of a worker.
#[derive(Clone, Copy)]
pub(super) struct Polling {
    pub(super) poll: u64,
    pub(super) host: usize,
    pub(super) epoch: u64,
    pub(super) poller: PollerId,
    pub(super) until_us: u64,
    pub(super) backlog: Backlog,
    /// For how many tasks it looks in the database.
    pub(super) limit: u32,
}

/// A host, and which term of it.
pub(super) type Asked = (usize, u64);

/// Who waits for an answer of a scheduler.
pub(super) enum Answering {
    /// A client, for its run.
    Start { run: RunId, asked: Asked },
    /// A worker, for what it has done.
    Settle { asked: Asked, task: Task, output: Option<Json>, answered: Option<Answered> },
    /// An attempt, for its token.
    Defer,
    /// An operator, for a host that is to stop.
    Stop { asked: Asked },
}
