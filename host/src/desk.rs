//! The desk: where workers wait for tasks, and calls find a worker that waits, within one process.
//!
//! A call whose worker waits here is recorded with that worker's lease, in the append that records the
//! call, and handed over when it is committed: no commit of its own, and no look into the database. Every
//! other call waits in the database until a worker that comes, or is woken, takes it there.
//!
//! Called by the scheduler, which has calls, and by the service, which has workers. Nothing here is
//! needed for a task to be carried out, only for it to be soon: a desk may be dropped at any time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backstitch_client::tasks::TaskView;
use backstitch_core::TenantId;
use backstitch_ledger::Taking;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ambient;

/// How long a worker that has tasks already waits for those that were promised to it and are being
/// committed.
const PROMISED_WAIT: Duration = Duration::from_millis(100);

/// Counters of offers; queues share them, and a needless look is all that comes of it.
const COUNTERS: usize = 256;

/// A task queue of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    /// Whose.
    pub(crate) tenant: TenantId,
    /// Its name.
    pub(crate) name: Arc<str>,
}

/// What a worker that waits wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Of these activities; none: of all.
    pub(crate) names: Option<Arc<HashSet<String>>>,
    /// At most so many.
    pub(crate) max: u32,
    /// How long it may be silent about each.
    pub(crate) lease_ms: u64,
    /// What it calls itself.
    pub(crate) worker: Arc<str>,
}

impl Wish {
    fn takes(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// The terms of one handing-out.
    pub(crate) fn taking(&self) -> Taking {
        Taking { lease: ambient::new_task_lease(), lease_ms: self.lease_ms, worker: Arc::clone(&self.worker) }
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
    waiting: Mutex<HashMap<Queue, VecDeque<Arc<Chair>>>>,
    offers: [AtomicU64; COUNTERS],
    hasher: RandomState,
    give_back: GiveBack,
}

/// A worker that waits.
struct Chair {
    queue: Queue,
    wish: Wish,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Tasks that may still be promised.
    room: u32,
    /// Promised and not there yet.
    promised: u32,
    tasks: Vec<TaskView>,
    /// There is something in the database.
    look: bool,
    /// The worker is gone.
    left: bool,
}

impl Desk {
    /// An empty desk. `give_back` gets what was handed to a worker that had just left.
    pub(crate) fn new(give_back: GiveBack) -> Self {
        let offers = [const { AtomicU64::new(0) }; COUNTERS];
        let inner = Inner { waiting: Mutex::default(), offers, hasher: RandomState::new(), give_back };
        Self { inner: Arc::new(inner) }
    }

    /// How many offers there were so far: to be read before a look into the database.
    pub(crate) fn offers(&self, queue: &Queue) -> u64 {
        self.counter(queue).load(Ordering::SeqCst)
    }

    fn counter(&self, queue: &Queue) -> &AtomicU64 {
        &self.inner.offers[self.inner.hasher.hash_one(queue) as usize % COUNTERS]
    }

    /// Waits at the desk, unless there were more offers than `seen`: then the database has to be looked at.
    pub(crate) fn sit(&self, queue: &Queue, wish: Wish, seen: u64) -> Option<Seat> {
        let state = Mutex::new(State { room: wish.max, ..State::default() });
        let chair = Arc::new(Chair { queue: queue.clone(), wish, state, changed: Notify::new() });
        let mut waiting = locked(&self.inner.waiting);
        // Under the lock that an offer takes to find whom to wake, after it has counted itself.
        if self.offers(queue) != seen {
            return None;
        }
        waiting.entry(queue.clone()).or_default().push_back(Arc::clone(&chair));
        Some(Seat { desk: self.clone(), chair })
    }

    /// A worker for a call that is about to be recorded, if one waits.
    pub(crate) fn promise(&self, queue: &Queue, name: &str) -> Option<Promise> {
        let mut waiting = locked(&self.inner.waiting);
        let line = waiting.get_mut(queue)?;
        for index in 0..line.len() {
            let chair = &line[index];
            if !chair.wish.takes(name) || !chair.promise() {
                continue;
            }
            let chair = line.remove(index)?;
            // In turns: each worker gets as much as the others.
            line.push_back(Arc::clone(&chair));
            let taking = chair.wish.taking();
            return Some(Promise { desk: self.clone(), chair: Some(chair), taking });
        }
        None
    }

    /// A call waits in the database: somebody should look. None: of any activity.
    pub(crate) fn offered(&self, queue: &Queue, name: Option<&str>) {
        self.counter(queue).fetch_add(1, Ordering::SeqCst);
        let waiting = locked(&self.inner.waiting);
        let mut line = waiting.get(queue).into_iter().flatten();
        line.find(|chair| name.is_none_or(|name| chair.wish.takes(name)) && chair.wake());
    }

    /// Wakes one worker of each kind that waits on this queue: what waits in the database may be for any.
    pub(crate) fn look(&self, queue: &Queue) {
        self.counter(queue).fetch_add(1, Ordering::SeqCst);
        let waiting = locked(&self.inner.waiting);
        let mut woken: Vec<&Option<Arc<HashSet<String>>>> = Vec::new();
        for chair in waiting.get(queue).into_iter().flatten() {
            if !woken.contains(&&chair.wish.names) && chair.wake() {
                woken.push(&chair.wish.names);
            }
        }
    }

    /// Queues at which workers wait.
    pub(crate) fn queues(&self) -> Vec<Queue> {
        locked(&self.inner.waiting).keys().cloned().collect()
    }
}

impl Chair {
    /// Promises a task to the worker, if it wants more.
    fn promise(&self) -> bool {
        let mut state = locked(&self.state);
        let has_room = state.room > 0;
        if has_room {
            state.room -= 1;
            state.promised += 1;
        }
        has_room
    }

    /// Tells the worker to look into the database, unless it has been told.
    fn wake(&self) -> bool {
        let mut state = locked(&self.state);
        // One that has tasks already is about to leave.
        let is_free = !state.look && state.tasks.is_empty() && state.room > 0;
        if is_free {
            state.look = true;
            self.changed.notify_one();
        }
        is_free
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
            let mut state = locked(&chair.state);
            state.promised -= 1;
            state.room += 1;
            chair.changed.notify_one();
        }
    }
}

/// What a worker that waited has.
pub(crate) enum Woken {
    /// Tasks, committed as its own.
    Tasks(Vec<TaskView>),
    /// There may be some in the database.
    Look,
    /// Nothing in time.
    Over,
}

/// A place at the desk. What was handed over and not taken goes back when it is dropped.
pub(crate) struct Seat {
    desk: Desk,
    chair: Arc<Chair>,
}

impl Seat {
    /// Waits for something to do.
    pub(crate) async fn wait(&self, until: Instant) -> Woken {
        let mut until = until;
        loop {
            {
                let mut state = locked(&self.chair.state);
                if state.promised == 0 || Instant::now() >= until {
                    if !state.tasks.is_empty() {
                        return Woken::Tasks(std::mem::take(&mut state.tasks));
                    }
                    if std::mem::take(&mut state.look) {
                        return Woken::Look;
                    }
                    if Instant::now() >= until {
                        return Woken::Over;
                    }
                } else if !state.tasks.is_empty() {
                    // No more promises; those that were made are being committed.
                    state.room = 0;
                    until = until.min(Instant::now() + PROMISED_WAIT);
                }
            }
            let _ = tokio::time::timeout_at(until, self.chair.changed.notified()).await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let mut waiting = locked(&self.desk.inner.waiting);
            if let Some(line) = waiting.get_mut(&self.chair.queue) {
                line.retain(|chair| !Arc::ptr_eq(chair, &self.chair));
                if line.is_empty() {
                    waiting.remove(&self.chair.queue);
                }
            }
        }
        let mut state = locked(&self.chair.state);
        state.left = true;
        let (tasks, look) = (std::mem::take(&mut state.tasks), state.look);
        drop(state);
        if !tasks.is_empty() {
            (self.desk.inner.give_back)(self.chair.queue.tenant, tasks);
        }
        if look {
            // Somebody else has to.
            self.desk.offered(&self.chair.queue, None);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
