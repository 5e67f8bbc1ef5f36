//! What a host shows of itself: the documents that its API sends and its clients read.
//!
//! Field names and codes are a contract with programs; add to them, never rename.

use backstitch_core::{Digest, Divergence, Failure, Fault, Json, Op, RunId, RunStatus, Seq};
use serde::{Deserialize, Serialize};

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunView {
    /// Its identity.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub run_id: RunId,
    /// The name its starter gave it; unique in the tenant.
    pub workflow_id: String,
    /// Counts the runs of one workflow id: continue-as-new adds one.
    pub generation: u32,
    /// Which workflow.
    pub workflow: String,
    /// The component it is pinned to.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Digest))]
    pub digest: Digest,
    /// Where it stands.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RunStatus))]
    pub status: RunStatus,
    /// The run that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "uuid"))]
    pub parent_run_id: Option<RunId>,
    /// When it was started, RFC 3339 with milliseconds, UTC.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub started_at: String,
    /// When it closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub closed_at: Option<String>,
    /// What it is found by: an object of texts, numbers, `true`, `false` and times, which are RFC 3339
    /// with milliseconds, UTC. Absent if there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub attributes: Option<Json>,
    /// Its result, if it completed.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub output: Option<Json>,
    /// Its failure, if it failed, was cancelled or was terminated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Failure>))]
    pub failure: Option<Failure>,
    /// Why it is parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Fault>))]
    pub fault: Option<Fault>,
}

/// A run with what it waits for.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunDetailView {
    /// The run.
    #[serde(flatten)]
    pub run: RunView,
    /// Its input; absent only if the ledger has lost its first row, or what it said.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub input: Option<Json>,
    /// Rows of its ledger.
    pub rows: u32,
    /// Open ops, in call order.
    pub waits_for: Vec<WaitView>,
    /// Signals that came in and that nothing has awaited yet.
    pub signals_kept: u32,
    /// On which terms it was started, and what it descends from, as row 0 of its ledger says; absent: on
    /// the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub start: Option<Json>,
    /// Its entity; absent if it never wrote to it.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub entity: Option<Json>,
    /// Which row of its ledger is not what was written, and why that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// One op that a run waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitView {
    /// The command's number.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub op: Op,
    /// `activity`, `timer`, `signal` or `child`.
    pub kind: String,
    /// For people: the activity with its queue and attempt, the timer's end, the signal's name …
    pub what: String,
    /// When it will be due: a timer's end, a retry's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub due_at: Option<String>,
}

/// One page of a listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunListView {
    /// Newest first.
    pub runs: Vec<RunView>,
    /// Pass it as `cursor` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// How many runs stand how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunCountView {
    /// All that were asked for.
    pub runs: u64,
    /// Of each status that some of them have.
    pub by_status: Vec<StatusCountView>,
}

/// How many runs have a status.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusCountView {
    /// The status.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::RunStatus))]
    pub status: RunStatus,
    /// How many.
    pub runs: u64,
}

/// One ledger row.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RowView {
    /// Its place.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub seq: Seq,
    /// What kind of row.
    pub kind: String,
    /// The command it is or belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub op: Option<Op>,
    /// Workflow, activity, signal or change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Input, output or failure.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub payload: Option<Json>,
    /// Where the payload is, if it is larger than 256 KiB: it has a route of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<StoredView>,
    /// Options and the like. Of the start of a run without the seeds of its random numbers: exports have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub detail: Option<Json>,
    /// Which attempt of an activity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// When it was recorded, RFC 3339 with milliseconds, UTC.
    pub at: String,
}

/// A payload that is kept out of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoredView {
    /// SHA-256 of what is stored: of the payload itself, unless it is sealed.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Digest))]
    pub sha256: Digest,
    /// How long the payload is.
    pub bytes: u64,
    /// Whether it is stored sealed.
    pub sealed: bool,
}

/// What a tenant may store, and has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantView {
    /// The largest payload that is taken from clients, workers and activities; absent: 2 MiB, as for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<u64>,
    /// Bytes of payloads out of row from which on no payload above 256 KiB is taken; absent: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes_max: Option<u64>,
    /// Bytes of payloads out of row.
    pub stored_bytes: u64,
}

/// One page of a ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LedgerView {
    /// In ledger order.
    pub rows: Vec<RowView>,
    /// Pass it as `from_seq` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub next_seq: Option<Seq>,
}

/// Answer to a start.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StartedView {
    /// The run.
    #[serde(flatten)]
    pub run: RunView,
    /// False if a run of this id, workflow and input was there already.
    pub created: bool,
}

/// Answer to the wish that what stands beside the ledgers be repaired: what became of some runs, and where to go on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RepairsView {
    /// Open runs that were asked to make anew what follows from their ledgers.
    pub runs: u64,
    /// Closed runs that were compared with their ledgers.
    pub closed: u64,
    /// Those of them whose entity or attributes were missing or wrong, and are right now.
    pub amended: u64,
    /// Closed runs that had timers or tasks left.
    pub leftovers: u64,
    /// Closed runs whose ledgers are damaged: nothing is made anew from those.
    pub damaged: u64,
    /// The last run of these: `after` of the next request. Absent: there are no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "uuid"))]
    pub next: Option<RunId>,
}

/// Answer to a deploy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeployedView {
    /// The component.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Digest))]
    pub digest: Digest,
    /// `workflow` or `activity`.
    pub kind: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// False if these very bytes were there already.
    pub created: bool,
    /// What it serves from now on.
    pub names: Vec<NameView>,
    /// What its activities may reach and this host cannot do yet, for want of a secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A name that a component serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NameView {
    /// Workflow or activity.
    pub name: String,
    /// Activities only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_queue: Option<String>,
}

/// What serves a name now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentView {
    /// `workflow` or `activity`.
    pub kind: String,
    /// The name it serves.
    #[serde(flatten)]
    pub name: NameView,
    /// The component.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Digest))]
    pub digest: Digest,
    /// Since when, RFC 3339 with milliseconds, UTC.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub deployed_at: String,
    /// What the component's activities may reach, as it was deployed with; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub manifest: Option<Json>,
}

/// Answer to a query.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueryView {
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub run_id: RunId,
    /// What was asked.
    pub query: String,
    /// Rows of the ledger that the answer takes into account.
    pub rows: u32,
    /// The guest's answer.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub output: Json,
}

/// Answer to an update.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateView {
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub run_id: RunId,
    /// What the update is called: with it, the same update can be asked for again.
    pub update_id: String,
    /// Whether there is an answer yet.
    pub answered: bool,
    /// The answer, if it is not a failure.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub output: Option<Json>,
    /// The workflow's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Failure>))]
    pub failure: Option<Failure>,
}

/// Answer to `replay`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReplayView {
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub run_id: RunId,
    /// The component that was led along its ledger.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Digest))]
    pub digest: Digest,
    /// Rows that were gone over.
    pub rows: u32,
    /// Commands that the guest repeated.
    pub commands: u32,
    /// Fuel used, about one unit for each wasm instruction.
    pub fuel: u64,
    /// What came out.
    #[serde(flatten)]
    pub verdict: ReplayVerdict,
}

/// What came out of a replay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum ReplayVerdict {
    /// Every command was repeated.
    Identical,
    /// The first place where the component and the ledger disagree.
    Diverged {
        /// Where and how.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Divergence))]
        divergence: Divergence,
    },
    /// The component cannot be led along: it traps, or the ledger is damaged.
    Faulted {
        /// What happened.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Fault))]
        fault: Fault,
    },
}

/// How the host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HealthView {
    /// `ok` or `degraded`.
    pub status: String,
    /// Version of this program.
    pub version: String,
    /// This host.
    pub host_id: String,
    /// What Postgres said last, if it does not take writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Runs this host has in memory, and of those with a live guest.
    pub runs_loaded: u64,
    /// Guests kept warm.
    pub runs_warm: u64,
    /// Activity attempts running now.
    pub activities_running: u64,
    /// Activity attempts started since this host started.
    pub activities_started: u64,
    /// Activations since this host started.
    pub activations: u64,
    /// Runs taken over from other hosts since this host started.
    pub runs_taken_over: u64,
    /// Runs of which the database has lost rows that were committed, since this host started.
    pub runs_rewound: u64,
}

/// That a host is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LiveView {
    /// `live`.
    pub status: String,
}

/// That a host is ready for requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReadyView {
    /// `ready`.
    pub status: String,
    /// This host.
    pub host_id: String,
    /// How long its lease lasts, in milliseconds.
    pub lease_ms: u64,
    /// How long ago the last heartbeat was sent that the database has taken.
    pub lease_age_ms: u64,
    /// How long the writer has been at the statement that it is at.
    pub writer_busy_ms: u64,
    /// How far the machine's clock is ahead of the database's.
    pub clock_skew_ms: i64,
}

/// JSON that is `null` is not the same as none.
pub fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}
