//! What a host counts of its own work.

use std::sync::atomic::AtomicU64;

/// Counters that the API shows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) runs_loaded: AtomicU64,
    pub(crate) runs_warm: AtomicU64,
    pub(crate) activities_running: AtomicU64,
    pub(crate) activities_started: AtomicU64,
    pub(crate) activations: AtomicU64,
    pub(crate) runs_taken_over: AtomicU64,
    /// Runs whose last rows the database has lost.
    pub(crate) runs_rewound: AtomicU64,
}
