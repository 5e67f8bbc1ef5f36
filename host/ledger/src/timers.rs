//! Timers: what must happen to open runs at a time. They are set and removed by the writer only.

use backstitch_core::{HostId, Op, RunId, RunStatus};
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::time::Timestamp;

/// A timer whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueTimer {
    /// The run that it belongs to.
    pub run: RunId,
    /// The op that it belongs to.
    pub op: Op,
    /// What for. The host's own numbers.
    pub purpose: i16,
    /// When it was due, in milliseconds since the epoch.
    pub due_ms: u64,
}

impl Ledger {
    /// Timers of running runs that `host` owns, due at `now_ms` or before, oldest first, at most `limit`;
    /// those of the purpose `always` of parked and paused ones too.
    ///
    /// Reads only. A timer comes back until an append removes it, or the run is parked, paused or closed.
    pub async fn due_timers(
        &self,
        host: HostId,
        now_ms: u64,
        always: i16,
        limit: i64,
    ) -> Result<Vec<DueTimer>, LedgerError> {
        let rows: Vec<(Uuid, i32, i16, Timestamp)> = sqlx::query_as(
            "select t.run_id, t.op, t.purpose, t.due_at
             from timers t join runs r on r.shard = $1 and r.run_id = t.run_id
             where t.shard = $1 and t.purpose >= 0 and t.due_at <= $3 and r.owner = $2
               and (r.status = $5 or (t.purpose = $6 and r.status < 10))
             order by t.due_at limit $4",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(Timestamp(now_ms))
        .bind(limit)
        .bind(RunStatus::Running.tag())
        .bind(always)
        .fetch_all(&self.pool)
        .await?;
        let timer = |(run, op, purpose, due): (Uuid, i32, i16, Timestamp)| DueTimer {
            run: RunId(run),
            op: Op(op.cast_unsigned()),
            purpose,
            due_ms: due.0,
        };
        Ok(rows.into_iter().map(timer).collect())
    }

    /// When the next timer after `after_ms` is due, among those that [`Self::due_timers`] gives.
    /// Reads only.
    pub async fn next_due(
        &self,
        host: HostId,
        after_ms: u64,
        always: i16,
    ) -> Result<Option<u64>, LedgerError> {
        let due: Option<Timestamp> = sqlx::query_scalar(
            "select t.due_at
             from timers t join runs r on r.shard = $1 and r.run_id = t.run_id
             where t.shard = $1 and t.purpose >= 0 and t.due_at > $3 and r.owner = $2
               and (r.status = $4 or (t.purpose = $5 and r.status < 10))
             order by t.due_at limit 1",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(Timestamp(after_ms))
        .bind(RunStatus::Running.tag())
        .bind(always)
        .fetch_optional(&self.pool)
        .await?;
        Ok(due.map(|due| due.0))
    }
}
