//! The routes of `/v1`: each handler translates one request into one call of the [`Service`].
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/health` | 200 [`HealthView`], also when degraded |
//! | `POST /v1/deployments` (component; manifest in a header) | 201 or 200 [`DeployedView`] |
//! | `GET /v1/deployments` | 200 [`DeploymentsView`] |
//! | `POST /v1/runs` [`StartRun`] | 201 or 200 [`StartedView`] |
//! | `GET /v1/runs` [`ListRuns`] | 200 [`RunListView`] |
//! | `GET /v1/run-count` [`CountRuns`] | 200 [`RunCountView`] |
//! | `GET /v1/runs/{id}` | 200 [`RunDetailView`] |
//! | `GET /v1/runs/{id}/ledger` [`LedgerQuery`] | 200 [`LedgerView`] |
//! | `GET /v1/runs/{id}/result` [`ResultQuery`] | 200 [`RunView`], closed or not |
//! | `POST /v1/runs/{id}/signals/{name}` (JSON) | 202 |
//! | `POST /v1/runs/{id}/cancel`, `/terminate` [`ReasonBody`] | 202 |
//! | `POST /v1/runs/{id}/pause`, `/resume` [`ReasonBody`] | 202 |
//! | `POST /v1/runs/{id}/retry` | 202 |
//! | `POST /v1/runs/{id}/fork` [`ForkRun`], `/reset` [`ResetRun`] | 201 [`StartedView`] |
//! | `GET /v1/runs/{id}/children` | 200 [`RunListView`], all of them |
//! | `POST /v1/runs/{id}/query/{name}` (JSON) | 200 [`QueryView`] |
//! | `POST /v1/runs/{id}/updates/{name}` (JSON) [`UpdateQuery`] | 200 [`UpdateView`], or 202: no answer yet |
//! | `GET /v1/runs/{id}/history` [`HistoryQuery`] | 200 [`History`](backstitch_client::history::History) |
//! | `POST /v1/runs/{id}/replay` (component or nothing) | 200 [`ReplayView`] |
//!
//! Those of `/v1/schedules` and `/v1/activities` are in files of their own. `{id}` is a run id or a workflow id. 202: the request is
//! durable, the run will take it up.
//! Whatever goes wrong is a [`Problem`].

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use backstitch_client::views::{
    DeployedView, HealthView, LedgerView, QueryView, ReplayView, RunCountView, RunDetailView, RunListView,
    RunView, StartedView, UpdateView,
};
use backstitch_client::wire::{
    DeploymentsView, HistoryQuery, LedgerQuery, RESULT_WAIT_MS_MAX, ReasonBody, ResultQuery, SignalQuery,
    UpdateQuery,
};
use backstitch_client::{CountRuns, ForkRun, ListRuns, ResetRun, SendSignal, SendUpdate, StartRun};
use backstitch_core::Seq;

use super::extract::{Component, Document, Manifest, NoParams, Params, Payload, Segments, Tenant};
use super::problem::Problem;
use super::{Api, within};
use crate::service::Service;

/// Requests that touch the database and nothing else.
const QUICK: Duration = Duration::from_secs(30);
/// Requests that wait for a run: the longest wait and a quick request.
const WAITING: Duration = Duration::from_millis(RESULT_WAIT_MS_MAX + 30_000);
/// Requests that compile a component, or hold a whole ledger and go over it.
const SLOW: Duration = Duration::from_secs(300);

pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;

/// Every route, without the guards around them.
pub(super) fn routes() -> Router<Api> {
    let quick = Router::new()
        .route("/v1/health", get(health))
        .route("/v1/deployments", get(deployments))
        .route("/v1/runs", get(list).post(start))
        // Not below `runs`, where any word may be the name of a run.
        .route("/v1/run-count", get(count))
        .route("/v1/runs/{id}", get(show))
        .route("/v1/runs/{id}/ledger", get(ledger))
        .route("/v1/runs/{id}/signals/{name}", post(signal))
        .route("/v1/runs/{id}/cancel", post(cancel))
        .route("/v1/runs/{id}/terminate", post(terminate))
        .route("/v1/runs/{id}/pause", post(pause))
        .route("/v1/runs/{id}/resume", post(resume))
        .route("/v1/runs/{id}/retry", post(retry))
        .route("/v1/runs/{id}/children", get(children))
        .merge(super::schedule_routes::routes())
        .merge(super::task_routes::quick())
        .route_layer(from_fn(|request, next| within(QUICK, request, next)));
    let waiting = Router::new()
        .route("/v1/runs/{id}/result", get(result))
        .merge(super::task_routes::waiting())
        .route_layer(from_fn(|request, next| within(WAITING, request, next)));
    let slow = Router::new()
        .route("/v1/deployments", post(deploy))
        .route("/v1/runs/{id}/replay", post(replay))
        .route("/v1/runs/{id}/fork", post(fork))
        .route("/v1/runs/{id}/reset", post(reset))
        .route("/v1/runs/{id}/query/{name}", post(query))
        .route("/v1/runs/{id}/updates/{name}", post(update))
        .route("/v1/runs/{id}/history", get(history))
        .route_layer(from_fn(|request, next| within(SLOW, request, next)));
    quick.merge(waiting).merge(slow).fallback(no_route).method_not_allowed_fallback(no_method)
}

async fn health(State(service): State<Service>, _: NoParams) -> axum::Json<HealthView> {
    axum::Json(service.health().await)
}

async fn deploy(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Manifest(manifest): Manifest,
    Component(bytes): Component,
) -> Result<(StatusCode, axum::Json<DeployedView>), Problem> {
    let bytes = bytes
        .ok_or_else(|| Problem::invalid("empty-body", "the body is empty; send the component's bytes"))?;
    let deployed = service.deploy_with(scope, bytes, manifest.as_deref()).await?;
    Ok((created(deployed.created), axum::Json(deployed)))
}

async fn deployments(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
) -> Answer<DeploymentsView> {
    let deployments = service.deployments(scope).await?;
    Ok(axum::Json(DeploymentsView { deployments }))
}

async fn start(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(start): Document<StartRun>,
) -> Result<Response, Problem> {
    begun(service.start(scope, start).await?)
}

async fn list(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(list): Params<ListRuns>,
) -> Answer<RunListView> {
    Ok(axum::Json(service.list(scope, list).await?))
}

async fn count(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(count): Params<CountRuns>,
) -> Answer<RunCountView> {
    Ok(axum::Json(service.count(scope, count).await?))
}

async fn show(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
) -> Answer<RunDetailView> {
    Ok(axum::Json(service.run(scope, &id).await?))
}

async fn ledger(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    Params(query): Params<LedgerQuery>,
) -> Answer<LedgerView> {
    Ok(axum::Json(service.ledger(scope, &id, Seq(query.from_seq), query.limit).await?))
}

/// A host that stops answers with the run as it is, instead of holding its shutdown up.
async fn result(
    State(api): State<Api>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    Params(query): Params<ResultQuery>,
) -> Answer<RunView> {
    if query.wait_ms > RESULT_WAIT_MS_MAX {
        let detail = format!("wait_ms is at most {RESULT_WAIT_MS_MAX}; ask again for longer waits");
        return Err(Problem::invalid("invalid-query", detail));
    }
    let run = tokio::select! {
        run = api.service.result(scope, &id, Duration::from_millis(query.wait_ms)) => run,
        () = api.stopping.cancelled() => api.service.result(scope, &id, Duration::ZERO).await,
    };
    Ok(axum::Json(run?))
}

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

async fn cancel(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(body): Document<ReasonBody>,
) -> Result<StatusCode, Problem> {
    service.cancel(scope, &id, body.reason).await?;
    Ok(StatusCode::ACCEPTED)
}

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

async fn fork(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(fork): Document<ForkRun>,
) -> Result<Response, Problem> {
    begun(service.fork(scope, &id, fork).await?)
}

async fn reset(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Document(reset): Document<ResetRun>,
) -> Result<Response, Problem> {
    begun(service.reset(scope, &id, reset).await?)
}

async fn children(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
) -> Answer<RunListView> {
    Ok(axum::Json(service.children(scope, &id).await?))
}

async fn retry(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
) -> Result<StatusCode, Problem> {
    service.retry(scope, &id).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn replay(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    _: NoParams,
    Component(component): Component,
) -> Answer<ReplayView> {
    Ok(axum::Json(service.replay(scope, &id, component).await?))
}

async fn query(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, name)): Segments<(String, String)>,
    _: NoParams,
    Payload(input): Payload,
) -> Answer<QueryView> {
    Ok(axum::Json(service.query(scope, &id, &name, input).await?))
}

async fn update(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments((id, name)): Segments<(String, String)>,
    Params(UpdateQuery { update_id, wait_ms }): Params<UpdateQuery>,
    Payload(input): Payload,
) -> Result<(StatusCode, axum::Json<UpdateView>), Problem> {
    if wait_ms > RESULT_WAIT_MS_MAX {
        let detail = format!("wait_ms is at most {RESULT_WAIT_MS_MAX}; repeat the update with its id");
        return Err(Problem::invalid("invalid-query", detail));
    }
    let update = SendUpdate { name, input, id: update_id, wait: Duration::from_millis(wait_ms) };
    let view = service.update(scope, &id, update).await?;
    let status = if view.answered { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, axum::Json(view)))
}

async fn history(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(id): Segments<String>,
    Params(query): Params<HistoryQuery>,
) -> Result<Response, Problem> {
    let parts = query.parts().map_err(|problem| Problem::invalid("invalid-query", problem))?;
    let text = service.history(scope, &id, &parts).await?;
    let media_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([media_type], text).into_response())
}

async fn no_route(method: Method, uri: Uri) -> Problem {
    let detail = format!("there is no {method} {} here; routes begin with /v1/", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "unknown-route", detail)
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}; the `allow` header lists what it does", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

/// A run that was started, or was there, and where it is.
fn begun(started: StartedView) -> Result<Response, Problem> {
    let place = format!("/v1/runs/{}", started.run.run_id);
    let place = HeaderValue::try_from(place).map_err(Problem::internal)?;
    let status = created(started.created);
    Ok((status, [(header::LOCATION, place)], axum::Json(started)).into_response())
}

fn created(new: bool) -> StatusCode {
    if new { StatusCode::CREATED } else { StatusCode::OK }
}
