//! How the host is, and whether it can do its work.

use std::sync::atomic::{AtomicU64, Ordering};

use backstitch_engine::term::Term;
use backstitch_wire::views::{HealthView, ReadyView};

use super::error::ServiceError;
use super::state::Service;

impl Service {
    /// How the host is.
    pub async fn health(&self) -> HealthView {
        let term = self.term.borrow().clone();
        let database = self.unready(term.as_ref());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HealthView {
            status: if database.is_none() { "ok" } else { "degraded" }.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host_id: term.map(|term| term.host.to_string()).unwrap_or_default(),
            database,
            runs_loaded: count(&self.counters.runs_loaded),
            runs_warm: count(&self.counters.runs_warm),
            activities_running: count(&self.counters.activities_running),
            activities_started: count(&self.counters.activities_started),
            activations: count(&self.counters.activations),
            runs_taken_over: count(&self.counters.runs_taken_over),
            runs_rewound: count(&self.counters.runs_rewound),
        }
    }

    /// Whether the host can do what clients ask of it; an error says why it cannot.
    pub fn ready(&self) -> Result<ReadyView, ServiceError> {
        let term = self.term.borrow().clone();
        if let Some(message) = self.unready(term.as_ref()) {
            return Err(ServiceError::Unavailable { code: "not-ready", message });
        }
        Ok(ReadyView {
            status: "ready".to_owned(),
            host_id: term.as_ref().map(|term| term.host.to_string()).unwrap_or_default(),
            lease_ms: self.tenure.lease_ms(),
            lease_age_ms: self.tenure.age_ms().unwrap_or(u64::MAX),
            writer_busy_ms: term.as_ref().map_or(0, Term::writer_busy_ms),
            clock_skew_ms: self.clock.skew_ms(),
        })
    }

    /// What keeps the host from its work.
    fn unready(&self, term: Option<&Term>) -> Option<String> {
        let Some(term) = term else {
            let no_lease = || "the host has no lease at the moment".to_owned();
            return Some(self.clock.wrong().unwrap_or_else(no_lease));
        };
        if let Some((_, reason)) = term.outage() {
            return Some(reason.to_string());
        }
        if !self.tenure.holds() {
            return Some("no heartbeat has reached the database for longer than the lease lasts".to_owned());
        }
        let (busy_ms, lease_ms) = (term.writer_busy_ms(), self.tenure.lease_ms());
        (busy_ms > lease_ms).then(|| format!("the writer has waited for one statement for {busy_ms} ms"))
    }
}
