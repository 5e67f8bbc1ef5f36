//! The routes of `/v1/schedules`.
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/schedules` [`CreateSchedule`] | 201 [`ScheduleView`] |
//! | `GET /v1/schedules` [`ListSchedules`] | 200 [`ScheduleListView`] |
//! | `GET /v1/schedules/{name}` | 200 [`ScheduleView`] |
//! | `PUT /v1/schedules/{name}` [`ReplaceSchedule`] | 200 [`ScheduleView`] |
//! | `DELETE /v1/schedules/{name}` | 204 |
//! | `POST /v1/schedules/{name}/pause`, `/resume` [`ReasonBody`] | 200 [`ScheduleView`] |
//! | `POST /v1/schedules/{name}/trigger` [`TriggerSchedule`] | 202 [`TriggeredView`] |
//! | `POST /v1/schedules/{name}/backfill` [`BackfillSchedule`] | 202 |

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use backstitch_client::schedules::{
    BackfillSchedule, CreateSchedule, ListSchedules, ReplaceSchedule, ScheduleListView, ScheduleView,
    TriggerSchedule, TriggeredView,
};
use backstitch_client::wire::ReasonBody;

use super::Api;
use super::extract::{Document, NoParams, Params, Segments, Tenant};
use super::problem::Problem;
use super::routes::Answer;
use crate::service::Service;

/// Every route of schedules: none waits for anything but the database.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/schedules", get(list).post(create))
        .route("/v1/schedules/{name}", get(show).put(replace).delete(delete))
        .route("/v1/schedules/{name}/pause", post(pause))
        .route("/v1/schedules/{name}/resume", post(resume))
        .route("/v1/schedules/{name}/trigger", post(trigger))
        .route("/v1/schedules/{name}/backfill", post(backfill))
}

async fn create(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    _: NoParams,
    Document(create): Document<CreateSchedule>,
) -> Result<Response, Problem> {
    let mut place = String::from("/v1/schedules/");
    place.extend(url_path(&create.name));
    let view = service.create_schedule(scope, create).await?;
    let place = HeaderValue::try_from(place).map_err(Problem::internal)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], axum::Json(view)).into_response())
}

async fn list(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(list): Params<ListSchedules>,
) -> Answer<ScheduleListView> {
    Ok(axum::Json(service.list_schedules(scope, list).await?))
}

async fn show(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
) -> Answer<ScheduleView> {
    Ok(axum::Json(service.show_schedule(scope, &name).await?))
}

async fn replace(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
    Document(replace): Document<ReplaceSchedule>,
) -> Answer<ScheduleView> {
    Ok(axum::Json(service.replace_schedule(scope, &name, replace).await?))
}

async fn delete(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
) -> Result<StatusCode, Problem> {
    service.delete_schedule(scope, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
    Document(body): Document<ReasonBody>,
) -> Answer<ScheduleView> {
    Ok(axum::Json(service.pause_schedule(scope, &name, &body.reason).await?))
}

/// The reason is for the log alone: a schedule that goes on has none to show.
async fn resume(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
    Document(body): Document<ReasonBody>,
) -> Answer<ScheduleView> {
    let view = service.resume_schedule(scope, &name).await?;
    tracing::info!(schedule = name, reason = body.reason, "a schedule goes on");
    Ok(axum::Json(view))
}

async fn trigger(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
    Document(trigger): Document<TriggerSchedule>,
) -> Result<(StatusCode, axum::Json<TriggeredView>), Problem> {
    let view = service.trigger_schedule(scope, &name, trigger).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(view)))
}

async fn backfill(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
    Document(backfill): Document<BackfillSchedule>,
) -> Result<StatusCode, Problem> {
    service.backfill_schedule(scope, &name, backfill).await?;
    Ok(StatusCode::ACCEPTED)
}

/// A name as a segment of a path: all but letters, digits, `-` and `_` is written out.
fn url_path(name: &str) -> impl Iterator<Item = char> + '_ {
    name.bytes().flat_map(|byte| {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let text = if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        text.chars().collect::<Vec<_>>()
    })
}
