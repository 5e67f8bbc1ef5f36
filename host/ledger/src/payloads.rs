//! How a payload is stored: in its row as it is, in its row but sealed, or out of row and referred to.
//!
//! | the column holds | the payload is |
//! |---|---|
//! | any other JSON | this very text |
//! | `{"backstitch.payload":{"text": "…"}}` | this text: one that would be taken for one of these forms |
//! | `{"backstitch.payload":{"sealed": "…"}}` | what the codec opens from this base64 |
//! | `{"backstitch.payload":{"stored": {"sha256", "bytes", "sealed"}}}` | in `payloads`, in parts |
//!
//! Every text has one form and every form one text, so that nobody can have a payload of somebody else's opened
//! by writing down how it is stored.
//!
//! What is sealed is bound to its [`Place`]: moved to another run or op, it does not open. A codec seals the same
//! text at the same place to the same bytes: a message and the ledger row that it becomes share what is out of
//! row.
//!
//! This module does no I/O; [`store`] does.

pub(crate) mod store;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use backstitch_core::inbox::{LEFT_BY_TASKS, MessageRow, REASONED};
use backstitch_core::{Digest, Kind, Op, Row, RunId, TenantId, limits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::append::{Append, StatusChange};

/// What a payload belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// A run, or one of its ops.
    Run {
        /// Whose it is.
        tenant: TenantId,
        /// The run.
        run: RunId,
        /// The op; none: the run itself.
        op: Option<Op>,
    },
    /// A schedule.
    Schedule {
        /// Whose it is.
        tenant: TenantId,
        /// Its name.
        name: &'a str,
    },
    /// Nothing: the proof of a key.
    Key,
}

impl Place<'_> {
    /// This place, and which part of how many, as bytes: no two are the same.
    fn bind(&self, part: u32, parts: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let tag = |bytes: &mut Vec<u8>, tag: u8, tenant: TenantId| {
            bytes.push(tag);
            bytes.extend(tenant.0.to_be_bytes());
        };
        match self {
            Self::Run { tenant, run, op } => {
                tag(&mut bytes, 1, *tenant);
                bytes.extend(run.0.as_bytes());
                bytes.extend(op.map_or(u64::MAX, |op| u64::from(op.0)).to_be_bytes());
            }
            Self::Schedule { tenant, name } => {
                tag(&mut bytes, 2, *tenant);
                bytes.extend(name.as_bytes());
            }
            Self::Key => bytes.push(3),
        }
        bytes.extend(part.to_be_bytes());
        bytes.extend(parts.to_be_bytes());
        bytes
    }
}

/// Makes payloads unreadable to whoever can read the database.
///
/// A place is given as bytes that no other has: tenant, run, op and part, or the name of a schedule.
///
/// Sealing must give the same bytes for the same text and place, or payloads out of row are stored more than once.
pub trait PayloadCodec: Send + Sync {
    /// The name of the key that [`Self::seal`] uses; none: it seals nothing, and only opens.
    fn key_id(&self) -> Option<&str>;
    /// `plain`, sealed and bound to `place`. What comes back says itself which key it needs.
    fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8>;
    /// What was sealed at this very place. The error says why it cannot be had, and nothing of what it is.
    fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String>;
}

/// A payload that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unopened {
    #[error("it has the form of no stored payload: {0}")]
    Form(String),
    #[error("payload {0} is missing, or some of its parts are")]
    Missing(Digest),
    #[error("payload {0} is not what was stored under this digest")]
    Changed(Digest),
    #[error("it is sealed: {0}")]
    Sealed(String),
    #[error("it is no text")]
    Text,
}

/// Where a payload out of row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// SHA-256 of what is stored: of the payload itself, unless it is sealed.
    pub digest: Digest,
    /// How long the payload is.
    pub bytes: u64,
    /// Whether it takes a key to read it.
    pub sealed: bool,
}

/// A payload to be kept out of row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// SHA-256 over the parts.
    pub(crate) digest: Digest,
    /// In order.
    pub(crate) parts: Vec<Vec<u8>>,
    /// Only if this run is started, whose rows refer to it.
    pub(crate) first_of: Option<RunId>,
}

impl Stored {
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }
}

/// What every form but the first begins with, byte for byte as serde writes it.
const MARK: &str = "{\"backstitch.payload\":";

#[derive(Serialize, Deserialize)]
struct Envelope {
    #[serde(rename = "backstitch.payload")]
    form: Form,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    Text(String),
    Sealed(String),
    Stored {
        sha256: Digest,
        bytes: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sealed: bool,
    },
}

impl Form {
    fn text(self) -> String {
        serde_json::to_string(&Envelope { form: self }).expect("strings and numbers always serialise")
    }

    /// None: the column holds the text itself.
    fn parse(column: &str) -> Result<Option<Self>, Unopened> {
        if !column.starts_with(MARK) {
            return Ok(None);
        }
        let envelope: Envelope =
            serde_json::from_str(column).map_err(|error| Unopened::Form(error.to_string()))?;
        Ok(Some(envelope.form))
    }
}

/// The reference that a column holds, if it holds one.
pub(crate) fn reference(column: &str) -> Option<Reference> {
    match Form::parse(column) {
        Ok(Some(Form::Stored { sha256: digest, bytes, sealed })) => Some(Reference { digest, bytes, sealed }),
        _ => None,
    }
}

/// Parts of payloads out of row, as they were found.
pub(crate) type Found = HashMap<(TenantId, Digest), Vec<Vec<u8>>>;

/// Brings payloads into their stored form and back. Cheap to clone.
#[derive(Clone, Default)]
pub struct Payloads(Option<Arc<dyn PayloadCodec>>);

impl fmt::Debug for Payloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payloads({:?})", self.0.as_ref().and_then(|codec| codec.key_id()))
    }
}

impl Payloads {
    /// Payloads that a codec seals.
    pub fn sealed_by(codec: Arc<dyn PayloadCodec>) -> Self {
        Self(Some(codec))
    }

    fn sealing(&self) -> Option<&dyn PayloadCodec> {
        self.0.as_deref().filter(|codec| codec.key_id().is_some())
    }

    /// Whether the stored form of a payload may depend on where it is.
    pub(crate) fn is_bound(&self) -> bool {
        self.0.is_some()
    }

    /// The form of a text that stays in its row. None: it is stored as it is.
    pub(crate) fn seal_inline(&self, place: &Place<'_>, text: &str) -> Option<String> {
        match self.sealing() {
            Some(codec) => {
                let sealed = codec.seal(&place.bind(0, 1), text.as_bytes());
                Some(Form::Sealed(BASE64.encode(sealed)).text())
            }
            None if text.starts_with(MARK) => Some(Form::Text(text.to_owned()).text()),
            None => None,
        }
    }

    /// The form of a payload of a run, which leaves its row if it is large: then it goes to `stored`.
    fn seal(
        &self,
        tenant: TenantId,
        run: RunId,
        op: Option<Op>,
        text: &str,
        stored: &mut Vec<Stored>,
    ) -> Option<String> {
        let place = Place::Run { tenant, run, op };
        if text.len() <= limits::PAYLOAD_INLINE_BYTES_MAX {
            return self.seal_inline(&place, text);
        }
        let chunks = text.as_bytes().chunks(limits::PAYLOAD_PART_BYTES);
        let count = parts_of(text.len() as u64);
        let parts: Vec<Vec<u8>> = chunks
            .zip(0..)
            .map(|(chunk, part)| match self.sealing() {
                Some(codec) => codec.seal(&place.bind(part, count), chunk),
                None => chunk.to_vec(),
            })
            .collect();
        let digest = digest_of(&parts);
        stored.push(Stored { tenant, digest, parts, first_of: None });
        let (bytes, sealed) = (text.len() as u64, self.sealing().is_some());
        Some(Form::Stored { sha256: digest, bytes, sealed }.text())
    }

    /// Brings everything that an append says into its stored form. Once: what is sealed is a text like any other.
    pub(crate) fn seal_append(&self, append: &mut Append) {
        let tenant = append.scope.tenant;
        let mut stored = std::mem::take(&mut append.stored);
        for new in &mut append.new_runs {
            let before = stored.len();
            self.seal_row(tenant, new.run, &mut new.first, &mut stored);
            stored[before..].iter_mut().for_each(|first| first.first_of = Some(new.run));
        }
        let run = append.run;
        let starts = append.starts(run);
        let before = stored.len();
        for row in &mut append.rows {
            self.seal_row(tenant, run, row, &mut stored);
        }
        stored[before..].iter_mut().for_each(|further| further.first_of = starts.then_some(run));
        let of_run = Place::Run { tenant, run, op: None };
        match &mut append.status {
            Some(StatusChange::Close(close)) => {
                for text in [&mut close.output, &mut close.error] {
                    replace(text, |text| self.seal(tenant, run, None, text, &mut stored));
                }
            }
            Some(StatusChange::Park { fault }) => {
                if let Some(form) = self.seal_inline(&of_run, fault) {
                    *fault = form.into();
                }
            }
            Some(StatusChange::Pause | StatusChange::Run) | None => {}
        }
        for item in &mut append.inbox {
            self.seal_message(tenant, item.run, &mut item.message, &mut stored);
        }
        for memory in &mut append.memories {
            let place = Place::Run { tenant, run: memory.run, op: None };
            replace(&mut memory.entity, |text| self.seal_inline(&place, text));
        }
        for task in &mut append.tasks {
            let place = Place::Run { tenant, run, op: Some(task.op) };
            replace(&mut task.heartbeat, |text| self.seal_inline(&place, text));
        }
        append.stored = stored;
    }

    /// The stored form of a ledger row.
    pub(crate) fn seal_row(&self, tenant: TenantId, run: RunId, row: &mut Row, stored: &mut Vec<Stored>) {
        let op = row.op;
        replace(&mut row.payload, |text| self.seal(tenant, run, op, text, stored));
        if has_private_detail(row.kind) {
            replace(&mut row.detail, |text| self.seal_inline(&Place::Run { tenant, run, op }, text));
        }
    }

    /// The stored form of a message.
    pub(crate) fn seal_message(
        &self,
        tenant: TenantId,
        run: RunId,
        message: &mut MessageRow,
        stored: &mut Vec<Stored>,
    ) {
        let op = message.op;
        let place = Place::Run { tenant, run, op };
        replace(&mut message.payload, |text| self.seal(tenant, run, op, text, stored));
        if REASONED.contains(&message.kind) {
            replace(&mut message.detail, |text| self.seal_inline(&place, text));
        } else if LEFT_BY_TASKS.contains(&message.kind) {
            replace(&mut message.detail, |text| {
                with_heartbeat(text, |heartbeat| Ok(self.seal_inline(&place, heartbeat))).unwrap_or_default()
            });
        }
    }

    /// The payload that a column holds. None: the column is the payload.
    pub(crate) fn open(
        &self,
        place: &Place<'_>,
        column: &str,
        found: &Found,
    ) -> Result<Option<String>, Unopened> {
        let bytes = match Form::parse(column)? {
            None => return Ok(None),
            Some(Form::Text(text)) => return Ok(Some(text)),
            Some(Form::Sealed(sealed)) => {
                let sealed = BASE64.decode(sealed).map_err(|error| Unopened::Form(error.to_string()))?;
                self.unseal(place, 0, 1, &sealed)?
            }
            Some(Form::Stored { sha256, bytes, sealed }) => {
                let (Place::Run { tenant, .. } | Place::Schedule { tenant, .. }) = place else {
                    return Err(Unopened::Missing(sha256));
                };
                let parts = found.get(&(*tenant, sha256)).ok_or(Unopened::Missing(sha256))?;
                self.assemble(place, Reference { digest: sha256, bytes, sealed }, parts)?
            }
        };
        String::from_utf8(bytes).map(Some).map_err(|_| Unopened::Text)
    }

    fn assemble(&self, place: &Place<'_>, of: Reference, parts: &[Vec<u8>]) -> Result<Vec<u8>, Unopened> {
        if digest_of(parts) != of.digest {
            return Err(Unopened::Changed(of.digest));
        }
        let mut text = Vec::with_capacity(usize::try_from(of.bytes).unwrap_or_default());
        for (part, index) in parts.iter().zip(0..) {
            text.extend(self.open_part(place, of, index, part)?);
        }
        if text.len() as u64 == of.bytes { Ok(text) } else { Err(Unopened::Missing(of.digest)) }
    }

    /// One part of a payload out of row.
    pub(crate) fn open_part(
        &self,
        place: &Place<'_>,
        of: Reference,
        index: u32,
        part: &[u8],
    ) -> Result<Vec<u8>, Unopened> {
        if of.sealed { self.unseal(place, index, parts_of(of.bytes), part) } else { Ok(part.to_vec()) }
    }

    fn unseal(&self, place: &Place<'_>, part: u32, parts: u32, sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        let Some(codec) = &self.0 else {
            return Err(Unopened::Sealed("this host has no keys; start it with --payload-keys".to_owned()));
        };
        codec.open(&place.bind(part, parts), sealed).map_err(Unopened::Sealed)
    }

    /// The detail of a message, whose heartbeat may be sealed. None: it is as it should be.
    pub(crate) fn open_heartbeat(
        &self,
        place: &Place<'_>,
        message: &MessageRow,
    ) -> Result<Option<String>, Unopened> {
        match &message.detail {
            Some(detail) if LEFT_BY_TASKS.contains(&message.kind) && detail.contains(MARK) => {
                with_heartbeat(detail, |heartbeat| self.open(place, heartbeat, &Found::new()))
            }
            _ => Ok(None),
        }
    }

    /// What only the key opens that this host seals with.
    pub(crate) fn proof(&self) -> Option<(&str, Vec<u8>)> {
        let codec = self.0.as_deref()?;
        Some((codec.key_id()?, codec.seal(&Place::Key.bind(0, 1), PROOF)))
    }

    /// Whether this host has the key that sealed a proof. The error says why not.
    pub(crate) fn check(&self, proof: &[u8]) -> Result<(), String> {
        match self.unseal(&Place::Key, 0, 1, proof) {
            Ok(text) if text == PROOF => Ok(()),
            Ok(_) => Err("it opens to something else".to_owned()),
            Err(Unopened::Sealed(why)) => Err(why),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What proofs of keys are made of.
const PROOF: &[u8] = b"backstitch";

/// In how many parts a payload out of row is.
pub(crate) fn parts_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(limits::PAYLOAD_PART_BYTES as u64)).unwrap_or(u32::MAX)
}

fn digest_of(parts: &[Vec<u8>]) -> Digest {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    Digest(hash.finalize().into())
}

/// Whether the detail of a row of this kind says what people and programs have said: memos, heartbeats, reasons.
/// The others are options, names and numbers, some of which SQL reads.
pub(crate) fn has_private_detail(kind: i16) -> bool {
    const PRIVATE: [Kind; 6] = [
        Kind::RunStarted,
        Kind::ActivityAttemptFailed,
        Kind::CancelRequested,
        Kind::RunTerminated,
        Kind::RunPaused,
        Kind::RunResumed,
    ];
    PRIVATE.iter().any(|private| private.tag() == kind)
}

/// The detail of a message that a task left: SQL reads its attempt.
#[derive(Serialize, Deserialize)]
struct Attempt {
    attempt: u32,
    #[serde(default, deserialize_with = "attached", skip_serializing_if = "Option::is_none")]
    heartbeat: Option<Box<RawValue>>,
}

/// JSON that is `null` is not the same as none.
fn attached<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// A detail with another heartbeat. None: it stays as it is.
fn with_heartbeat(
    detail: &str,
    change: impl FnOnce(&str) -> Result<Option<String>, Unopened>,
) -> Result<Option<String>, Unopened> {
    let bad = |error: serde_json::Error| Unopened::Form(error.to_string());
    let mut attempt: Attempt = serde_json::from_str(detail).map_err(bad)?;
    let Some(heartbeat) = &attempt.heartbeat else { return Ok(None) };
    let Some(changed) = change(heartbeat.get())? else { return Ok(None) };
    attempt.heartbeat = Some(RawValue::from_string(changed).map_err(bad)?);
    serde_json::to_string(&attempt).map(Some).map_err(bad)
}

/// Puts another text in place of one, if there is another.
fn replace(text: &mut Option<Arc<str>>, change: impl FnOnce(&str) -> Option<String>) {
    if let Some(changed) = text.as_deref().and_then(change) {
        *text = Some(changed.into());
    }
}
