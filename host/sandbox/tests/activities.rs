//! What becomes of activity attempts: their outcomes, and that every one of them ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use backstitch_core::{Failure, FailureKind, Json, Op};
use backstitch_sandbox::{ActivityCall, ActivityContext, ActivityProgram, Program, Sandbox};
use support::*;

async fn program(sandbox: &Sandbox, functions: &str, invoke: &str) -> ActivityProgram {
    match load(sandbox, activity(functions, invoke)).await {
        Program::Activity(program) => program,
        Program::Workflow(_) => panic!("not an activity"),
    }
}

fn call(timeout_ms: u64) -> ActivityCall {
    ActivityCall {
        name: "work".into(),
        input: Json::new("[1]").unwrap(),
        context: ActivityContext {
            run_id: RUN,
            workflow_id: "w".into(),
            op: Op(3),
            attempt: 1,
            deadline_ms: None,
        },
        timeout: Duration::from_millis(timeout_ms),
    }
}

async fn outcome(functions: &str, invoke: &str, timeout_ms: u64) -> Result<Json, Failure> {
    let sandbox = sandbox();
    let program = program(&sandbox, functions, invoke).await;
    sandbox.invoke(&program, call(timeout_ms)).await.unwrap()
}

#[tokio::test]
async fn an_attempt_gives_its_output() {
    let echo = "(call $ok (local.get $input) (local.get $input-length))";
    assert_eq!(outcome("", echo, 5_000).await, Ok(Json::new("[1]").unwrap()));
    let key = "(i32.store8 (i32.sub (local.get $key) (i32.const 1)) (i32.const 34))
        (i32.store8 (i32.add (local.get $key) (local.get $key-length)) (i32.const 34))
        (call $ok (i32.sub (local.get $key) (i32.const 1)) (i32.add (local.get $key-length) (i32.const 2)))";
    assert_eq!(outcome("", key, 5_000).await, Ok(Json::new(format!("\"{RUN}:3\"")).unwrap()));
}

#[tokio::test]
async fn a_spinning_attempt_ends_on_time_and_lets_others_work() {
    let sandbox = sandbox();
    let program = program(&sandbox, "", "(loop $for_ever (br $for_ever)) (unreachable)").await;
    let turns = AtomicU32::new(0);
    let others = async {
        loop {
            turns.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let begun = Instant::now();
    let ended = tokio::select! {
        ended = sandbox.invoke(&program, call(300)) => ended.unwrap(),
        () = others => unreachable!(),
    };
    let failure = ended.unwrap_err();
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Timeout, "start-to-close"));
    assert!(failure.retryable);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(turns.load(Ordering::Relaxed) >= 5, "one thread, and nobody else got a turn");
}

#[tokio::test]
async fn what_nobody_can_notice_is_tried_at_once() {
    let sandbox = sandbox();
    let echo = program(&sandbox, "", "(call $ok (local.get $input) (local.get $input-length))").await;
    assert_eq!(echo.try_at_once(&call(5_000)), Some(Ok(Json::new("[1]").unwrap())));
    let broken = program(&sandbox, "", "(unreachable)").await;
    assert_eq!(broken.try_at_once(&call(5_000)).unwrap().unwrap_err().code, "trap");

    // Randomness comes from outside, even if nobody draws any.
    let text = include_str!("support/activity.wat")
        .replacen(
            "(component",
            r#"(component (import "wasi:random/random@0.2.6" (instance (export "get-random-u64" (func (result u64)))))"#,
            1,
        )
        .replace("{{functions}}", "")
        .replace("{{invoke}}", "(call $ok (local.get $input) (local.get $input-length))");
    let Program::Activity(random) = load(&sandbox, wat::parse_str(text).unwrap()).await else { panic!() };
    assert_eq!(random.try_at_once(&call(5_000)), None);
    assert_eq!(sandbox.invoke(&random, call(5_000)).await.unwrap(), Ok(Json::new("[1]").unwrap()));

    // It is thrown away in no time at all, compared with its own time-out, and not tried again soon.
    let spinning = program(&sandbox, "", "(loop $for_ever (br $for_ever)) (unreachable)").await;
    assert_eq!(spinning.try_at_once(&call(3_600_000)), None);
    assert_eq!(spinning.try_at_once(&call(3_600_000)), None);
    let ended = sandbox.invoke(&spinning, call(50)).await.unwrap();
    assert_eq!(ended.unwrap_err().code, "start-to-close");
}

#[tokio::test]
async fn whatever_an_attempt_does_is_a_failure_of_that_attempt() {
    let deeper = "(func $deeper (param i64) (result i64) (call $deeper (i64.add (call $deeper (local.get 0)) (i64.const 1))))";
    let cases = [
        ("", "(unreachable)", "trap", "guest: invoke", true),
        (
            "",
            "(loop $more (drop (memory.grow (i32.const 16))) (br $more)) (unreachable)",
            "trap",
            "it may have 268435456",
            true,
        ),
        (deeper, "(drop (call $deeper (i64.const 0))) (unreachable)", "trap", "the guest's stack", true),
        (
            "",
            "(call $ok (i32.const 4100) (i32.const 9))",
            "invalid-outcome",
            "the activity's output: not JSON",
            false,
        ),
        ("", "(call $ok (i32.const 65530) (i32.const 90000))", "trap", "out of bounds", true),
    ];
    for (functions, invoke, code, message, retryable) in cases {
        let failure = outcome(functions, invoke, 20_000).await.unwrap_err();
        assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Application, code), "{failure}");
        assert!(failure.message.contains(message), "{failure}");
        assert_eq!(failure.retryable, retryable, "{failure}");
    }
}

#[tokio::test]
async fn more_attempts_than_may_run_wait_for_their_turn() {
    let sandbox = sandbox();
    // Each is alive until its time is up, and there is not room for all of them at once.
    let program = program(&sandbox, "", "(loop $for_ever (br $for_ever)) (unreachable)").await;
    let attempts: Vec<_> = (0..80)
        .map(|_| {
            let (sandbox, program) = (sandbox.clone(), program.clone());
            tokio::spawn(async move { sandbox.invoke(&program, call(20)).await })
        })
        .collect();
    for attempt in attempts {
        assert_eq!(attempt.await.unwrap().unwrap().unwrap_err().code, "start-to-close");
    }
}

#[tokio::test]
async fn an_activity_component_describes_itself() {
    let sandbox = sandbox();
    let program = program(&sandbox, "", "(unreachable)").await;
    let described = sandbox.describe(&Program::Activity(program)).await.unwrap();
    assert_eq!(described.len(), 1);
    assert_eq!((described[0].name.as_str(), described[0].task_queue.as_deref()), ("work", Some("default")));
}
