//! What a test says will happen. Data and closures; [`Sim`](super::sim::Sim) acts on them.

use crate::activity::{self, ActivityTable, Context};
use crate::bindings::types::{Failure, FailureKind, RetryPolicy};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// An activity or a child: JSON in, JSON out.
pub(super) type Body = Box<dyn FnMut(&str) -> Result<String>>;

#[derive(Default)]
pub(super) struct Script {
    pub(super) activities: BTreeMap<String, Body>,
    pub(super) tables: Vec<ActivityTable>,
    pub(super) children: BTreeMap<String, Body>,
    pub(super) takes_ms: BTreeMap<String, u64>,
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
    /// All attempts at one call, as the retry policy has it.
    pub(super) fn call(
        &mut self,
        name: &str,
        input: &str,
        retry: Option<&RetryPolicy>,
        mut context: Context,
    ) -> Called {
        let attempt_ms = self.takes_ms.get(name).copied().unwrap_or(0);
        let mut after_ms = 0_u64;
        loop {
            after_ms = after_ms.saturating_add(attempt_ms);
            let error = match self.attempt(name, input, context.clone()) {
                Ok(output) => return Called { outcome: Ok(output), after_ms },
                Err(error) => error,
            };
            match retry_delay_ms(retry, context.attempt, &error) {
                Some(delay_ms) => after_ms = after_ms.saturating_add(delay_ms),
                None => return Called { outcome: Err(error.into_failure()), after_ms },
            }
            context.attempt += 1;
        }
    }

    fn attempt(&mut self, name: &str, input: &str, context: Context) -> Result<String> {
        if let Some(body) = self.activities.get_mut(name) {
            return activity::within(context, || body(input));
        }
        if self.tables.iter().any(|table| table.names.contains(&name)) {
            return activity::attempt(&self.tables, name, input, context);
        }
        panic!("{}", super::unscripted("activity", name));
    }

    pub(super) fn run_child(&mut self, workflow: &str, input: &str) -> Result<String, Failure> {
        let Some(body) = self.children.get_mut(workflow) else {
            panic!("{}", super::unscripted("child", workflow));
        };
        body(input).map_err(Error::into_failure)
    }
}

/// The delay before the next attempt; none when this failure is final. The formula is the contract's
/// (`wit/workflow.wit`, `retry-policy`).
fn retry_delay_ms(policy: Option<&RetryPolicy>, attempt: u32, error: &Error) -> Option<u64> {
    const DEFAULT: &RetryPolicy = &RetryPolicy {
        maximum_attempts: 3,
        initial_interval_ms: 0,
        backoff_coefficient: 10.0,
        maximum_interval_ms: 120_000,
        non_retryable: Vec::new(),
    };
    let policy = policy.unwrap_or(DEFAULT);
    let last = policy.maximum_attempts != 0 && attempt >= policy.maximum_attempts;
    if last || !error.is_retryable() || policy.non_retryable.iter().any(|code| code == error.code()) {
        return None;
    }
    let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
    let delay_ms = match policy.initial_interval_ms {
        0 => 1_000.0 * policy.backoff_coefficient.powi(attempt),
        initial_ms => initial_ms as f64 * policy.backoff_coefficient.powi(attempt - 1),
    };
    // Saturates; an overflow is far beyond any cap.
    Some((delay_ms as u64).min(policy.maximum_interval_ms))
}

/// What a cancelled run's open commands fail with.
pub(super) fn cancelled() -> Failure {
    Failure {
        kind: FailureKind::Cancelled,
        code: "cancelled".to_owned(),
        message: "the run was asked to stop".to_owned(),
        details: None,
        retryable: false,
    }
}
