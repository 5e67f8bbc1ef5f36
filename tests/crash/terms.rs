//! The terms of a start: a delay, bounds on the whole run, priorities, and how deep a tree may be.

use backstitch_client::{StartOptions, StartRun};
use backstitch_core::{Json, RunStatus, limits};

use crate::load::{attempts, count, deployed_database, late, options};
use crate::support::{TestHost, check_ledgers, connect, eventually};

async fn start(host: &TestHost, workflow: &str, input: &str, terms: StartOptions) {
    let start = StartRun::new(workflow, Some(workflow.to_owned()), Json::new(input).unwrap());
    host.client.start(StartRun { options: terms, ..start }).await.unwrap();
}

#[tokio::test]
async fn a_delayed_run_begins_on_time_whoever_its_host_is_then() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    start(&dead, "birth", "null", StartOptions { delay_ms: Some(2_500), ..StartOptions::default() }).await;
    start(&dead, "collect", "1", StartOptions { delay_ms: Some(2_500), ..StartOptions::default() }).await;
    // Kept for it, though it has not begun.
    dead.client.signal("collect", "item", &Json::new("5").unwrap()).await.unwrap();
    let kept = "select count(*) from ledger where kind = 24";
    eventually("the signal is recorded", async || (count(&mut connection, kept).await == 1).then_some(()))
        .await;
    assert_eq!(count(&mut connection, "select count(*) from ledger where kind between 1 and 19").await, 2);
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    let (begun_ms, _): (u64, Option<String>) = serde_json::from_str(&heir.output("birth").await).unwrap();
    let started: f64 = sqlx::query_scalar(
        "select (extract(epoch from at) * 1000)::float8 from ledger join runs using (run_id)
         where workflow_id = 'birth' and seq = 0",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    // The time of the start, not that of the row: within the rounding of a clock.
    assert!((begun_ms as f64 - started - 2_500.0).abs() < 100.0, "{begun_ms} after {started}");
    assert_eq!(heir.output("collect").await, "[5]");
    let early = "select count(*) from ledger join runs using (run_id)
                 where seq = 1 and kind = 40 and at < runs.started_at + interval '2400 milliseconds'";
    assert_eq!(count(&mut connection, early).await, 0);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_closed_by_whoever_has_it() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let mut dead = TestHost::start(options(&database)).await;
    let terms = |ms| StartOptions { run_timeout_ms: Some(ms), ..StartOptions::default() };
    start(&dead, "careful", r#""desk""#, terms(1_500)).await;
    // A paused run and one that is parked are bound as well.
    start(&dead, "collect", "1", terms(1_500)).await;
    start(&dead, "panics", "null", terms(1_500)).await;
    dead.client.pause("collect", "wait").await.unwrap();
    let waits = "select count(*) from ledger where kind in (3, 30)";
    eventually("both wait", async || (count(&mut connection, waits).await == 2).then_some(())).await;
    dead.kill();
    let heir = TestHost::start(options(&database)).await;
    for id in ["careful", "collect", "panics"] {
        let closed = eventually(&format!("{id} is over"), async || {
            let view = heir.client.run(id).await.ok()?.run;
            (!view.status.is_open()).then_some(view)
        })
        .await;
        assert_eq!(closed.status, RunStatus::TimedOut, "{closed:#?}");
        assert_eq!(closed.failure.unwrap().code, "run-timeout");
        assert_eq!(heir.rows(id).await.last().unwrap().kind, "run-timed-out");
    }
    assert_eq!(count(&mut connection, "select count(*) from timers").await, 0);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn the_bound_on_an_execution_outlives_continue_as_new() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let terms = StartOptions { execution_timeout_ms: Some(4_000), ..StartOptions::default() };
    start(&host, "rolling", "0", terms).await;
    let mut generation = 0;
    // It goes on as new for as long as it is fed, and is fed too little to end by itself.
    let closed = eventually("the last of them is over", async || {
        let view = host.client.run("rolling").await.ok()?.run;
        generation = generation.max(view.generation);
        if view.status.is_open() {
            let _ = host.client.signal("rolling", "add", &Json::new("0").unwrap()).await;
        }
        (view.status == RunStatus::TimedOut).then_some(view)
    })
    .await;
    assert!(generation > 0, "it never went on as new");
    assert_eq!(closed.failure.unwrap().code, "execution-timeout");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn calls_of_a_run_that_is_more_urgent_are_served_first() {
    let database = deployed_database().await;
    let mut connection = connect(&database).await;
    let host = TestHost::start(options(&database).arg("--activities-max=1").arg("--at-once-ms=0")).await;
    for (number, priority) in [5, 5, 3, 1, 4].into_iter().enumerate() {
        let id = format!("{number}-{priority}");
        let run = StartRun::new("queues", Some(id.clone()), Json::of(&id).unwrap());
        let options = StartOptions { priority: Some(priority), ..StartOptions::default() };
        host.client.start(StartRun { options, ..run }).await.unwrap();
    }
    let called = "select count(*) from ledger where kind = 2";
    eventually("all have called", async || (count(&mut connection, called).await == 5).then_some(())).await;
    // None is served. From here on all are, one at a time.
    host.client.deploy(late()).await.unwrap();
    let served = "select count(*) from runs where workflow = 'queues' and status = 10";
    eventually("all are served", async || (count(&mut connection, served).await == 5).then_some(())).await;
    let mut order = Vec::new();
    for attempt in attempts(&host) {
        let view = host.client.run(&attempt.call.0).await.unwrap().run;
        order.push(view.workflow_id.split_once('-').unwrap().1.to_owned());
    }
    assert_eq!(order, ["1", "3", "4", "5", "5"]);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_tree_is_only_so_deep_and_can_be_looked_at() {
    let database = deployed_database().await;
    let mut dead = TestHost::start(options(&database).crash("append-after:20")).await;
    let _ = dead.client.start(StartRun::new("descend", Some("root".into()), Json::null())).await;
    dead.crashed().await;
    let heir = TestHost::start(options(&database)).await;
    heir.start_run("descend", "root", "null").await;
    let depth = limits::RUN_DEPTH_MAX;
    assert_eq!(heir.output("root").await, format!("\"too-deep {depth}\""));
    let said = heir.cli(&["run", "tree", "root", "--json"]).await;
    let tree: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let runs = tree["runs"].as_array().unwrap();
    // The root, then a `birth` and a `descend` on every floor; the last of them has neither.
    assert_eq!(runs.len() as u32, 1 + 2 * depth, "{said:?}");
    assert_eq!((&runs[0]["workflow_id"], &runs[0]["depth"]), (&"root".into(), &0.into()));
    assert_eq!(runs.iter().map(|run| run["depth"].as_u64().unwrap()).max(), Some(u64::from(depth)));
    let said = heir.cli(&["run", "tree", "root"]).await;
    assert!(said.code == 0 && said.stdout.lines().count() > 2 * depth as usize, "{said:?}");
    check_ledgers(&database).await;
}
