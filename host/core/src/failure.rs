//! The ordinary error of an activity or a workflow: what guests get and give. What is wrong with a run itself is a
//! [`Fault`](crate::Fault).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::json::{Json, JsonError, attached};
use crate::{limits, printable};

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// An ordinary error of an activity or a workflow, as the ledger and the guests carry it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose doing.
    pub kind: FailureKind,
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whatever the author attached. The ledger keeps it within the failure's own JSON, so that
    /// whitespace around it is not kept: see [`Failure::clipped`].
    #[serde(default, deserialize_with = "attached", skip_serializing_if = "Option::is_none")]
    pub details: Option<Json>,
    /// Whether another attempt could succeed.
    pub retryable: bool,
    /// The next attempt is made no sooner than this, in milliseconds: the activity's word stands
    /// instead of the policy's delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// How many attempts there were of the call that ended with it; 0: it is no call's. The ledger
    /// has it in the row's own column.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
}

impl Failure {
    /// A failure that no other attempt can mend.
    pub fn fatal(kind: FailureKind, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message: message.into(),
            details: None,
            retryable: false,
            retry_after_ms: None,
            attempts: 0,
        }
    }

    /// As the caller of an activity gets it after its last attempt.
    pub fn after(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// What every pending op of a cancelled run ends with. No row holds it: a change of one byte
    /// would make guests of old ledgers diverge.
    pub fn cancelled() -> Self {
        Self::fatal(FailureKind::Cancelled, "cancelled", "the run was asked to cancel")
    }

    /// Brings a guest's text within bounds and into the form that survives the ledger: an overlong
    /// code or message is cut, whitespace around the details is dropped.
    pub fn clipped(mut self) -> Self {
        self.details = self.details.map(Json::trimmed);
        printable::cut(&mut self.code, limits::CODE_BYTES_MAX);
        printable::cut(&mut self.message, limits::MESSAGE_BYTES_MAX);
        self
    }

    /// With a code that is a word for programs and for Postgres: what are no characters of one, a NUL above all, are
    /// replaced. Once, where a failure comes in: what is in a ledger stays as it is.
    #[must_use]
    pub fn with_plain_code(mut self) -> Self {
        if self.code.contains(char::is_control) {
            self.code = self.code.replace(char::is_control, "\u{fffd}");
        }
        self
    }

    /// Bytes of text that it carries.
    pub fn text_bytes(&self) -> usize {
        self.code.len() + self.message.len() + self.details.as_ref().map_or(0, |json| json.as_str().len())
    }

    /// The persisted form. Fails if the details make it larger than a payload may be.
    pub fn to_json(&self) -> Result<Json, JsonError> {
        Json::of(self)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(attempts: &u32) -> bool {
    *attempts == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_comes_in_has_no_control_characters() {
        let failure = |code: &str| Failure::fatal(FailureKind::Application, code, "m".to_owned());
        assert_eq!(failure("a\0b\n").with_plain_code().code, "a\u{fffd}b\u{fffd}");
        assert_eq!(failure("größe").with_plain_code().code, "größe");
    }
}
