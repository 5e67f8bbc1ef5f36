//! What clients and operators wait for, and how far they have come with it.

use std::sync::Arc;

use backstitch_core::{HeardId, RunId, Seq};

/// An update that a client makes.
#[derive(Clone, Debug)]
pub(super) struct Update {
    /// What the client calls it.
    pub(super) id: Arc<str>,
    pub(super) workflow_id: String,
    /// Of the signal.
    pub(super) name: &'static str,
    /// The input.
    pub(super) number: u64,
    /// Whom it asks, and in which term.
    pub(super) asked: (usize, u64),
    /// How long it waits for an answer of that host, in microseconds from the beginning.
    pub(super) until_us: u64,
    pub(super) stage: Stage,
}

/// How far a host has come with an update.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Nobody has been asked.
    New,
    /// This run would take it.
    Validated(RunId),
    /// This run has it, or what it has gone on as; how far its ledger was looked through, and the next pause.
    Sent(RunId, Seen, u64),
}

/// How far the ledger of a run was looked through for one update.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The next row to look at.
    pub(super) from: Seq,
    /// Whether the update is among the rows.
    pub(super) received: bool,
    /// What the runs before have heard.
    pub(super) heard_before: Vec<HeardId>,
}

/// A fork or a reset that an operator makes.
#[derive(Clone, Debug)]
pub(super) struct Fork {
    /// The run whose rows are taken.
    pub(super) from: RunId,
    /// The last of them.
    pub(super) at: Seq,
    /// What the new run is called; none: it is a reset.
    pub(super) to: Option<String>,
    /// A reset leaves out the signals that came later.
    pub(super) drops_signals: bool,
    /// Whom it asks, and in which term.
    pub(super) asked: (usize, u64),
    /// How long the old run may take to stop, in microseconds from the beginning.
    pub(super) until_us: u64,
    /// Whether the old run is asked to stop.
    pub(super) has_stopped: bool,
    /// How often it was begun.
    pub(super) tries: u32,
}
