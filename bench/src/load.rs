//! Closed-loop load: so many runs, so many at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use backstitch_core::{RunId, RunStatus, Scope};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;

use crate::rig::Shared;

/// Longest a run may take before something is wrong.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Starts `runs` runs, at most `concurrency` open at a time, and waits until all have closed.
pub(crate) async fn closed_loop(
    rig: &Shared,
    workflow: &'static str,
    input: &str,
    runs: usize,
    concurrency: usize,
) -> Result<()> {
    let mut closings = rig.service.closings();
    let turns = Arc::new(Semaphore::new(concurrency));
    let mut open = HashMap::with_capacity(concurrency);
    let mut early = HashSet::new();
    let mut starting = JoinSet::new();
    let (mut started, mut closed) = (0, 0);
    while closed < runs {
        tokio::select! {
            turn = Arc::clone(&turns).acquire_owned(), if started < runs => {
                let (rig, input, turn) = (Arc::clone(rig), input.to_owned(), turn?);
                started += 1;
                starting.spawn(async move { Ok::<_, anyhow::Error>((rig.start_run(workflow, &input).await?, turn)) });
            }
            Some(start) = starting.join_next() => {
                let (run, turn) = start??;
                // A quick run may have closed before its start was answered.
                if early.remove(&run) { closed += 1 } else { open.insert(run, turn); }
            }
            run = next(&mut closings) => {
                let run = run?;
                if open.remove(&run).is_some() { closed += 1 } else { early.insert(run); }
            }
        }
    }
    Ok(())
}

async fn next(closings: &mut broadcast::Receiver<RunId>) -> Result<RunId> {
    match tokio::time::timeout(TIMEOUT, closings.recv()).await {
        Ok(Ok(run)) => Ok(run),
        Ok(Err(_)) => bail!("the bench did not keep up with the closings"),
        Err(_) => bail!("no run has closed for two minutes"),
    }
}

/// Waits until one run has closed, and checks that it completed.
pub(crate) async fn completed(rig: &Shared, run: RunId) -> Result<()> {
    let view = rig.service.result(Scope::DEFAULT, &run.to_string(), TIMEOUT).await?;
    (view.status == RunStatus::Completed).then_some(()).with_context(|| format!("run {run} is {view:?}"))
}
