//! How to connect.

use backstitch_core::{Scope, Shard, limits};

use crate::payloads::Payloads;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `postgres://user:password@host:port/database?…`, as libpq and sqlx understand it.
    pub url: String,
    /// The slice of the database that this host works on.
    pub shard: Shard,
    /// Where the tables are, whatever `search_path` the role or the database has. None: in `public`.
    pub schema: Option<String>,
    /// Connections for the host's own checks of the database. Lease, writer and listener have one each beside these.
    pub pool_max: u32,
    /// Connections for what clients ask: see [`Ledger::for_clients`].
    pub clients_max: u32,
    /// How long the host may be silent: waits for locks and stops within transactions are kept well below it.
    pub lease_ms: u64,
    /// What `pg_stat_activity` calls the sessions.
    pub application_name: String,
    /// Bound on any one statement.
    pub statement_timeout_ms: u64,
    /// The same for what clients ask.
    pub client_statement_timeout_ms: u64,
    /// How payloads are stored.
    pub payloads: Payloads,
    /// When a commit counts as done, as Postgres' setting of this name says it. None: [`Ledger::connect`] finds it out.
    pub synchronous_commit: Option<String>,
}

impl ConnectOptions {
    /// Defaults for `url`: shard 0, the schema `public`, 8 connections each, 30 s for a statement, 10 s for a client's,
    /// payloads as they are.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            shard: Scope::DEFAULT.shard,
            schema: None,
            pool_max: 8,
            clients_max: 8,
            lease_ms: limits::LEASE_MS,
            application_name: "backstitch".to_owned(),
            statement_timeout_ms: 30_000,
            client_statement_timeout_ms: limits::CLIENT_STATEMENT_MS_MAX,
            payloads: Payloads::default(),
            synchronous_commit: None,
        }
    }

    /// Where the tables are.
    pub(crate) fn schema(&self) -> &str {
        self.schema.as_deref().unwrap_or("public")
    }

    /// The longest wait for a lock that somebody else holds: whoever waits is to notice before a lease is lost over it.
    pub(crate) fn lock_ms(&self) -> u64 {
        (self.lease_ms / 3).max(1)
    }

    /// The longest pause within a transaction: a host that is stopped in one must not hold others up for a lease.
    pub(crate) fn idle_ms(&self) -> u64 {
        (self.lease_ms / 2).max(1)
    }
}
