//! What the suites share: one private cluster for each test program, a database for each test, and
//! hosts, runs and appends to fill it with.
#![allow(dead_code, reason = "each suite uses its part")]

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use backstitch_core::{Digest, Event, HostId, Json, Op, Row, Run, RunId, Scope, Seq};
use backstitch_ledger::{
    Acks, Append, Close, Cluster, ConnectOptions, Head, Health, Hook, HookFn, InboxItem, Item, Lease, Ledger,
    NewRun, NewTask, Outcome, Reader, StatusChange, TimerCheck, Unread, Writer, WriterConfig,
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

pub(crate) const SCOPE: Scope = Scope::DEFAULT;
pub(crate) const DIGEST: Digest = Digest([7; 32]);
/// Deadline of everything that a test waits for.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The cluster of this test program. It goes when the program ends.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::ephemeral().unwrap())
}

/// An empty database.
pub(crate) async fn database(cluster: &Cluster) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    cluster.create_database(&name).await.unwrap()
}

/// A migrated database.
pub(crate) async fn ledger() -> Ledger {
    ledger_at(&database(cluster()).await).await
}

pub(crate) async fn ledger_at(url: &str) -> Ledger {
    let ledger = Ledger::connect(ConnectOptions::new(url)).await.unwrap();
    ledger.migrate().await.unwrap();
    ledger
}

/// The whole ledger of a run, whatever its size, as a host reads it.
pub(crate) async fn whole(ledger: &Ledger, run: RunId) -> Vec<Row> {
    let (mut pages, mut rows) = (ledger.pages(run), Vec::new());
    while let Some((page, _)) = pages.next().await.unwrap() {
        rows.extend(page);
    }
    rows
}

pub(crate) fn new_id() -> Uuid {
    Uuid::now_v7()
}

pub(crate) fn now_ms() -> u64 {
    let (seconds, nanos) = new_id().get_timestamp().unwrap().to_unix();
    seconds * 1000 + u64::from(nanos / 1_000_000)
}

pub(crate) fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

/// Waits until `check` gives something, at most for [`TIMEOUT`].
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(began.elapsed() < TIMEOUT, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A run that grows in memory; what it makes goes to the ledger as appends.
#[derive(Clone)]
pub(crate) struct Grown {
    pub(crate) run: Run,
    pub(crate) id: RunId,
    pub(crate) new: NewRun,
}

impl Grown {
    pub(crate) fn named(workflow_id: &str) -> Self {
        Self::with_input(workflow_id, "null")
    }

    pub(crate) fn with_input(workflow_id: &str, input: &str) -> Self {
        let id = RunId(new_id());
        let mut run = Run::new(id);
        let started = Event::RunStarted { workflow: "w".into(), input: json(input), options: Arc::default() };
        let first = run.append(now_ms(), &started).unwrap();
        let new = NewRun {
            run: id,
            workflow_id: workflow_id.into(),
            generation: 0,
            workflow: "w".into(),
            digest: DIGEST,
            parent: None,
            first,
            further: Vec::new(),
        };
        Self { run, id, new }
    }

    pub(crate) fn start(&self) -> Append {
        Append::start(SCOPE, self.new.clone())
    }

    pub(crate) fn signal(&mut self, payload: &str) -> Row {
        let event = Event::SignalReceived { name: "s".into(), payload: json(payload), id: None };
        self.run.append(now_ms(), &event).unwrap()
    }

    /// Where its ledger ends, if everything that it has made is written.
    pub(crate) fn head(&self) -> Head {
        Head { seq: Seq(self.run.next_seq().0 - 1), chain: self.run.chain() }
    }

    /// An append with the rows that `grow` makes.
    pub(crate) fn grown_by(&mut self, grow: impl FnOnce(&mut Self) -> Vec<Row>) -> Append {
        let after = Some(self.head());
        Append { after, rows: grow(self), ..Append::new(SCOPE, self.id) }
    }

    /// An append with the row of one event.
    pub(crate) fn event(&mut self, event: &Event) -> Append {
        self.grown_by(|run| vec![run.run.append(now_ms(), event).unwrap()])
    }

    /// An append of `count` signals.
    pub(crate) fn step(&mut self, count: usize) -> Append {
        self.grown_by(|run| (0..count).map(|_| run.signal("{\"step\":1}")).collect())
    }

    pub(crate) fn complete(&mut self, output: &str) -> Append {
        let after = Some(self.head());
        let row = self.run.append(now_ms(), &Event::RunCompleted { output: json(output) }).unwrap();
        let close = Close {
            status: backstitch_core::RunStatus::Completed,
            at_ms: row.at_ms,
            output: row.payload.clone(),
            error: None,
            rows: self.run.next_seq(),
            chain: row.chain,
        };
        let status = Some(StatusChange::Close(close));
        Append { after, rows: vec![row], status, ..Append::new(SCOPE, self.id) }
    }
}

/// A check of all timers of a host at a time. Those of the purpose 4 fire for parked and paused runs too.
pub(crate) fn check(host: HostId, now_ms: u64) -> TimerCheck<'static> {
    TimerCheck { host, from_ms: 0, now_ms, always: 4, except: &[] }
}

/// A first attempt of a call, on the queue `q`, that nobody has and nothing bounds.
pub(crate) fn task(op: Op, seq: Seq, name: &str) -> NewTask {
    NewTask {
        op,
        seq,
        attempt: 1,
        task_queue: "q".into(),
        name: name.into(),
        priority: 3,
        start_by_ms: None,
        close_by_ms: None,
        attempt_ms: None,
        heartbeat_timeout_ms: None,
        heartbeat: None,
        taken: None,
    }
}

/// A host: its lease and its writer.
pub(crate) struct Host {
    pub(crate) ledger: Ledger,
    pub(crate) id: HostId,
    pub(crate) lease: Lease,
    pub(crate) items: mpsc::Sender<Item>,
    pub(crate) acks: mpsc::Receiver<Acks>,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) connections: watch::Receiver<u64>,
    pub(crate) task: tokio::task::JoinHandle<backstitch_ledger::Stopped>,
    next: u64,
}

impl Host {
    pub(crate) async fn new(ledger: &Ledger) -> Self {
        Self::with_hook(ledger, None).await
    }

    pub(crate) async fn with_hook(ledger: &Ledger, hook: Option<HookFn>) -> Self {
        let id = HostId(new_id());
        let lease = ledger.heartbeat().unwrap().register(id, 60_000, "test").await.unwrap();
        Self::with_lease(ledger, lease, hook)
    }

    pub(crate) fn with_lease(ledger: &Ledger, lease: Lease, hook: Option<HookFn>) -> Self {
        let (items, items_receiver) = mpsc::channel(10_000);
        let (acks_sender, acks) = mpsc::channel(10_000);
        let config = WriterConfig { hook, ..WriterConfig::default() };
        let Writer { task, health, connections, .. } =
            Writer::spawn(ledger, lease, items_receiver, acks_sender, config).unwrap();
        Self {
            ledger: ledger.clone(),
            id: lease.host,
            lease,
            items,
            acks,
            health,
            connections,
            task,
            next: 0,
        }
    }

    /// Sends without waiting for the outcome.
    pub(crate) async fn send(&mut self, append: Append) -> u64 {
        self.next += 1;
        self.items.send(Item { ticket: self.next, append }).await.unwrap();
        self.next
    }

    /// The outcomes of everything sent so far that has not been told yet, by ticket.
    pub(crate) async fn outcomes(&mut self, count: usize) -> Vec<(u64, Outcome)> {
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            let acks = tokio::time::timeout(TIMEOUT, self.acks.recv()).await.expect("in time").unwrap();
            outcomes.extend(acks.tickets.into_iter().map(|ticket| (ticket, acks.outcome.clone())));
        }
        outcomes.sort_by_key(|(ticket, _)| *ticket);
        outcomes
    }

    /// Sends and waits.
    pub(crate) async fn append(&mut self, append: Append) -> Outcome {
        self.send(append).await;
        self.outcomes(1).await.remove(0).1
    }

    /// Sends and expects it to be committed.
    pub(crate) async fn commit(&mut self, append: Append) {
        assert_eq!(self.append(append).await, Outcome::Committed { refused: vec![] });
    }

    /// Sends all at once, as one batch if it fits, and waits.
    pub(crate) async fn append_all(&mut self, appends: Vec<Append>) -> Vec<Outcome> {
        let count = appends.len();
        for append in appends {
            self.next += 1;
            // No await in between: the writer cannot take some of them on a single-threaded runtime.
            self.items.try_send(Item { ticket: self.next, append }).unwrap();
        }
        self.outcomes(count).await.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

pub(crate) fn committed() -> Outcome {
    Outcome::Committed { refused: vec![] }
}

/// The ledger of `run`, checked row by row.
pub(crate) async fn checked_rows(ledger: &Ledger, run: RunId) -> Vec<Row> {
    let rows = ledger.rows(run, backstitch_core::Seq(0), u32::MAX >> 1).await.unwrap();
    Run::load_all(run, &rows).unwrap();
    rows
}

/// All that a host finds on its walk along the inbox.
pub(crate) async fn unread(ledger: &Ledger, host: HostId) -> Unread {
    let mut all = Unread::default();
    loop {
        let Unread { open, closed, next } = ledger.unread(host, all.next).await.unwrap();
        all.open.extend(open);
        all.closed.extend(closed);
        all.next = next;
        if next.is_none() {
            return all;
        }
    }
}

/// What a host reads in its inbox, without what it has in hand.
pub(crate) async fn inbox(ledger: &Ledger, host: HostId, in_hand: &[Uuid]) -> Vec<InboxItem> {
    let unread = unread(ledger, host).await;
    let reader = |run: &RunId| Reader { run: *run, is_full: false, except: in_hand.to_vec() };
    let readers: Vec<Reader> = unread.open.iter().map(reader).collect();
    ledger.inbox_of(host, &readers, &[], 10_000).await.unwrap().items
}

/// A session of the test's own.
pub(crate) async fn session(url: &str) -> sqlx::PgConnection {
    <sqlx::PgConnection as sqlx::Connection>::connect(url).await.unwrap()
}

/// Ends all sessions of writers in the database; how many there were.
pub(crate) async fn terminate_writers(connection: &mut sqlx::PgConnection) -> u64 {
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'backstitch writer' and datname = current_database()",
    )
    .execute(connection)
    .await
    .unwrap()
    .rows_affected()
}

/// A hook that drops the reply at `append-sent` whenever `when` says so.
pub(crate) fn drop_reply(when: impl Fn(u64) -> bool + Send + Sync + 'static) -> HookFn {
    let calls = AtomicU64::new(0);
    Arc::new(move |point| {
        if point == "append-sent" && when(calls.fetch_add(1, Ordering::Relaxed)) {
            Hook::DropReply
        } else {
            Hook::Go
        }
    })
}
