//! Connections that are half open: nobody closes them, and nothing comes over them any more. Each is noticed by our own
//! clock, whatever it is for.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstitch_core::{Op, RunId};
use backstitch_ledger::{
    ConnectOptions, ForkedRun, Ledger, NewProjection, NewTimer, Notifier, Renewal, RunRef, Wake,
};
use common::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Longest wait for a reply by default: 30 s for the server, 5 s for the network.
const REPLY: Duration = Duration::from_secs(35);

/// What gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Open,
    /// The server hears, and is not heard.
    Deaf,
    /// Nothing.
    Dead,
}

/// Sits between a host and the server. What it swallows it swallows without a word to either side.
struct Network {
    url: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

#[derive(Default)]
struct State {
    /// Every connection: what it is for, and what gets through.
    lines: Mutex<Vec<(String, watch::Sender<Line>)>>,
    /// The connection of this purpose that asks for this is dead from then on.
    fatal: Mutex<Option<(&'static str, &'static [u8])>>,
}

impl Network {
    fn start(database: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_, rest) = database.split_once("host=").unwrap();
        let encoded = rest.split('&').next().unwrap();
        let server = PathBuf::from(encoded.replace("%2F", "/")).join(".s.PGSQL.5432");
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let url = database.replacen(encoded, &dir.path().to_string_lossy().replace('/', "%2F"), 1);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&shared)));
            }
        });
        Self { url, state, task, _dir: dir }
    }

    async fn ledger(database: &str) -> (Self, Ledger) {
        Self::ledger_with(database, |_| {}).await
    }

    async fn ledger_with(database: &str, change: impl FnOnce(&mut ConnectOptions)) -> (Self, Ledger) {
        ledger_at(database).await.close().await;
        let network = Self::start(database);
        let mut options = ConnectOptions::new(&network.url);
        change(&mut options);
        let ledger = Ledger::connect(options).await.unwrap();
        (network, ledger)
    }

    /// What becomes of the connections that there are by now; later ones are open.
    fn set(&self, role: &str, line: Line) {
        let lines = self.state.lines.lock().unwrap();
        let ours: Vec<_> = lines.iter().filter(|(of, _)| of == role).collect();
        assert!(!ours.is_empty(), "there is no connection for {role}");
        for (_, state) in ours {
            state.send_replace(line);
        }
    }

    fn die_at(&self, role: &'static str, question: &'static [u8]) {
        *self.state.fatal.lock().unwrap() = Some((role, question));
    }
}

impl Network {
    /// Whether what is [fatal](Self::die_at) was asked.
    fn has_died(&self) -> bool {
        self.state.fatal.lock().unwrap().is_none()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a connection is for, as its first packet says.
fn role(startup: &[u8]) -> String {
    let words: Vec<&[u8]> = startup.split(|byte| *byte == 0).collect();
    let place = words.iter().position(|word| word.ends_with(b"application_name")).unwrap();
    String::from_utf8_lossy(words[place + 1]).replace("backstitch ", "")
}

async fn relay(client: UnixStream, server: UnixStream, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut buffer = vec![0; 1 << 16];
    let Ok(bytes @ 1..) = from_client.read(&mut buffer).await else { return };
    let role = role(&buffer[..bytes]);
    let line = watch::Sender::new(Line::Open);
    state.lines.lock().unwrap().push((role.clone(), line.clone()));
    to_server.write_all(&buffer[..bytes]).await.unwrap();
    let questions = async {
        while let Ok(bytes @ 1..) = from_client.read(&mut buffer).await {
            let question = &buffer[..bytes];
            let is_fatal = |(of, fatal): &mut (&str, &[u8])| {
                *of == role && question.windows(fatal.len()).any(|window| window == *fatal)
            };
            if state.fatal.lock().unwrap().take_if(is_fatal).is_some() {
                line.send_replace(Line::Dead);
            }
            if *line.borrow() != Line::Dead && to_server.write_all(question).await.is_err() {
                break;
            }
        }
        // Nor does the server hear that its client has gone.
        if *line.borrow() != Line::Open {
            std::future::pending::<()>().await;
        }
    };
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
            if *line.borrow() == Line::Open && to_client.write_all(&buffer[..bytes]).await.is_err() {
                break;
            }
        }
        if *line.borrow() != Line::Open {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = questions => {}
        () = answers => {}
    }
}

#[tokio::test]
async fn a_writer_goes_on_over_another_connection_and_writes_everything_once() {
    for line in [Line::Dead, Line::Deaf] {
        let (network, ledger) = Network::ledger(&database(cluster()).await).await;
        let mut host = Host::new(&ledger).await;
        let mut run = Grown::named("a");
        host.commit(run.start()).await;
        host.commit(run.step(1)).await;
        network.set("writer", line);
        for _ in 0..3 {
            host.send(run.step(1)).await;
        }
        let other = Grown::named("b");
        host.send(other.start()).await;
        let outcomes = tokio::time::timeout(REPLY, host.outcomes(4)).await.expect("it is noticed in time");
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == committed()), "{line:?}: {outcomes:?}");
        assert_eq!(*host.connections.borrow(), 2, "{line:?}");
        assert_eq!(checked_rows(&ledger, run.id).await.len(), 5, "{line:?}");
        assert_eq!(checked_rows(&ledger, other.id).await.len(), 1, "{line:?}");
    }
}

#[tokio::test]
async fn a_connection_that_waits_for_nothing_is_looked_after() {
    let (network, ledger) = Network::ledger(&database(cluster()).await).await;
    let mut host = Host::new(&ledger).await;
    host.commit(Grown::named("a").start()).await;
    let mut wakeups = ledger.wakeups(host.id);
    assert_eq!(wakeups.next().await, Wake::Lost, "wake-ups may have been lost before it listens");
    network.set("writer", Line::Dead);
    network.set("listener", Line::Dead);
    let writer = async { host.connections.wait_for(|made| *made == 2).await.unwrap().to_owned() };
    let listener = async {
        assert_eq!(wakeups.next().await, Wake::Lost, "it may have missed some");
        assert_eq!(wakeups.next().await, Wake::Lost, "it listens again");
        Notifier::spawn(ledger.clone()).messages(host.lease.host);
        assert_eq!(wakeups.next().await, Wake::Messages);
    };
    let both = tokio::time::timeout(REPLY, async { tokio::join!(writer, listener) });
    both.await.expect("both are noticed in time");
}

#[tokio::test]
async fn looks_and_heartbeats_go_on_over_other_connections() {
    let change = |options: &mut ConnectOptions| options.lease_ms = 3_000;
    let (network, ledger) = Network::ledger_with(&database(cluster()).await, change).await;
    let mut host = Host::new(&ledger).await;
    let run = Grown::named("a");
    host.commit(run.start()).await;
    let heartbeat = ledger.heartbeat().unwrap();
    assert_eq!(heartbeat.renew(host.lease).await.unwrap().0, Renewal::Alive);
    assert!(ledger.run(SCOPE, RunRef::Id(run.id)).await.unwrap().is_some());
    network.set("pool", Line::Dead);
    network.set("lease", Line::Dead);
    let renewals = async {
        heartbeat.renew(host.lease).await.unwrap_err();
        assert_eq!(heartbeat.renew(host.lease).await.unwrap().0, Renewal::Alive);
    };
    // Before it is used: what is asked does not fail.
    let checks = async { assert!(ledger.run(SCOPE, RunRef::Id(run.id)).await.unwrap().is_some()) };
    let both = tokio::time::timeout(REPLY, async { tokio::join!(renewals, checks) });
    both.await.expect("both are noticed in time");
}

fn forked(run: &Grown) -> ForkedRun {
    ForkedRun {
        scope: SCOPE,
        run: run.new.clone(),
        rows: Vec::new(),
        timers: vec![NewTimer { run: run.id, op: Op(1), due_ms: 1, purpose: 1 }],
        projection: NewProjection { run: run.id, entity: None, attributes: Default::default() },
        children: Vec::new(),
        inbox: Vec::new(),
    }
}

/// How many sessions stand still in a transaction.
async fn standing_still(url: &str) -> i64 {
    let still = "select count(*) from pg_stat_activity
                 where datname = current_database() and state = 'idle in transaction'";
    sqlx::query_scalar(still).fetch_one(&mut session(url).await).await.unwrap()
}

#[tokio::test]
async fn who_stands_still_in_a_transaction_is_ended_and_keeps_nobody_waiting() {
    let url = database(cluster()).await;
    let change = |options: &mut ConnectOptions| {
        (options.lease_ms, options.statement_timeout_ms) = (6_000, 1_000);
    };
    let (network, ledger) = Network::ledger_with(&url, change).await;
    let mut host = Host::new(&ledger).await;
    host.commit(Grown::named("before").start()).await;
    // It has put the run there, and the rest of what it says does not arrive.
    network.die_at("pool", b"insert into timers");
    let inserting = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.insert_fork(&forked(&Grown::named("wanted"))).await })
    };
    eventually("it stands still", || async {
        (network.has_died() && standing_still(&url).await == 1).then_some(())
    })
    .await;
    let (wanted, other) = (Grown::named("wanted"), Grown::named("other"));
    host.send(wanted.start()).await;
    host.send(other.start()).await;
    let outcomes = host.outcomes(2).await;
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == committed()), "{outcomes:?}");
    assert_eq!(standing_still(&url).await, 0, "what it held is free because it was ended");
    let inserted = tokio::time::timeout(TIMEOUT, inserting).await.expect("it is given up here too").unwrap();
    inserted.unwrap_err();
    let runs: Vec<RunId> = sqlx::query_scalar("select run_id from runs where workflow_id = 'wanted'")
        .fetch_all(&mut session(&url).await)
        .await
        .unwrap()
        .into_iter()
        .map(RunId)
        .collect();
    assert_eq!(runs, [wanted.id]);
}
