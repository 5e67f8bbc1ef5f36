//! Updates: a question to the run's validator, a signal `update:NAME`, and a wait for the row with the
//! answer. Repeated under the same id, an update is the same update, answered or not.
//!
//! | what goes wrong | code |
//! |---|---|
//! | the validator refuses it: nothing was recorded | `update-refused` |
//! | the run cannot be asked | as of a query |
//! | the run closed without an answer | `update-unanswered` |

use std::time::Duration;

use backstitch_core::names::{check_name, check_visible};
use backstitch_core::{
    Command, Event, Failure, HeardId, Json, Kind, Row, RunId, RunStatus, Scope, Seq, limits,
};
use backstitch_wire::views::UpdateView;
use backstitch_wire::{SendSignal, SendUpdate};
use tokio::time::Instant;

use super::error::{ServiceError, away, closed, internal, invalid};
use super::state::Service;

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
        let id = id.unwrap_or_else(|| self.clock.new_id().to_string());
        check_visible("update id", &id).map_err(named)?;
        let goes_after = run.parse::<RunId>().is_err();
        let mut run = self.find_id(scope, run).await?;
        let mut view =
            UpdateView { run_id: run, update_id: id, output: None, failure: None, answered: false };
        // Before anything is sent: an update that was answered is not made again.
        if self.was_received(run, &mut view).await? {
            self.confirm_received(&view).await?;
            if view.answered {
                return Ok(view);
            }
        } else {
            let signal = signal(&name, &view.update_id, &input)?;
            run = self.send_update(scope, run, goes_after, &name, input, signal).await?;
            view.run_id = run;
        }
        let mut seen = Seen::default();
        let mut pause = POLLS.0;
        loop {
            // The status first: an answer is never later than the end of its run.
            let status = self.ledger.run_status(scope, run).await?;
            if self.answer(run, &mut seen, &mut view).await? || Instant::now() >= over {
                return Ok(view);
            }
            if status == Some(RunStatus::Continued)
                && let Some(next) = self.ledger.generation_beside(run, 1).await?
            {
                // What the run had not had has been handed on.
                (run, view.run_id, seen) = (next, next, Seen::default());
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

    /// Makes sure that an update which was found, and not sent by this request, cannot be lost any more.
    async fn confirm_received(&self, view: &UpdateView) -> Result<(), ServiceError> {
        self.ledger.confirm().await?;
        // It may have been another server that confirmed.
        let mut again = UpdateView { output: None, failure: None, answered: false, ..view.clone() };
        match self.was_received(view.run_id, &mut again).await? && again.answered >= view.answered {
            true => Ok(()),
            false => Err(away("it has lost its last commits", "repeat the update with the same id")),
        }
    }

    /// Sends an update that the run, or what it has gone on as, would take; which it was.
    async fn send_update(
        &self,
        scope: Scope,
        mut run: RunId,
        goes_after: bool,
        name: &str,
        input: Json,
        signal: SendSignal,
    ) -> Result<RunId, ServiceError> {
        let message = self.signal_of(scope, signal)?;
        for _ in 0..limits::GENERATIONS_FOLLOWED_MAX {
            self.validate(scope, run, name, input.clone()).await?;
            match self.post_to(scope, run, false, &message).await {
                Err(ServiceError::Conflict { code: "run-closed", .. }) if goes_after => {
                    // Another run, which may think otherwise.
                    let next = self.ledger.successor(run).await?;
                    run = next.ok_or_else(|| closed(run, RunStatus::Continued))?;
                }
                posted => return posted,
            }
        }
        Err(closed(run, RunStatus::Continued))
    }

    /// Whether the update was received by a run or one that it continues, and its answer, if there is one. A run knows
    /// by what it was started with whether those before it had heard of an update.
    async fn was_received(&self, run: RunId, view: &mut UpdateView) -> Result<bool, ServiceError> {
        let id = HeardId::signal(&format!("{PREFIX}{}", view.update_id));
        let mut at = Some(run);
        for _ in 0..limits::GENERATIONS_FOLLOWED_MAX {
            let Some(run) = at else { break };
            let mut seen = Seen::default();
            if self.answer(run, &mut seen, view).await? || seen.received {
                view.run_id = run;
                return Ok(true);
            }
            if !seen.heard_before.contains(&id) {
                return Ok(false);
            }
            at = self.ledger.generation_beside(run, -1).await?;
        }
        // Long ago: it is not made again.
        Ok(true)
    }

    /// Asks the run whether it would take the update.
    async fn validate(&self, scope: Scope, run: RunId, name: &str, input: Json) -> Result<(), ServiceError> {
        let asked = self.ask(scope, &run.to_string(), &format!("{PREFIX}{name}"), input).await?;
        asked.answer.map(drop).map_err(|message| {
            invalid("update-refused", format!("the run refuses the update {name:?}: {message}"))
        })
    }

    /// Looks for the update and its answer in the rows that have come since the last check.
    async fn answer(&self, run: RunId, seen: &mut Seen, view: &mut UpdateView) -> Result<bool, ServiceError> {
        let signal_id = format!("{PREFIX}{}", view.update_id);
        loop {
            let Some((rows, _)) = self.ledger.pages_from(run, seen.from).next().await? else {
                return Ok(false);
            };
            let Some(last) = rows.last() else { return Ok(false) };
            seen.from = Seq(last.seq.0 + 1);
            let told = |row: &&Row| {
                [Kind::RunStarted, Kind::SignalReceived, Kind::UpdateAnswered]
                    .map(Kind::tag)
                    .contains(&row.kind)
            };
            for row in rows.iter().filter(told) {
                match row.event() {
                    Ok(Event::RunStarted { options, .. }) => seen.heard_before.clone_from(&options.heard),
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
    /// What the runs before have heard.
    heard_before: Vec<HeardId>,
}

/// The message of an update.
fn signal(name: &str, update: &str, input: &Json) -> Result<SendSignal, ServiceError> {
    let payload = format!(
        r#"{{"id":{},"input":{}}}"#,
        serde_json::to_string(update).map_err(|error| internal(&error))?,
        input.as_str()
    );
    let payload = Json::new(payload)
        .map_err(|error| ServiceError::TooLarge { code: "payload-too-large", message: error.to_string() })?;
    let id = Some(format!("{PREFIX}{update}"));
    Ok(SendSignal { name: format!("{PREFIX}{name}"), payload, id })
}

fn split(outcome: Result<Json, Failure>) -> (Option<Json>, Option<Failure>) {
    match outcome {
        Ok(output) => (Some(output), None),
        Err(failure) => (None, Some(failure)),
    }
}
