//! A run as its ledger tells it: the fold that says what may come next.
//!
//! [`Run::append`] is the only way to make a row. It refuses what the table below does not allow, so
//! a mistake elsewhere in the host is an error before it is a row; [`Run::load`] applies the same
//! table, and the chain, to rows that come back from the database, so a damaged ledger is an error
//! before it is a guest's input.
//!
//! | event | allowed when | then |
//! |---|---|---|
//! | run-started | nothing is there yet | open |
//! | a command with op n | open, n ops so far | n + 1 ops; the op is open (cancel, patch: closed) |
//! | op-cancelled | also: its target is below n | the target is closed, if it was open |
//! | activity-attempt-failed, activity-completed, -failed | that op is an open call, attempt is next | attempt counted; closed |
//! | timer-fired | that op is an open sleep | closed |
//! | child-completed, -failed | that op is an open child | closed |
//! | op-shielded | its target is below n | the target, if it is open, outlives a cancel request |
//! | message-accepted, -refused | that op is an open message | closed |
//! | signal-received | open | the oldest open wait of that name is closed, or the signal kept |
//! | cancel-requested | open | every open op is closed, but for those that are shielded |
//! | run-paused, run-resumed | open and not paused, paused | paused, open as before |
//! | run-completed … run-timed-out | open | closed for good |
//!
//! Memory is proportional to what is open, not to the history, but for some bytes of each message that
//! came with an id.
//!
//! Which *wait* a signal closes is the one thing that the fold can only estimate: see `apply_signal`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::command::{ActivityOptions, ChildOptions, Command, ParentClose, Target};
use crate::event::Event;
use crate::failure::Failure;
use crate::heard::{Heard, HeardId};
use crate::ids::{Chain, Op, RunId, Seq};
use crate::json::Json;
use crate::limits;
use crate::printable;
use crate::row::{Row, Unreadable};
use crate::start::StartOptions;
use crate::waits::Waits;

/// Where a run stands, as the `runs` table keeps it. Numbers and names are append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(i16)]
#[expect(missing_docs, reason = "the field's own words")]
pub enum RunStatus {
    Running = 1,
    /// Open, but stopped by a [`crate::Fault`] until an operator acts.
    Parked = 2,
    /// Open, but held by an operator.
    Paused = 3,
    Completed = 10,
    Failed = 11,
    Cancelled = 12,
    Terminated = 13,
    /// Went on as a new run of the same workflow id.
    Continued = 14,
    /// A bound of its start passed.
    TimedOut = 15,
}

impl RunStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Parked,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Terminated,
        Self::Continued,
        Self::TimedOut,
    ];
    /// Statuses below are open, the others closed for good.
    pub const CLOSED_FROM: i16 = 10;

    /// The persisted number.
    pub fn tag(self) -> i16 {
        self as i16
    }

    /// The status with this persisted number.
    pub fn from_tag(tag: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.tag() == tag)
    }

    /// The name that people and programs read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Parked => "parked",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Terminated => "terminated",
            Self::Continued => "continued",
            Self::TimedOut => "timed-out",
        }
    }

    /// Whether the run can still grow.
    pub fn is_open(self) -> bool {
        self.tag() < Self::CLOSED_FROM
    }
}

/// An op that waits for its outcome.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenOp {
    /// A call. The input is kept for the next attempt.
    Activity {
        /// The activity's name.
        name: Arc<str>,
        /// Its arguments.
        input: Json,
        /// Bounds and retry policy.
        options: ActivityOptions,
        /// The row of the command.
        seq: Seq,
        /// When it was scheduled.
        scheduled_at_ms: u64,
        /// Attempts that failed.
        attempts: u32,
        /// When the next one is due; none: at once.
        retry_at_ms: Option<u64>,
        /// What the last heartbeat of the attempts before said.
        heartbeat: Option<Json>,
        /// Code and message of the last attempt's failure, cut to what fits a line.
        failed_with: Option<Arc<str>>,
    },
    /// A sleep.
    Timer {
        /// When it is over.
        due_at_ms: u64,
    },
    /// A wait.
    Signal {
        /// For this name.
        name: Arc<str>,
    },
    /// A child.
    Child {
        /// Its run.
        run: RunId,
        /// Its workflow.
        workflow: Arc<str>,
        /// Its input: a fork starts it again.
        input: Json,
        /// Its id and close policy.
        options: ChildOptions,
    },
    /// A message to another run.
    Message {
        /// To which.
        target: Target,
        /// The signal's name and payload; none: a request to cancel.
        signal: Option<(Arc<str>, Json)>,
        /// When the command was recorded, in milliseconds since the epoch.
        sent_at_ms: u64,
    },
}

/// An event that the table of this module does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not allowed here: {why}")]
pub struct Illegal {
    /// The event's kind.
    pub event: &'static str,
    /// The rule it breaks.
    pub why: String,
}

/// A ledger that this program cannot have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// Rows are missing, doubled or out of order.
    #[error("expected row {expected}, found row {found}: rows are missing, doubled or swapped")]
    Gap {
        /// The next place.
        expected: Seq,
        /// The row's place.
        found: Seq,
    },
    /// A row, or the one before it, is not what was written.
    #[error("row {seq} does not match its checksum: it, or the row before it, was changed")]
    Chain {
        /// The row's place.
        seq: Seq,
    },
    /// Columns that make no event.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// An event that cannot follow.
    #[error("row {seq}: {illegal}")]
    Illegal {
        /// The row's place.
        seq: Seq,
        /// The rule it breaks.
        illegal: Illegal,
    },
    /// Time runs backwards.
    #[error("row {seq} is older than the row before it")]
    Time {
        /// The row's place.
        seq: Seq,
    },
    /// No rows at all.
    #[error("the ledger is empty")]
    Empty,
    /// What is left is sound, but it is not all.
    #[error("the run closed with {closed} rows, the ledger holds {found}: its end was cut off or added to")]
    Cut {
        /// How many rows there were at the close.
        closed: Seq,
        /// How many there are.
        found: Seq,
    },
}

/// A run as its ledger tells it.
#[derive(Clone, Debug)]
pub struct Run {
    id: RunId,
    next_seq: Seq,
    next_op: Op,
    chain: Chain,
    at_ms: u64,
    text_bytes: u64,
    status: Option<RunStatus>,
    started_at_ms: u64,
    start: Arc<StartOptions>,
    open: BTreeMap<Op, OpenOp>,
    /// Of the open ops.
    children: usize,
    waits: Waits,
    signals: HashMap<Arc<str>, u32>,
    signals_kept: u32,
    heard: Heard,
    /// Of the open ops.
    shielded: BTreeSet<Op>,
}

impl Run {
    /// A run without a ledger yet.
    pub fn new(id: RunId) -> Self {
        Self {
            id,
            next_seq: Seq(0),
            next_op: Op(0),
            chain: Chain(0),
            at_ms: 0,
            text_bytes: 0,
            status: None,
            started_at_ms: 0,
            start: Arc::default(),
            open: BTreeMap::new(),
            children: 0,
            waits: Waits::default(),
            signals: HashMap::new(),
            signals_kept: 0,
            heard: Heard::default(),
            shielded: BTreeSet::new(),
        }
    }

    /// Folds a whole ledger, checking every row, and gives its events too.
    pub fn load_all(id: RunId, rows: &[Row]) -> Result<(Self, Vec<Event>), Corrupt> {
        let mut run = Self::new(id);
        let events = rows.iter().map(|row| run.load(row)).collect::<Result<_, _>>()?;
        if rows.is_empty() { Err(Corrupt::Empty) } else { Ok((run, events)) }
    }

    /// As [`Self::load_all`], and compares the end with `head`: what was noted elsewhere when the run
    /// closed, the number of rows and the chain of the last. Nothing in what is left of a ledger
    /// tells that its last rows are gone.
    pub fn load_closed(
        id: RunId,
        rows: &[Row],
        head: Option<(Seq, Chain)>,
    ) -> Result<(Self, Vec<Event>), Corrupt> {
        let (run, events) = Self::load_all(id, rows)?;
        match head {
            Some((closed, _)) if closed != run.next_seq => Err(Corrupt::Cut { closed, found: run.next_seq }),
            Some((closed, chain)) if chain != run.chain => Err(Corrupt::Chain { seq: Seq(closed.0 - 1) }),
            Some(_) | None => Ok((run, events)),
        }
    }

    /// Takes a row that comes back from the database: place, chain, time and table must all hold.
    pub fn load(&mut self, row: &Row) -> Result<Event, Corrupt> {
        let seq = row.seq;
        if seq != self.next_seq {
            return Err(Corrupt::Gap { expected: self.next_seq, found: seq });
        }
        if row.link(self.id, self.chain) != row.chain {
            return Err(Corrupt::Chain { seq });
        }
        if row.at_ms < self.at_ms {
            return Err(Corrupt::Time { seq });
        }
        let event = row.event()?;
        self.check(&event).map_err(|illegal| Corrupt::Illegal { seq, illegal })?;
        self.apply(row, &event);
        Ok(event)
    }

    /// Makes the next row. `now_ms` is the host's clock; the row's time never runs backwards.
    pub fn append(&mut self, now_ms: u64, event: &Event) -> Result<Row, Illegal> {
        self.check(event)?;
        let row = event.chained(self.id, self.next_seq, now_ms.max(self.at_ms), self.chain);
        self.apply(&row, event);
        Ok(row)
    }

    /// The run's identity.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The place of the next row: also the number of rows.
    pub fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// The number of the next command.
    pub fn next_op(&self) -> Op {
        self.next_op
    }

    /// The last row's checksum.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The last row's time.
    pub fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// Whether the run can still grow.
    pub fn is_open(&self) -> bool {
        self.status.is_some_and(RunStatus::is_open)
    }

    /// On which terms it was started.
    pub fn start(&self) -> &Arc<StartOptions> {
        &self.start
    }

    /// When row 0 was recorded, in milliseconds since the epoch.
    pub fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    /// Whether an operator holds it.
    pub fn is_paused(&self) -> bool {
        self.status == Some(RunStatus::Paused)
    }

    /// Children that it waits for.
    pub fn children_open(&self) -> usize {
        self.children
    }

    /// Where the run stands; none before its first row. Parking is not the ledger's affair.
    pub fn status(&self) -> Option<RunStatus> {
        self.status
    }

    /// Ops that wait for an outcome, in call order.
    pub fn open_ops(&self) -> impl Iterator<Item = (Op, &OpenOp)> {
        self.open.iter().map(|(op, open)| (*op, open))
    }

    /// The op, if it waits for an outcome.
    pub fn open_op(&self, op: Op) -> Option<&OpenOp> {
        self.open.get(&op)
    }

    /// Whether the op outlives a request to cancel.
    pub fn is_shielded(&self, op: Op) -> bool {
        self.shielded.contains(&op)
    }

    /// Open children that a request to cancel this run is passed on to.
    /// Ask before its row is appended: afterwards they are not open any more.
    pub fn children_to_cancel(&self) -> Vec<RunId> {
        let children = self.open.iter().filter_map(|(op, open)| match open {
            OpenOp::Child { run, options, .. } if !self.is_shielded(*op) => Some((*run, options)),
            _ => None,
        });
        let heed = children.filter(|(_, options)| options.parent_close != ParentClose::Abandon);
        heed.map(|(run, _)| run).collect()
    }

    /// Which messages were heard, by this run and by those before it that it continues.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Open children and what their options ask for when this run closes.
    /// Ask before the closing row is appended: afterwards nothing is open.
    pub fn children_to_stop(&self) -> Vec<(RunId, ParentClose)> {
        let children = self.open.values().filter_map(|open| match open {
            OpenOp::Child { run, options, .. } => Some((*run, options.parent_close)),
            _ => None,
        });
        children.filter(|(_, policy)| *policy != ParentClose::Abandon).collect()
    }

    /// Signals that were received before a wait for them.
    pub fn signals_kept(&self) -> u32 {
        self.signals_kept
    }

    /// Whether `rows` more rows with `bytes` of text stay within the bounds of one run.
    pub fn has_room(&self, rows: usize, bytes: usize) -> bool {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.next_seq.0.saturating_add(rows) <= limits::RUN_ROWS_MAX
            && self.text_bytes.saturating_add(bytes as u64) <= limits::RUN_BYTES_MAX
    }

    /// The table: whether `event` may come next.
    fn check(&self, event: &Event) -> Result<(), Illegal> {
        let illegal = |why: String| Err(Illegal { event: event.kind().as_str(), why });
        match (self.status, event) {
            (None, Event::RunStarted { .. }) => Ok(()),
            (None, _) => illegal("the run has not started".into()),
            (Some(_), Event::RunStarted { .. }) => illegal("the run has started".into()),
            (Some(status), _) if !status.is_open() => illegal(format!("the run is {}", status.as_str())),
            (Some(_), Event::Commanded { op, .. }) if *op != self.next_op => {
                illegal(format!("op {op} where op {} comes next", self.next_op))
            }
            (
                Some(_),
                Event::Commanded { op, command: Command::Cancel { target } | Command::Shield { target } },
            ) if target >= op => illegal(format!("op {target} does not exist yet")),
            (
                Some(_),
                Event::AttemptFailed { op, attempt, .. } | Event::ActivityClosed { op, attempt, .. },
            ) => match self.open.get(op) {
                Some(OpenOp::Activity { attempts, .. }) if attempts + 1 == *attempt => Ok(()),
                Some(OpenOp::Activity { attempts, .. }) => {
                    illegal(format!("attempt {attempt} of op {op} after {attempts} attempts"))
                }
                _ => illegal(format!("op {op} is no open activity")),
            },
            (Some(RunStatus::Paused), Event::RunPaused { .. }) => illegal("the run is paused".into()),
            (Some(RunStatus::Running), Event::RunResumed { .. }) => illegal("the run is not paused".into()),
            (Some(_), Event::TimerFired { op }) => match self.open.get(op) {
                Some(OpenOp::Timer { .. }) => Ok(()),
                _ => illegal(format!("op {op} is no open timer")),
            },
            (Some(_), Event::MessageClosed { op, .. }) => match self.open.get(op) {
                Some(OpenOp::Message { .. }) => Ok(()),
                _ => illegal(format!("op {op} is no open message")),
            },
            (Some(_), Event::ChildClosed { op, .. }) => match self.open.get(op) {
                Some(OpenOp::Child { .. }) => Ok(()),
                _ => illegal(format!("op {op} is no open child")),
            },
            (
                Some(_),
                Event::Commanded { .. }
                | Event::SignalReceived { .. }
                | Event::CancelRequested { .. }
                | Event::RunCompleted { .. }
                | Event::RunFailed { .. }
                | Event::RunCancelled { .. }
                | Event::RunTerminated { .. }
                | Event::RunContinued { .. }
                | Event::RunTimedOut { .. }
                | Event::RunPaused { .. }
                | Event::RunResumed { .. }
                | Event::RunRetried,
            ) => Ok(()),
        }
    }

    fn apply(&mut self, row: &Row, event: &Event) {
        self.next_seq.0 += 1;
        self.chain = row.chain;
        self.at_ms = row.at_ms;
        self.text_bytes += row.text_bytes() as u64;
        match event {
            Event::RunStarted { options, .. } => {
                self.status = Some(RunStatus::Running);
                self.started_at_ms = row.at_ms;
                self.start = Arc::clone(options);
                self.heard = Heard::before(&options.heard);
            }
            Event::Commanded { op, command } => {
                self.next_op.0 += 1;
                self.apply_command(*op, command, row.seq);
            }
            Event::AttemptFailed { op, attempt, failure, retry_at_ms: due, heartbeat: said } => {
                if let Some(OpenOp::Activity { attempts, retry_at_ms, heartbeat, failed_with, .. }) =
                    self.open.get_mut(op)
                {
                    *failed_with = Some(in_a_line(failure));
                    *attempts = *attempt;
                    *retry_at_ms = Some(*due);
                    heartbeat.clone_from(said);
                }
            }
            Event::ActivityClosed { op, .. }
            | Event::TimerFired { op }
            | Event::ChildClosed { op, .. }
            | Event::MessageClosed { op, .. } => {
                self.close_op(*op);
            }
            Event::SignalReceived { name, id, .. } => {
                id.iter().for_each(|id| self.heard.note(HeardId::signal(id)));
                self.apply_signal(name);
            }
            Event::CancelRequested { id, .. } => {
                id.iter().for_each(|id| self.heard.note(HeardId::cancel(id)));
                let ended: Vec<Op> =
                    self.open.keys().filter(|op| !self.shielded.contains(op)).copied().collect();
                for op in ended {
                    self.close_op(op);
                }
            }
            Event::RunCompleted { .. } => self.close(RunStatus::Completed),
            Event::RunFailed { .. } => self.close(RunStatus::Failed),
            Event::RunCancelled { .. } => self.close(RunStatus::Cancelled),
            Event::RunTerminated { .. } => self.close(RunStatus::Terminated),
            Event::RunContinued { .. } => self.close(RunStatus::Continued),
            Event::RunTimedOut { .. } => self.close(RunStatus::TimedOut),
            Event::RunPaused { .. } => self.status = Some(RunStatus::Paused),
            Event::RunResumed { .. } => self.status = Some(RunStatus::Running),
            Event::RunRetried => {}
        }
    }

    fn apply_command(&mut self, op: Op, command: &Command, seq: Seq) {
        let open = match command {
            Command::ScheduleActivity { name, input, options } => OpenOp::Activity {
                name: Arc::clone(name),
                input: input.clone(),
                options: options.clone(),
                seq,
                scheduled_at_ms: self.at_ms,
                attempts: 0,
                retry_at_ms: None,
                heartbeat: None,
                failed_with: None,
            },
            Command::StartTimer { ms } => OpenOp::Timer { due_at_ms: self.at_ms.saturating_add(*ms) },
            Command::AwaitSignal { name } => match self.signals.get_mut(name) {
                Some(kept) => {
                    *kept -= 1;
                    self.signals_kept -= 1;
                    if *kept == 0 {
                        self.signals.remove(name);
                    }
                    return;
                }
                None => {
                    self.waits.insert(Arc::clone(name), op);
                    OpenOp::Signal { name: Arc::clone(name) }
                }
            },
            Command::StartChild { workflow, input, options } => OpenOp::Child {
                run: RunId::derived(self.id, op, self.at_ms),
                workflow: Arc::clone(workflow),
                input: input.clone(),
                options: options.clone(),
            },
            Command::SignalRun { target, name, payload } => OpenOp::Message {
                target: target.clone(),
                signal: Some((Arc::clone(name), payload.clone())),
                sent_at_ms: self.at_ms,
            },
            Command::CancelRun { target } => {
                OpenOp::Message { target: target.clone(), signal: None, sent_at_ms: self.at_ms }
            }
            Command::Cancel { target } => return self.close_op(*target),
            Command::Shield { target } => {
                if self.open.contains_key(target) {
                    self.shielded.insert(*target);
                }
                return;
            }
            Command::Patch { .. }
            | Command::AnswerUpdate { .. }
            | Command::EditEntity { .. }
            | Command::SetAttributes { .. } => return,
        };
        self.children += usize::from(matches!(open, OpenOp::Child { .. }));
        self.open.insert(op, open);
    }

    fn close_op(&mut self, op: Op) {
        self.shielded.remove(&op);
        match self.open.remove(&op) {
            Some(OpenOp::Signal { name }) => self.waits.remove(&name, op),
            Some(OpenOp::Child { .. }) => self.children -= 1,
            _ => {}
        }
    }

    /// In ledger order; the guest may cancel a wait between the signal's row and its delivery, so
    /// this is what an operator sees, and [`crate::Replay`] is what the guest gets.
    fn apply_signal(&mut self, name: &Arc<str>) {
        match self.waits.oldest(name) {
            Some(op) => self.close_op(op),
            None => {
                *self.signals.entry(Arc::clone(name)).or_default() += 1;
                self.signals_kept += 1;
            }
        }
    }

    fn close(&mut self, status: RunStatus) {
        self.status = Some(status);
        self.open = BTreeMap::new();
        self.children = 0;
        self.waits = Waits::default();
        self.signals = HashMap::new();
        self.signals_kept = 0;
        self.heard = Heard::default();
        self.shielded = BTreeSet::new();
    }
}

/// A failure as it is shown beside other things, and kept for as long as its call is open.
fn in_a_line(failure: &Failure) -> Arc<str> {
    const LINE_BYTES_MAX: usize = 256;
    let mut line = failure.to_string().lines().next().unwrap_or_default().to_owned();
    printable::cut(&mut line, LINE_BYTES_MAX);
    line.into()
}
