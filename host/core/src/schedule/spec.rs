//! What a client asks for: which workflow, at which times, and what happens if a time comes too early or too late.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attribute::{self, Attribute, Attributes};
use crate::date::rfc3339;
use crate::json::Json;
use crate::json::attached;
use crate::limits;
use crate::names::check_name;
use crate::start::StartOptions;

/// The attributes that every run of a schedule has: whose it is, and its nominal time.
const ATTRIBUTES: [&str; 2] = ["schedule", "scheduled-at"];

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What is started.
    pub what: What,
    /// When.
    pub when: When,
    /// What happens if a time comes too early or too late.
    #[serde(default)]
    pub policy: Policy,
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct What {
    /// A workflow's name.
    pub workflow: Arc<str>,
    /// Its input; the bytes are kept. Missing: `null`.
    #[serde(default = "Json::null")]
    pub input: Json,
    /// What the workflow ids begin with; none: the schedule's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_prefix: Option<Arc<str>>,
    /// On which terms.
    #[serde(default)]
    pub terms: Terms,
}

/// The terms of each start: those of [`StartOptions`] that are the same every time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// Bound on the run, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout_ms: Option<u64>,
    /// 1 is served first, 5 last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// For people.
    #[serde(deserialize_with = "attached", skip_serializing_if = "Option::is_none")]
    pub memo: Option<Json>,
    /// What the run is found by, besides `schedule` and `scheduled-at`.
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// What its entity begins as.
    #[serde(deserialize_with = "attached", skip_serializing_if = "Option::is_none")]
    pub entity: Option<Json>,
}

/// When: the times of all expressions and intervals together, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// Cron expressions of five fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cron: Vec<Arc<str>>,
    /// The IANA name of the zone of their times; none: UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<Arc<str>>,
    /// Intervals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub every: Vec<Every>,
    /// No time before, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at_ms: Option<u64>,
    /// No time after, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_at_ms: Option<u64>,
    /// Each start is late by up to so many milliseconds, always by the same for the same time, and never
    /// beyond the next time.
    #[serde(skip_serializing_if = "is_zero")]
    pub jitter_ms: u64,
}

/// Times at the same distance, counted from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Every {
    /// The distance, in milliseconds.
    pub every_ms: u64,
    /// How long after the epoch the first one is, in milliseconds; less than the distance.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset_ms: u64,
}

/// What happens if a time comes too early or too late.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// If a run of an earlier time is open.
    pub overlap: Overlap,
    /// How late a time may be and still have its run, in milliseconds; none:
    /// [`limits::SCHEDULE_CATCH_UP_MS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up_ms: Option<u64>,
    /// Whether a run that fails or times out pauses the schedule.
    #[serde(skip_serializing_if = "is_false")]
    pub pause_on_failure: bool,
    /// How many runs the calendar starts; none: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_starts: Option<u64>,
}

/// What becomes of a time when a run of the schedule is open. Persisted: names are append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// It has no run.
    #[default]
    Skip,
    /// It waits, if no other one does.
    BufferOne,
    /// It waits, up to [`limits::SCHEDULE_WAITING_MAX`] of them.
    BufferAll,
    /// It waits instead of all others, and what is open is asked to cancel.
    CancelOther,
    /// It waits instead of all others, and what is open is stopped.
    TerminateOther,
    /// It has its run at once.
    AllowAll,
}

impl Overlap {
    /// Every policy.
    pub const ALL: [Self; 6] = [
        Self::Skip,
        Self::BufferOne,
        Self::BufferAll,
        Self::CancelOther,
        Self::TerminateOther,
        Self::AllowAll,
    ];

    /// The name that people and programs read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::BufferOne => "buffer-one",
            Self::BufferAll => "buffer-all",
            Self::CancelOther => "cancel-other",
            Self::TerminateOther => "terminate-other",
            Self::AllowAll => "allow-all",
        }
    }
}

/// Which part of a spec is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A name, or the terms of the start.
    #[error("{0}")]
    What(String),
    /// Its times.
    #[error("{0}")]
    When(String),
    /// Its policy.
    #[error("{0}")]
    Policy(String),
}

impl Spec {
    /// Checks everything but cron expressions and time zones. `name` is the schedule's.
    pub fn check(&self, name: &str) -> Result<(), SpecError> {
        self.what.check(name).map_err(SpecError::What)?;
        self.when.check().map_err(SpecError::When)?;
        self.policy.check().map_err(SpecError::Policy)
    }

    /// Names these very terms, for a client that wants to change what it has read and nothing else.
    pub fn revision(&self) -> String {
        let text = serde_json::to_string(self).expect("strings and numbers always serialise");
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }

    /// What the run of a nominal time is called. Persisted: never changes.
    pub fn workflow_id(&self, name: &str, at_ms: u64) -> Arc<str> {
        let prefix = self.what.id_prefix.as_deref().unwrap_or(name);
        format!("{prefix}:{}", rfc3339(at_ms)).into()
    }

    /// The terms of the start of a nominal time.
    pub fn options(&self, name: &str, at_ms: u64) -> StartOptions {
        let Terms { run_timeout_ms, priority, memo, mut attributes, entity } = self.what.terms.clone();
        let [schedule, scheduled_at] = ATTRIBUTES;
        attributes.insert(schedule.into(), Attribute::Text(name.into()));
        attributes.insert(scheduled_at.into(), Attribute::TimeMs(at_ms));
        StartOptions { run_timeout_ms, priority, memo, attributes, entity, ..StartOptions::default() }
    }

    /// By how many milliseconds the start of a nominal time is late, if `next_ms` is the one after it.
    pub fn jitter_ms(&self, name: &str, at_ms: u64, next_ms: Option<u64>) -> u64 {
        let until_next = next_ms.map_or(u64::MAX, |next| next.saturating_sub(at_ms));
        let bound = self.when.jitter_ms.min(until_next);
        if bound == 0 {
            return 0;
        }
        let text = format!("{name}\0{at_ms}");
        xxhash_rust::xxh3::xxh3_64(text.as_bytes()) % bound
    }

    /// How late a time may be and still have its run, in milliseconds.
    pub fn catch_up_ms(&self) -> u64 {
        self.policy.catch_up_ms.unwrap_or(limits::SCHEDULE_CATCH_UP_MS)
    }
}

impl What {
    fn check(&self, name: &str) -> Result<(), String> {
        check_name("workflow", &self.workflow)?;
        let prefix = self.id_prefix.as_deref().map(|prefix| ("workflow id prefix", prefix));
        for (what, name) in [("schedule", name)].into_iter().chain(prefix) {
            check_name(what, name)?;
            if name.len() > limits::SCHEDULE_NAME_BYTES_MAX {
                return Err(format!(
                    "a {what} of {} bytes; the longest is {}",
                    name.len(),
                    limits::SCHEDULE_NAME_BYTES_MAX
                ));
            }
        }
        for own in ATTRIBUTES {
            if self.terms.attributes.contains_key(own) {
                return Err(format!("the attribute {own:?} is set by the schedule itself; leave it away"));
            }
        }
        self.terms.attributes.iter().try_for_each(|(name, value)| attribute::check(name, value))?;
        self.options_of_a_run().check()
    }

    /// As [`Spec::options`] would have them: what it adds counts too.
    fn options_of_a_run(&self) -> StartOptions {
        let when = When::default();
        Spec { what: self.clone(), when, policy: Policy::default() }.options("", 0)
    }
}

impl When {
    fn check(&self) -> Result<(), String> {
        match self.cron.len() + self.every.len() {
            0 => return Err("a schedule without times; give it a cron expression or an interval".into()),
            rules if rules > limits::SCHEDULE_RULES_MAX => {
                return Err(format!(
                    "{rules} cron expressions and intervals; a schedule has at most {}",
                    limits::SCHEDULE_RULES_MAX
                ));
            }
            _ => {}
        }
        self.every.iter().try_for_each(|every| every.check())?;
        if self.start_at_ms.into_iter().chain(self.end_at_ms).any(|ms| ms > limits::TIME_MS_MAX) {
            return Err("a bound after the year 9999".into());
        }
        if let (Some(start), Some(end)) = (self.start_at_ms, self.end_at_ms)
            && start > end
        {
            return Err("it ends before it starts; no time is between the two".into());
        }
        if self.jitter_ms > limits::SLEEP_MS_MAX {
            return Err(format!("a jitter of {} ms; it is at most 100 years", self.jitter_ms));
        }
        Ok(())
    }
}

impl Every {
    fn check(self) -> Result<(), String> {
        let Self { every_ms, offset_ms } = self;
        if !(limits::SCHEDULE_EVERY_MS_MIN..=limits::SLEEP_MS_MAX).contains(&every_ms) {
            return Err(format!(
                "an interval of {every_ms} ms; it is {} ms to 100 years",
                limits::SCHEDULE_EVERY_MS_MIN
            ));
        }
        if offset_ms >= every_ms {
            return Err(format!(
                "an offset of {offset_ms} ms; it is less than the interval of {every_ms} ms"
            ));
        }
        Ok(())
    }

    /// The first time after `ms`.
    pub fn after(self, ms: u64) -> u64 {
        let Self { every_ms, offset_ms } = self;
        match ms.checked_sub(offset_ms) {
            None => offset_ms,
            Some(since) => (since / every_ms + 1).saturating_mul(every_ms).saturating_add(offset_ms),
        }
    }
}

impl Policy {
    fn check(&self) -> Result<(), String> {
        if self.remaining_starts == Some(0) {
            return Err("no starts remain; leave the bound away, or pause the schedule".into());
        }
        if self.catch_up_ms.is_some_and(|ms| ms > limits::SLEEP_MS_MAX) {
            return Err("a catch-up window of more than 100 years".into());
        }
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_counted_from_the_epoch() {
        let every = Every { every_ms: 1_000, offset_ms: 300 };
        let after = [0, 299, 300, 1_299, 1_300].map(|ms| every.after(ms));
        assert_eq!(after, [300, 300, 1_300, 1_300, 2_300]);
    }

    #[test]
    fn what_is_persisted_never_changes() {
        let text = r#"{"what":{"workflow":"w","input":{"b":1.0, "a":[]},"id_prefix":"p","terms":{"run_timeout_ms":5,"priority":1,"memo":null,"attributes":{"a":{"flag":true}},"entity":{}}},"when":{"cron":["0 9 * * *"],"time_zone":"Europe/Berlin","every":[{"every_ms":1000,"offset_ms":1}],"start_at_ms":1,"end_at_ms":2,"jitter_ms":3},"policy":{"overlap":"buffer-all","catch_up_ms":4,"pause_on_failure":true,"remaining_starts":6}}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        spec.check("n").unwrap();
        for overlap in Overlap::ALL {
            assert_eq!(serde_json::to_string(&overlap).unwrap(), format!("\"{}\"", overlap.as_str()));
        }
        let least: Spec =
            serde_json::from_str(r#"{"what":{"workflow":"w"},"when":{"every":[{"every_ms":100}]}}"#).unwrap();
        least.check("n").unwrap();
        assert_eq!(least.policy.overlap, Overlap::Skip);
        assert_eq!(least.workflow_id("n", 0).as_ref(), "n:1970-01-01T00:00:00.000Z");
        assert_eq!(spec.workflow_id("n", 0).as_ref(), "p:1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn jitter_is_the_same_for_the_same_time_and_ends_before_the_next() {
        let when = When { jitter_ms: 10_000, ..When::default() };
        let what =
            What { workflow: "w".into(), input: Json::null(), id_prefix: None, terms: Terms::default() };
        let spec = Spec { what, when, policy: Policy::default() };
        let late: Vec<u64> = (0..100).map(|n| spec.jitter_ms("a", n * 1_000, None)).collect();
        assert_eq!(late, (0..100).map(|n| spec.jitter_ms("a", n * 1_000, None)).collect::<Vec<_>>());
        assert!(late.iter().all(|ms| *ms < 10_000) && late.iter().any(|ms| *ms > 5_000));
        assert!(late.windows(2).any(|pair| pair[0] != pair[1]));
        assert!((0..100).all(|n| spec.jitter_ms("a", n * 1_000, Some((n + 1) * 1_000)) < 1_000));
        assert_ne!(late, (0..100).map(|n| spec.jitter_ms("b", n * 1_000, None)).collect::<Vec<_>>());
    }
}
