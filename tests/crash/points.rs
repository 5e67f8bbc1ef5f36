//! A host dies at every place that `backstitch::failpoint` names.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use backstitch::failpoint::POINTS;
use backstitch_core::limits;
use futures::{FutureExt as _, StreamExt as _};

use crate::load::{self, Started, check_attempts, deployed_database, options, overdue};
use crate::support::{TestHost, connect};

/// Whom the crash point is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// The host that was given the load. Another one finishes it.
    Owner,
    /// The same, but it carries out no call on the thread of the guest that makes it.
    Waiting,
    /// The host that takes the load over from one that was killed. A third one finishes it.
    Heir,
    /// The host that was given the load; it loses a reply, lives on and finishes it itself.
    Survivor,
}

use Who::{Heir, Owner, Survivor, Waiting};

/// Each point with the visit at which it strikes: early, and in the thick of it where that is another place.
/// A load makes at least a statement for each start, and four more for the last order.
const CASES: [(&str, &str, Who); 26] = [
    ("claim-before", "1", Heir),
    ("claim-before", "2", Heir),
    ("claim-after", "1", Heir),
    ("takeover-middle", "1", Heir),
    ("activation-middle", "1", Owner),
    ("activation-middle", "12", Owner),
    ("activation-middle", "1", Heir),
    ("append-before", "1", Owner),
    ("append-before", "7", Owner),
    ("append-before", "12", Owner),
    ("append-sent", "1", Owner),
    ("append-sent", "7", Owner),
    ("append-sent", "12", Owner),
    ("append-sent", "drop", Survivor),
    ("append-after", "1", Owner),
    ("append-after", "7", Owner),
    ("append-after", "12", Owner),
    ("activity-during", "9", Owner),
    ("activity-during", "9", Waiting),
    ("activity-done", "1", Owner),
    ("activity-done", "9", Owner),
    ("activity-done", "1", Waiting),
    ("activity-done", "9", Waiting),
    ("append-sent", "12", Waiting),
    ("append-after", "12", Waiting),
    ("lease-renewal", "4", Owner),
];

/// Cases that run at the same time: most of one is waiting for a lease to run out.
const LANES: usize = 3;

#[test]
fn the_table_names_every_point() {
    let covered: BTreeSet<&str> = CASES.iter().map(|(point, ..)| *point).collect();
    assert_eq!(covered, BTreeSet::from(POINTS));
    assert!(CASES.contains(&("append-sent", "drop", Survivor)));
}

#[tokio::test]
async fn a_host_may_die_anywhere_and_nothing_is_lost_or_done_twice() {
    let checked = futures::stream::iter(CASES).map(|case| async move {
        let held = AssertUnwindSafe(check(case)).catch_unwind().await.is_ok();
        (!held).then_some(case)
    });
    let failed: Vec<_> = checked.buffer_unordered(LANES).filter_map(async |case| case).collect().await;
    assert!(failed.is_empty(), "what must hold did not after a crash at {failed:?}");
}

async fn check((point, visit, who): (&str, &str, Who)) {
    let database = deployed_database().await;
    let crashing = || options(&database).crash(format!("{point}:{visit}"));
    match who {
        Owner | Waiting => {
            let at_once_ms = if who == Waiting { 0 } else { limits::CALLS_AT_ONCE_MS };
            let mut owner = TestHost::start(crashing().arg(format!("--at-once-ms={at_once_ms}"))).await;
            let started = load::start(&owner).await;
            owner.crashed().await;
            finish(&database, vec![(owner, BTreeSet::new())], &started).await;
        }
        Heir => {
            let mut owner = TestHost::start(options(&database)).await;
            let started = load::start(&owner).await;
            owner.kill();
            overdue(&database).await;
            let done = load::done(&mut connect(&database).await).await;
            let mut hosts = vec![(owner, BTreeSet::new())];
            if let Some(mut heir) = TestHost::try_start(crashing()).await {
                heir.crashed().await;
                hosts.push((heir, done));
            }
            finish(&database, hosts, &started).await;
        }
        Survivor => {
            let host = TestHost::start(crashing()).await;
            let started = load::start(&host).await;
            load::finish(&host, &database, &started).await;
            assert!(host.log().contains("the test dropped the reply"), "{}", host.log());
            check_attempts(&database, &[(&host, BTreeSet::new())]).await;
        }
    }
}

/// A guest may be ahead of its ledger, but nothing outside it is.
#[tokio::test]
async fn no_attempt_begins_before_the_start_and_the_outcomes_that_led_to_it_are_committed() {
    let mut seen = 0;
    for visit in 1..=6 {
        let database = deployed_database().await;
        let crashing = options(&database).crash(format!("append-before:{visit}")).arg("--at-once-ms=0");
        let mut host = TestHost::start(crashing).await;
        load::start_one(&host, "undone").await;
        host.crashed().await;
        let mut connection = connect(&database).await;
        let done = load::done(&mut connection).await;
        let runs = load::count(&mut connection, "select count(*) from runs").await;
        for load::Attempt { call: (run, op), .. } in load::attempts(&host) {
            assert_eq!(runs, 1, "an attempt of a run that was never started, at {visit}");
            // Its calls are made one after the other.
            let missing: Vec<u64> = (0..op).filter(|op| !done.contains(&(run.clone(), *op))).collect();
            assert!(missing.is_empty(), "op {op} was begun at {visit} without outcomes of {missing:?}");
            seen += 1;
        }
    }
    assert!(seen > 0, "there was no attempt at all");
}

/// Another host finishes what the dead have left.
async fn finish(database: &str, mut hosts: Vec<(TestHost, BTreeSet<load::Call>)>, started: &Started) {
    let done = load::done(&mut connect(database).await).await;
    let last = TestHost::start(options(database)).await;
    load::finish(&last, database, started).await;
    hosts.push((last, done));
    let hosts: Vec<_> = hosts.iter().map(|(host, done)| (host, done.clone())).collect();
    check_attempts(database, &hosts).await;
}
