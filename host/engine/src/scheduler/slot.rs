//! One run in the memory of the host that owns it.
//!
//! ```text
//!            load                begin                  returned
//!  Unloaded ─────▶ Cold(rows) ──────────▶ Busy ───────────────────▶ Idle
//!     ▲              ▲                     │ ▲                        │ rows ahead, committed
//!     │              │ rows loaded         │ └────────────────────────┘
//!     │           Evicted ◀────────────────┼─────── (warm guests over the bound)
//!     │              ▲── paused, stopped ──│
//!     │                                    ▼ trap, divergence
//!     └────────────────── retry ──────── Parked
//! ```
//! A slot decides nothing about rows: [`Run`] does. It keeps what is on its way: rows that are sent
//! but not committed, outcomes that the guest has not had, attempts that are running.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{Json, Op, Run, Seq, TaskLease};
use backstitch_ledger::{Append, Head};
use backstitch_sandbox::{Heartbeat, Stop, WorkflowInstance, WorkflowProgram};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::input::Guard;
use super::waiting::Waiting;
use crate::guests::{Ahead, Origin};
use crate::identity::Facts;
use crate::room::Held;

/// Where the guest is.
pub(super) enum Guest {
    /// Not in memory: these rows are its ledger.
    Cold(Vec<Ahead>),
    /// Dropped to make room; the ledger has to be read again.
    Evicted,
    /// The ledger is being read. These many rows it has at least.
    Loading(Seq),
    /// On a thread, or in line for one.
    Busy(Computing),
    /// In memory, blocked.
    Idle(Box<WorkflowInstance>),
    /// Stopped until an operator acts.
    Parked,
}

/// A guest that computes. Dropping this has it dropped as soon as it looks up.
#[derive(Default)]
pub(super) struct Computing(Stop);

impl Computing {
    /// By which its job is stopped.
    pub(super) fn stop(&self) -> Stop {
        self.0.clone()
    }

    /// Nobody waits for it any more.
    pub(super) fn give_up(&self) {
        self.0.now();
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A request that waits until the guest has nothing else to do.
pub(super) struct Request {
    /// Who and why.
    pub(super) reason: String,
    /// What its sender calls it.
    pub(super) id: Option<Arc<str>>,
    /// The inbox item to consume with it.
    pub(super) item: uuid::Uuid,
}

/// A start or an outcome that its guest has already, on its way to the ledger together with what the guest makes of it.
pub(super) struct Draft {
    /// The start, or what ends with the outcome.
    pub(super) append: Append,
    /// Who waits for its commit.
    pub(super) waiting: Waiting,
    /// When it goes without the guest.
    pub(super) until: Instant,
}

/// The deadline of a run has passed, and who waits until that is dealt with.
pub(super) struct Overdue(pub(super) Option<Guard>);

/// Where an attempt of an activity is.
pub(super) enum Attempt {
    /// Waits for its turn on this host.
    Queued,
    /// Runs on this host.
    Running(Running),
    /// It has a task, in the database: a worker outside may take it or has it, or it is held.
    Offered {
        /// The worker's lease, if this host has heard of it. Only this host's appends can end a lease that it
        /// knows, or messages that it has yet to read.
        lease: Option<TaskLease>,
    },
}

/// An attempt that runs. Dropping it ends it: an outcome that nobody will read is not worth waiting for.
pub(super) struct Running {
    /// Which, 1 for the first.
    pub(super) number: u32,
    /// It has deferred its call: the task is held under this lease, or is about to be.
    pub(super) lease: Option<TaskLease>,
    task: AbortHandle,
    pulse: Arc<Heartbeat>,
    /// It has been told that nobody waits for it, and comes to its end by itself.
    told: bool,
}

impl Running {
    pub(super) fn new(number: u32, task: AbortHandle, pulse: Arc<Heartbeat>) -> Self {
        Self { number, lease: None, task, pulse, told: false }
    }

    /// What its last heartbeat said.
    pub(super) fn details(&self) -> Option<Json> {
        self.pulse.details()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.told {
            self.task.abort();
        }
    }
}

impl Attempt {
    /// Its call was given up. One that has heartbeats is told by the next of them, so that it can put away
    /// what it has in hand; any other ends here and now.
    pub(super) fn give_up(mut self) {
        if let Self::Running(running) = &mut self {
            running.told = running.pulse.request_cancel();
        }
    }

    /// Its call was answered. An attempt that had left it to others may have something to put away: what it does
    /// must not depend on how soon they answer. Any other ends here and now.
    pub(super) fn answered(mut self) {
        if let Self::Running(running) = &mut self
            && running.lease.is_some()
        {
            running.pulse.superseded();
            running.told = true;
        }
    }

    /// Whether it runs, and has left its call to whoever shows a token of this lease.
    pub(super) fn holds(&self, lease: TaskLease) -> bool {
        matches!(self, Self::Running(running) if running.lease == Some(lease))
    }

    /// Whether its call has a task.
    pub(super) fn has_task(&self) -> bool {
        match self {
            Self::Queued => false,
            Self::Running(running) => running.lease.is_some(),
            Self::Offered { .. } => true,
        }
    }

    /// Whether all of it is in the database.
    pub(super) fn is_offered(&self) -> bool {
        matches!(self, Self::Offered { .. })
    }
}

/// One run in memory.
pub(super) struct Slot {
    pub(super) facts: Arc<Facts>,
    pub(super) program: WorkflowProgram,
    pub(super) run: Run,
    pub(super) input: Json,
    pub(super) started_at_ms: u64,
    /// The timer of a delayed start has fired: its word counts, whatever the clock says later.
    pub(super) time_has_come: bool,
    pub(super) guest: Guest,
    /// Outcomes that the guest has not had, in ledger order; committed ones first.
    pub(super) ahead: VecDeque<Ahead>,
    /// What is not sent yet, because its guest is at work on it. Everything before it is committed.
    pub(super) draft: Option<Draft>,
    /// Rows below are committed.
    pub(super) durable: Seq,
    /// The guest has had no outcome from here on.
    pub(super) seen: Seq,
    /// Appends that are not acknowledged.
    pub(super) unacked: u32,
    /// Calls that want an attempt now, or have one under way. Calls that wait for a retry's time are
    /// in the timers table instead.
    pub(super) attempts: HashMap<Op, Attempt>,
    /// Its guest was given up on its way: what it was given is to be led before another one.
    pub(super) behind: bool,
    /// Messages to other runs that are committed, the first of them under way.
    pub(super) outgoing: VecDeque<Op>,
    pub(super) cancel: Option<Request>,
    pub(super) terminate: Option<Request>,
    /// The run has taken as long as it may.
    pub(super) overdue: Option<Overdue>,
    /// The room that the rows of a cold guest take. They go on together, or the room is given back at once: it never stays
    /// with a slot that waits for something.
    pub(super) held: Option<Arc<Held>>,
    /// Hosts that were lost with it since it last went on.
    pub(super) losses: u16,
    /// No host has led it along its ledger since it was claimed from one that died.
    pub(super) unled: bool,
    /// Where its ledger ends with everything that was sent: what the next append follows. None: nothing of it is in the
    /// database yet, or nobody knows what is.
    pub(super) sent: Option<Head>,
    /// The rows in `run` may not be those in the database: it was parked on the way, or the database has lost some.
    /// Nothing is appended any more; the slot goes as soon as everything that was sent has an answer.
    pub(super) stale: bool,
    /// It is stale, and its ledger is read again when it has gone.
    pub(super) reload: bool,
    /// The job that is out, or was last.
    pub(super) turn: u64,
    /// Every row so far, if test builds go over them again and again.
    pub(super) history: Option<Vec<Ahead>>,
}

impl Slot {
    /// The attempts of these calls, which are to be [given up](Attempt::give_up) as soon as that is committed, and
    /// those of the calls that have a task, whose workers are to be told.
    #[must_use]
    pub(super) fn take_attempts(&mut self, which: impl Fn(&Run, Op) -> bool) -> (Vec<Attempt>, Vec<Op>) {
        let run = &self.run;
        let (mut taken, mut outside) = (Vec::new(), Vec::new());
        for (op, attempt) in self.attempts.extract_if(|op, _| which(run, *op)) {
            outside.extend(attempt.has_task().then_some(op));
            taken.push(attempt);
        }
        (taken, outside)
    }

    /// Whether this attempt of the call is the next one, or under way.
    pub(super) fn awaits_attempt(&self, op: Op, attempt: u32) -> bool {
        matches!(self.run.open_op(op), Some(OpenOp::Activity { attempts, .. }) if attempts + 1 == attempt)
    }

    /// Whether its guest, or an attempt of its calls on this host, has something to say yet. An attempt gives its place
    /// back before that is heard.
    pub(super) fn is_at_work(&self) -> bool {
        let attempting = self.attempts.values().any(|attempt| matches!(attempt, Attempt::Running(_)));
        attempting || matches!(self.guest, Guest::Busy(_))
    }

    /// Whether an attempt of this call runs on this host.
    pub(super) fn is_attempting(&self, op: Op) -> bool {
        matches!(self.attempts.get(&op), Some(Attempt::Running(_)))
    }

    /// Whether nothing of its attempts would be lost with the slot.
    fn has_no_attempts_here(&self) -> bool {
        self.attempts.values().all(Attempt::is_offered)
    }

    /// How many outcomes may be laid before the guest now: those that are committed, and the draft.
    pub(super) fn ready_ahead(&self) -> usize {
        match self.draft {
            Some(_) => self.ahead.len(),
            None => self.ahead.iter().take_while(|row| row.seq < self.durable).count(),
        }
    }

    /// Whether `append` may wait for what the guest makes of it: it is the run's start or ends with an outcome, the
    /// guest can have that at once, and has nothing else that is not committed.
    pub(super) fn may_draft(&self, append: &Append, now_ms: u64) -> bool {
        let last = append.rows.last().map(|row| row.seq);
        let ends_with_an_outcome = last.is_some() && self.ahead.back().map(|row| row.seq) == last;
        (ends_with_an_outcome || append.starts(self.facts.run))
            && matches!(self.guest, Guest::Idle(_) | Guest::Cold(_))
            && self.unacked == 0
            && self.draft.is_none()
            && append.status.is_none()
            && !self.stale
            && self.terminate.is_none()
            && self.overdue.is_none()
            && !self.is_held(now_ms)
    }

    /// Whether everything that the guest has decided upon is committed.
    pub(super) fn is_sure(&self) -> bool {
        self.seen <= self.durable
    }

    /// Whether the guest has had everything and waits.
    pub(super) fn is_quiescent(&self) -> bool {
        self.ahead.is_empty() && !self.behind && matches!(self.guest, Guest::Idle(_) | Guest::Evicted)
    }

    /// Says in an append that is about to be sent which row it follows.
    pub(super) fn follow(&mut self, append: &mut Append) {
        append.after = self.sent;
        self.sent = append.head();
    }

    /// Whether something of it is on its way to its ledger.
    pub(super) fn is_writing(&self) -> bool {
        self.unacked > 0 || self.draft.is_some()
    }

    /// Where its ledger ends, if all that was sent of it has an answer: that can be compared with the database.
    pub(super) fn settled_head(&self) -> Option<Head> {
        let is_settled = self.unacked == 0 && self.draft.is_none() && !self.stale && self.run.is_open();
        self.sent.filter(|_| is_settled)
    }

    /// Whether nothing of this run is on its way: it can be dropped and loaded again at any time.
    pub(super) fn is_at_rest(&self) -> bool {
        self.unacked == 0
            && self.ahead.is_empty()
            && !self.behind
            && self.has_no_attempts_here()
            && self.outgoing.is_empty()
            && self.cancel.is_none()
            && self.terminate.is_none()
    }

    /// Whether its guest may not be given anything: an operator holds the run, or its time has not come.
    pub(super) fn is_held(&self, now_ms: u64) -> bool {
        // One whose guest has done something has begun, on a host that had another time.
        let may_wait = !self.time_has_come && self.run.next_op() == Op(0);
        self.run.is_paused() || (may_wait && self.run.start().start_at_ms.is_some_and(|at_ms| at_ms > now_ms))
    }

    /// Whether what its guest computes would come to nothing, or an operator wants it to wait.
    pub(super) fn is_unwanted(&self) -> bool {
        self.terminate.is_some() || self.overdue.is_some() || self.run.is_paused()
    }

    /// Whether a run that is held can be dropped until something happens to it.
    pub(super) fn can_leave(&self) -> bool {
        self.unacked == 0
            && !matches!(self.guest, Guest::Busy(_) | Guest::Loading(_) | Guest::Parked)
            && self.has_no_attempts_here()
            && self.outgoing.is_empty()
            && self.terminate.is_none()
    }

    /// What a fresh guest is made of.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            facts: Arc::clone(&self.facts),
            program: self.program.clone(),
            input: self.input.clone(),
            options: Arc::clone(self.run.start()),
            started_at_ms: self.started_at_ms,
        }
    }
}
