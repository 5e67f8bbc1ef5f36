//! Several hosts on one database.

use std::collections::BTreeSet;

use backstitch_core::RunStatus;
use sqlx::PgConnection;

use crate::load::{
    self, ASKED, LATE, approve, attempts, check_attempts, count, deployed_database, options, order, overdue,
    owner,
};
use crate::support::{HostOptions, TestHost, check_ledgers, connect, eventually};

/// Keeps a host writing for as long as a test needs to get in between.
const STEPS: &str = r#"{"n":400,"text":"abc"}"#;

async fn host_id(host: &TestHost) -> String {
    host.client.health().await.unwrap().host_id
}

/// A fingerprint of all that was ever written into ledgers.
async fn fingerprint(connection: &mut PgConnection) -> String {
    let rows = "select md5(string_agg(l::text, ';' order by run_id, seq)) from ledger l";
    sqlx::query_scalar(rows).fetch_one(connection).await.unwrap()
}

/// Waits until a run is in the middle of its steps.
async fn under_way(connection: &mut PgConnection, id: &str) {
    eventually("the run is under way", async || {
        let rows = "select count(*) from ledger join runs using (run_id) where workflow_id = $1";
        let rows: i64 = sqlx::query_scalar(rows).bind(id).fetch_one(&mut *connection).await.unwrap();
        (rows > 20).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_runs_of_a_killed_host_are_finished_by_the_others() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut first = TestHost::start(options(&database)).await;
    let second = TestHost::start(options(&database)).await;
    let third = TestHost::start(options(&database)).await;
    for (index, host) in [&first, &second, &third].into_iter().enumerate() {
        host.start_run("steps", &format!("steps-{index}"), STEPS).await;
    }
    let started = load::start(&first).await;
    first.kill();
    load::finish(&third, &database, &started).await;
    for index in 0..3 {
        assert_eq!(second.output(&format!("steps-{index}")).await, r#"{"n":400,"bytes":1200}"#);
    }
    let living = [host_id(&second).await, host_id(&third).await];
    assert!(living.contains(&owner(&mut connection, LATE).await.unwrap()), "the open run has moved");
    let hosts = [&first, &second, &third].map(|host| (host, BTreeSet::new()));
    check_attempts(&database, &hosts).await;
}

#[tokio::test]
async fn a_host_that_was_silent_for_too_long_comes_back_as_another() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let stopped = TestHost::start(options(&database)).await;
    let heir = TestHost::start(options(&database)).await;
    let old = host_id(&stopped).await;
    stopped.start_run("approval", "asked", ASKED).await;
    stopped.start_run("steps", "steps", STEPS).await;
    under_way(&mut connection, "steps").await;
    stopped.signal("-STOP");
    // It may have been too late for the steps; the approval waits for a signal.
    eventually("the run moves", async || (owner(&mut connection, "asked").await? != old).then_some(())).await;
    assert_eq!(heir.output("steps").await, r#"{"n":400,"bytes":1200}"#);
    let before = fingerprint(&mut connection).await;

    stopped.signal("-CONT");
    let new = eventually("the stopped host registers anew", async || {
        let health = stopped.client.health().await.ok()?;
        (health.status == "ok" && health.host_id != old).then_some(health.host_id)
    })
    .await;
    assert_eq!(fingerprint(&mut connection).await, before, "it has written with its old lease");
    let left = "select count(*) from runs join leases on owner = host_id where dead and status < 10";
    assert_eq!(load::count(&mut connection, left).await, 0);
    let dead: bool = sqlx::query_scalar("select dead from leases where host_id = $1::uuid")
        .bind(&old)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(dead, "the old lease lives");
    let log = stopped.log();
    assert!(log.contains("the lease is gone: fenced") || log.contains("the lease is lost"), "{log}");

    stopped.start_run("order_workflow", "order", order!("CLOCK-486")).await;
    assert!(stopped.output("order").await.contains("reserved"));
    assert_eq!(owner(&mut connection, "order").await, Some(new), "it serves again");
    approve(&stopped, "asked").await.unwrap();
    assert_eq!(heir.output("asked").await, r#""approved""#);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_fenced_host_cannot_append() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let stopped = TestHost::start(options(&database)).await;
    let old = host_id(&stopped).await;
    stopped.start_run("steps", "steps", STEPS).await;
    under_way(&mut connection, "steps").await;
    stopped.signal("-STOP");
    overdue(&database).await;
    // Its heir dies as the owner of the run, and has written nothing: no row is in the way of what the
    // stopped host is about to write, and nobody else may write for ten minutes.
    let heir = HostOptions { lease_ms: "600000", ..options(&database).crash("claim-after:1") };
    if let Some(mut heir) = TestHost::try_start(heir).await {
        heir.crashed().await;
    }
    let heir = owner(&mut connection, "steps").await.unwrap();
    assert_ne!(heir, old);
    let before = fingerprint(&mut connection).await;

    stopped.signal("-CONT");
    eventually("the stopped host registers anew", async || {
        let health = stopped.client.health().await.ok()?;
        (health.status == "ok" && health.host_id != old).then_some(())
    })
    .await;
    assert_eq!(fingerprint(&mut connection).await, before, "it has written with its old lease");
    assert_eq!(owner(&mut connection, "steps").await.as_ref(), Some(&heir));

    let declared = sqlx::query("update leases set dead = true where host_id = $1::uuid").bind(&heir);
    declared.execute(&mut connection).await.unwrap();
    assert_eq!(stopped.output("steps").await, r#"{"n":400,"bytes":1200}"#);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn messages_reach_the_runs_of_another_host() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let owning = TestHost::start(options(&database)).await;
    let other = TestHost::start(options(&database)).await;
    for id in ["approved", "cancelled", "terminated"] {
        owning.start_run("approval", id, ASKED).await;
    }
    let owners = async |connection: &mut PgConnection| {
        let mut owners = Vec::new();
        for id in ["approved", "cancelled", "terminated"] {
            owners.push(owner(connection, id).await.unwrap());
        }
        owners
    };
    let id = host_id(&owning).await;
    assert_eq!(owners(&mut connection).await, [id.as_str(); 3]);
    approve(&other, "approved").await.unwrap();
    other.client.cancel("cancelled", "from afar").await.unwrap();
    other.client.terminate("terminated", "from afar").await.unwrap();
    // Asked by the one and by the other: who waits elsewhere hears of it too.
    for host in [&other, &owning] {
        assert_eq!(host.output("approved").await, r#""approved""#);
        assert_eq!(host.ended_run("cancelled").await.status, RunStatus::Cancelled);
        assert_eq!(host.ended_run("terminated").await.status, RunStatus::Terminated);
    }
    assert_eq!(owners(&mut connection).await, [id.as_str(); 3], "the runs stayed where they were");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_host_that_is_stopped_hands_its_runs_over_at_once() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    // Ten minutes: nobody will wait for this lease to run out.
    let mut stopping = TestHost::start(HostOptions { lease_ms: "600000", ..options(&database) }).await;
    let heir = TestHost::start(options(&database)).await;
    let old = host_id(&stopping).await;
    let started = load::start(&stopping).await;
    stopping.start_run("steps", "steps", STEPS).await;
    under_way(&mut connection, "steps").await;
    assert_eq!(owner(&mut connection, LATE).await.as_deref(), Some(old.as_str()));
    stopping.signal("-TERM");
    assert!(stopping.exit().await.success(), "{}", stopping.log());

    let lease = "select dead, heartbeat_at + lease_ms * interval '1 millisecond' > now() from leases
                 where host_id = $1::uuid";
    let (dead, in_time): (bool, bool) =
        sqlx::query_as(lease).bind(&old).fetch_one(&mut connection).await.unwrap();
    assert!(dead && in_time, "given back: {dead}, before it ran out: {in_time}");
    eventually("the runs move", async || (owner(&mut connection, LATE).await? != old).then_some(())).await;
    load::finish(&heir, &database, &started).await;
    assert_eq!(heir.output("steps").await, r#"{"n":400,"bytes":1200}"#);

    // It has finished what it had begun: no attempt was made a second time.
    let attempt = |made: load::Attempt| (made.call, made.attempt);
    let handed: BTreeSet<_> = attempts(&stopping).into_iter().map(attempt).collect();
    let taken: BTreeSet<_> = attempts(&heir).into_iter().map(attempt).collect();
    assert_eq!(handed.intersection(&taken).next(), None);
    check_attempts(&database, &[(&stopping, BTreeSet::new()), (&heir, BTreeSet::new())]).await;
}

#[tokio::test]
async fn a_host_that_stops_hears_its_attempts_out() {
    let database = deployed_database().await;
    let mut host = TestHost::start(options(&database)).await;
    host.start_run("calls", "slow", r#"{"name":"busy","args":[300],"attempts":1}"#).await;
    eventually("the attempt is made", async || {
        (host.client.health().await.ok()?.activities_running == 1).then_some(())
    })
    .await;
    host.signal("-TERM");
    assert!(host.exit().await.success(), "{}", host.log());
    let outcomes = "select count(*) from ledger where kind in (20, 21, 22)";
    assert_eq!(count(&mut connect(&database).await, outcomes).await, 1, "{}", host.log());
    check_ledgers(&database).await;
}
