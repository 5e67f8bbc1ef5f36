//! Connections: nobody waits for somebody else's trouble.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstitch_core::RunStatus;
use backstitch_ledger::{
    ConnectError, ConnectOptions, Ledger, MigrateError, Outcome, Page, Renewal, RunFilter, RunRef,
};
use common::*;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What a deadlock of our own would take longer than.
const SOON: Duration = Duration::from_secs(20);

/// A ledger whose sessions wait for locks for as long as it takes.
async fn patient_ledger() -> Ledger {
    let url = database(cluster()).await;
    ledger_at(&url).await;
    let options = ConnectOptions {
        lease_ms: 600_000,
        client_statement_timeout_ms: 600_000,
        ..ConnectOptions::new(url)
    };
    Ledger::connect(options).await.unwrap()
}

/// A ledger whose sessions wait for locks for a moment.
async fn brisk_ledger() -> Ledger {
    let url = database(cluster()).await;
    ledger_at(&url).await;
    Ledger::connect(ConnectOptions { lease_ms: 300, ..ConnectOptions::new(url) }).await.unwrap()
}

/// Whoever waits for a lock now, by what its session is for.
async fn waiting(connection: &mut PgConnection, role: &str) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and application_name = $1",
    )
    .bind(format!("backstitch {role}"))
    .fetch_one(connection)
    .await
    .unwrap()
}

async fn until_waiting(ledger: &Ledger, role: &str, count: i64) {
    let connection = Arc::new(tokio::sync::Mutex::new(session(&ledger.options().url).await));
    eventually(&format!("{count} of {role} wait for a lock"), || {
        let connection = Arc::clone(&connection);
        async move { (waiting(&mut *connection.lock().await, role).await == count).then_some(()) }
    })
    .await;
}

/// Has somebody's session lock the row of a run.
async fn lock_run(ledger: &Ledger, run: &Grown) -> PgConnection {
    let mut operator = session(&ledger.options().url).await;
    sqlx::raw_sql("begin").execute(&mut operator).await.unwrap();
    let lock = sqlx::query("select from runs where run_id = $1 for update").bind(run.id.0);
    assert_eq!(lock.execute(&mut operator).await.unwrap().rows_affected(), 1);
    operator
}

#[tokio::test]
async fn a_heartbeat_does_not_wait_for_an_append_that_waits_for_a_lock() {
    let ledger = patient_ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut run = Grown::named("locked");
    host.commit(run.start()).await;
    let mut operator = lock_run(&ledger, &run).await;
    host.send(run.complete("1")).await;
    until_waiting(&ledger, "writer", 1).await;

    let heartbeat = ledger.heartbeat().unwrap();
    let renewed = tokio::time::timeout(SOON, heartbeat.renew(host.lease)).await;
    let (renewal, reading) = renewed.expect("the heartbeat waits for the append").unwrap();
    assert_eq!(renewal, Renewal::Alive);
    assert!((reading.at_us / 1_000).abs_diff(now_ms()) < 60_000, "{reading:?}");

    // A death still waits for it: what is being written must not come after the heir has read it.
    let declared = tokio::spawn({
        let (ledger, id) = (ledger.clone(), host.id);
        async move { ledger.declare_dead(id).await.unwrap() }
    });
    until_waiting(&ledger, "pool", 1).await;
    assert!(!declared.is_finished());
    sqlx::raw_sql("rollback").execute(&mut operator).await.unwrap();
    assert!(declared.await.unwrap());
    assert_eq!(host.outcomes(1).await, [(2, committed())]);
}

#[tokio::test]
async fn a_locked_run_holds_up_nobody_elses_appends() {
    let ledger = brisk_ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut locked = [Grown::named("locked 1"), Grown::named("locked 2")];
    let mut others: Vec<Grown> = (0..40).map(|n| Grown::named(&format!("free {n}"))).collect();
    let starts = locked.iter().chain(&others).map(Grown::start).collect();
    assert!(host.append_all(starts).await.iter().all(|outcome| *outcome == committed()));
    let mut operators = [lock_run(&ledger, &locked[0]).await, lock_run(&ledger, &locked[1]).await];

    // In one batch with theirs, and in later ones.
    let mut held = Vec::new();
    for run in &mut locked {
        held.push(host.send(run.step(1)).await);
        held.push(host.send(run.complete("1")).await);
    }
    for _ in 0..5 {
        for run in &mut others {
            host.send(run.step(1)).await;
        }
        // The rows of a locked run touch nothing that is locked, but they are sent in order.
        for (ticket, outcome) in host.outcomes(others.len()).await {
            assert_eq!(outcome, committed(), "{ticket}");
            held.retain(|held| *held != ticket);
        }
    }
    assert!(held.len() >= 2, "what is locked was written");
    for run in &others {
        assert_eq!(checked_rows(&ledger, run.id).await.len(), 6);
    }
    for operator in &mut operators {
        sqlx::raw_sql("rollback").execute(operator).await.unwrap();
    }
    eventually("the held appends are committed", || {
        let (ledger, ids) = (ledger.clone(), [locked[0].id, locked[1].id]);
        async move {
            for id in ids {
                let info = ledger.run(SCOPE, RunRef::Id(id)).await.unwrap().unwrap();
                (info.summary.status == RunStatus::Completed).then_some(())?;
            }
            Some(())
        }
    })
    .await;
    for run in &locked {
        assert_eq!(checked_rows(&ledger, run.id).await.len(), 3, "in their order, each once");
    }
}

#[tokio::test]
async fn a_statement_that_is_cancelled_is_made_again() {
    let ledger = patient_ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut runs: Vec<Grown> = (0..10).map(|n| Grown::named(&format!("run {n}"))).collect();
    host.append_all(runs.iter().map(Grown::start).collect()).await;
    let mut operator = lock_run(&ledger, &runs[3]).await;
    for run in &mut runs {
        host.send(run.complete("1")).await;
    }
    until_waiting(&ledger, "writer", 1).await;
    let cancel = "select pg_cancel_backend(pid) from pg_stat_activity
                  where datname = current_database() and application_name = 'backstitch writer'";
    sqlx::query(cancel).execute(&mut operator).await.unwrap();
    let told = host.outcomes(9).await;
    assert!(told.iter().all(|(_, outcome)| *outcome == committed()), "{told:?}");
    sqlx::raw_sql("rollback").execute(&mut operator).await.unwrap();
    assert_eq!(host.outcomes(1).await[0].1, committed());
}

#[tokio::test]
async fn what_is_set_aside_is_fenced_with_the_rest() {
    let ledger = brisk_ledger().await;
    let mut host = Host::new(&ledger).await;
    let (mut locked, free) = (Grown::named("locked"), Grown::named("free"));
    host.commit(locked.start()).await;
    let _operator = lock_run(&ledger, &locked).await;
    host.send(locked.complete("1")).await;
    host.send(free.start()).await;
    assert_eq!(host.outcomes(1).await, [(3, committed())]);
    eventually("the death has its turn", || {
        let (ledger, id) = (ledger.clone(), host.id);
        async move { ledger.declare_dead(id).await.ok() }
    })
    .await;
    assert_eq!(host.outcomes(1).await, [(2, Outcome::Fenced)]);
}

#[tokio::test]
async fn what_clients_wait_for_keeps_the_host_from_nothing() {
    let ledger = patient_ledger().await;
    let host = Host::new(&ledger).await;
    let mut operator = session(&ledger.options().url).await;
    sqlx::raw_sql("begin; lock table runs in access exclusive mode").execute(&mut operator).await.unwrap();
    let clients = ledger.for_clients();
    let lists: Vec<tokio::task::JoinHandle<()>> = (0..20)
        .map(|_| {
            let clients = clients.clone();
            tokio::spawn(async move {
                // More of them than there are connections: who gets none in time asks again.
                loop {
                    let page = Page { before: None, limit: 10 };
                    let _ = clients.list(SCOPE, &RunFilter::default(), page).await;
                }
            })
        })
        .collect();
    until_waiting(&ledger, "clients", i64::from(ledger.options().clients_max)).await;

    let own = async {
        for _ in 0..10 {
            ledger.next_sweep_ms().await.unwrap();
            assert_eq!(ledger.heartbeat().unwrap().renew(host.lease).await.unwrap().0, Renewal::Alive);
        }
    };
    tokio::time::timeout(SOON, own).await.expect("the host waits with its clients");

    // Nobody waits for them any more: the server stops working on them, long before their time is over.
    lists.iter().for_each(tokio::task::JoinHandle::abort);
    until_waiting(&ledger, "clients", 0).await;
    sqlx::raw_sql("rollback").execute(&mut operator).await.unwrap();
    eventually("clients are served again", || {
        let clients = clients.clone();
        async move {
            let page = Page { before: None, limit: 10 };
            clients.list(SCOPE, &RunFilter::default(), page).await.ok()
        }
    })
    .await;
}

/// A role that may do what a host does, and has so many connections.
async fn service_role(url: &str, name: &str, connections: i32) -> String {
    let mut owner = session(url).await;
    let statements = format!(
        "create role {name} login connection limit {connections};
         grant usage on schema public to {name};
         grant select, insert, update, delete on all tables in schema public to {name}"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut owner).await.unwrap();
    url.replace("user=backstitch", &format!("user={name}"))
}

#[tokio::test]
async fn with_three_connections_the_lease_and_the_writer_have_theirs() {
    let url = database(cluster()).await;
    ledger_at(&url).await;
    let url = service_role(&url, "with_three", 3).await;
    let ledger = Ledger::connect(ConnectOptions::new(&url)).await.unwrap();
    let heartbeat = ledger.heartbeat().unwrap();
    heartbeat.read_clock().await.unwrap();
    // Everything else takes what it can get before the writer has come, and as long as it is there.
    let (served, is_over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let greedy: Vec<_> = (0..20)
        .map(|n| {
            let ledger = if n % 2 == 0 { ledger.clone() } else { ledger.for_clients() };
            let (served, is_over) = (Arc::clone(&served), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let page = Page { before: None, limit: 10 };
                    let listed = ledger.list(SCOPE, &RunFilter::default(), page).await;
                    served.fetch_add(u32::from(listed.is_ok()), Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually("somebody has what is left", || {
        let served = Arc::clone(&served);
        async move { (served.load(Ordering::Relaxed) > 0).then_some(()) }
    })
    .await;
    let lease = heartbeat.register(backstitch_core::HostId(new_id()), 60_000, "three").await.unwrap();
    let mut host = Host::with_lease(&ledger, lease, None);
    let mut run = Grown::named("a");
    host.commit(run.start()).await;
    for _ in 0..20 {
        host.commit(run.step(1)).await;
        assert_eq!(heartbeat.renew(lease).await.unwrap().0, Renewal::Alive);
    }
    is_over.store(true, Ordering::Relaxed);
    for task in greedy {
        task.await.unwrap();
    }
    // Clients borrow what the host has.
    let clients = ledger.for_clients();
    let listed = clients.list(SCOPE, &RunFilter::default(), Page { before: None, limit: 10 }).await.unwrap();
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn a_server_without_room_is_told_from_one_that_is_not_there() {
    let url = database(cluster()).await;
    ledger_at(&url).await;
    let url = service_role(&url, "with_none", 0).await;
    let error = Ledger::connect(ConnectOptions::new(&url)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Full { .. }), "{error}");
    assert!(error.to_string().contains("has no connection left for this role"), "{error}");
}

#[tokio::test]
async fn a_pooler_that_shares_server_processes_is_refused_by_name() {
    let url = database(cluster()).await;
    ledger_at(&url).await;
    let pooler = Pooler::start(&url);
    let error = Ledger::connect(ConnectOptions::new(&pooler.url)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Pooled { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("PgBouncer") && said.contains("pool_mode=session"), "{said}");
}

#[tokio::test]
async fn a_session_that_has_lost_its_settings_is_given_up() {
    for reset in ["reset all", "discard all"] {
        let url = database(cluster()).await;
        ledger_at(&url).await.close().await;
        let pooler = Pooler::forgetful(&url);
        let ledger = Ledger::connect(ConnectOptions::new(&pooler.url)).await.unwrap();
        let mut host = Host::new(&ledger).await;
        let mut run = Grown::named("a");
        host.commit(run.start()).await;
        host.commit(run.step(1)).await;
        ledger.next_sweep_ms().await.unwrap();
        let before = pids(&url, "pool").await;
        assert_eq!(before.len(), 1, "{reset}");
        pooler.forget(reset);
        for _ in 0..3 {
            host.commit(run.step(1)).await;
        }
        assert_eq!(
            *host.connections.borrow(),
            2,
            "{reset}: the writer has gone on as if nothing had happened"
        );
        assert_eq!(checked_rows(&ledger, run.id).await.len(), 5, "{reset}");
        eventually("the session is gone", || async { (pids(&url, "pool").await != before).then_some(()) })
            .await;
        let heartbeat = ledger.heartbeat().unwrap();
        let renewals = || async {
            heartbeat.renew(host.lease).await.ok().filter(|(renewal, _)| *renewal == Renewal::Alive)
        };
        eventually("the lease is renewed", renewals).await;
        pooler.forget(reset);
        eventually("the lease is renewed again", renewals).await;
    }
}

/// The server processes of our sessions for something.
async fn pids(url: &str, role: &str) -> Vec<i32> {
    sqlx::query_scalar(
        "select pid from pg_stat_activity
         where datname = current_database() and application_name = $1 order by pid",
    )
    .bind(format!("backstitch {role}"))
    .fetch_all(&mut session(url).await)
    .await
    .unwrap()
}

#[tokio::test]
async fn tables_are_looked_for_and_made_in_one_schema_whatever_the_role_looks_at() {
    let url = database(cluster()).await;
    let mut sql = session(&url).await;
    // A schema that is called like the role has a table of that name, and both role and database look elsewhere first.
    let decoys = "create schema backstitch; create table backstitch.runs (x integer);
                  create schema elsewhere; create schema apart";
    sqlx::raw_sql(decoys).execute(&mut sql).await.unwrap();
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&mut sql).await.unwrap();
    let path = format!("alter database {name} set search_path = elsewhere, backstitch");
    sqlx::raw_sql(AssertSqlSafe(path)).execute(&mut sql).await.unwrap();
    let tables = async |schema: &str| -> i64 {
        let tables = "select count(*) from pg_class where relnamespace = $1::text::regnamespace and relkind in ('r', 'p')";
        sqlx::query_scalar(tables).bind(schema).fetch_one(&mut session(&url).await).await.unwrap()
    };
    let in_schema = async |schema: Option<&str>| {
        let options = ConnectOptions { schema: schema.map(str::to_owned), ..ConnectOptions::new(&url) };
        Ledger::connect(options).await.unwrap()
    };
    let ledger = in_schema(None).await;
    ledger.prepare_schema().await.unwrap();
    ledger.ensure_partitions(now_ms()).await.unwrap();
    let mut host = Host::new(&ledger).await;
    host.commit(Grown::named("a").start()).await;
    assert_eq!([tables("elsewhere").await, tables("backstitch").await], [0, 1]);
    let made = tables("public").await;
    let runs: i64 = sqlx::query_scalar("select count(*) from public.runs").fetch_one(&mut sql).await.unwrap();
    assert!(made > 10 && runs == 1, "{made} {runs}");
    // Others, where it is said so, and not where it is not.
    let apart = in_schema(Some("apart")).await;
    apart.prepare_schema().await.unwrap();
    apart.ensure_partitions(now_ms()).await.unwrap();
    assert!(
        apart.list(SCOPE, &RunFilter::default(), Page { before: None, limit: 10 }).await.unwrap().is_empty()
    );
    assert_eq!([tables("apart").await, tables("public").await], [made, made]);
    let nowhere = in_schema(Some("no such \" schema")).await.prepare_schema().await.unwrap_err();
    assert!(matches!(nowhere, MigrateError::NoSchema { .. }), "{nowhere}");

    let moved = "drop schema public cascade; alter schema apart rename to \"Odd one\"; create schema public";
    sqlx::raw_sql(moved).execute(&mut sql).await.unwrap();
    for refused in [in_schema(None).await.prepare_schema().await, in_schema(None).await.migrate().await] {
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("in the schema \"Odd one\"") && said.contains("--schema"), "{said}");
    }
    assert_eq!(tables("public").await, 0);
    in_schema(Some("Odd one")).await.prepare_schema().await.unwrap();
}

/// A pooler that gives each transaction whichever server process is free, as PgBouncer does with
/// `pool_mode=transaction`.
struct Pooler {
    url: String,
    task: tokio::task::JoinHandle<()>,
    /// How often server processes were to forget what was set in them, and by which statement.
    forgotten: watch::Sender<(u64, &'static str)>,
    _dir: tempfile::TempDir,
}

/// A connection to the server, and what it said at its login.
struct Backend {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    greeting: Vec<u8>,
}

type Free = Arc<Mutex<Vec<Backend>>>;

impl Pooler {
    fn start(database: &str) -> Self {
        Self::with(database, false)
    }

    /// One that gives each client a server process of its own, and has it forget what was set in it.
    fn forgetful(database: &str) -> Self {
        Self::with(database, true)
    }

    /// Before the next question of each client that there is.
    fn forget(&self, statement: &'static str) {
        self.forgotten.send_modify(|forgotten| *forgotten = (forgotten.0 + 1, statement));
    }

    fn with(database: &str, is_forgetful: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_, rest) = database.split_once("host=").unwrap();
        let encoded = rest.split('&').next().unwrap();
        let server = PathBuf::from(encoded.replace("%2F", "/")).join(".s.PGSQL.5432");
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let url = database.replacen(encoded, &dir.path().to_string_lossy().replace('/', "%2F"), 1);
        let forgotten = watch::Sender::new((0, ""));
        let heard = forgotten.subscribe();
        let task = tokio::spawn(async move {
            let free = Free::default();
            while let Ok((client, _)) = listener.accept().await {
                match is_forgetful {
                    true => tokio::spawn(serve_session(client, server.clone(), heard.clone())),
                    false => tokio::spawn(serve(client, server.clone(), Arc::clone(&free))),
                };
            }
        });
        Self { url, task, forgotten, _dir: dir }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One client, until it leaves.
async fn serve(client: UnixStream, server: PathBuf, free: Free) -> Option<()> {
    let (mut from, mut to) = client.into_split();
    let startup = packet(&mut from, false).await?;
    let first = login(&server, &startup).await?;
    to.write_all(&first.greeting).await.ok()?;
    free.lock().unwrap().push(first);
    loop {
        // Up to the end of what belongs together.
        let mut question = packet(&mut from, true).await?;
        while !matches!(question.last_tag(), b'S' | b'Q' | b'X') {
            question.extend(packet(&mut from, true).await?);
        }
        if question.last_tag() == b'X' {
            return None;
        }
        let taken = free.lock().unwrap().pop();
        let mut backend = match taken {
            Some(backend) => backend,
            None => login(&server, &startup).await?,
        };
        loop {
            backend.to.write_all(&question.bytes).await.ok()?;
            let is_idle = loop {
                let answer = packet(&mut backend.from, true).await?;
                to.write_all(&answer.bytes).await.ok()?;
                if answer.last_tag() == b'Z' {
                    break answer.bytes.last() == Some(&b'I');
                }
            };
            if is_idle {
                break;
            }
            question = packet(&mut from, true).await?;
            while !matches!(question.last_tag(), b'S' | b'Q' | b'X') {
                question.extend(packet(&mut from, true).await?);
            }
        }
        free.lock().unwrap().push(backend);
    }
}

/// One client with a server process of its own, until it leaves.
async fn serve_session(
    client: UnixStream,
    server: PathBuf,
    forgotten: watch::Receiver<(u64, &'static str)>,
) -> Option<()> {
    let (mut from, mut to) = client.into_split();
    let startup = packet(&mut from, false).await?;
    let mut backend = login(&server, &startup).await?;
    to.write_all(&backend.greeting).await.ok()?;
    let mut seen = forgotten.borrow().0;
    loop {
        let mut question = packet(&mut from, true).await?;
        while !matches!(question.last_tag(), b'S' | b'Q' | b'X') {
            question.extend(packet(&mut from, true).await?);
        }
        if question.last_tag() == b'X' {
            return None;
        }
        let (count, statement) = *forgotten.borrow();
        if std::mem::replace(&mut seen, count) < count {
            let mut query = vec![b'Q'];
            query.extend(u32::try_from(statement.len() + 5).unwrap().to_be_bytes());
            query.extend(statement.as_bytes());
            query.push(0);
            backend.to.write_all(&query).await.ok()?;
            while packet(&mut backend.from, true).await?.last_tag() != b'Z' {}
        }
        backend.to.write_all(&question.bytes).await.ok()?;
        loop {
            let answer = packet(&mut backend.from, true).await?;
            to.write_all(&answer.bytes).await.ok()?;
            if answer.last_tag() == b'Z' {
                break;
            }
        }
    }
}

async fn login(server: &PathBuf, startup: &Packets) -> Option<Backend> {
    let (mut from, mut to) = UnixStream::connect(server).await.ok()?.into_split();
    to.write_all(&startup.bytes).await.ok()?;
    let mut greeting = packet(&mut from, true).await?;
    while greeting.last_tag() != b'Z' {
        greeting.extend(packet(&mut from, true).await?);
    }
    Some(Backend { from, to, greeting: greeting.bytes })
}

/// Messages of the protocol.
struct Packets {
    bytes: Vec<u8>,
    last: usize,
}

impl Packets {
    fn last_tag(&self) -> u8 {
        self.bytes[self.last]
    }

    fn extend(&mut self, other: Self) {
        self.last = self.bytes.len();
        self.bytes.extend(other.bytes);
    }
}

/// The next message; the first of a client has no tag.
async fn packet(from: &mut OwnedReadHalf, has_tag: bool) -> Option<Packets> {
    let mut bytes = vec![0; 4 + usize::from(has_tag)];
    from.read_exact(&mut bytes).await.ok()?;
    let length = u32::from_be_bytes(bytes[bytes.len() - 4..].try_into().unwrap()) as usize;
    let head = bytes.len();
    bytes.resize(head + length - 4, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some(Packets { bytes, last: 0 })
}
