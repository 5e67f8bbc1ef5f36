//! Whether and when a failed activity attempt is made again.

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureKind};
use crate::limits;

/// How often and how fast a failed activity is tried again. The defaults and the formula are those
/// of HotMesh's MemFlow: 3 attempts, coefficient 10, 120 s cap, `min(coefficient ^ attempt, cap)` seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. 0: no limit.
    pub maximum_attempts: u32,
    /// Above 0: the delay after the first attempt, in milliseconds; later ones grow from it.
    /// 0: the delay after attempt n is `backoff_coefficient ^ n` seconds.
    pub initial_interval_ms: u64,
    /// Growth of the delay from one attempt to the next; at least 1.
    pub backoff_coefficient: f64,
    /// Cap of the delay, in milliseconds.
    pub maximum_interval_ms: u64,
    /// Failure codes that are final at once.
    pub non_retryable: Vec<String>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            maximum_attempts: 3,
            initial_interval_ms: 0,
            backoff_coefficient: 10.0,
            maximum_interval_ms: 120_000,
            non_retryable: Vec::new(),
        }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again at this time, in milliseconds since the epoch.
    RetryAt(u64),
    /// The failure is the activity's outcome.
    Final,
}

impl RetryPolicy {
    /// Checks what a guest asked for. The text says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if !(self.backoff_coefficient.is_finite() && self.backoff_coefficient >= 1.0) {
            return Err(format!(
                "a backoff coefficient of {}; it must be at least 1",
                self.backoff_coefficient
            ));
        }
        if self.non_retryable.len() > limits::COMPONENT_NAMES_MAX {
            return Err(format!("{} non-retryable codes", self.non_retryable.len()));
        }
        if let Some(code) = self.non_retryable.iter().find(|code| code.len() > limits::CODE_BYTES_MAX) {
            return Err(format!(
                "a non-retryable code of {} bytes; the longest is {}",
                code.len(),
                limits::CODE_BYTES_MAX
            ));
        }
        Ok(())
    }

    /// Milliseconds between the failure of `attempt` (1 for the first) and the next one.
    pub fn delay_ms(&self, attempt: u32) -> u64 {
        let (base_ms, exponent) = match self.initial_interval_ms {
            0 => (1000.0, attempt),
            ms => (ms as f64, attempt.saturating_sub(1)),
        };
        let exponent = i32::try_from(exponent).unwrap_or(i32::MAX);
        let delay = base_ms * self.backoff_coefficient.powi(exponent);
        // A float-to-integer cast saturates, so an infinite delay is the cap.
        (delay as u64).min(self.maximum_interval_ms).min(limits::SLEEP_MS_MAX)
    }

    /// Decides on the failure of `attempt` at `now_ms`. `close_by_ms` is the schedule-to-close bound.
    pub fn decide(&self, attempt: u32, failure: &Failure, now_ms: u64, close_by_ms: Option<u64>) -> Verdict {
        let last = match self.maximum_attempts {
            0 => limits::ATTEMPTS_MAX,
            attempts => attempts,
        };
        let stopped = matches!(failure.kind, FailureKind::Cancelled | FailureKind::Terminated);
        if stopped || !failure.retryable || attempt >= last || self.non_retryable.contains(&failure.code) {
            return Verdict::Final;
        }
        let asked = failure.retry_after_ms.map(|ms| ms.min(limits::SLEEP_MS_MAX));
        let at = now_ms.saturating_add(asked.unwrap_or_else(|| self.delay_ms(attempt)));
        if close_by_ms.is_some_and(|bound| at >= bound) { Verdict::Final } else { Verdict::RetryAt(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str) -> Failure {
        Failure { retryable: true, ..Failure::fatal(FailureKind::Application, code, "") }
    }

    #[test]
    fn the_defaults_are_the_seeds() {
        let policy = RetryPolicy::default();
        assert_eq!([1, 2, 3, 40].map(|n| policy.delay_ms(n)), [10_000, 100_000, 120_000, 120_000]);
        assert_eq!(policy.decide(1, &failure("x"), 5, None), Verdict::RetryAt(10_005));
        assert_eq!(policy.decide(3, &failure("x"), 5, None), Verdict::Final);
    }

    #[test]
    fn an_initial_interval_is_the_first_delay() {
        let policy =
            RetryPolicy { initial_interval_ms: 200, backoff_coefficient: 2.0, ..RetryPolicy::default() };
        assert_eq!([1, 2, 3].map(|n| policy.delay_ms(n)), [200, 400, 800]);
        assert_eq!(policy.delay_ms(u32::MAX), 120_000);
    }

    #[test]
    fn a_delay_without_a_cap_still_fits_a_timestamp() {
        let policy = RetryPolicy { maximum_interval_ms: u64::MAX, ..RetryPolicy::default() };
        assert_eq!(policy.delay_ms(u32::MAX), limits::SLEEP_MS_MAX);
    }

    #[test]
    fn some_failures_are_final_at_once() {
        let policy = RetryPolicy { non_retryable: vec!["declined".into()], ..RetryPolicy::default() };
        assert_eq!(policy.decide(1, &failure("declined"), 0, None), Verdict::Final);
        let fatal = Failure::fatal(FailureKind::Application, "x", "");
        assert_eq!(policy.decide(1, &fatal, 0, None), Verdict::Final);
        let cancelled = Failure { retryable: true, ..Failure::cancelled() };
        assert_eq!(policy.decide(1, &cancelled, 0, None), Verdict::Final);
    }

    #[test]
    fn no_attempt_is_planned_past_the_schedule_to_close_bound() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.decide(1, &failure("x"), 0, Some(10_000)), Verdict::Final);
        assert_eq!(policy.decide(1, &failure("x"), 0, Some(10_001)), Verdict::RetryAt(10_000));
    }

    #[test]
    fn an_activity_says_itself_when_it_wants_to_be_tried_again() {
        let policy = RetryPolicy::default();
        let after = |ms| Failure { retry_after_ms: Some(ms), ..failure("x") };
        assert_eq!(policy.decide(1, &after(250_000), 5, None), Verdict::RetryAt(250_005), "above the cap");
        assert_eq!(policy.decide(1, &after(0), 5, None), Verdict::RetryAt(5));
        assert_eq!(policy.decide(1, &after(u64::MAX), 0, None), Verdict::RetryAt(limits::SLEEP_MS_MAX));
        assert_eq!(policy.decide(3, &after(1), 5, None), Verdict::Final, "the policy has the last word");
        assert_eq!(policy.decide(1, &after(10), 0, Some(10)), Verdict::Final);
    }

    #[test]
    fn zero_attempts_means_no_limit() {
        let policy = RetryPolicy { maximum_attempts: 0, ..RetryPolicy::default() };
        assert!(matches!(policy.decide(1_000_000, &failure("x"), 0, None), Verdict::RetryAt(_)));
    }
}
