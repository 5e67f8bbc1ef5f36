//! Calls about schedules. A trigger counts at each repeat; all others may be repeated.

use backstitch_wire::schedules::{
    BackfillSchedule, CreateSchedule, ListSchedules, ReplaceSchedule, ScheduleListView, ScheduleView,
    TriggerSchedule, TriggeredView,
};
use reqwest::Method;

use crate::client::{Client, ClientError, because};

impl Client {
    /// Makes a schedule.
    pub async fn create_schedule(&self, create: &CreateSchedule) -> Result<ScheduleView, ClientError> {
        self.give(self.post(&["schedules"]).json(create)).await
    }

    /// One schedule.
    pub async fn schedule(&self, name: &str) -> Result<ScheduleView, ClientError> {
        self.give(self.get(&["schedules", name])).await
    }

    /// A page of schedules, by name.
    pub async fn schedules(&self, list: &ListSchedules) -> Result<ScheduleListView, ClientError> {
        self.give(self.get(&["schedules"]).query(list)).await
    }

    /// Replaces what a schedule starts when.
    pub async fn replace_schedule(
        &self,
        name: &str,
        replace: &ReplaceSchedule,
    ) -> Result<ScheduleView, ClientError> {
        self.give(self.request(Method::PUT, &["schedules", name]).json(replace)).await
    }

    /// Forgets a schedule. Its runs go on.
    pub async fn delete_schedule(&self, name: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &["schedules", name])).await.map(drop)
    }

    /// Lets the calendar start nothing.
    pub async fn pause_schedule(&self, name: &str, reason: &str) -> Result<ScheduleView, ClientError> {
        self.give(self.post(&["schedules", name, "pause"]).json(&because(reason))).await
    }

    /// Lets the calendar go on.
    pub async fn resume_schedule(&self, name: &str, reason: &str) -> Result<ScheduleView, ClientError> {
        self.give(self.post(&["schedules", name, "resume"]).json(&because(reason))).await
    }

    /// Asks for a run now.
    pub async fn trigger_schedule(
        &self,
        name: &str,
        trigger: TriggerSchedule,
    ) -> Result<TriggeredView, ClientError> {
        self.give(self.post(&["schedules", name, "trigger"]).json(&trigger)).await
    }

    /// Asks for the runs of a period of the past.
    pub async fn backfill_schedule(&self, name: &str, backfill: BackfillSchedule) -> Result<(), ClientError> {
        self.send(self.post(&["schedules", name, "backfill"]).json(&backfill)).await.map(drop)
    }
}
