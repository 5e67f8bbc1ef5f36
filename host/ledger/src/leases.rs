//! Leases: who is alive, in the eyes of the database's clock, and with which epoch.
//!
//! | call | lease before | lease after |
//! |---|---|---|
//! | [`Ledger::register`] | none, alive or dead | alive, next epoch; its open runs belong to nobody |
//! | [`Ledger::heartbeat`] | alive, same epoch | alive for `lease_ms` more |
//! | [`Ledger::heartbeat`] | dead, or another epoch | unchanged: the host must drop everything |
//! | [`Ledger::release`] | alive or dead | dead, and given back |
//! | [`Ledger::declare_dead`] | alive | dead |
//! | [`Ledger::declare_overdue_dead`] | alive, silent for `lease_ms` | dead |
//!
//! A dead lease stays dead in its epoch. Setting `dead` waits for the appends that hold the row's lock,
//! so whoever sees a dead lease also sees every row that its host has ever written.

use backstitch_core::{Epoch, HostId};
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::LedgerError;

/// A host's right to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub host: HostId,
    /// Which of its registrations.
    pub epoch: Epoch,
}

/// What a heartbeat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// The lease is good for its whole length again.
    Alive,
    /// The lease is gone for good: others may have the runs.
    Dead,
}

impl Ledger {
    /// Makes the host's lease, or its next epoch; `name` is for people.
    ///
    /// Not idempotent: each call makes an epoch. Open runs of an earlier epoch are given up, for
    /// their state was in a memory that is gone. Two statements: the second must see what appends
    /// that the first has waited for have written.
    pub async fn register(&self, host: HostId, lease_ms: u64, name: &str) -> Result<Lease, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        let epoch: i64 = sqlx::query_scalar(
            "insert into leases (shard, host_id, epoch, heartbeat_at, lease_ms, dead, name)
             values ($1, $2, 1, now(), $3, false, $4)
             on conflict (shard, host_id) do update
             set epoch = leases.epoch + 1, heartbeat_at = now(), lease_ms = excluded.lease_ms,
                 dead = false, released = false, name = excluded.name
             returning epoch",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(i64::try_from(lease_ms).unwrap_or(i64::MAX))
        .bind(name)
        .fetch_one(&mut *transaction)
        .await?;
        if epoch > 1 {
            sqlx::query("update runs set owner = null where shard = $1 and owner = $2 and status < 10")
                .bind(self.shard.0)
                .bind(host.0)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(Lease { host, epoch: Epoch(epoch) })
    }

    /// Extends the lease from now on, the database's now. May be repeated. A lease that is overdue
    /// but was not declared dead lives on: nobody has taken anything yet.
    pub async fn heartbeat(&self, lease: Lease) -> Result<Pulse, LedgerError> {
        let beaten = sqlx::query(
            "update leases set heartbeat_at = now()
             where shard = $1 and host_id = $2 and epoch = $3 and not dead",
        )
        .bind(self.shard.0)
        .bind(lease.host.0)
        .bind(lease.epoch.0)
        .execute(&self.pool)
        .await?;
        Ok(if beaten.rows_affected() == 1 { Pulse::Alive } else { Pulse::Dead })
    }

    /// Gives the lease back: others may take its runs at once, and know that its host did not die over them. One that was
    /// declared dead too: its host lived. May be repeated.
    pub async fn release(&self, lease: Lease) -> Result<(), LedgerError> {
        sqlx::query(
            "update leases set dead = true, released = true
             where shard = $1 and host_id = $2 and epoch = $3 and not (dead and released)",
        )
        .bind(self.shard.0)
        .bind(lease.host.0)
        .bind(lease.epoch.0)
        .execute(&self.pool)
        .await?;
        Ok(())
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

    /// Whether hosts other than this are alive. Reads only.
    pub async fn has_other_hosts(&self, host: HostId) -> Result<bool, LedgerError> {
        let others = sqlx::query_scalar(
            "select exists (select from leases where shard = $1 and host_id <> $2 and not dead)",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(others)
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
