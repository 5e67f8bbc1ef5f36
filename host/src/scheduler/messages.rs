//! What one run says to another: sent when the command is committed, as often as it takes, and heard
//! once. The message's identity comes from the command, so that a host that dies in between has its
//! successor send the same one; a signal that was consumed meanwhile is known by its id.

use std::sync::Arc;

use backstitch_core::ids::message_id;
use backstitch_core::run::OpenOp;
use backstitch_core::{Event, Failure, FailureKind, Json, Message, Op, RunId, RunStatus, Scope, Target};
use backstitch_ledger::{Append, InboxItem, Ledger, Posted, RunRef};

use super::{Input, Scheduler};
use crate::ambient;
use crate::retry::until_answered;

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
        let (scope, ledger) = (slot.facts.scope, self.tools.ledger.clone());
        let (sender, hint) = (self.sender.clone(), Arc::clone(&self.tools.inbox_hint));
        tokio::spawn(async move {
            let outcome = post(&ledger, scope, address, item_id, &message).await;
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

    /// A message has come for a run that continued as new: the latest run of its workflow id gets it. It
    /// may have been read before it was moved and come here again: there is nothing to move then.
    pub(super) fn look_for_successor(&mut self, item: InboxItem) {
        let (ledger, sender) = (self.tools.ledger.clone(), self.sender.clone());
        tokio::spawn(async move {
            let to = until_answered("looking for a run's successor", || ledger.successor(item.run)).await;
            let to = to.filter(|_| concerns_all(&item));
            if let Some(to) = to {
                let moved = || ledger.move_item(item.run, item.item_id, to);
                until_answered("passing a message on", moved).await;
            }
            let _ = sender.send(Input::Forwarded { item, to }).await;
        });
    }

    /// A message is in the inbox that it is for now, or there is nobody left to hear it.
    pub(super) fn forwarded(&mut self, item: &InboxItem, to: Option<RunId>) {
        if to.is_some() {
            self.consuming.remove(&item.item_id);
            self.tools.inbox_hint.notify_one();
            return;
        }
        let mut append = Append::new(item.scope, item.run);
        append.inbox_done.push((item.run, item.item_id));
        self.send_detached(item.run, append, false);
    }
}

/// Whether a message is for whoever has the workflow id. An outcome of a child or a retry is not.
fn concerns_all(item: &InboxItem) -> bool {
    let message = item.message.message();
    matches!(
        message,
        Ok(Message::Signal { .. }
            | Message::Cancel { .. }
            | Message::Terminate { .. }
            | Message::Pause { .. }
            | Message::Resume { .. })
    )
}

fn message(from: RunId, op: Op, signal: Option<&(Arc<str>, Json)>) -> Message {
    match signal {
        Some((name, payload)) => Message::Signal {
            name: Arc::clone(name),
            payload: payload.clone(),
            id: Some(format!("{from}:{op}").into()),
        },
        None => Message::Cancel { reason: format!("run {from} asked for it") },
    }
}

/// Puts a message into the inbox of the run that it is for.
async fn post(
    ledger: &Ledger,
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
    while let Some(run) = to {
        let posted =
            until_answered("sending a message", || ledger.post(scope, run, item_id, ambient::now_ms(), &row));
        match posted.await {
            Posted::Accepted { .. } => return Ok(()),
            Posted::Closed(RunStatus::Continued) => {
                to = until_answered("looking for a run's successor", || ledger.successor(run)).await;
                name = format!("the successor of run {run}");
            }
            Posted::Closed(status) => return Err(closed(&name, Some(status))),
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
