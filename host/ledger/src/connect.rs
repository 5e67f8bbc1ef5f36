//! Reaching the database, and saying in one sentence what to do when that fails.

use std::str::FromStr;
use std::time::Duration;

use backstitch_core::{Scope, Shard, TenantId};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection, PgConnection};

use crate::error::Failure;
use crate::payloads::Payloads;

/// The oldest server whose SQL this crate speaks (SQL-standard function bodies).
const SERVER_VERSION_MIN: i32 = 140_000;

/// How long a caller waits for a connection of the pool before it is told that there is none.
const ACQUIRE_MS_MAX: u64 = 5_000;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `postgres://user:password@host:port/database?…`, as libpq and sqlx understand it.
    pub url: String,
    /// The slice of the database that this host works on.
    pub shard: Shard,
    /// Connections for everything but the writer and the listener, which have their own.
    pub pool_max: u32,
    /// What `pg_stat_activity` calls the sessions.
    pub application_name: String,
    /// Bound on any one statement: a dropped future does not cancel what runs on the server.
    pub statement_timeout_ms: u64,
    /// How payloads are stored.
    pub payloads: Payloads,
    /// When a commit counts as done, as Postgres' setting of this name says it. None: [`Ledger::connect`] finds it out.
    pub synchronous_commit: Option<String>,
}

impl ConnectOptions {
    /// Defaults for `url`: shard 0, 8 connections, 30 s for a statement, payloads as they are.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            shard: Scope::DEFAULT.shard,
            pool_max: 8,
            application_name: "backstitch".to_owned(),
            statement_timeout_ms: 30_000,
            payloads: Payloads::default(),
            synchronous_commit: None,
        }
    }

    /// The options of a session of ours. All plans must use the indexes: every statement has one that
    /// fits, and a plan that was cached while a table was empty must not outlive its growth.
    /// JIT is off because the cost of a plan with such an override looks huge, and would trigger it.
    pub(crate) fn session(&self, role: &str) -> Result<PgConnectOptions, sqlx::Error> {
        let timeout = self.statement_timeout_ms.to_string();
        let options = PgConnectOptions::from_str(&self.url)?
            .application_name(&format!("{} {role}", self.application_name))
            .options([("statement_timeout", timeout.as_str()), ("enable_seqscan", "off"), ("jit", "off")])
            .disable_statement_logging();
        Ok(match &self.synchronous_commit {
            Some(chosen) => options.options([("synchronous_commit", chosen)]),
            None => options,
        })
    }

    /// The options of a session that may take its time: migrations.
    pub(crate) fn patient_session(&self) -> Result<PgConnectOptions, sqlx::Error> {
        Ok(PgConnectOptions::from_str(&self.url)?
            .application_name(&format!("{} migrations", self.application_name))
            .options([("statement_timeout", "0")])
            .disable_statement_logging())
    }
}

/// Why there is no [`Ledger`]. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL cannot be understood.
    #[error("the database URL is not valid ({0}); it looks like postgres://user:password@host:5432/database")]
    Url(#[source] sqlx::Error),
    /// Nobody answers.
    #[error("no Postgres answers at {server} ({source}); check that it runs and that the address is right")]
    Unreachable {
        /// Host and port, or the socket.
        server: String,
        /// What the operating system said.
        source: sqlx::Error,
    },
    /// The server does not let us in.
    #[error("Postgres at {server} refuses the login ({source}); check user, password and pg_hba.conf")]
    Auth {
        /// Host and port, or the socket.
        server: String,
        /// What the server said.
        source: sqlx::Error,
    },
    /// The database of the URL does not exist.
    #[error("Postgres at {server} has no such database ({source}); create it with createdb")]
    NoDatabase {
        /// Host and port, or the socket.
        server: String,
        /// What the server said.
        source: sqlx::Error,
    },
    /// Encryption was asked for.
    #[error(
        "the database URL asks for TLS, which this build does not speak; use sslmode=disable over a private network or a local proxy"
    )]
    Tls(#[source] sqlx::Error),
    /// The database keeps text in another encoding.
    #[error(
        "the database is encoded in {found}; create one with: createdb --encoding=UTF8 --template=template0 NAME"
    )]
    Encoding {
        /// Its `server_encoding`.
        found: String,
    },
    /// The server is too old.
    #[error("the server is PostgreSQL {found}; version 14 or later is needed")]
    TooOld {
        /// Its version.
        found: String,
    },
    /// The server does not take writes.
    #[error(
        "the database is read-only ({why}); connect to the primary, or reset default_transaction_read_only"
    )]
    ReadOnly {
        /// Which of the two kinds.
        why: &'static str,
    },
    /// Anything else the server said.
    #[error("Postgres at {server} cannot be used: {source}")]
    Other {
        /// Host and port, or the socket.
        server: String,
        /// What it said.
        source: sqlx::Error,
    },
}

/// The database, seen from one shard. Cheap to clone; all clones share one pool.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) pool: PgPool,
    pub(crate) shard: Shard,
    pub(crate) options: std::sync::Arc<ConnectOptions>,
}

impl Ledger {
    /// Connects once, to learn whether the database will do, and prepares the pool.
    pub async fn connect(mut options: ConnectOptions) -> Result<Self, ConnectError> {
        let session = options.session("pool").map_err(ConnectError::Url)?;
        let server = address(&session);
        let mut connection =
            PgConnection::connect_with(&session).await.map_err(|error| refused(server.clone(), error))?;
        check(&mut connection, server.clone()).await?;
        if options.synchronous_commit.is_none() {
            let chosen = synchronous_commit(&mut connection)
                .await
                .map_err(|source| ConnectError::Other { server, source })?;
            options.synchronous_commit = Some(chosen);
        }
        let session = options.session("pool").map_err(ConnectError::Url)?;
        // Only a courtesy to the server: what we came for is known.
        connection.close().await.ok();
        let pool = PgPoolOptions::new()
            .max_connections(options.pool_max)
            .acquire_timeout(Duration::from_millis(ACQUIRE_MS_MAX))
            // Instead of a bare ping, for as much: a session that began while the database took no writes
            // refuses them for as long as it lives.
            .test_before_acquire(false)
            .before_acquire(|connection, _| {
                Box::pin(async move {
                    let read_only: String =
                        sqlx::query_scalar("show transaction_read_only").fetch_one(connection).await?;
                    Ok(read_only == "off")
                })
            })
            .connect_lazy_with(session);
        Ok(Self { pool, shard: options.shard, options: std::sync::Arc::new(options) })
    }

    /// The shard that this handle works on.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// The options it was made with, for the [`crate::Writer`].
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Where rows of `tenant` live, seen from here.
    pub fn scope(&self, tenant: TenantId) -> Scope {
        Scope { shard: self.shard, tenant }
    }

    /// Closes the pool. Calls under way end first; later ones fail as unavailable.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Whether this server and database will do. Reads settings only.
async fn check(connection: &mut PgConnection, server: String) -> Result<(), ConnectError> {
    let (version, version_text, encoding, in_recovery, read_only): (i32, String, String, bool, String) =
        sqlx::query_as(
            "select current_setting('server_version_num')::integer, current_setting('server_version'),
                    current_setting('server_encoding'), pg_is_in_recovery(),
                    current_setting('transaction_read_only')",
        )
        .fetch_one(connection)
        .await
        .map_err(|source| ConnectError::Other { server, source })?;
    if version < SERVER_VERSION_MIN {
        Err(ConnectError::TooOld { found: version_text })
    } else if encoding != "UTF8" {
        Err(ConnectError::Encoding { found: encoding })
    } else if in_recovery {
        Err(ConnectError::ReadOnly { why: "it is a standby" })
    } else if read_only == "on" {
        Err(ConnectError::ReadOnly { why: "default_transaction_read_only is on" })
    } else {
        Ok(())
    }
}

/// When commits of ours count as done. What the URL asks for is the operator's choice, and so is more than `on`. Less is
/// often the default of a server that other programs use too: here it would lose steps that were told of.
async fn synchronous_commit(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let (setting, source): (String, String) =
        sqlx::query_as("select setting, source from pg_settings where name = 'synchronous_commit'")
            .fetch_one(connection)
            .await?;
    let is_weak = matches!(setting.as_str(), "off" | "local");
    if is_weak && source == "client" {
        tracing::warn!(
            synchronous_commit = setting,
            "the database URL allows commits to be lost in a crash or a failover; runs then go on from what is left"
        );
    }
    Ok(if is_weak && source != "client" { "on".to_owned() } else { setting })
}

fn address(session: &PgConnectOptions) -> String {
    match session.get_socket() {
        Some(socket) => format!("{}/.s.PGSQL.{}", socket.display(), session.get_port()),
        None => format!("{}:{}", session.get_host(), session.get_port()),
    }
}

fn refused(server: String, source: sqlx::Error) -> ConnectError {
    let code = source.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    match code.as_deref() {
        Some(code) if code.starts_with("28") => ConnectError::Auth { server, source },
        Some("3D000") => ConnectError::NoDatabase { server, source },
        _ => match &source {
            sqlx::Error::Tls(_) => ConnectError::Tls(source),
            sqlx::Error::Configuration(_) => ConnectError::Url(source),
            _ if Failure::of(&source) == Failure::Lost => ConnectError::Unreachable { server, source },
            _ => ConnectError::Other { server, source },
        },
    }
}
