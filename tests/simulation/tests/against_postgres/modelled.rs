//! The model's side.

use std::collections::{BTreeSet, HashMap};

use backstitch_core::{Json, Op, RunId, Seq, Shard, TenantId};
use backstitch_ledger::{Item, Lease, Outcome, TaskCheck, TaskPage, TimerCheck};
use simulation::model::{Database, Mutant, Reply, Writer};
use uuid::Uuid;

use crate::step::*;

pub(crate) struct Modelled {
    pub(crate) database: Database,
    shard: Shard,
    writers: HashMap<(Uuid, i64), Writer>,
    now_ms: u64,
    tickets: u64,
    marked: u64,
}

impl Modelled {
    pub(crate) fn new(shard: Shard, mutant: Option<Mutant>) -> Self {
        let database = Database::new(shard, 10_000);
        let database = match mutant {
            Some(mutant) => database.with_mutant(mutant),
            None => database,
        };
        Self { database, shard, writers: HashMap::new(), now_ms: NOW_MS, tickets: 0, marked: 0 }
    }

    pub(crate) fn shown(&self) -> Vec<String> {
        self.database.shown(self.now_ms)
    }

    /// What the operation answers, as text.
    pub(crate) fn apply(&mut self, step: &Step) -> String {
        self.now_ms += 1;
        let answer = self.apply_leases(step).or_else(|| self.apply_timers(step));
        let answer = answer.or_else(|| self.apply_messages(step)).or_else(|| self.apply_tasks(step));
        answer.or_else(|| self.apply_runs(step)).unwrap()
    }

    fn apply_leases(&mut self, step: &Step) -> Option<String> {
        let now_ms = self.now_ms;
        let database = &mut self.database;
        Some(match step {
            Step::Register { host } => format!("{:?}", database.register(*host, LONG_MS, now_ms)),
            Step::Renew { lease } => format!("{:?}", database.renew(*lease, now_ms)),
            Step::Release { lease } => format!("{:?}", database.release(*lease)),
            Step::DeclareDead { host } => format!("{:?}", database.declare_dead(*host)),
            Step::BackdateLease { host } => format!("{:?}", database.backdate_lease(*host, DAY_MS)),
            Step::DeclareOverdueDead => format!("{:?}", database.declare_overdue_dead(now_ms)),
            Step::OtherHosts { host, suspicious } => {
                format!("{:?}", database.other_hosts(*host, LONG_MS, *suspicious, now_ms))
            }
            Step::ForgetDead => format!("{:?}", database.forget_dead(now_ms)),
            Step::Append { lease, appends, fault } => self.append(*lease, appends, *fault),
            Step::Claim { lease, limit, first } => {
                let mut claimed = database.claim_runs(*lease, *limit, first);
                claimed.sort_by_key(|claimed| claimed.run);
                format!("{claimed:?}")
            }
            Step::Owned { host, run } => format!("{:?}", database.owned_run(*host, *run)),
            Step::Progress { host, led, went_on } => {
                format!("{:?}", database.note_progress(*host, led, went_on))
            }
            Step::BeginTrial { lease, run, op } => format!("{:?}", database.begin_trial(*lease, *run, *op)),
            Step::EndTrial { host, run, went_on } => {
                format!("{:?}", database.end_trial(*host, *run, *went_on))
            }
            _ => return None,
        })
    }

    fn apply_timers(&mut self, step: &Step) -> Option<String> {
        let database = &mut self.database;
        Some(match step {
            Step::Timers { host, from_ms, now_ms, except, limit } => {
                let check =
                    TimerCheck { host: *host, from_ms: *from_ms, now_ms: *now_ms, always: ALWAYS, except };
                let mut due = database.due_timers(check, ALL);
                due.sort_by_key(|timer| (timer.due_ms, timer.run, timer.op));
                let few =
                    database.due_timers(check, *limit).iter().map(|timer| timer.due_ms).collect::<Vec<_>>();
                format!("{due:?} {few:?} {:?}", database.next_due(check))
            }
            Step::TimersOf { runs } => {
                let mut timers = database.timers_of(runs);
                timers.sort_by_key(|timer| (timer.run, timer.op));
                format!("{timers:?}")
            }
            Step::Lacking { host, after, limit } => {
                format!("{:?}", database.timers_lacking(*host, *after, *limit))
            }
            Step::SetMissing { host, timers } => {
                let mut set = database.set_missing_timers(*host, timers);
                set.sort_unstable();
                format!("{set:?}")
            }
            Step::Untold { awaited } => format!("{:?}", database.untold_children(awaited)),
            _ => return None,
        })
    }

    fn apply_messages(&mut self, step: &Step) -> Option<String> {
        let shard = self.shard;
        let database = &mut self.database;
        Some(match step {
            Step::Post { tenant, run, item, message } => {
                format!("{:?}", database.post(scope(shard, *tenant), *run, *item, AT_MS, message))
            }
            Step::Waiting { tenant, run, item } => {
                let pause = database.status_and_pause(scope(shard, *tenant), *run);
                format!("{:?} {pause:?}", database.status_if_unread(*run, *item))
            }
            Step::Walk { host } => {
                let (mut said, mut from) = (Vec::new(), None);
                loop {
                    let unread = database.unread(*host, from);
                    said.push(format!("{:?} {:?}", unread.open, unread.closed));
                    from = unread.next;
                    if from.is_none() {
                        break said.join("; ");
                    }
                }
            }
            Step::CheckInbox { host, readers, unreadable, limit } => {
                format!("{:?}", database.inbox_of(*host, readers, unreadable, *limit))
            }
            Step::PassOn { run, except } => format!("{:?}", database.pass_on(*run, except)),
            Step::ClearInbox { runs } => format!("{:?}", database.clear_inbox(runs)),
            _ => return None,
        })
    }

    fn apply_tasks(&mut self, step: &Step) -> Option<String> {
        let (now_ms, shard) = (self.now_ms, self.shard);
        let database = &mut self.database;
        Some(match step {
            Step::Take { tenant, queue, names, limit, grant } => {
                let names: Option<BTreeSet<String>> = names.clone().map(|names| names.into_iter().collect());
                let check = TaskCheck { task_queue: queue, names: names.as_ref(), limit: *limit };
                let mut taken = database.take_tasks(scope(shard, *tenant), check, grant, now_ms);
                let when: Vec<_> =
                    taken.tasks.iter_mut().map(|task| when(task.deadline_ms.take(), now_ms)).collect();
                format!("{taken:?} {when:?}")
            }
            Step::Queues { queues } => format!("{:?}", database.queues_with_tasks(queues)),
            Step::HeartbeatTask { tenant, token, said } => {
                let said = said.as_deref().map(|said| Json::new(said).unwrap());
                format!("{:?}", database.heartbeat_task(scope(shard, *tenant), *token, said.as_ref(), now_ms))
            }
            Step::Hold { tenant, token } => {
                format!("{:?}", database.hold_task(scope(shard, *tenant), *token))
            }
            Step::BackdateTask { run, op } => format!("{:?}", database.backdate_task(*run, *op, DAY_MS)),
            Step::Settle { tenant, token, item } => {
                format!("{:?}", database.settle_task(scope(shard, *tenant), *token, item))
            }
            Step::Overrule { tenant, op, item } => {
                format!("{:?}", database.overrule_task(scope(shard, *tenant), *op, item))
            }
            Step::Sweep { ids, .. } => {
                let next = when(database.next_sweep_ms(now_ms), 0);
                let swept = database.sweep_tasks(now_ms, AT_MS, ALL, |run, op| given(ids, run, op));
                format!("{next} {swept:?}")
            }
            Step::Free { tenant, served, ids, .. } => {
                let scope = scope(shard, *tenant);
                format!("{:?}", database.free_tasks(scope, served, AT_MS, ALL, |run, op| given(ids, run, op)))
            }
            Step::ForgetTasks => format!("{:?}", database.forget_tasks()),
            Step::Tasks { tenant, queue, run, runs } => {
                let page = TaskPage { run: *run, task_queue: queue.as_deref(), after: None, limit: 100 };
                let mut tasks = database.tasks(scope(shard, *tenant), page);
                let mut bounds = Vec::new();
                for task in &mut tasks {
                    task.offered_ms = 0;
                    bounds.push((
                        when(task.leased_until_ms.take(), now_ms),
                        when(task.deadline_ms.take(), now_ms),
                    ));
                }
                format!("{tasks:?} {bounds:?} {:?}", Vec::from_iter(database.tasks_of(runs)))
            }
            Step::Answers { token, kinds, answer } => {
                let waiting = database.answer_waiting(*token, answer);
                format!("{:?} {waiting:?}", database.outcome_of(*token, kinds))
            }
            _ => return None,
        })
    }

    fn apply_runs(&mut self, step: &Step) -> Option<String> {
        let shard = self.shard;
        let database = &mut self.database;
        Some(match step {
            Step::Runs { tenant, run, workflow_id, by } => {
                let scope = scope(shard, *tenant);
                format!(
                    "{:?} {:?} {:?} {:?} {:?} {:?}",
                    database.run_status(scope, *run),
                    database.latest_run(scope, workflow_id),
                    database.first_run(scope, workflow_id),
                    database.successor(*run),
                    database.generation_beside(*run, *by),
                    database.rows(*run, Seq(1), 3)
                )
            }
            Step::Fork { fork } => format!("{:?}", database.insert_fork(fork)),
            Step::PostToOpen { tenant, runs, message, first } => {
                let (scope, mut next) = (scope(shard, *tenant), first.as_u128());
                let item_id = || {
                    next += 1;
                    Uuid::from_u128(next - 1)
                };
                format!("{:?}", database.post_to_open(scope, runs, message, AT_MS, item_id))
            }
            Step::ForgetLeftovers { runs } => format!("{:?}", database.forget_leftovers(runs)),
            Step::Began { runs } => {
                let mut began = database.began(runs);
                began.sort_by_key(|began| began.run);
                format!("{began:?}")
            }
            Step::Heads { host, heads, items } => {
                let mut lost = database.lost_heads(*host, heads);
                let mut there = database.items_there(items);
                lost.sort_by_key(|(run, head)| (*run, head.seq, head.chain));
                there.sort_unstable();
                format!("{lost:?} {there:?}")
            }
            Step::Mark => {
                self.marked = database.commits();
                String::new()
            }
            Step::Lose => {
                database.lose(database.commits() - self.marked);
                self.marked = database.commits();
                String::new()
            }
            _ => return None,
        })
    }

    fn append(
        &mut self,
        lease: Lease,
        appends: &[backstitch_ledger::Append],
        fault: Option<(u64, Reply)>,
    ) -> String {
        let key = (lease.host.0, lease.epoch.0);
        let writer = self.writers.entry(key).or_insert_with(|| Writer::new(lease));
        for append in appends {
            self.tickets += 1;
            writer.send(Item { ticket: self.tickets, append: append.clone() });
        }
        let mut outcomes: Vec<(u64, Outcome)> = Vec::new();
        for number in 0.. {
            let reply = fault.filter(|(place, _)| *place == number).map_or(Reply::Heard, |(_, reply)| reply);
            for acks in writer.step(&mut self.database, self.now_ms, reply) {
                outcomes.extend(acks.tickets.into_iter().map(|ticket| (ticket, acks.outcome.clone())));
            }
            if writer.is_idle() {
                break;
            }
            assert!(number < 1_000, "the writer comes to no end");
        }
        if writer.is_fenced() {
            self.writers.remove(&key);
        }
        shown(outcomes)
    }
}

/// The id that Postgres has given to the message of a task.
fn given(ids: &[(RunId, Op, Uuid)], run: RunId, op: Op) -> Uuid {
    ids.iter().find(|(of, call, _)| (*of, *call) == (run, op)).map_or(Uuid::max(), |(_, _, id)| *id)
}

/// Tenants that there are.
pub(crate) const TENANTS: [TenantId; 2] = [TenantId(1), TenantId(2)];
