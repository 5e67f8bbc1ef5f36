//! What clients ask about runs: one, many, their ledgers, their results, and whether a component repeats them.

use std::time::Duration;

use backstitch_core::start::without_seeds;
use backstitch_core::{Digest, Filter, Rules, Run, RunId, RunStatus, Scope, Seq, limits};
use backstitch_engine::registry::rules_of;
use backstitch_engine::replay_check;
use backstitch_engine::replay_check::Recorded;
use backstitch_ledger::{Page, RunFilter, RunRef};
use backstitch_sandbox::{Program, WorkflowProgram};
use backstitch_wire::views::{
    LedgerView, ReplayView, RunCountView, RunDetailView, RunListView, RunView, StatusCountView, WaitView,
};
use backstitch_wire::{CountRuns, ListRuns};

use super::error::{ServiceError, internal, invalid, unloadable};
use super::state::{RESULT_POLL, Service};
use super::views::{self, page_limit, row_view, run_view, shown, summary_views};
use crate::time;

impl Service {
    /// One run, by run id or workflow id (then its latest generation).
    pub async fn run(&self, scope: Scope, id: &str) -> Result<RunDetailView, ServiceError> {
        let info = self.find(scope, id).await?;
        let (rows, _permit) = self.whole(info.summary.run, 1).await?;
        // A damaged ledger still shows what the runs table says.
        let folded = Run::load_closed(info.summary.run, &rows, info.head);
        Ok(RunDetailView {
            run: run_view(&info)?,
            input: info.input.as_deref().and_then(shown),
            rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            waits_for: folded.iter().flat_map(|(run, _)| self.waits(scope, run)).collect(),
            signals_kept: folded.as_ref().map_or(0, |(run, _)| run.signals_kept()),
            start: info.start.as_deref().and_then(without_seeds).as_deref().and_then(shown),
            entity: info.entity.as_deref().and_then(shown),
            damage: folded.err().map(|corrupt| corrupt.to_string()),
        })
    }

    pub(super) fn waits(&self, scope: Scope, run: &Run) -> Vec<WaitView> {
        run.open_ops()
            .map(|(op, open)| {
                views::wait(op, open, |queue, name| self.programs.activity(scope, queue, name).is_some())
            })
            .collect()
    }

    /// Runs, newest first.
    pub async fn list(&self, scope: Scope, list: ListRuns) -> Result<RunListView, ServiceError> {
        let limit = page_limit(list.limit, 100)?;
        let before = list.cursor.as_deref().map(str::parse::<RunId>).transpose().map_err(|_| {
            invalid("invalid-cursor", "the cursor is not one that a page of runs gave".to_owned())
        })?;
        let filter = run_filter(list.status, list.workflow, list.condition.as_deref())?;
        let runs = self.ledger.list(scope, &filter, Page { before, limit }).await?;
        let full = runs.len() == limit as usize;
        let next_cursor = runs.last().filter(|_| full).map(|run| run.run.to_string());
        Ok(RunListView { runs: summary_views(&runs)?, next_cursor })
    }

    /// The runs that a run has started, oldest first.
    pub async fn children(&self, scope: Scope, id: &str) -> Result<RunListView, ServiceError> {
        let run = self.find_id(scope, id).await?;
        let runs = self.ledger.children(scope, run, limits::PAGE_ROWS_MAX).await?;
        Ok(RunListView { runs: summary_views(&runs)?, next_cursor: None })
    }

    /// How many runs there are of those that are asked for.
    pub async fn count(&self, scope: Scope, count: CountRuns) -> Result<RunCountView, ServiceError> {
        let filter = run_filter(count.status, count.workflow, count.condition.as_deref())?;
        let counts = self.ledger.count_runs(scope, &filter).await?;
        let by_status: Vec<_> =
            counts.into_iter().map(|(status, runs)| StatusCountView { status, runs }).collect();
        Ok(RunCountView { runs: by_status.iter().map(|count| count.runs).sum(), by_status })
    }

    /// A page of a run's ledger: no more rows than `limit`, and no more bytes than fit one answer.
    pub async fn ledger(
        &self,
        scope: Scope,
        id: &str,
        from: Seq,
        limit: Option<u32>,
    ) -> Result<LedgerView, ServiceError> {
        let run = self.find_id(scope, id).await?;
        let limit = page_limit(limit, limits::PAGE_ROWS_MAX)?;
        let shown = self.ledger.shown_rows(run, from, limit, limits::PAGE_BYTES_MAX).await?;
        Ok(LedgerView { rows: shown.rows.iter().map(row_view).collect(), next_seq: shown.next })
    }

    /// The run as soon as it has closed or is parked, or as it is when `wait` is over.
    pub async fn result(&self, scope: Scope, id: &str, wait: Duration) -> Result<RunView, ServiceError> {
        let run = self.find_id(scope, id).await?;
        // Before the first look: a run that closes after it is not missed.
        let mut closing = self.closings.of(run);
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            let status = self.ledger.run_status(scope, run).await?;
            if !matches!(status, Some(RunStatus::Running | RunStatus::Paused)) {
                break;
            }
            let poll = tokio::time::sleep(RESULT_POLL);
            tokio::pin!(poll);
            tokio::select! {
                () = &mut over => break,
                () = &mut poll => {}
                () = closing.heard() => {}
            }
        }
        run_view(&self.info(scope, RunRef::Id(run)).await?)
    }

    /// Leads the run's own component, or another one, along its ledger. Writes nothing.
    pub async fn replay(
        &self,
        scope: Scope,
        id: &str,
        component: Option<Vec<u8>>,
    ) -> Result<ReplayView, ServiceError> {
        let info = self.find(scope, id).await?;
        let run = info.summary.run;
        let turn = self.turn_to_compute().await;
        let (rows, permit) = self.whole(run, 1).await?;
        let rules = rules_of(&rows);
        let (digest, program) = match component {
            None => {
                let digest = info.summary.digest;
                (digest, self.programs.load_workflow(scope, digest, rules).await.map_err(unloadable)?)
            }
            Some(bytes) => self.foreign(bytes, rules).await?,
        };
        let workflow_id = info.summary.workflow_id.into();
        let recorded = Recorded { run, workflow_id, rows, head: info.head };
        // The turn and the room go with the work, which a client that hangs up does not end.
        let replay_check =
            move || (replay_check::replay_check(&recorded, digest, &program), recorded, permit, turn);
        let retraced = tokio::task::spawn_blocking(replay_check).await;
        retraced.map(|(view, ..)| view).map_err(|error| internal(&error))
    }

    /// A component that is not deployed, ready to be replayed.
    async fn foreign(&self, bytes: Vec<u8>, rules: Rules) -> Result<(Digest, WorkflowProgram), ServiceError> {
        let taken = self.programs.sandbox().take_in_for(bytes.into(), rules).await.map_err(unloadable)?;
        match taken.program {
            Program::Workflow(program) => Ok((taken.digest, program)),
            Program::Activity(_) => {
                let message = "an activity component has no ledger to be replayed against; give a workflow";
                Err(invalid("wrong-kind", message.to_owned()))
            }
        }
    }
}

/// What a listing or a count is asked for.
fn run_filter(
    status: Option<RunStatus>,
    workflow: Option<String>,
    condition: Option<&str>,
) -> Result<RunFilter, ServiceError> {
    let condition = condition.map(|text| Filter::parse(text, time::parse)).transpose();
    let condition = condition.map_err(|error| invalid("invalid-filter", error.to_string()))?;
    Ok(RunFilter { statuses: status.into_iter().collect(), workflow, condition })
}
