//! What tenants may store: a copy of what the database says, refreshed with the directory of names.
//!
//! Asked where payloads come in from outside, before anything is written: by clients and workers, and by attempts
//! of activities. What a workflow gives is not asked about: another answer on a replay would be another run.
//!
//! The bytes that a tenant has stored are those of a moment ago, so it may store a little more than it may.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use backstitch_core::{Json, Scope, TenantId, limits};
use backstitch_ledger::{Ledger, LedgerError, Quota};

/// What all tenants may store. Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Quotas(Arc<RwLock<HashMap<TenantId, Quota>>>);

/// A payload that its tenant may not store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverQuota {
    /// It is larger than a payload of this tenant may be.
    #[error("a payload of {bytes} bytes; the tenant may have at most {max}")]
    Payload {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: u64,
    },
    /// The tenant has stored as much as it may.
    #[error(
        "the tenant has stored {stored} bytes of large payloads and may have {max}: none above {inline} bytes is taken",
        inline = limits::PAYLOAD_INLINE_BYTES_MAX
    )]
    Stored {
        /// Bytes of large payloads that it has stored.
        stored: u64,
        /// How many it may store.
        max: u64,
    },
}

impl OverQuota {
    /// For programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload-too-large",
            Self::Stored { .. } => "storage-full",
        }
    }
}

impl Quotas {
    /// Reads them again.
    pub async fn refresh(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        // One tenant for now.
        let scope = ledger.scope(TenantId::DEFAULT);
        let quota = ledger.quota(scope).await?;
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(scope.tenant, quota);
        Ok(())
    }

    /// Whether a tenant may store a payload.
    pub fn check(&self, scope: Scope, payload: &Json) -> Result<(), OverQuota> {
        let quotas = self.0.read().unwrap_or_else(PoisonError::into_inner);
        quotas.get(&scope.tenant).map_or(Ok(()), |quota| check(quota, payload.as_str().len()))
    }
}

fn check(quota: &Quota, bytes: usize) -> Result<(), OverQuota> {
    if let Some(max) = quota.payload_bytes_max.filter(|max| bytes as u64 > *max) {
        return Err(OverQuota::Payload { bytes, max });
    }
    if let Some(max) = quota.stored_bytes_max.filter(|max| quota.stored_bytes >= *max)
        && bytes > limits::PAYLOAD_INLINE_BYTES_MAX
    {
        return Err(OverQuota::Stored { stored: quota.stored_bytes, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_by_what_is_larger_and_a_full_store_by_what_would_go_there() {
        let bounded = Quota { payload_bytes_max: Some(100), ..Quota::default() };
        assert_eq!(check(&bounded, 100), Ok(()));
        assert_eq!(check(&bounded, 101), Err(OverQuota::Payload { bytes: 101, max: 100 }));
        let full = Quota { stored_bytes_max: Some(10), stored_bytes: 10, ..Quota::default() };
        assert_eq!(check(&full, limits::PAYLOAD_INLINE_BYTES_MAX), Ok(()));
        let over = check(&full, limits::PAYLOAD_INLINE_BYTES_MAX + 1);
        assert_eq!(over, Err(OverQuota::Stored { stored: 10, max: 10 }));
        let room = Quota { stored_bytes: 9, ..full };
        assert_eq!(check(&room, limits::PAYLOAD_BYTES_MAX), Ok(()));
        assert_eq!(check(&Quota::default(), limits::PAYLOAD_BYTES_MAX), Ok(()));
    }
}
