//! Payloads out of row, keys and usage, in the database.

use std::collections::BTreeSet;

use backstitch_core::{Digest, Op, RunId, Scope, Seq, Shard, TenantId};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgArguments, PgBindIterExt};
use sqlx::query::QueryAs;
use sqlx::{PgExecutor, Postgres};
use uuid::Uuid;

use super::{Form, Found, Payloads, Place, Reference, Spot, Stored, Unopened, parts_of, reference};
use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::pool::Transaction;

/// A text of an answer that may have to be opened.
pub(crate) trait Column: Send {
    fn text(&self) -> Option<&str>;
    fn put(&mut self, text: String);
    /// Takes the text away, if there can be none.
    fn remove(&mut self) {}
}

impl Column for String {
    fn text(&self) -> Option<&str> {
        Some(self)
    }

    fn put(&mut self, text: String) {
        *self = text;
    }
}

impl<T: AsRef<str> + From<String> + Send> Column for Option<T> {
    fn text(&self) -> Option<&str> {
        self.as_ref().map(AsRef::as_ref)
    }

    fn put(&mut self, text: String) {
        *self = Some(text.into());
    }

    fn remove(&mut self) {
        *self = None;
    }
}

/// A column and where it stands.
pub(crate) type Closed<'a> = (Place<'a>, &'a mut dyn Column);

/// What a tenant may store, and what it has stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// The largest payload that is taken from outside; none: as the host has it.
    pub payload_bytes_max: Option<u64>,
    /// Bytes out of row from which on no payload is taken from outside; none: no bound.
    pub stored_bytes_max: Option<u64>,
    /// Bytes out of row.
    pub stored_bytes: u64,
}

/// Why a host cannot work with the payloads of a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The database cannot be asked.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A key is missing, or another one has its name.
    #[error(
        "payloads in this database are sealed with the key {key_id:?}, which this host cannot use: {why}"
    )]
    Unusable {
        /// The name of the key.
        key_id: String,
        /// What is wrong.
        why: String,
    },
}

impl Ledger {
    /// How payloads are stored.
    pub(crate) fn payloads(&self) -> &Payloads {
        &self.options.payloads
    }

    /// Whether this host has every key that payloads of the database are sealed with; makes the one that it seals
    /// with known. May be repeated, and by several at a time.
    pub async fn check_keys(&self) -> Result<(), KeyError> {
        if let Some((key_id, proof)) = self.payloads().proof() {
            sqlx::query(
                "insert into payload_keys (shard, key_id, proof) values ($1, $2, $3)
                 on conflict (shard, key_id) do nothing",
            )
            .bind(self.shard.0)
            .bind(key_id)
            .bind(proof)
            .execute(&self.pool)
            .await
            .map_err(LedgerError::from)?;
        }
        let keys: Vec<(String, Vec<u8>)> =
            sqlx::query_as("select key_id, proof from payload_keys where shard = $1 order by key_id")
                .bind(self.shard.0)
                .fetch_all(&self.pool)
                .await
                .map_err(LedgerError::from)?;
        for (key_id, proof) in keys {
            self.payloads().check(&proof).map_err(|why| KeyError::Unusable { key_id, why })?;
        }
        Ok(())
    }

    /// What the tenant may store and has stored. Reads only.
    pub async fn quota(&self, scope: Scope) -> Result<Quota, LedgerError> {
        let row: Option<(Option<i64>, Option<i64>, Option<i64>)> = sqlx::query_as(
            "select t.payload_bytes_max, t.stored_bytes_max,
                    (select u.bytes from payload_usage u where u.shard = $1 and u.tenant = $2)
             from tenants t where t.shard = $1 and t.tenant = $2",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .fetch_optional(&self.pool)
        .await?;
        let (payload, stored_max, stored) = row.unwrap_or_default();
        Ok(Quota {
            payload_bytes_max: payload.map(i64::cast_unsigned),
            stored_bytes_max: stored_max.map(i64::cast_unsigned),
            stored_bytes: stored.unwrap_or(0).cast_unsigned(),
        })
    }

    /// Sets what the tenant may store. May be repeated.
    pub async fn set_quota(
        &self,
        scope: Scope,
        payload_bytes_max: Option<u64>,
        stored_bytes_max: Option<u64>,
    ) -> Result<(), LedgerError> {
        let bound = |bytes: Option<u64>| bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        sqlx::query(
            "update tenants set payload_bytes_max = $3, stored_bytes_max = $4 where shard = $1 and tenant = $2",
        )
        .bind(scope.shard.0)
        .bind(scope.tenant.0)
        .bind(bound(payload_bytes_max))
        .bind(bound(stored_bytes_max))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Opens columns, each where it stands; those that cannot be opened stay as they are, and are told by their
    /// index. What is out of row is read in one question, by `executor`: whoever is in a transaction must not
    /// wait for another connection of the pool. Reads only.
    pub(crate) async fn open_each(
        &self,
        executor: impl PgExecutor<'_>,
        columns: &mut [Closed<'_>],
    ) -> Result<Vec<(usize, Unopened)>, LedgerError> {
        let out_of_row: BTreeSet<(TenantId, Digest)> = columns
            .iter()
            .filter_map(|(place, column)| Some((tenant(place)?, reference(column.text()?)?.digest)))
            .collect();
        let found =
            if out_of_row.is_empty() { Found::new() } else { self.find(executor, &out_of_row).await? };
        let mut failed = Vec::new();
        for (index, (place, column)) in columns.iter_mut().enumerate() {
            let Some(text) = column.text() else { continue };
            match self.payloads().open(place, text, &found) {
                Ok(None) => {}
                Ok(Some(text)) => column.put(text),
                Err(error) => failed.push((index, error)),
            }
        }
        Ok(failed)
    }

    /// The same, where one that cannot be opened leaves no answer.
    pub(crate) async fn open_all(&self, columns: &mut [Closed<'_>]) -> Result<(), LedgerError> {
        match self.open_each(&self.pool, columns).await?.into_iter().next() {
            None => Ok(()),
            Some((index, error)) => Err(unopened(&columns[index].0, &error)),
        }
    }

    /// The same, where nobody else is to have the trouble: one that cannot be opened is left out, and logged.
    pub(crate) async fn open_some(&self, columns: &mut [Closed<'_>]) -> Result<(), LedgerError> {
        for (index, error) in self.open_each(&self.pool, columns).await? {
            let (place, column) = &mut columns[index];
            tracing::error!(error = %unopened(place, &error), "a payload is left out");
            column.remove();
        }
        Ok(())
    }

    /// The same, for the rows of a ledger: what cannot be opened stays as it is, does not fit its row's checksum, and is
    /// logged.
    pub(crate) async fn open_or_leave(&self, columns: &mut [Closed<'_>]) -> Result<(), LedgerError> {
        for (index, error) in self.open_each(&self.pool, columns).await? {
            tracing::error!(error = %unopened(&columns[index].0, &error), "a ledger cannot be read");
        }
        Ok(())
    }

    async fn find(
        &self,
        executor: impl PgExecutor<'_>,
        wanted: &BTreeSet<(TenantId, Digest)>,
    ) -> Result<Found, LedgerError> {
        let rows: Vec<(i32, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "select p.tenant, p.digest, p.bytes
             from unnest($2::integer[], $3::bytea[]) as wanted (tenant, digest)
             cross join lateral (
                 select tenant, digest, part, bytes from payloads
                 where shard = $1 and payloads.tenant = wanted.tenant and payloads.digest = wanted.digest
                 order by part
             ) p
             order by p.tenant, p.digest, p.part",
        )
        .bind(self.shard.0)
        .bind(wanted.iter().map(|(tenant, _)| tenant.0).bind_iter())
        .bind(wanted.iter().map(|(_, digest)| digest.0.as_slice()).bind_iter())
        .fetch_all(executor)
        .await?;
        let mut found = Found::new();
        for (tenant, digest, bytes) in rows {
            let digest = crate::claims::digest(digest)?;
            found.entry((TenantId(tenant), digest)).or_default().push(bytes);
        }
        Ok(found)
    }

    /// The payload of a ledger row, to be read part by part; none: there is no such row, or it has no payload.
    /// Reads only.
    pub async fn payload(
        &self,
        scope: Scope,
        run: RunId,
        seq: Seq,
    ) -> Result<Option<PayloadReader>, LedgerError> {
        let row: Option<(Option<i32>, Option<String>)> = sqlx::query_as(
            "select op, payload::text from ledger where shard = $1 and run_id = $2 and seq = $3 and tenant = $4",
        )
        .bind(scope.shard.0)
        .bind(run.0)
        .bind(seq.0.cast_signed())
        .bind(scope.tenant.0)
        .fetch_optional(&self.pool)
        .await?;
        let Some((op, Some(column))) = row else { return Ok(None) };
        let op = op.map(|op| Op(op.cast_unsigned()));
        let place =
            Place::Run { tenant: scope.tenant, run, op, spot: Spot::Row(seq, super::Column::Payload) };
        let rest = match Form::parse(&column).map_err(|error| unopened(&place, &error))? {
            Some(Form::Stored { sha256: digest, bytes, sealed, bound }) => {
                let of = Reference { digest, bytes, sealed };
                let bound = self.payloads().check_bound(&place, of, bound.as_deref());
                let bound = bound.map_err(|error| unopened(&place, &error))?;
                Rest::Parts { of, bound, index: 0, read: Sha256::new() }
            }
            _ => {
                let opened = self.payloads().open(&place, &column, &Found::new());
                Rest::Text(opened.map_err(|error| unopened(&place, &error))?.unwrap_or(column))
            }
        };
        Ok(Some(PayloadReader { ledger: self.clone(), place, rest }))
    }
}

/// A payload, part by part: one of them is in memory at a time.
#[derive(Debug)]
pub struct PayloadReader {
    ledger: Ledger,
    place: Place<'static>,
    rest: Rest,
}

/// What is still to be read.
#[derive(Debug)]
enum Rest {
    Text(String),
    /// From this part on; with what those before it amount to.
    Parts {
        of: Reference,
        bound: bool,
        index: u32,
        read: Sha256,
    },
    Nothing,
}

impl PayloadReader {
    /// How long the payload is.
    pub fn bytes(&self) -> u64 {
        match &self.rest {
            Rest::Text(text) => text.len() as u64,
            Rest::Parts { of, .. } => of.bytes,
            Rest::Nothing => 0,
        }
    }

    /// The next bytes of it; none: that was all. The last ones come only if all of them are what was stored. Reads
    /// only.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, LedgerError> {
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Nothing => Ok(None),
            Rest::Text(text) => Ok(Some(text.into_bytes())),
            Rest::Parts { of, bound, index, mut read } => {
                let part = self.part(of, bound, index, &mut read).await?;
                if index + 1 < parts_of(of.bytes) {
                    self.rest = Rest::Parts { of, bound, index: index + 1, read };
                }
                Ok(Some(part))
            }
        }
    }

    async fn part(
        &self,
        of: Reference,
        bound: bool,
        index: u32,
        read: &mut Sha256,
    ) -> Result<Vec<u8>, LedgerError> {
        let Self { ledger, place, .. } = self;
        let part: Option<Vec<u8>> = sqlx::query_scalar(
            "select bytes from payloads where shard = $1 and tenant = $2 and digest = $3 and part = $4",
        )
        .bind(ledger.shard.0)
        .bind(tenant(place).map(|tenant| tenant.0))
        .bind(of.digest.0.as_slice())
        .bind(index.cast_signed())
        .fetch_optional(&ledger.pool)
        .await?;
        let opened = part.ok_or(Unopened::Missing(of.digest)).and_then(|part| {
            read.update(&part);
            let is_last = index + 1 == parts_of(of.bytes);
            if is_last && Digest(read.clone().finalize().into()) != of.digest {
                return Err(Unopened::Changed(of.digest));
            }
            ledger.payloads().open_part(place, of, bound, index, &part)
        });
        opened.map_err(|error| unopened(place, &error))
    }
}

fn tenant(place: &Place<'_>) -> Option<TenantId> {
    match place {
        Place::Run { tenant, .. } | Place::Schedule { tenant, .. } => Some(*tenant),
        Place::Key => None,
    }
}

pub(crate) fn unopened(place: &Place<'_>, error: &Unopened) -> LedgerError {
    let of = match place {
        Place::Run { run, op: Some(op), .. } => format!("of op {op} of run {run}"),
        Place::Run { run, op: None, .. } => format!("of run {run}"),
        Place::Schedule { name, .. } => format!("of the schedule {name:?}"),
        Place::Key => "of a key".to_owned(),
    };
    LedgerError::Corrupt(format!("a payload {of} that cannot be had: {error}"))
}

/// Puts parts of payloads beside what refers to them. Idempotent: what is there under its digest is the same. In
/// the order of their keys, as every statement does, so that two of them cannot deadlock.
pub(crate) async fn insert(to: &mut Transaction, shard: Shard, stored: &[Stored]) -> Result<(), sqlx::Error> {
    if stored.is_empty() {
        return Ok(());
    }
    let parts = parts(stored.iter());
    sqlx::query(INSERT)
        .bind(shard.0)
        .bind(parts.iter().map(|part| part.tenant).bind_iter())
        .bind(parts.iter().map(|part| part.digest).bind_iter())
        .bind(parts.iter().map(|part| part.index).bind_iter())
        .bind(parts.iter().map(|part| part.bytes).bind_iter())
        .execute(to)
        .await?;
    Ok(())
}

const INSERT: &str = "with stored as (
        insert into payloads (shard, tenant, digest, part, bytes)
        select $1, p.tenant, p.digest, p.part, p.bytes
        from unnest($2::integer[], $3::bytea[], $4::integer[], $5::bytea[]) as p (tenant, digest, part, bytes)
        on conflict (shard, tenant, digest, part) do nothing
        returning tenant, octet_length(bytes) as bytes
    )
    insert into payload_usage (shard, tenant, bytes)
    select $1, tenant, sum(bytes) from stored group by tenant order by tenant
    on conflict (shard, tenant) do update set bytes = payload_usage.bytes + excluded.bytes";

/// Two CTEs that do what [`insert`] does, as part of another statement: for the parts in four of its parameters, from
/// `$first` on, if `$when` holds. So nobody waits for a transaction of which this host has said a half.
macro_rules! storing {
    ($tenants:literal, $digests:literal, $indexes:literal, $bytes:literal, $when:literal) => {
        concat!(
            "stored as (
                 insert into payloads (shard, tenant, digest, part, bytes)
                 select $1, p.tenant, p.digest, p.part, p.bytes
                 from unnest(",
            $tenants,
            "::integer[], ",
            $digests,
            "::bytea[], ",
            $indexes,
            "::integer[], ",
            $bytes,
            "::bytea[]) as p (tenant, digest, part, bytes)
                 where ",
            $when,
            "
                 on conflict (shard, tenant, digest, part) do nothing
                 returning tenant, octet_length(bytes) as bytes
             ),
             used as (
                 insert into payload_usage (shard, tenant, bytes)
                 select $1, tenant, sum(bytes) from stored group by tenant order by tenant
                 on conflict (shard, tenant) do update set bytes = payload_usage.bytes + excluded.bytes
                 returning 1
             )"
        )
    };
}
pub(crate) use storing;

/// Binds the four parameters of [`storing`].
pub(crate) fn bind_parts<'q, O>(
    query: QueryAs<'q, Postgres, O, PgArguments>,
    stored: &'q [Stored],
) -> QueryAs<'q, Postgres, O, PgArguments> {
    let parts = parts(stored.iter());
    query
        .bind(parts.iter().map(|part| part.tenant).collect::<Vec<i32>>())
        .bind(parts.iter().map(|part| part.digest).collect::<Vec<&'q [u8]>>())
        .bind(parts.iter().map(|part| part.index).collect::<Vec<i32>>())
        .bind(parts.iter().map(|part| part.bytes).collect::<Vec<&'q [u8]>>())
}

/// One part on its way to the database.
pub(crate) struct Part<'a> {
    pub(crate) tenant: i32,
    pub(crate) digest: &'a [u8],
    pub(crate) index: i32,
    pub(crate) bytes: &'a [u8],
    pub(crate) first_of: Option<Uuid>,
}

/// Parts in the order in which everybody writes them.
pub(crate) fn parts<'a>(stored: impl Iterator<Item = &'a Stored>) -> Vec<Part<'a>> {
    let parts = stored.flat_map(|stored| {
        (0..).zip(&stored.parts).map(|(index, bytes)| Part {
            tenant: stored.tenant.0,
            digest: &stored.digest.0,
            index,
            bytes,
            first_of: stored.first_of.map(|run| run.0),
        })
    });
    let mut parts: Vec<Part<'a>> = parts.collect();
    parts.sort_unstable_by_key(|part| (part.tenant, part.digest, part.index));
    parts
}

/// A run's columns, by op.
pub(crate) fn of_run(tenant: i32, run: Uuid, op: Option<i32>, spot: Spot) -> Place<'static> {
    let op = op.map(|op| Op(op.cast_unsigned()));
    Place::Run { tenant: TenantId(tenant), run: RunId(run), op, spot }
}
