//! How every session of ours begins, and how long its replies may take.
//!
//! Settings are made by a statement, not by the start-up packet: poolers refuse the packet, or drop what they do not
//! know in it. They are read back in a transaction of their own, so that a pooler that gives each transaction another
//! server process is noticed. [`Opening::set`] makes them, in every session.
//!
//! | what goes wrong | noticed after |
//! |---|---|
//! | a reply is lost, and with it the server or the network | the statement's own bound and [`REPLY_MS_MAX`], by our clock |
//! | this host is gone, its statement waits for a lock | `client_connection_check_interval`, by the server |
//! | this host is stopped in a transaction | `idle_in_transaction_session_timeout`, by the server |
//! | this host's machine is gone | the server's keepalives and `tcp_user_timeout` |
//! | somebody else holds a lock | `lock_timeout`, by the server |

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::options::ConnectOptions;

/// How much longer than the server's own bound a reply may take, in milliseconds.
pub(crate) const REPLY_MS_MAX: u64 = 5_000;
/// Bound on a new connection, in milliseconds.
const CONNECT_MS_MAX: u64 = 5_000;
/// What says that a session is still the one that was opened.
pub(crate) const MARK: &str = "backstitch.session";
/// Lets the server notice that its client is gone while a statement runs. Not every system can.
const CLIENT_CHECK: &str = "client_connection_check_interval";

/// How a session begins.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    connect: PgConnectOptions,
    settings: Vec<(&'static str, String)>,
}

impl Opening {
    /// A session of ours, by what it is for. All plans must use the indexes: every statement has one that fits, and a plan
    /// that was cached while a table was empty must not outlive its growth. JIT is off because the cost of a plan
    /// with such an override looks huge, and would trigger it.
    pub(crate) fn new(options: &ConnectOptions, role: &str) -> Result<Self, sqlx::Error> {
        let lock_ms = options.lock_ms();
        let settings = [
            ("statement_timeout", options.statement_timeout_ms.to_string()),
            ("lock_timeout", lock_ms.to_string()),
            ("idle_in_transaction_session_timeout", options.idle_ms().to_string()),
            // A client that is not heard of for so long is gone. Sockets of this machine have none of these.
            ("tcp_keepalives_idle", "5".to_owned()),
            ("tcp_keepalives_interval", "2".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "10000".to_owned()),
            (CLIENT_CHECK, "500".to_owned()),
            search_path(options),
            ("enable_seqscan", "off".to_owned()),
            ("jit", "off".to_owned()),
        ];
        let chosen = options.synchronous_commit.iter().map(|chosen| ("synchronous_commit", chosen.clone()));
        let settings = settings.into_iter().chain(chosen).collect();
        Ok(Self { connect: packet(options, role)?, settings })
    }

    /// A session that may take its time: migrations.
    pub(crate) fn patient(options: &ConnectOptions) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connect: packet(options, "migrations")?,
            settings: vec![("statement_timeout", "0".to_owned()), search_path(options)],
        })
    }

    /// The same, with further settings.
    pub(crate) fn with<'a>(mut self, settings: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        self.settings.extend(settings.into_iter().map(|(name, value)| (name, value.to_owned())));
        self
    }

    /// Host and port, or the socket, for people.
    pub(crate) fn address(&self) -> String {
        match self.connect.get_socket() {
            Some(socket) => format!("{}/.s.PGSQL.{}", socket.display(), self.connect.get_port()),
            None => format!("{}:{}", self.connect.get_host(), self.connect.get_port()),
        }
    }

    /// For those who bring a pool of their own, and [set](Self::set) the rest in it.
    pub(crate) fn bare(&self) -> PgConnectOptions {
        self.connect.clone()
    }

    /// Opens a session, and makes sure that it is one.
    pub(crate) async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        within(CONNECT_MS_MAX, self.begin()).await
    }

    async fn begin(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.connect).await?;
        self.set(&mut connection).await?;
        Ok(connection)
    }

    /// Makes the settings in a session that has just begun.
    pub(crate) async fn set(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if let Err(error) = set(connection, &self.settings).await {
            let known = |(name, _): &&(&'static str, String)| *name != CLIENT_CHECK;
            let others: Vec<_> = self.settings.iter().filter(known).cloned().collect();
            if error.as_database_error().is_none() || others.len() == self.settings.len() {
                return Err(error);
            }
            set(connection, &others).await?;
        }
        if is_marked(connection).await? { Ok(()) } else { Err(pooled()) }
    }
}

/// Names are looked up and tables made in one schema: one that is called like the role, or a path that somebody has set for
/// the role or the database, must not lead to others.
fn search_path(options: &ConnectOptions) -> (&'static str, String) {
    ("search_path", format!("\"{}\"", options.schema().replace('"', "\"\"")))
}

fn packet(options: &ConnectOptions, role: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(&options.url)?
        .application_name(&format!("{} {role}", options.application_name))
        // No text form of a number is ever read, and poolers do not take it.
        .extra_float_digits(None)
        .disable_statement_logging())
}

/// Makes the settings and the mark. May be repeated.
async fn set(connection: &mut PgConnection, settings: &[(&'static str, String)]) -> Result<(), sqlx::Error> {
    let (names, values): (Vec<&str>, Vec<&str>) =
        settings.iter().map(|(name, value)| (*name, value.as_str())).unzip();
    sqlx::query(
        "select set_config(s.name, s.value, false) from unnest($1::text[], $2::text[]) as s (name, value)
         union all
         select set_config($3, pg_backend_pid()::text, false)",
    )
    .bind(names)
    .bind(values)
    .bind(MARK)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the session is the one that the mark was made in. Reads only.
pub(crate) async fn is_marked(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select coalesce(current_setting($1, true) = pg_backend_pid()::text, false)")
        .bind(MARK)
        .fetch_one(connection)
        .await
}

/// What is wrong with a session that does not stay one.
pub(crate) fn pooled() -> sqlx::Error {
    sqlx::Error::Protocol(POOLED.to_owned())
}

/// See [`pooled`].
pub(crate) const POOLED: &str =
    "the session lost its settings: a pooler gives each transaction another server process";

/// An error as of a lost connection.
pub(crate) fn lost(what: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

/// A reply that takes longer than the server's own bound will not come: the network has lost it.
pub(crate) async fn within<T>(
    ms_max: u64,
    reply: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(Duration::from_millis(ms_max), reply).await {
        Ok(result) => result,
        Err(_) => Err(lost("no reply in time")),
    }
}
