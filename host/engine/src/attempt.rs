//! What one attempt of an activity is told.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::date::rfc3339;
use backstitch_core::{TaskToken, limits};
use backstitch_sandbox::{ActivityCall, ActivityContext, Heartbeat};
use backstitch_scheduler::{NewAttempt, RemoteAttempt};
use backstitch_wire::tasks::TaskView;

/// An attempt on this host, as the sandbox wants it.
pub fn call(new: &NewAttempt) -> ActivityCall {
    let NewAttempt { identity, op, attempt, name, input, heartbeat, bounds, .. } = new;
    ActivityCall {
        name: Arc::clone(name),
        input: input.clone(),
        context: ActivityContext {
            run_id: identity.run,
            workflow_id: Arc::clone(&identity.workflow_id),
            op: *op,
            attempt: *attempt,
            deadline_ms: Some(bounds.deadline_ms),
        },
        timeout: Duration::from_millis(bounds.deadline_ms.saturating_sub(bounds.now_ms)),
        heartbeat: Arc::new(Heartbeat::new(
            bounds.heartbeat_ms.map(Duration::from_millis),
            heartbeat.clone(),
        )),
        // Known to whoever makes the attempt.
        defer: None,
        // Known to whoever looks the component up.
        manifest: None,
    }
}

/// An attempt that a remote worker makes, as the worker wants it. The database's clock has the last word on
/// its deadline.
pub fn remote(attempt: RemoteAttempt) -> TaskView {
    let RemoteAttempt { identity, token, task, input, heartbeat, now_ms } = attempt;
    let until = task.attempt_ms.map(|ms| now_ms.saturating_add(ms));
    let lease_ms = task.taken.as_ref().and_then(|grant| grant.lease_ms).unwrap_or(limits::TASK_LEASE_MS);
    TaskView {
        token: token.to_string(),
        run_id: token.run,
        workflow_id: identity.workflow_id.to_string(),
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

/// Says that a remote worker makes an attempt.
pub fn log_remote(task: &TaskView) {
    let TaskView { run_id, op, attempt, name, .. } = task;
    tracing::debug!(target: "backstitch::activity", run = %run_id, %op, attempt, name, "attempt outside");
}

/// Says that an attempt is made. Crash tests count these lines.
pub fn log(call: &ActivityCall) {
    let ActivityContext { run_id, op, attempt, .. } = &call.context;
    tracing::debug!(target: "backstitch::activity", run = %run_id, %op, attempt, name = &*call.name, "attempt");
}
