//! Carries out what the schedulers decide, as `engine::driver` does on a host.

use std::rc::Rc;
use std::time::Duration;

use backstitch_core::matcher::{Action as MatcherAction, Moment};
use backstitch_core::{Message, RunId, RunStatus};
use backstitch_ledger::{Item, Outcome};
use backstitch_scheduler::{Action, Activated, ActivationError, Input, Now, new_inbox_item};

use super::checks;
use super::env::{SimEnv, Task};
use super::event::{Event, HostEvent, WorkerEvent};
use super::host::Source;
use super::names;
use super::plan::{External, FAULTS_END_US, Slow};
use super::state::{Cluster, EPOCH_MS};
use crate::model::Reply;

impl Cluster {
    pub(super) fn host(&mut self, host: usize, event: HostEvent) {
        match event {
            HostEvent::Write => self.write(host),
            HostEvent::Acks(acks) => self.acknowledge(host, acks),
            HostEvent::Tell(input) => self.step(host, input),
            HostEvent::Ask(action) => self.ask(host, action),
            HostEvent::Compute(job) => self.compute(host, job),
            HostEvent::Defer(new) => self.defer(host, &new),
            HostEvent::Attempted { new, end } => self.attempted(host, &new, end),
            HostEvent::ReadRows(read) => self.read_rows(host, read),
            HostEvent::ReadBeside(read, claimed, ledger) => self.read_beside(host, read, claimed, *ledger),
            HostEvent::Tick => {
                if let Some(term) = &mut self.hosts[host].term {
                    term.tick_us = u64::MAX;
                }
                self.step(host, Input::Tick);
            }
            HostEvent::MatcherTick(poller) => self.matcher_tick(host, poller),
            HostEvent::Check { worker, poll } => self.check_for_tasks(host, worker, poll),
            event => self.poll_database(host, event),
        }
    }

    /// What a host takes for the database's time, in milliseconds since the epoch.
    pub(super) fn host_now_ms(&self, host: usize) -> u64 {
        let skew_ms = self.hosts[host].term.as_ref().map_or(0, |term| term.skew_ms);
        (EPOCH_MS + self.now_us / 1_000).saturating_add_signed(skew_ms)
    }

    /// Gives the scheduler of a host one input, and carries out what follows.
    pub(super) fn step(&mut self, host: usize, input: Input<SimEnv>) {
        if self.hosts[host].term.is_none() {
            return;
        }
        let (name, runs) = names::name(&input);
        self.note(|| format!("host {host} <- {name} {}", short(&runs)));
        if runs.is_empty() {
            self.cover(name, None, host);
        }
        runs.iter().for_each(|run| self.cover(name, Some(*run), host));
        match &input {
            Input::Activated(Activated { run, activation, result: Ok(done) }) => {
                self.checks.activated(*run, *activation, done.commands.iter().map(|(op, ..)| *op));
            }
            Input::Activated(Activated { activation, result: Err(ActivationError::NoRoom(_)), .. }) => {
                self.checks.comes_back(host, *activation);
            }
            Input::Activated(Activated { run, result: Err(ActivationError::Abandoned), .. }) => {
                if let Some(term) = &mut self.hosts[host].term {
                    term.watch.falls_behind(*run);
                }
            }
            Input::Posted { from: (run, op), .. } => self.look_at_message(host, *run, *op),
            _ => {}
        }
        let makes_room = matches!(input, Input::ShortOfMemory);
        let loaded = if let Input::Loaded(loaded) = &input { Some(loaded.run) } else { None };
        let ms = self.host_now_ms(host);
        let now = Now { at: Moment(Duration::from_micros(self.now_us)), ms };
        let Some(term) = &mut self.hosts[host].term else { return };
        term.shared.now_ms.set(ms);
        term.shared.now_us.set(self.now_us);
        term.shared.has_lease.set(self.now_us < term.lease_until_us);
        let epoch = self.hosts[host].epoch;
        let Some(term) = &mut self.hosts[host].term else { return };
        if let Input::PlacesFree(places) = &input {
            term.watch.frees(*places);
        }
        let actions = term.scheduler.on(now, input);
        if makes_room && term.shared.is_short.get() && term.scheduler.figures().runs_warm > 0 {
            self.check(Err("guests have too much memory, and none of those that wait is dropped".to_owned()));
        }
        for action in actions {
            if self.dies_now(host) {
                return self.crash(host);
            }
            self.note(|| format!("host {host}    -> {}", names::action(&action)));
            let then = self.comes_with(host, &action);
            self.carry_out(host, action);
            then.into_iter().for_each(|external| self.external(external));
            if self.hosts[host].epoch != epoch || self.hosts[host].term.is_none() {
                return;
            }
        }
        self.after_step(host);
        loaded.into_iter().for_each(|run| self.look_at_parked(host, run));
    }

    /// What was to happen with an action of this kind.
    fn comes_with(&mut self, host: usize, action: &Action<SimEnv>) -> Vec<External> {
        if self.hosts[host].armed.is_empty() || self.now_us > FAULTS_END_US {
            return Vec::new();
        }
        let (said, run) = (names::action(action), names::run_of(action));
        let parks = run.is_some_and(|run| self.database.status_of(run) == Some(RunStatus::Parked));
        let said = if parks && matches!(action, Action::Closed(_)) { "parked".to_owned() } else { said };
        let scope = self.scope();
        let is_about = |asked: &External| match asked.asked_of() {
            Some(id) => run.is_some() && self.database.latest_run(scope, id) == run,
            None => true,
        };
        let comes = |(at, then): &mut (&str, External)| said.starts_with(*at) && is_about(then);
        let armed = self.hosts[host].armed.extract_if(.., comes);
        let external: Vec<External> = armed.map(|(_, external)| external).collect();
        external.iter().for_each(|_| self.met("with-an-action"));
        external
    }

    /// Whether a host that is to be killed has done enough.
    fn dies_now(&mut self, host: usize) -> bool {
        match &mut self.hosts[host].crash_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// What is looked at after every step: batches that are done, reservations that were dropped, the next deadline.
    fn after_step(&mut self, host: usize) {
        let Some(term) = &mut self.hosts[host].term else { return };
        let released: Vec<_> = term.shared.released.take();
        let mut done = Vec::new();
        term.batches.retain(|(batch, source)| {
            let is_done = Rc::strong_count(batch) == 1;
            done.extend(is_done.then_some(*source));
            !is_done
        });
        let deadline = term.scheduler.next_deadline().map(|at| at.0.as_micros() as u64);
        let tick = deadline.filter(|at| *at < term.tick_us);
        if let Some(at) = tick {
            term.tick_us = at;
        }
        let (figures, in_hand) = (term.scheduler.figures(), term.scheduler.in_hand().len());
        self.check(checks::bounded(figures.runs_warm, self.plan.warm_max() as u64, in_hand));
        if let Some(at) = tick {
            let us = at.saturating_sub(self.now_us);
            self.tell_later(host, us, HostEvent::Tick);
        }
        done.into_iter().for_each(|source| self.look_soon(host, source, 1_000));
        self.look_at_those_behind(host);
        self.look_at_those_left(host);
        self.matched(host, released);
    }

    fn carry_out(&mut self, host: usize, action: Action<SimEnv>) {
        match action {
            Action::Append(item) => self.append(host, item),
            Action::Activate(job) => {
                self.look_at_job(host, &job);
                let mut us = self.delay_of(Slow::Guests, 800);
                if self.rng.chance(50) {
                    // Long enough for somebody to want it stopped.
                    us += self.rng.below(300_000);
                }
                self.tell_later(host, us, HostEvent::Compute(job));
            }
            Action::AbandonActivation(run, activation) => {
                if let Some(term) = &mut self.hosts[host].term {
                    term.abandoned.insert((run, activation));
                }
            }
            Action::StartAttempt(new) => self.start_attempt(host, new),
            Action::StopAttempt(run, op, how) => self.stop_attempt(host, run, op, how),
            Action::Deliver(reservation, attempt) => {
                let token = attempt.token;
                let holds = self.checks.takes_effect(token.run, token.op, "a worker heard");
                self.check(holds);
                if let Some(term) = &mut self.hosts[host].term {
                    term.watch.delivers(token.lease);
                }
                let (name, input) = (attempt.task.name.to_string(), attempt.input);
                let (scope, said) = (attempt.identity.scope, attempt.heartbeat);
                let woken = reservation.deliver(Task { scope, token, name, input, said });
                self.matched(host, woken);
            }
            Action::Offered(queue, name) => {
                let Some(term) = &self.hosts[host].term else { return };
                let woken = term.shared.matcher.borrow_mut().offered(&queue, &name);
                self.matched(host, woken);
            }
            Action::Started(reply, started) => self.started(reply.0, &started),
            Action::Settled(reply, settlement) => self.settled(reply.0, settlement),
            Action::Deferred(reply, token) => self.deferred(host, reply.0, token),
            Action::Drained(reply) => self.drained(host, reply.0),
            Action::Wake(after, wake) => {
                let us = after.as_micros() as u64;
                self.tell_later(host, us, HostEvent::Tell(Input::Woken(wake)));
            }
            Action::ReadInbox => self.look_soon(host, Source::Inbox, 300),
            Action::TimerDue(due_ms) => {
                let us = due_ms.saturating_sub(self.host_now_ms(host)) * 1_000;
                self.look_soon(host, Source::Timers, us.min(30_000_000) + 200);
            }
            // The sweep of every host frees what a component serves.
            Action::Served | Action::NoteLoss(..) => {}
            Action::Closed(run) => {
                if let Some(term) = &mut self.hosts[host].term {
                    term.watch.tells(run);
                }
            }
            action => {
                let us = self.delay(1_500);
                self.tell_later(host, us, HostEvent::Ask(action));
            }
        }
    }

    /// A host has stopped.
    fn drained(&mut self, host: usize, reply: u64) {
        self.answering.remove(&reply);
        if let Some(term) = &self.hosts[host].term {
            if !term.tickets.is_empty() || !term.attempts.is_empty() {
                self.check(Err(format!("host {host} has stopped, and something was under way")));
                return;
            }
            self.database.release(term.lease);
        }
        self.end_term(host, "it was stopped", 500_000);
    }

    fn append(&mut self, host: usize, item: Item) {
        self.checks.sent(&item.append);
        let holds = self.said.sent(&item.append, self.beside.run(item.append.run));
        self.check_unless_lost(holds);
        self.look_at_parking(&item.append);
        self.look_at_last_words(&item.append);
        self.look_at_fired(host, &item.append);
        let Some(term) = &mut self.hosts[host].term else { return };
        let holds = term.watch.sends(&item);
        self.check_unless_lost(holds);
        let Some(term) = &mut self.hosts[host].term else { return };
        let started = item.append.new_runs.iter().map(|new| new.run);
        term.tickets.insert(item.ticket, started.chain([item.append.run]).collect());
        term.writer.send(item);
        if !std::mem::replace(&mut term.is_writing, true) {
            let us = self.delay_of(Slow::Writes, 300);
            self.tell_later(host, us, HostEvent::Write);
        }
    }

    /// The writer sends one statement.
    fn write(&mut self, host: usize) {
        let now_ms = self.database_now_ms();
        let reply = self.hosts[host].next_reply.take().unwrap_or(Reply::Heard);
        let Some(term) = &mut self.hosts[host].term else { return };
        let told = term.writer.step(&mut self.database, now_ms, reply);
        for acks in &told {
            if !matches!(acks.outcome, Outcome::Committed { .. }) {
                continue;
            }
            for run in acks.tickets.iter().filter_map(|ticket| term.tickets.get(ticket)).flatten() {
                self.checks.committed(*run, &self.database);
                let holds = self.beside.committed(*run, &self.database, now_ms);
                self.broken = self.broken.take().or(holds.err());
            }
        }
        term.is_writing = !term.writer.is_idle();
        let is_writing = term.is_writing;
        if is_writing {
            let us = self.delay_of(Slow::Writes, 800);
            self.tell_later(host, us, HostEvent::Write);
        }
        if !told.is_empty() {
            // Answers come in the order of their statements.
            let at_us = self.now_us + self.delay(600);
            let Some(term) = &mut self.hosts[host].term else { return };
            term.acks_us = term.acks_us.max(at_us);
            let us = term.acks_us - self.now_us;
            self.tell_later(host, us, HostEvent::Acks(told));
        }
    }

    fn acknowledge(&mut self, host: usize, acks: Vec<backstitch_ledger::Acks>) {
        let epoch = self.hosts[host].epoch;
        for acks in acks {
            if self.hosts[host].epoch != epoch || self.hosts[host].term.is_none() {
                return;
            }
            if matches!(acks.outcome, Outcome::Fenced) {
                return self.end_term(host, "its writer is fenced", 50_000);
            }
            let Some(term) = &mut self.hosts[host].term else { return };
            acks.tickets.iter().for_each(|ticket| drop(term.tickets.remove(ticket)));
            let owes = term.watch.answers(&acks.tickets);
            self.note(|| format!("host {host}: {:?} {:?}", acks.outcome, acks.tickets));
            let outcome = acks.outcome.clone();
            self.step(host, Input::Acknowledged(acks));
            if self.hosts[host].epoch == epoch {
                self.look_at_acknowledged(host, &owes, &outcome);
            }
        }
    }

    /// The database carries out what an action asks for, now, and the answer is on its way.
    fn ask(&mut self, host: usize, action: Action<SimEnv>) {
        let Some(term) = &mut self.hosts[host].term else { return };
        let (id, lease) = (term.id, term.lease);
        let answer = match action {
            Action::FindRun { from, scope, workflow_id } => {
                Some(Input::Found { from, to: self.database.latest_run(scope, &workflow_id) })
            }
            Action::FindSuccessor { from, of } => {
                Some(Input::Found { from, to: self.database.successor(of) })
            }
            Action::Post { from: (run, op), scope, item } => {
                let holds = self.checks.takes_effect(run, op, "a message");
                self.check(holds);
                // One whose reply is lost is sent again.
                for _ in 0..self.rng.below(20) / 18 {
                    self.database.post(scope, item.run, item.item_id, item.at_ms, &item.message);
                }
                if self.rng.chance(100) {
                    // So does whoever takes the run over before it knows what became of that.
                    let us = self.delay(50_000);
                    self.after(us, Event::Repost(scope, item.clone()));
                }
                let posted = self.database.post(scope, item.run, item.item_id, item.at_ms, &item.message);
                if let backstitch_ledger::Posted::Accepted { owner } = posted {
                    self.hint(owner);
                }
                Some(Input::Posted { from: (run, op), to: item.run, posted })
            }
            Action::CompareHeads(heads) => {
                let lost = self.database.lost_heads(id, &heads);
                (!lost.is_empty()).then_some(Input::Lost(lost))
            }
            Action::CompareConsumed(items) => {
                let there = self.database.items_there(&items);
                (!there.is_empty()).then_some(Input::Reappeared(there))
            }
            Action::BeginTrial(trial) => {
                let holds = term.watch.tries(self.now_us);
                self.check(holds);
                Some(Input::TrialBegun(trial, self.database.begin_trial(lease, trial.run, trial.op)))
            }
            Action::EndTrial(trial, went_on) => {
                self.database.end_trial(id, trial.run, went_on);
                Some(Input::TrialEnded(trial, went_on))
            }
            Action::NoteProgress(replayed, went_on) => {
                self.database.note_progress(id, &replayed, &went_on);
                None
            }
            Action::Read { run, number, program } => return self.read(host, run, number, program),
            Action::ReadClaimed(runs, batch) => return self.read_claimed(host, runs, &batch),
            Action::ReadToClose { run, number } => return self.read_to_close(host, run, number),
            _ => unreachable!("every other action was carried out"),
        };
        if let Some(answer) = answer {
            let us = self.delay(600);
            self.tell_later(host, us, HostEvent::Tell(answer));
        }
    }

    /// What the matcher of a host wants done.
    pub(super) fn matched(
        &mut self,
        host: usize,
        actions: impl IntoIterator<Item = super::env::MatcherAction>,
    ) {
        for action in actions {
            match action {
                MatcherAction::Wake(_, waker) => {
                    self.after(100, Event::Worker(waker.worker, WorkerEvent::Resume { poll: waker.poll }));
                }
                MatcherAction::GiveBack(_, tasks) => tasks.iter().for_each(|task| self.give_back(task)),
                MatcherAction::SetTimer(poller, at) => self.set_matcher_timer(host, poller, at),
            }
        }
    }

    /// A task goes to the next worker.
    pub(super) fn give_back(&mut self, task: &Task) {
        let token = task.token;
        let message = Message::AttemptFreed { op: token.op, attempt: token.attempt, heartbeat: None };
        let item = new_inbox_item(self.new_id(), self.database_now_ms(), token.run, &message);
        if let backstitch_ledger::Settled::Left { owner } =
            self.database.settle_task(task.scope, token, &item)
        {
            self.hint(owner);
        }
    }
}

fn short(runs: &[RunId]) -> String {
    let names: Vec<String> = runs.iter().map(|run| run.to_string()[..13].to_owned()).collect();
    names.join(" ")
}
