//! Claims: how an open run that nobody works on gets an owner, and what is known against runs whose owners have died.
//!
//! | what happened to the owner | `losses` | `trial` |
//! |---|---|---|
//! | it gave its runs back | as before | 0 |
//! | it died | one more, at most 2 | 1: to be replayed |
//! | it died with the run on trial, alone | one more | 1 |
//! | it died with an attempt on trial | as before, or 2 | 1; the attempt has failed |
//! | it lives, and has replayed the run | as before | 0 |
//! | it lives, and the run went on from there | 0 | 0 |

use crate::from_row::from_row;
use backstitch_core::{Digest, HostId, Op, RunId, RunStatus, Scope, TenantId};
use sqlx::postgres::PgBindIterExt;
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
    /// Hosts that were lost with it since it last went on.
    pub losses: u16,
    /// The host before died before it had replayed the run.
    pub unreplayed: bool,
    /// The attempt of this call was on trial when the host before died.
    pub lost_attempt: Option<Op>,
}

from_row! {
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
        losses: i16,
        unreplayed: bool,
        lost_attempt: Option<i32>,
    }
}

impl Ledger {
    /// Takes up to `limit` open runs whose owner is dead or that have none.
    ///
    /// Their timers come with them. Two hosts never get the same run: rows that another claim has locked are skipped. The claimer's
    /// own lease is locked like an append's: a dead claimer gets nothing. Not idempotent: runs of a
    /// claim whose reply is lost ([`LedgerError::Unknown`]) belong to the claimer, who does not know
    /// which; they come back when it gives up its lease, which waits for the claim.
    pub async fn claim_runs(&self, lease: Lease, limit: i64) -> Result<Vec<ClaimedRun>, LedgerError> {
        let rows: Vec<ClaimRow> = sqlx::query_as(
            "with fence as materialized (
                 select 1 from leases where shard = $1 and host_id = $2 and epoch = $3 and not dead for key share
             ),
             unowned as materialized (
                 select r.shard, r.run_id, r.trial, r.trial_op, false as is_lost from runs r, fence
                 where r.shard = $1 and r.owner is null and r.status < 10
                 limit $4 for update of r skip locked
             ),
             orphaned as materialized (
                 select r.shard, r.run_id, r.trial, r.trial_op, not l.released as is_lost
                 from fence, leases l
                 cross join lateral (
                     select shard, run_id, trial, trial_op from runs
                     where runs.shard = l.shard and runs.owner = l.host_id and runs.status < 10
                     limit $4 for update skip locked
                 ) r
                 where l.shard = $1 and l.dead
                 limit $4
             ),
             free as (
                 select * from unowned union all select * from orphaned limit $4
             ),
             -- An array, so that each run's timers are found by their key whatever else there is.
             timed as (
                 update timers set owner = $2 where shard = $1 and run_id = any (array(select run_id from free))
             )
             update runs
             set owner = $2,
                 losses = case when not free.is_lost then runs.losses
                               when free.trial = 2 and free.trial_op is null then runs.losses + 1
                               else greatest(runs.losses, least(runs.losses + 1, 2)) end,
                 trial = case when free.is_lost or free.trial = 1 then 1 else 0 end,
                 trial_op = null
             from free
             where runs.shard = free.shard and runs.run_id = free.run_id
             returning runs.tenant, runs.run_id, runs.workflow_id, runs.generation, runs.workflow,
                       runs.digest, runs.status, runs.parent_run, runs.parent_op, runs.losses,
                       free.is_lost and free.trial > 0 as unreplayed,
                       case when free.is_lost and free.trial = 2 then free.trial_op end as lost_attempt",
        )
        .bind(self.shard.0)
        .bind(lease.host.0)
        .bind(lease.epoch.0)
        .bind(limit)
        .fetch_all(&self.pool)
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
            "select tenant, run_id, workflow_id, generation, workflow, digest, status, parent_run, parent_op,
                    losses, trial > 0 as unreplayed, null::integer as lost_attempt
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
            losses: row.losses.cast_unsigned(),
            unreplayed: row.unreplayed,
            lost_attempt: row.lost_attempt.map(|op| Op(op.cast_unsigned())),
        })
    }

    /// Notes that these runs of the host were replayed (`replayed`), or went on from there (`went_on`). Rows that
    /// somebody else is changing are left: what is noted of those that come back is certain. May be repeated.
    pub async fn note_progress(
        &self,
        host: HostId,
        replayed: &[RunId],
        went_on: &[RunId],
    ) -> Result<Vec<RunId>, LedgerError> {
        let noted: Vec<Uuid> = sqlx::query_scalar(
            "with noted as materialized (
                 select shard, run_id from runs
                 where shard = $1 and run_id = any ($3 || $4) and owner = $2 and trial < 2
                 for update skip locked
             )
             update runs
             set trial = 0, losses = case when runs.run_id = any ($4) then 0 else runs.losses end
             from noted
             where runs.shard = noted.shard and runs.run_id = noted.run_id
             returning runs.run_id",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(replayed.iter().map(|run| run.0).bind_iter())
        .bind(went_on.iter().map(|run| run.0).bind_iter())
        .fetch_all(&self.pool)
        .await?;
        Ok(noted.into_iter().map(RunId).collect())
    }

    /// Puts a run on trial, or the attempt of one of its calls: if the host dies now, it was over this. False: the run or
    /// the lease is gone. May be repeated.
    pub async fn begin_trial(&self, lease: Lease, run: RunId, op: Option<Op>) -> Result<bool, LedgerError> {
        let begun = sqlx::query(
            "update runs set trial = 2, trial_op = $5
             where shard = $1 and run_id = $4 and owner = $2 and status < 10
               and exists (select from leases where shard = $1 and host_id = $2 and epoch = $3 and not dead)",
        )
        .bind(self.shard.0)
        .bind(lease.host.0)
        .bind(lease.epoch.0)
        .bind(run.0)
        .bind(op.map(|op| op.0.cast_signed()))
        .execute(&self.pool)
        .await?;
        Ok(begun.rows_affected() == 1)
    }

    /// Ends a trial that the host has survived. `went_on`: there is nothing against the run any more. May be repeated.
    pub async fn end_trial(&self, host: HostId, run: RunId, went_on: bool) -> Result<(), LedgerError> {
        sqlx::query(
            "update runs set trial = 0, trial_op = null, losses = case when $4 then 0 else losses end
             where shard = $1 and run_id = $3 and owner = $2",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(run.0)
        .bind(went_on)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

pub(crate) fn digest(bytes: Vec<u8>) -> Result<Digest, LedgerError> {
    let length = bytes.len();
    known(bytes.try_into().ok().map(Digest), "a digest of this many bytes:", length)
}

pub(crate) fn parent(run: Option<Uuid>, op: Option<i32>) -> Option<(RunId, Op)> {
    Some((RunId(run?), Op(op?.cast_unsigned())))
}
