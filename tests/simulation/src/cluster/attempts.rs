//! Attempts on hosts: they take their time, fail, and leave their calls to others, as `engine::attempt` and
//! `engine::deferral` have it.

use backstitch_core::run::OpenOp;
use backstitch_core::{Failure, FailureKind, Json, Message, Op, RunId, TaskToken};
use backstitch_scheduler::{AttemptEnd, Deferring, Input, NewAttempt, Standing, StopAttempt, new_inbox_item};

use super::env::{Reply as Waits, Task};
use super::event::{Event, HostEvent};
use super::host::Attempt;
use super::plan::Slow;
use super::said::heartbeat_details;
use super::state::Cluster;
use super::worker::Answering;
use crate::script::activity_output;

impl Cluster {
    /// An attempt may give its token away.
    pub(super) fn deferred(&mut self, host: usize, reply: u64, token: TaskToken) {
        if let Some(Answering::Defer) = self.answering.remove(&reply)
            && let Some(term) = &mut self.hosts[host].term
            && let Some(attempt) = term.attempts.get_mut(&(token.run, token.op))
        {
            attempt.token = Some(token);
            let (name, input) = attempt.call.clone();
            let holds = term.watch.defers(token);
            self.check(holds);
            // Whoever gets it may be faster than the attempt itself, and have no good news.
            if self.rng.chance(500) {
                let output = self.rng.chance(400).then(|| activity_output(&name, &input));
                let task = Task { scope: self.scope(), token, name, input, said: None };
                let us = self.delay(20_000);
                self.after(us, Event::Answer { task, output, tries: 0 });
            }
        }
    }

    /// An attempt begins: it ends when its time has come, and may leave its call to others before.
    pub(super) fn start_attempt(&mut self, host: usize, new: NewAttempt) {
        let (run, op) = (new.identity.run, new.op);
        let holds = self.checks.attempts(run, op, &self.database, self.owns(host, run));
        self.check(holds);
        self.look_at_attempt(host, &new);
        let Some(term) = &mut self.hosts[host].term else { return };
        let said =
            if self.rng.chance(600) { Some(heartbeat_details(&mut self.rng)) } else { new.heartbeat.clone() };
        let call = (new.name.to_string(), new.input.clone());
        term.attempts.insert((run, op), Attempt { number: new.attempt, token: None, said, call });
        // What an attempt before has had to say may come when this one is under way.
        let of_call = (run, op, 0)..(run, op, new.attempt);
        let late: Vec<u32> = term.late.extract_if(of_call, |_| true).map(|(_, _, attempt)| attempt).collect();
        if term.late.remove(&(run, op, new.attempt)) {
            // The very same was made before, of rows that are lost, and has ended by now.
            self.tell_later(host, 0, HostEvent::Tell(Input::PlacesFree(1)));
        }
        for attempt in late {
            let us = self.delay(3_000);
            self.end_late(host, us, (run, op, attempt));
        }
        let left_us = new.bounds.deadline_ms.saturating_sub(new.bounds.now_ms) * 1_000;
        let mut us = self.delay_of(Slow::Attempts, 60_000);
        if self.rng.chance(100) {
            // Long enough for something to happen to its run meanwhile.
            us += self.rng.below(1_500_000);
        }
        // A call without bounds whose host dies before its attempt has given the token away waits for an operator.
        let is_bounded = new.until_ms.is_some() || new.bounds.close_by_ms.is_some();
        if is_bounded && self.rng.chance(300) {
            self.tell_later(host, us / 2, HostEvent::Defer(new.clone()));
            // It may take its time, and the next attempt begin while this one goes on.
            us += self.rng.below(2) * self.delay(300_000);
        }
        let (us, outcome) =
            if us > left_us { (left_us, Err(timeout())) } else { (us, self.attempt_outcome(&new)) };
        self.tell_later(host, us, HostEvent::Attempted { new, end: AttemptEnd::Outcome(outcome) });
    }

    fn attempt_outcome(&mut self, new: &NewAttempt) -> Result<Json, Failure> {
        let is_confluent = self.is_confluent(&new.identity.workflow);
        if self.rng.chance(if is_confluent { 50 } else { 150 }) {
            let retryable = is_confluent || self.rng.chance(800);
            return Err(Failure {
                retryable,
                ..Failure::fatal(FailureKind::Application, "bad-luck", "again")
            });
        }
        Ok(activity_output(&new.name, &new.input))
    }

    /// An attempt asks to leave its call to others.
    pub(super) fn defer(&mut self, host: usize, new: &NewAttempt) {
        let (run, op, attempt) = (new.identity.run, new.op, new.attempt);
        let Some(term) = &self.hosts[host].term else { return };
        let known = term.attempts.get(&(run, op)).filter(|known| known.number == attempt);
        let Some(heartbeat) = known.map(|known| known.said.clone()) else { return };
        let reply = Waits::new(self.new_reply(Answering::Defer));
        let deferring = Deferring { run, op, attempt, until_ms: new.until_ms, heartbeat, reply };
        let may_wait = self.may_defer(host, run, op, attempt);
        self.step(host, Input::Defer(deferring));
        let Some(term) = &self.hosts[host].term else { return };
        if may_wait && !term.watch.is_left(run, op) {
            self.check_unless_lost(Err(format!(
                "attempt {attempt} of op {op} of run {run} cannot leave its call to others"
            )));
        }
    }

    /// Whether nothing is on its way that could end the call of an attempt which is under way.
    fn may_defer(&self, host: usize, id: RunId, op: Op, attempt: u32) -> bool {
        let Some(term) = &self.hosts[host].term else { return false };
        let is_led = matches!(term.scheduler.standing(id), Some(Standing::Ready));
        let waits = self.beside.run(id).is_some_and(|run| {
            matches!(run.open_op(op), Some(OpenOp::Activity { attempts, .. }) if attempts + 1 == attempt)
        });
        is_led && waits && self.owns(host, id) && term.watch.is_settled(id)
    }

    /// An attempt ends, unless it was stopped. One whose call is left to others may have failed: they hear of that.
    pub(super) fn attempted(&mut self, host: usize, new: &NewAttempt, end: AttemptEnd) {
        let (run, op, attempt) = (new.identity.run, new.op, new.attempt);
        let Some(term) = &mut self.hosts[host].term else { return };
        if term.attempts.get(&(run, op)).is_none_or(|known| known.number != attempt) {
            if term.late.remove(&(run, op, attempt)) {
                self.end_late(host, 0, (run, op, attempt));
            }
            return;
        }
        let Some(known) = term.attempts.remove(&(run, op)) else { return };
        let end = match (known.token, end) {
            (Some(token), AttemptEnd::Outcome(outcome)) => {
                let scope = new.identity.scope;
                if let Err(failure) = outcome {
                    let message =
                        Message::AttemptEnded { op, attempt, outcome: Err(failure), heartbeat: None };
                    let item = new_inbox_item(self.new_id(), self.database_now_ms(), run, &message);
                    self.database.settle_task(scope, token, &item);
                } else {
                    let (name, input) = (new.name.to_string(), new.input.clone());
                    let task = Task { scope, token, name, input, said: None };
                    let output = Some(activity_output(&new.name, &new.input));
                    let us = self.delay(200_000);
                    self.after(us, Event::Answer { task, output, tries: 0 });
                }
                AttemptEnd::Deferred(token.lease)
            }
            (_, end) => end,
        };
        self.step(host, Input::PlacesFree(1));
        if self.hosts[host].term.is_some() {
            self.said.ends_here(Some(((run, op, attempt), known.said.clone())));
            self.step(host, Input::AttemptEnded { run, op, attempt, heartbeat: known.said, end });
            self.said.ends_here(None);
        }
    }

    pub(super) fn stop_attempt(&mut self, host: usize, run: RunId, op: Op, how: StopAttempt) {
        let Some(term) = &mut self.hosts[host].term else { return };
        let Some(Attempt { number, .. }) = term.attempts.remove(&(run, op)) else {
            // It may have ended while what gives it up was being committed; an answer of others comes to one that runs.
            if how == StopAttempt::Superseded {
                self.check(Err(format!("an attempt of op {op} of run {run} is superseded that is over")));
            }
            return;
        };
        if how == StopAttempt::Abort {
            term.watch.aborts(run, op, number);
        }
        let has_said = self.rng.chance(500);
        if how == StopAttempt::Abort {
            // What it said when it had just ended is on its way.
            let free = HostEvent::Tell(Input::PlacesFree(1));
            return match has_said {
                true => self.end_late(host, 100, (run, op, number)),
                false => self.tell_later(host, 100, free),
            };
        }
        // One that is only told goes on for a while, and nobody waits for it: it keeps its place until then.
        if has_said && let Some(term) = &mut self.hosts[host].term {
            term.late.insert((run, op, number));
        } else {
            let us = self.delay(100_000);
            self.tell_later(host, us, HostEvent::Tell(Input::PlacesFree(1)));
        }
    }

    /// An attempt that was stopped has ended, and says so: it gives its place back before that is heard.
    fn end_late(&mut self, host: usize, us: u64, (run, op, attempt): (RunId, Op, u32)) {
        let end = AttemptEnd::Outcome(Err(timeout()));
        let ended = Input::AttemptEnded { run, op, attempt, heartbeat: None, end };
        self.tell_later(host, us, HostEvent::Tell(Input::PlacesFree(1)));
        self.tell_later(host, us, HostEvent::Tell(ended));
    }
}

fn timeout() -> Failure {
    Failure { retryable: true, ..Failure::fatal(FailureKind::Timeout, "start-to-close", "it took too long") }
}
