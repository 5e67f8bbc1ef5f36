//! A call that its attempt leaves to be answered later: how the attempt asks for that, and what its own end
//! means then.
//!
//! The attempt asks through the sandbox. The scheduler sends an append with the task of the call, held under a
//! new lease, and the token comes back when that is committed. From then on the row of the task alone decides:
//! whoever removes it has said how the attempt ends, be it somebody with the token, an operator, a bound of
//! the call, or the attempt itself by failing. So one answer is taken, on whatever host it is given, and
//! a failure that comes after it changes nothing.

use std::pin::Pin;
use std::sync::Arc;

use backstitch_core::{Failure, Json, Message, Op, RunId, Scope, TaskToken};
use backstitch_ledger::{Ledger, Settled};
use backstitch_sandbox::{Defer, Heartbeat};
use backstitch_scheduler::AttemptEnd;
use tokio::sync::{OnceCell, oneshot};

use crate::clock::Clock;
use crate::driver::{Deferring, Input, Inputs};
use crate::notifier::HostNotifier;
use crate::retry::until_answered;

/// What one attempt on this host may do about who answers its call.
#[derive(Debug)]
pub struct Deferral {
    /// The run.
    pub run: RunId,
    /// The call.
    pub op: Op,
    /// Which attempt.
    pub attempt: u32,
    /// When the attempt is over by the word of the call itself, in milliseconds since the epoch.
    pub until_ms: Option<u64>,
    /// What the attempt says of itself.
    pub heartbeat: Arc<Heartbeat>,
    /// To the scheduler.
    pub inputs: Inputs,
    /// What time it is.
    pub clock: Clock,
    /// What came of the first time that it was asked for.
    pub handed: OnceCell<Option<Handed>>,
}

/// What an attempt has that has left its call to others.
#[derive(Clone, Debug)]
pub struct Handed {
    token: TaskToken,
    /// What its last heartbeat had said: it is with the task.
    said: Option<Json>,
}

impl Defer for Deferral {
    fn defer(&self) -> Pin<Box<dyn Future<Output = Option<TaskToken>> + Send + '_>> {
        Box::pin(async {
            let handed = self.handed.get_or_init(|| self.ask()).await;
            handed.as_ref().map(|handed| handed.token)
        })
    }
}

impl Deferral {
    async fn ask(&self) -> Option<Handed> {
        let Self { run, op, attempt, until_ms, .. } = *self;
        let said = self.heartbeat.details();
        let (reply, held) = oneshot::channel();
        let deferring = Deferring { run, op, attempt, until_ms, heartbeat: said.clone(), reply };
        self.inputs.send(Input::Defer(deferring)).await.ok()?;
        Some(Handed { token: held.await.ok()?, said })
    }

    /// What the scheduler is told of the end of the attempt. If the guest has the token, the call is not the
    /// attempt's any more: a failure is left with the task, as anybody's with that token, and an output is
    /// dropped. What the guest has said since goes to the task, too.
    ///
    /// Waits for the database. A repetition after a lost reply does no harm: the task is gone then, and the
    /// failure in the inbox.
    pub async fn end(
        &self,
        outcome: Result<Json, Failure>,
        scope: Scope,
        ledger: &Ledger,
        notifier: &HostNotifier,
    ) -> AttemptEnd {
        let Some(Handed { token, said }) = self.handed.get().cloned().flatten() else {
            return AttemptEnd::Outcome(outcome);
        };
        let TaskToken { run, op, attempt, .. } = token;
        if let Err(failure) = &outcome {
            tracing::info!(%run, %op, attempt, code = failure.code, "an attempt failed that had deferred its call");
        }
        let details = self.heartbeat.details();
        if let Some(details) = details.filter(|details| Some(details) != said.as_ref()) {
            let keep = || ledger.heartbeat_task(scope, token, Some(&details));
            until_answered("keeping what an attempt has said", keep).await;
        }
        if let Err(failure) = outcome {
            let message = Message::AttemptEnded { op, attempt, outcome: Err(failure), heartbeat: None };
            let item = self.clock.new_inbox_item(run, &message);
            let leave = || ledger.settle_task(scope, token, &item);
            if let Settled::Left { owner: Some(owner) } = until_answered("failing a held call", leave).await {
                notifier.messages(owner);
            }
        }
        AttemptEnd::Deferred(token.lease)
    }
}
