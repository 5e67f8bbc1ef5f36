//! One run in the memory of the host that owns it.
//!
//! ```text
//!            load                begin                  returned
//!  Unloaded ─────▶ Cold(rows) ──────────▶ Busy ───────────────────▶ Idle
//!     ▲              ▲                     │ ▲                        │ events pending, committed
//!     │              │ rows loaded         │ └────────────────────────┘
//!     │           Evicted ◀────────────────┼─────── (warm guests over the bound)
//!     │              ▲── paused, stopped ──│
//!     │                                    ▼ trap, divergence
//!     └────────────────── retry ──────── Parked
//! ```
//! What may happen next follows from where the run [stands](Standing), the first line that holds:
//!
//! | standing | holds if | then |
//! |---|---|---|
//! | `Stale` | it was rewound or parked, and something of it is on its way | nothing, until that has an answer: none of its attempts goes on |
//! | `Leaving` | it is closed, and something of it is on its way | nothing, until that has an answer |
//! | `Gone` | it is closed or stale | the slot goes; a stale one may be read again |
//! | `Abandoned` | its guest computes, and nobody wants what comes of it | the guest is told |
//! | `Computing` | its guest computes | nothing, until it comes back |
//! | `Reading` | its ledger is being read for its guest | nothing, until it was |
//! | `Terminated` | an operator wants it to end | it is closed |
//! | `Overdue` | it has taken as long as it may | it is closed |
//! | `Parked` | its guest is not to be led | as on hold: an operator's word brings it back |
//! | `OnHold` | it is paused, or its start is delayed | nothing; the slot goes if all of it is in the database |
//! | `Cancelled` | it is asked to cancel, and its guest waits | the request is recorded |
//! | `Ready` | else | its guest is given what is pending, if there is something |
//!
//! A slot decides nothing about rows: [`Run`] does. It keeps what is on its way: rows that are sent
//! but not committed, outcomes that the guest has not had, attempts that are running.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{Json, Op, Run, Seq, TaskLease};
use backstitch_ledger::{Append, Head};

use crate::env::Env;
use crate::identity::RunIdentity;
use crate::job::{ActivationId, Origin, PendingEvent};
use crate::speculative::Speculative;

/// Where the guest is.
pub(crate) enum Guest<G> {
    /// Not in memory: these rows are its ledger.
    Cold(Vec<PendingEvent>),
    /// Dropped to make room; the ledger has to be read again.
    Evicted,
    /// The ledger is being read. These many rows it has at least.
    Loading(Seq),
    /// On a thread, or in line for one.
    Busy {
        /// It was told that nobody waits for it.
        is_abandoned: bool,
    },
    /// In memory, blocked.
    Idle(G),
    /// Stopped until an operator acts.
    Parked,
}

/// Where a run in memory stands: see the table of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the table says what each is")]
pub enum Standing {
    Stale,
    Leaving,
    Gone,
    Abandoned,
    Computing,
    Reading,
    Terminated,
    Overdue,
    Parked,
    OnHold,
    Cancelled,
    Ready,
}

/// A request that waits until the guest has nothing else to do.
pub(crate) struct Request {
    /// Who and why.
    pub(crate) reason: String,
    /// What its sender calls it.
    pub(crate) id: Option<Arc<str>>,
    /// The inbox item to consume with it.
    pub(crate) item: uuid::Uuid,
}

/// The deadline of a run has passed, and who waits until that is dealt with.
pub(crate) struct Overdue<B>(pub(crate) Option<B>);

/// Where an attempt of an activity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Waits for its turn on this host.
    Queued,
    /// Runs on this host.
    Running {
        /// Which, 1 for the first.
        number: u32,
        /// It has left its call to others: the task is theirs under this lease, or is about to be.
        lease: Option<TaskLease>,
    },
    /// It has a task, in the database: a remote worker may take it or has it, or it was left to others.
    Offered {
        /// The worker's lease, if this host has heard of it. Only this host's appends can end a lease that it
        /// knows, or messages that it has yet to read.
        lease: Option<TaskLease>,
    },
}

impl Attempt {
    /// Whether it runs, and has left its call to whoever shows a token of this lease.
    pub(crate) fn is_deferred(self, lease: TaskLease) -> bool {
        matches!(self, Self::Running { lease: Some(known), .. } if known == lease)
    }

    /// Whether its call has a task.
    pub(crate) fn has_task(self) -> bool {
        match self {
            Self::Queued => false,
            Self::Running { lease, .. } => lease.is_some(),
            Self::Offered { .. } => true,
        }
    }

    /// Whether it runs on this host.
    pub(crate) fn is_running(self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Whether all of it is in the database.
    pub(crate) fn is_offered(self) -> bool {
        matches!(self, Self::Offered { .. })
    }
}

/// A message under way.
pub(crate) struct Sending {
    /// The command.
    pub(crate) op: Op,
    /// Whom it goes to, in words.
    pub(crate) name: String,
    /// The next pause, in milliseconds.
    pub(crate) pause_ms: u64,
}

/// One run in memory.
pub(crate) struct Slot<E: Env> {
    pub(crate) identity: Arc<RunIdentity>,
    pub(crate) program: E::Program,
    pub(crate) run: Run,
    pub(crate) input: Json,
    pub(crate) started_at_ms: u64,
    /// The timer of a delayed start has fired: its word counts, whatever the clock says later.
    pub(crate) start_timer_fired: bool,
    pub(crate) guest: Guest<E::Guest>,
    /// Outcomes that the guest has not had, in ledger order; committed ones first.
    pub(crate) undelivered: VecDeque<PendingEvent>,
    /// What is not sent yet, because its guest is at work on it. Everything before it is committed.
    pub(crate) speculative: Option<Speculative<E>>,
    /// Rows below are committed.
    pub(crate) durable: Seq,
    /// The guest has had no outcome from here on.
    pub(crate) seen: Seq,
    /// Appends that are not acknowledged.
    pub(crate) unacked: u32,
    /// Calls that want an attempt now, or have one under way. Calls that wait for a retry's time are
    /// in the timers table instead.
    pub(crate) attempts: BTreeMap<Op, Attempt>,
    /// Its guest was abandoned on its way: what it was given is to be replayed by another one.
    pub(crate) is_behind: bool,
    /// Messages to other runs that are committed, the first of them under way.
    pub(crate) outgoing: VecDeque<Op>,
    /// How that goes.
    pub(crate) sending: Option<Sending>,
    pub(crate) cancel: Option<Request>,
    pub(crate) terminate: Option<Request>,
    /// The run has taken as long as it may.
    pub(crate) overdue: Option<Overdue<E::Batch>>,
    /// The room that the rows of a cold guest take, and whether it is large. They go on together, or the room is given back
    /// at once: it never stays with a slot that waits for something.
    pub(crate) room: Option<(E::Room, bool)>,
    /// Hosts that were lost with it since it last went on.
    pub(crate) losses: u16,
    /// No host has replayed it since it was claimed from one that died.
    pub(crate) is_unreplayed: bool,
    /// Where its ledger ends with everything that was sent: what the next append follows. None: nothing of it is in the
    /// database yet, or nobody knows what is.
    pub(crate) sent: Option<Head>,
    /// The rows in `run` may not be those in the database: it was parked on the way, or the database has lost some.
    /// Nothing is appended any more; the slot goes as soon as everything that was sent has an answer.
    pub(crate) is_stale: bool,
    /// It is stale, and its ledger is read again when it has gone.
    pub(crate) is_reloaded: bool,
    /// An append without rows has offered a task: nothing in the ledger tells whether it is still there after a failover.
    pub(crate) offers_alone: bool,
    /// The activation that is out, or was last.
    pub(crate) activation: ActivationId,
    /// Every row so far, if test builds go over them again and again.
    pub(crate) history: Option<Vec<PendingEvent>>,
}

impl<E: Env> Slot<E> {
    /// Where the run stands: see the table of this file.
    pub(crate) fn standing(&self, now_ms: u64) -> Standing {
        let is_over = !self.run.is_open() || self.is_stale;
        let is_on_its_way = matches!(self.guest, Guest::Busy { .. }) || self.unacked > 0;
        match &self.guest {
            _ if self.is_stale && is_on_its_way => Standing::Stale,
            _ if is_over && is_on_its_way => Standing::Leaving,
            _ if is_over => Standing::Gone,
            Guest::Busy { .. } if self.is_unwanted() => Standing::Abandoned,
            Guest::Busy { .. } => Standing::Computing,
            Guest::Loading(_) => Standing::Reading,
            _ if self.terminate.is_some() => Standing::Terminated,
            _ if self.overdue.is_some() => Standing::Overdue,
            Guest::Parked => Standing::Parked,
            Guest::Cold(_) | Guest::Evicted | Guest::Idle(_) if self.is_on_hold(now_ms) => Standing::OnHold,
            Guest::Evicted | Guest::Idle(_) if self.cancel.is_some() && self.is_quiescent() => {
                Standing::Cancelled
            }
            Guest::Cold(_) | Guest::Evicted | Guest::Idle(_) => Standing::Ready,
        }
    }

    /// Takes the attempts of these calls out, which are to be abandoned as soon as that is committed; and names the calls
    /// that have a task, whose workers are to be told.
    #[must_use]
    pub(crate) fn take_attempts(
        &mut self,
        which: impl Fn(&Run, Op) -> bool,
    ) -> (Vec<(Op, Attempt)>, Vec<Op>) {
        let run = &self.run;
        let taken: Vec<(Op, Attempt)> = self.attempts.extract_if(.., |op, _| which(run, *op)).collect();
        let remote = taken.iter().filter(|(_, attempt)| attempt.has_task()).map(|(op, _)| *op).collect();
        (taken, remote)
    }

    /// Whether this attempt of the call is the next one, or under way.
    pub(crate) fn awaits_attempt(&self, op: Op, attempt: u32) -> bool {
        matches!(self.run.open_op(op), Some(OpenOp::Activity { attempts, .. }) if attempts + 1 == attempt)
    }

    /// Whether its guest, or an attempt of its calls on this host, has something to say yet. An attempt gives its place
    /// back before that is heard.
    pub(crate) fn is_at_work(&self) -> bool {
        self.attempts.values().any(|attempt| attempt.is_running()) || matches!(self.guest, Guest::Busy { .. })
    }

    /// Whether an attempt of this call runs on this host.
    pub(crate) fn is_attempting(&self, op: Op) -> bool {
        self.attempts.get(&op).is_some_and(|attempt| attempt.is_running())
    }

    /// Whether nothing of its attempts would be lost with the slot.
    fn has_no_attempts_here(&self) -> bool {
        self.attempts.values().all(|attempt| attempt.is_offered())
    }

    /// How many outcomes the guest may be given now: those that are committed, and the speculative one.
    pub(crate) fn deliverable(&self) -> usize {
        match self.speculative {
            Some(_) => self.undelivered.len(),
            None => self.undelivered.iter().take_while(|event| event.seq < self.durable).count(),
        }
    }

    /// Whether everything that the guest has decided upon is committed.
    pub(crate) fn is_sure(&self) -> bool {
        self.seen <= self.durable
    }

    /// Whether the guest has had everything and waits.
    fn is_quiescent(&self) -> bool {
        self.undelivered.is_empty()
            && !self.is_behind
            && matches!(self.guest, Guest::Idle(_) | Guest::Evicted)
    }

    /// Says in an append that is about to be sent which row it follows.
    pub(crate) fn follow(&mut self, append: &mut Append) {
        append.after = self.sent;
        self.sent = append.head();
    }

    /// Whether something of it is on its way to its ledger.
    pub(crate) fn is_writing(&self) -> bool {
        self.unacked > 0 || self.speculative.is_some()
    }

    /// Where its ledger ends, if all that was sent of it has an answer: that can be compared with the database.
    pub(crate) fn settled_head(&self) -> Option<Head> {
        let is_settled = !self.is_writing() && !self.is_stale && self.run.is_open();
        self.sent.filter(|_| is_settled)
    }

    /// Whether nothing of this run is on its way: it can be dropped and loaded again at any time.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.unacked == 0
            && self.undelivered.is_empty()
            && !self.is_behind
            && self.has_no_attempts_here()
            && self.outgoing.is_empty()
            && self.cancel.is_none()
            && self.terminate.is_none()
    }

    /// Whether its guest may not be given anything: an operator has paused the run, or its start is delayed.
    pub(crate) fn is_on_hold(&self, now_ms: u64) -> bool {
        // One whose guest has done something has begun, on a host that had another time.
        let may_wait = !self.start_timer_fired && self.run.next_op() == Op(0);
        self.run.is_paused() || (may_wait && self.run.start().start_at_ms.is_some_and(|at_ms| at_ms > now_ms))
    }

    /// Whether what its guest computes would come to nothing, or an operator wants it to wait.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.terminate.is_some() || self.overdue.is_some() || self.run.is_paused()
    }

    /// Whether a run that is on hold can be dropped until something happens to it.
    pub(crate) fn can_leave(&self) -> bool {
        self.unacked == 0
            && self.speculative.is_none()
            && self.has_no_attempts_here()
            && self.outgoing.is_empty()
            && self.terminate.is_none()
    }

    /// What a fresh guest is made of.
    pub(crate) fn origin(&self) -> Origin<E::Program> {
        Origin {
            identity: Arc::clone(&self.identity),
            program: self.program.clone(),
            input: self.input.clone(),
            options: Arc::clone(self.run.start()),
            started_at_ms: self.started_at_ms,
        }
    }
}
