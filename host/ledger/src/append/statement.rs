//! The statement: its text, its parameters, and the question what of it is there.
//!
//! It is made of parts, and a batch sends those that it has something for: each part costs some 30 µs,
//! used or not. The parameters are the same for all, so that a number means one thing; those from 50 on are
//! left away where they say nothing and none behind them does.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use backstitch_core::{Chain, Epoch, HostId, Op, Row, RunId, RunStatus, Scope, Seq};
use sqlx::postgres::{PgArguments, PgBindIterExt};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _};
use uuid::Uuid;

use super::parts::{Append, Head, Item, StatusChange};
use crate::attribute;
use crate::inbox::owner_of;
use crate::opening::pooled;
use crate::payloads::store;
use crate::time::Timestamp;

/// What the statement reports.
pub(crate) struct Appended {
    /// Whether the lease is gone.
    pub(crate) fenced: bool,
    /// The lease is renewed at another server than this. Nothing was written.
    pub(crate) elsewhere: bool,
    /// The new runs that were started.
    pub(crate) started: Vec<Uuid>,
    /// Runs whose status was changed.
    pub(crate) changed: i64,
    /// Runs whose ledger does not end, or go on, as their append says, or that are another host's. If there is one, nothing
    /// was written.
    pub(crate) behind: Vec<Uuid>,
}

/// Locks the host's lease, and looks for the rows that the batch goes on from, and for the owners of their runs: a failover
/// may have lost the claim that this host goes by. Each by a subquery of its own, which
/// can only use the primary key: `not exists` would be made a join, and a plan of when the table was empty would go over all
/// of it. Every other part joins `fence`: if the
/// lease is dead or is renewed at another server, one such row is not there just as it was written, or one such run is
/// another's, nothing of the batch is. Nor is it if the session is not as it was opened: its commits may not wait for what ours wait for.
const FENCE: &str = "with session as materialized (
    select 1 where current_setting('backstitch.session', true) = pg_backend_pid()::text
),
lease as materialized (
    select beats from leases where shard = $1 and host_id = $2 and epoch = $3 and not dead for key share
),
missing as materialized (
    select h.run_id from unnest($50::uuid[], $51::integer[], $52::bigint[]) as h (run_id, seq, chain)
    where (select l.chain from ledger l where l.shard = $1 and l.run_id = h.run_id and l.seq = h.seq)
          is distinct from h.chain
       or (select r.owner from runs r where r.shard = $1 and r.run_id = h.run_id) is distinct from $2
),
fence as materialized (
    select 1 from lease, session where beats >= $53 and not exists (select from missing)
)";

/// New runs. A workflow id or run id that is taken is left alone, and nothing is written of a run that is not started.
const STARTED: &str = "started as (
    insert into runs (shard, tenant, run_id, workflow_id, generation, workflow, digest, status, owner,
                      parent_run, parent_op, started_at)
    select $1, n.tenant, n.run_id, n.workflow_id, n.generation, n.workflow, n.digest, 1, $2,
           n.parent_run, n.parent_op, n.started_at
    from unnest($4::integer[], $5::uuid[], $6::text[], $7::integer[], $8::text[], $9::bytea[],
                $10::uuid[], $11::integer[], $12::timestamptz[])
         as n (tenant, run_id, workflow_id, generation, workflow, digest, parent_run, parent_op, started_at),
         fence
    on conflict do nothing
    returning run_id
),
refused as materialized (
    select run_id from unnest($5::uuid[]) as n (run_id) where run_id not in (select run_id from started)
)";

/// Ledger rows.
const APPENDED: &str = "appended as (
    insert into ledger (shard, tenant, run_id, seq, kind, op, name, payload, detail, attempt, at, chain)
    select $1, r.tenant, r.run_id, r.seq, r.kind, r.op, r.name, r.payload::json, r.detail::json,
           r.attempt, r.at, r.chain
    from unnest($13::integer[], $14::uuid[], $15::integer[], $16::smallint[], $17::integer[], $18::text[],
                $19::text[], $20::text[], $21::integer[], $22::timestamptz[], $23::bigint[])
         as r (tenant, run_id, seq, kind, op, name, payload, detail, attempt, at, chain),
         fence
    where {r is not refused}
)";

/// What becomes of runs; the timers of those that close. One that an operator lets go on has nothing against it any more.
const CHANGED: &str = "changed as (
    update runs
    set status = c.status, output = c.output::json, error = c.error::json, fault = c.fault::json,
        rows = c.rows, chain = c.chain, closed_at = c.closed_at,
        losses = case when runs.status = 2 and c.status in (1, 3) then 0 else runs.losses end
    from (select $1::smallint as shard, run_id, status, output, error, fault, rows, chain, closed_at
          from unnest($24::uuid[], $25::smallint[], $26::text[], $27::text[], $28::text[], $29::integer[],
                      $30::bigint[], $31::timestamptz[])
               as keys (run_id, status, output, error, fault, rows, chain, closed_at)
          offset 0) as c,
         fence
    where runs.shard = c.shard and runs.run_id = c.run_id and runs.owner = $2 and runs.closed_at is null
    returning 1
),
stopped as (
    delete from timers
    using (select $1::smallint as shard, run_id
           from unnest($24::uuid[], $25::smallint[]) as keys (run_id, status)
           where status >= 10 offset 0) as c,
          fence
    where timers.shard = c.shard and timers.run_id = c.run_id
)";

/// Timers to remove.
const DONE: &str = "done as (
    delete from timers
    using (select $1::smallint as shard, run_id, op
           from unnest($37::uuid[], $38::integer[]) as keys (run_id, op) offset 0) as d,
          fence
    where timers.shard = d.shard and timers.run_id = d.run_id and timers.op = d.op
)";

/// Timers to set.
const TIMED: &str = "timed as (
    insert into timers (shard, tenant, run_id, op, due_at, purpose, owner)
    select $1, t.tenant, t.run_id, t.op, t.due_at, t.purpose, $2
    from unnest($32::integer[], $33::uuid[], $34::integer[], $35::timestamptz[], $36::smallint[])
         as t (tenant, run_id, op, due_at, purpose),
         fence
    where {t is not refused}
    on conflict (shard, run_id, op) do update
        set due_at = excluded.due_at, purpose = excluded.purpose, owner = excluded.owner
)";

/// Messages to other runs. One to a run that is not there is to a child that was refused: nobody would ever read it.
const SENT: &str = concat!(
    "sent as (
    insert into inbox (shard, tenant, run_id, item_id, kind, op, name, payload, detail, at, owner)
    select i.shard, i.tenant, i.run_id, i.item_id, i.kind, i.op, i.name, i.payload::json, i.detail::json, i.at,
           case when i.run_id = any ({started}) then $2 else ",
    owner_of!("i.shard", "i.run_id"),
    " end
    from (select $1::smallint as shard, keys.*
          from unnest($39::integer[], $40::uuid[], $41::uuid[], $42::smallint[], $43::integer[], $44::text[],
                      $45::text[], $46::text[], $47::timestamptz[])
               as keys (tenant, run_id, item_id, kind, op, name, payload, detail, at)
          offset 0) as i,
         fence
    where i.run_id = any ({started})
       or (select true from runs where runs.shard = i.shard and runs.run_id = i.run_id)
    on conflict (shard, run_id, item_id) do nothing
)"
);

/// Messages that were read.
const CONSUMED: &str = "consumed as (
    delete from inbox
    using (select $1::smallint as shard, run_id, item_id
           from unnest($48::uuid[], $49::uuid[]) as keys (run_id, item_id) offset 0) as d,
          fence
    where inbox.shard = d.shard and inbox.run_id = d.run_id and inbox.item_id = d.item_id
)";

/// Entities: the latest is kept. One that is said again, as when a run is taken over, is not written again.
const KNOWN: &str = "known as (
    insert into entities (shard, tenant, run_id, document)
    select $1, e.tenant, e.run_id, e.document::json
    from unnest($54::integer[], $55::uuid[], $56::text[]) as e (tenant, run_id, document),
         fence
    where {e is not refused}
    on conflict (shard, run_id) do update set document = excluded.document
        where entities.document::text is distinct from excluded.document::text
)";

/// Attributes: the latest are kept, and those that go lose their value.
const FOUND_BY: &str = "found_by as (
    insert into attributes (shard, tenant, run_id, name, text, number, flag, time)
    select $1, a.tenant, a.run_id, a.name, a.text, a.number, a.flag, a.time
    from unnest($57::integer[], $58::uuid[], $59::text[], $60::text[], $61::double precision[],
                $62::boolean[], $63::timestamptz[])
         as a (tenant, run_id, name, text, number, flag, time),
         fence
    where {a is not refused}
    on conflict (shard, run_id, name)
        do update set text = excluded.text, number = excluded.number, flag = excluded.flag, time = excluded.time
        where (attributes.text, attributes.number, attributes.flag, attributes.time)
              is distinct from (excluded.text, excluded.number, excluded.flag, excluded.time)
)";

/// Tasks to offer, or to hold. An older attempt of the call may still have its row, if a statement of unknown fate was
/// repeated: its lease is worth nothing any more. One that nobody has makes room for whoever has it.
const OFFERED: &str = "offered as (
    insert into tasks (shard, tenant, run_id, op, seq, attempt, task_queue, name, priority, offered_at,
                       start_by, close_by, attempt_ms, silence_ms, heartbeat, lease, lease_ms, worker,
                       deadline, leased_until)
    select $1, t.tenant, t.run_id, t.op, t.seq, t.attempt, t.task_queue, t.name, t.priority, now(),
           t.start_by, t.close_by, t.attempt_ms, t.silence_ms, t.heartbeat::json, t.lease, t.lease_ms, t.worker,
           case when t.lease is not null then least(now() + t.attempt_ms * interval '1 millisecond', t.close_by) end,
           case when t.lease is not null then
               least(now() + least(t.lease_ms, t.silence_ms, t.attempt_ms) * interval '1 millisecond', t.close_by)
           end
    from unnest($64::integer[], $65::uuid[], $66::integer[], $67::integer[], $68::integer[], $69::text[],
                $70::text[], $71::smallint[], $72::timestamptz[], $73::timestamptz[], $74::bigint[],
                $75::bigint[], $76::text[], $77::uuid[], $78::bigint[], $79::text[])
         as t (tenant, run_id, op, seq, attempt, task_queue, name, priority, start_by, close_by, attempt_ms,
               silence_ms, heartbeat, lease, lease_ms, worker),
         fence
    where {t is not refused}
    on conflict (shard, run_id, op) do update
        set seq = excluded.seq, attempt = excluded.attempt, task_queue = excluded.task_queue,
            name = excluded.name, priority = excluded.priority, offered_at = excluded.offered_at,
            start_by = excluded.start_by, close_by = excluded.close_by, attempt_ms = excluded.attempt_ms,
            silence_ms = excluded.silence_ms, heartbeat = excluded.heartbeat, lease = excluded.lease,
            lease_ms = excluded.lease_ms, worker = excluded.worker, deadline = excluded.deadline,
            leased_until = excluded.leased_until, given_up = false
        where tasks.attempt < excluded.attempt
           or tasks.attempt = excluded.attempt and tasks.lease is null and excluded.lease is not null
)";

/// Tasks whose attempt has ended.
const SETTLED: &str = "settled as (
    delete from tasks
    using (select $1::smallint as shard, run_id, op
           from unnest($80::uuid[], $81::integer[]) as keys (run_id, op) offset 0) as d,
          fence
    where tasks.shard = d.shard and tasks.run_id = d.run_id and tasks.op = d.op
)";

/// Tasks that nobody waits for any more.
const GIVEN_UP: &str = "given_up as (
    update tasks set given_up = true
    from (select $1::smallint as shard, run_id, op
          from unnest($82::uuid[], $83::integer[]) as keys (run_id, op) offset 0) as d,
         fence
    where tasks.shard = d.shard and tasks.run_id = d.run_id and tasks.op = d.op
)";

/// Payloads that leave their rows, each once.
const STORED: &str = "stored as (
    insert into payloads (shard, tenant, digest, part, bytes)
    select $1, p.tenant, p.digest, p.part, p.bytes
    from unnest($84::integer[], $85::bytea[], $86::integer[], $87::bytea[], $88::uuid[])
         as p (tenant, digest, part, bytes, run_id),
         fence
    where p.run_id is null or {p is not refused}
    on conflict (shard, tenant, digest, part) do nothing
    returning tenant, octet_length(bytes) as bytes
),
used as (
    insert into payload_usage (shard, tenant, bytes)
    select $1, tenant, sum(bytes) from stored group by tenant order by tenant
    on conflict (shard, tenant) do update set bytes = payload_usage.bytes + excluded.bytes
)";

/// What the parts are called that have rows of runs which may be refused.
const MAY_BE_REFUSED: [&str; 5] = ["a", "e", "p", "r", "t"];

/// Which parts a batch has something for.
#[derive(Clone, Copy, Default)]
struct Parts {
    started: bool,
    changed: bool,
    done: bool,
    timed: bool,
    sent: bool,
    consumed: bool,
    known: bool,
    found_by: bool,
    offered: bool,
    settled: bool,
    given_up: bool,
    stored: bool,
}

/// How many parts a statement may have or not.
const PARTS: usize = 12;

impl Parts {
    fn of(items: &[Item]) -> Self {
        let mut parts = Self::default();
        for Item { append, .. } in items {
            parts.started |= !append.new_runs.is_empty();
            parts.changed |= append.status.is_some();
            parts.done |= !append.timers_done.is_empty();
            parts.timed |= !append.timers.is_empty();
            parts.sent |= !append.inbox.is_empty();
            parts.consumed |= !append.inbox_done.is_empty();
            parts.known |= append.projections.iter().any(|projection| projection.entity.is_some());
            parts.found_by |= append.projections.iter().any(|projection| !projection.attributes.is_empty());
            parts.offered |= !append.tasks.is_empty();
            parts.settled |= !append.tasks_done.is_empty();
            parts.given_up |= !append.tasks_given_up.is_empty();
            parts.stored |= !append.stored.is_empty();
        }
        parts
    }

    fn flags(self) -> [bool; PARTS] {
        let Self {
            started,
            changed,
            done,
            timed,
            sent,
            consumed,
            known,
            found_by,
            offered,
            settled,
            given_up,
            stored,
        } = self;
        [started, changed, done, timed, sent, consumed, known, found_by, offered, settled, given_up, stored]
    }

    /// Whether the parameters of tasks are needed, or some behind them.
    fn reaches_tasks(self) -> bool {
        self.offered || self.settled || self.given_up || self.stored
    }

    /// Whether those of entities and attributes are.
    fn reaches_projections(self) -> bool {
        self.known || self.found_by || self.reaches_tasks()
    }
}

/// The text of the statement with these parts. READ COMMITTED. Not idempotent as a whole: the primary key of `ledger` refuses a
/// repetition of rows, and the parts without rows may be repeated as long as nothing came between.
///
/// The plan is made once, usually while the tables are empty, so nothing in it may depend on their size.
/// Rows to change are found by a key that comes out of a subquery, shard included. `offset 0` keeps the
/// planner from seeing through it: with `shard = $1` beside it, reading all of the shard and filtering
/// looks as cheap as the key, and was chosen (1,000 closes took 430 ms instead of 12).
///
/// Locks: the host's lease (shared), then rows of runs that only this host may change. Another host's
/// batch shares no row with it, so two batches cannot deadlock.
fn text(parts: Parts) -> Arc<str> {
    static TEXTS: [OnceLock<Arc<str>>; 1 << PARTS] = [const { OnceLock::new() }; 1 << PARTS];
    let index = parts.flags().iter().fold(0, |index, flag| index << 1 | usize::from(*flag));
    Arc::clone(TEXTS[index].get_or_init(|| composed(parts).into()))
}

fn composed(parts: Parts) -> String {
    let optional =
        [STARTED, CHANGED, DONE, TIMED, SENT, CONSUMED, KNOWN, FOUND_BY, OFFERED, SETTLED, GIVEN_UP, STORED];
    let present =
        optional.into_iter().zip(parts.flags()).filter_map(|(part, present)| present.then_some(part));
    let all = [FENCE].into_iter().chain(present).collect::<Vec<_>>().join(",\n");
    let mut all = format!("{all},\n{APPENDED}");
    for part in MAY_BE_REFUSED {
        let condition = match parts.started {
            true => format!("{part}.run_id <> all (array(select run_id from refused))"),
            false => "true".to_owned(),
        };
        all = all.replace(&format!("{{{part} is not refused}}"), &condition);
    }
    let started = if parts.started { "array(select run_id from started)" } else { "array[]::uuid[]" };
    let all = all.replace("{started}", started);
    let changed = if parts.changed { "(select count(*) from changed)" } else { "0::bigint" };
    format!(
        "{all}\nselect (select beats from lease), {started}, {changed}, array(select run_id from missing),
                exists (select from session)"
    )
}

/// Sends one statement for all of `items`, which [`Batch::fits`] has let through together. `mark`: a heartbeat of the lease
/// that the database has taken before.
pub(crate) async fn execute(
    connection: &mut PgConnection,
    lease: (HostId, Epoch),
    mark: i64,
    scope: Scope,
    items: &[Item],
) -> Result<Appended, sqlx::Error> {
    let parts = Parts::of(items);
    let query = sqlx::query(AssertSqlSafe(text(parts))).bind(scope.shard.0).bind(lease.0.0).bind(lease.1.0);
    let query = bind_new_runs(query, items);
    let query = bind_rows(query, items);
    let query = bind_statuses(query, items);
    let query = bind_timers(query, items);
    let query = bind_inbox(query, items);
    let query = bind_heads(query, items).bind(mark);
    // The last ones, which many batches have no use for.
    let query = if parts.reaches_projections() { bind_projections(query, items) } else { query };
    let query = if parts.reaches_tasks() { bind_tasks(query, items) } else { query };
    let query = if parts.stored { bind_stored(query, items) } else { query };
    let row = query.fetch_one(connection).await?;
    if !row.try_get::<bool, _>(4)? {
        return Err(pooled());
    }
    let found: Option<i64> = row.try_get(0)?;
    Ok(Appended {
        fenced: found.is_none(),
        elsewhere: found.is_some_and(|found| found < mark),
        started: row.try_get(1)?,
        changed: row.try_get(2)?,
        behind: row.try_get(3)?,
    })
}

type Statement<'q> = Query<'q, Postgres, PgArguments>;

fn bind_new_runs<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let all = || items.iter().flat_map(|item| item.append.new_runs.iter().map(|new| (&item.append, new)));
    query
        .bind(all().map(|(append, _)| append.scope.tenant.0).bind_iter())
        .bind(all().map(|(_, new)| new.run.0).bind_iter())
        .bind(all().map(|(_, new)| &*new.workflow_id).bind_iter())
        .bind(all().map(|(_, new)| new.generation.cast_signed()).bind_iter())
        .bind(all().map(|(_, new)| &*new.workflow).bind_iter())
        .bind(all().map(|(_, new)| new.digest.0.as_slice()).bind_iter())
        .bind(all().map(|(_, new)| new.parent.map(|(run, _)| run.0)).bind_iter())
        .bind(all().map(|(_, new)| new.parent.map(|(_, op)| op.0.cast_signed())).bind_iter())
        .bind(all().map(|(_, new)| Timestamp(new.first.at_ms)).bind_iter())
}

/// Every ledger row of the batch: those of new runs, and the further rows of open ones.
pub(crate) fn rows_of(items: &[Item]) -> impl Iterator<Item = (&Append, RunId, &Row)> {
    items.iter().flat_map(|item| {
        let append = &item.append;
        let new =
            append.new_runs.iter().flat_map(move |new| new.rows().map(move |row| (append, new.run, row)));
        new.chain(append.rows.iter().map(move |row| (append, append.run, row)))
    })
}

fn bind_rows<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let all = || rows_of(items);
    query
        .bind(all().map(|(append, _, _)| append.scope.tenant.0).bind_iter())
        .bind(all().map(|(_, run, _)| run.0).bind_iter())
        .bind(all().map(|(_, _, row)| row.seq.0.cast_signed()).bind_iter())
        .bind(all().map(|(_, _, row)| row.kind).bind_iter())
        .bind(all().map(|(_, _, row)| row.op.map(|op| op.0.cast_signed())).bind_iter())
        .bind(all().map(|(_, _, row)| row.name.as_deref()).bind_iter())
        .bind(all().map(|(_, _, row)| row.payload.as_deref()).bind_iter())
        .bind(all().map(|(_, _, row)| row.detail.as_deref()).bind_iter())
        .bind(all().map(|(_, _, row)| row.attempt.map(u32::cast_signed)).bind_iter())
        .bind(all().map(|(_, _, row)| Timestamp(row.at_ms)).bind_iter())
        .bind(all().map(|(_, _, row)| row.chain.0.cast_signed()).bind_iter())
}

fn bind_statuses<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let all = || items.iter().filter_map(|item| item.append.status.as_ref().map(|to| (item.append.run, to)));
    let closes = || {
        all().map(|(_, to)| match to {
            StatusChange::Close(close) => Some(close),
            StatusChange::Park { .. } | StatusChange::Pause | StatusChange::Run => None,
        })
    };
    let status = |to: &StatusChange| match to {
        StatusChange::Close(close) => close.status,
        StatusChange::Park { .. } => RunStatus::Parked,
        StatusChange::Run => RunStatus::Running,
        StatusChange::Pause => RunStatus::Paused,
    };
    query
        .bind(all().map(|(run, _)| run.0).bind_iter())
        .bind(all().map(|(_, to)| status(to).tag()).bind_iter())
        .bind(closes().map(|close| close.and_then(|close| close.output.as_deref())).bind_iter())
        .bind(closes().map(|close| close.and_then(|close| close.error.as_deref())).bind_iter())
        .bind(all().map(|(_, to)| fault(to)).bind_iter())
        .bind(closes().map(|close| close.map(|close| close.rows.0.cast_signed())).bind_iter())
        .bind(closes().map(|close| close.map(|close| close.chain.0.cast_signed())).bind_iter())
        .bind(closes().map(|close| close.map(|close| Timestamp(close.at_ms))).bind_iter())
}

fn fault(change: &StatusChange) -> Option<&str> {
    match change {
        StatusChange::Park { fault } => Some(fault),
        StatusChange::Close(_) | StatusChange::Pause | StatusChange::Run => None,
    }
}

fn bind_timers<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let set = || items.iter().flat_map(|item| item.append.timers.iter().map(|timer| (&item.append, timer)));
    // A timer that the same append sets again is replaced, not removed.
    let replaces = items.iter().map(|item| &item.append).filter(|append| !append.timers_done.is_empty());
    let again: HashSet<(RunId, Op)> =
        replaces.flat_map(|append| append.timers.iter().map(|timer| (timer.run, timer.op))).collect();
    let done = || items.iter().flat_map(|item| &item.append.timers_done).filter(|key| !again.contains(key));
    query
        .bind(set().map(|(append, _)| append.scope.tenant.0).bind_iter())
        .bind(set().map(|(_, timer)| timer.run.0).bind_iter())
        .bind(set().map(|(_, timer)| timer.op.0.cast_signed()).bind_iter())
        .bind(set().map(|(_, timer)| Timestamp(timer.due_ms)).bind_iter())
        .bind(set().map(|(_, timer)| timer.purpose).bind_iter())
        .bind(done().map(|(run, _)| run.0).bind_iter())
        .bind(done().map(|(_, op)| op.0.cast_signed()).bind_iter())
}

fn bind_inbox<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let sent = || items.iter().flat_map(|item| item.append.inbox.iter().map(|sent| (&item.append, sent)));
    let done = || items.iter().flat_map(|item| &item.append.inbox_done);
    query
        .bind(sent().map(|(append, _)| append.scope.tenant.0).bind_iter())
        .bind(sent().map(|(_, item)| item.run.0).bind_iter())
        .bind(sent().map(|(_, item)| item.item_id).bind_iter())
        .bind(sent().map(|(_, item)| item.message.kind).bind_iter())
        .bind(sent().map(|(_, item)| item.message.op.map(|op| op.0.cast_signed())).bind_iter())
        .bind(sent().map(|(_, item)| item.message.name.as_deref()).bind_iter())
        .bind(sent().map(|(_, item)| item.message.payload.as_deref()).bind_iter())
        .bind(sent().map(|(_, item)| item.message.detail.as_deref()).bind_iter())
        .bind(sent().map(|(_, item)| Timestamp(item.at_ms)).bind_iter())
        .bind(done().map(|(run, _)| run.0).bind_iter())
        .bind(done().map(|(_, item)| *item).bind_iter())
}

/// The row that the first append to each run of the batch follows. What the others follow is in the batch itself:
/// [`Batch::fits`](super::Batch::fits) has seen to it.
fn bind_heads<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let mut seen: HashSet<RunId> = HashSet::with_capacity(items.len());
    let mut heads: Vec<(RunId, Head)> = Vec::with_capacity(items.len());
    for Item { append, .. } in items {
        seen.extend(append.new_runs.iter().map(|new| new.run));
        if let Some(head) = append.after
            && seen.insert(append.run)
        {
            heads.push((append.run, head));
        }
    }
    query
        .bind(heads.iter().map(|(run, _)| run.0).bind_iter())
        .bind(heads.iter().map(|(_, head)| head.seq.0.cast_signed()).bind_iter())
        .bind(heads.iter().map(|(_, head)| head.chain.0.cast_signed()).bind_iter())
}

fn bind_projections<'q>(query: Statement<'q>, items: &'q [Item]) -> Statement<'q> {
    let all = || items.iter().flat_map(|item| item.append.projections.iter().map(|of| (&item.append, of)));
    let known =
        || all().filter_map(|(append, of)| of.entity.as_deref().map(|entity| (append, of.run, entity)));
    let found = || {
        all().flat_map(|(append, of)| {
            of.attributes.iter().map(move |(name, value)| (append, of.run, name, value))
        })
    };
    query
        .bind(known().map(|(append, ..)| append.scope.tenant.0).bind_iter())
        .bind(known().map(|(_, run, _)| run.0).bind_iter())
        .bind(known().map(|(.., entity)| entity).bind_iter())
        .bind(found().map(|(append, ..)| append.scope.tenant.0).bind_iter())
        .bind(found().map(|(_, run, ..)| run.0).bind_iter())
        .bind(found().map(|(_, _, name, _)| &**name).bind_iter())
        .bind(found().map(|(.., value)| attribute::text(value)).bind_iter())
        .bind(found().map(|(.., value)| attribute::number(value)).bind_iter())
        .bind(found().map(|(.., value)| attribute::flag(value)).bind_iter())
        .bind(found().map(|(.., value)| attribute::time(value)).bind_iter())
}

fn bind_tasks<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let all = || items.iter().flat_map(|item| item.append.tasks.iter().map(|task| (&item.append, task)));
    let taken = || all().map(|(_, task)| task.taken.as_ref());
    let done = || items.iter().flat_map(|item| item.append.tasks_done.iter().map(|op| (item.append.run, op)));
    let given_up =
        || items.iter().flat_map(|item| item.append.tasks_given_up.iter().map(|op| (item.append.run, op)));
    let span = |ms: Option<u64>| ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
    query
        .bind(all().map(|(append, _)| append.scope.tenant.0).bind_iter())
        .bind(all().map(|(append, _)| append.run.0).bind_iter())
        .bind(all().map(|(_, task)| task.op.0.cast_signed()).bind_iter())
        .bind(all().map(|(_, task)| task.seq.0.cast_signed()).bind_iter())
        .bind(all().map(|(_, task)| task.attempt.cast_signed()).bind_iter())
        .bind(all().map(|(_, task)| &*task.task_queue).bind_iter())
        .bind(all().map(|(_, task)| &*task.name).bind_iter())
        .bind(all().map(|(_, task)| i16::from(task.priority)).bind_iter())
        .bind(all().map(|(_, task)| task.start_by_ms.map(Timestamp)).bind_iter())
        .bind(all().map(|(_, task)| task.close_by_ms.map(Timestamp)).bind_iter())
        .bind(all().map(|(_, task)| span(task.attempt_ms)).bind_iter())
        .bind(all().map(|(_, task)| span(task.heartbeat_timeout_ms)).bind_iter())
        .bind(all().map(|(_, task)| task.heartbeat.as_deref()).bind_iter())
        .bind(taken().map(|taken| taken.map(|taken| taken.lease.0)).bind_iter())
        .bind(taken().map(|taken| span(taken.and_then(|taken| taken.lease_ms))).bind_iter())
        .bind(taken().map(|taken| taken.map(|taken| &*taken.worker)).bind_iter())
        .bind(done().map(|(run, _)| run.0).bind_iter())
        .bind(done().map(|(_, op)| op.0.cast_signed()).bind_iter())
        .bind(given_up().map(|(run, _)| run.0).bind_iter())
        .bind(given_up().map(|(_, op)| op.0.cast_signed()).bind_iter())
}

fn bind_stored<'q>(query: Statement<'q>, items: &[Item]) -> Statement<'q> {
    let parts = store::parts(items.iter().flat_map(|item| &item.append.stored));
    query
        .bind(parts.iter().map(|part| part.tenant).bind_iter())
        .bind(parts.iter().map(|part| part.digest).bind_iter())
        .bind(parts.iter().map(|part| part.index).bind_iter())
        .bind(parts.iter().map(|part| part.bytes).bind_iter())
        .bind(parts.iter().map(|part| part.first_of).bind_iter())
}

/// Which of these rows are in the ledger just as given: place and chain. Reads only.
pub(crate) async fn read_back(
    connection: &mut PgConnection,
    scope: Scope,
    rows: &[(RunId, Seq, Chain)],
) -> Result<HashSet<(RunId, Seq)>, sqlx::Error> {
    let found: Vec<(Uuid, i32)> = sqlx::query_as(
        "select l.run_id, l.seq
         from unnest($2::uuid[], $3::integer[], $4::bigint[]) as wanted (run_id, seq, chain)
         join ledger l on l.shard = $1 and l.run_id = wanted.run_id and l.seq = wanted.seq
                      and l.chain = wanted.chain",
    )
    .bind(scope.shard.0)
    .bind(rows.iter().map(|(run, _, _)| run.0).bind_iter())
    .bind(rows.iter().map(|(_, seq, _)| seq.0.cast_signed()).bind_iter())
    .bind(rows.iter().map(|(_, _, chain)| chain.0.cast_signed()).bind_iter())
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|(run, seq)| (RunId(run), Seq(seq.cast_unsigned()))).collect())
}
