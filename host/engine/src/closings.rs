//! Runs that close or are parked on this host: told to those who wait for just that run, and to whoever wants to
//! hear of all.
//!
//! A host with thousands of clients that wait for results closes thousands of runs a second: told to everybody,
//! each would wake all. Nothing here is needed: who waits looks into the database as well, later.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstitch_core::RunId;
use tokio::sync::{broadcast, watch};

/// Closed runs that who hears of all may lag behind.
const CLOSED_WAITING_MAX: usize = 4_096;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Closings {
    all: broadcast::Sender<RunId>,
    waiting: Arc<Mutex<HashMap<RunId, watch::Sender<()>>>>,
}

/// Somebody who waits for one run. Dropped, it is forgotten.
pub struct Closing {
    closings: Closings,
    run: RunId,
    told: watch::Receiver<()>,
}

impl Default for Closings {
    /// Nobody waits.
    fn default() -> Self {
        Self { all: broadcast::Sender::new(CLOSED_WAITING_MAX), waiting: Arc::default() }
    }
}

impl Closings {
    /// Runs that close or are parked from now on. A receiver that lags misses some.
    pub fn all(&self) -> broadcast::Receiver<RunId> {
        self.all.subscribe()
    }

    /// Hears of one run from now on: to be called before the look at what it is now.
    pub fn of(&self, run: RunId) -> Closing {
        let mut waiting = self.waiting();
        let told = waiting.entry(run).or_insert_with(|| watch::Sender::new(())).subscribe();
        Closing { closings: self.clone(), run, told }
    }

    /// A run has closed, or was parked.
    pub fn tell(&self, run: RunId) {
        let _ = self.all.send(run);
        if let Some(told) = self.waiting().get(&run) {
            told.send_replace(());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<RunId, watch::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closing {
    /// Waits until the run was told of since the last time.
    pub async fn heard(&mut self) {
        if self.told.changed().await.is_err() {
            // Its sender is there as long as this is.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Entry::Occupied(told) = self.closings.waiting().entry(self.run)
            && told.get().receiver_count() == 1
        {
            told.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient;
    use futures::FutureExt;

    #[test]
    fn a_closing_wakes_those_who_wait_for_its_run_and_nobody_else() {
        let closings = Closings::default();
        let (run, other) = (RunId(ambient::id_at(1)), RunId(ambient::id_at(2)));
        let (mut one, mut two) = (closings.of(run), closings.of(run));
        let mut elsewhere = closings.of(other);
        closings.tell(run);
        assert!(one.heard().now_or_never().is_some() && two.heard().now_or_never().is_some());
        assert!(one.heard().now_or_never().is_none(), "once");
        assert!(elsewhere.heard().now_or_never().is_none(), "of another run");
        drop(one);
        closings.tell(run);
        assert!(two.heard().now_or_never().is_some());
        drop((two, elsewhere));
        assert!(closings.waiting().is_empty(), "nobody waits, and nothing is kept");
    }

    #[test]
    fn who_hears_of_all_hears_of_each() {
        let closings = Closings::default();
        let mut all = closings.all();
        let run = RunId(ambient::id_at(1));
        closings.tell(run);
        assert_eq!(all.try_recv().unwrap(), run);
    }
}
