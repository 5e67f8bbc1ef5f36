//! What the task matcher does with tasks that were delivered to a poll which had ended: they go to the next.

use std::sync::Arc;

use backstitch_core::{Message, TaskToken};
use backstitch_engine::clock::Clock;
use backstitch_engine::matcher::GiveBack;
use backstitch_engine::notifier::HostNotifier;
use backstitch_ledger::{Ledger, Settled};

/// What becomes of tasks that were recorded for a worker which had left: they go to the next.
pub(super) fn give_back(ledger: Ledger, notifier: HostNotifier, clock: Clock) -> GiveBack {
    Arc::new(move |tenant, tasks| {
        let (ledger, notifier, clock) = (ledger.clone(), notifier.clone(), clock.clone());
        tokio::spawn(async move {
            for task in tasks {
                let Ok(token) = task.token.parse::<TaskToken>() else { continue };
                let message = Message::AttemptFreed {
                    op: token.op,
                    attempt: token.attempt,
                    heartbeat: task.heartbeat_details,
                };
                let scope = ledger.scope(tenant);
                let item = clock.new_inbox_item(token.run, &message);
                match ledger.settle_task(scope, token, &item).await {
                    Ok(Settled::Left { owner: Some(owner) }) => notifier.messages(owner),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(run = %token.run, op = %token.op, %error, "a task nobody took comes back when its lease is over");
                    }
                }
            }
        });
    })
}
