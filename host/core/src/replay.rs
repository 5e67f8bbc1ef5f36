//! The guest's side of a run: replays its ledger to a guest, and goes on past its end.
//!
//! The same object serves a first activation, a warm one and a replay from row 0; the guest cannot
//! tell which. Commands are checked, in order, against the recorded ones until those are used up, and
//! are new from there on. Outcomes are delivered in ledger order.
//!
//! | the guest calls | while recorded commands remain | afterwards |
//! |---|---|---|
//! | a command | must repeat the next recorded one, else [`Divergence`] | it is new: see [`Replay::take_issued`] |
//! | `deprecate-patch` | takes the next recorded one if it is that mark | nothing |
//! | an edit of the entity that cannot be done | no command, an error | no command, an error |
//! | `patched` | true if the next recorded one is that mark, else false and no op | true, and a new command |
//! | `next-event` | as afterwards, if those above the row are used up | the next outcome of an open op; then none |
//! | returns | [`Replay::finish`]: recorded commands must be used up | |
//!
//! Two kinds of outcome have no row of their own and are made here: a signal that was received before
//! it was awaited goes to its wait at once, and a cancel request ends every op that is open when it
//! is delivered. Both come before the next row.
//!
//! How many rows a batch has is nobody's input. Hence commands are refused before a resumed guest has
//! taken its first event and after its last, the run's random stream stands still there (see
//! [`crate::random`]), and bounds count from event to event.
//!
//! Nothing here is bounded by trust: every error is a value, and none of them is a panic.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::attribute::{self, AttributeChanges, Attributes};
use crate::command::{Command, Status, Target};
use crate::entity::{Edit, Entity};
use crate::event::Event;
use crate::failure::Failure;
use crate::ids::{Op, RunId, Seq};
use crate::json::Json;
use crate::limits;
use crate::names::{Cut, check_name};
use crate::random::{Aside, Random};
use crate::rules::Rules;
use crate::start::StartOptions;
use crate::waits::Waits;

/// The outcome of one op.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Which op.
    pub op: Op,
    /// How it ended.
    pub outcome: Result<Json, Failure>,
}

/// The guest and the ledger disagree: the first place where they do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Divergence {
    /// The command's number, or where the run should have ended.
    pub op: Op,
    /// The ledger row, where there is one.
    pub seq: Option<Seq>,
    /// What the ledger holds.
    pub ledger: String,
    /// What the guest asked for or did now.
    pub guest: String,
    /// The guest's frames at the guilty call, innermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at op {}", self.op)?;
        if let Some(seq) = self.seq {
            write!(f, " (row {seq})")?;
        }
        write!(f, " the ledger holds {}, the guest now gave {}", self.ledger, self.guest)
    }
}

/// Why a call of the guest is refused. Each becomes a trap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The guest is not the one that wrote this ledger, or is not deterministic.
    #[error("{0}")]
    Divergence(Box<Divergence>),
    /// A command where none is allowed: before a resumed guest's first event, after `next-event`
    /// returned none, or while being described or queried.
    #[error("{0}")]
    Protocol(String),
    /// A bound of [`limits`].
    #[error("{0}")]
    Limit(String),
}

/// What the guest is allowed to do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Resumed: nothing has happened to the guest until it takes an event.
    Waking,
    /// At the start of the run, or with an event at hand: commands may be given.
    Active,
    /// `next-event` has returned none: only returning is left.
    Drained,
    /// In `query` or `describe`: reading only.
    ReadOnly,
}

/// A row that has not been replayed yet.
#[derive(Clone, Debug)]
struct Pending<T> {
    seq: Seq,
    at_ms: u64,
    what: T,
}

/// An outcome without a row of its own. Of an op that is closed by then, nothing comes of it.
#[derive(Clone, Copy, Debug)]
enum Ready {
    /// The oldest kept signal of the name that the op waits for, if there still is one: a signal is
    /// used up by being delivered, so a wait that is given up before that costs none.
    Signal(Op),
    /// The run was asked to cancel.
    Cancelled(Op),
}

/// New commands of a guest, as the bounds count them.
#[derive(Clone, Copy, Debug, Default)]
struct Issued {
    commands: usize,
    bytes: usize,
}

/// A signal that no wait has taken.
#[derive(Clone, Debug, PartialEq)]
pub struct UnusedSignal {
    /// Its row.
    pub seq: Seq,
    /// Its name.
    pub name: Arc<str>,
    /// What a wait would have got.
    pub payload: Json,
    /// What its sender calls it.
    pub id: Option<Arc<str>>,
}

/// What a ledger holds up to the event being handled, and what the guest has added since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistorySize {
    /// Its rows.
    pub rows: u32,
    /// Bytes of payloads that the guest gave and was given.
    pub bytes: u64,
}

/// What new commands of a guest have changed of what is known about its run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProjectionChanges {
    /// All of the entity, if it has changed.
    pub entity: Option<Json>,
    /// Attributes that have changed.
    pub attributes: AttributeChanges,
}

/// One guest's way along one ledger.
#[derive(Clone, Debug)]
pub struct Replay {
    phase: Phase,
    has_begun: bool,
    recorded: VecDeque<Pending<(Op, Command)>>,
    pending_events: VecDeque<Pending<Event>>,
    ready: VecDeque<Ready>,
    /// Ops whose outcome the guest has not had; with the signal's name if it is a wait.
    open: BTreeMap<Op, Option<Arc<str>>>,
    waits: Waits,
    kept_signals: HashMap<Arc<str>, VecDeque<UnusedSignal>>,
    /// Of their payloads.
    kept_bytes: usize,
    patches: HashMap<Arc<str>, bool>,
    next_op: Op,
    issued: Vec<(Op, Command)>,
    shielded: BTreeSet<Op>,
    history: HistorySize,
    entity: Entity,
    attributes: Attributes,
    /// What is not recorded yet.
    projection_changes: ProjectionChanges,
    since_begin: Issued,
    since_event: Issued,
    ended: Option<Pending<Event>>,
    now_ms: u64,
    random: Random,
    rules: Rules,
}

impl Replay {
    /// A guest at the start of `run`, whose row 0 was recorded at `started_at_ms` with these options.
    pub fn new(run: RunId, started_at_ms: u64, options: &StartOptions) -> Self {
        // Checked before the run was started; a row that was not is found by its chain.
        let entity = options.entity.as_ref().and_then(|entity| Entity::new(entity).ok());
        Self {
            phase: Phase::ReadOnly,
            has_begun: false,
            recorded: VecDeque::new(),
            pending_events: VecDeque::new(),
            ready: VecDeque::new(),
            open: BTreeMap::new(),
            waits: Waits::default(),
            kept_signals: HashMap::new(),
            kept_bytes: 0,
            patches: HashMap::new(),
            next_op: Op(0),
            issued: Vec::new(),
            shielded: BTreeSet::new(),
            history: HistorySize { rows: 1, bytes: 0 },
            entity: entity.unwrap_or_default(),
            attributes: options.attributes.clone(),
            projection_changes: ProjectionChanges::default(),
            since_begin: Issued::default(),
            since_event: Issued::default(),
            ended: None,
            now_ms: options.starts_at_ms(started_at_ms),
            random: Random::new(options.original(run), &options.random),
            rules: options.rules,
        }
    }

    /// Enqueues one more committed row for the guest. Commands are expected back; outcomes will be
    /// delivered; anything else does not concern it. Rows must come in ledger order, and the
    /// commands that the guest has just issued are not enqueued again.
    ///
    /// A failure reaches the guest in the form that the ledger keeps ([`Failure::clipped`]), whether
    /// it comes from there or from the attempt that has just ended.
    pub fn enqueue(&mut self, seq: Seq, at_ms: u64, event: Event) {
        let event = match event {
            Event::ActivityClosed { op, attempt, outcome } => Event::ActivityClosed {
                op,
                attempt,
                outcome: outcome.map_err(|failure| failure.clipped().after(attempt)),
            },
            Event::ChildClosed { op, outcome } => {
                Event::ChildClosed { op, outcome: outcome.map_err(Failure::clipped) }
            }
            Event::MessageClosed { op, outcome } => {
                Event::MessageClosed { op, outcome: outcome.map_err(Failure::clipped) }
            }
            other => other,
        };
        match event {
            Event::Commanded { op, command } => {
                self.recorded.push_back(Pending { seq, at_ms, what: (op, command) });
            }
            Event::ActivityClosed { .. }
            | Event::TimerFired { .. }
            | Event::SignalReceived { .. }
            | Event::ChildClosed { .. }
            | Event::MessageClosed { .. }
            | Event::CancelRequested { .. } => {
                self.pending_events.push_back(Pending { seq, at_ms, what: event });
            }
            Event::RunCompleted { .. }
            | Event::RunFailed { .. }
            | Event::RunCancelled { .. }
            | Event::RunTerminated { .. }
            | Event::RunContinued { .. }
            | Event::RunTimedOut { .. } => self.ended = Some(Pending { seq, at_ms, what: event }),
            Event::RunStarted { .. }
            | Event::AttemptFailed { .. }
            | Event::RunPaused { .. }
            | Event::RunResumed { .. }
            | Event::RunRetried => {}
        }
    }

    /// Opens an activation. The first is the guest's start; in every further one the guest must take
    /// an event before it may give commands.
    pub fn begin(&mut self) {
        let phase = if self.has_begun { Phase::Waking } else { Phase::Active };
        self.enter(phase);
        self.has_begun = true;
        self.since_begin = Issued::default();
        self.since_event = Issued::default();
    }

    /// Takes a command of the guest and gives its number.
    pub fn command(&mut self, command: Command) -> Result<Op, Refusal> {
        self.may_command(&command)?;
        let op = self.next_op;
        let named = match &command {
            Command::Cancel { target } | Command::Shield { target } => Some(target),
            Command::SignalRun { target: Target::Child(target), .. }
            | Command::CancelRun { target: Target::Child(target) } => Some(target),
            _ => None,
        };
        if let Some(target) = named
            && *target >= op
        {
            return Err(Refusal::Protocol(format!("{command}: op {target} does not exist yet")));
        }
        self.record(op, &command)?;
        self.next_op.0 += 1;
        self.history.rows += 1;
        self.history.bytes += command.payload_bytes() as u64;
        self.open_op(op, command);
        Ok(op)
    }

    /// Whether the run takes the new side of a change of code. The first answer holds for the whole
    /// run and may be asked for again anywhere, in queries too.
    pub fn patched(&mut self, change_id: Arc<str>) -> Result<bool, Refusal> {
        if let Some(answer) = self.patches.get(&change_id) {
            return Ok(*answer);
        }
        let mark = Command::Patch { change_id: Arc::clone(&change_id) };
        self.may_command(&mark)?;
        check_name("change id", &change_id).map_err(Refusal::Limit)?;
        if self.patches.len() >= limits::RUN_CHANGES_MAX {
            return Err(Refusal::Limit(format!("more than {} changes of code", limits::RUN_CHANGES_MAX)));
        }
        let answer = match self.recorded.front() {
            // Past the last recorded command; a run that has ended went past it on the old side.
            None => self.own_end().is_none(),
            Some(Pending { what: (_, recorded), .. }) => *recorded == mark,
        };
        if answer {
            self.command(mark)?;
        }
        self.patches.insert(change_id, answer);
        Ok(answer)
    }

    /// Takes the mark of a change of code where the run has one. From here on the run is on the new
    /// side, wherever it asks.
    pub fn deprecate_patch(&mut self, change_id: Arc<str>) -> Result<(), Refusal> {
        if self.patches.contains_key(&change_id) {
            return Ok(());
        }
        let mark = Command::Patch { change_id: Arc::clone(&change_id) };
        self.may_command(&mark)?;
        check_name("change id", &change_id).map_err(Refusal::Limit)?;
        if self.patches.len() >= limits::RUN_CHANGES_MAX {
            return Err(Refusal::Limit(format!("more than {} changes of code", limits::RUN_CHANGES_MAX)));
        }
        if self.recorded.front().is_some_and(|row| row.what.1 == mark) {
            self.command(mark)?;
        }
        self.patches.insert(change_id, true);
        Ok(())
    }

    /// Edits the entity. The inner error is what the guest hears if it cannot be done: nothing is recorded then.
    pub fn edit_entity(&mut self, path: Arc<str>, edit: Edit) -> Result<Result<(), String>, Refusal> {
        let edited = self.entity.edited(&path, &edit);
        let command = Command::EditEntity { path, edit };
        self.may_command(&command)?;
        let edited = match edited {
            Ok(edited) => edited,
            Err(error) => {
                return Ok(Err(match self.rules {
                    Rules::First => error.text,
                    Rules::Second => error.code.to_owned(),
                }));
            }
        };
        if self.is_new(command)? {
            self.projection_changes.entity = Some(edited.to_json());
        }
        self.entity = edited;
        Ok(Ok(()))
    }

    /// Changes what the run is found by.
    pub fn set_attributes(&mut self, changes: AttributeChanges) -> Result<(), Refusal> {
        let mut attributes = self.attributes.clone();
        attribute::apply(&mut attributes, &changes).map_err(Refusal::Limit)?;
        if self.is_new(Command::SetAttributes { changes: changes.clone() })? {
            self.projection_changes.attributes.extend(changes);
        }
        self.attributes = attributes;
        Ok(())
    }

    /// Takes a command; whether it was none of the recorded ones.
    fn is_new(&mut self, command: Command) -> Result<bool, Refusal> {
        let before = self.issued.len();
        self.command(command)?;
        Ok(self.issued.len() > before)
    }

    /// The entity as the guest's edits have left it.
    pub fn entity(&self) -> &Entity {
        &self.entity
    }

    /// The attributes as its commands have left them.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// What new commands have changed since this was last taken.
    pub fn take_projection_changes(&mut self) -> ProjectionChanges {
        std::mem::take(&mut self.projection_changes)
    }

    /// What the ledger holds up to the event being handled.
    pub fn history_size(&self) -> HistorySize {
        self.history
    }

    /// The next outcome for the guest. None: it must return.
    pub fn next_event(&mut self) -> Result<Option<Delivery>, Refusal> {
        if self.phase == Phase::ReadOnly {
            return Err(Refusal::Protocol("next-event where only reading is allowed".into()));
        }
        let delivery = self.next_delivery()?;
        let phase = if delivery.is_some() {
            self.random.deliver();
            Phase::Active
        } else {
            Phase::Drained
        };
        self.enter(phase);
        self.since_event = Issued::default();
        Ok(delivery)
    }

    fn next_delivery(&mut self) -> Result<Option<Delivery>, Refusal> {
        loop {
            while let Some(ready) = self.ready.pop_front() {
                if let Some(delivery) = self.deliver_ready(ready) {
                    return Ok(Some(delivery));
                }
            }
            let Some(row) = self.pending_events.pop_front() else { return Ok(None) };
            // Every command above the row was given before the row was there to be delivered.
            if let Some(Pending { seq, what: (op, command), .. }) = self.recorded.front()
                && *seq < row.seq
            {
                return Err(diverged(*op, Some(*seq), command, &"no command: it took the next event"));
            }
            if let Some(delivery) = self.deliver(row)? {
                return Ok(Some(delivery));
            }
        }
    }

    /// Closes an activation that ended with `status`: the guest may not stop short of the ledger.
    pub fn finish(&mut self, status: &Status) -> Result<(), Refusal> {
        let had_drained = self.phase == Phase::Drained;
        self.enter(Phase::ReadOnly);
        if *status == Status::Blocked && !had_drained {
            return Err(Refusal::Protocol("returned `blocked` before next-event returned none".into()));
        }
        if let Some(Pending { seq, what: (op, command), .. }) = self.recorded.front() {
            return Err(diverged(*op, Some(*seq), command, &shown(status)));
        }
        if let Some(Pending { seq, what: end, .. }) = self.own_end() {
            let then = end_status(end);
            // Both sides clipped: the form that the ledger keeps.
            if then.as_ref() != Some(&clipped(status)) {
                let then = then.as_ref().map_or_else(String::new, shown);
                return Err(diverged(self.next_op, Some(*seq), &then, &shown(status)));
            }
        } else if *status == Status::Blocked && self.open.is_empty() && self.ended.is_none() {
            return Err(Refusal::Protocol(
                "returned `blocked` while nothing is open that could ever wake it".into(),
            ));
        }
        Ok(())
    }

    /// The commands that are new, and forgets them.
    pub fn take_issued(&mut self) -> Vec<(Op, Command)> {
        std::mem::take(&mut self.issued)
    }

    /// The signals that the guest has not had, in ledger order: a run that continues as new hands
    /// them on.
    pub fn unused_signals(&self) -> Vec<UnusedSignal> {
        let mut unused: Vec<UnusedSignal> = self.kept_signals.values().flatten().cloned().collect();
        unused.sort_by_key(|signal| signal.seq);
        unused.extend(self.pending_events.iter().filter_map(|row| UnusedSignal::of(row.seq, &row.what)));
        unused
    }

    /// Bytes of payloads that are in memory for the guest and that it has not had.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Whether the guest is being replayed: recorded commands are still expected, or the
    /// recorded end of the run is.
    pub fn is_replaying(&self) -> bool {
        !self.recorded.is_empty() || self.ended.is_some()
    }

    /// Whether the guest still waits for `op`.
    pub fn is_open(&self, op: Op) -> bool {
        self.open.contains_key(&op)
    }

    /// The time of the event being handled, in milliseconds since the epoch.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The next number of the run's stream; outside the handling of an event, of one that the run's
    /// does not notice.
    pub fn random_u64(&mut self) -> u64 {
        match self.phase {
            Phase::Active => self.random.draw(),
            Phase::Waking | Phase::Drained | Phase::ReadOnly => self.random.next_aside(),
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        match phase {
            Phase::Active => {}
            Phase::Waking => self.random.turn_aside(Aside::Waking),
            Phase::Drained => self.random.turn_aside(Aside::Drained),
            Phase::ReadOnly => self.random.turn_aside(Aside::ReadOnly),
        }
    }

    fn may_command(&self, command: &Command) -> Result<(), Refusal> {
        let why = match self.phase {
            Phase::Active => return Ok(()),
            Phase::Waking => "before next-event gave a first event",
            Phase::Drained => "after next-event returned none; return `blocked` first",
            Phase::ReadOnly => "where only reading is allowed",
        };
        Err(Refusal::Protocol(format!("{command}: a command {why}")))
    }

    /// The recorded end, if it is the guest's own doing. What the guest would have done next when an
    /// operator or a bound stopped the run is not recorded.
    fn own_end(&self) -> Option<&Pending<Event>> {
        let from_outside =
            |end: &Event| matches!(end, Event::RunTerminated { .. } | Event::RunTimedOut { .. });
        self.ended.as_ref().filter(|end| !from_outside(&end.what))
    }

    /// Checks `command` against the ledger, or notes it as new.
    fn record(&mut self, op: Op, command: &Command) -> Result<(), Refusal> {
        if let Some(Pending { seq, what: (recorded_op, recorded), .. }) = self.recorded.front() {
            if *recorded_op != op || !command.repeats(recorded) {
                return Err(diverged(op, Some(*seq), recorded, command));
            }
            command.check_options().map_err(Refusal::Limit)?;
            self.recorded.pop_front();
            return Ok(());
        }
        if let Some(Pending { seq, what: end, .. }) = self.own_end() {
            let end = end_status(end).as_ref().map_or_else(String::new, shown);
            return Err(diverged(op, Some(*seq), &end, command));
        }
        command.check().map_err(Refusal::Limit)?;
        let bytes = command.payload_bytes();
        self.since_event.add(
            bytes,
            Issued { commands: limits::ACTIVATION_COMMANDS_MAX, bytes: limits::ACTIVATION_BYTES_MAX },
            "between two events",
        )?;
        self.since_begin.add(
            bytes,
            Issued { commands: limits::RUN_ROWS_MAX as usize, bytes: limits::RUN_BYTES_MAX as usize },
            "in one run",
        )?;
        self.issued.push((op, command.clone()));
        Ok(())
    }

    /// Notes what `command` opens, and closes what it gives up.
    fn open_op(&mut self, op: Op, command: Command) {
        match command {
            Command::ScheduleActivity { .. }
            | Command::StartTimer { .. }
            | Command::StartChild { .. }
            | Command::SignalRun { .. }
            | Command::CancelRun { .. } => {
                self.open.insert(op, None);
            }
            Command::Shield { target } => {
                if self.open.contains_key(&target) {
                    self.shielded.insert(target);
                }
            }
            Command::AwaitSignal { name } => {
                if self.kept_signals.contains_key(&name) {
                    self.ready.push_back(Ready::Signal(op));
                }
                self.waits.insert(Arc::clone(&name), op);
                self.open.insert(op, Some(name));
            }
            Command::Cancel { target } => {
                self.close(target);
            }
            Command::Patch { .. }
            | Command::AnswerUpdate { .. }
            | Command::EditEntity { .. }
            | Command::SetAttributes { .. } => {}
        }
    }

    /// Whether `op` was open. From here on it is not.
    fn close(&mut self, op: Op) -> bool {
        self.shielded.remove(&op);
        let closed = self.open.remove(&op);
        if let Some(Some(name)) = &closed {
            self.waits.remove(name, op);
        }
        closed.is_some()
    }

    fn deliver_ready(&mut self, ready: Ready) -> Option<Delivery> {
        let (op, outcome) = match ready {
            Ready::Signal(op) => {
                let name = self.open.get(&op)?.as_ref()?;
                let kept = self.kept_signals.get_mut(name)?;
                let payload = kept.pop_front()?.payload;
                self.kept_bytes -= payload.as_str().len();
                if kept.is_empty() {
                    self.kept_signals.remove(name);
                }
                (op, Ok(payload))
            }
            Ready::Cancelled(op) => (op, Err(Failure::cancelled())),
        };
        self.close(op).then_some(Delivery { op, outcome })
    }

    /// Leads the guest past one row. None: the row is not for it, or not any more.
    fn deliver(&mut self, row: Pending<Event>) -> Result<Option<Delivery>, Refusal> {
        let Pending { seq, at_ms, what } = row;
        self.random.reach(seq);
        let kind = what.kind().as_str();
        self.history.rows = self.history.rows.max(seq.0 + 1);
        self.history.bytes += payload_bytes(&what) as u64;
        let (op, outcome) = match what {
            Event::ActivityClosed { op, outcome, .. } | Event::ChildClosed { op, outcome } => (op, outcome),
            Event::TimerFired { op } => (op, Ok(Json::null())),
            Event::MessageClosed { op, outcome } => (op, outcome.map(|()| Json::null())),
            Event::SignalReceived { name, payload, id } => {
                // `ready` is empty here, so there are no kept signals of a name with an open wait.
                let Some(op) = self.waits.oldest(&name) else {
                    self.kept_bytes += payload.as_str().len();
                    let kept = UnusedSignal { seq, name: Arc::clone(&name), payload, id };
                    self.kept_signals.entry(name).or_default().push_back(kept);
                    return Ok(None);
                };
                (op, Ok(payload))
            }
            Event::CancelRequested { .. } => {
                if self.open.len() > self.shielded.len() {
                    self.now_ms = self.now_ms.max(at_ms);
                }
                let ended = self.open.keys().filter(|op| !self.shielded.contains(op));
                self.ready.extend(ended.map(|op| Ready::Cancelled(*op)));
                return Ok(None);
            }
            // `enqueue` keeps nothing else.
            _ => return Ok(None),
        };
        if op >= self.next_op {
            return Err(diverged(op, Some(seq), &kind, &"no such command"));
        }
        if !self.close(op) {
            return Ok(None);
        }
        // A run that was started with a delay has rows from before its start.
        self.now_ms = self.now_ms.max(at_ms);
        Ok(Some(Delivery { op, outcome }))
    }
}

impl UnusedSignal {
    /// The signal of a row, if it is one.
    pub fn of(seq: Seq, event: &Event) -> Option<Self> {
        let Event::SignalReceived { name, payload, id } = event else { return None };
        Some(Self { seq, name: Arc::clone(name), payload: payload.clone(), id: id.clone() })
    }
}

impl Issued {
    /// Counts one more command of this size.
    fn add(&mut self, bytes: usize, most: Self, scope: &str) -> Result<(), Refusal> {
        self.commands += 1;
        self.bytes += bytes;
        if self.commands > most.commands {
            Err(Refusal::Limit(format!("more than {} commands {scope}", most.commands)))
        } else if self.bytes > most.bytes {
            Err(Refusal::Limit(format!("more than {} bytes of commands {scope}", most.bytes)))
        } else {
            Ok(())
        }
    }
}

/// Bytes of payload that an outcome brings the guest.
fn payload_bytes(event: &Event) -> usize {
    let of = |outcome: &Result<Json, Failure>| match outcome {
        Ok(output) => output.as_str().len(),
        Err(failure) => failure.text_bytes(),
    };
    match event {
        Event::ActivityClosed { outcome, .. } | Event::ChildClosed { outcome, .. } => of(outcome),
        Event::SignalReceived { payload, .. } => payload.as_str().len(),
        _ => 0,
    }
}

/// What the guest returned, if `event` is the row that it made.
fn end_status(event: &Event) -> Option<Status> {
    match event {
        Event::RunCompleted { output } => Some(Status::Completed(output.clone())),
        Event::RunFailed { failure } | Event::RunCancelled { failure } => {
            Some(Status::Failed(failure.clone().clipped().after(0)))
        }
        Event::RunContinued { input } => Some(Status::ContinueAsNew(input.clone())),
        _ => None,
    }
}

fn clipped(status: &Status) -> Status {
    match status {
        Status::Failed(failure) => Status::Failed(failure.clone().clipped().after(0)),
        other => other.clone(),
    }
}

fn shown(status: &Status) -> String {
    match status {
        Status::Blocked => "`blocked`".into(),
        Status::Completed(output) => format!("`completed` with {}", Cut(output.as_str())),
        Status::Failed(failure) => format!("`failed` with {}: {}", Cut(&failure.code), Cut(&failure.message)),
        Status::ContinueAsNew(input) => format!("`continue-as-new` with {}", Cut(input.as_str())),
    }
}

fn diverged(op: Op, seq: Option<Seq>, ledger: &dyn fmt::Display, guest: &dyn fmt::Display) -> Refusal {
    let (ledger, guest) = (ledger.to_string(), guest.to_string());
    Refusal::Divergence(Box::new(Divergence { op, seq, ledger, guest, backtrace: None }))
}
