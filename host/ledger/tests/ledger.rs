//! Everything but the append: leases and claims, timers, reading, deployments, schema, wake-ups.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use std::sync::Arc;

use backstitch_core::inbox::Message;
use backstitch_core::{Digest, Event, HostId, Kind, Op, RunId, RunStatus, Seq, TenantId};
use backstitch_ledger::{
    Append, ClaimedRun, ComponentKind, ConnectError, ConnectOptions, Head, Ledger, LedgerError, NewComponent,
    NewTimer, Notifier, Page, Posted, Renewal, RunFilter, StatusChange, Wake,
};
use common::*;

/// A host with `count` open runs.
async fn host_with_runs(ledger: &Ledger, count: usize, prefix: &str) -> (Host, Vec<Grown>) {
    let mut host = Host::new(ledger).await;
    let runs: Vec<Grown> = (0..count).map(|n| Grown::named(&format!("{prefix}{n}"))).collect();
    for outcome in host.append_all(runs.iter().map(Grown::start).collect()).await {
        assert_eq!(outcome, committed());
    }
    (host, runs)
}

#[tokio::test]
async fn a_dead_hosts_runs_are_claimed_once_and_by_the_living_only() {
    let ledger = ledger().await;
    let (mut dead, mut runs) = host_with_runs(&ledger, 200, "r").await;
    dead.commit(runs[0].complete("1")).await;
    let park = StatusChange::Park { fault: "{}".into() };
    dead.commit(Append { status: Some(park), ..Append::new(SCOPE, runs[1].id) }).await;
    let (one, two, late) = (Host::new(&ledger).await, Host::new(&ledger).await, Host::new(&ledger).await);
    assert!(ledger.claim_runs(one.lease, 500).await.unwrap().is_empty(), "the owner is alive");

    assert!(ledger.declare_dead(dead.id).await.unwrap());
    assert!(!ledger.declare_dead(dead.id).await.unwrap());
    ledger.declare_dead(late.id).await.unwrap();
    assert!(ledger.claim_runs(late.lease, 500).await.unwrap().is_empty(), "the claimer is dead");

    let take = async |lease| {
        let mut taken = Vec::new();
        loop {
            let claimed = ledger.claim_runs(lease, 7).await.unwrap();
            assert!(claimed.len() <= 7);
            if claimed.is_empty() {
                return taken;
            }
            taken.extend(claimed);
        }
    };
    let (first, second) = tokio::join!(take(one.lease), take(two.lease));
    assert!(!first.is_empty() && !second.is_empty());
    // A run that one of them skipped because the other held it was taken by the other.
    let ids: HashSet<RunId> = first.iter().chain(&second).map(|run| run.run).collect();
    assert_eq!((ids.len(), first.len() + second.len()), (199, 199));
    assert!(!ids.contains(&runs[0].id), "closed runs are not claimed");
    let parked = first.iter().chain(&second).find(|run| run.run == runs[1].id).unwrap();
    assert_eq!((parked.status, parked.digest), (RunStatus::Parked, DIGEST));
    let claimed = ledger.owned_run(one.id, first[0].run).await.unwrap();
    // Read again, it counts as one that its owner has not led yet.
    assert_eq!(claimed, Some(ClaimedRun { unreplayed: true, ..first[0].clone() }));
    assert_eq!(ledger.owned_run(two.id, first[0].run).await.unwrap(), None);
}

#[tokio::test]
async fn the_taker_goes_on_where_the_dead_host_ended() {
    let ledger = ledger().await;
    let (mut dead, mut runs) = host_with_runs(&ledger, 3, "r").await;
    for run in &mut runs {
        dead.commit(run.step(2)).await;
    }
    ledger.declare_dead(dead.id).await.unwrap();
    let mut taker = Host::new(&ledger).await;
    let claimed = ledger.claim_runs(taker.lease, 500).await.unwrap();
    let ids: Vec<RunId> = claimed.iter().map(|run| run.run).collect();
    for id in ids {
        let rows = whole(&ledger, id).await;
        let (mut run, _) = backstitch_core::Run::load_all(id, &rows).unwrap();
        let after = rows.last().map(Head::at);
        let event = Event::SignalReceived { name: "s".into(), payload: json("1"), id: None };
        let row = run.append(now_ms(), &event).unwrap();
        taker.commit(Append { after, rows: vec![row], ..Append::new(SCOPE, id) }).await;
        assert_eq!(checked_rows(&ledger, id).await.len(), 4);
    }
    let unknown = RunId(new_id());
    assert_eq!(whole(&ledger, unknown).await, []);
}

#[tokio::test]
async fn the_databases_clock_decides_who_is_overdue() {
    let ledger = ledger().await;
    let patient = ledger.heartbeat().unwrap().register(HostId(new_id()), 60_000, "patient").await.unwrap();
    let hasty = ledger.heartbeat().unwrap().register(HostId(new_id()), 1, "hasty").await.unwrap();
    let dead = eventually("the silent host is overdue", || async {
        let dead = ledger.declare_overdue_dead().await.unwrap();
        (!dead.is_empty()).then_some(dead)
    })
    .await;
    assert_eq!(dead, [hasty.host]);
    assert_eq!(ledger.heartbeat().unwrap().renew(hasty).await.unwrap().0, Renewal::Dead);
    assert_eq!(ledger.heartbeat().unwrap().renew(patient).await.unwrap().0, Renewal::Alive);
    ledger.heartbeat().unwrap().release(patient).await.unwrap();
    assert_eq!(ledger.heartbeat().unwrap().renew(patient).await.unwrap().0, Renewal::Dead);
}

#[tokio::test]
async fn a_host_that_registers_again_gives_its_runs_up() {
    let ledger = ledger().await;
    let (host, runs) = host_with_runs(&ledger, 3, "r").await;
    let again = ledger.heartbeat().unwrap().register(host.id, 60_000, "again").await.unwrap();
    assert_eq!(ledger.heartbeat().unwrap().renew(host.lease).await.unwrap().0, Renewal::Dead);
    assert_eq!(ledger.claim_runs(again, 500).await.unwrap().len(), runs.len());
}

#[tokio::test]
async fn timers_of_others_and_of_parked_runs_are_not_due_here() {
    let ledger = ledger().await;
    let (mut host, runs) = host_with_runs(&ledger, 2, "a").await;
    let (mut other, others) = host_with_runs(&ledger, 1, "b").await;
    let timer = |run, op, due_ms| {
        let timers = vec![NewTimer { run, op: Op(op), due_ms, purpose: op as i16 }];
        Append { timers, ..Append::new(SCOPE, run) }
    };
    host.commit(timer(runs[0].id, 1, 300)).await;
    host.commit(timer(runs[0].id, 2, 100)).await;
    host.commit(timer(runs[1].id, 3, 50)).await;
    other.commit(timer(others[0].id, 4, 10)).await;
    let park = StatusChange::Park { fault: "{}".into() };
    host.commit(Append { status: Some(park), ..Append::new(SCOPE, runs[1].id) }).await;

    let due = ledger.due_timers(check(host.id, 300), 10).await.unwrap();
    let due: Vec<_> = due.iter().map(|timer| (timer.run, timer.op, timer.purpose, timer.due_ms)).collect();
    assert_eq!(due, [(runs[0].id, Op(2), 2, 100), (runs[0].id, Op(1), 1, 300)]);
    assert_eq!(ledger.due_timers(check(host.id, 299), 10).await.unwrap().len(), 1);
    assert_eq!(ledger.due_timers(check(host.id, 300), 1).await.unwrap()[0].op, Op(2));
    assert_eq!(ledger.next_due(check(host.id, 0)).await.unwrap(), Some(100));
    assert_eq!(ledger.next_due(check(host.id, 300)).await.unwrap(), None);
}

#[tokio::test]
async fn listings_go_page_by_page_and_count() {
    let ledger = ledger().await;
    let (mut host, mut runs) = host_with_runs(&ledger, 5, "r").await;
    host.commit(runs[2].complete("1")).await;
    let all = RunFilter::default();
    let page = |before, limit| Page { before, limit };
    let ids = async |filter: &RunFilter, page| -> Vec<RunId> {
        ledger.list(SCOPE, filter, page).await.unwrap().iter().map(|run| run.run).collect()
    };
    let first = ids(&all, page(None, 3)).await;
    assert_eq!(first, [runs[4].id, runs[3].id, runs[2].id]);
    assert_eq!(ids(&all, page(Some(first[2]), 3)).await, [runs[1].id, runs[0].id]);
    let completed = RunFilter { statuses: vec![RunStatus::Completed], ..RunFilter::default() };
    assert_eq!(ids(&completed, page(None, 9)).await, [runs[2].id]);
    let foreign = RunFilter { workflow: Some("other".into()), ..RunFilter::default() };
    assert!(ids(&foreign, page(None, 9)).await.is_empty());
    let counts = ledger.count_runs(SCOPE, &all).await.unwrap();
    assert_eq!(counts, [(RunStatus::Running, 4), (RunStatus::Completed, 1)]);
    assert_eq!(ledger.count_runs(SCOPE, &completed).await.unwrap(), [(RunStatus::Completed, 1)]);
    assert!(ledger.count_runs(SCOPE, &foreign).await.unwrap().is_empty());
    let elsewhere = ledger.scope(TenantId(2));
    assert!(ledger.count_runs(elsewhere, &all).await.unwrap().is_empty());
    assert_eq!(ledger.run_status(elsewhere, runs[2].id).await.unwrap(), None);
    assert_eq!(ledger.run_status(SCOPE, runs[2].id).await.unwrap(), Some(RunStatus::Completed));
}

#[tokio::test]
async fn a_deployment_points_all_its_names_at_once() {
    let ledger = ledger().await;
    let digests = [Digest([1; 32]), Digest([2; 32])];
    for digest in digests {
        let new = NewComponent {
            digest,
            kind: ComponentKind::Workflows,
            bytes: b"\0asm",
            names: "[ \"a\"]",
            created_ms: 5,
        };
        assert!(ledger.put_component(SCOPE, new).await.unwrap());
        assert!(!ledger.put_component(SCOPE, new).await.unwrap());
    }
    assert_eq!(ledger.component_bytes(SCOPE, digests[0]).await.unwrap().unwrap(), b"\0asm");
    let info = ledger.component_info(SCOPE, digests[1]).await.unwrap().unwrap();
    assert_eq!((info.size_bytes, info.names.as_str(), info.created_ms), (4, "[ \"a\"]", 5));

    let deploy = async |names: &[&str], digest| {
        ledger.deploy(SCOPE, ComponentKind::Workflows, "default", names, digest, 9).await.unwrap()
    };
    assert_eq!(ledger.deployment_counter(TenantId::DEFAULT).await.unwrap(), 0);
    assert_eq!(deploy(&["a", "b", "a"], digests[0]).await, Some(1));
    assert_eq!(deploy(&["b", "c"], digests[1]).await, Some(2));
    let serving: Vec<_> = ledger.deployments(SCOPE).await.unwrap();
    let serving: Vec<_> = serving.iter().map(|d| (d.name.as_str(), d.digest, d.deployment)).collect();
    assert_eq!(serving, [("a", digests[0], 1), ("b", digests[1], 2), ("c", digests[1], 2)]);
    assert_eq!(ledger.deployment_counter(TenantId::DEFAULT).await.unwrap(), 2);
    let stranger = ledger.scope(TenantId(9));
    let refused = ledger.deploy(stranger, ComponentKind::Workflows, "default", &["a"], digests[0], 9).await;
    assert_eq!(refused.unwrap(), None);
}

#[tokio::test]
async fn a_manifest_stands_for_its_component_until_it_is_replaced_or_taken_away() {
    let ledger = ledger().await;
    let [serving, idle] = [Digest([1; 32]), Digest([2; 32])];
    let put = async |digest, document| ledger.put_manifest(SCOPE, digest, document, 7).await.unwrap();
    let all = async || ledger.manifests(SCOPE).await.unwrap();
    put(serving, Some("{\"egress\": []}")).await;
    put(idle, Some("{}")).await;
    assert_eq!(all().await, [], "nothing serves yet");
    let deployed = ledger.deploy(SCOPE, ComponentKind::Activities, "default", &["a"], serving, 9).await;
    assert!(deployed.unwrap().is_some());
    assert_eq!(all().await, [(serving, "{\"egress\": []}".to_owned())]);
    put(serving, Some("{}")).await;
    assert_eq!(all().await, [(serving, "{}".to_owned())]);
    assert_eq!(ledger.manifests(ledger.scope(TenantId(9))).await.unwrap(), []);
    put(serving, None).await;
    assert_eq!(all().await, []);
}

#[tokio::test]
async fn hosts_that_start_together_migrate_once() {
    let url = database(cluster()).await;
    let ledger = Ledger::connect(ConnectOptions::new(&url)).await.unwrap();
    let start = async || {
        ledger.migrate().await.unwrap();
        ledger.ensure_partitions(now_ms()).await.unwrap()
    };
    let (a, b, c) = tokio::join!(start(), start(), start());
    assert_eq!((a.made + b.made + c.made, a.put_off + b.put_off + c.put_off), (6, 0));
    assert_eq!(start().await.made, 0);
}

#[tokio::test]
async fn rows_go_to_the_week_of_their_run() {
    let ledger = ledger().await;
    let (mut early, early_runs) = host_with_runs(&ledger, 1, "early").await;
    // This week is not empty in the default partition: it stays there. The others are made.
    assert_eq!(ledger.ensure_partitions(now_ms()).await.unwrap().made, 5);
    let next_week = now_ms() + 7 * 24 * 3600 * 1000;
    let mut later = Grown::named("later");
    later.id = RunId::derived(later.id, Op(0), next_week);
    later.run = backstitch_core::Run::new(later.id);
    let started = Event::RunStarted { workflow: "w".into(), input: json("1"), options: Arc::default() };
    later.new.first = later.run.append(next_week, &started).unwrap();
    later.new.run = later.id;
    early.commit(later.start()).await;
    let partitions: Vec<(String, uuid::Uuid)> =
        sqlx::query_as("select tableoid::regclass::text, run_id from ledger order by run_id")
            .fetch_all(&mut session(&ledger.options().url).await)
            .await
            .unwrap();
    assert_eq!(partitions[0], ("ledger_default".to_owned(), early_runs[0].id.0));
    assert!(partitions[1].0.starts_with("ledger_20") && partitions[1].1 == later.id.0, "{partitions:?}");
    assert_eq!(checked_rows(&ledger, later.id).await.len(), 1);
}

#[tokio::test]
async fn every_key_begins_with_the_shard() {
    let ledger = ledger().await;
    ledger.ensure_partitions(now_ms()).await.unwrap();
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "select i.indexrelid::regclass::text, a.attname::text
         from pg_index i
         join pg_class t on t.oid = i.indrelid and t.relnamespace = 'public'::regnamespace
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
         where t.relname <> '_sqlx_migrations'",
    )
    .fetch_all(&mut session(&ledger.options().url).await)
    .await
    .unwrap();
    assert!(indexes.len() > 20, "{indexes:?}");
    for (index, column) in indexes {
        assert_eq!(column, "shard", "{index}");
    }
}

#[tokio::test]
async fn sql_and_the_program_use_the_same_names() {
    let ledger = ledger().await;
    let mut session = session(&ledger.options().url).await;
    for kind in Kind::ALL {
        let name: String = sqlx::query_scalar("select event_name($1)")
            .bind(kind.tag())
            .fetch_one(&mut session)
            .await
            .unwrap();
        assert_eq!(name, kind.as_str());
    }
    for status in RunStatus::ALL {
        let name: String = sqlx::query_scalar("select run_status_name($1)")
            .bind(status.tag())
            .fetch_one(&mut session)
            .await
            .unwrap();
        assert_eq!(name, status.as_str());
    }
}

#[tokio::test]
async fn the_history_view_tells_what_a_run_waits_for() {
    use backstitch_core::{ActivityOptions, Command};
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let mut grown = Grown::named("a");
    host.commit(grown.start()).await;
    let activity = |name: &str| Command::ScheduleActivity {
        name: name.into(),
        input: json("1"),
        options: ActivityOptions::default(),
    };
    let commands = [
        activity("done"),
        activity("open"),
        Command::StartTimer { ms: 5 },
        Command::AwaitSignal { name: "s".into() },
        Command::AwaitSignal { name: "s".into() },
        activity("given up"),
        Command::Cancel { target: Op(5) },
    ];
    let commanded = commands.into_iter().enumerate();
    let mut events: Vec<Event> =
        commanded.map(|(op, command)| Event::Commanded { op: Op(op as u32), command }).collect();
    events.push(Event::ActivityClosed { op: Op(0), attempt: 1, outcome: Ok(json("2")) });
    events.push(Event::SignalReceived { name: "s".into(), payload: json("3"), id: None });
    let append = grown
        .grown_by(|grown| events.iter().map(|event| grown.run.append(now_ms(), event).unwrap()).collect());
    let timers = vec![NewTimer { run: grown.id, op: Op(2), due_ms: 77, purpose: 1 }];
    host.commit(Append { timers, ..append }).await;
    let message = Message::Cancel { reason: "r".into(), id: None }.to_row();
    ledger.post(SCOPE, grown.id, new_id(), 1, &message).await.unwrap();

    let mut session = session(&ledger.options().url).await;
    let id = grown.id;
    let mut waiting = async || -> Vec<(Option<i32>, String, Option<i32>, bool)> {
        sqlx::query_as(
            "select seq, event, op, due_at is not null from run_history
             where shard = 0 and run_id = $1 and waiting order by seq",
        )
        .bind(id.0)
        .fetch_all(&mut session)
        .await
        .unwrap()
    };
    let expected = [
        (Some(2), "activity-scheduled".to_owned(), Some(1), false),
        (Some(3), "timer-started".to_owned(), Some(2), true),
        (Some(5), "signal-awaited".to_owned(), Some(4), false),
        (None, "unread cancel".to_owned(), None, false),
    ];
    assert_eq!(waiting().await, expected);
    let cancelled = Event::CancelRequested { reason: "r".into(), id: None };
    host.commit(grown.event(&cancelled)).await;
    assert_eq!(waiting().await, expected[3..]);
    host.commit(grown.complete("1")).await;
    assert!(waiting().await.is_empty());
}

#[tokio::test]
async fn a_wake_up_reaches_the_host_and_a_lost_connection_is_told() {
    let ledger = ledger().await;
    let (host, stranger) = (HostId(new_id()), HostId(new_id()));
    let notifier = Notifier::spawn(ledger.clone());
    let mut wakeups = ledger.wakeups(host);
    let mut next = async || tokio::time::timeout(TIMEOUT, wakeups.next()).await.unwrap();
    assert_eq!(next().await, Wake::Lost, "nobody knows what was before");
    notifier.messages(stranger);
    notifier.messages(host);
    assert_eq!(next().await, Wake::Messages);
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'backstitch listener' and datname = current_database()",
    )
    .execute(&mut session(&ledger.options().url).await)
    .await
    .unwrap();
    assert_eq!(next().await, Wake::Lost);
    // Wake-ups are heard again, sooner or later; polling covers what is between.
    let heard = async { while next().await != Wake::Messages {} };
    let hinting = async {
        loop {
            notifier.messages(host);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! { () = heard => {}, _ = hinting => {} }
}

#[tokio::test]
async fn each_way_of_not_connecting_has_its_own_message() {
    let cluster = cluster();
    let connect = async |url: String| Ledger::connect(ConnectOptions::new(url)).await.unwrap_err();
    assert!(matches!(connect("nonsense".into()).await, ConnectError::Url(_)));
    let nobody = connect("postgres://127.0.0.1:1/x".into()).await;
    assert!(matches!(nobody, ConnectError::Unreachable { .. }), "{nobody}");
    assert!(matches!(connect(cluster.url_of("absent")).await, ConnectError::NoDatabase { .. }));
    let stranger = connect(cluster.url().replace("user=backstitch", "user=stranger")).await;
    assert!(matches!(stranger, ConnectError::Auth { .. }), "{stranger}");
    let tls = connect(cluster.url().replace("disable", "require")).await;
    assert!(matches!(tls, ConnectError::Tls(_)), "{tls}");

    let mut admin = session(&cluster.url()).await;
    let statements = [
        "create database latin encoding 'LATIN1' template template0",
        "create database frozen",
        "alter database frozen set default_transaction_read_only = on",
    ];
    for statement in statements {
        sqlx::raw_sql(statement).execute(&mut admin).await.unwrap();
    }
    let latin = connect(cluster.url_of("latin")).await;
    assert!(matches!(&latin, ConnectError::Encoding { found } if found == "LATIN1"), "{latin}");
    assert!(matches!(connect(cluster.url_of("frozen")).await, ConnectError::ReadOnly { .. }));
}

#[tokio::test]
async fn a_database_that_is_gone_is_unavailable_not_wrong() {
    let ledger = ledger().await;
    let (_host, runs) = host_with_runs(&ledger, 1, "a").await;
    ledger.close().await;
    let error = ledger.rows(runs[0].id, Seq(0), 1).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let unmigrated = Ledger::connect(ConnectOptions::new(database(cluster()).await)).await.unwrap();
    let error = unmigrated.count_runs(SCOPE, &RunFilter::default()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Mismatch(_)), "{error}");
}

#[tokio::test]
async fn a_message_id_is_accepted_once_and_names_the_owner() {
    let ledger = ledger().await;
    let (host, runs) = host_with_runs(&ledger, 1, "a").await;
    let message = Message::Signal { name: "s".into(), payload: json(r#"{"b":1,"a":1}"#), id: None };
    let item_id = new_id();
    for _ in 0..2 {
        let posted = ledger.post(SCOPE, runs[0].id, item_id, 3, &message.to_row()).await.unwrap();
        assert_eq!(posted, Posted::Accepted { owner: Some(host.id) });
    }
    let items = inbox(&ledger, host.id, &[]).await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].message.message().unwrap(), message);
    let elsewhere = ledger.scope(TenantId(2));
    let posted = ledger.post(elsewhere, runs[0].id, new_id(), 3, &message.to_row()).await.unwrap();
    assert_eq!(posted, Posted::Unknown);
}
