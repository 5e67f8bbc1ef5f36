//! How long a workflow's guest may compute, and that others have their turn meanwhile.
//!
//! Fuel is the bound that repeats exactly; but fuel is not time, and some work has none at all. So a guest is
//! also looked at by the clock: at every other tick of the epoch it gives its thread away, and whoever polls it
//! may go on with somebody else's; a guest that has used up its [`GuestTime`](crate::GuestTime), or that nobody waits for any more
//! ([`Stop`](crate::Stop)), is not entered again. That does not repeat, so nothing of it may be seen: its store is dropped, and
//! the run stands where its ledger says.
//!
//! What is counted is processor time of the guest's own thread: a machine that is busy with others, or that was
//! asleep, is not the guest's doing.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmtime::{Store, UpdateDeadline};

use crate::guest_time::Turn;
use crate::host::Guest;

/// Ticks of the epoch that a guest has its thread for; the first is under way when it begins. With one, every
/// activation that a tick falls into would make room for nothing.
const TICKS_PER_TURN: u64 = 2;

/// Has the guest of a store give its thread away at the end of each turn.
pub(crate) fn bound(store: &mut Store<Guest>) {
    store.epoch_deadline_callback(|mut cx| {
        cx.data_mut().meter.tick()?;
        Ok(UpdateDeadline::Yield(TICKS_PER_TURN))
    });
    store.set_epoch_deadline(TICKS_PER_TURN);
}

/// Begins to measure: the ticks that a guest has slept through are not its own.
pub(crate) fn begin(store: &mut Store<Guest>) -> Turn {
    store.set_epoch_deadline(TICKS_PER_TURN);
    store.data_mut().meter.begin()
}

/// Has `work`, which enters a guest, measured.
pub(crate) async fn measured<T>(turn: &Turn, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut is_first = true;
    poll_fn(|cx| {
        turn.enter(std::mem::take(&mut is_first));
        work.as_mut().poll(cx)
    })
    .await
}

/// Lets a guest compute on this thread until it is done: for callers that have the thread to themselves.
pub(crate) fn to_the_end<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut cx) {
            return done;
        }
        std::thread::yield_now();
    }
}
