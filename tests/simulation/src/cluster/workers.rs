//! Remote workers, as `server::service::tasks` serves them: they poll at one host, and answer at any.

use backstitch_core::command::DEFAULT_TASK_QUEUE;
use backstitch_core::matcher::{Moment, PollRequest, PollerId, Queue, Step};
use backstitch_core::{Failure, FailureKind, Json, Message};
use backstitch_ledger::{Settled, Taken, TaskCheck};
use backstitch_scheduler::{Input, Settle, Settlement, Started, new_inbox_item};

use super::env::{Reply as Waits, TENANT, Task, Waker};
use super::event::{Event, HostEvent, WorkerEvent};
use super::state::Cluster;
use super::worker::{Answering, Polling};
use crate::script::activity_output;

/// How long a poll waits, in microseconds.
const POLL_US: u64 = 2_000_000;
/// How long a worker may be silent, in milliseconds.
const LEASE_MS: u64 = 2_000;
/// How long a worker waits for the answer to its answer, in microseconds, and how often it gives it again.
const TIMEOUT: (u64, u32) = (1_500_000, 30);

impl Cluster {
    pub(super) fn worker(&mut self, worker: usize, event: WorkerEvent) {
        match event {
            WorkerEvent::Poll => self.poll(worker),
            WorkerEvent::Resume { poll } => self.resume(worker, poll),
            WorkerEvent::TimedOut { poll } => {
                let is_under_way = self.workers[worker].polling.is_some();
                if is_under_way && self.workers[worker].polls == poll {
                    self.hang_up(worker);
                    self.after(10_000, Event::Worker(worker, WorkerEvent::Poll));
                }
            }
        }
    }

    /// The poll of a worker, if it is this one and its host still has it.
    fn polling(&self, worker: usize, poll: u64) -> Option<Polling> {
        let polling = self.workers[worker].polling.filter(|polling| polling.poll == poll)?;
        let host = &self.hosts[polling.host];
        (host.epoch == polling.epoch && host.term.is_some()).then_some(polling)
    }

    fn queue_of_workers() -> Queue {
        Queue { tenant: TENANT, name: DEFAULT_TASK_QUEUE.into() }
    }

    fn poll(&mut self, worker: usize) {
        let Some(host) = self.some_host() else {
            return self.after(200_000, Event::Worker(worker, WorkerEvent::Poll));
        };
        let request = PollRequest {
            names: None,
            max: 1 + self.rng.below(3) as u32,
            lease_ms: LEASE_MS,
            worker: format!("worker-{worker}").into(),
        };
        self.workers[worker].polls += 1;
        let poll = self.workers[worker].polls;
        let now = self.moment();
        let Some(term) = &self.hosts[host].term else { return };
        let mut matcher = term.shared.matcher.borrow_mut();
        let (poller, waker) =
            matcher.poll(now, &Self::queue_of_workers(), request, || Waker { worker, poll });
        let backlog = matcher.backlog(poller);
        drop(matcher);
        let Some(backlog) = backlog else { return };
        self.after(POLL_US + 300_000, Event::Worker(worker, WorkerEvent::TimedOut { poll }));
        // A poller that was kept wakes with the number that it was made with.
        let (poll, until_us) = (waker.poll, self.now_us + POLL_US);
        let epoch = self.hosts[host].epoch;
        self.workers[worker].polling =
            Some(Polling { poll, host, epoch, poller, until_us, backlog, limit: 0 });
        self.look(worker, poll);
    }

    fn moment(&self) -> Moment {
        Moment(std::time::Duration::from_micros(self.now_us))
    }

    /// A poll looks for tasks in the database, unless there are none, or waits.
    fn look(&mut self, worker: usize, poll: u64) {
        let Some(polling) = self.polling(worker, poll) else { return };
        let (now_us, host, poller) = (self.now_us, polling.host, polling.poller);
        let Some(term) = &self.hosts[host].term else { return };
        let mut matcher = term.shared.matcher.borrow_mut();
        let Some(backlog) = matcher.backlog(poller) else { return };
        let limit = if backlog.is_known_empty { 0 } else { matcher.check(poller) };
        let may_look = limit > 0 && now_us < term.lease_until_us;
        drop(matcher);
        self.workers[worker].polling = Some(Polling { backlog, limit, ..polling });
        if may_look {
            let us = self.delay(800);
            self.tell_later(host, us, HostEvent::Check { worker, poll });
        } else {
            self.wait(worker, poll);
        }
    }

    fn wait(&mut self, worker: usize, poll: u64) {
        let Some(Polling { host, poller, until_us, backlog, .. }) = self.polling(worker, poll) else {
            return;
        };
        let (now, until) = (self.moment(), Moment(std::time::Duration::from_micros(until_us)));
        let Some(term) = &self.hosts[host].term else { return };
        let step = term.shared.matcher.borrow_mut().wait(now, poller, until, backlog.version);
        self.go_on_polling(worker, poll, step);
    }

    fn resume(&mut self, worker: usize, poll: u64) {
        let Some(Polling { host, poller, .. }) = self.polling(worker, poll) else { return };
        let now = self.moment();
        if self.rng.chance(20) {
            self.hang_up(worker);
            return self.after(20_000, Event::Worker(worker, WorkerEvent::Poll));
        }
        let Some(term) = &self.hosts[host].term else { return };
        let step = term.shared.matcher.borrow_mut().resume(now, poller);
        self.go_on_polling(worker, poll, step);
    }

    /// A worker waits for its poll no longer.
    fn hang_up(&mut self, worker: usize) {
        let Some(Polling { host, epoch, poller, .. }) = self.workers[worker].polling.take() else { return };
        if self.hosts[host].epoch != epoch {
            return;
        }
        let Some(term) = &self.hosts[host].term else { return };
        let actions = term.shared.matcher.borrow_mut().hang_up(poller);
        self.matched(host, actions);
    }

    fn go_on_polling(&mut self, worker: usize, poll: u64, step: Step) {
        match step {
            Step::Deliver | Step::Over => self.leave(worker, poll, Vec::new()),
            Step::Check => self.look(worker, poll),
            Step::Wait(at) => {
                let us = (at.0.as_micros() as u64).saturating_sub(self.now_us) + 1;
                self.after(us, Event::Worker(worker, WorkerEvent::Resume { poll }));
            }
        }
    }

    /// A poll takes tasks from the database.
    pub(super) fn check_for_tasks(&mut self, host: usize, worker: usize, poll: u64) {
        let Some(Polling { poller, backlog, limit, .. }) = self.polling(worker, poll) else { return };
        let (scope, now_ms) = (self.scope(), self.database_now_ms());
        let Some(term) = &self.hosts[host].term else { return };
        let lease = term.shared.new_lease();
        let Some(grant) = term.shared.matcher.borrow_mut().grant(poller, lease) else { return };
        let check = TaskCheck { task_queue: DEFAULT_TASK_QUEUE, names: None, limit };
        let Taken { tasks: taken, more } = self.database.take_tasks(scope, check, &grant, now_ms);
        let ours = taken.iter().filter(|task| task.owner == Some(term.id));
        let tokens: Vec<_> = ours.map(|task| task.token).collect();
        let actions = term.shared.matcher.borrow_mut().checked(poller, backlog.version, more);
        let tasks: Vec<Task> = taken
            .into_iter()
            .filter_map(|task| {
                let input = Json::new(task.input).ok()?;
                let said = task.heartbeat.and_then(|said| Json::new(said).ok());
                Some(Task { scope, token: task.token, name: task.name, input, said })
            })
            .collect();
        self.matched(host, actions);
        if !tokens.is_empty() {
            self.step(host, Input::Leased(tokens));
        }
        if tasks.is_empty() { self.wait(worker, poll) } else { self.leave(worker, poll, tasks) }
    }

    /// A poll is answered; what a host without its lease has goes back.
    fn leave(&mut self, worker: usize, poll: u64, found: Vec<Task>) {
        let Some(Polling { host, poller, .. }) = self.polling(worker, poll) else { return };
        let (now, now_us) = (self.moment(), self.now_us);
        self.workers[worker].polling = None;
        let Some(term) = &self.hosts[host].term else { return };
        let (tasks, actions) = term.shared.matcher.borrow_mut().leave(now, poller, found);
        let may_give = now_us < term.lease_until_us;
        self.matched(host, actions);
        for task in tasks {
            if may_give {
                self.carry_out_task(task);
            } else {
                self.give_back(&task);
            }
        }
        let us = self.delay(2_000);
        self.after(us, Event::Worker(worker, WorkerEvent::Poll));
    }

    /// A worker does its work. It may die, be late, or say the same thing twice.
    fn carry_out_task(&mut self, task: Task) {
        if task.said.is_some() {
            self.met("heartbeat-told");
        }
        let holds = self.said.told(&task);
        self.check_unless_lost(holds);
        let is_confluent = self.is_confluent_run(task.token.run);
        if self.rng.chance(80) {
            // It dies.
            return;
        }
        let fails = !is_confluent && self.rng.chance(150);
        let output = (!fails).then(|| activity_output(&task.name, &task.input));
        if self.rng.chance(300) {
            let left = 1 + self.rng.below(5) as u32;
            let us = self.heartbeat_us();
            return self.after(us, Event::Heartbeat { task, output, left });
        }
        let us = self.delay(40_000);
        if self.rng.chance(50) {
            let us = us + self.delay(100_000);
            self.after(us, Event::Answer { task: task.clone(), output: output.clone(), tries: 0 });
        }
        self.after(us, Event::Answer { task, output, tries: 0 });
    }

    /// An answer reaches a host.
    pub(super) fn answer(&mut self, task: Task, output: Option<Json>, tries: u32) {
        // Whoever was told that his answer is taken says it once more only by mistake.
        let is_told = self.told.contains(&task.token.lease);
        if tries > TIMEOUT.1 || (tries > 0 && is_told && !self.rng.chance(100)) {
            return;
        }
        let Some(host) = self.some_host() else {
            return self.after(500_000, Event::Answer { task, output, tries });
        };
        let (epoch, token, scope) = (self.hosts[host].epoch, task.token, task.scope);
        let Some(term) = &self.hosts[host].term else { return };
        let answered = term.shared.matcher.borrow_mut().answered(token.lease);
        let again = (task.clone(), output.clone());
        let answering = Answering::Settle { asked: (host, epoch), task, output: output.clone(), answered };
        let number = self.new_reply(answering);
        // Who gets no answer gives his once more.
        self.after(TIMEOUT.0, Event::Answer { task: again.0, output: again.1, tries: tries + 1 });
        self.step(host, Input::Settle(Settle { scope, token, output, reply: Waits::new(number) }));
    }

    /// What a scheduler says of an answer.
    pub(super) fn settled(&mut self, reply: u64, settlement: Settlement) {
        let Some(Answering::Settle { asked: (host, epoch), task, output, answered }) =
            self.answering.remove(&reply)
        else {
            return;
        };
        if let Some(answered) = answered
            && self.hosts[host].epoch == epoch
            && let Some(term) = &self.hosts[host].term
        {
            term.shared.matcher.borrow_mut().heard(answered);
        }
        match settlement {
            Settlement::Done => {
                self.told.insert(task.token.lease);
                let holds = self.checks.settled(task.token, &self.database);
                self.check(holds);
            }
            Settlement::Elsewhere => {
                let us = self.delay(800);
                self.after(us, Event::Settle { task, output });
            }
        }
    }

    /// An answer goes to the inbox of its run, if its task is still there.
    pub(super) fn settle(&mut self, task: &Task, output: Option<Json>) {
        let token = task.token;
        let failed = || Failure {
            retryable: true,
            ..Failure::fatal(FailureKind::Application, "worker", "it did not work")
        };
        let message = Message::AttemptEnded {
            op: token.op,
            attempt: token.attempt,
            outcome: output.ok_or_else(failed),
            heartbeat: None,
        };
        self.told.insert(token.lease);
        let item = new_inbox_item(self.new_id(), self.database_now_ms(), token.run, &message);
        if let Settled::Left { owner } = self.database.settle_task(task.scope, token, &item) {
            self.hint(owner);
        }
    }

    /// What a scheduler says of a start.
    pub(super) fn started(&mut self, reply: u64, started: &Started) {
        let Some(Answering::Start { run, .. }) = self.answering.remove(&reply) else { return };
        if let Ok(Some(_)) = started {
            let holds = self.checks.started(run);
            self.check(holds);
        }
    }

    pub(super) fn set_matcher_timer(&mut self, host: usize, poller: PollerId, at: Moment) {
        let us = (at.0.as_micros() as u64).saturating_sub(self.now_us) + 1;
        self.tell_later(host, us, HostEvent::MatcherTick(poller));
    }

    pub(super) fn matcher_tick(&mut self, host: usize, poller: PollerId) {
        let now = self.moment();
        let Some(term) = &self.hosts[host].term else { return };
        let actions = term.shared.matcher.borrow_mut().tick(now, poller);
        self.matched(host, actions);
    }
}
