//! Decides what happens next to every run that this host owns, and does none of it itself.
//!
//! One task owns all runs in memory ([`slot::Slot`]) and takes one input at a time: an activation or
//! an attempt that ended, a batch that was committed, a timer, a message, a run that was claimed. It
//! answers with jobs for the guest threads, attempts of activities, and appends for the writer. It
//! never waits for any of them, so that no channel can close a circle of waiting.
//!
//! What holds at every moment:
//! * nothing that a guest decided can be seen outside, or has an effect there, before every outcome that it had is
//!   committed;
//! * a guest has at most one outcome that is not: the [`Draft`](slot::Draft), which goes to the writer together with
//!   what the guest makes of it, or after [`DRAFT_MAX`](drafts::DRAFT_MAX) without that;
//! * of one run, at most one job is out;
//! * rows of one run are sent in order, and the writer keeps that order.
//!
//! `activation`: guests and what they ask for. `drafts`: what they have before it is committed. `attempts`: activities,
//! here and outside. `messages`: what one run says to another. `arrivals`: what comes from the database. `trials`: runs
//! over which hosts may have been lost. `repair`: what follows from a ledger and is not there. `rewind`: what follows when
//! the database has lost what it had committed.

mod activation;
mod arrivals;
mod attempts;
mod drafts;
mod messages;
mod repair;
mod rewind;
mod slot;
mod trials;

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backstitch_core::run::OpenOp;
use backstitch_core::{
    Event, Failure, Fault, FaultKind, Json, Op, Projection, Run, RunId, Scope, Seq, StartOptions, TaskLease,
    TaskToken,
};
use backstitch_ledger::{
    Acks, Append, ClaimedRun, DueTimer, Head, InboxItem, Item, Lease, NewItem, NewMemory, NewRun, NewTimer,
    Outcome, PoisonKind, StatusChange,
};
use backstitch_sandbox::{Room, WorkflowProgram};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::clock::Clock;
use crate::closings::Closings;
use crate::crier::Crier;
use crate::guests::{Activated, Ahead, Job};
use crate::in_hand::InHand;
use crate::loads::{Loaded, Loads};
use crate::matcher::TaskMatcher;
use crate::programs::Programs;
use crate::tenure::Tenure;

pub(crate) use activation::{child_options, child_workflow_id, note};
use attempts::{Held, Offer};
pub(crate) use slot::Facts;
use slot::Purpose;
use trials::Trials;
pub(crate) use trials::{Trial, TrialStep};

/// The purpose of timers that fire for parked and paused runs too.
pub(crate) const DEADLINE: i16 = Purpose::Deadline as i16;

/// Inputs that may wait for the scheduler; senders wait for room.
const INPUTS_WAITING_MAX: usize = 4_096;
/// Consumed messages that are remembered: more than one look into the inbox brings, many times over.
const CONSUMED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Answers to tasks that are remembered while they are on their way, before those that are not any more are forgotten.
const SETTLING_MAX: usize = 1_024;
/// Inputs taken in one go, before acknowledgements are looked at again.
const INPUTS_PER_TURN: usize = 256;

/// Held by whoever works on a part of a batch; the batch's source goes on when all are dropped.
pub(crate) type Guard = mpsc::Sender<()>;

/// Something that the scheduler has to decide on.
pub(crate) enum Input {
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
    /// Runs of this host that seem to lack something that follows from their ledgers.
    Lacking(Vec<RunId>),
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
pub(crate) struct Start {
    /// All but the time of the start.
    pub(crate) facts: Facts,
    /// On which terms.
    pub(crate) options: Arc<StartOptions>,
    /// The code, loaded.
    pub(crate) program: WorkflowProgram,
    /// The input.
    pub(crate) input: Json,
    /// When it was started, in milliseconds since the epoch; none if its workflow id is taken.
    pub(crate) reply: oneshot::Sender<Started>,
}

/// A task that was carried out.
pub(crate) struct Settle {
    /// Whose it is to whoever answers.
    pub(crate) scope: Scope,
    /// Which.
    pub(crate) token: TaskToken,
    /// What the guest gets. None: the answer is one for the database; what is on its way here comes before it.
    pub(crate) output: Option<Json>,
    /// What is known here.
    pub(crate) reply: oneshot::Sender<Settlement>,
}

/// What a scheduler says of an answer to a task.
pub(crate) enum Settlement {
    /// Its row is committed.
    Done,
    /// Another answer under that lease is on its way to the ledger: when this ends, ask the database.
    Later(CancellationToken),
    /// Nothing is known here of that lease: ask the database.
    Elsewhere,
}

/// How an attempt on this host ended.
pub(crate) enum AttemptEnd {
    /// With an outcome.
    Outcome(Result<Json, Failure>),
    /// Its call is held under this lease, and whatever came of the attempt is with the task, in the database.
    Held(TaskLease),
}

/// A call that is to be held.
pub(crate) struct Deferring {
    /// The run.
    pub(crate) run: RunId,
    /// The call.
    pub(crate) op: Op,
    /// Which attempt asks for it.
    pub(crate) attempt: u32,
    /// When that attempt is over by the word of the call itself, in milliseconds since the epoch.
    pub(crate) until_ms: Option<u64>,
    /// What its last heartbeat has said.
    pub(crate) heartbeat: Option<Json>,
    /// The token, once it is valid. Dropped: nobody waits for an outcome.
    pub(crate) reply: oneshot::Sender<TaskToken>,
}

/// Answer to a [`Start`]; the error is a mistake of ours.
pub(crate) type Started = Result<Option<u64>, String>;

/// Something that waits for a run to be read.
enum Arrival {
    Timer(DueTimer),
    Message(InboxItem),
}

/// A run that is being read, and what has come for it meanwhile.
#[derive(Default)]
struct Loading {
    arrivals: Vec<Arrival>,
    /// More has come, which is still in the database.
    left_out: bool,
}

/// A read of a run that is under way.
#[derive(Clone, Copy, Default)]
struct Reading {
    number: u64,
    /// The run has written since it was begun.
    has_written: bool,
    /// The run was claimed, and has not been read since.
    is_claim: bool,
}

/// Runs that are being read and whose timers have been found due: nobody needs to find them again until then. Cheap to
/// clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absent(Arc<Mutex<HashSet<RunId>>>);

impl Absent {
    /// All of them.
    pub(crate) fn runs(&self) -> Vec<RunId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn add(&self, run: RunId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
    }

    /// Whether it was among them.
    fn remove(&self, run: RunId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&run)
    }
}

/// Who waits for the commit of an append.
#[derive(Default)]
struct Waiting {
    /// The batch that it is part of.
    guard: Option<Guard>,
    /// The worker whose task it settles, and who else has answered.
    settled: Option<(oneshot::Sender<Settlement>, DropGuard)>,
    /// The client whose run it starts.
    started: Option<oneshot::Sender<Started>>,
}

impl From<Option<Guard>> for Waiting {
    fn from(guard: Option<Guard>) -> Self {
        Self { guard, ..Self::default() }
    }
}

/// What is done when an append is acknowledged.
struct Pending {
    run: RunId,
    /// Rows of the run below this are committed then.
    upto: Seq,
    /// Runs that the append starts.
    children: Vec<Child>,
    /// Messages that the append sends.
    posted: Vec<InboxItem>,
    /// Commands of the append whose messages are sent as soon as it is committed.
    messages: Vec<Op>,
    /// Messages that the append consumes.
    consumed: Vec<(RunId, Uuid)>,
    /// Messages that the run does not hear any more when it is committed, and that stay in its inbox.
    put_back: Vec<Uuid>,
    /// Tasks that the append offers.
    offers: Vec<Offer>,
    /// Calls whose first attempts on this host begin then, for their guest ran ahead of its ledger.
    calls: Vec<Op>,
    /// Attempts that are told then that nobody waits for them.
    given_up: Vec<slot::Attempt>,
    /// The attempt that waits until its call is held.
    held: Option<Held>,
    /// Who else waits.
    waiting: Waiting,
    /// The run is closed or parked by the append: who waits for its result is told.
    closes: bool,
    /// The run is not in memory; its ledger is read once the append is committed.
    then_load: bool,
    /// The run goes on: its timers were not looked for while it was parked or paused.
    goes_on: bool,
    /// When the first of the timers that the append sets is due: whoever looks for it earlier than the
    /// commit does not find it.
    due_ms: Option<u64>,
}

/// A run that an append starts: a child, or the next run of one that continues as new.
struct Child {
    facts: Facts,
    run: Run,
    input: Json,
    /// What comes after row 0.
    ahead: Vec<Ahead>,
    /// The command of the parent that hears about it; none for a continuation.
    op: Option<Op>,
}

/// Counters that the API shows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) runs_loaded: AtomicU64,
    pub(crate) runs_warm: AtomicU64,
    pub(crate) activities_running: AtomicU64,
    pub(crate) activities_started: AtomicU64,
    pub(crate) activations: AtomicU64,
    pub(crate) runs_taken_over: AtomicU64,
    /// Runs whose last rows the database has lost.
    pub(crate) runs_rewound: AtomicU64,
}

/// What the scheduler works with.
pub(crate) struct Tools {
    /// Whose runs these are.
    pub(crate) lease: Lease,
    /// What time it is.
    pub(crate) clock: Clock,
    /// Whether attempts may begin.
    pub(crate) tenure: Tenure,
    /// For attempts and messages.
    pub(crate) ledger: backstitch_ledger::Ledger,
    /// Reads runs.
    pub(crate) loads: Loads,
    /// Tells the timers' watcher.
    pub(crate) absent: Absent,
    /// Loads and finds components.
    pub(crate) programs: Programs,
    /// To the guest threads.
    pub(crate) jobs: crossbeam_channel::Sender<Job>,
    /// To the writer.
    pub(crate) items: mpsc::Sender<Item>,
    /// Messages that this host works on.
    pub(crate) in_hand: InHand,
    /// How many connections the writer has made.
    pub(crate) connections: tokio::sync::watch::Receiver<u64>,
    /// Wakes the inbox watcher of this host.
    pub(crate) inbox_hint: Arc<Notify>,
    /// Wakes the timers' watcher: a timer was set that is due at this time.
    pub(crate) timer_hint: tokio::sync::watch::Sender<u64>,
    /// Where workers poll for tasks.
    pub(crate) matcher: TaskMatcher,
    /// Tells other hosts.
    pub(crate) crier: Crier,
    /// Tells who waits for a result that a run closed or was parked.
    pub(crate) closings: Closings,
    /// What the API shows.
    pub(crate) counters: Arc<Counters>,
    /// The memory that guests have together.
    pub(crate) room: Room,
    /// Guests kept in memory.
    pub(crate) warm_runs_max: usize,
    /// Attempts of activities at a time.
    pub(crate) attempts_max: usize,
    /// Whether every activation is gone over again (debug builds).
    pub(crate) check_activations: bool,
}

/// The scheduler. Lives in its own task.
pub(crate) struct Scheduler {
    tools: Tools,
    inputs: mpsc::Receiver<Input>,
    acks: mpsc::Receiver<Acks>,
    /// For tasks that report back.
    sender: mpsc::Sender<Input>,
    slots: HashMap<RunId, slot::Slot>,
    loading: HashMap<RunId, Loading>,
    /// The latest read of each run that is being read: what an earlier one gives is past.
    reading: HashMap<RunId, Reading>,
    reads: u64,
    warm: lru::LruCache<RunId, ()>,
    outbox: VecDeque<Item>,
    /// Runs with a draft, and when that goes. Those that have gone before their time are here a little longer.
    drafts: VecDeque<(RunId, Instant)>,
    pending: HashMap<u64, Pending>,
    next_ticket: u64,
    /// Messages that were consumed of late, and whether they have come again since: once may be because they were read
    /// before. Who comes twice is heard again, and known by its id if it was sent again.
    consumed: lru::LruCache<(RunId, Uuid), bool>,
    /// Tasks with an answer on its way to the ledger, whatever becomes of it.
    settling: HashMap<TaskLease, CancellationToken>,
    /// Messages on their way to other runs. They end with the term: who has the run next sends them.
    sending: JoinSet<()>,
    /// Runs that may be ahead of a database that has lost commits: compared with it when their appends have answers.
    unproven: HashSet<RunId>,
    /// Runs that were ahead of it, until something of them is committed again.
    rewound: HashMap<RunId, rewind::Rewound>,
    /// Runs of which everything that follows from their ledgers is to be made anew, and how often that is tried while
    /// they are at work.
    anew: HashMap<RunId, u32>,
    /// One line for each priority, the first served first.
    attempt_queue: [VecDeque<(RunId, Op)>; StartOptions::PRIORITY_LAST as usize],
    trials: Trials,
    attempts_running: Arc<Semaphore>,
    attempt_ended: Arc<Notify>,
    draining: Option<oneshot::Sender<()>>,
}

/// Where inputs go.
pub(crate) type Inputs = mpsc::Sender<Input>;

/// The channel of inputs.
pub(crate) fn channel() -> (Inputs, mpsc::Receiver<Input>) {
    mpsc::channel(INPUTS_WAITING_MAX)
}

impl Scheduler {
    /// A scheduler that owns no runs yet.
    pub(crate) fn new(
        tools: Tools,
        inputs: mpsc::Receiver<Input>,
        sender: Inputs,
        acks: mpsc::Receiver<Acks>,
    ) -> Self {
        let attempts_max = tools.attempts_max;
        Self {
            tools,
            inputs,
            acks,
            sender,
            slots: HashMap::new(),
            loading: HashMap::new(),
            reading: HashMap::new(),
            reads: 0,
            warm: lru::LruCache::unbounded(),
            outbox: VecDeque::new(),
            drafts: VecDeque::new(),
            pending: HashMap::new(),
            next_ticket: 0,
            consumed: lru::LruCache::new(CONSUMED_MAX),
            settling: HashMap::new(),
            sending: JoinSet::new(),
            unproven: HashSet::new(),
            rewound: HashMap::new(),
            anew: HashMap::new(),
            attempt_queue: Default::default(),
            trials: Trials::new(),
            attempts_running: Arc::new(Semaphore::new(attempts_max)),
            attempt_ended: Arc::new(Notify::new()),
            draining: None,
        }
    }

    /// Works until the writer is fenced or gone, or the drain is complete. Dropping it drops every
    /// run from memory; their ledgers are all that matters.
    pub(crate) async fn run(mut self) {
        let mut inputs = Vec::with_capacity(INPUTS_PER_TURN);
        let (items, room) = (self.tools.items.clone(), self.tools.room.clone());
        let mut restored = self.tools.tenure.restored();
        let mut connections = self.tools.connections.clone();
        loop {
            tokio::select! {
                biased;
                acks = self.acks.recv() => match acks {
                    Some(acks) if matches!(acks.outcome, Outcome::Fenced) => return,
                    Some(acks) => self.acknowledged(acks),
                    None => return,
                },
                permit = items.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(item) = self.outbox.pop_front() {
                            permit.send(item);
                        }
                    }
                    Err(_) => return,
                },
                Ok(()) = connections.changed() => self.prove_all(),
                () = room.short() => self.make_room(),
                () = self.attempt_ended.notified() => {}
                // Its sender is among our tools.
                _ = restored.changed() => {}
                () = drafts::until(self.drafts.front()) => self.send_old_drafts(),
                taken = self.inputs.recv_many(&mut inputs, INPUTS_PER_TURN) => {
                    if taken == 0 {
                        return;
                    }
                    for input in inputs.drain(..) {
                        self.take(input);
                    }
                }
            }
            self.flush();
            if self.is_drained() {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Start(start) => self.start(start),
            Input::Activated(activated) => self.activated(activated),
            Input::Attempted { run, op, attempt, end } => self.attempted(run, op, attempt, end),
            Input::Defer(deferring) => self.defer(deferring),
            Input::Settle(settle) => self.settle(settle),
            Input::Leased(tokens) => self.leased(&tokens),
            Input::Delivered { run, op, outcome } => self.delivered(run, op, outcome),
            Input::Loaded(loaded) => self.loaded(*loaded),
            Input::Timers(due, guard) => self.timers_due(due, &guard),
            Input::Inbox(items, guard) => self.messages(items, &guard),
            Input::Claimed(runs, guard) => self.claimed(runs, &guard),
            Input::Lacking(runs) => self.lacking(runs),
            Input::Lost(runs) => self.lost(&runs),
            Input::Reappeared(items) => self.reappeared(&items),
            Input::Trial(trial, step) => self.trial(trial, &step),
            Input::NoteProgress => self.note_progress(),
            Input::Drain(done) => self.draining = Some(done),
        }
    }

    /// Hands as much to the writer as it takes now, and starts what may be started.
    fn flush(&mut self) {
        self.forget_drafts();
        while let Some(item) = self.outbox.pop_front() {
            if let Err(error) = self.tools.items.try_send(item) {
                match error {
                    mpsc::error::TrySendError::Full(item) | mpsc::error::TrySendError::Closed(item) => {
                        self.outbox.push_front(item);
                    }
                }
                break;
            }
        }
        self.start_attempts();
        // Those that have ended.
        while self.sending.try_join_next().is_some() {}
        let counters = &self.tools.counters;
        counters.runs_loaded.store(self.slots.len() as u64, Ordering::Relaxed);
        counters.runs_warm.store(self.warm.len() as u64, Ordering::Relaxed);
        counters.activities_running.store(self.running() as u64, Ordering::Relaxed);
    }

    /// Attempts that are running.
    fn running(&self) -> usize {
        self.tools.attempts_max - self.attempts_running.available_permits()
    }

    /// Whether a drain was asked for and nothing is on its way.
    fn is_drained(&mut self) -> bool {
        // First, for it is asked every turn: the rest looks at every run in memory.
        let idle = self.draining.is_some()
            && self.pending.is_empty()
            && self.outbox.is_empty()
            && self.drafts.is_empty()
            && self.running() == 0
            && !self.slots.values().any(slot::Slot::is_at_work);
        if idle && let Some(done) = self.draining.take() {
            let _ = done.send(());
            return true;
        }
        false
    }

    fn start(&mut self, start: Start) {
        let Start { facts, options, program, input, reply } = start;
        if self.draining.is_some() {
            let _ = reply.send(Err("the host is stopping".into()));
            return;
        }
        let now_ms = self.tools.clock.now_ms();
        let (new_run, run) = match begin_run(&facts, &input, options, now_ms) {
            Ok(begun) => begun,
            Err(problem) => {
                let _ = reply.send(Err(problem));
                return;
            }
        };
        let id = facts.run;
        let mut append = Append { new_runs: vec![new_run], ..Append::new(facts.scope, id) };
        append.timers = timers_of_start(&run, now_ms);
        append.memories.extend(memory_at_start(&run));
        self.insert(facts, program, run, input);
        let waiting = Waiting { started: Some(reply), ..Waiting::default() };
        self.send_or_draft(id, append, waiting);
    }

    /// Takes a run into memory whose row 0 is on its way.
    fn insert(&mut self, facts: Facts, program: WorkflowProgram, run: Run, input: Json) {
        let id = facts.run;
        let history = self.tools.check_activations.then(Vec::new);
        let slot = slot::Slot {
            facts: Arc::new(facts),
            program,
            started_at_ms: run.started_at_ms(),
            time_has_come: false,
            run,
            input,
            guest: slot::Guest::Cold(Vec::new()),
            ahead: VecDeque::new(),
            draft: None,
            durable: Seq(0),
            seen: Seq(0),
            unacked: 0,
            attempts: HashMap::new(),
            behind: false,
            outgoing: VecDeque::new(),
            cancel: None,
            terminate: None,
            overdue: None,
            sent: None,
            held: None,
            losses: 0,
            unled: false,
            stale: false,
            reload: false,
            turn: 0,
            history,
        };
        self.slots.insert(id, slot);
    }

    /// Sends an append of a run in memory. `note` says what else hangs on it.
    fn send(&mut self, id: RunId, mut append: Append, note: impl FnOnce(&mut Pending)) {
        self.send_draft(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.unacked += 1;
        slot.follow(&mut append);
        let (upto, closes) = (slot.run.next_seq(), !slot.run.is_open());
        self.enqueue(id, append, |pending| {
            (pending.upto, pending.closes) = (upto, closes);
            note(pending);
        });
    }

    /// Puts an append in line for the writer.
    fn enqueue(&mut self, id: RunId, append: Append, note: impl FnOnce(&mut Pending)) {
        let mut pending = Pending {
            run: id,
            upto: Seq(0),
            children: Vec::new(),
            messages: Vec::new(),
            posted: append.inbox.iter().map(|sent| received(append.scope, sent)).collect(),
            consumed: append.inbox_done.clone(),
            put_back: Vec::new(),
            offers: Vec::new(),
            calls: Vec::new(),
            given_up: Vec::new(),
            held: None,
            waiting: Waiting::default(),
            closes: false,
            then_load: false,
            goes_on: matches!(append.status, Some(StatusChange::Run)),
            due_ms: append.timers.iter().map(|timer| timer.due_ms).min(),
        };
        note(&mut pending);
        if let Some(reading) = self.reading.get_mut(&id) {
            reading.has_written = true;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.pending.insert(ticket, pending);
        self.outbox.push_back(Item { ticket, append });
    }

    fn acknowledged(&mut self, acks: Acks) {
        for ticket in acks.tickets {
            let Some(pending) = self.pending.remove(&ticket) else { continue };
            match &acks.outcome {
                Outcome::Committed { refused } => self.committed(pending, refused),
                Outcome::Poisoned { kind, message } => self.poisoned(pending, *kind, message),
                Outcome::Fenced => {}
            }
        }
    }

    fn committed(&mut self, pending: Pending, refused: &[RunId]) {
        let Pending {
            run: id,
            upto,
            children,
            posted,
            messages,
            consumed,
            put_back,
            offers,
            calls,
            given_up,
            held,
            waiting: Waiting { guard, settled, started },
            closes,
            then_load,
            goes_on,
            due_ms,
        } = pending;
        for (run, item) in consumed {
            self.tools.in_hand.put_back(run, item);
            self.consumed.put((run, item), false);
        }
        put_back.into_iter().for_each(|item| self.tools.in_hand.put_back(id, item));
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.unacked = slot.unacked.saturating_sub(1);
            slot.durable = slot.durable.max(upto);
        }
        self.proven(id);
        self.try_again(id);
        if let Some(started) = started {
            if refused.contains(&id) {
                // Nothing of it was written, whatever its guest has asked for.
                self.warm.pop(&id);
                self.slots.remove(&id);
                let _ = started.send(Ok(None));
                return;
            }
            let started_at_ms = self.slots.get(&id).map(|slot| slot.started_at_ms);
            let _ = started.send(Ok(started_at_ms));
        }
        if then_load {
            self.load(id);
        }
        if goes_on {
            self.hint_timers(0);
            self.tools.inbox_hint.notify_one();
            self.make_anew(id);
        }
        if let Some(due_ms) = due_ms {
            self.hint_timers(due_ms);
        }
        if let Some((settled, _others)) = settled {
            let _ = settled.send(Settlement::Done);
        }
        if let Some(held) = held {
            self.held(id, held);
        }
        for offer in offers {
            self.offered(offer);
        }
        for op in calls {
            self.queue_up(id, op);
        }
        given_up.into_iter().for_each(slot::Attempt::give_up);
        for child in children {
            self.child_committed(id, child, refused);
        }
        for item in posted {
            self.posted(item);
        }
        self.send_messages(id, messages);
        if closes {
            self.tools.closings.tell(id);
        }
        drop(guard);
        self.advance(id);
    }

    /// Says that a timer may be due at this time.
    fn hint_timers(&self, due_ms: u64) {
        self.tools.timer_hint.send_if_modified(|next| {
            let sooner = due_ms < *next;
            *next = due_ms.min(*next);
            sooner
        });
    }

    /// Postgres refused what this run wanted to write, and will refuse it again. Nothing of it was
    /// written, so the run stands where its ledger says.
    fn poisoned(&mut self, pending: Pending, kind: PoisonKind, problem: &str) {
        for (run, item) in pending.consumed {
            self.tools.in_hand.put_back(run, item);
        }
        pending.put_back.into_iter().for_each(|item| self.tools.in_hand.put_back(pending.run, item));
        if kind == PoisonKind::Gap && !self.slots.contains_key(&pending.run) {
            // Of a run whose start was refused.
            return;
        }
        if let Some(started) = pending.waiting.started {
            let _ = started.send(Err(problem.to_owned()));
            self.warm.pop(&pending.run);
            self.slots.remove(&pending.run);
            return;
        }
        if let Some(slot) = self.slots.get_mut(&pending.run) {
            slot.unacked = slot.unacked.saturating_sub(1);
            if slot.stale {
                return self.advance(pending.run);
            }
            if matches!(kind, PoisonKind::Behind | PoisonKind::SeqTaken) {
                // The ledger ends elsewhere than this host thought.
                return self.rewind(pending.run);
            }
            tracing::error!(run = %pending.run, problem, "a write was refused for good; the run is parked");
            // What the database holds of it is not what was sent.
            slot.sent = None;
            let message = format!("Postgres refused this run's rows: {problem}");
            self.park(pending.run, &Fault::new(FaultKind::Corrupt, message));
        }
    }

    /// Appends one outcome to a run and lays it ahead of the guest. `fill` adds what goes with it.
    fn outcome(
        &mut self,
        id: RunId,
        event: Event,
        waiting: impl Into<Waiting>,
        fill: impl FnOnce(&mut Append),
    ) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.stale {
            return;
        }
        let mut append = Append::new(slot.facts.scope, id);
        fill(&mut append);
        if let Err(full) = self.lay(id, event, &mut append) {
            for (run, item) in &append.inbox_done {
                self.tools.in_hand.put_back(*run, *item);
            }
            return self.park(id, &full);
        }
        self.send_or_draft(id, append, waiting.into());
    }

    /// Adds one outcome to an append, and lays it ahead of the guest. Fails if the run must be parked.
    fn lay(&mut self, id: RunId, event: Event, append: &mut Append) -> Result<(), Fault> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        match slot.run.append(self.tools.clock.now_ms(), &event) {
            Ok(row) => {
                if !slot.run.has_room(0, 0) {
                    return Err(full());
                }
                let is_told = !event.is_operators() && !matches!(event, Event::AttemptFailed { .. });
                if is_told {
                    slot.ahead.push_back(Ahead { seq: row.seq, at_ms: row.at_ms, event });
                }
                append.rows.push(row);
            }
            // Callers look before they ask; if one did not, the ledger stays as it is.
            Err(illegal) => tracing::error!(run = %id, %illegal, "an event was not recorded"),
        }
        Ok(())
    }
}

/// Why a run whose ledger has no room left is parked.
fn full() -> Fault {
    let message = "the run's ledger is full; have the workflow continue as new before it is";
    Fault::new(FaultKind::Limit, message)
}

/// Where the ledger of a run ends.
fn head(run: &Run) -> Option<Head> {
    let last = run.next_seq().0.checked_sub(1)?;
    Some(Head { seq: Seq(last), chain: run.chain() })
}

/// A message that this host has sent, as its inbox will show it.
fn received(scope: Scope, sent: &NewItem) -> InboxItem {
    InboxItem {
        scope,
        run: sent.run,
        item_id: sent.item_id,
        message: sent.message.clone(),
        at_ms: sent.at_ms,
    }
}

/// Timers of the run itself that are still to come.
fn timers_of_start(run: &Run, now_ms: u64) -> Vec<NewTimer> {
    let start = run.start().start_at_ms.filter(|at_ms| *at_ms > now_ms);
    let deadline = run.start().deadline(run.started_at_ms()).map(|(at_ms, _)| at_ms);
    let timers = [(start, slot::START_OP, Purpose::Start), (deadline, slot::DEADLINE_OP, Purpose::Deadline)];
    let timer = |(due, op, purpose): (Option<u64>, Op, Purpose)| {
        due.map(|due_ms| NewTimer { run: run.id(), op, due_ms, purpose: purpose.tag() })
    };
    timers.into_iter().filter_map(timer).collect()
}

/// Every timer that an open run has to have in the database.
pub(crate) fn timers_of(run: &Run, now_ms: u64) -> Vec<NewTimer> {
    let sleeps = run.open_ops().filter_map(|(op, open)| match open {
        OpenOp::Timer { due_at_ms } => {
            Some(NewTimer { run: run.id(), op, due_ms: *due_at_ms, purpose: Purpose::Sleep.tag() })
        }
        _ => None,
    });
    let others = arrivals::retries_to_come(run, now_ms).into_iter().chain(timers_of_start(run, now_ms));
    sleeps.chain(others).collect()
}

/// What is known about a run from its start.
fn memory_at_start(run: &Run) -> Option<NewMemory> {
    let start = run.start();
    let attributes =
        start.attributes.iter().map(|(name, value)| (Arc::clone(name), Some(value.clone()))).collect();
    let entity = start.entity.as_ref().map(Json::text);
    let memory = NewMemory { run: run.id(), entity, attributes };
    (!memory.is_empty()).then_some(memory)
}

/// What the tables have to say about a run.
pub(crate) fn memory_of(run: RunId, projection: &Projection) -> NewMemory {
    let (entity, attributes) = projection.to_be_stored();
    NewMemory { run, entity: entity.map(|entity| entity.text()), attributes }
}

/// Row 0 of a run.
pub(crate) fn begin_run(
    facts: &Facts,
    input: &Json,
    options: Arc<StartOptions>,
    now_ms: u64,
) -> Result<(NewRun, Run), String> {
    let mut run = Run::new(facts.run);
    let started = Event::RunStarted { workflow: Arc::clone(&facts.workflow), input: input.clone(), options };
    let first = run.append(now_ms, &started).map_err(|illegal| illegal.to_string())?;
    let new_run = NewRun {
        run: facts.run,
        workflow_id: Arc::clone(&facts.workflow_id),
        generation: facts.generation,
        workflow: Arc::clone(&facts.workflow),
        digest: facts.digest,
        parent: facts.parent,
        first,
        further: Vec::new(),
    };
    Ok((new_run, run))
}
