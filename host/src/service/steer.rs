//! What a client says to a run that is there: messages into its inbox, taken up by its owner.

use backstitch_client::SendSignal;
use backstitch_core::command::{check_name, check_visible};
use backstitch_core::{Message, RunId, RunStatus, Scope, limits};
use backstitch_ledger::Posted;

use super::Service;
use super::error::{ServiceError, invalid, unknown_run};
use crate::ambient;

impl Service {
    /// Sends a signal to an open run.
    pub async fn signal(&self, scope: Scope, id: &str, signal: SendSignal) -> Result<(), ServiceError> {
        let SendSignal { name, payload, id: signal_id } = signal;
        let named = |problem| invalid("invalid-name", problem);
        check_name("signal", &name).map_err(named)?;
        signal_id.as_deref().map_or(Ok(()), |id| check_visible("signal id", id)).map_err(named)?;
        self.admit(scope, &payload)?;
        let message = Message::Signal { name: name.into(), payload, id: signal_id.map(Into::into) };
        self.post(scope, id, &message).await
    }

    /// Asks an open run to cancel.
    pub async fn cancel(&self, scope: Scope, id: &str, reason: String) -> Result<(), ServiceError> {
        self.post(scope, id, &Message::Cancel { reason: bounded(reason) }).await
    }

    /// Stops an open run.
    pub async fn terminate(&self, scope: Scope, id: &str, reason: String) -> Result<(), ServiceError> {
        self.post(scope, id, &Message::Terminate { reason: bounded(reason) }).await
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

    /// Has all that follows from the ledgers of the tenant's open runs made anew by whoever owns them; how many there are.
    pub async fn repair_all(&self, scope: Scope) -> Result<u64, ServiceError> {
        let (message, mut runs, mut after) = (Message::Repair.to_row(), 0, None);
        loop {
            let now_ms = ambient::now_ms();
            let page = limits::PAGE_ROWS_MAX;
            let (last, posted) =
                self.ledger.post_to_open(scope, after, &message, now_ms, page, ambient::new_item_id).await?;
            runs += posted;
            if last.is_none() {
                return Ok(runs);
            }
            after = last;
        }
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
        let run = self.find(scope, id).await?.summary;
        if run.status.is_open() && run.status != RunStatus::Paused {
            let message = format!("run {} is not paused: it is {}", run.run, run.status.as_str());
            return Err(ServiceError::Conflict { code: "not-paused", message });
        }
        self.post(scope, id, &Message::Resume { reason: bounded(reason) }).await
    }

    /// A run that continues as new in between has a successor under the same workflow id.
    pub(super) async fn post(&self, scope: Scope, id: &str, message: &Message) -> Result<(), ServiceError> {
        let mut run = self.find_id(scope, id).await?;
        let (item, now_ms) = (ambient::new_item_id(), ambient::now_ms());
        let mut posted = self.ledger.post(scope, run, item, now_ms, &message.to_row()).await?;
        while posted == Posted::Closed(RunStatus::Continued) && id.parse::<RunId>().is_err() {
            run = self.find_id(scope, id).await?;
            posted = self.ledger.post(scope, run, item, now_ms, &message.to_row()).await?;
        }
        match posted {
            Posted::Accepted { owner } => {
                if let Some(owner) = owner {
                    self.crier.messages(owner);
                }
                Ok(())
            }
            Posted::Closed(status) => {
                let message = format!("run {run} is {}: it takes no more messages", status.as_str());
                Err(ServiceError::Conflict { code: "run-closed", message })
            }
            Posted::Unknown => Err(unknown_run(id)),
        }
    }
}

/// Cut to what a row may carry.
pub(super) fn bounded(mut reason: String) -> String {
    backstitch_core::fault::cut(&mut reason, limits::MESSAGE_BYTES_MAX);
    reason
}
