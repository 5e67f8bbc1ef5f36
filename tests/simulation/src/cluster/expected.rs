//! What confluent runs have to come to: the same as when nothing is in their way.

use std::sync::Arc;

use backstitch_core::{
    Command, Entity, Event, Json, Op, Replay, Row, Run, RunId, RunStatus, Seed, Seq, StartOptions, Status,
};

use super::checks::Broken;
use super::plan::{CONFLUENT_IDS, External};
use super::state::Cluster;
use crate::script::{Guest, Script, WORKFLOWS, activity_output, start_input};

/// What a run says in its ledger, without what depends on its history: times, attempts that failed, an operator's words.
/// Of each, whether it is an outcome.
type Said = Vec<(bool, String)>;

/// A run, its workflow id, which run of that it is, and how it stands.
type Named = (RunId, String, u32, RunStatus);

impl Cluster {
    /// Whether runs of this workflow are confluent.
    pub(super) fn is_confluent(&self, workflow: &str) -> bool {
        let place = WORKFLOWS.iter().position(|name| *name == workflow);
        place.is_some_and(|place| self.plan.scripts[place].is_confluent())
    }

    /// The same, of a run.
    pub(super) fn is_confluent_run(&self, run: RunId) -> bool {
        match self.database.rows(run, Seq(0), 1).first().map(Row::event) {
            Some(Ok(Event::RunStarted { workflow, .. })) => self.is_confluent(&workflow),
            _ => false,
        }
    }

    /// Every confluent run that a client has started has come to what it has to come to.
    pub(super) fn expect_confluent(&self) -> Result<(), Broken> {
        let runs = self.database.named_runs();
        for (_, event) in &self.plan.events {
            let External::Start { workflow, id, number, .. } = event else { continue };
            if !CONFLUENT_IDS.contains(&id.as_str()) {
                continue;
            }
            let expected = expected(&self.plan.scripts, *workflow, start_input(*number));
            self.expect_chain(&runs, id, &expected, true)?;
            let forks = self.sent.confluent.iter().filter(|(_, from, _)| from == id);
            for (fork, _, generation) in forks {
                // It goes on from where it was begun, and asks for the same. What its last command waits for may have come
                // when its guest had decided to end, and had not yet done so.
                self.expect_chain(&runs, fork, &expected[*generation as usize..], false)?;
            }
        }
        Ok(())
    }

    /// The runs of a workflow id say what they have to say.
    fn expect_chain(
        &self,
        runs: &[Named],
        id: &str,
        expected: &[Said],
        with_outcomes: bool,
    ) -> Result<(), Broken> {
        let heeded = |said: Said| -> Said {
            said.into_iter().filter(|(is_outcome, _)| with_outcomes || !is_outcome).collect()
        };
        let mut chain: Vec<&Named> = runs.iter().filter(|(_, name, ..)| name == id).collect();
        chain.sort_by_key(|(_, _, generation, _)| *generation);
        // It may never have been there.
        for ((run, .., status), expected) in chain.iter().zip(expected) {
            let said = heeded(said(&self.database.rows(*run, Seq(0), usize::MAX)));
            let expected = heeded(expected.clone());
            if *status == RunStatus::Terminated {
                continue;
            }
            if said != expected {
                let place = said.iter().zip(&expected).position(|(said, expected)| said != expected);
                let place = place.unwrap_or(said.len().min(expected.len()));
                return Err(format!(
                    "run {run} ({id}) has {:?} where {:?} is to be, at {place} of {} and {}",
                    said.get(place),
                    expected.get(place),
                    said.len(),
                    expected.len()
                ));
            }
        }
        match chain.is_empty() || chain.len() == expected.len() {
            true => Ok(()),
            false => Err(format!("{id} has {} runs where {} are to be", chain.len(), expected.len())),
        }
    }
}

/// What a ledger says.
fn said(rows: &[Row]) -> Said {
    let events = rows.iter().skip(1).filter_map(|row| row.event().ok());
    events.filter_map(|event| told(&event)).collect()
}

fn told(event: &Event) -> Option<(bool, String)> {
    let is_outcome =
        matches!(event, Event::ActivityClosed { .. } | Event::ChildClosed { .. } | Event::TimerFired { .. });
    let said = match event {
        Event::Commanded { op, command } => Some(format!("{op} {command:?}")),
        Event::ActivityClosed { op, outcome, .. } => Some(format!("{op} closed {outcome:?}")),
        Event::ChildClosed { op, outcome } => Some(format!("{op} child {outcome:?}")),
        Event::TimerFired { op } => Some(format!("{op} fired")),
        Event::RunCompleted { output } => Some(format!("completed {output}")),
        Event::RunContinued { input } => Some(format!("continued {input}")),
        Event::RunFailed { failure } => Some(format!("failed {}", failure.code)),
        _ => None,
    };
    said.map(|said| (is_outcome, said))
}

/// What the runs of one workflow id say that follow each other, if nothing is in their way.
fn expected(scripts: &[Script], workflow: usize, input: Json) -> Vec<Said> {
    let (mut all, mut input, mut entity) = (Vec::new(), input, None);
    loop {
        let One { said, end, entity: last } = one(scripts, workflow, input, entity);
        all.push(said);
        match end {
            Event::RunContinued { input: next } => (input, entity) = (next, last),
            _ => return all,
        }
    }
}

/// One run.
struct One {
    said: Said,
    /// How it ends.
    end: Event,
    /// What the next run begins with, if there is one.
    entity: Option<Json>,
}

/// One run of a workflow, from this entity on.
fn one(scripts: &[Script], workflow: usize, input: Json, entity: Option<Json>) -> One {
    let id = RunId(uuid::Uuid::from_u128(1));
    // Nothing that it draws shows in a confluent run; the rules that it lives under do.
    let options = Arc::new(StartOptions { entity, ..StartOptions::default() }.beginning(Seed([0; 32])));
    let mut run = Run::new(id);
    let started = Event::RunStarted {
        workflow: WORKFLOWS[workflow].into(),
        input: input.clone(),
        options: Arc::clone(&options),
    };
    run.append(0, &started).expect("a start is a first row");
    let mut guest = Guest::new(Arc::new(scripts[workflow].clone()), Replay::new(id, 0, &options), input);
    let mut said = Said::new();
    loop {
        let done = guest.activate().expect("a confluent script keeps to the rules");
        let mut outcomes = Vec::new();
        for (op, command, is_open) in done.commands {
            if is_open {
                outcomes.extend(outcome(scripts, op, &command));
            }
            let event = Event::Commanded { op, command };
            said.extend(told(&event));
            run.append(0, &event).expect("a command may come");
        }
        let end = match done.status {
            Status::Blocked => None,
            Status::Completed(output) => Some(Event::RunCompleted { output }),
            Status::Failed(failure) => Some(Event::RunFailed { failure }),
            Status::ContinueAsNew(input) => Some(Event::RunContinued { input }),
        };
        if let Some(end) = end {
            said.extend(told(&end));
            let entity = guest.replay().entity();
            let entity = (*entity != Entity::default()).then(|| entity.to_json());
            return One { said, end, entity };
        }
        for event in outcomes {
            said.extend(told(&event));
            let row = run.append(0, &event).expect("an outcome may come");
            guest.replay().enqueue(row.seq, row.at_ms, event);
        }
    }
}

/// What a command leads to.
fn outcome(scripts: &[Script], op: Op, command: &Command) -> Option<Event> {
    match command {
        Command::ScheduleActivity { name, input, .. } => {
            Some(Event::ActivityClosed { op, attempt: 1, outcome: Ok(activity_output(name, input)) })
        }
        Command::StartTimer { .. } => Some(Event::TimerFired { op }),
        Command::StartChild { workflow, input, .. } => {
            let place = WORKFLOWS.iter().position(|name| **name == **workflow)?;
            Some(Event::ChildClosed { op, outcome: child(scripts, place, input.clone()) })
        }
        _ => None,
    }
}

fn child(scripts: &[Script], workflow: usize, input: Json) -> Result<Json, backstitch_core::Failure> {
    let (mut input, mut entity) = (input, None);
    loop {
        let one = one(scripts, workflow, input, entity);
        match one.end {
            Event::RunContinued { input: next } => (input, entity) = (next, one.entity),
            Event::RunCompleted { output } => return Ok(output),
            Event::RunFailed { failure } => return Err(failure),
            _ => unreachable!("a run that nobody disturbs ends so"),
        }
    }
}
