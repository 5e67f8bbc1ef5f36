//! What happens to a cluster from outside: what clients ask for, and faults. Drawn from a seed before anything runs, so that
//! a plan which fails can be made smaller by leaving parts of it out.

use crate::rng::Rng;
use crate::script::{CHILD_IDS, SIGNALS, Script, UPDATES, WORKFLOW_IDS, WORKFLOWS};

/// Faults begin no later than this, in microseconds. From then on everything has to come to its end.
pub const FAULTS_END_US: u64 = 40_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What everything else is drawn from.
    pub seed: u64,
    /// Hosts.
    pub hosts: usize,
    /// Remote workers.
    pub workers: usize,
    /// When they come, in microseconds.
    pub(super) workers_from_us: u64,
    /// Attempts of activities that each host makes at a time.
    pub(super) attempts_max: usize,
    /// What takes its time.
    pub(super) slow: Vec<Slow>,
    /// What the workflows do, by their numbers.
    pub scripts: Vec<Script>,
    /// When what happens, in microseconds from the beginning, in this order.
    pub events: Vec<(u64, External)>,
}

/// Something that comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what happens")]
pub enum External {
    /// A client starts a run.
    Start {
        workflow: usize,
        id: String,
        number: u64,
        delay_ms: Option<u64>,
        timeout_ms: Option<u64>,
    },
    /// A client sends a signal.
    Signal {
        id: String,
        name: &'static str,
        number: u64,
    },
    /// A client makes an update, and waits for its answer.
    Update {
        id: String,
        name: &'static str,
        number: u64,
    },
    Cancel {
        id: String,
    },
    Terminate {
        id: String,
    },
    Pause {
        id: String,
    },
    Resume {
        id: String,
    },
    /// An operator lets a run go on that is parked.
    Retry {
        id: String,
    },
    Repair {
        id: String,
    },
    /// An operator has the next run of a workflow id begin with the first rows of this one, which ends.
    Reset {
        id: String,
        number: u64,
        drops_signals: bool,
    },
    /// An operator begins a run of another workflow id with the first rows of this one, which goes on.
    Fork {
        id: String,
        to: &'static str,
        number: u64,
    },
    /// A host dies as soon as it has carried out so many more actions; none: now.
    Crash {
        host: usize,
        after_actions: u32,
    },
    /// A host is stopped as an operator stops it.
    Stop {
        host: usize,
    },
    /// A host does nothing for so long, and then goes on.
    Freeze {
        host: usize,
        us: u64,
    },
    /// The next statement of a host's writer is committed, and its reply is lost.
    LoseReply {
        host: usize,
    },
    /// The next statement of a host's writer is lost.
    LoseStatement {
        host: usize,
    },
    /// A host is declared dead that is not.
    DeclareDead {
        host: usize,
    },
    /// Another server takes over, which lacks so many commits.
    Failover {
        commits: u64,
    },
    /// The database's clock steps.
    ClockStep {
        ms: i64,
    },
    /// A component is deployed that serves an activity of remote workers.
    Serve {
        activity: &'static str,
    },
    /// A host cannot make a component ready for so long; or there is no use in trying.
    Unloadable {
        host: usize,
        workflow: usize,
        us: u64,
        is_final: bool,
    },
    /// The next ledger that a host reads does not come as it was written.
    Misread {
        host: usize,
    },
    /// Guests of a host have too much memory.
    ShortOfMemory {
        host: usize,
    },
    /// Something of the above happens, but only with the next action of this kind that a host carries out: the first word of
    /// that in the log. What is asked of a run waits for an action that is about that run.
    At {
        host: usize,
        action: &'static str,
        then: Box<External>,
    },
}

impl External {
    /// Whether it is a fault, or there to mend one, and not something that a client asks for.
    pub fn is_fault(&self) -> bool {
        let what = self.what();
        let is_asked = matches!(what, Self::Start { .. }) || what.asked_of().is_some();
        !is_asked || matches!(what, Self::Repair { .. })
    }

    /// What happens, whenever that is.
    pub fn what(&self) -> &Self {
        match self {
            Self::At { then, .. } => then.what(),
            now => now,
        }
    }

    /// Whom a client or an operator asks something of.
    pub(super) fn asked_of(&self) -> Option<&str> {
        match self {
            Self::Signal { id, .. }
            | Self::Update { id, .. }
            | Self::Cancel { id }
            | Self::Terminate { id }
            | Self::Pause { id }
            | Self::Resume { id }
            | Self::Retry { id }
            | Self::Repair { id }
            | Self::Reset { id, .. }
            | Self::Fork { id, .. } => Some(id),
            _ => None,
        }
    }
}

/// What takes its time in some seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slow {
    Guests,
    Attempts,
    Reads,
    Writes,
}

const SLOW: [Slow; 4] = [Slow::Guests, Slow::Attempts, Slow::Reads, Slow::Writes];

/// Ids of confluent runs. Nobody sends them anything.
pub(super) const CONFLUENT_IDS: [&str; 3] = ["cf0", "cf1", "cf2"];

/// Ids of forks: of runs that are not confluent, and of such as are.
const FORK_IDS: [&str; 2] = ["fk0", "fk1"];
const CONFLUENT_FORK_IDS: [&str; 2] = ["cfk0", "cfk1"];

/// Actions with which hosts die, by the first word of each in the log.
const CRASHES: [&str; 10] =
    ["activate", "append", "attempt", "begin", "deferred", "deliver", "find", "post", "read", "settled"];

/// Actions with which clients and operators ask for something of a run, which is what the action is about.
const ASKED_AT: [&str; 6] = ["activate", "activate", "append", "attempt", "deliver", "read"];

/// Actions with which failovers come: a run is read, or somebody has just been told of what was committed.
const FAILOVERS: [&str; 8] =
    ["attempt", "closed", "deliver", "parked", "parked", "parked", "read", "settled"];

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let scripts = vec![
            Script::random(&mut rng),
            Script::random(&mut rng),
            Script::confluent(&mut rng),
            Script::confluent(&mut rng),
        ];
        let (hosts, workers) = (1 + rng.below(3) as usize, rng.below(3) as usize + 1);
        let mut events = Vec::new();
        for _ in 0..=rng.below(4) {
            let id = (*rng.pick(&WORKFLOW_IDS)).to_owned();
            let start = start(&mut rng, id, false);
            events.push((rng.below(FAULTS_END_US / 2), start));
        }
        let updates: Vec<_> = events.iter().flat_map(|(at, start)| updates(&mut rng, *at, start)).collect();
        events.extend(updates);
        for id in CONFLUENT_IDS.iter().take(rng.below(4) as usize) {
            let start = start(&mut rng, (*id).to_owned(), true);
            events.push((rng.below(FAULTS_END_US / 4), start));
        }
        let ids: Vec<String> = events.iter().filter_map(|(_, event)| started(event)).collect();
        events.extend(asked_of_runs(&mut rng, hosts, &ids));
        events.extend(faults(&mut rng, hosts, &ids));
        events.sort_by_key(|(at, _)| *at);
        let slow = SLOW.into_iter().filter(|_| rng.chance(300)).collect();
        let attempts_max = 1 + rng.below(3) as usize;
        let workers_from_us = if rng.chance(200) { FAULTS_END_US } else { 1_000 };
        Self { seed, hosts, workers, workers_from_us, attempts_max, slow, scripts, events }
    }

    /// How many guests each host keeps in memory: from one, so that they come and go all the time.
    pub(super) fn warm_max(&self) -> usize {
        1 + (self.seed / 4 % 3) as usize
    }

    /// Whether a host ever cannot make a component ready.
    pub(super) fn lacks_components(&self) -> bool {
        self.events.iter().any(|(_, event)| matches!(event, External::Unloadable { .. }))
    }

    /// Whether a host ever reads a ledger that is not as it was written.
    pub(super) fn misreads(&self) -> bool {
        self.events.iter().any(|(_, event)| matches!(event, External::Misread { .. }))
    }

    /// Whether the database ever loses commits.
    pub(super) fn loses_commits(&self) -> bool {
        self.events.iter().any(|(_, event)| matches!(event.what(), External::Failover { .. }))
    }
}

fn at(host: usize, action: &'static str, then: External) -> External {
    External::At { host, action, then: Box::new(then) }
}

fn start(rng: &mut Rng, id: String, is_confluent: bool) -> External {
    let workflow = if is_confluent { 2 + rng.below(2) } else { rng.below(4) } as usize;
    let may = |rng: &mut Rng, per_mille| !is_confluent && rng.chance(per_mille);
    let delay_ms = may(rng, 150).then(|| rng.below(5_000));
    let timeout_ms = may(rng, 150).then(|| 1_000 + rng.below(20_000));
    External::Start { workflow, id, number: rng.next_u64(), delay_ms, timeout_ms }
}

/// Updates of a run while it is young, if its workflow may wait for some.
fn updates(rng: &mut Rng, started_us: u64, start: &External) -> Vec<(u64, External)> {
    let External::Start { id, workflow: 0..2, .. } = start else { return Vec::new() };
    let count = if rng.chance(600) { 1 + rng.below(2) } else { 0 };
    let update = |_| {
        let update =
            External::Update { id: id.clone(), name: UPDATES[rng.below(2) as usize], number: rng.next_u64() };
        (started_us + rng.below(5_000_000), update)
    };
    (0..count).map(update).collect()
}

/// Whose start this is, if others may send it something.
fn started(event: &External) -> Option<String> {
    match event {
        External::Start { id, .. } if !CONFLUENT_IDS.contains(&id.as_str()) => Some(id.clone()),
        _ => None,
    }
}

/// A run that is started, or now and then one that may not be there.
fn some_id(rng: &mut Rng, ids: &[String]) -> String {
    if rng.chance(850) { rng.pick(ids).clone() } else { (*rng.pick(&WORKFLOW_IDS)).to_owned() }
}

/// What clients and operators want of runs. Of every kind a little says less than much of some: each seed has kinds of its
/// own.
fn asked_of_runs(rng: &mut Rng, hosts: usize, ids: &[String]) -> Vec<(u64, External)> {
    let kinds = some_of(rng, ASKED_KINDS, 500);
    let mut events = Vec::new();
    for _ in 0..rng.below(11) {
        let (kind, id) = (*rng.pick(&kinds), some_id(rng, ids));
        let asked = asked(rng, kind, id);
        let is_armed = rng.chance(400);
        // Runs are young for the most part.
        let at_us = rng.below(if is_armed { FAULTS_END_US / 2 } else { FAULTS_END_US });
        if let (External::Pause { id }, true) = (&asked, rng.chance(500)) {
            events.push((at_us + rng.below(2_000_000), External::Resume { id: id.clone() }));
        }
        let (action, host) = (ASKED_AT[rng.below(6) as usize], rng.below(hosts as u64) as usize);
        events.push((at_us, if is_armed { at(host, action, asked) } else { asked }));
    }
    events
}

/// What makes a fault matter that is harmless mostly, and how much later it comes.
fn comes_with(rng: &mut Rng, hosts: usize, ids: &[String], fault: &External) -> Vec<(u64, External)> {
    match fault {
        // The database forgets that a run was parked.
        External::Unloadable { host, .. } | External::Misread { host } if rng.chance(200) => {
            vec![(0, at(*host, "parked", External::Failover { commits: 1 + rng.below(4) }))]
        }
        // Runs come to a host that cannot load them, and are wanted no more.
        External::Unloadable { .. } if rng.chance(600) => {
            let host = rng.below(hosts as u64) as usize;
            let crash = External::Crash { host, after_actions: rng.below(20) as u32 };
            let mut events = vec![(rng.below(1_000_000), crash)];
            for id in ids {
                events.push((rng.below(9_000_000), External::Terminate { id: id.clone() }));
            }
            events
        }
        // What is asked of a run while its ledger is read.
        External::Misread { host } if rng.chance(500) => {
            let asked = ids.iter().map(|id| {
                let id = id.clone();
                let asked =
                    if rng.chance(700) { External::Cancel { id } } else { External::Terminate { id } };
                (0, at(*host, "read", asked))
            });
            asked.collect()
        }
        _ => Vec::new(),
    }
}

fn faults(rng: &mut Rng, hosts: usize, ids: &[String]) -> Vec<(u64, External)> {
    let kinds = some_of(rng, FAULT_KINDS, 300);
    let mut events = Vec::new();
    // Some seeds have none: then everything has to go as if there were no faults at all.
    for _ in 0..rng.below(10) {
        let kind = *rng.pick(&kinds);
        let (at_us, fault) = (rng.below(FAULTS_END_US), fault(rng, hosts, kind));
        events.extend(comes_with(rng, hosts, ids, &fault).into_iter().map(|(us, event)| (at_us + us, event)));
        events.push((at_us, fault));
    }
    if rng.chance(50) {
        // Hosts die over attempts, one after the other: so some are made on trial.
        let first_us = rng.below(FAULTS_END_US / 2);
        for place in 0..6 {
            let host = rng.below(hosts as u64) as usize;
            let crash = at(host, "attempt", External::Crash { host, after_actions: 0 });
            events.push((first_us + place * 3_000_000, crash));
        }
    }
    events
}

/// Kinds out of so many, each with this chance in a thousand, and at least one.
fn some_of(rng: &mut Rng, kinds: u64, per_mille: u64) -> Vec<u64> {
    let at_least = rng.below(kinds);
    (0..kinds).filter(|kind| rng.chance(per_mille) || *kind == at_least).collect()
}

/// How many kinds of things are asked of runs.
const ASKED_KINDS: u64 = 10;

fn asked(rng: &mut Rng, kind: u64, id: String) -> External {
    match kind {
        0 | 1 => External::Signal { id, name: SIGNALS[rng.below(3) as usize], number: rng.next_u64() },
        2 => External::Update { id, name: UPDATES[rng.below(2) as usize], number: rng.next_u64() },
        3 => External::Cancel { id },
        4 => External::Terminate { id },
        5 if rng.chance(600) => External::Pause { id },
        5 => External::Resume { id },
        6 => External::Retry { id },
        7 => External::Repair { id },
        8 => {
            let id = if rng.chance(200) { (*rng.pick(&CHILD_IDS)).to_owned() } else { id };
            External::Reset { id, number: rng.next_u64(), drops_signals: rng.chance(300) }
        }
        _ => {
            let is_confluent = rng.chance(500);
            let place = rng.below(2) as usize;
            let id = if is_confluent { CONFLUENT_IDS[place].to_owned() } else { id };
            let to = if is_confluent { CONFLUENT_FORK_IDS[place] } else { FORK_IDS[place] };
            External::Fork { id, to, number: rng.next_u64() }
        }
    }
}

/// How many kinds of faults there are to draw from.
const FAULT_KINDS: u64 = 13;

fn fault(rng: &mut Rng, hosts: usize, kind: u64) -> External {
    let host = rng.below(hosts as u64) as usize;
    match kind {
        0 => External::Crash { host, after_actions: rng.below(40) as u32 },
        1 => {
            let action = CRASHES[rng.below(10) as usize];
            at(host, action, External::Crash { host, after_actions: 0 })
        }
        2 => External::Stop { host },
        3 => External::Freeze { host, us: rng.below(8_000_000) },
        4 => External::LoseReply { host },
        5 => External::LoseStatement { host },
        6 => External::DeclareDead { host },
        7 if rng.chance(500) => External::Failover { commits: 1 + rng.below(12) },
        7 => {
            let action = FAILOVERS[rng.below(8) as usize];
            at(host, action, External::Failover { commits: 1 + rng.below(4) })
        }
        8 => External::ClockStep { ms: rng.below(4_000) as i64 - 2_000 },
        9 => External::Serve { activity: if rng.chance(500) { "far0" } else { "far1" } },
        10 => {
            let workflow = rng.below(WORKFLOWS.len() as u64) as usize;
            External::Unloadable { host, workflow, us: rng.below(FAULTS_END_US), is_final: rng.chance(500) }
        }
        11 => External::Misread { host },
        _ => External::ShortOfMemory { host },
    }
}
