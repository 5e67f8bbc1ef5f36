//! What a test says will happen. Data and closures; [`Sim`](super::sim::Sim) acts on them.

use crate::activity::{self, ActivityTable, Context};
use crate::bindings::types::{Failure, FailureKind, RetryPolicy};
use crate::error::{Error, Result};
use backstitch_core::retry::{self, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// An activity or a child: JSON in, JSON out.
pub(super) type Body = Box<dyn FnMut(&str) -> Result<String>>;

#[derive(Default)]
pub(super) struct Script {
    pub(super) activities: BTreeMap<String, Body>,
    pub(super) tables: Vec<ActivityTable>,
    pub(super) children: BTreeMap<String, Body>,
    pub(super) takes_ms: BTreeMap<String, u64>,
    /// What calls are answered with that their attempts have deferred, and how much later.
    pub(super) answers: BTreeMap<String, (u64, Body)>,
    pub(super) later: Vec<(u64, Delayed)>,
    pub(super) unpatched: BTreeSet<String>,
}

pub(super) enum Delayed {
    Signal { name: String, payload: String },
    Cancel,
}

/// How an activity call comes out, and after how long.
pub(super) struct Called {
    pub(super) outcome: Result<String, Failure>,
    pub(super) after_ms: u64,
}

impl Script {
    /// All attempts at one call, as the retry policy has it. None: it was deferred, and nobody answers.
    pub(super) fn call(
        &mut self,
        name: &str,
        input: &str,
        retry: Option<&RetryPolicy>,
        mut context: Context,
    ) -> Option<Called> {
        let attempt_ms = self.takes_ms.get(name).copied().unwrap_or(0);
        let mut after_ms = 0_u64;
        loop {
            after_ms = after_ms.saturating_add(attempt_ms);
            let (outcome, mut watch) = activity::watched(None, || self.attempt(name, input, context.clone()));
            let is_left_open = outcome.as_ref().err().is_none_or(Error::is_deferred);
            let outcome = match watch.deferred.filter(|_| is_left_open) {
                Some(token) => {
                    let (later_ms, answer) = self.answers.get_mut(name)?;
                    after_ms = after_ms.saturating_add(*later_ms);
                    answer(&token)
                }
                None => outcome,
            };
            let error = match outcome {
                Ok(output) => return Some(Called { outcome: Ok(output), after_ms }),
                Err(error) => error,
            };
            match retry_delay_ms(retry, context.attempt, &error) {
                Some(delay_ms) => after_ms = after_ms.saturating_add(delay_ms),
                None => {
                    let outcome = Err(error.after(context.attempt).into_failure());
                    return Some(Called { outcome, after_ms });
                }
            }
            context.attempt += 1;
            context.heartbeat = watch.heartbeats.pop().or(context.heartbeat);
        }
    }

    fn attempt(&mut self, name: &str, input: &str, context: Context) -> Result<String> {
        if let Some(body) = self.activities.get_mut(name) {
            return activity::within(context, || body(input));
        }
        if self.tables.iter().any(|table| table.names.contains(&name)) {
            return activity::attempt(&self.tables, name, input, context);
        }
        panic!("{}", unscripted("activity", name));
    }

    pub(super) fn run_child(&mut self, workflow: &str, input: &str) -> Result<String, Failure> {
        let Some(body) = self.children.get_mut(workflow) else {
            panic!("{}", unscripted("child", workflow));
        };
        body(input).map_err(Error::into_failure)
    }
}

/// The delay before the next attempt; none when this failure is final: as the host decides.
fn retry_delay_ms(policy: Option<&RetryPolicy>, attempt: u32, error: &Error) -> Option<u64> {
    let policy = policy.map_or_else(retry::RetryPolicy::default, |policy| retry::RetryPolicy {
        maximum_attempts: policy.maximum_attempts,
        initial_interval_ms: policy.initial_interval_ms,
        backoff_coefficient: policy.backoff_coefficient,
        maximum_interval_ms: policy.maximum_interval_ms,
        non_retryable: policy.non_retryable.clone(),
    });
    let failure = backstitch_core::Failure {
        retryable: error.is_retryable(),
        retry_after_ms: error.retry_after_ms(),
        ..backstitch_core::Failure::fatal(backstitch_core::FailureKind::Application, error.code(), "")
    };
    match policy.decide(attempt, &failure, 0, None) {
        Verdict::RetryAt(ms) => Some(ms),
        Verdict::Final => None,
    }
}

/// What a cancelled run's open commands fail with.
pub(super) fn cancelled() -> Failure {
    Failure {
        kind: FailureKind::Cancelled,
        code: "cancelled".to_owned(),
        message: "the run was asked to stop".to_owned(),
        details: None,
        retryable: false,
        retry_after_ms: None,
        attempts: 0,
    }
}

/// What a script holds against a call it does not know.
fn unscripted(kind: &str, name: &str) -> Error {
    Error::application("unscripted", format!("the script answers no {kind} `{name}`")).non_retryable()
}
