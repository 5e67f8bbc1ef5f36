//! What is looked at while a cluster plays: jobs, attempts and answers of the writer.

use backstitch_core::run::OpenOp;
use backstitch_core::{Fault, FaultKind, Kind, Op, Run, RunId, RunStatus, Seq, limits};
use backstitch_ledger::{Append, Outcome, PoisonKind, StatusChange};
use backstitch_scheduler::{Job, NewAttempt, Standing};

use super::checks::Broken;
use super::env::SimEnv;
use super::plan::External;
use super::said::Said;
use super::state::Cluster;
use super::watch::Owes;

/// How far the clock of a host may be from that of the database, in milliseconds, if that makes no steps.
const CLOCKS_MS: u64 = 20;

impl Cluster {
    /// A guest is about to be led.
    pub(super) fn look_at_job(&mut self, host: usize, job: &Job<SimEnv>) {
        let (run, activation) = job.key();
        let (Job::Begin { events, .. } | Job::Resume { events, .. }) = job;
        let holds = self.checks.activates(host, run, activation, events.last().map(|event| event.seq));
        self.check(holds);
        let Some(term) = &mut self.hosts[host].term else { return };
        let holds = term.watch.activates(job, |run, seq| self.checks.is_committed(run, seq));
        self.check_unless_lost(holds);
        let is_resumed = matches!(job, Job::Resume { .. });
        let owned = self.database.losses_of(run).filter(|_| self.owns(host, run));
        if let Some((losses, trial)) = owned
            && (losses >= limits::HOSTS_LOST_MAX || is_resumed && is_suspect(losses) && trial != Some(None))
        {
            self.check_unless_lost(Err(format!(
                "run {run} is led after {losses} losses, and is not on trial"
            )));
        }
        let steps = |(_, event): &(u64, External)| matches!(event, External::ClockStep { .. });
        if let Job::Begin { origin, .. } = job
            && let Some(at_ms) = origin.options.start_at_ms
            && at_ms > self.host_now_ms(host) + CLOCKS_MS
            && !self.plan.events.iter().any(steps)
        {
            self.check(Err(format!("run {run} begins before its time, {at_ms}")));
        }
    }

    /// Whatever could be led is, after every step.
    pub(super) fn look_at_those_behind(&mut self, host: usize) {
        let Some(term) = &self.hosts[host].term else { return };
        let waits = |run: &RunId| {
            term.scheduler.standing(*run) == Some(Standing::Ready)
                && self.owns(host, *run)
                && self.database.losses_of(*run).is_some_and(|(losses, _)| losses == 0)
        };
        let found = term.watch.behind().find(waits);
        if let Some(run) = found {
            self.check_unless_lost(Err(format!("the guest of run {run} was abandoned, and nobody goes on")));
        }
    }

    /// A run that is parked is in the database alone: nothing but that says whether it still is.
    pub(super) fn look_at_parked(&mut self, host: usize, run: RunId) {
        let Some(term) = &self.hosts[host].term else { return };
        if term.scheduler.standing(run) == Some(Standing::Parked) && term.watch.is_settled(run) {
            self.check(Err(format!("run {run} is parked, and stays in memory")));
        }
    }

    /// Attempts are stopped when their run leaves memory, or is to because it was rewound or parked.
    pub(super) fn look_at_those_left(&mut self, host: usize) {
        let Some(term) = &self.hosts[host].term else { return };
        let has_left =
            |(run, _): &&(RunId, Op)| matches!(term.scheduler.standing(*run), None | Some(Standing::Stale));
        let found = term.attempts.keys().find(has_left).copied();
        if let Some((run, op)) = found {
            self.check(Err(format!(
                "run {run} has left memory or is stale, and an attempt of its op {op} goes on"
            )));
        }
    }

    /// A host hears what became of a message. It has to know of the run that has sent it, if that waits for it.
    pub(super) fn look_at_message(&mut self, host: usize, run: RunId, op: Op) {
        let Some(term) = &self.hosts[host].term else { return };
        let waits = self.beside.run(run).is_some_and(|run| run.open_op(op).is_some());
        let is_running = self.database.status_of(run) == Some(RunStatus::Running) && self.owns(host, run);
        let has_left = term.scheduler.standing(run).is_none() && !term.watch.is_rewound(run);
        if waits && is_running && has_left {
            self.check_unless_lost(Err(format!(
                "run {run} has left memory while its message of op {op} was sent"
            )));
        }
    }

    /// Whether a host has a run. One that was frozen may have lost it, and not know.
    pub(super) fn owns(&self, host: usize, run: RunId) -> bool {
        self.hosts[host].term.as_ref().is_some_and(|term| self.database.owner_of(run) == Some(term.id))
    }

    /// An attempt is about to begin.
    pub(super) fn look_at_attempt(&mut self, host: usize, new: &NewAttempt) {
        let (run, op) = (new.identity.run, new.op);
        let owned = self.database.losses_of(run).filter(|_| self.owns(host, run));
        let (losses, trial) = owned.unwrap_or_default();
        let is_tried = trial == Some(Some(op));
        if is_suspect(losses) && !is_tried {
            self.check_unless_lost(Err(format!("an attempt of run {run} begins after {losses} losses")));
        }
        if let Some((other, first)) = self.first_queued(host).filter(|_| !is_tried)
            && first < self.checks.priority(run)
        {
            self.check_unless_lost(Err(format!(
                "a call of run {other}, of priority {first}, waits for run {run}"
            )));
        }
        let holds = Said::begins_here(new, self.beside.run(run));
        self.check_unless_lost(holds);
        let Some(term) = &mut self.hosts[host].term else { return };
        let has_lease = self.now_us < term.lease_until_us;
        let holds = term.watch.attempts(new, is_tried);
        self.check_unless_lost(holds);
        if !has_lease && !is_tried {
            self.check(Err(format!("an attempt of run {run} begins on host {host}, which has no lease")));
        }
    }

    /// No sleep ends, and no time of a retry comes, while a run is parked or paused.
    pub(super) fn look_at_fired(&mut self, host: usize, append: &Append) {
        let Some(term) = &self.hosts[host].term else { return };
        let is_parked = self.database.status_of(append.run) == Some(RunStatus::Parked);
        let is_held = term.watch.is_paused(append.run) || is_parked && term.watch.is_settled(append.run);
        let is_of_a_timer =
            append.rows.iter().all(|row| row.kind == Kind::TimerFired.tag()) && append.inbox_done.is_empty();
        let fires = is_of_a_timer && !append.timers_done.is_empty() && append.status.is_none();
        if is_held && fires && self.owns(host, append.run) {
            self.check_unless_lost(Err(format!("a timer of run {} fires, which is held", append.run)));
        }
    }

    /// Nothing parks a run but what went wrong with its component, its ledger or its hosts.
    pub(super) fn look_at_parking(&mut self, append: &Append) {
        let Some(StatusChange::Park { fault }) = &append.status else { return };
        let kind = serde_json::from_str::<Fault>(fault).map(|fault| fault.kind);
        let losses = self.database.losses_of(append.run).map_or(0, |(losses, _)| losses);
        let has_reason = match kind {
            Ok(FaultKind::HostLost) => losses >= limits::HOSTS_LOST_MAX,
            Ok(FaultKind::Component) => self.plan.lacks_components(),
            // Nothing may be left of a run that was claimed just before a failover.
            Ok(FaultKind::Corrupt) => self.plan.misreads() || self.database.status_of(append.run).is_none(),
            _ => false,
        };
        if !has_reason {
            self.check(Err(format!("run {} is parked for no reason: {fault}", append.run)));
        }
    }

    /// A run that is asked to end does so when that message is consumed.
    pub(super) fn look_at_last_words(&mut self, append: &Append) {
        let closes = matches!(append.status, Some(StatusChange::Close(_)));
        let is_open = self.beside.run(append.run).is_some_and(Run::is_open);
        let mut consumed = append.inbox_done.iter().filter(|_| !closes && is_open);
        if let Some((run, item)) = consumed.find(|(run, item)| self.database.is_last_word(*run, *item)) {
            self.check_unless_lost(Err(format!("message {item} asks run {run} to end, and it does not")));
        }
    }

    /// A call of the first priority that waits for its first attempt, by its run, and that priority.
    fn first_queued(&self, host: usize) -> Option<(RunId, u8)> {
        let watch = &self.hosts[host].term.as_ref()?.watch;
        let waits = |(run, op): &(RunId, Op)| {
            let folded = self.beside.run(*run).filter(|run| run.status() == Some(RunStatus::Running));
            let is_first = folded.is_some_and(|run| {
                matches!(run.open_op(*op), Some(OpenOp::Activity { attempts: 0, retry_at_ms: None, .. }))
            });
            let losses = self.database.losses_of(*run).map_or(0, |(losses, _)| losses);
            is_first && losses == 0 && self.owns(host, *run)
        };
        let waiting = watch.queued().filter(waits).map(|(run, _)| (run, self.checks.priority(run)));
        waiting.min_by_key(|(_, priority)| *priority)
    }

    /// The scheduler has been told what became of appends.
    pub(super) fn look_at_acknowledged(&mut self, host: usize, owes: &[Owes], outcome: &Outcome) {
        let refused = match outcome {
            Outcome::Committed { refused } => refused,
            // Of a run whose start was refused.
            Outcome::Poisoned { kind: PoisonKind::Gap, .. } => return,
            Outcome::Poisoned { kind, message } => {
                return self.check_unless_lost(Err(format!("the database refused {kind:?}: {message}")));
            }
            Outcome::Fenced => return,
        };
        for owes in owes {
            let Some(term) = &mut self.hosts[host].term else { return };
            let holds =
                term.watch.committed(owes, refused).and_then(|()| self.attempts_are_awaited(host, owes));
            self.check_unless_lost(holds);
        }
    }

    /// Every attempt of a run that is under way is one that the run waits for, as far as its scheduler knows.
    fn attempts_are_awaited(&self, host: usize, owes: &Owes) -> Result<(), Broken> {
        let (Some(term), (id, Some(last))) = (&self.hosts[host].term, owes.upto()) else { return Ok(()) };
        let of_run = (id, Op(0))..=(id, Op(u32::MAX));
        let under_way: Vec<Op> = term.attempts.range(of_run).map(|((_, op), _)| *op).collect();
        if under_way.is_empty() {
            return Ok(());
        }
        let rows = self.database.rows(id, Seq(0), last.0 as usize + 1);
        let (run, _) =
            Run::load_all(id, &rows).map_err(|corrupt| format!("the ledger of run {id}: {corrupt}"))?;
        let is_over = |op: &&Op| **op < run.next_op() && run.open_op(**op).is_none();
        match under_way.iter().find(is_over) {
            Some(op) => Err(format!("an attempt of op {op} of run {id} goes on, and nobody waits for it")),
            None => Ok(()),
        }
    }
}

/// Whether a run is led on trial.
fn is_suspect(losses: u16) -> bool {
    losses + 1 >= limits::HOSTS_LOST_MAX
}
