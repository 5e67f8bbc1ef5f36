//! Terms, one after the other: see [`Host`](super::Host).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstitch_core::matcher::Queue;
use backstitch_core::{HostId, limits};
use backstitch_engine::caution::Caution;
use backstitch_engine::clock::Clock;
use backstitch_engine::closings::Closings;
use backstitch_engine::counters::Counters;
use backstitch_engine::driver::{self, Deps, Driver, Input, Inputs, Live};
use backstitch_engine::loads::Loads;
use backstitch_engine::matcher::TaskMatcher;
use backstitch_engine::pollers::Pollers;
use backstitch_engine::registry::ComponentRegistry;
use backstitch_engine::retry::until_answered;
use backstitch_engine::room::Room;
use backstitch_engine::tenure::Tenure;
use backstitch_engine::term::Term;
use backstitch_engine::timer_wakeup::TimerWakeup;
use backstitch_engine::{ambient, failpoint, guests};
use backstitch_ledger::{Acks, Health, Item, Lease, LeaseHeartbeat, Ledger, Wake, Writer, WriterConfig};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::HostConfig;
use crate::service::Service;

/// Acknowledgements that may wait for the scheduler, in batches.
const ACKS_WAITING_MAX: usize = 64;

/// How long to wait, in milliseconds, before a clock that was wrong is looked at again.
const CLOCK_MS_MAX: u64 = 1_000;

/// Longest wait, in milliseconds, before it is looked again whether sessions that were split reach one server.
const SPLIT_MS_MAX: u64 = 1_000;
/// How long a stopping host waits for what is on its way.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a term is over.
#[derive(Clone, Copy)]
enum Over {
    /// The host stops, or others have its runs.
    Ended,
    /// Its scheduler has died.
    Died,
    /// Its sessions reach different servers.
    Split,
}

/// What outlives a term.
pub(super) struct HostState {
    pub(super) config: HostConfig,
    pub(super) ledger: Ledger,
    pub(super) heartbeat: Arc<LeaseHeartbeat>,
    pub(super) clock: Clock,
    pub(super) tenure: Tenure,
    pub(super) programs: ComponentRegistry,
    /// For the ledgers of runs that are loaded: what one term holds, the next has not.
    pub(super) room: Room,
    pub(super) jobs: crossbeam_channel::Sender<guests::Work>,
    /// Where the guest threads send what they have done: the current term's scheduler.
    pub(super) done: watch::Sender<Option<Inputs>>,
    pub(super) closings: Closings,
    pub(super) counters: Arc<Counters>,
    pub(super) current: watch::Sender<Option<Term>>,
    /// By which schedules start runs, as clients do.
    pub(super) service: Service,
    pub(super) stop: CancellationToken,
    /// The sessions of the term before have reached different servers.
    pub(super) split: AtomicBool,
}

impl HostState {
    /// One term after the other, until the host is stopped.
    pub(super) async fn serve(self) {
        while !self.stop.is_cancelled() {
            self.term().await;
        }
        self.done.send_replace(None);
    }

    async fn term(&self) {
        if self.clock.wrong().is_some() {
            return self.until_the_clock_is_right().await;
        }
        let host = ambient::new_host_id();
        let (sent_ms, lease) = tokio::select! {
            registered = self.register(host) => registered,
            () = self.stop.cancelled() => return,
        };
        self.ledger.tie_sessions(lease);
        self.tenure.renew(sent_ms);
        tracing::info!(%host, "registered");

        let (inputs, inputs_taken) = driver::channel();
        let (items, items_taken) = mpsc::channel(limits::WRITER_QUEUE_MAX);
        let (acks, acks_taken) = mpsc::channel(ACKS_WAITING_MAX);
        let writing = WriterConfig {
            batch_max: self.config.batch_max,
            hook: failpoint::writer_hook(),
            ..WriterConfig::default()
        };
        let writer = match Writer::spawn(&self.ledger, lease, items_taken, acks, writing) {
            Ok(writer) => writer,
            Err(error) => {
                // The same URL has made the pool.
                tracing::error!(%error, "no writer");
                return self.stop.cancel();
            }
        };
        let shared = Shared::new(lease, inputs.clone());
        let deps = self.deps(&shared, items, acks_taken, writer.connections.clone());
        let driver = Driver::new(deps, self.live(&shared), inputs.clone(), inputs_taken);
        let scheduler = tokio::spawn(driver.run());
        self.done.send_replace(Some(inputs.clone()));

        let watcher = self.watcher(&shared);
        let loops = self.poll(&watcher, &shared);
        let (health_sender, heartbeat_health) = watch::channel(Health::Healthy);
        let renewals = tokio::spawn(watcher.renewals(Arc::clone(&self.heartbeat), health_sender));
        self.current.send_replace(Some(Term {
            host,
            inputs: inputs.clone(),
            inbox_wakeup: shared.inbox_wakeup,
            health: writer.health.clone(),
            busy: writer.busy.clone(),
            heartbeat_health,
        }));

        let over = self.until_over(scheduler, renewals, loops, inputs).await;
        self.tenure.end();
        self.current.send_replace(None);
        self.done.send_replace(None);
        writer.task.abort();
        self.ledger.untie_sessions();
        self.release_lease(lease, over).await;
    }

    /// What the scheduler of a term asks.
    fn live(&self, shared: &Shared) -> Live {
        Live {
            programs: self.programs.clone(),
            matcher: self.service.matcher().clone(),
            tenure: self.tenure.clone(),
            caution: shared.caution.clone(),
            memory: self.programs.sandbox().room(),
            clock: self.clock.clone(),
        }
    }

    /// What the driver of a term works with.
    fn deps(
        &self,
        shared: &Shared,
        items: mpsc::Sender<Item>,
        acks: mpsc::Receiver<Acks>,
        connections: watch::Receiver<u64>,
    ) -> Deps {
        Deps {
            lease: shared.lease,
            clock: self.clock.clone(),
            ledger: self.ledger.clone(),
            loads: Loads {
                programs: self.programs.clone(),
                ledger: self.ledger.clone(),
                host: shared.lease.host,
                inputs: shared.inputs.clone(),
                room: self.room.clone(),
            },
            programs: self.programs.clone(),
            jobs: self.jobs.clone(),
            items,
            acks,
            connections,
            restored: self.tenure.restored(),
            inbox_wakeup: Arc::clone(&shared.inbox_wakeup),
            timer_wakeup: shared.timer_wakeup.clone(),
            matcher: self.service.matcher().clone(),
            notifier: self.service.notifier().clone(),
            closings: self.closings.clone(),
            counters: Arc::clone(&self.counters),
            warm_runs_max: self.config.warm_runs_max,
            attempts_max: self.config.activities_max,
            check_activations: self.config.check_activations,
        }
    }

    /// What the pollers of a term work with.
    fn watcher(&self, shared: &Shared) -> Pollers {
        Pollers {
            ledger: self.ledger.clone(),
            clock: self.clock.clone(),
            tenure: self.tenure.clone(),
            lease: shared.lease,
            lease_ms: self.config.lease_ms,
            began: Instant::now(),
            caution: shared.caution.clone(),
            inputs: shared.inputs.clone(),
            inbox_wakeup: Arc::clone(&shared.inbox_wakeup),
            timer_wakeup: shared.timer_wakeup.clone(),
            matcher: self.service.matcher().clone(),
            notifier: self.service.notifier().clone(),
        }
    }

    /// Starts the pollers of a term.
    fn poll(&self, watcher: &Pollers, shared: &Shared) -> JoinSet<()> {
        let mut loops = JoinSet::new();
        loops.spawn(watcher.clone().claims());
        loops.spawn(watcher.clone().timers());
        loops.spawn(watcher.clone().inbox());
        loops.spawn(watcher.clone().chores());
        loops.spawn(watcher.clone().tasks());
        loops.spawn(watcher.clone().backlog());
        loops.spawn(watcher.clone().lacking());
        loops.spawn(watcher.clone().directory(self.programs.clone(), self.service.quotas().clone()));
        loops.spawn(self.service.for_host().keep_schedules());
        loops.spawn(listen(
            self.ledger.clone(),
            shared.lease.host,
            Arc::clone(&shared.inbox_wakeup),
            self.service.matcher().clone(),
        ));
        loops
    }

    /// Registers, however long that takes. After sessions of the term before have reached different servers, not before
    /// they reach one.
    async fn register(&self, host: HostId) -> (u64, Lease) {
        let lease_ms = self.config.lease_ms;
        loop {
            let registering = until_answered("registering", async || {
                let sent_ms = ambient::uptime_ms();
                self.heartbeat.register(host, lease_ms, "backstitch").await.map(|lease| (sent_ms, lease))
            });
            let (sent_ms, lease) = registering.await;
            if !self.split.load(Ordering::Relaxed) {
                return (sent_ms, lease);
            }
            self.ledger.tie_sessions(lease);
            match self.ledger.sessions_agree().await {
                Ok(true) => {
                    tracing::info!("the sessions of this host reach one server again");
                    self.split.store(false, Ordering::Relaxed);
                    return (sent_ms, lease);
                }
                Ok(false) => tracing::debug!("the sessions of this host still reach different servers"),
                Err(error) => tracing::warn!(%error, "it is not known which servers the sessions reach"),
            }
            self.release_lease(lease, Over::Split).await;
            tokio::time::sleep(Duration::from_millis(lease_ms.min(SPLIT_MS_MAX))).await;
        }
    }

    /// Gives the lease of a term back that is over.
    async fn release_lease(&self, lease: Lease, over: Over) {
        let released = match over {
            // As if the host had died: it may have been over one of its runs.
            Over::Died => self.ledger.declare_dead(lease.host).await.map(drop),
            Over::Ended => self.heartbeat.release(lease).await,
            // At each of the servers, as far as they can be reached: one of them is the database from now on.
            Over::Split => {
                self.ledger.refuse_sessions();
                self.split.store(true, Ordering::Relaxed);
                let here = self.heartbeat.release(lease).await;
                self.heartbeat.reconnect().await;
                here.and(self.ledger.release(lease).await)
            }
        };
        if let Err(error) = released {
            tracing::warn!(%error, "the lease could not be given back; it will run out");
        }
    }

    /// A clock that is wrong is looked at again and again: whoever sets it right need not start the host anew.
    async fn until_the_clock_is_right(&self) {
        let pause = Duration::from_millis(self.config.lease_ms.min(CLOCK_MS_MAX));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => return,
        }
        match self.heartbeat.read_clock().await {
            Ok(reading) => self.clock.set_by(&reading),
            Err(error) => tracing::debug!(%error, "the database's clock could not be read"),
        }
    }

    /// Waits until the term ends: fenced, or stopped and drained.
    async fn until_over(
        &self,
        mut scheduler: JoinHandle<()>,
        mut renewals: JoinHandle<()>,
        mut loops: JoinSet<()>,
        inputs: Inputs,
    ) -> Over {
        let mut over = Over::Ended;
        tokio::select! {
            ended = &mut scheduler => if ended.is_err_and(|error| error.is_panic()) { over = Over::Died },
            _ = &mut renewals => {}
            () = self.ledger.sessions_split() => {
                tracing::error!(
                    "the sessions of this host reach different servers: after a failover, names, proxies or old connections \
                     lead to the old primary and to the new one; the host gives its runs up until all of them reach one"
                );
                over = Over::Split;
            }
            // None of them ends while the term can go on.
            _ = loops.join_next() => {}
            () = self.stop.cancelled() => {
                // No more runs are taken on; those that are here come to rest.
                loops.abort_all();
                let (done, drained) = oneshot::channel();
                let _ = inputs.send(Input::Drain(done)).await;
                if tokio::time::timeout(DRAIN, drained).await.is_err() {
                    tracing::warn!("stopping with work on its way; its runs will be replayed");
                }
            }
        }
        scheduler.abort();
        renewals.abort();
        over
    }
}

/// What the scheduler of a term and its pollers have in common.
struct Shared {
    lease: Lease,
    inputs: Inputs,
    inbox_wakeup: Arc<Notify>,
    timer_wakeup: TimerWakeup,
    caution: Caution,
}

impl Shared {
    fn new(lease: Lease, inputs: Inputs) -> Self {
        Self {
            lease,
            inputs,
            inbox_wakeup: Arc::default(),
            timer_wakeup: TimerWakeup::default(),
            caution: Caution::default(),
        }
    }
}

/// Turns notifications of the database into hints.
async fn listen(ledger: Ledger, host: HostId, inbox_wakeup: Arc<Notify>, matcher: TaskMatcher) {
    let mut wakeups = ledger.wakeups(host);
    loop {
        match wakeups.next().await {
            Wake::Tasks(tenant, name) => matcher.offered_any(&Queue { tenant, name: name.into() }),
            Wake::Messages => inbox_wakeup.notify_one(),
            Wake::Lost => {
                inbox_wakeup.notify_one();
                matcher.queues().iter().for_each(|queue| matcher.offered_any(queue));
            }
        }
    }
}
