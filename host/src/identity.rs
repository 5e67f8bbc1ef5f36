//! Who a run is: what does not change about it.

use std::sync::Arc;

use backstitch_core::{Digest, Op, RunId, Scope};

/// What does not change about a run.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Where its rows live.
    pub(crate) scope: Scope,
    /// Its identity.
    pub(crate) run: RunId,
    /// The name its starter gave it.
    pub(crate) workflow_id: Arc<str>,
    /// Counts the runs of that name.
    pub(crate) generation: u32,
    /// Which workflow.
    pub(crate) workflow: Arc<str>,
    /// The component it is pinned to.
    pub(crate) digest: Digest,
    /// The run and the command that started it.
    pub(crate) parent: Option<(RunId, Op)>,
}
