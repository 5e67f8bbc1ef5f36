//! What a guest can notice of its host without a row that says so: the price of what it does, and the answers to
//! what cannot be done. None of it may change under a run, so row 0 says which rules it lives under.
//!
//! | rules | fuel from event to event | prices | an edit of the entity that cannot be done |
//! |---|---|---|---|
//! | first | 500,000,000 | one unit for an instruction; a host call as host 0.1.0 charged it | a text |
//! | second | [`limits::FUEL_PER_EVENT`] | about one unit for what an addition takes; a host call by all that it lifts | a code |
//!
//! A guest sees some bounds as well, because it is told of them or because texts are cut by them. Those are the
//! same in all rules, and a test here holds them: another number is another rule.

use serde::{Deserialize, Serialize};

use crate::limits;

/// The rules of a run. Persisted by number: append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
#[repr(u16)]
pub enum Rules {
    /// Of runs whose row 0 names none.
    #[default]
    First = 0,
    /// Of runs that start now.
    Second = 1,
}

/// Rules that this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rules {0} are those of a later version; a host of that version can lead the run")]
pub struct UnknownRules(u16);

impl Rules {
    /// What runs start under.
    pub const CURRENT: Self = Self::Second;

    /// All of them.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// The fuel that a guest has from one event to the next.
    pub fn fuel_per_event(self) -> u64 {
        match self {
            Self::First => 500_000_000,
            Self::Second => limits::FUEL_PER_EVENT,
        }
    }

    pub(crate) fn is_first(&self) -> bool {
        *self == Self::First
    }
}

impl From<Rules> for u16 {
    fn from(rules: Rules) -> Self {
        rules as Self
    }
}

impl TryFrom<u16> for Rules {
    type Error = UnknownRules;

    fn try_from(number: u16) -> Result<Self, UnknownRules> {
        Self::ALL.into_iter().find(|rules| *rules as u16 == number).ok_or(UnknownRules(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_can_see_of_the_bounds_is_what_it_was() {
        // Of the rules up to the second: a change needs third ones, and the old number for these.
        assert_eq!(
            [
                limits::ENTITY_BYTES_MAX,
                limits::ENTITY_PATH_NAMES_MAX,
                limits::JSON_DEPTH_MAX,
                limits::CODE_BYTES_MAX,
                limits::MESSAGE_BYTES_MAX,
                limits::LOG_LINE_BYTES_MAX,
            ],
            [256 << 10, 32, 128, 128, 16 << 10, 8 << 10]
        );
        assert_eq!(
            [limits::HOSTCALL_FUEL_FIRST, limits::HOSTCALL_FUEL, limits::HOSTCALL_PART_FUEL],
            [100, 400, 50]
        );
        assert_eq!(Rules::ALL.map(Rules::fuel_per_event), [500_000_000, 250_000_000]);
    }

    #[test]
    fn rules_of_a_later_version_are_not_guessed_at() {
        assert_eq!(serde_json::from_str::<Rules>("1").unwrap(), Rules::Second);
        let error = serde_json::from_str::<Rules>("2").unwrap_err().to_string();
        assert!(error.contains("later version"), "{error}");
    }
}
