//! What clients say about schedules and what they are shown: bodies, parameters and answers of
//! `/v1/schedules`, and the calls that send and get them. A trigger counts at each repeat; all other calls may
//! be repeated. Times in requests are milliseconds since the epoch, as in the spec; times that are
//! shown are RFC 3339 with milliseconds, UTC.
//!
//! Field names and codes are a contract with programs; add to them, never rename.

use backstitch_core::schedule::{Overlap, Spec};
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/schedules`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateSchedule {
    /// Unique in the tenant.
    pub name: String,
    /// What is started when.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Spec))]
    pub spec: Spec,
    /// Whether it is made paused.
    #[serde(default)]
    pub paused: bool,
    /// Why it is paused.
    #[serde(default)]
    pub note: String,
}

/// Body of `PUT /v1/schedules/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplaceSchedule {
    /// What is started when from now on.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Spec))]
    pub spec: Spec,
    /// The revision of the spec that was changed, if it matters: none is replaced unseen then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_revision: Option<String>,
}

/// Body of `POST /v1/schedules/{name}/trigger`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TriggerSchedule {
    /// What happens if a run is open; none: what the schedule says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Overlap>))]
    pub overlap: Option<Overlap>,
}

/// Body of `POST /v1/schedules/{name}/backfill`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackfillSchedule {
    /// The first time, in milliseconds since the epoch.
    pub from_ms: u64,
    /// The last one, in milliseconds since the epoch.
    pub to_ms: u64,
    /// What happens if a run is open; none: what the schedule says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Overlap>))]
    pub overlap: Option<Overlap>,
}

/// Parameters of `GET /v1/schedules`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ListSchedules {
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleView {
    /// Unique in the tenant.
    pub name: String,
    /// What is started when.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Spec))]
    pub spec: Spec,
    /// Names this spec: another one has another.
    pub spec_revision: String,
    /// When the schedule was made.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    /// Set while the calendar starts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PausedView>,
    /// Starts that the calendar has left; absent: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_starts: Option<u64>,
    /// The next times, at most five.
    pub next_times: Vec<String>,
    /// Runs that are open, oldest first.
    pub running: Vec<ScheduledRunView>,
    /// Times that wait for them to close.
    pub waiting: u64,
    /// Backfills that are not finished.
    pub backfills: u64,
    /// Runs that were started.
    pub started: u64,
    /// Times that had no run because another run was open.
    pub skipped: u64,
    /// Times that came while no host was there, and were too late when one was.
    pub missed: u64,
    /// Starts that were refused.
    pub failed: u64,
    /// The latest starts, oldest first.
    pub recent: Vec<RecentStartView>,
}

/// Why the calendar starts nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PausedView {
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub since: String,
    /// Who paused it, and why.
    pub note: String,
}

/// An open run of a schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduledRunView {
    /// What it is called.
    pub workflow_id: String,
    /// Its nominal time.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub scheduled_at: String,
}

/// A start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecentStartView {
    /// Its nominal time.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub scheduled_at: String,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub started_at: String,
    /// What the run is called.
    pub workflow_id: String,
    /// Why there is no run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One page of a listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleListView {
    /// By name.
    pub schedules: Vec<ScheduleView>,
    /// Pass it as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Answer to a trigger.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TriggeredView {
    /// What the run is called, if the overlap policy lets it start.
    pub workflow_id: String,
}
