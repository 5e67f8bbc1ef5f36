//! The task matcher of this host: where workers poll for tasks, and calls find a worker that polls.
//!
//! What is decided, and why, is in [`backstitch_core::matcher`]. This is what a state machine cannot do for itself: it
//! is asked under one lock, its timers run and its pollers are woken outside of it, and what a caller forgets is
//! ended by a guard. A poll whose client hangs up, a call that is not recorded and tasks that nobody took are all
//! dropped values.
//!
//! Called by the scheduler, which has calls, and by the service, which has workers.

mod guards;
mod poll;
mod shared;

use std::sync::Arc;

use backstitch_core::matcher::{PollRequest, Queue};
use backstitch_core::{TaskLease, TenantId};
use backstitch_wire::tasks::TaskView;

use crate::ambient;
pub use guards::{Answered, Reservation, Undelivered};
pub use poll::{PollGuard, Woken};
pub use shared::GiveBack;
use shared::Shared;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct TaskMatcher {
    shared: Arc<Shared>,
}

impl TaskMatcher {
    /// Nobody polls. `give_back` gets what was recorded for a worker that had just left.
    pub fn new(give_back: GiveBack) -> Self {
        Self { shared: Arc::new(Shared::new(give_back)) }
    }

    /// A worker polls.
    pub fn poll(&self, queue: &Queue, request: PollRequest) -> PollGuard {
        PollGuard::new(&self.shared, queue, request)
    }

    /// A worker for a call that is about to be recorded, if one waits or is expected.
    pub fn reserve(&self, queue: &Queue, name: &str) -> Option<Reservation> {
        let reserve = self.shared.decide(|matcher| matcher.reserve(queue, name, ambient::new_task_lease));
        let (reservation, grant) = reserve?;
        Some(Reservation::new(&self.shared, reservation, grant))
    }

    /// A task under this lease is answered. To be kept until the worker hears that it is.
    pub fn answered(&self, lease: TaskLease) -> Option<Answered> {
        let answered = self.shared.decide(|matcher| matcher.answered(lease))?;
        Some(Answered::new(&self.shared, answered))
    }

    /// Keeps tasks until their worker hears of them.
    pub fn undelivered(&self, tenant: TenantId, tasks: Vec<TaskView>) -> Undelivered {
        Undelivered::new(&self.shared, tenant, tasks)
    }

    /// A call waits in the database: somebody should check.
    pub fn offered(&self, queue: &Queue, name: &str) {
        let action = self.shared.decide(|matcher| matcher.offered(queue, name));
        self.shared.carry_out(action);
    }

    /// Calls of any name may wait in the database: one poll of each kind checks.
    pub fn offered_any(&self, queue: &Queue) {
        let actions = self.shared.decide(|matcher| matcher.offered_any(queue));
        self.shared.carry_out(actions);
    }

    /// Queues at which workers wait.
    pub fn queues(&self) -> Vec<Queue> {
        self.shared.decide(|matcher| matcher.queues())
    }
}

#[cfg(test)]
mod tests;
