//! One operation, with everything that it says: the same goes to the model and to Postgres.

use backstitch_core::inbox::MessageRow;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{HostId, Kind, Op, RunId, Scope, Shard, TaskToken, TenantId};
use backstitch_ledger::{Append, Awaited, ForkedRun, Head, Lease, NewItem, NewTimer, Outcome, Reader};
use simulation::model::Reply;
use uuid::Uuid;

/// How long leases are good for. Nothing here takes so long, so only what is backdated runs out.
pub(crate) const LONG_MS: u64 = 3_600_000;
/// How much older a heartbeat or the end of a lease is made.
pub(crate) const DAY_MS: u64 = 86_400_000;
/// A time that Postgres' clock has passed, and one that it will not come to.
pub(crate) const PAST_MS: u64 = 1_000_000_000;
/// See [`PAST_MS`].
pub(crate) const FUTURE_MS: u64 = 4_000_000_000_000;
/// The model's clock, at the beginning.
pub(crate) const NOW_MS: u64 = 2_000_000_000_000;
/// When messages of sweeps are from.
pub(crate) const AT_MS: u64 = 7_000;
/// The activity timer that fires for paused runs too.
pub(crate) const ALWAYS: i16 = 4;
/// More than there ever is.
pub(crate) const ALL: usize = 1_000;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Register {
        host: HostId,
    },
    Renew {
        lease: Lease,
    },
    Release {
        lease: Lease,
    },
    DeclareDead {
        host: HostId,
    },
    BackdateLease {
        host: HostId,
    },
    DeclareOverdueDead,
    OtherHosts {
        host: HostId,
        suspicious: bool,
    },
    ForgetDead,
    /// At once, and what becomes of a statement on its way: its number, from 0.
    Append {
        lease: Lease,
        appends: Vec<Append>,
        fault: Option<(u64, Reply)>,
    },
    /// `first`: which ones Postgres has chosen.
    Claim {
        lease: Lease,
        limit: usize,
        first: Vec<RunId>,
    },
    /// A run that begins with rows of another.
    Fork {
        fork: Box<ForkedRun>,
    },
    Owned {
        host: HostId,
        run: RunId,
    },
    Progress {
        host: HostId,
        led: Vec<RunId>,
        went_on: Vec<RunId>,
    },
    BeginTrial {
        lease: Lease,
        run: RunId,
        op: Option<Op>,
    },
    EndTrial {
        host: HostId,
        run: RunId,
        went_on: bool,
    },
    Timers {
        host: HostId,
        from_ms: u64,
        now_ms: u64,
        except: Vec<RunId>,
        limit: usize,
    },
    TimersOf {
        runs: Vec<RunId>,
    },
    Lacking {
        host: HostId,
        after: Option<RunId>,
        limit: usize,
    },
    SetMissing {
        host: HostId,
        timers: Vec<NewTimer>,
    },
    Untold {
        awaited: Vec<Awaited>,
    },
    Post {
        tenant: TenantId,
        run: RunId,
        item: Uuid,
        message: MessageRow,
    },
    Waiting {
        tenant: TenantId,
        run: RunId,
        item: Uuid,
    },
    Walk {
        host: HostId,
    },
    CheckInbox {
        host: HostId,
        readers: Vec<Reader>,
        unreadable: Vec<Uuid>,
        limit: usize,
    },
    PassOn {
        run: RunId,
        except: Vec<Uuid>,
    },
    ClearInbox {
        runs: Vec<RunId>,
    },
    Take {
        tenant: TenantId,
        queue: String,
        names: Option<Vec<String>>,
        limit: u32,
        grant: LeaseGrant,
    },
    Queues {
        queues: Vec<(TenantId, String)>,
    },
    HeartbeatTask {
        tenant: TenantId,
        token: TaskToken,
        said: Option<String>,
    },
    Hold {
        tenant: TenantId,
        token: TaskToken,
    },
    BackdateTask {
        run: RunId,
        op: Op,
    },
    Settle {
        tenant: TenantId,
        token: TaskToken,
        item: NewItem,
    },
    Overrule {
        tenant: TenantId,
        op: Op,
        item: NewItem,
    },
    /// `ids`: which message Postgres has given which id.
    Sweep {
        first: Uuid,
        ids: Vec<(RunId, Op, Uuid)>,
    },
    /// See [`Step::Sweep`].
    Free {
        tenant: TenantId,
        served: Vec<(String, String)>,
        first: Uuid,
        ids: Vec<(RunId, Op, Uuid)>,
    },
    ForgetTasks,
    PostToOpen {
        tenant: TenantId,
        runs: Vec<RunId>,
        message: MessageRow,
        first: Uuid,
    },
    ForgetLeftovers {
        runs: Vec<RunId>,
    },
    Began {
        runs: Vec<RunId>,
    },
    Tasks {
        tenant: TenantId,
        queue: Option<String>,
        run: Option<RunId>,
        runs: Vec<RunId>,
    },
    Answers {
        token: TaskToken,
        kinds: Vec<Kind>,
        answer: MessageRow,
    },
    Runs {
        tenant: TenantId,
        run: RunId,
        workflow_id: String,
        by: i32,
    },
    Heads {
        host: HostId,
        heads: Vec<(RunId, Head)>,
        items: Vec<(RunId, Uuid)>,
    },
    /// Keeps the tables as they are.
    Mark,
    /// Forgets what was committed since.
    Lose,
}

/// Where rows of a tenant are.
pub(crate) fn scope(shard: Shard, tenant: TenantId) -> Scope {
    Scope { shard, tenant }
}

/// What became of appends, in the order in which they were sent. What the database said is not compared.
pub(crate) fn shown(mut outcomes: Vec<(u64, Outcome)>) -> String {
    outcomes.sort_by_key(|(ticket, _)| *ticket);
    let outcome = |(_, outcome): (u64, Outcome)| match outcome {
        Outcome::Poisoned { kind, .. } => format!("{kind:?}"),
        outcome => format!("{outcome:?}"),
    };
    outcomes.into_iter().map(outcome).collect::<Vec<_>>().join(", ")
}

/// A bound as far as it can be compared: one that came from the database's clock is past, or it is to come.
pub(crate) fn when(bound: Option<u64>, now_ms: u64) -> &'static str {
    match bound {
        None => "none",
        Some(bound) if bound <= now_ms => "past",
        Some(_) => "to come",
    }
}
