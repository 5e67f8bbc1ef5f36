//! Many things at once: all of them, or so many at a time.
//!
//! Promises: everything here is deterministic, depends on no clock and no hasher, and gives up what is
//! not wanted any more by dropping it. [`join!`](crate::join), [`try_join!`](crate::try_join),
//! [`join_all`](crate::join_all) and the `FuturesUnordered` of [`futures`] work as well.

use crate::error::Result;
use futures::future::{FusedFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Waits for all of them and gives their outputs in the order of the futures. At the first error, which
/// is the first in time and not in order, the others are given up and the error is the result.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{ActivityOptions, Error, Result, all, call_activity, workflow};
///
/// #[workflow]
/// async fn total(items: Vec<String>) -> Result<u32> {
///     let options = ActivityOptions::default();
///     let prices = all(items.iter().map(|item| call_activity("price", &(item,), &options))).await?;
///     Ok(prices.iter().sum::<u32>())
/// }
///
/// let run = TestRun::<total>::new()
///     .activity("price", |arguments| match arguments[0].as_str() {
///         Some("pen") => Ok(2),
///         Some("mug") => Ok(7),
///         _ => Err(Error::application("no-price", "not for sale").non_retryable()),
///     });
/// assert_eq!(run.run(["pen", "mug"]).output(), Ok(9));
/// ```
pub fn all<T, F>(futures: impl IntoIterator<Item = F>) -> impl FusedFuture<Output = Result<Vec<T>>> + Unpin
where
    F: Future<Output = Result<T>>,
{
    let numbered = |(at, future): (usize, F)| async move { (at, future.await) };
    let mut running: FuturesUnordered<_> = futures.into_iter().enumerate().map(numbered).collect();
    Box::pin(async move {
        let mut outputs: Vec<Option<T>> = Vec::new();
        outputs.resize_with(running.len(), || None);
        while let Some((at, output)) = running.next().await {
            outputs[at] = Some(output?);
        }
        Ok(outputs.into_iter().map(|output| output.expect("each future has ended")).collect())
    })
    .fuse()
}

/// So many at a time: whoever holds a [`Permit`] goes on, the others wait in the order they came.
///
/// A call is a command when it is made, so the permit is taken before the call and not around its
/// `.await`; [`run`](Self::run) does it right. Clones share the permits.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{ActivityOptions, Result, Semaphore, all, call_activity, duration, workflow};
///
/// #[workflow]
/// async fn gently(pages: u32) -> Result<usize> {
///     let at_once = Semaphore::new(10);
///     let options = &ActivityOptions::default();
///     let fetch = |page| at_once.run(move || call_activity::<u32>("fetch", &(page,), options));
///     Ok(all((0..pages).map(fetch)).await?.len())
/// }
///
/// let run = TestRun::<gently>::new()
///     .activity("fetch", |page| Ok(page[0].clone()))
///     .activity_takes("fetch", "1 second")
///     .run(95);
/// assert_eq!(run.output(), Ok(95));
/// assert_eq!(run.elapsed(), duration!("10 seconds"));
/// ```
#[derive(Debug, Clone)]
pub struct Semaphore(Rc<RefCell<Permits>>);

#[derive(Debug)]
struct Permits {
    free: usize,
    /// By the order in which they came. A permit that becomes free is handed to the first.
    waiting: BTreeMap<u64, Waiting>,
    arrivals: u64,
}

#[derive(Debug)]
enum Waiting {
    /// None before its first poll.
    For(Option<Waker>),
    /// Has a permit and was not polled since.
    Served,
}

impl Semaphore {
    /// A semaphore with this many permits.
    ///
    /// # Panics
    /// With none, everybody would wait for ever.
    pub fn new(permits: usize) -> Self {
        assert!(permits > 0, "a semaphore has at least one permit");
        Self(Rc::new(RefCell::new(Permits { free: permits, waiting: BTreeMap::new(), arrivals: 0 })))
    }

    /// Takes a place in the line at once, and waits for a permit. To drop the future is to leave the
    /// line; to drop the permit is to hand it on.
    pub fn acquire(&self) -> Acquire {
        let mut permits = self.0.borrow_mut();
        let place = permits.arrivals;
        permits.arrivals += 1;
        let waiting = if permits.free > 0 {
            permits.free -= 1;
            Waiting::Served
        } else {
            Waiting::For(None)
        };
        permits.waiting.insert(place, waiting);
        Acquire { semaphore: self.clone(), place: Some(place) }
    }

    /// Waits for a permit, then calls `f`, and hands the permit on when the future of `f` is ready or
    /// dropped.
    pub fn run<F, C>(&self, f: C) -> impl Future<Output = F::Output> + use<F, C>
    where
        F: Future,
        C: FnOnce() -> F,
    {
        let acquire = self.acquire();
        async move {
            let _permit = acquire.await;
            f().await
        }
    }

    fn release(&self) {
        let mut permits = self.0.borrow_mut();
        let first = permits.waiting.iter_mut().find_map(|(_, waiting)| match waiting {
            Waiting::For(waker) => {
                let waker = waker.take();
                *waiting = Waiting::Served;
                Some(waker)
            }
            Waiting::Served => None,
        });
        match first {
            Some(waker) => {
                drop(permits);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            None => permits.free += 1,
        }
    }
}

/// A place in the line of a [`Semaphore`].
#[must_use = "dropping it leaves the line: `.await` it"]
#[derive(Debug)]
pub struct Acquire {
    semaphore: Semaphore,
    /// None after the permit was taken.
    place: Option<u64>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let place = self.place.expect("awaited again after its permit was taken");
        let mut permits = self.semaphore.0.borrow_mut();
        match permits.waiting.get_mut(&place).expect("whoever waits has a place") {
            Waiting::For(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Waiting::Served => {
                permits.waiting.remove(&place);
                drop(permits);
                self.place = None;
                Poll::Ready(Permit { semaphore: self.semaphore.clone() })
            }
        }
    }
}

impl FusedFuture for Acquire {
    fn is_terminated(&self) -> bool {
        self.place.is_none()
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let left = self.semaphore.0.borrow_mut().waiting.remove(&place);
        if matches!(left, Some(Waiting::Served)) {
            self.semaphore.release();
        }
    }
}

/// One of the permits of a [`Semaphore`], until it is dropped.
#[must_use = "dropping the permit hands it on"]
#[derive(Debug)]
pub struct Permit {
    semaphore: Semaphore,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.release();
    }
}
