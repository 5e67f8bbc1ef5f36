//! How an open op and the attributes of a new run are put in a client's view.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use backstitch_client::views::WaitView;
use backstitch_core::run::OpenOp;
use backstitch_core::{Attribute, Attributes, Json, Op};
use serde_json::Value;

use super::error::{ServiceError, internal};
use crate::time;

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
    WaitView { op, kind: kind.to_owned(), what, due_at: due_ms.map(time::rfc3339) }
}

/// Attributes as the database shows them once they are there.
pub(super) fn attributes(attributes: &Attributes) -> Result<Option<Json>, ServiceError> {
    let shown = |value: &Attribute| match value {
        Attribute::Text(text) => Value::from(&**text),
        Attribute::Number(number) => Value::from(*number),
        Attribute::Flag(flag) => Value::from(*flag),
        Attribute::TimeMs(ms) => Value::from(time::rfc3339(*ms)),
    };
    if attributes.is_empty() {
        return Ok(None);
    }
    let shown: BTreeMap<&str, Value> =
        attributes.iter().map(|(name, value)| (&**name, shown(value))).collect();
    Json::of(&shown).map(Some).map_err(|error| internal(&error))
}
