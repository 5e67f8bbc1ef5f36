//! A message for a run of ours, and the row that it stands in.

use crate::from_row::from_row;
use backstitch_core::inbox::MessageRow;
use backstitch_core::{RunId, Scope};
use uuid::Uuid;

use crate::time::Timestamp;

/// A message for a run of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxItem {
    /// Where the run lives.
    pub scope: Scope,
    /// The run.
    pub run: RunId,
    /// The message's identity.
    pub item_id: Uuid,
    /// The message.
    pub message: MessageRow,
    /// When it was sent, in milliseconds since the epoch.
    pub at_ms: u64,
}

from_row! {
    pub(super) struct ItemRow {
        pub(super) tenant: i32,
        pub(super) run_id: Uuid,
        pub(super) item_id: Uuid,
        pub(super) kind: i16,
        pub(super) op: Option<i32>,
        pub(super) name: Option<String>,
        pub(super) payload: Option<String>,
        pub(super) detail: Option<String>,
        pub(super) at: Timestamp,
    }
}
