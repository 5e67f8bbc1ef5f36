//! Everything a client can ask of a host, without HTTP: the API translates requests into these calls
//! and errors into problem documents; nothing below knows of sockets.

mod error;
mod export;
mod query;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstitch_core::command::{DEFAULT_TASK_QUEUE, check_name};
use backstitch_core::{Digest, HostId, Json, Kind, Message, Row, Run, RunId, RunStatus, Scope, Seq, limits};
use backstitch_ledger::{
    ComponentKind as Offers, Deployment, Ledger, NewComponent, Notifier, Page, Posted, RunFilter, RunInfo,
    RunRef, RunSummary,
};
use backstitch_sandbox::{ComponentKind, Described, Program, WorkflowProgram};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, broadcast, oneshot, watch};

pub use self::error::ServiceError;
use self::error::{away, between_terms, internal, invalid, refused, unfit, unknown_run, unloadable};
pub use self::update::SendUpdate;
use crate::host::Term;
use crate::programs::Programs;
use crate::scheduler::{Counters, Facts, Input, Start};
use crate::views::{
    self, DeployedView, DeploymentView, HealthView, LedgerView, NameView, ReplayView, RowView, RunCountView,
    RunDetailView, RunListView, RunView, StartedView, StatusCountView, WaitView,
};
use crate::{ambient, retrace};

/// A run to be started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// A deployed workflow's name.
    pub workflow: String,
    /// Unique among the open runs of the tenant. None: made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// Its input; the bytes are kept. Missing: `null`.
    #[serde(default = "Json::null")]
    pub input: Json,
    /// What happens if the workflow id is taken.
    #[serde(default)]
    pub reuse: IdReuse,
    /// A signal for the run, whether it is started now or was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SendSignal>,
}

impl StartRun {
    /// A start that refuses a workflow id which another start has taken.
    pub fn new(workflow: impl Into<String>, workflow_id: Option<String>, input: Json) -> Self {
        Self { workflow: workflow.into(), workflow_id, input, reuse: IdReuse::default(), signal: None }
    }
}

/// What happens to a start whose workflow id is taken by a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IdReuse {
    /// Refused, unless it repeats the start of that run: same workflow, same input
    #[default]
    Reject,
    /// That run is the answer, whatever it runs
    UseExisting,
    /// A new run if that one has closed; else refused, or with a signal: that run is the answer
    AllowClosed,
}

/// A signal to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendSignal {
    /// What the guest waits for.
    pub name: String,
    /// What it gets; the bytes are kept. Missing: `null`.
    #[serde(default = "Json::null")]
    pub payload: Json,
    /// A second signal of the same id is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct ListRuns {
    /// Only of this status.
    pub status: Option<RunStatus>,
    /// Only of this workflow.
    pub workflow: Option<String>,
    /// At most this many, 1 to `PAGE_ROWS_MAX`; none: 100.
    pub limit: Option<u32>,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

/// The host, as clients see it. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    ledger: Ledger,
    programs: Programs,
    term: watch::Receiver<Option<Term>>,
    closed: broadcast::Sender<RunId>,
    counters: Arc<Counters>,
    notifier: Notifier,
    /// Turns to hold a whole ledger for a client.
    readings: Arc<Semaphore>,
}

/// Which run a start makes.
enum Generation {
    /// One that counts as this among those of its workflow id.
    New(u32),
    /// None: there is one.
    Existing(Box<RunView>),
}

/// How long the database may be away before a start is refused instead of kept waiting: longer than a
/// restart that needs no client's attention, shorter than a client's patience.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(5);
/// How often a waiting start looks whether the database is still there.
const OUTAGE_POLL: Duration = Duration::from_millis(100);

/// How often a waiting client's run is looked at when another host has it.
const RESULT_POLL: Duration = Duration::from_millis(500);

impl Service {
    pub(crate) fn new(
        ledger: Ledger,
        programs: Programs,
        term: watch::Receiver<Option<Term>>,
        closed: broadcast::Sender<RunId>,
        counters: Arc<Counters>,
    ) -> Self {
        let notifier = Notifier::spawn(ledger.clone());
        let readings = Arc::new(Semaphore::new(query::READINGS_MAX));
        Self { ledger, programs, term, closed, counters, notifier, readings }
    }

    /// Admits, compiles and stores a component, and lets it serve the names it describes.
    pub async fn deploy(&self, scope: Scope, bytes: Vec<u8>) -> Result<DeployedView, ServiceError> {
        let admitted = self.programs.sandbox().admit(&bytes).map_err(refused)?;
        let (digest, kind) = (admitted.digest, admitted.kind);
        let bytes = Arc::new(bytes);
        let fetched = Arc::clone(&bytes);
        let fetch = || async move { Ok::<_, std::convert::Infallible>(fetched.to_vec()) };
        let program = self.programs.sandbox().load(digest, kind, fetch).await.map_err(unloadable)?;
        let described = self.programs.sandbox().describe(&program).await.map_err(|fault| {
            unfit("describe-failed", format!("the component does not say what it offers: {fault}"))
        })?;
        if described.is_empty() {
            let message = format!("the component offers no {kind} at all; export at least one");
            return Err(unfit("nothing-offered", message));
        }
        let created = self.store(scope, kind, digest, &bytes, &described).await?;
        self.programs.refresh().await?;
        if let Ok(term) = self.term() {
            // Calls that waited for a component may go on at once.
            let _ = term.inputs.send(Input::Redeployed).await;
        }
        Ok(DeployedView {
            digest,
            kind: kind.as_str().to_owned(),
            bytes: bytes.len() as u64,
            created,
            names: described
                .into_iter()
                .map(|described| NameView { task_queue: queue_of(kind, &described), name: described.name })
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
        let now_ms = ambient::now_ms();
        let new = NewComponent { digest, kind: offers, bytes, names: &names_json, created_ms: now_ms };
        let created = self.ledger.put_component(scope, new).await?;
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
        let view = |deployment: Deployment| DeploymentView {
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
            deployed_at: views::time(deployment.deployed_ms),
        };
        Ok(deployments.into_iter().map(view).collect())
    }

    /// Starts a run. Repeating a start (same id, workflow and input) gives the run that is there.
    ///
    /// A signal is sent after the start. A client that is cut off between the two repeats both; with an
    /// id, the signal counts once.
    pub async fn start(&self, scope: Scope, start: StartRun) -> Result<StartedView, ServiceError> {
        let signal = start.signal.clone();
        let started = self.start_run(scope, start).await?;
        if let Some(signal) = signal {
            self.signal(scope, &started.run.run_id.to_string(), signal).await?;
        }
        Ok(started)
    }

    async fn start_run(&self, scope: Scope, start: StartRun) -> Result<StartedView, ServiceError> {
        let named = |problem| invalid("invalid-name", problem);
        check_name("workflow", &start.workflow).map_err(named)?;
        let run = ambient::new_run_id();
        let workflow_id: Arc<str> = match &start.workflow_id {
            Some(id) => {
                check_name("workflow id", id).map_err(named)?;
                if id.parse::<RunId>().is_ok() {
                    let problem = format!("the workflow id {id:?} looks like a run id; choose another");
                    return Err(named(problem));
                }
                id.as_str().into()
            }
            None => run.to_string().into(),
        };
        let generation = match self.next_generation(scope, &start).await? {
            Generation::New(generation) => generation,
            Generation::Existing(run) => return Ok(StartedView { run: *run, created: false }),
        };
        let workflow: Arc<str> = start.workflow.as_str().into();
        let Some(digest) = self.programs.workflow(scope, &workflow) else {
            return self.start_unserved(scope, &start).await;
        };
        let program = self.programs.load_workflow(scope, digest).await.map_err(unloadable)?;
        let view = RunView {
            run_id: run,
            workflow_id: workflow_id.to_string(),
            generation,
            workflow: workflow.to_string(),
            digest,
            status: RunStatus::Running,
            parent_run_id: None,
            started_at: String::new(),
            closed_at: None,
            output: None,
            failure: None,
            fault: None,
        };
        let facts = Facts { scope, run, workflow_id, generation, workflow, digest, parent: None };
        let (reply, started) = oneshot::channel();
        let request = Input::Start(Start { facts, program, input: start.input.clone(), reply });
        let term = self.term()?;
        if let Some(reason) = lasting_outage(&term) {
            return Err(away(&reason, "nothing was started, try again later"));
        }
        term.inputs.send(request).await.map_err(|_| between_terms())?;
        let started = tokio::select! {
            started = started => started,
            reason = until_outage_lasts(&term) => {
                let unknown = "the start may still take effect when it does, so repeat it with the same id";
                return Err(away(&reason, unknown));
            }
        };
        match started {
            Ok(Ok(Some(started_ms))) => {
                let run = RunView { started_at: views::time(started_ms), ..view };
                Ok(StartedView { run, created: true })
            }
            Ok(Ok(None)) => self.started_before(scope, &start).await,
            Ok(Err(problem)) => Err(ServiceError::Internal(problem)),
            // The lease was lost in between: the start may or may not be durable, and a repetition with
            // the same id finds out.
            Err(_) => Err(between_terms()),
        }
    }

    /// What a start whose id may be taken comes to.
    async fn next_generation(&self, scope: Scope, start: &StartRun) -> Result<Generation, ServiceError> {
        let (Some(id), false) = (&start.workflow_id, start.reuse == IdReuse::Reject) else {
            // A run in the way is found when the start is refused.
            return Ok(Generation::New(0));
        };
        let Some(latest) = self.ledger.run(scope, RunRef::WorkflowId(id)).await? else {
            return Ok(Generation::New(0));
        };
        let status = latest.summary.status;
        match start.reuse {
            IdReuse::AllowClosed if !status.is_open() => Ok(Generation::New(latest.summary.generation + 1)),
            // A signal with a start is for the run of that id, whether it has to be started or not.
            IdReuse::AllowClosed if start.signal.is_some() => {
                Ok(Generation::Existing(Box::new(run_view(&latest)?)))
            }
            IdReuse::AllowClosed => {
                let message = format!(
                    "the workflow id {id:?} is taken by run {}, which is {}; wait for its end, or choose \
                     another id",
                    latest.summary.run,
                    status.as_str()
                );
                Err(ServiceError::Conflict { code: "workflow-id-taken", message })
            }
            IdReuse::UseExisting | IdReuse::Reject => Ok(Generation::Existing(Box::new(run_view(&latest)?))),
        }
    }

    /// A start of a workflow that nothing serves: known all the same if it was made before.
    async fn start_unserved(&self, scope: Scope, start: &StartRun) -> Result<StartedView, ServiceError> {
        if let Some(id) = &start.workflow_id
            && self.ledger.run_id(scope, RunRef::WorkflowId(id)).await?.is_some()
        {
            return self.started_before(scope, start).await;
        }
        let names = self.programs.workflow_names(scope);
        let known = if names.is_empty() {
            "nothing is deployed yet: `backstitch deploy FILE.wasm`".to_owned()
        } else {
            let names: Vec<&str> = names.iter().map(|name| &**name).take(20).collect();
            format!("deployed are: {}", names.join(", "))
        };
        let message = format!("no deployed component offers the workflow {:?}; {known}", start.workflow);
        Err(ServiceError::NotFound { code: "unknown-workflow", message })
    }

    /// A start whose workflow id is taken: the same start, or a conflict.
    async fn started_before(&self, scope: Scope, start: &StartRun) -> Result<StartedView, ServiceError> {
        let id = start.workflow_id.as_deref().unwrap_or_default();
        let run = self.info(scope, RunRef::WorkflowId(id)).await?;
        // With `allow-closed` somebody else was faster: their run is not the one that was asked for.
        let same = start.reuse != IdReuse::AllowClosed
            && run.summary.workflow == start.workflow
            && run.input.as_deref() == Some(start.input.as_str());
        if same {
            return Ok(StartedView { run: run_view(&run)?, created: false });
        }
        let differs =
            if run.summary.workflow == start.workflow { "another input" } else { "another workflow" };
        let message = format!(
            "the workflow id {id:?} is taken by run {} with {differs}; choose another id, or repeat the start \
             with exactly the same input",
            run.summary.run
        );
        Err(ServiceError::Conflict { code: "workflow-id-taken", message })
    }

    /// One run, by run id or workflow id (then its latest generation).
    pub async fn run(&self, scope: Scope, id: &str) -> Result<RunDetailView, ServiceError> {
        let info = self.find(scope, id).await?;
        let rows = self.rows(info.summary.run).await?;
        // A damaged ledger still shows what the runs table says.
        let folded = Run::load_closed(info.summary.run, &rows, info.head);
        Ok(RunDetailView {
            run: run_view(&info)?,
            input: info.input.as_deref().and_then(shown),
            rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
            waits_for: folded.iter().flat_map(|(run, _)| self.waits(scope, run)).collect(),
            signals_kept: folded.as_ref().map_or(0, |(run, _)| run.signals_kept()),
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
        let limit = list.limit.unwrap_or(100);
        if limit == 0 || limit > limits::PAGE_ROWS_MAX {
            let message = format!("a limit of {limit}; it must be 1 to {}", limits::PAGE_ROWS_MAX);
            return Err(invalid("invalid-limit", message));
        }
        let before = list.cursor.as_deref().map(str::parse::<RunId>).transpose().map_err(|_| {
            invalid("invalid-cursor", "the cursor is not one that a page of runs gave".to_owned())
        })?;
        let filter = RunFilter { statuses: list.status.into_iter().collect(), workflow: list.workflow };
        let runs = self.ledger.list(scope, &filter, Page { before, limit }).await?;
        let full = runs.len() == limit as usize;
        let next_cursor = runs.last().filter(|_| full).map(|run| run.run.to_string());
        Ok(RunListView { runs: runs.iter().map(summary_view).collect(), next_cursor })
    }

    /// How many runs there are, of this status and workflow if any.
    pub async fn count(
        &self,
        scope: Scope,
        status: Option<RunStatus>,
        workflow: Option<String>,
    ) -> Result<RunCountView, ServiceError> {
        let filter = RunFilter { statuses: status.into_iter().collect(), workflow };
        let counts = self.ledger.count_runs(scope, &filter).await?;
        let by_status: Vec<_> =
            counts.into_iter().map(|(status, runs)| StatusCountView { status, runs }).collect();
        Ok(RunCountView { runs: by_status.iter().map(|count| count.runs).sum(), by_status })
    }

    /// A page of a run's ledger.
    pub async fn ledger(
        &self,
        scope: Scope,
        id: &str,
        from: Seq,
        limit: Option<u32>,
    ) -> Result<LedgerView, ServiceError> {
        let run = self.find_id(scope, id).await?;
        let limit = limit.unwrap_or(limits::PAGE_ROWS_MAX).clamp(1, limits::PAGE_ROWS_MAX);
        let rows = self.ledger.rows(run, from, limit).await?;
        let full = rows.len() == limit as usize;
        let next_seq = rows.last().filter(|_| full).map(|row| Seq(row.seq.0 + 1));
        let rows = rows.iter().map(row_view).collect();
        Ok(LedgerView { rows, next_seq })
    }

    /// The run as soon as it has closed or is parked, or as it is when `wait` is over.
    pub async fn result(&self, scope: Scope, id: &str, wait: Duration) -> Result<RunView, ServiceError> {
        // Before the first look: a run that closes after it is not missed.
        let mut closed = self.closed.subscribe();
        let run = self.find_id(scope, id).await?;
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            let status = self.ledger.run_status(scope, run).await?;
            if status != Some(RunStatus::Running) {
                break;
            }
            let poll = tokio::time::sleep(RESULT_POLL);
            tokio::pin!(poll);
            tokio::select! {
                () = &mut over => break,
                () = &mut poll => {}
                () = heard(&mut closed, run) => {}
            }
        }
        run_view(&self.info(scope, RunRef::Id(run)).await?)
    }

    /// Sends a signal to an open run.
    pub async fn signal(&self, scope: Scope, id: &str, signal: SendSignal) -> Result<(), ServiceError> {
        let SendSignal { name, payload, id: signal_id } = signal;
        let named = |problem| invalid("invalid-name", problem);
        check_name("signal", &name).map_err(named)?;
        signal_id.as_deref().map_or(Ok(()), |id| check_name("signal id", id)).map_err(named)?;
        let message = Message::Signal { name: name.into(), payload, id: signal_id.map(Into::into) };
        self.post(scope, id, &message).await
    }

    /// Asks an open run to cancel.
    pub async fn cancel(&self, scope: Scope, id: &str, reason: String) -> Result<(), ServiceError> {
        self.post(scope, id, &Message::Cancel { reason: bounded(reason)? }).await
    }

    /// Stops an open run.
    pub async fn terminate(&self, scope: Scope, id: &str, reason: String) -> Result<(), ServiceError> {
        self.post(scope, id, &Message::Terminate { reason: bounded(reason)? }).await
    }

    /// Lets a parked run go on.
    pub async fn retry(&self, scope: Scope, id: &str) -> Result<(), ServiceError> {
        let run = self.find(scope, id).await?;
        if run.summary.status == RunStatus::Running {
            let message = format!("run {} is not parked: it is running", run.summary.run);
            return Err(ServiceError::Conflict { code: "not-parked", message });
        }
        self.post(scope, id, &Message::Retry).await
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
        let (digest, program) = match component {
            None => {
                let digest = info.summary.digest;
                (digest, self.programs.load_workflow(scope, digest).await.map_err(unloadable)?)
            }
            Some(bytes) => self.foreign(bytes).await?,
        };
        let rows = self.rows(run).await?;
        let retrace = move || retrace::retrace(run, digest, &program, &rows, info.head);
        let retraced = tokio::task::spawn_blocking(retrace).await;
        retraced.map_err(|error| internal(&error))
    }

    /// A component that is not deployed, ready to be replayed.
    async fn foreign(&self, bytes: Vec<u8>) -> Result<(Digest, WorkflowProgram), ServiceError> {
        let admitted = self.programs.sandbox().admit(&bytes).map_err(refused)?;
        let fetch = || async move { Ok::<_, std::convert::Infallible>(bytes) };
        let program = self.programs.sandbox().load(admitted.digest, admitted.kind, fetch).await;
        match program.map_err(unloadable)? {
            Program::Workflow(program) => Ok((admitted.digest, program)),
            Program::Activity(_) => {
                let message = "an activity component has no ledger to be replayed against; give a workflow";
                Err(invalid("wrong-kind", message.to_owned()))
            }
        }
    }

    /// How the host is.
    pub async fn health(&self) -> HealthView {
        let term = self.term.borrow().clone();
        let database = match &term {
            None => Some("the host has no lease at the moment".to_owned()),
            Some(term) => term.outage().map(|(_, reason)| reason.to_string()),
        };
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
        }
    }

    /// Runs that close or are parked on this host from now on. A receiver that lags misses some.
    pub fn closings(&self) -> broadcast::Receiver<RunId> {
        self.closed.subscribe()
    }

    fn term(&self) -> Result<Term, ServiceError> {
        self.term.borrow().clone().ok_or_else(between_terms)
    }

    /// A run that continues as new in between has a successor under the same workflow id.
    async fn post(&self, scope: Scope, id: &str, message: &Message) -> Result<(), ServiceError> {
        let mut run = self.find_id(scope, id).await?;
        let (item, now_ms) = (ambient::new_item_id(), ambient::now_ms());
        let mut posted = self.ledger.post(scope, run, item, now_ms, &message.to_row()).await?;
        while posted == Posted::Closed(RunStatus::Continued) && id.parse::<RunId>().is_err() {
            run = self.find_id(scope, id).await?;
            posted = self.ledger.post(scope, run, item, now_ms, &message.to_row()).await?;
        }
        match posted {
            Posted::Accepted { owner } => {
                if let Some(owner) = owner {
                    self.hint(owner);
                }
                Ok(())
            }
            Posted::Closed(status) => {
                let message = format!("run {run} is {}: it takes no more messages", status.as_str());
                Err(ServiceError::Conflict { code: "run-closed", message })
            }
            Posted::Unknown => Err(unknown_run(id)),
        }
    }

    /// Tells the owner that there is a message.
    fn hint(&self, owner: HostId) {
        match self.term() {
            Ok(term) if term.host == owner => term.inbox_hint.notify_one(),
            _ => self.notifier.hint(owner),
        }
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

    /// A whole ledger, as a takeover reads it: a row at a place that no run has is among them.
    async fn rows(&self, run: RunId) -> Result<Vec<Row>, ServiceError> {
        let ledgers = self.ledger.rows_of(&[run]).await?;
        Ok(ledgers.into_iter().flat_map(|(_, rows)| rows).collect())
    }
}

/// Waits until it is heard that `run` closed, or that something may have been missed.
async fn heard(closed: &mut broadcast::Receiver<RunId>, run: RunId) {
    loop {
        match closed.recv().await {
            Ok(closed) if closed != run => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
        }
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

fn bounded(mut reason: String) -> Result<String, ServiceError> {
    backstitch_core::fault::cut(&mut reason, limits::MESSAGE_BYTES_MAX);
    Ok(reason)
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
        ..summary_view(&run.summary)
    })
}

fn summary_view(run: &RunSummary) -> RunView {
    RunView {
        run_id: run.run,
        workflow_id: run.workflow_id.clone(),
        generation: run.generation,
        workflow: run.workflow.clone(),
        digest: run.digest,
        status: run.status,
        parent_run_id: run.parent.map(|(parent, _)| parent),
        started_at: views::time(run.started_ms),
        closed_at: run.closed_ms.map(views::time),
        output: None,
        failure: None,
        fault: None,
    }
}

fn row_view(row: &Row) -> RowView {
    RowView {
        seq: row.seq,
        kind: Kind::from_tag(row.kind)
            .map_or_else(|| format!("kind-{}", row.kind), |kind| kind.as_str().into()),
        op: row.op,
        name: row.name.as_deref().map(str::to_owned),
        payload: row.payload.as_deref().and_then(shown),
        detail: row.detail.as_deref().and_then(shown),
        attempt: row.attempt,
        at: views::time(row.at_ms),
    }
}

/// A text of the ledger, which may be damaged: what cannot be a payload is left out, and the rest of
/// the run can be looked at.
fn shown(text: &str) -> Option<Json> {
    Json::new(text).ok()
}

/// Why the database has not taken writes for longer than a client should wait.
fn lasting_outage(term: &Term) -> Option<Arc<str>> {
    let (since, reason) = term.outage()?;
    (since.elapsed() >= OUTAGE_PATIENCE).then_some(reason)
}

async fn until_outage_lasts(term: &Term) -> Arc<str> {
    loop {
        if let Some(reason) = lasting_outage(term) {
            return reason;
        }
        tokio::time::sleep(OUTAGE_POLL).await;
    }
}
