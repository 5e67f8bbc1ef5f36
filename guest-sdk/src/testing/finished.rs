//! What a test run came to: the ending, and every command on the way there.

use crate::ambient::Level;
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// A command that the workflow gave. [`Display`](fmt::Display) is the line a
/// [`story`](Finished::story) shows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// An activity was called.
    Activity {
        /// Its name.
        name: String,
        /// Its arguments, as JSON text.
        input: String,
        /// The queue asked for.
        task_queue: Option<String>,
    },
    /// A timer was set.
    Sleep {
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// A signal was waited for.
    WaitFor {
        /// Its name.
        signal: String,
    },
    /// A child was started.
    Child {
        /// The workflow.
        workflow: String,
        /// Its input, as JSON text.
        input: String,
        /// The id asked for.
        workflow_id: Option<String>,
    },
    /// A pending command was given up.
    Cancel {
        /// Which: commands that have outcomes are numbered from 0.
        op: u32,
    },
    /// A pending command will outlive a request to cancel.
    Shield {
        /// Which, as in [`Cancel`](Self::Cancel).
        op: u32,
    },
    /// A signal was sent to another run.
    SignalRun {
        /// `child N` or `workflow ID`.
        to: String,
        /// The signal.
        signal: String,
        /// As JSON text.
        payload: String,
    },
    /// Another run was asked to cancel.
    CancelRun {
        /// `child N` or `workflow ID`.
        target: String,
    },
    /// An update was answered.
    AnswerUpdate {
        /// Which.
        id: String,
        /// The output as JSON text, or the failure's message.
        outcome: String,
    },
    /// The entity was edited.
    EditEntity {
        /// `set`, `merge`, `append`, `increment` or `delete`.
        edit: String,
        /// Where.
        path: String,
        /// As JSON text; empty for a delete.
        value: String,
    },
    /// An attribute was set or removed.
    SetAttribute {
        /// Its name.
        name: String,
        /// Its value; none: removed.
        value: Option<String>,
    },
    /// A change of the code was met, and is in force.
    Patched {
        /// The change.
        change_id: String,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Activity { name, input, .. } => write!(f, "activity {name} {input}"),
            Self::Sleep { ms } => write!(f, "sleep-for {ms} ms"),
            Self::WaitFor { signal } => write!(f, "wait-for {signal}"),
            Self::Child { workflow, input, .. } => write!(f, "child {workflow} {input}"),
            Self::Cancel { op } => write!(f, "cancel {op}"),
            Self::Shield { op } => write!(f, "shield {op}"),
            Self::SignalRun { to, signal, payload } => write!(f, "signal {to} {signal} {payload}"),
            Self::CancelRun { target } => write!(f, "cancel {target}"),
            Self::AnswerUpdate { id, outcome } => write!(f, "answer {id} {outcome}"),
            Self::EditEntity { edit, path, value } => {
                write!(f, "{}", format!("{edit} entity {path} {value}").trim_end())
            }
            Self::SetAttribute { name, value: Some(value) } => write!(f, "attribute {name} {value}"),
            Self::SetAttribute { name, value: None } => write!(f, "attribute {name} removed"),
            Self::Patched { change_id } => write!(f, "patched {change_id}"),
        }
    }
}

/// How a test run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// With this output, as JSON text.
    Completed(String),
    /// With this failure.
    Failed(Error),
    /// As a new run with this input, as JSON text.
    ContinuedAsNew(String),
    /// Not at all: these commands are open and nothing in the script answers them.
    Blocked(Vec<Command>),
}

/// A test run that is over.
#[derive(Debug)]
pub struct Finished<T> {
    pub(super) ending: Ending,
    pub(super) commands: Vec<Command>,
    pub(super) logs: Vec<(Level, String)>,
    pub(super) shown: BTreeMap<String, String>,
    pub(super) entity: String,
    pub(super) elapsed: Duration,
    pub(super) output: PhantomData<fn() -> T>,
}

impl<T> Finished<T> {
    /// How it ended.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The commands, in the order they were given.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The commands as lines of text, to compare with what a test expects.
    pub fn story(&self) -> Vec<String> {
        self.commands.iter().map(Command::to_string).collect()
    }

    /// What it wrote to the log.
    pub fn logs(&self) -> &[(Level, String)] {
        &self.logs
    }

    /// What a query would be answered with at the end, as JSON text.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.shown.get(name).map(String::as_str)
    }

    /// The entity at the end, as JSON text.
    pub fn entity(&self) -> &str {
        &self.entity
    }

    /// How much time would have passed.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

impl<T: DeserializeOwned> Finished<T> {
    /// The output, or the failure.
    ///
    /// # Panics
    /// When the run has neither, being blocked or continued as a new one.
    pub fn output(&self) -> Result<T> {
        match &self.ending {
            Ending::Completed(json) => Ok(serde_json::from_str(json)?),
            Ending::Failed(error) => Err(error.clone()),
            Ending::ContinuedAsNew(input) => panic!("the run goes on as a new one with {input}"),
            Ending::Blocked(open) => {
                let open: Vec<_> = open.iter().map(Command::to_string).collect();
                panic!("the run still waits for: {}", open.join("; "))
            }
        }
    }
}
