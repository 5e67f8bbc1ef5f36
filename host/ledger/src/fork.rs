//! Runs that begin with more than one row: what a fork or a reset makes.
//!
//! Nobody owns them: the next claim of whichever host takes them up, as it does with the runs of a host
//! that died. So no lease has to stand behind the rows, which nobody else can know of before the commit.

use backstitch_core::{Attribute, Row, Scope};
use sqlx::postgres::PgBindIterExt;

use crate::append::{NewItem, NewProjection, NewRun, NewTimer};
use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::payloads::{Payloads, Place, Spot, store};
use crate::pool::Transaction;
use crate::time::Timestamp;

/// Rows of one statement.
const ROWS_AT_ONCE: usize = 1_000;

/// A run with the rows that it begins with, and all that belongs to them.
#[derive(Clone, Debug)]
pub struct ForkedRun {
    /// Where it lives.
    pub scope: Scope,
    /// The run and its row 0.
    pub run: NewRun,
    /// Its further rows.
    pub rows: Vec<Row>,
    /// Its timers.
    pub timers: Vec<NewTimer>,
    /// Its entity and attributes.
    pub projection: NewProjection,
    /// Children that it waits for. One whose workflow id is taken is left out: the run hears of it.
    pub children: Vec<NewRun>,
    /// Messages to it.
    pub inbox: Vec<NewItem>,
}

impl Ledger {
    /// Puts a run into the database, in one transaction. False: its workflow id is taken in that
    /// generation, and nothing was written. Must not be repeated blindly after a lost reply: look for the
    /// run.
    ///
    /// Not one statement: a ledger may have hundreds of megabytes. Whoever waits meanwhile for the workflow id, or for the
    /// tenant's row of `payload_usage`, waits no longer than `lock_timeout`; and if this host stands still in between, the
    /// server ends the session before a lease is over (`idle_in_transaction_session_timeout`).
    pub async fn insert_fork(&self, fork: &ForkedRun) -> Result<bool, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        let payloads = self.payloads();
        if !insert_run(&mut transaction, fork.scope, payloads, &fork.run).await? {
            transaction.rollback().await?;
            return Ok(false);
        }
        for rows in fork.rows.chunks(ROWS_AT_ONCE) {
            insert_rows(&mut transaction, fork.scope, payloads, &fork.run, rows).await?;
        }
        for child in &fork.children {
            insert_run(&mut transaction, fork.scope, payloads, child).await?;
        }
        insert_timers(&mut transaction, fork.scope, &fork.timers).await?;
        insert_projection(&mut transaction, fork.scope, payloads, &fork.projection).await?;
        insert_items(&mut transaction, fork.scope, payloads, &fork.inbox).await?;
        transaction.commit().await.map_err(LedgerError::Unknown)?;
        Ok(true)
    }
}

/// A run without an owner, and its first row. False: its workflow id or run id is taken.
async fn insert_run(
    to: &mut Transaction,
    scope: Scope,
    payloads: &Payloads,
    new: &NewRun,
) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query(
        "insert into runs (shard, tenant, run_id, workflow_id, generation, workflow, digest, status,
                           parent_run, parent_op, started_at)
         values ($1, $2, $3, $4, $5, $6, $7, 1, $8, $9, $10)
         on conflict do nothing",
    )
    .bind(scope.shard.0)
    .bind(scope.tenant.0)
    .bind(new.run.0)
    .bind(&*new.workflow_id)
    .bind(new.generation.cast_signed())
    .bind(&*new.workflow)
    .bind(new.digest.0.as_slice())
    .bind(new.parent.map(|(run, _)| run.0))
    .bind(new.parent.map(|(_, op)| op.0.cast_signed()))
    .bind(Timestamp(new.first.at_ms))
    .execute(&mut *to)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    insert_rows(to, scope, payloads, new, std::slice::from_ref(&new.first)).await?;
    insert_rows(to, scope, payloads, new, &new.further).await?;
    Ok(true)
}

async fn insert_rows(
    to: &mut Transaction,
    scope: Scope,
    payloads: &Payloads,
    new: &NewRun,
    rows: &[Row],
) -> Result<(), sqlx::Error> {
    let (mut rows, mut stored) = (rows.to_vec(), Vec::new());
    rows.iter_mut().for_each(|row| payloads.seal_row(scope.tenant, new.run, row, &mut stored));
    store::insert(to, scope.shard, &stored).await?;
    sqlx::query(
        "insert into ledger (shard, tenant, run_id, seq, kind, op, name, payload, detail, attempt, at, chain)
         select $1, $2, $3, r.seq, r.kind, r.op, r.name, r.payload::json, r.detail::json, r.attempt, r.at, r.chain
         from unnest($4::integer[], $5::smallint[], $6::integer[], $7::text[], $8::text[], $9::text[],
                     $10::integer[], $11::timestamptz[], $12::bigint[])
              as r (seq, kind, op, name, payload, detail, attempt, at, chain)",
    )
    .bind(scope.shard.0)
    .bind(scope.tenant.0)
    .bind(new.run.0)
    .bind(rows.iter().map(|row| row.seq.0.cast_signed()).bind_iter())
    .bind(rows.iter().map(|row| row.kind).bind_iter())
    .bind(rows.iter().map(|row| row.op.map(|op| op.0.cast_signed())).bind_iter())
    .bind(rows.iter().map(|row| row.name.as_deref()).bind_iter())
    .bind(rows.iter().map(|row| row.payload.as_deref()).bind_iter())
    .bind(rows.iter().map(|row| row.detail.as_deref()).bind_iter())
    .bind(rows.iter().map(|row| row.attempt.map(u32::cast_signed)).bind_iter())
    .bind(rows.iter().map(|row| Timestamp(row.at_ms)).bind_iter())
    .bind(rows.iter().map(|row| row.chain.0.cast_signed()).bind_iter())
    .execute(&mut *to)
    .await?;
    Ok(())
}

async fn insert_timers(to: &mut Transaction, scope: Scope, timers: &[NewTimer]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into timers (shard, tenant, run_id, op, due_at, purpose)
         select $1, $2, t.run_id, t.op, t.due_at, t.purpose
         from unnest($3::uuid[], $4::integer[], $5::timestamptz[], $6::smallint[])
              as t (run_id, op, due_at, purpose)",
    )
    .bind(scope.shard.0)
    .bind(scope.tenant.0)
    .bind(timers.iter().map(|timer| timer.run.0).bind_iter())
    .bind(timers.iter().map(|timer| timer.op.0.cast_signed()).bind_iter())
    .bind(timers.iter().map(|timer| Timestamp(timer.due_ms)).bind_iter())
    .bind(timers.iter().map(|timer| timer.purpose).bind_iter())
    .execute(&mut *to)
    .await?;
    Ok(())
}

async fn insert_projection(
    to: &mut Transaction,
    scope: Scope,
    payloads: &Payloads,
    projection: &NewProjection,
) -> Result<(), sqlx::Error> {
    if let Some(document) = &projection.entity {
        let place = Place::Run { tenant: scope.tenant, run: projection.run, op: None, spot: Spot::Entity };
        let sealed = payloads.seal_inline(&place, document);
        sqlx::query("insert into entities (shard, tenant, run_id, document) values ($1, $2, $3, $4::json)")
            .bind(scope.shard.0)
            .bind(scope.tenant.0)
            .bind(projection.run.0)
            .bind(sealed.as_deref().unwrap_or(document))
            .execute(&mut *to)
            .await?;
    }
    for (name, value) in &projection.attributes {
        let (mut text, mut number, mut flag, mut time) = (None, None, None, None);
        match value {
            Some(Attribute::Text(value)) => text = Some(&**value),
            Some(Attribute::Number(value)) => number = Some(*value),
            Some(Attribute::Flag(value)) => flag = Some(*value),
            Some(Attribute::TimeMs(ms)) => time = Some(Timestamp(*ms)),
            None => continue,
        }
        sqlx::query(
            "insert into attributes (shard, tenant, run_id, name, text, number, flag, time)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(projection.run.0)
        .bind(&**name)
        .bind(text)
        .bind(number)
        .bind(flag)
        .bind(time)
        .execute(&mut *to)
        .await?;
    }
    Ok(())
}

/// Messages to the run. Their ids must be new.
async fn insert_items(
    to: &mut Transaction,
    scope: Scope,
    payloads: &Payloads,
    items: &[NewItem],
) -> Result<(), sqlx::Error> {
    let (mut items, mut stored) = (items.to_vec(), Vec::new());
    for item in &mut items {
        payloads.seal_message(scope.tenant, item.run, item.item_id, &mut item.message, &mut stored);
    }
    store::insert(to, scope.shard, &stored).await?;
    // They name nobody, as the run does: whoever claims it finds them.
    sqlx::query(
        "insert into inbox (shard, tenant, run_id, item_id, kind, op, name, payload, detail, at)
         select $1, $2, i.run_id, i.item_id, i.kind, i.op, i.name, i.payload::json, i.detail::json, i.at
         from unnest($3::uuid[], $4::uuid[], $5::smallint[], $6::integer[], $7::text[], $8::text[], $9::text[],
                     $10::timestamptz[])
              as i (run_id, item_id, kind, op, name, payload, detail, at)
         on conflict (shard, run_id, item_id) do nothing",
    )
    .bind(scope.shard.0)
    .bind(scope.tenant.0)
    .bind(items.iter().map(|item| item.run.0).bind_iter())
    .bind(items.iter().map(|item| item.item_id).bind_iter())
    .bind(items.iter().map(|item| item.message.kind).bind_iter())
    .bind(items.iter().map(|item| item.message.op.map(|op| op.0.cast_signed())).bind_iter())
    .bind(items.iter().map(|item| item.message.name.as_deref()).bind_iter())
    .bind(items.iter().map(|item| item.message.payload.as_deref()).bind_iter())
    .bind(items.iter().map(|item| item.message.detail.as_deref()).bind_iter())
    .bind(items.iter().map(|item| Timestamp(item.at_ms)).bind_iter())
    .execute(&mut *to)
    .await?;
    Ok(())
}
