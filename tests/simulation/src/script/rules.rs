//! What a script is made of, and how much of it there may be. Data: `draw` makes it, `guest` carries it out.

use std::sync::Arc;

use backstitch_core::{ActivityOptions, ChildOptions};

/// Events after which a guest ends by itself, whatever its rules say.
pub const EVENTS_MAX: u32 = 12;

/// Children of one run.
pub const CHILDREN_MAX: usize = 2;

/// Parents above a run that starts no more children.
pub const DEPTH_MAX: u64 = 2;

/// How often a run goes on as a new one, those of the runs above it counted.
pub const GENERATIONS_MAX: u64 = 3;

/// The most runs that come of one start, the first included. Of a run at depth `d` and generation `g` come
/// `r(d, g) = 1 + 2 r(d + 1, g) + r(d, g + 1)`, where what is beyond either bound is 0.
pub const RUNS_MAX: usize = 104;

/// What a workflow does.
///
/// A confluent one keeps its promise as long as nobody cancels, terminates or times it out, its calls end with
/// [`activity_output`](super::activity_output), and [`WORKFLOWS_CONFLUENT`](super::WORKFLOWS_CONFLUENT) are confluent
/// too. So its id is none of [`WORKFLOW_IDS`](super::WORKFLOW_IDS), which random scripts send requests to cancel.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub(super) is_confluent: bool,
    /// The start's, then those of events, of which there is at least one.
    pub(super) rules: Vec<Rule>,
}

impl Script {
    /// Whether each history of it has the same commands and outcomes.
    pub fn is_confluent(&self) -> bool {
        self.is_confluent
    }
}

/// What follows an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) verbs: Vec<Verb>,
    pub(super) end: End,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verb {
    Call {
        name: &'static str,
        options: ActivityOptions,
    },
    Sleep {
        ms: u64,
    },
    /// For a signal, with a timer that ends the wait. `tidies`: a signal ends the timer, too.
    Wait {
        name: &'static str,
        ms: u64,
        tidies: bool,
    },
    /// For an update, in the same way. `at_once`: it is answered as soon as it comes, and otherwise by a later verb.
    Update {
        name: &'static str,
        ms: u64,
        tidies: bool,
        at_once: bool,
    },
    /// To the update that has waited longest for its answer, if there is one.
    Answer {
        fails: bool,
    },
    Child {
        workflow: &'static str,
        options: ChildOptions,
    },
    Cancel(Place),
    Shield(Place),
    Signal {
        to: To,
        name: &'static str,
    },
    CancelRun(To),
    /// On the new side it sets an attribute.
    Patched(&'static str),
    /// Some edits cannot be done.
    Edit(Edit),
    Attribute {
        name: &'static str,
        value: Value,
    },
}

/// An op: counted from the youngest that is open, or from the last one if so many are not open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place(pub(super) u32);

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum To {
    /// This child; the last op, which may be no child, if there are not so many.
    Child(usize),
    Workflow(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Edit {
    Append,
    IncrementList,
    Increment(u32),
    Merge,
    Set,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// The hash.
    Told,
    Number(u32),
    /// When the event was recorded; not for confluent scripts.
    Now,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// It waits on.
    No,
    Complete,
    Fail {
        retryable: bool,
    },
    /// With the last failure that it was told, if there was one.
    PassOn,
    Continue,
}

pub(super) fn shared(name: &str) -> Arc<str> {
    name.into()
}
