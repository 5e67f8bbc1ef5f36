//! Reads runs for the scheduler: the component that each is pinned to, its ledger, and what else it takes to go on.
//!
//! Nobody waits here for somebody else's trouble. Runs are read by component, and a component that is not ready holds up
//! its own runs alone: no batch waits for it for longer than [`BATCH_WAIT`]. Ledgers are read after that, a few at a time,
//! and large ones one by one ([`Room`]), so that memory is held only by runs that can go on at once.
//!
//! | a component that | is |
//! |---|---|
//! | the database does not hold, or that is broken | the reason to park its runs |
//! | this host cannot make ready for a reason of its own | tried again for half a minute, then the same |
//! | cannot be read because the database does not answer | waited for: nothing else goes on then either |
//! | is being compiled | waited for: that is bounded by itself |

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backstitch_core::{Digest, Fault, FaultKind, HostId, Rules, Run, RunId, Scope, limits};
use backstitch_ledger::{ClaimedRun, Ledger};
use backstitch_sandbox::WorkflowProgram;
use backstitch_scheduler::{Derived, Ledgered, Loaded, LoadedRun, Wanted, fold};

use crate::derived;
use crate::driver::{Batch, Input, Inputs, Live};
use crate::failpoint;
use crate::registry::ComponentRegistry;
use crate::retry::until_answered;
use crate::room::{Permit, Room};

/// How long a batch of runs waits for a component: longer than it takes to map compiled code, so that hosts that share a
/// takeover stay in step; far shorter than a compilation.
const BATCH_WAIT: Duration = Duration::from_millis(250);
/// How long a run that is to be terminated waits for its component before it is closed without it.
const WITHOUT_COMPONENT_AFTER: Duration = Duration::from_secs(1);

/// Reads runs. Cheap to clone: all clones share their room.
#[derive(Clone)]
pub struct Loads {
    /// Loads components.
    pub programs: ComponentRegistry,
    /// Has the runs.
    pub ledger: Ledger,
    /// Whose they are.
    pub host: HostId,
    /// To the scheduler.
    pub inputs: Inputs,
    /// For ledgers.
    pub room: Room,
}

impl Loads {
    /// Reads runs that this host has just claimed. `batch` is dropped when they are read, but for those that have to
    /// wait: for a component, or for a turn to have a large ledger.
    pub fn claimed(&self, runs: Vec<Wanted>, batch: &Batch) {
        let mut by_component: HashMap<(Scope, Digest), Vec<Wanted>> = HashMap::new();
        for wanted in runs {
            by_component.entry((wanted.run.scope, wanted.run.digest)).or_default().push(wanted);
        }
        for ((scope, digest), runs) in by_component {
            let (loads, batch) = (self.clone(), batch.clone());
            tokio::spawn(async move {
                let mut batch = Some(batch);
                let mut loading = pin!(loads.program(scope, digest, Rules::CURRENT));
                let program = match tokio::time::timeout(BATCH_WAIT, &mut loading).await {
                    Ok(program) => program,
                    Err(_) => {
                        drop(batch.take());
                        loading.await
                    }
                };
                for runs in runs.chunks(limits::LEDGERS_READ_MAX) {
                    loads.read_small(runs, &program).await;
                }
            });
        }
    }

    /// Reads a run that this host may own, however long the database takes to answer. `program`: its code, if it is in
    /// memory.
    pub fn one(&self, run: RunId, number: u64, program: Option<WorkflowProgram>) {
        let loads = self.clone();
        tokio::spawn(async move {
            let Some(claimed) = loads.owned(run, number).await else { return };
            let program = match program {
                Some(program) => Ok(program),
                None => loads.program(claimed.scope, claimed.digest, Rules::CURRENT).await,
            };
            loads.read_one(Wanted { run: claimed, number }, program).await;
        });
    }

    /// Reads a run that is to be closed, without its component if that takes long. The first of several answers to one
    /// number counts.
    pub fn to_close(&self, run: RunId, number: u64) {
        let loads = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(WITHOUT_COMPONENT_AFTER).await;
            let Some(claimed) = loads.owned(run, number).await else { return };
            let fault =
                Fault::new(FaultKind::Component, "its component was not ready when it was terminated");
            loads.read_one(Wanted { run: claimed, number }, Err(fault)).await;
        });
    }

    /// The run as it stands, if it is this host's and open; else the scheduler is told.
    async fn owned(&self, run: RunId, number: u64) -> Option<ClaimedRun> {
        let read = until_answered("reading a run", || self.ledger.owned_run(self.host, run)).await;
        if read.is_none() {
            self.tell(Loaded { run, number, result: None }).await;
        }
        read
    }

    /// A workflow component, or the fault that says why there will be none.
    async fn program(&self, scope: Scope, digest: Digest, rules: Rules) -> Result<WorkflowProgram, Fault> {
        let timeout = Duration::from_millis(limits::COMPONENT_LOAD_MS_MAX);
        self.programs.load_for_runs(scope, digest, rules, timeout).await
    }

    /// Reads those of these runs whose ledgers are small, in one go; the others find their own way.
    async fn read_small(&self, runs: &[Wanted], program: &Result<WorkflowProgram, Fault>) {
        let permit = Arc::new(self.room.turn().await);
        let ids: Vec<RunId> = runs.iter().map(|wanted| wanted.run.run).collect();
        let found = until_answered("reading ledgers", || self.ledger.small_ledgers(&ids)).await;
        let mut small: Vec<(&Wanted, Ledgered)> = Vec::with_capacity(runs.len());
        for (wanted, (run, rows)) in runs.iter().zip(found) {
            if let Some(rows) = rows {
                small.push((wanted, fold(run, &rows)));
            } else {
                let (loads, wanted, program) = (self.clone(), wanted.clone(), program.clone());
                tokio::spawn(async move { loads.read_one(wanted, program).await });
            }
        }
        // A damaged ledger says nothing of what is beside it.
        let sound: Vec<&Run> =
            small.iter().filter_map(|(_, ledger)| ledger.as_ref().ok()).map(|(run, _)| run).collect();
        let mut derived = derived::read(&self.ledger, &sound).await;
        for (wanted, ledger) in small {
            let derived = derived.remove(&wanted.run.run).unwrap_or_default();
            self.complete(wanted.clone(), program.clone(), ledger, derived, Arc::clone(&permit)).await;
        }
    }

    /// Reads the ledger of one run, whatever its size.
    async fn read_one(&self, wanted: Wanted, program: Result<WorkflowProgram, Fault>) {
        let run = wanted.run.run;
        let (rows, permit) =
            until_answered("reading a ledger", || self.room.read(&self.ledger, run, 1)).await;
        // Megabytes of checksums and JSON are not for the threads that serve everybody.
        let folded = tokio::task::spawn_blocking(move || fold(run, &rows)).await;
        let ledger = match folded {
            Ok(ledger) => ledger,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let derived = match &ledger {
            Ok((folded, _)) => derived::read(&self.ledger, &[folded]).await.remove(&run).unwrap_or_default(),
            Err(_) => Derived::default(),
        };
        self.complete(wanted, program, ledger, derived, Arc::new(permit)).await;
    }

    /// Tells the scheduler of a run that was read. `program` is for runs that start now: one that began under other
    /// rules has code of its own, for which nobody else waits.
    async fn complete(
        &self,
        wanted: Wanted,
        program: Result<WorkflowProgram, Fault>,
        ledger: Ledgered,
        derived: Derived,
        permit: Arc<Permit>,
    ) {
        let began_under = ledger.as_ref().ok().map(|(run, _)| run.start().rules);
        let other =
            began_under.filter(|rules| program.as_ref().is_ok_and(|program| program.rules() != *rules));
        let Some(rules) = other else { return self.finish(wanted, program, ledger, derived, permit).await };
        let loads = self.clone();
        tokio::spawn(async move {
            let program = loads.program(wanted.run.scope, wanted.run.digest, rules).await;
            loads.finish(wanted, program, ledger, derived, permit).await;
        });
    }

    async fn finish(
        &self,
        wanted: Wanted,
        program: Result<WorkflowProgram, Fault>,
        ledger: Ledgered,
        derived: Derived,
        permit: Arc<Permit>,
    ) {
        let (run, number, is_large) = (wanted.run.run, wanted.number, permit.is_large());
        let result = Some(LoadedRun::new(wanted.run, program, ledger, derived, (permit, is_large)));
        self.tell(Loaded { run, number, result }).await;
    }

    async fn tell(&self, loaded: Loaded<Live>) {
        failpoint::gate("load-after").await;
        // The scheduler is gone only when nobody needs the run here any more.
        let _ = self.inputs.send(Input::Loaded(Box::new(loaded))).await;
    }
}
