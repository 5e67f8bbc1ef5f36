//! What a running attempt and whoever waits for its outcome tell each other.
//!
//! The attempt sends heartbeats: it is alive, and so far it has come. Whoever waits requests its cancellation when they
//! do no longer. Only the last heartbeat is kept here; that the next one is overdue is found by the attempt's own clock
//! in `activity`, because a guest that spins cannot be trusted to look at one.
//!
//! An attempt may also say that its call is answered later, by somebody else. Who that is, and where it is
//! written down, is the affair of whoever waits: see [`Defer`].

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backstitch_core::replay::Refusal;
use backstitch_core::{Json, TaskToken, limits};
use tokio::time::Instant;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use crate::world;

/// The interface's name, as components import it.
pub(crate) const INTERFACE: &str = "backstitch:workflow/attempt@0.1.0";

/// The interface's functions.
pub(crate) const FUNCTIONS: [&str; 2] = ["heartbeat", "defer"];

/// How an attempt leaves its call to whoever will answer it later.
pub trait Defer: Debug + Send + Sync {
    /// Holds the call. The token is durable when it comes, and the same each time. None: nobody waits for an
    /// outcome any more. The attempt's own bounds stand while it waits for this.
    fn defer(&self) -> Pin<Box<dyn Future<Output = Option<TaskToken>> + Send + '_>>;
}

/// The heartbeat of one attempt.
#[derive(Debug)]
pub struct Heartbeat {
    /// How long the attempt may go without one.
    timeout: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    details: Option<Json>,
    /// The last heartbeat, or the beginning; none: the attempt has not begun.
    heard_at: Option<Instant>,
    /// The attempt is one that can be told anything.
    listens: bool,
    cancel_requested: bool,
    /// What the attempt has spent waiting for the host, and since when it does so now.
    stood_still: Duration,
    still_since: Option<Instant>,
}

/// An attempt that waits for the host. Its bounds go on when this is dropped.
pub(crate) struct StandingStill<'a>(&'a Heartbeat);

impl Drop for StandingStill<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let Some(since) = state.still_since.take() {
            let waited = since.elapsed();
            state.stood_still += waited;
            state.heard_at = state.heard_at.map(|at| at + waited);
        }
    }
}

impl Heartbeat {
    /// Of an attempt that has not begun. `told` is what the last heartbeat before it said: it stands
    /// until this attempt says otherwise, so that one that fails at once loses nothing.
    pub fn new(timeout: Option<Duration>, told: Option<Json>) -> Self {
        let state = State {
            details: told,
            heard_at: None,
            listens: false,
            cancel_requested: false,
            stood_still: Duration::ZERO,
            still_since: None,
        };
        Self { timeout, state: Mutex::new(state) }
    }

    /// What the last heartbeat said, be it of an attempt before.
    pub fn details(&self) -> Option<Json> {
        self.state().details.clone()
    }

    /// Nobody waits for the outcome any more. True: the attempt hears of it at its next heartbeat. It
    /// does not if it has not begun, if its component has no heartbeats, or if nothing bounds the time
    /// until the next one: then it is better stopped.
    pub fn request_cancel(&self) -> bool {
        let mut state = self.state();
        state.cancel_requested = state.listens && self.timeout.is_some();
        state.cancel_requested
    }

    /// Somebody else has given the outcome. The attempt hears of it at its next heartbeat, and may end by itself:
    /// its own bounds stand.
    pub fn superseded(&self) {
        self.state().cancel_requested = true;
    }

    /// The attempt begins. `listens` says whether its component has heartbeats.
    pub(crate) fn begin(&self, listens: bool) {
        let mut state = self.state();
        (state.heard_at, state.listens) = (Some(Instant::now()), listens);
    }

    /// The attempt waits for what its host has not: no bound of its counts until what is returned is dropped.
    pub(crate) fn stand_still(&self, now: Instant) -> StandingStill<'_> {
        self.state().still_since = Some(now);
        StandingStill(self)
    }

    /// How much later the attempt's bounds are for what it has waited; none: it waits now.
    pub(crate) fn stood_still(&self) -> Option<Duration> {
        let state = self.state();
        state.still_since.is_none().then_some(state.stood_still)
    }

    /// When the next heartbeat is overdue.
    pub(crate) fn times_out_at(&self) -> Option<Instant> {
        self.state().heard_at?.checked_add(self.timeout?)
    }

    /// How long the attempt may go without a heartbeat.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The attempt is alive. Gives whether nobody waits for it any more.
    fn record(&self, details: Option<Json>) -> bool {
        let mut state = self.state();
        (state.heard_at, state.details) = (Some(Instant::now()), details);
        state.cancel_requested
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment: there is no half of one to be seen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Offers the interface to a component whose store knows its heartbeat, and who takes its call over.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    heartbeat: impl Fn(&T) -> &Heartbeat + Send + Sync + 'static,
    defer: impl Fn(&T) -> Option<Arc<dyn Defer>> + Send + Sync + 'static,
) -> wasmtime::Result<()> {
    let mut attempt = linker.instance(INTERFACE)?;
    attempt.func_wrap("heartbeat", move |cx: StoreContextMut<'_, T>, (details,): (Option<String>,)| {
        let details = details.map(checked).transpose()?;
        Ok((heartbeat(cx.data()).record(details),))
    })?;
    attempt.func_wrap_async("defer", move |cx: StoreContextMut<'_, T>, (): ()| {
        let defer = defer(cx.data());
        Box::new(async move {
            let defer =
                defer.ok_or_else(|| Refusal::Protocol("there is no call to be deferred".to_owned()))?;
            Ok((defer.defer().await.map(|token| token.to_string()),))
        })
    })
}

fn checked(details: String) -> Result<Json, Refusal> {
    let bytes = details.len();
    if bytes > limits::HEARTBEAT_BYTES_MAX {
        let max = limits::HEARTBEAT_BYTES_MAX;
        return Err(Refusal::Limit(format!("a heartbeat's details are {bytes} bytes; the most is {max}")));
    }
    world::json("a heartbeat's details", details)
}
