//! The desk: where workers wait for tasks, and calls find a worker that waits, within one process.
//!
//! A call whose worker waits here is recorded with that worker's lease, in the append that records the
//! call, and handed over when it is committed: no commit of its own, and no look into the database. Every
//! other call waits in the database until a worker that comes, or is woken, takes it there.
//!
//! A worker that has got tasks and has room for more polls again at once. Its seat is kept for it meanwhile, and
//! calls are promised to it as if it were there: most calls of a busy queue would otherwise be recorded while the
//! poll is on its way, and each wave of them would cost a claim. Only who came back in time before is expected;
//! what was promised waits for [`RETURN_WAIT`] at most, and goes to the next worker if nobody comes. An answer makes
//! room for one task more, before the worker can say so: the call that follows upon it is the next one that there
//! will be for it. While a poll
//! looks into the database for what waits there, its seat takes promises for a part of its room, so that one wave
//! that had to be claimed does not make the next one be claimed, too.
//!
//! Called by the scheduler, which has calls, and by the service, which has workers. Nothing here is
//! needed for a task to be carried out, only for it to be soon: a desk may be dropped at any time.

use std::collections::{BTreeSet, HashMap, VecDeque};
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    fn takes(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Whether the next poll of the same worker would say this.
    fn is_of_the_worker(&self, other: &Self) -> bool {
        *self == Self { max: self.max, ..other.clone() }
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

/// A worker that waits, or is expected.
struct Chair {
    queue: Queue,
    wish: Wish,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Tasks that this poll takes.
    asked: u32,
    /// Tasks that the worker takes, now or with its next poll.
    max: u32,
    /// Answers that it does not know to have arrived: what it takes next is more by as many than it says.
    unheard: u32,
    /// Nothing is promised to it.
    closed: bool,
    /// Tasks that it looks for in the database.
    looks_for: u32,
    /// Promised and not there yet.
    promised: u32,
    tasks: Vec<TaskView>,
    /// There is something in the database.
    look: bool,
    /// The worker is gone.
    left: bool,
    /// The worker is on its way back.
    expected: bool,
    /// Counts the times that it left and was expected.
    departures: u64,
}

impl State {
    /// Tasks that the worker takes besides those that it has or was promised.
    fn free(&self) -> u32 {
        let owed = self.promised.saturating_add(u32::try_from(self.tasks.len()).unwrap_or(u32::MAX));
        self.max.saturating_sub(owed)
    }

    /// Tasks that may be promised to the worker.
    fn room(&self) -> u32 {
        if self.closed { 0 } else { self.free().saturating_sub(self.looks_for) }
    }

    /// Its worker waits, or is expected: all of its room is for promises.
    fn open(&mut self) {
        (self.closed, self.looks_for) = (false, 0);
    }
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
        let kept = line.iter().find(|chair| chair.wish.is_of_the_worker(&wish) && chair.take_again(wish.max));
        let chair = kept.map(Arc::clone).unwrap_or_else(|| {
            let state = State { asked: wish.max, max: wish.max, closed: true, ..State::default() };
            let state = Mutex::new(state);
            let chair = Arc::new(Chair { queue: queue.clone(), wish, state, changed: Notify::new() });
            line.push_back(Arc::clone(&chair));
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
            let taking = self.taking(&chair);
            return Some(Promise { desk: self.clone(), chair: Some(chair), taking });
        }
        None
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
        Some(Answered { chair })
    }

    /// A call waits in the database: somebody should look.
    pub(crate) fn offered(&self, queue: &Queue, name: &str) {
        self.counter(queue).fetch_add(1, Ordering::SeqCst);
        let waiting = locked(&self.inner.waiting);
        let mut line = waiting.get(queue).into_iter().flatten();
        line.find(|chair| chair.wish.takes(name) && chair.wake());
    }

    /// Wakes one worker of each kind that waits on this queue: what waits in the database may be for any.
    pub(crate) fn look(&self, queue: &Queue) {
        self.counter(queue).fetch_add(1, Ordering::SeqCst);
        let waiting = locked(&self.inner.waiting);
        let mut woken: Vec<&Names> = Vec::new();
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
        let has_room = state.room() > 0;
        state.promised += u32::from(has_room);
        has_room
    }

    /// The worker is back, and wants so many. False: it is somebody else's chair, or the worker's time is over.
    fn take_again(&self, max: u32) -> bool {
        let mut state = locked(&self.state);
        let is_kept = std::mem::take(&mut state.expected);
        if is_kept {
            (state.asked, state.max, state.closed) = (max, max.saturating_add(state.unheard), true);
        }
        is_kept
    }

    /// Tells the worker to look into the database, unless it has been told.
    fn wake(&self) -> bool {
        let mut state = locked(&self.state);
        // One that has tasks already is about to leave; one that is expected looks when it comes.
        let is_free = !state.look && !state.expected && state.tasks.is_empty() && state.room() > 0;
        if is_free {
            state.look = true;
            self.changed.notify_one();
        }
        is_free
    }
}

/// A task that was answered, whose worker does not know that yet.
pub(crate) struct Answered {
    chair: Arc<Chair>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        locked(&self.chair.state).unheard -= 1;
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

/// What a worker that waited has.
pub(crate) enum Woken {
    /// Tasks were handed over: it may leave with them.
    Tasks,
    /// There may be some in the database.
    Look,
    /// Nothing in time.
    Over,
}

/// A worker's place at the desk. What was handed over and not taken goes back when it is dropped.
pub(crate) struct Seat {
    desk: Desk,
    chair: Arc<Chair>,
    /// Its worker left and comes back to it.
    is_kept: bool,
}

impl Seat {
    /// The terms of one handing-out to its worker.
    pub(crate) fn taking(&self) -> Taking {
        self.desk.taking(&self.chair)
    }

    /// How many tasks its worker may look for in the database. The others it takes may be promised meanwhile.
    pub(crate) fn look(&self) -> u32 {
        let shares = self.desk.returns(&self.chair) && self.desk.is_drained(&self.chair);
        let mut state = locked(&self.chair.state);
        let free = state.free().min(state.asked);
        (state.closed, state.looks_for) = (!shares, if shares { free - free / 2 } else { free });
        // Whoever offers from now on is counted behind what the caller has seen.
        state.look = false;
        state.looks_for
    }

    /// Its worker leaves with these tasks and those that were handed over. If it has room for more and is one that
    /// comes back, its seat is kept.
    pub(crate) fn leave(mut self, mut tasks: Vec<TaskView>) -> Vec<TaskView> {
        let returns = self.desk.returns(&self.chair);
        let mut state = locked(&self.chair.state);
        let more = (state.asked as usize).saturating_sub(tasks.len()).min(state.tasks.len());
        tasks.extend(state.tasks.drain(..more));
        state.max = state.max.saturating_sub(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
        state.open();
        let has_room = state.max > 0;
        let was_told_to_look = std::mem::take(&mut state.look);
        if has_room && returns {
            self.is_kept = true;
            state.expected = true;
            state.departures += 1;
            self.end_unless_back(state.departures);
        }
        drop(state);
        if was_told_to_look {
            // Somebody else may do so sooner; it does when it comes back.
            self.desk.look(&self.chair.queue);
        }
        self.desk.departs(&self.chair, Departure { at: has_room.then(Instant::now), returns });
        tasks
    }

    /// Ends the time for which it is kept.
    fn end_unless_back(&self, departure: u64) {
        let (desk, chair) = (self.desk.clone(), Arc::clone(&self.chair));
        tokio::spawn(async move {
            tokio::time::sleep(desk.inner.return_wait).await;
            let mut state = locked(&chair.state);
            let is_over = state.expected && state.departures == departure;
            state.expected &= !is_over;
            drop(state);
            if is_over {
                drop(Seat { desk, chair, is_kept: false });
            }
        });
    }

    /// Waits for something to do; `seen` offers had been made when there was nothing in the database.
    pub(crate) async fn wait(&self, until: Instant, seen: u64) -> Woken {
        let mut until = until;
        {
            locked(&self.chair.state).open();
        }
        // An offer counts itself before it looks for somebody to wake, who has room.
        if self.desk.offers(&self.chair.queue) != seen {
            return Woken::Look;
        }
        let mut enough = usize::MAX;
        loop {
            {
                let mut state = locked(&self.chair.state);
                let enough_now = enough.min(state.asked as usize);
                if state.promised == 0 || state.tasks.len() >= enough_now || Instant::now() >= until {
                    if !state.tasks.is_empty() {
                        return Woken::Tasks;
                    }
                    if std::mem::take(&mut state.look) {
                        return Woken::Look;
                    }
                    if Instant::now() >= until {
                        return Woken::Over;
                    }
                } else if !state.tasks.is_empty() && enough == usize::MAX {
                    // Those that were promised are being committed. What is promised from now on is for the next
                    // time, if there will be one.
                    enough = state.tasks.len() + state.promised as usize;
                    if !self.desk.returns(&self.chair) {
                        state.closed = true;
                    }
                    until = until.min(Instant::now() + PROMISED_WAIT);
                }
            }
            let _ = tokio::time::timeout_at(until, self.chair.changed.notified()).await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
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
            self.desk.look(&self.chair.queue);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn queue() -> Queue {
        Queue { tenant: TenantId::DEFAULT, name: "q".into() }
    }

    fn wish(names: Option<&[&str]>, max: u32) -> Wish {
        let names = names.map(|names| Arc::new(names.iter().map(|name| (*name).to_owned()).collect()));
        Wish { names, max, lease_ms: 1_000, worker: "w".into() }
    }

    fn task(token: &str) -> TaskView {
        TaskView {
            token: token.to_owned(),
            run_id: ambient::new_run_id(),
            workflow_id: String::new(),
            op: backstitch_core::Op(0),
            attempt: 1,
            name: "a".to_owned(),
            task_queue: "q".to_owned(),
            input: backstitch_core::Json::null(),
            idempotency_key: String::new(),
            lease_ms: 1_000,
            deadline: None,
            heartbeat_details: None,
            traceparent: String::new(),
        }
    }

    /// A desk, and the tokens of what it has given back.
    fn desk() -> (Desk, Arc<Mutex<Vec<String>>>) {
        desk_expecting(DAY)
    }

    fn desk_expecting(return_wait: Duration) -> (Desk, Arc<Mutex<Vec<String>>>) {
        let returned = Arc::new(Mutex::new(Vec::new()));
        let tokens = Arc::clone(&returned);
        let give_back = Arc::new(move |_, tasks: Vec<TaskView>| {
            tokens.lock().unwrap().extend(tasks.into_iter().map(|task| task.token));
        });
        (Desk::expecting(return_wait, give_back), returned)
    }

    /// A worker that waits.
    async fn sit(desk: &Desk, names: Option<&[&str]>, max: u32) -> Seat {
        let seat = desk.sit(&queue(), wish(names, max));
        assert_eq!(got(&seat).await, None);
        seat
    }

    /// What a worker has that waits no longer than it must: none is nothing, the empty one is to look.
    async fn got(seat: &Seat) -> Option<Vec<String>> {
        match seat.wait(Instant::now(), seat.desk.offers(&queue())).await {
            Woken::Tasks => {
                let tasks = &locked(&seat.chair.state).tasks;
                Some(tasks.iter().map(|task| task.token.clone()).collect())
            }
            Woken::Look => Some(Vec::new()),
            Woken::Over => None,
        }
    }

    fn tokens(tasks: Vec<TaskView>) -> Vec<String> {
        tasks.into_iter().map(|task| task.token).collect()
    }

    #[tokio::test]
    async fn promises_go_to_workers_in_turns_and_only_to_those_that_want_them() {
        let (desk, _) = desk();
        let (any, only) = (sit(&desk, None, 2).await, sit(&desk, Some(&["b"]), 1).await);
        desk.promise(&queue(), "a").unwrap().keep(task("1"));
        desk.promise(&queue(), "b").unwrap().keep(task("2"));
        desk.promise(&queue(), "b").unwrap().keep(task("3"));
        assert!(desk.promise(&queue(), "b").is_none(), "nobody wants more");
        assert_eq!(got(&any).await.unwrap(), ["1", "3"]);
        assert_eq!(got(&only).await.unwrap(), ["2"]);
        assert_eq!(tokens(any.leave(Vec::new())), ["1", "3"]);
        assert_eq!(tokens(only.leave(Vec::new())), ["2"]);
        assert!(desk.promise(&queue(), "a").is_none() && desk.queues().is_empty());
    }

    #[tokio::test]
    async fn a_promise_that_is_not_kept_is_no_loss() {
        let (desk, returned) = desk();
        let seat = sit(&desk, None, 1).await;
        drop(desk.promise(&queue(), "a").unwrap());
        desk.promise(&queue(), "a").unwrap().keep(task("1"));
        assert_eq!(got(&seat).await.unwrap(), ["1"]);
        assert!(returned.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_worker_left_behind_goes_back_and_so_does_what_comes_after_it() {
        let (desk, returned) = desk();
        let seat = sit(&desk, None, 2).await;
        desk.promise(&queue(), "a").unwrap().keep(task("1"));
        let late = desk.promise(&queue(), "a").unwrap();
        drop(seat);
        late.keep(task("2"));
        assert_eq!(*returned.lock().unwrap(), ["1", "2"]);
    }

    /// A worker that takes two, leaves with one, and came back the last time.
    async fn gone(desk: &Desk) {
        let returns = Departure { at: None, returns: true };
        locked(&desk.inner.departures).put((queue(), "w".into()), returns);
        assert_eq!(tokens(sit(desk, None, 2).await.leave(vec![task("0")])), ["0"]);
    }

    #[tokio::test]
    async fn a_worker_that_comes_back_gets_what_was_promised_meanwhile() {
        let (desk, returned) = desk();
        gone(&desk).await;
        desk.promise(&queue(), "a").unwrap().keep(task("1"));
        assert!(desk.promise(&queue(), "a").is_none(), "it has no room for more");
        let other = desk.sit(&queue(), Wish { worker: "other".into(), ..wish(None, 2) });
        assert_eq!(got(&other).await, None, "it is another's");
        drop(other);
        let seat = desk.sit(&queue(), wish(None, 3));
        assert_eq!(seat.look(), 2, "what it has is its own");
        assert_eq!(got(&seat).await.unwrap(), ["1"]);
        desk.promise(&queue(), "a").unwrap().keep(task("2"));
        let late = desk.promise(&queue(), "a").unwrap();
        assert_eq!(tokens(seat.leave(Vec::new())), ["1", "2"]);
        late.keep(task("3"));
        assert_eq!(tokens(desk.sit(&queue(), wish(None, 3)).leave(Vec::new())), ["3"]);
        assert!(returned.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_worker_is_expected_when_it_was_back_in_time() {
        let (desk, _) = desk();
        drop(tokens(sit(&desk, None, 2).await.leave(vec![task("0")])));
        assert!(desk.promise(&queue(), "a").is_none(), "nobody knows yet whether it comes back");
        drop(tokens(sit(&desk, None, 1).await.leave(vec![task("1")])));
        assert!(desk.promise(&queue(), "a").is_none(), "it has as many as it takes");
        drop(tokens(sit(&desk, None, 2).await.leave(vec![task("2")])));
        assert!(desk.promise(&queue(), "a").is_some());
    }

    #[tokio::test]
    async fn an_answer_makes_room_for_the_next_call_and_no_poll_gets_more_than_it_asks_for() {
        let (desk, returned) = desk();
        gone(&desk).await;
        let first = desk.promise(&queue(), "a").unwrap();
        let lease = first.taking.lease;
        first.keep(task("1"));
        assert!(desk.promise(&queue(), "a").is_none(), "it has as many as it takes");
        let answered = desk.answered(lease).unwrap();
        desk.promise(&queue(), "a").unwrap().keep(task("2"));
        assert!(desk.promise(&queue(), "a").is_none(), "one answer, one task more");
        let seat = desk.sit(&queue(), wish(None, 1));
        assert!(desk.promise(&queue(), "a").is_none(), "it has not looked yet");
        assert_eq!(seat.look(), 0, "two are promised");
        assert_eq!(got(&seat).await.unwrap(), ["1", "2"], "it did not know of the answer when it asked");
        assert_eq!(tokens(seat.leave(Vec::new())), ["1"]);
        drop(answered);
        assert_eq!(tokens(desk.sit(&queue(), wish(None, 1)).leave(Vec::new())), ["2"]);
        assert!(desk.answered(lease).is_none(), "its worker is gone");
        let seat = desk.sit(&queue(), wish(None, 1));
        let lease = seat.taking().lease;
        assert!(desk.answered(lease).is_some());
        assert_eq!(seat.look(), 1, "the database gives no more than is asked for either");
        assert!(returned.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_worker_that_comes_back_for_less_gets_no_more_than_it_wants() {
        let (desk, returned) = desk();
        gone(&desk).await;
        desk.promise(&queue(), "a").unwrap().keep(task("1"));
        let none = desk.sit(&queue(), wish(None, 0));
        assert!(none.leave(Vec::new()).is_empty());
        assert_eq!(*returned.lock().unwrap(), ["1"]);
    }

    #[tokio::test]
    async fn what_was_promised_to_a_worker_that_does_not_come_goes_to_the_next() {
        let (desk, returned) = desk_expecting(Duration::from_millis(1));
        gone(&desk).await;
        desk.promise(&queue(), "a").unwrap().keep(task("1"));
        while returned.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*returned.lock().unwrap(), ["1"]);
        assert!(desk.promise(&queue(), "a").is_none() && desk.queues().is_empty());
        drop(tokens(sit(&desk, None, 2).await.leave(vec![task("2")])));
        assert!(desk.promise(&queue(), "a").is_none(), "it was too late: it is not expected again");
    }

    #[tokio::test]
    async fn while_a_worker_looks_a_part_of_its_room_is_for_promises_if_there_was_little_the_last_time() {
        let (desk, _) = desk();
        gone(&desk).await;
        let seat = desk.sit(&queue(), wish(None, 9));
        assert_eq!(seat.look(), 9, "there may be much");
        assert!(desk.promise(&queue(), "a").is_none());
        desk.found_nothing(&queue(), &wish(None, 9), desk.offers(&queue()));
        assert_eq!(seat.look(), 5);
        desk.promise(&queue(), "a").unwrap().keep(task("1"));
        desk.found_more(&queue(), &wish(None, 9));
        assert_eq!(seat.look(), 8);
        assert_eq!(tokens(seat.leave(vec![task("2")])), ["2", "1"]);
    }

    #[tokio::test]
    async fn no_offer_falls_between_a_look_and_a_wait() {
        let (desk, _) = desk();
        let seen = desk.offers(&queue());
        let seat = desk.sit(&queue(), wish(None, 1));
        desk.offered(&queue(), "a");
        assert!(matches!(seat.wait(Instant::now(), seen).await, Woken::Look));
        drop(seat);
        let (deaf, first) = (sit(&desk, Some(&["b"]), 1).await, sit(&desk, None, 1).await);
        let second = sit(&desk, None, 1).await;
        desk.offered(&queue(), "a");
        assert_eq!((got(&second).await, got(&deaf).await), (None, None), "one is told, who takes it");
        // It leaves without having looked: one of each kind is told, for nobody knows any more what it was.
        drop(first);
        assert_eq!((got(&second).await, got(&deaf).await), (Some(Vec::new()), Some(Vec::new())));
    }

    #[test]
    fn what_was_looked_for_in_vain_is_there_again_after_an_offer() {
        let (desk, _) = desk();
        let (any, only) = (wish(None, 1), wish(Some(&["b"]), 1));
        assert!(!desk.is_known_empty(&queue(), &any));
        desk.found_nothing(&queue(), &any, desk.offers(&queue()));
        assert!(desk.is_known_empty(&queue(), &any) && !desk.is_known_empty(&queue(), &only));
        desk.offered(&queue(), "a");
        assert!(!desk.is_known_empty(&queue(), &any));
    }
}
