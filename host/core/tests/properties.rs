//! Random programs, random histories, random crashes: the promises that hold for all of them.
//!
//! A program is a table of rules. On its start and on every event the guest folds what it was told
//! into a hash and runs the rule which that hash picks, so that its commands depend on every outcome,
//! on their order, on the time and on the random numbers that it was given: whatever a batch, a crash
//! or a replay changed would show in the commands.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use backstitch_core::replay::Refusal;
use backstitch_core::run::{Corrupt, OpenOp};
use backstitch_core::{
    ActivityOptions, Attribute, Chain, ChildOptions, Command, Delivery, Event, Failure, FailureKind,
    HistorySize, Json, Op, Replay, Row, Run, RunId, Seq, StartOptions, Status, Target,
};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));

/// Events after which a program ends of itself.
const EVENTS_MAX: u32 = 12;

#[derive(Clone, Debug, PartialEq)]
enum Act {
    /// Its input holds the time and a random number.
    Call(u8),
    Sleep(u8),
    Wait(u8),
    Child(u8),
    /// The op that many places back, whatever it is.
    Cancel(u8),
    /// The op that many places back, whatever it is.
    Shield(u8),
    /// To another run, or to a child that may not be one.
    Signal(u8),
    CancelRun(u8),
    /// Sleeps if the run is on the new side.
    Patched(u8),
    /// Edits the entity and the attributes, with what it was given.
    Remember(u8),
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    No,
    Complete,
    Fail,
    Continue,
}

#[derive(Clone, Debug)]
struct Rule {
    acts: Vec<Act>,
    end: End,
}

#[derive(Clone, Debug)]
struct Program {
    /// The start's, then those of events.
    rules: Vec<Rule>,
}

/// A guest that runs a [`Program`].
#[derive(Clone, Debug)]
struct Guest<'a> {
    program: &'a Program,
    hash: u64,
    events: u32,
    open: std::collections::BTreeSet<Op>,
    last_op: Option<Op>,
    has_started: bool,
}

impl<'a> Guest<'a> {
    fn new(program: &'a Program) -> Self {
        Self { program, hash: 0, events: 0, open: Default::default(), last_op: None, has_started: false }
    }

    /// One activation, as the world's `start` and `resume`.
    fn activate(&mut self, replay: &mut Replay) -> Result<Status, Refusal> {
        replay.begin();
        let status = self.run(replay)?;
        replay.finish(&status)?;
        Ok(status)
    }

    fn run(&mut self, replay: &mut Replay) -> Result<Status, Refusal> {
        if !self.has_started {
            self.has_started = true;
            if let Some(end) = self.react(0, replay)? {
                return Ok(end);
            }
        }
        while let Some(Delivery { op, outcome }) = replay.next_event()? {
            self.open.remove(&op);
            self.events += 1;
            let mut hasher = DefaultHasher::new();
            let HistorySize { rows, bytes } = replay.history_size();
            let known = format!("{:?} {:?}", replay.entity(), replay.attributes());
            (self.hash, op, format!("{outcome:?}"), replay.now_ms(), rows, bytes, known).hash(&mut hasher);
            self.hash = hasher.finish();
            let rule = 1 + (self.hash % (self.program.rules.len() as u64 - 1)) as usize;
            if let Some(end) = self.react(rule, replay)? {
                return Ok(end);
            }
        }
        Ok(Status::Blocked)
    }

    fn react(&mut self, rule: usize, replay: &mut Replay) -> Result<Option<Status>, Refusal> {
        let Rule { acts, end } = &self.program.rules[rule];
        for act in acts {
            self.act(act, replay)?;
        }
        let told = Json::of(&self.hash).unwrap();
        Ok(match end {
            End::Complete => Some(Status::Completed(told)),
            End::Fail => Some(Status::Failed(Failure {
                details: Some(Json::new(" null\n").unwrap()),
                ..Failure::fatal(FailureKind::Application, "c", "m")
            })),
            End::Continue => Some(Status::ContinueAsNew(told)),
            End::No if self.open.is_empty() || self.events >= EVENTS_MAX => Some(Status::Completed(told)),
            End::No => None,
        })
    }

    fn act(&mut self, act: &Act, replay: &mut Replay) -> Result<(), Refusal> {
        let command = match act {
            Act::Call(n) => {
                let input = format!("[{n}, {}, {}]", replay.now_ms(), replay.random_u64());
                let options = ActivityOptions::default();
                Command::ScheduleActivity {
                    name: format!("a{n}").into(),
                    input: Json::new(input).unwrap(),
                    options,
                }
            }
            Act::Sleep(n) => Command::StartTimer { ms: u64::from(*n) },
            Act::Wait(n) => Command::AwaitSignal { name: signal_name(*n) },
            Act::Child(n) => {
                let options = ChildOptions::default();
                Command::StartChild { workflow: format!("c{n}").into(), input: Json::null(), options }
            }
            Act::Cancel(back) => {
                let Some(last) = self.last_op else { return Ok(()) };
                let target = Op(last.0.saturating_sub(u32::from(*back)));
                self.open.remove(&target);
                Command::Cancel { target }
            }
            Act::Shield(back) => {
                let Some(last) = self.last_op else { return Ok(()) };
                Command::Shield { target: Op(last.0.saturating_sub(u32::from(*back))) }
            }
            Act::Signal(n) => {
                Command::SignalRun { target: self.target(*n), name: signal_name(*n), payload: Json::null() }
            }
            Act::CancelRun(n) => Command::CancelRun { target: self.target(*n) },
            Act::Remember(n) => return self.remember(*n, replay),
            Act::Patched(n) => {
                let mark = format!("p{n}");
                if replay.patched(mark.into())? {
                    Command::StartTimer { ms: 1_000 }
                } else {
                    return Ok(());
                }
            }
        };
        let opens = !matches!(command, Command::Cancel { .. } | Command::Shield { .. });
        let op = replay.command(command)?;
        self.last_op = Some(op);
        if opens {
            self.open.insert(op);
        }
        Ok(())
    }
}

impl Guest<'_> {
    /// Some of what it tries cannot be done.
    fn remember(&mut self, n: u8, replay: &mut Replay) -> Result<(), Refusal> {
        let told = Json::of(&self.hash).unwrap();
        let (path, edit) = match n % 5 {
            0 => ("list", backstitch_core::Edit::Append(told)),
            1 => ("list", backstitch_core::Edit::Increment(1.5)),
            2 => ("n", backstitch_core::Edit::Increment(f64::from(n))),
            3 => ("", backstitch_core::Edit::Merge(Json::new(r#"{"n":null,"m":{"a":1}}"#).unwrap())),
            _ => ("m.a", backstitch_core::Edit::Set(told)),
        };
        let rows_before = replay.history_size().rows;
        let done = replay.edit_entity(path.into(), edit)?;
        assert_eq!(
            replay.history_size().rows - rows_before,
            u32::from(done.is_ok()),
            "a row for what was done"
        );
        let value = (!n.is_multiple_of(3)).then(|| Attribute::Number(f64::from(n)));
        replay.set_attributes([(signal_name(n), value)].into())?;
        Ok(())
    }

    fn target(&self, n: u8) -> Target {
        match self.last_op {
            Some(last) if n.is_multiple_of(2) => Target::Child(last),
            _ => Target::Workflow("other".into()),
        }
    }
}

fn signal_name(n: u8) -> std::sync::Arc<str> {
    ["s0", "s1"][usize::from(n) % 2].into()
}

/// What the outside does in one turn of a history.
#[derive(Clone, Debug)]
struct Turn {
    /// Rows that are committed before the guest runs: a batch.
    arrivals: Vec<u8>,
    crash: Crash,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Crash {
    No,
    /// The guest is gone; everything was committed.
    AfterCommit,
    /// The guest had its events, what it did is lost.
    BeforeCommit,
}

/// A host in little: one run, its rows, and a guest that may be lost at any time.
struct Host<'a> {
    program: &'a Program,
    run: Run,
    rows: Vec<Row>,
    replay: Replay,
    guest: Guest<'a>,
}

impl<'a> Host<'a> {
    fn start(program: &'a Program) -> Self {
        let mut run = Run::new(RUN);
        let started =
            Event::RunStarted { workflow: "w".into(), input: Json::null(), options: Arc::default() };
        let rows = vec![run.append(1_000, &started).unwrap()];
        let (replay, guest) = (Replay::new(RUN, 1_000, &StartOptions::default()), Guest::new(program));
        Self { program, run, rows, replay, guest }
    }

    /// Every row has a time of its own, so that a guest that is told another one shows it.
    fn append(&mut self, event: &Event) -> Row {
        let row = self.run.append(1_000 + u64::from(self.run.next_seq().0) * 7, event).unwrap();
        self.rows.push(row.clone());
        row
    }

    fn go_cold(&mut self) {
        (self.run, self.replay) = cold(&self.rows).unwrap();
        self.guest = Guest::new(self.program);
    }

    /// Runs the guest once and commits what it did.
    fn activate(&mut self, crash: Crash) {
        if crash == Crash::BeforeCommit {
            self.guest.activate(&mut self.replay).unwrap();
            self.go_cold();
        }
        let status = self.guest.activate(&mut self.replay).unwrap();
        for (op, command) in self.replay.take_issued() {
            self.append(&Event::Commanded { op, command });
        }
        match status {
            Status::Blocked => self.agree(),
            Status::Completed(output) => drop(self.append(&Event::RunCompleted { output })),
            Status::Failed(failure) => drop(self.append(&Event::RunFailed { failure })),
            Status::ContinueAsNew(input) => drop(self.append(&Event::RunContinued { input })),
        }
        if crash == Crash::AfterCommit {
            self.go_cold();
            // Nothing new may come of going over it again.
            let again = self.guest.activate(&mut self.replay).unwrap();
            assert_eq!((again == Status::Blocked, self.replay.take_issued()), (self.run.is_open(), vec![]));
        }
    }

    /// With nothing under way, the fold over the ledger and the guest's side wait for the same ops.
    /// Waits are left out where ops are cancelled: see `apply_signal`.
    fn agree(&self) {
        let cancels =
            self.program.rules.iter().flat_map(|rule| &rule.acts).any(|act| matches!(act, Act::Cancel(_)));
        let waits: Vec<Op> = self
            .rows
            .iter()
            .filter_map(|row| match row.event().unwrap() {
                Event::Commanded { op, command: Command::AwaitSignal { .. } } => Some(op),
                _ => None,
            })
            .collect();
        for op in (0..self.run.next_op().0).map(Op).filter(|op| !(cancels && waits.contains(op))) {
            assert_eq!(self.run.open_op(op).is_some(), self.replay.is_open(op), "op {op}");
        }
    }

    /// Commits one outcome, picked by `choice`, and enqueues it for the guest.
    fn arrive(&mut self, choice: u8, is_quiescent: bool) {
        let open: Vec<_> = self.run.open_ops().map(|(op, open)| (op, open.clone())).collect();
        let outcome = || match choice % 3 {
            0 => Err(Failure { details: Some(Json::new("null ").unwrap()), ..Failure::cancelled() }),
            _ => Ok(Json::of(&choice).unwrap()),
        };
        let event = match (usize::from(choice) % (open.len() + 3)).checked_sub(3).map(|index| &open[index]) {
            Some((op, OpenOp::Activity { attempts, .. })) if choice % 4 == 1 => Event::AttemptFailed {
                op: *op,
                attempt: attempts + 1,
                failure: Failure::cancelled(),
                retry_at_ms: 0,
                heartbeat: None,
            },
            Some((op, OpenOp::Activity { attempts, .. })) => {
                Event::ActivityClosed { op: *op, attempt: attempts + 1, outcome: outcome() }
            }
            Some((op, OpenOp::Message { .. })) => {
                Event::MessageClosed { op: *op, outcome: outcome().map(drop) }
            }
            Some((op, OpenOp::Timer { .. })) => Event::TimerFired { op: *op },
            Some((op, OpenOp::Child { .. })) => Event::ChildClosed { op: *op, outcome: outcome() },
            None if choice % 7 == 3 && is_quiescent => {
                Event::CancelRequested { reason: "r".into(), id: None }
            }
            Some((_, OpenOp::Signal { .. })) | None => Event::SignalReceived {
                name: signal_name(choice / 5),
                payload: Json::of(&choice).unwrap(),
                id: None,
            },
        };
        let row = self.append(&event);
        // As it was made, not as it was stored: a warm guest gets the former.
        self.replay.enqueue(row.seq, row.at_ms, event);
    }
}

fn cold(rows: &[Row]) -> Result<(Run, Replay), Corrupt> {
    let (run, events) = Run::load_all(RUN, rows)?;
    let mut replay = Replay::new(RUN, rows[0].at_ms, &StartOptions::default());
    for (row, event) in rows.iter().zip(events) {
        replay.enqueue(row.seq, row.at_ms, event);
    }
    Ok((run, replay))
}

/// The ledger that comes of a history.
fn play(program: &Program, turns: &[Turn], with_crashes: bool) -> Vec<Row> {
    let mut host = Host::start(program);
    host.activate(Crash::No);
    for Turn { arrivals, crash } in turns {
        if !host.run.is_open() {
            break;
        }
        for (place, choice) in arrivals.iter().enumerate() {
            host.arrive(*choice, place == 0);
        }
        host.activate(if with_crashes { *crash } else { Crash::No });
    }
    host.rows
}

/// The commands, in order, with the closing row if there is one.
fn commands(rows: &[Row]) -> Vec<Event> {
    let events = rows.iter().map(|row| row.event().unwrap());
    events.filter(|event| matches!(event, Event::Commanded { .. }) || is_end(event)).collect()
}

fn is_end(event: &Event) -> bool {
    matches!(event, Event::RunCompleted { .. } | Event::RunFailed { .. } | Event::RunContinued { .. })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0_u8..3).prop_map(Act::Call),
        2 => (0_u8..9).prop_map(Act::Sleep),
        3 => (0_u8..2).prop_map(Act::Wait),
        1 => (0_u8..2).prop_map(Act::Child),
        2 => (0_u8..4).prop_map(Act::Cancel),
        1 => (0_u8..3).prop_map(Act::Patched),
        1 => (0_u8..3).prop_map(Act::Shield),
        1 => (0_u8..4).prop_map(Act::Signal),
        1 => (0_u8..4).prop_map(Act::CancelRun),
        2 => (0_u8..15).prop_map(Act::Remember),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let end = prop_oneof![
        12 => Just(End::No),
        1 => Just(End::Complete),
        1 => Just(End::Fail),
        1 => Just(End::Continue),
    ];
    (vec(act(), 0..4), end).prop_map(|(acts, end)| Rule { acts, end })
}

fn program() -> impl Strategy<Value = Program> {
    let start = vec(act(), 1..5).prop_map(|acts| Rule { acts, end: End::No });
    (start, vec(rule(), 1..6))
        .prop_map(|(start, others)| Program { rules: std::iter::once(start).chain(others).collect() })
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let crash =
        prop_oneof![3 => Just(Crash::No), 1 => Just(Crash::AfterCommit), 1 => Just(Crash::BeforeCommit)];
    let turn = (vec(any::<u8>(), 1..5), crash).prop_map(|(arrivals, crash)| Turn { arrivals, crash });
    vec(turn, 0..10)
}

/// One edit of a program.
#[derive(Clone, Debug)]
enum Edit {
    Replace(Act),
    Insert(Act),
    Remove,
    End(End),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        act().prop_map(Edit::Replace),
        act().prop_map(Edit::Insert),
        Just(Edit::Remove),
        prop_oneof![Just(End::No), Just(End::Complete), Just(End::Fail)].prop_map(Edit::End),
    ]
}

fn edited(program: &Program, rule: usize, place: usize, edit: Edit) -> Program {
    let mut program = program.clone();
    let rule = rule % program.rules.len();
    let Rule { acts, end } = &mut program.rules[rule];
    let place = place % (acts.len() + 1);
    match edit {
        Edit::Replace(act) if place < acts.len() => acts[place] = act,
        Edit::Replace(act) | Edit::Insert(act) => acts.insert(place, act),
        Edit::Remove if place < acts.len() => drop(acts.remove(place)),
        Edit::Remove => {}
        Edit::End(then) => *end = then,
    }
    program
}

/// Goes cold over `rows`, whatever they are. Never a panic; a divergence names a command or an end
/// that the ledger holds, at its place.
fn survive(program: &Program, rows: &[Row]) -> Result<(), TestCaseError> {
    let Ok((_, mut replay)) = cold(rows) else { return Ok(()) };
    let Err(Refusal::Divergence(divergence)) = Guest::new(program).activate(&mut replay) else {
        return Ok(());
    };
    let seq = divergence.seq.expect("what was enqueued has a row").0 as usize;
    let commands_before = commands(&rows[..seq]).len();
    prop_assert_eq!(divergence.op.0 as usize, commands_before, "{}", divergence);
    match rows[seq].event().unwrap() {
        Event::Commanded { op, .. } => prop_assert_eq!(op, divergence.op),
        event => prop_assert!(is_end(&event), "{} names {:?}", divergence, event),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_anywhere_leaves_no_trace_in_the_ledger(program in program(), turns in turns()) {
        prop_assert_eq!(play(&program, &turns, true), play(&program, &turns, false));
    }

    #[test]
    fn outcomes_in_batches_of_any_size_cause_the_same_commands(
        program in program(), turns in turns(), cuts in vec(any::<bool>(), 50),
    ) {
        let rows = play(&program, &turns, false);
        let outcomes = rows.iter().filter(|row| row.event().unwrap().kind().tag() >= 20);
        let mut replay = Replay::new(RUN, rows[0].at_ms, &StartOptions::default());
        let mut guest = Guest::new(&program);
        let mut given = Vec::new();
        let mut status = guest.activate(&mut replay).unwrap();
        let mut enqueued = 0;
        for (row, cut) in outcomes.zip(cuts.iter().cycle()) {
            let event = row.event().unwrap();
            if status != Status::Blocked || is_end(&event) {
                break;
            }
            replay.enqueue(row.seq, row.at_ms, event);
            enqueued += 1;
            if *cut {
                status = guest.activate(&mut replay).unwrap();
                enqueued = 0;
            }
        }
        if status == Status::Blocked && enqueued > 0 {
            status = guest.activate(&mut replay).unwrap();
        }
        given.extend(replay.take_issued().into_iter().map(|(op, command)| Event::Commanded { op, command }));
        // Through a row: the form in which the others are.
        let end = match status {
            Status::Blocked => None,
            Status::Completed(output) => Some(Event::RunCompleted { output }),
            Status::Failed(failure) => Some(Event::RunFailed { failure: failure.clipped() }),
            Status::ContinueAsNew(input) => Some(Event::RunContinued { input }),
        };
        given.extend(end);
        prop_assert_eq!(given, commands(&rows));
    }

    #[test]
    fn from_every_prefix_a_replay_gives_the_commands_that_follow(program in program(), turns in turns()) {
        let rows = play(&program, &turns, false);
        for length in 1..=rows.len() {
            let (prefix, rest) = rows.split_at(length);
            let (_, mut replay) = cold(prefix).unwrap();
            let status = Guest::new(&program).activate(&mut replay).unwrap();
            let issued: Vec<_> =
                replay.take_issued().into_iter().map(|(op, command)| Event::Commanded { op, command }).collect();
            let following = commands(rest);
            prop_assert!(following.starts_with(&issued), "{issued:?} is not how {following:?} begins");
            let at_once = rest.iter().take_while(|row| row.kind < 20).count();
            prop_assert!(issued.len() >= at_once, "after {length} rows, {issued:?} falls short of {following:?}");
            let is_over = commands(prefix).last().is_some_and(is_end);
            prop_assert!(!is_over || issued.is_empty() && status != Status::Blocked);
        }
    }

    #[test]
    fn another_program_diverges_where_it_differs_and_never_panics(
        program in program(), turns in turns(), rule in 0_usize..8, place in 0_usize..8, edit in edit(),
    ) {
        let rows = play(&program, &turns, false);
        survive(&edited(&program, rule, place, edit), &rows)?;
    }

    #[test]
    fn a_row_lost_doubled_swapped_or_edited_is_found(
        program in program(), turns in turns(), at in any::<prop::sample::Index>(), how in 0..8,
    ) {
        let good = play(&program, &turns, false);
        let at = at.index(good.len() - 1);
        let mut rows = good.clone();
        match how {
            0 => drop(rows.remove(at)),
            1 => rows.insert(at, rows[at].clone()),
            2 => rows.swap(at, at + 1),
            3 => rows[at].at_ms += 1,
            4 => rows[at].op = Some(Op(rows[at].op.map_or(0, |op| op.0 + 1))),
            5 => rows[at].kind += 1,
            6 => rows[at].payload = Some("7 ".into()),
            _ => rows[at].chain.0 ^= 1,
        }
        prop_assert!(Run::load_all(RUN, &rows).is_err());
        // And if whoever did it knows how to chain a row: no panic, and no outcome of another run.
        let mut run_chain = Chain(0);
        for (row, seq) in rows.iter_mut().zip(0..) {
            row.seq = Seq(seq);
            row.chain = row.link(RUN, run_chain);
            run_chain = row.chain;
        }
        survive(&program, &rows)?;
    }
}
