//! The rows of the tables. Columns are named as in `migrations/`; the shard is the database's own.

use std::sync::Arc;

use backstitch_core::inbox::MessageRow;
use backstitch_core::{
    Attribute, Chain, Digest, Epoch, HostId, Op, RunId, RunStatus, Seq, TaskLease, TenantId,
};
use backstitch_ledger::NewRun;

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) epoch: Epoch,
    pub(super) heartbeat_ms: u64,
    pub(super) lease_ms: u64,
    pub(super) dead: bool,
    pub(super) released: bool,
}

/// What `runs.trial` and `runs.trial_op` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    /// 0.
    Over,
    /// 1: to be replayed.
    Unreplayed,
    /// 2: the run alone, or the attempt of a call.
    On(Option<Op>),
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) tenant: TenantId,
    pub(super) workflow_id: Arc<str>,
    pub(super) generation: u32,
    pub(super) workflow: Arc<str>,
    pub(super) digest: Digest,
    pub(super) status: RunStatus,
    pub(super) owner: Option<HostId>,
    pub(super) parent: Option<(RunId, Op)>,
    pub(super) output: Option<Arc<str>>,
    pub(super) error: Option<Arc<str>>,
    pub(super) fault: Option<Arc<str>>,
    /// `rows` and `chain`.
    pub(super) end: Option<(Seq, Chain)>,
    pub(super) losses: u16,
    pub(super) trial: Trial,
    pub(super) started_ms: u64,
    pub(super) closed_ms: Option<u64>,
}

impl Run {
    /// One that is started now.
    pub(super) fn started(tenant: TenantId, new: &NewRun, owner: Option<HostId>) -> Self {
        Self {
            tenant,
            workflow_id: Arc::clone(&new.workflow_id),
            generation: new.generation,
            workflow: Arc::clone(&new.workflow),
            digest: new.digest,
            status: RunStatus::Running,
            owner,
            parent: new.parent,
            output: None,
            error: None,
            fault: None,
            end: None,
            losses: 0,
            trial: Trial::Over,
            started_ms: new.first.at_ms,
            closed_ms: None,
        }
    }

    /// Whether it has the workflow id and the generation that `new` is to have.
    pub(super) fn is_called(&self, tenant: TenantId, new: &NewRun) -> bool {
        (self.tenant, &self.workflow_id, self.generation) == (tenant, &new.workflow_id, new.generation)
    }

    /// Whether `host` owns it, and it is open.
    pub(super) fn is_open_of(&self, host: HostId) -> bool {
        self.owner == Some(host) && self.status.is_open()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    pub(super) tenant: TenantId,
    pub(super) due_ms: u64,
    pub(super) purpose: i16,
    pub(super) owner: Option<HostId>,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) tenant: TenantId,
    pub(super) row: MessageRow,
    pub(super) at_ms: u64,
    /// None: zeros.
    pub(super) owner: Option<HostId>,
}

#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) tenant: TenantId,
    pub(super) seq: Seq,
    pub(super) attempt: u32,
    pub(super) task_queue: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) priority: u8,
    pub(super) offered_ms: u64,
    pub(super) start_by_ms: Option<u64>,
    pub(super) close_by_ms: Option<u64>,
    pub(super) attempt_ms: Option<u64>,
    pub(super) heartbeat_timeout_ms: Option<u64>,
    pub(super) heartbeat: Option<Arc<str>>,
    pub(super) lease: Option<TaskLease>,
    pub(super) lease_ms: Option<u64>,
    pub(super) leased_until_ms: Option<u64>,
    pub(super) deadline_ms: Option<u64>,
    pub(super) worker: Option<Arc<str>>,
    pub(super) given_up: bool,
}

/// A value of an attribute; none: it was removed.
pub(super) type Value = Option<Attribute>;

/// The smaller of those that are there, as Postgres' `least` has it.
pub(super) fn least<const N: usize>(times: [Option<u64>; N]) -> Option<u64> {
    times.into_iter().flatten().min()
}
