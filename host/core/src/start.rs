//! How a run was started, besides its workflow and input: what its starter asked for, and what it
//! brings from the run that it descends from. Persisted in the `detail` of row 0.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attribute::{self, Attributes};
use crate::entity::Entity;
use crate::heard::HeardId;
use crate::ids::{RunId, Seq};
use crate::json::Json;
use crate::json::attached;
use crate::limits;
use crate::random::{Seed, Source};
use crate::rules::Rules;

/// The terms of a run. Absent fields mean the defaults; names are append-only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartOptions {
    /// The guest is not started before, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at_ms: Option<u64>,
    /// Bound on this run, from its start, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout_ms: Option<u64>,
    /// When this run and those that continue it as new have to be over, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_deadline_ms: Option<u64>,
    /// 1 is served first, 5 last; none: [`Self::PRIORITY_DEFAULT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// For people: what the starter wanted to be remembered.
    #[serde(deserialize_with = "attached", skip_serializing_if = "Option::is_none")]
    pub memo: Option<Json>,
    /// What the run is found by from its first moment.
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// What its entity begins as; none: `{}`.
    #[serde(deserialize_with = "attached", skip_serializing_if = "Option::is_none")]
    pub entity: Option<Json>,
    /// Parents above it.
    #[serde(skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// Who started it, if a run did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Where its first rows come from, if it is a fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked: Option<Forked>,
    /// What the run before has heard, if this one continues it as new; the latest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heard: Vec<HeardId>,
    /// What its guest may count on.
    #[serde(skip_serializing_if = "Rules::is_first")]
    pub rules: Rules,
    /// What its guest draws numbers from, in the order of the rows; none: its id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub random: Vec<Source>,
}

/// The run that started a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its identity.
    pub run: RunId,
    /// What its starter called it.
    pub workflow_id: Arc<str>,
}

/// The ledger that a fork began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    /// Whose it was.
    pub run: RunId,
    /// How many rows of it were taken.
    pub rows: Seq,
    /// The first run of that ledger: a fork of a fork repeats what the origin drew.
    pub original: RunId,
}

impl StartOptions {
    /// What runs have whose starter names no priority.
    pub const PRIORITY_DEFAULT: u8 = 3;
    /// The last priority.
    pub const PRIORITY_LAST: u8 = 5;

    /// The same for a run that begins now and draws its numbers from `seed`.
    pub fn beginning(self, seed: Seed) -> Self {
        Self { rules: Rules::CURRENT, random: vec![Source { from: Seq(0), seed }], ..self }
    }

    /// Whether a start that is repeated asks for what this one did: what each start gets of its own is left out.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        let asked = |options: &Self| Self { rules: Rules::default(), random: Vec::new(), ..options.clone() };
        asked(self) == asked(other)
    }

    /// Checks what a client asked for. The text says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let times = [self.start_at_ms, self.execution_deadline_ms];
        if times.into_iter().flatten().any(|ms| ms > limits::TIME_MS_MAX) {
            return Err("a time after the year 9999".into());
        }
        if let Some(ms) = self.run_timeout_ms.filter(|ms| *ms == 0 || *ms > limits::SLEEP_MS_MAX) {
            return Err(format!("a run timeout of {ms} ms; it is 1 ms to 100 years"));
        }
        if let Some(priority) = self.priority.filter(|priority| !(1..=Self::PRIORITY_LAST).contains(priority))
        {
            return Err(format!("a priority of {priority}; 1 is served first, {} last", Self::PRIORITY_LAST));
        }
        if let Some(bytes) = self.memo.as_ref().map(|memo| memo.as_str().len())
            && bytes > limits::MEMO_BYTES_MAX
        {
            return Err(format!("a memo of {bytes} bytes; the largest has {}", limits::MEMO_BYTES_MAX));
        }
        if self.attributes.len() > limits::ATTRIBUTES_MAX {
            return Err(format!("more than {} attributes", limits::ATTRIBUTES_MAX));
        }
        self.attributes.iter().try_for_each(|(name, value)| attribute::check(name, value))?;
        self.entity.as_ref().map_or(Ok(()), |entity| {
            Entity::new(entity).map(drop).map_err(|problem| format!("the entity: {problem}"))
        })
    }

    /// Which attempts go first: 1 to [`Self::PRIORITY_LAST`].
    pub fn priority(&self) -> u8 {
        self.priority.unwrap_or(Self::PRIORITY_DEFAULT).clamp(1, Self::PRIORITY_LAST)
    }

    /// The run that wrote the first row of `run`.
    pub fn original(&self, run: RunId) -> RunId {
        self.forked.as_ref().map_or(run, |forked| forked.original)
    }

    /// When the guest starts whose row 0 is from `at_ms`.
    pub fn starts_at_ms(&self, at_ms: u64) -> u64 {
        self.start_at_ms.unwrap_or(0).max(at_ms)
    }

    /// When the run has to be over whose row 0 is from `at_ms`, and the bound's name.
    pub fn deadline(&self, at_ms: u64) -> Option<(u64, &'static str)> {
        let run = self.run_timeout_ms.map(|ms| self.starts_at_ms(at_ms).saturating_add(ms));
        let bounds = [(run, "run-timeout"), (self.execution_deadline_ms, "execution-timeout")];
        bounds.into_iter().filter_map(|(bound, name)| Some((bound?, name))).min()
    }

    /// Bytes of text that it carries.
    pub fn text_bytes(&self) -> usize {
        let jsons = [&self.memo, &self.entity].into_iter().flatten();
        jsons.map(|json| json.as_str().len()).sum()
    }
}

/// The detail of row 0 as it is shown to whoever may look at the run: that its guest draws its numbers from a source, and
/// from which row on, but not from which seed, for guests make tokens and keys of those. None: it is no such detail, and
/// nothing of it is shown.
pub fn without_seeds(detail: &str) -> Option<String> {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        options: &'a StartOptions,
        random: Vec<ShownSource>,
    }
    #[derive(Serialize)]
    struct ShownSource {
        from: Seq,
    }

    let mut options: StartOptions = serde_json::from_str(detail).ok()?;
    let random: Vec<_> = options.random.drain(..).map(|source| ShownSource { from: source.from }).collect();
    if random.is_empty() {
        return Some(detail.to_owned());
    }
    serde_json::to_string(&Shown { options: &options, random }).ok()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_an_empty_object() {
        assert_eq!(serde_json::to_string(&StartOptions::default()).unwrap(), "{}");
    }

    #[test]
    fn the_detail_of_a_start_is_shown_without_its_seeds() {
        let memo = Json::new(r#"{"b":1.0,"a":[ ],"b":"\u0000"}"#).unwrap();
        let source = |from| Source { from: Seq(from), seed: Seed([0xab; 32]) };
        let options =
            StartOptions { memo: Some(memo), random: vec![source(0), source(7)], ..StartOptions::default() };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(text.matches("abab").count(), 2 * 16);
        assert_eq!(
            without_seeds(&text).unwrap(),
            r#"{"memo":{"b":1.0,"a":[ ],"b":"\u0000"},"random":[{"from":0},{"from":7}]}"#
        );
        let old = r#"{"priority": 4}"#;
        assert_eq!(without_seeds(old).unwrap(), old, "a run of before there were seeds");
        // Nobody knows what a damaged one holds.
        for damaged in [r#"{"random":[{"from":0,"seed":"abab"}]}"#, &text[..text.len() - 1], "null"] {
            assert_eq!(without_seeds(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn the_sooner_bound_is_the_deadline() {
        let options = StartOptions { run_timeout_ms: Some(50), ..StartOptions::default() };
        assert_eq!(options.deadline(1_000), Some((1_050, "run-timeout")));
        let delayed = StartOptions { start_at_ms: Some(2_000), ..options.clone() };
        assert_eq!(delayed.deadline(1_000), Some((2_050, "run-timeout")));
        let both = StartOptions { execution_deadline_ms: Some(1_010), ..options };
        assert_eq!(both.deadline(1_000), Some((1_010, "execution-timeout")));
        assert_eq!(StartOptions::default().deadline(1), None);
    }

    #[test]
    fn what_a_starter_may_not_ask_for_is_refused() {
        let options = StartOptions::default;
        for wrong in [
            StartOptions { priority: Some(0), ..options() },
            StartOptions { priority: Some(6), ..options() },
            StartOptions { run_timeout_ms: Some(0), ..options() },
            StartOptions { start_at_ms: Some(u64::MAX), ..options() },
            StartOptions { memo: Json::of(&"x".repeat(limits::MEMO_BYTES_MAX)).ok(), ..options() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
