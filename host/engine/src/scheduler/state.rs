//! What a scheduler has and works with. What it does is in the files beside this one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;

use backstitch_core::{Digest, Op, RunId, StartOptions, TaskLease};
use backstitch_ledger::{Acks, Item, Lease};
use backstitch_sandbox::Room;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::docket::Trials;
use super::input::{Input, Inputs};
use super::pending::{Loading, Pending, Reading, Rewound};
use super::slot;
use crate::absent::Absent;
use crate::caution::Caution;
use crate::clock::Clock;
use crate::closings::Closings;
use crate::counters::Counters;
use crate::crier::Crier;
use crate::guests::Job;
use crate::in_hand::InHand;
use crate::loads::Loads;
use crate::matcher::TaskMatcher;
use crate::programs::Programs;
use crate::tenure::Tenure;
use crate::timer_hint::TimerHint;

/// Consumed messages that are remembered: more than one look into the inbox brings, many times over.
const CONSUMED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Components that are remembered as harmless to start.
const COMPONENTS_MAX: NonZeroUsize = NonZeroUsize::new(1_000).expect("not zero");

/// What the scheduler works with.
pub struct Tools {
    /// Whose runs these are.
    pub lease: Lease,
    /// What time it is.
    pub clock: Clock,
    /// Whether attempts may begin.
    pub tenure: Tenure,
    /// Whether guests begin behind their first rows.
    pub caution: Caution,
    /// For attempts and messages.
    pub ledger: backstitch_ledger::Ledger,
    /// Reads runs.
    pub loads: Loads,
    /// Tells the timers' watcher.
    pub absent: Absent,
    /// Loads and finds components.
    pub programs: Programs,
    /// To the guest threads.
    pub jobs: crossbeam_channel::Sender<Job>,
    /// To the writer.
    pub items: mpsc::Sender<Item>,
    /// Messages that this host works on.
    pub in_hand: InHand,
    /// How many connections the writer has made.
    pub connections: tokio::sync::watch::Receiver<u64>,
    /// Wakes the inbox watcher of this host.
    pub inbox_hint: Arc<Notify>,
    /// Wakes the timers' watcher: a timer was set that is due at this time.
    pub timer_hint: TimerHint,
    /// Where workers poll for tasks.
    pub matcher: TaskMatcher,
    /// Tells other hosts.
    pub crier: Crier,
    /// Tells who waits for a result that a run closed or was parked.
    pub closings: Closings,
    /// What the API shows.
    pub counters: Arc<Counters>,
    /// The memory that guests have together.
    pub room: Room,
    /// Guests kept in memory.
    pub warm_runs_max: usize,
    /// Attempts of activities at a time.
    pub attempts_max: usize,
    /// Whether every activation is gone over again (debug builds).
    pub check_activations: bool,
}

/// The scheduler. Lives in its own task.
pub struct Scheduler {
    pub(super) tools: Tools,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) acks: mpsc::Receiver<Acks>,
    /// For tasks that report back.
    pub(super) sender: mpsc::Sender<Input>,
    pub(super) slots: HashMap<RunId, slot::Slot>,
    pub(super) loading: HashMap<RunId, Loading>,
    /// The latest read of each run that is being read: what an earlier one gives is past.
    pub(super) reading: HashMap<RunId, Reading>,
    pub(super) reads: u64,
    pub(super) warm: lru::LruCache<RunId, ()>,
    pub(super) outbox: VecDeque<Item>,
    /// Runs with a draft, and when that goes. Those that have gone before their time are here a little longer.
    pub(super) drafts: VecDeque<(RunId, Instant)>,
    pub(super) pending: HashMap<u64, Pending>,
    pub(super) next_ticket: u64,
    /// Messages that were consumed of late, and whether they have come again since: once may be because they were read
    /// before. Who comes twice is heard again, and known by its id if it was sent again.
    pub(super) consumed: lru::LruCache<(RunId, Uuid), bool>,
    /// Tasks with an answer on its way to the ledger, whatever becomes of it.
    pub(super) settling: HashMap<TaskLease, CancellationToken>,
    /// Messages on their way to other runs. They end with the term: who has the run next sends them.
    pub(super) sending: JoinSet<()>,
    /// Runs that may be ahead of a database that has lost commits: compared with it when their appends have answers.
    pub(super) unproven: HashSet<RunId>,
    /// Runs that were ahead of it, until something of them is committed again.
    pub(super) rewound: HashMap<RunId, Rewound>,
    /// Runs of which everything that follows from their ledgers is to be made anew, and how often that is tried while
    /// they are at work.
    pub(super) anew: HashMap<RunId, u32>,
    /// One line for each priority, the first served first.
    pub(super) attempt_queue: [VecDeque<(RunId, Op)>; StartOptions::PRIORITY_LAST as usize],
    pub(super) trials: Trials,
    /// Components of which a guest has come back on this host.
    pub(super) came_back: lru::LruCache<Digest, ()>,
    pub(super) attempts_running: Arc<Semaphore>,
    pub(super) attempt_ended: Arc<Notify>,
    pub(super) draining: Option<oneshot::Sender<()>>,
}

/// How often a run that is at work is compared before it is left alone: what it lacks is found by a later look.
pub(super) const TRIES: u32 = 5;

impl Scheduler {
    /// A scheduler that owns no runs yet.
    pub fn new(
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
            came_back: lru::LruCache::new(COMPONENTS_MAX),
            attempts_running: Arc::new(Semaphore::new(attempts_max)),
            attempt_ended: Arc::new(Notify::new()),
            draining: None,
        }
    }
}
