//! What every handler works with.

use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use backstitch_wire::views::StartedView;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::service::Service;

/// What handlers share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) service: Service,
    pub(super) stopping: CancellationToken,
    pub(super) loopback: bool,
    pub(super) room: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) pages: Pages,
}

/// What the API says of itself: made of all routes, so that a route which serves it cannot make it.
#[derive(Clone, Copy)]
pub(super) struct Pages {
    /// The OpenAPI document.
    pub(super) document: fn() -> &'static str,
    /// The same for people.
    pub(super) reference: fn() -> &'static str,
}

impl FromRef<Api> for Pages {
    fn from_ref(api: &Api) -> Self {
        api.pages
    }
}

impl FromRef<Api> for Service {
    fn from_ref(api: &Api) -> Self {
        api.service.clone()
    }
}

/// What most handlers give.
pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;

/// A run that was started, or was there, and where it is.
pub(super) fn begun(started: StartedView) -> Result<Response, Problem> {
    let place = format!("/v1/runs/{}", started.run.run_id);
    let place = HeaderValue::try_from(place).map_err(Problem::internal)?;
    let status = created(started.created);
    Ok((status, [(header::LOCATION, place)], axum::Json(started)).into_response())
}

/// 201 if it is new.
pub(super) fn created(new: bool) -> StatusCode {
    if new { StatusCode::CREATED } else { StatusCode::OK }
}
