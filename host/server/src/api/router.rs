//! The API as a whole: every route behind one edge.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::state::{Api, Pages};
use super::{extract, guard, openapi, reference, routes, stream};
use crate::service::Service;

/// Requests under way at once, waiting ones included. Beyond it clients are told to come back: each
/// may hold a payload, and an unbounded crowd would hold the memory of all of them.
const REQUESTS_MAX: usize = 4_096;

/// The API as a [`Router`]. `loopback` says whether it is reached over loopback only.
pub fn router(service: Service, stopping: CancellationToken, loopback: bool) -> Router {
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    let streams = Arc::new(Semaphore::new(stream::STREAMS_MAX));
    let pages = Pages { document: openapi::text, reference: reference::page };
    let api = Api { service, stopping, loopback, room, streams, pages };
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
