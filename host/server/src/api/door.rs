//! The door: where connections come in, how many there may be, and how long each may keep quiet.
//!
//! What it promises, whatever a client does or leaves undone:
//!
//! | a connection | is closed after |
//! |---|---|
//! | whose request's head has begun and does not end | [`Timeouts::head`] |
//! | that has no request under way | [`Timeouts::idle`] |
//! | whose client does not read what it asked for | [`Timeouts::write`] |
//! | beyond those that the host, or its peer, may have | at once |
//!
//! What comes of a request's body is [`extract`](super::extract)'s to bound, and how long a request may take its
//! handler's. Peers are told apart by address; of IPv6 by the /64 that a site has to itself.

mod bounds;
mod crowd;
mod quiet;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use backstitch_core::limits;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::bounds::{Room, Timeouts};
use self::crowd::{Crowd, Place};
use self::quiet::{Answered, Quiet, Signs, overdue};
use super::router::router;
use crate::service::Service;

/// How long a stopping host waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

/// How long after a connection could not be taken the next is: there may be no file left for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is said that connections are turned away.
const CROWDED_SAID_EVERY: Duration = Duration::from_secs(60);

/// A host's door, open but not yet answering: requests that come in wait for [`Door::serve`].
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    timeouts: Timeouts,
    room: Room,
}

impl Door {
    /// Listens on `address`. Port 0 takes a free one.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, timeouts: Timeouts::default(), room: Room::default() })
    }

    /// With other bounds on how many may come in.
    pub fn with_room(self, room: Room) -> Self {
        Self { room, ..self }
    }

    /// With other bounds on silence.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
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
        self.answer(router, stopping).await;
        Ok(())
    }

    /// The same, whoever answers.
    async fn answer(self, router: Router, stopping: CancellationToken) {
        let (connections, given_up) = (TaskTracker::new(), CancellationToken::new());
        let crowd = Crowd::new(self.room);
        let mut said: Option<Instant> = None;
        loop {
            let (socket, place) = tokio::select! {
                () = stopping.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, peer)) => (socket, crowd.enter(peer.ip())),
                    Err(error) => {
                        not_accepted(&error).await;
                        continue;
                    }
                },
            };
            let Some(place) = place else {
                if said.is_none_or(|said| said.elapsed() >= CROWDED_SAID_EVERY) {
                    said = Some(Instant::now());
                    let Room { all, peer } = self.room;
                    tracing::warn!(all, peer, "connections are turned away: there is no room for more");
                }
                continue;
            };
            let connection = connection(socket, place, self.timeouts, router.clone(), stopping.clone());
            let given_up = given_up.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = given_up.cancelled() => {}
                }
            });
        }
        // Nobody else comes in.
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::warn!("stopping with requests still under way");
            given_up.cancel();
        }
    }
}

/// A client that was gone before it came in is its own affair; all else is ours, and may last.
async fn not_accepted(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "a connection cannot be taken");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// One connection, from its first request to its last.
async fn connection(
    socket: TcpStream,
    place: Place,
    timeouts: Timeouts,
    router: Router,
    stopping: CancellationToken,
) {
    // Without it, a small answer may wait for the client's delayed acknowledgement: 40 ms a call.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps Nagle's algorithm");
    }
    let signs = Signs::new();
    let quiet = Quiet::new(socket, Arc::clone(&signs));
    let mut overdue = pin!(overdue(&signs, timeouts));
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        // Until the answer has been given, its client may be as quiet as it likes.
        let answering = Signs::answer(&signs);
        let answer = router.call(request);
        async move {
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body: Body| Answered::new(body, answering)))
        }
    });
    // Heads are timed by their signs, apart from idleness, which hyper's own timer takes for the same.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_buf_size(limits::API_BUFFER_BYTES_MAX);
    let mut serving = pin!(http.serve_connection(TokioIo::new(quiet), service));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // First what leaves signs, then who looks at them.
            biased;
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection has ended early");
                }
                break;
            }
            why = &mut overdue => {
                tracing::debug!(why, "a connection is closed");
                break;
            }
            () = stopping.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
    drop(place);
}

#[cfg(test)]
mod tests;
