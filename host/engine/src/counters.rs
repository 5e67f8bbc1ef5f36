//! What a host counts of its own work.

use std::sync::atomic::AtomicU64;

/// Counters that the API shows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Runs in memory.
    pub runs_loaded: AtomicU64,
    /// Guests that are kept in memory and have nothing to do.
    pub runs_warm: AtomicU64,
    /// Attempts of activities that run on this host.
    pub activities_running: AtomicU64,
    /// Attempts that began on this host, or were delivered to a worker.
    pub activities_started: AtomicU64,
    /// Activations of guests.
    pub activations: AtomicU64,
    /// Runs that were claimed.
    pub runs_taken_over: AtomicU64,
    /// Runs whose last rows the database has lost.
    pub runs_rewound: AtomicU64,
}
