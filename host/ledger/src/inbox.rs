//! The inbox: messages that anyone may send to a run, and that only its owner consumes.
//!
//! A message is removed by the append that records what it did ([`crate::Append::inbox_done`]), so it
//! has its effect exactly once. A message that was accepted while the run was open may find it closed
//! when it is looked for: see `pass_on`.

/// Who owns a run: whose look finds a message to it. Zeros: nobody. See `migrations/0012_inbox_owners.sql`.
macro_rules! owner_of {
    ($shard:literal, $run:literal) => {
        concat!(
            "coalesce((select o.owner from runs o where o.shard = ",
            $shard,
            " and o.run_id = ",
            $run,
            "), '00000000-0000-0000-0000-000000000000'::uuid)"
        )
    };
}
pub(crate) use owner_of;

mod check;
mod item;
mod pass_on;
mod weigh;

pub use check::{Heard, Reader, Unread, Walk};
pub use item::InboxItem;
use item::ItemRow;
pub use pass_on::PassedOn;

use backstitch_core::inbox::{MessageRow, PAUSES, SIGNALS};
use backstitch_core::{HostId, Op, RunId, RunStatus, Scope, TenantId, limits};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::payloads::store::{self, of_run, storing, unopened};
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
    /// As much as may wait for one run waits for this one: nothing was written, and it may be sent later.
    Full,
    /// There is no such run.
    Unknown,
}

impl Ledger {
    /// Sends a message to an open run. Idempotent by `item_id`, a UUID v7.
    ///
    /// The run's row is locked FOR SHARE, so that a close either sees the message or is seen by it. One statement: a host
    /// that is stopped holds no lock.
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
        let room = match message.kind {
            SIGNALS => limits::INBOX_ITEMS_MAX,
            _ => limits::INBOX_ITEMS_MAX + limits::INBOX_REQUESTS_MAX,
        };
        let posted = sqlx::query_as(concat!(
            "with target as materialized (
                 select status, owner from runs where shard = $1 and tenant = $2 and run_id = $3 for share
             ),
             crowd as materialized (
                 select 1 from inbox where shard = $1 and run_id = $3 offset $11 limit 1
             ),
             posted as (
                 insert into inbox (shard, tenant, run_id, item_id, kind, op, name, payload, detail, at, owner)
                 select $1, $2, $3, $4, $5, $6, $7, $8::json, $9::json, $10,
                        coalesce(owner, '00000000-0000-0000-0000-000000000000')
                 from target
                 where status < 10 and not exists (select from crowd)
                 on conflict (shard, run_id, item_id) do nothing
             ),
             ",
            storing!(
                "$12",
                "$13",
                "$14",
                "$15",
                "exists (select from target where status < 10) and not exists (select from crowd)"
            ),
            " select status, owner, exists (select from crowd) from target"
        ))
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
        .bind(i64::from(room - 1));
        let found: Option<(i16, Option<Uuid>, bool)> =
            store::bind_parts(posted, &stored).fetch_optional(&self.pool).await?;
        let Some((tag, owner, is_full)) = found else { return Ok(Posted::Unknown) };
        let status = known(RunStatus::from_tag(tag), "run status", tag)?;
        Ok(match (status.is_open(), is_full) {
            (false, _) => Posted::Closed(status),
            (true, true) => Posted::Full,
            (true, false) => Posted::Accepted { owner: owner.map(HostId) },
        })
    }

    /// How the run of a message stands that has not been consumed. None: it has been. Reads only.
    pub async fn status_if_unread(
        &self,
        run: RunId,
        item_id: Uuid,
    ) -> Result<Option<RunStatus>, LedgerError> {
        let found: Option<i16> = sqlx::query_scalar(
            "select (select r.status from runs r where r.shard = $1 and r.run_id = $2)
             from inbox where shard = $1 and run_id = $2 and item_id = $3",
        )
        .bind(self.shard.0)
        .bind(run.0)
        .bind(item_id)
        .fetch_optional(&self.pool)
        .await?;
        found.map(|tag| known(RunStatus::from_tag(tag), "run status", tag)).transpose()
    }

    /// Whether a run is to be paused by a message that it has not read yet, or that waits with the run it continues.
    /// Reads only, and in one snapshot with the run's status: it is never seen as neither paused nor to be paused.
    pub async fn status_and_pause(
        &self,
        scope: Scope,
        run: RunId,
    ) -> Result<Option<(RunStatus, bool)>, LedgerError> {
        let found: Option<(i16, bool)> = sqlx::query_as(
            "select r.status,
                    exists (select from runs p
                            where p.shard = $1 and p.tenant = $2 and p.workflow_id = r.workflow_id
                              and p.generation >= greatest(r.generation - 1, 0) and p.generation <= r.generation
                              and (select true from inbox i
                                   where i.shard = p.shard and i.run_id = p.run_id and i.kind = $4 limit 1))
             from runs r where r.shard = $1 and r.tenant = $2 and r.run_id = $3",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(run.0)
        .bind(PAUSES)
        .fetch_optional(&self.pool)
        .await?;
        let known = |(tag, pauses): (i16, bool)| {
            Ok::<_, LedgerError>((known(RunStatus::from_tag(tag), "run status", tag)?, pauses))
        };
        found.map(known).transpose()
    }

    /// Messages as they were sent. One that cannot be opened stays where it is, and is no business of the others.
    async fn heard(
        &self,
        executor: impl PgExecutor<'_>,
        mut rows: Vec<ItemRow>,
    ) -> Result<Heard, LedgerError> {
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
        let mut heard = Heard::default();
        for (index, row) in rows.into_iter().enumerate() {
            let key = (RunId(row.run_id), row.item_id);
            if unread.contains(&index) {
                heard.unreadable.push(key);
                continue;
            }
            match self.item(row) {
                Ok(item) => heard.items.push(item),
                Err(error) => {
                    tracing::error!(%error, "a message cannot be read");
                    heard.unreadable.push(key);
                }
            }
        }
        Ok(heard)
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
        let unopened = |error| {
            unopened(&of_run(row.tenant, row.run_id, row.op, Spot::Item(row.item_id, Column::Detail)), &error)
        };
        if let Some(detail) = opened.map_err(unopened)? {
            message.detail = Some(detail.into());
        }
        Ok(InboxItem {
            scope: self.scope(TenantId(row.tenant)),
            run: RunId(row.run_id),
            item_id: row.item_id,
            message,
            at_ms: row.at.0,
        })
    }
}
