//! Schedules: what clients ask for and what has become of it, as texts that the host reads. A change is
//! made to the revision that was read, or not at all: hosts and clients need no lock between them.

use std::borrow::Cow;

use crate::from_row::from_row;
use backstitch_core::{RunStatus, Scope, TenantId, limits};
use sqlx::postgres::PgBindIterExt;

use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::payloads::store::{Closed, unopened};
use crate::payloads::{Place, ScheduleColumn};
use crate::time::Timestamp;

/// A schedule as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Whose it is.
    pub scope: Scope,
    /// Unique in the tenant.
    pub name: String,
    /// What was asked for, as JSON.
    pub spec: String,
    /// What has become of it, as JSON.
    pub state: String,
    /// Counts the changes.
    pub revision: i64,
    /// When a host has to look at it, in milliseconds since the epoch; none: when somebody changes it.
    pub due_ms: Option<u64>,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
}

/// What a schedule becomes.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleChange<'a> {
    /// What was asked for, as JSON; none: as before.
    pub spec: Option<&'a str>,
    /// What has become of it, as JSON.
    pub state: &'a str,
    /// When a host has to look at it, in milliseconds since the epoch.
    pub due_ms: Option<u64>,
}

from_row! {
    struct ScheduleRow {
        tenant: i32,
        name: String,
        spec: String,
        state: String,
        revision: i64,
        due_at: Option<Timestamp>,
        created_at: Timestamp,
    }
}

impl Ledger {
    /// Makes a schedule; false if the name is taken. To be repeated only by those who can tell theirs from
    /// somebody else's.
    pub async fn create_schedule(
        &self,
        scope: Scope,
        name: &str,
        spec: &str,
        state: &str,
        due_ms: Option<u64>,
        created_ms: u64,
    ) -> Result<bool, LedgerError> {
        let created = sqlx::query(
            "insert into schedules (shard, tenant, name, spec, state, revision, due_at, created_at)
             values ($1, $2, $3, $4::json, $5::json, 1, $6, $7)
             on conflict (shard, tenant, name) do nothing",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(name)
        .bind(self.sealed(scope, name, ScheduleColumn::Spec, spec).as_ref())
        .bind(self.sealed(scope, name, ScheduleColumn::State, state).as_ref())
        .bind(due_ms.map(Timestamp))
        .bind(Timestamp(created_ms))
        .execute(&self.pool)
        .await?;
        Ok(created.rows_affected() == 1)
    }

    /// Changes a schedule if it is still at `revision`; whether it was. One row is locked. Repeated after a
    /// lost reply it finds its own change in the way, and changes nothing.
    pub async fn change_schedule(
        &self,
        scope: Scope,
        name: &str,
        revision: i64,
        change: ScheduleChange<'_>,
    ) -> Result<bool, LedgerError> {
        let changed = sqlx::query(
            "update schedules
             set spec = coalesce($5::json, spec), state = $6::json, due_at = $7, revision = revision + 1
             where shard = $1 and tenant = $2 and name = $3 and revision = $4",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(name)
        .bind(revision)
        .bind(change.spec.map(|spec| self.sealed(scope, name, ScheduleColumn::Spec, spec)).as_deref())
        .bind(self.sealed(scope, name, ScheduleColumn::State, change.state).as_ref())
        .bind(change.due_ms.map(Timestamp))
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected() == 1)
    }

    /// Forgets a schedule; whether there was one. Its runs stay. May be repeated.
    pub async fn delete_schedule(&self, scope: Scope, name: &str) -> Result<bool, LedgerError> {
        let deleted = sqlx::query("delete from schedules where shard = $1 and tenant = $2 and name = $3")
            .bind(scope.shard.0)
            .bind(scope.tenant.0)
            .bind(name)
            .execute(&self.pool)
            .await?;
        Ok(deleted.rows_affected() == 1)
    }

    /// One schedule. Reads only.
    pub async fn schedule(&self, scope: Scope, name: &str) -> Result<Option<Schedule>, LedgerError> {
        let row: Option<ScheduleRow> = sqlx::query_as(
            "select tenant, name, spec::text, state::text, revision, due_at, created_at
             from schedules where shard = $1 and tenant = $2 and name = $3",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(self.stored(row.into_iter().collect()).await?.pop())
    }

    /// A page of the tenant's schedules by name, those after `after`. Reads only.
    pub async fn schedules(
        &self,
        scope: Scope,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Schedule>, LedgerError> {
        let rows: Vec<ScheduleRow> = sqlx::query_as(
            "select tenant, name, spec::text, state::text, revision, due_at, created_at
             from schedules where shard = $1 and tenant = $2 and name > $3 order by name limit $4",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(after.unwrap_or_default())
        .bind(i64::from(limit.min(limits::PAGE_ROWS_MAX)))
        .fetch_all(&self.pool)
        .await?;
        self.stored(rows).await
    }

    /// Schedules of all tenants that are due at `now_ms` or before, the oldest first, at most `limit`.
    /// Reads only: a schedule comes back until it is changed.
    ///
    /// `from_ms`: none is due before, as the caller knows. It spares a check what is left of schedules that were changed: as
    /// long as somebody looks at an old state of the database, they stay in the index.
    pub async fn due_schedules(
        &self,
        from_ms: u64,
        now_ms: u64,
        limit: i64,
    ) -> Result<Vec<Schedule>, LedgerError> {
        let rows: Vec<ScheduleRow> = sqlx::query_as(
            "select tenant, name, spec::text, state::text, revision, due_at, created_at
             from schedules where shard = $1 and due_at >= $2 and due_at <= $3 order by due_at limit $4",
        )
        .bind(self.shard.0)
        .bind(Timestamp(from_ms))
        .bind(Timestamp(now_ms))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        self.stored(rows).await
    }

    /// When the next schedule is due, not before `from_ms`. Reads only.
    pub async fn next_schedule_due(&self, from_ms: u64) -> Result<Option<u64>, LedgerError> {
        let due: Option<Timestamp> = sqlx::query_scalar(
            "select due_at from schedules where shard = $1 and due_at >= $2 order by due_at limit 1",
        )
        .bind(self.shard.0)
        .bind(Timestamp(from_ms))
        .fetch_optional(&self.pool)
        .await?;
        Ok(due.map(|due| due.0))
    }

    /// How the latest runs of these workflow ids stand; ids without a run are left out. Reads only.
    pub async fn latest_statuses(
        &self,
        scope: Scope,
        workflow_ids: &[&str],
    ) -> Result<Vec<(String, RunStatus)>, LedgerError> {
        let rows: Vec<(String, i16)> = sqlx::query_as(
            "select wanted.workflow_id, latest.status
             from unnest($3::text[]) as wanted (workflow_id)
             cross join lateral (
                 select status from runs
                 where shard = $1 and tenant = $2 and runs.workflow_id = wanted.workflow_id
                   and generation >= 0
                 order by generation desc limit 1
             ) latest",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(workflow_ids.iter().copied().bind_iter())
        .fetch_all(&self.pool)
        .await?;
        let status = |(id, tag)| Ok((id, known(RunStatus::from_tag(tag), "run status", tag)?));
        rows.into_iter().map(status).collect()
    }

    fn sealed<'a>(&self, scope: Scope, name: &str, column: ScheduleColumn, text: &'a str) -> Cow<'a, str> {
        let place = Place::Schedule { tenant: scope.tenant, name, column };
        self.payloads().seal_inline(&place, text).map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// Schedules as they were given. One that cannot be opened is as good as none.
    async fn stored(&self, rows: Vec<ScheduleRow>) -> Result<Vec<Schedule>, LedgerError> {
        let stored = |row: ScheduleRow| Schedule {
            scope: self.scope(TenantId(row.tenant)),
            name: row.name,
            spec: row.spec,
            state: row.state,
            revision: row.revision,
            due_ms: row.due_at.map(|at| at.0),
            created_ms: row.created_at.0,
        };
        let mut schedules: Vec<Schedule> = rows.into_iter().map(stored).collect();
        let mut columns: Vec<Closed<'_>> = Vec::with_capacity(2 * schedules.len());
        for Schedule { scope, name, spec, state, .. } in &mut schedules {
            let (tenant, name): (TenantId, &str) = (scope.tenant, name);
            let place = |column| Place::Schedule { tenant, name, column };
            columns.push((place(ScheduleColumn::Spec), spec));
            columns.push((place(ScheduleColumn::State), state));
        }
        let unread = self.open_each(&self.pool, &mut columns).await?;
        let unread = unread.into_iter().map(|(index, error)| {
            tracing::error!(error = %unopened(&columns[index].0, &error), "a schedule cannot be read");
            index / 2
        });
        let unread: Vec<usize> = unread.collect();
        drop(columns);
        let read = schedules.into_iter().enumerate().filter(|(index, _)| !unread.contains(index));
        Ok(read.map(|(_, schedule)| schedule).collect())
    }
}
