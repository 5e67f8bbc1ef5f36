//! What a scheduler is told.

use std::sync::Arc;

use backstitch_core::{Failure, Json, Op, RunId, Scope, StartOptions, TaskLease, TaskToken};
use backstitch_ledger::{Acks, ClaimedRun, DueTimer, Head, InboxItem, Posted};
use uuid::Uuid;

use crate::env::Env;
use crate::identity::RunIdentity;
use crate::job::Activated;
use crate::loaded::Loaded;

/// Something that the scheduler has to decide on.
pub enum Input<E: Env> {
    /// A client starts a run.
    Start(Start<E>),
    /// Appends have an answer. One that says [`Fenced`](backstitch_ledger::Outcome::Fenced) ends the term.
    Acknowledged(Acks),
    /// An activation ended.
    Activated(Activated<E>),
    /// An attempt of an in-host activity ended. Its place is free when [`Input::PlacesFree`] says so.
    AttemptEnded {
        /// The run.
        run: RunId,
        /// The call.
        op: Op,
        /// Which attempt.
        attempt: u32,
        /// What its last heartbeat said.
        heartbeat: Option<Json>,
        /// How it ended.
        end: AttemptEnd,
    },
    /// So many attempts on this host have given their places back.
    PlacesFree(usize),
    /// An attempt of an in-host activity leaves its call to be completed later.
    Defer(Deferring<E>),
    /// A remote worker has carried out a task.
    Settle(Settle<E>),
    /// Workers have tasks of runs of this host, which they took from the database.
    Leased(Vec<TaskToken>),
    /// Runs of this host that seem to lack timers of these ops.
    Lacking(Vec<(RunId, Vec<Op>)>),
    /// To whom a message goes: [`Action::FindRun`](crate::Action), [`Action::FindSuccessor`](crate::Action).
    Found {
        /// Whose command it is, and which.
        from: (RunId, Op),
        /// The run; none: there is none.
        to: Option<RunId>,
    },
    /// What became of a message: [`Action::Post`](crate::Action).
    Posted {
        /// Whose command it is, and which.
        from: (RunId, Op),
        /// Whom it was sent to.
        to: RunId,
        /// What the database said.
        posted: Posted,
    },
    /// A run's ledger was read.
    Loaded(Box<Loaded<E>>),
    /// Timers of runs of this host are due.
    Timers(Vec<DueTimer>, E::Batch),
    /// Messages for runs of this host.
    Inbox(Vec<InboxItem>, E::Batch),
    /// These messages cannot be read.
    Unreadable(Vec<Uuid>),
    /// Runs that this host owns from now on.
    Claimed(Vec<ClaimedRun>, E::Batch),
    /// The writer has a new connection: the database may be another one, or have lost its last commits.
    Reconnected,
    /// These runs are not in the database any more as this host knows them: their ledgers do not have these ends.
    Lost(Vec<(RunId, Head)>),
    /// These messages were consumed, and are there again.
    Reappeared(Vec<(RunId, Uuid)>),
    /// The database knows of a trial; false: it cannot begin.
    TrialBegun(Trial, bool),
    /// The database knows that a trial is over. Whether the run went on.
    TrialEnded(Trial, bool),
    /// What [`Action::Wake`](crate::Action) asked for.
    Woken(Wake),
    /// Guests have more memory together than they may.
    ShortOfMemory,
    /// Nothing happened but time, or the host has its lease again.
    Tick,
    /// No more work: answer when nothing is on its way any more.
    Drain(E::Reply<()>),
}

/// A run to be started.
pub struct Start<E: Env> {
    /// All but the time of the start.
    pub identity: RunIdentity,
    /// On which terms.
    pub options: Arc<StartOptions>,
    /// The code, loaded.
    pub program: E::Program,
    /// The input.
    pub input: Json,
    /// Who waits for it.
    pub reply: E::Reply<Started>,
}

/// Answer to a [`Start`]: when it was started, in milliseconds since the epoch; none if its workflow id is taken. The
/// error is a mistake of ours.
pub type Started = Result<Option<u64>, String>;

/// A task that was carried out.
pub struct Settle<E: Env> {
    /// Whose it is to whoever answers.
    pub scope: Scope,
    /// Which.
    pub token: TaskToken,
    /// What the guest gets. None: the answer is one for the database; what is on its way here comes before it.
    pub output: Option<Json>,
    /// What is known here.
    pub reply: E::Reply<Settlement>,
}

/// What a scheduler says of an answer to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Its row is committed.
    Done,
    /// Nothing is known here of that lease, or what was on its way under it has ended: ask the database.
    Elsewhere,
}

/// How an attempt on this host ended.
#[derive(Clone, Debug)]
pub enum AttemptEnd {
    /// With an outcome.
    Outcome(Result<Json, Failure>),
    /// Its call is completed by others under this lease, and whatever came of the attempt is with the task, in the database.
    Deferred(TaskLease),
}

/// A call that is to be completed by others.
pub struct Deferring<E: Env> {
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
    /// Gets the token, once it is valid. Dropped: nobody waits for an outcome.
    pub reply: E::Reply<TaskToken>,
}

/// What is on trial: a run's guest, or the attempt of one of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The run.
    pub run: RunId,
    /// The call; none: the guest.
    pub op: Option<Op>,
}

/// What a scheduler wants to be reminded of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The host has lived for long enough to put runs on trial.
    TrialMayBegin(Trial),
    /// A trial could not begin, and nobody has said why.
    TrialIsGone(Trial),
    /// The trial of that number has taken so long that it has killed nobody.
    TrialOutlived(u64),
    /// There is something to note about runs that went on.
    NoteProgress,
    /// The inbox of the receiver was full: once more.
    PostAgain((RunId, Op), RunId),
}

/// How a task ended.
pub(crate) struct Ended {
    /// The call.
    pub(crate) op: Op,
    /// Which attempt, 1 for the first.
    pub(crate) attempt: u32,
    /// What it gave.
    pub(crate) outcome: Result<Json, Failure>,
    /// What its last heartbeat said.
    pub(crate) heartbeat: Option<Json>,
}
