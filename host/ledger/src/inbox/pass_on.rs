//! Messages of runs that have closed. What was accepted while a run was open is heard by the run that it went on as,
//! if it did; of any other run there is nobody left to hear it. A closed run stays closed, so none of this needs a lease,
//! and any host may do it, several at a time.

use backstitch_core::inbox::PASSED_ON;
use backstitch_core::{HostId, RunId, TenantId, limits};
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use super::item::{InboxItem, ItemRow};
use crate::append::NewItem;
use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::payloads::store::{self, storing};
use crate::time::Timestamp;

/// What has become of the messages of a run that went on as a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOn {
    /// How many are in another inbox now.
    pub items: usize,
    /// Who should be told.
    pub owner: Option<HostId>,
}

impl Ledger {
    /// Moves the messages of a run that continued as new to the latest run of its workflow id, each once however many
    /// try, in their order and under their ids; removes those that are for that very run. `except`: messages that
    /// cannot be read, which stay. May be repeated.
    pub async fn pass_on(&self, from: RunId, except: &[Uuid]) -> Result<PassedOn, LedgerError> {
        let Some(to) = self.successor(from).await? else {
            self.clear_inbox(&[from]).await?;
            return Ok(PassedOn { items: 0, owner: None });
        };
        let items = match self.payloads().is_bound() {
            true => self.reseal_items(from, to, except).await?,
            false => self.move_items(from, to, except).await?,
        };
        let owner: Option<Uuid> =
            sqlx::query_scalar("select owner from runs where shard = $1 and run_id = $2")
                .bind(self.shard.0)
                .bind(to.0)
                .fetch_optional(&self.pool)
                .await?
                .flatten();
        Ok(PassedOn { items, owner: owner.map(HostId) })
    }

    async fn move_items(&self, from: RunId, to: RunId, except: &[Uuid]) -> Result<usize, LedgerError> {
        // The sender may have sent one once more, to where it would have come to now.
        let moved = sqlx::query(concat!(
            "with gone as (
                 delete from inbox where shard = $1 and run_id = $2 and item_id <> all ($5) returning *
             )
             insert into inbox (shard, tenant, run_id, item_id, kind, op, name, payload, detail, at, owner)
             select shard, tenant, $3, item_id, kind, op, name, payload, detail, at, ",
            owner_of!("$1", "$3"),
            "
             from gone where kind = any ($4)
             on conflict (shard, run_id, item_id) do nothing",
        ))
        .bind(self.shard.0)
        .bind(from.0)
        .bind(to.0)
        .bind(PASSED_ON.as_slice())
        .bind(except)
        .execute(&self.pool)
        .await?;
        Ok(usize::try_from(moved.rows_affected()).unwrap_or(usize::MAX))
    }

    /// [`Self::move_items`], where what is sealed is bound to its run. Payloads first, as in every statement that
    /// writes some; whoever removes the rows in the end has moved them.
    async fn reseal_items(&self, from: RunId, to: RunId, except: &[Uuid]) -> Result<usize, LedgerError> {
        let rows: Vec<ItemRow> = sqlx::query_as(
            "select tenant, run_id, item_id, kind, op, name, payload::text, detail::text, at
             from inbox where shard = $1 and run_id = $2 and item_id <> all ($3)
             order by item_id limit $4",
        )
        .bind(self.shard.0)
        .bind(from.0)
        .bind(except)
        .bind(limits::CLAIM_ROWS_MAX)
        .fetch_all(&self.pool)
        .await?;
        let read: Vec<InboxItem> = self.heard(&self.pool, rows).await?.items;
        let Some(tenant) = read.first().map(|item| item.scope.tenant) else { return Ok(0) };
        self.replace_items(tenant, from, to, read).await
    }

    async fn replace_items(
        &self,
        tenant: TenantId,
        from: RunId,
        to: RunId,
        read: Vec<InboxItem>,
    ) -> Result<usize, LedgerError> {
        let new = |item: &InboxItem| NewItem {
            run: to,
            item_id: item.item_id,
            at_ms: item.at_ms,
            message: item.message.clone(),
        };
        let (mut items, mut stored): (Vec<NewItem>, _) = (read.iter().map(new).collect(), Vec::new());
        for item in &mut items {
            self.payloads().seal_message(tenant, to, item.item_id, &mut item.message, &mut stored);
        }
        // Removed are all of them, passed on what another run may hear.
        let (removed, passed): (Vec<Uuid>, Vec<&NewItem>) = (
            items.iter().map(|item| item.item_id).collect(),
            items.iter().filter(|item| PASSED_ON.contains(&item.message.kind)).collect(),
        );
        let replaced = sqlx::query_as(concat!(
            "with ",
            storing!("$5", "$6", "$7", "$8", "true"),
            ",
             removed as (
                 delete from inbox where shard = $1 and run_id = $3 and item_id = any ($9)
                   and (select count(*) from used) >= 0
                 returning item_id
             ),
             passed as (
                 insert into inbox (shard, tenant, run_id, item_id, kind, op, name, payload, detail, at, owner)
                 select $1, $2, $4, i.item_id, i.kind, i.op, i.name, i.payload::json, i.detail::json, i.at, ",
            owner_of!("$1", "$4"),
            "
                 from unnest($10::uuid[], $11::smallint[], $12::integer[], $13::text[], $14::text[], $15::text[],
                             $16::timestamptz[])
                      as i (item_id, kind, op, name, payload, detail, at)
                 where i.item_id in (select item_id from removed)
                 on conflict (shard, run_id, item_id) do nothing
                 returning 1
             )
             select count(*) from passed",
        ))
        .bind(self.shard.0)
        .bind(tenant.0)
        .bind(from.0)
        .bind(to.0);
        let (count,): (i64,) = store::bind_parts(replaced, &stored)
            .bind(removed)
            .bind(passed.iter().map(|item| item.item_id).bind_iter())
            .bind(passed.iter().map(|item| item.message.kind).bind_iter())
            .bind(passed.iter().map(|item| item.message.op.map(|op| op.0.cast_signed())).bind_iter())
            .bind(passed.iter().map(|item| item.message.name.as_deref()).bind_iter())
            .bind(passed.iter().map(|item| item.message.payload.as_deref()).bind_iter())
            .bind(passed.iter().map(|item| item.message.detail.as_deref()).bind_iter())
            .bind(passed.iter().map(|item| Timestamp(item.at_ms)).bind_iter())
            .fetch_one(&self.pool)
            .await?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Removes the messages of runs that have closed for good. May be repeated.
    pub async fn clear_inbox(&self, closed: &[RunId]) -> Result<(), LedgerError> {
        sqlx::query(
            "delete from inbox using (select $1::smallint as shard, run_id
                                      from unnest($2::uuid[]) as keys (run_id) offset 0) as c
             where inbox.shard = c.shard and inbox.run_id = c.run_id",
        )
        .bind(self.shard.0)
        .bind(closed.iter().map(|run| run.0).bind_iter())
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
