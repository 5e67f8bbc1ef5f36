//! The guest's world in Rust, made from `wit/workflow.wit`, and its translation into core's terms.
//!
//! What comes from a guest is checked here: text must be JSON within bounds, overlong failures are
//! cut. What a guest did wrong is a [`Refusal`], so that it becomes a trap with a reason.

use std::sync::Arc;

use backstitch_core::command::{self, Command};
use backstitch_core::failure;
use backstitch_core::json::JsonError;
use backstitch_core::replay::Refusal;
use backstitch_core::{Attribute, AttributeChanges, Delivery, Edit, Json, Op, RetryPolicy, limits};
use wasmtime::component::{ComponentType, Lower};

/// Bindings of the world `workflow`.
#[allow(dead_code, unreachable_pub, clippy::all, reason = "generated")]
pub(crate) mod workflow {
    wasmtime::component::bindgen!({ path: "../../wit", world: "workflow", exports: { default: async } });
}

/// Bindings of the world `activity`.
#[allow(dead_code, unreachable_pub, clippy::all, reason = "generated")]
pub(crate) mod activity {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "activity",
        exports: { default: async },
        with: { "backstitch:workflow/types": super::workflow::backstitch::workflow::types },
    });
}

pub(crate) use workflow::backstitch::workflow::types;

/// `record event`. The generated one owns its text; this one shares the ledger's.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(crate) struct Event {
    op: u32,
    outcome: Result<Arc<str>, types::Failure>,
}

impl From<Delivery> for Event {
    fn from(delivery: Delivery) -> Self {
        Self { op: delivery.op.0, outcome: delivery.outcome.map(|json| json.text()).map_err(lower_failure) }
    }
}

/// What a guest is handed with it.
pub(crate) fn delivered_bytes(delivery: &Delivery) -> usize {
    match &delivery.outcome {
        Ok(output) => output.as_str().len(),
        Err(failure) => failure.text_bytes(),
    }
}

/// Takes `text` from a guest as JSON. `what` names it in the refusal.
pub(crate) fn json(what: &str, text: impl Into<Arc<str>>) -> Result<Json, Refusal> {
    Json::new(text).map_err(|error| match error {
        JsonError::TooLarge { .. } | JsonError::TooDeep => Refusal::Limit(format!("{what}: {error}")),
        JsonError::Syntax(_) => Refusal::Protocol(format!("{what}: {error}")),
    })
}

/// An activity call of a guest as a command.
pub(crate) fn schedule_activity(
    name: Arc<str>,
    input: Arc<str>,
    options: types::ActivityOptions,
) -> Result<Command, Refusal> {
    let input = json(&format!("the input of activity {}", shown(&name)), input)?;
    let options = command::ActivityOptions {
        task_queue: options.task_queue.map(Into::into),
        start_to_close_ms: options.start_to_close_ms,
        schedule_to_close_ms: options.schedule_to_close_ms,
        schedule_to_start_ms: options.schedule_to_start_ms,
        heartbeat_ms: options.heartbeat_ms,
        retry: options.retry.map(|retry| RetryPolicy {
            maximum_attempts: retry.maximum_attempts,
            initial_interval_ms: retry.initial_interval_ms,
            backoff_coefficient: retry.backoff_coefficient,
            maximum_interval_ms: retry.maximum_interval_ms,
            non_retryable: retry.non_retryable,
        }),
    };
    Ok(Command::ScheduleActivity { name, input, options })
}

/// A child start of a guest as a command.
pub(crate) fn start_child(
    workflow: Arc<str>,
    input: Arc<str>,
    options: types::ChildOptions,
) -> Result<Command, Refusal> {
    let input = json(&format!("the input of child {}", shown(&workflow)), input)?;
    let options = command::ChildOptions {
        workflow_id: options.workflow_id.map(Into::into),
        parent_close: match options.parent_close {
            types::ParentClose::Terminate => command::ParentClose::Terminate,
            types::ParentClose::RequestCancel => command::ParentClose::RequestCancel,
            types::ParentClose::Abandon => command::ParentClose::Abandon,
        },
    };
    Ok(Command::StartChild { workflow, input, options })
}

/// A message of a guest as a command.
pub(crate) fn signal_run(to: types::Target, name: Arc<str>, payload: Arc<str>) -> Result<Command, Refusal> {
    let payload = json(&format!("the payload of signal {}", shown(&name)), payload)?;
    Ok(Command::SignalRun { target: target(to), name, payload })
}

/// An answer of a guest as a command.
pub(crate) fn answer_update(
    update: Arc<str>,
    outcome: Result<Arc<str>, types::Failure>,
) -> Result<Command, Refusal> {
    let outcome = match outcome {
        Ok(output) => Ok(json(&format!("the answer to update {}", shown(&update)), output)?),
        Err(error) => Err(failure("the update's failure", error)?),
    };
    Ok(Command::AnswerUpdate { update, outcome })
}

/// What a guest does to its entity.
pub(crate) fn edit(edit: types::Edit) -> Result<Edit, Refusal> {
    let value = |text: String| json("the value for the entity", text);
    Ok(match edit {
        types::Edit::Set(text) => Edit::Set(value(text)?),
        types::Edit::Merge(text) => Edit::Merge(value(text)?),
        types::Edit::Append(text) => Edit::Append(value(text)?),
        types::Edit::Increment(by) => Edit::Increment(by),
        types::Edit::Delete => Edit::Delete,
    })
}

/// What the guest hands over with it.
pub(crate) fn edit_bytes(edit: &types::Edit) -> usize {
    match edit {
        types::Edit::Set(text) | types::Edit::Merge(text) | types::Edit::Append(text) => text.len(),
        types::Edit::Increment(_) | types::Edit::Delete => 0,
    }
}

/// What a guest is to be found by; of two words about one name the last counts.
pub(crate) fn attributes(attributes: Vec<types::Attribute>) -> Result<AttributeChanges, Refusal> {
    let value = |value| match value {
        types::AttributeValue::Text(text) => Attribute::Text(text.into()),
        types::AttributeValue::Number(number) => Attribute::Number(number),
        types::AttributeValue::Flag(flag) => Attribute::Flag(flag),
        types::AttributeValue::TimeMs(ms) => Attribute::TimeMs(ms),
    };
    let changes: AttributeChanges =
        attributes.into_iter().map(|attribute| (attribute.name.into(), attribute.value.map(value))).collect();
    // Before it is compared with the ledger: what is not finite has no equal.
    Command::SetAttributes { changes: changes.clone() }.check().map_err(Refusal::Limit)?;
    Ok(changes)
}

/// What the guest hands over with it.
pub(crate) fn attribute_bytes(attributes: &[types::Attribute]) -> usize {
    let bytes = |attribute: &types::Attribute| {
        let value = match &attribute.value {
            Some(types::AttributeValue::Text(text)) => text.len(),
            _ => size_of::<u64>(),
        };
        attribute.name.len() + value
    };
    attributes.iter().map(bytes).sum()
}

/// Another run, as a guest names it.
pub(crate) fn target(target: types::Target) -> command::Target {
    match target {
        types::Target::Child(op) => command::Target::Child(Op(op)),
        types::Target::Workflow(id) => command::Target::Workflow(id.into()),
    }
}

/// What the guest hands over with it.
pub(crate) fn target_bytes(target: &types::Target) -> usize {
    match target {
        types::Target::Child(_) => 0,
        types::Target::Workflow(id) => id.len(),
    }
}

/// How a guest says its activation ended.
pub(crate) fn status(status: types::Status) -> Result<command::Status, Refusal> {
    Ok(match status {
        types::Status::Blocked => command::Status::Blocked,
        types::Status::Completed(output) => {
            command::Status::Completed(json("the workflow's output", output)?)
        }
        types::Status::Failed(error) => command::Status::Failed(failure("the workflow's failure", error)?),
        types::Status::ContinueAsNew(input) => {
            command::Status::ContinueAsNew(json("the next run's input", input)?)
        }
    })
}

/// A guest's failure, brought within bounds.
pub(crate) fn failure(what: &str, failure: types::Failure) -> Result<failure::Failure, Refusal> {
    let details = failure.details.map(|details| json(&format!("the details of {what}"), details));
    let failure = failure::Failure {
        kind: match failure.kind {
            types::FailureKind::Application => failure::FailureKind::Application,
            types::FailureKind::Timeout => failure::FailureKind::Timeout,
            types::FailureKind::Cancelled => failure::FailureKind::Cancelled,
            types::FailureKind::Terminated => failure::FailureKind::Terminated,
        },
        code: failure.code,
        message: failure.message,
        details: details.transpose()?,
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms,
        attempts: 0,
    };
    let failure = failure.clipped();
    // The ledger keeps the whole of it as one payload.
    failure.to_json().map_err(|error| Refusal::Limit(format!("{what}: {error}")))?;
    Ok(failure)
}

fn lower_failure(failure: failure::Failure) -> types::Failure {
    types::Failure {
        kind: match failure.kind {
            failure::FailureKind::Application => types::FailureKind::Application,
            failure::FailureKind::Timeout => types::FailureKind::Timeout,
            failure::FailureKind::Cancelled => types::FailureKind::Cancelled,
            failure::FailureKind::Terminated => types::FailureKind::Terminated,
        },
        code: failure.code,
        message: failure.message,
        details: failure.details.map(|details| details.as_str().to_owned()),
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms,
        attempts: failure.attempts,
    }
}

/// A guest's name for something, before it was checked.
fn shown(name: &str) -> String {
    let mut name: String = name.chars().take(limits::NAME_BYTES_MAX).collect();
    backstitch_core::printable::cut(&mut name, limits::NAME_BYTES_MAX);
    format!("{name:?}")
}
