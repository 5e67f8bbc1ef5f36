//! Leads a guest along prefixes of a ledger, in this process, and compares what it does with the rest.
//!
//! What must hold: the commands are the recorded ones in their order, whatever the guest had been
//! given when it gave them; how many there are depends on the outcomes enqueued for the guest alone;
//! and the guest ends as the run did.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use backstitch_core::{Command, Event, Kind, Op, Replay, Row, Run, Status};
use backstitch_sandbox::{
    Compiler, ComponentKind, EgressConfig, GuestTime, Program, RunInfo, Sandbox, SandboxConfig,
    WorkflowInstance, WorkflowProgram,
};
use tokio::sync::Mutex;

use crate::examples::History;
use crate::support::component;

/// Ways of cutting one ledger into batches at random.
const RANDOM_CUTS: u64 = 25;

/// A workflow component, compiled in this process once.
pub(crate) async fn program(package: &str) -> WorkflowProgram {
    static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
        let compiler = Compiler::InProcess;
        Sandbox::new(SandboxConfig {
            cache_dir: None,
            compiler,
            warm_runs_max: 32,
            activities_max: 1,
            guest_time: GuestTime::default(),
            memory_bytes_max: 1 << 30,
            egress: EgressConfig::default(),
        })
        .unwrap()
    });
    static PROGRAMS: LazyLock<Mutex<HashMap<String, WorkflowProgram>>> = LazyLock::new(Mutex::default);
    let mut programs = PROGRAMS.lock().await;
    if let Some(program) = programs.get(package) {
        return program.clone();
    }
    let bytes = component(package);
    let digest = SANDBOX.admit(&bytes).unwrap().digest;
    let fetch = || async move { Ok::<_, std::convert::Infallible>(bytes) };
    let Program::Workflow(program) = SANDBOX.load(digest, ComponentKind::Workflow, fetch).await.unwrap()
    else {
        panic!("{package} holds no workflows");
    };
    programs.insert(package.to_owned(), program.clone());
    program
}

/// Goes over a history from every prefix and in every way. The error says where it was not the same.
pub(crate) fn check(program: &WorkflowProgram, history: &History) -> Result<(), String> {
    Guide::new(program, history).every_prefix_cold()?;
    one_at_a_time(program, history)?;
    in_random_batches(program, history)
}

/// Goes over a history as a host does that is never behind.
pub(crate) fn one_at_a_time(program: &WorkflowProgram, history: &History) -> Result<(), String> {
    let guide = Guide::new(program, history);
    guide.in_batches(&vec![1; history.rows.len()]).map_err(|problem| format!("one at a time: {problem}"))
}

/// Goes over a history as hosts do that are behind, or die and come back.
pub(crate) fn in_random_batches(program: &WorkflowProgram, history: &History) -> Result<(), String> {
    let guide = Guide::new(program, history);
    for seed in 0..RANDOM_CUTS {
        let sizes = random_cuts(seed, history.rows.len());
        guide.in_batches(&sizes).map_err(|problem| format!("in batches of {sizes:?}: {problem}"))?;
    }
    Ok(())
}

/// What a guest did.
#[derive(Debug, PartialEq)]
struct Did {
    issued: Vec<(Op, Command)>,
    status: Status,
    fuel: u64,
}

struct Guide<'a> {
    program: &'a WorkflowProgram,
    history: &'a History,
    events: Vec<Event>,
    /// Every command of the ledger.
    commands: Vec<(Op, Command)>,
}

impl<'a> Guide<'a> {
    fn new(program: &'a WorkflowProgram, history: &'a History) -> Self {
        let (_, events) = Run::load_all(history.run, &history.rows).expect("the ledger is sound");
        let commands = events.iter().filter_map(|event| match event {
            Event::Commanded { op, command } => Some((*op, command.clone())),
            _ => None,
        });
        Self { program, history, commands: commands.collect(), events }
    }

    /// A guest that was never there before, on the first `rows` rows.
    fn cold(&self, rows: usize) -> Result<(WorkflowInstance, Did), String> {
        let (first, input, options) = match &self.events[0] {
            Event::RunStarted { input, options, .. } => (&self.history.rows[0], input.clone(), options),
            other => panic!("a ledger that starts with {other:?}"),
        };
        let mut replay = Replay::new(self.history.run, first.at_ms, options);
        for (row, event) in self.history.rows.iter().zip(&self.events).take(rows) {
            replay.enqueue(row.seq, row.at_ms, event.clone());
        }
        let (name, workflow) = (self.history.name.as_str(), self.history.workflow.as_str());
        let info = RunInfo::new(self.history.run, Arc::from(name), Arc::from(workflow), options);
        let mut guest = WorkflowInstance::new(self.program, replay, info, input)
            .map_err(|unstarted| unstarted.to_string())?;
        let did = activate(&mut guest)?;
        Ok((guest, did))
    }

    fn every_prefix_cold(&self) -> Result<(), String> {
        // How far a guest gets that has had so many outcomes.
        let mut reached: HashMap<usize, usize> = HashMap::new();
        for rows in 1..=self.history.rows.len() {
            let within = |problem| format!("the first {rows} rows: {problem}");
            let (_, first) = self.cold(rows).map_err(within)?;
            let (_, second) = self.cold(rows).map_err(within)?;
            if first != second {
                return Err(within(format!("{first:?} and then {second:?}")));
            }
            let given = self.recorded(rows);
            self.compare(given, &first).map_err(within)?;
            let far = given + first.issued.len();
            let outcomes = self.history.rows[..rows].iter().filter(|row| is_outcome(row)).count();
            let before = *reached.entry(outcomes).or_insert(far);
            if before != far {
                return Err(within(format!("{far} commands after {outcomes} outcomes, {before} before")));
            }
        }
        Ok(())
    }

    /// The first batch is a cold start, the others come to a guest that is warm.
    fn in_batches(&self, sizes: &[usize]) -> Result<(), String> {
        let mut upto = sizes[0];
        let (mut guest, mut did) = self.cold(upto)?;
        let mut given = self.recorded(upto);
        self.compare(given, &did)?;
        for size in &sizes[1..] {
            if did.status != Status::Blocked {
                return Ok(());
            }
            given += std::mem::take(&mut did.issued).len();
            let batch = upto..upto + size;
            upto = batch.end;
            let mut enqueued = false;
            for (row, event) in self.history.rows[batch.clone()].iter().zip(&self.events[batch]) {
                // A command's row is the guest's own doing: it is never told of it.
                if is_outcome(row) {
                    guest.replay().enqueue(row.seq, row.at_ms, event.clone());
                    enqueued = true;
                }
            }
            if enqueued {
                let within = |problem| format!("rows below {upto}: {problem}");
                did = activate(&mut guest).map_err(within)?;
                self.compare(given, &did).map_err(within)?;
            }
        }
        let waits = did.status == Status::Blocked && self.history.end().is_some();
        if waits { Err("it waits where the run ended".into()) } else { Ok(()) }
    }

    /// Whether a guest that had given so many commands went on as the ledger does.
    fn compare(&self, given: usize, did: &Did) -> Result<(), String> {
        let next = self.commands.get(given..given + did.issued.len()).unwrap_or(&self.commands[given..]);
        if next != did.issued {
            return Err(format!("the ledger goes on with {next:?}, the guest with {:?}", did.issued));
        }
        let all = given + did.issued.len() == self.commands.len();
        match &did.status {
            Status::Blocked => Ok(()),
            status if Some(status) != self.history.end().as_ref() => Err(format!("it ended with {status:?}")),
            _ if !all => Err("it ended before its last command".into()),
            _ => Ok(()),
        }
    }

    /// Commands in the first `rows` rows.
    fn recorded(&self, rows: usize) -> usize {
        self.events[..rows].iter().filter(|event| matches!(event, Event::Commanded { .. })).count()
    }
}

fn activate(guest: &mut WorkflowInstance) -> Result<Did, String> {
    let activation = guest.activate().map_err(|stopped| stopped.to_string())?;
    let issued = guest.replay().take_issued();
    Ok(Did { issued, status: activation.status, fuel: activation.fuel })
}

/// Whether a guest can be told of the row.
fn is_outcome(row: &Row) -> bool {
    use Kind::*;
    matches!(
        Kind::from_tag(row.kind),
        Some(
            ActivityCompleted
                | ActivityFailed
                | TimerFired
                | SignalReceived
                | ChildCompleted
                | ChildFailed
                | MessageAccepted
                | MessageRefused
                | CancelRequested
        )
    )
}

/// Sizes that add up to `rows`: small ones and large ones, the same for the same seed.
fn random_cuts(seed: u64, rows: usize) -> Vec<usize> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ rows as u64;
    let mut left = rows;
    let mut cuts = Vec::new();
    while left > 0 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let most = if state >> 63 == 0 { 3 } else { left };
        let size = 1 + (state >> 33) as usize % most.min(left);
        cuts.push(size);
        left -= size;
    }
    cuts
}
