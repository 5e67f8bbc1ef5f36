//! The writer's connection. There is never a second backend that may still commit for it.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;

use super::within;
use crate::connect::ConnectOptions;

/// The writer's own connection, and the backend that served the one before.
pub(super) struct Session {
    options: PgConnectOptions,
    pub(super) statement_ms_max: u64,
    connection: Option<PgConnection>,
    /// The backend of the current connection, or of the lost one.
    backend: Option<Backend>,
    /// How many connections there have been.
    made: watch::Sender<u64>,
}

/// A server process. Its number may be used again, so its start belongs to its name.
#[derive(Clone)]
struct Backend {
    pid: i32,
    started: String,
}

impl Session {
    /// No connection yet, and the number of those that it will have made.
    pub(super) fn new(options: &ConnectOptions) -> Result<(Self, watch::Receiver<u64>), sqlx::Error> {
        // One plan for every batch, chosen once. Without statistics of the arrays, hash and merge joins
        // would read whole tables to join them with a handful of keys.
        let settings = [
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ];
        let (made, connections) = watch::channel(0);
        let session = Self {
            options: options.session("writer")?.options(settings),
            statement_ms_max: options.statement_timeout_ms.saturating_add(REPLY_MS_MAX),
            connection: None,
            backend: None,
            made,
        };
        Ok((session, connections))
    }

    pub(super) fn drop_connection(&mut self) {
        self.connection = None;
    }

    /// Asks the server for nothing. Connects if there is no connection.
    pub(super) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        self.connection().await?.ping().await
    }

    /// The connection; a new one only once the backend of the lost one is gone.
    pub(super) async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.connection.is_none() {
            let connection = within(CONNECT_MS_MAX, self.connect()).await?;
            self.connection = Some(connection);
            self.made.send_modify(|made| *made += 1);
        }
        Ok(self.connection.as_mut().expect("it was just put there"))
    }

    async fn connect(&mut self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        if let Some(backend) = &self.backend {
            while still_there(&mut connection, backend).await? {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let (pid, started) = sqlx::query_as(
            "select pid, backend_start::text from pg_stat_activity where pid = pg_backend_pid()",
        )
        .fetch_one(&mut connection)
        .await?;
        self.backend = Some(Backend { pid, started });
        Ok(connection)
    }
}

/// How much longer than the server's own bound a reply may take, in milliseconds.
const REPLY_MS_MAX: u64 = 5_000;
/// Bound on a new connection, the end of the old backend included, in milliseconds.
const CONNECT_MS_MAX: u64 = 10_000;

/// Ends the backend; whether it is still there. Idempotent.
async fn still_there(connection: &mut PgConnection, backend: &Backend) -> Result<bool, sqlx::Error> {
    let ended: Option<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and backend_start::text = $2",
    )
    .bind(backend.pid)
    .bind(&backend.started)
    .fetch_optional(connection)
    .await?;
    Ok(ended.is_some())
}
