//! What a cluster has, and what everything in it needs: time, chance, a log.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use backstitch_core::{Digest, Scope, Shard, TaskLease};
use uuid::Uuid;

use super::beside::Beside;
use super::checks::{Broken, Checks};
use super::env::{Directory, Program, TENANT};
use super::event::{Event, Queue, WorkerEvent};
use super::host::Host;
use super::plan::{Plan, Slow};
use super::report::Coverage;
use super::said::Said;
use super::sent::Sent;
use super::worker::{Answering, Worker};
use crate::model::Database;
use crate::rng::Rng;
use crate::script::{ACTIVITIES_HERE, ACTIVITY_INLINE, WORKFLOWS};

/// The database's clock when a simulation begins, in milliseconds since the epoch.
pub(super) const EPOCH_MS: u64 = 1_700_000_000_000;
/// Commits that a failover can take back.
const COMMITS_KEPT: usize = 16;

/// A cluster in simulated time.
pub struct Cluster {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) now_us: u64,
    /// How far the database's clock is from the simulated one, in milliseconds.
    pub(super) database_ms: i64,
    pub(super) database: Database,
    pub(super) directory: Rc<RefCell<Directory>>,
    pub(super) hosts: Vec<Host>,
    pub(super) workers: Vec<Worker>,
    pub(super) queue: Queue,
    pub(super) checks: Checks,
    pub(super) beside: Beside,
    /// What attempts have said of how far they have come.
    pub(super) said: Said,
    /// What became of updates and forks.
    pub(super) sent: Sent,
    /// Since when everything has ended that was begun.
    pub(super) over_us: Option<u64>,
    pub(super) broken: Option<Broken>,
    /// Who waits for an answer.
    pub(super) answering: BTreeMap<u64, Answering>,
    pub(super) replies: u64,
    /// Tasks whose workers know what became of their answers.
    pub(super) told: BTreeSet<TaskLease>,
    pub(super) ids: u128,
    pub(super) coverage: Coverage,
    pub(super) log: Option<Vec<String>>,
    pub(super) steps: u64,
}

impl Cluster {
    /// A cluster in which nothing has happened.
    pub fn new(plan: Plan) -> Self {
        let mut directory = Directory::default();
        for (number, (name, script)) in WORKFLOWS.iter().zip(&plan.scripts).enumerate() {
            let digest = Digest([number as u8; 32]);
            directory.workflows.insert((*name).to_owned(), digest);
            directory.programs.insert(digest, Program { script: Arc::new(script.clone()) });
        }
        let served = ACTIVITIES_HERE.iter().chain([&ACTIVITY_INLINE]);
        directory.activities = served.map(|name| (*name).to_owned()).collect();
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let mut cluster = Self {
            rng: rng.fork(),
            now_us: 0,
            database_ms: 0,
            database: Database::new(Shard(0), if plan.loses_commits() { COMMITS_KEPT } else { 0 }),
            directory: Rc::new(RefCell::new(directory)),
            hosts: (0..plan.hosts).map(|_| Host::default()).collect(),
            workers: (0..plan.workers).map(|_| Worker::default()).collect(),
            queue: Queue::default(),
            checks: Checks::default(),
            beside: Beside::default(),
            said: Said::default(),
            sent: Sent::default(),
            over_us: None,
            broken: None,
            answering: BTreeMap::new(),
            replies: 0,
            told: BTreeSet::new(),
            ids: 0,
            coverage: Coverage::default(),
            log: None,
            steps: 0,
            plan,
        };
        cluster.begin();
        cluster
    }

    /// One that writes down what happens.
    #[must_use]
    pub fn with_log(self) -> Self {
        Self { log: Some(Vec::new()), ..self }
    }

    fn begin(&mut self) {
        for host in 0..self.hosts.len() {
            self.after(0, Event::Register(host));
        }
        for worker in 0..self.workers.len() {
            self.after(self.plan.workers_from_us, Event::Worker(worker, WorkerEvent::Poll));
        }
        for place in 0..self.plan.events.len() {
            self.queue.push(self.plan.events[place].0, Event::External(place));
        }
    }

    pub(super) fn after(&mut self, us: u64, event: Event) {
        self.queue.push(self.now_us + us, event);
    }

    /// How long something takes: mostly `usual`, now and then much longer.
    pub(super) fn delay(&mut self, usual_us: u64) -> u64 {
        let factor = match self.rng.below(40) {
            0 => 100,
            1..=3 => 10,
            _ => 1,
        };
        1 + self.rng.below(usual_us * factor)
    }

    /// The same, of what may take its time in this seed.
    pub(super) fn delay_of(&mut self, what: Slow, usual_us: u64) -> u64 {
        let us = self.delay(usual_us);
        if self.plan.slow.contains(&what) && self.rng.chance(400) { us + self.rng.below(500_000) } else { us }
    }

    /// The database's clock, in milliseconds since the epoch.
    pub(super) fn database_now_ms(&self) -> u64 {
        (EPOCH_MS + self.now_us / 1_000).saturating_add_signed(self.database_ms)
    }

    pub(super) fn scope(&self) -> Scope {
        Scope { shard: Shard(0), tenant: TENANT }
    }

    /// An identity that nobody else has.
    pub(super) fn new_id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128((u128::from(self.database_now_ms()) << 80) | (0xc11e << 64) | self.ids)
    }

    /// A host that is up and not frozen, by chance.
    pub(super) fn some_host(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.hosts.len())
            .filter(|host| {
                self.hosts[*host].term.is_some() && self.hosts[*host].frozen_until_us <= self.now_us
            })
            .collect();
        (!up.is_empty()).then(|| *self.rng.pick(&up))
    }

    pub(super) fn check(&mut self, holds: Result<(), Broken>) {
        if let Err(broken) = holds {
            self.broken.get_or_insert(broken);
        }
    }

    /// The same, of what is void when the database has lost what it had committed.
    pub(super) fn check_unless_lost(&mut self, holds: Result<(), Broken>) {
        if !self.checks.has_lost_commits {
            self.check(holds);
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>12.3} ms  {}", self.now_us as f64 / 1_000.0, line()));
        }
    }
}
