//! The guest of one run: a [`Script`] led by a [`Replay`], in the place of a component.
//!
//! It keeps to what a component keeps to: commands only at its start and with an event at hand, `blocked` only when there
//! is no event left. Called by whoever plays the host, once for each batch of rows.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use backstitch_core::replay::Refusal;
use backstitch_core::{
    Attribute, Command, Delivery, Edit as EntityEdit, Failure, FailureKind, Fault, FaultKind, HistorySize,
    Json, Op, ProjectionChanges, Replay, Status, Target,
};

use super::names::{Given, json, told};
use super::rules::{
    CHILDREN_MAX, DEPTH_MAX, EVENTS_MAX, Edit, End, GENERATIONS_MAX, Place, Script, To, Value, Verb, shared,
};
use crate::rng;

/// The guest of one run.
#[derive(Clone, Debug)]
pub struct Guest {
    script: Arc<Script>,
    replay: Replay,
    given: Given,
    state: State,
    /// Of all that it was told and that its script heeds.
    hash: u64,
    events: u32,
    /// Whose outcome it has not had.
    open: BTreeMap<Op, Awaited>,
    children: Vec<Op>,
    /// Updates that have come and have no answer, the first one first.
    updates: VecDeque<Arc<str>>,
    last_op: Option<Op>,
    last_failure: Option<Failure>,
}

/// What one activation led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// Commands that are new, in call order; each with whether the guest still waits for it.
    pub commands: Vec<(Op, Command, bool)>,
    /// How it ended.
    pub status: Status,
    /// What they change of what is known about the run.
    pub memory: ProjectionChanges,
}

/// Why there is no guest any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It diverged, broke a rule or met a bound.
    Refused(Refusal),
    /// Its run has ended, or it was stopped before.
    Over,
}

impl Stopped {
    /// What the run is parked with.
    pub fn fault(&self) -> Fault {
        let kind = match self {
            Self::Refused(Refusal::Divergence(_)) => FaultKind::Divergence,
            Self::Refused(Refusal::Limit(_)) => FaultKind::Limit,
            Self::Refused(Refusal::Protocol(_)) | Self::Over => FaultKind::Protocol,
        };
        Fault::new(kind, self.to_string())
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Over => f.write_str("the guest is over"),
        }
    }
}

impl std::error::Error for Stopped {}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Fresh,
    Blocked,
    Over,
}

/// What an open op is to the guest.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// Somebody sees to its outcome.
    Outcome,
    /// It may never come. `bound`: the timer that is of no use afterwards.
    Signal { bound: Option<Op> },
    /// The same, of an update; whether it is answered as soon as it comes.
    Update { bound: Option<Op>, at_once: bool },
    /// The timer that ends this wait.
    Bound { wait: Op },
}

impl Guest {
    /// A guest that has not begun. `input`: see [`start_input`](super::start_input); any other JSON will do.
    pub fn new(script: Arc<Script>, replay: Replay, input: Json) -> Self {
        Self {
            script,
            replay,
            given: Given::of(&input),
            state: State::Fresh,
            hash: rng::hash(0, input.as_str()),
            events: 0,
            open: BTreeMap::new(),
            children: Vec::new(),
            updates: VecDeque::new(),
            last_op: None,
            last_failure: None,
        }
    }

    /// What leads it: outcomes are laid before it between two activations.
    pub fn replay(&mut self) -> &mut Replay {
        &mut self.replay
    }

    /// One activation: its start, or the outcomes that were laid since the last one. After an error, and after a status
    /// other than blocked, it cannot be activated again.
    pub fn activate(&mut self) -> Result<Activation, Stopped> {
        // Until it is known to be well.
        let state = std::mem::replace(&mut self.state, State::Over);
        self.replay.begin();
        let status = match state {
            State::Fresh => self.begin()?,
            State::Blocked => self.resume()?,
            State::Over => return Err(Stopped::Over),
        };
        self.replay.finish(&status)?;
        if status == Status::Blocked {
            self.state = State::Blocked;
        }
        let memory = self.replay.take_projection_changes();
        let issued = self.replay.take_issued();
        let commands =
            issued.into_iter().map(|(op, command)| (op, command, self.replay.is_open(op))).collect();
        Ok(Activation { commands, status, memory })
    }

    fn begin(&mut self) -> Result<Status, Refusal> {
        match self.carry_out(0)? {
            Some(end) => Ok(end),
            None => self.resume(),
        }
    }

    fn resume(&mut self) -> Result<Status, Refusal> {
        while let Some(delivery) = self.replay.next_event()? {
            self.events += 1;
            self.note(&delivery);
            self.settle(&delivery)?;
            let rule = 1 + (self.hash % (self.script.rules.len() as u64 - 1)) as usize;
            if let Some(end) = self.carry_out(rule)? {
                return Ok(end);
            }
        }
        Ok(Status::Blocked)
    }

    /// Folds what the script heeds into the hash.
    fn note(&mut self, Delivery { op, outcome }: &Delivery) {
        if let Err(failure) = outcome {
            // As the sandbox takes it from a component: attempts are those of a call, and this is none.
            self.last_failure = Some(failure.clone().after(0));
        }
        let text = if self.script.is_confluent() {
            match outcome {
                Ok(output) => format!("{output}"),
                // Messages may name a run, and attempts count what was lost on the way.
                Err(failure) => format!("{:?} {}", failure.kind, failure.code),
            }
        } else {
            let HistorySize { rows, bytes } = self.replay.history_size();
            let (entity, attributes) = (self.replay.entity().to_json(), self.replay.attributes());
            format!("{op} {outcome:?} {} {rows} {bytes} {entity} {attributes:?}", self.replay.now_ms())
        };
        self.hash = rng::hash(self.hash, &text);
    }

    /// Whether it would take an update with this input, now. A script that waits for updates takes three of four.
    pub fn validates(&self, number: u64) -> bool {
        !rng::hash(self.hash, &format!("{number:016x}")).is_multiple_of(4)
    }

    /// The op has its outcome; gives up what is of no use without it.
    fn settle(&mut self, Delivery { op, outcome }: &Delivery) -> Result<(), Refusal> {
        let awaited = self.open.remove(op);
        if let (Some(Awaited::Update { at_once, .. }), Ok(payload)) = (&awaited, outcome) {
            self.updates.extend(update_id(payload));
            if *at_once {
                self.answer(false)?;
            }
        }
        let useless = match awaited {
            Some(Awaited::Signal { bound } | Awaited::Update { bound, .. }) => bound,
            Some(Awaited::Bound { wait }) => Some(wait),
            Some(Awaited::Outcome) | None => None,
        };
        match useless {
            Some(target) if self.open.contains_key(&target) => self.cancel(target),
            _ => Ok(()),
        }
    }

    /// Carries out a rule. None: the guest waits.
    fn carry_out(&mut self, rule: usize) -> Result<Option<Status>, Refusal> {
        let script = Arc::clone(&self.script);
        let rule = &script.rules[rule];
        for verb in &rule.verbs {
            self.act(verb)?;
        }
        let is_answered =
            |awaited: &Awaited| !matches!(awaited, Awaited::Signal { .. } | Awaited::Update { .. });
        let may_wait = self.events < EVENTS_MAX && self.open.values().any(is_answered);
        Ok(match rule.end {
            End::No if may_wait => None,
            End::Continue if self.given.generation < GENERATIONS_MAX => {
                let next = Given { generation: self.given.generation + 1, ..self.given };
                Some(Status::ContinueAsNew(next.input(self.hash)))
            }
            End::Fail { retryable } => Some(Status::Failed(self.failure(retryable))),
            End::PassOn => {
                Some(Status::Failed(self.last_failure.clone().unwrap_or_else(|| self.failure(false))))
            }
            End::No | End::Complete | End::Continue => Some(Status::Completed(told(self.hash))),
        })
    }

    fn failure(&self, retryable: bool) -> Failure {
        let message = format!("after {} events", self.events);
        let fatal = Failure::fatal(FailureKind::Application, "scripted", message);
        Failure { details: Some(told(self.hash)), retryable, ..fatal }
    }

    fn act(&mut self, verb: &Verb) -> Result<(), Refusal> {
        match verb {
            Verb::Call { name, options } => {
                let (name, input) = (shared(name), self.arguments());
                self.wait_for(Command::ScheduleActivity { name, input, options: options.clone() })
            }
            Verb::Sleep { ms } => self.wait_for(Command::StartTimer { ms: *ms }),
            Verb::Wait { name, ms, tidies } => {
                self.wait_for_signal(name, *ms, *tidies, |bound| Awaited::Signal { bound })
            }
            Verb::Update { name, ms, tidies, at_once } => {
                self.wait_for_signal(name, *ms, *tidies, |bound| Awaited::Update { bound, at_once: *at_once })
            }
            Verb::Answer { fails } => self.answer(*fails),
            Verb::Child { workflow, options } => {
                if self.given.depth >= DEPTH_MAX || self.children.len() >= CHILDREN_MAX {
                    return Ok(());
                }
                let input = Given { depth: self.given.depth + 1, ..self.given }.input(self.hash);
                let (workflow, options) = (shared(workflow), options.clone());
                self.wait_for(Command::StartChild { workflow, input, options })?;
                self.children.extend(self.last_op);
                Ok(())
            }
            Verb::Cancel(place) => self.place(*place).map_or(Ok(()), |target| self.cancel(target)),
            Verb::Shield(place) => match self.place(*place) {
                Some(target) => self.command(Command::Shield { target }).map(drop),
                None => Ok(()),
            },
            Verb::Signal { to, name } => match self.target(*to) {
                Some(target) => {
                    let (name, payload) = (shared(name), told(self.hash));
                    self.wait_for(Command::SignalRun { target, name, payload })
                }
                None => Ok(()),
            },
            Verb::CancelRun(to) => match self.target(*to) {
                Some(target) => self.wait_for(Command::CancelRun { target }),
                None => Ok(()),
            },
            Verb::Patched(mark) => {
                if self.replay.patched(shared(mark))? {
                    self.replay.set_attributes([(shared(mark), Some(Attribute::Flag(true)))].into())?;
                }
                Ok(())
            }
            Verb::Edit(edit) => self.edit(*edit),
            Verb::Attribute { name, value } => {
                let value = self.attribute(*value);
                self.replay.set_attributes([(shared(name), value)].into())
            }
        }
    }

    /// What a call is told.
    fn arguments(&mut self) -> Json {
        if self.script.is_confluent() {
            return json(serde_json::json!([format!("{:016x}", self.hash)]));
        }
        let (now_ms, random) = (self.replay.now_ms(), self.replay.random_u64());
        json(serde_json::json!([format!("{:016x}", self.hash), now_ms, format!("{random:016x}")]))
    }

    fn wait_for_signal(
        &mut self,
        name: &str,
        ms: u64,
        tidies: bool,
        awaited: impl FnOnce(Option<Op>) -> Awaited,
    ) -> Result<(), Refusal> {
        let wait = self.command(Command::AwaitSignal { name: shared(name) })?;
        let bound = self.command(Command::StartTimer { ms })?;
        self.open.insert(wait, awaited(tidies.then_some(bound)));
        self.open.insert(bound, Awaited::Bound { wait });
        Ok(())
    }

    /// Answers the update that has waited longest, if there is one.
    fn answer(&mut self, fails: bool) -> Result<(), Refusal> {
        let Some(update) = self.updates.pop_front() else { return Ok(()) };
        let outcome = if fails { Err(self.failure(false)) } else { Ok(told(self.hash)) };
        self.command(Command::AnswerUpdate { update, outcome }).map(drop)
    }

    fn wait_for(&mut self, command: Command) -> Result<(), Refusal> {
        let op = self.command(command)?;
        self.open.insert(op, Awaited::Outcome);
        Ok(())
    }

    fn cancel(&mut self, target: Op) -> Result<(), Refusal> {
        self.open.remove(&target);
        self.command(Command::Cancel { target }).map(drop)
    }

    fn command(&mut self, command: Command) -> Result<Op, Refusal> {
        let op = self.replay.command(command)?;
        self.last_op = Some(op);
        Ok(op)
    }

    fn place(&self, Place(back): Place) -> Option<Op> {
        let open = self.open.keys().rev().nth(back as usize).copied();
        open.or_else(|| self.last_op.map(|last| Op(last.0.saturating_sub(back))))
    }

    fn target(&self, to: To) -> Option<Target> {
        match to {
            To::Child(place) => self.children.get(place).copied().or(self.last_op).map(Target::Child),
            To::Workflow(id) => Some(Target::Workflow(shared(id))),
        }
    }

    fn edit(&mut self, edit: Edit) -> Result<(), Refusal> {
        let told = told(self.hash);
        let (path, edit) = match edit {
            Edit::Append => ("list", EntityEdit::Append(told)),
            Edit::IncrementList => ("list", EntityEdit::Increment(1.5)),
            Edit::Increment(by) => ("n", EntityEdit::Increment(f64::from(by))),
            Edit::Merge => ("", EntityEdit::Merge(json(serde_json::json!({ "n": null, "m": { "a": 1 } })))),
            Edit::Set => ("m.a", EntityEdit::Set(told)),
            Edit::Delete => ("m", EntityEdit::Delete),
        };
        if let Err(why) = self.replay.edit_entity(shared(path), edit)? {
            self.hash = rng::hash(self.hash, &why);
        }
        Ok(())
    }

    fn attribute(&self, value: Value) -> Option<Attribute> {
        match value {
            Value::Told => Some(Attribute::Text(format!("{:016x}", self.hash).into())),
            Value::Number(number) => Some(Attribute::Number(f64::from(number))),
            Value::Now => Some(Attribute::TimeMs(self.replay.now_ms())),
            Value::None => None,
        }
    }
}

/// What its sender calls an update.
fn update_id(payload: &Json) -> Option<Arc<str>> {
    let payload: serde_json::Value = serde_json::from_str(payload.as_str()).ok()?;
    payload["id"].as_str().map(Arc::from)
}
