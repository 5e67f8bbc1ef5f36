//! What [`simulation::script`] promises of every script, held against a host in little: one run, its rows, outcomes that a
//! seed picks, and a guest that is lost now and then.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{
    Command, Event, Failure, FailureKind, FaultKind, Json, Op, Replay, Row, Rules, Run, RunId, Seed, Seq,
    Source, StartOptions, Status, Target,
};
use simulation::rng::Rng;
use simulation::script::{
    ACTIVITIES_FAR, ACTIVITIES_HERE, ACTIVITY_INLINE, CHILDREN_MAX, DEPTH_MAX, EVENTS_MAX, GENERATIONS_MAX,
    Guest, RUNS_MAX, SIGNALS, Script, Stopped, UPDATES, WORKFLOWS, WORKFLOWS_CONFLUENT, activity_output,
    start_input, update_payload,
};
use uuid::Uuid;

/// How the outside behaves.
#[derive(Clone, Copy)]
struct Outside {
    /// Per mille of turns that lose the guest.
    crashes: u64,
    /// Per mille of arrivals that are signals.
    signals: u64,
    /// Per mille of turns that ask the run to cancel.
    cancels: u64,
    /// Whether calls, children and messages may fail.
    fails: bool,
}

const ROUGH: Outside = Outside { crashes: 300, signals: 300, cancels: 50, fails: true };
const SILENT: Outside = Outside { crashes: 0, signals: 0, cancels: 0, fails: true };
const FAITHFUL: Outside = Outside { crashes: 200, signals: 0, cancels: 0, fails: false };

struct Host {
    script: Arc<Script>,
    input: Json,
    options: Arc<StartOptions>,
    run: Run,
    rows: Vec<Row>,
    commands: Vec<(Op, Command)>,
    guest: Guest,
    now_ms: u64,
    outside: Outside,
    /// Picks outcomes.
    rng: Rng,
}

impl Host {
    fn start(script: &Arc<Script>, input: &Json, outside: Outside, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let id = RunId(Uuid::from_u128(u128::from(rng.next_u64())));
        let source = Source { from: Seq(0), seed: Seed([rng.below(256) as u8; 32]) };
        let options =
            Arc::new(StartOptions { rules: Rules::CURRENT, random: vec![source], ..StartOptions::default() });
        let now_ms = 1_000 + rng.below(1_000_000);
        let mut run = Run::new(id);
        let (workflow, input_then) = ("w".into(), input.clone());
        let started = Event::RunStarted { workflow, input: input_then, options: Arc::clone(&options) };
        let rows = vec![run.append(now_ms, &started).unwrap()];
        let guest = Guest::new(Arc::clone(script), Replay::new(id, now_ms, &options), input.clone());
        Self {
            script: Arc::clone(script),
            input: input.clone(),
            options,
            run,
            rows,
            commands: Vec::new(),
            guest,
            now_ms,
            outside,
            rng,
        }
    }

    /// A guest before which those rows lie that `is_laid` chooses.
    fn fresh(&self, is_laid: impl Fn(&Event) -> bool) -> Guest {
        self.fresh_later(0, is_laid)
    }

    /// The same where all but the start was so much later.
    fn fresh_later(&self, later_ms: u64, is_laid: impl Fn(&Event) -> bool) -> Guest {
        let mut replay = Replay::new(self.run.id(), self.rows[0].at_ms, &self.options);
        for row in &self.rows {
            let event = row.event().unwrap();
            if is_laid(&event) {
                replay.enqueue(row.seq, row.at_ms + later_ms, event);
            }
        }
        Guest::new(Arc::clone(&self.script), replay, self.input.clone())
    }

    fn append(&mut self, event: &Event) -> Row {
        let row = self.run.append(self.now_ms, event).unwrap();
        self.rows.push(row.clone());
        row
    }

    /// Until the run ends. `crashes` picks when its guest is lost.
    fn play(&mut self, mut crashes: Rng) -> Status {
        for turn in 0.. {
            let bound = EVENTS_MAX * 5;
            assert!(turn <= bound, "no end after {turn} turns: {:?}\n{:#?}", self.script, self.rows);
            let activation = self.guest.activate().unwrap();
            for (op, command, _) in activation.commands {
                self.append(&Event::Commanded { op, command: command.clone() });
                self.commands.push((op, command));
            }
            if let Some(end) = ending(&activation.status) {
                self.append(&end);
                return activation.status;
            }
            self.waits_have_an_end();
            if crashes.chance(self.outside.crashes) {
                self.guest = self.fresh(|_| true);
                let again = self.guest.activate().unwrap();
                assert_eq!((again.status, again.commands), (Status::Blocked, Vec::new()));
            }
            let arrivals = 1 + self.rng.below(3);
            (0..arrivals).for_each(|place| self.arrive(place == 0));
        }
        unreachable!("turns have a bound")
    }

    /// The timer beside a wait is there for as long as the wait is, or was given up by name.
    fn waits_have_an_end(&mut self) {
        let commands = &self.commands;
        let waits = commands.iter().filter(|(_, command)| matches!(command, Command::AwaitSignal { .. }));
        for (wait, _) in waits {
            let (timer, command) = &commands[wait.0 as usize + 1];
            assert!(matches!(command, Command::StartTimer { .. }), "{command} beside a wait");
            let replay = self.guest.replay();
            let is_given_up = || {
                let cancel = Command::Cancel { target: *timer };
                commands.iter().any(|(_, command)| *command == cancel)
            };
            assert!(!replay.is_open(*wait) || replay.is_open(*timer) || is_given_up(), "{:#?}", self.rows);
        }
    }

    /// Commits one outcome and lays it before the guest. The first of a turn is one that somebody sees to.
    fn arrive(&mut self, is_first: bool) {
        self.now_ms += self.rng.below(5_000);
        let is_answered = |open: &OpenOp| !matches!(open, OpenOp::Signal { .. });
        let open = self.run.open_ops().filter(|(_, open)| is_answered(open));
        let open: Vec<(Op, OpenOp)> = open.map(|(op, open)| (op, open.clone())).collect();
        assert!(!is_first || !open.is_empty(), "it waits for what nobody may send: {:#?}", self.rows);
        let event = if is_first && self.rng.chance(self.outside.cancels) {
            Event::CancelRequested { reason: "r".into(), id: None }
        } else if !is_first && self.rng.chance(self.outside.signals) {
            self.signal()
        } else if open.is_empty() {
            return;
        } else {
            let (op, open) = self.rng.pick(&open).clone();
            self.outcome(op, open)
        };
        let row = self.append(&event);
        self.guest.replay().enqueue(row.seq, row.at_ms, event);
    }

    /// A signal, or an update.
    fn signal(&mut self) -> Event {
        let number = self.rng.next_u64();
        let (names, payload) = if self.rng.chance(500) {
            (&UPDATES[..], update_payload(&format!("u-{number:016x}"), number))
        } else {
            (&SIGNALS[..], Json::of(&(number % 9)).unwrap())
        };
        Event::SignalReceived { name: Arc::from(*self.rng.pick(names)), payload, id: None }
    }

    fn outcome(&mut self, op: Op, open: OpenOp) -> Event {
        let failure = Failure::fatal(FailureKind::Application, "c", format!("{}", self.rng.below(9)));
        let fails = self.outside.fails && self.rng.chance(250);
        let ended = |output: Json| if fails { Err(failure.clone()) } else { Ok(output) };
        match open {
            OpenOp::Activity { attempts, .. } if self.rng.chance(150) => Event::AttemptFailed {
                op,
                attempt: attempts + 1,
                failure: failure.clone(),
                retry_at_ms: 0,
                heartbeat: None,
            },
            OpenOp::Activity { name, input, attempts, .. } => Event::ActivityClosed {
                op,
                attempt: attempts + 1,
                outcome: ended(activity_output(&name, &input)),
            },
            OpenOp::Child { workflow, input, .. } => {
                Event::ChildClosed { op, outcome: ended(activity_output(&workflow, &input)) }
            }
            OpenOp::Message { .. } => Event::MessageClosed { op, outcome: ended(Json::null()).map(drop) },
            OpenOp::Timer { .. } => Event::TimerFired { op },
            OpenOp::Signal { .. } => unreachable!("not among those that are answered"),
        }
    }
}

fn ending(status: &Status) -> Option<Event> {
    Some(match status.clone() {
        Status::Blocked => return None,
        Status::Completed(output) => Event::RunCompleted { output },
        Status::Failed(failure) => Event::RunFailed { failure },
        Status::ContinueAsNew(input) => Event::RunContinued { input },
    })
}

fn is_outcome(event: &Event) -> bool {
    matches!(event.kind().tag(), 20..40)
}

fn played(script: &Arc<Script>, input: &Json, outside: Outside, seed: u64) -> (Host, Status) {
    let mut host = Host::start(script, input, outside, seed);
    let status = host.play(Rng::new(!seed));
    (host, status)
}

fn script(seed: u64) -> Arc<Script> {
    let rng = &mut Rng::new(seed);
    Arc::new(if seed.is_multiple_of(4) { Script::confluent(rng) } else { Script::random(rng) })
}

#[test]
fn all_events_in_one_batch_lead_to_the_same_commands_as_one_by_one() {
    for seed in 0..500 {
        let (host, status) = played(&script(seed), &start_input(seed), ROUGH, seed);

        let again = host.fresh(|_| true).activate().unwrap();
        assert_eq!((again.commands, &again.status), (vec![], &status), "seed {seed}, led along its ledger");

        let anew = host.fresh(is_outcome).activate().unwrap();
        let commands: Vec<_> = anew.commands.into_iter().map(|(op, command, _)| (op, command)).collect();
        assert_eq!((commands, &anew.status), (host.commands, &status), "seed {seed}, told outcomes only");
    }
}

#[test]
fn a_guest_that_is_lost_leaves_no_trace() {
    for seed in 0..500 {
        let (script, input) = (script(seed), start_input(seed));
        let (rough, _) = played(&script, &input, ROUGH, seed);
        let (smooth, _) = played(&script, &input, Outside { crashes: 0, ..ROUGH }, seed);
        assert_eq!(rough.rows, smooth.rows, "seed {seed}");
    }
}

#[test]
fn every_random_script_ends_whether_anybody_sends_signals_or_not() {
    for seed in 0..1_000 {
        let script = Arc::new(Script::random(&mut Rng::new(seed)));
        assert!(!script.is_confluent());
        for outside in [ROUGH, SILENT] {
            played(&script, &start_input(seed), outside, seed);
        }
    }
}

#[test]
fn a_confluent_script_asks_for_the_same_in_each_history() {
    let (mut lengths, mut ends) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..300 {
        let script = Arc::new(Script::confluent(&mut Rng::new(seed)));
        assert!(script.is_confluent());
        let input = start_input(seed);
        let (first, status) = played(&script, &input, FAITHFUL, seed);
        for other in 1..4 {
            let (next, next_status) = played(&script, &input, FAITHFUL, seed + other * 1_000_000);
            assert_ne!(first.rows, next.rows, "another run at another time");
            assert_eq!((&first.commands, &status), (&next.commands, &next_status), "seed {seed}");
            assert_eq!(outcomes(&first), outcomes(&next), "seed {seed}");
        }
        for (_, command) in &first.commands {
            let Command::StartChild { workflow, .. } = command else { continue };
            assert!(WORKFLOWS_CONFLUENT.contains(&&**workflow));
        }
        lengths.insert(outcomes(&first).len());
        ends.insert(ending(&status).unwrap().kind().tag());
    }
    assert_eq!(ends.len(), 3, "they complete, fail and continue");
    assert!(lengths.len() > 5, "they are of all lengths: {lengths:?}");
}

/// What the guest was told, and in which order.
fn outcomes(host: &Host) -> Vec<(Op, Option<Json>)> {
    let events = host.rows.iter().map(|row| row.event().unwrap());
    let told = events.filter_map(|event| match event {
        Event::ActivityClosed { op, outcome, .. } | Event::ChildClosed { op, outcome } => {
            Some((op, Some(outcome.unwrap())))
        }
        Event::TimerFired { op } => Some((op, None)),
        event => {
            let is_known = matches!(event, Event::AttemptFailed { .. }) || !is_outcome(&event);
            assert!(is_known, "{event:?} is not the same in each history");
            None
        }
    });
    told.collect()
}

#[test]
fn random_scripts_heed_the_time_and_the_order_of_what_they_are_told() {
    let (mut later, mut shuffled) = (0, 0);
    for seed in 0..200 {
        let script = Arc::new(Script::random(&mut Rng::new(seed)));
        let input = start_input(seed);
        let (one, status) = played(&script, &input, SILENT, seed);
        // Its last word holds the hash, nothing of the calls, which are told the time anyway.
        let then = one.fresh_later(1, is_outcome).activate();
        later += u32::from(then.map_or(true, |activation| activation.status != status));
        let (other, _) = played(&script, &input, SILENT, seed + 1_000_000);
        shuffled += u32::from(one.commands != other.commands);
    }
    assert!(later > 150, "of 200, {later} ended otherwise a millisecond later");
    assert!(shuffled > 150, "of 200, {shuffled} gave other commands in another history");
}

#[test]
fn a_start_leads_to_a_bounded_number_of_runs() {
    fn most(depth: u64, generation: u64) -> usize {
        if depth > DEPTH_MAX || generation > GENERATIONS_MAX {
            return 0;
        }
        1 + CHILDREN_MAX * most(depth + 1, generation) + most(depth, generation + 1)
    }
    assert_eq!(most(0, 0), RUNS_MAX);

    let (mut largest, mut deepest, mut longest) = (0, 0, 0);
    for seed in 0..150 {
        let rng = &mut Rng::new(seed);
        let scripts = WORKFLOWS.map(|_| Arc::new(Script::random(rng)));
        let (mut runs, mut left) = (0, vec![(0, start_input(seed))]);
        while let Some((workflow, input)) = left.pop() {
            runs += 1;
            assert!(runs <= RUNS_MAX, "seed {seed}");
            let given: serde_json::Value = serde_json::from_str(input.as_str()).unwrap();
            deepest = deepest.max(given["depth"].as_u64().unwrap());
            longest = longest.max(given["generation"].as_u64().unwrap());
            let (host, status) = played(&scripts[workflow], &input, ROUGH, rng.next_u64());
            if let Status::ContinueAsNew(next) = status {
                left.push((workflow, next));
            }
            left.extend(host.commands.into_iter().filter_map(|(_, command)| match command {
                Command::StartChild { workflow, input, .. } => {
                    Some((WORKFLOWS.iter().position(|name| **name == *workflow).unwrap(), input))
                }
                _ => None,
            }));
        }
        largest = largest.max(runs);
    }
    assert_eq!((deepest, longest), (DEPTH_MAX, GENERATIONS_MAX), "each bound is met");
    assert!(largest > 5, "{largest}");
}

#[test]
fn every_verb_and_every_end_comes_up() {
    let mut seen = BTreeMap::<String, u32>::new();
    let mut see = |what: String| *seen.entry(what).or_default() += 1;
    for seed in 0..1_000 {
        let (host, status) = played(&script(seed), &start_input(seed), ROUGH, seed);
        host.commands.iter().for_each(|(_, command)| facets(command).into_iter().for_each(&mut see));
        see(match status {
            Status::Blocked => unreachable!("a run that was played has ended"),
            Status::Completed(_) => "completed".into(),
            Status::Failed(failure) => format!("failed {:?} {}", failure.kind, failure.retryable),
            Status::ContinueAsNew(_) => "continued".into(),
        });
    }
    let names =
        [&ACTIVITIES_HERE[..], &ACTIVITIES_FAR, &[ACTIVITY_INLINE], &SIGNALS, &UPDATES, &WORKFLOWS].concat();
    let others = "timer cancel shield signal-child signal-workflow cancel-child cancel-workflow edit \
        attributes patch start-to-close schedule-to-close schedule-to-start heartbeat retry queue \
        answer-ok answer-failed asked-id child-Terminate child-RequestCancel child-Abandon completed continued";
    for what in names.into_iter().chain(others.split_whitespace()) {
        assert!(seen.get(what).is_some_and(|count| *count >= 20), "{what} in {seen:#?}");
    }
    for what in ["failed Application true", "failed Application false", "failed Cancelled false"] {
        assert!(seen.contains_key(what), "{what} in {seen:#?}");
    }
}

/// What is special about a command.
fn facets(command: &Command) -> Vec<String> {
    match command {
        Command::ScheduleActivity { name, options, .. } => {
            let facets = [
                (options.start_to_close_ms.is_some(), "start-to-close"),
                (options.schedule_to_close_ms.is_some(), "schedule-to-close"),
                (options.schedule_to_start_ms.is_some(), "schedule-to-start"),
                (options.heartbeat_ms.is_some(), "heartbeat"),
                (options.retry.is_some(), "retry"),
                (options.task_queue.is_some(), "queue"),
                (true, name),
            ];
            facets.into_iter().filter(|(has, _)| *has).map(|(_, facet)| facet.to_owned()).collect()
        }
        Command::StartTimer { ms } => {
            assert!((1..=30_000).contains(ms), "{ms}");
            vec!["timer".into()]
        }
        Command::AwaitSignal { name } => vec![name.to_string()],
        Command::StartChild { workflow, options, .. } => {
            let close = format!("child-{:?}", options.parent_close);
            let asked = options.workflow_id.is_some().then(|| "asked-id".into());
            asked.into_iter().chain([close, workflow.to_string()]).collect()
        }
        Command::Cancel { .. } => vec!["cancel".into()],
        Command::Shield { .. } => vec!["shield".into()],
        Command::SignalRun { target, .. } => vec![format!("signal-{}", kind(target))],
        Command::CancelRun { target } => vec![format!("cancel-{}", kind(target))],
        Command::EditEntity { .. } => vec!["edit".into()],
        Command::SetAttributes { .. } => vec!["attributes".into()],
        Command::Patch { .. } => vec!["patch".into()],
        Command::AnswerUpdate { outcome: Ok(_), .. } => vec!["answer-ok".into()],
        Command::AnswerUpdate { outcome: Err(_), .. } => vec!["answer-failed".into()],
    }
}

fn kind(target: &Target) -> &'static str {
    match target {
        Target::Child(_) => "child",
        Target::Workflow(_) => "workflow",
    }
}

#[test]
fn another_script_is_refused_and_its_guest_is_over() {
    let mut diverged = 0;
    for seed in 0..100 {
        let (mut host, _) = played(&script(seed), &start_input(seed), ROUGH, seed);
        host.script = script(seed + 1_000);
        let mut guest = host.fresh(|_| true);
        let Err(stopped) = guest.activate() else { continue };
        assert_eq!(stopped.fault().kind, FaultKind::Divergence, "{stopped}");
        assert_eq!(guest.activate(), Err(Stopped::Over));
        diverged += 1;
    }
    assert!(diverged > 90, "{diverged}");
}
