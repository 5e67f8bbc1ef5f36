//! How an activity is called: queue, bounds of time, retries. Everything left unset is the host's
//! default. A bad duration text is kept and fails the call that uses the options, never the builder.

use crate::bindings::types;
use crate::duration::IntoDuration;
use crate::duration::millis_rounded_up;
use crate::error::{Error, Result};

/// The options of an activity call.
///
/// ```
/// use backstitch_sdk::{ActivityOptions, RetryPolicy};
/// let options = ActivityOptions::default()
///     .start_to_close("30 seconds")
///     .retry(RetryPolicy::default().maximum_attempts(5).backoff_coefficient(2.0).maximum_interval("60s"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ActivityOptions {
    task_queue: Option<String>,
    start_to_close: Option<Bound>,
    schedule_to_close: Option<Bound>,
    schedule_to_start: Option<Bound>,
    heartbeat: Option<Bound>,
    retry: Option<RetryPolicy>,
}

/// Milliseconds, or why there are none.
type Bound = Result<u64>;

impl ActivityOptions {
    /// Which workers serve the call. Unset: the queue of the activities' trait, else `default`.
    #[must_use]
    pub fn task_queue(mut self, queue: impl Into<String>) -> Self {
        self.task_queue = Some(queue.into());
        self
    }

    /// Bound on one attempt.
    #[must_use]
    pub fn start_to_close(mut self, bound: impl IntoDuration) -> Self {
        self.start_to_close = Some(millis(bound));
        self
    }

    /// Bound on all attempts together, the waits between them included.
    #[must_use]
    pub fn schedule_to_close(mut self, bound: impl IntoDuration) -> Self {
        self.schedule_to_close = Some(millis(bound));
        self
    }

    /// Bound on the wait for somebody to serve the call; it is not tried again when it passes.
    #[must_use]
    pub fn schedule_to_start(mut self, bound: impl IntoDuration) -> Self {
        self.schedule_to_start = Some(millis(bound));
        self
    }

    /// Longest silence of a running attempt: one that neither ends nor calls
    /// [`activity::heartbeat`](crate::activity::heartbeat) for longer fails with the code `heartbeat`, and
    /// the retry policy decides on another.
    #[must_use]
    pub fn heartbeat(mut self, bound: impl IntoDuration) -> Self {
        self.heartbeat = Some(millis(bound));
        self
    }

    /// When and how often a failed attempt is followed by another.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Fills in the queue of the trait, unless the caller chose one.
    #[must_use]
    pub(crate) fn or_task_queue(mut self, queue: Option<&str>) -> Self {
        if self.task_queue.is_none() {
            self.task_queue = queue.map(str::to_owned);
        }
        self
    }

    pub(crate) fn to_wit(&self) -> Result<types::ActivityOptions> {
        Ok(types::ActivityOptions {
            task_queue: self.task_queue.clone(),
            start_to_close_ms: self.start_to_close.clone().transpose()?,
            schedule_to_close_ms: self.schedule_to_close.clone().transpose()?,
            schedule_to_start_ms: self.schedule_to_start.clone().transpose()?,
            heartbeat_ms: self.heartbeat.clone().transpose()?,
            retry: self.retry.as_ref().map(RetryPolicy::to_wit).transpose()?,
        })
    }
}

/// When and how often a failed attempt is followed by another: at first after `initial_interval`,
/// then each time `backoff_coefficient` times later, never later than `maximum_interval`.
///
/// The default is the host's: 3 attempts, no set interval (then the delay is `coefficient^n`
/// seconds), coefficient 10, at most 120 seconds.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    maximum_attempts: u32,
    initial_interval: Bound,
    backoff_coefficient: f64,
    maximum_interval: Bound,
    non_retryable: Vec<String>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            maximum_attempts: 3,
            initial_interval: Ok(0),
            backoff_coefficient: 10.0,
            maximum_interval: Ok(120_000),
            non_retryable: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// Attempts in all, the first included. 0: no limit.
    #[must_use]
    pub fn maximum_attempts(mut self, attempts: u32) -> Self {
        self.maximum_attempts = attempts;
        self
    }

    /// The delay before the second attempt.
    #[must_use]
    pub fn initial_interval(mut self, interval: impl IntoDuration) -> Self {
        self.initial_interval = millis(interval);
        self
    }

    /// By how much each delay grows over the one before.
    #[must_use]
    pub fn backoff_coefficient(mut self, coefficient: f64) -> Self {
        self.backoff_coefficient = coefficient;
        self
    }

    /// The longest delay.
    #[must_use]
    pub fn maximum_interval(mut self, interval: impl IntoDuration) -> Self {
        self.maximum_interval = millis(interval);
        self
    }

    /// A failure code that is final at once. May be called several times.
    #[must_use]
    pub fn non_retryable(mut self, code: impl Into<String>) -> Self {
        self.non_retryable.push(code.into());
        self
    }

    fn to_wit(&self) -> Result<types::RetryPolicy> {
        Ok(types::RetryPolicy {
            maximum_attempts: self.maximum_attempts,
            initial_interval_ms: self.initial_interval.clone()?,
            backoff_coefficient: self.backoff_coefficient,
            maximum_interval_ms: self.maximum_interval.clone()?,
            non_retryable: self.non_retryable.clone(),
        })
    }
}

fn millis(duration: impl IntoDuration) -> Result<u64, Error> {
    duration.into_duration().map(millis_rounded_up)
}

/// How a child is started. The default derives its id from the parent's run and terminates it with
/// the parent.
#[derive(Debug, Clone, Default)]
pub struct ChildOptions {
    pub(crate) workflow_id: Option<String>,
    parent_close: ParentClose,
}

/// What becomes of an open child when its parent closes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ParentClose {
    /// It is stopped at once.
    #[default]
    Terminate,
    /// It is asked to stop, and may clean up.
    RequestCancel,
    /// It goes on.
    Abandon,
}

impl ChildOptions {
    /// The id under which clients find the child.
    #[must_use]
    pub fn workflow_id(mut self, id: impl Into<String>) -> Self {
        self.workflow_id = Some(id.into());
        self
    }

    /// What becomes of the child when this run closes.
    #[must_use]
    pub fn parent_close(mut self, policy: ParentClose) -> Self {
        self.parent_close = policy;
        self
    }

    pub(crate) fn into_wit(self) -> types::ChildOptions {
        types::ChildOptions {
            workflow_id: self.workflow_id,
            parent_close: match self.parent_close {
                ParentClose::Terminate => types::ParentClose::Terminate,
                ParentClose::RequestCancel => types::ParentClose::RequestCancel,
                ParentClose::Abandon => types::ParentClose::Abandon,
            },
        }
    }
}
