//! Makes a plan that fails smaller: what happens from outside is left out, piece by piece, as long as it fails in the same
//! way.

use crate::cluster::{Cluster, Plan};

/// How often a smaller plan is tried.
const TRIES: usize = 400;

/// A smaller plan that fails as well, or the same.
pub fn minimise(plan: &Plan) -> Plan {
    let mut smallest = plan.clone();
    let Some(kind) = failure_of(plan) else { return smallest };
    let mut tries = 0;
    let mut size = smallest.events.len().div_ceil(2);
    while size > 0 && tries < TRIES {
        let mut from = 0;
        let mut has_shrunk = false;
        while from < smallest.events.len() && tries < TRIES {
            let mut smaller = smallest.clone();
            smaller.events.drain(from..(from + size).min(smallest.events.len()));
            tries += 1;
            if failure_of(&smaller).as_ref() == Some(&kind) {
                smallest = smaller;
                has_shrunk = true;
            } else {
                from += size;
            }
        }
        if !has_shrunk || size > smallest.events.len() {
            size /= 2;
        }
    }
    smallest
}

/// What does not hold, without the names of runs and the numbers in it.
fn failure_of(plan: &Plan) -> Option<String> {
    let failure = Cluster::new(plan.clone()).run().failure?;
    let words = failure.what.split(' ').filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()));
    Some(words.take(6).collect::<Vec<_>>().join(" "))
}
