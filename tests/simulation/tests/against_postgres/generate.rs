//! Random operations. Each is made of one number and of what is known when its turn comes, so a sequence from which some are
//! taken out is a sequence still. There are few hosts, runs, names and numbers, so that they collide.

use std::collections::HashSet;

use backstitch_core::inbox::Message;
use backstitch_core::task::LeaseGrant;
use backstitch_core::{
    Failure, FailureKind, HostId, Json, Kind, Op, RunId, Shard, TaskLease, TaskToken, TenantId,
};
use backstitch_ledger::{Awaited, Head, Lease, NewItem, NewTimer, Reader, TaskPage, TaskState};
use uuid::Uuid;

use crate::appends;
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
        Self { shard, leases, heads, items, tokens, ids: 0x0125_0000_0000 << 80, workers: 0 }
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
            Step::Post { run, item, .. } => self.items.push((*run, *item)),
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
        let token = |task: backstitch_ledger::OpenTask| {
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

    /// A lease: most often the one that its host has now.
    pub(crate) fn lease(&self, random: &mut Random, model: &Modelled, host: Option<HostId>) -> Option<Lease> {
        if random.one_in(6) {
            return random.pick(&self.leases).copied();
        }
        let host = host.unwrap_or_else(|| crate::generate::host(random));
        model.database.lease_of(host).or_else(|| random.pick(&self.leases).copied())
    }

    fn token(&self, random: &mut Random, model: &Modelled) -> TaskToken {
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

    /// The operation that this number stands for now.
    pub(crate) fn step(&mut self, number: u64, model: &Modelled) -> Step {
        let random = &mut Random::new(number);
        if self.leases.is_empty() {
            return Step::Register { host: host(random) };
        }
        match random.below(100) {
            0..=38 => appends::step(self, random, model),
            39..=56 => self.lease_step(random, model),
            57..=75 => self.message_step(random, model),
            76..=90 => self.task_step(random, model),
            _ => self.look_step(random, model),
        }
    }

    fn lease_step(&self, random: &mut Random, model: &Modelled) -> Step {
        let host = host(random);
        let lease = self.lease(random, model, None).expect("there is one");
        let (run, went_on) = (run(random), random.one_in(2));
        match random.below(28) {
            0..=2 => Step::Register { host },
            3 => Step::Beat { lease },
            4..=5 => Step::Release { lease },
            6..=8 => {
                let of = model.database.owner_of(run).filter(|_| !random.one_in(3));
                Step::DeclareDead { host: of.unwrap_or(host) }
            }
            9 => Step::BackdateLease { host },
            10 => Step::DeclareOverdueDead,
            11 => Step::OtherHosts { host, suspicious: random.one_in(2) },
            12 => Step::ForgetDead,
            13..=20 => {
                let limit = if random.one_in(3) { 1 + random.below(2) as usize } else { ALL };
                Step::Claim { lease, limit, first: Vec::new() }
            }
            21 => Step::Owned { host, run },
            22 => Step::Progress { host, led: some(random, runs()), went_on: some(random, runs()) },
            23..=25 => {
                // Of its own host, most often.
                let of = model.database.owner_of(run).filter(|_| !random.one_in(5));
                let lease = self.lease(random, model, of).unwrap_or(lease);
                Step::BeginTrial { lease, run, op: random.one_in(2).then(|| op(random)) }
            }
            _ => Step::EndTrial { host, run, went_on },
        }
    }

    fn message_step(&mut self, random: &mut Random, model: &Modelled) -> Step {
        let (host, run, tenant) = (host(random), run(random), tenant(random));
        match random.below(21) {
            0..=8 => {
                let known = random.one_in(4).then(|| random.pick(&self.items).copied()).flatten();
                let item = match known {
                    Some((_, item)) => item,
                    None => self.new_id(),
                };
                Step::Post { tenant, run, item, message: message(random).to_row() }
            }
            9 => {
                let (run, item) = random.pick(&self.items).copied().unwrap_or((run, Uuid::max()));
                Step::Waiting { tenant, run, item }
            }
            10..=12 => Step::Walk { host },
            13..=17 => {
                let host = model.database.owner_of(run).unwrap_or(host);
                let mut readers = Vec::new();
                for run in some(random, runs()) {
                    let of_run = self.items.iter().filter(|(of, _)| *of == run).map(|(_, item)| *item);
                    let except = if random.one_in(3) { some(random, of_run) } else { Vec::new() };
                    readers.push(Reader { run, is_full: random.one_in(4), except });
                }
                let unreadable =
                    self.items.iter().map(|(_, item)| *item).filter(|_| random.one_in(20)).collect();
                let limit = if random.one_in(3) { random.below(4) as usize } else { ALL };
                Step::Look { host, readers, unreadable, limit }
            }
            18..=19 => {
                let except = self.items.iter().map(|(_, item)| *item).filter(|_| random.one_in(8)).collect();
                let known = random.pick(&self.items).map(|(run, _)| *run).filter(|_| !random.one_in(4));
                Step::PassOn { run: known.unwrap_or(run), except }
            }
            _ => Step::ClearInbox { runs: vec![run] },
        }
    }

    fn task_step(&mut self, random: &mut Random, model: &Modelled) -> Step {
        let tenant = tenant(random);
        let token = self.token(random, model);
        let queue = QUEUES[random.below(2) as usize].to_owned();
        match random.below(22) {
            0..=6 => {
                let names = random.one_in(3).then(|| vec![ACTIVITIES[random.below(2) as usize].to_owned()]);
                let limit = if random.one_in(2) { 1 } else { 10 };
                Step::Take { tenant, queue, names, limit, grant: self.grant(Some(LONG_MS)) }
            }
            7..=8 => {
                let said = random.one_in(2).then(|| random.below(3).to_string());
                Step::BeatTask { tenant, token, said }
            }
            9 => Step::Hold { tenant, token },
            10..=11 => Step::BackdateTask { run: token.run, op: token.op },
            12..=14 => {
                let item = NewItem { run: token.run, ..self.answer(random, token.op, token.attempt) };
                Step::Settle { tenant, token, item }
            }
            15 => {
                let item = NewItem { run: token.run, ..self.answer(random, token.op, token.attempt) };
                Step::Overrule { tenant, op: token.op, item }
            }
            16..=17 => Step::Sweep { first: self.new_id(), ids: Vec::new() },
            18 => {
                let served = vec![(queue, ACTIVITIES[random.below(2) as usize].to_owned())];
                Step::Free { tenant, served, first: self.new_id(), ids: Vec::new() }
            }
            19 => Step::ForgetTasks,
            20 => Step::Queues { queues: QUEUES.map(|queue| (tenant, queue.to_owned())).to_vec() },
            _ => {
                let queue = random.one_in(3).then_some(queue);
                let run = random.one_in(3).then(|| run(random));
                Step::Tasks { tenant, queue, run, runs: some(random, runs()) }
            }
        }
    }

    fn look_step(&mut self, random: &mut Random, model: &Modelled) -> Step {
        let (host, run, tenant) = (host(random), run(random), tenant(random));
        let owner = model.database.owner_of(run).unwrap_or(host);
        match random.below(22) {
            20..=21 | 0..=2 => {
                let except = if random.one_in(4) { some(random, runs()) } else { Vec::new() };
                let (from_ms, now_ms) = (100 * random.below(3), 100 * random.below(8));
                Step::Timers { host: owner, from_ms, now_ms, except, limit: 1 + random.below(3) as usize }
            }
            3 => Step::TimersOf { runs: some(random, runs()) },
            4..=5 => {
                let after = random.one_in(4).then_some(run);
                let limit = if random.one_in(4) { 1 } else { ALL };
                Step::Lacking { host: owner, after, limit }
            }
            6 => {
                let timers = OPS.into_iter().filter(|_| random.one_in(2)).map(|op| NewTimer {
                    run,
                    op,
                    due_ms: 250,
                    purpose: 1,
                });
                let timers = timers.collect();
                Step::SetMissing { host: owner, timers }
            }
            7 => {
                let op = op(random);
                let awaited = runs().map(|child| Awaited { parent: run, op, child }).collect();
                Step::Untold { awaited }
            }
            8 => {
                let token = self.token(random, model);
                let answer = self.answer(random, token.op, token.attempt).message;
                Step::Answers {
                    token,
                    kinds: vec![Kind::ActivityCompleted, Kind::ActivityAttemptFailed],
                    answer,
                }
            }
            9..=10 => {
                let workflow_id = WORKFLOW_IDS[random.below(3) as usize].to_owned();
                Step::Runs { tenant, run, workflow_id, by: random.below(3) as i32 - 1 }
            }
            11 => {
                let heads = self.heads.iter().filter(|_| random.one_in(3)).copied().collect();
                let items = self.items.iter().filter(|_| random.one_in(3)).copied().collect();
                Step::Heads { host: owner, heads, items }
            }
            12 => {
                let message = if random.one_in(2) { Message::Repair } else { Message::Retry };
                Step::PostToOpen {
                    tenant,
                    runs: some(random, runs()),
                    message: message.to_row(),
                    first: self.new_id(),
                }
            }
            13..=14 => Step::ForgetLeftovers { runs: some(random, runs()) },
            15 => Step::Began { runs: some(random, runs()) },
            16..=17 => Step::Mark,
            _ => Step::Lose,
        }
    }

    fn answer(&mut self, random: &mut Random, op: Op, attempt: u32) -> NewItem {
        let message = match random.below(4) {
            0 => Message::AttemptFreed { op, attempt, heartbeat: None },
            1 => Message::AttemptEnded { op, attempt, outcome: Err(failure()), heartbeat: None },
            digit => Message::AttemptEnded { op, attempt, outcome: Ok(json(digit)), heartbeat: None },
        };
        NewItem { run: RunId(Uuid::nil()), item_id: self.new_id(), at_ms: AT_MS, message: message.to_row() }
    }
}

fn failure() -> Failure {
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
