//! One run's guest: instantiated, activated, and dropped at the first thing that goes wrong.
//!
//! | state | `activate` | `into_reader` |
//! |---|---|---|
//! | fresh | runs `start` | |
//! | blocked | runs `resume` | a [`Reader`] |
//! | closed: its run has ended by itself | refused | a [`Reader`] |
//! | stopped: it trapped or diverged | refused | refused |
//!
//! An activation computes for as long as its fuel and its time last, and never waits for anybody. It is a future
//! that is pending only to let others have the thread: whoever has a thread to itself calls what is synchronous.

use std::sync::Arc;

use backstitch_core::{Divergence, Fault, FaultKind, Json, Replay, Rules, Status, limits};
use wasmtime::component::Linker;
use wasmtime::{Engine, PoolConcurrencyLimitError, Store};

use crate::artefact::Component;
use crate::budget::bounded;
use crate::described::{Described, unasked};
use crate::fault::{self, Cause};
use crate::guest_log::GuestLog;
use crate::guest_time::{CutShort, Stop};
use crate::host::{self, Guest, RunInfo};
use crate::means::{GuestBounds, Means};
use crate::turns;
use crate::wasi;
use crate::world;
use crate::world::workflow::{Workflow, WorkflowPre};

/// A workflow component, compiled and linked. Cheap to clone; every clone is the same code.
#[derive(Clone)]
pub struct WorkflowProgram {
    pre: WorkflowPre<Guest>,
    bounds: GuestBounds,
    described: Arc<Result<Vec<Described>, Fault>>,
}

impl WorkflowProgram {
    /// Links a component. Fails if it asks for what is not offered or lacks an export of the world.
    pub(crate) fn link(component: &Component, rules: Rules, means: &Means) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(component.engine());
        host::add_to_linker(&mut linker)?;
        wasi::add_to_linker(&mut linker)?;
        let Means { guest_time: time, clock, room, .. } = means.clone();
        let bounds = GuestBounds { rules, time, clock, room };
        let pre = WorkflowPre::new(linker.instantiate_pre(component)?)?;
        Ok(Self { pre, bounds, described: unasked() })
    }

    /// The same, with what it says that it holds.
    pub(crate) fn with_described(self, described: Result<Vec<Described>, Fault>) -> Self {
        Self { described: Arc::new(described), ..self }
    }

    /// The component's workflows in its own words, or why it did not say.
    pub fn described(&self) -> Result<&[Described], &Fault> {
        (*self.described).as_deref()
    }

    /// The rules that its code was built for: it leads the runs that live under them.
    pub fn rules(&self) -> Rules {
        self.bounds.rules
    }

    /// What bounds its guests.
    pub(crate) fn bounds(&self) -> &GuestBounds {
        &self.bounds
    }

    fn engine(&self) -> &Engine {
        self.pre.engine()
    }

    /// Makes a store with every bound set and starts an instance in it.
    pub(crate) async fn instantiate(&self, guest: Guest) -> Result<(Store<Guest>, Workflow), Unstarted> {
        let mut store = bounded(self.engine(), guest);
        store.limiter(|guest| &mut guest.budget);
        refuel(&mut store);
        turns::bound(&mut store);
        let turn = turns::begin(&mut store);
        match turns::measured(&turn, self.pre.instantiate_async(&mut store)).await {
            Ok(instance) => Ok((store, instance)),
            Err(error) if error.is::<PoolConcurrencyLimitError>() => Err(Unstarted::NoRoom),
            Err(error) if error.downcast_ref() == Some(&CutShort::Stopped) => Err(Unstarted::Unwanted),
            Err(error) => {
                Err(Unstarted::Fault(fault::of_instantiation(&error, store.data_mut().panic.take())))
            }
        }
    }
}

impl std::fmt::Debug for WorkflowProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkflowProgram").finish_non_exhaustive()
    }
}

/// Why there is no instance.
#[derive(Debug, thiserror::Error)]
pub enum Unstarted {
    /// The guest's doing: it trapped while it was being set up, or asks for too much.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Nobody's: every slot for instances is taken. Drop warm ones, then try again.
    #[error("every slot for instances is taken")]
    NoRoom,
    /// Whoever waited for it does no longer.
    #[error("nobody waits for the guest any more")]
    Unwanted,
}

/// Why an activation did not end. The instance is unusable from here on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The guest broke, met a bound or broke a rule.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The guest is not the one that wrote its ledger.
    #[error("{0}")]
    Divergence(Box<Divergence>),
    /// Whoever waited for it does no longer: nothing is wrong with the guest.
    #[error("nobody waits for the guest any more")]
    Unwanted,
}

impl From<Cause> for Stopped {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Fault(fault) => Self::Fault(fault),
            Cause::Stopped => Self::Unwanted,
            Cause::Divergence(divergence) => Self::Divergence(Box::new(divergence)),
        }
    }
}

/// How an activation ended. Its commands are in [`WorkflowInstance::replay`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// What the guest returned.
    pub status: Status,
    /// Fuel it used, host calls included. The same on every replay.
    pub fuel: u64,
}

#[derive(Debug)]
enum State {
    Fresh {
        input: Json,
    },
    Blocked,
    /// Its run has ended: it takes no more events, and can still be asked.
    Closed,
    /// Trapped or diverged: the store is never entered again.
    Over,
}

/// One run's guest. Drop it when it is stopped or closed.
pub struct WorkflowInstance {
    store: Store<Guest>,
    instance: Workflow,
    workflow: Arc<str>,
    state: State,
}

impl WorkflowInstance {
    /// Makes the guest of a run. `replay` carries the run's rows so far.
    pub fn new(
        program: &WorkflowProgram,
        replay: Replay,
        info: RunInfo,
        input: Json,
    ) -> Result<Self, Unstarted> {
        turns::to_the_end(Self::new_in_turns(program, replay, info, input, Stop::default()))
    }

    /// The same for whoever has others to serve on this thread. `stop`: by which its guest is given up.
    pub async fn new_in_turns(
        program: &WorkflowProgram,
        replay: Replay,
        info: RunInfo,
        input: Json,
        stop: Stop,
    ) -> Result<Self, Unstarted> {
        let workflow = Arc::clone(info.workflow());
        let log = GuestLog::new(Some(info.run()), Arc::clone(&workflow));
        let guest = Guest::new(replay, log, info, program.bounds(), stop);
        let (store, instance) = program.instantiate(guest).await?;
        Ok(Self { store, instance, workflow, state: State::Fresh { input } })
    }

    /// By which the guest is given up from now on, whoever could do so before.
    pub fn heed(&mut self, stop: Stop) {
        self.store.data_mut().meter.heed(stop);
    }

    /// Keeps what the guest says out of the host's log: for those who only look at a run, whose own
    /// guest has said it already.
    pub fn mute(&mut self) {
        self.store.data_mut().mute();
    }

    /// The guest's way along its ledger: enqueue further rows here, take issued commands from here.
    pub fn replay(&mut self) -> &mut Replay {
        &mut self.store.data_mut().replay
    }

    /// Lets the guest handle everything that was enqueued for it.
    pub fn activate(&mut self) -> Result<Activation, Stopped> {
        turns::to_the_end(self.activate_in_turns())
    }

    /// The same for whoever has others to serve on this thread. Dropped on the way, it leaves a guest that cannot
    /// be entered again.
    pub async fn activate_in_turns(&mut self) -> Result<Activation, Stopped> {
        if matches!(self.state, State::Closed | State::Over) {
            return Err(over().into());
        }
        // Until it is known to be well: every early return leaves the store untouchable.
        let state = std::mem::replace(&mut self.state, State::Over);
        refuel(&mut self.store);
        let guest = self.store.data_mut();
        guest.panic = None;
        guest.fuel_before = 0;
        guest.replay.begin();
        let turn = turns::begin(&mut self.store);
        let entered = async {
            match state {
                State::Fresh { input } => {
                    self.instance.call_start(&mut self.store, &self.workflow, &input.to_string()).await
                }
                State::Blocked | State::Closed | State::Over => {
                    self.instance.call_resume(&mut self.store).await
                }
            }
        };
        let ended = turns::measured(&turn, entered).await;
        let guest = self.store.data_mut();
        guest.close_log();
        guest.budget.keep(guest.replay.kept_bytes());
        let ended = ended.map_err(|error| self.stopped(&error))?;
        let status = world::status(ended).map_err(|refusal| self.stopped(&refusal.into()))?;
        self.replay().finish(&status).map_err(|refusal| self.stopped(&refusal.into()))?;
        self.state = if status == Status::Blocked { State::Blocked } else { State::Closed };
        Ok(Activation { status, fuel: self.fuel_used() })
    }

    /// Turns the guest of a run that waits or has ended into one that answers queries: what a run
    /// showed last is worth most when it is over.
    ///
    /// There is no way back: a query runs the guest's code, which may change its memory (a counter,
    /// the seed of a hash map), and no ledger would lead a replay to the same memory again.
    pub fn into_reader(self) -> Result<Reader, Fault> {
        match self.state {
            State::Blocked | State::Closed => {
                Ok(Reader { store: self.store, instance: self.instance, is_over: false })
            }
            State::Fresh { .. } | State::Over => Err(over()),
        }
    }

    fn stopped(&mut self, error: &wasmtime::Error) -> Stopped {
        fault::cause(error, self.store.data_mut().panic.take()).into()
    }

    fn fuel_used(&self) -> u64 {
        let left = self.store.get_fuel().expect("this engine counts fuel");
        let Guest { fuel_before, rules, .. } = self.store.data();
        fuel_before + rules.fuel_per_event().saturating_sub(left)
    }
}

impl std::fmt::Debug for WorkflowInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkflowInstance")
            .field("workflow", &self.workflow)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A guest that only answers questions about the state its run is in.
pub struct Reader {
    store: Store<Guest>,
    instance: Workflow,
    is_over: bool,
}

impl Reader {
    /// Asks the guest. The inner error is the guest's answer to a question that it does not know.
    pub fn query(&mut self, name: &str, input: &Json) -> Result<Result<Json, String>, Fault> {
        if std::mem::replace(&mut self.is_over, true) {
            return Err(over());
        }
        refuel(&mut self.store);
        let turn = turns::begin(&mut self.store);
        let input = input.to_string();
        let answer = self.instance.call_query(&mut self.store, name, &input);
        let answer = turns::to_the_end(turns::measured(&turn, answer));
        self.store.data_mut().close_log();
        let panic = self.store.data_mut().panic.take();
        let answer = match answer.map_err(|error| fault::fault(&error, panic))? {
            Ok(output) => Ok(world::json("the query's output", output)
                .map_err(|refusal| fault::fault(&refusal.into(), None))?),
            Err(mut message) => {
                backstitch_core::printable::cut(&mut message, limits::MESSAGE_BYTES_MAX);
                Err(message)
            }
        };
        self.is_over = false;
        Ok(answer)
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

/// Fills the tank for what comes up to the first event.
pub(crate) fn refuel(store: &mut Store<Guest>) {
    let tank = store.data().rules.fuel_per_event();
    store.set_fuel(tank).expect("this engine counts fuel");
}

fn over() -> Fault {
    Fault::new(FaultKind::Protocol, "the guest has stopped or its run is closed: it cannot be entered again")
}
