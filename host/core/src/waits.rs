//! Open waits by the signal they wait for, so that a signal finds its wait without a search: a run
//! may have ten thousand ops open and receive as many signals.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::ids::Op;

/// Ops that wait for a signal, oldest first within one name. Never iterated across names, so that
/// the hash map's order is nobody's input.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(HashMap<Arc<str>, BTreeSet<Op>>);

impl Waits {
    /// `op` waits for `name` from now on.
    pub(crate) fn insert(&mut self, name: Arc<str>, op: Op) {
        self.0.entry(name).or_default().insert(op);
    }

    /// `op` does not wait for `name` any more.
    pub(crate) fn remove(&mut self, name: &str, op: Op) {
        if let Some(ops) = self.0.get_mut(name) {
            ops.remove(&op);
            if ops.is_empty() {
                self.0.remove(name);
            }
        }
    }

    /// The op that gets the next signal of this name.
    pub(crate) fn oldest(&self, name: &str) -> Option<Op> {
        self.0.get(name).and_then(|ops| ops.first().copied())
    }
}
