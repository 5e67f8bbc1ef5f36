//! Claims: how an open run that nobody works on gets an owner.

use backstitch_core::{Digest, HostId, Op, RunId, RunStatus, Scope, TenantId};
use sqlx::FromRow;
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::{Failure, LedgerError, known};
use crate::leases::Lease;

/// A run that belongs to the claimer now. Its ledger is read separately, in batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedRun {
    /// Where it lives.
    pub scope: Scope,
    /// Its identity.
    pub run: RunId,
    /// What the user calls it.
    pub workflow_id: String,
    /// How many runs of this workflow id came before.
    pub generation: u32,
    /// Which workflow of the component.
    pub workflow: String,
    /// The component.
    pub digest: Digest,
    /// Running or parked.
    pub status: RunStatus,
    /// Who started it, with which command.
    pub parent: Option<(RunId, Op)>,
}

#[derive(FromRow)]
struct ClaimRow {
    tenant: i32,
    run_id: Uuid,
    workflow_id: String,
    generation: i32,
    workflow: String,
    digest: Vec<u8>,
    status: i16,
    parent_run: Option<Uuid>,
    parent_op: Option<i32>,
}

impl Ledger {
    /// Takes up to `limit` open runs whose owner is dead or that have none.
    ///
    /// Two hosts never get the same run: rows that another claim has locked are skipped. The claimer's
    /// own lease is locked like an append's: a dead claimer gets nothing. Not idempotent: runs of a
    /// claim whose reply is lost ([`LedgerError::Unknown`]) belong to the claimer, who does not know
    /// which; they come back when it gives up its lease, which waits for the claim.
    pub async fn claim_runs(&self, lease: Lease, limit: i64) -> Result<Vec<ClaimedRun>, LedgerError> {
        let mut connection = self.pool.acquire().await?;
        let rows: Vec<ClaimRow> = sqlx::query_as(
            "with fence as materialized (
                 select 1 from leases where shard = $1 and host_id = $2 and epoch = $3 and not dead for share
             ),
             unowned as materialized (
                 select r.shard, r.run_id from runs r, fence
                 where r.shard = $1 and r.owner is null and r.status < 10
                 limit $4 for update of r skip locked
             ),
             orphaned as materialized (
                 select r.shard, r.run_id from leases l
                 join runs r on r.shard = $1 and r.owner = l.host_id and r.status < 10, fence
                 where l.shard = $1 and l.dead
                 limit $4 for update of r skip locked
             ),
             free as (
                 select shard, run_id from unowned union all select shard, run_id from orphaned limit $4
             )
             update runs set owner = $2 from free
             where runs.shard = free.shard and runs.run_id = free.run_id
             returning runs.tenant, runs.run_id, runs.workflow_id, runs.generation, runs.workflow,
                       runs.digest, runs.status, runs.parent_run, runs.parent_op",
        )
        .bind(self.shard.0)
        .bind(lease.host.0)
        .bind(lease.epoch.0)
        .bind(limit)
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| match Failure::of(&error) {
            Failure::Lost => LedgerError::Unknown(error),
            _ => error.into(),
        })?;
        rows.into_iter().map(|row| self.claimed(row)).collect()
    }

    /// An open run that `host` owns, as [`Self::claim_runs`] would have given it. Reads only.
    pub async fn owned_run(&self, host: HostId, run: RunId) -> Result<Option<ClaimedRun>, LedgerError> {
        let row: Option<ClaimRow> = sqlx::query_as(
            "select tenant, run_id, workflow_id, generation, workflow, digest, status, parent_run, parent_op
             from runs where shard = $1 and run_id = $2 and owner = $3 and status < 10",
        )
        .bind(self.shard.0)
        .bind(run.0)
        .bind(host.0)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| self.claimed(row)).transpose()
    }

    fn claimed(&self, row: ClaimRow) -> Result<ClaimedRun, LedgerError> {
        Ok(ClaimedRun {
            scope: self.scope(TenantId(row.tenant)),
            run: RunId(row.run_id),
            workflow_id: row.workflow_id,
            generation: row.generation.cast_unsigned(),
            workflow: row.workflow,
            digest: digest(row.digest)?,
            status: known(RunStatus::from_tag(row.status), "run status", row.status)?,
            parent: parent(row.parent_run, row.parent_op),
        })
    }
}

pub(crate) fn digest(bytes: Vec<u8>) -> Result<Digest, LedgerError> {
    let length = bytes.len();
    known(bytes.try_into().ok().map(Digest), "a digest of this many bytes:", length)
}

pub(crate) fn parent(run: Option<Uuid>, op: Option<i32>) -> Option<(RunId, Op)> {
    Some((RunId(run?), Op(op?.cast_unsigned())))
}
