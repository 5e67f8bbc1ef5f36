//! Reads of runs, as `engine::loads` makes them: the run, then its ledger, then what is beside it. Others may write in
//! between.

use std::rc::Rc;

use backstitch_core::{Fault, FaultKind, RunId, Seq};
use backstitch_ledger::{Awaited, ClaimedRun};
use backstitch_scheduler::{
    Derived, Input, Ledgered, Loaded, LoadedRun, Wanted, awaited, fold, has_timers, waits_for_calls,
};

use super::env::SimEnv;
use super::event::{HostEvent, Read};
use super::state::Cluster;

impl Cluster {
    pub(super) fn read_claimed(&mut self, host: usize, runs: Vec<Wanted>, batch: &Rc<()>) {
        for Wanted { run, number } in runs {
            let (id, claimed, batch) = (run.run, Some(run), Some(Rc::clone(batch)));
            let read = Read { run: id, number, claimed, without: None, _batch: batch };
            let us = self.delay(2_000);
            self.tell_later(host, us, HostEvent::ReadRows(read));
        }
    }

    pub(super) fn read_to_close(&mut self, host: usize, run: RunId, number: u64) {
        let without = Fault::new(FaultKind::Component, "its component was not ready when it was terminated");
        let read = Read { run, number, claimed: None, without: Some(without), _batch: None };
        self.tell_later(host, 1_000_000, HostEvent::ReadRows(read));
    }

    pub(super) fn read_rows(&mut self, host: usize, read: Read) {
        let Some(term) = &self.hosts[host].term else { return };
        let claimed = read.claimed.clone().or_else(|| self.database.owned_run(term.id, read.run));
        let Some(claimed) = claimed else {
            let loaded = Loaded { run: read.run, number: read.number, result: None };
            return self.tell_later(host, 100, HostEvent::Tell(Input::Loaded(Box::new(loaded))));
        };
        let ledger = fold(read.run, &self.database.rows(read.run, Seq(0), usize::MAX));
        let us = self.delay(1_500);
        self.tell_later(host, us, HostEvent::ReadBeside(read, claimed, Box::new(ledger)));
    }

    pub(super) fn read_beside(&mut self, host: usize, read: Read, claimed: ClaimedRun, ledger: Ledgered) {
        let derived = match &ledger {
            Ok((run, _)) => self.derived(run),
            Err(_) => Derived::default(),
        };
        let program = self.directory.borrow().programs.get(&claimed.digest).cloned();
        let program = match (read.without, program) {
            (Some(fault), _) => Err(fault),
            (None, Some(program)) => Ok(program),
            (None, None) => Err(Fault::new(FaultKind::Component, "there is no such component")),
        };
        let result = LoadedRun::<SimEnv>::new(claimed, program, ledger, derived, ((), false));
        let loaded = Loaded { run: read.run, number: read.number, result: Some(result) };
        let us = self.delay(500);
        self.tell_later(host, us, HostEvent::Tell(Input::Loaded(Box::new(loaded))));
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
