//! The writer: one task, one connection, one statement at a time, for one host and shard.
//!
//! It promises that each item is acknowledged once, in the order in which its run's items were sent,
//! and that `Committed` means durable, exactly once, whatever happens to the connection in between:
//!
//! | the statement ended with | the writer |
//! |---|---|
//! | a reply | acknowledges; if the fence was shut, says so to everyone and stops |
//! | no reply: the connection is gone | reconnects, ends the old backend, reads back by key, and only then repeats what is not there |
//! | a lost race (40001, 40P01, a timeout) | repeats it |
//! | out of space, memory, connections; read-only | keeps the batch, waits, repeats; [`Health`] says why |
//! | an error of the data, a place that is taken | commits the items one by one, and poisons the guilty ones |
//! | the row that an item follows is not there | poisons the items of that run ([`PoisonKind::Behind`]), and sends the others again |
//!
//! **The unknown outcome.** A backend may go on with a statement whose client is gone. So the writer first
//! ends that backend and waits until it has left `pg_stat_activity`: from then on its transaction has
//! a fate. A statement is atomic, so any one row of it, found with its checksum, proves that all was
//! committed. A batch without such a row (starts, parking, timers, consumed messages) may simply be
//! repeated: a start is refused if it exists (and recognised by its row 0), and the rest sets or
//! removes what no one else writes.
//!
//! **Found is not yet safe.** Ending a backend may cut short its wait for a synchronous standby: its rows are there, and
//! the next failover may lose them. So what was found after a lost reply is told only when one more write, which comes
//! after it in the log, has been committed and waited for.
//!
//! **A lost connection may mean a database that has lost commits.** The writer looks after its connection also when it
//! has nothing to write, and counts the connections that it has made ([`Writer::connections`]): whoever keeps runs in
//! memory compares them with the database when that number changes.
//!
//! It refuses to give up: while the database is away it keeps the batch and the queue fills, which
//! slows the host down. Whoever wants it to end aborts the task.

mod broken;
mod fate;
mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backstitch_core::{RunId, Scope, TenantId, limits};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use self::broken::Broken;
use self::session::Session;
use crate::append::{self, Acks, Batch, Item, Outcome, PoisonKind};
use crate::connect::ConnectOptions;
use crate::error::Failure;
use crate::leases::Lease;
use crate::payloads::Payloads;

/// Whether the writer gets through to the database.
#[derive(Clone, Debug)]
pub enum Health {
    /// The last statement was committed.
    Healthy,
    /// It keeps a batch and tries again.
    Down {
        /// Since when.
        since: Instant,
        /// What the operator should know.
        reason: Arc<str>,
    },
}

impl Health {
    /// Whether the last statement was committed.
    pub fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy)
    }
}

/// What a test's hook wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Nothing.
    Go,
    /// At `append-sent`: the reply is lost, and so is the connection.
    DropReply,
}

/// A function of a test that is called at `append-before`, `append-sent` (the server has replied,
/// nobody has seen it) and `append-after` (the outcome is known, nobody has been told).
pub type HookFn = Arc<dyn Fn(&'static str) -> Hook + Send + Sync>;

/// How the writer batches.
#[derive(Clone)]
pub struct WriterConfig {
    /// Appends in one statement.
    pub batch_max: usize,
    /// Bytes of text in one statement. One append that is larger goes alone.
    pub batch_bytes_max: usize,
    /// Longest wait for company, in microseconds.
    pub linger_us_max: u64,
    /// Crash points for tests.
    pub hook: Option<HookFn>,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            batch_max: limits::BATCH_APPENDS_MAX,
            batch_bytes_max: limits::BATCH_BYTES_MAX,
            linger_us_max: limits::LINGER_US_MAX,
            hook: None,
        }
    }
}

impl fmt::Debug for WriterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterConfig")
            .field("batch_max", &self.batch_max)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("linger_us_max", &self.linger_us_max)
            .finish_non_exhaustive()
    }
}

/// Why the writer has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The senders are gone, and everything they sent is acknowledged.
    Finished,
    /// The lease is gone.
    Fenced,
    /// Nobody listens to the acknowledgements any more.
    Unheard,
}

/// A writer that runs.
#[derive(Debug)]
pub struct Writer {
    /// Ends when the senders or the lease are gone.
    pub task: JoinHandle<Stopped>,
    /// Whether it gets through.
    pub health: watch::Receiver<Health>,
    /// How many connections it has made. One more: what was committed before may be gone.
    pub connections: watch::Receiver<u64>,
}

impl Writer {
    /// Starts the writer of the host that holds `lease`. It connects at once, and keeps its connection.
    ///
    /// The sender of items must not wait for room in `items` while it is also the one who empties `acks`.
    /// What follows a start may be sent behind it, or with it, before that is acknowledged: if the start is refused,
    /// nothing of the run is written.
    pub fn spawn(
        options: &ConnectOptions,
        lease: Lease,
        items: mpsc::Receiver<Item>,
        acks: mpsc::Sender<Acks>,
        config: WriterConfig,
    ) -> Result<Self, sqlx::Error> {
        let (session, connections) = Session::new(options)?;
        let (health_sender, health) = watch::channel(Health::Healthy);
        let state = State {
            session,
            payloads: options.payloads.clone(),
            scope: Scope { shard: options.shard, tenant: TenantId::DEFAULT },
            lease,
            items,
            acks,
            config,
            health: health_sender,
            pending: Vec::new(),
            batch: Batch::default(),
            broken: Broken::default(),
            last: Last::default(),
        };
        Ok(Self { task: tokio::spawn(state.run()), health, connections })
    }
}

struct State {
    session: Session,
    payloads: Payloads,
    /// Only the shard of it is used: tenants differ from item to item.
    scope: Scope,
    lease: Lease,
    items: mpsc::Receiver<Item>,
    acks: mpsc::Sender<Acks>,
    config: WriterConfig,
    health: watch::Sender<Health>,
    /// Received, not yet acknowledged. A batch is its beginning.
    pending: Vec<Item>,
    batch: Batch,
    broken: Broken,
    last: Last,
}

/// The statement before: what lingering goes by.
#[derive(Default)]
struct Last {
    items: usize,
    took: Duration,
}

/// What became of one statement.
enum Settled {
    Committed {
        refused: Vec<RunId>,
    },
    Fenced,
    /// Nothing was written, for the ledgers of these runs do not go as far as their items say.
    Behind {
        runs: Vec<Uuid>,
    },
    /// The data is at fault. If the statement had several items, it is not known whose.
    Guilty {
        kind: PoisonKind,
        message: String,
    },
}

impl State {
    async fn run(mut self) -> Stopped {
        self.look_after_connection().await;
        loop {
            if self.pending.is_empty() {
                let received = self.items.recv_many(&mut self.pending, self.config.batch_max);
                match tokio::time::timeout(IDLE, received).await {
                    Ok(0) => return Stopped::Finished,
                    Ok(_) => self.prepare(0),
                    Err(_) => {
                        self.look_after_connection().await;
                        continue;
                    }
                }
            }
            self.linger().await;
            if !self.weed().await {
                return Stopped::Unheard;
            }
            let count = self.cut();
            if count == 0 {
                continue;
            }
            let began = Instant::now();
            let heard = match self.settle(0..count).await {
                Settled::Committed { refused } => self.committed(0..count, refused).await,
                Settled::Fenced => return self.fenced().await,
                Settled::Behind { runs } => {
                    if !self.leave_behind(count, &runs).await {
                        return Stopped::Unheard;
                    }
                    continue;
                }
                Settled::Guilty { kind, message } if count == 1 => self.poison(0, kind, message).await,
                Settled::Guilty { .. } => match self.isolate(count).await {
                    Some(heard) => heard,
                    None => return self.fenced().await,
                },
            };
            if !heard {
                return Stopped::Unheard;
            }
            self.pending.drain(..count);
            self.last = Last { items: count, took: began.elapsed() };
        }
    }

    /// Waits a moment for company, if the statement before had some and this one would be smaller:
    /// then others are likely on their way, and a commit costs the same for all.
    async fn linger(&mut self) {
        let room = |state: &Self| state.config.batch_max.saturating_sub(state.pending.len());
        if self.last.items > 1 && self.pending.len() < self.last.items && room(self) > 0 {
            let longest = Duration::from_micros(self.config.linger_us_max);
            let nap = longest.min(self.last.took / 4);
            // Tokio's own timers are a millisecond coarse.
            tokio::task::spawn_blocking(move || std::thread::sleep(nap)).await.ok();
        }
        let known = self.pending.len();
        for _ in 0..room(self) {
            match self.items.try_recv() {
                Ok(item) => self.pending.push(item),
                Err(_) => break,
            }
        }
        self.prepare(known);
    }

    /// Brings the payloads of what has just been received, from the place `from` on, into their stored form.
    fn prepare(&mut self, from: usize) {
        for item in &mut self.pending[from..] {
            self.payloads.seal_append(&mut item.append);
        }
    }

    /// How many of the pending items go into the next statement.
    fn cut(&mut self) -> usize {
        self.batch.clear();
        let (batch, config) = (&mut self.batch, &self.config);
        let fitting = self.pending.iter().take_while(|item| batch.fits(&item.append, config.batch_bytes_max));
        fitting.count().min(config.batch_max)
    }

    /// Keeps the connection alive, and notices when it is gone. What it cannot mend now is tried again.
    async fn look_after_connection(&mut self) {
        let bound = self.session.statement_ms_max;
        match within(bound, self.session.ping()).await {
            Ok(()) => self.report_healthy(),
            Err(error) => {
                self.session.drop_connection();
                self.report_down(&error);
            }
        }
    }

    /// Refuses pending items that would leave a gap. False: nobody listens.
    async fn weed(&mut self) -> bool {
        let broken = &mut self.broken;
        let mut gaps = Vec::new();
        self.pending.retain(|item| {
            let gap = broken.continues(item) || !item.append.is_linked();
            if gap {
                gaps.push(item.ticket);
            }
            !gap
        });
        gaps.is_empty() || self.tell(gaps, gap()).await
    }

    /// Commits the first `count` items one by one. None: fenced; what was told is no longer pending.
    async fn isolate(&mut self, count: usize) -> Option<bool> {
        for index in 0..count {
            let heard = if self.broken.continues(&self.pending[index]) {
                self.tell(vec![self.pending[index].ticket], gap()).await
            } else {
                match self.settle(index..index + 1).await {
                    Settled::Committed { refused } => self.committed(index..index + 1, refused).await,
                    Settled::Guilty { kind, message } => self.poison(index, kind, message).await,
                    Settled::Behind { .. } => self.poison(index, PoisonKind::Behind, behind()).await,
                    Settled::Fenced => {
                        self.pending.drain(..index);
                        return None;
                    }
                }
            };
            if !heard {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Poisons those of the first `count` items whose runs are behind; the others stay. False: nobody listens.
    async fn leave_behind(&mut self, count: usize, runs: &[Uuid]) -> bool {
        let mut index = 0;
        for _ in 0..count {
            if !runs.contains(&self.pending[index].append.run.0) {
                index += 1;
                continue;
            }
            if !self.poison(index, PoisonKind::Behind, behind()).await {
                return false;
            }
            self.pending.remove(index);
        }
        true
    }

    async fn committed(&mut self, range: std::ops::Range<usize>, refused: Vec<RunId>) -> bool {
        let items = &self.pending[range];
        if !refused.is_empty() {
            self.broken.refused(items, &refused);
        }
        let tickets = items.iter().map(|item| item.ticket).collect();
        self.tell(tickets, Outcome::Committed { refused }).await
    }

    async fn poison(&mut self, index: usize, kind: PoisonKind, message: String) -> bool {
        let item = &self.pending[index];
        tracing::error!(run = %item.append.run, ?kind, message, "an append can never be committed");
        self.broken.poisoned(item);
        self.tell(vec![item.ticket], Outcome::Poisoned { kind, message }).await
    }

    /// Tells everyone who waits, and everyone in the queue.
    async fn fenced(mut self) -> Stopped {
        tracing::warn!(host = %self.lease.host, epoch = %self.lease.epoch, "the lease is gone: fenced");
        self.items.close();
        while let Some(item) = self.items.recv().await {
            self.pending.push(item);
        }
        let tickets = self.pending.iter().map(|item| item.ticket).collect();
        self.tell(tickets, Outcome::Fenced).await;
        Stopped::Fenced
    }

    async fn tell(&self, tickets: Vec<u64>, outcome: Outcome) -> bool {
        self.acks.send(Acks { tickets, outcome }).await.is_ok()
    }

    fn hook(&self, point: &'static str) -> Hook {
        self.config.hook.as_ref().map_or(Hook::Go, |hook| hook(point))
    }

    /// Repeats one statement until its fate is known.
    async fn settle(&mut self, range: std::ops::Range<usize>) -> Settled {
        let mut unknown = false;
        let mut repeated = false;
        let mut tries = 0;
        loop {
            match self.attempt(range.clone(), &mut unknown, &mut repeated).await {
                Ok(settled) => {
                    self.report_healthy();
                    self.hook("append-after");
                    return settled;
                }
                Err((failure, error)) => {
                    if matches!(failure, Failure::Lost | Failure::ReadOnly) {
                        self.session.drop_connection();
                    }
                    tries += 1;
                    if failure != Failure::Contended || tries >= CONTENDED_TRIES {
                        self.report_down(&error);
                    }
                    tokio::time::sleep(back_off(failure, tries)).await;
                }
            }
        }
    }

    /// One try. An error says that the fate is still open.
    async fn attempt(
        &mut self,
        range: std::ops::Range<usize>,
        unknown: &mut bool,
        repeated: &mut bool,
    ) -> Result<Settled, (Failure, sqlx::Error)> {
        let classed = |error: sqlx::Error| (Failure::of(&error), error);
        let bound = self.session.statement_ms_max;
        let items = &self.pending[range];
        let connection = self.session.connection().await.map_err(classed)?;
        if *unknown {
            let found = async {
                let settled = fate::witness(connection, self.scope, items).await?;
                if settled.is_some() {
                    fate::confirm(connection).await?;
                }
                Ok(settled)
            };
            if let Some(settled) = within(bound, found).await.map_err(classed)? {
                return Ok(settled);
            }
            (*unknown, *repeated) = (false, true);
        }
        let hook = |point| self.config.hook.as_ref().map_or(Hook::Go, |hook| hook(point));
        hook("append-before");
        let lease = (self.lease.host, self.lease.epoch);
        let mut result = within(bound, append::execute(connection, lease, self.scope, items)).await;
        if hook("append-sent") == Hook::DropReply {
            result = Err(lost("the test dropped the reply"));
        }
        match result {
            Ok(appended) if appended.fenced => Ok(Settled::Fenced),
            Ok(appended) if !appended.behind.is_empty() => Ok(Settled::Behind { runs: appended.behind }),
            Ok(appended) => {
                fate::check_changes(items, &appended);
                let mut refused = fate::refused(items, &appended);
                if *repeated && !refused.is_empty() {
                    // It is committed; only the question is open. Without an answer, ask as after a lost reply.
                    *unknown = true;
                    let ours = within(bound, fate::starts_of_ours(connection, self.scope, items)).await;
                    let ours = ours.map_err(classed)?;
                    refused.retain(|run| !ours.contains(run));
                }
                Ok(Settled::Committed { refused })
            }
            Err(error) if Failure::of(&error) == Failure::Data => {
                within(bound, fate::judge(connection, self.scope, items, &error)).await.map_err(classed)
            }
            Err(error) => {
                let failure = Failure::of(&error);
                *unknown |= failure == Failure::Lost;
                Err((failure, error))
            }
        }
    }

    fn report_healthy(&self) {
        self.health.send_if_modified(|health| {
            let recovered = !health.is_healthy();
            if recovered {
                tracing::info!("the writer gets through to the database again");
                *health = Health::Healthy;
            }
            recovered
        });
    }

    fn report_down(&self, error: &sqlx::Error) {
        self.health.send_if_modified(|health| {
            let reason: Arc<str> = error.to_string().into();
            let since = match health {
                Health::Healthy => Instant::now(),
                Health::Down { reason: known, .. } if *known == reason => return false,
                Health::Down { since, .. } => *since,
            };
            tracing::error!(%reason, "the writer does not get through to the database; it keeps its batch");
            *health = Health::Down { since, reason };
            true
        });
    }
}

/// How long the writer is idle before it looks whether its connection is still there.
const IDLE: Duration = Duration::from_millis(limits::WRITER_IDLE_MS);

/// Repetitions after lost races before the operator should hear of it.
const CONTENDED_TRIES: u32 = 10;

fn back_off(failure: Failure, tries: u32) -> Duration {
    let (first_ms, max_ms) = if failure == Failure::Contended { (1, 100) } else { (10, 1_000) };
    Duration::from_millis((first_ms << tries.saturating_sub(1).min(10)).min(max_ms))
}

fn gap() -> Outcome {
    let message = "an earlier append of this run was not committed".to_owned();
    Outcome::Poisoned { kind: PoisonKind::Gap, message }
}

fn behind() -> String {
    "the ledger does not hold the row that this append follows".to_owned()
}

fn lost(what: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

/// A reply that takes longer than the server's own bound will not come: the network has lost it.
async fn within<T>(
    ms_max: u64,
    reply: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(Duration::from_millis(ms_max), reply).await {
        Ok(result) => result,
        Err(_) => Err(lost("no reply in time")),
    }
}
