//! What a caller holds of the matcher, and what happens when it drops it.

use std::sync::Arc;

use backstitch_core::TenantId;
use backstitch_core::matcher;
use backstitch_core::task::LeaseGrant;
use backstitch_wire::tasks::TaskView;

use super::shared::Shared;

/// A worker that a call is reserved for. Dropped without a task, it waits on.
pub struct Reservation {
    shared: Arc<Shared>,
    /// None: it has ended.
    reservation: Option<matcher::Reservation>,
    /// On which terms the call is recorded.
    pub grant: LeaseGrant,
}

impl Reservation {
    pub(super) fn new(shared: &Arc<Shared>, reservation: matcher::Reservation, grant: LeaseGrant) -> Self {
        Self { shared: Arc::clone(shared), reservation: Some(reservation), grant }
    }

    /// The call is committed with the worker's lease.
    pub fn deliver(mut self, task: TaskView) {
        if let Some(reservation) = self.reservation.take() {
            self.shared.carry_out(self.shared.decide(|matcher| matcher.commit(reservation, task)));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.shared.carry_out(self.shared.decide(|matcher| matcher.release(reservation)));
        }
    }
}

/// A task that was answered, whose worker does not know that yet.
pub struct Answered {
    shared: Arc<Shared>,
    /// None: it knows.
    answered: Option<matcher::Answered>,
}

impl Answered {
    pub(super) fn new(shared: &Arc<Shared>, answered: matcher::Answered) -> Self {
        Self { shared: Arc::clone(shared), answered: Some(answered) }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        if let Some(answered) = self.answered.take() {
            self.shared.decide(|matcher| matcher.heard(answered));
        }
    }
}

/// Tasks that were taken for a worker which has not heard of them yet. Dropped before it has, they go back.
pub struct Undelivered {
    shared: Arc<Shared>,
    tenant: TenantId,
    tasks: Vec<TaskView>,
}

impl Undelivered {
    pub(super) fn new(shared: &Arc<Shared>, tenant: TenantId, tasks: Vec<TaskView>) -> Self {
        Self { shared: Arc::clone(shared), tenant, tasks }
    }

    /// The worker is still there.
    pub fn deliver(mut self) -> Vec<TaskView> {
        std::mem::take(&mut self.tasks)
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.shared.give_back(self.tenant, std::mem::take(&mut self.tasks));
        }
    }
}
