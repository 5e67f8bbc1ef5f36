//! New runs from the first rows of others: `fork`, which leaves the other alone, `reset`, which stops
//! it and goes on under its workflow id, and `repair`, which is a reset of a run whose ledger is damaged.
//!
//! Neither is one step in the database: a reset whose host dies in between has stopped the run and not
//! begun the next. It may be repeated: a run that is closed is reset as well as one that is open.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::fork::{Fork, Unforkable, fork};
use backstitch_core::run::OpenOp;
use backstitch_core::{Digest, Event, Message, Row, Run, RunId, Scope, Seq};
use backstitch_engine::ambient;
use backstitch_engine::clock::Clock;
use backstitch_ledger::{ForkedRun, NewItem, NewRun, RunInfo, RunRef, RunSummary};
use backstitch_scheduler::{
    RunIdentity, begin_run, child_options, child_workflow_id, projection_of, timers_of,
};
use backstitch_wire::views::StartedView;
use backstitch_wire::{ForkRun, ResetRun};

use super::error::{ServiceError, invalid};
use super::start::{check_workflow_id, workflow_id};
use super::state::{PARKED_POLL, Service};
use super::steer::bounded;
use super::views::run_view;

/// How long a run that is reset may take to stop: its host may be dying.
const STOP: Duration = Duration::from_secs(60);

/// What is left of a run whose ledger is damaged.
struct Salvage {
    /// The last row that is kept.
    at: Seq,
    fork: Fork,
    /// What the ledger says after that row.
    later: Vec<Event>,
}

/// Who a new run will be.
struct Successor {
    run: RunId,
    workflow_id: Arc<str>,
    generation: u32,
    digest: Digest,
}

impl Service {
    /// A new run that begins with the rows of another up to a row, both of them open or closed.
    pub async fn fork(&self, scope: Scope, id: &str, ask: ForkRun) -> Result<StartedView, ServiceError> {
        ask.workflow_id.as_deref().map_or(Ok(()), check_workflow_id)?;
        let info = self.find(scope, id).await?;
        let run = self.clock.new_run_id();
        let to = Successor {
            run,
            workflow_id: workflow_id(ask.workflow_id.as_deref(), run),
            generation: 0,
            digest: self.version(scope, &info, ask.deployed).await?,
        };
        let (fork, _) = self.forked(&info, ask.at_seq, to.run).await?;
        self.begin_at(scope, &info, fork, to, &[]).await
    }

    /// Stops a run, if it is open, and begins the next of its workflow id with its rows up to a row.
    pub async fn reset(&self, scope: Scope, id: &str, ask: ResetRun) -> Result<StartedView, ServiceError> {
        let Some(to_seq) = ask.to_seq else {
            return Err(invalid("invalid-body", "`to_seq` is missing: the last row that is kept".to_owned()));
        };
        let info = self.find(scope, id).await?;
        // Before anything is stopped: the row must be one to go on from.
        self.forked(&info, to_seq, self.clock.new_run_id()).await?;
        let reason = because("reset", to_seq, &ask.reason);
        let (info, to) = self.stop_for(scope, info, ask.deployed, reason).await?;
        let (fork, later) = self.forked(&info, to_seq, to.run).await?;
        let later = if ask.drop_signals { Vec::new() } else { later };
        self.begin_at(scope, &info, fork, to, &later).await
    }

    /// Lets a new run of the workflow id go on from the rows before the damage in a run's ledger, or from fewer. The
    /// damaged run is stopped if it is open, and otherwise left as it is.
    pub async fn repair(&self, scope: Scope, id: &str, ask: ResetRun) -> Result<StartedView, ServiceError> {
        let info = self.find(scope, id).await?;
        let at = self.salvaged(&info, ask.to_seq, self.clock.new_run_id()).await?.at;
        let reason = because("repaired", at, &ask.reason);
        let (info, to) = self.stop_for(scope, info, ask.deployed, reason).await?;
        let Salvage { fork, later, .. } = self.salvaged(&info, Some(at), to.run).await?;
        let later = if ask.drop_signals { Vec::new() } else { later };
        self.begin_at(scope, &info, fork, to, &later).await
    }

    /// Stops a run, if it is open, to begin the next of its workflow id.
    async fn stop_for(
        &self,
        scope: Scope,
        info: RunInfo,
        deployed: bool,
        reason: String,
    ) -> Result<(RunInfo, Successor), ServiceError> {
        let (run, name) = (info.summary.run, info.summary.workflow_id.clone());
        let digest = self.version(scope, &info, deployed).await?;
        self.latest_but(scope, run, &name).await?;
        if info.summary.status.is_open() {
            self.stop(scope, run, reason).await?;
        }
        let info = self.info(scope, RunRef::Id(run)).await?;
        // It may have gone on as a new run before it heard that it should stop.
        let latest = self.latest_but(scope, run, &name).await?;
        let to = Successor {
            run: self.clock.new_run_id(),
            workflow_id: name.into(),
            generation: latest.generation + 1,
            digest,
        };
        Ok((info, to))
    }

    /// The latest run of a workflow id, which must not be an open one besides `run`.
    async fn latest_but(&self, scope: Scope, run: RunId, name: &str) -> Result<RunSummary, ServiceError> {
        let latest = self.info(scope, RunRef::WorkflowId(name)).await?.summary;
        if latest.run == run || !latest.status.is_open() {
            return Ok(latest);
        }
        let message = format!(
            "run {} of the workflow id {name:?} is {}; terminate it first, or fork instead",
            latest.run,
            latest.status.as_str()
        );
        Err(ServiceError::Conflict { code: "later-run-open", message })
    }

    /// The component that the new run is pinned to.
    async fn version(&self, scope: Scope, info: &RunInfo, deployed: bool) -> Result<Digest, ServiceError> {
        if !deployed {
            return Ok(info.summary.digest);
        }
        let workflow: Arc<str> = info.summary.workflow.as_str().into();
        let served = self.programs.workflow_by_now(scope, &workflow).await?;
        served.ok_or_else(|| self.unserved(scope, &workflow))
    }

    /// Terminates a run and waits until that is so.
    async fn stop(&self, scope: Scope, run: RunId, reason: String) -> Result<(), ServiceError> {
        let message = Message::Terminate { reason: bounded(reason), only_this: true };
        match self.post_to(scope, run, false, &message).await {
            // It has closed by itself meanwhile.
            Ok(_) | Err(ServiceError::Conflict { code: "run-closed", .. }) => {}
            Err(error) => return Err(error),
        }
        let deadline = tokio::time::Instant::now() + STOP;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let run = self.result(scope, &run.to_string(), left).await?;
            if !run.status.is_open() {
                return Ok(());
            }
            if left.is_zero() {
                let message = format!("run {} has not stopped yet; repeat the reset", run.run_id);
                return Err(ServiceError::Unavailable { code: "not-stopped", message });
            }
            // A parked run is a result; it stops as soon as its host reads its inbox.
            tokio::time::sleep(PARKED_POLL).await;
        }
    }

    async fn begin_at(
        &self,
        scope: Scope,
        info: &RunInfo,
        fork: Fork,
        to: Successor,
        later: &[Event],
    ) -> Result<StartedView, ServiceError> {
        let now_ms = self.clock.now_ms();
        let inbox = later.iter().filter_map(|event| again(event, to.run, &self.clock)).collect();
        let children = self.children_of(scope, &fork, &to, now_ms);
        let Fork { run, mut rows, projection } = fork;
        let first = rows.remove(0);
        let fork = ForkedRun {
            scope,
            run: NewRun {
                run: to.run,
                workflow_id: Arc::clone(&to.workflow_id),
                generation: to.generation,
                workflow: info.summary.workflow.as_str().into(),
                digest: to.digest,
                parent: None,
                first,
                further: Vec::new(),
            },
            rows,
            timers: timers_of(&run, now_ms),
            projection: projection_of(to.run, &projection),
            children,
            inbox,
        };
        if !self.ledger.insert_fork(&fork).await? {
            // It may be the run of this very client, who has not been told.
            self.ledger.confirm().await?;
            let message = format!("the workflow id {:?} is taken; choose another", to.workflow_id);
            return Err(ServiceError::Conflict { code: "workflow-id-taken", message });
        }
        let run = run_view(&self.info(scope, RunRef::Id(to.run)).await?)?;
        Ok(StartedView { run, created: true })
    }

    /// The fork of a run whose ledger is damaged, at a row before the damage; none given: the last of them.
    async fn salvaged(&self, info: &RunInfo, at: Option<Seq>, into: RunId) -> Result<Salvage, ServiceError> {
        let run = info.summary.run;
        let _turn = self.turn_to_compute().await;
        let (rows, _held) = self.whole(run, 2).await?;
        let Err(damage) = Run::load_closed(run, &rows, info.head) else {
            let message = format!("the ledger of run {run} is sound; reset the run instead");
            return Err(ServiceError::Conflict { code: "ledger-sound", message });
        };
        let sound = sound_rows(run, &rows);
        let last = Seq(sound.saturating_sub(1));
        let at = at.unwrap_or(last);
        if sound == 0 || at > last {
            let message = match sound {
                0 => format!("not even the first row of run {run} can be used: {damage}"),
                _ => {
                    format!("row {at} is behind the damage ({damage}); the last row to go on from is {last}")
                }
            };
            return Err(invalid("no-such-row", message));
        }
        let fork = fork(run, &rows[..=at.0 as usize], None, at, into, ambient::new_seed())
            .map_err(|error| invalid("no-such-row", error.to_string()))?;
        // Rows behind the damage are not trusted with anything but what others have said to the run.
        let later = rows.iter().skip(at.0 as usize + 1).filter_map(|row| row.event().ok()).collect();
        Ok(Salvage { at, fork, later })
    }

    /// The fork of a run at a row, and what its ledger says after that row.
    async fn forked(&self, info: &RunInfo, at: Seq, into: RunId) -> Result<(Fork, Vec<Event>), ServiceError> {
        let _turn = self.turn_to_compute().await;
        let (rows, _held) = self.whole(info.summary.run, 2).await?;
        let fork =
            fork(info.summary.run, &rows, info.head, at, into, ambient::new_seed()).map_err(|error| {
                match &error {
                    Unforkable::Corrupt(_) => {
                        ServiceError::Conflict { code: "ledger-damaged", message: error.to_string() }
                    }
                    Unforkable::Beyond { .. } | Unforkable::Closing { .. } => {
                        invalid("no-such-row", error.to_string())
                    }
                }
            })?;
        // Those that were folded can be read.
        let later = rows.iter().skip(at.0 as usize + 1).filter_map(|row| row.event().ok()).collect();
        Ok((fork, later))
    }

    /// The children that a fork waits for, as its own. Of one that nothing serves any more it hears when
    /// it is taken up.
    fn children_of(&self, scope: Scope, fork: &Fork, to: &Successor, now_ms: u64) -> Vec<NewRun> {
        let options = child_options(to.run, &to.workflow_id, fork.run.start());
        let child = |(op, open): (_, &OpenOp)| {
            let OpenOp::Child { run, workflow, input, options: asked } = open else { return None };
            let identity = RunIdentity {
                scope,
                run: *run,
                workflow_id: child_workflow_id(to.run, op, asked.workflow_id.clone()),
                generation: 0,
                workflow: Arc::clone(workflow),
                digest: self.programs.workflow(scope, workflow)?,
                parent: Some((to.run, op)),
            };
            let begun =
                begin_run(&identity, input, Arc::new(options.clone().beginning(ambient::new_seed())), now_ms);
            begun.ok().map(|(new_run, _)| new_run)
        };
        fork.run.open_ops().filter_map(child).collect()
    }
}

/// How many rows from the first on can be led along.
fn sound_rows(id: RunId, rows: &[Row]) -> u32 {
    let mut run = Run::new(id);
    let sound = rows.iter().take_while(|row| run.load(row).is_ok()).count();
    u32::try_from(sound).unwrap_or(u32::MAX)
}

/// Why a run is stopped, for its ledger.
fn because(what: &str, at: Seq, reason: &str) -> String {
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("{what} to row {at}{because}")
}

/// A signal that the new run has still to get.
fn again(event: &Event, to: RunId, clock: &Clock) -> Option<NewItem> {
    let Event::SignalReceived { name, payload, id } = event else { return None };
    let signal = Message::Signal { name: Arc::clone(name), payload: payload.clone(), id: id.clone() };
    Some(NewItem { run: to, item_id: clock.new_id(), at_ms: clock.now_ms(), message: signal.to_row() })
}
