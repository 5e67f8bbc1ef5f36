//! What a guest may ask for, and how its activations end.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attribute::{self, Attribute, AttributeChanges};
use crate::entity::Edit;
use crate::failure::Failure;
use crate::ids::Op;
use crate::json::Json;
use crate::limits;
use crate::names::{Cut, check_name};
use crate::retry::RetryPolicy;

/// One command of a guest. Each takes the next [`Op`] and becomes one ledger row.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Call an activity.
    ScheduleActivity {
        /// What the activity components call it.
        name: Arc<str>,
        /// Its arguments.
        input: Json,
        /// Bounds and retry policy.
        options: ActivityOptions,
    },
    /// Sleep.
    StartTimer {
        /// For this many milliseconds after the row's `at`.
        ms: u64,
    },
    /// Wait for one signal of this name.
    AwaitSignal {
        /// The signal's name.
        name: Arc<str>,
    },
    /// Start another workflow.
    StartChild {
        /// The workflow's name.
        workflow: Arc<str>,
        /// Its input.
        input: Json,
        /// Its id and what becomes of it when this run closes.
        options: ChildOptions,
    },
    /// Give up an op: no outcome of it is delivered any more.
    Cancel {
        /// The op given up.
        target: Op,
    },
    /// A pending op is not ended by a request to cancel the run.
    Shield {
        /// The op kept.
        target: Op,
    },
    /// Send a signal to another run.
    SignalRun {
        /// To which.
        target: Target,
        /// The signal's name.
        name: Arc<str>,
        /// What its guest gets.
        payload: Json,
    },
    /// Ask another run to cancel.
    CancelRun {
        /// Which.
        target: Target,
    },
    /// Answer an update that a client waits for.
    AnswerUpdate {
        /// What the client calls it.
        update: Arc<str>,
        /// What the client gets.
        outcome: Result<Json, Failure>,
    },
    /// Change the run's entity.
    EditEntity {
        /// Where.
        path: Arc<str>,
        /// How.
        edit: Edit,
    },
    /// Change what the run is found by.
    SetAttributes {
        /// By name; none: the attribute goes.
        changes: AttributeChanges,
    },
    /// The run took the new side of a change of code.
    Patch {
        /// The change's name.
        change_id: Arc<str>,
    },
}

impl Command {
    /// Whether `self`, asked for now, is what the ledger `recorded`.
    ///
    /// Options are left out: bounds and retry policies may be tuned under open runs, and the
    /// recorded ones stand for the recorded call. No arguments are the same in either of the forms that guests
    /// have given them.
    pub fn repeats(&self, recorded: &Self) -> bool {
        match (self, recorded) {
            (
                Self::ScheduleActivity { name, input, .. },
                Self::ScheduleActivity { name: name_then, input: input_then, .. },
            ) => name == name_then && are_same_arguments(input, input_then),
            (
                Self::StartChild { workflow, input, .. },
                Self::StartChild { workflow: workflow_then, input: input_then, .. },
            ) => workflow == workflow_then && input == input_then,
            (now, then) => now == then,
        }
    }

    /// Checks the bounds that the guest is responsible for. The text says which one it met.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::ScheduleActivity { name, options, .. } => {
                check_name("activity", name)?;
                options.check()
            }
            Self::StartTimer { ms } if *ms > limits::SLEEP_MS_MAX => {
                Err(format!("a sleep of {ms} ms; the longest is {} ms (100 years)", limits::SLEEP_MS_MAX))
            }
            Self::StartTimer { .. } | Self::Cancel { .. } | Self::Shield { .. } => Ok(()),
            Self::AwaitSignal { name } => check_name("signal", name),
            Self::SignalRun { target, name, .. } => {
                target.check()?;
                check_name("signal", name)
            }
            Self::CancelRun { target } => target.check(),
            Self::AnswerUpdate { update, .. } => check_name("update id", update),
            Self::StartChild { workflow, options, .. } => {
                check_name("workflow", workflow)?;
                options.workflow_id.as_deref().map_or(Ok(()), |id| check_name("workflow id", id))
            }
            Self::Patch { change_id } => check_name("change id", change_id),
            Self::EditEntity { path, .. } if path.is_empty() => Ok(()),
            Self::EditEntity { path, .. } => check_name("entity path", path),
            Self::SetAttributes { changes } if changes.len() > 2 * limits::ATTRIBUTES_MAX => {
                Err(format!("{} attributes at once", changes.len()))
            }
            Self::SetAttributes { changes } => changes.iter().try_for_each(|(name, value)| match value {
                Some(value) => attribute::check(name, value),
                None => check_name("attribute", name),
            }),
        }
    }

    /// Checks the part of a command that [`Self::repeats`] leaves out: on a replay nothing else does.
    pub(crate) fn check_options(&self) -> Result<(), String> {
        match self {
            Self::ScheduleActivity { options, .. } => options.check(),
            Self::StartChild { options, .. } => {
                options.workflow_id.as_deref().map_or(Ok(()), |id| check_name("workflow id", id))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of text that the command carries: whatever of it a guest can make large.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::ScheduleActivity { name, input, options } => {
                name.len() + input.as_str().len() + options.text_bytes()
            }
            Self::StartChild { workflow, input, options } => {
                let id = options.workflow_id.as_deref().map_or(0, str::len);
                workflow.len() + input.as_str().len() + id
            }
            Self::AwaitSignal { name } | Self::Patch { change_id: name } => name.len(),
            Self::SignalRun { target, name, payload } => {
                target.text_bytes() + name.len() + payload.as_str().len()
            }
            Self::CancelRun { target } => target.text_bytes(),
            Self::AnswerUpdate { update, outcome } => {
                update.len()
                    + match outcome {
                        Ok(output) => output.as_str().len(),
                        Err(failure) => failure.text_bytes(),
                    }
            }
            Self::EditEntity { path, edit } => {
                path.len() + edit.value().map_or(0, |value| value.as_str().len())
            }
            Self::SetAttributes { changes } => {
                let bytes = |(name, value): (&Arc<str>, &Option<Attribute>)| match value {
                    Some(Attribute::Text(text)) => name.len() + text.len(),
                    _ => name.len() + size_of::<u64>(),
                };
                changes.iter().map(bytes).sum()
            }
            Self::StartTimer { .. } | Self::Cancel { .. } | Self::Shield { .. } => 0,
        }
    }
}

impl fmt::Display for Command {
    /// As a divergence report shows it: one line, payloads cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ScheduleActivity { name, input, .. } => {
                write!(f, "activity {}({})", Cut(name), Cut(input.as_str()))
            }
            Self::StartTimer { ms } => write!(f, "sleep {ms} ms"),
            Self::AwaitSignal { name } => write!(f, "wait for signal \"{}\"", Cut(name)),
            Self::StartChild { workflow, input, .. } => {
                write!(f, "child {}({})", Cut(workflow), Cut(input.as_str()))
            }
            Self::Cancel { target } => write!(f, "cancel op {target}"),
            Self::Shield { target } => write!(f, "shield op {target}"),
            Self::SignalRun { target, name, payload } => {
                write!(f, "signal \"{}\" to {target}: {}", Cut(name), Cut(payload.as_str()))
            }
            Self::CancelRun { target } => write!(f, "cancel {target}"),
            Self::AnswerUpdate { update, outcome: Ok(output) } => {
                write!(f, "answer update \"{}\": {}", Cut(update), Cut(output.as_str()))
            }
            Self::AnswerUpdate { update, outcome: Err(failure) } => {
                write!(f, "answer update \"{}\": {}", Cut(update), Cut(&failure.to_string()))
            }
            Self::Patch { change_id } => write!(f, "patched \"{}\"", Cut(change_id)),
            Self::EditEntity { path, edit } => {
                write!(f, "{} entity \"{}\"", edit.as_str(), Cut(path))?;
                edit.value().map_or(Ok(()), |value| write!(f, ": {}", Cut(value.as_str())))
            }
            Self::SetAttributes { changes } => {
                let names: Vec<&str> = changes.keys().map(|name| &**name).collect();
                write!(f, "set attributes {}", Cut(&names.join(", ")))
            }
        }
    }
}

/// Another run, as a guest names it. Persisted in the row's `detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The child that this op started.
    Child(Op),
    /// The latest run of this workflow id.
    Workflow(Arc<str>),
}

impl Target {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Child(_) => Ok(()),
            Self::Workflow(id) => check_name("workflow id", id),
        }
    }

    fn text_bytes(&self) -> usize {
        match self {
            Self::Child(_) => 0,
            Self::Workflow(id) => id.len(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Child(op) => write!(f, "the child of op {op}"),
            Self::Workflow(id) => write!(f, "workflow \"{}\"", Cut(id)),
        }
    }
}

/// Whether an activity is called with the same arguments. The SDK has said `null` for none of them, where it says `[]`
/// now: a run from then is still repeated by a component from now.
fn are_same_arguments(now: &Json, recorded: &Json) -> bool {
    now == recorded || (now.as_str() == "[]" && recorded.as_str() == "null")
}

/// Options of an activity call. Persisted in the row's `detail`; absent fields mean the defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivityOptions {
    /// Which workers serve the call; none: `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_queue: Option<Arc<str>>,
    /// Bound on one attempt, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_to_close_ms: Option<u64>,
    /// Bound on all attempts together, from the row's `at`, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_to_close_ms: Option<u64>,
    /// Bound on the wait for somebody to serve the call, from the row's `at`, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_to_start_ms: Option<u64>,
    /// Longest silence of a running attempt, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// None: [`RetryPolicy::default`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
}

/// The task queue of calls and components that name none.
pub const DEFAULT_TASK_QUEUE: &str = "default";

impl ActivityOptions {
    /// The queue's name, the default filled in.
    pub fn queue(&self) -> &str {
        self.task_queue.as_deref().unwrap_or(DEFAULT_TASK_QUEUE)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(queue) = &self.task_queue {
            check_name("task queue", queue)?;
        }
        let bounds = [
            ("start-to-close", self.start_to_close_ms),
            ("schedule-to-close", self.schedule_to_close_ms),
            ("schedule-to-start", self.schedule_to_start_ms),
            ("heartbeat", self.heartbeat_ms),
        ];
        for (bound, ms) in bounds {
            // The database and sums with the clock hold less than 64 bits.
            if let Some(ms) = ms.filter(|ms| *ms > limits::SLEEP_MS_MAX) {
                return Err(format!("a {bound} bound of {ms} ms; the longest is {}", limits::SLEEP_MS_MAX));
            }
        }
        self.retry.as_ref().map_or(Ok(()), RetryPolicy::check)
    }

    fn text_bytes(&self) -> usize {
        let codes = self.retry.iter().flat_map(|retry| &retry.non_retryable).map(String::len);
        self.task_queue.as_deref().map_or(0, str::len) + codes.sum::<usize>()
    }
}

/// Options of a child. Persisted in the row's `detail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChildOptions {
    /// None: derived from the parent's run id and the op.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<Arc<str>>,
    /// What becomes of it when the parent closes first.
    pub parent_close: ParentClose,
}

/// What becomes of an open child when its parent closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParentClose {
    /// It is terminated.
    #[default]
    Terminate,
    /// It is asked to cancel.
    RequestCancel,
    /// Nothing.
    Abandon,
}

/// How an activation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Every branch waits for an event.
    Blocked,
    /// The workflow returned this.
    Completed(Json),
    /// The workflow failed.
    Failed(Failure),
    /// The workflow goes on as a new run with this input.
    ContinueAsNew(Json),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(name: &str, options: ActivityOptions) -> Command {
        Command::ScheduleActivity { name: name.into(), input: Json::null(), options }
    }

    #[test]
    fn tuning_options_is_no_change_but_another_name_is() {
        let recorded = activity("pay", ActivityOptions::default());
        let tuned = ActivityOptions { start_to_close_ms: Some(5), ..ActivityOptions::default() };
        assert!(activity("pay", tuned).repeats(&recorded));
        assert!(!activity("refund", ActivityOptions::default()).repeats(&recorded));
        assert!(!Command::StartTimer { ms: 1 }.repeats(&Command::StartTimer { ms: 2 }));
    }

    #[test]
    fn no_arguments_are_the_same_as_they_were_said_before() {
        let call = |input: &str| Command::ScheduleActivity {
            name: "pay".into(),
            input: Json::new(input).unwrap(),
            options: ActivityOptions::default(),
        };
        assert!(call("[]").repeats(&call("null")));
        for (now, then) in [("null", "[]"), ("[null]", "null"), ("[]", "[1]"), ("{}", "null")] {
            assert!(!call(now).repeats(&call(then)), "{now} {then}");
        }
    }

    #[test]
    fn names_that_postgres_or_a_terminal_would_choke_on_are_refused() {
        assert!(activity("a\0b", ActivityOptions::default()).check().is_err());
        assert!(activity("", ActivityOptions::default()).check().is_err());
        assert!(activity(&"x".repeat(257), ActivityOptions::default()).check().is_err());
        assert!(activity("größe/β", ActivityOptions::default()).check().is_ok());
        assert!(Command::StartTimer { ms: limits::SLEEP_MS_MAX + 1 }.check().is_err());
    }

    #[test]
    fn default_options_are_stored_as_an_empty_object() {
        assert_eq!(serde_json::to_string(&ActivityOptions::default()).unwrap(), "{}");
    }
}
