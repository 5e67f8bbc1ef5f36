//! Clusters in simulated time, with faults: what is promised holds for every seed.
//!
//! A seed that finds a defect means something else as soon as plans are drawn otherwise. So what is kept of it is a mutant in
//! `mutants.txt`, which puts the defect back.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::SEEDS;
use simulation::cluster::{Cluster, External, Plan};

fn play(seed: u64) -> Option<String> {
    let failure = Cluster::new(Plan::new(seed)).run().failure?;
    Some(format!("seed {seed}: {} (./x simulate --seed {seed} shows what led to it)", failure.what))
}

/// Plays seeds on all cores; what failed.
fn play_all(seeds: std::ops::Range<u64>) -> Vec<String> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let play_some = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.len() > 3 {
                return failed;
            }
            failed.extend(play(seed));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(play_some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn what_is_promised_holds_in_every_cluster() {
    let failed = play_all(0..SEEDS);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in 0..20 {
        let [one, other] = [0, 1].map(|_| Cluster::new(Plan::new(seed)).with_log().run());
        assert_eq!(one.log, other.log, "seed {seed}");
        assert!(one.steps > 100 && one.steps == other.steps, "seed {seed}");
    }
}

#[test]
fn every_kind_of_fault_comes_up() {
    let kinds = |plan: Plan| {
        plan.events.into_iter().filter(|(_, event)| event.is_fault()).map(|(_, event)| kind(&event))
    };
    let met: BTreeSet<String> = (0..500).map(Plan::new).flat_map(kinds).collect();
    assert_eq!(met.len(), 16, "{met:?}");
}

/// What no scheduler is told of, and happens around it.
#[test]
fn whatever_clients_workers_and_operators_do_comes_up() {
    let mut met: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..400 {
        for ((name, _), times) in Cluster::new(Plan::new(seed)).run().coverage {
            *met.entry(name).or_default() += times;
        }
    }
    let names = "update-refused update-unanswered update-answered update-failed reset fork misread \
        with-an-action heartbeat-kept heartbeat-told heartbeat-to-stop heartbeat-too-late component-awaited component-missing \
        read-short";
    for name in names.split_whitespace() {
        assert!(met.contains_key(name), "{name} in {met:?}");
    }
}

fn kind(event: &External) -> String {
    match event {
        External::At { then, .. } => format!("At {}", kind(then)),
        event => format!("{event:?}").chars().take_while(char::is_ascii_alphanumeric).collect(),
    }
}
