//! What a scheduler has and works with. What it does is in the files beside this one.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;

use backstitch_core::matcher::Moment;
use backstitch_core::{Digest, HostId, Op, RunId, StartOptions, TaskLease};
use uuid::Uuid;

use crate::action::Action;
use crate::env::{Env, Now};
use crate::figures::Figures;
use crate::in_flight::{InFlight, Left, Loading, Reading, Rewound};
use crate::in_hand::InHand;
use crate::input::Settlement;
use crate::slot::{Slot, Standing};
use crate::speculative::Deadlines;
use crate::trial_queue::Trials;

/// Consumed messages that are remembered: more than one look into the inbox brings, many times over.
const CONSUMED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Runs that have left memory and are remembered: more than a host closes while a replica lags.
const LEFT_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Components that are remembered as harmless to start.
const COMPONENTS_MAX: NonZeroUsize = NonZeroUsize::new(1_000).expect("not zero");

/// What does not change about a scheduler.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whose runs these are.
    pub host: HostId,
    /// When the term began.
    pub began: Moment,
    /// Activations of the terms before: an activation of theirs must not pass for one of this.
    pub activations: u64,
    /// Guests kept in memory.
    pub warm_runs_max: usize,
    /// Attempts of activities at a time.
    pub attempts_max: usize,
    /// Whether every activation is gone over again (debug builds).
    pub check_activations: bool,
}

/// Decides for all runs of one term of a host. See the crate.
pub struct Scheduler<E: Env> {
    pub(crate) config: Config,
    pub(crate) env: E,
    pub(crate) now: Now,
    pub(crate) actions: Vec<Action<E>>,
    pub(crate) slots: HashMap<RunId, Slot<E>>,
    pub(crate) loading: HashMap<RunId, Loading>,
    /// The latest read of each run that is being read: what an earlier one gives is past.
    pub(crate) reading: HashMap<RunId, Reading>,
    pub(crate) reads: u64,
    pub(crate) warm: lru::LruCache<RunId, ()>,
    pub(crate) deadlines: Deadlines,
    pub(crate) in_flight: HashMap<u64, InFlight<E>>,
    pub(crate) next_ticket: u64,
    pub(crate) in_hand: InHand,
    /// Runs that could not be loaded, until the appends that park or close them have answers.
    pub(crate) unloading: HashSet<RunId>,
    /// Runs that are being read and whose timers have been found due: nobody needs to find them again until then.
    pub(crate) absent: BTreeSet<RunId>,
    /// Messages that were consumed of late, and whether they have come again since: once may be because they were read
    /// before. Who comes twice is heard again, and known by its id if it was sent again.
    pub(crate) consumed: lru::LruCache<(RunId, Uuid), bool>,
    /// Tasks with an answer on its way to the ledger, and who else has answered.
    pub(crate) settling: HashMap<TaskLease, Vec<E::Reply<Settlement>>>,
    /// Runs that may be ahead of a database that has lost commits: compared with it when their appends have answers.
    pub(crate) unproven: BTreeSet<RunId>,
    /// Runs that have left memory of late: a database that loses commits may have them go on.
    pub(crate) left: lru::LruCache<RunId, Left>,
    /// Runs that were ahead of it, until something of them is committed again.
    pub(crate) rewound: HashMap<RunId, Rewound>,
    /// Runs of which everything that follows from their ledgers is to be made anew, and how often that is tried while
    /// they are at work.
    pub(crate) anew: HashMap<RunId, u32>,
    /// One line for each priority, the first served first.
    pub(crate) attempt_queue: [VecDeque<(RunId, Op)>; StartOptions::PRIORITY_LAST as usize],
    pub(crate) attempts_running: usize,
    pub(crate) trials: Trials,
    /// Components of which a guest has come back on this host.
    pub(crate) came_back: lru::LruCache<Digest, ()>,
    pub(crate) draining: Option<E::Reply<()>>,
    pub(crate) is_drained: bool,
    pub(crate) figures: Figures,
}

/// How often a run that is at work is compared before it is left alone: what it lacks is found by a later look.
pub(crate) const TRIES: u32 = 5;

impl<E: Env> Scheduler<E> {
    /// A scheduler that owns no runs yet.
    pub fn new(config: Config, env: E) -> Self {
        Self {
            config,
            env,
            now: Now { at: config.began, ms: 0 },
            actions: Vec::new(),
            slots: HashMap::new(),
            loading: HashMap::new(),
            reading: HashMap::new(),
            reads: 0,
            warm: lru::LruCache::unbounded(),
            deadlines: Deadlines::default(),
            in_flight: HashMap::new(),
            next_ticket: 0,
            in_hand: InHand::default(),
            unloading: HashSet::new(),
            absent: BTreeSet::new(),
            consumed: lru::LruCache::new(CONSUMED_MAX),
            settling: HashMap::new(),
            unproven: BTreeSet::new(),
            left: lru::LruCache::new(LEFT_MAX),
            rewound: HashMap::new(),
            anew: HashMap::new(),
            attempt_queue: Default::default(),
            attempts_running: 0,
            trials: Trials::new(config.began),
            came_back: lru::LruCache::new(COMPONENTS_MAX),
            draining: None,
            is_drained: false,
            figures: Figures::default(),
        }
    }

    /// What its host answers with.
    pub fn env(&mut self) -> &mut E {
        &mut self.env
    }

    /// What of the inbox it has in hand.
    pub fn in_hand(&self) -> &InHand {
        &self.in_hand
    }

    /// Runs whose due timers wait for them to be read.
    pub fn absent(&self) -> Vec<RunId> {
        self.absent.iter().copied().collect()
    }

    /// When it is to be told of the time, at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first()
    }

    /// Where a run in memory stands; none: it is not in memory.
    pub fn standing(&self, run: RunId) -> Option<Standing> {
        self.slots.get(&run).map(|slot| slot.standing(self.now.ms))
    }

    /// Whether a drain is complete: nothing is to be expected of it any more.
    pub fn is_drained(&self) -> bool {
        self.is_drained
    }

    /// How things stand.
    pub fn figures(&self) -> Figures {
        Figures {
            runs_loaded: self.slots.len() as u64,
            runs_warm: self.warm.len() as u64,
            activities_running: self.attempts_running as u64,
            ..self.figures
        }
    }

    pub(crate) fn act(&mut self, action: Action<E>) {
        self.actions.push(action);
    }

    /// Attempts that have a place.
    pub(crate) fn has_place(&self) -> bool {
        self.attempts_running < self.config.attempts_max
    }
}
