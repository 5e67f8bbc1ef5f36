//! What a guest makes of its start goes with the start in one append, as long as it comes in time.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::sync::Arc;
use std::time::Duration;

use backstitch_core::matcher::{Moment, Queue};
use backstitch_core::task::LeaseGrant;
use backstitch_core::{
    Command, Digest, HostId, Json, Op, ProjectionChanges, RunId, Scope, Seed, Shard, StartOptions, Status,
    TaskLease, TenantId,
};
use backstitch_ledger::{Acks, Item, Outcome};
use backstitch_scheduler::{
    Action, Activated, ActivationResult, Config, Env, Input, Job, Now, RunIdentity, Scheduler, Start,
};
use uuid::Uuid;

/// A host that serves nothing and has its lease.
struct Quiet;

/// Nobody waits for an answer.
struct Unheard;

impl Env for Quiet {
    type Program = ();
    type Guest = ();
    type Room = ();
    type Batch = ();
    type Reply<T> = Unheard;
    type Reservation = ();

    fn workflow(&self, _: Scope, _: &Arc<str>) -> Option<Digest> {
        None
    }

    fn activity(&self, _: Scope, _: &str, _: &str) -> Option<Digest> {
        None
    }

    fn program(&self, _: Digest) -> Option<()> {
        None
    }

    fn reserve(&mut self, _: &Queue, _: &str) -> Option<((), LeaseGrant)> {
        None
    }

    fn has_lease(&self) -> bool {
        true
    }

    fn is_cautious(&self) -> bool {
        false
    }

    fn is_short_of_memory(&self) -> bool {
        false
    }

    fn new_id(&mut self) -> Uuid {
        Uuid::from_u128(7)
    }

    fn new_task_lease(&mut self) -> TaskLease {
        TaskLease(Uuid::from_u128(8))
    }

    fn new_seed(&mut self) -> Seed {
        Seed([9; 32])
    }
}

/// A scheduler, what it wants written, and what its guests are given.
struct Host {
    scheduler: Scheduler<Quiet>,
    appends: Vec<Item>,
    jobs: Vec<Job<Quiet>>,
}

impl Host {
    /// One on which guests of the component were seen to come back.
    fn new() -> Self {
        let config = Config {
            host: HostId(Uuid::from_u128(1)),
            began: Moment::default(),
            activations: 0,
            warm_runs_max: 10,
            attempts_max: 10,
            check_activations: false,
        };
        let scheduler = Scheduler::new(config, Quiet);
        let mut host = Self { scheduler, appends: Vec::new(), jobs: Vec::new() };
        host.start(1, 0);
        let started = host.appends.pop().unwrap();
        host.on(0, Input::Acknowledged(committed(&started)));
        let job = host.jobs.pop().unwrap();
        host.come_back(0, &job);
        let slept = host.appends.pop().unwrap();
        host.on(0, Input::Acknowledged(committed(&slept)));
        host
    }

    fn on(&mut self, at_us: u64, input: Input<Quiet>) {
        let now = Now { at: Moment(Duration::from_micros(at_us)), ms: 1_000 };
        for action in self.scheduler.on(now, input) {
            match action {
                Action::Append(item) => self.appends.push(item),
                Action::Activate(job) => self.jobs.push(job),
                _ => {}
            }
        }
    }

    fn start(&mut self, run: u128, at_us: u64) {
        let identity = RunIdentity {
            scope: Scope { shard: Shard(0), tenant: TenantId::DEFAULT },
            run: RunId(Uuid::from_u128(run)),
            workflow_id: format!("run-{run}").into(),
            generation: 0,
            workflow: "sleeper".into(),
            digest: Digest([1; 32]),
            parent: None,
        };
        let input = Json::new("null").unwrap();
        let options = Arc::new(StartOptions::default());
        self.on(at_us, Input::Start(Start { identity, options, program: (), input, reply: Unheard }));
    }

    /// The guest of a job sleeps for an hour.
    fn come_back(&mut self, at_us: u64, job: &Job<Quiet>) {
        let (run, activation) = job.key();
        let sleep = Command::StartTimer { ms: 3_600_000 };
        let result = ActivationResult {
            guest: (),
            commands: vec![(Op(0), sleep, true)],
            status: Status::Blocked,
            projection: ProjectionChanges::default(),
            replayed: true,
            inline: Vec::new(),
            next: None,
        };
        self.on(at_us, Input::Activated(Activated { run, activation, result: Ok(result) }));
    }
}

fn committed(item: &Item) -> Acks {
    Acks { tickets: vec![item.ticket], outcome: Outcome::Committed { refused: Vec::new() } }
}

#[test]
fn a_start_and_what_its_guest_makes_of_it_are_one_append() {
    let mut host = Host::new();
    host.start(2, 0);
    assert!(host.appends.is_empty(), "the start waits for its guest");
    let job = host.jobs.pop().unwrap();
    host.come_back(500, &job);
    let [item] = &host.appends[..] else { panic!("{:?}", host.appends) };
    assert_eq!((item.append.new_runs.len(), item.append.rows.len()), (1, 1));
}

#[test]
fn what_a_guest_made_in_time_is_not_torn_from_its_start_by_inputs_that_came_before_it() {
    let mut host = Host::new();
    host.start(2, 0);
    let job = host.jobs.pop().unwrap();
    // The driver has taken both of these when it comes to the first, and that is late.
    host.start(3, 5_000);
    host.come_back(5_000, &job);
    let [item] = &host.appends[..] else { panic!("{:?}", host.appends) };
    assert_eq!((item.append.new_runs.len(), item.append.rows.len()), (1, 1));
}

#[test]
fn a_start_does_not_wait_for_a_guest_that_takes_long() {
    let mut host = Host::new();
    host.start(2, 0);
    let job = host.jobs.pop().unwrap();
    let deadline = host.scheduler.next_deadline().unwrap();
    assert_eq!(deadline, Moment(Duration::from_millis(1)));
    host.on(999, Input::Tick);
    assert!(host.appends.is_empty());
    host.on(1_000, Input::Tick);
    assert_eq!(host.appends[0].append.rows.len(), 0, "the start alone");
    assert_eq!(host.scheduler.next_deadline(), None);
    host.come_back(9_000, &job);
    let [_, item] = &host.appends[..] else { panic!("{:?}", host.appends) };
    assert_eq!((item.append.new_runs.len(), item.append.rows.len()), (0, 1));
}
