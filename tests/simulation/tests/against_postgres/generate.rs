//! Random operations. Each is made of one number and of what is known when its turn comes, so a sequence from which some are
//! taken out is a sequence still.

use backstitch_core::inbox::Message;
use backstitch_core::{Kind, Op, RunId};
use backstitch_ledger::{Awaited, NewItem, NewTimer, Reader};
use uuid::Uuid;

use crate::appends;
use crate::known::*;
use crate::modelled::Modelled;
use crate::random::Random;
use crate::step::*;

impl Known {
    /// The operation that this number stands for now.
    pub(crate) fn step(&mut self, number: u64, model: &Modelled) -> Step {
        let random = &mut Random::new(number);
        if self.leases.is_empty() {
            return Step::Register { host: host(random) };
        }
        match random.below(100) {
            0..=35 => appends::step(self, random, model),
            36..=38 => appends::fork(self, random, model),
            39..=56 => self.lease_step(random, model),
            57..=75 => self.message_step(random, model),
            76..=90 => self.task_step(random, model),
            _ => self.inbox_step(random, model),
        }
    }

    fn lease_step(&self, random: &mut Random, model: &Modelled) -> Step {
        let host = host(random);
        let lease = self.lease(random, model, None).expect("there is one");
        let (run, went_on) = (self.run(random, model), random.one_in(2));
        let is_orphan = |run: RunId| {
            let lease = model.database.owner_of(run).and_then(|owner| model.database.lease_of(owner));
            lease.is_some_and(|lease| !model.database.is_alive(lease))
        };
        if runs().any(is_orphan) && random.one_in(3) {
            return Step::Claim { lease, limit: ALL, first: Vec::new() };
        }
        match random.below(28) {
            0..=3 => Step::Register { host },
            4 => Step::Renew { lease },
            5 => Step::Release { lease },
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
            23..=26 => {
                // Of its own host, most often.
                let of = model.database.owner_of(run).filter(|_| !random.one_in(5));
                let lease = self.lease(random, model, of).unwrap_or(lease);
                Step::BeginTrial { lease, run, op: random.one_in(2).then(|| op(random)) }
            }
            _ => Step::EndTrial { host, run, went_on },
        }
    }

    fn message_step(&mut self, random: &mut Random, model: &Modelled) -> Step {
        let (host, run, tenant) = (host(random), self.run(random, model), tenant(random));
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
                Step::CheckInbox { host, readers, unreadable, limit }
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
                Step::HeartbeatTask { tenant, token, said }
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

    fn inbox_step(&mut self, random: &mut Random, model: &Modelled) -> Step {
        let (host, run, tenant) = (host(random), self.run(random, model), tenant(random));
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
                Step::SetMissing { host: if random.one_in(3) { host } else { owner }, timers }
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
            _ if !self.is_marked && !random.one_in(8) => Step::Mark,
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
