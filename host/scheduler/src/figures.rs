//! What a scheduler counts of its own work.

/// See the module. The last four only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Runs in memory.
    pub runs_loaded: u64,
    /// Guests that are kept in memory and have nothing to do.
    pub runs_warm: u64,
    /// Attempts of activities that run on this host.
    pub activities_running: u64,
    /// Attempts that began on this host, or were delivered to a worker.
    pub activities_started: u64,
    /// Activations of guests.
    pub activations: u64,
    /// Runs that were claimed.
    pub runs_taken_over: u64,
    /// Runs whose last rows the database has lost.
    pub runs_rewound: u64,
}
