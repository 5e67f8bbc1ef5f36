//! Calls that workers outside carry out, while workers and hosts die. The workers here speak the plain
//! protocol, so that they can misbehave; those of the libraries are in `workers`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backstitch::host::Host;
use backstitch::service::ServiceError;
use backstitch_client::tasks::{
    AnswerTask, HeartbeatTask, HeartbeatView, ListActivities, PollTasks, TaskFailure, TaskView,
};
use backstitch_client::{Client, ClientError, StartOptions, StartRun};
use backstitch_core::{Json, Op, RunStatus, Scope, TenantId};

use crate::load::{count, deployed_database, options};
use crate::support::{TestHost, check_ledgers, component, connect, database, eventually, refusal};

/// A lease that nothing here outlives by accident.
const LONG_MS: u64 = 120_000;
/// The shortest there is: for leases that are to run out.
const SHORT_MS: u64 = 100;

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

fn poll(task_queue: &str, lease_ms: u64) -> PollTasks {
    PollTasks {
        wait_ms: 20_000,
        lease_ms: Some(lease_ms),
        worker: "by hand".to_owned(),
        ..PollTasks::new(task_queue)
    }
}

/// Waits for one task.
async fn take(client: &Client, task_queue: &str, lease_ms: u64) -> TaskView {
    eventually("there is a task", async || {
        client.poll_tasks(&poll(task_queue, lease_ms)).await.unwrap().pop()
    })
    .await
}

fn stale() -> (u16, String) {
    (409, "stale-token".to_owned())
}

async fn heartbeat(
    client: &Client,
    task: &TaskView,
    details: Option<&str>,
) -> Result<HeartbeatView, ClientError> {
    let heartbeat = HeartbeatTask { token: task.token.clone(), details: details.map(json) };
    client.heartbeat_task(&heartbeat).await
}

/// Where each call's lease ends, at the earliest: from the moment before it was asked for.
type Leases = Arc<Mutex<HashMap<String, Instant>>>;

/// Random, and the same each time: how often something happens does not depend on the run.
fn one_in(n: u64) -> bool {
    static STATE: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
    let state = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 27)).is_multiple_of(n)
}

/// A worker that takes tasks by the dozen, from any host, and every so often dies with all it has.
async fn mortal(hosts: Arc<Mutex<Vec<String>>>, leases: Leases, deaths: Arc<AtomicU64>, number: usize) {
    const LEASE: Duration = Duration::from_millis(1_000);
    for turn in 0_usize.. {
        let url = {
            let hosts = hosts.lock().unwrap();
            hosts[(turn + number) % hosts.len()].clone()
        };
        let client = Client::new(&url).unwrap();
        let asked = Instant::now();
        let wanted = PollTasks {
            max: 40,
            wait_ms: 300,
            lease_ms: Some(LEASE.as_millis() as u64),
            worker: format!("mortal-{number}"),
            ..PollTasks::new("outside")
        };
        let Ok(tasks) = client.poll_tasks(&wanted).await else {
            // The host has died.
            tokio::task::yield_now().await;
            continue;
        };
        for task in &tasks {
            let had = leases.lock().unwrap().insert(task.idempotency_key.clone(), asked + LEASE);
            assert!(had.is_none_or(|end| end <= Instant::now()), "two have {task:?}");
        }
        if !tasks.is_empty() && one_in(20) {
            deaths.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        for tasks in tasks.chunks(10) {
            let mut answers = Vec::new();
            for task in tasks {
                let [n] = serde_json::from_str::<[u64; 1]>(task.input.as_str()).unwrap();
                if one_in(50) {
                    let failure = TaskFailure { code: "again".to_owned(), ..TaskFailure::default() };
                    answers.push(AnswerTask::failed(&*task.token, failure));
                } else if one_in(50) {
                    leases.lock().unwrap().insert(task.idempotency_key.clone(), Instant::now());
                    let _ = client.release_task(&task.token).await;
                } else {
                    answers.push(AnswerTask::completed(&*task.token, json(&n.to_string())));
                }
            }
            for answer in &answers {
                if answer.failure.is_some() {
                    let call = tasks.iter().find(|task| task.token == answer.token).unwrap();
                    leases.lock().unwrap().insert(call.idempotency_key.clone(), Instant::now());
                }
            }
            // Some are told twice, and some to a host that dies meanwhile: it must not matter.
            let twice = one_in(10).then(|| answers.clone());
            let _ = client.settle_tasks(answers).await;
            if let Some(answers) = twice {
                let _ = client.settle_tasks(answers).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_are_done_while_their_workers_and_their_hosts_die() {
    const RUNS: u64 = 10;
    const CALLS: u64 = 1_000;
    let database = deployed_database().await;
    let mut living =
        vec![TestHost::start(options(&database)).await, TestHost::start(options(&database)).await];
    let urls = |living: &[TestHost]| living.iter().map(|host| host.url.clone()).collect::<Vec<_>>();
    let hosts = Arc::new(Mutex::new(urls(&living)));
    for run in 0..RUNS {
        let host = &living[run as usize % 2];
        host.start_run("outside", &format!("run-{run}"), &CALLS.to_string()).await;
    }
    let (leases, deaths): (Leases, _) = (Leases::default(), Arc::new(AtomicU64::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..4 {
        workers.spawn(mortal(Arc::clone(&hosts), Arc::clone(&leases), Arc::clone(&deaths), number));
    }
    // Each host dies once, somewhere in the middle.
    for share in [3_000, 6_000] {
        eventually("so many calls were taken", async || {
            (leases.lock().unwrap().len() >= share || workers.try_join_next().is_some()).then_some(())
        })
        .await;
        let mut dead = living.remove(0);
        dead.kill();
        living.push(TestHost::start(options(&database)).await);
        *hosts.lock().unwrap() = urls(&living);
    }
    for run in 0..RUNS {
        let output = eventually("the run ends", async || {
            if let Some(ended) = workers.try_join_next() {
                panic!("a worker has ended: {ended:?}");
            }
            let view = living[0].client.result(&format!("run-{run}"), Duration::from_secs(1)).await.ok()?;
            assert!(matches!(view.status, RunStatus::Running | RunStatus::Completed), "{view:#?}");
            view.output
        })
        .await;
        assert_eq!(output.as_str(), (CALLS * (CALLS - 1) / 2).to_string());
    }
    workers.abort_all();
    assert!(deaths.load(Ordering::Relaxed) > 0, "no worker has died");
    let mut completed = 0;
    for run in 0..RUNS {
        let rows = living[0].rows(&format!("run-{run}")).await;
        completed += rows.iter().filter(|row| row.kind == "activity-completed").count() as u64;
    }
    assert_eq!(completed, RUNS * CALLS);
    eventually("no task is left", async || {
        let left = living[0].client.activities(&ListActivities::default()).await.ok()?;
        left.activities.is_empty().then_some(())
    })
    .await;
    check_ledgers(&database).await;
}

/// The flood is older and more urgent than the other call, and each poll asks once.
/// The guest of a start has made its calls before anybody knows whether its id is taken.
#[tokio::test]
async fn a_start_that_is_refused_hands_nothing_out() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let wanted = || PollTasks { max: 10, ..poll("outside", LONG_MS) };
    host.start_run("outside", "first", "2").await;
    let mut taken = Vec::new();
    while taken.len() < 2 {
        taken.extend(host.client.poll_tasks(&wanted()).await.unwrap());
    }
    // A worker that waits, for whom calls are reserved.
    let waiting = tokio::spawn({
        let client = host.client.clone();
        async move { client.poll_tasks(&wanted()).await.unwrap() }
    });
    for _ in 0..5 {
        let again = StartRun::new("outside", Some("first".to_owned()), json("3"));
        assert_eq!(refusal(host.client.start(again).await), (409, "workflow-id-taken".to_owned()));
    }
    host.start_run("outside", "second", "1").await;
    let tasks = waiting.await.unwrap();
    assert_eq!(tasks.iter().map(|task| &*task.workflow_id).collect::<Vec<_>>(), ["second"]);
    let open = host.client.activities(&ListActivities::default()).await.unwrap().activities;
    assert_eq!(open.len(), 3, "{open:?}");
    let mut connection = connect(&database).await;
    let rows = "select count(distinct run_id) from ledger";
    assert_eq!(count(&mut connection, rows).await, 2);
}

#[tokio::test]
async fn polls_at_once_on_several_hosts_share_a_flood_and_leave_other_queues_alone() {
    const POLLS: usize = 12;
    const SHARE: u32 = 25;
    const CALLS: usize = POLLS * SHARE as usize;
    let database = deployed_database().await;
    let hosts = [TestHost::start(options(&database)).await, TestHost::start(options(&database)).await];
    let start = StartRun {
        options: StartOptions { priority: Some(1), ..StartOptions::default() },
        ..StartRun::new("outside", Some("flood".to_owned()), json(&CALLS.to_string()))
    };
    hosts[0].client.start(start).await.unwrap();
    hosts[0].start_run("queues", "other", r#""x""#).await;
    let mut connection = connect(&database).await;
    eventually("all calls are offered", async || {
        let offered: i64 =
            sqlx::query_scalar("select count(*) from tasks").fetch_one(&mut connection).await.unwrap();
        (offered == CALLS as i64 + 1).then_some(())
    })
    .await;
    let at_once = |max, task_queue| PollTasks { max, wait_ms: 0, ..poll(task_queue, LONG_MS) };
    let tasks = hosts[1].client.poll_tasks(&at_once(SHARE, "default")).await.unwrap();
    assert_eq!(tasks.iter().map(|task| &*task.workflow_id).collect::<Vec<_>>(), ["other"]);

    let wanted = at_once(SHARE, "outside");
    let polls = (0..POLLS).map(|n| hosts[n % 2].client.poll_tasks(&wanted));
    let shares: Vec<_> = futures::future::join_all(polls).await.into_iter().map(Result::unwrap).collect();
    assert!(shares.iter().all(|share| share.len() == SHARE as usize), "{:?}", shares.iter().map(Vec::len));
    let calls: HashSet<_> = shares.iter().flatten().map(|task| task.op).collect();
    assert_eq!(calls.len(), CALLS, "a call was given to two");
}

#[tokio::test]
async fn an_answer_counts_once_and_a_token_that_is_nobodys_is_refused() {
    let database = deployed_database().await;
    let mut host = TestHost::start(options(&database)).await;
    host.start_run("queues", "told", r#""x""#).await;
    let task = take(&host.client, "default", LONG_MS).await;
    assert_eq!((task.name.as_str(), task.attempt, task.input.as_str()), ("late", 1, r#"["x"]"#));
    assert_eq!(task.idempotency_key, format!("{}:0", task.run_id));
    let trace = task.run_id.0.simple().to_string();
    assert!(task.traceparent.starts_with(&format!("00-{trace}-")), "{}", task.traceparent);
    let nothing = PollTasks { wait_ms: 0, ..poll("default", LONG_MS) };
    assert_eq!(host.client.poll_tasks(&nothing).await.unwrap().len(), 0, "it is taken");

    let answer = AnswerTask::completed(&*task.token, json(r#""done""#));
    let other = AnswerTask::completed(&*task.token, json(r#""other""#));
    let failure = AnswerTask::failed(&*task.token, TaskFailure::default());
    host.client.answer_task(&answer).await.unwrap();
    assert_eq!(host.output("told").await, r#""done""#);
    let again = async |client: &Client| {
        client.answer_task(&answer).await.unwrap();
        assert_eq!(refusal(client.answer_task(&other).await), stale());
        assert_eq!(refusal(client.answer_task(&failure).await), stale());
        assert_eq!(refusal(heartbeat(client, &task, None).await), stale());
        assert_eq!(refusal(client.release_task(&task.token).await), stale());
        assert_eq!(refusal(client.defer_task(&task.token).await), stale());
    };
    again(&host.client).await;
    host.kill();
    let heir = TestHost::start(options(&database)).await;
    again(&heir.client).await;

    let forged = task.token.replace(".0.1.", ".0.2.");
    let forged = AnswerTask::completed(forged, json("1"));
    assert_eq!(refusal(heir.client.answer_task(&forged).await), stale());
    let none = AnswerTask::completed("me", json("1"));
    assert_eq!(refusal(heir.client.answer_task(&none).await), (400, "invalid-token".to_owned()));
    let results = heir.client.settle_tasks(vec![answer, none, other]).await.unwrap();
    assert_eq!(results.iter().map(|result| result.status).collect::<Vec<_>>(), [200, 400, 409]);
    check_ledgers(&database).await;
}

/// No door leads to another tenant yet: the host itself is asked, and the lease is one that it knows.
#[tokio::test]
async fn an_answer_counts_in_the_tenant_of_its_run_only() {
    let host = Host::builder(database().await).component(component("verbs-guest")).start().await.unwrap();
    let service = host.service();
    let start = StartRun::new("outside", Some("theirs".to_owned()), json("1"));
    service.start(Scope::DEFAULT, start).await.unwrap();
    let task = eventually("there is a task", async || {
        service.poll_tasks(Scope::DEFAULT, poll("outside", LONG_MS)).await.unwrap().pop()
    })
    .await;
    let answer = |output| AnswerTask::completed(&*task.token, json(output));
    let foreign = Scope { tenant: TenantId(2), ..Scope::DEFAULT };
    let refused = service.answer_task(foreign, answer("7")).await.unwrap_err();
    assert!(matches!(refused, ServiceError::Conflict { code: "stale-token", .. }), "{refused:?}");
    service.answer_task(Scope::DEFAULT, answer("0")).await.unwrap();
    let run = service.result(Scope::DEFAULT, "theirs", Duration::from_secs(60)).await.unwrap();
    assert_eq!(run.output.unwrap().as_str(), "0");
    host.shutdown().await;
}

#[tokio::test]
async fn a_task_that_is_given_back_or_lost_goes_to_the_next_worker_with_what_was_said() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("outside", "kept", "1").await;
    let first = take(&host.client, "outside", LONG_MS).await;
    assert_eq!(heartbeat(&host.client, &first, Some("17")).await.unwrap().lease_ms, Some(LONG_MS));
    host.client.release_task(&first.token).await.unwrap();

    let second = take(&host.client, "outside", SHORT_MS).await;
    assert_eq!(second.attempt, 1, "what is given back is no attempt");
    assert_eq!(second.heartbeat_details.as_ref().map(Json::as_str), Some("17"));
    let late = AnswerTask::completed(&*first.token, json("7"));
    assert_eq!(refusal(host.client.answer_task(&late).await), stale());

    // Its worker is never heard of again.
    let third = take(&host.client, "outside", LONG_MS).await;
    assert_eq!((third.attempt, third.idempotency_key), (2, first.idempotency_key));
    assert_eq!(third.heartbeat_details.as_ref().map(Json::as_str), Some("17"));
    let late = AnswerTask::completed(&*second.token, json("7"));
    assert_eq!(refusal(host.client.answer_task(&late).await), stale());
    host.client.answer_task(&AnswerTask::completed(&*third.token, json("0"))).await.unwrap();
    assert_eq!(host.output("kept").await, "0");
    let rows = host.rows("kept").await;
    let failed = rows.iter().find(|row| row.kind == "activity-attempt-failed").unwrap();
    let failure = failed.payload.as_ref().unwrap().as_str();
    assert!(failure.contains(r#""code":"heartbeat""#) && failure.contains("by hand"), "{failure}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_worker_is_told_that_nobody_waits_for_it() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("outside", "cancelled", "2").await;
    let tasks = [take(&host.client, "outside", LONG_MS).await, take(&host.client, "outside", LONG_MS).await];
    assert!(!heartbeat(&host.client, &tasks[0], None).await.unwrap().cancel);
    host.client.cancel("cancelled", "enough").await.unwrap();
    assert_eq!(host.ended_run("cancelled").await.status, RunStatus::Cancelled);
    for task in &tasks {
        assert!(heartbeat(&host.client, task, None).await.unwrap().cancel);
    }
    let answer = AnswerTask::completed(&*tasks[0].token, json("1"));
    assert_eq!(refusal(host.client.answer_task(&answer).await), (409, "task-given-up".to_owned()));
    host.client.release_task(&tasks[1].token).await.unwrap();
    let left = host.client.activities(&ListActivities::default()).await.unwrap();
    assert_eq!(left.activities.len(), 0, "{left:?}");
    let rows = host.rows("cancelled").await;
    assert!(rows.iter().all(|row| row.kind != "activity-completed"), "{rows:#?}");
}

#[tokio::test]
async fn a_held_task_outlives_its_lease_and_its_host_and_is_answered_by_whoever_has_its_token() {
    let database = deployed_database().await;
    let mut host = TestHost::start(options(&database)).await;
    host.start_run("queues", "signed", r#""contract""#).await;
    let held = take(&host.client, "default", SHORT_MS).await;
    host.client.defer_task(&held.token).await.unwrap();
    host.start_run("outside", "lost", "1").await;
    let lost = take(&host.client, "outside", SHORT_MS).await;
    // The lease of the other runs out, which was taken later and is as long.
    let next = take(&host.client, "outside", LONG_MS).await;
    assert_eq!((next.idempotency_key, next.attempt), (lost.idempotency_key, 2));
    host.kill();

    let heir = TestHost::start(options(&database)).await;
    let said = heir.cli(&["activity", "list", "signed", "--json"]).await;
    let list: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(list["activities"][0]["state"], "held", "{list}");
    assert_eq!(
        heartbeat(&heir.client, &held, None).await.unwrap(),
        HeartbeatView { cancel: false, lease_ms: None }
    );
    heir.client.answer_task(&AnswerTask::completed(&*held.token, json(r#""by hand""#))).await.unwrap();
    assert_eq!(heir.output("signed").await, r#""by hand""#);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_operators_word_about_a_call_stands_whoever_is_at_it() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("queues", "overruled", r#""x""#).await;
    let task = take(&host.client, "default", LONG_MS).await;
    let said = host.cli(&["activity", "list"]).await;
    assert!(said.stdout.contains("leased") && said.stdout.contains("by hand"), "{}", said.stdout);
    let said = host.cli(&["activity", "complete", "overruled", "7"]).await;
    assert_eq!(said.code, 4, "{}", said.stderr);
    let said = host.cli(&["activity", "complete", "overruled", "0", r#""a person""#]).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(host.output("overruled").await, r#""a person""#);
    assert_eq!(refusal(heartbeat(&host.client, &task, None).await), stale());

    // The next attempt is due in ten seconds, and is wanted now.
    host.start_run("queues", "failed", r#""x""#).await;
    let task = take(&host.client, "default", LONG_MS).await;
    let said = host.cli(&["activity", "fail", "failed", "0", "--code", "seen"]).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    eventually("the attempt has failed", async || {
        let rows = host.rows("failed").await;
        rows.iter().any(|row| row.kind == "activity-attempt-failed").then_some(())
    })
    .await;
    assert_eq!(refusal(heartbeat(&host.client, &task, None).await), stale());
    let before = Instant::now();
    assert_eq!(host.cli(&["activity", "retry", "failed", "0"]).await.code, 0);
    let task = take(&host.client, "default", LONG_MS).await;
    assert_eq!(task.attempt, 2);
    assert!(before.elapsed() < Duration::from_secs(10), "it was made at its own time");
    host.client
        .fail_activity("failed", Op(0), &TaskFailure { retryable: false, ..TaskFailure::default() })
        .await
        .unwrap();
    assert_eq!(host.ended_run("failed").await.failure.unwrap().code, "application");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn what_a_paused_run_calls_is_handed_out_when_it_is_resumed() {
    let database = deployed_database().await;
    let mut host = TestHost::start(options(&database)).await;
    host.start_run("outside", "paused", "1").await;
    eventually("it is offered", async || {
        let list = host.client.activities(&ListActivities::default()).await.ok()?;
        (list.activities.len() == 1).then_some(())
    })
    .await;
    host.client.pause("paused", "wait").await.unwrap();
    eventually("it is paused", async || {
        (host.client.run("paused").await.ok()?.run.status == RunStatus::Paused).then_some(())
    })
    .await;
    let now = PollTasks { wait_ms: 0, ..poll("outside", LONG_MS) };
    assert_eq!(host.client.poll_tasks(&now).await.unwrap().len(), 0);
    host.kill();
    let heir = TestHost::start(options(&database)).await;
    eventually("the heir has it", async || {
        (heir.client.health().await.ok()?.runs_taken_over == 1).then_some(())
    })
    .await;
    assert_eq!(heir.client.poll_tasks(&now).await.unwrap().len(), 0);
    heir.client.resume("paused", "go").await.unwrap();
    let task = take(&heir.client, "outside", LONG_MS).await;
    assert_eq!(task.attempt, 1);
    heir.client.answer_task(&AnswerTask::completed(&*task.token, json("0"))).await.unwrap();
    assert_eq!(heir.output("paused").await, "0");
    check_ledgers(&database).await;
}
