//! How runs, rows, open ops and attributes are put in a client's view.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use backstitch_core::run::OpenOp;
use backstitch_core::{Attribute, Attributes, Json, Kind, Op, Row, date, limits};
use backstitch_ledger::{Reference, RunInfo, RunSummary};
use backstitch_wire::views::{RowView, RunView, StoredView, WaitView};
use serde_json::Value;

use super::error::{ServiceError, internal, invalid};

/// An open op, for people. `served` says whether a component offers an activity on a queue.
pub(super) fn wait(op: Op, open: &OpenOp, served: impl Fn(&str, &Arc<str>) -> bool) -> WaitView {
    let (kind, what, due_ms) = match open {
        OpenOp::Activity { name, options, attempts, retry_at_ms, failed_with, .. } => {
            let queue = options.queue();
            let mut what = if served(queue, name) {
                format!("{name} on {queue}, attempt {}", attempts + 1)
            } else {
                format!("{name} on {queue}: no deployed component offers it, a worker outside may take it")
            };
            if let Some(failure) = failed_with {
                let _ = write!(what, " ({attempts} failed, the last with {failure})");
            }
            ("activity", what, *retry_at_ms)
        }
        OpenOp::Timer { due_at_ms } => ("timer", "sleep".to_owned(), Some(*due_at_ms)),
        OpenOp::Message { target, signal, .. } => {
            let what = match signal {
                Some((name, _)) => format!("signal {name} to {target}"),
                None => format!("request to cancel {target}"),
            };
            ("message", what, None)
        }
        OpenOp::Signal { name } => ("signal", name.to_string(), None),
        OpenOp::Child { run, workflow, .. } => ("child", format!("{workflow}, run {run}"), None),
    };
    WaitView { op, kind: kind.to_owned(), what, due_at: due_ms.map(date::rfc3339) }
}

/// Attributes as the database shows them once they are there.
pub(super) fn attributes(attributes: &Attributes) -> Result<Option<Json>, ServiceError> {
    let shown = |value: &Attribute| match value {
        Attribute::Text(text) => Value::from(&**text),
        Attribute::Number(number) => Value::from(*number),
        Attribute::Flag(flag) => Value::from(*flag),
        Attribute::TimeMs(ms) => Value::from(date::rfc3339(*ms)),
    };
    if attributes.is_empty() {
        return Ok(None);
    }
    let shown: BTreeMap<&str, Value> =
        attributes.iter().map(|(name, value)| (&**name, shown(value))).collect();
    Json::of(&shown).map(Some).map_err(|error| internal(&error))
}

/// How many rows a page has at most.
pub(super) fn page_limit(asked: Option<u32>, default: u32) -> Result<u32, ServiceError> {
    match asked {
        None => Ok(default),
        Some(limit @ 1..=limits::PAGE_ROWS_MAX) => Ok(limit),
        Some(limit) => {
            let message = format!("a limit of {limit}; it must be 1 to {}", limits::PAGE_ROWS_MAX);
            Err(invalid("invalid-limit", message))
        }
    }
}

pub(super) fn json(text: &str) -> Result<Json, ServiceError> {
    Json::new(text).map_err(|error| ServiceError::Internal(format!("the database holds bad JSON: {error}")))
}

pub(super) fn run_view(run: &RunInfo) -> Result<RunView, ServiceError> {
    let parsed = |text: &Option<String>| text.as_deref().map(json).transpose();
    Ok(RunView {
        output: parsed(&run.output)?,
        failure: run.error.as_deref().map(serde_json::from_str).transpose().map_err(|e| internal(&e))?,
        fault: run.fault.as_deref().map(serde_json::from_str).transpose().map_err(|e| internal(&e))?,
        ..summary_view(&run.summary)?
    })
}

pub(super) fn summary_views(runs: &[RunSummary]) -> Result<Vec<RunView>, ServiceError> {
    runs.iter().map(summary_view).collect()
}

pub(super) fn summary_view(run: &RunSummary) -> Result<RunView, ServiceError> {
    Ok(RunView {
        run_id: run.run,
        workflow_id: run.workflow_id.clone(),
        generation: run.generation,
        workflow: run.workflow.clone(),
        digest: run.digest,
        status: run.status,
        parent_run_id: run.parent.map(|(parent, _)| parent),
        started_at: date::rfc3339(run.started_ms),
        closed_at: run.closed_ms.map(date::rfc3339),
        attributes: run.attributes.as_deref().map(json).transpose()?,
        output: None,
        failure: None,
        fault: None,
    })
}

pub(super) fn row_view((row, stored): &(Row, Option<Reference>)) -> RowView {
    RowView {
        stored: stored.map(|Reference { digest, bytes, sealed }| StoredView {
            sha256: digest,
            bytes,
            sealed,
        }),
        seq: row.seq,
        kind: Kind::from_tag(row.kind)
            .map_or_else(|| format!("kind-{}", row.kind), |kind| kind.as_str().into()),
        op: row.op,
        name: row.name.as_deref().map(str::to_owned),
        payload: row.payload.as_deref().and_then(shown),
        detail: row.shown_detail().as_deref().and_then(shown),
        attempt: row.attempt,
        at: date::rfc3339(row.at_ms),
    }
}

/// A text of the ledger, which may be damaged: what cannot be a payload is left out, and the rest of
/// the run can be looked at.
pub(super) fn shown(text: &str) -> Option<Json> {
    Json::new(text).ok()
}
