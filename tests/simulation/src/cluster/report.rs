//! What came of a plan.

use std::collections::BTreeMap;

use backstitch_core::{RunId, Seq};
use backstitch_scheduler::Standing;

use super::Cluster;

/// How often each input met a run that stood there; none: the run was not in memory.
pub type Coverage = BTreeMap<(&'static str, Option<Standing>), u64>;

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome {
    /// What does not hold, if so.
    pub failure: Option<Failure>,
    /// Events that happened.
    pub steps: u64,
    /// Runs that there were.
    pub runs: usize,
    /// What was met.
    pub coverage: Coverage,
    /// What happened, if it was to be written down.
    pub log: Vec<String>,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What.
    pub what: String,
    /// When, in microseconds from the beginning.
    pub at_us: u64,
}

impl Cluster {
    pub(super) fn cover(&mut self, name: &'static str, run: Option<RunId>, host: usize) {
        let term = self.hosts[host].term.as_ref();
        let standing = run.and_then(|run| term?.scheduler.standing(run));
        *self.coverage.entry((name, standing)).or_default() += 1;
    }

    pub(super) fn into_outcome(mut self) -> Outcome {
        let at_us = self.now_us;
        if self.log.is_some() {
            for (run, name, generation, status) in self.database.named_runs() {
                let rows = self.database.rows(run, Seq(0), usize::MAX);
                let said: Vec<String> = rows.iter().map(super::names::kind).collect();
                self.note(|| format!("{run} {name}:{generation} {status:?}: {}", said.join(" ")));
            }
        }
        Outcome {
            failure: self.broken.map(|what| Failure { what, at_us }),
            steps: self.steps,
            runs: self.database.runs().len(),
            coverage: self.coverage,
            log: self.log.unwrap_or_default(),
        }
    }
}
