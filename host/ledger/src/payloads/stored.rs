//! A payload out of row: what refers to it, and what is kept.

use backstitch_core::{Digest, RunId, TenantId};

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

impl Reference {
    /// What is bound to where it stands.
    pub(super) fn as_bytes(self) -> Vec<u8> {
        [self.digest.0.as_slice(), &self.bytes.to_be_bytes()].concat()
    }
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
