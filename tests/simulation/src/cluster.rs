//! A cluster in simulated time: hosts made of the real scheduler and the real task matcher, on the model of the database.
//!
//! One thread plays everything: what takes time is an event, and one event happens after the other. So a seed says all
//! that happens, and the same seed does the same again. From outside come what clients ask for and faults ([`Plan`]);
//! how long each step takes is drawn from the seed as well, so that completions overtake each other.
//!
//! | played | by |
//! |---|---|
//! | scheduler, task matcher, guests' replay | the code that a host runs |
//! | database, writer | [`crate::model`], which is held to Postgres |
//! | driver, pollers, reads, guest threads, attempts | this module, as `engine::driver`, `watch`, `loads`, `guests` do |
//! | workflows | [`crate::script`] |
//! | remote workers, clients, operators | this module |
//!
//! What has to hold is in `checks`: at every action, and of all ledgers when everything has come to its end. Faults cease
//! after 40 seconds of simulated time; what is open an hour later is stuck.

mod beside;
mod checks;
mod driver;
mod ends;
mod env;
mod event;
mod expected;
mod external;
mod host;
mod names;
mod plan;
mod pollers;
mod reads;
mod report;
mod terms;
mod watch;
mod workers;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use backstitch_core::{Digest, Scope, Shard, TaskLease};
use uuid::Uuid;

use crate::model::Database;
use crate::rng::Rng;
use crate::script::{ACTIVITIES_HERE, ACTIVITY_INLINE, WORKFLOWS};
use beside::Beside;
use checks::{Broken, Checks};
use env::{Directory, Program, TENANT};
use event::{Event, Queue, WorkerEvent};
use host::Host;
pub use plan::{External, FAULTS_END_US, Plan};
pub use report::{Coverage, Failure, Outcome};
use workers::{Answering, Worker};

/// The database's clock when a simulation begins, in milliseconds since the epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Commits that a failover can take back.
const COMMITS_KEPT: usize = 16;
/// How long everything may take once faults have ceased, in microseconds.
const LIVE_US: u64 = 3_600_000_000;
/// How long hosts may have something in memory of runs that have all closed, in microseconds.
const REST_US: u64 = 60_000_000;
/// How often an operator looks after runs that are parked or paused, once faults have ceased.
const OPERATOR_US: u64 = 2_000_000;
/// Events that one plan may lead to: more is a circle of them.
const EVENTS_MAX: u64 = 400_000;

/// See the module.
pub struct Cluster {
    plan: Plan,
    rng: Rng,
    now_us: u64,
    /// How far the database's clock is from the simulated one, in milliseconds.
    database_ms: i64,
    database: Database,
    directory: Rc<RefCell<Directory>>,
    hosts: Vec<Host>,
    workers: Vec<Worker>,
    queue: Queue,
    checks: Checks,
    beside: Beside,
    /// Since when everything has ended that was begun.
    over_us: Option<u64>,
    broken: Option<Broken>,
    /// Who waits for an answer.
    answering: BTreeMap<u64, Answering>,
    replies: u64,
    /// Tasks whose workers know what became of their answers.
    told: BTreeSet<TaskLease>,
    ids: u128,
    coverage: Coverage,
    log: Option<Vec<String>>,
    steps: u64,
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
            self.after(1_000, Event::Worker(worker, WorkerEvent::Poll));
        }
        for place in 0..self.plan.events.len() {
            self.queue.push(self.plan.events[place].0, Event::External(place));
        }
    }

    /// Plays until everything has come to its end, or something does not hold. A panic does not hold either.
    pub fn run(mut self) -> Outcome {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.play())) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            self.broken = Some(format!("a panic: {text}"));
        }
        self.into_outcome()
    }

    fn play(&mut self) {
        let mut operator_us = FAULTS_END_US + OPERATOR_US;
        while self.broken.is_none() {
            let Some((at_us, event)) = self.queue.pop() else { break };
            self.now_us = self.now_us.max(at_us);
            self.steps += 1;
            if self.now_us > operator_us {
                operator_us = self.now_us + OPERATOR_US;
                if self.is_over() && self.rests() {
                    break;
                }
                self.operate();
            }
            if self.now_us > FAULTS_END_US + LIVE_US || self.steps > EVENTS_MAX {
                break;
            }
            self.happen(event);
        }
        if self.broken.is_none() {
            self.broken = self.end().err();
        }
    }

    /// Whether hosts have put away what they had of runs that have all closed. That takes a little while.
    fn rests(&mut self) -> bool {
        let over_us = *self.over_us.get_or_insert(self.now_us);
        let rest = self.is_at_rest();
        if self.now_us > over_us + REST_US {
            self.check(rest.clone());
        }
        rest.is_ok()
    }

    /// Whether everything has ended that was begun.
    fn is_over(&self) -> bool {
        self.now_us > FAULTS_END_US + OPERATOR_US
            && self.database.runs().values().all(|status| !status.is_open())
    }

    fn end(&self) -> Result<(), Broken> {
        self.checks.all(&self.database, true)?;
        self.checks.messages(&self.database)?;
        self.expect_ends()?;
        self.expect_confluent()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::External(place) => {
                let external = self.plan.events[place].1.clone();
                self.note(|| format!("{external:?}"));
                if matches!(external, External::Signal { .. }) && self.rng.chance(250) {
                    // A client that is not sure says it once more.
                    let us = self.delay(500_000);
                    self.after(us, Event::External(place));
                }
                self.external(external);
            }
            Event::Register(host) => self.register(host),
            Event::Worker(worker, event) => self.worker(worker, event),
            Event::Answer { task, output, tries } => self.answer(task, output, tries),
            Event::Settle { task, output } => self.settle(&task, output),
            Event::Host(host, epoch, event) => {
                let Some(frozen_until_us) = self.is_meant(host, epoch) else { return };
                if frozen_until_us > self.now_us {
                    self.queue.push(frozen_until_us, Event::Host(host, epoch, event));
                } else {
                    self.host(host, event);
                }
            }
        }
    }

    /// Until when a host is frozen, if it is still in this term.
    fn is_meant(&self, host: usize, epoch: u64) -> Option<u64> {
        let found = &self.hosts[host];
        (found.epoch == epoch && found.term.is_some()).then_some(found.frozen_until_us)
    }

    fn after(&mut self, us: u64, event: Event) {
        self.queue.push(self.now_us + us, event);
    }

    /// How long something takes: mostly `usual`, now and then much longer.
    fn delay(&mut self, usual_us: u64) -> u64 {
        let factor = match self.rng.below(40) {
            0 => 100,
            1..=3 => 10,
            _ => 1,
        };
        1 + self.rng.below(usual_us * factor)
    }

    /// The database's clock, in milliseconds since the epoch.
    fn database_now_ms(&self) -> u64 {
        (EPOCH_MS + self.now_us / 1_000).saturating_add_signed(self.database_ms)
    }

    fn scope(&self) -> Scope {
        Scope { shard: Shard(0), tenant: TENANT }
    }

    /// An identity that nobody else has.
    fn new_id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128((u128::from(self.database_now_ms()) << 80) | (0xc11e << 64) | self.ids)
    }

    /// A host that is up and not frozen, by chance.
    fn some_host(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.hosts.len())
            .filter(|host| {
                self.hosts[*host].term.is_some() && self.hosts[*host].frozen_until_us <= self.now_us
            })
            .collect();
        (!up.is_empty()).then(|| *self.rng.pick(&up))
    }

    fn check(&mut self, holds: Result<(), Broken>) {
        if let Err(broken) = holds {
            self.broken.get_or_insert(broken);
        }
    }

    /// The same, of what is void when the database has lost what it had committed.
    fn check_unless_lost(&mut self, holds: Result<(), Broken>) {
        if !self.checks.has_lost_commits {
            self.check(holds);
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>12.3} ms  {}", self.now_us as f64 / 1_000.0, line()));
        }
    }
}
