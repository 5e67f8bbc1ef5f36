//! A host: one process's part in running an installation's workflows.
//!
//! A host lives in *terms*. A term is one registration: an identity, a lease, a scheduler, a writer
//! and the loops that feed them. When the lease is lost (the process was stopped, or cut off from
//! the database for too long), everything of the term is dropped, and the host registers anew as
//! somebody else. Nothing needs to be handed over: the ledger is all there is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstitch_core::HostId;
use backstitch_core::limits;
use backstitch_core::matcher::Queue;
use backstitch_ledger::{ConnectOptions, Health, Heart, Lease, Ledger, Payloads, Wake, Writer, WriterConfig};
use backstitch_sandbox::{Compiler, EgressConfig, GuestTime, Sandbox, SandboxConfig};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local::Workers;
use crate::service::Service;
use backstitch_engine::absent::Absent;
use backstitch_engine::caution::Caution;
use backstitch_engine::clock::Clock;
use backstitch_engine::closings::Closings;
use backstitch_engine::counters::Counters;
use backstitch_engine::guests::AtOnce;
use backstitch_engine::in_hand::InHand;
use backstitch_engine::loads::Loads;
use backstitch_engine::matcher::TaskMatcher;
use backstitch_engine::programs::Programs;
use backstitch_engine::quota::Quotas;
use backstitch_engine::retry::until_answered;
use backstitch_engine::room::Room;
use backstitch_engine::scheduler::{self, Input, Inputs, Scheduler, Tools};
use backstitch_engine::tenure::Tenure;
use backstitch_engine::term::Term;
use backstitch_engine::watch::Watcher;
use backstitch_engine::{ambient, guests, memory};

/// Acknowledgements that may wait for the scheduler, in batches.
const ACKS_WAITING_MAX: usize = 64;
/// How long to wait, in milliseconds, before a clock that was wrong is looked at again.
const CLOCK_MS_MAX: u64 = 1_000;
/// Longest wait, in milliseconds, before it is looked again whether sessions that were split reach one server.
const SPLIT_MS_MAX: u64 = 1_000;
/// How long a stopping host waits for what is on its way.
const DRAIN: Duration = Duration::from_secs(10);

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The database.
    pub database_url: String,
    /// The schema of its tables, whatever `search_path` the role or the database has; none: `public`.
    pub schema: Option<String>,
    /// Where compiled code is kept; none: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// How long the host may be silent before others take its runs, in milliseconds.
    pub lease_ms: u64,
    /// Guests kept in memory.
    pub warm_runs_max: usize,
    /// Attempts of activities at a time.
    pub activities_max: usize,
    /// Threads that run guests.
    pub guest_threads: usize,
    /// How long the calls of one activation may be carried out on its thread, before other guests get
    /// their turn; the rest of them is carried out in the ordinary way. 0: all of them.
    pub at_once_ms: u64,
    /// Appends that are committed in one statement; 1 is a transaction for each.
    pub batch_max: usize,
    /// How long a workflow may compute.
    pub guest_time: GuestTime,
    /// Linear memory of all guests together, in bytes; warm ones are dropped, attempts wait.
    pub guest_memory_bytes_max: usize,
    /// Whole ledgers in memory, in bytes: so much for runs that are taken over, and as much for clients.
    pub ledger_memory_bytes_max: usize,
    /// What activities may reach, and with which secrets.
    pub egress: EgressConfig,
    /// How payloads are stored: as they are, or sealed.
    pub payloads: Payloads,
    /// A host that is known to be dead, whose runs need not wait for its lease to run out.
    pub predecessor: Option<HostId>,
    /// Debug builds: go over every activation twice more and compare.
    pub check_activations: bool,
}

impl HostConfig {
    /// The defaults, on a database.
    pub fn new(database_url: impl Into<String>, compiler: Compiler) -> Self {
        Self {
            database_url: database_url.into(),
            schema: None,
            cache_dir: None,
            compiler,
            lease_ms: limits::LEASE_MS,
            warm_runs_max: limits::WARM_RUNS_MAX,
            activities_max: limits::ACTIVITIES_RUNNING_MAX,
            guest_threads: std::thread::available_parallelism().map_or(2, usize::from),
            at_once_ms: limits::CALLS_AT_ONCE_MS,
            batch_max: limits::BATCH_APPENDS_MAX,
            guest_time: GuestTime::default(),
            guest_memory_bytes_max: memory::guest_memory_bytes_max(),
            ledger_memory_bytes_max: memory::ledger_memory_bytes_max(),
            egress: EgressConfig::default(),
            payloads: Payloads::default(),
            predecessor: None,
            check_activations: false,
        }
    }
}

/// Why a host did not start. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The database.
    #[error(transparent)]
    Connect(#[from] backstitch_ledger::ConnectError),
    /// Its schema.
    #[error(transparent)]
    Migrate(#[from] backstitch_ledger::MigrateError),
    /// The database, later.
    #[error(transparent)]
    Ledger(#[from] backstitch_ledger::LedgerError),
    /// The keys of its payloads.
    #[error(transparent)]
    Keys(#[from] backstitch_ledger::KeyError),
    /// This machine's clock.
    #[error("{0}")]
    Clock(String),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] backstitch_sandbox::SandboxError),
    /// The operating system.
    #[error("no thread for guests: {0}")]
    Threads(#[from] std::io::Error),
}

/// A running host.
pub struct Host {
    service: Service,
    stop: CancellationToken,
    terms: JoinHandle<()>,
    threads: Vec<std::thread::JoinHandle<()>>,
    current: watch::Receiver<Option<Term>>,
    /// Those in this process.
    pub(crate) workers: Workers,
}

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
struct Fixed {
    config: HostConfig,
    ledger: Ledger,
    heart: Arc<Heart>,
    clock: Clock,
    tenure: Tenure,
    programs: Programs,
    /// For the ledgers of runs that are loaded: what one term holds, the next has not.
    room: Room,
    jobs: crossbeam_channel::Sender<guests::Job>,
    /// Where the guest threads send what they have done: the current term's scheduler.
    done: watch::Sender<Option<Inputs>>,
    closings: Closings,
    counters: Arc<Counters>,
    current: watch::Sender<Option<Term>>,
    /// By which schedules start runs, as clients do.
    service: Service,
    stop: CancellationToken,
    /// The sessions of the term before have reached different servers.
    split: AtomicBool,
}

impl Host {
    /// Connects, brings the schema up to date, and starts to work. Fails rather than waits.
    pub async fn start(config: HostConfig) -> Result<Self, HostError> {
        let payloads = config.payloads.clone();
        let lease_ms = config.lease_ms;
        let schema = config.schema.clone();
        let options =
            ConnectOptions { payloads, lease_ms, schema, ..ConnectOptions::new(&config.database_url) };
        let ledger = Ledger::connect(options).await?;
        // Before anything else takes what connections the server has left, and for as long as the host lives.
        let heart = Arc::new(ledger.heart()?);
        let clock = Clock::new(&heart.read_clock().await?);
        if let Some(wrong) = clock.wrong() {
            return Err(HostError::Clock(wrong));
        }
        ledger.prepare_schema().await?;
        ledger.check_keys().await?;
        ledger.ensure_partitions(clock.now_ms()).await?;
        if let Some(dead) = config.predecessor {
            ledger.declare_dead(dead).await?;
        }
        let sandbox = Sandbox::new(SandboxConfig {
            cache_dir: config.cache_dir.clone(),
            compiler: config.compiler.clone(),
            // Guests on threads, and guests that come back from there, are alive besides the warm ones.
            warm_runs_max: config.warm_runs_max + 2 * config.guest_threads + 16,
            activities_max: config.activities_max,
            guest_time: config.guest_time,
            memory_bytes_max: config.guest_memory_bytes_max,
            egress: config.egress.clone(),
        })?;
        let quotas = Quotas::default();
        quotas.refresh(&ledger).await?;
        let programs = Programs::new(ledger.clone(), sandbox, quotas.clone());
        programs.refresh().await?;

        let (jobs, jobs_waiting) = crossbeam_channel::unbounded();
        let (done, _) = watch::channel(None::<Inputs>);
        let scheduler = done.clone();
        let tenure = Tenure::new(lease_ms);
        let bound = Duration::from_millis(config.at_once_ms);
        let at_once =
            AtOnce { programs: programs.clone(), clock: clock.clone(), tenure: tenure.clone(), bound };
        let threads = guests::spawn(config.guest_threads, &jobs_waiting, &at_once, move |activated| {
            // Between two terms nobody wants it: the run is read from its ledger again.
            let inputs = scheduler.borrow().clone();
            if let Some(inputs) = inputs {
                let _ = inputs.blocking_send(Input::Activated(activated));
            }
        })?;
        let closings = Closings::default();
        let (current, current_seen) = watch::channel(None);
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let readings = Room::new(limits::READINGS_MAX, config.ledger_memory_bytes_max);
        let service = Service::new(
            (ledger.clone(), readings),
            programs.clone(),
            quotas,
            current_seen.clone(),
            closings.clone(),
            Arc::clone(&counters),
            (clock.clone(), tenure.clone()),
        );
        let room = Room::new(limits::LOADS_RUNNING_MAX, config.ledger_memory_bytes_max);
        let fixed = Fixed {
            config,
            ledger,
            heart,
            clock,
            tenure,
            programs,
            room,
            jobs,
            done,
            closings,
            counters,
            current,
            service: service.clone(),
            stop: stop.clone(),
            split: AtomicBool::new(false),
        };
        let mut current = current_seen;
        let terms = tokio::spawn(fixed.serve());
        // A host that is ready has a lease: a start that is accepted can be owned.
        let _ = current.wait_for(Option::is_some).await;
        Ok(Self { service, stop, terms, threads, current, workers: Workers::default() })
    }

    /// What clients call.
    pub fn service(&self) -> Service {
        self.service.clone()
    }

    /// Who this host is now.
    pub fn host_id(&self) -> Option<HostId> {
        self.current.borrow().as_ref().map(|term| term.host)
    }

    /// A view on who this host is: changes when it has to register anew.
    pub fn host_ids(&self) -> impl Future<Output = HostId> + use<> {
        let mut current = self.current.clone();
        let before = self.host_id();
        async move {
            loop {
                let now = current.borrow_and_update().as_ref().map(|term| term.host);
                match now {
                    Some(host) if before != Some(host) => return host,
                    _ if current.changed().await.is_err() => std::future::pending().await,
                    _ => {}
                }
            }
        }
    }

    /// Finishes what is on its way, gives up its runs, and ends.
    pub async fn shutdown(self) {
        self.workers.stop().await;
        self.stop.cancel();
        if let Err(error) = self.terms.await {
            tracing::error!(%error, "the host did not end well");
        }
        let _ = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                let _ = thread.join();
            }
        })
        .await;
    }
}

impl Fixed {
    /// One term after the other, until the host is stopped.
    async fn serve(self) {
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
        let lease_ms = self.config.lease_ms;
        let (sent_ms, lease) = tokio::select! {
            registered = self.register(host) => registered,
            () = self.stop.cancelled() => return,
        };
        self.ledger.tie_sessions(lease);
        self.tenure.renew(sent_ms);
        tracing::info!(%host, "registered");

        let (inputs, inputs_taken) = scheduler::channel();
        let (items, items_taken) = mpsc::channel(limits::WRITER_QUEUE_MAX);
        let (acks, acks_taken) = mpsc::channel(ACKS_WAITING_MAX);
        let (inbox_hint, in_hand) = (Arc::new(Notify::new()), InHand::default());
        let (timer_hint, _) = watch::channel(0);
        let writing = WriterConfig {
            batch_max: self.config.batch_max,
            hook: backstitch_engine::crash::writer_hook(),
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
        let (absent, caution) = (Absent::default(), Caution::default());
        let loads = Loads {
            programs: self.programs.clone(),
            ledger: self.ledger.clone(),
            host,
            inputs: inputs.clone(),
            room: self.room.clone(),
        };
        let tools = Tools {
            lease,
            clock: self.clock.clone(),
            tenure: self.tenure.clone(),
            caution: caution.clone(),
            ledger: self.ledger.clone(),
            loads,
            absent: absent.clone(),
            programs: self.programs.clone(),
            jobs: self.jobs.clone(),
            items,
            in_hand: in_hand.clone(),
            connections: writer.connections.clone(),
            inbox_hint: Arc::clone(&inbox_hint),
            timer_hint: timer_hint.clone(),
            matcher: self.service.matcher().clone(),
            crier: self.service.crier().clone(),
            closings: self.closings.clone(),
            counters: Arc::clone(&self.counters),
            warm_runs_max: self.config.warm_runs_max,
            room: self.programs.sandbox().room(),
            attempts_max: self.config.activities_max,
            check_activations: self.config.check_activations,
        };
        let scheduler = tokio::spawn(Scheduler::new(tools, inputs_taken, inputs.clone(), acks_taken).run());
        self.done.send_replace(Some(inputs.clone()));

        let watcher = Watcher {
            ledger: self.ledger.clone(),
            clock: self.clock.clone(),
            tenure: self.tenure.clone(),
            lease,
            lease_ms,
            began: Instant::now(),
            caution,
            inputs: inputs.clone(),
            in_hand,
            inbox_hint: Arc::clone(&inbox_hint),
            timer_hint,
            absent,
            matcher: self.service.matcher().clone(),
            crier: self.service.crier().clone(),
        };
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
            host,
            Arc::clone(&inbox_hint),
            self.service.matcher().clone(),
        ));
        let (pulse_sender, pulse) = watch::channel(Health::Healthy);
        let renewals = tokio::spawn(watcher.renewals(Arc::clone(&self.heart), pulse_sender));
        let (health, busy) = (writer.health.clone(), writer.busy.clone());
        self.current.send_replace(Some(Term {
            host,
            inputs: inputs.clone(),
            inbox_hint,
            health,
            busy,
            pulse,
        }));

        let over = self.until_over(scheduler, renewals, loops, inputs).await;
        self.tenure.end();
        self.current.send_replace(None);
        self.done.send_replace(None);
        writer.task.abort();
        self.ledger.untie_sessions();
        self.give_up(lease, over).await;
    }

    /// Registers, however long that takes. After sessions of the term before have reached different servers, not before
    /// they reach one.
    async fn register(&self, host: HostId) -> (u64, Lease) {
        let lease_ms = self.config.lease_ms;
        loop {
            let registering = until_answered("registering", async || {
                let sent_ms = ambient::uptime_ms();
                self.heart.register(host, lease_ms, "backstitch").await.map(|lease| (sent_ms, lease))
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
            self.give_up(lease, Over::Split).await;
            tokio::time::sleep(Duration::from_millis(lease_ms.min(SPLIT_MS_MAX))).await;
        }
    }

    /// Gives the lease of a term back that is over.
    async fn give_up(&self, lease: Lease, over: Over) {
        let given_up = match over {
            // As if the host had died: it may have been over one of its runs.
            Over::Died => self.ledger.declare_dead(lease.host).await.map(drop),
            Over::Ended => self.heart.release(lease).await,
            // At each of the servers, as far as they can be reached: one of them is the database from now on.
            Over::Split => {
                self.ledger.refuse_sessions();
                self.split.store(true, Ordering::Relaxed);
                let here = self.heart.release(lease).await;
                self.heart.reconnect().await;
                here.and(self.ledger.release(lease).await)
            }
        };
        if let Err(error) = given_up {
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
        match self.heart.read_clock().await {
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

/// Turns notifications of the database into hints.
async fn listen(ledger: Ledger, host: HostId, inbox_hint: Arc<Notify>, matcher: TaskMatcher) {
    let mut wakeups = ledger.wakeups(host);
    loop {
        match wakeups.next().await {
            Wake::Tasks(tenant, name) => matcher.offered_any(&Queue { tenant, name: name.into() }),
            Wake::Hint => inbox_hint.notify_one(),
            Wake::Lost => {
                inbox_hint.notify_one();
                matcher.queues().iter().for_each(|queue| matcher.offered_any(queue));
            }
        }
    }
}
