//! How a payload is stored: in its row as it is, in its row but sealed, or out of row and referred to.
//!
//! | the column holds | the payload is |
//! |---|---|
//! | any other JSON | this very text |
//! | `{"backstitch.payload":{"text": "…"}}` | this text: one that would be taken for one of these forms |
//! | `{"backstitch.payload":{"sealed": "…"}}` | what the codec opens from this base64 |
//! | `{"backstitch.payload":{"stored": {"sha256", "bytes", "sealed", "bound"}}}` | in `payloads`, in parts |
//!
//! Every text has one form and every form one text, so that nobody can have a payload of somebody else's opened
//! by writing down how it is stored.
//!
//! What is sealed is bound to its [`Place`]: moved to another run or op, another column, or another row or message of
//! the same op, it does not open. What a heartbeat says is bound to its attempt. A codec seals the same text at the same place to the same bytes: a message and the
//! ledger row that it becomes share what is out of row. So that is bound to run and op alone, and what refers to it
//! (`bound`) to the rest. What earlier versions have sealed was bound to run and op, and opens as it did.
//!
//! This module does no I/O; [`store`] does.

pub(crate) mod store;
mod stored;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use backstitch_core::inbox::{LEFT_BY_TASKS, MessageRow, REASONED};
use backstitch_core::{Digest, Kind, Op, Row, RunId, Seq, TenantId, limits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::append::{Append, StatusChange};
pub use stored::{Reference, Stored};

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
        /// Which column of which row.
        spot: Spot,
    },
    /// A schedule.
    Schedule {
        /// Whose it is.
        tenant: TenantId,
        /// Its name.
        name: &'a str,
        /// Which of its columns.
        column: ScheduleColumn,
    },
    /// Nothing: the proof of a key.
    Key,
}

/// Where of a run or an op a payload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// A row of the ledger.
    Row(Seq, Column),
    /// A message.
    Item(Uuid, Column),
    /// What a heartbeat said last of this attempt of the call. The statement that ends a task moves it, as it is, into the
    /// message that tells of that end. There is one task of an attempt and one such message, so its number says which.
    Heartbeat(u32),
    /// Of the run itself.
    Output,
    /// Of the run itself.
    Error,
    /// Of the run itself.
    Fault,
    /// Of the run itself.
    Entity,
}

/// A column that rows and messages have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Payload,
    Detail,
}

/// A column of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScheduleColumn {
    Spec,
    State,
}

impl Spot {
    /// As bytes: no two are the same. Append-only.
    fn bind(self, bytes: &mut Vec<u8>) {
        let column = |column| match column {
            Column::Payload => 1,
            Column::Detail => 2,
        };
        match self {
            Self::Row(seq, of) => {
                bytes.extend([1, column(of)]);
                bytes.extend(seq.0.to_be_bytes());
            }
            Self::Item(item, of) => {
                bytes.extend([2, column(of)]);
                bytes.extend(item.as_bytes());
            }
            // 3 was that of a heartbeat of any attempt.
            Self::Heartbeat(attempt) => {
                bytes.push(8);
                bytes.extend(attempt.to_be_bytes());
            }
            Self::Output => bytes.push(4),
            Self::Error => bytes.push(5),
            Self::Fault => bytes.push(6),
            Self::Entity => bytes.push(7),
        }
    }
}

impl Place<'_> {
    /// This place as bytes: no two are the same, whatever they are bytes of. Append-only.
    fn bind(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        match self {
            Self::Run { tenant, run, op, spot } => {
                of_run(&mut bytes, 4, *tenant, *run, *op);
                spot.bind(&mut bytes);
            }
            Self::Schedule { tenant, name, column } => {
                bytes.push(6);
                bytes.extend(tenant.0.to_be_bytes());
                bytes.push(match column {
                    ScheduleColumn::Spec => 1,
                    ScheduleColumn::State => 2,
                });
                bytes.extend(name.as_bytes());
            }
            Self::Key => return self.bind_as_before(0, 1),
        }
        bytes
    }

    /// A part of how many, out of row: whatever of its run and op refers to it.
    fn bind_part(&self, part: u32, parts: u32) -> Vec<u8> {
        let Self::Run { tenant, run, op, .. } = self else { return self.bind_as_before(part, parts) };
        let mut bytes = Vec::with_capacity(64);
        of_run(&mut bytes, 5, *tenant, *run, *op);
        bytes.extend(part.to_be_bytes());
        bytes.extend(parts.to_be_bytes());
        bytes
    }

    /// This place, and which part of how many, as versions before this one have bound it.
    fn bind_as_before(&self, part: u32, parts: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        match self {
            Self::Run { tenant, run, op, .. } => of_run(&mut bytes, 1, *tenant, *run, *op),
            Self::Schedule { tenant, name, .. } => {
                bytes.push(2);
                bytes.extend(tenant.0.to_be_bytes());
                bytes.extend(name.as_bytes());
            }
            Self::Key => bytes.push(3),
        }
        bytes.extend(part.to_be_bytes());
        bytes.extend(parts.to_be_bytes());
        bytes
    }
}

/// A run and an op, behind what says what they are for.
fn of_run(bytes: &mut Vec<u8>, tag: u8, tenant: TenantId, run: RunId, op: Option<Op>) {
    bytes.push(tag);
    bytes.extend(tenant.0.to_be_bytes());
    bytes.extend(run.0.as_bytes());
    bytes.extend(op.map_or(u64::MAX, |op| u64::from(op.0)).to_be_bytes());
}

/// Makes payloads unreadable to whoever can read the database.
///
/// A place is given as bytes that no other has: tenant, run and op, with the column and the row or message, or the part; or
/// the name of a schedule and its column.
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
        /// What this very reference opens to, as the codec has sealed it where it stands; none: an earlier version
        /// has written it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bound: Option<String>,
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
        Ok(Some(Form::Stored { sha256: digest, bytes, sealed, .. })) => {
            Some(Reference { digest, bytes, sealed })
        }
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
                let sealed = codec.seal(&place.bind(), text.as_bytes());
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
        spot: Spot,
        text: &str,
        stored: &mut Vec<Stored>,
    ) -> Option<String> {
        let place = Place::Run { tenant, run, op, spot };
        if text.len() <= limits::PAYLOAD_INLINE_BYTES_MAX {
            return self.seal_inline(&place, text);
        }
        let chunks = text.as_bytes().chunks(limits::PAYLOAD_PART_BYTES);
        let count = parts_of(text.len() as u64);
        let parts: Vec<Vec<u8>> = chunks
            .zip(0..)
            .map(|(chunk, part)| match self.sealing() {
                Some(codec) => codec.seal(&place.bind_part(part, count), chunk),
                None => chunk.to_vec(),
            })
            .collect();
        let digest = digest_of(&parts);
        stored.push(Stored { tenant, digest, parts, first_of: None });
        let bytes = text.len() as u64;
        let bound = self.sealing().map(|codec| {
            let reference = Reference { digest, bytes, sealed: true };
            BASE64.encode(codec.seal(&place.bind(), &reference.as_bytes()))
        });
        Some(Form::Stored { sha256: digest, bytes, sealed: bound.is_some(), bound }.text())
    }

    /// Brings everything that an append says into its stored form. Once: what is sealed is a text like any other.
    pub(crate) fn seal_append(&self, append: &mut Append) {
        let tenant = append.scope.tenant;
        let mut stored = std::mem::take(&mut append.stored);
        for new in &mut append.new_runs {
            let before = stored.len();
            for row in std::iter::once(&mut new.first).chain(&mut new.further) {
                self.seal_row(tenant, new.run, row, &mut stored);
            }
            stored[before..].iter_mut().for_each(|first| first.first_of = Some(new.run));
        }
        let run = append.run;
        let starts = append.starts(run);
        let before = stored.len();
        for row in &mut append.rows {
            self.seal_row(tenant, run, row, &mut stored);
        }
        stored[before..].iter_mut().for_each(|further| further.first_of = starts.then_some(run));
        let of_run = |spot| Place::Run { tenant, run, op: None, spot };
        match &mut append.status {
            Some(StatusChange::Close(close)) => {
                for (text, spot) in [(&mut close.output, Spot::Output), (&mut close.error, Spot::Error)] {
                    replace(text, |text| self.seal(tenant, run, None, spot, text, &mut stored));
                }
            }
            Some(StatusChange::Park { fault }) => {
                if let Some(form) = self.seal_inline(&of_run(Spot::Fault), fault) {
                    *fault = form.into();
                }
            }
            Some(StatusChange::Pause | StatusChange::Run) | None => {}
        }
        for item in &mut append.inbox {
            self.seal_message(tenant, item.run, item.item_id, &mut item.message, &mut stored);
        }
        for projection in &mut append.projections {
            let place = Place::Run { tenant, run: projection.run, op: None, spot: Spot::Entity };
            replace(&mut projection.entity, |text| self.seal_inline(&place, text));
        }
        for task in &mut append.tasks {
            let place = Place::Run { tenant, run, op: Some(task.op), spot: Spot::Heartbeat(task.attempt) };
            replace(&mut task.heartbeat, |text| self.seal_inline(&place, text));
        }
        append.stored = stored;
    }

    /// The stored form of a ledger row.
    pub(crate) fn seal_row(&self, tenant: TenantId, run: RunId, row: &mut Row, stored: &mut Vec<Stored>) {
        let (op, seq) = (row.op, row.seq);
        let payload = Spot::Row(seq, Column::Payload);
        replace(&mut row.payload, |text| self.seal(tenant, run, op, payload, text, stored));
        if has_private_detail(row.kind) {
            let place = Place::Run { tenant, run, op, spot: Spot::Row(seq, Column::Detail) };
            replace(&mut row.detail, |text| self.seal_inline(&place, text));
        }
    }

    /// The stored form of a message.
    pub(crate) fn seal_message(
        &self,
        tenant: TenantId,
        run: RunId,
        item_id: Uuid,
        message: &mut MessageRow,
        stored: &mut Vec<Stored>,
    ) {
        let op = message.op;
        let payload = Spot::Item(item_id, Column::Payload);
        replace(&mut message.payload, |text| self.seal(tenant, run, op, payload, text, stored));
        if REASONED.contains(&message.kind) {
            let place = Place::Run { tenant, run, op, spot: Spot::Item(item_id, Column::Detail) };
            replace(&mut message.detail, |text| self.seal_inline(&place, text));
        } else if LEFT_BY_TASKS.contains(&message.kind) {
            replace(&mut message.detail, |text| {
                let seal = |attempt, heartbeat: &str| {
                    let place = Place::Run { tenant, run, op, spot: Spot::Heartbeat(attempt) };
                    Ok(self.seal_inline(&place, heartbeat))
                };
                with_heartbeat(text, seal).unwrap_or_default()
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
                self.unseal_bound(place, &sealed)?
            }
            Some(Form::Stored { sha256, bytes, sealed, bound }) => {
                let of = Reference { digest: sha256, bytes, sealed };
                let bound = self.check_bound(place, of, bound.as_deref())?;
                let (Place::Run { tenant, .. } | Place::Schedule { tenant, .. }) = place else {
                    return Err(Unopened::Missing(sha256));
                };
                let parts = found.get(&(*tenant, sha256)).ok_or(Unopened::Missing(sha256))?;
                self.assemble(place, of, bound, parts)?
            }
        };
        String::from_utf8(bytes).map(Some).map_err(|_| Unopened::Text)
    }

    /// Whether a reference to what is sealed is bound to where it stands; an error if it belongs elsewhere.
    pub(crate) fn check_bound(
        &self,
        place: &Place<'_>,
        of: Reference,
        bound: Option<&str>,
    ) -> Result<bool, Unopened> {
        let Some(bound) = bound.filter(|_| of.sealed) else { return Ok(false) };
        let bound = BASE64.decode(bound).map_err(|error| Unopened::Form(error.to_string()))?;
        if self.unseal(&place.bind(), &bound)? == of.as_bytes() {
            Ok(true)
        } else {
            Err(Unopened::Sealed("it refers to another payload than it did".to_owned()))
        }
    }

    fn assemble(
        &self,
        place: &Place<'_>,
        of: Reference,
        bound: bool,
        parts: &[Vec<u8>],
    ) -> Result<Vec<u8>, Unopened> {
        if digest_of(parts) != of.digest {
            return Err(Unopened::Changed(of.digest));
        }
        let mut text = Vec::with_capacity(usize::try_from(of.bytes).unwrap_or_default());
        for (part, index) in parts.iter().zip(0..) {
            text.extend(self.open_part(place, of, bound, index, part)?);
        }
        if text.len() as u64 == of.bytes { Ok(text) } else { Err(Unopened::Missing(of.digest)) }
    }

    /// One part of a payload out of row.
    pub(crate) fn open_part(
        &self,
        place: &Place<'_>,
        of: Reference,
        bound: bool,
        index: u32,
        part: &[u8],
    ) -> Result<Vec<u8>, Unopened> {
        let parts = parts_of(of.bytes);
        match (of.sealed, bound) {
            (false, _) => Ok(part.to_vec()),
            (true, true) => self.unseal(&place.bind_part(index, parts), part),
            // It does not open if it was sealed to be referred to by what is bound: nobody takes that away.
            (true, false) => self.unseal(&place.bind_as_before(index, parts), part),
        }
    }

    /// What was sealed in its row, by this version or one before.
    fn unseal_bound(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        self.unseal(&place.bind(), sealed).or_else(|_| self.unseal(&place.bind_as_before(0, 1), sealed))
    }

    fn unseal(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        let Some(codec) = &self.0 else {
            return Err(Unopened::Sealed("this host has no keys; start it with --payload-keys".to_owned()));
        };
        codec.open(place, sealed).map_err(Unopened::Sealed)
    }

    /// The detail of a message, whose heartbeat may be sealed. None: it is as it should be.
    pub(crate) fn open_heartbeat(
        &self,
        tenant: TenantId,
        run: RunId,
        message: &MessageRow,
    ) -> Result<Option<String>, Unopened> {
        match &message.detail {
            Some(detail) if LEFT_BY_TASKS.contains(&message.kind) && detail.contains(MARK) => {
                with_heartbeat(detail, |attempt, heartbeat| {
                    let place = Place::Run { tenant, run, op: message.op, spot: Spot::Heartbeat(attempt) };
                    self.open(&place, heartbeat, &Found::new())
                })
            }
            _ => Ok(None),
        }
    }

    /// What only the key opens that this host seals with.
    pub(crate) fn proof(&self) -> Option<(&str, Vec<u8>)> {
        let codec = self.0.as_deref()?;
        Some((codec.key_id()?, codec.seal(&Place::Key.bind(), PROOF)))
    }

    /// Whether this host has the key that sealed a proof. The error says why not.
    pub(crate) fn check(&self, proof: &[u8]) -> Result<(), String> {
        match self.unseal(&Place::Key.bind(), proof) {
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

/// A detail with another heartbeat of its attempt. None: it stays as it is.
fn with_heartbeat(
    detail: &str,
    change: impl FnOnce(u32, &str) -> Result<Option<String>, Unopened>,
) -> Result<Option<String>, Unopened> {
    let bad = |error: serde_json::Error| Unopened::Form(error.to_string());
    let mut attempt: Attempt = serde_json::from_str(detail).map_err(bad)?;
    let Some(heartbeat) = &attempt.heartbeat else { return Ok(None) };
    let Some(changed) = change(attempt.attempt, heartbeat.get())? else { return Ok(None) };
    attempt.heartbeat = Some(RawValue::from_string(changed).map_err(bad)?);
    serde_json::to_string(&attempt).map(Some).map_err(bad)
}

/// Puts another text in place of one, if there is another.
fn replace(text: &mut Option<Arc<str>>, change: impl FnOnce(&str) -> Option<String>) {
    if let Some(changed) = text.as_deref().and_then(change) {
        *text = Some(changed.into());
    }
}
