//! The door: takes in, loads and, for activities, invokes.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use backstitch_core::{Digest, Failure, Fault, FaultKind, Json, Rules, limits};
use tokio::sync::{OnceCell, Semaphore};
use wasmtime::Engine;

use crate::activity::{ActivityCall, ActivityProgram};
use crate::admit::{self, Admitted, ComponentKind, Refused};
use crate::artefact::{Artefact, Component};
use crate::cache::{Cache, CacheError};
use crate::compile::{CompileError, Compiled, Compiler};
use crate::describe::{self, Described};
use crate::egress::{Egress, EgressConfig, EgressError, Manifest};
use crate::engine::{self, Build, EPOCH_TICK};
use crate::room::Room;
use crate::turns::GuestTime;
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
    /// How long a workflow's guest may compute.
    pub guest_time: GuestTime,
    /// Linear memory of all guests together, in bytes.
    pub memory_bytes_max: usize,
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
    #[error("no thread for the clock of guests: {0}")]
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
    /// The host has its hands full with other components.
    #[error("the host is at work on {} components already; try again", limits::DEPLOYMENTS_OPEN_MAX)]
    Busy,
    /// It is refused, or does not compile.
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
            Self::Fetch { .. } | Self::Busy => false,
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

impl Program {
    /// Which world the component exports.
    pub fn kind(&self) -> ComponentKind {
        match self {
            Self::Workflow(_) => ComponentKind::Workflow,
            Self::Activity(_) => ComponentKind::Activity,
        }
    }

    /// What the component says that it holds, or why it did not say.
    pub fn described(&self) -> Result<&[Described], &Fault> {
        match self {
            Self::Workflow(program) => program.described(),
            Self::Activity(program) => program.described(),
        }
    }

    fn with_described(self, described: Result<Vec<Described>, Fault>) -> Self {
        match self {
            Self::Workflow(program) => Self::Workflow(program.with_described(described)),
            Self::Activity(program) => Self::Activity(program.with_described(described)),
        }
    }
}

/// A component that was taken in.
#[derive(Clone, Debug)]
pub struct Deployable {
    /// What it is called by: SHA-256 of its bytes.
    pub digest: Digest,
    /// The component itself.
    pub program: Program,
}

/// The engines, the compiler and its cache. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

/// Programs that are being loaded, each once.
type Loading = HashMap<(Digest, Rules), Arc<OnceCell<Program>>>;

#[derive(Debug)]
struct Inner {
    workflows: Engine,
    /// For runs under the first rules.
    workflows_first: Engine,
    activities: Engine,
    compiler: Compiler,
    cache: Option<Arc<Cache>>,
    /// Components being loaded: whoever else wants one waits for it instead of compiling it too.
    loading: Mutex<Loading>,
    /// Turns to be compiled, for runs that need a component.
    for_runs: Lane,
    /// The same, for those who deploy one.
    for_deployments: Lane,
    running: Semaphore,
    means: Means,
}

/// What programs are linked with.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) egress: Arc<Egress>,
    /// How long a workflow's guest may compute.
    pub(crate) guest_time: GuestTime,
    /// None: somebody else looks at the clock.
    pub(crate) clock: Option<Arc<Clock>>,
    /// Of which guests have their memory.
    pub(crate) room: Room,
}

impl Sandbox {
    /// Sets everything up. Reserves address space, starts the clock thread.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        let engine = |build: Build, instances| {
            engine::runner(build, instances).map_err(|error| SandboxError::Engine {
                kind: build.kind(),
                instances,
                problem: format!("{error:#}"),
            })
        };
        let workflows = engine(Build::Workflow(Rules::CURRENT), config.warm_runs_max)?;
        let workflows_first = engine(Build::Workflow(Rules::First), config.warm_runs_max)?;
        let activities = engine(Build::Activity, config.activities_max)?;
        let clock = Clock::start([&workflows, &workflows_first, &activities]).map_err(SandboxError::Clock)?;
        let means = Means {
            egress: Arc::new(Egress::new(config.egress)?),
            guest_time: config.guest_time,
            clock: Some(Arc::new(clock)),
            room: Room::new(config.memory_bytes_max),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                cache: config.cache_dir.map(Cache::open).transpose()?.map(Arc::new),
                compiler: config.compiler,
                loading: Mutex::default(),
                for_runs: Lane::new(limits::COMPILES_WAITING_MAX),
                for_deployments: Lane::new(limits::DEPLOYMENTS_OPEN_MAX),
                running: Semaphore::new(config.activities_max),
                means,
                workflows,
                workflows_first,
                activities,
            }),
        })
    }

    /// Looks at a component's bytes, without side effects: what it is, or all that is wrong with it. In this process,
    /// for as long as it takes: for components of one's own.
    pub fn admit(&self, bytes: &[u8]) -> Result<Admitted, Refused> {
        admit::admit(bytes)
    }

    /// The memory that its guests have together.
    pub fn room(&self) -> Room {
        self.inner.means.room.clone()
    }

    /// Takes a stranger's component in, for runs that start now: see [`Self::take_in_for`].
    pub async fn take_in(&self, bytes: Arc<[u8]>) -> Result<Deployable, LoadError> {
        self.take_in_for(bytes, Rules::CURRENT).await
    }

    /// Takes a stranger's component in: admits it, compiles it and asks it what it holds, where the compiler says.
    /// Refuses at once if too many are being taken in. `rules`: those of the runs that it is to lead, if it holds
    /// workflows.
    pub async fn take_in_for(&self, bytes: Arc<[u8]>, rules: Rules) -> Result<Deployable, LoadError> {
        let _place = self.inner.for_deployments.places.try_acquire().map_err(|_| LoadError::Busy)?;
        let digest = digest_of(&bytes).await;
        let make = || async {
            for kind in ComponentKind::ALL {
                if let Some(program) = self.inner.cached(digest, Build::new(kind, rules)).await {
                    return Ok(program);
                }
            }
            self.inner.made(digest, bytes, rules, &self.inner.for_deployments).await
        };
        Ok(Deployable { digest, program: self.once((digest, rules), make).await? })
    }

    /// Loads a component that was taken in before, for runs that start now: see [`Self::load_build`].
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
        self.load_build(digest, Build::new(kind, Rules::CURRENT), fetch).await
    }

    /// Loads a component that was taken in before: from the cache of compiled code, else from its bytes, for which
    /// `fetch` is called at most once. Callers that come while it is loading get the same one.
    pub async fn load_build<Fetching, E>(
        &self,
        digest: Digest,
        build: Build,
        fetch: impl FnOnce() -> Fetching,
    ) -> Result<Program, LoadError>
    where
        Fetching: Future<Output = Result<Vec<u8>, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let (kind, rules) = (build.kind(), build.rules());
        let program = self.once((digest, rules), || self.inner.loaded(digest, build, fetch)).await?;
        if program.kind() != kind {
            let problem = format!("it is one of the world `{}`", program.kind());
            return Err(LoadError::Unfit { digest, kind, problem });
        }
        Ok(program)
    }

    async fn once<Making>(
        &self,
        of: (Digest, Rules),
        make: impl FnOnce() -> Making,
    ) -> Result<Program, LoadError>
    where
        Making: Future<Output = Result<Program, LoadError>>,
    {
        let loading = {
            let mut loading = self.inner.loading.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loading.entry(of).or_default())
        };
        let program = loading.get_or_try_init(make).await.cloned();
        self.inner.loading.lock().unwrap_or_else(PoisonError::into_inner).remove(&of);
        program
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
        let egress = Arc::clone(&self.inner.means.egress);
        blocking(move || egress.obstacles(&manifest)).await
    }
}

/// Who may be compiled next.
#[derive(Debug)]
struct Lane {
    /// A compilation uses every core and up to 4 GiB.
    turns: Semaphore,
    /// Components whose bytes are held, those at work included.
    places: Semaphore,
}

impl Lane {
    fn new(places: usize) -> Self {
        Self { turns: Semaphore::new(limits::COMPILES_RUNNING_MAX), places: Semaphore::new(places) }
    }
}

impl Inner {
    fn engine(&self, build: Build) -> &Engine {
        match build {
            Build::Workflow(Rules::CURRENT) => &self.workflows,
            Build::Workflow(Rules::First) => &self.workflows_first,
            Build::Activity => &self.activities,
        }
    }

    async fn loaded<Fetching, E>(
        &self,
        digest: Digest,
        build: Build,
        fetch: impl FnOnce() -> Fetching,
    ) -> Result<Program, LoadError>
    where
        Fetching: Future<Output = Result<Vec<u8>, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        if let Some(program) = self.cached(digest, build).await {
            return Ok(program);
        }
        let _place = self.for_runs.places.acquire().await.expect("never closed");
        let bytes = fetch().await.map_err(|error| LoadError::Fetch { digest, error: error.into() })?;
        let bytes = bytes.into();
        let found = digest_of(&bytes).await;
        if found != digest {
            return Err(LoadError::WrongBytes { digest, found });
        }
        self.made(digest, bytes, build.rules(), &self.for_runs).await
    }

    /// A component, compiled now. It is kept if it could say what it holds: who cannot is never deployed.
    async fn made(
        &self,
        digest: Digest,
        bytes: Arc<[u8]>,
        rules: Rules,
        lane: &Lane,
    ) -> Result<Program, LoadError> {
        let turn = lane.turns.acquire().await.expect("never closed");
        let compiled = self.compiler.compile(bytes, rules).await;
        drop(turn);
        let Compiled { kind, artefact, described } =
            compiled.map_err(|error| LoadError::Compile { digest, error })?;
        let build = Build::new(kind, rules);
        let unfit = |error: wasmtime::Error| LoadError::Unfit { digest, kind, problem: format!("{error:#}") };
        let (artefact, program) = {
            let (engine, means) = (self.engine(build).clone(), self.means.clone());
            blocking(move || {
                let program = artefact.load(&engine).and_then(|component| link(build, &component, &means));
                program.map(|program| (artefact, program))
            })
            .await
            .map_err(unfit)?
        };
        let described = match described {
            Some(described) => described,
            None => describe(&program).await,
        };
        if let (Some(cache), Ok(described)) = (&self.cache, &described) {
            let (cache, engine) = (Arc::clone(cache), self.engine(build).clone());
            let described = described.clone();
            let kept = blocking(move || cache.put(digest, build, &engine, &artefact, &described)).await;
            if let Err(error) = kept {
                tracing::warn!(%digest, %error, "compiled code could not be kept");
            }
        }
        // Better mapped than in memory twice.
        if described.is_ok()
            && let Some(program) = self.cached(digest, build).await
        {
            return Ok(program);
        }
        Ok(program.with_described(described))
    }

    async fn cached(&self, digest: Digest, build: Build) -> Option<Program> {
        let (cache, engine) = (self.cache.clone()?, self.engine(build).clone());
        let means = self.means.clone();
        blocking(move || {
            let (artefact, described) = cache.get(digest, build, &engine)?;
            let component = load_cached(digest, &artefact, &engine)?;
            Some(link(build, &component, &means).ok()?.with_described(Ok(described)))
        })
        .await
    }
}

/// Asks a component what it holds, in this process.
async fn describe(program: &Program) -> Result<Vec<Described>, Fault> {
    match program {
        Program::Workflow(program) => {
            let program = program.clone();
            blocking(move || describe::workflows(&program)).await
        }
        Program::Activity(program) => program.describe().await,
    }
}

async fn digest_of(bytes: &Arc<[u8]>) -> Digest {
    let bytes = Arc::clone(bytes);
    blocking(move || admit::digest(&bytes)).await
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

pub(crate) fn link(build: Build, component: &Component, means: &Means) -> wasmtime::Result<Program> {
    Ok(match build {
        Build::Workflow(rules) => Program::Workflow(WorkflowProgram::link(component, rules, means)?),
        Build::Activity => {
            let (egress, room) = (Arc::clone(&means.egress), means.room.clone());
            Program::Activity(ActivityProgram::link(component, egress, room)?)
        }
    })
}

/// Moves the epochs of the engines on, for as long as there is a sandbox or a workflow of its.
#[derive(Debug)]
pub(crate) struct Clock {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// Moves the epoch of these engines on.
    pub(crate) fn start<const N: usize>(engines: [&Engine; N]) -> std::io::Result<Self> {
        let engines = engines.map(Engine::clone);
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("guest-clock".into()).spawn(move || {
            while stopped.recv_timeout(EPOCH_TICK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                engines.iter().for_each(Engine::increment_epoch);
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
