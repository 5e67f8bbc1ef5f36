//! The schema: its migrations and the ledger's partitions.

use backstitch_core::date::civil;
use backstitch_core::ids::RunId;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

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

    /// Makes the ledger's partitions around `now_ms` that do not exist yet; returns how many.
    ///
    /// Called at start-up and daily. May be repeated, and run by several hosts at once. A new
    /// partition is attached, not created in place: that does not block appends, which an ACCESS
    /// EXCLUSIVE lock on the parent would. Rows that already went to the default partition stay there.
    pub async fn ensure_partitions(&self, now_ms: u64) -> Result<u32, LedgerError> {
        let current = now_ms.saturating_sub(FIRST_MONDAY_MS) / WEEK_MS;
        let mut made = 0;
        for week in current.saturating_sub(WEEKS_BEHIND)..=current + WEEKS_AHEAD {
            made += u32::from(self.ensure_week(FIRST_MONDAY_MS + week * WEEK_MS).await?);
        }
        Ok(made)
    }

    async fn ensure_week(&self, monday_ms: u64) -> Result<bool, LedgerError> {
        let (year, month, day) = civil(monday_ms);
        let name = format!("ledger_{year:04}{month:02}{day:02}");
        let mut transaction = self.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(PARTITIONS_LOCK)
            .execute(&mut *transaction)
            .await?;
        let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
            .bind(&name)
            .fetch_one(&mut *transaction)
            .await?;
        if exists {
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
        // A name made of digits and two UUIDs: nothing of it comes from outside.
        let statements = [
            format!("create table {name} (like ledger including all)"),
            format!("alter table ledger attach partition {name} for values from ('{from}') to ('{to}')"),
        ];
        for statement in statements {
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// The smallest run id of this millisecond: UUID v7 begins with 48 bits of time.
fn first_id(ms: u64) -> RunId {
    RunId(uuid::Uuid::from_u128(u128::from(ms) << 80))
}
