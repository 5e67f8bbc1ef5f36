//! Milliseconds since the epoch as Postgres' `timestamptz`, exactly and without a calendar library.
//!
//! The binary form of a `timestamptz` is the number of microseconds since 2000-01-01 UTC. Binding it
//! so costs neither side a conversion, and no float comes near a time that a checksum covers.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// Milliseconds from 1970-01-01 to 2000-01-01.
const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;

/// A point in time, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) u64);

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let us = i64::try_from(self.0)
            .ok()
            .and_then(|ms| ms.checked_sub(POSTGRES_EPOCH_MS))
            .and_then(|ms| ms.checked_mul(1000))
            .ok_or_else(|| format!("{} ms since the epoch is beyond every calendar", self.0))?;
        buffer.extend_from_slice(&us.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    /// Times that Postgres made itself (heartbeats) are cut to the millisecond. Times before 1970 are
    /// of nobody's clock and read as 1970: the checksum over a row tells, and a row that could not be
    /// decoded at all would hold up every run that is read with it.
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a time in text form".into());
        }
        let us = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        let ms = us.div_euclid(1000).checked_add(POSTGRES_EPOCH_MS).ok_or("a time out of range")?;
        Ok(Self(u64::try_from(ms).unwrap_or(0)))
    }
}
