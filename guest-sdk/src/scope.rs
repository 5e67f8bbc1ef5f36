//! A scope that a request to cancel does not end.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::executor;

/// A scope whose commands outlive a request to cancel: clean-up that must be finished.
///
/// ```no_run
/// # use backstitch_sdk::{ActivityOptions, Result, call_activity, shielded};
/// # async fn example() -> Result<()> {
/// let options = ActivityOptions::default();
/// let booking: String = call_activity("book", &("oslo",), &options).await?;
/// if let Err(error) = call_activity::<()>("pay", &(&booking,), &options).await {
///     shielded(async { call_activity::<()>("cancel_booking", &(&booking,), &options).await }).await?;
///     return Err(error);
/// }
/// # Ok(()) }
/// ```
pub fn shielded<F: Future>(future: F) -> Shielded<F> {
    Shielded { future: Box::pin(future) }
}

/// What [`shielded`] returns.
#[must_use = "nothing in it is done before it is awaited"]
#[derive(Debug)]
pub struct Shielded<F> {
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Shielded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        executor::shielded(|| self.future.as_mut().poll(cx))
    }
}
