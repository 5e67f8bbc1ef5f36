//! When the next timer of this host is due, as far as anybody has said since the last look.

use tokio::sync::watch;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct TimerWakeup(watch::Sender<u64>);

impl Default for TimerWakeup {
    /// Nobody has looked yet: there may be one that is due.
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl TimerWakeup {
    /// A timer may be due at this time, in milliseconds since the epoch. Wakes who waits, if that is sooner than was known.
    pub fn sooner(&self, due_ms: u64) {
        self.0.send_if_modified(|next| {
            let sooner = due_ms < *next;
            *next = due_ms.min(*next);
            sooner
        });
    }

    /// The earliest time that was said; from here on none was.
    pub fn take(&self) -> u64 {
        self.0.send_replace(u64::MAX)
    }

    /// Hears of every sooner time.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
