//! Places of attempts on this host, given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How many places were given back that nobody was told of.
#[derive(Debug, Default)]
pub(super) struct Places {
    freed: AtomicUsize,
    notify: Notify,
}

impl Places {
    /// Waits until some were given back; how many. Cancelling it loses none.
    pub(super) async fn freed(&self) -> usize {
        loop {
            let freed = self.freed.swap(0, Ordering::AcqRel);
            if freed > 0 {
                return freed;
            }
            self.notify.notified().await;
        }
    }
}

/// The place of one attempt. It is given back even by a task that was aborted.
#[derive(Debug)]
pub(super) struct Place(pub(super) Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.freed.fetch_add(1, Ordering::AcqRel);
        self.0.notify.notify_one();
    }
}
