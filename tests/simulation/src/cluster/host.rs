//! A host: one term after the other, each with a scheduler, a writer and a matcher of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use backstitch_core::{HostId, Json, Op, RunId, TaskToken};
use backstitch_ledger::Lease;
use backstitch_scheduler::{ActivationId, Scheduler};

use super::env::{Shared, SimEnv, Unloadable};
use super::plan::External;
use super::watch::Watch;
use crate::model::{Reply, Walk, Writer};

/// How long a host may be silent, in milliseconds.
pub(super) const LEASE_MS: u64 = 3_000;

/// One host.
#[derive(Default)]
pub(super) struct Host {
    /// Counts its terms; what was meant for an earlier one does not arrive.
    pub(super) epoch: u64,
    pub(super) term: Option<Term>,
    /// It does nothing before.
    pub(super) frozen_until_us: u64,
    /// It dies when it has carried out so many more actions.
    pub(super) crash_in: Option<u32>,
    /// What happens with the next action that is called so in the log.
    pub(super) armed: Vec<(&'static str, External)>,
    /// What becomes of the next statement of its writer.
    pub(super) next_reply: Option<Reply>,
    /// The ledger that it reads next does not come as it was written.
    pub(super) misreads: bool,
    /// Components that it cannot make ready.
    pub(super) unloadable: Unloadable,
    /// Activations of the terms before.
    pub(super) activations: u64,
}

/// One term of a host.
pub(super) struct Term {
    pub(super) id: HostId,
    pub(super) lease: Lease,
    pub(super) shared: Rc<Shared>,
    pub(super) scheduler: Scheduler<SimEnv>,
    pub(super) writer: Writer,
    /// A statement is about to be sent.
    pub(super) is_writing: bool,
    /// Answers that are on their way arrive no earlier.
    pub(super) acks_us: u64,
    /// Whose runs the appends of these tickets are.
    pub(super) tickets: BTreeMap<u64, Vec<RunId>>,
    /// When the lease ends, as far as the host knows.
    pub(super) lease_until_us: u64,
    /// How far its clock is from the simulated one, in milliseconds.
    pub(super) skew_ms: i64,
    /// Batches that the scheduler has not dealt with.
    pub(super) batches: Vec<(Rc<()>, Source)>,
    pub(super) attempts: BTreeMap<(RunId, Op), Attempt>,
    /// Attempts that were stopped when they had just ended: what they have to say is on its way.
    pub(super) late: BTreeSet<(RunId, Op, u32)>,
    pub(super) watch: Watch,
    pub(super) abandoned: BTreeSet<(RunId, ActivationId)>,
    /// Messages are being read: what is asked for meanwhile waits.
    pub(super) is_reading: bool,
    /// How far it has come in the inbox.
    pub(super) walk: Option<Walk>,
    /// When the next look of each kind is due that was asked for.
    pub(super) looks: BTreeMap<Source, u64>,
    /// Where it is in its look for runs that lack timers.
    pub(super) lacking: Option<RunId>,
    /// When it is to be told of the time.
    pub(super) tick_us: u64,
}

/// Who hands batches over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Timers,
    Inbox,
    Claims,
}

/// An attempt on this host.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) number: u32,
    /// It may give this away.
    pub(super) token: Option<TaskToken>,
    /// What it says of how far it has come, or was told of the attempts before.
    pub(super) said: Option<Json>,
    /// The activity, and its arguments.
    pub(super) call: (String, Json),
}
