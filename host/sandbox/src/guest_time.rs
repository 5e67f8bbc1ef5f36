//! How long a guest may compute, what it has used of that, and who may stop it: see [`crate::turns`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backstitch_core::limits;
use rustix::time::{ClockId, clock_gettime};

use crate::engine::EPOCH_TICK;

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

impl Turn {
    /// The guest is entered: for the first time in this turn, or again.
    pub(crate) fn enter(&self, is_first: bool) {
        let begun = if is_first { 0 } else { thread_time() };
        self.0.store(begun, Ordering::Relaxed);
    }
}

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
    pub(crate) fn tick(&mut self) -> Result<(), CutShort> {
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

/// Processor time of this thread, in nanoseconds.
pub(crate) fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or(0)
}
