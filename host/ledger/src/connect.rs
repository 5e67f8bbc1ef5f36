//! Reaching the database, and saying in one sentence what to do when that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstitch_core::{Scope, Shard, TenantId};
use sqlx::{Connection, Executor as _, PgConnection};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::Failure;
use crate::opening::{self, Opening, within};
use crate::options::ConnectOptions;
use crate::pool::{Pool, is_full};
use crate::tie::Tie;

/// The oldest server whose SQL this crate speaks (SQL-standard function bodies).
const SERVER_VERSION_MIN: i32 = 140_000;

/// How long to wait for room on the server, and how often to look.
const ROOM_WAIT: Duration = Duration::from_secs(3);
/// See [`ROOM_WAIT`].
const ROOM_POLL: Duration = Duration::from_millis(50);
/// How long a session that shares its server process may keep us waiting, in milliseconds.
const POOLED_MS_MAX: u64 = 2_000;

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
    /// The server has no room.
    #[error(
        "Postgres at {server} has no connection left for this role ({source}); a host wants about 20: raise max_connections, \
         or the role's CONNECTION LIMIT, or run fewer hosts. Slots that are reserved for superusers are none of ours"
    )]
    Full {
        /// Host and port, or the socket.
        server: String,
        /// What the server said.
        source: sqlx::Error,
    },
    /// Something between here and the server shares server processes among clients.
    #[error(
        "a pooler such as PgBouncer answers at {server}, and does not give this host sessions of its own ({how}); set \
         pool_mode=session for this database, or connect to Postgres directly"
    )]
    Pooled {
        /// Host and port, or the socket.
        server: String,
        /// How it was noticed.
        how: String,
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

/// The database, seen from one shard. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) pool: Pool,
    /// See [`Self::for_clients`].
    clients: Pool,
    /// Sessions that are [wanted first](Self::open_first).
    wanted: Arc<AtomicUsize>,
    /// The server has no room for a session that is needed.
    pub(crate) crowded: Arc<Notify>,
    pub(crate) shard: Shard,
    pub(crate) options: Arc<ConnectOptions>,
    /// What keeps all sessions at one server.
    pub(crate) tie: Tie,
}

impl Ledger {
    /// Connects twice, to learn whether the database will do, and prepares the pools.
    pub async fn connect(mut options: ConnectOptions) -> Result<Self, ConnectError> {
        let opening = Opening::new(&options, "pool").map_err(ConnectError::Url)?;
        let server = opening.address();
        let mut connection = opening.open().await.map_err(|error| refused(server.clone(), error))?;
        check(&mut connection, server.clone()).await?;
        check_sessions(&mut connection, &opening, server.clone()).await?;
        if options.synchronous_commit.is_none() {
            let chosen = synchronous_commit(&mut connection)
                .await
                .map_err(|source| ConnectError::Other { server, source })?;
            options.synchronous_commit = Some(chosen);
        }
        let opening = Opening::new(&options, "pool").map_err(ConnectError::Url)?;
        // Only a courtesy to the server: what we came for is known.
        connection.close().await.ok();
        let (wanted, crowded) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (ms, client_ms) = (options.statement_timeout_ms, options.client_statement_timeout_ms);
        let tie = Tie::new(options.shard);
        let pool = Pool::new(opening, options.pool_max, ms, (&wanted, &crowded), &tie);
        let client_statement = client_ms.to_string();
        let clients = Opening::new(&options, "clients")
            .map_err(ConnectError::Url)?
            .with([("statement_timeout", client_statement.as_str())]);
        let clients = Pool::new(clients, options.clients_max, client_ms, (&wanted, &crowded), &tie)
            .with_reserve(pool.clone());
        Ok(Self { pool, clients, wanted, crowded, shard: options.shard, options: Arc::new(options), tie })
    }

    /// The same database, over connections that only clients' requests use: whatever they wait for, the host's own checks
    /// do not wait behind it. Their statements are cut off sooner, and when nobody waits for them any more.
    #[must_use]
    pub fn for_clients(&self) -> Self {
        Self { pool: self.clients.clone(), ..self.clone() }
    }

    /// Opens one of the sessions that a host cannot be without. While it is wanted, the pools open none, and where the
    /// server has no room, they give one back.
    pub(crate) async fn open_first(&self, opening: &Opening) -> Result<PgConnection, sqlx::Error> {
        let _wanted = Wanted::new(&self.wanted);
        let until = Instant::now() + ROOM_WAIT;
        loop {
            match opening.open().await {
                Err(error) if is_full(&error) && Instant::now() < until => {
                    // The place is free as soon as the server has noticed.
                    let _ = self.clients.make_room() || self.pool.make_room();
                    tokio::time::sleep(ROOM_POLL).await;
                }
                opened => return opened,
            }
        }
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

    /// Closes the pools. Later calls fail as unavailable.
    pub async fn close(&self) {
        self.pool.close();
        self.clients.close();
    }
}

/// Counts a session that is wanted first.
struct Wanted<'a>(&'a AtomicUsize);

impl<'a> Wanted<'a> {
    fn new(wanted: &'a AtomicUsize) -> Self {
        wanted.fetch_add(1, Ordering::Relaxed);
        Self(wanted)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

/// Whether sessions stay what they are. While a second one is in a transaction, a pooler that shares server processes has
/// to give the first another one, or has given the second that of the first.
async fn check_sessions(
    first: &mut PgConnection,
    opening: &Opening,
    server: String,
) -> Result<(), ConnectError> {
    let pooled = |how: &str| ConnectError::Pooled { server: server.clone(), how: how.to_owned() };
    let mut second = opening.open().await.map_err(|error| refused(server.clone(), error))?;
    let before = backend(first).await.map_err(|error| refused(server.clone(), error))?;
    second.execute("begin").await.map_err(|error| refused(server.clone(), error))?;
    let other = backend(&mut second).await.map_err(|error| refused(server.clone(), error))?;
    let marked = within(POOLED_MS_MAX, opening::is_marked(first)).await;
    let after = within(POOLED_MS_MAX, backend(first)).await;
    second.close().await.ok();
    match (marked, after) {
        (Ok(true), Ok(after)) if before == after && before != other => Ok(()),
        (Ok(_), Ok(_)) => Err(pooled("two connections share a server process: pool_mode=transaction")),
        (Err(error), _) | (_, Err(error)) if error.as_database_error().is_some() => {
            Err(refused(server.clone(), error))
        }
        (Err(error), _) | (_, Err(error)) if Failure::of(&error) == Failure::Lost => {
            Err(pooled("a connection has to wait while another is in a transaction"))
        }
        (Err(error), _) | (_, Err(error)) => Err(refused(server.clone(), error)),
    }
}

/// The server process that a session has. Reads only.
async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await
}

fn refused(server: String, source: sqlx::Error) -> ConnectError {
    let code = source.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    let said = source.to_string();
    // PgBouncer's own words: it has no code for either.
    if said.contains("pooling mode") || said.contains("startup parameter") || said.contains(opening::POOLED) {
        return ConnectError::Pooled { server, how: said };
    }
    match code.as_deref() {
        Some(code) if code.starts_with("28") => ConnectError::Auth { server, source },
        Some("3D000") => ConnectError::NoDatabase { server, source },
        Some("53300") => ConnectError::Full { server, source },
        // A prepared statement that is not there, or is there already: of another client of the same server process.
        Some("26000" | "42P05") => ConnectError::Pooled { server, how: said },
        _ => match &source {
            sqlx::Error::Tls(_) => ConnectError::Tls(source),
            sqlx::Error::Configuration(_) => ConnectError::Url(source),
            _ if Failure::of(&source) == Failure::Lost => ConnectError::Unreachable { server, source },
            _ => ConnectError::Other { server, source },
        },
    }
}
