//! The tables of a shard: as text, kept and brought back, and made older.

use backstitch_core::{HostId, Op, RunId, Shard};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

const TABLES: [&str; 8] = ["leases", "runs", "ledger", "timers", "inbox", "tasks", "entities", "attributes"];

/// Makes room for what is kept.
pub(crate) async fn prepare(session: &mut PgConnection) {
    run(session, "create schema marked".to_owned()).await;
    for table in TABLES {
        run(session, format!("create unlogged table marked.{table} (like public.{table})")).await;
    }
}

async fn run(session: &mut PgConnection, statement: String) {
    sqlx::query(AssertSqlSafe(statement)).execute(session).await.unwrap();
}

/// Keeps the tables of a shard as they are.
pub(crate) async fn mark(session: &mut PgConnection, shard: Shard) {
    let mut transaction = session.begin().await.unwrap();
    for table in TABLES {
        let shard = shard.0;
        run(&mut transaction, format!("delete from marked.{table} where shard = {shard}")).await;
        let kept = format!("insert into marked.{table} select * from public.{table} where shard = {shard}");
        run(&mut transaction, kept).await;
    }
    transaction.commit().await.unwrap();
}

/// Brings back what was kept: what a failover does to a server that lacks the last commits. If nothing was kept, all is lost.
pub(crate) async fn lose(session: &mut PgConnection, shard: Shard) {
    let mut transaction = session.begin().await.unwrap();
    for table in TABLES {
        let shard = shard.0;
        run(&mut transaction, format!("delete from public.{table} where shard = {shard}")).await;
        let back = format!("insert into public.{table} select * from marked.{table} where shard = {shard}");
        run(&mut transaction, back).await;
    }
    transaction.commit().await.unwrap();
}

/// Makes a host's last heartbeat a day older.
pub(crate) async fn backdate_lease(session: &mut PgConnection, shard: Shard, host: HostId) {
    sqlx::query(
        "update leases set heartbeat_at = heartbeat_at - interval '1 day' where shard = $1 and host_id = $2",
    )
    .bind(shard.0)
    .bind(host.0)
    .execute(session)
    .await
    .unwrap();
}

/// Makes the bounds of an attempt that is under way a day earlier.
pub(crate) async fn backdate_task(session: &mut PgConnection, shard: Shard, run: RunId, op: Op) {
    sqlx::query(
        "update tasks set leased_until = leased_until - interval '1 day', deadline = deadline - interval '1 day'
         where shard = $1 and run_id = $2 and op = $3",
    )
    .bind(shard.0)
    .bind(run.0)
    .bind(op.0.cast_signed())
    .execute(session)
    .await
    .unwrap();
}

/// Which tasks have left the messages with these ids.
pub(crate) async fn given(session: &mut PgConnection, shard: Shard, ids: &[Uuid]) -> Vec<(RunId, Op, Uuid)> {
    let given: Vec<(Uuid, i32, Uuid)> =
        sqlx::query_as("select run_id, op, item_id from inbox where shard = $1 and item_id = any ($2)")
            .bind(shard.0)
            .bind(ids)
            .fetch_all(session)
            .await
            .unwrap();
    given.into_iter().map(|(run, op, item)| (RunId(run), Op(op.cast_unsigned()), item)).collect()
}

/// As `Database::shown` of the model.
const SHOWN: &str = "
select concat_ws('|', 'lease', host_id, epoch, lease_ms, dead::text, released::text,
                 (heartbeat_at + lease_ms * interval '1 millisecond' < now())::text)
from leases where shard = $1
union all
select concat_ws('|', 'run', run_id, tenant, workflow_id, generation, workflow, status,
                 coalesce(owner::text, '-'), coalesce(parent_run::text, '-'), coalesce(parent_op::text, '-'),
                 coalesce(output::text, '-'), coalesce(error::text, '-'), coalesce(fault::text, '-'),
                 coalesce(rows::text, '-'), coalesce(chain::text, '-'), losses, trial, coalesce(trial_op::text, '-'),
                 (extract(epoch from started_at) * 1000)::bigint,
                 coalesce((extract(epoch from closed_at) * 1000)::bigint::text, '-'))
from runs where shard = $1
union all
select concat_ws('|', 'row', run_id, tenant, seq, kind, coalesce(op::text, '-'), coalesce(name, '-'),
                 coalesce(payload::text, '-'), coalesce(detail::text, '-'), coalesce(attempt::text, '-'),
                 (extract(epoch from at) * 1000)::bigint, chain)
from ledger where shard = $1
union all
select concat_ws('|', 'timer', run_id, tenant, op, (extract(epoch from due_at) * 1000)::bigint, purpose,
                 coalesce(owner::text, '-'))
from timers where shard = $1
union all
select concat_ws('|', 'item', run_id, item_id, tenant, kind, coalesce(op::text, '-'), coalesce(name, '-'),
                 coalesce(payload::text, '-'), coalesce(detail::text, '-'), (extract(epoch from at) * 1000)::bigint,
                 case owner when '00000000-0000-0000-0000-000000000000' then '-' else owner::text end)
from inbox where shard = $1
union all
select concat_ws('|', 'task', run_id, tenant, op, seq, attempt, task_queue, name, priority,
                 coalesce((extract(epoch from start_by) * 1000)::bigint::text, '-'),
                 coalesce((extract(epoch from close_by) * 1000)::bigint::text, '-'),
                 coalesce(attempt_ms::text, '-'), coalesce(silence_ms::text, '-'), coalesce(heartbeat::text, '-'),
                 coalesce(lease::text, '-'), coalesce(lease_ms::text, '-'),
                 case when leased_until <= now() then 'past' when leased_until > now() then 'future' else '-' end,
                 case when deadline <= now() then 'past' when deadline > now() then 'future' else '-' end,
                 coalesce(worker, '-'), given_up::text)
from tasks where shard = $1
union all
select concat_ws('|', 'entity', run_id, tenant, document::text) from entities where shard = $1
union all
select concat_ws('|', 'attribute', run_id, tenant, name,
                 coalesce('t' || text, 'n' || number::text, 'f' || flag::text,
                          'm' || (extract(epoch from time) * 1000)::bigint::text, '-'))
from attributes where shard = $1";

/// Every row of a shard, sorted.
pub(crate) async fn shown(session: &mut PgConnection, shard: Shard) -> Vec<String> {
    let mut lines: Vec<String> = sqlx::query_scalar(SHOWN).bind(shard.0).fetch_all(session).await.unwrap();
    lines.sort_unstable();
    lines
}
