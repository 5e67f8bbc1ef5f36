//! A term: one registration of this host, as those see it who talk to it.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::HostId;
use backstitch_ledger::Health;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::scheduler::Inputs;

/// The term that clients talk to.
#[derive(Clone)]
pub(crate) struct Term {
    pub(crate) host: HostId,
    pub(crate) inputs: Inputs,
    pub(crate) inbox_hint: Arc<Notify>,
    /// Whether the writer gets through.
    pub(crate) health: watch::Receiver<Health>,
    /// Since when it has been at one statement.
    pub(crate) busy: watch::Receiver<Option<Instant>>,
    /// Whether the heartbeat does.
    pub(crate) pulse: watch::Receiver<Health>,
}

impl Term {
    /// How long the writer has been at one statement.
    pub(crate) fn writer_busy_ms(&self) -> u64 {
        let busy = self.busy.borrow().map_or(Duration::ZERO, |since| since.elapsed());
        u64::try_from(busy.as_millis()).unwrap_or(u64::MAX)
    }

    /// What keeps the database from taking writes, and since when.
    pub(crate) fn outage(&self) -> Option<(Instant, Arc<str>)> {
        [&self.health, &self.pulse].into_iter().find_map(|health| match &*health.borrow() {
            Health::Healthy => None,
            Health::Down { since, reason } => Some((*since, Arc::clone(reason))),
        })
    }
}
