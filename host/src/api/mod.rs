//! The HTTP API of a host: JSON over HTTP/1.1 under `/v1`, on loopback unless told otherwise.
//!
//! This room translates. Requests become calls of [`Service`], errors become [`problem`] documents;
//! nothing is decided here except who may ask ([`guard`]), how much ([`extract`]) and for how long.
//! [`backstitch_client`] is the other end of the same wire and has the types of both.

mod codes;
mod door;
mod etag;
mod extract;
mod guard;
pub mod openapi;
pub mod problem;
mod reference;
mod routes;
mod schedule_routes;
mod spec_routes;
mod stream;
mod task_routes;
pub mod typescript;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::problem::Problem;
use crate::service::Service;

pub use self::door::{Door, Patience, Room};
pub(crate) use self::extract::trim;

/// Requests under way at once, waiting ones included. Beyond it clients are told to come back: each
/// may hold a payload, and an unbounded crowd would hold the memory of all of them.
const REQUESTS_MAX: usize = 4_096;

/// What handlers share.
#[derive(Clone)]
struct Api {
    service: Service,
    stopping: CancellationToken,
    loopback: bool,
    room: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl FromRef<Api> for Service {
    fn from_ref(api: &Api) -> Self {
        api.service.clone()
    }
}

/// The API as a [`Router`]. `loopback` says whether it is reached over loopback only.
pub fn router(service: Service, stopping: CancellationToken, loopback: bool) -> Router {
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    let streams = Arc::new(Semaphore::new(stream::STREAMS_MAX));
    let api = Api { service, stopping, loopback, room, streams };
    let router = routes::routes().router();
    let router = router.fallback(routes::no_route).method_not_allowed_fallback(routes::no_method);
    router.layer(from_fn_with_state(api.clone(), edge)).with_state(api)
}

/// Around every request: who may come in, how many at once, and no panic ends without an answer.
async fn edge(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if let Err(problem) = guard::check(&parts, api.loopback).and_then(|()| extract::check_uri(&parts.uri)) {
        return problem.into_response();
    }
    let Ok(_place) = api.room.try_acquire() else {
        let detail = format!("{REQUESTS_MAX} requests are under way; try again in a second");
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).into_response();
    };
    let handled = AssertUnwindSafe(next.run(Request::from_parts(parts, body))).catch_unwind();
    handled.await.unwrap_or_else(|_| Problem::internal("a handler panicked").into_response())
}

/// Gives a request a bounded time. What it had begun may or may not have taken effect.
async fn within(time: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!(
                "no answer within {} s; the request may still take effect, so repeat it with the same id",
                time.as_secs()
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).into_response()
        }
    }
}
