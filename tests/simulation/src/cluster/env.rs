//! The host around a simulated scheduler.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use backstitch_core::matcher::{self, Action, Matcher, Queue};
use backstitch_core::task::LeaseGrant;
use backstitch_core::{Digest, Json, Scope, Seed, TaskLease, TaskToken, TenantId};
use backstitch_scheduler::Env;
use uuid::Uuid;

use crate::rng::Rng;
use crate::script::{self, Script};

/// The code of a workflow.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) script: Arc<Script>,
}

/// A task on its way to a worker.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) scope: Scope,
    pub(super) token: TaskToken,
    pub(super) name: String,
    pub(super) input: Json,
    /// What the heartbeats before have said.
    pub(super) said: Option<Json>,
}

/// A poll of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waker {
    pub(super) worker: usize,
    pub(super) poll: u64,
}

pub(super) type MatcherAction = Action<Task, Waker>;

/// Which component serves what.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) workflows: BTreeMap<String, Digest>,
    pub(super) programs: BTreeMap<Digest, Program>,
    pub(super) activities: BTreeSet<String>,
}

/// Until when a host cannot make a component ready, in microseconds from the beginning, and whether it need not try: the
/// component is as good as broken.
pub(super) type Unloadable = Rc<RefCell<BTreeMap<Digest, (u64, bool)>>>;

/// What a scheduler asks, and its driver sets.
pub(super) struct Shared {
    pub(super) directory: Rc<RefCell<Directory>>,
    pub(super) matcher: RefCell<Matcher<Task, Waker>>,
    /// What reservations that were dropped led to.
    pub(super) released: RefCell<Vec<MatcherAction>>,
    /// The database's clock as this host has it, in milliseconds.
    pub(super) now_ms: Cell<u64>,
    /// The time of the simulation, in microseconds.
    pub(super) now_us: Cell<u64>,
    pub(super) unloadable: Unloadable,
    pub(super) has_lease: Cell<bool>,
    pub(super) is_cautious: Cell<bool>,
    pub(super) is_short: Cell<bool>,
    pub(super) rng: RefCell<Rng>,
    last_id: Cell<u128>,
}

impl Shared {
    pub(super) fn new(directory: Rc<RefCell<Directory>>, unloadable: Unloadable, rng: Rng) -> Self {
        let mut rng = rng;
        Self {
            directory,
            matcher: RefCell::new(Matcher::new(rng.next_u64())),
            released: RefCell::default(),
            now_ms: Cell::new(0),
            now_us: Cell::new(0),
            unloadable,
            has_lease: Cell::new(true),
            is_cautious: Cell::new(false),
            is_short: Cell::new(false),
            rng: RefCell::new(rng),
            last_id: Cell::new(0),
        }
    }

    /// Whether this host cannot make a component ready now; and whether there is no use in trying.
    pub(super) fn lacks(&self, digest: Digest) -> Option<bool> {
        let unloadable = self.unloadable.borrow();
        let (_, is_final) = unloadable.get(&digest).filter(|(until_us, _)| *until_us > self.now_us.get())?;
        Some(*is_final)
    }

    /// In the order of time, as far as this host is concerned.
    pub(super) fn new_id(&self) -> Uuid {
        let at = u128::from(self.now_ms.get()) << 80;
        let random = u128::from(self.rng.borrow_mut().next_u64() & 0xffff_ffff);
        let id = (at | random).max(self.last_id.get() + 1);
        self.last_id.set(id);
        Uuid::from_u128(id)
    }

    pub(super) fn new_lease(&self) -> TaskLease {
        let mut rng = self.rng.borrow_mut();
        TaskLease(Uuid::from_u64_pair(rng.next_u64(), rng.next_u64()))
    }
}

/// The scheduler's side of [`Shared`].
#[derive(Clone)]
pub(super) struct SimEnv(pub(super) Rc<Shared>);

/// A worker's poll that is reserved for a task.
pub(super) struct Reservation {
    shared: Rc<Shared>,
    reservation: Option<matcher::Reservation>,
}

impl Reservation {
    /// The task is committed.
    pub(super) fn deliver(mut self, task: Task) -> Option<MatcherAction> {
        let reservation = self.reservation.take()?;
        self.shared.matcher.borrow_mut().commit(reservation, task)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            let action = self.shared.matcher.borrow_mut().release(reservation);
            self.shared.released.borrow_mut().extend(action);
        }
    }
}

/// Who waits for an answer, by a number.
#[derive(Debug)]
pub(super) struct Reply<T>(pub(super) u64, pub(super) std::marker::PhantomData<T>);

impl<T> Reply<T> {
    pub(super) fn new(number: u64) -> Self {
        Self(number, std::marker::PhantomData)
    }
}

impl Env for SimEnv {
    type Program = Program;
    type Guest = Box<script::Guest>;
    type Room = ();
    type Batch = Rc<()>;
    type Reply<T> = Reply<T>;
    type Reservation = Reservation;

    fn workflow(&self, _: Scope, name: &Arc<str>) -> Option<Digest> {
        self.0.directory.borrow().workflows.get(&**name).copied()
    }

    fn activity(&self, _: Scope, _: &str, name: &str) -> Option<Digest> {
        self.0.directory.borrow().activities.contains(name).then_some(Digest([9; 32]))
    }

    fn program(&self, digest: Digest) -> Option<Program> {
        match self.0.lacks(digest) {
            Some(_) => None,
            None => self.0.directory.borrow().programs.get(&digest).cloned(),
        }
    }

    fn reserve(&mut self, queue: &Queue, name: &str) -> Option<(Reservation, LeaseGrant)> {
        let lease = self.0.new_lease();
        let (reservation, grant) = self.0.matcher.borrow_mut().reserve(queue, name, || lease)?;
        Some((Reservation { shared: Rc::clone(&self.0), reservation: Some(reservation) }, grant))
    }

    fn has_lease(&self) -> bool {
        self.0.has_lease.get()
    }

    fn is_cautious(&self) -> bool {
        self.0.is_cautious.get()
    }

    fn is_short_of_memory(&self) -> bool {
        // One eviction at a time is as much as anybody asks for.
        self.0.is_short.replace(false)
    }

    fn new_id(&mut self) -> Uuid {
        self.0.new_id()
    }

    fn new_task_lease(&mut self) -> TaskLease {
        self.0.new_lease()
    }

    fn new_seed(&mut self) -> Seed {
        let mut seed = [0; 32];
        seed.fill_with(|| self.0.rng.borrow_mut().next_u64() as u8);
        Seed(seed)
    }
}

/// The tenant of everything.
pub(super) const TENANT: TenantId = TenantId::DEFAULT;
