//! The routes of `/v1/activities`: what workers and operators say about calls that are carried out outside.
//!
//! A token that is not its bearer's any more: 409, `stale-token` or `task-given-up`.

use axum::extract::State;
use axum::http::StatusCode;
use backstitch_core::Op;
use backstitch_wire::tasks::{
    ActivityListView, AnswerTask, HeartbeatTask, HeartbeatView, ListActivities, PollTasks, SettleTasks,
    SettledView, TaskFailure, TasksView, TokenBody,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::described::{Conflict, Routes};
use super::extract::{Document, NoParams, Params, Payload, Segments, Tenant};
use super::problem::Problem;
use super::state::{Answer, Api};
use crate::service::Service;

/// Nothing to say but that it is done: an object, so that there is room for more one day.
#[derive(Serialize, ToSchema)]
struct Done {}

pub(super) fn quick() -> Routes {
    Routes::new()
        .with(__path_list, list)
        .with(__path_heartbeat, heartbeat)
        .with(__path_complete, complete)
        .with(__path_fail, fail)
        .with(__path_settle, settle)
        .with(__path_defer, defer)
        .with(__path_release, release)
        .with(__path_complete_call, complete_call)
        .with(__path_fail_call, fail_call)
        .with(__path_retry_call, retry_call)
}

pub(super) fn waiting() -> Routes {
    Routes::new().with(__path_poll, poll)
}

/// Waits for tasks. Without any in time, the answer is an empty list.
///
/// A host that stops lets its workers go: they ask the next one.
#[utoipa::path(
    post, path = "/v1/activities:poll", tag = "activities", operation_id = "poll_tasks",
    request_body = PollTasks,
    responses(
        (status = 200, body = TasksView, description = "What there is."),
    ),
)]
async fn poll(
    State(api): State<Api>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(poll): Document<PollTasks>,
) -> Answer<TasksView> {
    let tasks = tokio::select! {
        tasks = api.service.poll_tasks(scope, poll) => tasks?,
        () = api.stopping.cancelled() => Vec::new(),
    };
    Ok(axum::Json(TasksView { tasks }))
}

/// Keeps a task.
#[utoipa::path(
    post, path = "/v1/activities:heartbeat", tag = "activities", operation_id = "heartbeat_task",
    request_body = HeartbeatTask,
    responses(
        (status = 200, body = HeartbeatView, description = "Whether it is still wanted."),
        Conflict,
    ),
)]
async fn heartbeat(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(heartbeat): Document<HeartbeatTask>,
) -> Answer<HeartbeatView> {
    Ok(axum::Json(service.heartbeat_task(scope, heartbeat).await?))
}

/// Says what came of a task. The same answer counts once.
#[utoipa::path(
    post, path = "/v1/activities:complete", tag = "activities", operation_id = "complete_task",
    request_body = AnswerTask,
    responses(
        (status = 200, body = Done, description = "It is durable, now or from before."),
        Conflict,
    ),
)]
async fn complete(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(answer): Document<AnswerTask>,
) -> Answer<Done> {
    if answer.failure.is_some() {
        let detail = "a failure is told to `/v1/activities:fail`; this route takes an `output`";
        return Err(Problem::invalid("invalid-body", detail));
    }
    service.answer_task(scope, answer).await?;
    Ok(axum::Json(Done {}))
}

/// Says why a task failed. The same answer counts once.
#[utoipa::path(
    post, path = "/v1/activities:fail", tag = "activities", operation_id = "fail_task",
    request_body = AnswerTask,
    responses(
        (status = 200, body = Done, description = "It is durable, now or from before."),
        Conflict,
    ),
)]
async fn fail(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(answer): Document<AnswerTask>,
) -> Answer<Done> {
    if answer.output.is_some() {
        let detail = "an output is told to `/v1/activities:complete`; this route takes a `failure`";
        return Err(Problem::invalid("invalid-body", detail));
    }
    service.answer_task(scope, answer).await?;
    Ok(axum::Json(Done {}))
}

/// Says how many tasks ended, in one request.
#[utoipa::path(
    post, path = "/v1/activities:settle", tag = "activities", operation_id = "settle_tasks",
    request_body = SettleTasks,
    responses(
        (status = 200, body = SettledView, description = "One result for each answer."),
        Conflict,
    ),
)]
async fn settle(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(settle): Document<SettleTasks>,
) -> Answer<SettledView> {
    let results = service.settle_tasks(scope, settle.answers).await?;
    Ok(axum::Json(SettledView { results }))
}

/// The task will be answered later, by whoever has its token.
#[utoipa::path(
    post, path = "/v1/activities:defer", tag = "activities", operation_id = "defer_task",
    request_body = TokenBody,
    responses(
        (status = 200, body = Done, description = "Only the bounds of the call hold from now on."),
        Conflict,
    ),
)]
async fn defer(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(body): Document<TokenBody>,
) -> Answer<Done> {
    service.defer_task(scope, &body.token).await?;
    Ok(axum::Json(Done {}))
}

/// Gives a task back: it goes to the next worker, and is no attempt.
#[utoipa::path(
    post, path = "/v1/activities:release", tag = "activities", operation_id = "release_task",
    request_body = TokenBody,
    responses(
        (status = 200, body = Done, description = "It is given back."),
        Conflict,
    ),
)]
async fn release(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(body): Document<TokenBody>,
) -> Answer<Done> {
    service.release_task(scope, &body.token).await?;
    Ok(axum::Json(Done {}))
}

/// Calls that workers outside may take, or have.
#[utoipa::path(
    get, path = "/v1/activities", tag = "activities", operation_id = "list_activities",
    params(ListActivities),
    responses(
        (status = 200, body = ActivityListView, description = "A page."),
    ),
)]
async fn list(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(list): Params<ListActivities>,
) -> Answer<ActivityListView> {
    Ok(axum::Json(service.list_activities(scope, list).await?))
}

/// Gives a call this outcome, whoever is at it.
#[utoipa::path(
    post, path = "/v1/runs/{id}/activities/{op}/complete", tag = "activities", operation_id = "complete_activity",
    request_body(content = serde_json::Value, description = "What the workflow gets."),
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict,
    ),
)]
async fn complete_call(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, op)): Segments<(String, u32)>,
    _: NoParams,
    Payload(output): Payload,
) -> Result<StatusCode, Problem> {
    service.overrule_activity(scope, &id, Op(op), Ok(output)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Fails the attempt of a call that is next or under way, whoever is at it.
#[utoipa::path(
    post, path = "/v1/runs/{id}/activities/{op}/fail", tag = "activities", operation_id = "fail_activity",
    request_body = TaskFailure,
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict,
    ),
)]
async fn fail_call(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, op)): Segments<(String, u32)>,
    _: NoParams,
    Document(failure): Document<TaskFailure>,
) -> Result<StatusCode, Problem> {
    service.overrule_activity(scope, &id, Op(op), Err(failure)).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Makes the next attempt of a call now that waits for its time.
#[utoipa::path(
    post, path = "/v1/runs/{id}/activities/{op}/retry", tag = "activities", operation_id = "retry_activity",
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict,
    ),
)]
async fn retry_call(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, op)): Segments<(String, u32)>,
    _: NoParams,
) -> Result<StatusCode, Problem> {
    service.retry_activity(scope, &id, Op(op)).await?;
    Ok(StatusCode::ACCEPTED)
}
