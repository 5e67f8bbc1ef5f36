//! Reads of runs, as `engine::loads` makes them: the run, then its ledger, then what is beside it. Others may write in
//! between.

use std::rc::Rc;

use backstitch_core::{Chain, Digest, Fault, FaultKind, Row, RunId, Seq, limits};
use backstitch_ledger::{Awaited, ClaimedRun};
use backstitch_scheduler::{
    Derived, Input, Ledgered, Loaded, LoadedRun, Standing, Wanted, awaited, fold, has_timers, waits_for_calls,
};

use super::env::{Program, SimEnv};
use super::event::{HostEvent, Read};
use super::plan::Slow;
use super::state::Cluster;

/// How long a batch waits for a component, and how long a host waits before it tries once more, in microseconds.
const BATCH_WAIT_US: u64 = 250_000;
const LOAD_AGAIN_US: u64 = 400_000;

impl Cluster {
    /// A read of a run begins. `program`: its code, if it is in memory.
    pub(super) fn read(&mut self, host: usize, run: RunId, number: u64, program: Option<Program>) {
        let program = program.map(Ok);
        let read = Read { run, number, claimed: None, program, waits_since_us: None, batch: None };
        self.host(host, HostEvent::ReadRows(read));
    }

    pub(super) fn read_claimed(&mut self, host: usize, runs: Vec<Wanted>, batch: &Rc<()>) {
        for Wanted { run, number } in runs {
            let (id, claimed, batch) = (run.run, Some(run), Some(Rc::clone(batch)));
            let read = Read { run: id, number, claimed, program: None, waits_since_us: None, batch };
            let us = self.delay(2_000);
            self.tell_later(host, us, HostEvent::ReadRows(read));
        }
    }

    pub(super) fn read_to_close(&mut self, host: usize, run: RunId, number: u64) {
        let without = Fault::new(FaultKind::Component, "its component was not ready when it was terminated");
        let program = Some(Err(without));
        let read = Read { run, number, claimed: None, program, waits_since_us: None, batch: None };
        self.tell_later(host, 1_000_000, HostEvent::ReadRows(read));
    }

    pub(super) fn read_rows(&mut self, host: usize, read: Read) {
        let Some(term) = &self.hosts[host].term else { return };
        let claimed = read.claimed.clone().or_else(|| self.database.owned_run(term.id, read.run));
        let Some(claimed) = claimed else {
            let loaded = Loaded { run: read.run, number: read.number, result: None };
            return self.tell_later(host, 100, HostEvent::Tell(Input::Loaded(Box::new(loaded))));
        };
        let read = match read.program {
            Some(_) => read,
            None => match self.load(host, claimed.digest, read) {
                Some(read) => read,
                None => return,
            },
        };
        let mut rows = self.database.rows(read.run, Seq(0), usize::MAX);
        // Whatever is read is committed, whether its writer has heard of that or not.
        self.checks.committed(read.run, &self.database);
        let mut us = self.delay_of(Slow::Reads, 1_500);
        if rows.len() > 1 && std::mem::take(&mut self.hosts[host].misreads) {
            self.misread(host, read.run, &mut rows);
            // Whoever answers so may be slow as well.
            us += self.rng.below(2) * self.rng.below(100_000);
        }
        let ledger = fold(read.run, &rows);
        self.tell_later(host, us, HostEvent::ReadBeside(read, claimed, Box::new(ledger)));
    }

    /// A ledger comes otherwise than it was written: from a replica that lags, if there is a guest whose host knows better, or
    /// damaged.
    fn misread(&mut self, host: usize, run: RunId, rows: &mut Vec<Row>) {
        let place = self.rng.below(rows.len() as u64) as usize;
        let is_short = self.rng.chance(700);
        if let Some(term) = &mut self.hosts[host].term
            && is_short
            && term.scheduler.standing(run) == Some(Standing::Reading)
        {
            term.watch.begins_anew(run);
            rows.truncate(place.max(1));
            return self.met("read-short");
        }
        rows[place].chain = Chain(!rows[place].chain.0);
        self.met("misread");
    }

    pub(super) fn read_beside(&mut self, host: usize, read: Read, claimed: ClaimedRun, ledger: Ledgered) {
        let derived = match &ledger {
            Ok((run, _)) => self.derived(run),
            Err(_) => Derived::default(),
        };
        let program = read.program.unwrap_or_else(|| Err(unloadable("nobody has loaded it")));
        let result = LoadedRun::<SimEnv>::new(claimed, program, ledger, derived, ((), false));
        let loaded = Loaded { run: read.run, number: read.number, result: Some(result) };
        let us = self.delay_of(Slow::Reads, 500);
        self.tell_later(host, us, HostEvent::Tell(Input::Loaded(Box::new(loaded))));
    }

    /// The component of a run is made ready. None: this host cannot do that yet, and tries once more later.
    fn load(&mut self, host: usize, digest: Digest, mut read: Read) -> Option<Read> {
        let term = self.hosts[host].term.as_ref()?;
        let lacks = term.shared.lacks(digest);
        let since_us = *read.waits_since_us.get_or_insert(self.now_us);
        let waited_us = self.now_us - since_us;
        read.program = match lacks {
            None => match self.directory.borrow().programs.get(&digest) {
                Some(program) => Some(Ok(program.clone())),
                None => Some(Err(unloadable("there is none"))),
            },
            Some(true) => Some(Err(unloadable("it is broken"))),
            Some(false) if waited_us >= limits::COMPONENT_LOAD_MS_MAX * 1_000 => {
                Some(Err(unloadable("this host could not make it ready")))
            }
            Some(false) => None,
        };
        if read.program.is_some() {
            if lacks.is_some() {
                self.met("component-missing");
            }
            return Some(read);
        }
        self.met("component-awaited");
        if waited_us >= BATCH_WAIT_US {
            read.batch = None;
        }
        self.tell_later(host, LOAD_AGAIN_US, HostEvent::ReadRows(read));
        None
    }

    /// What is beside the ledger of a run.
    fn derived(&self, run: &backstitch_core::Run) -> Derived {
        let mut derived = Derived::default();
        if has_timers(run) {
            let timers = self.database.timers_of(&[run.id()]);
            derived.timers = timers.into_iter().map(|timer| (timer.op, timer.due_ms)).collect();
        }
        if waits_for_calls(run) {
            derived.offered = self.database.tasks_of(&[run.id()]).into_iter().map(|(_, op)| op).collect();
        }
        let waits: Vec<Awaited> = awaited(run).collect();
        for (Awaited { op, .. }, state) in self.database.untold_children(&waits) {
            derived.add_child(op, state);
        }
        derived
    }
}

fn unloadable(why: &str) -> Fault {
    Fault::new(FaultKind::Component, format!("the component cannot be loaded: {why}"))
}
