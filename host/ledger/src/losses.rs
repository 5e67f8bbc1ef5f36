//! What a database has lost that it had committed: how a host finds out, and where it notes it down.

use backstitch_core::{HostId, RunId, Scope, Seq};
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use crate::append::Head;
use crate::connect::Ledger;
use crate::error::LedgerError;

/// Rows of one run that were committed and are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The run.
    pub run: RunId,
    /// What the user calls it.
    pub workflow_id: String,
    /// How many rows were left; none of a run that is gone altogether.
    pub kept: Seq,
    /// How many had been committed.
    pub committed: Seq,
    /// Who found out.
    pub host: HostId,
}

/// Losses in one answer.
const LOSSES_MAX: i64 = 1_000;

impl Ledger {
    /// Those of these runs that `host` does not own, or whose ledgers do not hold the row that is named as their last.
    /// Reads only.
    pub async fn lost_heads(
        &self,
        host: HostId,
        heads: &[(RunId, Head)],
    ) -> Result<Vec<(RunId, Head)>, LedgerError> {
        let lost: Vec<i64> = sqlx::query_scalar(
            "select h.place
             from unnest($2::uuid[], $3::integer[], $4::bigint[]) with ordinality as h (run_id, seq, chain, place)
             where not exists (select from ledger l where l.shard = $1 and l.run_id = h.run_id and l.seq = h.seq
                                                      and l.chain = h.chain)
                or not exists (select from runs r where r.shard = $1 and r.run_id = h.run_id and r.owner = $5)",
        )
        .bind(self.shard.0)
        .bind(heads.iter().map(|(run, _)| run.0).bind_iter())
        .bind(heads.iter().map(|(_, head)| head.seq.0.cast_signed()).bind_iter())
        .bind(heads.iter().map(|(_, head)| head.chain.0.cast_signed()).bind_iter())
        .bind(host.0)
        .fetch_all(&self.pool)
        .await?;
        Ok(lost
            .into_iter()
            .filter_map(|place| heads.get(usize::try_from(place).ok()? - 1).copied())
            .collect())
    }

    /// Those of these messages that are in the inbox. Reads only.
    pub async fn items_there(&self, items: &[(RunId, Uuid)]) -> Result<Vec<(RunId, Uuid)>, LedgerError> {
        let there: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "select i.run_id, i.item_id
             from unnest($2::uuid[], $3::uuid[]) as wanted (run_id, item_id)
             join inbox i on i.shard = $1 and i.run_id = wanted.run_id and i.item_id = wanted.item_id",
        )
        .bind(self.shard.0)
        .bind(items.iter().map(|(run, _)| run.0).bind_iter())
        .bind(items.iter().map(|(_, item)| *item).bind_iter())
        .fetch_all(&self.pool)
        .await?;
        Ok(there.into_iter().map(|(run, item)| (RunId(run), item)).collect())
    }

    /// Notes down what is gone of a run. May be repeated: the larger loss of a run stays.
    pub async fn note_loss(&self, scope: Scope, loss: &Loss) -> Result<(), LedgerError> {
        sqlx::query(
            "insert into losses (shard, tenant, run_id, workflow_id, rows_kept, rows_committed, host_id, noted_at)
             values ($1, $2, $3, $4, $5, $6, $7, now())
             on conflict (shard, run_id, rows_kept) do update
             set rows_committed = greatest(losses.rows_committed, excluded.rows_committed),
                 host_id = excluded.host_id, noted_at = excluded.noted_at",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(loss.run.0)
        .bind(&loss.workflow_id)
        .bind(loss.kept.0.cast_signed())
        .bind(loss.committed.0.cast_signed())
        .bind(loss.host.0)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What was noted down, by run. Reads only.
    pub async fn losses(&self) -> Result<Vec<Loss>, LedgerError> {
        let losses: Vec<(Uuid, String, i32, i32, Uuid)> = sqlx::query_as(
            "select run_id, workflow_id, rows_kept, rows_committed, host_id from losses
             where shard = $1 order by run_id, rows_kept limit $2",
        )
        .bind(self.shard.0)
        .bind(LOSSES_MAX)
        .fetch_all(&self.pool)
        .await?;
        let loss = |(run, workflow_id, kept, committed, host): (Uuid, String, i32, i32, Uuid)| Loss {
            run: RunId(run),
            workflow_id,
            kept: Seq(kept.cast_unsigned()),
            committed: Seq(committed.cast_unsigned()),
            host: HostId(host),
        };
        Ok(losses.into_iter().map(loss).collect())
    }
}
