//! The routes of `/v1/schedules`.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use backstitch_wire::params::ReasonBody;
use backstitch_wire::schedules::{
    BackfillSchedule, CreateSchedule, ListSchedules, ReplaceSchedule, ScheduleListView, ScheduleView,
    TriggerSchedule, TriggeredView,
};

use super::described::{Conflict, Routes};
use super::extract::{Document, NoParams, Params, Segments, Tenant};
use super::problem::Problem;
use super::state::Answer;
use crate::service::Service;

/// Every route of schedules: none waits for anything but the database.
pub(super) fn routes() -> Routes {
    Routes::new()
        .with(__path_list, list)
        .with(__path_create, create)
        .with(__path_show, show)
        .with(__path_replace, replace)
        .with(__path_delete, delete)
        .with(__path_pause, pause)
        .with(__path_resume, resume)
        .with(__path_trigger, trigger)
        .with(__path_backfill, backfill)
}

/// Makes a schedule.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules", operation_id = "create_schedule",
    request_body = CreateSchedule,
    responses(
        (status = 201, body = ScheduleView, description = "It is there.", headers(("location" = String, description = "Where it is."))),
        Conflict,
    ),
)]
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

/// Schedules, by name.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", operation_id = "list_schedules",
    params(ListSchedules),
    responses(
        (status = 200, body = ScheduleListView, description = "A page."),
    ),
)]
async fn list(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Params(list): Params<ListSchedules>,
) -> Answer<ScheduleListView> {
    Ok(axum::Json(service.list_schedules(scope, list).await?))
}

/// A schedule, with its next times and its open runs.
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "show_schedule",
    responses(
        (status = 200, body = ScheduleView, description = "The schedule."),
    ),
)]
async fn show(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
) -> Answer<ScheduleView> {
    Ok(axum::Json(service.show_schedule(scope, &name).await?))
}

/// Replaces what a schedule starts when.
#[utoipa::path(
    put, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "replace_schedule",
    request_body = ReplaceSchedule,
    responses(
        (status = 200, body = ScheduleView, description = "As it is from now on."),
        Conflict,
    ),
)]
async fn replace(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
    Document(replace): Document<ReplaceSchedule>,
) -> Answer<ScheduleView> {
    Ok(axum::Json(service.replace_schedule(scope, &name, replace).await?))
}

/// Forgets a schedule. Its runs go on.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "delete_schedule",
    responses(
        (status = 204, description = "It is gone."),
    ),
)]
async fn delete(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
) -> Result<StatusCode, Problem> {
    service.delete_schedule(scope, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets the calendar start nothing.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/pause", tag = "schedules", operation_id = "pause_schedule",
    request_body = ReasonBody,
    responses(
        (status = 200, body = ScheduleView, description = "As it is from now on."),
        Conflict,
    ),
)]
async fn pause(
    State(service): State<Service>,
    Tenant(scope): Tenant,
    Segments(name): Segments<String>,
    _: NoParams,
    Document(body): Document<ReasonBody>,
) -> Answer<ScheduleView> {
    Ok(axum::Json(service.pause_schedule(scope, &name, &body.reason).await?))
}

/// Lets the calendar go on.
///
/// The reason is for the log alone: a schedule that goes on has none to show.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/resume", tag = "schedules", operation_id = "resume_schedule",
    request_body = ReasonBody,
    responses(
        (status = 200, body = ScheduleView, description = "As it is from now on."),
        Conflict,
    ),
)]
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

/// Asks for a run now. Each repeat counts.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/trigger", tag = "schedules", operation_id = "trigger_schedule",
    request_body = TriggerSchedule,
    responses(
        (status = 202, body = TriggeredView, description = "Durable: the schedule will start it, if its policy lets it."),
        Conflict,
    ),
)]
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

/// Asks for the runs of a period of the past.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/backfill", tag = "schedules", operation_id = "backfill_schedule",
    request_body = BackfillSchedule,
    responses(
        (status = 202, description = "Durable: the schedule will start them."),
        Conflict,
    ),
)]
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
