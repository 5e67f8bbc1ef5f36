//! The door: admits, loads, describes and, for activities, invokes.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use backstitch_core::{Digest, Failure, Fault, FaultKind, Json, limits};
use tokio::sync::{OnceCell, Semaphore};
use wasmtime::Engine;

use crate::activity::{ActivityCall, ActivityProgram};
use crate::admit::{self, Admitted, ComponentKind, Refused};
use crate::artefact::{Artefact, Component};
use crate::cache::{Cache, CacheError};
use crate::compile::{CompileError, Compiler};
use crate::describe::{self, Described};
use crate::egress::{Egress, EgressConfig, EgressError, Manifest};
use crate::engine::{self, EPOCH_TICK};
use crate::workflow::WorkflowProgram;

/// How a host wants its sandbox.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Where compiled code is kept. None: compiled anew after each start.
    pub cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Workflow instances alive at once. Each reserves address space, none takes memory before use.
    pub warm_runs_max: usize,
    /// Activity attempts running at once; more wait for their turn.
    pub activities_max: usize,
    /// What activities may reach.
    pub egress: EgressConfig,
}

/// The sandbox cannot be set up. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The directory of compiled code.
    #[error("compiled code cannot be kept in {0}")]
    Cache(#[from] CacheError),
    /// Wasmtime: most likely too little address space for so many instances.
    #[error("no sandbox for {instances} instances of {kind} components: {problem}")]
    Engine {
        /// Of which kind.
        kind: ComponentKind,
        /// How many were asked for.
        instances: usize,
        /// What Wasmtime said.
        problem: String,
    },
    /// What activities reach out with.
    #[error("activities cannot reach out: {0}")]
    Egress(#[from] EgressError),
    /// The clock thread.
    #[error("no thread for the clock of activities: {0}")]
    Clock(std::io::Error),
}

/// A component cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its bytes could not be had.
    #[error("the bytes of component {digest} could not be read: {error}")]
    Fetch {
        /// Which component.
        digest: Digest,
        /// What the caller's `fetch` said.
        error: Box<dyn Error + Send + Sync>,
    },
    /// Its bytes are not those that it was deployed with.
    #[error("the bytes of component {digest} hash to {found}: they were changed after it was deployed")]
    WrongBytes {
        /// Which component.
        digest: Digest,
        /// What the bytes hash to.
        found: Digest,
    },
    /// It does not compile.
    #[error("component {digest}: {error}")]
    Compile {
        /// Which component.
        digest: Digest,
        /// Why.
        error: CompileError,
    },
    /// It compiles, but asks for what is not offered or is shaped otherwise than its world.
    #[error("component {digest} does not fit the world `{kind}`: {problem}")]
    Unfit {
        /// Which component.
        digest: Digest,
        /// What it was loaded as.
        kind: ComponentKind,
        /// What Wasmtime said.
        problem: String,
    },
}

impl LoadError {
    /// Whether the component is to blame, and no other attempt will mend it.
    pub fn is_final(&self) -> bool {
        match self {
            Self::WrongBytes { .. } | Self::Unfit { .. } => true,
            Self::Compile { error, .. } => !matches!(error, CompileError::Host(_)),
            Self::Fetch { .. } => false,
        }
    }

    /// As the reason for parking the runs that need the component.
    pub fn to_fault(&self) -> Fault {
        Fault::new(FaultKind::Component, self.to_string())
    }
}

/// A component, ready to be instantiated. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Program {
    /// Of workflows.
    Workflow(WorkflowProgram),
    /// Of activities.
    Activity(ActivityProgram),
}

/// The two engines, the compiler and its cache. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    workflows: Engine,
    activities: Engine,
    compiler: Compiler,
    cache: Option<Arc<Cache>>,
    /// Components being loaded: whoever else wants one waits for it instead of compiling it too.
    loading: Mutex<HashMap<Digest, Arc<OnceCell<Program>>>>,
    /// A compilation uses every core and up to 4 GiB.
    compiling: Semaphore,
    running: Semaphore,
    egress: Arc<Egress>,
    _clock: Clock,
}

impl Sandbox {
    /// Sets everything up. Reserves address space, starts the clock thread.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        let engine = |kind, instances| {
            engine::runner(kind, instances).map_err(|error| SandboxError::Engine {
                kind,
                instances,
                problem: format!("{error:#}"),
            })
        };
        let activities = engine(ComponentKind::Activity, config.activities_max)?;
        Ok(Self {
            inner: Arc::new(Inner {
                workflows: engine(ComponentKind::Workflow, config.warm_runs_max)?,
                cache: config.cache_dir.map(Cache::open).transpose()?.map(Arc::new),
                compiler: config.compiler,
                loading: Mutex::default(),
                compiling: Semaphore::new(limits::COMPILES_RUNNING_MAX),
                running: Semaphore::new(config.activities_max),
                egress: Arc::new(Egress::new(config.egress)?),
                _clock: Clock::start(&activities).map_err(SandboxError::Clock)?,
                activities,
            }),
        })
    }

    /// Looks at a component's bytes, without side effects: what it is, or all that is wrong with it.
    pub fn admit(&self, bytes: &[u8]) -> Result<Admitted, Refused> {
        admit::admit(bytes)
    }

    /// Loads an admitted component: from the cache of compiled code, else from its bytes, for which
    /// `fetch` is called at most once. Callers that come while it is loading get the same one.
    pub async fn load<Fetching, E>(
        &self,
        digest: Digest,
        kind: ComponentKind,
        fetch: impl FnOnce() -> Fetching,
    ) -> Result<Program, LoadError>
    where
        Fetching: Future<Output = Result<Vec<u8>, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let loading = {
            let mut loading = self.inner.loading.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loading.entry(digest).or_default())
        };
        let program = loading
            .get_or_try_init(async || {
                let component = self.inner.component(digest, kind, fetch).await?;
                link(kind, &component, &self.inner.egress).map_err(|error| LoadError::Unfit {
                    digest,
                    kind,
                    problem: format!("{error:#}"),
                })
            })
            .await
            .cloned();
        self.inner.loading.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        program
    }

    /// Asks a component what it holds. Runs its code: a fault says what went wrong.
    pub async fn describe(&self, program: &Program) -> Result<Vec<Described>, Fault> {
        match program {
            Program::Workflow(program) => {
                let program = program.clone();
                blocking(move || describe::workflows(&program)).await
            }
            Program::Activity(program) => program.describe(&self.inner.running).await,
        }
    }

    /// Runs one attempt of an activity. Whatever the attempt does ends as its outcome, so that its
    /// retry policy decides; a fault says that the component cannot be run at all.
    pub async fn invoke(
        &self,
        program: &ActivityProgram,
        call: ActivityCall,
    ) -> Result<Result<Json, Failure>, Fault> {
        program.invoke(&self.inner.running, call).await
    }

    /// What of a manifest this host cannot do for want of a secret, in words. Reads the operator's files.
    pub async fn obstacles(&self, manifest: Arc<Manifest>) -> Vec<String> {
        let egress = Arc::clone(&self.inner.egress);
        blocking(move || egress.obstacles(&manifest)).await
    }
}

impl Inner {
    async fn component<Fetching, E>(
        &self,
        digest: Digest,
        kind: ComponentKind,
        fetch: impl FnOnce() -> Fetching,
    ) -> Result<Component, LoadError>
    where
        Fetching: Future<Output = Result<Vec<u8>, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let engine = match kind {
            ComponentKind::Workflow => &self.workflows,
            ComponentKind::Activity => &self.activities,
        };
        if let Some(component) = self.cached(digest, kind, engine).await {
            return Ok(component);
        }
        let bytes = fetch().await.map_err(|error| LoadError::Fetch { digest, error: error.into() })?;
        let (bytes, found) = blocking(move || {
            let found = admit::digest(&bytes);
            (bytes, found)
        })
        .await;
        if found != digest {
            return Err(LoadError::WrongBytes { digest, found });
        }
        let turn = self.compiling.acquire().await.expect("never closed");
        let compiled = self.compiler.compile(kind, bytes.into()).await;
        drop(turn);
        let artefact = compiled.map_err(|error| LoadError::Compile { digest, error })?;
        let (cache, engine) = (self.cache.clone(), engine.clone());
        let loaded = blocking(move || {
            let kept = cache.map_or(Ok(()), |cache| cache.put(digest, kind, &engine, &artefact));
            if let Err(error) = kept {
                tracing::warn!(%digest, %error, "compiled code could not be kept");
            }
            artefact.load(&engine)
        })
        .await;
        loaded.map_err(|error| LoadError::Unfit { digest, kind, problem: format!("{error:#}") })
    }

    async fn cached(&self, digest: Digest, kind: ComponentKind, engine: &Engine) -> Option<Component> {
        let (cache, engine) = (self.cache.clone()?, engine.clone());
        blocking(move || load_cached(digest, &cache.get(digest, kind, &engine)?, &engine)).await
    }
}

/// Reading, hashing and mapping megabytes is not for the threads that serve everybody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn load_cached(digest: Digest, artefact: &Artefact, engine: &Engine) -> Option<Component> {
    artefact
        .load(engine)
        .inspect_err(|error| tracing::warn!(%digest, %error, "kept code does not load; compiling anew"))
        .ok()
}

fn link(kind: ComponentKind, component: &Component, egress: &Arc<Egress>) -> wasmtime::Result<Program> {
    Ok(match kind {
        ComponentKind::Workflow => Program::Workflow(WorkflowProgram::link(component)?),
        ComponentKind::Activity => Program::Activity(ActivityProgram::link(component, Arc::clone(egress))?),
    })
}

/// Moves the epoch of activities on, for as long as there is a sandbox.
#[derive(Debug)]
struct Clock {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    fn start(engine: &Engine) -> std::io::Result<Self> {
        let engine = engine.clone();
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("activity-clock".into()).spawn(move || {
            while stopped.recv_timeout(EPOCH_TICK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only counts: it cannot have panicked.
            let _ = thread.join();
        }
    }
}
