//! Claims and trials. See `claims.rs` of the ledger crate.

use std::sync::Arc;

use backstitch_core::{HostId, Op, RunId};
use backstitch_ledger::{ClaimedRun, Lease};

use super::database::{Database, Mutant};
use super::rows::{Run, Trial};

impl Database {
    /// Takes up to `limit` open runs that have no owner, then such whose owner is dead. Which ones is Postgres' choice: here
    /// those of `first`, in that order, then by their ids.
    pub fn claim_runs(&mut self, lease: Lease, limit: usize, first: &[RunId]) -> Vec<ClaimedRun> {
        if !self.is_alive(lease) {
            return Vec::new();
        }
        let tables = self.tables();
        let place = |run: &RunId| first.iter().position(|other| other == run).unwrap_or(first.len());
        let mut free: Vec<(bool, usize, RunId, bool)> = Vec::new();
        for (id, run) in tables.runs.iter().filter(|(_, run)| run.status.is_open()) {
            let Some(owner) = run.owner else {
                free.push((false, place(id), *id, false));
                continue;
            };
            let Some(found) = tables.leases.get(&owner) else { continue };
            if found.dead || (self.is(Mutant::ClaimsFromTheLiving) && owner != lease.host) {
                free.push((true, place(id), *id, !found.released));
            }
        }
        free.sort_unstable();
        free.truncate(limit);
        let keeps_timers = self.is(Mutant::ForgetsTimersOfAClaimedRun);
        let forgets_trial = self.is(Mutant::ForgetsATrial);
        let counts_none = self.is(Mutant::CountsNoLoss);
        let tables = self.commit();
        for (_, _, run, _) in free.iter().filter(|_| !keeps_timers) {
            let of_run = (*run, Op(0))..=(*run, Op(u32::MAX));
            for (_, timer) in Arc::make_mut(&mut tables.timers).range_mut(of_run) {
                timer.owner = Some(lease.host);
            }
        }
        let mut claimed = Vec::new();
        for (_, _, id, is_lost) in free {
            let run = tables.run_mut(id).expect("it was just found");
            let before = if forgets_trial { Trial::Over } else { run.trial };
            run.owner = Some(lease.host);
            if is_lost && !counts_none {
                run.losses = match before {
                    Trial::On(None) => run.losses + 1,
                    _ => run.losses.max((run.losses + 1).min(2)),
                };
            }
            run.trial = if is_lost || before == Trial::Unreplayed { Trial::Unreplayed } else { Trial::Over };
            let lost_attempt = if let Trial::On(op) = before { op.filter(|_| is_lost) } else { None };
            claimed.push((id, run.clone(), is_lost && before != Trial::Over, lost_attempt));
        }
        claimed
            .into_iter()
            .map(|(id, run, unreplayed, lost)| self.claimed(id, &run, unreplayed, lost))
            .collect()
    }

    /// An open run that `host` owns.
    pub fn owned_run(&self, host: HostId, run: RunId) -> Option<ClaimedRun> {
        let found = self.tables().runs.get(&run).filter(|found| found.is_open_of(host))?;
        Some(self.claimed(run, found, found.trial != Trial::Over, None))
    }

    fn claimed(&self, id: RunId, run: &Run, unreplayed: bool, lost_attempt: Option<Op>) -> ClaimedRun {
        ClaimedRun {
            scope: self.scope(run.tenant),
            run: id,
            workflow_id: run.workflow_id.to_string(),
            generation: run.generation,
            workflow: run.workflow.to_string(),
            digest: run.digest,
            status: run.status,
            parent: run.parent,
            losses: run.losses,
            unreplayed,
            lost_attempt,
        }
    }

    /// Notes that runs were replayed, or went on from there; of which that was noted.
    pub fn note_progress(&mut self, host: HostId, replayed: &[RunId], went_on: &[RunId]) -> Vec<RunId> {
        let mut noted = Vec::new();
        for (id, run) in Arc::make_mut(&mut self.commit().runs) {
            let is_meant = replayed.contains(id) || went_on.contains(id);
            if !is_meant || run.owner != Some(host) || matches!(run.trial, Trial::On(_)) {
                continue;
            }
            run.trial = Trial::Over;
            if went_on.contains(id) {
                run.losses = 0;
            }
            noted.push(*id);
        }
        noted
    }

    /// Puts a run on trial, or the attempt of one of its calls; false: the run or the lease is gone.
    pub fn begin_trial(&mut self, lease: Lease, run: RunId, op: Option<Op>) -> bool {
        let lives = self.is_alive(lease);
        let tables = self.commit();
        match tables.run_mut(run).filter(|run| lives && run.is_open_of(lease.host)) {
            Some(run) => {
                run.trial = Trial::On(op);
                true
            }
            None => false,
        }
    }

    /// Ends a trial that the host has survived.
    pub fn end_trial(&mut self, host: HostId, run: RunId, went_on: bool) {
        if let Some(run) = self.commit().run_mut(run).filter(|run| run.owner == Some(host)) {
            run.trial = Trial::Over;
            if went_on {
                run.losses = 0;
            }
        }
    }
}
