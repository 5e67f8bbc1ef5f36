//! The routes of `/v1/activities`: what workers and operators say about calls that are carried out outside.
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/activities:poll` [`PollTasks`] | 200 [`TasksView`], empty if there were none in time |
//! | `POST /v1/activities:heartbeat` [`HeartbeatTask`] | 200 [`HeartbeatView`] |
//! | `POST /v1/activities:complete`, `:fail` [`AnswerTask`] | 200, also if it was said before |
//! | `POST /v1/activities:settle` [`SettleTasks`] | 200 [`SettledView`], one result for each answer |
//! | `POST /v1/activities:defer`, `:release` [`TokenBody`] | 200 |
//! | `GET /v1/activities` [`ListActivities`] | 200 [`ActivityListView`] |
//! | `POST /v1/runs/{id}/activities/{op}/complete` (JSON) | 202 |
//! | `POST /v1/runs/{id}/activities/{op}/fail` [`TaskFailure`] | 202 |
//! | `POST /v1/runs/{id}/activities/{op}/retry` | 202 |
//!
//! A token that is not its bearer's any more: 409, `stale-token` or `task-given-up`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use backstitch_client::tasks::{
    ActivityListView, AnswerTask, HeartbeatTask, HeartbeatView, ListActivities, PollTasks, SettleTasks,
    SettledView, TaskFailure, TasksView, TokenBody,
};
use backstitch_core::Op;
use serde::Serialize;

use super::Api;
use super::extract::{Document, NoParams, Params, Payload, Segments, Tenant};
use super::problem::Problem;
use super::routes::Answer;
use crate::service::Service;

/// Nothing to say but that it is done: an object, so that there is room for more one day.
#[derive(Serialize)]
struct Done {}

pub(super) fn quick() -> Router<Api> {
    Router::new()
        .route("/v1/activities", get(list))
        .route("/v1/activities:heartbeat", post(heartbeat))
        .route("/v1/activities:complete", post(complete))
        .route("/v1/activities:fail", post(fail))
        .route("/v1/activities:settle", post(settle))
        .route("/v1/activities:defer", post(defer))
        .route("/v1/activities:release", post(release))
        .route("/v1/runs/{id}/activities/{op}/complete", post(complete_call))
        .route("/v1/runs/{id}/activities/{op}/fail", post(fail_call))
        .route("/v1/runs/{id}/activities/{op}/retry", post(retry_call))
}

pub(super) fn waiting() -> Router<Api> {
    Router::new().route("/v1/activities:poll", post(poll))
}

/// A host that stops lets its workers go: they ask the next one.
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

async fn heartbeat(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(beat): Document<HeartbeatTask>,
) -> Answer<HeartbeatView> {
    Ok(axum::Json(service.heartbeat_task(scope, beat).await?))
}

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

async fn settle(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(settle): Document<SettleTasks>,
) -> Answer<SettledView> {
    let results = service.settle_tasks(scope, settle.answers).await?;
    Ok(axum::Json(SettledView { results }))
}

async fn defer(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(body): Document<TokenBody>,
) -> Answer<Done> {
    service.defer_task(scope, &body.token).await?;
    Ok(axum::Json(Done {}))
}

async fn release(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(body): Document<TokenBody>,
) -> Answer<Done> {
    service.release_task(scope, &body.token).await?;
    Ok(axum::Json(Done {}))
}

async fn list(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(list): Params<ListActivities>,
) -> Answer<ActivityListView> {
    Ok(axum::Json(service.list_activities(scope, list).await?))
}

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

async fn retry_call(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, op)): Segments<(String, u32)>,
    _: NoParams,
) -> Result<StatusCode, Problem> {
    service.retry_activity(scope, &id, Op(op)).await?;
    Ok(StatusCode::ACCEPTED)
}
