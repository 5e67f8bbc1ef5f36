//! The routes of `/v1`: each handler translates one request into one call of the [`Service`].
//!
//! What each takes and answers is written at its handler, for the OpenAPI document. `/v1/run-count` is not
//! below `runs`, where any word may be the name of a run.
//!
//! Those of `/v1/schedules` and `/v1/activities` are in files of their own. `{id}` is a run id or a workflow
//! id. 202: the request is durable, the run will take it up.
//! Whatever goes wrong is a [`Problem`].

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use backstitch_core::Seq;
use backstitch_engine::room::Permit;
use backstitch_wire::history::History;
use backstitch_wire::params::{
    DeploymentsView, HistoryQuery, LedgerQuery, RESULT_WAIT_MS_MAX, ResultQuery, UpdateQuery,
    WAIT_MS_ASKED_MAX,
};
use backstitch_wire::views::{
    DeployedView, HealthView, LedgerView, LiveView, QueryView, ReadyView, ReplayView, RunCountView,
    RunDetailView, RunListView, RunView, StartedView, TenantView, UpdateView,
};
use backstitch_wire::{CountRuns, LimitTenant, ListRuns, SendUpdate, StartRun};
use futures::{StreamExt, stream};

use super::described::{Busy, Component, Conflict, NotModified, Routes, Unfit};
use super::extract::{self, Document, IdempotencyKey, Manifest, NoParams, Params, Payload, Segments, Tenant};
use super::problem::Problem;
use super::state::{Answer, Api, begun, created};
use super::{etag, stream as events};
use crate::service::{Service, ServiceError};

/// Requests that touch the database and nothing else.
const QUICK: Duration = Duration::from_secs(30);
/// Requests that wait for a run: the longest wait and a quick request.
const WAITING: Duration = Duration::from_millis(RESULT_WAIT_MS_MAX + 30_000);
/// Requests that compile a component, or hold a whole ledger and go over it.
const SLOW: Duration = Duration::from_secs(300);

/// What a large answer is written in.
const SLICE_BYTES: usize = 64 << 10;

/// Every route, without the guards around them.
pub(super) fn routes() -> Routes {
    let quick = Routes::new()
        .with(__path_health, health)
        .with(__path_live, live)
        .with(__path_ready, ready)
        .with(__path_deployments, deployments)
        .with(__path_list, list)
        .with(__path_start, start)
        .with(__path_count, count)
        .with(__path_show, show)
        .with(__path_ledger, ledger)
        .with(__path_payload, payload)
        .with(__path_tenant, tenant)
        .with(__path_limit_tenant, limit_tenant)
        .with(__path_children, children)
        .merge(super::schedule_routes::routes())
        .merge(super::task_routes::quick())
        .merge(super::steer_routes::quick())
        .merge(super::spec_routes::routes())
        .within(QUICK);
    let waiting =
        Routes::new().with(__path_result, result).merge(super::task_routes::waiting()).within(WAITING);
    let slow = Routes::new()
        .with(__path_deploy, deploy)
        .with(__path_replay, replay)
        .with(__path_query, query)
        .with(__path_update, update)
        .with(__path_history, history)
        .merge(super::steer_routes::slow())
        .within(SLOW);
    quick.merge(waiting).merge(slow)
}

/// How the host is. Answered with 200 also when it is degraded.
#[utoipa::path(
    get, path = "/v1/health", tag = "host", operation_id = "health",
    responses(
        (status = 200, body = HealthView, description = "How it is."),
    ),
)]
async fn health(State(service): State<Service>, _: NoParams) -> axum::Json<HealthView> {
    axum::Json(service.health().await)
}

/// That the host is alive: it answers. Nothing else is asked, so an outage of Postgres gets no host restarted.
#[utoipa::path(
    get, path = "/v1/health/live", tag = "host", operation_id = "live",
    responses(
        (status = 200, body = LiveView, description = "It is."),
    ),
)]
async fn live(_: NoParams) -> axum::Json<LiveView> {
    axum::Json(LiveView { status: "live".to_owned() })
}

/// Whether the host is ready: it has its lease, the database takes its heartbeats, and its writer gets through.
#[utoipa::path(
    get, path = "/v1/health/ready", tag = "host", operation_id = "ready",
    responses(
        (status = 200, body = ReadyView, description = "It is."),
    ),
)]
async fn ready(State(service): State<Service>, _: NoParams) -> Answer<ReadyView> {
    Ok(axum::Json(service.ready()?))
}

/// Deploys a component: it serves the names that it describes from now on.
#[utoipa::path(
    post, path = "/v1/deployments", tag = "deployments", operation_id = "deploy",
    params(("backstitch-manifest" = Option<String>, Header, description = "What its activities may reach: a JSON document in one line of ASCII.")),
    request_body(content = Component, content_type = "application/wasm", description = "A component's bytes."),
    responses(
        (status = 201, body = DeployedView, description = "It is deployed."),
        (status = 200, body = DeployedView, description = "These very bytes were there already; they serve their names again."),
        Unfit,
    ),
)]
async fn deploy(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Manifest(manifest): Manifest,
    extract::Component(bytes): extract::Component,
) -> Result<(StatusCode, axum::Json<DeployedView>), Problem> {
    let bytes = bytes
        .ok_or_else(|| Problem::invalid("empty-body", "the body is empty; send the component's bytes"))?;
    let deployed = service.deploy_with(scope, bytes, manifest.as_deref()).await?;
    Ok((created(deployed.created), axum::Json(deployed)))
}

/// What serves which name now.
#[utoipa::path(
    get, path = "/v1/deployments", tag = "deployments", operation_id = "list_deployments",
    responses(
        (status = 200, body = DeploymentsView, description = "All of it.", headers(("etag" = String))),
        NotModified,
    ),
)]
async fn deployments(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let deployments = service.deployments(scope).await?;
    etag::json(&headers, &DeploymentsView { deployments })
}

/// Starts a run.
///
/// Under a workflow id, the same start may be repeated: it finds the run that is there. Without one, an
/// `Idempotency-Key` does the same; the key for another body is refused with `idempotency-key-reused`. With both,
/// the workflow id counts.
#[utoipa::path(
    post, path = "/v1/runs", tag = "runs", operation_id = "start_run",
    params(("idempotency-key" = Option<String>, Header, description = "The same for each repeat of one start, at \
        most 200 characters. In quotes or without.")),
    request_body = StartRun,
    responses(
        (status = 201, body = StartedView, description = "It is started, durably.", headers(("location" = String, description = "Where it is."))),
        (status = 200, body = StartedView, description = "The run was there already.", headers(("location" = String, description = "Where it is."))),
        Conflict, Busy,
        Unfit,
    ),
)]
async fn start(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    IdempotencyKey(key): IdempotencyKey,
    Document(start): Document<StartRun>,
) -> Result<Response, Problem> {
    begun(match key {
        Some(key) => service.start_once(scope, &key, start).await?,
        None => service.start(scope, start).await?,
    })
}

/// Runs, newest first.
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", operation_id = "list_runs",
    params(ListRuns),
    responses(
        (status = 200, body = RunListView, description = "A page."),
    ),
)]
async fn list(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(list): Params<ListRuns>,
) -> Answer<RunListView> {
    Ok(axum::Json(service.list(scope, list).await?))
}

/// How many runs there are, by status.
#[utoipa::path(
    get, path = "/v1/run-count", tag = "runs", operation_id = "count_runs",
    params(CountRuns),
    responses(
        (status = 200, body = RunCountView, description = "How many."),
    ),
)]
async fn count(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(count): Params<CountRuns>,
) -> Answer<RunCountView> {
    Ok(axum::Json(service.count(scope, count).await?))
}

/// A run with what it waits for.
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs", operation_id = "show_run",
    responses(
        (status = 200, body = RunDetailView, description = "The run.", headers(("etag" = String))),
        NotModified,
    ),
)]
async fn show(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    etag::json(&headers, &service.run(scope, &id).await?)
}

/// A page of a run's ledger, or each row as it comes.
///
/// Asked for `text/event-stream`, the answer goes on until the run closes: an event `row` for each row, under its
/// place as id, then `closed` with the run. `Last-Event-ID` says which row the client has had last; `limit` has no
/// meaning then.
#[utoipa::path(
    get, path = "/v1/runs/{id}/ledger", tag = "runs", operation_id = "read_ledger",
    params(
        LedgerQuery,
        ("last-event-id" = Option<String>, Header, description = "Of a stream: the last event that came."),
    ),
    responses(
        (status = 200, description = "A page, or the rows as they come.", content(
            (LedgerView = "application/json"),
            (String = "text/event-stream"),
        )),
    ),
)]
async fn ledger(
    State(api): State<Api>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    Params(query): Params<LedgerQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let from = Seq(query.from_seq);
    if events::is_wanted(&headers) {
        return events::ledger(api, scope, &id, &headers, from).await;
    }
    let permit = api.service.room_for_page().await;
    let page = api.service.ledger(scope, &id, from, query.limit).await?;
    Ok(json_with_permit(serde_json::to_vec(&page).map_err(Problem::internal)?, permit))
}

/// The payload of a ledger's row, byte for byte as it was given.
///
/// One that is kept out of its row comes part by part. What cannot be read to its end breaks off.
#[utoipa::path(
    get, path = "/v1/runs/{id}/ledger/{seq}/payload", tag = "runs", operation_id = "read_payload",
    responses(
        (status = 200, body = serde_json::Value, description = "Input, output, signal or failure."),
    ),
)]
async fn payload(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, seq)): Segments<(String, u32)>,
    _: NoParams,
) -> Result<Response, Problem> {
    let mut reader = service.payload(scope, &id, Seq(seq)).await?;
    let length = reader.bytes();
    // The first part before the answer: what is missing or sealed is told by a problem.
    let first = reader.next().await.map_err(ServiceError::from)?;
    let rest = stream::unfold(reader, async |mut reader| {
        let part = reader.next().await.transpose()?;
        Some((part.inspect_err(|error| tracing::error!(%error, "a payload breaks off")), reader))
    });
    let body = Body::from_stream(stream::iter(first.map(Ok)).chain(rest));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CONTENT_LENGTH, length.into()),
    ];
    Ok((headers, body).into_response())
}

/// What the tenant may store, and has stored.
#[utoipa::path(
    get, path = "/v1/tenant", tag = "tenants", operation_id = "show_tenant",
    responses(
        (status = 200, body = TenantView, description = "Its bounds and its usage."),
    ),
)]
async fn tenant(State(service): State<Service>, Tenant(scope): Tenant, _: NoParams) -> Answer<TenantView> {
    Ok(axum::Json(service.tenant(scope).await?))
}

/// Says what the tenant may store from now on: what is left out has no bound of its own any more.
#[utoipa::path(
    put, path = "/v1/tenant", tag = "tenants", operation_id = "limit_tenant",
    request_body = LimitTenant,
    responses(
        (status = 200, body = TenantView, description = "Its bounds and its usage."),
    ),
)]
async fn limit_tenant(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(limit): Document<LimitTenant>,
) -> Answer<TenantView> {
    Ok(axum::Json(service.limit_tenant(scope, limit).await?))
}

/// The run as soon as it has closed or is parked, or as it is when the wait is over.
///
/// A host that stops answers with the run as it is, instead of holding its shutdown up.
#[utoipa::path(
    get, path = "/v1/runs/{id}/result", tag = "runs", operation_id = "await_result",
    params(ResultQuery),
    responses(
        (status = 200, body = RunView, description = "The run, closed or not."),
    ),
)]
async fn result(
    State(api): State<Api>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    Params(query): Params<ResultQuery>,
) -> Answer<RunView> {
    let wait = wait(query.wait_ms, "ask again for longer waits")?;
    let run = tokio::select! {
        run = api.service.result(scope, &id, wait) => run,
        () = api.stopping.cancelled() => api.service.result(scope, &id, Duration::ZERO).await,
    };
    Ok(axum::Json(run?))
}

/// The runs that a run has started, oldest first: all of them.
#[utoipa::path(
    get, path = "/v1/runs/{id}/children", tag = "runs", operation_id = "list_children",
    responses(
        (status = 200, body = RunListView, description = "All of them."),
    ),
)]
async fn children(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
) -> Answer<RunListView> {
    Ok(axum::Json(service.children(scope, &id).await?))
}

/// Leads a component along a run's ledger, and says where they disagree. Writes nothing.
#[utoipa::path(
    post, path = "/v1/runs/{id}/replay", tag = "runs", operation_id = "replay_run",
    request_body(content = Option<Component>, content_type = "application/wasm", description = "A component's bytes; none: the run's own."),
    responses(
        (status = 200, body = ReplayView, description = "What came out."),
        Unfit,
    ),
)]
async fn replay(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    extract::Component(component): extract::Component,
) -> Answer<ReplayView> {
    Ok(axum::Json(service.replay(scope, &id, component).await?))
}

/// Asks a run something. Writes nothing.
#[utoipa::path(
    post, path = "/v1/runs/{id}/query/{name}", tag = "runs", operation_id = "query_run",
    request_body(content = serde_json::Value, description = "What is asked with."),
    responses(
        (status = 200, body = QueryView, description = "The answer."),
        Conflict,
        Unfit,
    ),
)]
async fn query(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, name)): Segments<(String, String)>,
    _: NoParams,
    Payload(input): Payload,
) -> Answer<QueryView> {
    Ok(axum::Json(service.query(scope, &id, &name, input).await?))
}

/// Makes an update of a run, and waits for its answer.
#[utoipa::path(
    post, path = "/v1/runs/{id}/updates/{name}", tag = "runs", operation_id = "update_run",
    params(UpdateQuery),
    request_body(content = serde_json::Value, description = "What the workflow gets."),
    responses(
        (status = 200, body = UpdateView, description = "The answer."),
        (status = 202, body = UpdateView, description = "No answer yet: ask again under the same id."),
        Conflict, Busy,
        Unfit,
    ),
)]
async fn update(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, name)): Segments<(String, String)>,
    Params(UpdateQuery { update_id, wait_ms }): Params<UpdateQuery>,
    Payload(input): Payload,
) -> Result<(StatusCode, axum::Json<UpdateView>), Problem> {
    let wait = wait(wait_ms, "repeat the update with its id")?;
    let update = SendUpdate { name, input, id: update_id, wait };
    let view = service.update(scope, &id, update).await?;
    let status = if view.answered { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, axum::Json(view)))
}

/// A run as one portable document.
#[utoipa::path(
    get, path = "/v1/runs/{id}/history", tag = "runs", operation_id = "export_run",
    params(HistoryQuery),
    responses(
        (status = 200, body = History, description = "The document."),
    ),
)]
async fn history(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    Params(query): Params<HistoryQuery>,
) -> Result<Response, Problem> {
    let parts = query.parts().map_err(|problem| Problem::invalid("invalid-query", problem))?;
    let (text, permit) = service.history_with_permit(scope, &id, &parts).await?;
    Ok(json_with_permit(text, permit))
}

/// A JSON document that keeps its room until its client has taken nearly all of it: what is not written yet is in memory.
fn json_with_permit(text: Vec<u8>, permit: Permit) -> Response {
    let length = text.len();
    let slices = stream::unfold((Bytes::from(text), permit), async |(mut rest, permit)| {
        let slice = rest.split_to(rest.len().min(SLICE_BYTES));
        (!slice.is_empty()).then_some((Ok::<_, Infallible>(slice), (rest, permit)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CONTENT_LENGTH, length.into()),
    ];
    (headers, Body::from_stream(slices)).into_response()
}

pub(super) async fn no_route(method: Method, uri: Uri) -> Problem {
    let detail = format!("there is no {method} {} here; routes begin with /v1/", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "unknown-route", detail)
}

pub(super) async fn no_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}; the `allow` header lists what it does", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

/// How long to wait that is asked to wait so long.
fn wait(asked_ms: u64, instead: &str) -> Result<Duration, Problem> {
    if asked_ms > WAIT_MS_ASKED_MAX {
        let detail = format!("wait_ms is at most {WAIT_MS_ASKED_MAX}; {instead}");
        return Err(Problem::invalid("invalid-query", detail));
    }
    Ok(Duration::from_millis(asked_ms.min(RESULT_WAIT_MS_MAX)))
}
