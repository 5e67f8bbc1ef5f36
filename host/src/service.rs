//! Everything a client can ask of a host, without HTTP: the API translates requests into these calls
//! and errors into problem documents; nothing below knows of sockets.

mod error;
mod export;
mod follow;
mod fork;
mod payloads;
mod query;
mod repairs;
mod schedules;
mod start;
mod steer;
mod tasks;
mod update;
mod views;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstitch_client::views::{
    DeployedView, DeploymentView, HealthView, LedgerView, NameView, ReadyView, ReplayView, RowView,
    RunCountView, RunDetailView, RunListView, RunView, StatusCountView, StoredView, WaitView,
};
use backstitch_client::{CountRuns, ListRuns};
use backstitch_core::command::DEFAULT_TASK_QUEUE;
use backstitch_core::start::without_seeds;
use backstitch_core::{Digest, Filter, Json, Kind, Row, Rules, Run, RunId, RunStatus, Scope, Seq, limits};
use backstitch_ledger::{
    ComponentKind as Offers, Deployment, Ledger, NewComponent, Notifier, Page, Reference, RunFilter, RunInfo,
    RunRef, RunSummary,
};
use backstitch_sandbox::{ComponentKind, Described, Manifest, Program, WorkflowProgram};
use tokio::sync::{Notify, Semaphore, broadcast, watch};

pub use self::error::ServiceError;
use self::error::{between_terms, internal, invalid, out_of_time, unfit, unknown_run, unloadable};
pub use self::follow::{Follow, Step};
use crate::clock::Clock;
use crate::closings::Closings;
use crate::counters::Counters;
use crate::crier::Crier;
use crate::matcher::TaskMatcher;
use crate::programs::{Programs, rules_of};
use crate::quota::Quotas;
use crate::retrace::Recorded;
use crate::room::{Held, Room};
use crate::tenure::Tenure;
use crate::term::Term;
use crate::{retrace, time};

/// The host, as clients see it. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// Over the connections of clients.
    ledger: Ledger,
    /// Over the host's own: what may take its time, or must not wait behind clients.
    patient: Ledger,
    programs: Programs,
    term: watch::Receiver<Option<Term>>,
    closings: Closings,
    counters: Arc<Counters>,
    clock: Clock,
    tenure: Tenure,
    matcher: TaskMatcher,
    crier: Crier,
    quotas: Quotas,
    /// Turns to lead a guest along a whole ledger for a client.
    computing: Arc<Semaphore>,
    /// For ledgers and pages of ledgers, until clients have them.
    room: Room,
    /// Somebody has changed a schedule.
    schedule_hint: Arc<Notify>,
    /// Which schedules have started which runs here, of late.
    scheduled: Arc<Mutex<Scheduled>>,
}

/// Runs that schedules have started here, each with its schedule.
type Scheduled = lru::LruCache<RunId, (Scope, Arc<str>)>;

/// Runs of schedules that are remembered until they close: one that is forgotten is found closed by a look that is due.
const SCHEDULED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// How often a parked run is looked at that is to stop.
const PARKED_POLL: Duration = Duration::from_millis(50);
/// How often a waiting client's run is looked at when another host has it.
const RESULT_POLL: Duration = Duration::from_millis(500);

impl Service {
    /// `room`: for ledgers that clients wait for.
    pub(crate) fn new(
        (ledger, room): (Ledger, Room),
        programs: Programs,
        quotas: Quotas,
        term: watch::Receiver<Option<Term>>,
        closings: Closings,
        counters: Arc<Counters>,
        (clock, tenure): (Clock, Tenure),
    ) -> Self {
        let crier = Crier::new(Notifier::spawn(ledger.clone()), term.clone());
        let matcher = TaskMatcher::new(tasks::give_back(ledger.clone(), crier.clone(), clock.clone()));
        let computing = Arc::new(Semaphore::new(query::COMPUTING_MAX));
        let schedule_hint = Arc::new(Notify::new());
        let scheduled = Arc::new(Mutex::new(lru::LruCache::new(SCHEDULED_MAX)));
        let (ledger, patient) = (ledger.for_clients(), ledger);
        Self {
            ledger,
            patient,
            programs,
            term,
            closings,
            counters,
            clock,
            tenure,
            matcher,
            crier,
            quotas,
            computing,
            room,
            schedule_hint,
            scheduled,
        }
    }

    /// The same for what the host does of its own accord.
    pub(crate) fn for_host(&self) -> Self {
        Self { ledger: self.patient.clone(), ..self.clone() }
    }

    /// Admits, compiles and stores a component, and lets it serve the names it describes. Its activities
    /// may reach nothing.
    pub async fn deploy(&self, scope: Scope, bytes: Vec<u8>) -> Result<DeployedView, ServiceError> {
        self.deploy_with(scope, bytes, None).await
    }

    /// The same, with a manifest that says what its activities may reach, as JSON text. It stands for
    /// the component until its next deployment.
    pub async fn deploy_with(
        &self,
        scope: Scope,
        bytes: Vec<u8>,
        manifest: Option<&str>,
    ) -> Result<DeployedView, ServiceError> {
        let reach = manifest.map(Manifest::parse).transpose();
        let reach = reach.map_err(|error| unfit("invalid-manifest", error.to_string()))?.map(Arc::new);
        let bytes: Arc<[u8]> = bytes.into();
        let taken = self.programs.sandbox().take_in(Arc::clone(&bytes)).await.map_err(unloadable)?;
        let (digest, kind) = (taken.digest, taken.program.kind());
        if kind == ComponentKind::Workflow && reach.is_some() {
            let message = "a workflow reaches nothing but its host: deploy it without a manifest";
            return Err(unfit("manifest-of-workflow", message.to_owned()));
        }
        let described = taken.program.described().map_err(|fault| {
            unfit("describe-failed", format!("the component does not say what it offers: {fault}"))
        })?;
        if described.is_empty() {
            let message = format!("the component offers no {kind} at all; export at least one");
            return Err(unfit("nothing-offered", message));
        }
        if kind == ComponentKind::Activity {
            self.ledger.put_manifest(scope, digest, manifest, self.clock.now_ms()).await?;
        }
        let created = self.store(scope, kind, digest, &bytes, described).await?;
        self.programs.refresh().await?;
        // Calls that waited for a component may go on at once.
        self.crier.deployed();
        let warnings = match reach {
            Some(reach) => self.programs.sandbox().obstacles(reach).await,
            None => Vec::new(),
        };
        Ok(DeployedView {
            warnings,
            digest,
            kind: kind.as_str().to_owned(),
            bytes: bytes.len() as u64,
            created,
            names: described
                .iter()
                .map(|described| NameView {
                    task_queue: queue_of(kind, described),
                    name: described.name.clone(),
                })
                .collect(),
        })
    }

    async fn store(
        &self,
        scope: Scope,
        kind: ComponentKind,
        digest: Digest,
        bytes: &[u8],
        described: &[Described],
    ) -> Result<bool, ServiceError> {
        let offers = match kind {
            ComponentKind::Workflow => Offers::Workflows,
            ComponentKind::Activity => Offers::Activities,
        };
        let names: Vec<&str> = described.iter().map(|described| described.name.as_str()).collect();
        let names_json = serde_json::to_string(&names).map_err(|error| internal(&error))?;
        let now_ms = self.clock.now_ms();
        let new = NewComponent { digest, kind: offers, bytes, names: &names_json, created_ms: now_ms };
        let created = self.patient.put_component(scope, new).await?;
        let mut queues: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for described in described {
            let queue = queue_of(kind, described).unwrap_or_default();
            queues.entry(queue).or_default().push(&described.name);
        }
        for (queue, names) in queues {
            self.ledger.deploy(scope, offers, &queue, &names, digest, now_ms).await?;
        }
        Ok(created)
    }

    /// What serves which name now.
    pub async fn deployments(&self, scope: Scope) -> Result<Vec<DeploymentView>, ServiceError> {
        let deployments = self.ledger.deployments(scope).await?;
        let manifests: BTreeMap<Digest, String> = self.ledger.manifests(scope).await?.into_iter().collect();
        let view = |deployment: Deployment| DeploymentView {
            manifest: manifests.get(&deployment.digest).map(String::as_str).and_then(shown),
            kind: match deployment.kind {
                Offers::Workflows => ComponentKind::Workflow.as_str(),
                Offers::Activities => ComponentKind::Activity.as_str(),
            }
            .to_owned(),
            name: NameView {
                name: deployment.name,
                task_queue: (deployment.kind == Offers::Activities).then_some(deployment.task_queue),
            },
            digest: deployment.digest,
            deployed_at: time::rfc3339(deployment.deployed_ms),
        };
        Ok(deployments.into_iter().map(view).collect())
    }

    /// One run, by run id or workflow id (then its latest generation).
    pub async fn run(&self, scope: Scope, id: &str) -> Result<RunDetailView, ServiceError> {
        let info = self.find(scope, id).await?;
        let (rows, _held) = self.whole(info.summary.run, 1).await?;
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

    fn waits(&self, scope: Scope, run: &Run) -> Vec<WaitView> {
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
        let (rows, held) = self.whole(run, 1).await?;
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
        let retrace = move || (retrace::retrace(&recorded, digest, &program), recorded, held, turn);
        let retraced = tokio::task::spawn_blocking(retrace).await;
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

    /// How the host is.
    pub async fn health(&self) -> HealthView {
        let term = self.term.borrow().clone();
        let database = self.unready(term.as_ref());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HealthView {
            status: if database.is_none() { "ok" } else { "degraded" }.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host_id: term.map(|term| term.host.to_string()).unwrap_or_default(),
            database,
            runs_loaded: count(&self.counters.runs_loaded),
            runs_warm: count(&self.counters.runs_warm),
            activities_running: count(&self.counters.activities_running),
            activities_started: count(&self.counters.activities_started),
            activations: count(&self.counters.activations),
            runs_taken_over: count(&self.counters.runs_taken_over),
            runs_rewound: count(&self.counters.runs_rewound),
        }
    }

    /// Whether the host can do what clients ask of it; an error says why it cannot.
    pub fn ready(&self) -> Result<ReadyView, ServiceError> {
        let term = self.term.borrow().clone();
        if let Some(message) = self.unready(term.as_ref()) {
            return Err(ServiceError::Unavailable { code: "not-ready", message });
        }
        Ok(ReadyView {
            status: "ready".to_owned(),
            host_id: term.as_ref().map(|term| term.host.to_string()).unwrap_or_default(),
            lease_ms: self.tenure.lease_ms(),
            lease_age_ms: self.tenure.age_ms().unwrap_or(u64::MAX),
            writer_busy_ms: term.as_ref().map_or(0, Term::writer_busy_ms),
            clock_skew_ms: self.clock.skew_ms(),
        })
    }

    /// What keeps the host from its work.
    fn unready(&self, term: Option<&Term>) -> Option<String> {
        let Some(term) = term else {
            let no_lease = || "the host has no lease at the moment".to_owned();
            return Some(self.clock.wrong().unwrap_or_else(no_lease));
        };
        if let Some((_, reason)) = term.outage() {
            return Some(reason.to_string());
        }
        if !self.tenure.holds() {
            return Some("no heartbeat has reached the database for longer than the lease lasts".to_owned());
        }
        let (busy_ms, lease_ms) = (term.writer_busy_ms(), self.tenure.lease_ms());
        (busy_ms > lease_ms).then(|| format!("the writer has waited for one statement for {busy_ms} ms"))
    }

    /// Runs that close or are parked on this host from now on. A receiver that lags misses some.
    pub fn closings(&self) -> broadcast::Receiver<RunId> {
        self.closings.all()
    }

    /// Whether anything may begin.
    pub(crate) fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Where workers poll for tasks.
    pub(crate) fn matcher(&self) -> &TaskMatcher {
        &self.matcher
    }

    /// Tells others what to look at.
    pub(crate) fn crier(&self) -> &Crier {
        &self.crier
    }

    fn term(&self) -> Result<Term, ServiceError> {
        let term = self.term.borrow().clone();
        term.ok_or_else(|| self.clock.wrong().map_or_else(between_terms, out_of_time))
    }

    /// Who a run is, without its payloads.
    async fn find_id(&self, scope: Scope, id: &str) -> Result<RunId, ServiceError> {
        let found = match id.parse::<RunId>() {
            // Its status is asked for only to know that it is there and of this tenant.
            Ok(run) => self.ledger.run_status(scope, run).await?.map(|_| run),
            Err(_) => self.ledger.run_id(scope, RunRef::WorkflowId(id)).await?,
        };
        found.ok_or_else(|| unknown_run(id))
    }

    async fn find(&self, scope: Scope, id: &str) -> Result<RunInfo, ServiceError> {
        let by = id.parse::<RunId>().map_or(RunRef::WorkflowId(id), RunRef::Id);
        self.ledger.run(scope, by).await?.ok_or_else(|| unknown_run(id))
    }

    async fn info(&self, scope: Scope, by: RunRef<'_>) -> Result<RunInfo, ServiceError> {
        let found = self.ledger.run(scope, by).await?;
        found.ok_or_else(|| ServiceError::Internal(format!("{by:?} was here a moment ago")))
    }

    /// A whole ledger, and the room that it takes for as long as it, or `copies` of it, are in memory.
    async fn whole(&self, run: RunId, copies: usize) -> Result<(Vec<Row>, Held), ServiceError> {
        Ok(self.room.read(&self.ledger, run, copies).await?)
    }

    /// Room for a page of a ledger.
    pub(crate) async fn room_for_page(&self) -> Held {
        self.room.turn().await
    }
}

fn queue_of(kind: ComponentKind, described: &Described) -> Option<String> {
    match kind {
        ComponentKind::Workflow => None,
        ComponentKind::Activity => {
            Some(described.task_queue.clone().unwrap_or_else(|| DEFAULT_TASK_QUEUE.to_owned()))
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

/// How many rows a page has at most.
fn page_limit(asked: Option<u32>, default: u32) -> Result<u32, ServiceError> {
    match asked {
        None => Ok(default),
        Some(limit @ 1..=limits::PAGE_ROWS_MAX) => Ok(limit),
        Some(limit) => {
            let message = format!("a limit of {limit}; it must be 1 to {}", limits::PAGE_ROWS_MAX);
            Err(invalid("invalid-limit", message))
        }
    }
}

fn json(text: &str) -> Result<Json, ServiceError> {
    Json::new(text).map_err(|error| ServiceError::Internal(format!("the database holds bad JSON: {error}")))
}

fn run_view(run: &RunInfo) -> Result<RunView, ServiceError> {
    let parsed = |text: &Option<String>| text.as_deref().map(json).transpose();
    Ok(RunView {
        output: parsed(&run.output)?,
        failure: run.error.as_deref().map(serde_json::from_str).transpose().map_err(|e| internal(&e))?,
        fault: run.fault.as_deref().map(serde_json::from_str).transpose().map_err(|e| internal(&e))?,
        ..summary_view(&run.summary)?
    })
}

fn summary_views(runs: &[RunSummary]) -> Result<Vec<RunView>, ServiceError> {
    runs.iter().map(summary_view).collect()
}

fn summary_view(run: &RunSummary) -> Result<RunView, ServiceError> {
    Ok(RunView {
        run_id: run.run,
        workflow_id: run.workflow_id.clone(),
        generation: run.generation,
        workflow: run.workflow.clone(),
        digest: run.digest,
        status: run.status,
        parent_run_id: run.parent.map(|(parent, _)| parent),
        started_at: time::rfc3339(run.started_ms),
        closed_at: run.closed_ms.map(time::rfc3339),
        attributes: run.attributes.as_deref().map(json).transpose()?,
        output: None,
        failure: None,
        fault: None,
    })
}

fn row_view((row, stored): &(Row, Option<Reference>)) -> RowView {
    RowView {
        stored: stored.map(|Reference { digest, bytes, sealed }| StoredView {
            sha256: digest,
            bytes,
            sealed,
        }),
        seq: row.seq,
        kind: Kind::from_tag(row.kind)
            .map_or_else(|| format!("kind-{}", row.kind), |kind| kind.as_str().into()),
        op: row.op,
        name: row.name.as_deref().map(str::to_owned),
        payload: row.payload.as_deref().and_then(shown),
        detail: row.shown_detail().as_deref().and_then(shown),
        attempt: row.attempt,
        at: time::rfc3339(row.at_ms),
    }
}

/// A text of the ledger, which may be damaged: what cannot be a payload is left out, and the rest of
/// the run can be looked at.
fn shown(text: &str) -> Option<Json> {
    Json::new(text).ok()
}
