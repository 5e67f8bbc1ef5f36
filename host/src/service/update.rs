//! Updates: a question to the run's validator, a signal `update:NAME`, and a wait for the row with the
//! answer. Repeated under the same id, an update is the same update, answered or not.
//!
//! | what goes wrong | code |
//! |---|---|
//! | the validator refuses it: nothing was recorded | `update-refused` |
//! | the run cannot be asked | as of a query |
//! | the run closed without an answer | `update-unanswered` |

use std::time::Duration;

use backstitch_client::views::UpdateView;
use backstitch_client::{SendSignal, SendUpdate};
use backstitch_core::command::{check_name, check_visible};
use backstitch_core::{Command, Event, Failure, Json, Kind, Row, RunId, RunStatus, Scope, Seq};
use tokio::time::Instant;

use super::Service;
use super::error::{ServiceError, internal, invalid};
use crate::ambient;

/// What the names of signals and queries that belong to updates begin with.
const PREFIX: &str = "update:";

/// Looks for the answer grow rarer from the one to the other.
const POLLS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

impl Service {
    /// Sends an update to an open run and waits for its answer.
    pub async fn update(
        &self,
        scope: Scope,
        run: &str,
        update: SendUpdate,
    ) -> Result<UpdateView, ServiceError> {
        let SendUpdate { name, input, id, wait } = update;
        let over = Instant::now() + wait;
        let named = |problem| invalid("invalid-name", problem);
        check_name("update", &name).map_err(named)?;
        let id = id.unwrap_or_else(|| ambient::new_item_id().to_string());
        check_visible("update id", &id).map_err(named)?;
        let mut run = self.find_id(scope, run).await?;
        let mut view =
            UpdateView { run_id: run, update_id: id, output: None, failure: None, answered: false };
        // Before anything is sent: an update that was answered is not made again.
        let mut seen = Seen::default();
        if self.answer(run, &mut seen, &mut view).await? {
            return Ok(view);
        }
        if !seen.received {
            self.validate(scope, run, &name, input.clone()).await?;
            let payload = format!(
                r#"{{"id":{},"input":{}}}"#,
                serde_json::to_string(&view.update_id).map_err(|error| internal(&error))?,
                input.as_str()
            );
            let payload = Json::new(payload).map_err(|error| ServiceError::TooLarge {
                code: "payload-too-large",
                message: error.to_string(),
            })?;
            let id = Some(format!("{PREFIX}{}", view.update_id));
            let signal = SendSignal { name: format!("{PREFIX}{name}"), payload, id };
            self.signal(scope, &run.to_string(), signal).await?;
        }
        let mut pause = POLLS.0;
        loop {
            // The status first: an answer is never later than the end of its run.
            let status = self.ledger.run_status(scope, run).await?;
            if self.answer(run, &mut seen, &mut view).await? || Instant::now() >= over {
                return Ok(view);
            }
            if status == Some(RunStatus::Continued)
                && let Some(successor) = self.ledger.successor(run).await?
            {
                // What the run had not had has been handed on.
                (run, view.run_id, seen) = (successor, successor, Seen::default());
                continue;
            }
            if let Some(status) = status.filter(|status| !status.is_open()) {
                let message = format!("run {run} is {}, and has not answered the update", status.as_str());
                return Err(ServiceError::Conflict { code: "update-unanswered", message });
            }
            tokio::time::sleep_until(over.min(Instant::now() + pause)).await;
            pause = (pause * 2).min(POLLS.1);
        }
    }

    /// Asks the run whether it would take the update.
    async fn validate(&self, scope: Scope, run: RunId, name: &str, input: Json) -> Result<(), ServiceError> {
        let asked = self.ask(scope, &run.to_string(), &format!("{PREFIX}{name}"), input).await?;
        asked.answer.map(drop).map_err(|message| {
            invalid("update-refused", format!("the run refuses the update {name:?}: {message}"))
        })
    }

    /// Looks for the update and its answer in the rows that have come since the last look.
    async fn answer(&self, run: RunId, seen: &mut Seen, view: &mut UpdateView) -> Result<bool, ServiceError> {
        let signal_id = format!("{PREFIX}{}", view.update_id);
        loop {
            let Some((rows, _)) = self.ledger.pages_from(run, seen.from).next().await? else {
                return Ok(false);
            };
            let Some(last) = rows.last() else { return Ok(false) };
            seen.from = Seq(last.seq.0 + 1);
            let told =
                |row: &&Row| [Kind::SignalReceived.tag(), Kind::UpdateAnswered.tag()].contains(&row.kind);
            for row in rows.iter().filter(told) {
                match row.event() {
                    Ok(Event::SignalReceived { id: Some(id), .. }) => seen.received |= *id == *signal_id,
                    Ok(Event::Commanded { command: Command::AnswerUpdate { update, outcome }, .. })
                        if *update == *view.update_id =>
                    {
                        (view.output, view.failure) = split(outcome);
                        view.answered = true;
                        return Ok(true);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// How far a run's ledger was looked through for one update.
#[derive(Default)]
struct Seen {
    /// The next row to look at.
    from: Seq,
    /// Whether the update is among the rows.
    received: bool,
}

fn split(outcome: Result<Json, Failure>) -> (Option<Json>, Option<Failure>) {
    match outcome {
        Ok(output) => (Some(output), None),
        Err(failure) => (None, Some(failure)),
    }
}
