//! The host around the scheduler, as the scheduler asks it.

use std::sync::Arc;

use backstitch_core::matcher::Queue;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Digest, Scope, Seed, TaskLease};
use backstitch_sandbox::{Room, WorkflowInstance, WorkflowProgram};
use backstitch_scheduler::Env;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::ambient;
use crate::caution::Caution;
use crate::clock::Clock;
use crate::matcher::{Reservation, TaskMatcher};
use crate::registry::ComponentRegistry;
use crate::room::Permit;
use crate::tenure::Tenure;

/// See the module.
pub struct Live {
    /// Which component serves what, and components in memory.
    pub programs: ComponentRegistry,
    /// Where workers poll for tasks.
    pub matcher: TaskMatcher,
    /// Whether attempts may begin.
    pub tenure: Tenure,
    /// Whether guests begin behind their first rows.
    pub caution: Caution,
    /// The memory that guests have together.
    pub memory: Room,
    /// Makes identities that are in the order of their times.
    pub clock: Clock,
}

impl Env for Live {
    type Program = WorkflowProgram;
    type Guest = Box<WorkflowInstance>;
    type Room = Arc<Permit>;
    type Batch = mpsc::Sender<()>;
    type Reply<T> = oneshot::Sender<T>;
    type Reservation = Reservation;

    fn workflow(&self, scope: Scope, name: &Arc<str>) -> Option<Digest> {
        self.programs.workflow(scope, name)
    }

    fn activity(&self, scope: Scope, task_queue: &str, name: &str) -> Option<Digest> {
        self.programs.activity(scope, task_queue, name)
    }

    fn program(&self, digest: Digest) -> Option<WorkflowProgram> {
        self.programs.loaded(digest)
    }

    fn reserve(&mut self, queue: &Queue, name: &str) -> Option<(Reservation, LeaseGrant)> {
        let reservation = self.matcher.reserve(queue, name)?;
        let grant = reservation.grant.clone();
        Some((reservation, grant))
    }

    fn has_lease(&self) -> bool {
        self.tenure.holds()
    }

    fn is_cautious(&self) -> bool {
        self.caution.is_due()
    }

    fn is_short_of_memory(&self) -> bool {
        self.memory.is_short()
    }

    fn new_id(&mut self) -> Uuid {
        self.clock.new_id()
    }

    fn new_task_lease(&mut self) -> TaskLease {
        ambient::new_task_lease()
    }

    fn new_seed(&mut self) -> Seed {
        ambient::new_seed()
    }
}
