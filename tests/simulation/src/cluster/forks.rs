//! Forks and resets, as `server::service::fork` makes them: a new run begins with the first rows of another; a reset stops
//! that one before, and goes on under its workflow id. An operator whose host dies on the way says it once more.

use std::sync::Arc;

use backstitch_core::fork::{self, fork};
use backstitch_core::run::OpenOp;
use backstitch_core::start::Forked;
use backstitch_core::{Event as Said, Message, Row, RunId, RunStatus, Seed, Seq};
use backstitch_ledger::{ForkedRun, NewItem, NewRun};
use backstitch_scheduler::{
    RunIdentity, begin_run, child_options, child_workflow_id, new_inbox_item, projection_of, timers_of,
};

use super::asking::Fork;
use super::checks::Broken;
use super::event::Event;
use super::state::Cluster;

/// How long a run may take to stop, in microseconds.
const STOP_US: u64 = 60_000_000;
/// How often an operator says it.
const TRIES_MAX: u32 = 8;

impl Cluster {
    /// An operator asks for a fork; with no id for the new run, for a reset.
    pub(super) fn begin_fork(&mut self, id: &str, to: Option<&str>, number: u64, drops_signals: bool) {
        let Some(from) = self.database.latest_run(self.scope(), id) else { return };
        let rows = self.database.rows(from, Seq(0), usize::MAX).len() as u64;
        if rows > 0 {
            // Often nearly all: then more is among them.
            let at = if number.is_multiple_of(3) { rows.saturating_sub(2) } else { number % rows };
            let (at, to) = (Seq(at as u32), to.map(str::to_owned));
            self.ask_for_fork(Fork {
                from,
                at,
                to,
                drops_signals,
                asked: (0, 0),
                until_us: 0,
                has_stopped: false,
                tries: 0,
            });
        }
    }

    /// Some host gets to know what an operator wants.
    fn ask_for_fork(&mut self, mut fork: Fork) {
        fork.tries += 1;
        if fork.tries > TRIES_MAX {
            return;
        }
        match self.some_host() {
            Some(host) => {
                fork.asked = (host, self.hosts[host].epoch);
                (fork.until_us, fork.has_stopped) = (self.now_us + STOP_US, false);
                self.go_on_with_fork(fork);
            }
            None => self.after(1_000_000, Event::Fork(fork)),
        }
    }

    /// The next step of a fork.
    pub(super) fn go_on_with_fork(&mut self, fork: Fork) {
        let (host, epoch) = fork.asked;
        if self.hosts[host].epoch != epoch || self.hosts[host].term.is_none() {
            return self.ask_for_fork(fork);
        }
        if self.now_us > fork.until_us {
            return;
        }
        let Some((name, generation)) = self.database.name_of(fork.from) else { return };
        let Some(latest) = self.database.latest_run(self.scope(), &name) else { return };
        let Some(status) = self.database.status_of(fork.from) else { return };
        if fork.to.is_none() {
            let is_other = latest != fork.from;
            if is_other && self.database.status_of(latest).is_some_and(RunStatus::is_open) {
                // A later run is open: that is for the operator to stop.
                return;
            }
            if status.is_open() {
                return self.stop_for(fork);
            }
        }
        let (workflow_id, generation) = match &fork.to {
            Some(to) => (to.clone(), 0),
            None => {
                let latest = self.database.name_of(latest).map_or(generation, |(_, latest)| latest);
                (name, latest + 1)
            }
        };
        let made = self.forked(&fork, workflow_id.into(), generation);
        if let Ok(Some(made)) = made {
            self.insert_fork(&fork, &made);
        } else if let Err(broken) = made {
            self.check(Err(broken));
        }
    }

    /// Has a run stop that is to be reset, and looks whether it has.
    fn stop_for(&mut self, mut fork: Fork) {
        if !std::mem::replace(&mut fork.has_stopped, true) {
            // Before anything is stopped: the row must be one to go on from.
            match self.forked(&fork, "".into(), 0) {
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(broken) => return self.check(Err(broken)),
            }
            let reason = format!("reset to row {}", fork.at);
            self.post_to(fork.from, &Message::Terminate { reason, only_this: true });
        }
        let us = 10_000 + self.delay(20_000);
        self.after(us, Event::Fork(fork));
    }

    /// The new run. None: there is none that begins so.
    fn forked(
        &mut self,
        ask: &Fork,
        workflow_id: Arc<str>,
        generation: u32,
    ) -> Result<Option<ForkedRun>, Broken> {
        let (run, now_ms) = (RunId(self.new_id()), self.database_now_ms());
        let rows = self.database.rows(ask.from, Seq(0), usize::MAX);
        let seed = self.new_seed();
        let made = match fork(ask.from, &rows, self.database.end(ask.from), ask.at, run, seed) {
            Ok(made) => made,
            Err(fork::Unforkable::Corrupt(_)) if self.database.is_closed_damaged(ask.from) => {
                return Ok(None);
            }
            Err(fork::Unforkable::Corrupt(corrupt)) => {
                return Err(format!("run {} cannot be forked: {corrupt}", ask.from));
            }
            Err(_) => return Ok(None),
        };
        is_the_same_so_far(ask, &rows, &made.rows)?;
        if made.run.is_paused() {
            return Err(format!("the fork of run {} at row {} is paused", ask.from, ask.at));
        }
        let Some(Ok(Said::RunStarted { workflow, options, .. })) = made.rows.first().map(Row::event) else {
            return Err(format!("the fork of run {} has no start", ask.from));
        };
        let is_of = |forked: &Forked| (forked.run, forked.rows.0) == (ask.from, ask.at.0 + 1);
        if !options.forked.as_ref().is_some_and(is_of) || options.deadline(0).is_some() {
            return Err(format!("the fork of run {} at row {} has other terms", ask.from, ask.at));
        }
        let Some(digest) = self.directory.borrow().workflows.get(&*workflow).copied() else {
            return Ok(None);
        };
        let children = self.children_of(&made, run, &workflow_id, now_ms);
        let later =
            rows.iter().skip(ask.at.0 as usize + 1).filter(|_| ask.to.is_none() && !ask.drops_signals);
        let later: Vec<Message> = later.filter_map(|row| signal(&row.event().ok()?)).collect();
        let inbox: Vec<NewItem> =
            later.iter().map(|signal| new_inbox_item(self.new_id(), now_ms, run, signal)).collect();
        let (timers, projection) = (timers_of(&made.run, now_ms), projection_of(run, &made.projection));
        let mut rows = made.rows;
        let first = rows.remove(0);
        let run = NewRun {
            run,
            workflow_id,
            generation,
            workflow,
            digest,
            parent: None,
            first,
            further: Vec::new(),
        };
        Ok(Some(ForkedRun { scope: self.scope(), run, rows, timers, projection, children, inbox }))
    }

    /// The children that a fork waits for, as its own.
    fn children_of(
        &mut self,
        made: &fork::Fork,
        parent: RunId,
        workflow_id: &Arc<str>,
        now_ms: u64,
    ) -> Vec<NewRun> {
        let options = child_options(parent, workflow_id, made.run.start());
        let mut children = Vec::new();
        for (op, open) in made.run.open_ops() {
            let OpenOp::Child { run, workflow, input, options: asked } = open else { continue };
            let Some(digest) = self.directory.borrow().workflows.get(&**workflow).copied() else { continue };
            let identity = RunIdentity {
                scope: self.scope(),
                run: *run,
                workflow_id: child_workflow_id(parent, op, asked.workflow_id.clone()),
                generation: 0,
                workflow: Arc::clone(workflow),
                digest,
                parent: Some((parent, op)),
            };
            let options = Arc::new(options.clone().beginning(self.new_seed()));
            children.extend(begin_run(&identity, input, options, now_ms).ok().map(|(new, _)| new));
        }
        children
    }

    /// The new run goes into the database, where nobody owns it.
    fn insert_fork(&mut self, fork: &Fork, made: &ForkedRun) {
        let new = &made.run;
        let is_there = self.database.insert_fork(made);
        self.note(|| format!("fork {} of {} at {}: {is_there}", new.run, fork.from, fork.at));
        if !is_there {
            return self.met("fork-taken");
        }
        self.met(if fork.to.is_none() { "reset" } else { "fork" });
        let goes_on = self.database.status_of(fork.from).is_some_and(RunStatus::is_open);
        if fork.to.is_none() && goes_on {
            self.check_unless_lost(Err(format!("run {} was reset, and is not over", fork.from)));
        }
        let now_ms = self.database_now_ms();
        for new in std::iter::once(new).chain(&made.children) {
            self.checks.begun(new);
            self.checks.committed(new.run, &self.database);
            let holds = self.beside.committed(new.run, &self.database, now_ms);
            self.check(holds);
        }
        let Some((name, generation)) = self.database.name_of(fork.from) else { return };
        match &fork.to {
            None => self.sent.resets(&name),
            Some(to) if self.is_confluent(&new.workflow) => {
                self.sent.confluent.push((to.clone(), name, generation));
            }
            Some(_) => {}
        }
    }

    fn new_seed(&mut self) -> Seed {
        let mut seed = [0; 32];
        seed.fill_with(|| self.rng.next_u64() as u8);
        Seed(seed)
    }
}

/// A signal that the new run has still to get.
fn signal(said: &Said) -> Option<Message> {
    let Said::SignalReceived { name, payload, id } = said else { return None };
    Some(Message::Signal { name: Arc::clone(name), payload: payload.clone(), id: id.clone() })
}

/// The rows of a fork are those of the run up to the last that was asked for, each at its place; and one that resumes it, if it
/// was paused there.
fn is_the_same_so_far(ask: &Fork, rows: &[Row], made: &[Row]) -> Result<(), Broken> {
    let kept = &rows[..=ask.at.0 as usize];
    let (same, added) = made.split_at(kept.len().min(made.len()));
    let resumes = |row: &Row| matches!(row.event(), Ok(Said::RunResumed { .. }));
    let says = |row: &Row| {
        let Row { kind, op, name, payload, attempt, at_ms, .. } = row.clone();
        // The terms of the start are the fork's own.
        (kind, op, name, payload, row.detail.clone().filter(|_| row.seq.0 > 0), attempt, at_ms)
    };
    let is_same = kept.len() == same.len() && kept.iter().zip(same).all(|(row, new)| says(row) == says(new));
    let is_in_order = made.iter().enumerate().all(|(place, row)| row.seq.0 as usize == place);
    match is_same && is_in_order && added.len() < 2 && added.iter().all(resumes) {
        true => Ok(()),
        false => Err(format!("the fork of run {} at row {} has other rows", ask.from, ask.at)),
    }
}
