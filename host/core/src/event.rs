//! The ledger's vocabulary: what a row can say. How it is kept is the affair of [`crate::row`].
//!
//! [`Kind`] numbers and the shape of `detail` are append-only, for ledgers outlive programs.
//!
//! | kind | op | name | payload | detail | attempt |
//! |---|---|---|---|---|---|
//! | run-started | | workflow | input | [`StartOptions`], if any | |
//! | activity-scheduled | own | activity | input | options | |
//! | timer-started | own | | | `{"ms"}` | |
//! | signal-awaited | own | signal | | | |
//! | child-started | own | workflow | input | options | |
//! | op-cancelled | own | | | `{"target"}` | |
//! | change-patched | own | change id | | | |
//! | op-shielded | own | | | `{"target"}` | |
//! | signal-sent | own | signal | payload | target | |
//! | cancel-sent | own | | | target | |
//! | update-answered | own | update id | output | `{"failed"}` | |
//! | entity-edited | own | path | value | `{"edit"}` | |
//! | attributes-set | own | | | [`AttributeChanges`](crate::attribute::AttributeChanges) | |
//! | activity-completed | of the call | | output | | that succeeded |
//! | activity-failed | of the call | | failure | | the last |
//! | activity-attempt-failed | of the call | | failure | `{"retry_at_ms", "heartbeat"}` | that failed |
//! | timer-fired | of the sleep | | | | |
//! | signal-received | | signal | payload | `{"id"}`, if the sender gave one | |
//! | child-completed | of the start | | output | | |
//! | child-failed | of the start | | failure | | |
//! | cancel-requested | | | | `{"reason"}`, `{"id"}` if the sender gave one | |
//! | message-accepted | of the message | | | | |
//! | message-refused | of the message | | failure | | |
//! | run-paused, run-resumed | | | | `{"reason"}` | |
//! | run-completed | | | output | | |
//! | run-failed, run-cancelled | | | failure | | |
//! | run-terminated | | | | `{"reason"}` | |
//! | run-continued | | | input of the next | | |
//! | run-timed-out | | | failure | | |

use std::sync::Arc;

use crate::command::Command;
use crate::failure::Failure;
use crate::ids::Op;
use crate::json::Json;
use crate::start::StartOptions;

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Row 0 of every ledger.
    RunStarted {
        /// Which workflow of the run's component.
        workflow: Arc<str>,
        /// Its input.
        input: Json,
        /// On which terms.
        options: Arc<StartOptions>,
    },
    /// The guest gave a command.
    Commanded {
        /// The command's number.
        op: Op,
        /// The command.
        command: Command,
    },
    /// An attempt of an activity failed and another will follow.
    AttemptFailed {
        /// The call.
        op: Op,
        /// The attempt that failed, 1 for the first.
        attempt: u32,
        /// Its error.
        failure: Failure,
        /// When the next one is due, in milliseconds since the epoch.
        retry_at_ms: u64,
        /// What the last heartbeat said, of this attempt or one before it, for the next one.
        heartbeat: Option<Json>,
    },
    /// An activity's outcome.
    ActivityClosed {
        /// The call.
        op: Op,
        /// The attempt that gave it, 1 for the first.
        attempt: u32,
        /// What the guest gets.
        outcome: Result<Json, Failure>,
    },
    /// A sleep is over.
    TimerFired {
        /// The sleep.
        op: Op,
    },
    /// A signal came in.
    SignalReceived {
        /// The signal's name.
        name: Arc<str>,
        /// What the guest gets.
        payload: Json,
        /// What its sender calls it: a second one of the same id is dropped.
        id: Option<Arc<str>>,
    },
    /// What became of a message to another run.
    MessageClosed {
        /// The command that sent it.
        op: Op,
        /// What the guest gets, if not `null`.
        outcome: Result<(), Failure>,
    },
    /// A child's outcome.
    ChildClosed {
        /// The command that started it.
        op: Op,
        /// What the guest gets.
        outcome: Result<Json, Failure>,
    },
    /// The run was asked to cancel: every op open at this point ends as cancelled.
    CancelRequested {
        /// Who asked, and why, as given.
        reason: String,
        /// What its sender calls it: a second one of the same id is dropped.
        id: Option<Arc<str>>,
    },
    /// An operator holds the run: its guest hears of nothing until it is resumed.
    RunPaused {
        /// Who and why, as given.
        reason: String,
    },
    /// An operator lets it go on.
    RunResumed {
        /// Who and why, as given.
        reason: String,
    },
    /// An operator lets the run go on, which was parked here. That it was is no row.
    RunRetried,
    /// The workflow returned.
    RunCompleted {
        /// Its result.
        output: Json,
    },
    /// The workflow failed.
    RunFailed {
        /// With this.
        failure: Failure,
    },
    /// The workflow ended because it was asked to cancel.
    RunCancelled {
        /// With this.
        failure: Failure,
    },
    /// An operator, or a closing parent, stopped the run.
    RunTerminated {
        /// Who and why, as given.
        reason: String,
    },
    /// A bound of its start passed.
    RunTimedOut {
        /// Which, and when.
        failure: Failure,
    },
    /// The workflow goes on as a new run.
    RunContinued {
        /// The new run's input.
        input: Json,
    },
}

/// What kind of row. Numbers and names are persisted: append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
#[expect(missing_docs, reason = "the table above says it all")]
pub enum Kind {
    RunStarted = 1,
    ActivityScheduled = 2,
    TimerStarted = 3,
    SignalAwaited = 4,
    ChildStarted = 5,
    OpCancelled = 6,
    ChangePatched = 7,
    OpShielded = 8,
    SignalSent = 9,
    CancelSent = 10,
    UpdateAnswered = 11,
    EntityEdited = 12,
    AttributesSet = 13,
    ActivityCompleted = 20,
    ActivityFailed = 21,
    ActivityAttemptFailed = 22,
    TimerFired = 23,
    SignalReceived = 24,
    ChildCompleted = 25,
    ChildFailed = 26,
    CancelRequested = 27,
    MessageAccepted = 28,
    MessageRefused = 29,
    RunPaused = 30,
    RunResumed = 31,
    RunRetried = 32,
    RunCompleted = 40,
    RunFailed = 41,
    RunCancelled = 42,
    RunTerminated = 43,
    RunContinued = 44,
    RunTimedOut = 45,
}

impl Kind {
    /// Every kind, for the view that names them in SQL and for tests.
    pub const ALL: [Self; 32] = [
        Self::RunStarted,
        Self::ActivityScheduled,
        Self::TimerStarted,
        Self::SignalAwaited,
        Self::ChildStarted,
        Self::OpCancelled,
        Self::ChangePatched,
        Self::OpShielded,
        Self::SignalSent,
        Self::CancelSent,
        Self::UpdateAnswered,
        Self::EntityEdited,
        Self::AttributesSet,
        Self::ActivityCompleted,
        Self::ActivityFailed,
        Self::ActivityAttemptFailed,
        Self::TimerFired,
        Self::SignalReceived,
        Self::ChildCompleted,
        Self::ChildFailed,
        Self::CancelRequested,
        Self::MessageAccepted,
        Self::MessageRefused,
        Self::RunPaused,
        Self::RunResumed,
        Self::RunRetried,
        Self::RunCompleted,
        Self::RunFailed,
        Self::RunCancelled,
        Self::RunTerminated,
        Self::RunContinued,
        Self::RunTimedOut,
    ];

    /// The kind with this persisted number.
    pub fn from_tag(tag: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.tag() == tag)
    }

    /// The persisted number.
    pub fn tag(self) -> i16 {
        self as i16
    }

    /// The name that people and programs read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunStarted => "run-started",
            Self::ActivityScheduled => "activity-scheduled",
            Self::TimerStarted => "timer-started",
            Self::SignalAwaited => "signal-awaited",
            Self::ChildStarted => "child-started",
            Self::OpCancelled => "op-cancelled",
            Self::ChangePatched => "change-patched",
            Self::OpShielded => "op-shielded",
            Self::SignalSent => "signal-sent",
            Self::CancelSent => "cancel-sent",
            Self::UpdateAnswered => "update-answered",
            Self::EntityEdited => "entity-edited",
            Self::AttributesSet => "attributes-set",
            Self::ActivityCompleted => "activity-completed",
            Self::ActivityFailed => "activity-failed",
            Self::ActivityAttemptFailed => "activity-attempt-failed",
            Self::TimerFired => "timer-fired",
            Self::SignalReceived => "signal-received",
            Self::ChildCompleted => "child-completed",
            Self::ChildFailed => "child-failed",
            Self::CancelRequested => "cancel-requested",
            Self::MessageAccepted => "message-accepted",
            Self::MessageRefused => "message-refused",
            Self::RunPaused => "run-paused",
            Self::RunResumed => "run-resumed",
            Self::RunRetried => "run-retried",
            Self::RunCompleted => "run-completed",
            Self::RunFailed => "run-failed",
            Self::RunCancelled => "run-cancelled",
            Self::RunTerminated => "run-terminated",
            Self::RunContinued => "run-continued",
            Self::RunTimedOut => "run-timed-out",
        }
    }
}

impl Event {
    /// Whether it is an operator's word about how the run is driven, which says nothing of the run itself: its
    /// guest never hears of it, and a fork does not begin with it.
    pub fn is_operators(&self) -> bool {
        matches!(self, Self::RunPaused { .. } | Self::RunResumed { .. } | Self::RunRetried)
    }

    /// What kind of row the event makes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::RunStarted { .. } => Kind::RunStarted,
            Self::Commanded { command, .. } => match command {
                Command::ScheduleActivity { .. } => Kind::ActivityScheduled,
                Command::StartTimer { .. } => Kind::TimerStarted,
                Command::AwaitSignal { .. } => Kind::SignalAwaited,
                Command::StartChild { .. } => Kind::ChildStarted,
                Command::Cancel { .. } => Kind::OpCancelled,
                Command::Patch { .. } => Kind::ChangePatched,
                Command::Shield { .. } => Kind::OpShielded,
                Command::SignalRun { .. } => Kind::SignalSent,
                Command::CancelRun { .. } => Kind::CancelSent,
                Command::AnswerUpdate { .. } => Kind::UpdateAnswered,
                Command::EditEntity { .. } => Kind::EntityEdited,
                Command::SetAttributes { .. } => Kind::AttributesSet,
            },
            Self::AttemptFailed { .. } => Kind::ActivityAttemptFailed,
            Self::ActivityClosed { outcome: Ok(_), .. } => Kind::ActivityCompleted,
            Self::ActivityClosed { outcome: Err(_), .. } => Kind::ActivityFailed,
            Self::TimerFired { .. } => Kind::TimerFired,
            Self::SignalReceived { .. } => Kind::SignalReceived,
            Self::ChildClosed { outcome: Ok(_), .. } => Kind::ChildCompleted,
            Self::ChildClosed { outcome: Err(_), .. } => Kind::ChildFailed,
            Self::MessageClosed { outcome: Ok(()), .. } => Kind::MessageAccepted,
            Self::MessageClosed { outcome: Err(_), .. } => Kind::MessageRefused,
            Self::CancelRequested { .. } => Kind::CancelRequested,
            Self::RunPaused { .. } => Kind::RunPaused,
            Self::RunResumed { .. } => Kind::RunResumed,
            Self::RunRetried => Kind::RunRetried,
            Self::RunCompleted { .. } => Kind::RunCompleted,
            Self::RunFailed { .. } => Kind::RunFailed,
            Self::RunCancelled { .. } => Kind::RunCancelled,
            Self::RunTerminated { .. } => Kind::RunTerminated,
            Self::RunContinued { .. } => Kind::RunContinued,
            Self::RunTimedOut { .. } => Kind::RunTimedOut,
        }
    }
}
