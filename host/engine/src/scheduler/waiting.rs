//! Who waits for the commit of an append.

use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use super::input::{Guard, Settlement, Started};

/// Who waits for the commit of an append.
#[derive(Default)]
pub(super) struct Waiting {
    /// The batch that it is part of.
    pub(super) guard: Option<Guard>,
    /// The worker whose task it settles, and who else has answered.
    pub(super) settled: Option<(oneshot::Sender<Settlement>, DropGuard)>,
    /// The client whose run it starts.
    pub(super) started: Option<oneshot::Sender<Started>>,
}

impl From<Option<Guard>> for Waiting {
    fn from(guard: Option<Guard>) -> Self {
        Self { guard, ..Self::default() }
    }
}
