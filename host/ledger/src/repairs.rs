//! What an operator's repair asks the database: which runs there are, and, of those that have closed, that what stands
//! beside their ledgers is what follows from them. Runs that are open are told, and repaired by their owners.
//!
//! A closed run changes no more, so nobody has to own it here, and everything may be repeated.

use backstitch_core::inbox::MessageRow;
use backstitch_core::{Chain, RunId, RunStatus, Scope, Seq};
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use crate::append::NewProjection;
use crate::attribute;
use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::payloads::{Place, Spot};
use crate::time::Timestamp;

/// A run, as far as a repair has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repairable {
    /// Which.
    pub run: RunId,
    /// Whether it is open.
    pub status: RunStatus,
    /// Where its ledger ended when it closed.
    pub head: Option<(Seq, Chain)>,
}

impl Ledger {
    /// The next `limit` runs of the tenant behind `after`, by their ids. Reads only.
    pub async fn runs_after(
        &self,
        scope: Scope,
        after: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<Repairable>, LedgerError> {
        let rows: Vec<(Uuid, i16, Option<i32>, Option<i64>)> = sqlx::query_as(
            "select run_id, status, rows, chain from runs
             where shard = $1 and tenant = $2 and run_id > $3
             order by run_id limit $4",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(after.map_or(Uuid::nil(), |run| run.0))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let found = |(run, tag, rows, chain): (Uuid, i16, Option<i32>, Option<i64>)| {
            Ok(Repairable {
                run: RunId(run),
                status: known(RunStatus::from_tag(tag), "run status", tag)?,
                head: rows
                    .zip(chain)
                    .map(|(rows, chain)| (Seq(rows.cast_unsigned()), Chain(chain.cast_unsigned()))),
            })
        };
        rows.into_iter().map(found).collect()
    }

    /// Sends a message without a payload to those of these runs that are open; how many there were. `item_id` makes the
    /// messages' ids. May be repeated: who gets it twice does the same twice.
    pub async fn post_to_open(
        &self,
        scope: Scope,
        runs: &[RunId],
        message: &MessageRow,
        at_ms: u64,
        item_id: impl Fn() -> Uuid,
    ) -> Result<u64, LedgerError> {
        let ids: Vec<Uuid> = runs.iter().map(|_| item_id()).collect();
        // Locked as `post` does it: a close either sees the message or is seen by it.
        let posted = sqlx::query(
            "with open as materialized (
                 select run_id, owner, row_number() over (order by run_id) as place
                 from (select run_id, owner from runs
                       where shard = $1 and tenant = $2 and run_id = any ($3) and status < $7
                       order by run_id for share) r
             )
             insert into inbox (shard, tenant, run_id, item_id, kind, at, owner)
             select $1, $2, open.run_id, ids.item_id, $5, $6,
                    coalesce(open.owner, '00000000-0000-0000-0000-000000000000')
             from open join unnest($4::uuid[]) with ordinality as ids (item_id, place) using (place)
             on conflict do nothing",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(runs.iter().map(|run| run.0).bind_iter())
        .bind(ids)
        .bind(message.kind)
        .bind(Timestamp(at_ms))
        .bind(RunStatus::CLOSED_FROM)
        .execute(&self.pool)
        .await?;
        Ok(posted.rows_affected())
    }

    /// Makes the entity and the attributes of a closed run what they have to be; whether anything of them was missing or
    /// wrong. An attribute that the run has taken away needs no row.
    pub async fn amend_closed(&self, scope: Scope, projection: &NewProjection) -> Result<bool, LedgerError> {
        let place = Place::Run { tenant: scope.tenant, run: projection.run, op: None, spot: Spot::Entity };
        let entity = projection.entity.as_deref();
        let sealed = entity.and_then(|text| self.payloads().seal_inline(&place, text));
        let values = || projection.attributes.values();
        Ok(sqlx::query_scalar(AMEND)
            .bind(scope.shard.0)
            .bind(scope.tenant.0)
            .bind(projection.run.0)
            .bind(sealed.as_deref().or(entity))
            .bind(projection.attributes.keys().map(|name| &**name).bind_iter())
            .bind(values().map(attribute::text).bind_iter())
            .bind(values().map(attribute::number).bind_iter())
            .bind(values().map(attribute::flag).bind_iter())
            .bind(values().map(attribute::time).bind_iter())
            .fetch_one(&self.pool)
            .await?)
    }

    /// Removes timers and tasks that closed runs have left behind; of how many runs there were any. A task that a worker has
    /// stays until that is told.
    pub async fn forget_leftovers(&self, closed: &[RunId]) -> Result<u64, LedgerError> {
        let runs: i64 = sqlx::query_scalar(
            "with over as materialized (
                 select run_id from runs where shard = $1 and run_id = any ($2) and status >= $3
             ),
             timed as (
                 delete from timers where shard = $1 and run_id = any (array(select run_id from over)) returning run_id
             ),
             free as (
                 delete from tasks where shard = $1 and run_id = any (array(select run_id from over)) and lease is null
                 returning run_id
             ),
             held as (
                 update tasks set given_up = true
                 where shard = $1 and run_id = any (array(select run_id from over))
                   and lease is not null and not given_up
                 returning run_id
             )
             select count(*) from (select run_id from timed union select run_id from free
                                   union select run_id from held) left_behind",
        )
        .bind(self.shard.0)
        .bind(closed.iter().map(|run| run.0).bind_iter())
        .bind(RunStatus::CLOSED_FROM)
        .fetch_one(&self.pool)
        .await?;
        Ok(runs.cast_unsigned())
    }
}

const AMEND: &str = "with known as (
    insert into entities (shard, tenant, run_id, document)
    select $1, $2, $3, $4::json where $4 is not null
    on conflict (shard, run_id) do update set document = excluded.document
        where entities.document::text is distinct from excluded.document::text
    returning 1
),
found_by as (
    insert into attributes (shard, tenant, run_id, name, text, number, flag, time)
    select $1, $2, $3, a.name, a.text, a.number, a.flag, a.time
    from unnest($5::text[], $6::text[], $7::double precision[], $8::boolean[], $9::timestamptz[])
         as a (name, text, number, flag, time)
    where num_nonnulls(a.text, a.number, a.flag, a.time) > 0
       or exists (select from attributes o where o.shard = $1 and o.run_id = $3 and o.name = a.name)
    on conflict (shard, run_id, name)
        do update set text = excluded.text, number = excluded.number, flag = excluded.flag, time = excluded.time
        where (attributes.text, attributes.number, attributes.flag, attributes.time)
              is distinct from (excluded.text, excluded.number, excluded.flag, excluded.time)
    returning 1
)
select exists (select from known) or exists (select from found_by)";
