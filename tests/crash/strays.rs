//! Runs whose trouble is their own: a component that is not there, a guest or an attempt that takes its host down. The
//! other runs of the host go on, whatever host that is.

use backstitch_core::{FaultKind, RunStatus};
use futures::StreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::load::{ASKED, approve, count, options, order};
use crate::support::{HostOptions, TestHost, check_ledgers, connect, database, eventually};

/// Runs that wait, more than are read at once.
const OTHERS: usize = 40;

const PARKED: &str = "select count(*) from runs where status = 2";

async fn run_sql(connection: &mut PgConnection, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(connection).await.unwrap();
}

/// The fault that a run is parked for.
async fn fault(host: &TestHost, id: &str) -> FaultKind {
    let view = host.ended_run(id).await;
    assert_eq!(view.status, RunStatus::Parked, "{view:#?}");
    view.fault.unwrap().kind
}

#[tokio::test]
async fn a_component_that_is_not_there_holds_up_its_own_runs_only() {
    let database = database().await;
    let mut first =
        TestHost::with(&database, &["approval-workflow", "example-activities", "order-workflow"]).await;
    for n in 0..OTHERS {
        first.start_run("approval", &format!("waits-{n}"), ASKED).await;
    }
    let mut connection = connect(&database).await;
    // They wait for workers: nothing serves their activities.
    for n in 0..4 {
        first.start_run("order_workflow", &format!("strayed-{n}"), order!("CLOCK-486")).await;
    }
    first.kill();
    run_sql(
        &mut connection,
        "create table kept as select c.* from components c
         join runs r on r.digest = c.digest where r.workflow_id = 'strayed-0' and c.kind = 1;
         delete from components c using kept where c.digest = kept.digest",
    )
    .await;

    // With nothing compiled in its own folder.
    let heir = TestHost::start(HostOptions::new(&database)).await;
    for n in 0..4 {
        assert_eq!(fault(&heir, &format!("strayed-{n}")).await, FaultKind::Component);
    }
    for n in 0..OTHERS {
        approve(&heir, &format!("waits-{n}")).await.unwrap();
    }
    for n in 0..OTHERS {
        assert!(heir.output(&format!("waits-{n}")).await.contains("approved"));
    }
    // Those that are parked hear what they can hear without a guest.
    heir.client.terminate("strayed-0", "it will not come back").await.unwrap();
    eventually("it is terminated", async || {
        (heir.client.run("strayed-0").await.unwrap().run.status == RunStatus::Terminated).then_some(())
    })
    .await;
    heir.client.cancel("strayed-1", "no use").await.unwrap();
    run_sql(&mut connection, "insert into components select * from kept").await;
    for n in 1..4 {
        heir.client.retry(&format!("strayed-{n}")).await.unwrap();
    }
    eventually("the cancel that was kept is heard", async || {
        (!heir.client.run("strayed-1").await.unwrap().run.status.is_open()).then_some(())
    })
    .await;
    eventually("the others go on", async || (count(&mut connection, PARKED).await == 0).then_some(())).await;
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_guest_that_takes_three_hosts_down_is_parked_and_the_fourth_lives() {
    let database = database().await;
    let mut first = TestHost::start(options(&database)).await;
    first.deploy(&["approval-workflow", "example-activities"]).await;
    for id in ["poison", "healthy", "idle"] {
        first.start_run("approval", id, ASKED).await;
    }
    first.kill();
    for lost in 2..=3 {
        let poisoned = options(&database).crash("guest-of=poison");
        // It may die before it serves anybody.
        if let Some(mut host) = TestHost::try_start(poisoned).await {
            host.crashed().await;
        }
        let losses = "select losses::bigint from runs where workflow_id = 'poison'";
        assert!(count(&mut connect(&database).await, losses).await < lost);
    }
    let mut fourth = TestHost::start(options(&database).crash("guest-of=poison")).await;
    assert_eq!(fault(&fourth, "poison").await, FaultKind::HostLost);
    approve(&fourth, "healthy").await.unwrap();
    assert!(fourth.output("healthy").await.contains("approved"));
    assert!(fourth.is_running());
    assert_eq!(count(&mut connect(&database).await, PARKED).await, 1);
    fourth.kill();

    // An operator has mended what it was, and says so.
    let mended = TestHost::start(options(&database)).await;
    mended.client.retry("poison").await.unwrap();
    approve(&mended, "poison").await.unwrap();
    eventually("it goes on", async || {
        (mended.client.run("poison").await.unwrap().run.status == RunStatus::Completed).then_some(())
    })
    .await;
    approve(&mended, "idle").await.unwrap();
    mended.output("idle").await;
    check_ledgers(&database).await;
}

/// Starts a run whose guest takes its host down. The start may have been answered before that.
async fn start_fatal(host: &mut TestHost, id: &str) {
    let input = backstitch_core::Json::new(ASKED).unwrap();
    let start = backstitch_client::StartRun::new("approval", Some(id.to_owned()), input);
    let _ = host.client.start(start).await;
    host.crashed().await;
}

#[tokio::test]
async fn a_start_that_takes_its_host_down_is_counted() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let known = "select count(*) from runs where workflow_id = 'poison'";
    let poisoned = || options(&database).crash("guest-of=poison");
    // The first guest of its component on this host: it begins behind its first row.
    let mut first = TestHost::start(poisoned()).await;
    first.deploy(&["approval-workflow", "example-activities"]).await;
    start_fatal(&mut first, "poison").await;
    assert_eq!(count(&mut connection, known).await, 1);
    run_sql(&mut connection, "delete from runs; delete from ledger; update leases set released = true").await;

    // One whose component has done no harm may begin before its first row is there. If it does, nothing tells of it.
    let mut second = TestHost::start(poisoned()).await;
    second.start_run("approval", "first", ASKED).await;
    eventually("its guest has come back", async || (second.rows("first").await.len() > 1).then_some(()))
        .await;
    start_fatal(&mut second, "poison").await;
    run_sql(
        &mut connection,
        "delete from runs where workflow_id = 'poison';
         delete from ledger where run_id not in (select run_id from runs)",
    )
    .await;

    // Whoever repeats the start meets hosts that know of the one that was lost.
    let mut third = TestHost::start(poisoned()).await;
    third.start_run("approval", "harmless", ASKED).await;
    approve(&third, "harmless").await.unwrap();
    third.output("harmless").await;
    start_fatal(&mut third, "poison").await;
    assert_eq!(count(&mut connection, known).await, 1);
    for _ in 0..2 {
        if let Some(mut host) = TestHost::try_start(poisoned()).await {
            host.crashed().await;
        }
    }
    let last = TestHost::start(poisoned()).await;
    assert_eq!(fault(&last, "poison").await, FaultKind::HostLost);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_attempt_that_takes_its_host_down_counts_once_it_is_alone() {
    let database = database().await;
    let mut first = TestHost::start(options(&database).crash("attempt-of=fatal")).await;
    first.deploy(&["verbs-guest", "beating-activities"]).await;
    first.start_run("patient", "fatal", r#""falls_silent""#).await;
    first.crashed().await;
    for _ in 2..=3 {
        if let Some(mut host) = TestHost::try_start(options(&database).crash("attempt-of=fatal")).await {
            host.crashed().await;
        }
    }
    let heir = TestHost::start(options(&database)).await;
    let failed = eventually("the attempt has failed", async || {
        heir.rows("fatal").await.into_iter().find(|row| row.kind == "activity-attempt-failed")
    })
    .await;
    assert_eq!(failed.attempt, Some(1));
    assert!(failed.payload.unwrap().as_str().contains("\"host-lost\""));
    assert_eq!(heir.client.run("fatal").await.unwrap().run.status, RunStatus::Running);
    check_ledgers(&database).await;
}

/// A fleet.
const FLEET: usize = 1_000;

async fn start_fleet(host: &TestHost) {
    host.deploy(&["approval-workflow", "example-activities"]).await;
    let starts = (0..FLEET).map(|n| {
        let (client, id) = (host.client.clone(), format!("run-{n}"));
        async move {
            let start = backstitch_client::StartRun::new(
                "approval",
                Some(id),
                backstitch_core::Json::new(ASKED).unwrap(),
            );
            client.start(start).await.unwrap();
        }
    });
    futures::future::join_all(starts).await;
}

/// Has these runs of the fleet approved, and waits for all of them.
async fn complete(host: &TestHost, runs: impl Iterator<Item = usize>) {
    let completed = runs.map(|n| async move {
        let id = format!("run-{n}");
        approve(host, &id).await.unwrap();
        assert!(host.output(&id).await.contains("approved"), "{id}");
    });
    futures::stream::iter(completed).buffer_unordered(32).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn a_fleet_whose_host_is_killed_again_and_again_loses_nobody() {
    let database = database().await;
    let mut host = TestHost::start(options(&database)).await;
    start_fleet(&host).await;
    let mut connection = connect(&database).await;
    for killed in 0..4 {
        host.kill();
        host = TestHost::start(options(&database)).await;
        // In the middle of it the first times, at its end the others.
        let taken = if killed < 2 { 1 } else { FLEET as u64 };
        eventually("it takes over", async || {
            (host.client.health().await.ok()?.runs_taken_over >= taken).then_some(())
        })
        .await;
    }
    complete(&host, (0..FLEET).step_by(10)).await;
    assert_eq!(count(&mut connection, PARKED).await, 0);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn of_a_fleet_the_one_that_kills_three_hosts_is_parked_and_all_others_complete() {
    const POISON: usize = 617;
    let database = database().await;
    let poisoned = || options(&database).crash(format!("guest-of=run-{POISON}"));
    let mut first = TestHost::start(options(&database)).await;
    start_fleet(&first).await;
    first.kill();
    for _ in 2..=3 {
        if let Some(mut host) = TestHost::try_start(poisoned()).await {
            host.crashed().await;
        }
    }
    let mut fourth = TestHost::start(poisoned()).await;
    assert_eq!(fault(&fourth, &format!("run-{POISON}")).await, FaultKind::HostLost);
    complete(&fourth, (0..FLEET).filter(|n| *n != POISON)).await;
    assert!(fourth.is_running());
    assert_eq!(count(&mut connect(&database).await, PARKED).await, 1);
    check_ledgers(&database).await;
}
