//! What stands beside the ledger and follows from it: timers, and what children leave for their parents. Whoever takes a
//! run into memory compares it with the ledger, and makes anew what is missing.

use crate::from_row::from_row;
use backstitch_core::inbox::CHILD_NOTES;
use backstitch_core::{Op, RunId, RunStatus};
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use crate::connect::Ledger;
use crate::error::{LedgerError, known};
use crate::payloads::Spot;
use crate::payloads::store::of_run;
use crate::time::Timestamp;
use crate::timers::DueTimer;

/// A child that a run waits for, by the command that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Who waits.
    pub parent: RunId,
    /// The command.
    pub op: Op,
    /// The child, as the command names it.
    pub child: RunId,
}

/// How a child stands that its parent waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// It was never started.
    Missing,
    /// It, or the last run that went on from it, has closed so, and no message tells its parent.
    Untold {
        /// A closed status.
        status: RunStatus,
        /// Its result, as JSON text.
        output: Option<String>,
        /// Its failure, as JSON text.
        error: Option<String>,
    },
}

from_row! {
    struct ChildRow {
        place: i64,
        tenant: Option<i32>,
        run_id: Option<Uuid>,
        status: Option<i16>,
        output: Option<String>,
        error: Option<String>,
    }
}

impl Ledger {
    /// The timers of these runs, in no order. Reads only.
    pub async fn timers_of(&self, runs: &[RunId]) -> Result<Vec<DueTimer>, LedgerError> {
        let rows: Vec<(Uuid, i32, i16, Timestamp)> = sqlx::query_as(
            "select t.run_id, t.op, t.purpose, t.due_at
             from unnest($2::uuid[]) as wanted (run_id)
             join timers t on t.shard = $1 and t.run_id = wanted.run_id",
        )
        .bind(self.shard.0)
        .bind(runs.iter().map(|run| run.0).bind_iter())
        .fetch_all(&self.pool)
        .await?;
        let timer = |(run, op, purpose, due): (Uuid, i32, i16, Timestamp)| DueTimer {
            run: RunId(run),
            op: Op(op.cast_unsigned()),
            purpose,
            due_ms: due.0,
        };
        Ok(rows.into_iter().map(timer).collect())
    }

    /// Those of these children that are missing, or have closed without a message to their parents. Reads only, and in
    /// one snapshot: the message of a child comes with its close.
    pub async fn untold_children(
        &self,
        awaited: &[Awaited],
    ) -> Result<Vec<(Awaited, ChildState)>, LedgerError> {
        // `last` is the child itself, or the latest run of its workflow id that is still the parent's child.
        let mut rows: Vec<ChildRow> = sqlx::query_as(
            "select w.place, last.tenant, last.run_id, last.status, last.output::text, last.error::text
             from unnest($2::uuid[], $3::integer[], $4::uuid[]) with ordinality as w (parent, op, child, place)
             left join runs c on c.shard = $1 and c.run_id = w.child
             left join lateral (
                 select r.tenant, r.run_id, r.status, r.output, r.error from runs r
                 where r.shard = $1 and r.tenant = c.tenant and r.workflow_id = c.workflow_id
                   and r.generation >= 0 and r.generation >= c.generation
                   and r.parent_run = w.parent and r.parent_op = w.op
                 order by r.generation desc limit 1
             ) last on true
             where c.run_id is null
                or last.status >= $7 and last.status <> $5
                   and not exists (select from inbox i where i.shard = $1 and i.run_id = w.parent
                                                         and i.op = w.op and i.kind = any ($6))",
        )
        .bind(self.shard.0)
        .bind(awaited.iter().map(|awaited| awaited.parent.0).bind_iter())
        .bind(awaited.iter().map(|awaited| awaited.op.0.cast_signed()).bind_iter())
        .bind(awaited.iter().map(|awaited| awaited.child.0).bind_iter())
        .bind(RunStatus::Continued.tag())
        .bind(CHILD_NOTES.as_slice())
        .bind(RunStatus::CLOSED_FROM)
        .fetch_all(&self.pool)
        .await?;
        let mut columns = Vec::with_capacity(2 * rows.len());
        for row in &mut rows {
            let Some((tenant, run)) = row.tenant.zip(row.run_id) else { continue };
            columns.push((of_run(tenant, run, None, Spot::Output), &mut row.output as _));
            columns.push((of_run(tenant, run, None, Spot::Error), &mut row.error as _));
        }
        // One that cannot be opened is left to the message that is missing: its run has other troubles.
        let unopened = self.open_each(&self.pool, &mut columns).await?;
        drop(columns);
        if !unopened.is_empty() {
            tracing::error!(children = unopened.len(), "the outcomes of some children cannot be opened");
            rows.retain(|row| row.run_id.is_none());
        }
        rows.into_iter().map(|row| child(awaited, row)).collect()
    }
}

fn child(awaited: &[Awaited], row: ChildRow) -> Result<(Awaited, ChildState), LedgerError> {
    let place = usize::try_from(row.place - 1).ok().and_then(|place| awaited.get(place).copied());
    let awaited = known(place, "a place among the children", row.place)?;
    let Some(tag) = row.status else { return Ok((awaited, ChildState::Missing)) };
    let status = known(RunStatus::from_tag(tag), "run status", tag)?;
    Ok((awaited, ChildState::Untold { status, output: row.output, error: row.error }))
}
