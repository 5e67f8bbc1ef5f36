//! What a scheduler remembers of what it waits for: appends that are on their way, and runs that are being read.

use std::sync::Arc;

use backstitch_core::matcher::Queue;
use backstitch_core::{Json, Op, Run, RunId, Seq, TaskToken};
use backstitch_ledger::{DueTimer, Head, InboxItem};
use uuid::Uuid;

use crate::action::RemoteAttempt;
use crate::env::Env;
use crate::identity::RunIdentity;
use crate::job::PendingEvent;
use crate::slot::Attempt;
use crate::waiting::Waiting;

/// Something that waits for a run to be read.
pub(crate) enum Arrival {
    Timer(DueTimer),
    Message(InboxItem),
}

/// A run that is being read, and what has come for it meanwhile.
#[derive(Default)]
pub(crate) struct Loading {
    pub(crate) arrivals: Vec<Arrival>,
    /// More has come, which is still in the database.
    pub(crate) left_out: bool,
}

/// A read of a run that is under way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reading {
    pub(crate) number: u64,
    /// The run has written since it was begun.
    pub(crate) has_written: bool,
    /// The run was claimed, and has not been read since.
    pub(crate) is_claim: bool,
}

/// An append on its way, and what is done when it is acknowledged.
pub(crate) struct InFlight<E: Env> {
    pub(crate) run: RunId,
    /// Rows of the run below this are committed then.
    pub(crate) upto: Seq,
    /// Runs that the append starts.
    pub(crate) children: Vec<NewRunInFlight>,
    /// Messages that the append sends.
    pub(crate) posted: Vec<InboxItem>,
    /// Commands of the append whose messages are sent as soon as it is committed.
    pub(crate) messages: Vec<Op>,
    /// Messages that the append consumes.
    pub(crate) consumed: Vec<(RunId, Uuid)>,
    /// Messages that the run does not hear any more when it is committed, and that stay in its inbox.
    pub(crate) put_back: Vec<Uuid>,
    /// Tasks that the append offers.
    pub(crate) offers: Vec<Offer<E>>,
    /// Calls whose first attempts on this host begin then, for their guest ran ahead of its ledger.
    pub(crate) calls: Vec<Op>,
    /// Attempts that are told then that nobody waits for them.
    pub(crate) abandoned: Vec<(Op, Attempt)>,
    /// The attempt that waits until its call is left to others.
    pub(crate) deferred: Option<(TaskToken, E::Reply<TaskToken>)>,
    /// Who else waits.
    pub(crate) waiting: Waiting<E>,
    /// The run is closed or parked by the append: who waits for its result is told.
    pub(crate) closes: bool,
    /// The run could not be loaded, and is parked or closed by the append.
    pub(crate) unloads: bool,
    /// The run is not in memory; its ledger is read once the append is committed.
    pub(crate) then_load: bool,
    /// The run goes on: its timers were not looked for while it was parked or paused.
    pub(crate) goes_on: bool,
    /// When the first of the timers that the append sets is due: whoever looks for it earlier than the
    /// commit does not find it.
    pub(crate) due_ms: Option<u64>,
}

/// A run that an append starts: a child, or the next run of one that continues as new.
pub(crate) struct NewRunInFlight {
    pub(crate) identity: RunIdentity,
    pub(crate) run: Run,
    pub(crate) input: Json,
    /// What comes after row 0.
    pub(crate) events: Vec<PendingEvent>,
    /// The command of the parent that hears about it; none for a continuation.
    pub(crate) op: Option<Op>,
}

/// A call that was offered to remote workers, on its way to the ledger.
pub(crate) struct Offer<E: Env> {
    pub(crate) run: RunId,
    pub(crate) op: Op,
    pub(crate) queue: Queue,
    pub(crate) name: Arc<str>,
    /// The worker that it is reserved for, and what that gets.
    pub(crate) reserved: Option<(E::Reservation, Box<RemoteAttempt>)>,
}

/// A run that has left memory.
pub(crate) struct Left {
    pub(crate) identity: Arc<RunIdentity>,
    /// Where its ledger ended.
    pub(crate) head: Option<Head>,
    /// What it left behind in the database shows in no row: its ledger does not tell whether that is still there.
    pub(crate) is_doubtful: bool,
}

/// A run that was ahead of the database.
pub(crate) struct Rewound {
    pub(crate) identity: Arc<RunIdentity>,
    /// Rows below were committed once.
    pub(crate) durable: Seq,
    pub(crate) times: u32,
    /// Nobody has been told yet what is gone.
    pub(crate) untold: bool,
}
