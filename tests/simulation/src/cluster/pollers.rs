//! What a host asks the database again and again, as `engine::pollers` does: is its lease alive, whose runs are free, which
//! timers are due, what is in the inbox, which workers are silent.

use std::collections::HashSet;
use std::rc::Rc;

use backstitch_core::matcher::Queue;
use backstitch_core::{Event as Row, Op, RunId, RunStatus, Seq, limits};
use backstitch_ledger::{NewTimer, Renewal, Sweep, TimerCheck};
use backstitch_scheduler::{DEADLINE, Input, START_OP, own_timers};

use super::event::HostEvent;
use super::host::{LEASE_MS, Source};
use super::plan::FAULTS_END_US;
use super::state::Cluster;

/// How often each host looks when nothing hints at anything.
const CLAIM_US: u64 = LEASE_MS * 250;
const TIMERS_US: u64 = 1_000_000;
const INBOX_US: u64 = 500_000;
const SWEEP_US: u64 = 600_000;
const LACKING_US: u64 = 3_000_000;
const BACKLOG_US: u64 = 700_000;
/// Runs that are claimed at a time.
const CLAIM_MAX: usize = 3;

impl Cluster {
    pub(super) fn poll_database(&mut self, host: usize, event: HostEvent) {
        match event {
            HostEvent::Heartbeat => self.heartbeat(host),
            HostEvent::Renewed { sent_us, is_alive } => self.renewed(host, sent_us, is_alive),
            HostEvent::Claim => self.claim(host),
            HostEvent::Timers => self.look_at_timers(host),
            HostEvent::Inbox => self.look_into_inbox(host),
            HostEvent::ReadInbox(runs) => self.read_inbox(host, &runs),
            HostEvent::TellInbox(items) => {
                if let Some(term) = &mut self.hosts[host].term {
                    term.is_reading = false;
                }
                if let Some(batch) = self.batch(host, Source::Inbox) {
                    self.step(host, Input::Inbox(items, batch));
                }
            }
            HostEvent::Sweep => self.sweep(host),
            HostEvent::Backlog => self.look_at_backlog(host),
            HostEvent::Lacking => self.look_for_lacking(host),
            _ => unreachable!("the caller has seen to all others"),
        }
    }

    /// A batch that the scheduler is about to get.
    fn batch(&mut self, host: usize, source: Source) -> Option<Rc<()>> {
        let term = self.hosts[host].term.as_mut()?;
        let batch = Rc::new(());
        term.batches.push((Rc::clone(&batch), source));
        Some(batch)
    }

    /// A look of this kind is due no later than that, unless one is under way that comes back here.
    pub(super) fn look_soon(&mut self, host: usize, source: Source, us: u64) {
        let at_us = self.now_us + us;
        let Some(term) = &mut self.hosts[host].term else { return };
        let due_us = term.looks.entry(source).or_insert(u64::MAX);
        if *due_us <= at_us {
            return;
        }
        *due_us = at_us;
        let event = match source {
            Source::Timers => HostEvent::Timers,
            Source::Inbox => HostEvent::Inbox,
            Source::Claims => HostEvent::Claim,
        };
        self.tell_later(host, us, event);
    }

    /// Whether a look may begin: it is the one that is due, and no batch of its kind is under way.
    fn may_look(&mut self, host: usize, source: Source) -> bool {
        let now_us = self.now_us;
        let Some(term) = &mut self.hosts[host].term else { return false };
        let due_us = term.looks.entry(source).or_insert(now_us);
        if *due_us > now_us && *due_us != u64::MAX {
            // An earlier one was asked for than was due then: the later one remains.
            return false;
        }
        *due_us = u64::MAX;
        // When the batch is done, the next look follows.
        let is_reading = source == Source::Inbox && term.is_reading;
        !is_reading && !term.batches.iter().any(|(_, known)| *known == source)
    }

    fn heartbeat(&mut self, host: usize) {
        let Some(lease) = self.hosts[host].term.as_ref().map(|term| term.lease) else { return };
        let now_ms = self.database_now_ms();
        let is_alive = self.database.renew(lease, now_ms) == Renewal::Alive;
        let (sent_us, us) = (self.now_us, self.delay(2_000));
        self.tell_later(host, us, HostEvent::Renewed { sent_us, is_alive });
        self.tell_later(host, LEASE_MS * 1_000 / 3, HostEvent::Heartbeat);
    }

    fn renewed(&mut self, host: usize, sent_us: u64, is_alive: bool) {
        if !is_alive {
            return self.end_term(host, "its lease is lost", 50_000);
        }
        let skew_ms = self.database_ms + self.rng.below(9) as i64 - 4;
        let Some(term) = &mut self.hosts[host].term else { return };
        term.lease_until_us = sent_us + LEASE_MS * 1_000;
        term.skew_ms = skew_ms;
        self.step(host, Input::Tick);
    }

    fn claim(&mut self, host: usize) {
        let Some(term) = &mut self.hosts[host].term else { return };
        // This look is the one that was due.
        term.looks.insert(Source::Claims, u64::MAX);
        let is_under_way = term.batches.iter().any(|(_, source)| *source == Source::Claims);
        self.look_soon(host, Source::Claims, CLAIM_US);
        if is_under_way {
            return;
        }
        let now_ms = self.database_now_ms();
        self.database.declare_overdue_dead(now_ms);
        let Some((id, lease)) = self.hosts[host].term.as_ref().map(|term| (term.id, term.lease)) else {
            return;
        };
        let others = self.database.other_hosts(id, limits::HOST_LOST_MS, false, now_ms);
        if let Some(term) = &self.hosts[host].term {
            term.shared.is_cautious.set(others.lost && self.plan.seed.is_multiple_of(2));
        }
        let runs = self.database.claim_runs(lease, CLAIM_MAX, &[]);
        if runs.is_empty() {
            return;
        }
        if self.now_us < FAULTS_END_US && self.rng.chance(30) {
            return self.end_term(host, "runs may have been claimed unheard", 50_000);
        }
        let Some(batch) = self.batch(host, Source::Claims) else { return };
        self.look_soon(host, Source::Timers, 2_000);
        self.look_soon(host, Source::Inbox, 2_000);
        self.step(host, Input::Claimed(runs, batch));
    }

    fn look_at_timers(&mut self, host: usize) {
        if !self.may_look(host, Source::Timers) {
            return;
        }
        let now_ms = self.host_now_ms(host);
        let Some(term) = &self.hosts[host].term else { return };
        let absent = term.scheduler.absent();
        let look = TimerCheck { host: term.id, from_ms: 0, now_ms, always: DEADLINE, except: &absent };
        let due = self.database.due_timers(look, limits::CLAIM_ROWS_MAX as usize);
        let next_us = self.database.next_due(look).map_or(TIMERS_US, |at_ms| (at_ms - now_ms) * 1_000);
        if due.is_empty() {
            return self.look_soon(host, Source::Timers, next_us.clamp(10_000, TIMERS_US));
        }
        if let Some(batch) = self.batch(host, Source::Timers) {
            self.step(host, Input::Timers(due, batch));
            self.look_soon(host, Source::Timers, TIMERS_US);
        }
    }

    fn look_into_inbox(&mut self, host: usize) {
        if !self.may_look(host, Source::Inbox) {
            return;
        }
        let Some(term) = &mut self.hosts[host].term else { return };
        let unread = self.database.unread(term.id, term.walk.take());
        term.walk = unread.next;
        let unreadable = term.scheduler.in_hand().unreadable();
        for (run, status) in &unread.closed {
            if *status == RunStatus::Continued {
                let passed = self.database.pass_on(*run, &unreadable);
                if passed.items > 0 {
                    self.hint(passed.owner);
                }
            } else {
                self.database.clear_inbox(&[*run]);
            }
        }
        let is_end = unread.next.is_none();
        self.look_soon(host, Source::Inbox, if is_end { INBOX_US } else { 5_000 });
        if !unread.open.is_empty() {
            if let Some(term) = &mut self.hosts[host].term {
                term.is_reading = true;
            }
            let us = self.delay(500);
            self.tell_later(host, us, HostEvent::ReadInbox(unread.open));
        }
    }

    /// What is in hand is asked first; what is read then may be in hand by the time that it arrives.
    fn read_inbox(&mut self, host: usize, runs: &[RunId]) {
        let Some(term) = &self.hosts[host].term else { return };
        let in_hand = term.scheduler.in_hand();
        let (readers, unreadable) = (in_hand.readers(runs), in_hand.unreadable());
        let items = self.database.inbox_of(term.id, &readers, &unreadable, limits::CLAIM_ROWS_MAX as usize);
        if items.is_empty() {
            if let Some(term) = &mut self.hosts[host].term {
                term.is_reading = false;
            }
            return self.look_soon(host, Source::Inbox, INBOX_US);
        }
        let us = self.delay(1_000);
        self.tell_later(host, us, HostEvent::TellInbox(items));
    }

    fn sweep(&mut self, host: usize) {
        self.tell_later(host, SWEEP_US, HostEvent::Sweep);
        let (now_ms, at_ms) = (self.database_now_ms(), self.host_now_ms(host));
        let Some(term) = &self.hosts[host].term else { return };
        let (shared, scope) = (Rc::clone(&term.shared), self.scope());
        shared.now_ms.set(at_ms);
        let swept =
            self.database.sweep_tasks(now_ms, at_ms, limits::CLAIM_ROWS_MAX as usize, |_, _| shared.new_id());
        let served: Vec<(String, String)> = {
            let directory = self.directory.borrow();
            directory.activities.iter().map(|name| ("default".to_owned(), name.clone())).collect()
        };
        let freed =
            self.database
                .free_tasks(scope, &served, at_ms, limits::CLAIM_ROWS_MAX as usize, |_, _| shared.new_id());
        self.database.forget_tasks();
        for Sweep { owners, .. } in [swept, freed] {
            owners.into_iter().for_each(|owner| self.hint(Some(owner)));
        }
    }

    fn look_at_backlog(&mut self, host: usize) {
        self.tell_later(host, BACKLOG_US, HostEvent::Backlog);
        let Some(term) = &self.hosts[host].term else { return };
        let queues = term.shared.matcher.borrow_mut().queues();
        let named: Vec<_> = queues.iter().map(|queue| (queue.tenant, queue.name.to_string())).collect();
        let mut woken = Vec::new();
        for (tenant, name) in self.database.queues_with_tasks(&named) {
            let queue = Queue { tenant, name: name.into() };
            woken.extend(term.shared.matcher.borrow_mut().offered_any(&queue));
        }
        self.matched(host, woken);
    }

    /// Runs without the timers that they wait for; those of the run itself are set here.
    fn look_for_lacking(&mut self, host: usize) {
        self.tell_later(host, LACKING_US, HostEvent::Lacking);
        let now_ms = self.host_now_ms(host);
        let Some(term) = &mut self.hosts[host].term else { return };
        let (id, after) = (term.id, term.lacking.take());
        let (found, last) = self.database.timers_lacking(id, after, 50);
        term.lacking = last;
        let mut lacking: Vec<(RunId, Vec<Op>)> = Vec::new();
        for mut run in found {
            let first = self.database.rows(run.run, Seq(0), 1);
            let Some(Ok(Row::RunStarted { options, .. })) = first.first().map(backstitch_core::Row::event)
            else {
                continue;
            };
            let own: HashSet<Op> = run.own.iter().copied().collect();
            if run.is_running
                && options.start_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
                && !own.contains(&START_OP)
            {
                run.ops.push(START_OP);
            }
            let timers = own_timers(run.run, &options, first[0].at_ms, now_ms);
            let missing: Vec<NewTimer> =
                timers.into_iter().filter(|timer| !own.contains(&timer.op)).collect();
            self.database.set_missing_timers(id, &missing);
            if !run.ops.is_empty() {
                lacking.push((run.run, run.ops));
            }
        }
        if !lacking.is_empty() {
            self.step(host, Input::Lacking(lacking));
        }
    }
}
