//! Bodies and parameters that exist only on the wire: what a request says, as host and client agree.
//! Answers are the views of [`crate::views`].

use backstitch_core::RunId;
use serde::{Deserialize, Serialize};

use crate::history::Part;
use crate::views::DeploymentView;

/// The header that says which tenant a request is for. Without it: [`TENANT_DEFAULT`].
pub const TENANT_HEADER: &str = "backstitch-tenant";

/// The tenant of every installation.
pub const TENANT_DEFAULT: &str = "default";

/// The header in which a deployment has its manifest: JSON in one line of ASCII.
pub const MANIFEST_HEADER: &str = "backstitch-manifest";

/// The header with a key under which a start may be repeated that has no workflow id.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// The longest such key: with what goes before it, it is a workflow id.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 200;

/// The media type of components.
pub const WASM: &str = "application/wasm";

/// The longest that a request waits at a host, in milliseconds: shorter, by enough for an answer, than the minute after
/// which proxies and clients commonly take a connection for dead. Up to [`WAIT_MS_ASKED_MAX`] may be asked for.
pub const RESULT_WAIT_MS_MAX: u64 = 50_000;

/// The longest wait that a request may ask for, in milliseconds: it may be answered sooner.
pub const WAIT_MS_ASKED_MAX: u64 = 60_000;

/// Body of a cancel or terminate request. An empty body is one without a reason.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// Who asks and why; kept in the ledger.
    #[serde(default)]
    pub reason: String,
}

/// Answer to `GET /v1/deployments`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentsView {
    /// What serves which name now.
    pub deployments: Vec<DeploymentView>,
}

/// Parameters of `GET /v1/runs/{id}/ledger`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct LedgerQuery {
    /// The first row; 0 for all.
    #[serde(default)]
    pub from_seq: u32,
    /// Rows of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Parameters of `GET /v1/runs/{id}/history`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Parts, separated by commas; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<String>,
}

impl HistoryQuery {
    /// Asks for these parts.
    pub fn of(parts: &[Part]) -> Self {
        Self { allow: Some(parts.iter().map(|part| part.as_str()).collect::<Vec<_>>().join(",")) }
    }

    /// The parts that are asked for. The error is for the client.
    pub fn parts(&self) -> Result<Vec<Part>, String> {
        let Some(allow) = &self.allow else { return Ok(Part::ALL.to_vec()) };
        let part = |name: &str| {
            Part::ALL.into_iter().find(|part| part.as_str() == name).ok_or_else(|| {
                let all = Part::ALL.map(Part::as_str).join(", ");
                format!("a history has no part {name:?}; allow some of {all}")
            })
        };
        allow.split(',').map(part).collect()
    }
}

/// Parameters of `GET /v1/runs/{id}/result`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct ResultQuery {
    /// How long to wait for the run to close, in milliseconds, up to 60,000; after 50,000 there is an answer.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Parameters of `POST /v1/runs/{id}/signals/{name}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct SignalQuery {
    /// A second signal of the same id is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_id: Option<String>,
}

/// Parameters of `POST /v1/runs/{id}/cancel`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct CancelQuery {
    /// A second request of the same id is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_id: Option<String>,
}

/// Parameters of `POST /v1/repairs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct RepairsQuery {
    /// `next` of the request before; none: from the first run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<String>, format = "uuid"))]
    pub after: Option<RunId>,
}

/// Parameters of `POST /v1/runs/{id}/updates/{name}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub struct UpdateQuery {
    /// A second update of the same id is the same one. Missing: made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_id: Option<String>,
    /// How long to wait for the answer, in milliseconds, up to 60,000; after 50,000 there is one, whatever it is.
    #[serde(default)]
    pub wait_ms: u64,
}
