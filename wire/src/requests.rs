//! What a client asks for, as it says it to its client and as the host's service takes it.

use std::collections::BTreeMap;
use std::time::Duration;

use backstitch_core::{Json, RunStatus, Seq};
use serde::{Deserialize, Serialize};

/// A run to be started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StartRun {
    /// A deployed workflow's name.
    pub workflow: String,
    /// Unique among the open runs of the tenant. None: made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// Its input; the bytes are kept. Missing: `null`.
    #[serde(default = "Json::null")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub input: Json,
    /// What happens if the workflow id is taken.
    #[serde(default)]
    pub reuse: IdReuse,
    /// A signal for the run, whether it is started now or was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SendSignal>,
    /// On which terms.
    #[serde(default, skip_serializing_if = "StartOptions::is_default")]
    pub options: StartOptions,
}

/// What a tenant may store from now on: all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LimitTenant {
    /// The largest payload that is taken from clients, workers and activities; absent: 2 MiB, as for everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<u64>,
    /// Bytes of payloads out of row from which on no payload above 256 KiB is taken; absent: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes_max: Option<u64>,
}

/// On which terms a run is started. A start that is repeated keeps those of the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = StartTerms))]
#[serde(deny_unknown_fields, default, expecting = "struct StartTerms")] // its name in the API
pub struct StartOptions {
    /// The workflow begins so much later. It can be signalled and terminated meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Bound on this run, from its beginning; it closes as `timed-out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout_ms: Option<u64>,
    /// Bound on this run and those that continue it as new, together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_timeout_ms: Option<u64>,
    /// For people: shown with the run, never given to the workflow.
    #[serde(deserialize_with = "crate::views::given", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value, required = false))]
    pub memo: Option<Json>,
    /// Whose activities get the next free place: 1 first, 5 last; none: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// What the run is found by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, AttributeValue>,
}

impl StartOptions {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a run is found by under one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum AttributeValue {
    /// At most 1,024 bytes.
    Text(String),
    /// Compared as a 64-bit float.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// A point in time.
    Time {
        /// RFC 3339.
        time: String,
    },
}

/// A new run from the first rows of another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ForkRun {
    /// The last row that is taken.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub at_seq: Seq,
    /// What the new run is called. None: made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// On the component that serves the workflow now, instead of the one that the run is pinned to.
    #[serde(default)]
    pub deployed: bool,
}

/// A run that is to go on from an earlier row: it is stopped, and a new run of its workflow id begins there. A reset needs the
/// row; a repair, of a run whose ledger is damaged, finds the last one before the damage itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ResetRun {
    /// The last row that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    pub to_seq: Option<Seq>,
    /// Who asks and why; kept with the run that is stopped.
    #[serde(default)]
    pub reason: String,
    /// On the component that serves the workflow now, instead of the one that the run is pinned to.
    #[serde(default)]
    pub deployed: bool,
    /// Forget the signals that came after the row, instead of sending them to the new run.
    #[serde(default)]
    pub drop_signals: bool,
}

impl StartRun {
    /// A start that refuses a workflow id which another start has taken.
    pub fn new(workflow: impl Into<String>, workflow_id: Option<String>, input: Json) -> Self {
        Self {
            workflow: workflow.into(),
            workflow_id,
            input,
            reuse: IdReuse::default(),
            signal: None,
            options: StartOptions::default(),
        }
    }
}

/// What happens to a start whose workflow id is taken by a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum IdReuse {
    /// Refused, unless it repeats the start of that run: same workflow, same input.
    #[default]
    Reject,
    /// That run is the answer, whatever it runs.
    UseExisting,
    /// A new run if that one has closed; else refused, or with a signal: that run is the answer.
    AllowClosed,
}

/// A signal to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SendSignal {
    /// What the guest waits for.
    pub name: String,
    /// What it gets; the bytes are kept. Missing: `null`.
    #[serde(default = "Json::null")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub payload: Json,
    /// A second signal of the same id is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Which runs to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ListRuns {
    /// Only of this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::RunStatus>, inline))]
    pub status: Option<RunStatus>,
    /// Only of this workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Only those that meet this condition, such as `attributes.customer = "acme"`. The language is that of
    /// [`Filter`](backstitch_core::Filter).
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// At most this many, 1 to `PAGE_ROWS_MAX`; none: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which runs to count.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct CountRuns {
    /// Only of this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::RunStatus>, inline))]
    pub status: Option<RunStatus>,
    /// Only of this workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Only those that meet this condition; see [`ListRuns::condition`].
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// An update that a client makes.
#[derive(Clone, Debug)]
pub struct SendUpdate {
    /// Which update.
    pub name: String,
    /// What the workflow gets.
    pub input: Json,
    /// A second update of the same id is the same one. None: made up.
    pub id: Option<String>,
    /// How long to wait for the answer.
    pub wait: Duration,
}
