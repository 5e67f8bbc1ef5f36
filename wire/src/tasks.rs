//! Tasks: calls of activities that workers outside a host carry out, and what is said about them.
//!
//! A worker polls, carries out what it got, has a heartbeat before the lease of each task is over, and
//! answers: with an output, a failure, or not at all, by giving the task back. What has the same token is
//! the same attempt; a call may be made again under the next one, so effects go under the idempotency key.

use std::time::Duration;

use backstitch_core::{Json, Op, RunId};
use serde::{Deserialize, Serialize};

/// Asks for tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PollTasks {
    /// From which queue.
    #[serde(default = "default_queue")]
    pub task_queue: String,
    /// Of which activities; none: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// At most so many, 1 to 1,000.
    #[serde(default = "one")]
    pub max: u32,
    /// How long to wait for the first, in milliseconds, up to 60,000.
    #[serde(default)]
    pub wait_ms: u64,
    /// How long the worker may be silent about each, in milliseconds; none: 30,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// What the worker calls itself, for people.
    #[serde(default)]
    pub worker: String,
}

fn default_queue() -> String {
    backstitch_core::command::DEFAULT_TASK_QUEUE.to_owned()
}

fn one() -> u32 {
    1
}

impl PollTasks {
    /// Asks for one task of any activity of a queue, without waiting.
    pub fn new(task_queue: impl Into<String>) -> Self {
        Self {
            task_queue: task_queue.into(),
            names: None,
            max: 1,
            wait_ms: 0,
            lease_ms: None,
            worker: String::new(),
        }
    }
}

/// Answer to a poll.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TasksView {
    /// None, if there were none in time.
    pub tasks: Vec<TaskView>,
}

/// A task: one attempt at one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskView {
    /// What to show with everything that is said about it. Opaque.
    pub token: String,
    /// The run that made the call.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub run_id: RunId,
    /// That run's workflow id.
    pub workflow_id: String,
    /// The number of the call.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub op: Op,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The activity.
    pub name: String,
    /// The queue it came from.
    pub task_queue: String,
    /// Its arguments.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub input: Json,
    /// The same for every attempt of one call, and for no other call.
    pub idempotency_key: String,
    /// How long the worker may be silent about it, in milliseconds. From the answer of the poll on.
    pub lease_ms: u64,
    /// When nobody waits for this attempt any more, RFC 3339 with milliseconds, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub deadline: Option<String>,
    /// What the last heartbeat of the attempts before said.
    #[serde(default, deserialize_with = "crate::views::given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub heartbeat_details: Option<Json>,
    /// W3C trace context: the trace is the run's, the parent is the call's attempt.
    pub traceparent: String,
}

/// A sign of life.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HeartbeatTask {
    /// Of which task.
    pub token: String,
    /// What the next attempt is told if this one fails; none: as before.
    #[serde(default, deserialize_with = "crate::views::given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub details: Option<Json>,
}

/// Answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeartbeatView {
    /// Nobody waits for the task any more: put away what is in hand.
    pub cancel: bool,
    /// How long the worker may be silent from now on, in milliseconds; absent: it will answer later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
}

/// A task that was carried out: exactly one of `output` and `failure`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AnswerTask {
    /// Which task.
    pub token: String,
    /// What the workflow gets.
    #[serde(default, deserialize_with = "crate::views::given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub output: Option<Json>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<TaskFailure>,
}

impl AnswerTask {
    /// It was carried out, with this for the workflow.
    pub fn completed(token: impl Into<String>, output: Json) -> Self {
        Self { token: token.into(), output: Some(output), failure: None }
    }

    /// It failed.
    pub fn failed(token: impl Into<String>, failure: TaskFailure) -> Self {
        Self { token: token.into(), output: None, failure: Some(failure) }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
#[error("{code}: {message}")]
pub struct TaskFailure {
    /// Stable, for the workflow to match on.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether another attempt could succeed.
    pub retryable: bool,
    /// The next attempt is made no sooner, in milliseconds; none: as the call's policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whatever else the workflow should have.
    #[serde(deserialize_with = "crate::views::given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub details: Option<Json>,
}

impl Default for TaskFailure {
    fn default() -> Self {
        Self {
            code: "application".to_owned(),
            message: String::new(),
            retryable: true,
            retry_after_ms: None,
            details: None,
        }
    }
}

impl TaskFailure {
    /// Another attempt may succeed.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }

    /// No other attempt can succeed.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: false, ..Self::retryable(code, message) }
    }

    /// The next attempt is made no sooner than this, whatever the call's policy says.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

/// Answers to many tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SettleTasks {
    /// At most 1,000.
    pub answers: Vec<AnswerTask>,
}

/// What became of many answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SettledView {
    /// In the order of the answers.
    pub results: Vec<SettledTask>,
}

/// What became of one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SettledTask {
    /// 200: it is durable, now or from before. Otherwise as a request of its own would have ended.
    pub status: u16,
    /// If it is not 200: stable, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// If it is not 200: for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Names a task and says nothing else.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// Which task.
    pub token: String,
}

/// Lists open tasks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ListActivities {
    /// Of this queue only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_queue: Option<String>,
    /// Of this run only: a run id or a workflow id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Tasks of the page, up to 1,000; none: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One page of open tasks, in the order of their runs and calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActivityListView {
    /// The tasks.
    pub activities: Vec<ActivityView>,
    /// Pass it as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A call that workers outside may take, or that one has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActivityView {
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub run_id: RunId,
    /// Its workflow id.
    pub workflow_id: String,
    /// The call.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub op: Op,
    /// Which attempt, 1 for the first.
    pub attempt: u32,
    /// The activity.
    pub name: String,
    /// The queue.
    pub task_queue: String,
    /// `offered`, `leased`, `held` (the worker answers later), or `given-up` (nobody waits for it).
    pub state: String,
    /// Who has it, as the worker calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// When it was offered, RFC 3339.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub offered_at: String,
    /// When its worker is taken for dead, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub leased_until: Option<String>,
    /// When the attempt is over, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub deadline: Option<String>,
    /// What the last heartbeat said.
    #[serde(default, deserialize_with = "crate::views::given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub heartbeat_details: Option<Json>,
}
