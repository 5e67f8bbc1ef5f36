//! The table of mutants fits the code that it changes. That each is noticed is seen by `./x mutants`, which takes long.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::collections::BTreeSet;
use std::path::Path;

use simulation::mutants::{Mutant, parse};

fn mutants() -> Vec<Mutant> {
    parse(include_str!("../mutants.txt")).unwrap()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn every_mutant_changes_one_place_of_the_code() {
    for mutant in mutants() {
        let source = std::fs::read_to_string(root().join(&mutant.file)).unwrap();
        let applied = mutant.apply(&source);
        assert!(applied.is_ok_and(|applied| applied != source), "{} in {}", mutant.name, mutant.file);
    }
}

#[test]
fn there_are_mutants_enough_and_each_has_a_name_of_its_own() {
    let names: BTreeSet<String> = mutants().into_iter().map(|mutant| mutant.name).collect();
    assert!(names.len() >= 40 && names.len() == mutants().len(), "{} of {}", names.len(), mutants().len());
}

/// Files of the scheduler that decide nothing: they say what there is, and hand it on.
const NOTHING: [&str; 13] = [
    "action.rs",
    "derived.rs",
    "env.rs",
    "figures.rs",
    "identity.rs",
    "in_flight.rs",
    "input.rs",
    "job.rs",
    "lib.rs",
    "loaded.rs",
    "on_commit.rs",
    "speculative.rs",
    "waiting.rs",
];

#[test]
fn every_file_of_the_scheduler_that_decides_has_a_mutant() {
    let changed: BTreeSet<String> = mutants().into_iter().map(|mutant| mutant.file).collect();
    let folder = "host/scheduler/src";
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_changed = changed.contains(&format!("{folder}/{name}"));
        assert!(is_changed || NOTHING.contains(&&*name), "{name} has no mutant");
    }
}
