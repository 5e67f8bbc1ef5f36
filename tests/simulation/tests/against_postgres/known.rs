//! What operations may be about: names, of which there are few so that they collide, and what the operations before have
//! left behind.

use std::collections::HashSet;

use backstitch_core::inbox::Message;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{
    Failure, FailureKind, HostId, Json, Op, RunId, RunStatus, Shard, TaskLease, TaskToken, TenantId,
};
use backstitch_ledger::{Head, Lease, OpenTask, TaskPage, TaskState};
use uuid::Uuid;

use crate::modelled::Modelled;
use crate::random::Random;
use crate::step::*;

/// What is known, from the operations so far: things that are there, and things that were.
pub(crate) struct Known {
    pub(crate) shard: Shard,
    pub(crate) leases: Vec<Lease>,
    pub(crate) heads: Vec<(RunId, Head)>,
    pub(crate) items: Vec<(RunId, Uuid)>,
    tokens: Vec<TaskToken>,
    ids: u128,
    workers: u128,
    /// The tables were kept.
    pub(crate) is_marked: bool,
}

pub(crate) const QUEUES: [&str; 2] = ["q", "p"];
pub(crate) const ACTIVITIES: [&str; 2] = ["x", "y"];
pub(crate) const WORKFLOW_IDS: [&str; 3] = ["a", "b", "c"];
const HOSTS: u128 = 3;
const RUNS: u128 = 7;
/// Ops of commands, and those under which a run has timers of its own.
pub(crate) const OPS: [Op; 5] = [Op(1), Op(2), Op(3), Op(u32::MAX), Op(u32::MAX - 1)];

pub(crate) fn host(random: &mut Random) -> HostId {
    HostId(Uuid::from_u128(0xA0 + u128::from(random.below(HOSTS as u64))))
}

pub(crate) fn run(random: &mut Random) -> RunId {
    runs().nth(random.below(RUNS as u64) as usize).unwrap()
}

/// Shaped like ids of version 7, of 2010.
pub(crate) fn runs() -> impl Iterator<Item = RunId> {
    (0..RUNS).map(|number| RunId(Uuid::from_u128((0x0125_0000_0000 << 80) | (0x7000_8000 << 48) | number)))
}

pub(crate) fn tenant(random: &mut Random) -> TenantId {
    TenantId(if random.one_in(12) { 2 } else { 1 })
}

pub(crate) fn op(random: &mut Random) -> Op {
    OPS[random.below(3) as usize]
}

impl Known {
    pub(crate) fn new(shard: Shard) -> Self {
        let (leases, heads, items, tokens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            shard,
            leases,
            heads,
            items,
            tokens,
            ids: 0x0125_0000_0000 << 80,
            workers: 0,
            is_marked: false,
        }
    }

    /// Learns from what the operation has changed.
    pub(crate) fn learn(&mut self, step: &Step, model: &Modelled) {
        match step {
            Step::Register { host } => self.leases.extend(model.database.lease_of(*host)),
            Step::Append { appends, .. } => {
                self.items.extend(
                    appends.iter().flat_map(|append| &append.inbox).map(|item| (item.run, item.item_id)),
                );
            }
            Step::Fork { fork } => {
                self.items.extend(fork.inbox.iter().map(|item| (item.run, item.item_id)));
            }
            Step::Post { run, item, .. } => self.items.push((*run, *item)),
            Step::Mark => self.is_marked = true,
            _ => {}
        }
        for run in runs() {
            let head = model.database.head(run).map(|head| (run, head));
            self.heads.extend(head.filter(|head| !self.heads.contains(head)));
        }
        let tokens = self.tokens_now(model);
        self.tokens.extend(tokens);
        self.tokens.dedup();
    }

    /// What the workers have to show that have a task now.
    fn tokens_now(&self, model: &Modelled) -> Vec<TaskToken> {
        let page = TaskPage { run: None, task_queue: None, after: None, limit: 100 };
        let tasks = model.database.tasks(scope(self.shard, TenantId::DEFAULT), page);
        let taken = tasks.into_iter().filter(|task| task.state != TaskState::Offered);
        let token = |task: OpenTask| {
            let lease = TaskLease(Uuid::from_u128(task.worker?.parse().ok()?));
            Some(TaskToken { run: task.run, op: task.op, attempt: task.attempt, lease })
        };
        taken.filter_map(token).collect()
    }

    pub(crate) fn new_id(&mut self) -> Uuid {
        self.ids += 1000;
        Uuid::from_u128(self.ids)
    }

    /// A worker's name is its lease.
    pub(crate) fn grant(&mut self, lease_ms: Option<u64>) -> LeaseGrant {
        self.workers += 1;
        let lease = TaskLease(Uuid::from_u128(self.workers));
        LeaseGrant { lease, lease_ms, worker: self.workers.to_string().into() }
    }

    /// A lease: most often that of this host, or another one that lives.
    pub(crate) fn lease(&self, random: &mut Random, model: &Modelled, host: Option<HostId>) -> Option<Lease> {
        if random.one_in(8) {
            return random.pick(&self.leases).copied();
        }
        let alive = |lease: &Lease| model.database.is_alive(*lease);
        if let Some(lease) = host.and_then(|host| model.database.lease_of(host)).filter(alive) {
            return Some(lease);
        }
        let living: Vec<Lease> = self.leases.iter().copied().filter(alive).collect();
        random.pick(&living).or_else(|| random.pick(&self.leases)).copied()
    }

    /// A run: most often one that is open.
    pub(crate) fn run(&self, random: &mut Random, model: &Modelled) -> RunId {
        let is_open = |run: &RunId| {
            let status = model.database.run_status(scope(self.shard, TenantId::DEFAULT), *run);
            status.is_some_and(RunStatus::is_open)
        };
        let open: Vec<RunId> = runs().filter(is_open).collect();
        let any = run(random);
        if random.one_in(3) { any } else { random.pick(&open).copied().unwrap_or(any) }
    }

    pub(crate) fn token(&self, random: &mut Random, model: &Modelled) -> TaskToken {
        let now = self.tokens_now(model);
        let known = if random.one_in(4) || now.is_empty() { &self.tokens } else { &now };
        let made =
            TaskToken { run: run(random), op: op(random), attempt: 1, lease: TaskLease(Uuid::from_u128(1)) };
        let token = random.pick(known).copied().unwrap_or(made);
        let later = TaskToken { attempt: token.attempt + 1, ..token };
        let other = TaskToken { lease: TaskLease(Uuid::from_u128(self.workers + 7)), ..token };
        if random.one_in(10) {
            later
        } else if random.one_in(10) {
            other
        } else {
            token
        }
    }
}

pub(crate) fn failure() -> Failure {
    Failure::fatal(FailureKind::Timeout, "code", "it failed".to_owned())
}

pub(crate) fn json(digit: u64) -> Json {
    Json::new(digit.to_string()).unwrap()
}

/// Some of them.
pub(crate) fn some<T>(random: &mut Random, all: impl Iterator<Item = T>) -> Vec<T> {
    all.filter(|_| !random.one_in(3)).collect()
}

pub(crate) fn message(random: &mut Random) -> Message {
    let (op, reason) = (op(random), "r".to_owned());
    match random.below(13) {
        0..=3 => Message::Signal { name: "s".into(), payload: json(random.below(2)), id: None },
        4 => Message::Cancel { reason, id: None },
        5 => Message::Terminate { reason, only_this: random.one_in(2) },
        6 => Message::Retry,
        7 => Message::Repair,
        8 => Message::Pause { reason },
        9 => Message::Resume { reason },
        10 => Message::ChildClosed { op, outcome: Ok(json(1)) },
        11 => Message::AttemptEnded { op, attempt: 1, outcome: Ok(json(2)), heartbeat: None },
        _ => Message::AttemptWanted { op },
    }
}

/// Ops that nothing else of an append speaks of.
pub(crate) fn fresh_ops(random: &mut Random, taken: &mut HashSet<Op>, all: &[Op]) -> Vec<Op> {
    let mut ops = Vec::new();
    for op in all {
        if random.one_in(2) && taken.insert(*op) {
            ops.push(*op);
        }
    }
    ops
}
