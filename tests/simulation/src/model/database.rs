//! The tables, their past, and the faults that the model may be given.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use backstitch_core::{HostId, Op, Row, RunId, Scope, Seq, Shard, TenantId};
use uuid::Uuid;

use super::rows::{Lease, Message, Run, Task, Timer, Value};

/// The ledger of one run, with the tenant of each row.
pub(super) type Rows = BTreeMap<Seq, (TenantId, Row)>;

/// All tables of a shard. A clone shares what is not changed afterwards.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) leases: Arc<BTreeMap<HostId, Lease>>,
    pub(super) runs: Arc<BTreeMap<RunId, Run>>,
    pub(super) ledger: Arc<BTreeMap<RunId, Arc<Rows>>>,
    pub(super) timers: Arc<BTreeMap<(RunId, Op), Timer>>,
    pub(super) inbox: Arc<BTreeMap<(RunId, Uuid), Message>>,
    pub(super) tasks: Arc<BTreeMap<(RunId, Op), Task>>,
    pub(super) entities: Arc<BTreeMap<RunId, (TenantId, Arc<str>)>>,
    pub(super) attributes: Arc<Attributes>,
}

/// What runs are found by: by run and name, with the tenant.
type Attributes = BTreeMap<(RunId, Arc<str>), (TenantId, Value)>;

/// One shard of the database.
#[derive(Debug)]
pub struct Database {
    shard: Shard,
    tables: Tables,
    /// What was there before each of the last commits.
    past: VecDeque<Tables>,
    past_max: usize,
    commits: u64,
    mutant: Option<Mutant>,
}

/// A fault of the model, for tests that have to notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what the model does wrong")]
pub enum Mutant {
    AppendsPastADeadLease,
    AppendsUnderAnEarlierEpoch,
    AppendsBehindARowThatIsMissing,
    AppendsToARunOfAnother,
    OverwritesARow,
    AppendsBehindALostAppend,
    StartsAWorkflowIdTwice,
    KeepsTimersOfARefusedStart,
    OffersTasksOfARefusedStart,
    KeepsTimersOfAClosedRun,
    ClosesARunOfAnother,
    KeepsAConsumedMessage,
    SendsToAMissingRun,
    DeliversWhatIsInHand,
    TakesMessagesOfAClosedRun,
    TellsAParkedRunAll,
    TellsASuccessorTooEarly,
    PassesOnWhatIsForOneRun,
    ClaimsFromTheLiving,
    ForgetsTimersOfAClaimedRun,
    CountsNoLoss,
    KeepsRunsOverARegistration,
    HandsATaskOutTwice,
    TakesAStaleAnswer,
    LeavesAnAnswerNobodyWaitsFor,
    ReplacesATaskByAnEarlierAttempt,
    SweepsALivingLease,
    RefusesItsOwnStartAfterALostReply,
    RepeatsACommittedStatement,
    FiresTimersOfAPausedRun,
    LosesOneCommitLess,
    RenewsADeadLease,
    KeepsLossesOfARunThatGoesOn,
    ForgetsATrial,
    PassesStraysBy,
    TakesNothingIn,
    HandsOutTasksOfAPausedRun,
    HandsOutTheYoungestFirst,
    DropsAHeartbeat,
    OverrulesAnAnswer,
    SetsTimersOfARunOfAnother,
    PoisonsAWholeBatch,
    PoisonsWhatWasSentTwice,
    LeavesTheWholeBatchBehind,
    ForksOverATakenId,
    SetsNoTimersOfAFork,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Self; 46] = [
        Self::AppendsPastADeadLease,
        Self::AppendsUnderAnEarlierEpoch,
        Self::AppendsBehindARowThatIsMissing,
        Self::AppendsToARunOfAnother,
        Self::OverwritesARow,
        Self::AppendsBehindALostAppend,
        Self::StartsAWorkflowIdTwice,
        Self::KeepsTimersOfARefusedStart,
        Self::OffersTasksOfARefusedStart,
        Self::KeepsTimersOfAClosedRun,
        Self::ClosesARunOfAnother,
        Self::KeepsAConsumedMessage,
        Self::SendsToAMissingRun,
        Self::DeliversWhatIsInHand,
        Self::TakesMessagesOfAClosedRun,
        Self::TellsAParkedRunAll,
        Self::TellsASuccessorTooEarly,
        Self::PassesOnWhatIsForOneRun,
        Self::ClaimsFromTheLiving,
        Self::ForgetsTimersOfAClaimedRun,
        Self::CountsNoLoss,
        Self::KeepsRunsOverARegistration,
        Self::HandsATaskOutTwice,
        Self::TakesAStaleAnswer,
        Self::LeavesAnAnswerNobodyWaitsFor,
        Self::ReplacesATaskByAnEarlierAttempt,
        Self::SweepsALivingLease,
        Self::RefusesItsOwnStartAfterALostReply,
        Self::RepeatsACommittedStatement,
        Self::FiresTimersOfAPausedRun,
        Self::LosesOneCommitLess,
        Self::RenewsADeadLease,
        Self::KeepsLossesOfARunThatGoesOn,
        Self::ForgetsATrial,
        Self::PassesStraysBy,
        Self::TakesNothingIn,
        Self::HandsOutTasksOfAPausedRun,
        Self::HandsOutTheYoungestFirst,
        Self::DropsAHeartbeat,
        Self::OverrulesAnAnswer,
        Self::SetsTimersOfARunOfAnother,
        Self::PoisonsAWholeBatch,
        Self::PoisonsWhatWasSentTwice,
        Self::LeavesTheWholeBatchBehind,
        Self::ForksOverATakenId,
        Self::SetsNoTimersOfAFork,
    ];
}

impl Database {
    /// An empty one, that can lose its last `past_max` commits.
    pub fn new(shard: Shard, past_max: usize) -> Self {
        let (tables, past) = (Tables::default(), VecDeque::new());
        Self { shard, tables, past, past_max, commits: 0, mutant: None }
    }

    /// With a fault.
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    /// How many statements that may write were committed. It counts on after a loss.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Forgets the last `count` commits, as a failover to a server that lacks them; how many it could.
    pub fn lose(&mut self, count: u64) -> u64 {
        let count = if self.is(Mutant::LosesOneCommitLess) { count.saturating_sub(1) } else { count };
        let mut lost = 0;
        while lost < count
            && let Some(before) = self.past.pop_back()
        {
            self.tables = before;
            lost += 1;
        }
        lost
    }

    /// Where rows of `tenant` live, seen from here.
    pub(super) fn scope(&self, tenant: TenantId) -> Scope {
        Scope { shard: self.shard, tenant }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn mutant(&self) -> Option<Mutant> {
        self.mutant
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The tables, for a statement that is committed when it is done.
    pub(super) fn commit(&mut self) -> &mut Tables {
        self.commits += 1;
        if self.past_max > 0 {
            if self.past.len() == self.past_max {
                self.past.pop_front();
            }
            self.past.push_back(self.tables.clone());
        }
        &mut self.tables
    }
}

impl Tables {
    pub(super) fn rows(&self, run: RunId) -> impl Iterator<Item = &Row> {
        self.ledger.get(&run).into_iter().flat_map(|rows| rows.values().map(|(_, row)| row))
    }

    pub(super) fn row(&self, run: RunId, seq: Seq) -> Option<&Row> {
        self.ledger.get(&run)?.get(&seq).map(|(_, row)| row)
    }

    /// Who owns a run, if it is there and has an owner.
    pub(super) fn owner(&self, run: RunId) -> Option<HostId> {
        self.runs.get(&run)?.owner
    }

    /// Messages of a run in their order.
    pub(super) fn messages(&self, run: RunId) -> impl Iterator<Item = (Uuid, &Message)> {
        let of_run = (run, Uuid::nil())..=(run, Uuid::max());
        self.inbox.range(of_run).map(|((_, item), message)| (*item, message))
    }

    pub(super) fn is_alive(&self, host: HostId) -> bool {
        self.leases.get(&host).is_some_and(|lease| !lease.dead)
    }

    pub(super) fn remove_item(&mut self, run: RunId, item: Uuid) -> Option<Message> {
        Arc::make_mut(&mut self.inbox).remove(&(run, item))
    }

    /// As `on conflict do nothing`; whether it was not there yet.
    pub(super) fn add_item(&mut self, run: RunId, item: Uuid, message: Message) -> bool {
        let inbox = Arc::make_mut(&mut self.inbox);
        let is_new = !inbox.contains_key(&(run, item));
        if is_new {
            inbox.insert((run, item), message);
        }
        is_new
    }

    pub(super) fn run_mut(&mut self, run: RunId) -> Option<&mut Run> {
        Arc::make_mut(&mut self.runs).get_mut(&run)
    }

    pub(super) fn task_mut(&mut self, key: (RunId, Op)) -> Option<&mut Task> {
        Arc::make_mut(&mut self.tasks).get_mut(&key)
    }
}
