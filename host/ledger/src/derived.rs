//! What stands beside the ledger and follows from it: timers, and what children leave for their parents. Whoever takes a
//! run into memory compares it with the ledger, and makes anew what is missing.

use backstitch_core::inbox::MessageRow;
use backstitch_core::{HostId, Op, RunId, RunStatus, Scope};
use sqlx::FromRow;
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::payloads::Spot;
use crate::payloads::store::of_run;
use crate::time::Timestamp;
use crate::timers::DueTimer;

/// A child that a run waits for, by the command that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Who waits.
    pub parent: RunId,
    /// The command.
    pub op: Op,
    /// The child, as the command names it.
    pub child: RunId,
}

/// How a child stands that its parent waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// It was never started.
    Missing,
    /// It, or the last run that went on from it, has closed so, and no message tells its parent.
    Untold {
        /// A closed status.
        status: RunStatus,
        /// Its result, as JSON text.
        output: Option<String>,
        /// Its failure, as JSON text.
        error: Option<String>,
    },
}

#[derive(FromRow)]
struct ChildRow {
    place: i64,
    tenant: Option<i32>,
    run_id: Option<Uuid>,
    status: Option<i16>,
    output: Option<String>,
    error: Option<String>,
}

impl Ledger {
    /// The timers of these runs, in no order. Reads only.
    pub async fn timers_of(&self, runs: &[RunId]) -> Result<Vec<DueTimer>, LedgerError> {
        let rows: Vec<(Uuid, i32, i16, Timestamp)> = sqlx::query_as(
            "select t.run_id, t.op, t.purpose, t.due_at
             from unnest($2::uuid[]) as wanted (run_id)
             join timers t on t.shard = $1 and t.run_id = wanted.run_id",
        )
        .bind(self.shard.0)
        .bind(runs.iter().map(|run| run.0).bind_iter())
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

    /// Those of these children that are missing, or have closed without a message to their parents. Reads only, and in
    /// one snapshot: the message of a child comes with its close.
    pub async fn untold_children(
        &self,
        awaited: &[Awaited],
    ) -> Result<Vec<(Awaited, ChildState)>, LedgerError> {
        // `last` is the child itself, or the latest run of its workflow id that is still the parent's child.
        let mut rows: Vec<ChildRow> = sqlx::query_as(
            "select w.place, last.tenant, last.run_id, last.status, last.output::text, last.error::text
             from unnest($2::uuid[], $3::integer[], $4::uuid[]) with ordinality as w (parent, op, child, place)
             left join runs c on c.shard = $1 and c.run_id = w.child
             left join lateral (
                 select r.tenant, r.run_id, r.status, r.output, r.error from runs r
                 where r.shard = $1 and r.tenant = c.tenant and r.workflow_id = c.workflow_id
                   and r.generation >= 0 and r.generation >= c.generation
                   and r.parent_run = w.parent and r.parent_op = w.op
                 order by r.generation desc limit 1
             ) last on true
             where c.run_id is null
                or last.status >= 10 and last.status <> $5
                   and not exists (select from inbox i where i.shard = $1 and i.run_id = w.parent
                                                         and i.op = w.op and i.kind = any ($6))",
        )
        .bind(self.shard.0)
        .bind(awaited.iter().map(|awaited| awaited.parent.0).bind_iter())
        .bind(awaited.iter().map(|awaited| awaited.op.0.cast_signed()).bind_iter())
        .bind(awaited.iter().map(|awaited| awaited.child.0).bind_iter())
        .bind(RunStatus::Continued.tag())
        .bind(CHILD_NOTES.as_slice())
        .fetch_all(&self.pool)
        .await?;
        let mut columns = Vec::with_capacity(2 * rows.len());
        for row in &mut rows {
            let Some((tenant, run)) = row.tenant.zip(row.run_id) else { continue };
            columns.push((of_run(tenant, run, None, Spot::Output), &mut row.output as _));
            columns.push((of_run(tenant, run, None, Spot::Error), &mut row.error as _));
        }
        // One that cannot be opened is left to the message that is missing: its run has other troubles.
        let unopened = self.open_each(&self.pool, &mut columns).await?;
        drop(columns);
        if !unopened.is_empty() {
            tracing::error!(children = unopened.len(), "the outcomes of some children cannot be opened");
            rows.retain(|row| row.run_id.is_none());
        }
        rows.into_iter().map(|row| child(awaited, row)).collect()
    }

    /// Sends a message without a payload to the next `limit` open runs of the tenant behind `after`, by their ids; the last
    /// of them, unless there are no more, and how many there were. `item_id` makes the messages' ids. May be repeated: who
    /// gets it twice does the same twice.
    pub async fn post_to_open(
        &self,
        scope: Scope,
        after: Option<RunId>,
        message: &MessageRow,
        at_ms: u64,
        limit: u32,
        item_id: impl Fn() -> Uuid,
    ) -> Result<(Option<RunId>, u64), LedgerError> {
        let ids: Vec<Uuid> = (0..limit).map(|_| item_id()).collect();
        // Locked as `post` does it: a close either sees the message or is seen by it.
        let posted: Vec<Uuid> = sqlx::query_scalar(
            "with open as materialized (
                 select run_id, owner, row_number() over (order by run_id) as place
                 from (select run_id, owner from runs
                       where shard = $1 and tenant = $2 and status < 10 and run_id > $3
                       order by run_id limit $4 for share) r
             )
             insert into inbox (shard, tenant, run_id, item_id, kind, at, owner)
             select $1, $2, open.run_id, ids.item_id, $6, $7,
                    coalesce(open.owner, '00000000-0000-0000-0000-000000000000')
             from open join unnest($5::uuid[]) with ordinality as ids (item_id, place) using (place)
             on conflict do nothing
             returning run_id",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(after.map_or(Uuid::nil(), |run| run.0))
        .bind(i64::from(limit))
        .bind(ids)
        .bind(message.kind)
        .bind(Timestamp(at_ms))
        .fetch_all(&self.pool)
        .await?;
        let more = posted.len() as u64 >= u64::from(limit);
        let last = posted.iter().max().map(|run| RunId(*run)).filter(|_| more);
        Ok((last, posted.len() as u64))
    }

    /// Open runs of `host` behind `after` that have begun a sleep of which neither an end nor a timer is to be found, in
    /// the order of their ids, out of the next `limit` runs; and the last run that was looked at, unless it was the last
    /// of all. Some of the sleeps may have been cancelled with their run: the ledger tells. Reads only, the ledgers of
    /// `limit` runs at most.
    pub async fn runs_without_timers(
        &self,
        host: HostId,
        after: Option<RunId>,
        limit: i64,
    ) -> Result<(Vec<RunId>, Option<RunId>), LedgerError> {
        let rows: Vec<(Uuid, bool)> = sqlx::query_as(
            "select r.run_id,
                    exists (select l.op from ledger l where l.shard = $1 and l.run_id = r.run_id and l.kind = 3
                            except
                            select l.op from ledger l where l.shard = $1 and l.run_id = r.run_id and l.kind = 23
                            except
                            select (l.detail ->> 'target')::bigint::integer from ledger l
                            where l.shard = $1 and l.run_id = r.run_id and l.kind = 6
                            except
                            select t.op from timers t where t.shard = $1 and t.run_id = r.run_id)
             from (select run_id from runs
                   -- As one condition, and in this order, which the index by owner has and no other.
                   where shard = $1 and (owner, run_id) > ($2, $4) and owner <= $2 and status < 10 and status = $3
                   order by owner, run_id limit $5) r
             order by r.run_id",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(RunStatus::Running.tag())
        .bind(after.map_or(Uuid::nil(), |run| run.0))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let more = rows.len() as u64 >= limit.unsigned_abs();
        let last = rows.last().map(|(run, _)| RunId(*run)).filter(|_| more);
        Ok((rows.into_iter().filter_map(|(run, lacks)| lacks.then_some(RunId(run))).collect(), last))
    }
}

/// Kinds of messages by which a child tells how it ended.
const CHILD_NOTES: [i16; 2] = [5, 6];

fn child(awaited: &[Awaited], row: ChildRow) -> Result<(Awaited, ChildState), LedgerError> {
    let place = usize::try_from(row.place - 1).ok().and_then(|place| awaited.get(place).copied());
    let awaited = known(place, "a place among the children", row.place)?;
    let Some(tag) = row.status else { return Ok((awaited, ChildState::Missing)) };
    let status = known(RunStatus::from_tag(tag), "run status", tag)?;
    Ok((awaited, ChildState::Untold { status, output: row.output, error: row.error }))
}
