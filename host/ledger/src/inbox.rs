//! The inbox: messages that anyone may send to a run, and that only its owner consumes.
//!
//! A message is removed by the append that records what it did ([`crate::Append::inbox_done`]), so it
//! has its effect exactly once. A message that was accepted while the run was open may find it closed
//! when it is read: the owner gets it all the same, with the run's status, and decides.

use backstitch_core::inbox::MessageRow;
use backstitch_core::{HostId, Op, RunId, RunStatus, Scope, TenantId};
use sqlx::{Connection as _, FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::payloads::store::{self, of_run, unopened};
use crate::payloads::{Column, Spot};
use crate::time::Timestamp;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is durable, and was accepted while the run was open.
    Accepted {
        /// Who should be told that it is there.
        owner: Option<HostId>,
    },
    /// The run is closed: nothing was written.
    Closed(RunStatus),
    /// There is no such run.
    Unknown,
}

/// A message for a run of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxItem {
    /// Where the run lives.
    pub scope: Scope,
    /// The run.
    pub run: RunId,
    /// The message's identity.
    pub item_id: Uuid,
    /// The message.
    pub message: MessageRow,
    /// When it was sent, in milliseconds since the epoch.
    pub at_ms: u64,
    /// How the run stands.
    pub status: RunStatus,
}

#[derive(FromRow)]
struct ItemRow {
    tenant: i32,
    run_id: Uuid,
    item_id: Uuid,
    kind: i16,
    op: Option<i32>,
    name: Option<String>,
    payload: Option<String>,
    detail: Option<String>,
    at: Timestamp,
    status: i16,
}

impl Ledger {
    /// Sends a message to an open run. Idempotent by `item_id`, a UUID v7.
    ///
    /// The run's row is locked FOR SHARE, so that a close either sees the message or is seen by it.
    pub async fn post(
        &self,
        scope: Scope,
        run: RunId,
        item_id: Uuid,
        at_ms: u64,
        message: &MessageRow,
    ) -> Result<Posted, LedgerError> {
        let (mut message, mut stored) = (message.clone(), Vec::new());
        self.payloads().seal_message(scope.tenant, run, item_id, &mut message, &mut stored);
        let mut connection = self.pool.acquire().await?;
        if stored.is_empty() {
            return post(&mut connection, scope, run, item_id, at_ms, &message).await;
        }
        let mut transaction = connection.begin().await?;
        let posted = post(&mut transaction, scope, run, item_id, at_ms, &message).await?;
        if matches!(posted, Posted::Accepted { .. }) {
            store::insert(&mut transaction, scope.shard, &stored).await?;
        }
        transaction.commit().await?;
        Ok(posted)
    }

    /// Moves a message to the inbox of another run. False: it is not there any more.
    ///
    /// One statement on one row, so of several who try one succeeds; may be repeated. Not fenced, as a
    /// post is not: whoever owns the other run reads it there.
    pub async fn move_item(&self, from: RunId, item_id: Uuid, to: RunId) -> Result<bool, LedgerError> {
        if self.payloads().is_bound() {
            return self.reseal_item(from, item_id, to).await;
        }
        let moved =
            sqlx::query("update inbox set run_id = $4 where shard = $1 and run_id = $2 and item_id = $3")
                .bind(self.shard.0)
                .bind(from.0)
                .bind(item_id)
                .bind(to.0)
                .execute(&self.pool)
                .await?;
        Ok(moved.rows_affected() > 0)
    }

    /// [`Self::move_item`], where what is sealed is bound to its run. The row is locked in between.
    async fn reseal_item(&self, from: RunId, item_id: Uuid, to: RunId) -> Result<bool, LedgerError> {
        let mut transaction = self.pool.begin().await?;
        let row: Option<ItemRow> = sqlx::query_as(
            "select tenant, run_id, item_id, kind, op, name, payload::text, detail::text, at, 1::smallint as status
             from inbox where shard = $1 and run_id = $2 and item_id = $3 for update",
        )
        .bind(self.shard.0)
        .bind(from.0)
        .bind(item_id)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let tenant = TenantId(row.tenant);
        let mut items = self.items(&mut *transaction, vec![row]).await?;
        let Some(InboxItem { mut message, .. }) = items.pop() else {
            return Err(LedgerError::Corrupt(format!("message {item_id} of run {from} cannot be opened")));
        };
        let mut stored = Vec::new();
        self.payloads().seal_message(tenant, to, item_id, &mut message, &mut stored);
        store::insert(&mut transaction, self.shard, &stored).await?;
        sqlx::query(
            "update inbox set run_id = $4, payload = $5::json, detail = $6::json
             where shard = $1 and run_id = $2 and item_id = $3",
        )
        .bind(self.shard.0)
        .bind(from.0)
        .bind(item_id)
        .bind(to.0)
        .bind(message.payload.as_deref())
        .bind(message.detail.as_deref())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Messages for runs that `host` owns, open or closed, oldest first, at most `limit`, without
    /// those that it is working on. Reads only.
    pub async fn inbox_for(
        &self,
        host: HostId,
        working_on: &[Uuid],
        limit: i64,
    ) -> Result<Vec<InboxItem>, LedgerError> {
        let rows: Vec<ItemRow> = sqlx::query_as(
            "select i.tenant, i.run_id, i.item_id, i.kind, i.op, i.name, i.payload::text, i.detail::text,
                    i.at, r.status
             from inbox i join runs r on r.shard = $1 and r.run_id = i.run_id
             where i.shard = $1 and i.kind >= 0 and r.owner = $2 and i.item_id <> all ($3)
             order by i.item_id limit $4",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(working_on)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        self.items(&self.pool, rows).await
    }

    /// Messages for closed runs whose owner is dead: the last thing that a host may have died over.
    /// Anyone may handle them; handling twice must do no harm. Reads only.
    pub async fn inbox_left_behind(&self, limit: i64) -> Result<Vec<InboxItem>, LedgerError> {
        let rows: Vec<ItemRow> = sqlx::query_as(
            "select i.tenant, i.run_id, i.item_id, i.kind, i.op, i.name, i.payload::text, i.detail::text,
                    i.at, r.status
             from inbox i join runs r on r.shard = $1 and r.run_id = i.run_id
             where i.shard = $1 and i.kind >= 0 and r.status >= 10
               and not exists (select from leases l
                               where l.shard = $1 and l.host_id = r.owner and not l.dead)
             order by i.item_id limit $2",
        )
        .bind(self.shard.0)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        self.items(&self.pool, rows).await
    }

    /// Messages as they were sent. One that cannot be opened stays where it is, and is no business of the others.
    async fn items(
        &self,
        executor: impl PgExecutor<'_>,
        mut rows: Vec<ItemRow>,
    ) -> Result<Vec<InboxItem>, LedgerError> {
        let mut columns: Vec<_> = Vec::with_capacity(2 * rows.len());
        for row in &mut rows {
            let place = |column| of_run(row.tenant, row.run_id, row.op, Spot::Item(row.item_id, column));
            columns.push((place(Column::Payload), &mut row.payload as &mut dyn store::Column));
            columns.push((place(Column::Detail), &mut row.detail as _));
        }
        let failed = self.open_each(executor, &mut columns).await?;
        let mut unread = Vec::new();
        for (index, error) in failed {
            tracing::error!(error = %unopened(&columns[index].0, &error), "a message cannot be read");
            unread.push(index / 2);
        }
        drop(columns);
        let items = rows.into_iter().enumerate().filter(|(index, _)| !unread.contains(index));
        items.map(|(_, row)| self.item(row)).collect()
    }

    fn item(&self, row: ItemRow) -> Result<InboxItem, LedgerError> {
        let mut message = MessageRow {
            kind: row.kind,
            op: row.op.map(|op| Op(op.cast_unsigned())),
            name: row.name.map(Into::into),
            payload: row.payload.map(Into::into),
            detail: row.detail.map(Into::into),
        };
        let opened = self.payloads().open_heartbeat(TenantId(row.tenant), RunId(row.run_id), &message);
        let unopened = |error| unopened(&of_run(row.tenant, row.run_id, row.op, Spot::Heartbeat), &error);
        if let Some(detail) = opened.map_err(unopened)? {
            message.detail = Some(detail.into());
        }
        Ok(InboxItem {
            scope: self.scope(TenantId(row.tenant)),
            run: RunId(row.run_id),
            item_id: row.item_id,
            message,
            at_ms: row.at.0,
            status: known(RunStatus::from_tag(row.status), "run status", row.status)?,
        })
    }
}

/// See [`Ledger::post`]. The message is in its stored form.
async fn post(
    connection: &mut PgConnection,
    scope: Scope,
    run: RunId,
    item_id: Uuid,
    at_ms: u64,
    message: &MessageRow,
) -> Result<Posted, LedgerError> {
    let found: Option<(i16, Option<Uuid>)> = sqlx::query_as(
        "with target as materialized (
             select status, owner from runs where shard = $1 and tenant = $2 and run_id = $3 for share
         ),
         posted as (
             insert into inbox (shard, tenant, run_id, item_id, kind, op, name, payload, detail, at)
             select $1, $2, $3, $4, $5, $6, $7, $8::json, $9::json, $10 from target where status < 10
             on conflict (shard, run_id, item_id) do nothing
         )
         select status, owner from target",
    )
    .bind(scope.shard.0)
    .bind(scope.tenant.0)
    .bind(run.0)
    .bind(item_id)
    .bind(message.kind)
    .bind(message.op.map(|op| op.0.cast_signed()))
    .bind(message.name.as_deref())
    .bind(message.payload.as_deref())
    .bind(message.detail.as_deref())
    .bind(Timestamp(at_ms))
    .fetch_optional(connection)
    .await?;
    let Some((tag, owner)) = found else { return Ok(Posted::Unknown) };
    let status = known(RunStatus::from_tag(tag), "run status", tag)?;
    Ok(if status.is_open() { Posted::Accepted { owner: owner.map(HostId) } } else { Posted::Closed(status) })
}
