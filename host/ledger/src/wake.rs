//! Wake-ups from host to host over LISTEN and NOTIFY: "check the database now".
//!
//! A wake-up may be lost, late or doubled; nothing but speed may depend on it. They are sent after the
//! commit and in a transaction of their own, for a NOTIFY takes a lock that all commits share.

use std::collections::HashSet;
use std::time::Duration;

use backstitch_core::{HostId, Shard, TenantId, limits};
use sqlx::postgres::{PgBindIterExt, PgListener, PgNotification, PgPoolOptions};
use tokio::sync::mpsc;

use crate::connect::Ledger;
use crate::opening::{Opening, within};

/// First and last pause after the listener failed, in milliseconds. Its owner polls meanwhile.
const RETRY_MS: (u64, u64) = (500, 8_000);
/// How long the listener may hear nothing before it asks whether it is still connected, in milliseconds.
const QUIET_MS: u64 = 10_000;
/// Bound on a new listener, and on the answer to that question, in milliseconds.
const ANSWER_MS_MAX: u64 = 5_000;

/// What to check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// Someone says that there are messages for this host.
    Messages,
    /// Someone says that tasks wait on this queue.
    Tasks(TenantId, String),
    /// Wake-ups may have been lost: check everything.
    Lost,
}

fn channel(shard: Shard, host: HostId) -> String {
    format!("backstitch_{}_{}", shard.0, host.0.simple())
}

/// Where all hosts hear of tasks.
fn task_channel(shard: Shard) -> String {
    format!("backstitch_{}_tasks", shard.0)
}

/// A wake-up on its way: the channel and what is said there.
type Notification = (String, String);

/// Sends wake-ups, many at a time. Cheap to clone; the task ends when all clones are gone.
#[derive(Clone, Debug)]
pub struct Notifier {
    shard: Shard,
    notifications: mpsc::Sender<Notification>,
}

impl Notifier {
    /// Starts the task that sends.
    pub fn spawn(ledger: Ledger) -> Self {
        let (notifications, mut queue) = mpsc::channel(limits::WRITER_QUEUE_MAX);
        let shard = ledger.shard;
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while queue.recv_many(&mut batch, limits::WRITER_QUEUE_MAX).await > 0 {
                let notifications: HashSet<Notification> = batch.drain(..).collect();
                if let Err(error) = notify(&ledger, &notifications).await {
                    tracing::debug!(%error, "wake-ups were lost; the hosts will find out by polling");
                }
            }
        });
        Self { shard, notifications }
    }

    /// Tells `host` that there are messages for it. Never waits; one too many is dropped.
    pub fn messages(&self, host: HostId) {
        self.notifications.try_send((channel(self.shard, host), String::new())).ok();
    }

    /// Tells all hosts of tasks. Never waits; one too many is dropped.
    pub fn tasks(&self, tenant: TenantId, task_queue: &str) {
        self.notifications.try_send((task_channel(self.shard), format!("{tenant}:{task_queue}"))).ok();
    }
}

/// One transaction for all. May be repeated.
async fn notify(ledger: &Ledger, notifications: &HashSet<Notification>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select pg_notify(c.channel, c.said) from unnest($1::text[], $2::text[]) as c (channel, said)",
    )
    .bind(notifications.iter().map(|(channel, _)| channel.as_str()).bind_iter())
    .bind(notifications.iter().map(|(_, said)| said.as_str()).bind_iter())
    .execute(&ledger.pool)
    .await?;
    Ok(())
}

/// Receives the wake-ups for one host, over its own connection.
#[derive(Debug)]
pub struct Wakeups {
    ledger: Ledger,
    channel: String,
    task_channel: String,
    listener: Option<PgListener>,
    retry_ms: u64,
}

impl Ledger {
    /// Wake-ups for `host`, and for all. The first call of [`Wakeups::next`] connects.
    pub fn wakeups(&self, host: HostId) -> Wakeups {
        Wakeups {
            ledger: self.clone(),
            channel: channel(self.shard, host),
            task_channel: task_channel(self.shard),
            listener: None,
            retry_ms: RETRY_MS.0,
        }
    }
}

impl Wakeups {
    /// Waits for a wake-up. Survives every loss of the connection: each costs one [`Wake::Lost`], also the
    /// first connection. Not to be dropped half-way while it is
    /// connecting, or it begins anew.
    pub async fn next(&mut self) -> Wake {
        let Some(listener) = &mut self.listener else {
            match within(ANSWER_MS_MAX, self.listen()).await {
                Ok(listener) => (self.listener, self.retry_ms) = (Some(listener), RETRY_MS.0),
                Err(error) => {
                    tracing::debug!(%error, "no connection to listen on; polling goes on");
                    tokio::time::sleep(Duration::from_millis(self.retry_ms)).await;
                    self.retry_ms = (self.retry_ms * 2).min(RETRY_MS.1);
                }
            }
            return Wake::Lost;
        };
        let heard = tokio::select! {
            biased;
            heard = hear(listener) => heard,
            () = self.ledger.crowded.notified() => {
                // Wake-ups are a convenience: where the server has no room, others need the place.
                tracing::debug!("the server has no room: polling goes on without wake-ups");
                self.listener = None;
                tokio::time::sleep(Duration::from_millis(RETRY_MS.1)).await;
                return Wake::Lost;
            }
        };
        match heard {
            Ok(Some(heard)) if heard.channel() == self.task_channel => heard
                .payload()
                .split_once(':')
                .and_then(|(tenant, queue)| {
                    Some(Wake::Tasks(TenantId(tenant.parse().ok()?), queue.to_owned()))
                })
                .unwrap_or(Wake::Lost),
            Ok(Some(_)) => Wake::Messages,
            Ok(None) => Wake::Lost,
            Err(error) => {
                tracing::debug!(%error, "the listener has failed; polling goes on");
                self.listener = None;
                Wake::Lost
            }
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let opening = Opening::new(&self.ledger.options, "listener")?;
        let connect = opening.bare();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |connection, _| {
                let opening = opening.clone();
                Box::pin(async move { opening.set(connection).await })
            })
            .connect_with(connect)
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.listen_all([self.channel.as_str(), self.task_channel.as_str()]).await?;
        Ok(listener)
    }
}

/// The next notification. A connection that has been quiet for long is asked for a sign of life: one that is half open
/// would be quiet for ever.
async fn hear(listener: &mut PgListener) -> Result<Option<PgNotification>, sqlx::Error> {
    loop {
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(QUIET_MS), listener.try_recv()).await {
            return heard;
        }
        within(ANSWER_MS_MAX, sqlx::query("select 1").execute(&mut *listener)).await?;
    }
}
