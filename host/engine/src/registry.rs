//! Which component serves which name, and components ready to run.
//!
//! The directory of names is a copy of the `deployments` table, refreshed when its generation
//! changes: at once after a deploy on this host, within [`crate::pollers::DIRECTORY_MS`] after one
//! elsewhere. A run is pinned to a digest when it starts, so a stale copy can only mean that a start
//! or an attempt made in that time gets the version before.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use backstitch_core::{Digest, Event, Failure, FailureKind, Fault, Json, Row, Rules, Scope, TenantId};
use backstitch_ledger::{ComponentKind as Offers, Ledger, LedgerError};
use backstitch_sandbox::{
    ActivityCall, ActivityProgram, Build, ComponentKind, LoadError, Manifest, Program, Sandbox,
    WorkflowProgram,
};
use tokio::time::Instant;

use crate::quota::{OverQuota, Quotas};
use crate::{failpoint, retry};

/// Components whose code is kept mapped. Each costs address space, and memory as far as it is run.
const PROGRAMS_LOADED_MAX: NonZeroUsize = NonZeroUsize::new(1_000).expect("not zero");

/// Which component serves a name.
type Names = HashMap<Arc<str>, Digest>;

/// The names of all tenants of a shard.
#[derive(Debug, Default)]
struct Directory {
    counter: i64,
    workflows: HashMap<(TenantId, Arc<str>), Digest>,
    /// By tenant, task queue and name.
    activities: HashMap<TenantId, HashMap<Arc<str>, Names>>,
    /// What the activities of a component may reach; none: nothing.
    manifests: HashMap<(TenantId, Digest), Arc<Manifest>>,
}

/// Components of one host. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct ComponentRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    sandbox: Sandbox,
    quotas: Quotas,
    directory: RwLock<Arc<Directory>>,
    loaded: Mutex<lru::LruCache<(Digest, Build), Program>>,
}

impl ComponentRegistry {
    /// Components of the ledger, run in the sandbox. Knows no names before [`Self::refresh`].
    pub fn new(ledger: Ledger, sandbox: Sandbox, quotas: Quotas) -> Self {
        let loaded = Mutex::new(lru::LruCache::new(PROGRAMS_LOADED_MAX));
        Self { inner: Arc::new(Inner { ledger, sandbox, quotas, directory: RwLock::default(), loaded }) }
    }

    /// The sandbox they run in.
    pub fn sandbox(&self) -> &Sandbox {
        &self.inner.sandbox
    }

    /// Reads the directory again if it has changed. True if it had.
    pub async fn refresh(&self) -> Result<bool, LedgerError> {
        // One tenant for now; with more, one counter each.
        let scope = self.inner.ledger.scope(TenantId::DEFAULT);
        let counter = self.inner.ledger.deployment_counter(scope.tenant).await?;
        if counter == self.directory().counter {
            return Ok(false);
        }
        let mut directory = Directory { counter, ..Directory::default() };
        for deployment in self.inner.ledger.deployments(scope).await? {
            let name: Arc<str> = deployment.name.into();
            match deployment.kind {
                Offers::Workflows => {
                    directory.workflows.insert((scope.tenant, name), deployment.digest);
                }
                Offers::Activities => {
                    let queues = directory.activities.entry(scope.tenant).or_default();
                    let queue = queues.entry(deployment.task_queue.into()).or_default();
                    queue.insert(name, deployment.digest);
                }
            }
        }
        for (digest, document) in self.inner.ledger.manifests(scope).await? {
            match Manifest::parse(&document) {
                Ok(manifest) => {
                    directory.manifests.insert((scope.tenant, digest), Arc::new(manifest));
                }
                // Written by a host that knows more than this one. Nothing is what can be kept.
                Err(error) => {
                    tracing::error!(%digest, %error, "a manifest cannot be read; it allows nothing");
                }
            }
        }
        *self.inner.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
        Ok(true)
    }

    fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.inner.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The component that serves a workflow now.
    pub fn workflow(&self, scope: Scope, name: &Arc<str>) -> Option<Digest> {
        self.directory().workflows.get(&(scope.tenant, Arc::clone(name))).copied()
    }

    /// The same, for whoever would be refused if there is none: another host may have deployed it a moment
    /// ago.
    pub async fn workflow_by_now(
        &self,
        scope: Scope,
        name: &Arc<str>,
    ) -> Result<Option<Digest>, LedgerError> {
        if let Some(digest) = self.workflow(scope, name) {
            return Ok(Some(digest));
        }
        Ok(if self.refresh().await? { self.workflow(scope, name) } else { None })
    }

    /// The component that serves an activity now.
    pub fn activity(&self, scope: Scope, queue: &str, name: &str) -> Option<Digest> {
        self.directory().activities.get(&scope.tenant)?.get(queue)?.get(name).copied()
    }

    /// Every activity that is served now: task queues and names.
    pub fn activities(&self) -> Vec<(Scope, Vec<(String, String)>)> {
        let directory = self.directory();
        let of_tenant = |(tenant, queues): (&TenantId, &HashMap<Arc<str>, Names>)| {
            let names = queues.iter().flat_map(|(queue, names)| {
                names.keys().map(move |name| (queue.to_string(), name.to_string()))
            });
            (self.inner.ledger.scope(*tenant), names.collect())
        };
        directory.activities.iter().map(of_tenant).collect()
    }

    /// The same, with its code, if that is in memory.
    pub fn activity_at_hand(
        &self,
        scope: Scope,
        queue: &str,
        name: &str,
    ) -> Option<(Digest, ActivityProgram)> {
        let digest = self.activity(scope, queue, name)?;
        match self.cached(digest, Build::Activity) {
            Some(Program::Activity(program)) => Some((digest, program)),
            _ => None,
        }
    }

    /// Names of the workflows that are served now, sorted.
    pub fn workflow_names(&self, scope: Scope) -> Vec<Arc<str>> {
        let directory = self.directory();
        let names = directory.workflows.keys().filter(|(tenant, _)| *tenant == scope.tenant);
        let mut names: Vec<Arc<str>> = names.map(|(_, name)| Arc::clone(name)).collect();
        names.sort();
        names
    }

    /// A workflow component, for a run that begins now, if it is in memory.
    pub fn loaded(&self, digest: Digest) -> Option<WorkflowProgram> {
        match self.cached(digest, Build::Workflow(Rules::CURRENT)) {
            Some(Program::Workflow(program)) => Some(program),
            _ => None,
        }
    }

    fn cached(&self, digest: Digest, build: Build) -> Option<Program> {
        self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&(digest, build)).cloned()
    }

    /// A component, from memory, the cache of compiled code, or the database.
    pub async fn load(&self, scope: Scope, digest: Digest, build: Build) -> Result<Program, LoadError> {
        if let Some(program) = self.cached(digest, build) {
            return Ok(program);
        }
        let ledger = self.inner.ledger.clone();
        let fetch = || async move {
            ledger.component_bytes(scope, digest).await.map_err(Unfetched::from).and_then(found)
        };
        let program = self.inner.sandbox.load_build(digest, build, fetch).await?;
        self.inner
            .loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put((digest, build), program.clone());
        Ok(program)
    }

    /// A workflow component, for runs under these rules.
    pub async fn load_workflow(
        &self,
        scope: Scope,
        digest: Digest,
        rules: Rules,
    ) -> Result<WorkflowProgram, LoadError> {
        match self.load(scope, digest, Build::Workflow(rules)).await? {
            Program::Workflow(program) => Ok(program),
            Program::Activity(_) => Err(wrong_kind(digest, ComponentKind::Workflow)),
        }
    }

    async fn load_activity(&self, scope: Scope, digest: Digest) -> Result<ActivityProgram, LoadError> {
        match self.load(scope, digest, Build::Activity).await? {
            Program::Activity(program) => Ok(program),
            Program::Workflow(_) => Err(wrong_kind(digest, ComponentKind::Activity)),
        }
    }

    /// Runs one attempt of an activity. A component that cannot be loaded is a failure of the
    /// attempt: another version may be deployed before the next one.
    pub async fn invoke(
        &self,
        scope: Scope,
        digest: Digest,
        mut call: ActivityCall,
    ) -> Result<Json, Failure> {
        call.manifest = self.directory().manifests.get(&(scope.tenant, digest)).cloned();
        let unloadable = |problem: String| Failure {
            retryable: true,
            ..Failure::fatal(FailureKind::Application, "component", problem)
        };
        let program =
            self.load_activity(scope, digest).await.map_err(|error| unloadable(error.to_string()))?;
        failpoint::point("activity-during");
        failpoint::over("attempt-of", &call.context.workflow_id);
        match self.inner.sandbox.invoke(&program, call).await {
            Ok(outcome) => self.kept(scope, outcome),
            Err(fault) => Err(unloadable(fault.to_string())),
        }
    }

    /// What an attempt gave, as far as its tenant may store it.
    pub fn kept(&self, scope: Scope, outcome: Result<Json, Failure>) -> Result<Json, Failure> {
        let output = outcome.map_err(|failure| failure.with_plain_code().clipped())?;
        let over = |over: OverQuota| Failure::fatal(FailureKind::Application, over.code(), over.to_string());
        self.inner.quotas.check(scope, &output).map_err(over)?;
        Ok(output)
    }

    /// A workflow component for runs that are pinned to it, or the fault to park them with. A database that does not
    /// answer is waited for; so is, for `timeout`, a host that cannot do its part.
    pub async fn load_for_runs(
        &self,
        scope: Scope,
        digest: Digest,
        rules: Rules,
        timeout: Duration,
    ) -> Result<WorkflowProgram, Fault> {
        let begun = Instant::now();
        let mut backoff = retry::Backoff::default();
        loop {
            let error = match self.load_workflow(scope, digest, rules).await {
                Ok(program) => return Ok(program),
                Err(error) => error,
            };
            let is_over = match &error {
                LoadError::Fetch { error, .. } => is_missing(&**error),
                _ => begun.elapsed() >= timeout,
            };
            if is_over || error.is_final() {
                return Err(error.to_fault());
            }
            tracing::warn!(%digest, %error, "a component cannot be loaded yet");
            backoff.wait().await;
        }
    }
}

/// The rules that a run lives under. One whose first row cannot be read is not led along at all.
pub fn rules_of(rows: &[Row]) -> Rules {
    match rows.first().map(Row::event) {
        Some(Ok(Event::RunStarted { options, .. })) => options.rules,
        _ => Rules::CURRENT,
    }
}

/// The bytes of a component could not be had.
#[derive(Debug, thiserror::Error)]
enum Unfetched {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the database does not hold it")]
    Missing,
}

fn found(bytes: Option<Vec<u8>>) -> Result<Vec<u8>, Unfetched> {
    bytes.ok_or(Unfetched::Missing)
}

/// Whether the database answered, and does not hold the component.
fn is_missing(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref::<Unfetched>(), Some(Unfetched::Missing))
}

fn wrong_kind(digest: Digest, kind: ComponentKind) -> LoadError {
    LoadError::Unfit { digest, kind, problem: "it is of the other kind".into() }
}
