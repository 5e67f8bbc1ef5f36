//! Tasks: how calls are handed out to workers, and how they come back. The states are in [`backstitch_core::task`].
//!
//! A task is made, and removed with its outcome's row, by appends of the run's owner only. Whatever else
//! removes one puts a message into the run's inbox in the same statement ([`endings`]): so it may be done by any
//! host, at any time, and its effect is not lost with that host. Leases run on the database's clock.
//!
//! Other tables are looked up by subqueries that get the whole key from the task. A join on `shard = $1` beside
//! it is planned while the tables are small, and may then read all of the shard for each task.

mod endings;

use std::collections::BTreeSet;

use backstitch_core::inbox::{LEFT_BY_TASKS, MessageRow};
use backstitch_core::task::LeaseGrant;
use backstitch_core::{
    HostId, Json, Kind, Op, RunId, RunStatus, Scope, Seq, TaskLease, TaskToken, TenantId, limits,
};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgBindIterExt};
use sqlx::query::QueryAs;
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::from_row::from_row;
use crate::payloads::store::{Closed, of_run};
use crate::payloads::{Column, Place, Spot};
use crate::time::Timestamp;

/// What a poll checks the database for.
#[derive(Clone, Copy, Debug)]
pub struct TaskCheck<'a> {
    /// From this queue.
    pub task_queue: &'a str,
    /// Of these activities; none: of all.
    pub names: Option<&'a BTreeSet<String>>,
    /// At most so many.
    pub limit: u32,
}

/// A task that a worker has.
#[derive(Clone, Debug)]
pub struct TakenTask {
    /// What the worker has to show.
    pub token: TaskToken,
    /// The name of its run.
    pub workflow_id: String,
    /// Who owns the run.
    pub owner: Option<HostId>,
    /// The activity.
    pub name: String,
    /// Its arguments, as JSON text.
    pub input: String,
    /// How long the worker may be silent, in milliseconds.
    pub lease_ms: u64,
    /// When the attempt is over, in milliseconds since the epoch.
    pub deadline_ms: Option<u64>,
    /// What the last heartbeat said, as JSON text.
    pub heartbeat: Option<String>,
}

/// What a poll took.
#[derive(Clone, Debug)]
pub struct Taken {
    /// In the order of their priority and age.
    pub tasks: Vec<TakenTask>,
    /// There was at least one more, which somebody else may have been about to take.
    pub more: bool,
}

/// What a heartbeat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskHeartbeat {
    /// Nobody waits for the task any more.
    pub given_up: bool,
    /// How long the worker may be silent from now on, in milliseconds; none: as long as it likes.
    pub lease_ms: Option<u64>,
}

/// What became of an answer to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is in the inbox of the run.
    Left {
        /// Who should be told.
        owner: Option<HostId>,
    },
    /// Nobody waited for it any more.
    GivenUp,
    /// There is no such task, or not under this lease.
    Stale,
}

/// What a check of all tasks has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Tasks that were removed.
    pub tasks: usize,
    /// Owners of runs that have messages now.
    pub owners: Vec<HostId>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It waits for a worker.
    Offered,
    /// A worker has it.
    Leased,
    /// A worker has it and will answer later.
    Held,
    /// A worker has it, and nobody waits for it any more.
    GivenUp,
}

/// A task, as it is shown.
#[derive(Clone, Debug)]
pub struct OpenTask {
    /// The run.
    pub run: RunId,
    /// The call.
    pub op: Op,
    /// The name of the run.
    pub workflow_id: String,
    /// Which attempt, 1 for the first.
    pub attempt: u32,
    /// The queue.
    pub task_queue: String,
    /// The activity.
    pub name: String,
    /// Where it stands.
    pub state: TaskState,
    /// Who has it.
    pub worker: Option<String>,
    /// When it was offered, in milliseconds since the epoch.
    pub offered_ms: u64,
    /// When its worker is taken for dead.
    pub leased_until_ms: Option<u64>,
    /// When the attempt is over.
    pub deadline_ms: Option<u64>,
    /// What the last heartbeat said, as JSON text.
    pub heartbeat: Option<String>,
}

/// Which tasks to list.
#[derive(Clone, Copy, Debug)]
pub struct TaskPage<'a> {
    /// Of this run only.
    pub run: Option<RunId>,
    /// Of this queue only.
    pub task_queue: Option<&'a str>,
    /// Behind this one.
    pub after: Option<(RunId, Op)>,
    /// At most so many.
    pub limit: u32,
}

from_row! {
    struct TakenRow {
        run_id: Uuid,
        op: i32,
        seq: i32,
        attempt: i32,
        workflow_id: String,
        owner: Option<Uuid>,
        name: String,
        input: Option<String>,
        lease_ms: i64,
        deadline: Option<Timestamp>,
        heartbeat: Option<String>,
        there_are_more: bool,
    }
}

impl TakenRow {
    /// One whose input is lost is not made: its lease ends, and its attempt with it.
    fn task(self, lease: TaskLease) -> Option<TakenTask> {
        Some(TakenTask {
            input: self.input?,
            token: TaskToken {
                run: RunId(self.run_id),
                op: Op(self.op.cast_unsigned()),
                attempt: self.attempt.cast_unsigned(),
                lease,
            },
            workflow_id: self.workflow_id,
            owner: self.owner.map(HostId),
            name: self.name,
            lease_ms: self.lease_ms.cast_unsigned(),
            deadline_ms: self.deadline.map(|deadline| deadline.0),
            heartbeat: self.heartbeat,
        })
    }
}

from_row! {
    struct OpenRow {
        run_id: Uuid,
        op: i32,
        workflow_id: String,
        attempt: i32,
        task_queue: String,
        name: String,
        is_leased: bool,
        is_held: bool,
        given_up: bool,
        worker: Option<String>,
        offered_at: Timestamp,
        leased_until: Option<Timestamp>,
        deadline: Option<Timestamp>,
        heartbeat: Option<String>,
    }
}

/// Tasks `t` that a poll may take, with their runs `r`. The parameters are those of [`Ledger::take_tasks`].
macro_rules! from_waiting_tasks {
    () => {
        "from tasks t,
              lateral (select workflow_id, owner from runs
                       where runs.shard = t.shard and runs.run_id = t.run_id and runs.status = $9
                       offset 0) as r
         where t.shard = $1 and t.tenant = $2 and t.task_queue = $3
           and t.lease is null and not t.given_up
           and ($4::text[] is null or t.name = any ($4))
           and (t.start_by is null or t.start_by > now())"
    };
}

impl Ledger {
    /// Hands out tasks of running runs, by priority and age. Nobody else gets one: rows that another poll
    /// has locked are skipped. Not idempotent: what a lost reply has handed out comes back when its lease is
    /// over, and counts as an attempt.
    pub async fn take_tasks(
        &self,
        scope: Scope,
        check: TaskCheck<'_>,
        grant: &LeaseGrant,
    ) -> Result<Taken, LedgerError> {
        let mut rows: Vec<TakenRow> = sqlx::query_as(
            concat!("with free as materialized (
                 select t.shard, t.run_id, t.op, r.workflow_id, r.owner ", from_waiting_tasks!(), "
                 order by t.priority, t.offered_at
                 limit $5 for update of t skip locked
             ),
             open as materialized (select ", from_waiting_tasks!(), " limit $5 + 1),
             taken as (
                 update tasks t
                 set lease = $6, lease_ms = $7, worker = $8,
                     deadline = least(now() + t.attempt_ms * interval '1 millisecond', t.close_by),
                     leased_until = least(now() + least($7, t.silence_ms, t.attempt_ms) * interval '1 millisecond',
                                          t.close_by)
                 from free
                 where t.shard = free.shard and t.run_id = free.run_id and t.op = free.op
                 returning t.shard, t.run_id, t.op, t.seq, t.attempt, free.workflow_id, free.owner, t.name,
                           least(t.lease_ms, t.silence_ms) as lease_ms, t.deadline, t.heartbeat,
                           t.priority, t.offered_at
             )
             select taken.run_id, taken.op, taken.seq, taken.attempt, taken.workflow_id, taken.owner, taken.name,
                    (select l.payload::text from ledger l
                     where l.shard = taken.shard and l.run_id = taken.run_id and l.seq = taken.seq) as input,
                    taken.lease_ms, taken.deadline, taken.heartbeat::text,
                    (select count(*) from open) > $5 as there_are_more
             from taken
             order by taken.priority, taken.offered_at"),
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(check.task_queue)
        .bind(check.names.map(|names| names.iter().map(String::as_str).collect::<Vec<_>>()))
        .bind(i64::from(check.limit))
        .bind(grant.lease.0)
        .bind(grant.lease_ms.map(span))
        .bind(&*grant.worker)
        .bind(RunStatus::Running.tag())
        .fetch_all(&self.pool)
        .await?;
        let mut columns: Vec<Closed<'_>> = Vec::with_capacity(2 * rows.len());
        for row in &mut rows {
            let place = |spot| of_run(scope.tenant.0, row.run_id, Some(row.op), spot);
            let seq = Seq(row.seq.cast_unsigned());
            columns.push((place(Spot::Row(seq, Column::Payload)), &mut row.input));
            columns.push((place(Spot::Heartbeat(row.attempt.cast_unsigned())), &mut row.heartbeat));
        }
        self.open_some(&mut columns).await?;
        // Of fewer than were asked for, the others are being taken by somebody else.
        let more = rows.len() == check.limit as usize && rows.first().is_some_and(|row| row.there_are_more);
        let tasks = rows.into_iter().filter_map(|row| row.task(grant.lease)).collect();
        Ok(Taken { tasks, more })
    }

    /// Those of `queues` on which tasks wait for a worker. Reads only.
    pub async fn queues_with_tasks(
        &self,
        queues: &[(TenantId, String)],
    ) -> Result<Vec<(TenantId, String)>, LedgerError> {
        let rows: Vec<(i32, String)> = sqlx::query_as(
            "select q.tenant, q.task_queue
             from unnest($2::integer[], $3::text[]) as q (tenant, task_queue)
             where (select true from tasks t
                    where t.shard = $1 and t.tenant = q.tenant and t.task_queue = q.task_queue
                      and t.lease is null and not t.given_up
                    limit 1)",
        )
        .bind(self.shard.0)
        .bind(queues.iter().map(|(tenant, _)| tenant.0).bind_iter())
        .bind(queues.iter().map(|(_, queue)| queue.as_str()).bind_iter())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(tenant, queue)| (TenantId(tenant), queue)).collect())
    }

    /// Extends a lease, and keeps what the worker says with it. None: the lease is gone. May be repeated.
    ///
    /// A lease that has run out but was not taken away lives on: nobody else has the task yet.
    pub async fn heartbeat_task(
        &self,
        scope: Scope,
        token: TaskToken,
        details: Option<&Json>,
    ) -> Result<Option<TaskHeartbeat>, LedgerError> {
        let extended = sqlx::query_as(
            "update tasks
             set leased_until = case when lease_ms is null then leased_until else
                     least(now() + least(lease_ms, silence_ms) * interval '1 millisecond', deadline) end,
                 heartbeat = coalesce($7::json, heartbeat)
             where shard = $1 and tenant = $2 and run_id = $3 and op = $4 and attempt = $5 and lease = $6
             returning given_up, least(lease_ms, silence_ms)",
        );
        let (run, op) = (token.run, Some(token.op));
        let place = Place::Run { tenant: scope.tenant, run, op, spot: Spot::Heartbeat(token.attempt) };
        let sealed = details.and_then(|details| self.payloads().seal_inline(&place, details.as_str()));
        let details = sealed.as_deref().or(details.map(Json::as_str));
        let extended = by_token(extended, scope, token).bind(details);
        let row: Option<(bool, Option<i64>)> = extended.fetch_optional(&self.pool).await?;
        let heartbeat = |(given_up, lease_ms): (bool, Option<i64>)| TaskHeartbeat {
            given_up,
            lease_ms: lease_ms.map(i64::cast_unsigned),
        };
        Ok(row.map(heartbeat))
    }

    /// The worker will answer later: only the bounds of the call hold from now on. False: the lease is
    /// gone. May be repeated.
    pub async fn hold_task(&self, scope: Scope, token: TaskToken) -> Result<bool, LedgerError> {
        let held = sqlx::query_as(
            "update tasks set lease_ms = null, leased_until = deadline
             where shard = $1 and tenant = $2 and run_id = $3 and op = $4 and attempt = $5 and lease = $6
               and not given_up
             returning op",
        );
        let held: Option<(i32,)> = by_token(held, scope, token).fetch_optional(&self.pool).await?;
        Ok(held.is_some())
    }

    /// What is recorded as the outcome of an attempt, as JSON text, by a row of one of `kinds` among the last
    /// [`limits::OUTCOME_ROWS_MAX`] of its run. Reads only.
    pub async fn outcome_of(
        &self,
        scope: Scope,
        token: TaskToken,
        kinds: &[Kind],
    ) -> Result<Option<String>, LedgerError> {
        let found: Option<(Option<String>, i32)> = sqlx::query_as(
            "select l.payload::text, l.seq
             from (select * from ledger where shard = $1 and run_id = $2 order by seq desc limit $6) as l
             where l.op = $3 and l.attempt = $4 and l.kind = any ($5)
             limit 1",
        )
        .bind(self.shard.0)
        .bind(token.run.0)
        .bind(token.op.0.cast_signed())
        .bind(token.attempt.cast_signed())
        .bind(kinds.iter().map(|kind| kind.tag()).bind_iter())
        .bind(limits::OUTCOME_ROWS_MAX)
        .fetch_optional(&self.pool)
        .await?;
        let Some((mut payload, seq)) = found else { return Ok(None) };
        let spot = Spot::Row(Seq(seq.cast_unsigned()), Column::Payload);
        let place = Place::Run { tenant: scope.tenant, run: token.run, op: Some(token.op), spot };
        self.open_all(&mut [(place, &mut payload)]).await?;
        Ok(payload)
    }

    /// The message that waits for the run with this very answer to an attempt. Reads only.
    pub async fn answer_waiting(
        &self,
        scope: Scope,
        token: TaskToken,
        answer: &MessageRow,
    ) -> Result<Option<Uuid>, LedgerError> {
        let mut found: Option<(Uuid, Option<String>)> = sqlx::query_as(
            "select item_id, payload::text from inbox
             where shard = $1 and run_id = $2 and op = $3 and kind = $5
               and (readable(detail) ->> 'attempt')::integer = $4
             limit 1",
        )
        .bind(self.shard.0)
        .bind(token.run.0)
        .bind(token.op.0.cast_signed())
        .bind(token.attempt.cast_signed())
        .bind(answer.kind)
        .fetch_optional(&self.pool)
        .await?;
        let Some((item, payload)) = &mut found else { return Ok(None) };
        let spot = Spot::Item(*item, Column::Payload);
        let place = Place::Run { tenant: scope.tenant, run: token.run, op: Some(token.op), spot };
        self.open_all(&mut [(place, payload)]).await?;
        Ok((payload.as_deref() == answer.payload.as_deref()).then_some(*item))
    }

    /// Which of these runs' calls have a task, or the message of one that is gone. Reads only, and in one
    /// snapshot: a task that goes is never seen as neither.
    pub async fn tasks_of(&self, runs: &[RunId]) -> Result<Vec<(RunId, Op)>, LedgerError> {
        let rows: Vec<(Uuid, i32)> = sqlx::query_as(
            "select t.run_id, t.op from tasks t
             where t.shard = $1 and t.run_id = any ($2) and not t.given_up
             union
             select i.run_id, i.op from inbox i
             where i.shard = $1 and i.run_id = any ($2) and i.kind = any ($3) and i.op is not null",
        )
        .bind(self.shard.0)
        .bind(runs.iter().map(|run| run.0).bind_iter())
        .bind(LEFT_BY_TASKS.as_slice())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(run, op)| (RunId(run), Op(op.cast_unsigned()))).collect())
    }

    /// Open tasks in the order of their runs and calls. Reads only.
    pub async fn tasks(&self, scope: Scope, page: TaskPage<'_>) -> Result<Vec<OpenTask>, LedgerError> {
        let (after_run, after_op) = page.after.unzip();
        let mut rows: Vec<OpenRow> = sqlx::query_as(
            "select t.run_id, t.op, t.attempt, t.task_queue, t.name,
                    (select r.workflow_id from runs r where r.shard = t.shard and r.run_id = t.run_id) as workflow_id,
                    t.lease is not null as is_leased, t.lease_ms is null as is_held, t.given_up, t.worker,
                    t.offered_at, t.leased_until, t.deadline, t.heartbeat::text
             from tasks t
             where t.shard = $1 and t.tenant = $2 and ($3::uuid is null or t.run_id = $3)
               and ($4::text is null or t.task_queue = $4)
               and ($5::uuid is null or (t.run_id, t.op) > ($5, $6))
             order by t.run_id, t.op limit $7",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(page.run.map(|run| run.0))
        .bind(page.task_queue)
        .bind(after_run.map(|run| run.0))
        .bind(after_op.map(|op| op.0.cast_signed()))
        .bind(i64::from(page.limit))
        .fetch_all(&self.pool)
        .await?;
        let columns = rows.iter_mut().map(|row| {
            let said = Spot::Heartbeat(row.attempt.cast_unsigned());
            let place = of_run(scope.tenant.0, row.run_id, Some(row.op), said);
            (place, &mut row.heartbeat as _)
        });
        self.open_some(&mut columns.collect::<Vec<_>>()).await?;
        let task = |row: OpenRow| OpenTask {
            run: RunId(row.run_id),
            op: Op(row.op.cast_unsigned()),
            workflow_id: row.workflow_id,
            attempt: row.attempt.cast_unsigned(),
            task_queue: row.task_queue,
            name: row.name,
            state: match (row.given_up, row.is_leased, row.is_held) {
                (true, ..) => TaskState::GivenUp,
                (_, false, _) => TaskState::Offered,
                (_, true, true) => TaskState::Held,
                (_, true, false) => TaskState::Leased,
            },
            worker: row.worker,
            offered_ms: row.offered_at.0,
            leased_until_ms: row.leased_until.map(|until| until.0),
            deadline_ms: row.deadline.map(|deadline| deadline.0),
            heartbeat: row.heartbeat,
        };
        Ok(rows.into_iter().map(task).collect())
    }
}

/// Parameters 1 to 6: the task that a token is of, as long as it is.
fn by_token<O>(
    query: QueryAs<'_, Postgres, O, PgArguments>,
    scope: Scope,
    token: TaskToken,
) -> QueryAs<'_, Postgres, O, PgArguments> {
    query
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(token.run.0)
        .bind(token.op.0.cast_signed())
        .bind(token.attempt.cast_signed())
        .bind(token.lease.0)
}

/// A bound as Postgres' arithmetic takes it.
fn span(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
