//! The writer: one task, one connection, one statement at a time, for one host and shard.
//!
//! It promises that each item is acknowledged once, in the order in which its run's items were sent,
//! and that `Committed` means durable, exactly once, whatever happens to the connection in between:
//!
//! | the statement ended with | the writer |
//! |---|---|
//! | a reply | acknowledges; if the fence was shut, says so to everyone and stops |
//! | no reply: the connection is gone | reconnects, ends the old backend, reads back by key, and only then repeats what is not there |
//! | a lost race (40001, 40P01) | repeats it |
//! | a wait for a lock or for the statement that was too long (55P03, 57014) | halves the batch until it has whose it is, and sets that run aside: others go on |
//! | out of space, memory, connections; read-only | keeps the batch, waits, repeats; [`Health`] says why |
//! | an error of the data, a place that is taken | halves the batch in the same way, and poisons the guilty items |
//! | a lease that is renewed at another server | reconnects, and repeats: see [`crate::tie`] |
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

mod aside;
mod fate;
mod gap_tracker;
mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backstitch_core::{RunId, Scope, TenantId, limits};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use self::aside::{Aside, Line};
use self::fate::Settled;
use self::gap_tracker::GapTracker;
use self::session::{ELSEWHERE, Session};
use crate::append::{self, Acks, Batch, Item, Outcome, PoisonKind};
use crate::confirm::confirm;
use crate::connect::Ledger;
use crate::error::Failure;
use crate::leases::Lease;
use crate::opening::{lost, within};
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
    /// Since when it has been at work on one statement, if it is.
    pub busy: watch::Receiver<Option<Instant>>,
}

impl Writer {
    /// Starts the writer of the host that holds `lease`. It connects at once, and keeps its connection.
    ///
    /// The sender of items must not wait for room in `items` while it is also the one who empties `acks`.
    /// What follows a start may be sent behind it, or with it, before that is acknowledged: if the start is refused,
    /// nothing of the run is written.
    pub fn spawn(
        ledger: &Ledger,
        lease: Lease,
        items: mpsc::Receiver<Item>,
        acks: mpsc::Sender<Acks>,
        config: WriterConfig,
    ) -> Result<Self, sqlx::Error> {
        let (session, connections) = Session::new(ledger)?;
        let (health_sender, health) = watch::channel(Health::Healthy);
        let (busy_sender, busy) = watch::channel(None);
        let state = State {
            session,
            payloads: ledger.options().payloads.clone(),
            scope: Scope { shard: ledger.shard(), tenant: TenantId::DEFAULT },
            lease,
            items,
            acks,
            config,
            health: health_sender,
            busy: busy_sender,
            pending: Vec::new(),
            checked: 0,
            batch: Batch::default(),
            gap_tracker: GapTracker::default(),
            aside: Aside::default(),
            last: Last::default(),
        };
        Ok(Self { task: tokio::spawn(state.run()), health, connections, busy })
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
    busy: watch::Sender<Option<Instant>>,
    /// Received, not yet acknowledged. A batch is its beginning.
    pending: Vec<Item>,
    /// How many of them, from the first on, leave no gap and belong behind nothing that is set aside.
    checked: usize,
    batch: Batch,
    gap_tracker: GapTracker,
    aside: Aside,
    last: Last,
}

/// The statement before: what lingering goes by.
#[derive(Default)]
struct Last {
    items: usize,
    took: Duration,
}

/// Items that are committed together when a batch is taken apart.
struct Part {
    items: Vec<Item>,
    /// They were tried, and at least one of them keeps the others from it.
    failed: bool,
}

impl State {
    async fn run(mut self) -> Stopped {
        self.check_connection().await;
        let stopped = loop {
            if let Some(line) = self.aside.take()
                && let Err(stopped) = self.try_again(line).await
            {
                break stopped;
            }
            if self.pending.is_empty() {
                let received = tokio::select! {
                    biased;
                    () = self.aside.due() => continue,
                    received = self.items.recv_many(&mut self.pending, self.config.batch_max),
                        if !self.aside.is_full() => received,
                    () = tokio::time::sleep(IDLE) => {
                        self.check_connection().await;
                        continue;
                    }
                };
                if received == 0 {
                    if self.aside.is_empty() {
                        break Stopped::Finished;
                    }
                    // Nothing more will come, and what is left is still to be committed.
                    self.aside.due().await;
                    continue;
                }
                self.prepare(0);
            }
            self.linger().await;
            if let Err(stopped) = self.step(false).await {
                break stopped;
            }
        };
        if stopped == Stopped::Fenced { self.fenced().await } else { stopped }
    }

    /// Commits what fits into one statement of what is pending.
    async fn step(&mut self, repeated: bool) -> Result<(), Stopped> {
        self.drop_gapped().await?;
        let count = self.cut();
        if count == 0 {
            return Ok(());
        }
        let began = Instant::now();
        self.busy.send_replace(Some(began));
        let settled = self.settle(0..count, repeated).await;
        let stepped = match settled {
            Settled::Committed { refused } => self.committed(count, refused).await,
            Settled::Fenced => Err(Stopped::Fenced),
            Settled::Behind { runs } => self.leave_behind(count, &runs).await,
            Settled::Guilty { kind, message } if count == 1 => self.poison(0, kind, message).await,
            Settled::LockTimeout { repeated } if self.is_of_one_run(count) => {
                self.aside.put(self.pending.drain(..count).collect(), repeated);
                self.checked = 0;
                Ok(())
            }
            Settled::LockTimeout { repeated } => self.isolate(count, repeated).await,
            Settled::Guilty { .. } => self.isolate(count, false).await,
        };
        self.busy.send_replace(None);
        self.last = Last { items: count, took: began.elapsed() };
        stepped
    }

    fn is_of_one_run(&self, count: usize) -> bool {
        let mut runs = self.pending[..count].iter().map(|item| item.append.run);
        let first = runs.next();
        runs.all(|run| Some(run) == first)
    }

    /// Tries a run that was set aside.
    async fn try_again(&mut self, line: Line) -> Result<(), Stopped> {
        let later = std::mem::replace(&mut self.pending, line.items);
        self.checked = 0;
        self.session.wait_for_locks(Some(LOCK_MOMENT_MS)).await;
        let mut repeated = line.repeated;
        let mut tried = Ok(());
        while tried.is_ok() && !self.pending.is_empty() {
            tried = self.step(std::mem::take(&mut repeated)).await;
            self.aside.keep_back(&mut self.pending, 0);
            self.checked = 0;
        }
        self.session.wait_for_locks(None).await;
        self.pending.extend(later);
        let waits = self.aside.holds(line.run);
        self.aside.tried(waits);
        tried
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
    async fn check_connection(&mut self) {
        match Box::pin(within(PING_MS_MAX, self.session.ping())).await {
            Ok(()) => self.report_healthy(),
            Err(error) => {
                self.session.drop_connection();
                self.report_down(&error);
            }
        }
    }

    /// Refuses pending items that would leave a gap, and sets those aside whose run is. Looks at those that are new, or
    /// at all after something has become of a run.
    async fn drop_gapped(&mut self) -> Result<(), Stopped> {
        let from = std::mem::take(&mut self.checked);
        self.aside.keep_back(&mut self.pending, from);
        let tracker = &mut self.gap_tracker;
        let leaves_gap = |item: &mut Item| tracker.continues(item) || !item.append.is_linked();
        let gaps: Vec<u64> = self.pending.extract_if(from.., leaves_gap).map(|item| item.ticket).collect();
        self.checked = self.pending.len();
        if gaps.is_empty() { Ok(()) } else { self.tell(gaps, gap()).await }
    }

    /// Commits the first `count` items in halves, and halves of halves, until those are alone that keep the others from
    /// it. What is fenced stays pending.
    async fn isolate(&mut self, count: usize, repeated: bool) -> Result<(), Stopped> {
        let later = self.pending.split_off(count);
        let mut parts = vec![Part { items: std::mem::take(&mut self.pending), failed: true }];
        let mut isolated = Ok(());
        self.session.wait_for_locks(Some(LOCK_MOMENT_MS)).await;
        while isolated.is_ok()
            && let Some(mut part) = parts.pop()
        {
            if part.failed && part.items.len() > 1 {
                let items = part.items.split_off(part.items.len() / 2);
                parts.push(Part { items, failed: false });
            }
            self.pending = part.items;
            self.checked = 0;
            isolated = self.settle_part(&mut parts, repeated).await;
        }
        self.session.wait_for_locks(None).await;
        parts.into_iter().rev().for_each(|part| self.pending.extend(part.items));
        self.pending.extend(later);
        self.checked = 0;
        isolated
    }

    /// Commits what is pending, or puts it back among the parts to be halved.
    async fn settle_part(&mut self, parts: &mut Vec<Part>, repeated: bool) -> Result<(), Stopped> {
        self.drop_gapped().await?;
        let count = self.pending.len();
        if count == 0 {
            return Ok(());
        }
        match self.settle(0..count, repeated).await {
            Settled::Committed { refused } => self.committed(count, refused).await,
            Settled::Fenced => Err(Stopped::Fenced),
            Settled::Guilty { kind, message } if count == 1 => self.poison(0, kind, message).await,
            Settled::LockTimeout { repeated } if self.is_of_one_run(count) => {
                self.aside.put(std::mem::take(&mut self.pending), repeated);
                Ok(())
            }
            Settled::Behind { runs } => {
                self.leave_behind(count, &runs).await?;
                parts.push(Part { items: std::mem::take(&mut self.pending), failed: false });
                Ok(())
            }
            Settled::LockTimeout { .. } | Settled::Guilty { .. } => {
                parts.push(Part { items: std::mem::take(&mut self.pending), failed: true });
                Ok(())
            }
        }
    }

    /// Poisons those of the first `count` items whose runs are behind; the others stay.
    async fn leave_behind(&mut self, count: usize, runs: &[Uuid]) -> Result<(), Stopped> {
        let mut index = 0;
        for _ in 0..count {
            if runs.contains(&self.pending[index].append.run.0) {
                self.poison(index, PoisonKind::Behind, behind()).await?;
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    /// The first `count` items are.
    async fn committed(&mut self, count: usize, refused: Vec<RunId>) -> Result<(), Stopped> {
        let items: Vec<Item> = self.pending.drain(..count).collect();
        self.checked = self.checked.saturating_sub(count);
        if !refused.is_empty() {
            self.gap_tracker.refused(&items, &refused);
            self.checked = 0;
        }
        let tickets = items.iter().map(|item| item.ticket).collect();
        self.tell(tickets, Outcome::Committed { refused }).await
    }

    /// The item at this place never will be.
    async fn poison(&mut self, index: usize, kind: PoisonKind, message: String) -> Result<(), Stopped> {
        let item = self.pending.remove(index);
        tracing::error!(run = %item.append.run, ?kind, message, "an append can never be committed");
        self.gap_tracker.poisoned(&item);
        self.checked = 0;
        self.tell(vec![item.ticket], Outcome::Poisoned { kind, message }).await
    }

    /// Tells everyone who waits, and everyone in the queue.
    async fn fenced(mut self) -> Stopped {
        tracing::warn!(host = %self.lease.host, epoch = %self.lease.epoch, "the lease is gone: fenced");
        self.items.close();
        while let Some(item) = self.items.recv().await {
            self.pending.push(item);
        }
        self.pending.extend(self.aside.drain());
        let tickets = self.pending.iter().map(|item| item.ticket).collect();
        // Nobody may be there to hear it: it is over in any case.
        let _ = self.tell(tickets, Outcome::Fenced).await;
        Stopped::Fenced
    }

    async fn tell(&self, tickets: Vec<u64>, outcome: Outcome) -> Result<(), Stopped> {
        self.acks.send(Acks { tickets, outcome }).await.map_err(|_| Stopped::Unheard)
    }

    fn hook(&self, point: &'static str) -> Hook {
        self.config.hook.as_ref().map_or(Hook::Go, |hook| hook(point))
    }

    /// Repeats one statement until its fate is known. `repeated`: as in [`Settled::LockTimeout`].
    async fn settle(&mut self, range: std::ops::Range<usize>, mut repeated: bool) -> Settled {
        let mut unknown = false;
        let mut tries = 0;
        loop {
            match self.attempt(range.clone(), &mut unknown, &mut repeated).await {
                Ok(settled) => {
                    self.report_healthy();
                    self.hook("append-after");
                    return settled;
                }
                Err((Failure::LockTimeout, _)) => {
                    self.report_healthy();
                    return Settled::LockTimeout { repeated };
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
        let items = &self.pending[range];
        self.session.connection().await.map_err(classed)?;
        let (deadline, mark) = (self.session.reply_deadline(), self.session.mark(self.lease.host));
        let connection = self.session.connection().await.map_err(classed)?;
        if *unknown {
            let found = async {
                let settled = fate::probe_commit(connection, self.scope, items).await?;
                if settled.is_some() {
                    confirm(&mut *connection).await?;
                }
                Ok(settled)
            };
            if let Some(settled) = deadline.reply(found).await.map_err(classed)? {
                return Ok(settled);
            }
            (*unknown, *repeated) = (false, true);
        }
        let hook = |point| self.config.hook.as_ref().map_or(Hook::Go, |hook| hook(point));
        hook("append-before");
        let lease = (self.lease.host, self.lease.epoch);
        let mut result = deadline.reply(append::execute(connection, lease, mark, self.scope, items)).await;
        if hook("append-sent") == Hook::DropReply {
            result = Err(lost("the test dropped the reply"));
        }
        match result {
            Ok(appended) if appended.fenced => Ok(Settled::Fenced),
            // Nothing was written: a new connection goes to where the lease is, or the term ends.
            Ok(appended) if appended.elsewhere => Err((Failure::Lost, lost(ELSEWHERE))),
            Ok(appended) if !appended.behind.is_empty() => Ok(Settled::Behind { runs: appended.behind }),
            Ok(appended) => {
                fate::check_changes(items, &appended);
                let mut refused = fate::refused(items, &appended);
                if *repeated && !refused.is_empty() {
                    // It is committed; only the question is open. Without an answer, ask as after a lost reply.
                    *unknown = true;
                    let ours = deadline.reply(fate::starts_of_ours(connection, self.scope, items)).await;
                    let ours = ours.map_err(classed)?;
                    refused.retain(|run| !ours.contains(run));
                }
                Ok(Settled::Committed { refused })
            }
            Err(error) if Failure::of(&error) == Failure::Data => deadline
                .reply(fate::classify_data_error(connection, self.scope, items, &error))
                .await
                .map_err(classed),
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

/// Bound on a new connection, or on the answer to a ping, in milliseconds.
const PING_MS_MAX: u64 = 10_000;
/// How long the writer is idle before it looks whether its connection is still there.
const IDLE: Duration = Duration::from_millis(limits::WRITER_IDLE_MS);

/// How long a statement may wait for locks, in milliseconds, while others wait for the statement.
const LOCK_MOMENT_MS: u64 = 25;
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
