//! The schema: its migrations and the ledger's partitions.

use backstitch_core::date::civil;
use backstitch_core::ids::RunId;
use backstitch_core::limits;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgExecutor};

use crate::connect::Ledger;
use crate::error::LedgerError;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Weeks of the ledger that have a partition before and after the current one. Ahead: a host that
/// fails to make new ones for a month still writes to the right place.
const WEEKS_BEHIND: u64 = 1;
const WEEKS_AHEAD: u64 = 4;

const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
/// 1970-01-05, the first Monday.
const FIRST_MONDAY_MS: u64 = 4 * 24 * 3600 * 1000;

/// Orders hosts that make partitions at the same time. Any number will do; this one spells "weeks".
const PARTITIONS_LOCK: i64 = 0x77_65_65_6b_73;

/// Why the schema is not ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The database cannot be reached.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The database was migrated by another, usually newer, version of this program.
    #[error(
        "the schema is not one that this version made ({0}); run the version that migrated it, or a later one"
    )]
    Foreign(#[source] sqlx::migrate::MigrateError),
    /// A migration failed. It was rolled back.
    #[error("a migration failed and was rolled back: {0}")]
    Failed(#[source] sqlx::migrate::MigrateError),
}

impl Ledger {
    /// Brings the schema up to date, over its own connection and without a statement timeout.
    ///
    /// May be repeated, and run by several hosts at once: an advisory lock puts them in a row, and
    /// each migration is one transaction.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        use sqlx::migrate::MigrateError as Error;
        let session = self.options.patient_session().map_err(MigrateError::Unavailable)?;
        let mut connection = PgConnection::connect_with(&session).await.map_err(MigrateError::Unavailable)?;
        let migrated = MIGRATIONS.run(&mut connection).await;
        // Ends the session, and with it the advisory lock, also after a failure.
        connection.close().await.ok();
        migrated.map_err(|error| match error {
            Error::Execute(error) => MigrateError::Unavailable(error),
            Error::VersionMissing(_) | Error::VersionMismatch(_) | Error::VersionTooNew(..) => {
                MigrateError::Foreign(error)
            }
            error => MigrateError::Failed(error),
        })
    }

    /// Makes the ledger's partitions around `now_ms` that do not exist yet.
    ///
    /// Called at start-up and ever again. May be repeated, and run by several hosts at once. A new partition is attached,
    /// not created in place: that does not block appends, which an ACCESS EXCLUSIVE lock on the parent would. It takes
    /// such a lock on the default partition, though, and behind whoever waits for that, everybody waits who comes later:
    /// so it waits for [`limits::PARTITION_LOCK_MS`] at most, and is tried again another time. Rows that already went to
    /// the default partition stay there.
    pub async fn ensure_partitions(&self, now_ms: u64) -> Result<Partitions, LedgerError> {
        let current = now_ms.saturating_sub(FIRST_MONDAY_MS) / WEEK_MS;
        let mut partitions = Partitions::default();
        for week in current.saturating_sub(WEEKS_BEHIND)..=current + WEEKS_AHEAD {
            let monday_ms = FIRST_MONDAY_MS + week * WEEK_MS;
            match self.ensure_week(monday_ms, week < current).await {
                Ok(made) => partitions.made += u32::from(made),
                Err(LedgerError::Unavailable(error)) if is_locked(&error) => partitions.put_off += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(partitions)
    }

    async fn ensure_week(&self, monday_ms: u64, is_past: bool) -> Result<bool, LedgerError> {
        let (year, month, day) = civil(monday_ms);
        let name = format!("ledger_{year:04}{month:02}{day:02}");
        // Nearly always all are there: that costs no lock.
        let state = self.table_state(&name, &self.pool).await?;
        if state == Table::Attached || (state == Table::Detached && is_past) {
            // A week that is past was detached by somebody who wants it so.
            return Ok(false);
        }
        let mut transaction = self.pool.begin().await?;
        let patience = format!("set local lock_timeout = {}", limits::PARTITION_LOCK_MS);
        sqlx::query(AssertSqlSafe(patience)).execute(&mut *transaction).await?;
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(PARTITIONS_LOCK)
            .execute(&mut *transaction)
            .await?;
        // Another host may have been at it.
        let state = self.table_state(&name, &mut *transaction).await?;
        if state == Table::Attached {
            return Ok(false);
        }
        let (from, to) = (first_id(monday_ms), first_id(monday_ms + WEEK_MS));
        let crowded: bool = sqlx::query_scalar(
            "select exists (select from ledger_default
                            where shard = $1 and run_id >= $2 and run_id < $3)",
        )
        .bind(self.shard.0)
        .bind(from.0)
        .bind(to.0)
        .fetch_one(&mut *transaction)
        .await?;
        if crowded {
            tracing::warn!(partition = name, "rows of this week are in the default partition: it stays");
            return Ok(false);
        }
        if state == Table::Detached {
            tracing::warn!(
                partition = name,
                "the partition of a week to come was detached; it is attached again"
            );
        }
        // A name made of digits and two UUIDs: nothing of it comes from outside.
        let create = format!("create table {name} (like ledger including all)");
        let attach =
            format!("alter table ledger attach partition {name} for values from ('{from}') to ('{to}')");
        for statement in [Some(create).filter(|_| state == Table::Absent), Some(attach)].into_iter().flatten()
        {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// How the table of a week stands. Reads only.
    async fn table_state(&self, name: &str, executor: impl PgExecutor<'_>) -> Result<Table, LedgerError> {
        let is_partition: Option<bool> =
            sqlx::query_scalar("select relispartition from pg_class where oid = to_regclass($1)")
                .bind(name)
                .fetch_optional(executor)
                .await?;
        Ok(match is_partition {
            None => Table::Absent,
            Some(true) => Table::Attached,
            Some(false) => Table::Detached,
        })
    }
}

/// What became of the partitions that are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partitions {
    /// They were made.
    pub made: u32,
    /// Somebody reads the ledger for long: they are to be tried again. Until then, rows of their weeks go to the default
    /// partition.
    pub put_off: u32,
}

/// How the table of a week stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Absent,
    Attached,
    /// It is there, and none of the ledger's.
    Detached,
}

/// Whether a lock was not to be had in time.
fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}

/// The smallest run id of this millisecond: UUID v7 begins with 48 bits of time.
fn first_id(ms: u64) -> RunId {
    RunId(uuid::Uuid::from_u128(u128::from(ms) << 80))
}
