//! The desk: where workers wait for tasks, and calls find a worker that waits, within one process.
//!
//! A call whose worker waits here is recorded with that worker's lease, in the append that records the
//! call, and handed over when it is committed: no commit of its own, and no look into the database. Every
//! other call waits in the database until a worker that comes, or is woken, takes it there.
//!
//! A worker that has got tasks and has room for more polls again at once. Its seat is kept for it meanwhile, and
//! calls are promised to it as if it were there: most calls of a busy queue would otherwise be recorded while the
//! poll is on its way, and each wave of them would cost a claim. Only who came back in time before is expected;
//! what was promised waits for [`RETURN_WAIT`] at most, and goes to the next worker if nobody comes. While a poll
//! looks into the database for what waits there, its seat takes promises for a part of its room, so that one wave
//! that had to be claimed does not make the next one be claimed, too.
//!
//! An answer makes room for one task more before the worker can say so, for the call that follows upon it is about
//! to be recorded. That is more than some workers have places for; no poll is given more than it asks for.
//!
//! Called by the scheduler, which has calls, and by the service, which has workers. Nothing here is
//! needed for a task to be carried out, only for it to be soon: a desk may be dropped at any time.

mod chair;
mod line;
mod seat;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use backstitch_client::tasks::TaskView;
use backstitch_core::{TaskLease, TenantId};
use backstitch_ledger::Taking;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ambient;
use chair::{Answered, Chair, State};
use line::Line;
pub(crate) use seat::{Seat, Woken};

/// How long a worker that has tasks already waits for those that were promised to it and are being
/// committed.
const PROMISED_WAIT: Duration = Duration::from_millis(100);

/// How long a seat is kept: a round trip within one data centre, to a worker that has a thousand tasks to begin first.
const RETURN_WAIT: Duration = Duration::from_millis(50);

/// Workers of which it is remembered when they left.
const DEPARTURES_MAX: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// Counters of offers; queues share them, and a needless look is all that comes of it.
const COUNTERS: usize = 256;

/// Handings-out of which it is remembered to whom.
const LEASES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// Kinds of workers of which it is remembered that there was nothing for them in the database.
const LOOKS_MAX: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// A task queue of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    /// Whose.
    pub(crate) tenant: TenantId,
    /// Its name.
    pub(crate) name: Arc<str>,
}

/// Names of activities; none: all there are.
type Names = Option<Arc<BTreeSet<String>>>;

/// What a worker that waits wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wish {
    /// Of these activities; none: of all.
    pub(crate) names: Names,
    /// At most so many.
    pub(crate) max: u32,
    /// How long it may be silent about each.
    pub(crate) lease_ms: u64,
    /// What it calls itself.
    pub(crate) worker: Arc<str>,
}

impl Wish {
    /// What every poll of the same worker says.
    fn of_the_worker(&self) -> Self {
        Self { max: 0, ..self.clone() }
    }
}

/// What becomes of tasks that were handed to a worker which is not there any more.
pub(crate) type GiveBack = Arc<dyn Fn(TenantId, Vec<TaskView>) + Send + Sync>;

/// See the module. Cheap to clone: all clones are one.
#[derive(Clone)]
pub(crate) struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    waiting: Mutex<HashMap<Queue, Line>>,
    chairs: AtomicU64,
    offers: [AtomicU64; COUNTERS],
    /// How many offers there were when a look into the database found nothing.
    looks: Mutex<lru::LruCache<(Queue, Names), u64>>,
    /// Who has what was handed out.
    leases: Mutex<lru::LruCache<TaskLease, Weak<Chair>>>,
    /// How workers left.
    departures: Mutex<lru::LruCache<(Queue, Arc<str>), Departure>>,
    return_wait: Duration,
    hasher: RandomState,
    give_back: GiveBack,
}

/// The last time that a worker left.
#[derive(Clone, Copy)]
struct Departure {
    /// If it had room for more and has not come back.
    at: Option<Instant>,
    /// It was back in time when it had room for more.
    returns: bool,
}

impl Desk {
    /// An empty desk. `give_back` gets what was handed to a worker that had just left.
    pub(crate) fn new(give_back: GiveBack) -> Self {
        Self::expecting(RETURN_WAIT, give_back)
    }

    fn expecting(return_wait: Duration, give_back: GiveBack) -> Self {
        let offers = [const { AtomicU64::new(0) }; COUNTERS];
        let inner = Inner {
            waiting: Mutex::default(),
            chairs: AtomicU64::default(),
            offers,
            looks: Mutex::new(lru::LruCache::new(LOOKS_MAX)),
            leases: Mutex::new(lru::LruCache::new(LEASES_MAX)),
            departures: Mutex::new(lru::LruCache::new(DEPARTURES_MAX)),
            return_wait,
            hasher: RandomState::new(),
            give_back,
        };
        Self { inner: Arc::new(inner) }
    }

    /// How many offers there were so far: to be read before a look into the database.
    pub(crate) fn offers(&self, queue: &Queue) -> u64 {
        self.counter(queue).load(Ordering::SeqCst)
    }

    fn counter(&self, queue: &Queue) -> &AtomicU64 {
        &self.inner.offers[self.inner.hasher.hash_one(queue) as usize % COUNTERS]
    }

    /// Whether there is nothing in the database for such a worker, as far as this host has heard: it has looked
    /// when there were as many offers as now.
    pub(crate) fn is_known_empty(&self, queue: &Queue, wish: &Wish) -> bool {
        let offers = self.offers(queue);
        let mut looks = locked(&self.inner.looks);
        looks.get(&(queue.clone(), wish.names.clone())).is_some_and(|looked| *looked == offers)
    }

    /// Whether the last look of a worker of this kind left nothing in the database.
    fn is_drained(&self, chair: &Chair) -> bool {
        locked(&self.inner.looks).contains(&(chair.queue.clone(), chair.wish.names.clone()))
    }

    /// A look into the database left some there: for others too.
    pub(crate) fn found_more(&self, queue: &Queue, wish: &Wish) {
        locked(&self.inner.looks).pop(&(queue.clone(), wish.names.clone()));
        self.look(queue);
    }

    /// A look into the database left nothing there; `seen` offers had been made before.
    pub(crate) fn found_nothing(&self, queue: &Queue, wish: &Wish, seen: u64) {
        locked(&self.inner.looks).put((queue.clone(), wish.names.clone()), seen);
    }

    /// Keeps tasks until their worker hears of them.
    pub(crate) fn hand(&self, tenant: TenantId, tasks: Vec<TaskView>) -> Handed {
        Handed { desk: self.clone(), tenant, tasks }
    }

    /// A seat for a worker that polls: the one that was kept for it, or a new one. Nothing is promised to a new one
    /// before its worker looks or waits.
    pub(crate) fn sit(&self, queue: &Queue, wish: Wish) -> Seat {
        let worker = (queue.clone(), Arc::clone(&wish.worker));
        if let Some(departure) = locked(&self.inner.departures).get_mut(&worker)
            && let Some(at) = departure.at.take()
        {
            departure.returns = at.elapsed() <= self.inner.return_wait;
        }
        let mut waiting = locked(&self.inner.waiting);
        let line = waiting.entry(queue.clone()).or_default();
        let chair = line.take_again(&wish).unwrap_or_else(|| {
            let state = State { asked: wish.max, max: wish.max, closed: true, ..State::default() };
            let (state, changed) = (Mutex::new(state), Notify::new());
            let number = self.inner.chairs.fetch_add(1, Ordering::Relaxed);
            let chair = Arc::new(Chair { number, queue: queue.clone(), wish, state, changed });
            line.join(&chair);
            chair
        });
        Seat { desk: self.clone(), chair, is_kept: false }
    }

    /// Whether a worker is one that comes back.
    fn returns(&self, chair: &Chair) -> bool {
        let worker = (chair.queue.clone(), Arc::clone(&chair.wish.worker));
        locked(&self.inner.departures).get(&worker).is_some_and(|departure| departure.returns)
    }

    fn departs(&self, chair: &Chair, departure: Departure) {
        let worker = (chair.queue.clone(), Arc::clone(&chair.wish.worker));
        locked(&self.inner.departures).put(worker, departure);
    }

    /// A worker for a call that is about to be recorded, if one waits or is expected.
    pub(crate) fn promise(&self, queue: &Queue, name: &str) -> Option<Promise> {
        let chair = locked(&self.inner.waiting).get_mut(queue)?.promise(name)?;
        let taking = self.taking(&chair);
        Some(Promise { desk: self.clone(), chair: Some(chair), taking })
    }

    /// Keeps a chair for its worker, and promises to it what there is room for.
    fn keep(&self, chair: &Arc<Chair>) {
        if let Some(line) = locked(&self.inner.waiting).get_mut(&chair.queue) {
            line.keep(chair);
            line.refresh(chair);
        }
    }

    /// See [`Line::refresh`].
    fn refresh(&self, chair: &Arc<Chair>) {
        if let Some(line) = locked(&self.inner.waiting).get_mut(&chair.queue) {
            line.refresh(chair);
        }
    }

    /// The terms of one handing-out to the worker of this chair.
    fn taking(&self, chair: &Arc<Chair>) -> Taking {
        let Wish { lease_ms, worker, .. } = &chair.wish;
        let lease = ambient::new_task_lease();
        locked(&self.inner.leases).put(lease, Arc::downgrade(chair));
        Taking { lease, lease_ms: Some(*lease_ms), worker: Arc::clone(worker) }
    }

    /// A task of this handing-out is answered. To be kept until the worker hears that it is.
    pub(crate) fn answered(&self, lease: TaskLease) -> Option<Answered> {
        let chair = locked(&self.inner.leases).get(&lease)?.upgrade()?;
        {
            let mut state = locked(&chair.state);
            if state.left {
                return None;
            }
            state.max = state.max.saturating_add(1);
            state.unheard += 1;
        }
        self.refresh(&chair);
        Some(Answered { chair })
    }

    /// A call waits in the database: somebody should look.
    pub(crate) fn offered(&self, queue: &Queue, name: &str) {
        self.counter(queue).fetch_add(1, Ordering::SeqCst);
        if let Some(line) = locked(&self.inner.waiting).get_mut(queue) {
            line.wake_one(name);
        }
    }

    /// Wakes one worker of each kind that waits on this queue: what waits in the database may be for any.
    pub(crate) fn look(&self, queue: &Queue) {
        self.counter(queue).fetch_add(1, Ordering::SeqCst);
        if let Some(line) = locked(&self.inner.waiting).get_mut(queue) {
            line.wake_one_of_each();
        }
    }

    /// Queues at which workers wait.
    pub(crate) fn queues(&self) -> Vec<Queue> {
        locked(&self.inner.waiting).keys().cloned().collect()
    }
}

/// A worker that a call was promised to. Dropped without a task, it waits on.
pub(crate) struct Promise {
    desk: Desk,
    chair: Option<Arc<Chair>>,
    /// On which terms the call is recorded.
    pub(crate) taking: Taking,
}

impl Promise {
    /// The call is committed with the worker's lease.
    pub(crate) fn keep(mut self, task: TaskView) {
        let Some(chair) = self.chair.take() else { return };
        let mut state = locked(&chair.state);
        state.promised -= 1;
        if state.left {
            drop(state);
            return (self.desk.inner.give_back)(chair.queue.tenant, vec![task]);
        }
        state.tasks.push(task);
        chair.changed.notify_one();
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(chair) = self.chair.take() {
            locked(&chair.state).promised -= 1;
            self.desk.refresh(&chair);
            chair.changed.notify_one();
        }
    }
}

/// Tasks that were taken for a worker which has not heard of them yet. Dropped before it has, they go back.
pub(crate) struct Handed {
    desk: Desk,
    tenant: TenantId,
    tasks: Vec<TaskView>,
}

impl Handed {
    /// The worker is still there.
    pub(crate) fn take(mut self) -> Vec<TaskView> {
        std::mem::take(&mut self.tasks)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            (self.desk.inner.give_back)(self.tenant, std::mem::take(&mut self.tasks));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
