//! What a host asks of its database while nothing happens: what a run cannot hear now must not keep it busy.

use backstitch_client::{Client, StartOptions, StartRun};
use backstitch_core::{Json, RunStatus};
use sqlx::PgConnection;

use crate::support::{HostOptions, TestHost, check_ledgers, connect, database, eventually};

/// Runs that are held, half of them paused and half of them before their time.
const RUNS: usize = 10;
/// Heartbeats over which is counted: by the host's own pace, whatever the machine's.
const HEARTBEATS: u32 = 5;

/// Waits for so many heartbeats. They cost the database nothing: the host knows by itself how old the last is.
pub(crate) async fn heartbeats(client: &Client, count: u32) {
    let mut age_ms = 0;
    for _ in 0..count {
        eventually("a heartbeat", async || {
            let before = std::mem::replace(&mut age_ms, client.ready().await.ok()?.lease_age_ms);
            (age_ms < before).then_some(())
        })
        .await;
    }
}

/// Transactions that a database has had. Asked for in another one of the same server.
async fn transactions(other: &mut PgConnection, database: &str) -> i64 {
    let (name, _) = database.rsplit_once('/').unwrap().1.split_once('?').unwrap();
    sqlx::query_scalar("select xact_commit + xact_rollback from pg_stat_database where datname = $1")
        .bind(name)
        .fetch_one(other)
        .await
        .unwrap()
}

/// Transactions over [`HEARTBEATS`].
async fn spent(host: &TestHost, other: &mut PgConnection, database: &str) -> i64 {
    // The server counts what a session has done with a delay of a second.
    heartbeats(&host.client, HEARTBEATS).await;
    let before = transactions(other, database).await;
    heartbeats(&host.client, HEARTBEATS).await;
    transactions(other, database).await - before
}

#[tokio::test]
async fn a_cancel_that_cannot_be_heard_yet_keeps_nobody_busy() {
    let (database, elsewhere) = (database().await, database().await);
    let host = TestHost::start(HostOptions::new(&database)).await;
    host.deploy(&["hostile-guest"]).await;
    for number in 0..RUNS {
        let id = format!("held-{number}");
        let start = StartRun::new("holds", Some(id.clone()), Json::new("1").unwrap());
        if number % 2 == 0 {
            let options = StartOptions { delay_ms: Some(3_600_000), ..StartOptions::default() };
            host.client.start(StartRun { options, ..start }).await.unwrap();
        } else {
            host.client.start(start).await.unwrap();
            host.client.pause(&id, "lunch").await.unwrap();
            eventually("it is paused", async || {
                (host.client.run(&id).await.ok()?.run.status == RunStatus::Paused).then_some(())
            })
            .await;
        }
    }
    let mut other = connect(&elsewhere).await;
    let idle = spent(&host, &mut other, &database).await;
    for number in 0..RUNS {
        host.client.cancel(&format!("held-{number}"), "no longer wanted").await.unwrap();
    }
    // A session that was busy and is idle now tells the server up to ten seconds later what it has done: what the requests
    // above have cost may be counted here. A host that polls is never quiet.
    eventually("the host is as quiet as before", async || {
        let held = spent(&host, &mut other, &database).await;
        (held < 2 * idle + 50).then_some(())
    })
    .await;

    // They were kept, and are heard when they can be.
    for number in (1..RUNS).step_by(2) {
        let id = format!("held-{number}");
        host.client.resume(&id, "back").await.unwrap();
        assert_eq!(host.ended_run(&id).await.status, RunStatus::Cancelled, "{id}");
    }
    check_ledgers(&database).await;
}
