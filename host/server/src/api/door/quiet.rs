//! How long a connection has kept quiet: with a head that does not end, without asking for anything, without reading
//! what it asked for.
//!
//! The socket and whoever answers note what happens ([`Signs`]); [`overdue`] is polled by the same task after either,
//! and ends when one of them has taken too long. HTTP itself knows nothing of it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::bounds::Timeouts;

/// What there is to be seen of a connection.
pub(super) struct Signs(Mutex<State>);

struct State {
    /// Requests that are being answered.
    answering: u32,
    owes: Owes,
    /// Since when it owes that.
    since: Instant,
    /// Since when it takes nothing of what it is sent.
    deaf_since: Option<Instant>,
}

/// What the client owes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owes {
    /// Nothing: it waits for us.
    Nothing,
    /// A request, sometime.
    Request,
    /// The rest of a head.
    Head,
}

impl Signs {
    /// A connection that begins now.
    pub(super) fn new() -> Arc<Self> {
        let state = State { answering: 0, owes: Owes::Request, since: Instant::now(), deaf_since: None };
        Arc::new(Self(Mutex::new(state)))
    }

    /// A request has come.
    pub(super) fn answer(this: &Arc<Self>) -> Answering {
        let mut state = this.state();
        state.answering += 1;
        state.owes = Owes::Nothing;
        drop(state);
        Answering(Arc::clone(this))
    }

    /// Bytes have come. Those that come while a request is being answered are of its body, or of the next request:
    /// neither is waited for here.
    fn heard(&self) {
        let mut state = self.state();
        if state.answering == 0 && state.owes == Owes::Request {
            (state.owes, state.since) = (Owes::Head, Instant::now());
        }
    }

    /// Bytes were taken, or cannot be taken now.
    fn sent(&self, taken: bool) {
        let mut state = self.state();
        let now = Instant::now();
        if !taken {
            state.deaf_since.get_or_insert(now);
            return;
        }
        state.deaf_since = None;
        if state.owes == Owes::Request {
            // It still takes what it was given: nothing else is to be expected of it.
            state.since = now;
        }
    }

    /// When its client is overdue, and with what; none: it owes nothing.
    fn due(&self, timeouts: Timeouts) -> Option<(Instant, &'static str)> {
        let state = self.state();
        let owed = match state.owes {
            Owes::Nothing => None,
            Owes::Request => Some((state.since + timeouts.idle, "nothing was asked for a while")),
            Owes::Head => Some((state.since + timeouts.head, "the head of a request does not end")),
        };
        let deaf =
            state.deaf_since.map(|since| (since + timeouts.write, "the client does not read its answer"));
        owed.into_iter().chain(deaf).min_by_key(|(at, _)| *at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the client is overdue, and says with what. To be polled by the task of the connection, after whatever
/// may have changed its signs: nothing else wakes it.
pub(super) async fn overdue(signs: &Signs, timeouts: Timeouts) -> &'static str {
    let mut sleep = Box::pin(sleep_until(Instant::now()));
    poll_fn(|cx| {
        loop {
            let Some((at, why)) = signs.due(timeouts) else { return Poll::Pending };
            if sleep.deadline() != at {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(cx));
            if signs.due(timeouts).is_some_and(|(still, _)| still <= at) {
                return Poll::Ready(why);
            }
        }
    })
    .await
}

/// A request that is being answered, until it is dropped.
pub(super) struct Answering(Arc<Signs>);

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.answering -= 1;
        if state.answering == 0 {
            (state.owes, state.since) = (Owes::Request, Instant::now());
        }
    }
}

/// An answer's body, and that it is being given.
pub(super) struct Answered {
    body: Body,
    _answering: Answering,
}

impl Answered {
    pub(super) fn new(body: Body, answering: Answering) -> Self {
        Self { body, _answering: answering }
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that leaves signs.
pub(super) struct Quiet {
    socket: TcpStream,
    signs: Arc<Signs>,
}

impl Quiet {
    pub(super) fn new(socket: TcpStream, signs: Arc<Signs>) -> Self {
        Self { socket, signs }
    }
}

impl AsyncRead for Quiet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.signs.heard();
        }
        read
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.signs.sent(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        self.signs.sent(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
