//! Starts: who gets a workflow id, on which terms, and what a client hears that asks twice.

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::names::{IDEMPOTENCY_KEY_PREFIX, check_name, check_new_id};
use backstitch_core::{Attribute, Rules, RunId, RunStatus, Scope, StartOptions, date, limits};
use backstitch_engine::ambient;
use backstitch_engine::driver::{Input, Start};
use backstitch_engine::term::Term;
use backstitch_ledger::{RunInfo, RunRef};
use backstitch_scheduler::RunIdentity;
use backstitch_wire::params::IDEMPOTENCY_KEY_BYTES_MAX;
use backstitch_wire::views::{RunView, StartedView};
use backstitch_wire::{AttributeValue, IdReuse, SendSignal, StartOptions as RequestedOptions, StartRun};
use tokio::sync::oneshot;

use super::error::{ServiceError, away, between_terms, internal, invalid, unfit, unloadable};
use super::state::Service;
use super::views::{self, run_view};
use crate::time;

/// Which run a start makes.
enum Generation {
    /// One that counts as this among those of its workflow id.
    New(u32),
    /// None: there is one.
    Existing(Box<RunView>),
}

/// How long the database may be away before a start is refused instead of kept waiting: longer than a
/// restart that needs no client's attention, shorter than a client's patience.
const OUTAGE_TIMEOUT: Duration = Duration::from_secs(5);
const _: () = assert!(IDEMPOTENCY_KEY_PREFIX.len() + IDEMPOTENCY_KEY_BYTES_MAX <= limits::NAME_BYTES_MAX);
/// How often a waiting start looks whether the database is still there.
const OUTAGE_POLL: Duration = Duration::from_millis(100);

impl Service {
    /// Starts a run. Repeating a start (same id, workflow and input) gives the run that is there.
    ///
    /// A signal is sent after the start. A client that is cut off between the two repeats both; with an
    /// id, the signal counts once.
    pub async fn start(&self, scope: Scope, start: StartRun) -> Result<StartedView, ServiceError> {
        let signal = start.signal.clone();
        let started = self.start_run(scope, start).await?;
        if let Some(signal) = signal {
            self.signal_after(scope, started.run.run_id, signal).await?;
        }
        Ok(started)
    }

    /// Starts a run under a key: whoever repeats it, on whatever host, finds the run that is there. The key is
    /// the run's workflow id, which the database keeps unique. With a workflow id of its own, a start can be
    /// repeated already, and the key has nothing to add.
    pub async fn start_once(
        &self,
        scope: Scope,
        key: &str,
        start: StartRun,
    ) -> Result<StartedView, ServiceError> {
        if start.workflow_id.is_some() {
            return self.start(scope, start).await;
        }
        let workflow_id = format!("{IDEMPOTENCY_KEY_PREFIX}{key}");
        // The id is nobody else's: what other starts may do with it is not for this one to say.
        let start = StartRun { workflow_id: Some(workflow_id.clone()), reuse: IdReuse::Reject, ..start };
        let options = options_of(&start.options, self.clock.now_ms())?;
        let started = match self.start_on(scope, start.clone(), options.clone()).await {
            Ok(StartedView { created: false, .. })
            | Err(ServiceError::Conflict { code: "workflow-id-taken", .. }) => {
                self.started_under(scope, key, &workflow_id, &start, options).await?
            }
            started => started?,
        };
        if let Some(signal) = start.signal {
            // It counts once, as its start does.
            let id = signal.id.or(Some(workflow_id));
            self.signal_after(scope, started.run.run_id, SendSignal { id, ..signal }).await?;
        }
        Ok(started)
    }

    /// The run that a key stands for, if it is the one that is asked for. It may have gone on as a new one
    /// since, with another input: the first is the one that was started.
    async fn started_under(
        &self,
        scope: Scope,
        key: &str,
        workflow_id: &str,
        start: &StartRun,
        options: StartOptions,
    ) -> Result<StartedView, ServiceError> {
        let first = self.ledger.first_run(scope, workflow_id).await?;
        let first =
            first.ok_or_else(|| ServiceError::Internal(format!("{workflow_id:?} was taken just now")))?;
        let first = self.info(scope, RunRef::Id(first)).await?;
        let is_same = first.summary.workflow == start.workflow
            && first.input.as_deref() == Some(start.input.as_str())
            && are_same_terms(first.start.as_deref(), options)?;
        if is_same { self.existing(scope, run_view(&first)?).await } else { Err(key_reused(key)) }
    }

    async fn start_run(&self, scope: Scope, start: StartRun) -> Result<StartedView, ServiceError> {
        start.workflow_id.as_deref().map_or(Ok(()), check_workflow_id)?;
        let options = options_of(&start.options, self.clock.now_ms())?;
        self.start_on(scope, start, options).await
    }

    /// Starts a run on terms that are ready to be recorded.
    ///
    /// A start that somebody else's is faster than is decided anew, by what there is then.
    pub(super) async fn start_on(
        &self,
        scope: Scope,
        start: StartRun,
        options: StartOptions,
    ) -> Result<StartedView, ServiceError> {
        let named = |problem| invalid("invalid-name", problem);
        check_name("workflow", &start.workflow).map_err(named)?;
        self.admit(scope, &start.input)?;
        let options = Arc::new(options);
        for _ in 0..limits::STARTS_TRIED_MAX {
            let generation = match self.next_generation(scope, &start).await? {
                Generation::New(generation) => generation,
                Generation::Existing(run) => return self.existing(scope, *run).await,
            };
            if let Some(started) = self.try_start(scope, &start, &options, generation).await? {
                return Ok(started);
            }
            if start.reuse == IdReuse::Reject {
                break;
            }
        }
        self.started_before(scope, &start).await
    }

    /// Starts a run as this generation of its workflow id. None: that is taken.
    async fn try_start(
        &self,
        scope: Scope,
        start: &StartRun,
        options: &Arc<StartOptions>,
        generation: u32,
    ) -> Result<Option<StartedView>, ServiceError> {
        let run = self.clock.new_run_id();
        let workflow_id = workflow_id(start.workflow_id.as_deref(), run);
        let workflow: Arc<str> = start.workflow.as_str().into();
        let Some(digest) = self.programs.workflow_by_now(scope, &workflow).await? else {
            return self.start_unserved(scope, start).await.map(Some);
        };
        let program = self.programs.load_workflow(scope, digest, Rules::CURRENT).await.map_err(unloadable)?;
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
            attributes: views::attributes(&options.attributes)?,
            output: None,
            failure: None,
            fault: None,
        };
        let identity = RunIdentity { scope, run, workflow_id, generation, workflow, digest, parent: None };
        let (reply, started) = oneshot::channel();
        let options = Arc::new(StartOptions::clone(options).beginning(ambient::new_seed()));
        let request = Input::Start(Start { identity, options, program, input: start.input.clone(), reply });
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
                let run = RunView { started_at: date::rfc3339(started_ms), ..view };
                Ok(Some(StartedView { run, created: true }))
            }
            Ok(Ok(None)) => Ok(None),
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

    /// The answer to a start whose run is there already. Whoever has started it may not have been told, because no standby
    /// had it yet: so this request does not tell it either, before one has.
    async fn existing(&self, scope: Scope, run: RunView) -> Result<StartedView, ServiceError> {
        self.ledger.confirm().await?;
        // It may have been another server that confirmed.
        match self.ledger.run_status(scope, run.run_id).await? {
            Some(_) => Ok(StartedView { run, created: false }),
            None => Err(away("it has lost its last commits", "repeat the start with the same id")),
        }
    }

    /// A start of a workflow that nothing serves: known all the same if it was made before.
    async fn start_unserved(&self, scope: Scope, start: &StartRun) -> Result<StartedView, ServiceError> {
        if let Some(id) = &start.workflow_id
            && self.ledger.run_id(scope, RunRef::WorkflowId(id)).await?.is_some()
        {
            return self.started_before(scope, start).await;
        }
        Err(self.unserved(scope, &start.workflow))
    }

    /// What to say of a workflow that nothing serves.
    pub(super) fn unserved(&self, scope: Scope, workflow: &str) -> ServiceError {
        let names = self.programs.workflow_names(scope);
        let known = if names.is_empty() {
            "nothing is deployed yet: `backstitch deploy FILE.wasm`".to_owned()
        } else {
            let names: Vec<&str> = names.iter().map(|name| &**name).take(20).collect();
            format!("deployed are: {}", names.join(", "))
        };
        let message = format!("no deployed component offers the workflow {workflow:?}; {known}");
        ServiceError::NotFound { code: "unknown-workflow", message }
    }

    /// A start whose workflow id is taken: the same start, or a conflict.
    async fn started_before(&self, scope: Scope, start: &StartRun) -> Result<StartedView, ServiceError> {
        let id = start.workflow_id.as_deref().unwrap_or_default();
        let run = self.info(scope, RunRef::WorkflowId(id)).await?;
        // With `allow-closed` somebody else was faster: their run is not the one that was asked for.
        let is_same = |run: &RunInfo| {
            start.reuse != IdReuse::AllowClosed
                && run.summary.workflow == start.workflow
                && run.input.as_deref() == Some(start.input.as_str())
        };
        if is_same(&run) {
            return self.existing(scope, run_view(&run)?).await;
        }
        // The run that was started may have continued as new since.
        if let Some(first) = self.ledger.first_run(scope, id).await?.filter(|first| *first != run.summary.run)
        {
            let first = self.info(scope, RunRef::Id(first)).await?;
            if is_same(&first) {
                return self.existing(scope, run_view(&first)?).await;
            }
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
}

/// A key stands for one start.
fn key_reused(key: &str) -> ServiceError {
    let message = format!(
        "the idempotency key {key:?} was used for another start; use a new key for a new start, or repeat the \
         first with exactly the same body"
    );
    unfit("idempotency-key-reused", message)
}

/// Whether a start that is repeated says what row 0 says. Of its bounds that are counted from the start, only
/// whether there are any: the repeat comes later.
fn are_same_terms(recorded: Option<&str>, asked: StartOptions) -> Result<bool, ServiceError> {
    let timeless = |options: StartOptions| StartOptions {
        start_at_ms: options.start_at_ms.map(|_| 0),
        execution_deadline_ms: options.execution_deadline_ms.map(|_| 0),
        ..options
    };
    let recorded = recorded.map(serde_json::from_str).transpose().map_err(|error| internal(&error))?;
    Ok(timeless(recorded.unwrap_or_default()).asks_for_the_same(&timeless(asked)))
}

/// What a client may call a new run.
pub(super) fn check_workflow_id(id: &str) -> Result<(), ServiceError> {
    check_new_id("workflow id", id).map_err(|problem| invalid("invalid-name", problem))
}

/// What a new run is called: what its starter says, else as its run id.
pub(super) fn workflow_id(asked: Option<&str>, run: RunId) -> Arc<str> {
    asked.map_or_else(|| run.to_string().into(), Arc::from)
}

/// What a client asked for, as row 0 keeps it.
fn options_of(requested: &RequestedOptions, now_ms: u64) -> Result<StartOptions, ServiceError> {
    let RequestedOptions { delay_ms, run_timeout_ms, execution_timeout_ms, memo, priority, attributes } =
        requested;
    let wrong = |problem| invalid("invalid-options", problem);
    let start_at_ms = delay_ms.filter(|ms| *ms > 0).map(|ms| now_ms.saturating_add(ms));
    if *execution_timeout_ms == Some(0) {
        return Err(wrong("an execution timeout of 0 ms".to_owned()));
    }
    let begins_ms = start_at_ms.unwrap_or(now_ms);
    let attributes =
        attributes.iter().map(|(name, value)| Ok((name.as_str().into(), attribute(name, value)?)));
    let options = StartOptions {
        start_at_ms,
        run_timeout_ms: *run_timeout_ms,
        execution_deadline_ms: execution_timeout_ms.map(|ms| begins_ms.saturating_add(ms)),
        priority: *priority,
        memo: memo.clone(),
        attributes: attributes.collect::<Result<_, ServiceError>>()?,
        ..StartOptions::default()
    };
    options.check().map_err(wrong)?;
    Ok(options)
}

fn attribute(name: &str, value: &AttributeValue) -> Result<Attribute, ServiceError> {
    Ok(match value {
        AttributeValue::Text(text) => Attribute::Text(text.as_str().into()),
        AttributeValue::Number(number) => Attribute::Number(*number),
        AttributeValue::Flag(flag) => Attribute::Flag(*flag),
        AttributeValue::Time { time } => Attribute::TimeMs(time::parse(time).map_err(|problem| {
            invalid("invalid-options", format!("the attribute {name:?}: {time:?} is no time: {problem}"))
        })?),
    })
}

/// Why the database has not taken writes for longer than a client should wait.
fn lasting_outage(term: &Term) -> Option<Arc<str>> {
    let (since, reason) = term.outage()?;
    (since.elapsed() >= OUTAGE_TIMEOUT).then_some(reason)
}

async fn until_outage_lasts(term: &Term) -> Arc<str> {
    loop {
        if let Some(reason) = lasting_outage(term) {
            return reason;
        }
        tokio::time::sleep(OUTAGE_POLL).await;
    }
}
