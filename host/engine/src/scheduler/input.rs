//! What a scheduler is told, and what it answers.

use std::sync::Arc;

use backstitch_core::{Failure, Json, Op, RunId, Scope, StartOptions, TaskLease, TaskToken};
use backstitch_ledger::{ClaimedRun, DueTimer, Head, InboxItem};
use backstitch_sandbox::WorkflowProgram;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::guests::Activated;
use crate::identity::Facts;
use crate::loaded::Loaded;

/// Inputs that may wait for the scheduler; senders wait for room.
const INPUTS_WAITING_MAX: usize = 4_096;

/// Held by whoever works on a part of a batch; the batch's source goes on when all are dropped.
pub type Guard = mpsc::Sender<()>;

/// Something that the scheduler has to decide on.
pub enum Input {
    /// A client starts a run.
    Start(Start),
    /// An activation ended.
    Activated(Activated),
    /// An attempt of an in-host activity ended.
    Attempted {
        /// The run.
        run: RunId,
        /// The call.
        op: Op,
        /// Which attempt.
        attempt: u32,
        /// How it ended.
        end: AttemptEnd,
    },
    /// An attempt of an in-host activity leaves its call to be answered later.
    Defer(Deferring),
    /// A worker outside has carried out a task.
    Settle(Settle),
    /// Workers have tasks of runs of this host, which they took from the database.
    Leased(Vec<TaskToken>),
    /// Runs of this host that seem to lack timers of these ops.
    Lacking(Vec<(RunId, Vec<Op>)>),
    /// What became of a message to another run.
    Delivered {
        /// The run that sent it.
        run: RunId,
        /// The command.
        op: Op,
        /// What its guest hears.
        outcome: Result<(), Failure>,
    },
    /// A run's ledger was read.
    Loaded(Box<Loaded>),
    /// Timers of runs of this host are due.
    Timers(Vec<DueTimer>, Guard),
    /// Messages for runs of this host.
    Inbox(Vec<InboxItem>, Guard),
    /// Runs that this host owns from now on.
    Claimed(Vec<ClaimedRun>, Guard),
    /// These runs are not in the database any more as this host knows them: their ledgers do not have these ends.
    Lost(Vec<(RunId, Head)>),
    /// These messages were consumed, and are there again.
    Reappeared(Vec<(RunId, Uuid)>),
    /// Something became of a trial.
    Trial(Trial, TrialStep),
    /// There is something to note about runs that went on.
    NoteProgress,
    /// No more work: answer when nothing is on its way any more.
    Drain(oneshot::Sender<()>),
}

/// A run to be started.
pub struct Start {
    /// All but the time of the start.
    pub facts: Facts,
    /// On which terms.
    pub options: Arc<StartOptions>,
    /// The code, loaded.
    pub program: WorkflowProgram,
    /// The input.
    pub input: Json,
    /// When it was started, in milliseconds since the epoch; none if its workflow id is taken.
    pub reply: oneshot::Sender<Started>,
}

/// A task that was carried out.
pub struct Settle {
    /// Whose it is to whoever answers.
    pub scope: Scope,
    /// Which.
    pub token: TaskToken,
    /// What the guest gets. None: the answer is one for the database; what is on its way here comes before it.
    pub output: Option<Json>,
    /// What is known here.
    pub reply: oneshot::Sender<Settlement>,
}

/// What a scheduler says of an answer to a task.
pub enum Settlement {
    /// Its row is committed.
    Done,
    /// Another answer under that lease is on its way to the ledger: when this ends, ask the database.
    Later(CancellationToken),
    /// Nothing is known here of that lease: ask the database.
    Elsewhere,
}

/// How an attempt on this host ended.
pub enum AttemptEnd {
    /// With an outcome.
    Outcome(Result<Json, Failure>),
    /// Its call is held under this lease, and whatever came of the attempt is with the task, in the database.
    Held(TaskLease),
}

/// A call that is to be held.
pub struct Deferring {
    /// The run.
    pub run: RunId,
    /// The call.
    pub op: Op,
    /// Which attempt asks for it.
    pub attempt: u32,
    /// When that attempt is over by the word of the call itself, in milliseconds since the epoch.
    pub until_ms: Option<u64>,
    /// What its last heartbeat has said.
    pub heartbeat: Option<Json>,
    /// The token, once it is valid. Dropped: nobody waits for an outcome.
    pub reply: oneshot::Sender<TaskToken>,
}

/// Answer to a [`Start`]; the error is a mistake of ours.
pub(super) type Started = Result<Option<u64>, String>;

/// Where inputs go.
pub type Inputs = mpsc::Sender<Input>;

/// The channel of inputs.
pub fn channel() -> (Inputs, mpsc::Receiver<Input>) {
    mpsc::channel(INPUTS_WAITING_MAX)
}

/// What is on trial: a run's guest, or the attempt of one of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub(super) run: RunId,
    pub(super) op: Option<Op>,
}

/// What becomes of a trial.
pub enum TrialStep {
    /// The database knows of it, if it can begin.
    Begun(bool),
    /// It has taken so long that it has killed nobody.
    Outlived,
    /// The database knows that it is over. Whether the run went on.
    Noted(bool),
}

/// How a task ended.
pub(super) struct Ended {
    /// The call.
    pub(super) op: Op,
    /// Which attempt, 1 for the first.
    pub(super) attempt: u32,
    /// What it gave.
    pub(super) outcome: Result<Json, Failure>,
    /// What its last heartbeat said.
    pub(super) heartbeat: Option<Json>,
}
