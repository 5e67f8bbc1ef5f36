//! How hosts come, go, die, stand still and lose their leases.

use std::rc::Rc;
use std::time::Duration;

use backstitch_core::HostId;
use backstitch_core::matcher::Moment;
use backstitch_scheduler::{Config, Scheduler};

use super::env::{Shared, SimEnv};
use super::event::{Event, HostEvent};
use super::host::{LEASE_MS, Term};
use super::state::Cluster;
use super::watch::Watch;
use crate::model::Writer;

impl Cluster {
    /// A host begins a term.
    pub(super) fn register(&mut self, host: usize) {
        if self.hosts[host].term.is_some() {
            return;
        }
        if self.hosts[host].frozen_until_us > self.now_us {
            let at_us = self.hosts[host].frozen_until_us;
            return self.queue.push(at_us, Event::Register(host));
        }
        let id = HostId(self.new_id());
        let lease = self.database.register(id, LEASE_MS, self.database_now_ms());
        let unloadable = Rc::clone(&self.hosts[host].unloadable);
        let shared = Rc::new(Shared::new(Rc::clone(&self.directory), unloadable, self.rng.fork()));
        let config = Config {
            host: id,
            began: Moment(Duration::from_micros(self.now_us)),
            activations: self.hosts[host].activations,
            warm_runs_max: self.plan.warm_max(),
            attempts_max: self.plan.attempts_max,
            check_activations: self.plan.seed.is_multiple_of(4),
        };
        let scheduler = Scheduler::new(config, SimEnv(Rc::clone(&shared)));
        let skew_ms = self.database_ms + self.rng.below(9) as i64 - 4;
        let found = &mut self.hosts[host];
        found.epoch += 1;
        found.term = Some(Term {
            id,
            lease,
            shared,
            scheduler,
            writer: Writer::new(lease),
            is_writing: false,
            acks_us: 0,
            tickets: Default::default(),
            lease_until_us: self.now_us + LEASE_MS * 1_000,
            skew_ms,
            batches: Vec::new(),
            attempts: Default::default(),
            abandoned: Default::default(),
            late: Default::default(),
            watch: Watch::new(self.now_us, self.plan.attempts_max),
            is_reading: false,
            walk: None,
            looks: Default::default(),
            lacking: None,
            tick_us: u64::MAX,
        });
        self.note(|| format!("host {host} registers as {id}"));
        let looks = [HostEvent::Heartbeat, HostEvent::Claim, HostEvent::Timers, HostEvent::Inbox];
        for look in looks.into_iter().chain([HostEvent::Sweep, HostEvent::Lacking, HostEvent::Backlog]) {
            let us = self.rng.below(50_000);
            self.tell_later(host, us, look);
        }
    }

    /// Something happens to a host in its present term, later.
    pub(super) fn tell_later(&mut self, host: usize, us: u64, event: HostEvent) {
        let epoch = self.hosts[host].epoch;
        self.after(us, Event::Host(host, epoch, event));
    }

    /// A term is over; whatever was under way in it is gone. Another one begins.
    pub(super) fn end_term(&mut self, host: usize, why: &str, down_us: u64) {
        let found = &mut self.hosts[host];
        let Some(term) = found.term.take() else { return };
        found.activations += term.scheduler.figures().activations;
        (found.crash_in, found.next_reply, found.misreads) = (None, None, false);
        found.armed.retain(|(_, external)| !external.is_fault());
        drop(term);
        self.note(|| format!("the term of host {host} is over: {why}"));
        self.after(down_us, Event::Register(host));
    }

    /// A host dies.
    pub(super) fn crash(&mut self, host: usize) {
        let down_us = 100_000 + self.rng.below(5_000_000);
        self.end_term(host, "it was killed", down_us);
    }
}
