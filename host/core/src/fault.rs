//! Why a run was parked: what went wrong in a guest, its code or its ledger, told to the operator.
//!
//! A fault is never an outcome that a guest can see and never a ledger row. The run stays as its
//! ledger says, waits for `run retry`, and can be inspected and terminated meanwhile.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{limits, printable};

/// What kind of fault, for programs. Persisted: names are append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// The guest panicked and said so.
    Panic,
    /// Any other trap: unreachable, division by zero, out of bounds …
    Trap,
    /// The guest used up [`limits::FUEL_PER_EVENT`].
    Fuel,
    /// The guest asked for more memory or table space than it may have.
    Memory,
    /// The guest's stack is full.
    Stack,
    /// The guest met another bound of [`limits`].
    Limit,
    /// The guest broke the rules of the world: commands in a query, text that is not JSON …
    Protocol,
    /// The guest asked for something else than the ledger holds.
    Divergence,
    /// The ledger does not match its checksums or its own rules.
    Corrupt,
    /// The component cannot be loaded here.
    Component,
    /// Several hosts in a row died while the run was led.
    HostLost,
    /// The guest computed for longer than it may. Unlike fuel, time does not repeat: a retry on a faster host
    /// may succeed.
    TooSlow,
}

impl FaultKind {
    /// The persisted name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Trap => "trap",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Limit => "limit",
            Self::Protocol => "protocol",
            Self::Divergence => "divergence",
            Self::Corrupt => "corrupt",
            Self::Component => "component",
            Self::HostLost => "host-lost",
            Self::TooSlow => "too-slow",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fault with what the operator needs to act on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// One or two sentences for people.
    pub message: String,
    /// The guest's frames, innermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

impl Fault {
    /// A fault without a backtrace. Its message, of which the guest may have chosen every character, is made one
    /// printable line, and cut if it is overlong.
    pub fn new(kind: FaultKind, message: impl AsRef<str>) -> Self {
        let message = printable::line_of(message.as_ref(), limits::MESSAGE_BYTES_MAX).into_owned();
        Self { kind, message, backtrace: None }
    }

    /// Adds the guest's frames. Cuts an overlong list.
    pub fn with_backtrace(mut self, backtrace: impl AsRef<str>) -> Self {
        let mut backtrace = printable::lines(backtrace.as_ref()).into_owned();
        printable::cut(&mut backtrace, limits::BACKTRACE_BYTES_MAX);
        self.backtrace = Some(backtrace).filter(|text| !text.is_empty());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlong_message_is_cut_at_a_character() {
        let fault = Fault::new(FaultKind::Panic, "é".repeat(limits::MESSAGE_BYTES_MAX));
        assert!(fault.message.len() <= limits::MESSAGE_BYTES_MAX);
        assert!(fault.message.ends_with("é …(cut)"));
    }

    #[test]
    fn a_guest_cannot_say_more_than_one_line_about_its_end() {
        let fault = Fault::new(FaultKind::Panic, "boom\nERROR forged\u{9b}2J").with_backtrace("a\u{1b}\nb");
        assert_eq!(fault.to_string(), "panic: boom\\nERROR forged\\u{9b}2J");
        assert_eq!(fault.backtrace.as_deref(), Some("a\\u{1b}\nb"));
    }
}
