//! What happens inside a cluster, and when.

use std::collections::BTreeMap;
use std::rc::Rc;

use backstitch_core::matcher::PollerId;
use backstitch_core::{Fault, Json, RunId, Scope};
use backstitch_ledger::{Acks, ClaimedRun, InboxItem, NewItem};
use backstitch_scheduler::{Action, AttemptEnd, Input, Job, Ledgered, NewAttempt};

use super::asking::{Fork, Update};
use super::env::{Program, SimEnv, Task};
use super::plan::External;

/// Something that happens at a time.
#[expect(clippy::large_enum_variant, reason = "nearly all are of hosts: a box would cost each an allocation")]
pub(super) enum Event {
    /// From outside, by its place in the plan.
    External(usize),
    /// The same, once more: it could not be done.
    Again(External),
    /// A client goes on with its update.
    Update(Update),
    /// An operator goes on with a fork or a reset.
    Fork(Fork),
    /// To a host, in the term that it was meant for.
    Host(usize, u64, HostEvent),
    /// A host begins a term.
    Register(usize),
    /// To a remote worker.
    Worker(usize, WorkerEvent),
    /// A host sends a message that another one of its run has sent already.
    Repost(Scope, NewItem),
    /// Somebody answers a task.
    Answer { task: Task, output: Option<Json>, tries: u32 },
    /// Somebody answers a task to the database.
    Settle { task: Task, output: Option<Json> },
    /// A worker says that it is at work, and so many times more; then it answers.
    Heartbeat { task: Task, output: Option<Json>, left: u32 },
}

/// Something that happens to a host.
pub(super) enum HostEvent {
    /// The writer sends a statement.
    Write,
    /// The writer's answers reach the scheduler.
    Acks(Vec<Acks>),
    /// The scheduler is told something.
    Tell(Input<SimEnv>),
    /// The database is asked what an action says.
    Ask(Action<SimEnv>),
    /// A guest computes.
    Compute(Job<SimEnv>),
    /// An attempt on this host asks to leave its call to others.
    Defer(NewAttempt),
    /// An attempt on this host ends.
    Attempted { new: NewAttempt, end: AttemptEnd },
    /// The ledger of a run is read.
    ReadRows(Read),
    /// What is beside it is read.
    ReadBeside(Read, ClaimedRun, Box<Ledgered>),
    /// A heartbeat is due.
    Heartbeat,
    /// A heartbeat that was sent then has an answer.
    Renewed { sent_us: u64, is_alive: bool },
    /// It is time to look for runs that nobody owns.
    Claim,
    /// It is time to look for due timers.
    Timers,
    /// It is time to look into the inbox.
    Inbox,
    /// These runs have messages.
    ReadInbox(Vec<RunId>),
    /// They were read.
    TellInbox(Vec<InboxItem>),
    /// It is time to look after the leases of workers.
    Sweep,
    /// It is time to look for tasks that workers who wait here could take.
    Backlog,
    /// It is time to look for runs that lack timers.
    Lacking,
    /// Time has passed.
    Tick,
    /// The grace of a poller ends.
    MatcherTick(PollerId),
    /// What a worker looks for in the database, for its poll.
    Check { worker: usize, poll: u64 },
}

/// A read of a run.
#[derive(Clone)]
pub(super) struct Read {
    pub(super) run: RunId,
    pub(super) number: u64,
    /// As it was claimed; none: it is looked up.
    pub(super) claimed: Option<ClaimedRun>,
    /// Its component, or why that is not to be had; none: nobody knows yet.
    pub(super) program: Option<Result<Program, Fault>>,
    /// Since when it waits for its component, if it does, in microseconds.
    pub(super) waits_since_us: Option<u64>,
    /// The batch that it is part of.
    pub(super) batch: Option<Rc<()>>,
}

/// Something that happens to a remote worker.
pub(super) enum WorkerEvent {
    /// It polls.
    Poll,
    /// Its poll is woken, or its time has come.
    Resume { poll: u64 },
    /// Nobody has answered its poll.
    TimedOut { poll: u64 },
}

/// Events in the order of their times, and of the order in which they were made.
#[derive(Default)]
pub(super) struct Queue {
    events: BTreeMap<(u64, u64), Event>,
    made: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at_us: u64, event: Event) {
        self.made += 1;
        self.events.insert((at_us, self.made), event);
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        let ((at_us, _), event) = self.events.pop_first()?;
        Some((at_us, event))
    }
}
