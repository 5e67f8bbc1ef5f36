//! A run as one portable document: what `run export` writes, `replay --history` reads, and
//! `tests/corpus/` keeps.
//!
//! ```text
//! { "format": "backstitch-history/1",
//!   "run_id", "workflow_id", "workflow", "digest", "started_at", "closed_at",
//!   "head":     { "rows", "chain" }        of a closed run: where its ledger ended
//!   "status":   "completed"                the part `status`
//!   "data":     { "input", "output", … }   the part `data`
//!   "state":    { "waits_for", … }         the part `state`
//!   "timeline": [ { "seq", "kind", … } ] } the part `timeline`: every row with every column
//! ```
//!
//! Whatever came from a guest or a client is a JSON string that holds JSON text, so that its bytes
//! survive any tool that reads and writes the document: digits, key order, lone surrogates. The chain
//! makes the timeline its own proof: see [`backstitch_core::Run::load_closed`].
//!
//! The format is a contract. Fields may be added and are ignored by those who do not know them; a
//! change of meaning is another number. A row's columns are all or nothing, for the chain covers them.

use std::sync::Arc;

use backstitch_core::{Chain, Digest, Fault, Op, Row, RunId, RunStatus, Seq, limits};
use serde::{Deserialize, Serialize};

use crate::views::WaitView;

/// What a document of this version says in `format`.
pub const FORMAT: &str = "backstitch-history/1";

/// The largest document that is read: twice the text of the largest ledger, for what a string has to
/// escape, and room for the columns of all of its rows.
pub const HISTORY_BYTES_MAX: u64 = 2 * limits::RUN_BYTES_MAX + (limits::RUN_ROWS_MAX as u64) * 512;

/// What can be left out of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Input, and output or failure.
    Data,
    /// What it waits for, and what is known about it.
    State,
    /// How it stands.
    Status,
    /// Every row of its ledger.
    Timeline,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Data, Self::State, Self::Status, Self::Timeline];

    /// Its name in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::State => "state",
            Self::Status => "status",
            Self::Timeline => "timeline",
        }
    }
}

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct History {
    /// [`FORMAT`].
    pub format: String,
    /// The run.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub run_id: RunId,
    /// What its starter called it.
    pub workflow_id: String,
    /// Which workflow.
    pub workflow: String,
    /// The component it is pinned to. Histories of before this format was made do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Digest>))]
    pub digest: Option<Digest>,
    /// When it was started, RFC 3339 with milliseconds, UTC.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub started_at: String,
    /// When it closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub closed_at: Option<String>,
    /// Where its ledger ended when it closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// How it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::RunStatus>))]
    pub status: Option<RunStatus>,
    /// What went in and came out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// What it waits for, and what is known about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Its ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Vec<HistoryRow>>,
}

/// Where a ledger ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = HistoryHead))]
pub struct Head {
    /// How many rows it has.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub rows: Seq,
    /// The checksum of the last.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-f]{16}$"))]
    pub chain: ChainText,
}

/// What went in and came out: JSON text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = HistoryData))]
pub struct Data {
    /// Absent only if the ledger has lost its first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Of a run that completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Of a run that failed, was cancelled or was terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What is known about a run besides its ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = HistoryState))]
pub struct State {
    /// Counts the runs of one workflow id.
    pub generation: u32,
    /// The run that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "uuid"))]
    pub parent_run_id: Option<RunId>,
    /// Attributes for searches: JSON text.
    pub attributes: String,
    /// What it keeps of itself: JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Open ops, in call order.
    pub waits_for: Vec<WaitView>,
    /// Signals that came in and that nothing has awaited yet.
    pub signals_kept: u32,
    /// Why it is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Fault>))]
    pub fault: Option<Fault>,
    /// Which row of its ledger is not what was written, and why that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// A [`Row`] as a document keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HistoryRow {
    /// Its place.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    seq: Seq,
    /// What kind of row, as the number that is kept.
    kind: i16,
    /// The command it is or belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
    op: Option<Op>,
    /// Workflow, activity, signal or change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    name: Option<Arc<str>>,
    /// Input, output or failure: JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    payload: Option<Arc<str>>,
    /// Options and the like: JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    detail: Option<Arc<str>>,
    /// Which attempt of an activity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// When it was recorded, in milliseconds since the epoch.
    at_ms: u64,
    /// The checksum over the row before and this one.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-f]{16}$"))]
    chain: ChainText,
}

/// A checksum as 16 hexadecimal digits: JSON's readers do not all keep 64 bits of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChainText(pub Chain);

impl From<ChainText> for String {
    fn from(ChainText(chain): ChainText) -> Self {
        format!("{:016x}", chain.0)
    }
}

impl TryFrom<String> for ChainText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let chain = u64::from_str_radix(&text, 16).ok().filter(|_| digits);
        chain.map(|chain| Self(Chain(chain))).ok_or_else(|| "a chain is 16 hexadecimal digits".to_owned())
    }
}

impl From<Row> for HistoryRow {
    fn from(row: Row) -> Self {
        let Row { seq, kind, op, name, payload, detail, attempt, at_ms, chain } = row;
        Self { seq, kind, op, name, payload, detail, attempt, at_ms, chain: ChainText(chain) }
    }
}

impl From<HistoryRow> for Row {
    fn from(row: HistoryRow) -> Self {
        let HistoryRow { seq, kind, op, name, payload, detail, attempt, at_ms, chain } = row;
        Self { seq, kind, op, name, payload, detail, attempt, at_ms, chain: chain.0 }
    }
}

/// Bytes that are not a history that this program reads.
#[derive(Debug, thiserror::Error)]
pub enum BadHistory {
    /// Not JSON at all, or only the beginning of some.
    #[error("it is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// JSON of something else.
    #[error("it is JSON, but no history: it has no \"format\" that says \"{FORMAT}\"")]
    NotAHistory,
    /// A history of another version.
    #[error("its format is {0:?}; this program reads \"{FORMAT}\"")]
    OtherFormat(String),
    /// The format is ours, the rest is not.
    #[error("it is not shaped as {FORMAT} is: {0}")]
    Misshapen(serde_json::Error),
    /// Exported without its rows.
    #[error("it was exported without its timeline")]
    NoTimeline,
}

impl BadHistory {
    /// For programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "history-not-json",
            Self::NotAHistory | Self::Misshapen(_) => "history-invalid",
            Self::OtherFormat(_) => "history-format",
            Self::NoTimeline => "history-without-timeline",
        }
    }
}

impl History {
    /// The document as text, one field to a line, so that two of them can be compared.
    pub fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("strings and numbers always serialise");
        text.push(b'\n');
        text
    }

    /// Reads a document. Whether its rows are what was written is for the ledger's own checks to say.
    pub fn read(text: &[u8]) -> Result<Self, BadHistory> {
        #[derive(Deserialize)]
        struct Versioned {
            format: String,
        }
        let versioned: Result<Versioned, _> = serde_json::from_slice(text);
        let Versioned { format } = versioned.map_err(|error| {
            if error.is_data() { BadHistory::NotAHistory } else { BadHistory::NotJson(error) }
        })?;
        if format != FORMAT {
            let other = format.starts_with("backstitch-history/");
            return Err(if other { BadHistory::OtherFormat(format) } else { BadHistory::NotAHistory });
        }
        serde_json::from_slice(text).map_err(BadHistory::Misshapen)
    }

    /// The ledger's rows.
    pub fn rows(&mut self) -> Result<Vec<Row>, BadHistory> {
        let timeline = self.timeline.take().ok_or(BadHistory::NoTimeline)?;
        Ok(timeline.into_iter().map(Row::from).collect())
    }

    /// Where the ledger ended when the run closed.
    pub fn head(&self) -> Option<(Seq, Chain)> {
        self.head.map(|Head { rows, chain }| (rows, chain.0))
    }
}
