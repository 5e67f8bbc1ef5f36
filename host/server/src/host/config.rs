//! How a host is set up, and why one does not start.

use std::path::PathBuf;

use backstitch_core::{HostId, limits};
use backstitch_engine::memory;
use backstitch_ledger::Payloads;
use backstitch_sandbox::{Compiler, EgressConfig, GuestTime};

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The database.
    pub database_url: String,
    /// The schema of its tables, whatever `search_path` the role or the database has; none: `public`.
    pub schema: Option<String>,
    /// Where compiled code is kept; none: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// How long the host may be silent before others take its runs, in milliseconds.
    pub lease_ms: u64,
    /// Guests kept in memory.
    pub warm_runs_max: usize,
    /// Attempts of activities at a time.
    pub activities_max: usize,
    /// Threads that run guests.
    pub guest_threads: usize,
    /// How long the calls of one activation may be carried out on its thread, before other guests get
    /// their turn; the rest of them is carried out in the ordinary way. 0: all of them.
    pub at_once_ms: u64,
    /// Appends that are committed in one statement; 1 is a transaction for each.
    pub batch_max: usize,
    /// How long a workflow may compute.
    pub guest_time: GuestTime,
    /// Linear memory of all guests together, in bytes; warm ones are dropped, attempts wait.
    pub guest_memory_bytes_max: usize,
    /// Whole ledgers in memory, in bytes: so much for runs that are taken over, and as much for clients.
    pub ledger_memory_bytes_max: usize,
    /// What activities may reach, and with which secrets.
    pub egress: EgressConfig,
    /// How payloads are stored: as they are, or sealed.
    pub payloads: Payloads,
    /// A host that is known to be dead, whose runs need not wait for its lease to run out.
    pub predecessor: Option<HostId>,
    /// Debug builds: go over every activation twice more and compare.
    pub check_activations: bool,
}

impl HostConfig {
    /// The defaults, on a database.
    pub fn new(database_url: impl Into<String>, compiler: Compiler) -> Self {
        Self {
            database_url: database_url.into(),
            schema: None,
            cache_dir: None,
            compiler,
            lease_ms: limits::LEASE_MS,
            warm_runs_max: limits::WARM_RUNS_MAX,
            activities_max: limits::ACTIVITIES_RUNNING_MAX,
            guest_threads: std::thread::available_parallelism().map_or(2, usize::from),
            at_once_ms: limits::CALLS_AT_ONCE_MS,
            batch_max: limits::BATCH_APPENDS_MAX,
            guest_time: GuestTime::default(),
            guest_memory_bytes_max: memory::guest_memory_bytes_max(),
            ledger_memory_bytes_max: memory::ledger_memory_bytes_max(),
            egress: EgressConfig::default(),
            payloads: Payloads::default(),
            predecessor: None,
            check_activations: false,
        }
    }
}

/// Why a host did not start. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The database.
    #[error(transparent)]
    Connect(#[from] backstitch_ledger::ConnectError),
    /// Its schema.
    #[error(transparent)]
    Migrate(#[from] backstitch_ledger::MigrateError),
    /// The database, later.
    #[error(transparent)]
    Ledger(#[from] backstitch_ledger::LedgerError),
    /// The keys of its payloads.
    #[error(transparent)]
    Keys(#[from] backstitch_ledger::KeyError),
    /// This machine's clock.
    #[error("{0}")]
    Clock(String),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] backstitch_sandbox::SandboxError),
    /// The operating system.
    #[error("no thread for guests: {0}")]
    Threads(#[from] std::io::Error),
}
