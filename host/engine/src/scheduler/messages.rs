//! What one run says to another: sent when the command is committed, as often as it takes, and heard
//! once. The message's identity comes from the command, so that a host that dies in between has its
//! successor send the same one; one that was consumed meanwhile is known by its id.

use std::sync::Arc;

use backstitch_core::ids::message_id;
use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Failure, FailureKind, Json, Message, Op, RunId, RunStatus, Scope, Target};
use backstitch_ledger::{Ledger, Posted, RunRef};

use super::input::Input;
use super::state::Scheduler;
use crate::clock::Clock;
use crate::retry::{Pace, until_answered};

/// Where a message goes.
enum Address {
    Run(RunId),
    Workflow(Arc<str>),
}

impl Scheduler {
    /// Sends the messages of commands that are committed, one after the other: whoever gets several of
    /// one run gets them in the order of its commands.
    pub(super) fn send_messages(&mut self, id: RunId, ops: Vec<Op>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let idle = slot.outgoing.is_empty();
        slot.outgoing.extend(ops);
        if idle {
            self.send_next(id);
        }
    }

    /// Sends the first message in line that its guest still waits for.
    fn send_next(&mut self, id: RunId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        while let Some(op) = slot.outgoing.front().copied() {
            if slot.run.open_op(op).is_some() {
                return self.send_message(id, op);
            }
            slot.outgoing.pop_front();
        }
    }

    fn send_message(&mut self, id: RunId, op: Op) {
        let Some(slot) = self.slots.get(&id) else { return };
        let Some(OpenOp::Message { target, signal, sent_at_ms }) = slot.run.open_op(op) else { return };
        let address = match target {
            Target::Workflow(id) => Address::Workflow(Arc::clone(id)),
            Target::Child(child) => match slot.run.open_op(*child) {
                Some(OpenOp::Child { run, .. }) => Address::Run(*run),
                _ => return self.delivered(id, op, Err(closed(&format!("the child of op {child}"), None))),
            },
        };
        let message = message(id, op, signal.as_ref());
        let item_id = message_id(id, op, *sent_at_ms);
        let (scope, ledger, clock) = (slot.facts.scope, self.tools.ledger.clone(), self.tools.clock.clone());
        let (sender, hint) = (self.sender.clone(), Arc::clone(&self.tools.inbox_hint));
        self.sending.spawn(async move {
            let outcome = post(&ledger, &clock, scope, address, item_id, &message).await;
            hint.notify_one();
            let _ = sender.send(Input::Delivered { run: id, op, outcome }).await;
        });
    }

    /// What became of a message.
    pub(super) fn delivered(&mut self, id: RunId, op: Op, outcome: Result<(), Failure>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
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

/// Puts a message into the inbox of the run that it is for.
async fn post(
    ledger: &Ledger,
    clock: &Clock,
    scope: Scope,
    address: Address,
    item_id: uuid::Uuid,
    message: &Message,
) -> Result<(), Failure> {
    let row = message.to_row();
    let mut name = match &address {
        Address::Run(run) => format!("run {run}"),
        Address::Workflow(id) => format!("workflow {id:?}"),
    };
    let mut to = match address {
        Address::Run(run) => Some(run),
        Address::Workflow(id) => {
            until_answered("looking for a run", || ledger.run_id(scope, RunRef::WorkflowId(&id))).await
        }
    };
    let mut pace = Pace::default();
    while let Some(run) = to {
        let posted =
            until_answered("sending a message", || ledger.post(scope, run, item_id, clock.now_ms(), &row));
        match posted.await {
            Posted::Accepted { .. } => return Ok(()),
            Posted::Closed(RunStatus::Continued) => {
                to = until_answered("looking for a run's successor", || ledger.successor(run)).await;
                name = format!("the successor of run {run}");
            }
            Posted::Closed(status) => return Err(closed(&name, Some(status))),
            // Its reader is slower than this sender, which waits.
            Posted::Full => pace.wait().await,
            Posted::Unknown => break,
        }
    }
    Err(Failure::fatal(FailureKind::Application, "unknown-run", format!("there is no {name}")))
}

fn closed(name: &str, status: Option<RunStatus>) -> Failure {
    let status = status.map_or("closed", RunStatus::as_str);
    let message = format!("{name} is {status}: it takes no more messages");
    Failure::fatal(FailureKind::Application, "run-closed", message)
}
