//! What a run has heard under an id: a second message of the same id is not heard.
//!
//! One rule for everything that may be sent twice, whoever sends it: a signal has the id that its sender gave it
//! (an update that of the update), and what one run says to another `run:op`, from its command. A run remembers every
//! id of its own ledger. What it goes on as remembers the latest of them, so a message that is repeated while the run
//! continues as new is still the same message.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::limits;

/// The hash of an id, of eight bytes: in memory and, as 16 hex digits, in row 0 of a run that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeardId(u64);

/// Not 16 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("not the hash of an id")]
pub struct NoHeardId;

/// Ids that were heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    all: HashSet<HeardId>,
    /// In the order in which they came, at most [`limits::HEARD_IDS_MAX`].
    latest: VecDeque<HeardId>,
}

impl HeardId {
    /// Of a signal or an update.
    pub fn signal(id: &str) -> Self {
        Self(xxh3_64(id.as_bytes()))
    }

    /// Of a request to cancel. A name has no control characters, so no signal is called like one.
    pub fn cancel(id: &str) -> Self {
        Self(xxh3_64(format!("\u{0}cancel:{id}").as_bytes()))
    }
}

impl From<HeardId> for String {
    fn from(id: HeardId) -> Self {
        format!("{:016x}", id.0)
    }
}

impl TryFrom<String> for HeardId {
    type Error = NoHeardId;
    fn try_from(text: String) -> Result<Self, NoHeardId> {
        let digits =
            Some(&*text).filter(|text| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()));
        digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).map(Self).ok_or(NoHeardId)
    }
}

impl Heard {
    /// What the run before had heard.
    pub fn before(ids: &[HeardId]) -> Self {
        let mut heard = Self::default();
        ids.iter().for_each(|id| heard.note(*id));
        heard
    }

    /// Whether this was heard.
    pub fn contains(&self, id: HeardId) -> bool {
        self.all.contains(&id)
    }

    /// From now on it was.
    pub fn note(&mut self, id: HeardId) {
        if !self.all.insert(id) {
            return;
        }
        self.latest.push_back(id);
        if self.latest.len() > limits::HEARD_IDS_MAX {
            self.latest.pop_front();
        }
    }

    /// What the run remembers that goes on from this one.
    pub fn latest(&self) -> Vec<HeardId> {
        self.latest.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_ids_are_passed_on_and_an_id_is_one_of_its_kind() {
        let mut heard = Heard::default();
        for number in 0..=limits::HEARD_IDS_MAX {
            heard.note(HeardId::signal(&number.to_string()));
            heard.note(HeardId::signal("0"));
        }
        assert!(heard.contains(HeardId::signal("0")), "a run forgets nothing of its own");
        assert!(!heard.contains(HeardId::cancel("1")), "a cancel is no signal");
        let next = Heard::before(&heard.latest());
        assert!(!next.contains(HeardId::signal("0")) && next.contains(HeardId::signal("1")));
        assert_eq!(next.latest().len(), limits::HEARD_IDS_MAX);
    }

    #[test]
    fn the_persisted_hash_never_changes() {
        let text = serde_json::to_string(&[HeardId::signal("once"), HeardId::cancel("once")]).unwrap();
        assert_eq!(text, r#"["589b38dad1f027d9","57a4f657e225fad2"]"#);
        assert_eq!(
            serde_json::from_str::<Vec<HeardId>>(&text).unwrap(),
            [HeardId::signal("once"), HeardId::cancel("once")]
        );
        for wrong in ["\"\"", "\"00\"", "\"000000000000000g\"", "\"+000000000000001\"", "1"] {
            assert!(serde_json::from_str::<HeardId>(wrong).is_err(), "{wrong}");
        }
    }
}
