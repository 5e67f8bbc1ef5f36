//! Plays a plan: one event after the other, until everything has come to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use backstitch_core::{RunId, Seq};

use super::checks::Broken;
use super::event::Event;
use super::names;
use super::plan::{External, FAULTS_END_US};
use super::report::{Failure, Outcome};
use super::state::Cluster;

/// How long everything may take once faults have ceased, in microseconds.
const LIVE_US: u64 = 3_600_000_000;
/// How long hosts may have something in memory of runs that have all closed, in microseconds.
const REST_US: u64 = 60_000_000;
/// How often an operator looks after runs that are parked or paused, once faults have ceased.
const OPERATOR_US: u64 = 2_000_000;
/// Events that one plan may lead to: more is a circle of them.
const EVENTS_MAX: u64 = 400_000;

impl Cluster {
    /// Plays until everything has come to its end, or something does not hold. A panic does not hold either.
    pub fn run(mut self) -> Outcome {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.play())) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            self.broken = Some(format!("a panic: {text}"));
        }
        self.into_outcome()
    }

    fn play(&mut self) {
        let mut operator_us = FAULTS_END_US + OPERATOR_US;
        while self.broken.is_none() {
            let Some((at_us, event)) = self.queue.pop() else { break };
            self.now_us = self.now_us.max(at_us);
            self.steps += 1;
            if self.now_us > operator_us {
                operator_us = self.now_us + OPERATOR_US;
                if self.is_over() && self.rests() {
                    break;
                }
                self.operate();
            }
            if self.now_us > FAULTS_END_US + LIVE_US || self.steps > EVENTS_MAX {
                break;
            }
            self.happen(event);
        }
        if self.broken.is_none() {
            self.broken = self.end().err();
        }
    }

    /// Whether hosts have put away what they had of runs that have all closed. That takes a little while.
    fn rests(&mut self) -> bool {
        let over_us = *self.over_us.get_or_insert(self.now_us);
        let rest = self.is_at_rest();
        if self.now_us > over_us + REST_US {
            self.check(rest.clone());
        }
        rest.is_ok()
    }

    /// Whether everything has ended that was begun.
    fn is_over(&self) -> bool {
        self.now_us > FAULTS_END_US + OPERATOR_US
            && self.database.runs().values().all(|status| !status.is_open())
    }

    fn end(&self) -> Result<(), Broken> {
        self.checks.all(&self.database, true)?;
        self.checks.messages(&self.database)?;
        self.updates_are_answered()?;
        self.expect_ends()?;
        self.expect_confluent()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::External(place) => {
                let external = self.plan.events[place].1.clone();
                self.note(|| format!("{external:?}"));
                let is_repeated = matches!(external, External::Signal { .. } | External::Update { .. });
                if is_repeated && self.rng.chance(400) {
                    // A client that is not sure says it once more.
                    let us = self.delay(2_000_000);
                    self.after(us, Event::External(place));
                }
                self.external(external);
            }
            Event::Again(external) => self.external(external),
            Event::Update(update) => self.go_on_with_update(update),
            Event::Fork(fork) => self.go_on_with_fork(fork),
            Event::Heartbeat { task, output, left } => self.send_heartbeat(task, output, left),
            Event::Register(host) => self.register(host),
            Event::Repost(scope, item) => {
                self.database.post(scope, item.run, item.item_id, item.at_ms, &item.message);
            }
            Event::Worker(worker, event) => self.worker(worker, event),
            Event::Answer { task, output, tries } => self.answer(task, output, tries),
            Event::Settle { task, output } => self.settle(&task, output),
            Event::Host(host, epoch, event) => {
                let Some(frozen_until_us) = self.is_meant(host, epoch) else { return };
                if frozen_until_us > self.now_us {
                    self.queue.push(frozen_until_us, Event::Host(host, epoch, event));
                } else {
                    self.host(host, event);
                }
            }
        }
    }

    /// Until when a host is frozen, if it is still in this term.
    fn is_meant(&self, host: usize, epoch: u64) -> Option<u64> {
        let found = &self.hosts[host];
        (found.epoch == epoch && found.term.is_some()).then_some(found.frozen_until_us)
    }

    /// Something that no scheduler is told of has come up.
    pub(super) fn met(&mut self, name: &'static str) {
        *self.coverage.entry((name, None)).or_default() += 1;
    }

    pub(super) fn cover(&mut self, name: &'static str, run: Option<RunId>, host: usize) {
        let term = self.hosts[host].term.as_ref();
        let standing = run.and_then(|run| term?.scheduler.standing(run));
        *self.coverage.entry((name, standing)).or_default() += 1;
    }

    pub(super) fn into_outcome(mut self) -> Outcome {
        let at_us = self.now_us;
        if self.log.is_some() {
            for (run, name, generation, status) in self.database.named_runs() {
                let rows = self.database.rows(run, Seq(0), usize::MAX);
                let said: Vec<String> = rows.iter().map(names::kind).collect();
                self.note(|| format!("{run} {name}:{generation} {status:?}: {}", said.join(" ")));
            }
        }
        Outcome {
            failure: self.broken.map(|what| Failure { what, at_us }),
            steps: self.steps,
            runs: self.database.runs().len(),
            coverage: self.coverage,
            log: self.log.unwrap_or_default(),
        }
    }
}
