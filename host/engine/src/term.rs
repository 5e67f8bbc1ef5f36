//! A term: one registration of this host, as those see it who talk to it.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::HostId;
use backstitch_ledger::Health;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::driver::Inputs;

/// The term that clients talk to.
#[derive(Clone)]
pub struct Term {
    /// Who the host is in this term.
    pub host: HostId,
    /// To its scheduler.
    pub inputs: Inputs,
    /// Wakes its poller of messages.
    pub inbox_wakeup: Arc<Notify>,
    /// Whether the writer gets through.
    pub health: watch::Receiver<Health>,
    /// Since when it has been at one statement.
    pub busy: watch::Receiver<Option<Instant>>,
    /// Whether the heartbeat does.
    pub heartbeat_health: watch::Receiver<Health>,
}

impl Term {
    /// How long the writer has been at one statement.
    pub fn writer_busy_ms(&self) -> u64 {
        let busy = self.busy.borrow().map_or(Duration::ZERO, |since| since.elapsed());
        u64::try_from(busy.as_millis()).unwrap_or(u64::MAX)
    }

    /// What keeps the database from taking writes, and since when.
    pub fn outage(&self) -> Option<(Instant, Arc<str>)> {
        [&self.health, &self.heartbeat_health].into_iter().find_map(|health| match &*health.borrow() {
            Health::Healthy => None,
            Health::Down { since, reason } => Some((*since, Arc::clone(reason))),
        })
    }
}
