//! What the guards of one matcher share: its state under a lock, its clock, and who carries its actions out.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use backstitch_core::TenantId;
use backstitch_core::matcher::{Action, Matcher, Moment};
use backstitch_wire::tasks::TaskView;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What becomes of tasks that were recorded for a worker which is not there any more.
pub type GiveBack = Arc<dyn Fn(TenantId, Vec<TaskView>) + Send + Sync>;

/// What wakes a poll.
pub(super) type Waker = Arc<Notify>;

/// See the module.
pub(super) struct Shared {
    matcher: Mutex<Matcher<TaskView, Waker>>,
    /// When its clock began.
    origin: Instant,
    give_back: GiveBack,
}

impl Shared {
    pub(super) fn new(give_back: GiveBack) -> Self {
        let seed = RandomState::new().hash_one(());
        Self { matcher: Mutex::new(Matcher::new(seed)), origin: Instant::now(), give_back }
    }

    /// Asks the matcher. Nothing is carried out while it is locked.
    pub(super) fn decide<R>(&self, ask: impl FnOnce(&mut Matcher<TaskView, Waker>) -> R) -> R {
        ask(&mut self.matcher.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        Moment(at.saturating_duration_since(self.origin))
    }

    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.origin + moment.0
    }

    pub(super) fn carry_out(self: &Arc<Self>, actions: impl IntoIterator<Item = Action<TaskView, Waker>>) {
        for action in actions {
            match action {
                Action::Wake(_, waker) => waker.notify_one(),
                Action::GiveBack(tenant, tasks) => self.give_back(tenant, tasks),
                Action::SetTimer(poller, at) => {
                    let shared = Arc::clone(self);
                    tokio::spawn(async move {
                        tokio::time::sleep_until(shared.instant(at)).await;
                        let now = shared.now();
                        let actions = shared.decide(|matcher| matcher.tick(now, poller));
                        shared.carry_out(actions);
                    });
                }
            }
        }
    }

    pub(super) fn give_back(&self, tenant: TenantId, tasks: Vec<TaskView>) {
        (self.give_back)(tenant, tasks);
    }
}
