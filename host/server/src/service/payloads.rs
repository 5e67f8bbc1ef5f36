//! What tenants store: payloads part by part, and how much of it there may be.

use backstitch_core::{Json, Scope, Seq, limits};
use backstitch_engine::quota::Quotas;
use backstitch_ledger::PayloadReader;
use backstitch_wire::LimitTenant;
use backstitch_wire::views::TenantView;

use super::error::{ServiceError, invalid};
use super::state::Service;

impl Service {
    pub(crate) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Refuses a payload from outside that its tenant may not store.
    pub(super) fn admit(&self, scope: Scope, payload: &Json) -> Result<(), ServiceError> {
        self.quotas.check(scope, payload).map_err(|over| {
            let message = format!("{over}; an operator says so, see `backstitch tenant show`");
            ServiceError::TooLarge { code: over.code(), message }
        })
    }

    /// The payload of a row, to be read part by part.
    pub async fn payload(&self, scope: Scope, id: &str, seq: Seq) -> Result<PayloadReader, ServiceError> {
        let run = self.find_id(scope, id).await?;
        self.ledger.payload(scope, run, seq).await?.ok_or_else(|| {
            let message =
                format!("run {run} has no row {seq} with a payload; `backstitch run ledger` lists them");
            ServiceError::NotFound { code: "no-such-payload", message }
        })
    }

    /// What the tenant may store and has stored.
    pub async fn tenant(&self, scope: Scope) -> Result<TenantView, ServiceError> {
        let quota = self.ledger.quota(scope).await?;
        Ok(TenantView {
            payload_bytes_max: quota.payload_bytes_max,
            stored_bytes_max: quota.stored_bytes_max,
            stored_bytes: quota.stored_bytes,
        })
    }

    /// Says what the tenant may store. Other hosts hear of it within half a second.
    pub async fn limit_tenant(&self, scope: Scope, limit: LimitTenant) -> Result<TenantView, ServiceError> {
        let LimitTenant { payload_bytes_max, stored_bytes_max } = limit;
        if payload_bytes_max.is_some_and(|max| !(1..=limits::PAYLOAD_BYTES_MAX as u64).contains(&max)) {
            let message = format!("payload_bytes_max is 1 to {}", limits::PAYLOAD_BYTES_MAX);
            return Err(invalid("invalid-quota", message));
        }
        if stored_bytes_max.is_some_and(|max| i64::try_from(max).is_err()) {
            return Err(invalid("invalid-quota", format!("stored_bytes_max is at most {}", i64::MAX)));
        }
        self.ledger.set_quota(scope, payload_bytes_max, stored_bytes_max).await?;
        self.quotas.refresh(&self.ledger).await?;
        self.tenant(scope).await
    }
}
