//! The routes by which clients and operators act upon runs that are there.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use backstitch_wire::params::{CancelQuery, ReasonBody, RepairsQuery, SignalQuery};
use backstitch_wire::views::{RepairsView, StartedView};
use backstitch_wire::{ForkRun, ResetRun, SendSignal};

use super::described::{Busy, Conflict, Routes, Unfit};
use super::extract::{Document, NoParams, Params, Payload, Segments, Tenant};
use super::problem::Problem;
use super::state::begun;
use crate::service::Service;

/// Those that touch the database and nothing else.
pub(super) fn quick() -> Routes {
    Routes::new()
        .with(__path_signal, signal)
        .with(__path_cancel, cancel)
        .with(__path_terminate, terminate)
        .with(__path_pause, pause)
        .with(__path_resume, resume)
        .with(__path_retry, retry)
}

/// Those that read whole ledgers.
pub(super) fn slow() -> Routes {
    Routes::new()
        .with(__path_fork, fork)
        .with(__path_reset, reset)
        .with(__path_repair, repair)
        .with(__path_repair_all, repair_all)
}

/// Sends a signal to a run.
#[utoipa::path(
    post, path = "/v1/runs/{id}/signals/{name}", tag = "runs", operation_id = "signal_run",
    params(SignalQuery),
    request_body(content = serde_json::Value, description = "What the workflow gets."),
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict, Busy,
    ),
)]
async fn signal(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, name)): Segments<(String, String)>,
    Params(SignalQuery { signal_id }): Params<SignalQuery>,
    Payload(payload): Payload,
) -> Result<StatusCode, Problem> {
    service.signal(scope, &id, SendSignal { name, payload, id: signal_id }).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Asks a run to stop.
#[utoipa::path(
    post, path = "/v1/runs/{id}/cancel", tag = "runs", operation_id = "cancel_run",
    params(CancelQuery),
    request_body = ReasonBody,
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict, Busy,
    ),
)]
async fn cancel(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    Params(CancelQuery { cancel_id }): Params<CancelQuery>,
    Document(body): Document<ReasonBody>,
) -> Result<StatusCode, Problem> {
    service.cancel(scope, &id, body.reason, cancel_id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Stops a run without asking it.
#[utoipa::path(
    post, path = "/v1/runs/{id}/terminate", tag = "runs", operation_id = "terminate_run",
    request_body = ReasonBody,
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict, Busy,
    ),
)]
async fn terminate(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(body): Document<ReasonBody>,
) -> Result<StatusCode, Problem> {
    service.terminate(scope, &id, body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Holds a run until it is resumed.
#[utoipa::path(
    post, path = "/v1/runs/{id}/pause", tag = "runs", operation_id = "pause_run",
    request_body = ReasonBody,
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict, Busy,
    ),
)]
async fn pause(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(body): Document<ReasonBody>,
) -> Result<StatusCode, Problem> {
    service.pause(scope, &id, body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Lets a paused run go on.
#[utoipa::path(
    post, path = "/v1/runs/{id}/resume", tag = "runs", operation_id = "resume_run",
    request_body = ReasonBody,
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict, Busy,
    ),
)]
async fn resume(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(body): Document<ReasonBody>,
) -> Result<StatusCode, Problem> {
    service.resume(scope, &id, body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

/// A new run from the first rows of another.
#[utoipa::path(
    post, path = "/v1/runs/{id}/fork", tag = "runs", operation_id = "fork_run",
    request_body = ForkRun,
    responses(
        (status = 201, body = StartedView, description = "It is there.", headers(("location" = String, description = "Where it is."))),
        (status = 200, body = StartedView, description = "It was there already.", headers(("location" = String, description = "Where it is."))),
        Conflict,
        Unfit,
    ),
)]
async fn fork(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(fork): Document<ForkRun>,
) -> Result<Response, Problem> {
    begun(service.fork(scope, &id, fork).await?)
}

/// Stops a run and lets a new one of its workflow id go on from an earlier row.
#[utoipa::path(
    post, path = "/v1/runs/{id}/reset", tag = "runs", operation_id = "reset_run",
    request_body = ResetRun,
    responses(
        (status = 201, body = StartedView, description = "The new run is there.", headers(("location" = String, description = "Where it is."))),
        (status = 200, body = StartedView, description = "It was there already.", headers(("location" = String, description = "Where it is."))),
        Conflict,
        Unfit,
    ),
)]
async fn reset(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(reset): Document<ResetRun>,
) -> Result<Response, Problem> {
    begun(service.reset(scope, &id, reset).await?)
}

/// Lets a new run of the workflow id go on from the sound rows of a run whose ledger is damaged.
#[utoipa::path(
    post, path = "/v1/runs/{id}/repair", tag = "runs", operation_id = "repair_run",
    request_body = ResetRun,
    responses(
        (status = 201, body = StartedView, description = "The new run is there.", headers(("location" = String, description = "Where it is."))),
        (status = 200, body = StartedView, description = "It was there already.", headers(("location" = String, description = "Where it is."))),
        Conflict,
        Unfit,
    ),
)]
async fn repair(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(repair): Document<ResetRun>,
) -> Result<Response, Problem> {
    begun(service.repair(scope, &id, repair).await?)
}

/// Has all that follows from the ledgers of some runs made anew: timers, tasks, messages of children, entities, attributes.
/// To be repeated behind `next` as long as there is one.
#[utoipa::path(
    post, path = "/v1/repairs", tag = "host", operation_id = "repair_all",
    params(RepairsQuery),
    responses(
        (status = 202, body = RepairsView, description = "What has closed is repaired; the hosts of the open runs will take theirs up."),
    ),
)]
async fn repair_all(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(RepairsQuery { after }): Params<RepairsQuery>,
) -> Result<(StatusCode, axum::Json<RepairsView>), Problem> {
    let repairs = service.repair_all(scope, after).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(repairs)))
}

/// Makes a parked run try again.
#[utoipa::path(
    post, path = "/v1/runs/{id}/retry", tag = "runs", operation_id = "retry_run",
    responses(
        (status = 202, description = "Durable: the run will take it up."),
        Conflict, Busy,
    ),
)]
async fn retry(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
) -> Result<StatusCode, Problem> {
    service.retry(scope, &id).await?;
    Ok(StatusCode::ACCEPTED)
}
