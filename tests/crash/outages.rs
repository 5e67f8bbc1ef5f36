//! The database goes away, breaks off, or takes no writes, and comes back: no host needs a human.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use backstitch_core::RunStatus;
use backstitch_ledger::{Cluster, ClusterOptions};
use sqlx::PgConnection;

use crate::load::{self, PACKAGES, check_attempts, count, deployed_database, options, owner};
use crate::proxy::Proxy;
use crate::support::{TestHost, check_ledgers, connect, database, eventually};

/// Long enough to be interrupted many times.
const STEPS: &str = r#"{"n":1500,"text":"abc"}"#;
const STEPPED: &str = r#"{"n":1500,"bytes":4500}"#;
const ROWS: &str = "select count(*) from ledger";

/// Waits until this many rows were written since there were `from`.
async fn progress(connection: &mut PgConnection, from: i64, rows: i64) -> i64 {
    eventually("something is written", async || {
        let now = count(connection, ROWS).await;
        (now >= from + rows).then_some(now)
    })
    .await
}

async fn terminate_backends(connection: &mut PgConnection) {
    let all = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query(all).execute(connection).await.unwrap();
}

async fn healthy(host: &TestHost) {
    eventually("the host is well", async || (host.client.health().await.ok()?.status == "ok").then_some(()))
        .await;
}

#[tokio::test]
async fn a_server_that_is_stopped_and_started_costs_nothing() {
    check_restart(true).await;
}

#[tokio::test]
async fn a_server_that_crashes_costs_nothing() {
    check_restart(false).await;
}

async fn check_restart(graceful: bool) {
    // The server's user must be able to reach its folder.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let server = || Cluster::start(ClusterOptions::new(dir.path().join("pg"))).unwrap();
    let cluster = server();
    let database = cluster.create_database("restarted").await.unwrap();
    let host = TestHost::start(options(&database)).await;
    host.deploy(&PACKAGES).await;
    host.start_run("steps", "steps", STEPS).await;
    let started = load::start(&host).await;
    let written = progress(&mut connect(&database).await, 0, 100).await;
    cluster.stop(graceful);
    let degraded = async || (host.client.health().await.ok()?.status == "degraded").then_some(());
    eventually("the host says that the database is away", degraded).await;

    let cluster = server();
    assert!(count(&mut connect(&database).await, ROWS).await >= written, "rows are lost");
    load::finish(&host, &database, &started).await;
    assert_eq!(host.output("steps").await, STEPPED);
    healthy(&host).await;
    check_ledgers(&database).await;
    check_attempts(&database, &[(&host, BTreeSet::new())]).await;
    drop(host);
    cluster.stop(false);
}

#[tokio::test]
async fn backends_may_be_terminated_again_and_again() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("steps", "steps", STEPS).await;
    terminate_backends(&mut connection).await;
    let started = load::start(&host).await;
    let mut written = 0;
    for _ in 0..20 {
        written = progress(&mut connection, written, 50).await;
        terminate_backends(&mut connection).await;
    }
    load::finish(&host, &database, &started).await;
    assert_eq!(host.output("steps").await, STEPPED);
    healthy(&host).await;
    check_ledgers(&database).await;
    check_attempts(&database, &[(&host, BTreeSet::new())]).await;
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_waited_for() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("steps", "steps", STEPS).await;
    let started = load::start(&host).await;
    progress(&mut connection, 0, 50).await;
    let read_only = async |connection: &mut PgConnection, on: bool| {
        let name: String =
            sqlx::query_scalar("select current_database()").fetch_one(&mut *connection).await.unwrap();
        let statement = format!("alter database {name} set default_transaction_read_only = {on}");
        sqlx::query("set default_transaction_read_only = off").execute(&mut *connection).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(connection).await.unwrap();
    };
    read_only(&mut connection, true).await;
    terminate_backends(&mut connection).await;
    eventually("the host says why it cannot write", async || {
        let reason = host.client.health().await.ok()?.database?;
        (reason.contains("read-only") && host.log().contains("the lease could not be renewed")).then_some(())
    })
    .await;
    // Sessions that began meanwhile are read-only for as long as they live. One that has a state has read
    // its settings.
    let sessions = "select array_agg(pid || ' ' || backend_start) from pg_stat_activity
                    where datname = current_database() and application_name = 'backstitch pool'
                    and state is not null";
    let stale: Vec<String> = eventually("the pool has a session that refuses to write", async || {
        sqlx::query_scalar(sessions).fetch_one(&mut connection).await.unwrap()
    })
    .await;
    read_only(&mut connection, false).await;
    healthy(&host).await;
    eventually("no session refuses to write any more", async || {
        let now: Option<Vec<String>> = sqlx::query_scalar(sessions).fetch_one(&mut connection).await.unwrap();
        (!now.is_some_and(|now| now.iter().any(|one| stale.contains(one)))).then_some(())
    })
    .await;
    load::finish(&host, &database, &started).await;
    assert_eq!(host.output("steps").await, STEPPED);
    check_attempts(&database, &[(&host, BTreeSet::new())]).await;
}

#[tokio::test]
async fn a_claim_whose_reply_is_lost_is_not_forgotten() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.deploy(&["fan-out-workflow"]).await;
    // Nobody offers their activity: they have neither a timer nor a message that would bring them back.
    let ids: Vec<String> = (0..5).map(|number| format!("run-{number}")).collect();
    for id in &ids {
        dead.start_run("fan_out", id, r#"{"n":1,"text":"abc"}"#).await;
    }
    let scheduled = "select count(*) from ledger where kind = 2";
    eventually("all have called", async || (count(&mut connection, scheduled).await == 5).then_some(()))
        .await;
    dead.kill();

    let proxy = Proxy::losing(&database, b"UPDATE 5\0").await;
    let heir = TestHost::start(options(&proxy.url)).await;
    eventually("the reply is lost", async || proxy.has_lost().then_some(())).await;
    heir.deploy(&["example-activities"]).await;
    for id in &ids {
        assert_eq!(heir.output(id).await, r#"{"n":1,"bytes":3}"#);
    }
    for id in &ids {
        assert_eq!(heir.client.run(id).await.unwrap().run.status, RunStatus::Completed);
        assert!(owner(&mut connection, id).await.is_some());
    }
    check_ledgers(&database).await;
}
