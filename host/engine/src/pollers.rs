//! What a host asks the database again and again: is its lease alive, whose runs are free, which
//! timers are due, what is in the inbox, what was deployed, which workers are silent.
//!
//! Polling is the truth; hints only make it sooner. Every loop hands what it found to the scheduler
//! and goes on when all of it was dealt with, so no loop can run ahead of the host.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use backstitch_core::matcher::Queue;
use backstitch_core::{RunId, RunStatus, limits};
use backstitch_ledger::{
    Health, InboxItem, Lease, LeaseHeartbeat, Ledger, LedgerError, Renewal, Sweep, TimerCheck,
};
use backstitch_scheduler::DEADLINE;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::caution::Caution;
use crate::clock::Clock;
use crate::driver::{Batch, Gone, InHandNow, Input, Inputs};
use crate::matcher::TaskMatcher;
use crate::notifier::HostNotifier;
use crate::quota::Quotas;
use crate::registry::ComponentRegistry;
use crate::retry::until_answered;
use crate::tenure::Tenure;
use crate::timer_wakeup::TimerWakeup;
use crate::{ambient, failpoint};

/// How old this host's copy of the names may be, in milliseconds.
pub const DIRECTORY_MS: u64 = 500;
/// Longest wait between two looks at the inbox, in milliseconds.
const INBOX_MS_MAX: u64 = 500;
/// Shortest wait, in milliseconds, when a look found nothing new.
const INBOX_MS_MIN: u64 = 10;
/// How often to keep house, in milliseconds: partitions are made weeks ahead.
const CHORES_MS: u64 = 3_600_000;
/// How soon to try again to make partitions, in milliseconds, if somebody reads the ledger for long.
const PARTITIONS_MS: u64 = 60_000;
/// Longest wait between two looks at the leases of workers, in milliseconds: another host may have set one.
const TASKS_MS_MAX: u64 = 1_000;
/// Shortest: a lease that another host is ending just now is not asked for all the time.
const TASKS_MS_MIN: u64 = 10;
/// How often to look for tasks in the database that workers here could take, in milliseconds.
const BACKLOG_MS: u64 = 500;
/// Shortest wait, in milliseconds, before a timer is handed over that was handed over just now.
const TIMERS_MS_MIN: u64 = 10;
/// Longest wait between two looks at the timers, in milliseconds: a safety net for hints.
const TIMERS_MS_MAX: u64 = 30_000;

/// What every loop needs.
#[derive(Clone)]
pub struct Pollers {
    /// The database.
    pub ledger: Ledger,
    /// What time it is.
    pub clock: Clock,
    /// Whether this host may begin anything.
    pub tenure: Tenure,
    /// This host's registration.
    pub lease: Lease,
    /// How long it may be silent.
    pub lease_ms: u64,
    /// When its term began.
    pub began: Instant,
    /// Whether hosts were lost of late.
    pub caution: Caution,
    /// To the scheduler.
    pub inputs: Inputs,
    /// Somebody says that there may be messages.
    pub inbox_wakeup: Arc<Notify>,
    /// The earliest timer that was set since the last look.
    pub timer_wakeup: TimerWakeup,
    /// Where workers poll for tasks.
    pub matcher: TaskMatcher,
    /// Tells other hosts.
    pub notifier: HostNotifier,
}

impl Pollers {
    /// Renews the lease until it is lost. The scheduler may still be at work then: the fence holds
    /// its rows back. Tells `heartbeat_health` whether the database takes the heartbeat: an outage is noticed also
    /// when there is nothing else to write.
    pub async fn renewals(self, heartbeat: Arc<LeaseHeartbeat>, heartbeat_health: watch::Sender<Health>) {
        let mut ticks = tokio::time::interval(Duration::from_millis((self.lease_ms / 3).max(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // A session is not where the lease was renewed last: this one may have yet to follow a failover.
                () = self.ledger.renewal_wanted() => {}
            }
            failpoint::point("lease-renewal");
            let sent_ms = ambient::uptime_ms();
            match heartbeat.renew(self.lease).await {
                Ok((Renewal::Alive, reading)) => {
                    self.tenure.renew(sent_ms);
                    self.clock.set_by(&reading);
                    if self.clock.wrong().is_some() {
                        // It has been said why.
                        return;
                    }
                    heartbeat_health.send_replace(Health::Healthy);
                }
                Ok((Renewal::Dead, _)) => {
                    tracing::warn!(host = %self.lease.host, "the lease is lost: others have this host's runs");
                    return;
                }
                // The database decides whether the silence was too long.
                Err(error) => {
                    tracing::warn!(%error, "the lease could not be renewed");
                    heartbeat_health.send_modify(|heartbeat_health| {
                        let since = match heartbeat_health {
                            Health::Down { since, .. } => *since,
                            Health::Healthy => Instant::now(),
                        };
                        *heartbeat_health = Health::Down { since, reason: error.to_string().into() };
                    });
                }
            }
        }
    }

    /// Takes over runs that nobody alive owns, in batches, so that several hosts share them. Ends when it
    /// cannot know any more which runs are this host's.
    pub async fn claims(self) {
        let mut ticks = tokio::time::interval(Duration::from_millis((self.lease_ms / 4).max(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for dead in until_answered("looking for dead hosts", || self.ledger.declare_overdue_dead()).await
            {
                tracing::warn!(host = %dead, "a host is silent beyond its lease: its runs are free");
            }
            self.look_at_others().await;
            loop {
                failpoint::point("claim-before");
                let claim = async || match self.ledger.claim_runs(self.lease, limits::CLAIM_ROWS_MAX).await {
                    Err(LedgerError::Unknown(error)) => Ok(Err(error)),
                    answered => answered.map(Ok),
                };
                let runs = match until_answered("claiming runs", claim).await {
                    Ok(runs) => runs,
                    Err(error) => {
                        // Nobody else may take them, and we would never look at them: begin anew.
                        tracing::warn!(%error, "runs may have been claimed unheard; giving up the lease");
                        return;
                    }
                };
                if runs.is_empty() {
                    break;
                }
                failpoint::point("claim-after");
                tracing::info!(runs = runs.len(), "taking over runs");
                if self.hand_over(|batch| Input::Claimed(runs, batch)).await.is_err() {
                    return;
                }
                // They bring their timers and messages with them.
                self.timer_wakeup.sooner(0);
                self.inbox_wakeup.notify_one();
            }
        }
    }

    /// Whether there are other hosts, and whether one of them was lost of late.
    async fn look_at_others(&self) {
        let at_first = self.began.elapsed() < Duration::from_millis(2 * self.lease_ms);
        let look = || self.ledger.other_hosts(self.lease.host, limits::HOST_LOST_MS, at_first);
        let others = until_answered("looking for other hosts", look).await;
        self.notifier.set_others(others.alive);
        self.caution.set(others.lost);
    }

    /// Fires timers: sleeps until the earliest, or until an earlier one is set.
    pub async fn timers(self) {
        let mut hint = self.timer_wakeup.subscribe();
        let (mut from_ms, mut all_at) = (0, Instant::now());
        let mut before = None;
        loop {
            // From here on a sooner timer lowers it again, whatever the queries below still see.
            from_ms = from_ms.min(self.timer_wakeup.take());
            hint.mark_unchanged();
            if all_at.elapsed() >= Duration::from_millis(TIMERS_MS_MAX) {
                (from_ms, all_at) = (0, Instant::now());
            }
            let now_ms = self.clock.now_ms();
            let Ok(absent) = self.inputs.absent().await else { return };
            let look =
                TimerCheck { host: self.lease.host, from_ms, now_ms, always: DEADLINE, except: &absent };
            let due = || self.ledger.due_timers(look, limits::CLAIM_ROWS_MAX);
            let due = until_answered("looking for due timers", due).await;
            if let Some(first) = due.first().copied() {
                if before.replace(first) == Some(first) {
                    // Nobody could do anything about it yet.
                    tokio::time::sleep(Duration::from_millis(TIMERS_MS_MIN)).await;
                }
                if self.hand_over(|batch| Input::Timers(due, batch)).await.is_err() {
                    return;
                }
                continue;
            }
            // What is set for a time before comes with a hint, and what waits for its run is found when that is read.
            from_ms = now_ms;
            let next = || self.ledger.next_due(look);
            let next = until_answered("looking for the next timer", next).await;
            let latest_ms = self.clock.now_ms() + TIMERS_MS_MAX;
            let mut wake_ms = next.unwrap_or(u64::MAX).min(latest_ms);
            loop {
                wake_ms = wake_ms.min(*hint.borrow_and_update());
                let wait_ms = wake_ms.saturating_sub(self.clock.now_ms());
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(wait_ms)) => break,
                    changed = hint.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Reads messages for this host's runs: at once on a hint, with growing waits without one. Walks from run to
    /// run, and begins again when it has come to the end.
    pub async fn inbox(self) {
        let mut wait_ms = INBOX_MS_MIN;
        let (mut after, mut was_busy) = (None, false);
        let mut before: HashSet<(RunId, Uuid)> = HashSet::new();
        loop {
            let look = || self.ledger.unread(self.lease.host, after);
            let unread = until_answered("looking into the inbox", look).await;
            // First: who they are for must hear them before what was sent to it later.
            let seen = async {
                self.see_to_closed(&unread.closed).await?;
                self.read_inbox(unread.open).await
            };
            let Ok(items) = seen.await else { return };
            let found: HashSet<_> = items.iter().map(|item| (item.run, item.item_id)).collect();
            // What comes back again and again is not worth hurrying for.
            was_busy |= !found.is_subset(&before);
            if !items.is_empty() && self.hand_over(|batch| Input::Inbox(items, batch)).await.is_err() {
                return;
            }
            before = found;
            after = unread.next;
            if after.is_some() {
                continue;
            }
            if std::mem::take(&mut was_busy) {
                wait_ms = INBOX_MS_MIN;
                continue;
            }
            let wait = Duration::from_millis(wait_ms);
            let hinted = tokio::time::timeout(wait, self.inbox_wakeup.notified()).await.is_ok();
            wait_ms = if hinted { INBOX_MS_MIN } else { (wait_ms * 2).min(INBOX_MS_MAX) };
        }
    }

    /// The next page of these runs' messages.
    async fn read_inbox(&self, runs: Vec<RunId>) -> Result<Vec<InboxItem>, Gone> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let InHandNow { readers, unreadable } = self.inputs.in_hand(runs).await?;
        let read = || self.ledger.inbox_of(self.lease.host, &readers, &unreadable, limits::CLAIM_ROWS_MAX);
        let heard = until_answered("reading the inbox", read).await;
        if !heard.unreadable.is_empty() {
            let items = heard.unreadable.into_iter().map(|(_, item)| item).collect();
            self.inputs.send(Input::Unreadable(items)).await?;
        }
        Ok(heard.items)
    }

    /// Messages of runs that have closed go on with them, or go.
    async fn see_to_closed(&self, closed: &[(RunId, RunStatus)]) -> Result<(), Gone> {
        let (went_on, over): (Vec<_>, Vec<_>) =
            closed.iter().partition(|(_, status)| *status == RunStatus::Continued);
        let over: Vec<RunId> = over.into_iter().map(|(run, _)| run).collect();
        if !over.is_empty() {
            until_answered("clearing the inbox", || self.ledger.clear_inbox(&over)).await;
        }
        if went_on.is_empty() {
            return Ok(());
        }
        let unreadable = self.inputs.in_hand(Vec::new()).await?.unreadable;
        for (run, _) in went_on {
            let passed = || self.ledger.pass_on(run, &unreadable);
            let passed = until_answered("passing messages on", passed).await;
            if let Some(owner) = passed.owner.filter(|_| passed.items > 0) {
                self.notifier.messages(owner);
            }
        }
        Ok(())
    }

    /// Keeps the names fresh, and what tenants may store.
    pub async fn directory(self, programs: ComponentRegistry, quotas: Quotas) {
        let mut ticks = tokio::time::interval(Duration::from_millis(DIRECTORY_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut first = true;
        loop {
            let deployed = tokio::select! {
                _ = ticks.tick() => false,
                () = self.notifier.until_deployed() => true,
            };
            let changed = until_answered("reading deployments", || programs.refresh()).await;
            until_answered("reading quotas", || quotas.refresh(&self.ledger)).await;
            // The first time too: whoever deployed last may have died before it came to this.
            if changed || deployed || first {
                first = false;
                self.free_tasks(&programs).await;
            }
        }
    }

    /// Calls wait for workers outside that a component serves now: they come back to their runs.
    async fn free_tasks(&self, programs: &ComponentRegistry) {
        for (scope, served) in programs.activities() {
            let free = || {
                let (now_ms, limit) = (self.clock.now_ms(), limits::CLAIM_ROWS_MAX);
                self.ledger.free_tasks(scope, &served, now_ms, limit, || self.clock.new_id())
            };
            while !self.swept(until_answered("freeing tasks", free).await) {}
        }
    }

    /// Tells those who have messages now. True: there was nothing.
    fn swept(&self, sweep: Sweep) -> bool {
        for owner in sweep.owners {
            self.notifier.messages(owner);
        }
        sweep.tasks == 0
    }

    /// Ends leases of workers that have died, and waits for workers that have been too long.
    pub async fn tasks(self) {
        loop {
            let sweep = || {
                self.ledger.sweep_tasks(self.clock.now_ms(), limits::CLAIM_ROWS_MAX, || self.clock.new_id())
            };
            if !self.swept(until_answered("looking after tasks", sweep).await) {
                continue;
            }
            let next = until_answered("looking for the next lease", || self.ledger.next_sweep_ms()).await;
            let wait_ms = next.unwrap_or(u64::MAX).clamp(TASKS_MS_MIN, TASKS_MS_MAX);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    /// Wakes workers that wait here while tasks wait in the database: hints from other hosts may be lost.
    pub async fn backlog(self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(BACKLOG_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let waiting: Vec<_> = self
                .matcher
                .queues()
                .into_iter()
                .map(|queue| (queue.tenant, queue.name.to_string()))
                .collect();
            if waiting.is_empty() {
                continue;
            }
            let filled = || self.ledger.queues_with_tasks(&waiting);
            for (tenant, name) in until_answered("looking for tasks", filled).await {
                self.matcher.offered_any(&Queue { tenant, name: name.into() });
            }
        }
    }

    /// Keeps house: partitions for the weeks to come, no leases of hosts long dead.
    pub async fn chores(self) {
        loop {
            until_answered("forgetting dead hosts", || self.ledger.forget_dead()).await;
            until_answered("forgetting tasks of closed runs", || self.ledger.forget_tasks()).await;
            let mut wait_ms = CHORES_MS;
            while wait_ms > 0 {
                let partitions = || self.ledger.ensure_partitions(self.clock.now_ms());
                let put_off = until_answered("making partitions", partitions).await.put_off;
                let nap_ms = if put_off > 0 {
                    tracing::info!(
                        put_off,
                        "partitions of weeks to come wait until nobody reads the ledger for long"
                    );
                    PARTITIONS_MS.min(wait_ms)
                } else {
                    wait_ms
                };
                tokio::time::sleep(Duration::from_millis(nap_ms)).await;
                wait_ms -= nap_ms;
            }
        }
    }

    /// Gives the scheduler a batch and waits until all of it was dealt with.
    async fn hand_over(&self, input: impl FnOnce(Batch) -> Input) -> Result<(), Gone> {
        let (batch, mut dropped) = mpsc::channel(1);
        self.inputs.send(input(batch)).await?;
        // Nothing is ever sent: it ends when the last clone is dropped.
        let _ = dropped.recv().await;
        Ok(())
    }
}
