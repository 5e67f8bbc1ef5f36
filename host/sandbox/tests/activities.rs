//! What becomes of activity attempts: their outcomes, and that every one of them ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use backstitch_core::{Failure, FailureKind, Json, Op, TaskLease, TaskToken, limits};
use backstitch_sandbox::{
    ActivityCall, ActivityContext, ActivityProgram, Defer, Heartbeat, Program, Sandbox,
};
use support::*;
use uuid::Uuid;

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
        heartbeat: Arc::new(Heartbeat::new(None, None)),
        defer: None,
        manifest: None,
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
    assert_eq!(echo.try_inline(&call(5_000)), Some(Ok(Json::new("[1]").unwrap())));
    let broken = program(&sandbox, "", "(unreachable)").await;
    assert_eq!(broken.try_inline(&call(5_000)).unwrap().unwrap_err().code, "trap");

    // Randomness comes from outside, even if nobody draws any, and an HTTP request goes there.
    let echo = "(call $ok (local.get $input) (local.get $input-length))";
    for open in [random_activity(echo), http_activity(echo)] {
        let Program::Activity(open) = load(&sandbox, open).await else { panic!() };
        assert_eq!(open.try_inline(&call(5_000)), None);
        assert_eq!(sandbox.invoke(&open, call(5_000)).await.unwrap(), Ok(Json::new("[1]").unwrap()));
    }

    // It is thrown away in no time at all, compared with its own time-out, and not tried again soon.
    let spinning = program(&sandbox, "", "(loop $for_ever (br $for_ever)) (unreachable)").await;
    assert_eq!(spinning.try_inline(&call(3_600_000)), None);
    assert_eq!(spinning.try_inline(&call(3_600_000)), None);
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

/// One attempt that may be silent for so long, and what can be told to it and heard of it.
fn with_heartbeat(timeout_ms: u64) -> (ActivityCall, Arc<Heartbeat>) {
    let told = Json::new("\"told\"").unwrap();
    let heartbeat = Arc::new(Heartbeat::new(Some(Duration::from_millis(timeout_ms)), Some(told)));
    (ActivityCall { heartbeat: Arc::clone(&heartbeat), ..call(20_000) }, heartbeat)
}

async fn beating(sandbox: &Sandbox, invoke: &str) -> ActivityProgram {
    match load(sandbox, beating_activity(invoke)).await {
        Program::Activity(program) => program,
        Program::Workflow(_) => panic!("not an activity"),
    }
}

#[tokio::test]
async fn silence_ends_an_attempt_whether_it_spins_or_waits() {
    let sandbox = sandbox();
    let spins = "(loop $for_ever (br $for_ever)) (unreachable)";
    let waits = "(call $sleep (i64.const 15000000000)) (unreachable)";
    let once =
        |then: &str| format!("(drop (call $heartbeat (i32.const 1) (i32.const 8) (i32.const 2))) {then}");
    let says = |then: &str| format!("(i32.store16 (i32.const 8) (i32.const 0x3234)) {}", once(then));
    for (invoke, said) in [
        (spins.to_owned(), "\"told\""),
        (waits.to_owned(), "\"told\""),
        (says(spins), "42"),
        (says(waits), "42"),
    ] {
        let program = beating(&sandbox, &invoke).await;
        let (call, heartbeat) = with_heartbeat(200);
        let begun = Instant::now();
        let failure = sandbox.invoke(&program, call).await.unwrap().unwrap_err();
        assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Timeout, "heartbeat"), "{invoke}");
        assert!(failure.retryable);
        assert!(failure.message.contains("200 ms"), "{failure}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{invoke}: {:?}", begun.elapsed());
        assert_eq!(heartbeat.details(), Some(Json::new(said).unwrap()), "{invoke}");
    }
    // One without heartbeats is bound to silence all the same, and one that ends in time is not stopped.
    let mute = program(&sandbox, "", spins).await;
    assert_eq!(sandbox.invoke(&mute, with_heartbeat(100).0).await.unwrap().unwrap_err().code, "heartbeat");
    let quick = program(&sandbox, "", "(call $ok (local.get $input) (local.get $input-length))").await;
    assert_eq!(sandbox.invoke(&quick, with_heartbeat(10_000).0).await.unwrap(), Ok(call(1).input));
}

#[tokio::test]
async fn silence_is_noticed_in_time_on_a_worker_without_a_rest() {
    let sandbox = sandbox();
    let program = program(&sandbox, "", "(loop $for_ever (br $for_ever)) (unreachable)").await;
    // Tokio looks at its timers once in 61 turns, which take a tick of 10 ms each. Of three rounds the
    // best counts, so that a busy machine does not.
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        let attempts: Vec<_> = (0..4)
            .map(|_| {
                let (sandbox, program) = (sandbox.clone(), program.clone());
                tokio::spawn(async move { sandbox.invoke(&program, with_heartbeat(100).0).await })
            })
            .collect();
        for attempt in attempts {
            assert_eq!(attempt.await.unwrap().unwrap().unwrap_err().code, "heartbeat");
        }
        best = best.min(begun.elapsed());
    }
    assert!(best < Duration::from_millis(400), "{best:?}");
}

#[tokio::test]
async fn an_attempt_lives_as_long_as_it_sends_heartbeats() {
    let sandbox = sandbox();
    // Twenty times a tenth of the silence that is allowed.
    let invoke = "(i32.store (i32.const 16) (i32.const 20))
        (loop $more
          (call $sleep (i64.const 50000000))
          (drop (call $heartbeat (i32.const 0) (i32.const 0) (i32.const 0)))
          (i32.store (i32.const 16) (i32.sub (i32.load (i32.const 16)) (i32.const 1)))
          (br_if $more (i32.load (i32.const 16))))
        (call $ok (local.get $input) (local.get $input-length))";
    let program = beating(&sandbox, invoke).await;
    let (call, heartbeat) = with_heartbeat(500);
    let begun = Instant::now();
    assert_eq!(sandbox.invoke(&program, call).await.unwrap(), Ok(Json::new("[1]").unwrap()));
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(heartbeat.details(), None, "its last heartbeat said nothing");
    // It can be seen from outside while it runs.
    assert_eq!(program.try_inline(&with_heartbeat(500).0), None);
}

#[tokio::test]
async fn what_a_heartbeat_says_is_json_within_bounds() {
    let sandbox = sandbox();
    // A text of spaces with a 1 at its end.
    let said = |bytes: usize| {
        format!(
            "(drop (memory.grow (i32.const 2)))
             (memory.fill (i32.const 65536) (i32.const 32) (i32.const {bytes}))
             (i32.store8 (i32.const {last}) (i32.const 49))
             (drop (call $heartbeat (i32.const 1) (i32.const 65536) (i32.const {bytes})))
             (call $ok (local.get $input) (local.get $input-length))",
            last = 65_535 + bytes,
        )
    };
    let max = limits::HEARTBEAT_BYTES_MAX;
    let cases = [
        (said(max), None),
        (said(max + 1), Some("a heartbeat's details are 65537 bytes; the most is 65536")),
        (
            "(drop (call $heartbeat (i32.const 1) (i32.const 4100) (i32.const 9))) (unreachable)".to_owned(),
            Some("a heartbeat's details: not JSON"),
        ),
    ];
    for (invoke, refusal) in cases {
        let program = beating(&sandbox, &invoke).await;
        let (call, heartbeat) = with_heartbeat(10_000);
        let outcome = sandbox.invoke(&program, call).await.unwrap();
        match refusal {
            None => assert_eq!(outcome, Ok(Json::new("[1]").unwrap())),
            Some(refusal) => {
                let failure = outcome.unwrap_err();
                assert_eq!(failure.code, "trap");
                assert!(failure.message.contains(refusal), "{failure}");
                assert_eq!(heartbeat.details(), Some(Json::new("\"told\"").unwrap()));
            }
        }
    }
}

#[tokio::test]
async fn an_attempt_hears_that_nobody_waits_for_it() {
    let sandbox = sandbox();
    let until_told = "(loop $more
          (call $sleep (i64.const 1000000))
          (br_if $more (i32.eqz (call $heartbeat (i32.const 1) (local.get $input) (local.get $input-length)))))
        (call $ok (local.get $input) (local.get $input-length))";
    let program = beating(&sandbox, until_told).await;
    let (call, heartbeat) = with_heartbeat(10_000);
    assert!(!heartbeat.request_cancel(), "it has not begun");
    let alive = async {
        while heartbeat.details() != Some(Json::new("[1]").unwrap()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(heartbeat.request_cancel());
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = sandbox.invoke(&program, call) => outcome.unwrap(),
        () = alive => unreachable!(),
    };
    assert_eq!(outcome, Ok(Json::new("[1]").unwrap()));
}

#[tokio::test]
async fn an_attempt_that_would_not_hear_is_better_stopped() {
    let sandbox = sandbox();
    let waits = "(call $sleep (i64.const 15000000000)) (unreachable)";
    let unbounded = Arc::new(Heartbeat::new(None, None));
    let (mute, mute_heartbeat) = with_heartbeat(10_000);
    let cases = [
        (
            beating(&sandbox, waits).await,
            ActivityCall { heartbeat: Arc::clone(&unbounded), ..call(500) },
            unbounded,
        ),
        (
            program(&sandbox, "", "(loop $for_ever (br $for_ever)) (unreachable)").await,
            ActivityCall { timeout: Duration::from_millis(500), ..mute },
            mute_heartbeat,
        ),
    ];
    for (program, call, heartbeat) in cases {
        let asked = async {
            assert!(!heartbeat.request_cancel());
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            // It has begun when it waits for the first time.
            biased;
            outcome = sandbox.invoke(&program, call) => outcome.unwrap(),
            () = asked => unreachable!(),
        };
        assert_eq!(outcome.unwrap_err().code, "start-to-close");
    }
}

/// Whoever takes calls over, with what it answers; none: it never does.
#[derive(Debug)]
struct Office(Option<Option<TaskToken>>);

impl Defer for Office {
    fn defer(&self) -> Pin<Box<dyn Future<Output = Option<TaskToken>> + Send + '_>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            match self.0 {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

/// Defers, and gives the token as its output; without one, its input.
const GIVES_ITS_TOKEN: &str = "(call $defer (i32.const 16))
    (if (i32.eqz (i32.load8_u (i32.const 16)))
      (then (return (call $ok (local.get $input) (local.get $input-length)))))
    (i32.store8 (i32.sub (i32.load (i32.const 20)) (i32.const 1)) (i32.const 34))
    (i32.store8 (i32.add (i32.load (i32.const 20)) (i32.load (i32.const 24))) (i32.const 34))
    (call $ok (i32.sub (i32.load (i32.const 20)) (i32.const 1)) (i32.add (i32.load (i32.const 24)) (i32.const 2)))";

#[tokio::test]
async fn an_attempt_gets_the_token_of_its_call_or_hears_that_there_is_none() {
    let sandbox = sandbox();
    let Program::Activity(program) = load(&sandbox, deferring_activity(GIVES_ITS_TOKEN)).await else {
        panic!()
    };
    // It can be seen from outside.
    assert_eq!(program.try_inline(&call(5_000)), None);
    let token = TaskToken { run: RUN, op: Op(3), attempt: 1, lease: TaskLease(Uuid::from_u128(7)) };
    let with = |office: Office| ActivityCall { defer: Some(Arc::new(office)), ..call(5_000) };
    let outcome = sandbox.invoke(&program, with(Office(Some(Some(token))))).await.unwrap();
    assert_eq!(outcome, Ok(Json::new(format!("\"{token}\"")).unwrap()));
    let outcome = sandbox.invoke(&program, with(Office(Some(None)))).await.unwrap();
    assert_eq!(outcome, Ok(call(1).input), "nobody waits");
    let failure = sandbox.invoke(&program, call(5_000)).await.unwrap().unwrap_err();
    assert_eq!(failure.code, "trap");
    assert!(failure.message.contains("there is no call to be deferred"), "{failure}");
}

#[tokio::test]
async fn an_attempt_that_waits_to_defer_ends_on_time() {
    let sandbox = sandbox();
    let Program::Activity(program) = load(&sandbox, deferring_activity(GIVES_ITS_TOKEN)).await else {
        panic!()
    };
    let waits = ActivityCall { defer: Some(Arc::new(Office(None))), ..call(100) };
    let failure = sandbox.invoke(&program, waits).await.unwrap().unwrap_err();
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Timeout, "start-to-close"));
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
    let described = program.described().unwrap();
    assert_eq!(described.len(), 1);
    assert_eq!((described[0].name.as_str(), described[0].task_queue.as_deref()), ("work", Some("default")));
}
