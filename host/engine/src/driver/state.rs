//! What a driver has and works with.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstitch_core::matcher::Moment;
use backstitch_core::{Op, RunId};
use backstitch_ledger::{Acks, Item, Lease, Ledger};
use backstitch_sandbox::{Heartbeat, Stop};
use backstitch_scheduler::{ActivationId, Config, Figures, Scheduler};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::inputs::{Inputs, Message};
use super::live::Live;
use super::places::Places;
use crate::clock::Clock;
use crate::closings::Closings;
use crate::counters::Counters;
use crate::guests::Work;
use crate::loads::Loads;
use crate::matcher::TaskMatcher;
use crate::notifier::HostNotifier;
use crate::registry::ComponentRegistry;
use crate::timer_wakeup::TimerWakeup;

/// What a driver works with.
pub struct Deps {
    /// Whose runs these are.
    pub lease: Lease,
    /// What time it is.
    pub clock: Clock,
    /// For attempts, messages and trials.
    pub ledger: Ledger,
    /// Reads runs.
    pub loads: Loads,
    /// Loads and finds components.
    pub programs: ComponentRegistry,
    /// To the guest threads.
    pub jobs: crossbeam_channel::Sender<Work>,
    /// To the writer.
    pub items: mpsc::Sender<Item>,
    /// From the writer.
    pub acks: mpsc::Receiver<Acks>,
    /// How many connections the writer has made.
    pub connections: watch::Receiver<u64>,
    /// Changes when the host has its lease again.
    pub restored: watch::Receiver<u64>,
    /// Wakes the poller of the inbox.
    pub inbox_wakeup: Arc<Notify>,
    /// Wakes the poller of timers.
    pub timer_wakeup: TimerWakeup,
    /// Where workers poll for tasks.
    pub matcher: TaskMatcher,
    /// Tells other hosts.
    pub notifier: HostNotifier,
    /// Tells who waits for a result that a run closed or was parked.
    pub closings: Closings,
    /// What the API shows.
    pub counters: Arc<Counters>,
    /// Guests kept in memory.
    pub warm_runs_max: usize,
    /// Attempts of activities at a time.
    pub attempts_max: usize,
    /// Whether every activation is gone over again (debug builds).
    pub check_activations: bool,
}

/// See the module.
pub struct Driver {
    pub(super) scheduler: Scheduler<Live>,
    pub(super) deps: Deps,
    pub(super) messages: mpsc::Receiver<Message>,
    /// For tasks that report back.
    pub(super) inputs: Inputs,
    pub(super) origin: Instant,
    /// Appends that the writer has no room for yet.
    pub(super) outbox: VecDeque<Item>,
    pub(super) attempts: HashMap<(RunId, Op), Running>,
    pub(super) places: Arc<Places>,
    pub(super) guests: HashMap<RunId, (ActivationId, Stop)>,
    /// What the scheduler waits for. They end with the term: who has the run next begins anew.
    pub(super) tasks: JoinSet<()>,
    pub(super) published: Figures,
}

/// An attempt on this host.
pub(super) struct Running {
    pub(super) attempt: u32,
    pub(super) task: AbortHandle,
    pub(super) heartbeat: Arc<Heartbeat>,
}

impl Driver {
    /// A driver of a scheduler that owns no runs yet.
    pub fn new(deps: Deps, env: Live, inputs: Inputs, messages: mpsc::Receiver<Message>) -> Self {
        let config = Config {
            host: deps.lease.host,
            began: Moment::default(),
            activations: deps.counters.activations.load(Ordering::Relaxed),
            warm_runs_max: deps.warm_runs_max,
            attempts_max: deps.attempts_max,
            check_activations: deps.check_activations,
        };
        Self {
            scheduler: Scheduler::new(config, env),
            deps,
            messages,
            inputs,
            origin: Instant::now(),
            outbox: VecDeque::new(),
            attempts: HashMap::new(),
            places: Arc::default(),
            guests: HashMap::new(),
            tasks: JoinSet::new(),
            published: Figures::default(),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.attempts.values().for_each(|running| running.task.abort());
        self.guests.values().for_each(|(_, stop)| stop.now());
    }
}
