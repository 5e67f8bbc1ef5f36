//! A body on its way in or out: counted, against its own bound and that of its attempt, and timed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

/// What an attempt may still send, or still be sent.
#[derive(Debug)]
pub(crate) struct Allowance(AtomicU64);

impl Allowance {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Whether there were so many left. What is refused is not taken.
    fn take(&self, bytes: u64) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// What is said of a body that is too large, with the bytes that were too many.
pub(crate) type TooLarge = fn(Option<u64>) -> Error;

/// A body with bounds.
pub(crate) struct Counted {
    body: WasiBody,
    seen: u64,
    bytes_max: u64,
    of_attempt: Arc<Allowance>,
    too_large: TooLarge,
    /// The longest silence between two frames, and when it has lasted so long.
    timeout: Option<(Duration, Pin<Box<Sleep>>)>,
    has_ended: bool,
}

impl Counted {
    pub(crate) fn new(
        body: WasiBody,
        bytes_max: u64,
        of_attempt: Arc<Allowance>,
        too_large: TooLarge,
    ) -> Self {
        Self { body, seen: 0, bytes_max, of_attempt, too_large, timeout: None, has_ended: false }
    }

    /// The same, ended when it stops for so long.
    pub(crate) fn bounded_by(self, timeout: Option<Duration>) -> Self {
        Self { timeout: timeout.map(|timeout| (timeout, Box::pin(tokio::time::sleep(timeout)))), ..self }
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), Error> {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.seen = self.seen.saturating_add(bytes);
        match self.seen <= self.bytes_max && self.of_attempt.take(bytes) {
            true => Ok(()),
            false => Err((self.too_large)(Some(self.seen))),
        }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let Some((_, over)) = &mut self.timeout else { return Poll::Pending };
            ready!(over.as_mut().poll(cx));
            self.has_ended = true;
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        if let Some((timeout, over)) = &mut self.timeout {
            over.as_mut().reset(Instant::now() + *timeout);
        }
        let frame = frame.map(|frame| frame.and_then(|frame| self.count(&frame).map(|()| frame)));
        // Nothing comes after an error: what was too much must not go on.
        self.has_ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    async fn taken(bytes: usize, bytes_max: u64, of_attempt: &Arc<Allowance>) -> bool {
        let body = Full::new(Bytes::from(vec![0; bytes])).map_err(|never| match never {}).boxed_unsync();
        let counted = Counted::new(body, bytes_max, Arc::clone(of_attempt), Error::HttpResponseBodySize);
        counted.collect().await.is_ok()
    }

    #[tokio::test]
    async fn all_bodies_of_an_attempt_have_one_bound_together() {
        let of_attempt = Arc::new(Allowance::new(10));
        assert!(taken(4, 5, &of_attempt).await);
        assert!(!taken(6, 5, &of_attempt).await, "too large by itself");
        assert!(taken(5, 5, &of_attempt).await, "what was refused is not taken from the others");
        assert!(!taken(2, 5, &of_attempt).await, "one byte is left");
        assert!(taken(1, 5, &of_attempt).await);
    }

    #[tokio::test]
    async fn a_body_that_stops_is_ended() {
        let body = http_body_util::StreamBody::new(futures::stream::pending()).boxed_unsync();
        let counted = Counted::new(body, 5, Arc::new(Allowance::new(5)), Error::HttpResponseBodySize);
        let ended = counted.bounded_by(Some(Duration::from_millis(20))).collect().await.map(drop);
        assert!(matches!(ended, Err(Error::ConnectionReadTimeout)), "{ended:?}");
    }
}
