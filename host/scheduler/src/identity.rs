//! Who a run is: what does not change about it.

use std::sync::Arc;

use backstitch_core::{Digest, Op, RunId, Scope};

/// What does not change about a run.
#[derive(Clone, Debug)]
pub struct RunIdentity {
    /// Where its rows live.
    pub scope: Scope,
    /// Its identity.
    pub run: RunId,
    /// The name its starter gave it.
    pub workflow_id: Arc<str>,
    /// Counts the runs of that name.
    pub generation: u32,
    /// Which workflow.
    pub workflow: Arc<str>,
    /// The component it is pinned to.
    pub digest: Digest,
    /// The run and the command that started it.
    pub parent: Option<(RunId, Op)>,
}
