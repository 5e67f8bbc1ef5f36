//! How tasks come to their end, whoever ends them: an answer, an operator's word, a bound that has passed, a component that
//! serves the call now. Each is one statement, so that a host which stands still holds no lock; it removes the task and
//! leaves the message that says so.

use backstitch_core::inbox::{ANSWERS, MessageRow};
use backstitch_core::task::{Lapse, lapsed, untaken};
use backstitch_core::{Failure, HostId, Json, Message, Op, RunId, Scope, Shard, TaskToken, TenantId};
use sqlx::postgres::{PgArguments, PgBindIterExt};
use sqlx::query::QueryAs;
use sqlx::{AssertSqlSafe, PgExecutor, Postgres};
use uuid::Uuid;

use super::{Settled, Sweep, by_token};
use crate::append::NewItem;
use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::from_row::from_row;
use crate::inbox::owner_of;
use crate::payloads::store::{self, of_run, storing};
use crate::payloads::{Spot, Stored};
use crate::time::Timestamp;

from_row! {
    /// A task whose time is over, as it was seen.
    struct SeenRow {
        tenant: i32,
        run_id: Uuid,
        op: i32,
        attempt: i32,
        task_queue: String,
        name: String,
        worker: Option<String>,
        heartbeat: Option<String>,
        lease: Option<Uuid>,
        /// The attempt's bound has passed.
        is_late: bool,
        /// The call's bound has passed.
        is_overdue: bool,
    }
}

impl Ledger {
    /// Removes a task and leaves `message` in its run's inbox. One statement: of several who try one
    /// succeeds. The heartbeat that the task had goes with the message if it is one that tells of it.
    pub async fn settle_task(
        &self,
        scope: Scope,
        token: TaskToken,
        item: &NewItem,
    ) -> Result<Settled, LedgerError> {
        let (mut item, mut stored) = (item.clone(), Vec::new());
        self.payloads().seal_message(scope.tenant, token.run, item.item_id, &mut item.message, &mut stored);
        for _ in 0..TRIES_MAX {
            match settle(&self.pool, scope, token, &item, &stored).await {
                Err(error) if is_undone(&error) => {}
                settled => return Ok(settled?),
            }
        }
        Ok(Settled::Stale)
    }

    /// An operator's word about a call: removes its task, whoever has it, and leaves `message` in its run's
    /// inbox. One statement. False: an answer is there already, and nothing was changed.
    pub async fn overrule_task(&self, scope: Scope, op: Op, item: &NewItem) -> Result<bool, LedgerError> {
        let (mut item, mut stored) = (item.clone(), Vec::new());
        self.payloads().seal_message(scope.tenant, item.run, item.item_id, &mut item.message, &mut stored);
        for _ in 0..TRIES_MAX {
            match overrule(&self.pool, scope, op, &item, &stored).await {
                Err(error) if is_undone(&error) => {}
                is_first => return Ok(is_first?),
            }
        }
        Ok(false)
    }

    /// Ends leases that have run out, calls that nobody took in time, and tasks that were given up, at most
    /// `limit` of each. Any host may do it, several at a time: rows that another has locked are skipped.
    /// `item_id` makes new ids of messages.
    pub async fn sweep_tasks(
        &self,
        now_ms: u64,
        limit: i64,
        item_id: impl Fn() -> Uuid,
    ) -> Result<Sweep, LedgerError> {
        let over = "with lapsed as materialized (
                 select shard, run_id, op from tasks
                 where shard = $1 and leased_until is not null and leased_until <= now()
                 limit $2
             ),
             untaken as materialized (
                 select shard, run_id, op from tasks
                 where shard = $1 and lease is null and start_by is not null and start_by <= now()
                 limit $2
             ),
             given_up as materialized (
                 select shard, run_id, op from tasks where shard = $1 and given_up and lease is null
                 limit $2
             ),
             over as (
                 select * from lapsed union select * from untaken union select * from given_up
             )";
        let seen = seen(&self.pool, over, |query| query.bind(self.shard.0).bind(limit)).await?;
        self.take_away(seen, now_ms, ended, item_id).await
    }

    /// When the next lease or wait for a worker is over, in milliseconds from now. Reads only.
    pub async fn next_sweep_ms(&self) -> Result<Option<u64>, LedgerError> {
        let ms: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from least(
                 (select leased_until from tasks
                  where shard = $1 and leased_until is not null order by leased_until limit 1),
                 (select start_by from tasks
                  where shard = $1 and lease is null and start_by is not null order by start_by limit 1)
             ) - now())::float8 * 1000",
        )
        .bind(self.shard.0)
        .fetch_one(&self.pool)
        .await?;
        // A cast saturates: what is overdue is due now.
        Ok(ms.map(|ms| ms.ceil() as u64))
    }

    /// Takes back tasks that no worker has, of the activities that a component serves now, at most `limit`.
    /// Their runs make the attempts themselves. Any host may do it, as [`Self::sweep_tasks`].
    pub async fn free_tasks(
        &self,
        scope: Scope,
        served: &[(String, String)],
        now_ms: u64,
        limit: i64,
        item_id: impl Fn() -> Uuid,
    ) -> Result<Sweep, LedgerError> {
        let over = "with over as materialized (
                 select t.shard, t.run_id, t.op
                 from unnest($3::text[], $4::text[]) as s (task_queue, name)
                 cross join lateral (
                     select t.shard, t.run_id, t.op from tasks t
                     where t.shard = $1 and t.tenant = $5 and t.task_queue = s.task_queue and t.name = s.name
                       and t.lease is null and not t.given_up
                     limit $2
                 ) t
                 limit $2
             )";
        let seen = seen(&self.pool, over, |query| {
            query
                .bind(scope.shard.0)
                .bind(limit)
                .bind(served.iter().map(|(queue, _)| queue.as_str()).bind_iter())
                .bind(served.iter().map(|(_, name)| name.as_str()).bind_iter())
                .bind(scope.tenant.0)
        })
        .await?;
        self.take_away(seen, now_ms, freed, item_id).await
    }

    /// Forgets tasks that nobody has, of runs that are closed; how many. Those of a run that could not be
    /// replayed to its end stay behind. May be repeated.
    pub async fn forget_tasks(&self) -> Result<u64, LedgerError> {
        let forgotten = sqlx::query(
            "delete from tasks t using runs r
             where t.shard = $1 and t.lease is null and r.shard = $1 and r.run_id = t.run_id and r.status >= 10",
        )
        .bind(self.shard.0)
        .execute(&self.pool)
        .await?;
        Ok(forgotten.rows_affected())
    }

    /// Removes tasks that are still as they were seen, and puts what is left of them into the inboxes of their runs: two
    /// hosts may be at it at once, and the worker of one may just be saying something.
    async fn take_away(
        &self,
        mut seen: Vec<SeenRow>,
        now_ms: u64,
        message: impl Fn(&SeenRow) -> Result<Message, LedgerError>,
        item_id: impl Fn() -> Uuid,
    ) -> Result<Sweep, LedgerError> {
        let columns = seen.iter_mut().map(|row| {
            let said = Spot::Heartbeat(row.attempt.cast_unsigned());
            let place = of_run(row.tenant, row.run_id, Some(row.op), said);
            (place, &mut row.heartbeat as _)
        });
        self.open_some(&mut columns.collect::<Vec<_>>()).await?;
        let mut items = Vec::with_capacity(seen.len());
        for row in &seen {
            let (item_id, mut message, mut stored) = (item_id(), message(row)?.to_row(), Vec::new());
            self.payloads().seal_message(
                TenantId(row.tenant),
                RunId(row.run_id),
                item_id,
                &mut message,
                &mut stored,
            );
            // A failure, or nothing: neither leaves its row.
            debug_assert!(stored.is_empty());
            items.push((item_id, message));
        }
        let gone = take_away(&self.pool, self.shard, &seen, &items, now_ms).await?;
        let tasks = gone.len();
        let mut owners: Vec<HostId> = gone.into_iter().filter_map(|(owner,)| owner.map(HostId)).collect();
        owners.sort_unstable();
        owners.dedup();
        Ok(Sweep { tasks, owners })
    }
}

/// How often a statement is tried that somebody else was faster than. What they have done is seen by the next try.
const TRIES_MAX: usize = 3;

/// The tail of a statement that has stored payloads for what it saw, and found then that somebody else was faster: it fails,
/// and all that it has done is undone. See [`is_undone`]. Payloads come first because of the order of locks.
macro_rules! undo_if {
    ($raced:literal) => {
        // A constant would be divided by when the statement is planned.
        concat!("case when ", $raced, " then 1 / (0 * (select count(*) from gone)) else 1 end")
    };
}

/// Whether a statement has undone itself: see [`undo_if`]. Nothing else in such a statement divides.
fn is_undone(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "22012")
}

/// See [`Ledger::overrule_task`]. The message is in its stored form. Payloads before tasks, as in an append.
async fn overrule(
    executor: impl PgExecutor<'_>,
    scope: Scope,
    op: Op,
    item: &NewItem,
    stored: &[Stored],
) -> Result<bool, sqlx::Error> {
    let overruled = sqlx::query_as(concat!(
        "with answered as materialized (
             select 1 from inbox where shard = $1 and run_id = $3 and op = $4 and kind = any ($5) limit 1
         ),
         open as materialized (
             select 1 from tasks where shard = $1 and tenant = $2 and run_id = $3 and op = $4
         ),
         ",
        storing!("$11", "$12", "$13", "$14", "not exists (select from answered)"),
        ",
         gone as (
             delete from tasks
             where shard = $1 and tenant = $2 and run_id = $3 and op = $4
               and not exists (select from answered) and (select count(*) from used) >= 0
             returning 1
         ),
         posted as (
             insert into inbox (shard, tenant, run_id, item_id, kind, op, payload, detail, at, owner)
             select $1, $2, $3, $6, $7, $4, $8::json, $9::json, $10, ",
        owner_of!("$1", "$3"),
        "
             where not exists (select from answered)
         )
         select not exists (select from answered), ",
        undo_if!(
            "exists (select from open) and not exists (select from answered) and not exists (select from gone)"
        ),
    ))
    .bind(scope.shard.0)
    .bind(scope.tenant.0)
    .bind(item.run.0)
    .bind(op.0.cast_signed())
    .bind(ANSWERS.as_slice())
    .bind(item.item_id)
    .bind(item.message.kind)
    .bind(item.message.payload.as_deref())
    .bind(item.message.detail.as_deref())
    .bind(Timestamp(item.at_ms));
    let (is_first, _): (bool, i64) = store::bind_parts(overruled, stored).fetch_one(executor).await?;
    Ok(is_first)
}

/// See [`Ledger::settle_task`]. The message is in its stored form. Payloads before tasks, as in an append: two that do
/// both cannot deadlock.
async fn settle(
    executor: impl PgExecutor<'_>,
    scope: Scope,
    token: TaskToken,
    item: &NewItem,
    stored: &[Stored],
) -> Result<Settled, sqlx::Error> {
    let settled = sqlx::query_as(concat!(
        "with waiting as materialized (
             select 1 from tasks
             where shard = $1 and tenant = $2 and run_id = $3 and op = $4 and attempt = $5 and lease = $6
               and not given_up
         ),
         ",
        storing!("$12", "$13", "$14", "$15", "exists (select from waiting)"),
        ",
         gone as (
             delete from tasks
             where shard = $1 and tenant = $2 and run_id = $3 and op = $4 and attempt = $5 and lease = $6
               and (select count(*) from used) >= 0
             returning given_up, heartbeat
         ),
         posted as (
             insert into inbox (shard, tenant, run_id, item_id, kind, op, payload, detail, at, owner)
             select $1, $2, $3, $7, $8, $4, $9::json,
                    case when gone.heartbeat is null then $10::json
                         else json_build_object('attempt', $5::integer, 'heartbeat', gone.heartbeat) end,
                    $11, ",
        owner_of!("$1", "$3"),
        "
             from gone where not gone.given_up
         )
         select (select given_up from gone), (select owner from runs where shard = $1 and run_id = $3),
                ",
        // A payload that nobody refers to, of an answer that was not the first, would stay for ever.
        undo_if!("exists (select from stored) and not exists (select from gone where not given_up)"),
    ));
    let settled = by_token(settled, scope, token)
        .bind(item.item_id)
        .bind(item.message.kind)
        .bind(item.message.payload.as_deref())
        .bind(item.message.detail.as_deref())
        .bind(Timestamp(item.at_ms));
    let (given_up, owner, _): (Option<bool>, Option<Uuid>, i64) =
        store::bind_parts(settled, stored).fetch_one(executor).await?;
    Ok(match given_up {
        None => Settled::Stale,
        Some(true) => Settled::GivenUp,
        Some(false) => Settled::Left { owner: owner.map(HostId) },
    })
}

/// The tasks that the CTE `over` names by their key. Reads only.
async fn seen<'q>(
    executor: impl PgExecutor<'q>,
    over: &'static str,
    bind: impl FnOnce(Statement<'q>) -> Statement<'q>,
) -> Result<Vec<SeenRow>, sqlx::Error> {
    let text = format!(
        "{over}
         select t.tenant, t.run_id, t.op, t.attempt, t.lease, t.task_queue, t.name, t.worker,
                t.heartbeat::text,
                coalesce(t.deadline <= now(), false) as is_late,
                coalesce(t.close_by <= now(), false) as is_overdue
         from over join tasks t on t.shard = over.shard and t.run_id = over.run_id and t.op = over.op"
    );
    bind(sqlx::query_as(AssertSqlSafe(text))).fetch_all(executor).await
}

/// Removes those of these tasks that are still as they were seen, and that nobody else is about to change; leaves their
/// messages, unless they were given up. Who should be told of each. One statement, which waits for nobody: a lease that was
/// extended since, or a task that somebody has taken, is none of those. A heartbeat extends its lease, so none is lost.
async fn take_away(
    executor: impl PgExecutor<'_>,
    shard: Shard,
    seen: &[SeenRow],
    items: &[(Uuid, MessageRow)],
    now_ms: u64,
) -> Result<Vec<(Option<Uuid>,)>, sqlx::Error> {
    sqlx::query_as(concat!(
        "with keys as materialized (
             select $1::smallint as shard, k.*
             from unnest($2::integer[], $3::uuid[], $4::integer[], $5::integer[], $6::uuid[], $7::uuid[],
                         $8::smallint[], $9::text[], $10::text[])
                  as k (tenant, run_id, op, attempt, lease, item_id, kind, payload, detail)
         ),
         over as materialized (
             select t.shard, t.run_id, t.op from keys
             join tasks t on t.shard = keys.shard and t.run_id = keys.run_id and t.op = keys.op
             where t.attempt = keys.attempt and t.lease is not distinct from keys.lease
               and (t.lease is null or t.leased_until <= now())
             for update of t skip locked
         ),
         gone as (
             delete from tasks t using over
             where t.shard = over.shard and t.run_id = over.run_id and t.op = over.op
             returning t.run_id, t.op, t.given_up
         ),
         posted as (
             insert into inbox (shard, tenant, run_id, item_id, kind, op, payload, detail, at, owner)
             select k.shard, k.tenant, k.run_id, k.item_id, k.kind, k.op, k.payload::json, k.detail::json, $11, ",
        owner_of!("k.shard", "k.run_id"),
        "
             from keys k join gone on gone.run_id = k.run_id and gone.op = k.op
             where not gone.given_up
         )
         select case when gone.given_up then null
                     else (select r.owner from runs r where r.shard = $1 and r.run_id = gone.run_id) end
         from gone",
    ))
    .bind(shard.0)
    .bind(seen.iter().map(|row| row.tenant).bind_iter())
    .bind(seen.iter().map(|row| row.run_id).bind_iter())
    .bind(seen.iter().map(|row| row.op).bind_iter())
    .bind(seen.iter().map(|row| row.attempt).bind_iter())
    .bind(seen.iter().map(|row| row.lease).bind_iter())
    .bind(items.iter().map(|(item_id, _)| *item_id).bind_iter())
    .bind(items.iter().map(|(_, message)| message.kind).bind_iter())
    .bind(items.iter().map(|(_, message)| message.payload.as_deref()).bind_iter())
    .bind(items.iter().map(|(_, message)| message.detail.as_deref()).bind_iter())
    .bind(Timestamp(now_ms))
    .fetch_all(executor)
    .await
}

type Statement<'q> = QueryAs<'q, Postgres, SeenRow, PgArguments>;

/// What a run hears of a task whose time is over.
fn ended(row: &SeenRow) -> Result<Message, LedgerError> {
    let failure: Failure = match (row.lease.is_some(), row.is_late, row.is_overdue) {
        (false, ..) => untaken(row.is_overdue, &row.name, &row.task_queue),
        (true, _, true) => row.lapsed(Lapse::ScheduleToClose),
        (true, true, false) => row.lapsed(Lapse::StartToClose),
        (true, false, false) => row.lapsed(Lapse::HeartbeatTimeout),
    };
    let (op, attempt) = row.call();
    Ok(Message::AttemptEnded { op, attempt, outcome: Err(failure), heartbeat: row.heartbeat()? })
}

/// What a run hears of a task that is offered no more.
fn freed(row: &SeenRow) -> Result<Message, LedgerError> {
    let (op, attempt) = row.call();
    Ok(Message::AttemptFreed { op, attempt, heartbeat: row.heartbeat()? })
}

impl SeenRow {
    fn call(&self) -> (Op, u32) {
        (Op(self.op.cast_unsigned()), self.attempt.cast_unsigned())
    }

    fn lapsed(&self, lapse: Lapse) -> Failure {
        lapsed(lapse, &self.name, self.worker.as_deref().unwrap_or_default())
    }

    fn heartbeat(&self) -> Result<Option<Json>, LedgerError> {
        let parsed = self.heartbeat.as_deref().map(Json::new).transpose();
        known(parsed.ok(), "a heartbeat that is no payload, of run", self.run_id)
    }
}
