//! Database checks of the inbox: which runs of a host have messages, and the next page of each.
//!
//! A check walks from run to run along an index of the host's own, so it costs what it visits, however much waits for one
//! of them or for runs of others; and a page of messages is shared by the runs that were found, so nobody waits for
//! somebody else's. What a run cannot hear now is left out here, and not read again and again:
//!
//! | the run is | it hears |
//! |---|---|
//! | parked | what ends that: see [`HEARD_WHEN_PARKED`] |
//! | paused or delayed: its time has not come | all but [`UNHEARD_WHEN_PAUSED_OR_DELAYED`] |
//! | full of signals that it has not awaited | all but signals |
//! | going on from one that has messages still | nothing before it has those |
//!
//! The last line is what keeps the order of one sender who does not know that the run goes on as a new one.

use backstitch_core::inbox::{HEARD_WHEN_PARKED, SIGNALS, UNHEARD_WHEN_PAUSED_OR_DELAYED};
use backstitch_core::{HostId, RunId, RunStatus, limits};
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use super::item::{InboxItem, ItemRow};
use super::weigh;
use crate::connect::Ledger;
use crate::error::LedgerError;

/// Runs whose messages nobody has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Runs that can hear them.
    pub open: Vec<RunId>,
    /// Runs that have closed since, which anyone may see to: see [`Ledger::pass_on`] and [`Ledger::clear_inbox`].
    pub closed: Vec<(RunId, RunStatus)>,
    /// Where the walk goes on; none: it has come to the end.
    pub next: Option<Walk>,
}

/// How far a host has come on its walk: along the messages that name itself, then along those that name nobody, then
/// along those of each host that is not alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Whom the messages name.
    owner: Uuid,
    /// Behind this run.
    after: Uuid,
}

impl Walk {
    /// The beginning.
    pub fn of(host: HostId) -> Self {
        Self { owner: host.0, after: Uuid::nil() }
    }
}

/// A run whose messages are wanted.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The run.
    pub run: RunId,
    /// It takes no more signals now.
    pub is_full: bool,
    /// Messages that its host has in hand.
    pub except: Vec<Uuid>,
}

/// What a check has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Those of one run in the order in which they were sent.
    pub items: Vec<InboxItem>,
    /// Messages that cannot be read, and are no business of the others.
    pub unreadable: Vec<(RunId, Uuid)>,
}

/// Runs that one step of the walk visits.
const RUNS_AT_ONCE: i32 = 500;
/// Messages that one step has name another host, in pages of the inbox.
const TAKEN_IN: i64 = 10;
/// The number under which a run's start has its timer.
const START_OP: i32 = -1;

/// One step of a walk: runs that have messages which name $3, behind $4. If that was all, a last row says where the walk
/// goes on: with messages that name nobody, if $7, or those of the next host behind $6 that is not alive. Living hosts
/// are passed by one by one, whatever they have.
const WALK: &str = "with recursive walk (run_id, place) as (
    (select run_id, 1 from inbox
     where shard = $1 and owner = $3 and kind >= 0 and run_id > $4 order by run_id limit 1)
    union all
    select (select i.run_id from inbox i
            where i.shard = $1 and i.owner = $3 and i.kind >= 0 and i.run_id > walk.run_id
            order by i.run_id limit 1),
           walk.place + 1
    from walk where walk.run_id is not null and walk.place < $5
),
owners (owner) as (
    (select owner from inbox where shard = $1 and kind >= 0 and owner > $6 order by owner limit 1)
    union all
    select (select i.owner from inbox i where i.shard = $1 and i.kind >= 0 and i.owner > owners.owner
            order by i.owner limit 1)
    from owners
    where owners.owner = $2
       or exists (select from leases l where l.shard = $1 and l.host_id = owners.owner and not l.dead)
)
(select walk.run_id,
        (select r.status from runs r
         where r.shard = $1 and r.run_id = walk.run_id
           and (r.owner = $2
                or r.status >= 10 and not coalesce((select not l.dead from leases l
                                                    where l.shard = $1 and l.host_id = r.owner), false))),
        null::uuid
 from walk where walk.run_id is not null
 order by walk.place)
union all
select null, null,
       coalesce((select owner from inbox
                 where $7 and shard = $1 and kind >= 0 and owner = '00000000-0000-0000-0000-000000000000' limit 1),
                (select owner from owners
                 where owner <> $2
                   and not exists (select from leases l
                                   where l.shard = $1 and l.host_id = owners.owner and not l.dead)
                 limit 1))
where (select count(*) from walk where run_id is not null) < $5";

impl Ledger {
    /// The next runs of `host` that have messages, and closed ones of hosts that are dead: the last thing that a host may
    /// have died over. `from`: [`Unread::next`] of the check before; none: from the beginning. Changes nothing but whom
    /// messages name. May be repeated.
    pub async fn unread(&self, host: HostId, from: Option<Walk>) -> Result<Unread, LedgerError> {
        let from = from.unwrap_or_else(|| Walk::of(host));
        let visited: Vec<(Option<Uuid>, Option<i16>, Option<Uuid>)> = sqlx::query_as(WALK)
            .bind(self.shard.0)
            .bind(host.0)
            .bind(from.owner)
            .bind(from.after)
            .bind(RUNS_AT_ONCE)
            .bind(if from.owner == host.0 { Uuid::nil() } else { from.owner })
            .bind(from.owner == host.0)
            .fetch_all(&self.pool)
            .await?;
        let mut unread = Unread::default();
        for (run, tag, stray) in visited {
            let Some(run) = run else {
                unread.next = stray.map(|owner| Walk { owner, after: Uuid::nil() });
                continue;
            };
            unread.next = Some(Walk { after: run, ..from });
            let Some(tag) = tag else { continue };
            match RunStatus::from_tag(tag) {
                Some(status) if status.is_open() => unread.open.push(RunId(run)),
                Some(status) => unread.closed.push((RunId(run), status)),
                // Its messages wait for a version that knows.
                None => tracing::error!(run = %run, tag, "a run has an unknown status"),
            }
        }
        if from.owner != host.0 && !unread.open.is_empty() {
            self.take_in(host, from.owner, &unread.open).await?;
        }
        Ok(unread)
    }

    /// Has messages of runs of `host` that name somebody else name it: nobody walks along them but the host from then on.
    /// As many as one statement may take its time for; the others go on naming `named`, and are found too. Those that
    /// somebody is just removing are left out, so this waits for nobody. May be repeated.
    async fn take_in(&self, host: HostId, named: Uuid, runs: &[RunId]) -> Result<(), LedgerError> {
        sqlx::query(
            "with strays as materialized (
                 select i.shard, i.run_id, i.item_id
                 from unnest($4::uuid[]) as w (run_id)
                 cross join lateral (
                     select shard, run_id, item_id from inbox
                     where shard = $1 and owner = $3 and kind >= 0 and inbox.run_id = w.run_id
                     limit $5
                 ) i
                 limit $5
             ),
             free as materialized (
                 select inbox.shard, inbox.run_id, inbox.item_id from strays
                 join inbox on inbox.shard = strays.shard and inbox.run_id = strays.run_id
                               and inbox.item_id = strays.item_id
                 for update of inbox skip locked
             )
             update inbox set owner = $2 from free
             where inbox.shard = free.shard and inbox.run_id = free.run_id and inbox.item_id = free.item_id",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(named)
        .bind(runs.iter().map(|run| run.0).bind_iter())
        .bind(limits::CLAIM_ROWS_MAX * TAKEN_IN)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The next messages of these runs, as far as they are open and of `host`: at most `limit`, of each the
    /// same number, and at most [`limits::INBOX_CHECK_BYTES_MAX`]. `unreadable`: messages of any runs that were found to be so. Reads only.
    pub async fn inbox_of(
        &self,
        host: HostId,
        readers: &[Reader],
        unreadable: &[Uuid],
        limit: i64,
    ) -> Result<Heard, LedgerError> {
        let rows: Vec<ItemRow> = sqlx::query_as(
            "select i.tenant, i.run_id, i.item_id, i.kind, i.op, i.name, i.payload::text, i.detail::text, i.at
             from unnest($3::uuid[], $4::boolean[]) with ordinality as w (run_id, is_full, place)
             cross join lateral (
                 select r.shard, r.tenant, r.run_id, r.workflow_id, r.generation, r.status,
                        r.status = $12 or exists (select from timers t where t.shard = $1 and t.run_id = w.run_id
                                                                         and t.op = $13) as is_held
                 from runs r
                 where r.shard = $1 and r.run_id = w.run_id and r.owner = $2 and r.status < 10
                 offset 0
             ) r
             cross join lateral (
                 select i.* from inbox i
                 where i.shard = r.shard and i.run_id = r.run_id and i.item_id <> all ($5)
                   and (r.status <> $11 or i.kind = any ($7))
                   and (not r.is_held or i.kind <> all ($8))
                   and (not w.is_full or i.kind <> $9)
                 order by i.item_id limit $6
             ) i
             where r.generation = 0 or not exists (
                 select from runs p
                 where p.shard = $1 and p.tenant = r.tenant and p.workflow_id = r.workflow_id
                   and p.generation >= greatest(r.generation - $10, 0) and p.generation < r.generation
                   and (select true from inbox e
                        where e.shard = p.shard and e.run_id = p.run_id and e.item_id <> all ($5) limit 1)
             )
             order by w.place, i.item_id",
        )
        .bind(self.shard.0)
        .bind(host.0)
        .bind(readers.iter().map(|reader| reader.run.0).bind_iter())
        .bind(readers.iter().map(|reader| reader.is_full).bind_iter())
        .bind(readers.iter().flat_map(|reader| &reader.except).chain(unreadable).copied().bind_iter())
        .bind(limit.checked_div(i64::try_from(readers.len()).unwrap_or(i64::MAX)).unwrap_or(1).max(1))
        .bind(HEARD_WHEN_PARKED.as_slice())
        .bind(UNHEARD_WHEN_PAUSED_OR_DELAYED.as_slice())
        .bind(SIGNALS)
        .bind(limits::GENERATIONS_FOLLOWED_MAX.cast_signed())
        .bind(RunStatus::Parked.tag())
        .bind(RunStatus::Paused.tag())
        .bind(START_OP)
        .fetch_all(&self.pool)
        .await?;
        self.heard(&self.pool, weigh::fitting(rows)).await
    }
}
