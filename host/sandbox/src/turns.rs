//! How long a workflow's guest may compute, and that others have their turn meanwhile.
//!
//! Fuel is the bound that repeats exactly; but fuel is not time, and some work has none at all. So a guest is
//! also looked at by the clock: at every other tick of the epoch it gives its thread away, and whoever polls it
//! may go on with somebody else's; a guest that has used up its [`GuestTime`], or that nobody waits for any more
//! ([`Stop`]), is not entered again. That does not repeat, so nothing of it may be seen: its store is dropped, and
//! the run stands where its ledger says.
//!
//! What is counted is processor time of the guest's own thread: a machine that is busy with others, or that was
//! asleep, is not the guest's doing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backstitch_core::limits;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Store, UpdateDeadline};

use crate::engine::EPOCH_TICK;
use crate::host::Guest;

/// Ticks of the epoch that a guest has its thread for; the first is under way when it begins. With one, every
/// activation that a tick falls into would make room for nothing.
const TICKS_PER_TURN: u64 = 2;

/// How long a workflow's guest may compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestTime {
    /// From one event to the next; also for a query, and for saying what a component holds.
    pub event: Duration,
    /// In one activation, be it a replay of a whole ledger.
    pub activation: Duration,
}

impl GuestTime {
    /// So long from event to event, and so many times that in one activation.
    pub fn per_event(event: Duration) -> Self {
        Self { event, activation: event.saturating_mul(limits::ACTIVATION_EVENTS_LONG_MAX) }
    }
}

impl Default for GuestTime {
    fn default() -> Self {
        Self::per_event(Duration::from_millis(limits::EVENT_MS_MAX))
    }
}

/// By which whoever waits for a guest says that they do no longer. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Nobody waits any more: the guest is dropped as soon as it looks up.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody has said so.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a guest is not entered again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CutShort {
    #[error("computed for more than {} ms {within}. Loop less, or move the work into an activity", of.as_millis())]
    TooSlow { of: Duration, within: &'static str },
    #[error("was stopped while it computed")]
    Stopped,
}

/// What a guest has used of its time.
#[derive(Debug)]
pub(crate) struct Meter {
    time: GuestTime,
    stop: Stop,
    turn: Turn,
    since_event: Duration,
    since_begin: Duration,
}

/// When the turn of a guest began, in nanoseconds of its thread's processor time; 0: its first, whose beginning
/// was not worth the reading of a clock. Written by whoever polls, read at the ticks, on the same thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<AtomicU64>);

impl Meter {
    pub(crate) fn new(time: GuestTime, stop: Stop) -> Self {
        let (since_event, since_begin) = (Duration::ZERO, Duration::ZERO);
        Self { time, stop, turn: Turn::default(), since_event, since_begin }
    }

    /// Who may stop the guest from now on.
    pub(crate) fn heed(&mut self, stop: Stop) {
        self.stop = stop;
    }

    /// An activation begins, or a question is put.
    pub(crate) fn begin(&mut self) -> Turn {
        (self.since_event, self.since_begin) = (Duration::ZERO, Duration::ZERO);
        self.turn.clone()
    }

    /// The guest takes an event.
    pub(crate) fn next_event(&mut self) {
        self.since_event = Duration::ZERO;
    }

    /// The epoch has moved on.
    fn tick(&mut self) -> Result<(), CutShort> {
        let used = match self.turn.0.load(Ordering::Relaxed) {
            0 => EPOCH_TICK,
            begun => Duration::from_nanos(thread_time().saturating_sub(begun)),
        };
        self.since_event += used;
        self.since_begin += used;
        let GuestTime { event, activation } = self.time;
        if self.stop.is_asked() {
            Err(CutShort::Stopped)
        } else if self.since_event > event {
            Err(CutShort::TooSlow { of: event, within: "over one event" })
        } else if self.since_begin > activation {
            Err(CutShort::TooSlow { of: activation, within: "in one activation" })
        } else {
            Ok(())
        }
    }
}

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
        let begun = if std::mem::take(&mut is_first) { 0 } else { thread_time() };
        turn.0.store(begun, Ordering::Relaxed);
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

/// Processor time of this thread, in nanoseconds.
pub(crate) fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}
