//! The types of [`backstitch_core`] as the wire shows them, for the OpenAPI document alone: core knows of no
//! document, so what it sends is written down here a second time. The test holds every field against the
//! original, so that neither can change without the other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// SHA-256 of a component's bytes, in hexadecimal digits.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Digest(String);

/// Where a run stands. `running`, `parked` and `paused` are open, the others closed for good.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// It goes on by itself.
    Running,
    /// Stopped by a fault until an operator acts.
    Parked,
    /// Held by an operator.
    Paused,
    /// It has an output.
    Completed,
    /// It has a failure.
    Failed,
    /// It was asked to stop, and did.
    Cancelled,
    /// It was stopped.
    Terminated,
    /// Went on as a new run of the same workflow id.
    Continued,
    /// A bound of its start passed.
    TimedOut,
}

/// Whose doing a failure is.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The code said so.
    Application,
    /// A bound of the options passed.
    Timeout,
    /// Asked to stop.
    Cancelled,
    /// Stopped without being asked.
    Terminated,
}

/// An ordinary error of an activity or a workflow.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// Whose doing.
    kind: FailureKind,
    /// Stable, for programs.
    code: String,
    /// For people.
    message: String,
    /// Whatever the author attached.
    #[schema(required = false)]
    details: Value,
    /// Whether another attempt could succeed.
    retryable: bool,
    /// The next attempt is made no sooner than this, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// How many attempts there were of the call that ended with it; absent: it is no call's.
    #[serde(default)]
    attempts: u32,
}

/// What kind of fault, for programs.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The guest panicked and said so.
    Panic,
    /// Any other trap: unreachable, division by zero, out of bounds …
    Trap,
    /// The guest used up its fuel.
    Fuel,
    /// The guest asked for more memory or table space than it may have.
    Memory,
    /// The guest's stack is full.
    Stack,
    /// The guest met another bound.
    Limit,
    /// The guest broke the rules of the world.
    Protocol,
    /// The guest asked for something else than the ledger holds.
    Divergence,
    /// The ledger does not match its checksums or its own rules.
    Corrupt,
    /// The component cannot be loaded here.
    Component,
    /// Several hosts in a row died while the run was led.
    HostLost,
    /// The guest computed for longer than it may.
    TooSlow,
}

/// Why a run is parked, or cannot be led along its ledger.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// For programs.
    kind: FaultKind,
    /// For people.
    message: String,
    /// The guest's frames, innermost first.
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<String>,
}

/// The guest and the ledger disagree: the first place where they do.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Divergence {
    /// The command's number, or where the run should have ended.
    op: u32,
    /// The ledger row, where there is one.
    seq: Option<u32>,
    /// What the ledger holds.
    ledger: String,
    /// What the guest asked for or did now.
    guest: String,
    /// The guest's frames at the guilty call, innermost first.
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<String>,
}

/// What a schedule starts, and when.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What is started.
    what: What,
    /// When.
    when: When,
    /// What happens if a time comes too early or too late.
    #[serde(default)]
    policy: Policy,
}

/// What a schedule starts.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct What {
    /// A workflow's name.
    workflow: String,
    /// Its input. Missing: `null`.
    #[serde(default)]
    #[schema(required = false)]
    input: Value,
    /// What the workflow ids begin with; none: the schedule's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    id_prefix: Option<String>,
    /// On which terms.
    #[serde(default)]
    terms: Terms,
}

/// The terms of each start.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// Bound on the run, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_timeout_ms: Option<u64>,
    /// 1 is served first, 5 last.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    /// For people.
    #[schema(required = false)]
    memo: Value,
    /// What the run is found by, besides `schedule` and `scheduled-at`.
    attributes: BTreeMap<String, Attribute>,
    /// What its entity begins as.
    #[schema(required = false)]
    entity: Value,
}

/// A typed value that a run says about itself.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// At most 1,024 bytes.
    Text(String),
    /// Finite.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Milliseconds since the epoch.
    TimeMs(u64),
}

/// The times of all expressions and intervals together, each once.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// Cron expressions of five fields.
    cron: Vec<String>,
    /// The IANA name of the zone of their times; none: UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    /// Intervals.
    every: Vec<Every>,
    /// No time before, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_at_ms: Option<u64>,
    /// No time after, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_at_ms: Option<u64>,
    /// Each start is late by up to so many milliseconds, always by the same for the same time, and never
    /// beyond the next time.
    jitter_ms: u64,
}

/// Times at the same distance, counted from the epoch.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Every {
    /// The distance, in milliseconds.
    every_ms: u64,
    /// How long after the epoch the first one is, in milliseconds; less than the distance.
    #[serde(default)]
    offset_ms: u64,
}

/// What happens if a time comes too early or too late.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// If a run of an earlier time is open.
    overlap: Overlap,
    /// How late a time may be and still have its run, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    catch_up_ms: Option<u64>,
    /// Whether a run that fails or times out pauses the schedule.
    pause_on_failure: bool,
    /// How many runs the calendar starts; none: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_starts: Option<u64>,
}

/// What becomes of a time when a run of the schedule is open.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// It has no run.
    #[default]
    Skip,
    /// It waits, if no other one does.
    BufferOne,
    /// It waits, up to a bound.
    BufferAll,
    /// It waits instead of all others, and what is open is asked to cancel.
    CancelOther,
    /// It waits instead of all others, and what is open is stopped.
    TerminateOther,
    /// It has its run at once.
    AllowAll,
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_core::{self as core, Json, Op, Seq, schedule};
    use serde::de::DeserializeOwned;

    /// Every field of `original` is set: a literal that leaves one out does not compile, and a field that the
    /// document does not know is lost on the way.
    fn check<D: Serialize + DeserializeOwned>(original: &(impl Serialize + DeserializeOwned)) {
        let sent = serde_json::to_value(original).unwrap();
        let described: D = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(serde_json::to_value(described).unwrap(), sent);
    }

    fn json() -> Json {
        Json::new(r#"{"a":1}"#).unwrap()
    }

    #[test]
    fn what_the_document_says_of_a_type_of_core_is_what_is_sent() {
        core::RunStatus::ALL.iter().for_each(check::<RunStatus>);
        schedule::Overlap::ALL.iter().for_each(check::<Overlap>);
        for kind in [
            core::FailureKind::Application,
            core::FailureKind::Timeout,
            core::FailureKind::Cancelled,
            core::FailureKind::Terminated,
        ] {
            check::<Failure>(&core::Failure {
                kind,
                code: "c".into(),
                message: "m".into(),
                details: Some(json()),
                retryable: true,
                retry_after_ms: Some(1),
                attempts: 2,
            });
        }
        check::<Fault>(&core::Fault {
            kind: core::FaultKind::Fuel,
            message: "m".into(),
            backtrace: Some("b".into()),
        });
        check::<Divergence>(&core::Divergence {
            op: Op(1),
            seq: Some(Seq(2)),
            ledger: "l".into(),
            guest: "g".into(),
            backtrace: Some("b".into()),
        });
        check::<Digest>(&core::Digest([7; 32]));
    }

    #[test]
    fn what_the_document_says_of_a_schedule_is_what_is_sent() {
        use core::Attribute as Is;
        let attributes =
            [("text", Is::Text("t".into())), ("number", Is::Number(1.5)), ("flag", Is::Flag(true))]
                .into_iter()
                .chain([("time", Is::TimeMs(1))])
                .map(|(name, value)| (name.into(), value));
        check::<Spec>(&schedule::Spec {
            what: schedule::What {
                workflow: "w".into(),
                input: json(),
                id_prefix: Some("p".into()),
                terms: schedule::Terms {
                    run_timeout_ms: Some(1),
                    priority: Some(2),
                    memo: Some(json()),
                    attributes: attributes.collect(),
                    entity: Some(json()),
                },
            },
            when: schedule::When {
                cron: vec!["* * * * *".into()],
                time_zone: Some("UTC".into()),
                every: vec![schedule::Every { every_ms: 2, offset_ms: 1 }],
                start_at_ms: Some(1),
                end_at_ms: Some(2),
                jitter_ms: 3,
            },
            policy: schedule::Policy {
                overlap: schedule::Overlap::BufferOne,
                catch_up_ms: Some(1),
                pause_on_failure: true,
                remaining_starts: Some(1),
            },
        });
    }
}
