//! Reading: runs, their ledgers, listings and counts. Nothing here writes or locks.

use std::sync::Arc;

use backstitch_core::{Chain, Digest, Filter, HostId, Op, Row, RunId, RunStatus, Scope, Seq, limits};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use crate::claims::{digest, parent};
use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::from_row::from_row;
use crate::payloads::store::{Closed, of_run};
use crate::payloads::{Column, Place, Spot, has_private_detail};
use crate::time::Timestamp;

/// How a caller names a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunRef<'a> {
    /// By its identity.
    Id(RunId),
    /// By what the user calls it: the latest generation.
    WorkflowId(&'a str),
}

/// A run on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSummary {
    /// Its identity.
    pub run: RunId,
    /// What the user calls it.
    pub workflow_id: String,
    /// How many runs of this workflow id came before.
    pub generation: u32,
    /// Which workflow of the component.
    pub workflow: String,
    /// The component.
    pub digest: Digest,
    /// How it stands.
    pub status: RunStatus,
    /// The host that has it, or had it last.
    pub owner: Option<HostId>,
    /// Who started it, with which command.
    pub parent: Option<(RunId, Op)>,
    /// When it started, in milliseconds since the epoch.
    pub started_ms: u64,
    /// When it closed, in milliseconds since the epoch.
    pub closed_ms: Option<u64>,
    /// What it is found by: a JSON object; none if there is nothing.
    pub attributes: Option<String>,
}

/// Everything that the database says about a run, except its ledger. Texts are JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// The line of a listing.
    pub summary: RunSummary,
    /// What it was started with; none if the ledger has lost its first row.
    pub input: Option<String>,
    /// What it returned.
    pub output: Option<String>,
    /// What it failed with.
    pub error: Option<String>,
    /// Why it is parked.
    pub fault: Option<String>,
    /// Its entity; none if it never had one.
    pub entity: Option<String>,
    /// On which terms it was started; none: the defaults.
    pub start: Option<String>,
    /// How many rows the ledger had at the close, and the checksum of the last one. A ledger that
    /// ends earlier was cut off.
    pub head: Option<(Seq, Chain)>,
}

/// Which runs to list: those that meet all of it.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Any of these; none: all.
    pub statuses: Vec<RunStatus>,
    /// Of this workflow.
    pub workflow: Option<String>,
    /// Meeting this.
    pub condition: Option<Filter>,
}

/// Where a page of a listing begins: newest first.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Runs older than this one; none: from the newest.
    pub before: Option<RunId>,
    /// At most so many; [`limits::PAGE_ROWS_MAX`] caps it.
    pub limit: u32,
}

from_row! {
    pub(crate) struct SummaryRow {
        run_id: Uuid,
        workflow_id: String,
        generation: i32,
        workflow: String,
        digest: Vec<u8>,
        status: i16,
        owner: Option<Uuid>,
        parent_run: Option<Uuid>,
        parent_op: Option<i32>,
        started_at: Timestamp,
        closed_at: Option<Timestamp>,
        attributes: Option<String>,
    }
}

struct InfoRow {
    summary: SummaryRow,
    input: Option<String>,
    output: Option<String>,
    error: Option<String>,
    fault: Option<String>,
    entity: Option<String>,
    start: Option<String>,
    rows: Option<i32>,
    chain: Option<i64>,
}

impl<'r> FromRow<'r, PgRow> for InfoRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let summary = SummaryRow::from_row(row)?;
        Ok(Self {
            summary,
            input: row.try_get("input")?,
            output: row.try_get("output")?,
            error: row.try_get("error")?,
            fault: row.try_get("fault")?,
            entity: row.try_get("entity")?,
            start: row.try_get("start")?,
            rows: row.try_get("rows")?,
            chain: row.try_get("chain")?,
        })
    }
}

impl RunFilter {
    /// The persisted numbers of the statuses that a run may have.
    pub(crate) fn status_tags(&self) -> Vec<i16> {
        let statuses = if self.statuses.is_empty() { &RunStatus::ALL[..] } else { &self.statuses };
        let admitted =
            |status: &RunStatus| self.condition.as_ref().is_none_or(|filter| filter.admits(*status));
        statuses.iter().copied().filter(admitted).map(RunStatus::tag).collect()
    }
}

impl Ledger {
    /// One run of the tenant, with its input.
    pub async fn run(&self, scope: Scope, run: RunRef<'_>) -> Result<Option<RunInfo>, LedgerError> {
        let Some(run) = self.run_id(scope, run).await? else { return Ok(None) };
        let row: Option<InfoRow> = sqlx::query_as(
            "select r.run_id, r.workflow_id, r.generation, r.workflow, r.digest, r.status, r.owner,
                    r.parent_run, r.parent_op, r.started_at, r.closed_at,
                    run_attributes($1, r.run_id)::text as attributes,
                    l.payload::text as input, l.detail::text as start,
                    r.output::text, r.error::text, r.fault::text, r.rows, r.chain,
                    (select e.document::text from entities e
                     where e.shard = $1 and e.run_id = $3) as entity
             from runs r left join ledger l on l.shard = $1 and l.run_id = $3 and l.seq = 0
             where r.shard = $1 and r.tenant = $2 and r.run_id = $3",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(run.0)
        .fetch_optional(&self.pool)
        .await?;
        let Some(mut row) = row else { return Ok(None) };
        let columns: [(Spot, &mut Option<String>); 6] = [
            (Spot::Row(Seq(0), Column::Payload), &mut row.input),
            (Spot::Output, &mut row.output),
            (Spot::Error, &mut row.error),
            (Spot::Fault, &mut row.fault),
            (Spot::Entity, &mut row.entity),
            (Spot::Row(Seq(0), Column::Detail), &mut row.start),
        ];
        let place = |spot| Place::Run { tenant: scope.tenant, run, op: None, spot };
        self.open_all(&mut columns.map(|(spot, column)| (place(spot), column as _))).await?;
        info(row).map(Some)
    }

    /// The identity of a run of the tenant, which may be known by its workflow id.
    pub async fn run_id(&self, scope: Scope, run: RunRef<'_>) -> Result<Option<RunId>, LedgerError> {
        let workflow_id = match run {
            RunRef::Id(run) => return Ok(Some(run)),
            RunRef::WorkflowId(workflow_id) => workflow_id,
        };
        self.run_under(
            scope,
            workflow_id,
            "select run_id from runs where shard = $1 and tenant = $2 and workflow_id = $3 and generation >= 0
             order by generation desc limit 1",
        )
        .await
    }

    /// The run of a workflow id that `query` picks.
    async fn run_under(
        &self,
        scope: Scope,
        workflow_id: &str,
        query: &'static str,
    ) -> Result<Option<RunId>, LedgerError> {
        let run: Option<Uuid> = sqlx::query_scalar(query)
            .bind(scope.shard.0)
            .bind(scope.tenant.0)
            .bind(workflow_id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(run.map(RunId))
    }

    /// How a run stands: the cheapest question that a waiting client can ask.
    pub async fn run_status(&self, scope: Scope, run: RunId) -> Result<Option<RunStatus>, LedgerError> {
        let tag: Option<i16> =
            sqlx::query_scalar("select status from runs where shard = $1 and tenant = $2 and run_id = $3")
                .bind(scope.shard.0)
                .bind(scope.tenant.0)
                .bind(run.0)
                .fetch_optional(&self.pool)
                .await?;
        tag.map(|tag| known(RunStatus::from_tag(tag), "run status", tag)).transpose()
    }

    /// The run that was started under a workflow id, whatever has gone on from it since. Reads only.
    pub async fn first_run(&self, scope: Scope, workflow_id: &str) -> Result<Option<RunId>, LedgerError> {
        self.run_under(
            scope,
            workflow_id,
            "select run_id from runs where shard = $1 and tenant = $2 and workflow_id = $3 and generation >= 0
             order by generation limit 1",
        )
        .await
    }

    /// The latest run of the workflow id of `run`, if that is a later one than `run` itself.
    pub async fn successor(&self, run: RunId) -> Result<Option<RunId>, LedgerError> {
        let found: Option<Uuid> = sqlx::query_scalar(
            "select later.run_id
             from runs this join runs later
               on later.shard = $1 and later.tenant = this.tenant and later.workflow_id = this.workflow_id
                  and later.generation > this.generation and later.generation >= 0
             where this.shard = $1 and this.run_id = $2
             order by later.generation desc limit 1",
        )
        .bind(self.shard.0)
        .bind(run.0)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(RunId))
    }

    /// The run of the same workflow id so many generations later, or earlier. Reads only.
    pub async fn generation_beside(&self, run: RunId, by: i32) -> Result<Option<RunId>, LedgerError> {
        let found: Option<Uuid> = sqlx::query_scalar(
            "select other.run_id
             from runs this join runs other
               on other.shard = $1 and other.tenant = this.tenant and other.workflow_id = this.workflow_id
                  and other.generation = this.generation + $3 and other.generation >= 0
             where this.shard = $1 and this.run_id = $2",
        )
        .bind(self.shard.0)
        .bind(run.0)
        .bind(by)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(RunId))
    }

    /// Runs of the tenant, newest first. Costs at most a page for each status asked for, and what a
    /// filter by workflow skips; what a condition costs, `search.rs` says.
    pub async fn list(
        &self,
        scope: Scope,
        filter: &RunFilter,
        page: Page,
    ) -> Result<Vec<RunSummary>, LedgerError> {
        if let Some(condition) = &filter.condition {
            return self.search(scope, filter, condition, page).await;
        }
        let rows: Vec<SummaryRow> = sqlx::query_as(
            "select r.run_id, r.workflow_id, r.generation, r.workflow, r.digest, r.status, r.owner,
                    r.parent_run, r.parent_op, r.started_at, r.closed_at,
                    run_attributes($1, r.run_id)::text as attributes
             from unnest($3::smallint[]) as s (status)
             cross join lateral (
                 select run_id, workflow_id, generation, workflow, digest, status, owner, parent_run,
                        parent_op, started_at, closed_at
                 from runs
                 where shard = $1 and tenant = $2 and runs.status = s.status and run_id < $4
                   and generation >= 0
                   and ($5::text is null or workflow = $5)
                 order by run_id desc limit $6
             ) r
             order by r.run_id desc limit $6",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(filter.status_tags())
        .bind(page.before.map_or(Uuid::max(), |run| run.0))
        .bind(filter.workflow.as_deref())
        .bind(i64::from(page.limit.min(limits::PAGE_ROWS_MAX)))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(summary).collect()
    }

    /// The runs that a run has started, oldest first, at most `limit`.
    pub async fn children(
        &self,
        scope: Scope,
        of: RunId,
        limit: u32,
    ) -> Result<Vec<RunSummary>, LedgerError> {
        let rows: Vec<SummaryRow> = sqlx::query_as(
            "select run_id, workflow_id, generation, workflow, digest, status, owner, parent_run, parent_op,
                    started_at, closed_at, run_attributes($1, run_id)::text as attributes
             from runs where shard = $1 and tenant = $2 and parent_run = $3 order by run_id limit $4",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(of.0)
        .bind(i64::from(limit.min(limits::PAGE_ROWS_MAX)))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(summary).collect()
    }

    /// How many runs of the tenant stand how. Statuses that none has are left out. Costs an index
    /// entry for each run that is counted, and with a filter by workflow a row for each that it skips.
    pub async fn count_runs(
        &self,
        scope: Scope,
        filter: &RunFilter,
    ) -> Result<Vec<(RunStatus, u64)>, LedgerError> {
        if let Some(condition) = &filter.condition {
            return self.count_found(scope, filter, condition).await;
        }
        let counts: Vec<(i16, i64)> = sqlx::query_as(
            "select s.status, (select count(*) from runs
                               where shard = $1 and tenant = $2 and runs.status = s.status
                                 and generation >= 0
                                 and ($4::text is null or workflow = $4))
             from unnest($3::smallint[]) as s (status)",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(filter.status_tags())
        .bind(filter.workflow.as_deref())
        .fetch_all(&self.pool)
        .await?;
        counts.into_iter().filter(|(_, count)| *count > 0).map(status_count).collect()
    }

    /// Ledger rows of a run from `from` on, at most `limit`. The caller checks the chain.
    pub async fn rows(&self, run: RunId, from: Seq, limit: u32) -> Result<Vec<Row>, LedgerError> {
        let mut rows = self.closed_rows(run, from, limit).await?;
        self.open_all(&mut columns(&mut rows)).await?;
        Ok(rows.into_iter().map(|row| row.row).collect())
    }

    async fn closed_rows(&self, run: RunId, from: Seq, limit: u32) -> Result<Vec<ClosedRow>, LedgerError> {
        let rows = sqlx::query(
            "select run_id, seq, kind, op, name, payload::text, detail::text, attempt, at, chain, tenant
             from ledger where shard = $1 and run_id = $2 and seq >= $3 order by seq limit $4",
        )
        .bind(self.shard.0)
        .bind(run.0)
        .bind(from.0.cast_signed())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(ledger_row).collect::<Result<_, _>>()?)
    }
}

/// A ledger row with its payload in the stored form.
pub(crate) struct ClosedRow {
    pub(crate) tenant: i32,
    pub(crate) run: Uuid,
    pub(crate) row: Row,
}

/// The texts of these rows that may be in another form than the chain was made of.
pub(crate) fn columns(rows: &mut [ClosedRow]) -> Vec<Closed<'_>> {
    let columns = rows.iter_mut().flat_map(|row| {
        let ClosedRow { tenant, run, row: Row { seq, op, kind, payload, detail, .. } } = row;
        let op = op.map(|op| op.0.cast_signed());
        let place = |column| of_run(*tenant, *run, op, Spot::Row(*seq, column));
        // The details of other kinds are never in a stored form, and attributes may be called like one.
        let detail = has_private_detail(*kind).then_some((place(Column::Detail), detail as _));
        std::iter::once((place(Column::Payload), payload as _)).chain(detail)
    });
    columns.collect()
}

/// A row of `select run_id, seq, kind, op, name, payload::text, detail::text, attempt, at, chain, tenant`.
/// The texts are copied once.
pub(crate) fn ledger_row(row: &PgRow) -> Result<ClosedRow, sqlx::Error> {
    let text = |index: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<&str>, _>(index)?.map(Arc::from));
    let number =
        |index: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<i32>, _>(index)?.map(i32::cast_unsigned));
    let ledger_row = Row {
        seq: Seq(row.try_get::<i32, _>(1)?.cast_unsigned()),
        kind: row.try_get(2)?,
        op: number(3)?.map(Op),
        name: text(4)?,
        payload: text(5)?,
        detail: text(6)?,
        attempt: number(7)?,
        at_ms: row.try_get::<Timestamp, _>(8)?.0,
        chain: Chain(row.try_get::<i64, _>(9)?.cast_unsigned()),
    };
    Ok(ClosedRow { tenant: row.try_get(10)?, run: row.try_get(0)?, row: ledger_row })
}

pub(crate) fn status_count((tag, count): (i16, i64)) -> Result<(RunStatus, u64), LedgerError> {
    Ok((known(RunStatus::from_tag(tag), "run status", tag)?, count.cast_unsigned()))
}

pub(crate) fn summary(row: SummaryRow) -> Result<RunSummary, LedgerError> {
    Ok(RunSummary {
        run: RunId(row.run_id),
        workflow_id: row.workflow_id,
        generation: row.generation.cast_unsigned(),
        workflow: row.workflow,
        digest: digest(row.digest)?,
        status: known(RunStatus::from_tag(row.status), "run status", row.status)?,
        owner: row.owner.map(HostId),
        parent: parent(row.parent_run, row.parent_op),
        started_ms: row.started_at.0,
        closed_ms: row.closed_at.map(|at| at.0),
        attributes: row.attributes,
    })
}

fn info(row: InfoRow) -> Result<RunInfo, LedgerError> {
    let head = row
        .rows
        .zip(row.chain)
        .map(|(rows, chain)| (Seq(rows.cast_unsigned()), Chain(chain.cast_unsigned())));
    Ok(RunInfo {
        summary: summary(row.summary)?,
        input: row.input,
        output: row.output,
        error: row.error,
        fault: row.fault,
        entity: row.entity,
        start: row.start,
        head,
    })
}
