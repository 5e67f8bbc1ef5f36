//! A ledger row: the persisted form of an [`Event`], flat columns that users query with SQL.
//!
//! Which columns an event has is the table of [`crate::event`]. Writing and reading are inverse to each
//! other; reading fails on columns that no version of this program has written, and never guesses.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::command::{ActivityOptions, ChildOptions, Command};
use crate::entity::Edit;
use crate::event::{Event, Kind};
use crate::failure::Failure;
use crate::ids::{Chain, Op, RunId, Seq};
use crate::json::Json;
use crate::json::attached;
use crate::start::{StartOptions, without_seeds};

/// One ledger row, as it is stored. Cloning shares the texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its place.
    pub seq: Seq,
    /// Its [`Kind::tag`].
    pub kind: i16,
    /// The command it is or belongs to.
    pub op: Option<Op>,
    /// See the table of this module.
    pub name: Option<Arc<str>>,
    /// JSON text in the guest's own bytes.
    pub payload: Option<Arc<str>>,
    /// JSON text of our own making.
    pub detail: Option<Arc<str>>,
    /// Which attempt of an activity.
    pub attempt: Option<u32>,
    /// When it was recorded, in milliseconds since the epoch; never less than in the row before.
    pub at_ms: u64,
    /// Checksum over the previous row's chain and this row.
    pub chain: Chain,
}

/// A row whose columns do not make an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {seq} cannot be read: {problem}")]
pub struct Unreadable {
    /// The row's place.
    pub seq: Seq,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Serialize, Deserialize)]
struct TimerDetail {
    ms: u64,
}

#[derive(Serialize, Deserialize)]
struct TargetDetail {
    target: Op,
}

#[derive(Serialize, Deserialize)]
struct AnswerDetail {
    failed: bool,
}

#[derive(Serialize, Deserialize)]
struct SignalDetail {
    id: Arc<str>,
}

#[derive(Serialize, Deserialize)]
struct AttemptDetail {
    retry_at_ms: u64,
    #[serde(default, deserialize_with = "attached", skip_serializing_if = "Option::is_none")]
    heartbeat: Option<Json>,
}

#[derive(Serialize, Deserialize)]
struct EditDetail {
    edit: String,
}

#[derive(Serialize, Deserialize)]
struct ReasonDetail {
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct CancelDetail {
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Arc<str>>,
}

/// The columns of a row before it has a place.
#[derive(Default)]
struct Columns {
    op: Option<Op>,
    name: Option<Arc<str>>,
    payload: Option<Arc<str>>,
    detail: Option<Arc<str>>,
    attempt: Option<u32>,
}

impl Event {
    /// The row at `seq` of `run`, chained to `previous`.
    pub(crate) fn chained(&self, run: RunId, seq: Seq, at_ms: u64, previous: Chain) -> Row {
        let Columns { op, name, payload, detail, attempt } = self.columns();
        let kind = self.kind().tag();
        let mut row = Row { seq, kind, op, name, payload, detail, attempt, at_ms, chain: Chain(0) };
        row.chain = row.link(run, previous);
        row
    }

    fn columns(&self) -> Columns {
        match self {
            Self::RunStarted { workflow, input, options } => Columns {
                name: Some(Arc::clone(workflow)),
                payload: Some(input.text()),
                detail: (**options != StartOptions::default()).then(|| detail_text(&**options)),
                ..Columns::default()
            },
            Self::Commanded { op, command } => Columns { op: Some(*op), ..command_columns(command) },
            Self::AttemptFailed { op, attempt, failure, retry_at_ms, heartbeat } => Columns {
                op: Some(*op),
                payload: Some(failure_text(failure)),
                detail: Some(detail_text(&AttemptDetail {
                    retry_at_ms: *retry_at_ms,
                    heartbeat: heartbeat.clone(),
                })),
                attempt: Some(*attempt),
                ..Columns::default()
            },
            Self::ActivityClosed { op, attempt, outcome } => Columns {
                op: Some(*op),
                payload: Some(outcome_text(outcome)),
                attempt: Some(*attempt),
                ..Columns::default()
            },
            Self::TimerFired { op } => Columns { op: Some(*op), ..Columns::default() },
            Self::SignalReceived { name, payload, id } => Columns {
                name: Some(Arc::clone(name)),
                payload: Some(payload.text()),
                detail: id.as_ref().map(|id| detail_text(&SignalDetail { id: Arc::clone(id) })),
                ..Columns::default()
            },
            Self::MessageClosed { op, outcome } => Columns {
                op: Some(*op),
                payload: outcome.as_ref().err().map(failure_text),
                ..Columns::default()
            },
            Self::ChildClosed { op, outcome } => {
                Columns { op: Some(*op), payload: Some(outcome_text(outcome)), ..Columns::default() }
            }
            Self::CancelRequested { reason, id } => Columns {
                detail: Some(detail_text(&CancelDetail { reason: reason.clone(), id: id.clone() })),
                ..Columns::default()
            },
            Self::RunTerminated { reason } | Self::RunPaused { reason } | Self::RunResumed { reason } => {
                Columns {
                    detail: Some(detail_text(&ReasonDetail { reason: reason.clone() })),
                    ..Columns::default()
                }
            }
            Self::RunRetried => Columns::default(),
            Self::RunCompleted { output: payload } | Self::RunContinued { input: payload } => {
                Columns { payload: Some(payload.text()), ..Columns::default() }
            }
            Self::RunFailed { failure } | Self::RunCancelled { failure } | Self::RunTimedOut { failure } => {
                Columns { payload: Some(failure_text(failure)), ..Columns::default() }
            }
        }
    }
}

fn command_columns(command: &Command) -> Columns {
    match command {
        Command::ScheduleActivity { name, input, options } => Columns {
            name: Some(Arc::clone(name)),
            payload: Some(input.text()),
            detail: (*options != ActivityOptions::default()).then(|| detail_text(options)),
            ..Columns::default()
        },
        Command::StartTimer { ms } => {
            Columns { detail: Some(detail_text(&TimerDetail { ms: *ms })), ..Columns::default() }
        }
        Command::AwaitSignal { name } | Command::Patch { change_id: name } => {
            Columns { name: Some(Arc::clone(name)), ..Columns::default() }
        }
        Command::StartChild { workflow, input, options } => Columns {
            name: Some(Arc::clone(workflow)),
            payload: Some(input.text()),
            detail: (*options != ChildOptions::default()).then(|| detail_text(options)),
            ..Columns::default()
        },
        Command::Cancel { target } | Command::Shield { target } => {
            Columns { detail: Some(detail_text(&TargetDetail { target: *target })), ..Columns::default() }
        }
        Command::SignalRun { target, name, payload } => Columns {
            name: Some(Arc::clone(name)),
            payload: Some(payload.text()),
            detail: Some(detail_text(target)),
            ..Columns::default()
        },
        Command::AnswerUpdate { update, outcome } => Columns {
            name: Some(Arc::clone(update)),
            payload: Some(outcome_text(outcome)),
            detail: outcome.is_err().then(|| detail_text(&AnswerDetail { failed: true })),
            ..Columns::default()
        },
        Command::CancelRun { target } => Columns { detail: Some(detail_text(target)), ..Columns::default() },
        Command::EditEntity { path, edit } => Columns {
            name: Some(Arc::clone(path)),
            payload: edit.value().map(|value| value.text()),
            detail: Some(detail_text(&EditDetail { edit: edit.as_str().to_owned() })),
            ..Columns::default()
        },
        Command::SetAttributes { changes } => {
            Columns { detail: Some(detail_text(changes)), ..Columns::default() }
        }
    }
}

fn detail_text(detail: &impl Serialize) -> Arc<str> {
    serde_json::to_string(detail).expect("plain structs of numbers and strings always serialise").into()
}

fn failure_text(failure: &Failure) -> Arc<str> {
    detail_text(failure)
}

fn outcome_text(outcome: &Result<Json, Failure>) -> Arc<str> {
    match outcome {
        Ok(output) => output.text(),
        Err(failure) => failure_text(failure),
    }
}

impl Row {
    /// What the row says. Fails on columns that no version of this program has written.
    pub fn event(&self) -> Result<Event, Unreadable> {
        let kind = Kind::from_tag(self.kind)
            .ok_or_else(|| self.unreadable(format!("unknown kind {}", self.kind)))?;
        Ok(match kind {
            Kind::RunStarted => Event::RunStarted {
                workflow: self.name()?,
                input: self.payload()?,
                options: Arc::new(self.detail_or_default()?),
            },
            Kind::ActivityScheduled => self.commanded(Command::ScheduleActivity {
                name: self.name()?,
                input: self.payload()?,
                options: self.detail_or_default()?,
            })?,
            Kind::TimerStarted => {
                self.commanded(Command::StartTimer { ms: self.detail::<TimerDetail>()?.ms })?
            }
            Kind::SignalAwaited => self.commanded(Command::AwaitSignal { name: self.name()? })?,
            Kind::ChildStarted => self.commanded(Command::StartChild {
                workflow: self.name()?,
                input: self.payload()?,
                options: self.detail_or_default()?,
            })?,
            Kind::OpCancelled => {
                self.commanded(Command::Cancel { target: self.detail::<TargetDetail>()?.target })?
            }
            Kind::OpShielded => {
                self.commanded(Command::Shield { target: self.detail::<TargetDetail>()?.target })?
            }
            Kind::SignalSent => self.commanded(Command::SignalRun {
                target: self.detail()?,
                name: self.name()?,
                payload: self.payload()?,
            })?,
            Kind::UpdateAnswered => self.commanded(Command::AnswerUpdate {
                update: self.name()?,
                outcome: match self.detail {
                    Some(_) if self.detail::<AnswerDetail>()?.failed => Err(self.failure()?),
                    _ => Ok(self.payload()?),
                },
            })?,
            Kind::EntityEdited => {
                self.commanded(Command::EditEntity { path: self.name()?, edit: self.edit()? })?
            }
            Kind::AttributesSet => self.commanded(Command::SetAttributes { changes: self.detail()? })?,
            Kind::CancelSent => self.commanded(Command::CancelRun { target: self.detail()? })?,
            Kind::ChangePatched => self.commanded(Command::Patch { change_id: self.name()? })?,
            Kind::ActivityCompleted => Event::ActivityClosed {
                op: self.op()?,
                attempt: self.attempt()?,
                outcome: Ok(self.payload()?),
            },
            Kind::ActivityFailed => Event::ActivityClosed {
                op: self.op()?,
                attempt: self.attempt()?,
                outcome: Err(self.failure()?),
            },
            Kind::ActivityAttemptFailed => {
                let AttemptDetail { retry_at_ms, heartbeat } = self.detail()?;
                let (op, attempt, failure) = (self.op()?, self.attempt()?, self.failure()?);
                Event::AttemptFailed { op, attempt, failure, retry_at_ms, heartbeat }
            }
            Kind::TimerFired => Event::TimerFired { op: self.op()? },
            Kind::SignalReceived => Event::SignalReceived {
                name: self.name()?,
                payload: self.payload()?,
                id: match self.detail {
                    Some(_) => Some(self.detail::<SignalDetail>()?.id),
                    None => None,
                },
            },
            Kind::MessageAccepted => Event::MessageClosed { op: self.op()?, outcome: Ok(()) },
            Kind::MessageRefused => Event::MessageClosed { op: self.op()?, outcome: Err(self.failure()?) },
            Kind::ChildCompleted => Event::ChildClosed { op: self.op()?, outcome: Ok(self.payload()?) },
            Kind::ChildFailed => Event::ChildClosed { op: self.op()?, outcome: Err(self.failure()?) },
            Kind::CancelRequested => {
                let CancelDetail { reason, id } = self.detail()?;
                Event::CancelRequested { reason, id }
            }
            Kind::RunCompleted => Event::RunCompleted { output: self.payload()? },
            Kind::RunFailed => Event::RunFailed { failure: self.failure()? },
            Kind::RunCancelled => Event::RunCancelled { failure: self.failure()? },
            Kind::RunTerminated => Event::RunTerminated { reason: self.detail::<ReasonDetail>()?.reason },
            Kind::RunContinued => Event::RunContinued { input: self.payload()? },
            Kind::RunTimedOut => Event::RunTimedOut { failure: self.failure()? },
            Kind::RunPaused => Event::RunPaused { reason: self.detail::<ReasonDetail>()?.reason },
            Kind::RunRetried => Event::RunRetried,
            Kind::RunResumed => Event::RunResumed { reason: self.detail::<ReasonDetail>()?.reason },
        })
    }

    /// The checksum that the row must carry if it follows a row with the chain `previous` in `run`:
    /// XXH3-64 over every column, each with its length, so that no two rows hash the same text.
    pub fn link(&self, run: RunId, previous: Chain) -> Chain {
        let mut hash = Xxh3::with_seed(previous.0);
        hash.update(run.0.as_bytes());
        hash.update(&self.seq.0.to_le_bytes());
        hash.update(&self.kind.to_le_bytes());
        for number in [self.op.map(|op| op.0), self.attempt] {
            hash.update(&number.map_or(u64::MAX, u64::from).to_le_bytes());
        }
        for text in [&self.name, &self.payload, &self.detail] {
            let length = text.as_ref().map_or(u64::MAX, |text| text.len() as u64);
            hash.update(&length.to_le_bytes());
            hash.update(text.as_deref().unwrap_or_default().as_bytes());
        }
        hash.update(&self.at_ms.to_le_bytes());
        Chain(hash.digest())
    }

    /// Its detail as it is shown to whoever may look at the run: that of a start [without its seeds](without_seeds).
    pub fn shown_detail(&self) -> Option<Arc<str>> {
        let detail = self.detail.as_ref()?;
        let is_start = self.seq == Seq(0) || self.kind == Kind::RunStarted.tag();
        if is_start { without_seeds(detail).map(Into::into) } else { Some(Arc::clone(detail)) }
    }

    /// Bytes of text that the row carries.
    pub fn text_bytes(&self) -> usize {
        [&self.name, &self.payload, &self.detail].into_iter().flatten().map(|text| text.len()).sum()
    }

    fn unreadable(&self, problem: impl Into<String>) -> Unreadable {
        Unreadable { seq: self.seq, problem: problem.into() }
    }

    fn commanded(&self, command: Command) -> Result<Event, Unreadable> {
        Ok(Event::Commanded { op: self.op()?, command })
    }

    fn op(&self) -> Result<Op, Unreadable> {
        self.op.ok_or_else(|| self.unreadable("no op"))
    }

    fn attempt(&self) -> Result<u32, Unreadable> {
        self.attempt.ok_or_else(|| self.unreadable("no attempt"))
    }

    fn name(&self) -> Result<Arc<str>, Unreadable> {
        self.name.clone().ok_or_else(|| self.unreadable("no name"))
    }

    fn payload(&self) -> Result<Json, Unreadable> {
        let text = self.payload.clone().ok_or_else(|| self.unreadable("no payload"))?;
        Json::new(text).map_err(|error| self.unreadable(format!("payload: {error}")))
    }

    fn edit(&self) -> Result<Edit, Unreadable> {
        let EditDetail { edit } = self.detail()?;
        Ok(match edit.as_str() {
            "set" => Edit::Set(self.payload()?),
            "merge" => Edit::Merge(self.payload()?),
            "append" => Edit::Append(self.payload()?),
            "increment" => {
                let by = serde_json::from_str(self.payload()?.as_str());
                Edit::Increment(by.map_err(|error| self.unreadable(format!("increment: {error}")))?)
            }
            "delete" => Edit::Delete,
            other => return Err(self.unreadable(format!("unknown edit {other:?}"))),
        })
    }

    fn failure(&self) -> Result<Failure, Unreadable> {
        let text = self.payload.as_deref().ok_or_else(|| self.unreadable("no failure"))?;
        serde_json::from_str(text).map_err(|error| self.unreadable(format!("failure: {error}")))
    }

    fn detail<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        let text = self.detail.as_deref().ok_or_else(|| self.unreadable("no detail"))?;
        serde_json::from_str(text).map_err(|error| self.unreadable(format!("detail: {error}")))
    }

    fn detail_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Unreadable> {
        if self.detail.is_some() { self.detail() } else { Ok(T::default()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::Attribute;
    use crate::command::{ParentClose, Target};
    use crate::failure::FailureKind;
    use crate::random::{Seed, Source};
    use crate::retry::RetryPolicy;
    use crate::rules::Rules;
    use crate::start::{Forked, Parent};
    use uuid::Uuid;

    const RUN: RunId = RunId(Uuid::from_u128(1));

    fn json(text: &str) -> Json {
        Json::new(text).unwrap()
    }

    fn options_of_a_start() -> Arc<StartOptions> {
        Arc::new(StartOptions {
            start_at_ms: Some(1),
            run_timeout_ms: Some(2),
            execution_deadline_ms: Some(3),
            priority: Some(4),
            memo: Some(json(r#"{"b":1,"a":[ ]}"#)),
            attributes: [("t".into(), Attribute::Flag(false))].into(),
            entity: Some(json("{}")),
            depth: 5,
            parent: Some(Parent { run: RUN, workflow_id: "p".into() }),
            forked: Some(Forked { run: RUN, rows: Seq(6), original: RUN }),
            heard: vec![crate::heard::HeardId::signal("i")],
            rules: Rules::Second,
            random: vec![Source { from: Seq(0), seed: Seed([7; 32]) }],
        })
    }

    fn one_of_each() -> Vec<Event> {
        let failure = Failure {
            details: Some(json(r#"{"z":1,"a":2.0}"#)),
            retry_after_ms: Some(8),
            attempts: 9,
            ..Failure::fatal(FailureKind::Timeout, "late", "too \"late\"\n")
        };
        let bounds = ActivityOptions {
            task_queue: Some("q".into()),
            start_to_close_ms: Some(1),
            schedule_to_close_ms: Some(2),
            schedule_to_start_ms: Some(4),
            heartbeat_ms: Some(3),
            retry: Some(RetryPolicy { non_retryable: vec!["x".into()], ..RetryPolicy::default() }),
        };
        let child = ChildOptions { workflow_id: Some("c".into()), parent_close: ParentClose::Abandon };
        let name: Arc<str> = "n".into();
        let edit = |edit| Command::EditEntity { path: "a.b".into(), edit };
        let changes = [
            ("t".into(), Some(Attribute::Text("x \"y\"".into()))),
            ("n".into(), Some(Attribute::Number(0.1))),
            ("f".into(), Some(Attribute::Flag(true))),
            ("at".into(), Some(Attribute::TimeMs(7))),
            ("gone".into(), None),
        ]
        .into();
        let options = options_of_a_start();
        let commands = [
            Command::ScheduleActivity { name: name.clone(), input: json("[1]"), options: bounds },
            Command::StartTimer { ms: 5 },
            Command::AwaitSignal { name: name.clone() },
            Command::StartChild { workflow: name.clone(), input: json("{}"), options: child },
            Command::Cancel { target: Op(1) },
            Command::Patch { change_id: name.clone() },
            Command::Shield { target: Op(2) },
            Command::SignalRun { target: Target::Child(Op(3)), name: name.clone(), payload: json("1") },
            Command::CancelRun { target: Target::Workflow("w \"1\"".into()) },
            Command::AnswerUpdate { update: name.clone(), outcome: Ok(json("[1 ]")) },
            Command::AnswerUpdate { update: name.clone(), outcome: Err(failure.clone()) },
            edit(Edit::Set(json("{ }"))),
            edit(Edit::Merge(json("{}"))),
            edit(Edit::Append(json("1"))),
            edit(Edit::Increment(-0.5)),
            edit(Edit::Delete),
            Command::SetAttributes { changes },
        ];
        let commands = commands
            .into_iter()
            .enumerate()
            .map(|(op, command)| Event::Commanded { op: Op(op as u32), command });
        let attempt_failed = |heartbeat| Event::AttemptFailed {
            op: Op(0),
            attempt: 1,
            failure: failure.clone(),
            retry_at_ms: 9,
            heartbeat,
        };
        let outcomes = [
            Event::RunStarted { workflow: name.clone(), input: json("null"), options: Arc::default() },
            Event::RunStarted { workflow: name.clone(), input: json("null"), options },
            attempt_failed(None),
            attempt_failed(Some(json("null"))),
            Event::ActivityClosed { op: Op(0), attempt: 2, outcome: Ok(json("2")) },
            Event::ActivityClosed { op: Op(0), attempt: 2, outcome: Err(failure.clone()) },
            Event::TimerFired { op: Op(1) },
            Event::SignalReceived { name: name.clone(), payload: json("\"s\""), id: None },
            Event::SignalReceived { name, payload: json("\"s\""), id: Some("i".into()) },
            Event::MessageClosed { op: Op(7), outcome: Ok(()) },
            Event::MessageClosed { op: Op(7), outcome: Err(failure.clone()) },
            Event::ChildClosed { op: Op(3), outcome: Ok(json("true")) },
            Event::ChildClosed { op: Op(3), outcome: Err(failure.clone()) },
            Event::CancelRequested { reason: "why".into(), id: None },
            Event::CancelRequested { reason: "why".into(), id: Some("i".into()) },
            Event::RunCompleted { output: json("[]") },
            Event::RunFailed { failure: failure.clone() },
            Event::RunCancelled { failure: failure.clone() },
            Event::RunTimedOut { failure },
            Event::RunPaused { reason: "stop".into() },
            Event::RunResumed { reason: "go".into() },
            Event::RunRetried,
            Event::RunTerminated { reason: "so".into() },
            Event::RunContinued { input: json("7") },
        ];
        commands.chain(outcomes).collect()
    }

    #[test]
    fn every_event_survives_its_row() {
        let events = one_of_each();
        for event in &events {
            let row = event.chained(RUN, Seq(4), 1_000, Chain(9));
            assert_eq!(row.event().as_ref(), Ok(event));
        }
        for kind in Kind::ALL {
            assert!(events.iter().any(|event| event.kind() == kind), "{kind:?} is not covered");
            assert_eq!(Kind::from_tag(kind.tag()), Some(kind));
        }
    }

    #[test]
    fn a_change_of_any_column_breaks_the_chain() {
        let chained = one_of_each()[0].chained(RUN, Seq(4), 1_000, Chain(9));
        let edits: [fn(&mut Row); 8] = [
            |row| row.seq.0 += 1,
            |row| row.kind += 1,
            |row| row.op = None,
            |row| row.attempt = Some(0),
            |row| row.name = Some("m".into()),
            |row| row.payload = Some("[2]".into()),
            |row| row.detail = None,
            |row| row.at_ms += 1,
        ];
        for (index, edit) in edits.iter().enumerate() {
            let mut row = chained.clone();
            edit(&mut row);
            assert_ne!(row.link(RUN, Chain(9)), chained.chain, "edit {index}");
        }
        assert_ne!(chained.link(RUN, Chain(8)), chained.chain, "another predecessor");
        assert_ne!(chained.link(RunId(Uuid::from_u128(2)), Chain(9)), chained.chain, "another run");
    }

    #[test]
    fn text_cannot_move_between_columns_unnoticed() {
        let mut one = one_of_each()[0].chained(RUN, Seq(0), 0, Chain(0));
        (one.name, one.payload) = (Some("ab".into()), Some("c".into()));
        let first = one.link(RUN, Chain(0));
        (one.name, one.payload) = (Some("a".into()), Some("bc".into()));
        assert_ne!(one.link(RUN, Chain(0)), first);
    }

    #[test]
    fn a_row_that_no_version_wrote_is_unreadable() {
        let mut row = one_of_each()[1].chained(RUN, Seq(2), 0, Chain(0));
        row.detail = Some("{}".into());
        assert!(row.event().unwrap_err().to_string().starts_with("row 2 cannot be read: detail: missing"));
        row.kind = 19;
        assert_eq!(row.event().unwrap_err().problem, "unknown kind 19");
    }
}
