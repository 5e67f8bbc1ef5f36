//! What the workflows of a simulated cluster do, and the guests that do it.
//!
//! A [`Script`] is a table of rules, drawn from a seed. Its [`Guest`] folds what it was told into a hash, at its start and on
//! every event, and carries out the rule which that hash picks.
//!
//! | | random | confluent |
//! |---|---|---|
//! | the hash is over | all: outcomes, their order, the time, the size of the history, the entity, attributes | the input and the outcomes |
//! | calls are told | the hash, the time and a number that the run draws | the hash |
//! | waits for | any number of things at once | one thing after the other |
//! | its commands | show whatever a crash, a batch or a replay changed | are the same in each history |
//!
//! Every run ends by itself as long as outcomes keep coming: after [`EVENTS_MAX`] events at the latest, or once nothing is
//! open but waits for signals, which nobody may ever send. Beside each of those is a timer that ends it. How many runs
//! can come of one start is bounded too: see [`RUNS_MAX`].
//!
//! It does no I/O and knows nothing of a cluster: outcomes are laid before the guest's `Replay`, and what it asks for comes
//! back as [`Activation`].

mod draw;
mod guest;
mod names;
mod rules;

pub use guest::{Activation, Guest, Stopped};
pub use names::{
    ACTIVITIES_FAR, ACTIVITIES_HERE, ACTIVITY_INLINE, CHILD_IDS, SIGNALS, UPDATES, WORKFLOW_IDS, WORKFLOWS,
    WORKFLOWS_CONFLUENT, activity_output, start_input, update_payload,
};
pub use rules::{CHILDREN_MAX, DEPTH_MAX, EVENTS_MAX, GENERATIONS_MAX, RUNS_MAX, Script};
