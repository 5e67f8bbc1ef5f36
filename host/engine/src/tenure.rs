//! Whether this host may still begin anything for its runs.
//!
//! The fence keeps what a host writes back once others have its runs. It does not keep attempts, pushes and handed-out
//! tasks back, which the world sees. So none of them begins when the last heartbeat that the database took was sent
//! longer ago than the lease lasts: by this machine's own clock, that goes on while the process is stopped or the
//! machine sleeps. What is under way then goes on, as it does on a host that is merely slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::ambient;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Tenure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lease_ms: u64,
    /// When it is over, in milliseconds of this machine's uptime.
    until_ms: AtomicU64,
    /// Counts the times that it held again.
    restored: watch::Sender<u64>,
}

impl Tenure {
    /// Of a host that has no lease yet.
    pub fn new(lease_ms: u64) -> Self {
        Self(Arc::new(Inner { lease_ms, until_ms: AtomicU64::new(0), restored: watch::Sender::new(0) }))
    }

    /// The database has taken a sign of life that was sent at `sent_ms`.
    pub fn renew(&self, sent_ms: u64) {
        let held = self.holds();
        self.0.until_ms.store(sent_ms.saturating_add(self.0.lease_ms), Ordering::Release);
        if !held {
            self.0.restored.send_modify(|times| *times += 1);
        }
    }

    /// The lease is given back, or lost.
    pub fn end(&self) {
        self.0.until_ms.store(0, Ordering::Release);
    }

    /// Whether anything may begin now.
    pub fn holds(&self) -> bool {
        ambient::uptime_ms() < self.0.until_ms.load(Ordering::Acquire)
    }

    /// How long the lease lasts, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.0.lease_ms
    }

    /// How long ago the last good sign of life was sent, in milliseconds; none: there is no lease.
    pub fn age_ms(&self) -> Option<u64> {
        let until_ms = self.0.until_ms.load(Ordering::Acquire);
        (until_ms > 0).then(|| (ambient::uptime_ms() + self.0.lease_ms).saturating_sub(until_ms))
    }

    /// Changes whenever it holds again.
    pub fn restored(&self) -> watch::Receiver<u64> {
        self.0.restored.subscribe()
    }

    /// Waits until anything may begin.
    pub async fn until_it_holds(&self) {
        let mut restored = self.restored();
        while !self.holds() {
            if restored.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_once_the_last_heartbeat_is_older_than_the_lease() {
        let tenure = Tenure::new(60_000);
        assert!(!tenure.holds(), "there is no lease yet");
        let now_ms = ambient::uptime_ms();
        tenure.renew(now_ms);
        assert!(tenure.holds());
        tenure.renew(now_ms.saturating_sub(60_001));
        assert!(!tenure.holds());
        assert!(tenure.age_ms().is_some_and(|age_ms| age_ms > 60_000));
        tenure.renew(now_ms);
        tenure.end();
        assert!(!tenure.holds());
    }
}
