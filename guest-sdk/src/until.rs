//! Waiting until a time, and for no longer than some time.

use crate::command::{Pending, sleep_for, wait_for};
use crate::duration::IntoDuration;
use crate::error::Result;
use futures::future::{Fuse, FutureExt, LocalBoxFuture};
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime};

/// What [`sleep_until`] accepts: a [`SystemTime`], or milliseconds since the Unix epoch.
pub trait IntoInstant {
    /// How long it is until then from `now_ms`, a number of milliseconds since the Unix epoch. Nothing
    /// when it is past.
    fn after(self, now_ms: u64) -> Duration;
}

impl IntoInstant for u64 {
    fn after(self, now_ms: u64) -> Duration {
        Duration::from_millis(self.saturating_sub(now_ms))
    }
}

impl IntoInstant for SystemTime {
    fn after(self, now_ms: u64) -> Duration {
        let since_epoch = self.duration_since(Self::UNIX_EPOCH).unwrap_or_default();
        since_epoch.saturating_sub(Duration::from_millis(now_ms))
    }
}

/// A durable timer until a time: as long as it is from the run's [`now`](crate::now) until then. One
/// that is past fires at once.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{Result, now, sleep_until, workflow};
/// use std::time::Duration;
///
/// #[workflow]
/// async fn on_the_hour() -> Result<()> {
///     let hour = Duration::from_secs(3_600);
///     let begun = now();
///     for hours in 1..=3 {
///         sleep_until(begun + hours * hour).await?; // never later for what was done in between
///     }
///     Ok(())
/// }
///
/// let run = TestRun::<on_the_hour>::new().run(());
/// assert_eq!(run.elapsed(), Duration::from_secs(3 * 3_600));
/// ```
pub fn sleep_until(instant: impl IntoInstant) -> Pending<()> {
    sleep_for(instant.after(crate::now_ms()))
}

/// Waits for a signal, but not for ever: `None` when it has not come in time. Both the wait and the
/// timer are given at once, and whichever loses is cancelled. A bad duration gives neither.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{Result, wait_for_timeout, workflow};
///
/// #[workflow(signals("manager-approval"))]
/// async fn approval() -> Result<String> {
///     Ok(match wait_for_timeout::<bool>("manager-approval", "3 days").await? {
///         Some(true) => "approved",
///         Some(false) => "rejected",
///         None => "timed out",
///     }
///     .to_owned())
/// }
///
/// let run = TestRun::<approval>::new().signal("manager-approval", true, "2 days");
/// assert_eq!(run.run(()).output().unwrap(), "approved");
/// assert_eq!(TestRun::<approval>::new().run(()).output().unwrap(), "timed out");
/// ```
pub fn wait_for_timeout<T>(
    signal: &str,
    timeout: impl IntoDuration,
) -> Fuse<LocalBoxFuture<'static, Result<Option<T>>>>
where
    T: DeserializeOwned + 'static,
{
    let given = timeout.into_duration().map(|timeout| (wait_for::<T>(signal), sleep_for(timeout)));
    async move {
        let (mut signal, mut timer) = given?;
        futures::select_biased! {
            payload = signal => payload.map(Some),
            passed = timer => passed.map(|()| None),
        }
    }
    .boxed_local()
    .fuse()
}
