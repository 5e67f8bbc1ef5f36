//! The writer's connection. There is never a second backend that may still commit for it.

use std::time::Duration;

use backstitch_core::HostId;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;

use crate::connect::Ledger;
use crate::opening::{Opening, REPLY_MS_MAX, lost, within};

/// See [`crate::tie`].
pub(super) const ELSEWHERE: &str = "the writer is not at the server where the lease is renewed";

/// The writer's own connection, and the backend that served the one before.
pub(super) struct Session {
    ledger: Ledger,
    opening: Opening,
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
    pub(super) fn new(ledger: &Ledger) -> Result<(Self, watch::Receiver<u64>), sqlx::Error> {
        // One plan for every batch, chosen once. Without statistics of the arrays, hash and merge joins
        // would read whole tables to join them with a handful of keys.
        let settings = [
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ];
        let (made, connections) = watch::channel(0);
        let session = Self {
            opening: Opening::new(ledger.options(), "writer")?.with(settings),
            ledger: ledger.clone(),
            statement_ms_max: ledger.options().statement_timeout_ms.saturating_add(REPLY_MS_MAX),
            connection: None,
            backend: None,
            made,
        };
        Ok((session, connections))
    }

    /// What tells a slow reply of the current connection from a lost one.
    pub(super) fn reply_deadline(&self) -> ReplyDeadline {
        ReplyDeadline {
            ledger: self.ledger.clone(),
            backend: self.backend.clone(),
            ms_max: self.statement_ms_max,
        }
    }

    pub(super) fn drop_connection(&mut self) {
        self.connection = None;
    }

    /// Asks the server whether it is the right one. Connects if there is no connection.
    pub(super) async fn ping(&mut self) -> Result<(), sqlx::Error> {
        let tie = self.ledger.tie.clone();
        let connection = self.connection().await?;
        connection.ping().await?;
        if tie.is_same(connection).await? { Ok(()) } else { Err(lost(ELSEWHERE)) }
    }

    /// The number of a heartbeat that the writer's server must have had.
    pub(super) fn mark(&self, host: HostId) -> i64 {
        self.ledger.tie.mark_of(host)
    }

    /// How long the statements to come may wait for locks, in milliseconds; none: as a session of ours does from the start.
    /// What goes wrong with that is found by the next statement.
    pub(super) async fn wait_for_locks(&mut self, ms_max: Option<u64>) {
        let ms = ms_max.unwrap_or(self.ledger.options().lock_ms()).to_string();
        let deadline = self.reply_deadline();
        if let Some(connection) = &mut self.connection {
            let set =
                sqlx::query("select set_config('lock_timeout', $1, false)").bind(ms).execute(connection);
            if deadline.reply(set).await.is_err() {
                self.drop_connection();
            }
        }
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
        let mut connection = self.ledger.open_first(&self.opening).await?;
        self.ledger.tie.join(&mut connection).await?;
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

/// How often to look whether the server is at work on what it was asked, in milliseconds.
const AT_WORK_CHECK_MS: u64 = 2_000;
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

/// See [`Session::reply_deadline`].
pub(super) struct ReplyDeadline {
    ledger: Ledger,
    backend: Option<Backend>,
    ms_max: u64,
}

impl ReplyDeadline {
    /// Waits for a reply for as long as the server may be at work on it. A connection that is half open says nothing for
    /// ever: after a while the server is asked, over another one, and if it is twice not at work, the reply is lost.
    pub(super) async fn reply<T>(
        &self,
        reply: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let until_lost = async {
            let mut idle = 0;
            while idle < 2 {
                tokio::time::sleep(Duration::from_millis(AT_WORK_CHECK_MS)).await;
                idle = if matches!(self.is_at_work().await, Ok(false)) { idle + 1 } else { 0 };
            }
        };
        tokio::select! {
            biased;
            answer = within(self.ms_max, reply) => answer,
            () = until_lost => Err(lost("the server is not at work on what it was asked")),
        }
    }

    /// Whether the backend is at work. Reads only.
    async fn is_at_work(&self) -> Result<bool, sqlx::Error> {
        let Some(Backend { pid, started }) = &self.backend else { return Ok(true) };
        sqlx::query_scalar(
            "select exists (select from pg_stat_activity
                            where pid = $1 and backend_start::text = $2 and state = 'active')",
        )
        .bind(pid)
        .bind(started)
        .fetch_one(&self.ledger.pool)
        .await
    }
}
