//! What a scheduler remembers of what it waits for: appends that are on their way, and runs that are being read.

use std::sync::Arc;

use backstitch_client::tasks::TaskView;
use backstitch_core::matcher::Queue;
use backstitch_core::{Json, Op, Run, RunId, Seq, TaskToken};
use backstitch_ledger::{DueTimer, InboxItem};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::slot;
use super::waiting::Waiting;
use crate::guests::Ahead;
use crate::identity::Facts;
use crate::matcher::Reservation;

/// Something that waits for a run to be read.
pub(super) enum Arrival {
    Timer(DueTimer),
    Message(InboxItem),
}

/// A run that is being read, and what has come for it meanwhile.
#[derive(Default)]
pub(super) struct Loading {
    pub(super) arrivals: Vec<Arrival>,
    /// More has come, which is still in the database.
    pub(super) left_out: bool,
}

/// A read of a run that is under way.
#[derive(Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) number: u64,
    /// The run has written since it was begun.
    pub(super) has_written: bool,
    /// The run was claimed, and has not been read since.
    pub(super) is_claim: bool,
}

/// What is done when an append is acknowledged.
pub(super) struct Pending {
    pub(super) run: RunId,
    /// Rows of the run below this are committed then.
    pub(super) upto: Seq,
    /// Runs that the append starts.
    pub(super) children: Vec<Child>,
    /// Messages that the append sends.
    pub(super) posted: Vec<InboxItem>,
    /// Commands of the append whose messages are sent as soon as it is committed.
    pub(super) messages: Vec<Op>,
    /// Messages that the append consumes.
    pub(super) consumed: Vec<(RunId, Uuid)>,
    /// Messages that the run does not hear any more when it is committed, and that stay in its inbox.
    pub(super) put_back: Vec<Uuid>,
    /// Tasks that the append offers.
    pub(super) offers: Vec<Offer>,
    /// Calls whose first attempts on this host begin then, for their guest ran ahead of its ledger.
    pub(super) calls: Vec<Op>,
    /// Attempts that are told then that nobody waits for them.
    pub(super) given_up: Vec<slot::Attempt>,
    /// The attempt that waits until its call is held.
    pub(super) held: Option<Held>,
    /// Who else waits.
    pub(super) waiting: Waiting,
    /// The run is closed or parked by the append: who waits for its result is told.
    pub(super) closes: bool,
    /// The run is not in memory; its ledger is read once the append is committed.
    pub(super) then_load: bool,
    /// The run goes on: its timers were not looked for while it was parked or paused.
    pub(super) goes_on: bool,
    /// When the first of the timers that the append sets is due: whoever looks for it earlier than the
    /// commit does not find it.
    pub(super) due_ms: Option<u64>,
}

/// A run that an append starts: a child, or the next run of one that continues as new.
pub(super) struct Child {
    pub(super) facts: Facts,
    pub(super) run: Run,
    pub(super) input: Json,
    /// What comes after row 0.
    pub(super) ahead: Vec<Ahead>,
    /// The command of the parent that hears about it; none for a continuation.
    pub(super) op: Option<Op>,
}

/// A call that an attempt leaves to others, on its way to the database.
pub(super) struct Held {
    pub(super) token: TaskToken,
    /// The attempt.
    pub(super) reply: oneshot::Sender<TaskToken>,
}

/// A call that was offered to workers outside, on its way to the ledger.
pub(super) struct Offer {
    pub(super) run: RunId,
    pub(super) op: Op,
    pub(super) queue: Queue,
    pub(super) name: Arc<str>,
    /// The worker that it is reserved for, and what that gets.
    pub(super) reserved: Option<(Reservation, TaskView)>,
}

/// A run that was ahead of the database.
pub(super) struct Rewound {
    pub(super) facts: Arc<Facts>,
    /// Rows below were committed once.
    pub(super) durable: Seq,
    pub(super) times: u32,
    /// Nobody has been told yet what is gone.
    pub(super) untold: bool,
}
