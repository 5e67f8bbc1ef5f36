//! One attempt of an activity: it may wait, read clocks and randomness, reach out, and fail; it must end.
//!
//! An attempt runs on tokio. Its code yields to its worker at every tick of the epoch, so a spinning
//! one is stopped at its deadline, or when it has been silent for too long, as a sleeping one is. Whatever
//! it does ends as a
//! [`Failure`] of that attempt, because only its retry policy knows what that means; a [`Fault`] is
//! for a component that cannot be run at all.
//!
//! A component that asks for nothing, not even a heartbeat, cannot be seen from outside while it runs. Its attempt
//! may be made inline, on the thread of the guest that called, and thrown away if it takes more than
//! a moment: see [`ActivityProgram::try_inline`].

#[cfg(test)]
mod room;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backstitch_core::failure::FailureKind;
use backstitch_core::{Failure, Fault, FaultKind, Json, Op, RunId, limits};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use wasmtime::component::{ComponentExportIndex, HasData, InstancePre, Linker, ResourceTable};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings;
use wasmtime_wasi::random::{WasiRandom, WasiRandomView as _};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView as _};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::{self as http_bindings, http as wasi_http};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtxView, WasiHttpView};

use crate::admit::track;
use crate::artefact::Component;
use crate::budget::{Budget, OverBudget, WaitingBudget, bounded};
use crate::describe;
use crate::described::{Described, unasked};
use crate::egress::{Caller, Egress, Http, Manifest};
use crate::fault;
use crate::guest_log::GuestLog;
use crate::heartbeat::{self, Defer, Heartbeat};
use crate::last_words::{self, LastWords};
use crate::room::Room;
use crate::stdio::{SharedStdio, Stream};
use crate::world;
use crate::world::activity::{Activity, ActivityPre, Context};

/// An activity component, compiled and linked. Cheap to clone; every clone is the same code.
#[derive(Clone)]
pub struct ActivityProgram {
    pre: ActivityPre<Guest>,
    /// Whether it has heartbeats, or defers.
    has_heartbeats: bool,
    /// If it imports nothing but its last words.
    import_free: Option<Arc<ImportFree>>,
    egress: Arc<Egress>,
    room: Room,
    described: Arc<Result<Vec<Described>, Fault>>,
}

/// A component without a way out, but for its last words.
struct ImportFree {
    pre: InstancePre<Alone>,
    room: Room,
    /// Its export `invoke`.
    invoke: ComponentExportIndex,
    /// Attempts that are not tried inline, because one before them took too long.
    to_skip: AtomicU32,
}

/// What the store of such a component carries.
struct Alone {
    budget: Budget,
    words: LastWords,
}

/// What `invoke` takes, and what it gives.
type Invocation<'a> = (&'a str, &'a str, &'a Context);
type InvocationResult = Result<String, world::types::Failure>;

/// After an attempt that took too long, so many others of its component are not tried inline: what a
/// spinning component costs its callers' threads is divided by this.
const SKIPPED_AFTER_OVERRUN: u32 = 1_000;

/// How often an attempt that has its turn looks whether the pool has room for it. There is, unless more attempts than
/// expected are being made on their callers' threads, each for a moment.
const ROOM_POLL: Duration = Duration::from_millis(10);

/// Ticks of the epoch that an attempt may take inline; the first is under way already.
const TICKS_INLINE: u64 = 2;

/// One attempt.
#[derive(Clone, Debug)]
pub struct ActivityCall {
    /// Which activity of the component.
    pub name: Arc<str>,
    /// Its input.
    pub input: Json,
    /// What it is told about itself.
    pub context: ActivityContext,
    /// Start-to-close: how long it may take, from its turn on.
    pub timeout: Duration,
    /// What it and whoever waits for it tell each other.
    pub heartbeat: Arc<Heartbeat>,
    /// Who takes the call over if it is to be answered later; none: nobody, and asking for it is a trap.
    pub defer: Option<Arc<dyn Defer>>,
    /// What it may reach by HTTP; none: nothing.
    pub manifest: Option<Arc<Manifest>>,
}

/// What an attempt is told about itself.
#[derive(Clone, Debug)]
pub struct ActivityContext {
    /// The run that called it.
    pub run_id: RunId,
    /// That run's workflow id.
    pub workflow_id: Arc<str>,
    /// The call: with the run, the idempotency key.
    pub op: Op,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// When nobody waits for its outcome any more, in milliseconds since the epoch.
    pub deadline_ms: Option<u64>,
}

impl ActivityContext {
    /// The same for every attempt of one call.
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}", self.run_id, self.op)
    }
}

impl ActivityCall {
    fn caller(&self) -> Caller {
        let ActivityContext { run_id, op, attempt, .. } = self.context;
        Caller { run: run_id, op, attempt, activity: Arc::clone(&self.name) }
    }

    /// What the guest is told, as long as it has not begun.
    fn lower(&self) -> Context {
        let ActivityContext { run_id, workflow_id, op, attempt, deadline_ms } = &self.context;
        Context {
            run_id: run_id.to_string(),
            workflow_id: workflow_id.to_string(),
            op: op.0,
            attempt: *attempt,
            idempotency_key: self.context.idempotency_key(),
            deadline_ms: *deadline_ms,
            heartbeat_details: self.heartbeat.details().map(|details| details.to_string()),
        }
    }
}

/// Why an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum OutOfTime {
    #[error("out of time")]
    Deadline,
    #[error("silent for too long")]
    HeartbeatTimeout,
}

/// How long whoever waits for an attempt will do so.
#[derive(Clone)]
struct Deadline {
    at: Instant,
    heartbeat: Arc<Heartbeat>,
}

impl Deadline {
    /// With an attempt that begins now.
    fn new(bound: Duration, heartbeat: Arc<Heartbeat>) -> Self {
        const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
        Self { at: Instant::now() + bound.min(NEVER), heartbeat }
    }

    /// When it ends, unless there is a heartbeat before.
    fn ends(&self) -> (Instant, OutOfTime) {
        /// How often to look whether an attempt still waits for its host.
        const POLL: Duration = Duration::from_millis(100);
        let Some(late) = self.heartbeat.stood_still() else {
            return (Instant::now() + POLL, OutOfTime::Deadline);
        };
        let deadline = self.at + late;
        match self.heartbeat.times_out_at() {
            Some(times_out_at) if times_out_at < deadline => (times_out_at, OutOfTime::HeartbeatTimeout),
            _ => (deadline, OutOfTime::Deadline),
        }
    }

    fn check(&self) -> Result<(), OutOfTime> {
        let (at, reason) = self.ends();
        if Instant::now() >= at { Err(reason) } else { Ok(()) }
    }

    async fn over(&self) -> OutOfTime {
        loop {
            let (at, reason) = self.ends();
            tokio::time::sleep_until(at).await;
            if self.ends().0 <= at {
                return reason;
            }
        }
    }

    /// What comes of `work` before it ends, whoever noticed.
    async fn with<T>(
        &self,
        work: impl Future<Output = wasmtime::Result<T>>,
    ) -> Result<wasmtime::Result<T>, OutOfTime> {
        tokio::select! {
            biased;
            done = work => match done {
                Err(error) if error.is::<OutOfTime>() => {
                    Err(error.downcast_ref().copied().expect("just looked at"))
                }
                done => Ok(done),
            },
            reason = self.over() => Err(reason),
        }
    }
}

/// What an activity's store carries.
struct Guest {
    /// Made at the first call of WASI: most activities never make one, and it draws seeds.
    wasi: Option<WasiCtx>,
    /// Made at the first call of `wasi:http`.
    http: Option<Http>,
    egress_policy: EgressPolicy,
    said: Said,
    table: ResourceTable,
    memory: WaitingBudget,
    heartbeat: Arc<Heartbeat>,
    defer: Option<Arc<dyn Defer>>,
}

/// Where what an attempt says is kept while its store goes.
#[derive(Clone)]
struct Said {
    stdio: SharedStdio,
    words: LastWords,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let stdio = &self.said.stdio;
        WasiCtxView { ctx: self.wasi.get_or_insert_with(|| wasi(stdio)), table: &mut self.table }
    }
}

/// What an attempt's `wasi:http` is made of.
#[derive(Clone)]
struct EgressPolicy {
    egress: Arc<Egress>,
    manifest: Option<Arc<Manifest>>,
    /// None: its component is only being described.
    caller: Option<Caller>,
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let EgressPolicy { egress, manifest, caller } = &self.egress_policy;
        let http =
            self.http.get_or_insert_with(|| Http::new(egress.clone(), manifest.clone(), caller.clone()));
        WasiHttpCtxView { ctx: &mut http.ctx, table: &mut self.table, hooks: &mut http.hooks }
    }
}

/// What an attempt sees of the world outside.
fn wasi(stdio: &SharedStdio) -> WasiCtx {
    WasiCtx::builder()
        .stdout(stdio.stream(Stream::Out))
        .stderr(stdio.stream(Stream::Err))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(limits::HOSTCALL_BYTES_MAX as u64)
        .build()
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

impl ActivityProgram {
    /// Links a component. Fails if it asks for what is not offered or lacks an export of the world.
    pub(crate) fn link(component: &Component, egress: Arc<Egress>, room: Room) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(component.engine());
        add_to_linker(&mut linker)?;
        last_words::add_to_linker(&mut linker, |guest: &Guest| &guest.said.words)?;
        heartbeat::add_to_linker(&mut linker, |guest: &Guest| &guest.heartbeat, |guest| guest.defer.clone())?;
        let pre = ActivityPre::new(linker.instantiate_pre(component)?)?;
        let has_heartbeats = component
            .component_type()
            .imports(component.engine())
            .any(|(name, _)| track(name) == track(heartbeat::INTERFACE));
        let import_free = ImportFree::link(component, room.clone()).map(Arc::new);
        Ok(Self { pre, has_heartbeats, import_free, egress, room, described: unasked() })
    }

    /// The same, with what it says that it holds.
    pub(crate) fn with_described(self, described: Result<Vec<Described>, Fault>) -> Self {
        Self { described: Arc::new(described), ..self }
    }

    /// The component's activities in its own words, or why it did not say.
    pub fn described(&self) -> Result<&[Described], &Fault> {
        (*self.described).as_deref()
    }

    /// Makes an attempt on this thread, if that takes no more than a moment: [`EPOCH_TICK`] to twice
    /// that. None: it has to be invoked in the ordinary way. Nobody can tell that this was tried,
    /// because nothing is offered to the component that it could be seen by.
    ///
    /// [`EPOCH_TICK`]: crate::engine::EPOCH_TICK
    pub fn try_inline(&self, call: &ActivityCall) -> Option<Result<Json, Failure>> {
        let import_free = self.import_free.as_ref()?;
        let skip = |left: u32| left.checked_sub(1);
        if import_free.to_skip.fetch_update(Ordering::Relaxed, Ordering::Relaxed, skip).is_ok() {
            return None;
        }
        let words = LastWords::default();
        match import_free.attempt(call, words.clone()) {
            Ok(outcome) => Some(outcome_of(outcome)),
            Err(error) if error.downcast_ref() == Some(&Trap::Interrupt) => {
                import_free.to_skip.store(SKIPPED_AFTER_OVERRUN, Ordering::Relaxed);
                None
            }
            Err(error) if error.is::<PoolConcurrencyLimitError>() => None,
            Err(error) if error.downcast_ref() == Some(&OverBudget::NoRoom) => None,
            Err(error) => Some(Err(trapped(&error, words.take()))),
        }
    }

    /// Asks the component what it holds.
    pub(crate) async fn describe(&self) -> Result<Vec<Described>, Fault> {
        let bound = Duration::from_millis(limits::DESCRIBE_MS_MAX);
        let stdio = SharedStdio::new(GuestLog::new(None, "describe".into()));
        let words = LastWords::default();
        let deadline = Deadline::new(bound, Arc::new(Heartbeat::new(None, None)));
        let described = deadline
            .with(async {
                let egress_policy =
                    EgressPolicy { egress: Arc::clone(&self.egress), manifest: None, caller: None };
                let said = Said { stdio: stdio.clone(), words: words.clone() };
                let (mut store, instance) = self.instantiate(said, &deadline, egress_policy, None).await?;
                instance.call_describe(&mut store).await
            })
            .await;
        stdio.close();
        match described {
            Ok(Ok(described)) => describe::activities(described),
            Ok(Err(error)) => Err(fault::fault(&error, words.take())),
            Err(_) => {
                Err(Fault::new(FaultKind::Limit, format!("describe took longer than {} s", bound.as_secs())))
            }
        }
    }

    pub(crate) async fn invoke(
        &self,
        running: &Semaphore,
        call: ActivityCall,
    ) -> Result<Result<Json, Failure>, Fault> {
        let _turn = turn(running).await;
        let run = call.context.run_id;
        let stdio = SharedStdio::new(GuestLog::new(Some(run), Arc::clone(&call.name)));
        let said = Said { stdio: stdio.clone(), words: LastWords::default() };
        let outcome = loop {
            call.heartbeat.begin(self.has_heartbeats);
            let deadline = Deadline::new(call.timeout, Arc::clone(&call.heartbeat));
            match deadline.with(self.attempt(&call, said.clone(), &deadline)).await {
                // Nothing of it has run: it is as if it had waited for its turn a little longer.
                Ok(Err(error)) if error.is::<PoolConcurrencyLimitError>() => {
                    tokio::time::sleep(ROOM_POLL).await;
                }
                outcome => break outcome,
            }
        };
        stdio.close();
        Ok(match outcome {
            Ok(Ok(outcome)) => outcome_of(outcome),
            Ok(Err(error)) => Err(trapped(&error, said.words.take())),
            Err(reason) => Err(timed_out(reason, &call)),
        })
    }

    async fn attempt(
        &self,
        call: &ActivityCall,
        said: Said,
        deadline: &Deadline,
    ) -> wasmtime::Result<InvocationResult> {
        let context = call.lower();
        let egress_policy = EgressPolicy {
            egress: Arc::clone(&self.egress),
            manifest: call.manifest.clone(),
            caller: Some(call.caller()),
        };
        let (mut store, instance) =
            self.instantiate(said, deadline, egress_policy, call.defer.clone()).await?;
        instance.call_invoke(&mut store, &call.name, &call.input.to_string(), &context).await
    }

    async fn instantiate(
        &self,
        said: Said,
        deadline: &Deadline,
        egress_policy: EgressPolicy,
        defer: Option<Arc<dyn Defer>>,
    ) -> wasmtime::Result<(Store<Guest>, Activity)> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::RESOURCES_MAX);
        let budget = Budget::new(limits::ACTIVITY_MEMORY_BYTES_MAX, self.room.share_of_attempt());
        let heartbeat = Arc::clone(&deadline.heartbeat);
        let memory = WaitingBudget { budget, heartbeat: Arc::clone(&heartbeat) };
        let guest = Guest { wasi: None, http: None, egress_policy, said, table, memory, heartbeat, defer };
        let mut store = bounded(self.pre.engine(), guest);
        store.limiter_async(|guest| &mut guest.memory);
        store.set_epoch_deadline(1);
        // Tokio's timers alone would be late: a worker looks at them once in many turns, and a
        // spinning guest's turn lasts a whole tick.
        let deadline = deadline.clone();
        store.epoch_deadline_callback(move |_| {
            deadline.check()?;
            Ok(UpdateDeadline::Yield(1))
        });
        let instance = self.pre.instantiate_async(&mut store).await?;
        Ok((store, instance))
    }
}

impl ImportFree {
    /// None: the component has a way out.
    fn link(component: &Component, room: Room) -> Option<Self> {
        let mut linker = Linker::new(component.engine());
        last_words::add_to_linker(&mut linker, |alone: &Alone| &alone.words).ok()?;
        let pre = linker.instantiate_pre(component).ok()?;
        let invoke = component.get_export_index(None, "invoke")?;
        Some(Self { pre, room, invoke, to_skip: AtomicU32::new(0) })
    }

    fn attempt(&self, call: &ActivityCall, words: LastWords) -> wasmtime::Result<InvocationResult> {
        let budget = Budget::new(limits::ACTIVITY_MEMORY_BYTES_MAX, self.room.share());
        let mut store = bounded(self.pre.engine(), Alone { budget, words });
        store.limiter(|alone| &mut alone.budget);
        store.set_epoch_deadline(TICKS_INLINE);
        let instance = self.pre.instantiate(&mut store)?;
        let invoke =
            instance.get_typed_func::<Invocation<'_>, (InvocationResult,)>(&mut store, self.invoke)?;
        let (outcome,) = invoke.call(&mut store, (&call.name, call.input.as_str(), &call.lower()))?;
        Ok(outcome)
    }
}

impl std::fmt::Debug for ActivityProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActivityProgram").finish_non_exhaustive()
    }
}

/// What an activity gets of WASI 0.2. Files and sockets are there because standard libraries ask for
/// them without using them; there is no directory, and every socket is refused as `access-denied`. HTTP is
/// the only way out.
fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let l = linker;
    bindings::io::error::add_to_linker::<_, Io>(l, |guest| &mut guest.table)?;
    bindings::io::poll::add_to_linker::<_, Io>(l, |guest| &mut guest.table)?;
    bindings::io::streams::add_to_linker::<_, Io>(l, |guest| &mut guest.table)?;
    bindings::clocks::wall_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks)?;
    bindings::clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks)?;
    bindings::random::random::add_to_linker::<_, WasiRandom>(l, Guest::random)?;
    bindings::random::insecure::add_to_linker::<_, WasiRandom>(l, Guest::random)?;
    bindings::random::insecure_seed::add_to_linker::<_, WasiRandom>(l, Guest::random)?;
    bindings::cli::environment::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::exit::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::stdin::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::stdout::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::stderr::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::terminal_input::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::terminal_output::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    bindings::filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, Guest::filesystem)?;
    bindings::filesystem::types::add_to_linker::<_, WasiFilesystem>(l, Guest::filesystem)?;
    let options = bindings::sockets::network::LinkOptions::default();
    bindings::sockets::network::add_to_linker::<_, WasiSockets>(l, &options, Guest::sockets)?;
    bindings::sockets::instance_network::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    bindings::sockets::ip_name_lookup::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    bindings::sockets::tcp_create_socket::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    bindings::sockets::tcp::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    bindings::sockets::udp_create_socket::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    bindings::sockets::udp::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    let options = http_bindings::LinkOptions::default();
    wasi_http::types::add_to_linker::<_, WasiHttp>(l, &(&options).into(), Guest::http)?;
    wasi_http::outgoing_handler::add_to_linker::<_, WasiHttp>(l, Guest::http)
}

async fn turn(running: &Semaphore) -> SemaphorePermit<'_> {
    running.acquire().await.expect("never closed")
}

/// What the guest returned, if it is what the world promises.
fn outcome_of(outcome: InvocationResult) -> Result<Json, Failure> {
    let checked = match outcome {
        Ok(output) => world::json("the activity's output", output),
        Err(error) => match world::failure("the activity's failure", error) {
            Ok(failure) => return Err(failure),
            Err(refusal) => Err(refusal),
        },
    };
    checked.map_err(|refusal| {
        Failure::fatal(FailureKind::Application, "invalid-outcome", refusal.to_string()).clipped()
    })
}

/// `panic` is what it said last.
fn trapped(error: &wasmtime::Error, panic: Option<String>) -> Failure {
    const FRAMES_SHOWN_BYTES: usize = 2 << 10;
    let fault = fault::fault(error, panic);
    let mut message = fault.message;
    if let Some(mut frames) = fault.backtrace {
        backstitch_core::printable::cut(&mut frames, FRAMES_SHOWN_BYTES);
        message = format!("{message}\n{frames}");
    }
    let retryable = fault.kind != FaultKind::Component;
    Failure { retryable, ..Failure::fatal(FailureKind::Application, "trap", message) }.clipped()
}

fn timed_out(reason: OutOfTime, call: &ActivityCall) -> Failure {
    let (code, message) = match reason {
        OutOfTime::Deadline => {
            ("start-to-close", format!("the attempt took longer than {} ms", call.timeout.as_millis()))
        }
        OutOfTime::HeartbeatTimeout => {
            let timeout = call.heartbeat.timeout().unwrap_or_default().as_millis();
            ("heartbeat", format!("the attempt gave no heartbeat for {timeout} ms"))
        }
    };
    Failure { retryable: true, ..Failure::fatal(FailureKind::Timeout, code, message) }
}
