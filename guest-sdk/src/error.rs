//! The one error type of workflows and activities: what went wrong, for programs and for people.
//!
//! Promises: an [`Error`] that came from the host goes back to it unchanged, so a cancelled call that
//! a workflow does not handle ends the run as cancelled, and a failed activity's code, message and
//! details survive however many workflows they pass through. `?` turns any [`std::error::Error`] into
//! a retryable application error.

use crate::bindings::types::{self, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// `Result` with [`Error`] filled in.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose doing a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The code said so.
    Application,
    /// A bound of the call's options passed.
    Timeout,
    /// Somebody asked it to stop.
    Cancelled,
    /// An operator stopped it without asking.
    Terminated,
}

/// A failure: of an activity, of a child, of the workflow itself.
///
/// ```
/// use backstitch_sdk::{Error, ErrorKind};
///
/// let error = Error::application("card-declined", "the bank said no").non_retryable();
/// assert_eq!(error.kind(), ErrorKind::Application);
/// assert_eq!(error.code(), "card-declined");
/// assert_eq!(error.to_string(), "card-declined: the bank said no");
///
/// fn parse(text: &str) -> backstitch_sdk::Result<u8> {
///     Ok(text.parse::<u8>()?) // any std error converts
/// }
/// assert_eq!(parse("256").unwrap_err().code(), "error");
/// ```
///
/// It deliberately does not implement [`std::error::Error`]: that is what lets `?` convert every type
/// that does (as in `anyhow`).
#[derive(Clone)]
pub struct Error(Box<Repr>);

#[derive(Clone)]
struct Repr {
    failure: Failure,
    /// Not a failure at all, but an early return that travels the same way.
    early: Option<Early>,
}

#[derive(Clone, PartialEq)]
enum Early {
    /// Set by [`continue_as_new`](crate::continue_as_new): the input of the next run.
    ContinueWith(String),
    /// Set by [`Deferred::later`](crate::activity::Deferred::later).
    Deferred,
}

impl Error {
    /// A failure the code itself declares. `code` is stable and for programs (at most 128 bytes, such
    /// as `card-declined`), `message` is for people. Retryable unless [`non_retryable`](Self::non_retryable)
    /// says otherwise.
    pub fn application(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::from_failure(Failure {
            kind: types::FailureKind::Application,
            code: code.into(),
            message: message.into(),
            details: None,
            retryable: true,
            retry_after_ms: None,
            attempts: 0,
        })
    }

    /// The failure of something that was asked to stop.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::from_failure(Failure {
            kind: types::FailureKind::Cancelled,
            code: "cancelled".to_owned(),
            message: message.into(),
            details: None,
            retryable: false,
            retry_after_ms: None,
            attempts: 0,
        })
    }

    /// No further attempt can succeed: a retry policy stops at once.
    #[must_use]
    pub fn non_retryable(mut self) -> Self {
        self.0.failure.retryable = false;
        self
    }

    /// Attaches a value for programs. One that cannot be written as JSON is noted in its place.
    #[must_use]
    pub fn with_details(mut self, details: impl Serialize) -> Self {
        let json = serde_json::to_string(&details).unwrap_or_else(|error| {
            serde_json::Value::String(format!("details that are not JSON: {error}")).to_string()
        });
        self.0.failure.details = Some(json);
        self
    }

    /// Whose doing it is.
    pub fn kind(&self) -> ErrorKind {
        match self.0.failure.kind {
            types::FailureKind::Application => ErrorKind::Application,
            types::FailureKind::Timeout => ErrorKind::Timeout,
            types::FailureKind::Cancelled => ErrorKind::Cancelled,
            types::FailureKind::Terminated => ErrorKind::Terminated,
        }
    }

    /// Whether it was asked to stop: what a clean-up before the end looks for.
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Whether it is no failure at all but a [`continue_as_new`](crate::continue_as_new) on its way to
    /// the end of the run: what an [`Interceptor`](crate::Interceptor) has to let pass.
    pub fn is_continue_as_new(&self) -> bool {
        matches!(self.0.early, Some(Early::ContinueWith(_)))
    }

    /// Whether it is no failure at all but [`Deferred::later`](crate::activity::Deferred::later) on its way to the
    /// end of the attempt: what a test of an activity looks for.
    pub fn is_deferred(&self) -> bool {
        matches!(self.0.early, Some(Early::Deferred))
    }

    /// The stable name for programs.
    pub fn code(&self) -> &str {
        &self.0.failure.code
    }

    /// The explanation for people.
    pub fn message(&self) -> &str {
        &self.0.failure.message
    }

    /// The attached value, if there is one and it has the form asked for.
    pub fn details<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.0.failure.details.as_deref()?).ok()
    }

    /// The attached value as the JSON text it is.
    pub fn details_json(&self) -> Option<&str> {
        self.0.failure.details.as_deref()
    }

    /// Whether another attempt could succeed.
    pub fn is_retryable(&self) -> bool {
        self.0.failure.retryable
    }

    /// See [`Self::retry_after`].
    pub(crate) fn with_retry_after_ms(mut self, ms: u64) -> Self {
        self.0.failure.retry_after_ms = Some(ms);
        self
    }

    /// How many attempts of an activity there were before it failed for good; 0 if this is no activity's
    /// failure.
    pub fn attempts(&self) -> u32 {
        self.0.failure.attempts
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn retry_after_ms(&self) -> Option<u64> {
        self.0.failure.retry_after_ms
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn after(mut self, attempts: u32) -> Self {
        self.0.failure.attempts = attempts;
        self
    }

    pub(crate) fn continue_with(input: String) -> Self {
        let mut error = Self::application("continue-as-new", "the run goes on as a new one");
        error.0.early = Some(Early::ContinueWith(input));
        error
    }

    pub(crate) fn deferred() -> Self {
        let mut error = Self::application("deferred", "the call is answered later, by whoever has its token");
        error.0.early = Some(Early::Deferred);
        error
    }

    pub(crate) fn from_failure(failure: Failure) -> Self {
        Self(Box::new(Repr { failure, early: None }))
    }

    pub(crate) fn into_failure(self) -> Failure {
        self.0.failure
    }

    /// How an activation that ends with this error ends.
    pub(crate) fn into_status(self) -> types::Status {
        match self.0.early {
            Some(Early::ContinueWith(input)) => types::Status::ContinueAsNew(input),
            Some(Early::Deferred) | None => types::Status::Failed(self.0.failure),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind())
            .field("code", &self.code())
            .field("message", &self.message())
            .field("details", &self.details_json())
            .field("retryable", &self.is_retryable())
            .field("attempts", &self.attempts())
            .finish()
    }
}

/// Two errors are equal when a program could not tell them apart.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind()
            && self.code() == other.code()
            && self.message() == other.message()
            && self.details_json() == other.details_json()
            && self.is_retryable() == other.is_retryable()
            && self.0.early == other.0.early
    }
}

impl<E: std::error::Error> From<E> for Error {
    /// An application error with the code `error`; the message holds the error and its sources.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::application("error", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_std_error_keeps_its_sources() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bad quantity")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = Error::from(Outer("x".parse::<i32>().expect_err("not a number")));
        assert_eq!(error.message(), "bad quantity: invalid digit found in string");
        assert!(error.is_retryable());
    }

    #[test]
    fn details_come_back_in_the_form_asked_for() {
        let error = Error::application("short", "not enough").with_details(vec![3, 5]);
        assert_eq!(error.details::<Vec<u8>>(), Some(vec![3, 5]));
        assert_eq!(error.details::<String>(), None);
        assert_eq!(error.details_json(), Some("[3,5]"));
    }

    #[test]
    fn a_failure_passes_through_unchanged() {
        let failure = Failure {
            kind: types::FailureKind::Cancelled,
            code: "cancelled".into(),
            message: "by request".into(),
            details: Some(r#"{"b":1,"a":2}"#.into()),
            retryable: false,
            retry_after_ms: None,
            attempts: 0,
        };
        let types::Status::Failed(back) = Error::from_failure(failure.clone()).into_status() else {
            panic!("a failure ends a run as failed");
        };
        assert_eq!(format!("{back:?}"), format!("{failure:?}"));
    }
}
