//! Timers: what must happen to open runs at a time. They are set and removed by the writer only.

use backstitch_core::{HostId, Op, RunId, RunStatus};
use sqlx::postgres::PgBindIterExt;
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

/// Which timers a check is for.
#[derive(Clone, Copy, Debug)]
pub struct TimerCheck<'a> {
    /// Whose they are.
    pub host: HostId,
    /// Those before were found not to be there, and none was set since. It spares a check what is left of those that fired:
    /// as long as somebody looks at an old state of the database, they stay in the index.
    pub from_ms: u64,
    /// Due at this time or before: those of [`Ledger::due_timers`]. Later than this: those of [`Ledger::next_due`].
    pub now_ms: u64,
    /// The purpose of timers that fire for parked and paused runs too.
    pub always: i16,
    /// Without those of these runs.
    pub except: &'a [RunId],
}

/// Timers `t` of a host that may fire, with $5 and $6. Their runs are looked up one by one, by the whole key: a join
/// is planned while the tables are small, and may then read all runs.
macro_rules! from_own_timers {
    () => {
        "from timers t,
              lateral (select from runs
                       where runs.shard = t.shard and runs.run_id = t.run_id and runs.owner = t.owner
                         and (runs.status = $5 or (t.purpose = $6 and runs.status < 10))
                       offset 0) as r
         where t.shard = $1 and t.owner = $2 and t.purpose >= 0 and t.due_at >= $3"
    };
}

impl Ledger {
    /// Timers of running runs that the host owns and that are due, oldest first, at most `limit`; those of the purpose
    /// `always` of parked and paused ones too.
    ///
    /// Reads only. A timer comes back until an append removes it, or the run is parked, paused or closed.
    pub async fn due_timers(&self, check: TimerCheck<'_>, limit: i64) -> Result<Vec<DueTimer>, LedgerError> {
        let rows: Vec<(Uuid, i32, i16, Timestamp)> = sqlx::query_as(concat!(
            "select t.run_id, t.op, t.purpose, t.due_at ",
            from_own_timers!(),
            " and t.due_at <= $4 and t.run_id <> all ($7)
             order by t.due_at limit $8"
        ))
        .bind(self.shard.0)
        .bind(check.host.0)
        .bind(Timestamp(check.from_ms))
        .bind(Timestamp(check.now_ms))
        .bind(RunStatus::Running.tag())
        .bind(check.always)
        .bind(check.except.iter().map(|run| run.0).bind_iter())
        .bind(limit)
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

    /// When the next timer after `now_ms` is due, among those that [`Self::due_timers`] gives.
    /// Reads only.
    pub async fn next_due(&self, check: TimerCheck<'_>) -> Result<Option<u64>, LedgerError> {
        let due: Option<Timestamp> = sqlx::query_scalar(concat!(
            "select t.due_at ",
            from_own_timers!(),
            " and t.due_at > $4
             order by t.due_at limit 1"
        ))
        .bind(self.shard.0)
        .bind(check.host.0)
        .bind(Timestamp(check.from_ms.max(check.now_ms)))
        .bind(Timestamp(check.now_ms))
        .bind(RunStatus::Running.tag())
        .bind(check.always)
        .fetch_optional(&self.pool)
        .await?;
        Ok(due.map(|due| due.0))
    }
}
