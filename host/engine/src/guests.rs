//! The threads that run guests. They hold no state: a job brings the instance, or all that is needed
//! to make one, and the result takes it back, so any thread may run any run's next activation.
//!
//! A guest has a thread for a turn of some ten milliseconds. One that has not done by then gets in line with the
//! others that have not, and a thread takes from that line and from the new jobs alike: however many guests
//! spin, the others wait for a few turns, never for their end.
//!
//! A call that nobody outside can notice is carried out on the spot: its row and the row of its
//! outcome then go to the ledger together.
//!
//! Called by the scheduler, which never has two jobs of one run out at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use backstitch_core::{
    Command, Entity, Failure, Fault, FaultKind, Json, Op, ProjectionChanges, Replay, Status,
};
use backstitch_sandbox::{RunInfo, Stop, Stopped, Unstarted, WorkflowInstance, WorkflowProgram};
use backstitch_scheduler::{AttemptBounds, NewAttempt, Next, PendingEvent, RunIdentity};
use crossbeam_channel::{Receiver, Sender};

use crate::clock::Clock;
use crate::driver::Live;
use crate::registry::ComponentRegistry;
use crate::tenure::Tenure;
use crate::{attempt, failpoint};

/// Carries out calls on the thread of the guest that makes them.
#[derive(Clone)]
pub struct Inline {
    /// Who serves them.
    pub programs: ComponentRegistry,
    /// What time it is.
    pub clock: Clock,
    /// Whether this host may begin anything.
    pub tenure: Tenure,
    /// How long the calls of one activation may take, before they are left to the scheduler.
    pub bound: Duration,
}

/// One activation to run, and by what it is given up.
pub struct Work {
    /// What to run.
    pub job: Job,
    /// By which it is given up.
    pub stop: Stop,
}

/// One activation to run.
pub type Job = backstitch_scheduler::Job<Live>;
/// What came of it.
pub type Activated = backstitch_scheduler::Activated<Live>;
type ActivationResult = backstitch_scheduler::ActivationResult<Box<WorkflowInstance>>;
type ActivationError = backstitch_scheduler::ActivationError<Live>;
type Check = backstitch_scheduler::Check<WorkflowProgram>;
type Origin = backstitch_scheduler::Origin<WorkflowProgram>;

/// Starts `count` threads that take jobs until the channel closes. `deliver` is called on them.
pub fn spawn(
    count: usize,
    jobs: &Receiver<Work>,
    inline: &Inline,
    deliver: impl Fn(Activated) + Clone + Send + 'static,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    // Unbounded in name only: one for each run in memory.
    let (line, next_in_line) = crossbeam_channel::unbounded();
    (0..count)
        .map(|index| {
            let (jobs, inline, deliver) = (jobs.clone(), inline.clone(), deliver.clone());
            let (line, next_in_line) = (line.clone(), next_in_line.clone());
            std::thread::Builder::new()
                .name(format!("guests-{index}"))
                .spawn(move || serve(&jobs, &inline, (&line, &next_in_line), deliver))
        })
        .collect()
}

/// A job that was begun and is not done.
type Going = Pin<Box<dyn Future<Output = Activated> + Send>>;

/// Takes turns with guests until there are no more jobs; those in line then are dropped with it.
fn serve(
    jobs: &Receiver<Work>,
    inline: &Inline,
    (line, next_in_line): (&Sender<Going>, &Receiver<Going>),
    deliver: impl Fn(Activated),
) {
    loop {
        // If there is something in both, chance decides: neither waits for ever.
        let mut going: Going = crossbeam_channel::select! {
            recv(jobs) -> job => match job {
                Ok(job) => Box::pin(run(job, inline.clone())),
                Err(_) => return,
            },
            recv(next_in_line) -> going => going.expect("this thread holds the other end"),
        };
        match going.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(activated) => deliver(activated),
            Poll::Pending => line.send(going).expect("this thread holds the other end"),
        }
    }
}

async fn run(Work { job, stop }: Work, inline: Inline) -> Activated {
    let (run, activation) = job.key();
    let result =
        if stop.is_asked() { Err(ActivationError::Abandoned) } else { carry_out(job, stop, &inline).await };
    Activated { run, activation, result }
}

async fn carry_out(job: Job, stop: Stop, inline: &Inline) -> Result<ActivationResult, ActivationError> {
    match job {
        Job::Begin { activation, origin, events, check, room } => match begin(&origin, &events, stop).await {
            Ok(guest) => {
                let identity = Arc::clone(&origin.identity);
                let check = check.then_some(Check { origin, events });
                go_on(guest, check, &identity, inline)
                    .await
                    .map(|result| ActivationResult { replayed: true, ..result })
            }
            Err(Unstarted::Fault(fault)) => Err(ActivationError::Fault(fault)),
            Err(Unstarted::Unwanted) => Err(ActivationError::Abandoned),
            Err(Unstarted::NoRoom) => {
                Err(ActivationError::NoRoom(Box::new(Job::Begin { activation, origin, events, check, room })))
            }
        },
        Job::Resume { identity, mut guest, events, check, .. } => {
            guest.heed(stop);
            for PendingEvent { seq, at_ms, event } in events {
                guest.replay().enqueue(seq, at_ms, event);
            }
            go_on(guest, check, &identity, inline).await
        }
    }
}

async fn go_on(
    mut guest: Box<WorkflowInstance>,
    check: Option<Check>,
    identity: &Arc<RunIdentity>,
    inline: &Inline,
) -> Result<ActivationResult, ActivationError> {
    failpoint::over("guest-of", &identity.workflow_id);
    let did = activate(&mut guest).await?;
    if let Some(check) = check {
        repeats(&check, &did).await?;
    }
    let Activation { commands, status, memory: projection, .. } = did;
    let inline = match status {
        Status::Blocked => inline.carry_out(&commands, identity),
        _ => Vec::new(),
    };
    let next = matches!(status, Status::ContinueAsNew(_)).then(|| next(guest.replay()));
    Ok(ActivationResult { guest, commands, status, projection, inline, replayed: false, next })
}

/// What a guest that continues as new leaves to the next run.
fn next(replay: &mut Replay) -> Next {
    Next {
        unused: replay.unused_signals(),
        attributes: replay.attributes().clone(),
        entity: (*replay.entity() != Entity::default()).then(|| replay.entity().to_json()),
    }
}

impl Inline {
    /// Carries out the calls among `commands` that leave no trace if this host dies before their rows
    /// are written.
    fn carry_out(
        &self,
        commands: &[(Op, Command, bool)],
        identity: &Arc<RunIdentity>,
    ) -> Vec<(Op, Result<Json, Failure>)> {
        let begun = Instant::now();
        let mut outcomes = Vec::new();
        for (op, command, open) in commands {
            let Command::ScheduleActivity { name, input, options } = command else { continue };
            if !open || begun.elapsed() >= self.bound || !self.tenure.holds() {
                continue;
            }
            let scope = identity.scope;
            let at_hand = self.programs.activity_at_hand(scope, options.queue(), name);
            let Some((digest, program)) = at_hand else { continue };
            let now_ms = self.clock.now_ms();
            let call = attempt::call(&NewAttempt {
                identity: Arc::clone(identity),
                op: *op,
                attempt: 1,
                name: Arc::clone(name),
                digest,
                input: input.clone(),
                heartbeat: None,
                bounds: AttemptBounds::new(options, now_ms, now_ms),
                until_ms: None,
            });
            failpoint::point("activity-during");
            if let Some(outcome) = program.try_inline(&call) {
                attempt::log(&call);
                failpoint::point("activity-done");
                outcomes.push((*op, self.programs.kept(scope, outcome)));
            }
        }
        outcomes
    }
}

/// What a guest did in one activation.
struct Activation {
    commands: Vec<(Op, Command, bool)>,
    status: Status,
    memory: ProjectionChanges,
    fuel: u64,
}

/// A fresh guest at the start of its ledger.
async fn begin(
    origin: &Origin,
    events: &[PendingEvent],
    stop: Stop,
) -> Result<Box<WorkflowInstance>, Unstarted> {
    let RunIdentity { run, workflow_id, workflow, .. } = &*origin.identity;
    if origin.program.rules() != origin.options.rules {
        let message = "its component was not built for the rules of this run";
        return Err(Fault::new(FaultKind::Component, message).into());
    }
    let mut replay = Replay::new(*run, origin.started_at_ms, &origin.options);
    for PendingEvent { seq, at_ms, event } in events {
        replay.enqueue(*seq, *at_ms, event.clone());
    }
    let info = RunInfo::new(*run, Arc::clone(workflow_id), Arc::clone(workflow), &origin.options);
    let input = origin.input.clone();
    WorkflowInstance::new_in_turns(&origin.program, replay, info, input, stop).await.map(Box::new)
}

async fn activate(guest: &mut WorkflowInstance) -> Result<Activation, ActivationError> {
    let activation = guest.activate_in_turns().await.map_err(|stopped| match stopped {
        Stopped::Unwanted => ActivationError::Abandoned,
        Stopped::Fault(fault) => ActivationError::Fault(fault),
        Stopped::Divergence(divergence) => {
            let backtrace = divergence.backtrace.clone().unwrap_or_default();
            let fault = Fault::new(FaultKind::Divergence, divergence.to_string());
            ActivationError::Fault(fault.with_backtrace(backtrace))
        }
    })?;
    failpoint::point("activation-middle");
    let replay = guest.replay();
    let memory = replay.take_projection_changes();
    let issued = replay.take_issued();
    let commands = issued.into_iter().map(|(op, command)| {
        let open = replay.is_open(op);
        (op, command, open)
    });
    Ok(Activation { commands: commands.collect(), status: activation.status, memory, fuel: activation.fuel })
}

/// Goes over the whole ledger twice in fresh stores: commands and fuel must be the same both times,
/// and the commands those of the warm guest. Only test builds ask for it.
async fn repeats(check: &Check, warm: &Activation) -> Result<(), ActivationError> {
    let cold = async || -> Result<Activation, ActivationError> {
        let guest = begin(&check.origin, &check.events, Stop::default()).await;
        let mut guest = guest.map_err(|unstarted| match unstarted {
            Unstarted::Fault(fault) => ActivationError::Fault(fault),
            other => unequal(other.to_string()),
        })?;
        activate(&mut guest).await
    };
    let (first, second) = (cold().await?, cold().await?);
    if first.fuel != second.fuel {
        return Err(unequal(format!("two replays used {} and {} fuel", first.fuel, second.fuel)));
    }
    for (name, other) in [("first", &first), ("second", &second)] {
        if other.commands != warm.commands || other.status != warm.status || other.memory != warm.memory {
            return Err(unequal(format!(
                "the warm guest gave {:?} and {:?}, the {name} replay {:?} and {:?}",
                warm.commands, warm.status, other.commands, other.status
            )));
        }
    }
    Ok(())
}

fn unequal(message: impl AsRef<str>) -> ActivationError {
    ActivationError::Fault(Fault::new(FaultKind::Divergence, message))
}
