//! Postgres' side: a shard of its own for each sequence, through the public functions of the ledger crate. What those cannot
//! do (the database's clock, a failover, a connection that breaks) is done to the tables and sessions themselves.

use std::collections::{BTreeSet, HashMap};

use backstitch_core::{Json, Op, RunId, Seq, Shard};
use backstitch_ledger::{
    Append, ConnectOptions, Item, Lease, LeaseHeartbeat, Ledger, RunRef, TaskCheck, TaskPage, TimerCheck,
};
use simulation::model::Reply;
use uuid::Uuid;

use crate::postgres::Postgres;
use crate::sender::Sender;
use crate::step::*;
use crate::tables;

/// One shard of the database.
pub(crate) struct Real<'a> {
    postgres: &'a mut Postgres,
    shard: Shard,
    ledger: Ledger,
    heartbeat: LeaseHeartbeat,
    writers: HashMap<(Uuid, i64), Sender>,
    tickets: u64,
}

impl<'a> Real<'a> {
    pub(crate) async fn new(postgres: &'a mut Postgres, shard: Shard) -> Self {
        let options = ConnectOptions {
            shard,
            pool_max: 2,
            synchronous_commit: Some("off".to_owned()),
            ..ConnectOptions::new(&postgres.url)
        };
        let ledger = Ledger::connect(options).await.unwrap();
        let heartbeat = ledger.heartbeat().unwrap();
        Self { postgres, shard, ledger, heartbeat, writers: HashMap::new(), tickets: 0 }
    }

    pub(crate) async fn shown(&mut self) -> Vec<String> {
        tables::shown(&mut self.postgres.session, self.shard).await
    }

    /// What the operation answers, as text. Notes down what Postgres has chosen.
    pub(crate) async fn apply(&mut self, step: &mut Step) -> String {
        if let Some(answer) = self.apply_leases(step).await {
            return answer;
        }
        if let Some(answer) = self.apply_timers(step).await {
            return answer;
        }
        if let Some(answer) = self.apply_messages(step).await {
            return answer;
        }
        if let Some(answer) = self.apply_tasks(step).await {
            return answer;
        }
        self.apply_runs(step).await.unwrap()
    }

    async fn apply_leases(&mut self, step: &mut Step) -> Option<String> {
        let (ledger, heartbeat, shard) = (&self.ledger, &self.heartbeat, self.shard);
        Some(match step {
            Step::Register { host } => {
                format!("{:?}", heartbeat.register(*host, LONG_MS, "a host").await.unwrap())
            }
            Step::Renew { lease } => format!("{:?}", heartbeat.renew(*lease).await.unwrap().0),
            Step::Release { lease } => format!("{:?}", heartbeat.release(*lease).await.unwrap()),
            Step::DeclareDead { host } => format!("{:?}", ledger.declare_dead(*host).await.unwrap()),
            Step::BackdateLease { host } => {
                format!("{:?}", tables::backdate_lease(&mut self.postgres.session, shard, *host).await)
            }
            Step::DeclareOverdueDead => {
                let mut dead = ledger.declare_overdue_dead().await.unwrap();
                dead.sort_unstable();
                format!("{dead:?}")
            }
            Step::OtherHosts { host, suspicious } => {
                format!("{:?}", ledger.other_hosts(*host, LONG_MS, *suspicious).await.unwrap())
            }
            Step::ForgetDead => format!("{:?}", ledger.forget_dead().await.unwrap()),
            Step::Append { lease, appends, fault } => self.append(*lease, appends, *fault).await,
            Step::Claim { lease, limit, first } => {
                let mut claimed = ledger.claim_runs(*lease, *limit as i64).await.unwrap();
                *first = claimed.iter().map(|claimed| claimed.run).collect();
                claimed.sort_by_key(|claimed| claimed.run);
                format!("{claimed:?}")
            }
            Step::Owned { host, run } => format!("{:?}", ledger.owned_run(*host, *run).await.unwrap()),
            Step::Progress { host, led, went_on } => {
                let mut noted = ledger.note_progress(*host, led, went_on).await.unwrap();
                noted.sort_unstable();
                format!("{noted:?}")
            }
            Step::BeginTrial { lease, run, op } => {
                format!("{:?}", ledger.begin_trial(*lease, *run, *op).await.unwrap())
            }
            Step::EndTrial { host, run, went_on } => {
                format!("{:?}", ledger.end_trial(*host, *run, *went_on).await.unwrap())
            }
            _ => return None,
        })
    }

    async fn apply_timers(&mut self, step: &mut Step) -> Option<String> {
        let ledger = &self.ledger;
        Some(match step {
            Step::Timers { host, from_ms, now_ms, except, limit } => {
                let check =
                    TimerCheck { host: *host, from_ms: *from_ms, now_ms: *now_ms, always: ALWAYS, except };
                let mut due = ledger.due_timers(check, ALL as i64).await.unwrap();
                due.sort_by_key(|timer| (timer.due_ms, timer.run, timer.op));
                let few = ledger.due_timers(check, *limit as i64).await.unwrap();
                let few = few.iter().map(|timer| timer.due_ms).collect::<Vec<_>>();
                format!("{due:?} {few:?} {:?}", ledger.next_due(check).await.unwrap())
            }
            Step::TimersOf { runs } => {
                let mut timers = ledger.timers_of(runs).await.unwrap();
                timers.sort_by_key(|timer| (timer.run, timer.op));
                format!("{timers:?}")
            }
            Step::Lacking { host, after, limit } => {
                let (mut found, last) = ledger.timers_lacking(*host, *after, *limit as i64).await.unwrap();
                for lacking in &mut found {
                    lacking.ops.sort_unstable();
                    lacking.own.sort_unstable();
                }
                format!("{:?}", (found, last))
            }
            Step::SetMissing { host, timers } => {
                let mut set = ledger.set_missing_timers(*host, timers).await.unwrap();
                set.sort_unstable();
                format!("{set:?}")
            }
            Step::Untold { awaited } => {
                let mut untold = ledger.untold_children(awaited).await.unwrap();
                untold.sort_by_key(|(child, _)| awaited.iter().position(|other| other == child));
                format!("{untold:?}")
            }
            _ => return None,
        })
    }

    async fn apply_messages(&mut self, step: &mut Step) -> Option<String> {
        let (ledger, shard) = (&self.ledger, self.shard);
        Some(match step {
            Step::Post { tenant, run, item, message } => {
                format!(
                    "{:?}",
                    ledger.post(scope(shard, *tenant), *run, *item, AT_MS, message).await.unwrap()
                )
            }
            Step::Waiting { tenant, run, item } => {
                let pause = ledger.status_and_pause(scope(shard, *tenant), *run).await.unwrap();
                format!("{:?} {pause:?}", ledger.status_if_unread(*run, *item).await.unwrap())
            }
            Step::Walk { host } => {
                let (mut said, mut from) = (Vec::new(), None);
                loop {
                    let unread = ledger.unread(*host, from).await.unwrap();
                    said.push(format!("{:?} {:?}", unread.open, unread.closed));
                    from = unread.next;
                    if from.is_none() {
                        break said.join("; ");
                    }
                }
            }
            Step::CheckInbox { host, readers, unreadable, limit } => {
                let heard = ledger.inbox_of(*host, readers, unreadable, *limit as i64).await.unwrap();
                assert_eq!(heard.unreadable, []);
                format!("{:?}", heard.items)
            }
            Step::PassOn { run, except } => format!("{:?}", ledger.pass_on(*run, except).await.unwrap()),
            Step::ClearInbox { runs } => format!("{:?}", ledger.clear_inbox(runs).await.unwrap()),
            _ => return None,
        })
    }

    async fn apply_runs(&mut self, step: &mut Step) -> Option<String> {
        let (ledger, shard) = (&self.ledger, self.shard);
        Some(match step {
            Step::Runs { tenant, run, workflow_id, by } => {
                let scope = scope(shard, *tenant);
                format!(
                    "{:?} {:?} {:?} {:?} {:?} {:?}",
                    ledger.run_status(scope, *run).await.unwrap(),
                    ledger.run_id(scope, RunRef::WorkflowId(workflow_id)).await.unwrap(),
                    ledger.first_run(scope, workflow_id).await.unwrap(),
                    ledger.successor(*run).await.unwrap(),
                    ledger.generation_beside(*run, *by).await.unwrap(),
                    ledger.rows(*run, Seq(1), 3).await.unwrap()
                )
            }
            Step::Fork { fork } => format!("{:?}", ledger.insert_fork(fork).await.unwrap()),
            Step::PostToOpen { tenant, runs, message, first } => {
                let (scope, counter) = (scope(shard, *tenant), Counter::new(*first));
                let posted = ledger.post_to_open(scope, runs, message, AT_MS, || counter.next()).await;
                format!("{:?}", posted.unwrap())
            }
            Step::ForgetLeftovers { runs } => format!("{:?}", ledger.forget_leftovers(runs).await.unwrap()),
            Step::Began { runs } => {
                let mut began = ledger.began(runs).await.unwrap();
                began.sort_by_key(|began| began.run);
                format!("{began:?}")
            }
            Step::Heads { host, heads, items } => {
                let mut lost = ledger.lost_heads(*host, heads).await.unwrap();
                let mut there = ledger.items_there(items).await.unwrap();
                lost.sort_by_key(|(run, head)| (*run, head.seq, head.chain));
                there.sort_unstable();
                format!("{lost:?} {there:?}")
            }
            Step::Mark => {
                tables::mark(&mut self.postgres.session, shard).await;
                String::new()
            }
            Step::Lose => {
                tables::lose(&mut self.postgres.session, shard).await;
                String::new()
            }
            _ => return None,
        })
    }

    async fn apply_tasks(&mut self, step: &mut Step) -> Option<String> {
        let (ledger, shard) = (&self.ledger, self.shard);
        Some(match step {
            Step::Take { tenant, queue, names, limit, grant } => {
                let names: Option<BTreeSet<String>> = names.clone().map(|names| names.into_iter().collect());
                let check = TaskCheck { task_queue: queue, names: names.as_ref(), limit: *limit };
                let mut taken = ledger.take_tasks(scope(shard, *tenant), check, grant).await.unwrap();
                let now_ms = ledger.clock_us().await.unwrap() / 1000;
                let when: Vec<_> =
                    taken.tasks.iter_mut().map(|task| when(task.deadline_ms.take(), now_ms)).collect();
                format!("{taken:?} {when:?}")
            }
            Step::Queues { queues } => format!("{:?}", ledger.queues_with_tasks(queues).await.unwrap()),
            Step::HeartbeatTask { tenant, token, said } => {
                let said = said.as_deref().map(|said| Json::new(said).unwrap());
                let scope = scope(shard, *tenant);
                format!("{:?}", ledger.heartbeat_task(scope, *token, said.as_ref()).await.unwrap())
            }
            Step::Hold { tenant, token } => {
                format!("{:?}", ledger.hold_task(scope(shard, *tenant), *token).await.unwrap())
            }
            Step::BackdateTask { run, op } => {
                format!("{:?}", tables::backdate_task(&mut self.postgres.session, shard, *run, *op).await)
            }
            Step::Settle { tenant, token, item } => {
                format!("{:?}", ledger.settle_task(scope(shard, *tenant), *token, item).await.unwrap())
            }
            Step::Overrule { tenant, op, item } => {
                format!("{:?}", ledger.overrule_task(scope(shard, *tenant), *op, item).await.unwrap())
            }
            Step::Sweep { first, ids } => {
                let next = when(ledger.next_sweep_ms().await.unwrap(), 0);
                let counter = Counter::new(*first);
                let swept = ledger.sweep_tasks(AT_MS, ALL as i64, || counter.next()).await.unwrap();
                *ids = tables::given(&mut self.postgres.session, shard, &counter.given()).await;
                format!("{next} {swept:?}")
            }
            Step::Free { tenant, served, first, ids } => {
                let counter = Counter::new(*first);
                let scope = scope(shard, *tenant);
                let freed =
                    ledger.free_tasks(scope, served, AT_MS, ALL as i64, || counter.next()).await.unwrap();
                *ids = tables::given(&mut self.postgres.session, shard, &counter.given()).await;
                format!("{freed:?}")
            }
            Step::ForgetTasks => format!("{:?}", ledger.forget_tasks().await.unwrap()),
            Step::Tasks { tenant, queue, run, runs } => {
                let page = TaskPage { run: *run, task_queue: queue.as_deref(), after: None, limit: 100 };
                let mut tasks = ledger.tasks(scope(shard, *tenant), page).await.unwrap();
                let now_ms = ledger.clock_us().await.unwrap() / 1000;
                let mut bounds = Vec::new();
                for task in &mut tasks {
                    task.offered_ms = 0;
                    bounds.push((
                        when(task.leased_until_ms.take(), now_ms),
                        when(task.deadline_ms.take(), now_ms),
                    ));
                }
                let of: BTreeSet<(RunId, Op)> = ledger.tasks_of(runs).await.unwrap().into_iter().collect();
                format!("{tasks:?} {bounds:?} {:?}", Vec::from_iter(of))
            }
            Step::Answers { token, kinds, answer } => {
                let scope = scope(shard, backstitch_core::TenantId::DEFAULT);
                let waiting = ledger.answer_waiting(scope, *token, answer).await.unwrap();
                format!("{:?} {waiting:?}", ledger.outcome_of(scope, *token, kinds).await.unwrap())
            }
            _ => return None,
        })
    }

    async fn append(&mut self, lease: Lease, appends: &[Append], fault: Option<(u64, Reply)>) -> String {
        let key = (lease.host.0, lease.epoch.0);
        let mut sender = match self.writers.remove(&key) {
            Some(sender) => sender,
            None => Sender::new(&self.ledger, lease, self.postgres).await,
        };
        let mut items = Vec::new();
        for append in appends {
            self.tickets += 1;
            items.push(Item { ticket: self.tickets, append: append.clone() });
        }
        let outcomes = sender.send(items, fault, self.postgres).await;
        if !outcomes.iter().any(|(_, outcome)| *outcome == backstitch_ledger::Outcome::Fenced) {
            self.writers.insert(key, sender);
        }
        shown(outcomes)
    }
}

/// Makes ids one after the other.
struct Counter {
    first: u128,
    next: std::cell::Cell<u128>,
}

impl Counter {
    fn new(first: Uuid) -> Self {
        Self { first: first.as_u128(), next: std::cell::Cell::new(first.as_u128()) }
    }

    fn next(&self) -> Uuid {
        Uuid::from_u128(self.next.replace(self.next.get() + 1))
    }

    fn given(&self) -> Vec<Uuid> {
        (self.first..self.next.get()).map(Uuid::from_u128).collect()
    }
}
