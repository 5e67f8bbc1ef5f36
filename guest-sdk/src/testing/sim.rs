//! The scripted host: ops, a clock that jumps to whatever is due next, and a record of it all.
//!
//! Live, a command puts its outcome on the agenda, and [`Sim::advance`] takes what is due next from
//! there into the inbox that `next-event` reads. On replay the inbox holds the recorded events from
//! the start and commands only leave their mark.

use super::finished::{Command, Ending, Finished};
use super::script::{Called, Delayed, Script, cancelled};
use crate::activity::Context;
use crate::ambient::Level;
use crate::bindings::types::{
    self, ActivityOptions, Attribute, AttributeValue, ChildOptions, Event, Failure, History, RunInfo, Status,
    Target,
};
use crate::error::Error;
use crate::host::Host;
use backstitch_core::random::{Aside, Random};
use backstitch_core::{Edit, Entity, Json, Seed, Seq, Source};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::marker::PhantomData;
use std::time::Duration;

pub(super) const RUN_ID: &str = "00000000-0000-7000-8000-000000000001";
pub(super) const WORKFLOW_ID: &str = "test";

/// 2026-01-01T00:00:00Z: any time would do, and one that is easy to recognise does best.
const START_MS: u64 = 1_767_225_600_000;

pub(super) struct Sim {
    state: RefCell<State>,
    /// Apart from the rest, because its closures run while the state is looked at.
    script: RefCell<Script>,
    replaying: bool,
    workflow: &'static str,
}

#[derive(Default)]
struct State {
    now_ms: u64,
    random: Drawn,
    next_op: u32,
    commands: Vec<Command>,
    open: BTreeMap<u32, usize>,
    waiting: BTreeMap<String, VecDeque<u32>>,
    kept_signals: BTreeMap<String, VecDeque<String>>,
    /// By due time, then in the order they were put there.
    agenda: BTreeMap<(u64, u64), Due>,
    entries: u64,
    inbox: VecDeque<(u64, Event)>,
    delivered: Vec<(u64, Event)>,
    shielded: BTreeSet<u32>,
    entity: Entity,
    drained: bool,
    logs: Vec<(Level, String)>,
}

/// The numbers of every test run: the same in each test, so that a test repeats.
struct Drawn(Random);

impl Default for Drawn {
    fn default() -> Self {
        let run = RUN_ID.parse().expect("a run id");
        Self(Random::new(run, &[Source { from: Seq(0), seed: Seed([0x5b; 32]) }]))
    }
}

enum Due {
    Outcome(u32, Result<String, Failure>),
    Signal(String, String),
    Cancel,
}

impl Sim {
    pub(super) fn live(workflow: &'static str, mut script: Script) -> Self {
        let mut state = State { now_ms: START_MS, ..State::default() };
        for (at_ms, delayed) in script.later.drain(..) {
            let due = match delayed {
                Delayed::Signal { name, payload } => Due::Signal(name, payload),
                Delayed::Cancel => Due::Cancel,
            };
            state.put(at_ms, due);
        }
        Self { state: RefCell::new(state), script: RefCell::new(script), replaying: false, workflow }
    }

    /// A host that delivers what this one delivered.
    pub(super) fn replay(&self) -> Self {
        let inbox = self.state.borrow().delivered.iter().cloned().collect();
        let script = Script { unpatched: self.script.borrow().unpatched.clone(), ..Script::default() };
        Self {
            state: RefCell::new(State { now_ms: START_MS, inbox, ..State::default() }),
            script: RefCell::new(script),
            replaying: true,
            workflow: self.workflow,
        }
    }

    pub(super) fn begin_activation(&self) {
        self.state.borrow_mut().drained = false;
    }

    /// Jumps to what is due next and puts up to `events` events into the inbox. False when nothing
    /// will ever happen again.
    pub(super) fn advance(&self, events: usize) -> bool {
        let mut state = self.state.borrow_mut();
        let mut promised = BTreeSet::new();
        while state.inbox.len() < events {
            let Some(((at_ms, _), due)) = state.agenda.pop_first() else { break };
            for event in state.events_of(due) {
                // An op has one outcome, even when its timer and a cancellation meet in one batch.
                if promised.insert(event.op) {
                    state.inbox.push_back((at_ms, event));
                }
            }
        }
        !state.inbox.is_empty()
    }

    /// Panics unless `other` was given the same commands.
    pub(super) fn assert_same(&self, other: &Self) {
        let (first, again) = (self.state.borrow(), other.state.borrow());
        for (index, (command, replayed)) in first.commands.iter().zip(&again.commands).enumerate() {
            assert_eq!(
                command, replayed,
                "the workflow is not deterministic: command {index} differs on replay"
            );
        }
        assert_eq!(
            first.commands.len(),
            again.commands.len(),
            "the workflow is not deterministic: it gives another number of commands on replay"
        );
    }

    pub(super) fn finish<T>(&self, driven: Driven) -> Finished<T> {
        let state = self.state.borrow();
        let ending = match driven.status {
            Status::Completed(json) => Ending::Completed(json),
            Status::Failed(failure) => Ending::Failed(Error::from_failure(failure)),
            Status::ContinueAsNew(json) => Ending::ContinuedAsNew(json),
            Status::Blocked => {
                let open = state.open.values().map(|&index| state.commands[index].clone());
                Ending::Blocked(open.collect())
            }
        };
        let elapsed = Duration::from_millis(state.now_ms - START_MS);
        Finished {
            ending,
            commands: state.commands.clone(),
            logs: state.logs.clone(),
            shown: driven.shown,
            entity: state.entity.to_json().to_string(),
            elapsed,
            output: PhantomData,
        }
    }

    fn command(&self, command: Command) -> u32 {
        let mut state = self.state.borrow_mut();
        state.record(command);
        let op = state.next_op;
        state.next_op += 1;
        let index = state.commands.len() - 1;
        state.open.insert(op, index);
        op
    }
}

impl Sim {
    /// Every message is accepted at once.
    fn message(&self, command: Command) -> u32 {
        let op = self.command(command);
        if !self.replaying {
            self.state.borrow_mut().put(0, Due::Outcome(op, Ok("null".to_owned())));
        }
        op
    }
}

fn edit_of(edit: &types::Edit) -> Result<Edit, String> {
    let value = |text: &String| Json::new(text.as_str()).map_err(|error| error.to_string());
    Ok(match edit {
        types::Edit::Set(text) => Edit::Set(value(text)?),
        types::Edit::Merge(text) => Edit::Merge(value(text)?),
        types::Edit::Append(text) => Edit::Append(value(text)?),
        types::Edit::Increment(by) => Edit::Increment(*by),
        types::Edit::Delete => Edit::Delete,
    })
}

fn shown(target: &Target) -> String {
    match target {
        Target::Child(op) => format!("child {op}"),
        Target::Workflow(id) => format!("workflow {id}"),
    }
}

impl State {
    fn put(&mut self, after_ms: u64, due: Due) {
        let at_ms = self.now_ms.saturating_add(after_ms);
        self.agenda.insert((at_ms, self.entries), due);
        self.entries += 1;
    }

    fn record(&mut self, command: Command) {
        assert!(!self.drained, "{command}: given after `next-event` returned none");
        self.commands.push(command);
    }

    fn events_of(&mut self, due: Due) -> Vec<Event> {
        match due {
            Due::Outcome(op, outcome) if self.open.contains_key(&op) => vec![Event { op, outcome }],
            Due::Outcome(..) => Vec::new(),
            Due::Signal(name, payload) => match self.waiting.get_mut(&name).and_then(VecDeque::pop_front) {
                Some(op) => vec![Event { op, outcome: Ok(payload) }],
                None => {
                    self.kept_signals.entry(name).or_default().push_back(payload);
                    Vec::new()
                }
            },
            Due::Cancel => {
                for waiting in self.waiting.values_mut() {
                    waiting.retain(|op| self.shielded.contains(op));
                }
                let ended = self.open.keys().filter(|op| !self.shielded.contains(op));
                ended.map(|&op| Event { op, outcome: Err(cancelled()) }).collect()
            }
        }
    }
}

impl Host for Sim {
    fn proxy_activity(&self, name: &str, input: &str, options: &ActivityOptions) -> u32 {
        let op = self.command(Command::Activity {
            name: name.to_owned(),
            input: input.to_owned(),
            task_queue: options.task_queue.clone(),
        });
        if !self.replaying {
            let mut context = Context { op, ..context() };
            context.idempotency_key = format!("{RUN_ID}:{op}");
            let called = self.script.borrow_mut().call(name, input, options.retry.as_ref(), context);
            if let Some(Called { outcome, after_ms }) = called {
                self.state.borrow_mut().put(after_ms, Due::Outcome(op, outcome));
            }
        }
        op
    }

    fn sleep_for(&self, ms: u64) -> u32 {
        let op = self.command(Command::Sleep { ms });
        if !self.replaying {
            self.state.borrow_mut().put(ms, Due::Outcome(op, Ok("null".to_owned())));
        }
        op
    }

    fn wait_for(&self, signal: &str) -> u32 {
        let op = self.command(Command::WaitFor { signal: signal.to_owned() });
        let mut state = self.state.borrow_mut();
        match state.kept_signals.get_mut(signal).and_then(VecDeque::pop_front) {
            Some(payload) => state.put(0, Due::Outcome(op, Ok(payload))),
            None => state.waiting.entry(signal.to_owned()).or_default().push_back(op),
        }
        op
    }

    fn start_child(&self, workflow: &str, input: &str, options: &ChildOptions) -> u32 {
        let op = self.command(Command::Child {
            workflow: workflow.to_owned(),
            input: input.to_owned(),
            workflow_id: options.workflow_id.clone(),
        });
        if !self.replaying {
            let outcome = self.script.borrow_mut().run_child(workflow, input);
            self.state.borrow_mut().put(0, Due::Outcome(op, outcome));
        }
        op
    }

    fn cancel(&self, op: u32) {
        let mut state = self.state.borrow_mut();
        state.record(Command::Cancel { op });
        state.open.remove(&op);
        for waiting in state.waiting.values_mut() {
            waiting.retain(|&waiting| waiting != op);
        }
    }

    fn shield(&self, op: u32) {
        let mut state = self.state.borrow_mut();
        state.record(Command::Shield { op });
        if state.open.contains_key(&op) {
            state.shielded.insert(op);
        }
    }

    fn signal_run(&self, target: &Target, signal: &str, payload: &str) -> u32 {
        let (to, signal, payload) = (shown(target), signal.to_owned(), payload.to_owned());
        self.message(Command::SignalRun { to, signal, payload })
    }

    fn cancel_run(&self, target: &Target) -> u32 {
        self.message(Command::CancelRun { target: shown(target) })
    }

    fn answer_update(&self, id: &str, outcome: Result<&str, &Failure>) {
        let outcome = outcome.map_or_else(|failure| failure.message.clone(), str::to_owned);
        self.state.borrow_mut().record(Command::AnswerUpdate { id: id.to_owned(), outcome });
    }

    fn edit_entity(&self, path: &str, edit: &types::Edit) -> Result<(), String> {
        let edit = edit_of(edit)?;
        let mut state = self.state.borrow_mut();
        let edited = state.entity.edited(path, &edit).map_err(|unfit| unfit.code.to_owned())?;
        state.record(Command::EditEntity {
            edit: edit.as_str().to_owned(),
            path: path.to_owned(),
            value: edit.value().map(|value| value.to_string()).unwrap_or_default(),
        });
        state.entity = edited;
        Ok(())
    }

    fn set_attributes(&self, attributes: &[Attribute]) {
        let mut state = self.state.borrow_mut();
        for Attribute { name, value } in attributes {
            let value = value.as_ref().map(|value| match value {
                AttributeValue::Text(text) => text.clone(),
                AttributeValue::Number(number) => number.to_string(),
                AttributeValue::Flag(flag) => flag.to_string(),
                AttributeValue::TimeMs(ms) => format!("{ms} ms"),
            });
            state.record(Command::SetAttribute { name: name.clone(), value });
        }
    }

    fn entity(&self, path: &str) -> Option<String> {
        self.state.borrow().entity.get(path).map(|json| json.to_string())
    }

    fn info(&self) -> RunInfo {
        RunInfo {
            run_id: RUN_ID.to_owned(),
            original_run_id: RUN_ID.to_owned(),
            workflow_id: WORKFLOW_ID.to_owned(),
            workflow: self.workflow.to_owned(),
            parent_workflow_id: None,
        }
    }

    fn deprecate_patch(&self, _: &str) {}

    /// As a ledger would be: a row for the start, for each command and for each outcome.
    fn history_size(&self) -> History {
        let state = self.state.borrow();
        let rows = 1 + state.commands.len() + state.delivered.len();
        let bytes = state.delivered.iter().filter_map(|(_, event)| event.outcome.as_ref().ok());
        History {
            rows: rows.try_into().unwrap_or(u32::MAX),
            bytes: bytes.map(|json| json.len() as u64).sum(),
        }
    }

    fn is_replaying(&self) -> bool {
        self.replaying
    }

    fn patched(&self, change_id: &str) -> bool {
        let patched = !self.script.borrow().unpatched.contains(change_id);
        if patched {
            self.state.borrow_mut().record(Command::Patched { change_id: change_id.to_owned() });
        }
        patched
    }

    fn next_event(&self) -> Option<Event> {
        let mut state = self.state.borrow_mut();
        while let Some((at_ms, event)) = state.inbox.pop_front() {
            // Given up by the guest while the event was on its way.
            if state.open.remove(&event.op).is_none() {
                continue;
            }
            state.now_ms = at_ms;
            state.delivered.push((at_ms, event.clone()));
            state.random.0.deliver();
            return Some(event);
        }
        state.drained = true;
        state.random.0.turn_aside(Aside::Drained);
        None
    }

    fn now_ms(&self) -> u64 {
        self.state.borrow().now_ms
    }

    fn random_u64(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        if state.drained { state.random.0.next_aside() } else { state.random.0.draw() }
    }

    fn log(&self, level: types::Level, message: &str) {
        let level = match level {
            types::Level::Debug => Level::Debug,
            types::Level::Info => Level::Info,
            types::Level::Warn => Level::Warn,
            types::Level::Error => Level::Error,
        };
        self.state.borrow_mut().logs.push((level, message.to_owned()));
    }
}

/// Where a run stands when nothing can wake it any more.
#[derive(Debug)]
pub(super) struct Driven {
    pub(super) status: Status,
    /// What queries would be answered with.
    pub(super) shown: BTreeMap<String, String>,
}

/// The first attempt at the first command of a run, to be changed where a test needs another.
pub fn context() -> Context {
    Context {
        run_id: RUN_ID.to_owned(),
        workflow_id: WORKFLOW_ID.to_owned(),
        op: 0,
        attempt: 1,
        idempotency_key: format!("{}:0", RUN_ID),
        deadline: None,
        heartbeat: None,
    }
}
