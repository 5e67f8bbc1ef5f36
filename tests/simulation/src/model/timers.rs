//! Timers. See `timers.rs` of the ledger crate.

use std::sync::Arc;

use backstitch_core::{HostId, Op, RunId, RunStatus};
use backstitch_ledger::{DueTimer, NewTimer, TimerCheck};

use super::database::{Database, Mutant};
use super::rows::Timer;

impl Database {
    /// Timers of a host that may fire, whenever they are due.
    fn own_timers(&self, check: TimerCheck<'_>) -> impl Iterator<Item = DueTimer> + '_ {
        let TimerCheck { host, from_ms, always, .. } = check;
        let fires = move |run: RunId, purpose: i16| {
            self.tables().runs.get(&run).is_some_and(|run| {
                let ignores_pause = purpose == always || self.is(Mutant::FiresTimersOfAPausedRun);
                run.owner == Some(host)
                    && (run.status == RunStatus::Running || (ignores_pause && run.status.is_open()))
            })
        };
        let own = self.tables().timers.iter().filter(move |((run, _), timer)| {
            timer.owner == Some(host) && timer.due_ms >= from_ms && fires(*run, timer.purpose)
        });
        own.map(|((run, op), timer)| due(*run, *op, timer))
    }

    /// Those that are due, oldest first; of the same time by run and op, where Postgres may choose.
    pub fn due_timers(&self, check: TimerCheck<'_>, limit: usize) -> Vec<DueTimer> {
        let is_due = |timer: &DueTimer| timer.due_ms <= check.now_ms && !check.except.contains(&timer.run);
        let mut due: Vec<DueTimer> = self.own_timers(check).filter(is_due).collect();
        due.sort_by_key(|timer| timer.due_ms);
        due.truncate(limit);
        due
    }

    /// When the next one after `now_ms` is due.
    pub fn next_due(&self, check: TimerCheck<'_>) -> Option<u64> {
        let later = self.own_timers(check).map(|timer| timer.due_ms).filter(|due| *due > check.now_ms);
        later.min()
    }

    /// The timers of these runs.
    pub fn timers_of(&self, runs: &[RunId]) -> Vec<DueTimer> {
        let timers = self.tables().timers.iter().filter(|((run, _), _)| runs.contains(run));
        timers.map(|((run, op), timer)| due(*run, *op, timer)).collect()
    }

    /// Sets those of these timers that are not there, of open runs of `host`; which those were.
    pub fn set_missing_timers(&mut self, host: HostId, timers: &[NewTimer]) -> Vec<(RunId, Op)> {
        let sets_all = self.is(Mutant::SetsTimersOfARunOfAnother);
        let tables = self.commit();
        let mut set = Vec::new();
        for timer in timers {
            let key = (timer.run, timer.op);
            let Some(run) = tables.runs.get(&timer.run).filter(|run| run.is_open_of(host) || sets_all) else {
                continue;
            };
            if tables.timers.contains_key(&key) {
                continue;
            }
            let (tenant, owner) = (run.tenant, Some(host));
            let timer = Timer { tenant, due_ms: timer.due_ms, purpose: timer.purpose, owner };
            Arc::make_mut(&mut tables.timers).insert(key, timer);
            set.push(key);
        }
        set
    }
}

fn due(run: RunId, op: Op, timer: &Timer) -> DueTimer {
    DueTimer { run, op, purpose: timer.purpose, due_ms: timer.due_ms }
}
