//! What one attempt of an activity is told, and when its time is up.

use std::sync::Arc;
use std::time::Duration;

use backstitch_client::tasks::TaskView;
use backstitch_core::{ActivityOptions, Json, Op, TaskToken, limits};
use backstitch_ledger::NewTask;
use backstitch_sandbox::{ActivityCall, ActivityContext, Heartbeat};

use crate::identity::Facts;
use crate::time::rfc3339;

/// Which attempt at which call.
pub struct Attempt<'a> {
    /// The call.
    pub op: Op,
    /// Its activity.
    pub name: &'a Arc<str>,
    /// Its arguments.
    pub input: &'a Json,
    /// 1 for the first.
    pub number: u32,
    /// What the last heartbeat of those before said.
    pub heartbeat: Option<&'a Json>,
}

/// The bounds of an attempt that begins now: times in milliseconds since the epoch, and the longest silence.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Of this attempt.
    pub deadline_ms: u64,
    /// Of the whole call, if it has one.
    pub close_by_ms: Option<u64>,
    silence_ms: Option<u64>,
}

impl Due {
    /// The bounds that follow from a call's options.
    pub fn new(options: &ActivityOptions, scheduled_at_ms: u64, now_ms: u64) -> Self {
        let attempt_ms = options.start_to_close_ms.unwrap_or(limits::ACTIVITY_MS_DEFAULT);
        let close_by_ms = options.schedule_to_close_ms.map(|ms| scheduled_at_ms.saturating_add(ms));
        let until = now_ms.saturating_add(attempt_ms);
        Self {
            deadline_ms: close_by_ms.map_or(until, |bound| until.min(bound)),
            close_by_ms,
            silence_ms: options.heartbeat_ms,
        }
    }

    /// The attempt, as the sandbox wants it.
    pub fn call(self, facts: &Facts, attempt: Attempt<'_>, now_ms: u64) -> ActivityCall {
        let Attempt { op, name, input, number, heartbeat } = attempt;
        ActivityCall {
            name: Arc::clone(name),
            input: input.clone(),
            context: ActivityContext {
                run_id: facts.run,
                workflow_id: Arc::clone(&facts.workflow_id),
                op,
                attempt: number,
                deadline_ms: Some(self.deadline_ms),
            },
            timeout: Duration::from_millis(self.deadline_ms.saturating_sub(now_ms)),
            heartbeat: Arc::new(Heartbeat::new(
                self.silence_ms.map(Duration::from_millis),
                heartbeat.cloned(),
            )),
            // Known to whoever makes the attempt.
            defer: None,
            // Known to whoever looks the component up.
            manifest: None,
        }
    }
}

/// An attempt that a worker outside makes, as the worker wants it. The database's clock has the last word on
/// its deadline.
pub fn outside(
    facts: &Facts,
    token: TaskToken,
    task: &NewTask,
    input: Json,
    heartbeat: Option<Json>,
    now_ms: u64,
) -> TaskView {
    let until = task.attempt_ms.map(|ms| now_ms.saturating_add(ms));
    let lease_ms = task.taken.as_ref().and_then(|grant| grant.lease_ms).unwrap_or(limits::TASK_LEASE_MS);
    TaskView {
        token: token.to_string(),
        run_id: token.run,
        workflow_id: facts.workflow_id.to_string(),
        op: token.op,
        attempt: token.attempt,
        name: task.name.to_string(),
        task_queue: task.task_queue.to_string(),
        input,
        idempotency_key: idempotency_key(token),
        lease_ms: task.heartbeat_timeout_ms.map_or(lease_ms, |ms| ms.min(lease_ms)),
        deadline: until.into_iter().chain(task.close_by_ms).min().map(rfc3339),
        heartbeat_details: heartbeat,
        traceparent: traceparent(token),
    }
}

/// The same for every attempt of one call, wherever it is made.
pub fn idempotency_key(token: TaskToken) -> String {
    format!("{}:{}", token.run, token.op)
}

/// W3C trace context of an attempt: the run is the trace.
pub fn traceparent(token: TaskToken) -> String {
    format!("00-{}-{:08x}{:08x}-01", token.run.0.simple(), token.op.0, token.attempt)
}

/// Says that a worker outside makes an attempt.
pub fn log_outside(task: &TaskView) {
    let TaskView { run_id, op, attempt, name, .. } = task;
    tracing::debug!(target: "backstitch::activity", run = %run_id, %op, attempt, name, "attempt outside");
}

/// Says that an attempt is made. Crash tests count these lines.
pub fn log(call: &ActivityCall) {
    let ActivityContext { run_id, op, attempt, .. } = &call.context;
    tracing::debug!(target: "backstitch::activity", run = %run_id, %op, attempt, name = &*call.name, "attempt");
}
