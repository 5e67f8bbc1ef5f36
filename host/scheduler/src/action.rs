//! What a scheduler wants done. Its driver carries the actions out in their order; an answer comes back as an input.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::matcher::Queue;
use backstitch_core::{Digest, Json, Op, RunId, Scope, TaskToken};
use backstitch_ledger::{Head, Item, Loss, NewItem, NewTask};
use uuid::Uuid;

use crate::env::Env;
use crate::identity::RunIdentity;
use crate::input::{Settlement, Started, Trial, Wake};
use crate::job::{ActivationId, Job};
use crate::loaded::Wanted;

/// See the module. Beside each, the input by which it is answered, if it is.
#[expect(
    clippy::large_enum_variant,
    reason = "appends are the largest and the most frequent: each would cost an allocation"
)]
pub enum Action<E: Env> {
    /// To the writer, in this order. [`Input::Acknowledged`](crate::Input)
    Append(Item),
    /// To a guest thread. [`Input::Activated`](crate::Input)
    Activate(Job<E>),
    /// Nobody waits for this activation any more: its guest may be dropped on its way.
    AbandonActivation(RunId, ActivationId),
    /// An attempt of an activity on this host. [`Input::AttemptEnded`](crate::Input), [`Input::PlacesFree`](crate::Input)
    StartAttempt(NewAttempt),
    /// An attempt on this host is not waited for any more. It gives its place back when it is gone.
    StopAttempt(RunId, Op, StopAttempt),
    /// A task is committed: to the worker whose poll was reserved.
    Deliver(E::Reservation, Box<RemoteAttempt>),
    /// A task of this activity waits in the database: workers hear of it.
    Offered(Queue, Arc<str>),
    /// A component may serve calls that wait for remote workers: whoever looks after them looks.
    Served,
    /// A start has an answer.
    Started(E::Reply<Started>, Started),
    /// An answer to a task has one.
    Settled(E::Reply<Settlement>, Settlement),
    /// A call is completed by others: its attempt may give the token away.
    Deferred(E::Reply<TaskToken>, TaskToken),
    /// Read a run, if it is open and this host's. [`Input::Loaded`](crate::Input)
    Read {
        /// The run.
        run: RunId,
        /// Comes back.
        number: u64,
        /// Its code, if it is in memory.
        program: Option<E::Program>,
    },
    /// Read runs that were claimed. [`Input::Loaded`](crate::Input) for each.
    ReadClaimed(Vec<Wanted>, E::Batch),
    /// Read a run that is to be closed without its component, if that takes long. [`Input::Loaded`](crate::Input), the first
    /// of several answers to one number counts.
    ReadToClose {
        /// The run.
        run: RunId,
        /// Comes back.
        number: u64,
    },
    /// Which run has this workflow id? [`Input::Found`](crate::Input)
    FindRun {
        /// Whose command asks.
        from: (RunId, Op),
        /// Where to look.
        scope: Scope,
        /// The name.
        workflow_id: Arc<str>,
    },
    /// Which run came after this one? [`Input::Found`](crate::Input)
    FindSuccessor {
        /// Whose command asks.
        from: (RunId, Op),
        /// The run that has continued as new.
        of: RunId,
    },
    /// Put a message into the inbox of a run. [`Input::Posted`](crate::Input)
    Post {
        /// Whose command it is.
        from: (RunId, Op),
        /// Where both live.
        scope: Scope,
        /// The message.
        item: NewItem,
    },
    /// Which of these ledgers do not end so, or are another host's? [`Input::Lost`](crate::Input), if any.
    CompareHeads(Vec<(RunId, Head)>),
    /// Which of these messages are there? [`Input::Reappeared`](crate::Input), if any.
    CompareConsumed(Vec<(RunId, Uuid)>),
    /// Write down that the database has lost rows.
    NoteLoss(Scope, Loss),
    /// Have the database know of a trial. [`Input::TrialBegun`](crate::Input)
    BeginTrial(Trial),
    /// Have the database know that it is over; whether the run went on. [`Input::TrialEnded`](crate::Input)
    EndTrial(Trial, bool),
    /// Write down which runs were replayed, and which went on.
    NoteProgress(Vec<RunId>, Vec<RunId>),
    /// Remind the scheduler when so much time has passed. [`Input::Woken`](crate::Input)
    Wake(Duration, Wake),
    /// There may be messages in the inbox.
    ReadInbox,
    /// A timer may be due at this time, in milliseconds since the epoch.
    TimerDue(u64),
    /// A run was closed or parked: who waits for its result looks.
    Closed(RunId),
    /// Nothing is on its way any more.
    Drained(E::Reply<()>),
}

/// How an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAttempt {
    /// Here and now.
    Abort,
    /// By its next heartbeat, so that it can put away what it has in hand; here and now if it has none.
    RequestCancel,
    /// Its call was completed by others, to whom it had left it: it comes to its end by itself, and hears of it.
    Superseded,
}

/// An attempt on this host that is to begin.
#[derive(Clone, Debug)]
pub struct NewAttempt {
    /// The run.
    pub identity: Arc<RunIdentity>,
    /// The call.
    pub op: Op,
    /// Which attempt, 1 for the first.
    pub attempt: u32,
    /// The activity.
    pub name: Arc<str>,
    /// The component that serves it.
    pub digest: Digest,
    /// Its arguments.
    pub input: Json,
    /// What the last heartbeat of those before said.
    pub heartbeat: Option<Json>,
    /// When it began, and when its time is over.
    pub bounds: AttemptBounds,
    /// When it is over by the word of the call itself, in milliseconds since the epoch.
    pub until_ms: Option<u64>,
}

/// The bounds of an attempt: times in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptBounds {
    /// When it begins.
    pub now_ms: u64,
    /// Of this attempt.
    pub deadline_ms: u64,
    /// Of the whole call, if it has one.
    pub close_by_ms: Option<u64>,
    /// How long it may be silent, in milliseconds.
    pub heartbeat_ms: Option<u64>,
}

/// An attempt that a remote worker makes.
#[derive(Clone, Debug)]
pub struct RemoteAttempt {
    /// The run.
    pub identity: Arc<RunIdentity>,
    /// What the worker shows.
    pub token: TaskToken,
    /// Its row.
    pub task: NewTask,
    /// Its arguments.
    pub input: Json,
    /// What the last heartbeat of those before said.
    pub heartbeat: Option<Json>,
    /// When it was recorded, in milliseconds since the epoch.
    pub now_ms: u64,
}
