//! What pollers ask for and what they are told: the words that the files of the matcher share.

use std::collections::BTreeSet;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::TenantId;

/// A task queue of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// Whose.
    pub tenant: TenantId,
    /// Its name.
    pub name: Arc<str>,
}

/// Names of activities; none: all there are.
pub type Names = Option<Arc<BTreeSet<String>>>;

/// What a worker's poll asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PollRequest {
    /// Tasks of these activities; none: of all.
    pub names: Names,
    /// At most so many.
    pub max: u32,
    /// How long the worker may be silent about each, in milliseconds.
    pub lease_ms: u64,
    /// What the worker calls itself.
    pub worker: Arc<str>,
}

impl PollRequest {
    /// What every poll of the same worker asks for.
    pub(super) fn of_the_worker(&self) -> Self {
        Self { max: 0, ..self.clone() }
    }
}

/// Tells a poller from all others that the matcher ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollerId(pub(super) u64);

/// A time by a clock that never goes back: how long after a moment of the driver's choice it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// How long ago `earlier` was; zero if it is still to come.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// What a poll does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has tasks: it leaves with them.
    Deliver,
    /// There may be tasks for it in the database: it checks.
    Check,
    /// Its time is over: it leaves with nothing.
    Over,
    /// It resumes when it is woken, and at this moment.
    Wait(Moment),
}

/// What the driver of a matcher carries out, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<T, W> {
    /// The poll of this poller resumes.
    Wake(PollerId, W),
    /// Tasks that were committed with the lease of a worker which is not there: others are to have them.
    GiveBack(TenantId, Vec<T>),
    /// The grace of this poller ends at this moment.
    SetTimer(PollerId, Moment),
}
