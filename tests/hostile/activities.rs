//! Hostile activities: whatever one does is the failure of an attempt, and the retry policy's affair.

use backstitch::cli::exit::Exit;
use backstitch_core::{FailureKind, RunStatus};
use serde_json::Value;

use crate::program::{ORDER, peak_mib, tell};
use crate::support::{HostOptions, TestHost, check_ledgers, component, database, eventually, wat};

/// A call that `calls` of `hostile-guest` makes, and what becomes of it.
struct Call {
    input: &'static str,
    /// The output, or the failure's kind, code and a part of its message.
    ends: Result<&'static str, (FailureKind, &'static str, &'static str)>,
    /// The attempts that the ledger tells of, after which the call closes.
    attempts: u32,
}

const fn fails(
    input: &'static str,
    attempts: u32,
    kind: FailureKind,
    code: &'static str,
    message: &'static str,
) -> Call {
    Call { input, ends: Err((kind, code, message)), attempts }
}

use FailureKind::{Application, Timeout};

const CALLS: [Call; 16] = [
    // Each attempt takes its whole time.
    fails(
        r#"{"name":"spin","args":[],"start_to_close_ms":100,"attempts":3}"#,
        3,
        Timeout,
        "start-to-close",
        "the attempt took longer than 100 ms",
    ),
    fails(
        r#"{"name":"spin","args":[],"schedule_to_close_ms":200,"attempts":0}"#,
        1,
        Timeout,
        "",
        "the attempt took longer than",
    ),
    fails(
        r#"{"name":"nobody","args":[],"schedule_to_close_ms":200}"#,
        1,
        Timeout,
        "schedule-to-close",
        "no deployed component and no worker took \"nobody\" from the task queue \"default\" in time",
    ),
    // A retry that is missed waits for half a minute: twenty of them for ten.
    Call { input: r#"{"name":"fail_times","args":[20],"attempts":0}"#, ends: Ok("21"), attempts: 21 },
    fails(r#"{"name":"fail_times","args":[9],"attempts":3}"#, 3, Application, "flaky", "attempt 3"),
    fails(r#"{"name":"fail_finally","args":[],"attempts":9}"#, 1, Application, "final", "no further attempt"),
    // What it says last is in its failure, on one line.
    fails(
        r#"{"name":"panic_activity","args":[],"attempts":2}"#,
        2,
        Application,
        "trap",
        "on purpose, in an activity\\nERROR forged",
    ),
    fails(r#"{"name":"panic_unsaid","args":[],"attempts":2}"#, 2, Application, "trap", "unreachable"),
    fails(r#"{"name":"memory_bomb","args":[]}"#, 1, Application, "trap", "it may have 268435456"),
    fails(r#"{"name":"bad_json","args":[],"attempts":9}"#, 1, Application, "invalid-outcome", "not JSON"),
    fails(r#"{"name":"huge_output","args":[]}"#, 1, Application, "trap", "it may have 268435456"),
    fails(
        r#"{"name":"huge_output","args":[9000000]}"#,
        1,
        Application,
        "trap",
        "more than 8388608 bytes handed over in one call",
    ),
    fails(
        r#"{"name":"huge_output","args":[2097151],"attempts":9}"#,
        1,
        Application,
        "invalid-outcome",
        "a payload holds at most 2097152",
    ),
    fails(r#"{"name":"huge_failure","args":[1000000],"attempts":2}"#, 2, Application, "ccc", "mmm"),
    Call { input: r#"{"name":"echo","args":[1.0,{"b":2}]}"#, ends: Ok(r#"[1.0,{"b":2}]"#), attempts: 1 },
    Call { input: r#"{"name":"busy","args":[1],"attempts":1}"#, ends: Ok(""), attempts: 1 },
];

/// Three attempts at once that take their 256 MiB, and the host itself.
const PEAK_MIB_MAX: u64 = 1_024;

#[tokio::test]
async fn a_hostile_activity_fails_its_attempt_and_the_retry_policy_decides() {
    let database = database().await;
    let packages = ["hostile-guest", "hostile-activities", "order-workflow", "order-activities"];
    let mut host = TestHost::with(&database, &packages).await;
    let mut runs = Vec::new();
    for (number, call) in CALLS.iter().enumerate() {
        runs.push((host.start_run("calls", &format!("call-{number}"), call.input).await, call));
        host.start_run("order_workflow", &format!("order-{number}"), ORDER).await;
    }
    for (number, (id, call)) in runs.iter().enumerate() {
        check_call(&host, id, call).await;
        host.output(&format!("order-{number}")).await;
    }
    assert!(host.is_running());
    let peak = peak_mib(host.pid());
    assert!(peak < PEAK_MIB_MAX, "{peak} MiB");
    check_ledgers(&database).await;
}

async fn check_call(host: &TestHost, id: &str, call: &Call) {
    let view = host.ended_run(id).await;
    match call.ends {
        Ok(output) => {
            assert_eq!(view.status, RunStatus::Completed, "{}: {view:#?}", call.input);
            assert!(view.output.unwrap().as_str().contains(output), "{}", call.input);
        }
        Err((kind, code, message)) => {
            assert_eq!(view.status, RunStatus::Failed, "{}: {view:#?}", call.input);
            let failure = view.failure.unwrap();
            assert_eq!(failure.kind, kind, "{}: {failure}", call.input);
            assert!(failure.code.contains(code), "{}: {failure}", call.input);
            assert!(failure.message.contains(message), "{}: {failure}", call.input);
        }
    }
    let closes = if call.ends.is_ok() { "activity-completed" } else { "activity-failed" };
    let attempts: Vec<(String, Option<u32>)> = host
        .rows(id)
        .await
        .into_iter()
        .filter(|row| row.kind.starts_with("activity-") && row.kind != "activity-scheduled")
        .map(|row| (row.kind, row.attempt))
        .collect();
    let expected: Vec<(String, Option<u32>)> = (1..=call.attempts)
        .map(|attempt| if attempt == call.attempts { closes } else { "activity-attempt-failed" })
        .zip(1..)
        .map(|(kind, attempt)| (kind.to_owned(), Some(attempt)))
        .collect();
    assert_eq!(attempts, expected, "{}", call.input);
}

/// What a host gives all its guests together, in MiB, and what it may have beside: one attempt that need not wait,
/// its own code, buffers and threads.
const ROOM_MIB: u64 = 512;
const BESIDE_MIB: u64 = 256 + 320;

/// Starts attempts that touch 250 MiB each, all at once.
pub(crate) async fn fill(host: &TestHost, calls: usize) -> Vec<String> {
    let input = r#"{"name":"fills","args":[250],"start_to_close_ms":5000}"#;
    let starts = (0..calls).map(async |call| host.start_run("calls", &format!("fills-{call}"), input).await);
    futures::future::join_all(starts).await
}

#[tokio::test]
async fn attempts_that_want_more_memory_than_there_is_wait_and_none_of_them_fails() {
    const CALLS: usize = 200;
    let database = database().await;
    // Its lease is nobody's subject here: a machine that is busy clearing pages may be late with it.
    let options = HostOptions { lease_ms: "60000", ..HostOptions::new(&database) };
    let host = TestHost::start(options.arg("--guest-memory-mib").arg(ROOM_MIB.to_string())).await;
    host.deploy(&["hostile-guest", "hostile-activities"]).await;
    // They wait for longer than one of them may take.
    let runs = fill(&host, CALLS).await;
    for id in &runs {
        assert_eq!(host.output(id).await, "250", "{id}");
        let kinds: Vec<String> = host.rows(id).await.into_iter().map(|row| row.kind).collect();
        assert_eq!(
            kinds,
            ["run-started", "activity-scheduled", "activity-completed", "run-completed"],
            "{id}"
        );
    }
    let peak = peak_mib(host.pid());
    assert!(peak < ROOM_MIB + BESIDE_MIB, "{peak} MiB");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_attempt_knows_who_it_is() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest", "hostile-activities"]).await;
    let input = r#"{"name":"context","args":[],"start_to_close_ms":60000}"#;
    let id = host.start_run("calls", "who", input).await;
    let context: Value = serde_json::from_str(&host.output(&id).await).unwrap();
    let run = host.client.run(&id).await.unwrap().run.run_id.to_string();
    assert_eq!(context["run_id"], run);
    assert_eq!(context["workflow_id"], "who");
    assert_eq!((&context["op"], &context["attempt"]), (&0.into(), &1.into()));
    assert_eq!(context["idempotency_key"], format!("{run}:0"));
    assert!(context["deadline_ms"].as_u64().is_some(), "{context}");
}

#[tokio::test]
async fn a_call_that_nobody_serves_waits_and_says_so_until_somebody_does() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    let id = host.start_run("calls", "unserved", r#"{"name":"echo","args":["x"]}"#).await;
    let waits = "echo on default: no deployed component offers it, a worker outside may take it";
    eventually("the call waits", async || {
        let shown = tell(&host, &["run", "show", &id, "--json"]).await.json();
        (shown["waits_for"][0]["what"] == waits).then_some(())
    })
    .await;
    assert!(tell(&host, &["run", "show", &id]).await.stdout.contains(waits));
    host.deploy(&["hostile-activities"]).await;
    assert_eq!(host.output(&id).await, r#"["x"]"#);
}

#[tokio::test]
async fn a_hostile_activity_that_is_replaced_is_not_called_again() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    host.deploy(&["hostile-guest", "hostile-activities"]).await;
    let input = r#"{"name":"spin","args":[],"start_to_close_ms":50,"attempts":0}"#;
    let id = host.start_run("calls", "spins", input).await;
    eventually("two attempts have failed", async || (host.rows(&id).await.len() >= 4).then_some(())).await;
    host.client.deploy(wat("mended-activities")).await.unwrap();
    assert_eq!(host.output(&id).await, r#""mended""#);
    // The others of the component before are still served by it.
    let id = host.start_run("calls", "echoes", r#"{"name":"echo","args":[]}"#).await;
    assert_eq!(host.output(&id).await, "[]");
    let deployments = tell(&host, &["deployments", "--json"]).await.exits(Exit::Ok).json();
    let serving = |name: &str| {
        let all = deployments["deployments"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["digest"].clone()
    };
    assert_ne!(serving("spin"), serving("echo"));
    assert!(component("hostile-activities") != wat("mended-activities"));
    check_ledgers(&database).await;
}
