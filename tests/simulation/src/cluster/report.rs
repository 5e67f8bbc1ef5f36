//! What came of a plan.

use std::collections::BTreeMap;

use backstitch_scheduler::Standing;

/// How often each input met a run that stood there; none: the run was not in memory, or it is nothing that a scheduler is
/// told of.
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
