//! What ties the sessions of a host together: all of them have to reach one server.
//!
//! After a failover the old primary may still be there, and take writes. Then it depends on names, proxies and old
//! connections which of the two a session reaches. A host whose lease is on one, whose rows go to another and who reads
//! from a third would be wrong about everything. So each heartbeat carries a number, and every other session is asked for
//! it: a pool's before it is lent, the writer's in every statement, and when it is idle.
//!
//! | a session that | and | is |
//! |---|---|---|
//! | has the latest number, or a later one | | lent, written to |
//! | has an earlier one, or no lease | was in use before | given up: a new one takes its place |
//! | has an earlier one, or no lease | is new | asked again after the next heartbeat, for that may have yet to follow a failover |
//! | still has | | the reason to end the term ([`Ledger::sessions_split`](crate::Ledger::sessions_split)) |
//!
//! Between two terms nobody is asked for anything; after sessions were split, none is lent before they agree: what a
//! client says might go to the server that nobody reads from any more.

mod sessions;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstitch_core::{HostId, Shard};
use sqlx::PgConnection;
use tokio::sync::{Notify, watch};

use crate::opening::{lost, within};

/// How long a session waits for the next heartbeat, in milliseconds.
const RENEWAL_MS_MAX: u64 = 2_000;
/// How long a question after a number may take, in milliseconds.
const ANSWER_MS_MAX: u64 = 5_000;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Tie(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shard: Shard,
    state: Mutex<State>,
    /// The last heartbeat that the database has taken.
    renewed: watch::Sender<(HostId, i64)>,
    /// A heartbeat is wanted now.
    wanted: Notify,
    split: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no term.
    Free,
    /// These are the sessions of this host.
    Tied(HostId),
    /// They were, and reached different servers.
    Split,
}

impl Tie {
    pub(crate) fn new(shard: Shard) -> Self {
        let nobody = HostId(uuid::Uuid::nil());
        Self(Arc::new(Inner {
            shard,
            state: Mutex::new(State::Free),
            renewed: watch::Sender::new((nobody, 0)),
            wanted: Notify::new(),
            split: watch::Sender::new(false),
        }))
    }

    /// The database has taken this heartbeat.
    pub(crate) fn renewed(&self, host: HostId, number: i64) {
        self.0.renewed.send_replace((host, number));
    }

    /// What every session has to read: this number or a later one of this host. None: anything will do.
    pub(crate) fn mark(&self) -> Option<(HostId, i64)> {
        let State::Tied(host) = self.state() else { return None };
        let (renewed, number) = *self.0.renewed.borrow();
        (renewed == host).then_some((host, number))
    }

    /// The number that the lease of this host has to have.
    pub(crate) fn mark_of(&self, host: HostId) -> i64 {
        self.mark().filter(|(tied, _)| *tied == host).map_or(0, |(_, number)| number)
    }

    fn state(&self) -> State {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Whether sessions may be lent at all.
    pub(crate) fn check(&self) -> Result<(), sqlx::Error> {
        match self.state() {
            State::Split => Err(lost("the sessions of this host reach different servers")),
            State::Free | State::Tied(_) => Ok(()),
        }
    }

    pub(crate) fn shard(&self) -> Shard {
        self.0.shard
    }

    /// Whether a session is where the lease is. Reads only.
    pub(crate) async fn is_same(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let Some((host, number)) = self.mark() else { return Ok(true) };
        let read = sqlx::query_scalar("select beats from leases where shard = $1 and host_id = $2")
            .bind(self.0.shard.0)
            .bind(host.0)
            .fetch_optional(connection);
        let read: Option<i64> = within(ANSWER_MS_MAX, read).await?;
        Ok(read.is_some_and(|read| read >= number))
    }

    /// Makes sure that a new session is where the lease is. An error: it is not, or nobody knows.
    pub(crate) async fn join(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.is_same(connection).await? {
            return Ok(());
        }
        let mut renewed = self.0.renewed.subscribe();
        self.0.wanted.notify_one();
        let next = tokio::time::timeout(Duration::from_millis(RENEWAL_MS_MAX), renewed.changed());
        if next.await.is_err() {
            return Err(lost("the lease has not followed to the server of this session yet"));
        }
        if self.is_same(connection).await? {
            return Ok(());
        }
        self.0.split.send_replace(true);
        Err(lost("this session and that of the lease reach different servers"))
    }
}
