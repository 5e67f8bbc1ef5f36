//! What scripts call things, for whoever serves them; and the texts that pass between them and the cluster.

use backstitch_core::Json;

use crate::rng;

/// Activities that a component of the host serves.
pub const ACTIVITIES_HERE: [&str; 3] = ["here0", "here1", "here2"];

/// Activities that only remote workers serve, on the default task queue.
pub const ACTIVITIES_FAR: [&str; 2] = ["far0", "far1"];

/// The activity of a component without imports, which can be carried out on the thread of its caller.
pub const ACTIVITY_INLINE: &str = "inline0";

/// Signals that are waited for and sent.
pub const SIGNALS: [&str; 3] = ["s0", "s1", "s2"];

/// Names of the signals by which updates come.
pub const UPDATES: [&str; 2] = ["update:u0", "update:u1"];

/// Workflows that children are started of.
pub const WORKFLOWS: [&str; 4] = ["w0", "w1", "w2", "w3"];

/// Those of them that confluent scripts start: their scripts have to be confluent.
pub const WORKFLOWS_CONFLUENT: [&str; 2] = ["w2", "w3"];

/// Ids that messages go to. Confluent runs are to have others.
pub const WORKFLOW_IDS: [&str; 6] = ["wf0", "wf1", "wf2", "wf3", "wf4", "wf5"];

/// Ids that some children of random scripts are to have, so that several want the same.
pub const CHILD_IDS: [&str; 2] = ["c0", "c1"];

/// The input of a run that nobody but a client starts.
pub fn start_input(number: u64) -> Json {
    Given { depth: 0, generation: 0 }.input(number)
}

/// What an activity gives, as a function of its call alone: whoever carries out a call gives this or a failure.
pub fn activity_output(name: &str, input: &Json) -> Json {
    told(rng::hash(rng::hash(0, name), input.as_str()))
}

/// What the signal of an update carries: what its sender calls it, and its input.
pub fn update_payload(id: &str, number: u64) -> Json {
    json(serde_json::json!({ "id": id, "input": format!("{number:016x}") }))
}

/// A number as JSON: a text, which nobody rounds.
pub(super) fn told(number: u64) -> Json {
    json(serde_json::json!(format!("{number:016x}")))
}

pub(super) fn json(value: serde_json::Value) -> Json {
    Json::of(&value).expect("small and flat")
}

/// What an input says of where its run stands. What is missing counts as 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    /// Parents above it.
    pub(super) depth: u64,
    /// Runs before it, those before its parents counted.
    pub(super) generation: u64,
}

impl Given {
    pub(super) fn of(input: &Json) -> Self {
        let value: serde_json::Value = serde_json::from_str(input.as_str()).unwrap_or_default();
        let number = |name| value[name].as_u64().unwrap_or(0);
        Self { depth: number("depth"), generation: number("generation") }
    }

    pub(super) fn input(self, told: u64) -> Json {
        let Self { depth, generation } = self;
        json(serde_json::json!({ "depth": depth, "generation": generation, "told": format!("{told:016x}") }))
    }
}
