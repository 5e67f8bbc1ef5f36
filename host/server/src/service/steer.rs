//! What a client says to a run that is there: messages into its inbox, taken up by its owner.

use backstitch_core::names::{check_name, check_visible};
use backstitch_core::{Message, RunId, RunStatus, Scope, limits};
use backstitch_engine::clock::id_by_database;
use backstitch_ledger::Posted;
use backstitch_wire::SendSignal;

use super::error::{ServiceError, closed, crowded, invalid, unknown_run};
use super::state::Service;

impl Service {
    /// Sends a signal to an open run.
    pub async fn signal(&self, scope: Scope, id: &str, signal: SendSignal) -> Result<(), ServiceError> {
        let message = self.signal_of(scope, signal)?;
        self.post(scope, id, &message).await
    }

    /// Sends a signal to a run, or to what it has gone on as.
    pub(super) async fn signal_after(
        &self,
        scope: Scope,
        run: RunId,
        signal: SendSignal,
    ) -> Result<(), ServiceError> {
        let message = self.signal_of(scope, signal)?;
        self.post_to(scope, run, true, &message).await.map(drop)
    }

    /// A signal, if it may be sent.
    pub(super) fn signal_of(&self, scope: Scope, signal: SendSignal) -> Result<Message, ServiceError> {
        let SendSignal { name, payload, id } = signal;
        let named = |problem| invalid("invalid-name", problem);
        check_name("signal", &name).map_err(named)?;
        id.as_deref().map_or(Ok(()), |id| check_visible("signal id", id)).map_err(named)?;
        self.admit(scope, &payload)?;
        Ok(Message::Signal { name: name.into(), payload, id: id.map(Into::into) })
    }

    /// Asks an open run to cancel; of several requests under one id it hears one.
    pub async fn cancel(
        &self,
        scope: Scope,
        id: &str,
        reason: String,
        cancel_id: Option<String>,
    ) -> Result<(), ServiceError> {
        let named = |problem| invalid("invalid-name", problem);
        cancel_id.as_deref().map_or(Ok(()), |id| check_visible("cancel id", id)).map_err(named)?;
        self.post(scope, id, &Message::Cancel { reason: bounded(reason), id: cancel_id.map(Into::into) })
            .await
    }

    /// Stops an open run.
    pub async fn terminate(&self, scope: Scope, id: &str, reason: String) -> Result<(), ServiceError> {
        self.post(scope, id, &Message::Terminate { reason: bounded(reason), only_this: false }).await
    }

    /// Lets a parked run go on.
    pub async fn retry(&self, scope: Scope, id: &str) -> Result<(), ServiceError> {
        let run = self.find(scope, id).await?;
        if matches!(run.summary.status, RunStatus::Running | RunStatus::Paused) {
            let status = run.summary.status.as_str();
            let message = format!("run {} is not parked: it is {status}", run.summary.run);
            return Err(ServiceError::Conflict { code: "not-parked", message });
        }
        self.post(scope, id, &Message::Retry).await
    }

    /// Holds an open run until it is resumed.
    pub async fn pause(&self, scope: Scope, id: &str, reason: String) -> Result<(), ServiceError> {
        let run = self.find(scope, id).await?.summary;
        if run.status == RunStatus::Parked {
            let message = format!(
                "run {} is parked, which is still enough: it goes on when it is retried, and not before",
                run.run
            );
            return Err(ServiceError::Conflict { code: "run-parked", message });
        }
        self.post(scope, id, &Message::Pause { reason: bounded(reason) }).await
    }

    /// Lets a paused run go on.
    pub async fn resume(&self, scope: Scope, id: &str, reason: String) -> Result<(), ServiceError> {
        let run = self.find_id(scope, id).await?;
        // Its pause may be on its way: whoever asks for both is heard in that order.
        let found = self.ledger.status_and_pause(scope, run).await?;
        let (status, pauses) = found.ok_or_else(|| unknown_run(id))?;
        if status.is_open() && status != RunStatus::Paused && !pauses {
            let message = format!("run {run} is not paused: it is {}", status.as_str());
            return Err(ServiceError::Conflict { code: "not-paused", message });
        }
        self.post(scope, id, &Message::Resume { reason: bounded(reason) }).await
    }

    /// A run that continues as new in between has a successor under the same workflow id.
    pub(super) async fn post(&self, scope: Scope, id: &str, message: &Message) -> Result<(), ServiceError> {
        let run = self.find_id(scope, id).await?;
        self.post_to(scope, run, id.parse::<RunId>().is_err(), message).await.map(drop)
    }

    /// Puts a message into the inbox of a run, or, if `goes_after`, of what the run has gone on as; which it was.
    pub(super) async fn post_to(
        &self,
        scope: Scope,
        mut run: RunId,
        goes_after: bool,
        message: &Message,
    ) -> Result<RunId, ServiceError> {
        let at_us = self.ledger.clock_us().await?;
        let (item, now_ms, row) = (id_by_database(at_us), at_us / 1_000, message.to_row());
        for _ in 0..limits::GENERATIONS_FOLLOWED_MAX {
            match self.ledger.post(scope, run, item, now_ms, &row).await? {
                Posted::Accepted { owner } => {
                    owner.into_iter().for_each(|owner| self.notifier.messages(owner));
                    return Ok(run);
                }
                Posted::Closed(RunStatus::Continued) if goes_after => {
                    let next = self.ledger.successor(run).await?;
                    run = next.ok_or_else(|| closed(run, RunStatus::Continued))?;
                }
                Posted::Closed(status) => return Err(closed(run, status)),
                Posted::Full => return Err(crowded(run)),
                Posted::Unknown => return Err(unknown_run(&run.to_string())),
            }
        }
        Err(closed(run, RunStatus::Continued))
    }
}

/// Cut to what a row may carry.
pub(super) fn bounded(mut reason: String) -> String {
    backstitch_core::printable::cut(&mut reason, limits::MESSAGE_BYTES_MAX);
    reason
}
