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
    Command, Event, Failure, Fault, FaultKind, Json, Op, ProjectionChanges, Replay, RunId, Seq, StartOptions,
    Status,
};
use backstitch_sandbox::{RunInfo, Stop, Stopped, Unstarted, WorkflowInstance, WorkflowProgram};
use crossbeam_channel::{Receiver, Sender};

use crate::clock::Clock;
use crate::identity::Facts;
use crate::programs::Programs;
use crate::room::Held;
use crate::tenure::Tenure;
use crate::{attempt, crash};

/// Carries out calls on the thread of the guest that makes them.
#[derive(Clone)]
pub struct AtOnce {
    /// Who serves them.
    pub programs: Programs,
    /// What time it is.
    pub clock: Clock,
    /// Whether this host may begin anything.
    pub tenure: Tenure,
    /// How long the calls of one activation may take, before they are left to the scheduler.
    pub bound: Duration,
}

/// A row that lies ahead of a guest: committed, or its run's draft.
#[derive(Clone, Debug)]
pub struct Ahead {
    /// The row's place.
    pub seq: Seq,
    /// When it was recorded.
    pub at_ms: u64,
    /// What it says.
    pub event: Event,
}

/// All that a guest is made of.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The run.
    pub facts: Arc<Facts>,
    /// The code it is pinned to.
    pub program: WorkflowProgram,
    /// Its input.
    pub input: Json,
    /// On which terms it was started.
    pub options: Arc<StartOptions>,
    /// When row 0 was recorded.
    pub started_at_ms: u64,
}

/// One activation to run.
pub enum Job {
    /// Of a guest that is not in memory: the rows are its whole ledger.
    Begin {
        /// Comes back in [`Activated`].
        turn: u64,
        /// By which it is given up.
        stop: Stop,
        /// What to make it of.
        origin: Origin,
        /// The ledger, row 0 left out or not.
        rows: Vec<Ahead>,
        /// Whether to go over it twice more and compare: see [`Check`].
        check: bool,
        /// The room that the rows take, if they were read: given back when the guest has been led along them.
        held: Option<Arc<Held>>,
    },
    /// Of a guest that is.
    Resume {
        /// Comes back in [`Activated`].
        turn: u64,
        /// By which it is given up.
        stop: Stop,
        /// The run.
        facts: Arc<Facts>,
        /// The guest.
        guest: Box<WorkflowInstance>,
        /// The outcomes that it has not had.
        rows: Vec<Ahead>,
        /// Debug builds may go over everything again: see [`Check`].
        check: Option<Check>,
    },
}

/// What is needed to repeat a warm activation from nothing and to compare.
pub struct Check {
    /// What to make the second guest of.
    pub origin: Origin,
    /// The whole ledger, the rows that are ahead included.
    pub rows: Vec<Ahead>,
}

/// What came of a job.
pub struct Activated {
    /// The run.
    pub run: RunId,
    /// Which of its jobs.
    pub turn: u64,
    /// The guest and what it did; or why it is gone.
    pub result: Result<Done, Undone>,
}

/// An activation that ended.
pub struct Done {
    /// The guest, ready for the next one.
    pub guest: Box<WorkflowInstance>,
    /// Commands that are new, in call order; each with whether the guest still waits for it.
    pub commands: Vec<(Op, Command, bool)>,
    /// How it ended.
    pub status: Status,
    /// What they change of what is known about the run.
    pub memory: ProjectionChanges,
    /// It was led along a ledger that was there.
    pub repeats: bool,
    /// First attempts of activities among the commands that were made already.
    pub outcomes: Vec<(Op, Result<Json, Failure>)>,
}

/// Why there is no guest any more.
pub enum Undone {
    /// It broke a rule, a bound or its promise.
    Stopped(Stopped),
    /// It was given up: nothing of it is left.
    Unwanted,
    /// Every slot for instances was taken: the job comes back.
    NoRoom(Box<Job>),
}

/// Starts `count` threads that take jobs until the channel closes. `deliver` is called on them.
pub fn spawn(
    count: usize,
    jobs: &Receiver<Job>,
    at_once: &AtOnce,
    deliver: impl Fn(Activated) + Clone + Send + 'static,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    // Unbounded in name only: one for each run in memory.
    let (line, next_in_line) = crossbeam_channel::unbounded();
    (0..count)
        .map(|index| {
            let (jobs, at_once, deliver) = (jobs.clone(), at_once.clone(), deliver.clone());
            let (line, next_in_line) = (line.clone(), next_in_line.clone());
            std::thread::Builder::new()
                .name(format!("guests-{index}"))
                .spawn(move || serve(&jobs, &at_once, (&line, &next_in_line), deliver))
        })
        .collect()
}

/// A job that was begun and is not done.
type Going = Pin<Box<dyn Future<Output = Activated> + Send>>;

/// Takes turns with guests until there are no more jobs; those in line then are dropped with it.
fn serve(
    jobs: &Receiver<Job>,
    at_once: &AtOnce,
    (line, next_in_line): (&Sender<Going>, &Receiver<Going>),
    deliver: impl Fn(Activated),
) {
    loop {
        // If there is something in both, chance decides: neither waits for ever.
        let mut going: Going = crossbeam_channel::select! {
            recv(jobs) -> job => match job {
                Ok(job) => Box::pin(run(job, at_once.clone())),
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

async fn run(job: Job, at_once: AtOnce) -> Activated {
    let (Job::Begin { turn, stop, .. } | Job::Resume { turn, stop, .. }) = &job;
    let (turn, stop) = (*turn, stop.clone());
    let facts = match &job {
        Job::Begin { origin, .. } => Arc::clone(&origin.facts),
        Job::Resume { facts, .. } => Arc::clone(facts),
    };
    let result = if stop.is_asked() { Err(Undone::Unwanted) } else { carry_out(job, &at_once).await };
    Activated { run: facts.run, turn, result }
}

async fn carry_out(job: Job, at_once: &AtOnce) -> Result<Done, Undone> {
    match job {
        Job::Begin { turn, stop, origin, rows, check, held } => {
            match begin(&origin, &rows, stop.clone()).await {
                Ok(guest) => {
                    let facts = Arc::clone(&origin.facts);
                    let check = check.then_some(Check { origin, rows });
                    go_on(guest, check, &facts, at_once).await.map(|done| Done { repeats: true, ..done })
                }
                Err(Unstarted::Fault(fault)) => Err(Undone::Stopped(Stopped::Fault(fault))),
                Err(Unstarted::Unwanted) => Err(Undone::Unwanted),
                Err(Unstarted::NoRoom) => {
                    Err(Undone::NoRoom(Box::new(Job::Begin { turn, stop, origin, rows, check, held })))
                }
            }
        }
        Job::Resume { stop, facts, mut guest, rows, check, .. } => {
            guest.heed(stop);
            for Ahead { seq, at_ms, event } in rows {
                guest.replay().enqueue(seq, at_ms, event);
            }
            go_on(guest, check, &facts, at_once).await
        }
    }
}

async fn go_on(
    mut guest: Box<WorkflowInstance>,
    check: Option<Check>,
    facts: &Facts,
    at_once: &AtOnce,
) -> Result<Done, Undone> {
    crash::over("guest-of", &facts.workflow_id);
    let did = activate(&mut guest).await?;
    if let Some(check) = check {
        repeats(&check, &did).await?;
    }
    let Did { commands, status, memory, .. } = did;
    let outcomes = match status {
        Status::Blocked => at_once.carry_out(&commands, facts),
        _ => Vec::new(),
    };
    Ok(Done { guest, commands, status, memory, outcomes, repeats: false })
}

impl AtOnce {
    /// Carries out the calls among `commands` that leave no trace if this host dies before their rows
    /// are written.
    fn carry_out(&self, commands: &[(Op, Command, bool)], facts: &Facts) -> Vec<(Op, Result<Json, Failure>)> {
        let begun = Instant::now();
        let mut outcomes = Vec::new();
        for (op, command, open) in commands {
            let Command::ScheduleActivity { name, input, options } = command else { continue };
            if !open || begun.elapsed() >= self.bound || !self.tenure.holds() {
                continue;
            }
            let program = self.programs.activity_at_hand(facts.scope, options.queue(), name);
            let Some(program) = program else { continue };
            let now_ms = self.clock.now_ms();
            let due = attempt::Due::new(options, now_ms, now_ms);
            let call = due.call(
                facts,
                attempt::Attempt { op: *op, name, input, number: 1, heartbeat: None },
                now_ms,
            );
            crash::point("activity-during");
            if let Some(outcome) = program.try_inline(&call) {
                attempt::log(&call);
                crash::point("activity-done");
                outcomes.push((*op, self.programs.kept(facts.scope, outcome)));
            }
        }
        outcomes
    }
}

/// What a guest did in one activation.
struct Did {
    commands: Vec<(Op, Command, bool)>,
    status: Status,
    memory: ProjectionChanges,
    fuel: u64,
}

/// A fresh guest at the start of its ledger.
async fn begin(origin: &Origin, rows: &[Ahead], stop: Stop) -> Result<Box<WorkflowInstance>, Unstarted> {
    let Facts { run, workflow_id, workflow, .. } = &*origin.facts;
    if origin.program.rules() != origin.options.rules {
        let message = "its component was not built for the rules of this run";
        return Err(Fault::new(FaultKind::Component, message).into());
    }
    let mut replay = Replay::new(*run, origin.started_at_ms, &origin.options);
    for Ahead { seq, at_ms, event } in rows {
        replay.enqueue(*seq, *at_ms, event.clone());
    }
    let info = RunInfo::new(*run, Arc::clone(workflow_id), Arc::clone(workflow), &origin.options);
    let input = origin.input.clone();
    WorkflowInstance::new_in_turns(&origin.program, replay, info, input, stop).await.map(Box::new)
}

async fn activate(guest: &mut WorkflowInstance) -> Result<Did, Undone> {
    let activation = guest.activate_in_turns().await.map_err(|stopped| match stopped {
        Stopped::Unwanted => Undone::Unwanted,
        stopped => Undone::Stopped(stopped),
    })?;
    crash::point("activation-middle");
    let replay = guest.replay();
    let memory = replay.take_projection_changes();
    let issued = replay.take_issued();
    let commands = issued.into_iter().map(|(op, command)| {
        let open = replay.is_open(op);
        (op, command, open)
    });
    Ok(Did { commands: commands.collect(), status: activation.status, memory, fuel: activation.fuel })
}

/// Goes over the whole ledger twice in fresh stores: commands and fuel must be the same both times,
/// and the commands those of the warm guest. Only test builds ask for it.
async fn repeats(check: &Check, warm: &Did) -> Result<(), Undone> {
    let cold = async || -> Result<Did, Undone> {
        let guest = begin(&check.origin, &check.rows, Stop::default()).await;
        let mut guest = guest.map_err(|unstarted| match unstarted {
            Unstarted::Fault(fault) => Undone::Stopped(Stopped::Fault(fault)),
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

fn unequal(message: impl AsRef<str>) -> Undone {
    Undone::Stopped(Stopped::Fault(Fault::new(FaultKind::Divergence, message)))
}
