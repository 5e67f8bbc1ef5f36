//! What a host does with schedules: looks at those that are due, decides, carries out, writes down.
//!
//! Every host does, and any of them may die at any point: what was done and not written down is done again,
//! by whoever comes first, and finds its runs there. Two hosts that look at the same time decide the same;
//! the second to write finds another revision and forgets what it wanted.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use backstitch_core::schedule::{Action, Closing, Decision, Snapshot, Spec, State, Stop, Times, decide};
use backstitch_core::{Message, RunId, RunStatus, Scope, limits};
use backstitch_engine::failpoint;
use backstitch_engine::retry::until_answered;
use backstitch_ledger::{Schedule, ScheduleChange};
use backstitch_wire::{IdReuse, StartRun};
use futures::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::{ServiceError, is_open, read, text};
use crate::calendar::Calendar;
use crate::service::Service;
use crate::service::error::internal;

/// Longest wait between two checks for schedules that are due: other hosts change them too.
const POLL: Duration = Duration::from_secs(1);
/// How late a change by another host may be that says that its schedule is due now, in milliseconds: so far back a check
/// begins. What is later still is found when all that is due is looked for, so often.
const LATE_MS_MAX: u64 = 10_000;
/// See [`LATE_MS_MAX`].
const ALL_DUE: Duration = Duration::from_secs(30);
/// Schedules that a host looks at at once.
const SCHEDULES_AT_ONCE: usize = 16;
/// Runs of one schedule that a host starts at once: each may have to wait for a commit.
const STARTS_AT_ONCE: usize = 16;

/// A start that was refused for good: workflow id and reason.
type Refusal = (Arc<str>, String);

impl Service {
    /// Looks after all schedules for as long as the term lasts.
    pub(crate) async fn keep_schedules(self) {
        let mut closings = self.closings();
        let (mut from_ms, mut all_at) = (0, Instant::now());
        loop {
            if all_at.elapsed() >= ALL_DUE {
                (from_ms, all_at) = (0, Instant::now());
            }
            let now_ms = self.clock.now_ms();
            let due = || self.ledger.due_schedules(from_ms, now_ms, limits::CLAIM_ROWS_MAX);
            let due = until_answered("looking for due schedules", due).await;
            // Made before the stream: a closure inside of it would have to serve every lifetime.
            let checks: Vec<_> = due.iter().map(|schedule| Box::pin(self.check_or_warn(schedule))).collect();
            let checks = futures::stream::iter(checks).buffer_unordered(SCHEDULES_AT_ONCE);
            let all = checks.collect::<Vec<bool>>().await.into_iter().all(|done| done);
            if all && !due.is_empty() {
                continue;
            }
            if due.is_empty() {
                from_ms = now_ms.saturating_sub(LATE_MS_MAX);
            }
            let wait = if all { self.until_next_schedule(from_ms).await } else { POLL };
            let closed = async {
                loop {
                    match closings.recv().await {
                        Ok(run) => {
                            if let Some(schedule) = self.started_by(run) {
                                return schedule;
                            }
                        }
                        // What is missed is found by the next check that is due.
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // A change that took its time may have come for a time that was looked at.
                () = self.schedule_hint.notified() => from_ms = 0,
                (scope, name) = closed => self.check_waiting(scope, &name).await,
            }
        }
    }

    /// Which schedule has started a run that closed here.
    fn started_by(&self, run: RunId) -> Option<(Scope, Arc<str>)> {
        self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).pop(&run)
    }

    /// One of a schedule's runs has closed: what waits for that need not wait for a check that is due.
    async fn check_waiting(&self, scope: Scope, name: &str) {
        let read = || self.ledger.schedule(scope, name);
        let Some(schedule) = until_answered("reading a schedule", read).await else { return };
        if super::read::<State>(&schedule.state).is_ok_and(|state| !state.waiting.is_empty()) {
            self.check_or_warn(&schedule).await;
        }
    }

    /// Whether the check succeeded.
    async fn check_or_warn(&self, schedule: &Schedule) -> bool {
        let attended = self.attend(schedule).await;
        if let Err(error) = &attended {
            tracing::warn!(schedule = schedule.name, %error, "a schedule has to wait");
        }
        attended.is_ok()
    }

    async fn until_next_schedule(&self, from_ms: u64) -> Duration {
        let next = || self.ledger.next_schedule_due(from_ms);
        let next = until_answered("looking for the next schedule", next).await;
        let now_ms = self.clock.now_ms();
        next.map_or(POLL, |next| Duration::from_millis(next.saturating_sub(now_ms)).min(POLL))
    }

    /// One check of a schedule, as it was read. An error means that nothing was written down and that the same
    /// look may succeed later.
    pub(super) async fn attend(&self, schedule: &Schedule) -> Result<(), ServiceError> {
        let (spec, state): (Spec, State) = (read(&schedule.spec)?, read(&schedule.state)?);
        let calendar = Calendar::new(&spec.when).map_err(|error| internal(&error))?;
        let now_ms = self.clock.now_ms();
        let closed = self.closed_runs(schedule, &state).await?;
        let backfill = state.backfills.front();
        let backfill = backfill.map(|backfill| calendar.between(backfill.after_ms, backfill.through_ms));
        let snapshot = Snapshot {
            name: &schedule.name,
            now_ms,
            closed: &closed,
            calendar: &calendar.ahead(state.considered_ms, now_ms),
            backfill: &backfill.unwrap_or_else(Times::default),
        };
        let decision = decide(&spec, &state, &snapshot);
        if !decision.actions.is_empty() {
            failpoint::point("schedule-decided");
        }
        let refusals = self.carry_out(schedule, &spec, &decision).await?;
        let Decision { actions, mut state, due_ms } = decision;
        if !actions.is_empty() {
            failpoint::point("schedule-done");
        }
        // What was refused leaves room for what waits. Nothing is due before now: checks do not go back for it.
        let due_ms = if refusals.is_empty() { due_ms.map(|ms| ms.max(now_ms)) } else { Some(now_ms) };
        for (workflow_id, error) in refusals {
            tracing::warn!(schedule = schedule.name, %workflow_id, error, "a scheduled start was refused");
            state.refused(&workflow_id, error);
        }
        let state = text(&state)?;
        let change = ScheduleChange { spec: None, state: &state, due_ms };
        let Schedule { scope, name, revision, .. } = schedule;
        let noted = self.ledger.change_schedule(*scope, name, *revision, change).await?;
        if noted && !actions.is_empty() {
            failpoint::point("schedule-noted");
        }
        Ok(())
    }

    async fn closed_runs(&self, schedule: &Schedule, state: &State) -> Result<Vec<Closing>, ServiceError> {
        let statuses = self.statuses(schedule.scope, &[state]).await?;
        let closing = |id: &Arc<str>| {
            let status = statuses.get(&**id).copied();
            // A run that is not there any more keeps nobody waiting.
            status.is_none_or(|status| !is_open(status)).then(|| Closing {
                workflow_id: Arc::clone(id),
                failed: matches!(status, Some(RunStatus::Failed | RunStatus::TimedOut)),
            })
        };
        Ok(state.running.iter().filter_map(|run| closing(&run.workflow_id)).collect())
    }

    async fn carry_out(
        &self,
        schedule: &Schedule,
        spec: &Spec,
        decision: &Decision,
    ) -> Result<Vec<Refusal>, ServiceError> {
        let acts: Vec<_> =
            decision.actions.iter().map(|action| Box::pin(self.act(schedule, spec, action))).collect();
        let done = futures::stream::iter(acts).buffered(STARTS_AT_ONCE).collect::<Vec<_>>().await;
        Ok(done.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// Carries out one action; a refusal if it can never be.
    async fn act(
        &self,
        schedule: &Schedule,
        spec: &Spec,
        action: &Action,
    ) -> Result<Option<Refusal>, ServiceError> {
        match action {
            Action::Start { at_ms, workflow_id } => {
                let started = self.start_scheduled(schedule, spec, *at_ms, workflow_id).await?;
                Ok(started.err().map(|why| (Arc::clone(workflow_id), why)))
            }
            Action::Stop { workflow_id, how } => {
                self.stop_scheduled(schedule, workflow_id, *how).await.map(|()| None)
            }
        }
    }

    /// Starts the run of a nominal time, or finds it. The inner error is final.
    async fn start_scheduled(
        &self,
        schedule: &Schedule,
        spec: &Spec,
        at_ms: u64,
        workflow_id: &str,
    ) -> Result<Result<(), String>, ServiceError> {
        let Schedule { scope, name, .. } = schedule;
        let start = StartRun {
            reuse: IdReuse::Reject,
            ..StartRun::new(&*spec.what.workflow, Some(workflow_id.to_owned()), spec.what.input.clone())
        };
        match self.start_on(*scope, start, spec.options(name, at_ms)).await {
            Ok(started) => {
                let started_by = (*scope, Arc::from(name.as_str()));
                let mut scheduled = self.scheduled.lock().unwrap_or_else(PoisonError::into_inner);
                scheduled.put(started.run.run_id, started_by);
                Ok(Ok(()))
            }
            Err(error @ (ServiceError::Unavailable { .. } | ServiceError::Internal(_))) => Err(error),
            Err(refused) => Ok(Err(refused.to_string())),
        }
    }

    async fn stop_scheduled(
        &self,
        schedule: &Schedule,
        workflow_id: &str,
        how: Stop,
    ) -> Result<(), ServiceError> {
        let reason = format!("the schedule {} starts its next run", schedule.name);
        let message = match how {
            Stop::Cancel => Message::Cancel { reason, id: None },
            Stop::Terminate => Message::Terminate { reason, only_this: false },
        };
        match self.post(schedule.scope, workflow_id, &message).await {
            // It has closed meanwhile.
            Err(ServiceError::Conflict { .. } | ServiceError::NotFound { .. }) => Ok(()),
            posted => posted,
        }
    }
}
