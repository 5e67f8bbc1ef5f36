//! The look over the open runs of a host for those that wait for a timer which is not there: nothing would ever wake them.
//!
//! | a run waits for | found by |
//! |---|---|
//! | the end of a sleep | a row that begins it, none that ends it, and no timer |
//! | the next attempt of a call | a row of an attempt that failed, none that ends the call, and neither a timer nor a task, nor a message that a task has left. An attempt that is under way on its host looks the same: the host knows |
//! | its start, or the end of its time | its first row, which says when, and no timer |
//!
//! A command that was cancelled with its run looks as if it were open. Its ledger tells.

use backstitch_core::inbox::LEFT_BY_TASKS;
use backstitch_core::{HostId, Kind, Op, RunId, RunStatus, StartOptions};
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use crate::append::NewTimer;
use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::payloads::store::of_run;
use crate::payloads::{Column, Spot};
use crate::time::Timestamp;

/// An open run, as far as its timers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Which.
    pub run: RunId,
    /// Its sleeps and calls that seem to wait for a timer, and have none.
    pub ops: Vec<Op>,
    /// The timers of the run itself that are there: those under numbers that no command has.
    pub own: Vec<Op>,
    /// Nobody holds it: what it waits for has to come.
    pub is_running: bool,
}

/// What the first row of a run says about its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Began {
    /// Which run.
    pub run: RunId,
    /// When it was started, in milliseconds since the epoch.
    pub at_ms: u64,
    /// On which terms.
    pub options: StartOptions,
}

/// Rows after which somebody has to be woken by a timer.
const BEGIN: [Kind; 2] = [Kind::TimerStarted, Kind::ActivityAttemptFailed];
/// Rows after which nobody has.
const END: [Kind; 4] = [Kind::TimerFired, Kind::ActivityCompleted, Kind::ActivityFailed, Kind::OpCancelled];

fn tags(kinds: &[Kind]) -> Vec<i16> {
    kinds.iter().map(|kind| kind.tag()).collect()
}

impl Ledger {
    /// The next `limit` open runs of `host` behind `after`, in the order of their ids; and the last of them, unless it was
    /// the last of all. Reads only: a part of the ledgers of `limit` runs, each once.
    pub async fn timers_lacking(
        &self,
        host: HostId,
        after: Option<RunId>,
        limit: i64,
    ) -> Result<(Vec<Lacking>, Option<RunId>), LedgerError> {
        let rows: Vec<(Uuid, Vec<i32>, Vec<i32>, bool)> = sqlx::query_as(
            "select r.run_id,
                    case when r.status = $3 then array(
                        select coalesce((case when l.kind = $8 then l.detail ->> 'target' end)::bigint::integer, l.op)
                        from ledger l
                        where l.shard = $1 and l.run_id = r.run_id and l.kind = any ($6 || $7)
                        group by 1
                        having bool_or(l.kind = any ($6)) and not bool_or(l.kind = any ($7))
                        except
                        select t.op from timers t where t.shard = $1 and t.run_id = r.run_id
                        except
                        select k.op from tasks k where k.shard = $1 and k.run_id = r.run_id
                        except
                        select i.op from inbox i where i.shard = $1 and i.run_id = r.run_id and i.kind = any ($9)
                    ) else array[]::integer[] end,
                    array(select t.op from timers t where t.shard = $1 and t.run_id = r.run_id and t.op < 0),
                    r.status = $3
             from (select run_id, status from runs
                   -- As one condition, and in this order, which the index by owner has and no other.
                   where shard = $1 and (owner, run_id) > ($2, $4) and owner <= $2 and status < 10
                   order by owner, run_id limit $5) r
             order by r.run_id",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(RunStatus::Running.tag())
        .bind(after.map_or(Uuid::nil(), |run| run.0))
        .bind(limit)
        .bind(tags(&BEGIN))
        .bind(tags(&END))
        .bind(Kind::OpCancelled.tag())
        .bind(LEFT_BY_TASKS.as_slice())
        .fetch_all(&self.pool)
        .await?;
        let more = rows.len() as u64 >= limit.unsigned_abs();
        let last = rows.last().map(|(run, ..)| RunId(*run)).filter(|_| more);
        let ops = |ops: Vec<i32>| ops.into_iter().map(|op| Op(op.cast_unsigned())).collect();
        let lacking = |(run, lacking, own, is_running)| Lacking {
            run: RunId(run),
            ops: ops(lacking),
            own: ops(own),
            is_running,
        };
        Ok((rows.into_iter().map(lacking).collect(), last))
    }

    /// What the first rows of these runs say; the caller bounds how many. One that cannot be read is left out. Reads only.
    pub async fn began(&self, runs: &[RunId]) -> Result<Vec<Began>, LedgerError> {
        // A join, not `= any (…)`: only so does each run look into its own partition alone.
        let mut rows: Vec<(Uuid, i32, Timestamp, Option<String>)> = sqlx::query_as(
            "select wanted.run_id, l.tenant, l.at, l.detail
             from unnest($2::uuid[]) as wanted (run_id)
             cross join lateral (
                 select tenant, at, detail::text as detail from ledger
                 where shard = $1 and ledger.run_id = wanted.run_id and seq = 0 and kind = $3 limit 1
             ) l",
        )
        .bind(self.shard.0)
        .bind(runs.iter().map(|run| run.0).bind_iter())
        .bind(Kind::RunStarted.tag())
        .fetch_all(&self.pool)
        .await?;
        let first = Spot::Row(backstitch_core::Seq(0), Column::Detail);
        let columns =
            rows.iter_mut().map(|(run, tenant, _, detail)| (of_run(*tenant, *run, None, first), detail as _));
        self.open_some(&mut columns.collect::<Vec<_>>()).await?;
        let began = |(run, _, at, detail): (Uuid, i32, Timestamp, Option<String>)| {
            let options = detail.map(|detail| serde_json::from_str(&detail));
            let options = options.transpose().ok()?.unwrap_or_default();
            Some(Began { run: RunId(run), at_ms: at.0, options })
        };
        Ok(rows.into_iter().filter_map(began).collect())
    }

    /// Sets those of these timers that are not there, of open runs of `host`; which those were. May be repeated.
    pub async fn set_missing_timers(
        &self,
        host: HostId,
        timers: &[NewTimer],
    ) -> Result<Vec<(RunId, Op)>, LedgerError> {
        // The run is locked: its close comes before this, and then there is none, or after it.
        let set: Vec<(Uuid, i32)> = sqlx::query_as(
            "insert into timers (shard, tenant, run_id, op, due_at, purpose, owner)
             select $1, r.tenant, t.run_id, t.op, t.due_at, t.purpose, $2
             from unnest($3::uuid[], $4::integer[], $5::timestamptz[], $6::smallint[])
                  as t (run_id, op, due_at, purpose)
             cross join lateral (
                 select tenant from runs
                 where shard = $1 and runs.run_id = t.run_id and owner = $2 and status < 10
                 for share
             ) r
             on conflict (shard, run_id, op) do nothing
             returning run_id, op",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(timers.iter().map(|timer| timer.run.0).bind_iter())
        .bind(timers.iter().map(|timer| timer.op.0.cast_signed()).bind_iter())
        .bind(timers.iter().map(|timer| Timestamp(timer.due_ms)).bind_iter())
        .bind(timers.iter().map(|timer| timer.purpose).bind_iter())
        .fetch_all(&self.pool)
        .await?;
        Ok(set.into_iter().map(|(run, op)| (RunId(run), Op(op.cast_unsigned()))).collect())
    }
}
