//! Drives one workflow's future between the host's events. Called by the component's `start` and
//! `resume`, and by the test executor; nothing else polls.
//!
//! The order, which is the determinism of every guest: **one event is delivered, then the root is
//! polled until it rests, then the next event.** How many events an activation brings can therefore
//! never change the order of commands.
//!
//! | root after a poll | next-event | then |
//! |---|---|---|
//! | ready | not asked | `completed`, `failed` or `continue-as-new`; open ops are left to the host |
//! | woken while polled | not asked | poll again |
//! | at rest | an event | store the outcome, wake the op's waker, poll |
//! | at rest | none | `blocked` |
//!
//! Wakers are real: an outcome wakes only the future that waits for its op, so a `join_all` over N
//! calls does O(1) work per event and not O(N). There is one run per instance, hence the thread-local
//! state, which is also all the state there is.

use crate::bindings::types::{Event, Failure, Status};
use crate::error::Error;
use crate::host::{self, Host};
use futures::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// What an op came to: JSON text, or a failure.
pub(crate) type Outcome = Result<String, Failure>;

/// A workflow's future with its result already written as JSON.
pub(crate) type Root = LocalBoxFuture<'static, Result<String, Error>>;

enum Slot {
    Pending(Option<Waker>),
    Delivered(Outcome),
}

thread_local! {
    /// The ops whose futures still exist. Ordered, so that no hasher's seed is ever asked for.
    static OPS: RefCell<BTreeMap<u32, Slot>> = const { RefCell::new(BTreeMap::new()) };
    /// Whether commands given now outlive a request to cancel.
    static SHIELDED: Cell<bool> = const { Cell::new(false) };
    /// Empty before `start`, while the root is being polled, and after its end.
    static ROOT: RefCell<Option<Root>> = const { RefCell::new(None) };
}

/// Gives a command and keeps a place for its outcome.
pub(crate) fn schedule(command: impl FnOnce(&(dyn Host + 'static)) -> u32) -> u32 {
    let op = host::with(command);
    if SHIELDED.get() {
        host::with(|host| host.shield(op));
    }
    OPS.with_borrow_mut(|ops| ops.insert(op, Slot::Pending(None)));
    op
}

/// Whether commands given now outlive a request to cancel.
pub(crate) fn is_shielded() -> bool {
    SHIELDED.get()
}

/// Runs `f`, whose commands outlive a request to cancel.
pub(crate) fn shielded<R>(f: impl FnOnce() -> R) -> R {
    let before = SHIELDED.replace(true);
    let result = f();
    SHIELDED.set(before);
    result
}

/// The outcome of `op`, once: afterwards the op is forgotten.
pub(crate) fn poll_op(op: u32, cx: &Context<'_>) -> Poll<Outcome> {
    OPS.with_borrow_mut(|ops| match ops.remove(&op) {
        Some(Slot::Delivered(outcome)) => Poll::Ready(outcome),
        Some(Slot::Pending(_)) => {
            ops.insert(op, Slot::Pending(Some(cx.waker().clone())));
            Poll::Pending
        }
        None => panic!("op {op} belongs to another run"),
    })
}

/// Nobody waits for `op` any more: cancels it when it is still open. A panic cancels nothing: in a
/// component it runs no destructors, so natively they must not act either.
pub(crate) fn abandon(op: u32) {
    let slot = OPS.with_borrow_mut(|ops| ops.remove(&op));
    if matches!(slot, Some(Slot::Pending(_))) && !std::thread::panicking() {
        host::with(|host| host.cancel(op));
    }
}

/// Nobody waits for `op` any more, and it goes on all the same.
pub(crate) fn leave(op: u32) {
    OPS.with_borrow_mut(|ops| ops.remove(&op));
}

/// Nobody waits for any op any more, and all that are open go on.
pub(crate) fn leave_all() {
    OPS.take();
}

/// The first activation.
pub(crate) fn start(root: Root) -> Status {
    let before = ROOT.replace(Some(root));
    assert!(before.is_none(), "one instance runs one workflow");
    activate()
}

/// Every further activation.
pub(crate) fn resume() -> Status {
    match host::with(Host::next_event) {
        Some(event) => {
            deliver(event);
            activate()
        }
        None => Status::Blocked,
    }
}

/// Forgets the run without giving a single command more: what dropping an instance does in a host.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn discard() {
    OPS.take();
    // The futures inside find their ops gone and stay silent.
    drop(ROOT.take());
}

fn activate() -> Status {
    loop {
        if let Poll::Ready(result) = poll_root() {
            return result.map_or_else(Error::into_status, Status::Completed);
        }
        match host::with(Host::next_event) {
            Some(event) => deliver(event),
            None => return Status::Blocked,
        }
    }
}

fn deliver(Event { op, outcome }: Event) {
    let waker = OPS.with_borrow_mut(|ops| match ops.get_mut(&op) {
        Some(slot @ Slot::Pending(_)) => match std::mem::replace(slot, Slot::Delivered(outcome)) {
            Slot::Pending(waker) => waker,
            Slot::Delivered(_) => None,
        },
        // Left behind on purpose, or given up: nobody is there to wake.
        Some(Slot::Delivered(_)) | None => None,
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn poll_root() -> Poll<Result<String, Error>> {
    let mut root = ROOT.take().expect("`resume` comes after a `start` that was not the end");
    let result = poll_until_rest(root.as_mut());
    if result.is_pending() {
        ROOT.set(Some(root));
    }
    result
}

/// Polls until the future is ready or nothing has woken it meanwhile. Combinators such as
/// `FuturesUnordered` wake themselves when they yield, and must not be left standing.
pub(crate) fn poll_until_rest<F: Future + ?Sized>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Poll::Ready(output);
        }
    }
    Poll::Pending
}
