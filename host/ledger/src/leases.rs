//! Leases: who is alive, in the eyes of the database's clock, and with which epoch.
//!
//! | call | lease before | lease after |
//! |---|---|---|
//! | [`LeaseHeartbeat::register`] | none, alive or dead | alive, next epoch; its open runs belong to nobody |
//! | [`LeaseHeartbeat::renew`] | alive, same epoch | alive for `lease_ms` more |
//! | [`LeaseHeartbeat::renew`] | dead, or another epoch | unchanged: the host must drop everything |
//! | [`LeaseHeartbeat::release`] | alive or dead | dead, and given back |
//! | [`Ledger::declare_dead`] | alive | dead |
//! | [`Ledger::declare_overdue_dead`] | alive, silent for `lease_ms` | dead |
//!
//! A dead lease stays dead in its epoch. Setting `dead` waits for the appends that hold the row's key,
//! so whoever sees a dead lease also sees every row that its host has ever written. A heartbeat changes no key, and
//! waits for nobody: see `migrations/0008_fence.sql`.
//!
//! A host keeps its lease by a [`LeaseHeartbeat`], which has a connection of its own.

use std::sync::atomic::{AtomicI64, Ordering};

use backstitch_core::{Epoch, HostId, Shard};
use sqlx::{PgConnection, PgExecutor};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::{Failure, LedgerError};
use crate::opening::{Opening, within};

/// A host's right to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub host: HostId,
    /// Which of its registrations.
    pub epoch: Epoch,
}

/// What a host knows of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherHosts {
    /// Some are alive.
    pub alive: bool,
    /// One was lost of late: it may have been over what it was doing.
    pub lost: bool,
}

/// What a heartbeat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease is good for its whole length again.
    Alive,
    /// The lease is gone for good: others may have the runs.
    Dead,
}

/// The database's clock, read between two moments of this host's.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// What it said, in microseconds since the epoch.
    pub at_us: u64,
    /// Before it was asked.
    pub sent: Instant,
    /// When the answer was there.
    pub received: Instant,
}

/// What keeps a host's lease, over a connection of its own: nothing else that the host asks for can be before it.
#[derive(Debug)]
pub struct LeaseHeartbeat {
    ledger: Ledger,
    opening: Opening,
    /// Longest wait for an answer, in milliseconds: the next heartbeat must have its turn before the lease is over.
    reply_ms_max: u64,
    /// The number of the next heartbeat: see [`crate::tie`].
    number: AtomicI64,
    connection: Mutex<Option<PgConnection>>,
}

impl LeaseHeartbeat {
    /// Makes the host's lease, or its next epoch; `name` is for people.
    ///
    /// Not idempotent: each call makes an epoch. Open runs of an earlier epoch are given up, for
    /// their state was in a memory that is gone. Several statements, and not one transaction: the second must see what
    /// appends that the first has waited for have written, and nobody is to wait while this host is between them. A host
    /// that dies there has a lease that runs out.
    pub async fn register(&self, host: HostId, lease_ms: u64, name: &str) -> Result<Lease, LedgerError> {
        let (shard, number) = (self.ledger.shard, self.number.fetch_add(1, Ordering::Relaxed));
        let register = async |connection: &mut PgConnection| {
            let epoch: i64 = sqlx::query_scalar(
                "insert into leases (shard, host_id, epoch, heartbeat_at, lease_ms, dead, name, beats)
                 values ($1, $2, 1, now(), $3, false, $4, $5)
                 on conflict (shard, host_id) do update
                 set epoch = leases.epoch + 1, heartbeat_at = now(), lease_ms = excluded.lease_ms,
                     dead = false, released = false, name = excluded.name, beats = excluded.beats
                 returning epoch",
            )
            .bind(shard.0)
            .bind(host.0)
            .bind(i64::try_from(lease_ms).unwrap_or(i64::MAX))
            .bind(name)
            .bind(number)
            .fetch_one(&mut *connection)
            .await?;
            if epoch > 1 {
                sqlx::query("update runs set owner = null where shard = $1 and owner = $2 and status < 10")
                    .bind(shard.0)
                    .bind(host.0)
                    .execute(&mut *connection)
                    .await?;
                // Messages of those runs must not name a host that is alive again, and does not own them.
                sqlx::query(
                    "update inbox set owner = '00000000-0000-0000-0000-000000000000'
                     where shard = $1 and owner = $2 and kind >= 0",
                )
                .bind(shard.0)
                .bind(host.0)
                .execute(connection)
                .await?;
            }
            Ok(Lease { host, epoch: Epoch(epoch) })
        };
        let lease = self.ask(register).await?;
        self.ledger.tie.renewed(host, number);
        Ok(lease)
    }

    /// Extends the lease from now on, the database's now, and reads its clock. May be repeated. A lease that is overdue
    /// but was not declared dead lives on: nobody has taken anything yet.
    pub async fn renew(&self, lease: Lease) -> Result<(Renewal, Reading), LedgerError> {
        let (shard, number) = (self.ledger.shard, self.number.fetch_add(1, Ordering::Relaxed));
        let sent = Instant::now();
        let renew = async |connection: &mut PgConnection| {
            sqlx::query_as(
                "with beaten as (
                     update leases set heartbeat_at = now(), beats = greatest(beats, $4)
                     where shard = $1 and host_id = $2 and epoch = $3 and not dead
                     returning 1
                 )
                 select exists (select from beaten),
                        (extract(epoch from clock_timestamp()) * 1000000)::bigint",
            )
            .bind(shard.0)
            .bind(lease.host.0)
            .bind(lease.epoch.0)
            .bind(number)
            .fetch_one(connection)
            .await
        };
        let (alive, at_us): (bool, i64) = self.ask(renew).await?;
        if alive {
            self.ledger.tie.renewed(lease.host, number);
        }
        let renewal = if alive { Renewal::Alive } else { Renewal::Dead };
        Ok((renewal, Reading { at_us: at_us.try_into().unwrap_or(0), sent, received: Instant::now() }))
    }

    /// Reads the database's clock. May be repeated.
    pub async fn read_clock(&self) -> Result<Reading, LedgerError> {
        let sent = Instant::now();
        let at_us = self.ask(async |connection: &mut PgConnection| clock_us(connection).await).await?;
        Ok(Reading { at_us, sent, received: Instant::now() })
    }

    /// Gives the lease back: others may take its runs at once, and know that its host did not die over them. One that was
    /// declared dead too: its host lived. May be repeated.
    pub async fn release(&self, lease: Lease) -> Result<(), LedgerError> {
        let shard = self.ledger.shard;
        let release = async |connection: &mut PgConnection| release(connection, shard, lease).await;
        self.ask(release).await
    }

    /// Gives its connection up: the next may reach another server.
    pub async fn reconnect(&self) {
        self.connection.lock().await.take();
    }

    /// Asks over the connection, a new one if there is none. One that has not answered in time is given up.
    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, LedgerError> {
        let mut kept = self.connection.lock().await;
        // Taken out: if this is dropped half-way, the next begins with another one.
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.ledger.open_first(&self.opening).await?,
        };
        let answer = within(self.reply_ms_max, question(&mut connection)).await;
        if !answer
            .as_ref()
            .is_err_and(|error| matches!(Failure::of(error), Failure::Lost | Failure::ReadOnly))
        {
            *kept = Some(connection);
        }
        Ok(answer?)
    }
}

async fn release(executor: impl PgExecutor<'_>, shard: Shard, lease: Lease) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update leases set dead = true, released = true
         where shard = $1 and host_id = $2 and epoch = $3 and not (dead and released)",
    )
    .bind(shard.0)
    .bind(lease.host.0)
    .bind(lease.epoch.0)
    .execute(executor)
    .await
    .map(drop)
}

async fn clock_us(executor: impl PgExecutor<'_>) -> Result<u64, sqlx::Error> {
    let at_us: i64 = sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
        .fetch_one(executor)
        .await?;
    Ok(at_us.try_into().unwrap_or(0))
}

impl Ledger {
    /// What will keep the lease of a host. It connects when it is first asked, or is [held ready](LeaseHeartbeat::read_clock).
    pub fn heartbeat(&self) -> Result<LeaseHeartbeat, LedgerError> {
        Ok(LeaseHeartbeat {
            opening: Opening::new(&self.options, "lease")?,
            reply_ms_max: (self.options.lease_ms / 3).max(50),
            ledger: self.clone(),
            number: AtomicI64::new(1),
            connection: Mutex::default(),
        })
    }

    /// As [`LeaseHeartbeat::release`], where new sessions of the pool are: not where the heartbeat is, if they are split.
    pub async fn release(&self, lease: Lease) -> Result<(), LedgerError> {
        let mut connection = self.open_first(&Opening::new(&self.options, "pool")?).await?;
        Ok(release(&mut connection, self.shard, lease).await?)
    }

    /// The database's clock now, in microseconds since the epoch.
    pub async fn clock_us(&self) -> Result<u64, LedgerError> {
        Ok(clock_us(&self.pool).await?)
    }

    /// Declares a host dead whatever its heartbeat says; whether it was alive. May be repeated.
    pub async fn declare_dead(&self, host: HostId) -> Result<bool, LedgerError> {
        let declared =
            sqlx::query("update leases set dead = true where shard = $1 and host_id = $2 and not dead")
                .bind(self.shard.0)
                .bind(host.0)
                .execute(&self.pool)
                .await?;
        Ok(declared.rows_affected() == 1)
    }

    /// Declares every host dead that has been silent for longer than its lease, by the database's
    /// clock. Each is returned to one caller only. May be repeated.
    ///
    /// A heartbeat that wins the race for the row makes the condition false when it is checked again.
    pub async fn declare_overdue_dead(&self) -> Result<Vec<HostId>, LedgerError> {
        let dead: Vec<Uuid> = sqlx::query_scalar(
            "update leases set dead = true
             where shard = $1 and not dead and heartbeat_at + lease_ms * interval '1 millisecond' < now()
             returning host_id",
        )
        .bind(self.shard.0)
        .fetch_all(&self.pool)
        .await?;
        Ok(dead.into_iter().map(HostId).collect())
    }

    /// What is known of hosts other than this. One counts as lost for `lost_ms` after its last heartbeat if it did not give
    /// its runs back and is dead, or has missed a heartbeat; `suspicious`: also if it may just have died. Reads only.
    pub async fn other_hosts(
        &self,
        host: HostId,
        lost_ms: u64,
        suspicious: bool,
    ) -> Result<OtherHosts, LedgerError> {
        let (alive, lost) = sqlx::query_as(
            "select coalesce(bool_or(not dead), false),
                    coalesce(bool_or(not released and heartbeat_at > now() - $3 * interval '1 millisecond'
                        and (dead or $4 or heartbeat_at < now() - lease_ms * interval '0.7 milliseconds')), false)
             from leases where shard = $1 and host_id <> $2",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(i64::try_from(lost_ms).unwrap_or(i64::MAX))
        .bind(suspicious)
        .fetch_one(&self.pool)
        .await?;
        Ok(OtherHosts { alive, lost })
    }

    /// Forgets hosts that have been dead for an hour and own nothing open; how many. May be
    /// repeated. Called now and then, so that restarts do not pile up rows.
    pub async fn forget_dead(&self) -> Result<u64, LedgerError> {
        let forgotten = sqlx::query(
            "delete from leases l
             where l.shard = $1 and l.dead and l.heartbeat_at < now() - interval '1 hour'
               and not exists (select from runs r where r.shard = $1 and r.owner = l.host_id and r.status < 10)",
        )
        .bind(self.shard.0)
        .execute(&self.pool)
        .await?;
        Ok(forgotten.rows_affected())
    }
}
