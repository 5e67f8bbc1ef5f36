//! Who waits for the commit of an append.

use backstitch_core::TaskLease;

use crate::env::Env;
use crate::input::{Settlement, Started};

/// Who waits for the commit of an append.
pub(crate) struct Waiting<E: Env> {
    /// The batch that it is part of.
    pub(crate) batch: Option<E::Batch>,
    /// The worker whose task it completes, and under which lease.
    pub(crate) settled: Option<(E::Reply<Settlement>, TaskLease)>,
    /// The client whose run it starts.
    pub(crate) started: Option<E::Reply<Started>>,
}

impl<E: Env> Waiting<E> {
    /// Nobody, unless it is part of a batch.
    pub(crate) fn of(batch: Option<E::Batch>) -> Self {
        Self { batch, settled: None, started: None }
    }
}

impl<E: Env> Default for Waiting<E> {
    fn default() -> Self {
        Self::of(None)
    }
}
