//! Tests: an attempt that finds no room in the pool.

use std::time::Duration;

use backstitch_core::{Json, Op, RunId};

use super::*;
use crate::egress::EgressConfig;
use crate::{Compiler, GuestTime, Program, Sandbox, SandboxConfig};

/// An activity that gives what it is given, and has as many memories and tables as it may.
fn greedy() -> Vec<u8> {
    let more = "(core module $more (memory 1) (table 1 funcref) (table 1 funcref) (table 1 funcref) \
                (table 1 funcref)) (core instance (instantiate $more))";
    let text = [("imports", more), ("core-imports", ""), ("with", ""), ("functions", "")]
        .iter()
        .fold(include_str!("../../tests/support/activity.wat").to_owned(), |text, (key, with)| {
            text.replace(&format!("{{{{{key}}}}}"), with)
        })
        .replace("{{invoke}}", "(call $ok (local.get $input) (local.get $input-length))");
    wat::parse_str(text).unwrap()
}

fn call() -> ActivityCall {
    ActivityCall {
        name: Arc::from("work"),
        input: Json::new("7").unwrap(),
        context: ActivityContext {
            run_id: RunId(uuid::Uuid::nil()),
            workflow_id: Arc::from("w"),
            op: Op(0),
            attempt: 1,
            deadline_ms: None,
        },
        timeout: Duration::from_secs(60),
        heartbeat: Arc::new(Heartbeat::new(None, None)),
        defer: None,
        manifest: None,
    }
}

#[tokio::test]
async fn an_attempt_waits_for_room_and_is_none_the_worse() {
    let sandbox = Sandbox::new(SandboxConfig {
        cache_dir: None,
        compiler: Compiler::InProcess,
        warm_runs_max: 1,
        activities_max: 1,
        guest_time: GuestTime::default(),
        memory_bytes_max: 1 << 30,
        egress: EgressConfig::default(),
    })
    .unwrap();
    let Program::Activity(program) = sandbox.take_in(greedy().into()).await.unwrap().program else {
        panic!("it is an activity")
    };
    let stdio = SharedStdio::new(GuestLog::new(None, "full".into()));
    let deadline = Deadline::new(Duration::from_secs(60), Arc::new(Heartbeat::new(None, None)));
    let mut full = Vec::new();
    let error = loop {
        let egress_policy =
            EgressPolicy { egress: Arc::clone(&program.egress), manifest: None, caller: None };
        let said = Said { stdio: stdio.clone(), words: LastWords::default() };
        match program.instantiate(said, &deadline, egress_policy, None).await {
            Ok(instance) => full.push(instance),
            Err(error) => break error,
        }
    };
    assert!(error.is::<PoolConcurrencyLimitError>(), "{error:?}");
    // Every place could be taken, by whoever takes all that one may have.
    assert_eq!(full.len(), 1 + crate::engine::INSTANCES_SLACK);
    let attempt = sandbox.invoke(&program, call());
    tokio::pin!(attempt);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut attempt).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    full.clear();
    assert_eq!(attempt.await.unwrap().unwrap().as_str(), "7");
}
