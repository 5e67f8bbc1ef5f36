//! The HTTP API of a host: JSON over HTTP/1.1 under `/v1`, on loopback unless told otherwise.
//!
//! This room translates. Requests become calls of [`Service`], errors become [`problem`] documents;
//! nothing is decided here except who may ask ([`guard`]), how much ([`extract`]) and for how long.
//! [`backstitch_client`] is the other end of the same wire and has the types of both.

mod codes;
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

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::problem::Problem;
use crate::service::Service;

pub(crate) use self::extract::trim;

/// Requests under way at once, waiting ones included. Beyond it clients are told to come back: each
/// may hold a payload, and an unbounded crowd would hold the memory of all of them.
const REQUESTS_MAX: usize = 4_096;

/// How long a stopping host waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

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

/// A host's door, open but not yet answering: requests that come in wait for [`Door::serve`].
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
}

impl Door {
    /// Listens on `address`. Port 0 takes a free one.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where clients on this machine find the host.
    pub fn url(&self) -> String {
        let ip = match self.address {
            SocketAddr::V4(address) if address.ip().is_unspecified() => "127.0.0.1".to_owned(),
            SocketAddr::V6(address) if address.ip().is_unspecified() => "[::1]".to_owned(),
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        format!("http://{ip}:{}", self.address.port())
    }

    /// Whether only this machine can come in.
    pub fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }

    /// Answers requests until `stopping`, then finishes those under way, but not for ever.
    pub async fn serve(self, service: Service, stopping: CancellationToken) -> io::Result<()> {
        let router = router(service, stopping.clone(), self.is_loopback());
        // Without it, a small answer may wait for the client's delayed acknowledgement: 40 ms a call.
        let listener = self.listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps Nagle's algorithm");
            }
        });
        let serving =
            axum::serve(listener, router).with_graceful_shutdown(stopping.clone().cancelled_owned());
        tokio::select! {
            served = serving.into_future() => served,
            () = async { stopping.cancelled().await; tokio::time::sleep(DRAIN).await } => {
                tracing::warn!("stopping with requests still under way");
                Ok(())
            }
        }
    }
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
