//! What others may say to a run: written by anyone into the inbox, consumed by the run's owner, which
//! alone may turn it into ledger rows.
//!
//! | kind | op | name | payload | detail |
//! |---|---|---|---|---|
//! | signal | | signal | payload | `{"id"}`, if the sender gave one |
//! | cancel | | | | `{"reason"}`, and `{"id"}`, if the sender gave one |
//! | terminate, terminate-this | | | | `{"reason"}` |
//! | retry, repair | | | | |
//! | pause, resume | | | | `{"reason"}` |
//! | child-completed, child-failed | of the start | | output, failure | |
//! | attempt-completed, attempt-failed | of the call | | output, failure | `{"attempt", "heartbeat"}` |
//! | attempt-freed | of the call | | | `{"attempt", "heartbeat"}` |
//! | attempt-wanted | of the call | | | |

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ids::Op;
use crate::json::Json;

/// One message to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A signal for the guest.
    Signal {
        /// Its name.
        name: Arc<str>,
        /// What the guest gets.
        payload: Json,
        /// What its sender calls it: a second one of the same id is dropped.
        id: Option<Arc<str>>,
    },
    /// Please stop: the guest may clean up.
    Cancel {
        /// Who and why.
        reason: String,
        /// What its sender calls it: a second one of the same id is dropped.
        id: Option<Arc<str>>,
    },
    /// Stop now: the guest is not asked.
    Terminate {
        /// Who and why.
        reason: String,
        /// Not the run that this one may have gone on as meanwhile.
        only_this: bool,
    },
    /// A parked run may go on.
    Retry,
    /// What follows from the run's ledger, and stands beside it, is to be made anew.
    Repair,
    /// Hold the run until it is resumed.
    Pause {
        /// Who and why.
        reason: String,
    },
    /// Let a paused run go on.
    Resume {
        /// Who and why.
        reason: String,
    },
    /// A child of the run has closed.
    ChildClosed {
        /// The command that started it.
        op: Op,
        /// What the guest gets.
        outcome: Result<Json, Failure>,
    },
    /// A task of the run was carried out.
    AttemptEnded {
        /// The call.
        op: Op,
        /// Which attempt, 1 for the first.
        attempt: u32,
        /// How it ended.
        outcome: Result<Json, Failure>,
        /// What its last heartbeat said, or that of an attempt before.
        heartbeat: Option<Json>,
    },
    /// A task of the run is nobody's any more, and was not carried out: the attempt is to be made again.
    AttemptFreed {
        /// The call.
        op: Op,
        /// Which attempt, 1 for the first.
        attempt: u32,
        /// What the last heartbeat said.
        heartbeat: Option<Json>,
    },
    /// An operator wants the next attempt of a call now.
    AttemptWanted {
        /// The call.
        op: Op,
    },
}

/// A message as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageRow {
    /// The persisted number of the kind: append-only.
    pub kind: i16,
    /// See the table of this module.
    pub op: Option<Op>,
    /// See the table of this module.
    pub name: Option<Arc<str>>,
    /// JSON text in the sender's own bytes.
    pub payload: Option<Arc<str>>,
    /// JSON text of our own making.
    pub detail: Option<Arc<str>>,
}

/// A stored message that no version of this program wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an inbox item cannot be read: {0}")]
pub struct UnreadableMessage(String);

#[derive(Serialize, Deserialize)]
struct Reason {
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
struct SignalId {
    id: Arc<str>,
}

#[derive(Serialize, Deserialize)]
struct Attempt {
    attempt: u32,
    #[serde(default, deserialize_with = "crate::json::attached", skip_serializing_if = "Option::is_none")]
    heartbeat: Option<Json>,
}

const SIGNAL: i16 = 1;
const CANCEL: i16 = 2;
const TERMINATE: i16 = 3;
const RETRY: i16 = 4;
const CHILD_COMPLETED: i16 = 5;
const CHILD_FAILED: i16 = 6;
const PAUSE: i16 = 7;
const RESUME: i16 = 8;
const ATTEMPT_COMPLETED: i16 = 9;
const ATTEMPT_FAILED: i16 = 10;
const ATTEMPT_FREED: i16 = 11;
const ATTEMPT_WANTED: i16 = 12;
const REPAIR: i16 = 13;
const TERMINATE_THIS: i16 = 14;

/// Kinds of the messages that a task leaves when it goes. Until the run's owner has read one, its call is
/// not offered.
pub const LEFT_BY_TASKS: [i16; 3] = [ATTEMPT_COMPLETED, ATTEMPT_FAILED, ATTEMPT_FREED];

/// Those of them that say how an attempt ended.
pub const ANSWERS: [i16; 2] = [ATTEMPT_COMPLETED, ATTEMPT_FAILED];

/// Kinds of the messages by which a child tells how it ended.
pub const CHILD_NOTES: [i16; 2] = [CHILD_COMPLETED, CHILD_FAILED];

/// Kinds of the messages whose detail is what somebody said.
pub const REASONED: [i16; 5] = [CANCEL, TERMINATE, PAUSE, RESUME, TERMINATE_THIS];

/// Kinds of the messages that are for whoever has the workflow id: a run that continued as new has not to hear them.
pub const PASSED_ON: [i16; 5] = [SIGNAL, CANCEL, TERMINATE, PAUSE, RESUME];

/// Kinds of the messages that a parked run hears. It hears the others, in their order, when it goes on.
pub const HEARD_WHEN_PARKED: [i16; 4] = [TERMINATE, RETRY, REPAIR, TERMINATE_THIS];

/// Kinds of the messages that a run which is paused or delayed does not hear before it goes on.
pub const UNHEARD_WHEN_PAUSED_OR_DELAYED: [i16; 3] = [CANCEL, ATTEMPT_FREED, ATTEMPT_WANTED];

/// The kind of signals: what a run takes as long as it has room for them.
pub const SIGNALS: i16 = SIGNAL;

/// The kind of requests to pause.
pub const PAUSES: i16 = PAUSE;

impl Message {
    /// The persisted form.
    pub fn to_row(&self) -> MessageRow {
        match self {
            Self::Signal { name, payload, id } => MessageRow {
                kind: SIGNAL,
                name: Some(Arc::clone(name)),
                payload: Some(payload.text()),
                detail: id.as_ref().map(|id| text(&SignalId { id: Arc::clone(id) })),
                ..MessageRow::default()
            },
            Self::Cancel { reason, id } => reasoned(CANCEL, reason, id.clone()),
            Self::Terminate { reason, only_this: false } => reasoned(TERMINATE, reason, None),
            Self::Terminate { reason, only_this: true } => reasoned(TERMINATE_THIS, reason, None),
            Self::Pause { reason } => reasoned(PAUSE, reason, None),
            Self::Resume { reason } => reasoned(RESUME, reason, None),
            Self::Retry => MessageRow { kind: RETRY, ..MessageRow::default() },
            Self::Repair => MessageRow { kind: REPAIR, ..MessageRow::default() },
            Self::ChildClosed { op, outcome: Ok(output) } => MessageRow {
                kind: CHILD_COMPLETED,
                op: Some(*op),
                payload: Some(output.text()),
                ..MessageRow::default()
            },
            Self::ChildClosed { op, outcome: Err(failure) } => MessageRow {
                kind: CHILD_FAILED,
                op: Some(*op),
                payload: Some(text(failure)),
                ..MessageRow::default()
            },
            Self::AttemptEnded { op, attempt, outcome, heartbeat } => {
                let (kind, payload) = match outcome {
                    Ok(output) => (ATTEMPT_COMPLETED, output.text()),
                    Err(failure) => (ATTEMPT_FAILED, text(failure)),
                };
                MessageRow { payload: Some(payload), ..attempted(kind, *op, *attempt, heartbeat) }
            }
            Self::AttemptFreed { op, attempt, heartbeat } => {
                attempted(ATTEMPT_FREED, *op, *attempt, heartbeat)
            }
            Self::AttemptWanted { op } => {
                MessageRow { kind: ATTEMPT_WANTED, op: Some(*op), ..MessageRow::default() }
            }
        }
    }
}

impl MessageRow {
    /// What the row says. Fails on columns that no version of this program has written.
    pub fn message(&self) -> Result<Message, UnreadableMessage> {
        match self.kind {
            SIGNAL => {
                let name = self.name.clone().ok_or_else(|| bad("no name"))?;
                let id = self.detail.as_deref().map(serde_json::from_str::<SignalId>).transpose();
                Ok(Message::Signal {
                    name,
                    payload: self.json()?,
                    id: id.map_err(bad)?.map(|signal| signal.id),
                })
            }
            CANCEL => {
                let Reason { reason, id } = self.reasoned()?;
                Ok(Message::Cancel { reason, id })
            }
            TERMINATE | TERMINATE_THIS => {
                Ok(Message::Terminate { reason: self.reason()?, only_this: self.kind == TERMINATE_THIS })
            }
            RETRY => Ok(Message::Retry),
            REPAIR => Ok(Message::Repair),
            PAUSE => Ok(Message::Pause { reason: self.reason()? }),
            RESUME => Ok(Message::Resume { reason: self.reason()? }),
            CHILD_COMPLETED => Ok(Message::ChildClosed { op: self.op()?, outcome: Ok(self.json()?) }),
            CHILD_FAILED => Ok(Message::ChildClosed { op: self.op()?, outcome: Err(self.failure()?) }),
            ATTEMPT_COMPLETED | ATTEMPT_FAILED => {
                let Attempt { attempt, heartbeat } = self.attempt()?;
                let outcome =
                    if self.kind == ATTEMPT_COMPLETED { Ok(self.json()?) } else { Err(self.failure()?) };
                Ok(Message::AttemptEnded { op: self.op()?, attempt, outcome, heartbeat })
            }
            ATTEMPT_FREED => {
                let Attempt { attempt, heartbeat } = self.attempt()?;
                Ok(Message::AttemptFreed { op: self.op()?, attempt, heartbeat })
            }
            ATTEMPT_WANTED => Ok(Message::AttemptWanted { op: self.op()? }),
            kind => Err(bad(format!("unknown kind {kind}"))),
        }
    }

    fn op(&self) -> Result<Op, UnreadableMessage> {
        self.op.ok_or_else(|| bad("no op"))
    }

    fn json(&self) -> Result<Json, UnreadableMessage> {
        let text = self.payload.clone().ok_or_else(|| bad("no payload"))?;
        Json::new(text).map_err(bad)
    }

    fn failure(&self) -> Result<Failure, UnreadableMessage> {
        let text = self.payload.as_deref().ok_or_else(|| bad("no failure"))?;
        serde_json::from_str(text).map_err(bad)
    }

    fn attempt(&self) -> Result<Attempt, UnreadableMessage> {
        let text = self.detail.as_deref().ok_or_else(|| bad("no detail"))?;
        serde_json::from_str(text).map_err(bad)
    }

    fn reasoned(&self) -> Result<Reason, UnreadableMessage> {
        let text = self.detail.as_deref().ok_or_else(|| bad("no detail"))?;
        serde_json::from_str(text).map_err(bad)
    }

    fn reason(&self) -> Result<String, UnreadableMessage> {
        self.reasoned().map(|detail| detail.reason)
    }
}

fn reasoned(kind: i16, reason: &str, id: Option<Arc<str>>) -> MessageRow {
    let detail = Some(text(&Reason { reason: reason.to_owned(), id }));
    MessageRow { kind, detail, ..MessageRow::default() }
}

fn attempted(kind: i16, op: Op, attempt: u32, heartbeat: &Option<Json>) -> MessageRow {
    let detail = Some(text(&Attempt { attempt, heartbeat: heartbeat.clone() }));
    MessageRow { kind, op: Some(op), detail, ..MessageRow::default() }
}

fn text(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value).expect("plain structs of numbers and strings always serialise").into()
}

fn bad(problem: impl ToString) -> UnreadableMessage {
    UnreadableMessage(problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_its_row() {
        let messages = [
            Message::Signal {
                name: "s".into(),
                payload: Json::new("{\"b\":1,\"a\":1.0}").unwrap(),
                id: None,
            },
            Message::Signal { name: "s".into(), payload: Json::null(), id: Some("\"i".into()) },
            Message::Cancel { reason: "why \"so\"".into(), id: None },
            Message::Cancel { reason: "why".into(), id: Some("i".into()) },
            Message::Terminate { reason: String::new(), only_this: false },
            Message::Terminate { reason: "so".into(), only_this: true },
            Message::Retry,
            Message::Repair,
            Message::Pause { reason: "x".into() },
            Message::Resume { reason: "y".into() },
            Message::ChildClosed { op: Op(4), outcome: Ok(Json::null()) },
            Message::ChildClosed { op: Op(4), outcome: Err(Failure::cancelled()) },
            Message::AttemptEnded { op: Op(4), attempt: 1, outcome: Ok(Json::null()), heartbeat: None },
            Message::AttemptEnded {
                op: Op(4),
                attempt: 2,
                outcome: Err(Failure::cancelled()),
                heartbeat: Some(Json::null()),
            },
            Message::AttemptFreed { op: Op(4), attempt: 3, heartbeat: Some(Json::new("[1.0]").unwrap()) },
            Message::AttemptWanted { op: Op(4) },
        ];
        for message in messages {
            assert_eq!(message.to_row().message(), Ok(message));
        }
        assert!(MessageRow { kind: 99, ..MessageRow::default() }.message().is_err());
    }
}
