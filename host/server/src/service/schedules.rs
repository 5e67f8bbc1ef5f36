//! Schedules, as clients make and change them. What hosts do with them is in [`attend`].
//!
//! A change is made to the revision that was read and tried again when a host was faster; the host that
//! looks at the schedule next does what it leads to.
//!
//! | what is wrong | code |
//! |---|---|
//! | a name, or the terms of the start | `invalid-name`, `invalid-start` |
//! | its times | `invalid-times`, `invalid-cron`, `unknown-time-zone` |
//! | its policy, the period of a backfill | `invalid-policy`, `invalid-backfill` |
//! | nothing serves its workflow | `unknown-workflow` |
//! | the name is taken, or there is none | `schedule-exists`, `unknown-schedule` |
//! | the spec is another one by now | `schedule-changed` |
//! | too many requests wait | `schedule-full` |

mod attend;

use std::collections::BTreeMap;

use backstitch_core::names::{check_name, check_new_id};
use backstitch_core::schedule::{Backfill, Spec, SpecError, State};
use backstitch_core::{RunStatus, Scope, date, limits};
use backstitch_ledger::{Schedule, ScheduleChange};
use backstitch_wire::schedules::{
    BackfillSchedule, CreateSchedule, ListSchedules, PausedView, RecentStartView, ReplaceSchedule,
    ScheduleListView, ScheduleView, ScheduledRunView, TriggerSchedule, TriggeredView,
};
use serde::de::DeserializeOwned;

use super::error::{ServiceError, internal, invalid};
use super::state::Service;
use super::views::page_limit;
use crate::calendar::{Calendar, CalendarError};

/// How often a change is tried while hosts are faster. Each loss means that a host has noted a start.
const EDITS_MAX: usize = 50;
/// Next times that are shown.
const NEXT_TIMES: usize = 5;

impl Service {
    /// Makes a schedule.
    pub async fn create_schedule(
        &self,
        scope: Scope,
        create: CreateSchedule,
    ) -> Result<ScheduleView, ServiceError> {
        let CreateSchedule { name, spec, paused, note } = create;
        let named = |problem| invalid("invalid-name", problem);
        check_new_id("schedule name", &name).map_err(named)?;
        spec.what.id_prefix.as_deref().map_or(Ok(()), |id| check_new_id("id prefix", id)).map_err(named)?;
        self.check_spec(scope, &name, &spec).await?;
        let now_ms = self.clock.now_ms();
        let mut state = State::new(&spec, now_ms);
        if paused {
            state.pause(now_ms, note);
        }
        let (spec, state) = (text(&spec)?, text(&state)?);
        if !self.ledger.create_schedule(scope, &name, &spec, &state, Some(now_ms), now_ms).await? {
            // It may be the one of this very client, who has not been told.
            self.ledger.confirm().await?;
            let message = format!(
                "there is a schedule {name:?} already; choose another name, or change it with `backstitch \
                 schedule update`"
            );
            return Err(ServiceError::Conflict { code: "schedule-exists", message });
        }
        self.schedule_hint.notify_one();
        self.show_schedule(scope, &name).await
    }

    /// One schedule.
    pub async fn show_schedule(&self, scope: Scope, name: &str) -> Result<ScheduleView, ServiceError> {
        let schedule = self.find_schedule(scope, name).await?;
        let mut views = self.schedule_views(scope, &[schedule]).await?;
        Ok(views.remove(0))
    }

    /// Schedules by name.
    pub async fn list_schedules(
        &self,
        scope: Scope,
        list: ListSchedules,
    ) -> Result<ScheduleListView, ServiceError> {
        let limit = page_limit(list.limit, 100)?;
        let found = self.ledger.schedules(scope, list.cursor.as_deref(), limit).await?;
        let full = found.len() == limit as usize;
        let next_cursor = found.last().filter(|_| full).map(|schedule| schedule.name.clone());
        Ok(ScheduleListView { schedules: self.schedule_views(scope, &found).await?, next_cursor })
    }

    /// Replaces what a schedule starts when. Its open runs and its counts stay.
    pub async fn replace_schedule(
        &self,
        scope: Scope,
        name: &str,
        replace: ReplaceSchedule,
    ) -> Result<ScheduleView, ServiceError> {
        let ReplaceSchedule { spec: new, spec_revision } = replace;
        self.find_schedule(scope, name).await?;
        self.check_spec(scope, name, &new).await?;
        let settled_ms = self.clock.now_ms();
        self.carry_out_due(scope, name).await?;
        self.edit_schedule(scope, name, |spec, state, now_ms| {
            if spec_revision.as_ref().is_some_and(|known| *known != spec.revision()) {
                let message = format!("somebody else has changed the schedule {name:?}; look at it again");
                return Err(ServiceError::Conflict { code: "schedule-changed", message });
            }
            let times = times_up_to(spec, state.considered_ms, now_ms)?;
            state.replace(name, (spec, &new), &times, settled_ms, now_ms);
            *spec = new.clone();
            Ok(())
        })
        .await?;
        self.show_schedule(scope, name).await
    }

    /// Forgets a schedule. Its runs go on.
    pub async fn delete_schedule(&self, scope: Scope, name: &str) -> Result<(), ServiceError> {
        if self.ledger.delete_schedule(scope, name).await? {
            return Ok(());
        }
        // It may have gone at the word of this very client, who has not been told.
        self.ledger.confirm().await?;
        Err(unknown(name))
    }

    /// Lets the calendar start nothing from now on.
    pub async fn pause_schedule(
        &self,
        scope: Scope,
        name: &str,
        note: &str,
    ) -> Result<ScheduleView, ServiceError> {
        self.edit_schedule(scope, name, |_, state, now_ms| {
            state.pause(now_ms, note.to_owned());
            Ok(())
        })
        .await?;
        self.show_schedule(scope, name).await
    }

    /// Lets the calendar go on.
    pub async fn resume_schedule(&self, scope: Scope, name: &str) -> Result<ScheduleView, ServiceError> {
        self.carry_out_due(scope, name).await?;
        self.edit_schedule(scope, name, |_, state, now_ms| {
            state.resume(now_ms);
            Ok(())
        })
        .await?;
        self.show_schedule(scope, name).await
    }

    /// Asks for a run now, whatever the calendar says.
    pub async fn trigger_schedule(
        &self,
        scope: Scope,
        name: &str,
        trigger: TriggerSchedule,
    ) -> Result<TriggeredView, ServiceError> {
        let workflow_id = self
            .edit_schedule(scope, name, |spec, state, now_ms| {
                if state.waiting.len() >= limits::SCHEDULE_WAITING_MAX {
                    let why = format!("{} times wait for a run to close", state.waiting.len());
                    return Err(full(name, &why));
                }
                let overlap = trigger.overlap.unwrap_or(spec.policy.overlap);
                Ok(state.trigger(spec, name, now_ms, overlap))
            })
            .await?;
        Ok(TriggeredView { workflow_id: workflow_id.to_string() })
    }

    /// Asks for the runs of a period of the past. Times that have had their run keep it.
    pub async fn backfill_schedule(
        &self,
        scope: Scope,
        name: &str,
        backfill: BackfillSchedule,
    ) -> Result<(), ServiceError> {
        let BackfillSchedule { from_ms, to_ms, overlap } = backfill;
        let bad = |message: &str| Err(invalid("invalid-backfill", message.to_owned()));
        if from_ms > to_ms {
            return bad("it ends before it begins; no time is between the two");
        }
        self.edit_schedule(scope, name, |spec, state, now_ms| {
            if to_ms > now_ms {
                return bad("it ends in the future, which is the calendar's; end it now at the latest");
            }
            if state.backfills.len() >= limits::SCHEDULE_BACKFILLS_MAX {
                return Err(full(name, &format!("{} backfills are not finished", state.backfills.len())));
            }
            let overlap = overlap.unwrap_or(spec.policy.overlap);
            let after_ms = from_ms.saturating_sub(1);
            state.backfills.push_back(Backfill { after_ms, through_ms: to_ms, overlap });
            Ok(())
        })
        .await
    }

    /// What a client must not ask for. Whether something serves the workflow is asked now: a name that is
    /// misspelt would be noticed at the first start only, and by nobody.
    async fn check_spec(&self, scope: Scope, name: &str, spec: &Spec) -> Result<(), ServiceError> {
        check_name("schedule", name).map_err(|problem| invalid("invalid-name", problem))?;
        spec.check(name).map_err(|error| {
            let code = match &error {
                SpecError::What(_) => "invalid-start",
                SpecError::When(_) => "invalid-times",
                SpecError::Policy(_) => "invalid-policy",
            };
            invalid(code, error.to_string())
        })?;
        self.admit(scope, &spec.what.input)?;
        Calendar::new(&spec.when).map_err(|error| {
            let code = match &error {
                CalendarError::Zone(_) => "unknown-time-zone",
                CalendarError::Cron { .. } => "invalid-cron",
            };
            invalid(code, error.to_string())
        })?;
        let workflow = &spec.what.workflow;
        let served = self.programs.workflow_by_now(scope, workflow).await?;
        served.map(drop).ok_or_else(|| self.unserved(scope, workflow))
    }

    /// Changes a schedule, and has a host look at it.
    async fn edit_schedule<T>(
        &self,
        scope: Scope,
        name: &str,
        mut edit: impl FnMut(&mut Spec, &mut State, u64) -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        for _ in 0..EDITS_MAX {
            let schedule = self.find_schedule(scope, name).await?;
            let (old, mut state): (Spec, State) = (read(&schedule.spec)?, read(&schedule.state)?);
            let mut spec = old.clone();
            let now_ms = self.clock.now_ms();
            let edited = edit(&mut spec, &mut state, now_ms)?;
            let new_spec = (spec != old).then(|| text(&spec)).transpose()?;
            let state = text(&state)?;
            let change = ScheduleChange { spec: new_spec.as_deref(), state: &state, due_ms: Some(now_ms) };
            if self.ledger.change_schedule(scope, name, schedule.revision, change).await? {
                self.schedule_hint.notify_one();
                return Ok(edited);
            }
        }
        let message = format!("the schedule {name:?} changes all the time; try again");
        Err(ServiceError::Unavailable { code: "schedule-busy", message })
    }

    /// Has what is due now done before the schedule is changed: it belongs to the terms as they are.
    async fn carry_out_due(&self, scope: Scope, name: &str) -> Result<(), ServiceError> {
        let schedule = self.find_schedule(scope, name).await?;
        let is_due = schedule.due_ms.is_some_and(|due| due <= self.clock.now_ms());
        if is_due { self.attend(&schedule).await } else { Ok(()) }
    }

    async fn find_schedule(&self, scope: Scope, name: &str) -> Result<Schedule, ServiceError> {
        self.ledger.schedule(scope, name).await?.ok_or_else(|| unknown(name))
    }

    /// How the latest runs of these states stand.
    async fn statuses(
        &self,
        scope: Scope,
        states: &[&State],
    ) -> Result<BTreeMap<String, RunStatus>, ServiceError> {
        let ids = states.iter().flat_map(|state| &state.running).map(|run| &*run.workflow_id);
        let ids: Vec<&str> = ids.collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        Ok(self.ledger.latest_statuses(scope, &ids).await?.into_iter().collect())
    }

    async fn schedule_views(
        &self,
        scope: Scope,
        schedules: &[Schedule],
    ) -> Result<Vec<ScheduleView>, ServiceError> {
        let read = schedules.iter().map(|schedule| Ok((read(&schedule.spec)?, read(&schedule.state)?)));
        let read: Vec<(Spec, State)> = read.collect::<Result<_, ServiceError>>()?;
        let states: Vec<&State> = read.iter().map(|(_, state)| state).collect();
        let statuses = self.statuses(scope, &states).await?;
        let (views, now_ms) = (schedules.iter().zip(read), self.clock.now_ms());
        views.map(|(schedule, (spec, state))| view(schedule, spec, state, &statuses, now_ms)).collect()
    }
}

/// The times of a calendar after one of them, up to the first after `now_ms`, but no more than one check deals with.
fn times_up_to(spec: &Spec, after_ms: u64, now_ms: u64) -> Result<Vec<u64>, ServiceError> {
    let calendar = Calendar::new(&spec.when).map_err(|error| internal(&error))?;
    let mut times = Vec::new();
    for at_ms in calendar.after(after_ms).take(limits::SCHEDULE_TIMES_MAX) {
        times.push(at_ms);
        if at_ms > now_ms {
            break;
        }
    }
    Ok(times)
}

fn view(
    schedule: &Schedule,
    spec: Spec,
    state: State,
    statuses: &BTreeMap<String, RunStatus>,
    now_ms: u64,
) -> Result<ScheduleView, ServiceError> {
    let calendar = Calendar::new(&spec.when).map_err(|error| internal(&error))?;
    let left = state.remaining_starts.map_or(NEXT_TIMES, |left| usize::try_from(left).unwrap_or(usize::MAX));
    let shown = if state.paused.is_some() { 0 } else { left.min(NEXT_TIMES) };
    let from_ms = state.considered_ms.max(now_ms);
    let open = |id: &str| statuses.get(id).is_some_and(|status| is_open(*status));
    Ok(ScheduleView {
        name: schedule.name.clone(),
        spec_revision: spec.revision(),
        created_at: date::rfc3339(schedule.created_ms),
        paused: state
            .paused
            .map(|paused| PausedView { since: date::rfc3339(paused.at_ms), note: paused.note }),
        remaining_starts: state.remaining_starts,
        next_times: calendar.after(from_ms).take(shown).map(date::rfc3339).collect(),
        running: state
            .running
            .iter()
            .filter(|run| open(&run.workflow_id))
            .map(|run| ScheduledRunView {
                workflow_id: run.workflow_id.to_string(),
                scheduled_at: date::rfc3339(run.at_ms),
            })
            .collect(),
        waiting: state.waiting.len() as u64,
        backfills: state.backfills.len() as u64,
        started: state.started,
        skipped: state.skipped,
        missed: state.missed,
        failed: state.failed,
        recent: state
            .recent
            .into_iter()
            .map(|recent| RecentStartView {
                scheduled_at: date::rfc3339(recent.at_ms),
                started_at: date::rfc3339(recent.started_ms),
                workflow_id: recent.workflow_id.to_string(),
                error: recent.error,
            })
            .collect(),
        spec,
    })
}

/// Whether a run keeps those that must not overlap it waiting. One that has just continued as new does: its
/// successor is there with it.
fn is_open(status: RunStatus) -> bool {
    status.is_open() || status == RunStatus::Continued
}

fn unknown(name: &str) -> ServiceError {
    let message = format!("there is no schedule {name:?}; `backstitch schedule list` shows what there is");
    ServiceError::NotFound { code: "unknown-schedule", message }
}

fn full(name: &str, why: &str) -> ServiceError {
    let message = format!("the schedule {name:?} takes no more requests: {why}; try again later");
    ServiceError::Conflict { code: "schedule-full", message }
}

fn text(value: &impl serde::Serialize) -> Result<String, ServiceError> {
    serde_json::to_string(value).map_err(|error| internal(&error))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, ServiceError> {
    serde_json::from_str(text)
        .map_err(|error| ServiceError::Internal(format!("a schedule that cannot be read: {error}")))
}
