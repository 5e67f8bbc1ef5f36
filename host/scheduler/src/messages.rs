//! What one run says to another: sent when the command is committed, as often as it takes, and heard
//! once. The message's identity comes from the command, so that a host that dies in between has its
//! successor send the same one; one that was consumed meanwhile is known by its id.
//!
//! | a message | when | then |
//! |---|---|---|
//! | to a workflow id | its turn comes | its run is looked for |
//! | to a run | that is known | it is posted |
//! | posted | it was accepted | the guest hears of it, and the next one goes |
//! | posted | the run has continued as new | the successor is looked for |
//! | posted | the run's inbox is full | it is posted again, after a pause that grows |
//! | posted, looked for | the run has closed, or there is none | the guest hears of that, and the next one goes |

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::ids::message_id;
use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Failure, FailureKind, Json, Message, Op, RunId, RunStatus, Target};
use backstitch_ledger::Posted;

use crate::action::Action;
use crate::env::Env;
use crate::input::Wake;
use crate::plan::new_inbox_item;
use crate::slot::Sending;
use crate::state::Scheduler;

/// The first pause before a message is posted again, in milliseconds, and the longest.
const PAUSE_MS: (u64, u64) = (50, 2_000);

impl<E: Env> Scheduler<E> {
    /// Sends the messages of commands that are committed, one after the other: whoever gets several of
    /// one run gets them in the order of its commands.
    pub(crate) fn send_messages(&mut self, id: RunId, ops: Vec<Op>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let is_idle = slot.outgoing.is_empty();
        slot.outgoing.extend(ops);
        if is_idle {
            self.send_next(id);
        }
    }

    /// Sends the first message in line that its guest still waits for.
    fn send_next(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.sending = None;
        while let Some(op) = slot.outgoing.front().copied() {
            if slot.run.open_op(op).is_some() {
                return self.send_message(id, op);
            }
            slot.outgoing.pop_front();
        }
    }

    fn send_message(&mut self, id: RunId, op: Op) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(OpenOp::Message { target, .. }) = slot.run.open_op(op) else { return };
        let pause_ms = PAUSE_MS.0;
        match target {
            Target::Workflow(workflow_id) => {
                let workflow_id = Arc::clone(workflow_id);
                slot.sending = Some(Sending { op, name: format!("workflow {workflow_id:?}"), pause_ms });
                let scope = slot.identity.scope;
                self.act(Action::FindRun { from: (id, op), scope, workflow_id });
            }
            Target::Child(child) => match slot.run.open_op(*child) {
                Some(OpenOp::Child { run, .. }) => {
                    let run = *run;
                    slot.sending = Some(Sending { op, name: format!("run {run}"), pause_ms });
                    self.post(id, op, run);
                }
                _ => {
                    let failure = closed(&format!("the child of op {child}"), None);
                    self.delivered(id, op, Err(failure));
                }
            },
        }
    }

    fn post(&mut self, id: RunId, op: Op, to: RunId) {
        let Some(slot) = self.slots.get(&id) else { return };
        let Some(OpenOp::Message { signal, sent_at_ms, .. }) = slot.run.open_op(op) else {
            // Its guest has cancelled it meanwhile, and waits for nothing.
            return self.delivered(id, op, Ok(()));
        };
        let message = message(id, op, signal.as_ref());
        let item = new_inbox_item(message_id(id, op, *sent_at_ms), self.now.ms, to, &message);
        let scope = slot.identity.scope;
        self.act(Action::Post { from: (id, op), scope, item });
    }

    /// The message of this command, if it is the one under way.
    fn sending(&mut self, id: RunId, op: Op) -> Option<&mut Sending> {
        self.slots.get_mut(&id)?.sending.as_mut().filter(|sending| sending.op == op)
    }

    /// To whom a message goes.
    pub(crate) fn on_found(&mut self, id: RunId, op: Op, to: Option<RunId>) {
        let Some(Sending { name, .. }) = self.sending(id, op) else { return };
        match to {
            Some(to) => self.post(id, op, to),
            None => {
                let problem = format!("there is no {name}");
                self.delivered(id, op, Err(unknown(problem)));
            }
        }
    }

    /// What became of a message.
    pub(crate) fn on_posted(&mut self, id: RunId, op: Op, to: RunId, posted: Posted) {
        let Some(sending) = self.sending(id, op) else { return };
        match posted {
            Posted::Accepted { .. } => {
                self.act(Action::ReadInbox);
                self.delivered(id, op, Ok(()));
            }
            Posted::Closed(RunStatus::Continued) => {
                sending.name = format!("the successor of run {to}");
                self.act(Action::FindSuccessor { from: (id, op), of: to });
            }
            Posted::Closed(status) => {
                let failure = closed(&sending.name, Some(status));
                self.delivered(id, op, Err(failure));
            }
            // Its reader is slower than this sender, which waits.
            Posted::Full => {
                let pause = Duration::from_millis(sending.pause_ms);
                sending.pause_ms = (sending.pause_ms * 2).min(PAUSE_MS.1);
                self.act(Action::Wake(pause, Wake::PostAgain((id, op), to)));
            }
            Posted::Unknown => {
                let problem = format!("there is no {}", sending.name);
                self.delivered(id, op, Err(unknown(problem)));
            }
        }
    }

    /// The inbox of the receiver was full a while ago.
    pub(crate) fn post_again(&mut self, id: RunId, op: Op, to: RunId) {
        if self.sending(id, op).is_some() {
            self.post(id, op, to);
        }
    }

    /// A message has come to its end.
    fn delivered(&mut self, id: RunId, op: Op, outcome: Result<(), Failure>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.sending = None;
        if slot.outgoing.front() == Some(&op) {
            slot.outgoing.pop_front();
        }
        if matches!(slot.run.open_op(op), Some(OpenOp::Message { .. })) {
            self.outcome(id, Event::MessageClosed { op, outcome }, None, |_| {});
        }
        self.send_next(id);
        self.advance(id);
    }
}

fn message(from: RunId, op: Op, signal: Option<&(Arc<str>, Json)>) -> Message {
    match signal {
        Some((name, payload)) => Message::Signal {
            name: Arc::clone(name),
            payload: payload.clone(),
            id: Some(format!("{from}:{op}").into()),
        },
        None => Message::Cancel {
            reason: format!("run {from} asked for it"),
            id: Some(format!("{from}:{op}").into()),
        },
    }
}

fn unknown(problem: String) -> Failure {
    Failure::fatal(FailureKind::Application, "unknown-run", problem)
}

fn closed(name: &str, status: Option<RunStatus>) -> Failure {
    let status = status.map_or("closed", RunStatus::as_str);
    let message = format!("{name} is {status}: it takes no more messages");
    Failure::fatal(FailureKind::Application, "run-closed", message)
}
