//! What a component says that it holds.

use std::sync::Arc;

use backstitch_core::{Fault, FaultKind, Json};
use serde::{Deserialize, Serialize};

/// One workflow or activity of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// Its name. Unique in the component.
    pub name: String,
    /// Signals that it waits for. None for an activity.
    pub signals: Vec<String>,
    /// Queries that it answers. None for an activity.
    pub queries: Vec<String>,
    /// The queue that an activity serves. None for a workflow.
    pub task_queue: Option<String>,
    /// JSON Schema of its input.
    pub input_schema: Option<Json>,
    /// JSON Schema of its output.
    pub output_schema: Option<Json>,
}

/// What a program has that was only just linked.
pub(crate) fn unasked() -> Arc<Result<Vec<Described>, Fault>> {
    Arc::new(Err(Fault::new(FaultKind::Component, "the component was not asked what it holds")))
}
