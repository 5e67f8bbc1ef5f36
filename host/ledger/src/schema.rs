//! The schema: its migrations and the ledger's partitions.
//!
//! Both are the work of the schema's owner, whom `backstitch migrate` logs in as. A host needs neither ownership nor
//! CREATE: it looks whether all is there, and makes what is missing only if its role may.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use backstitch_core::date::civil;
use backstitch_core::ids::RunId;
use backstitch_core::limits;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgExecutor, SqlSafeStr as _};

use crate::connect::Ledger;
use crate::error::{LedgerError, is_denied};
use crate::from_row::from_row;
use crate::opening::Opening;

/// The files of `migrations/`, in their order: their numbers, what they do, their texts.
const FILES: &[(i64, &str, &str)] = &include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, what, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*what).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(FILES.iter().map(migration).collect())
});

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
    /// The schema is older than this program, and the role may not change it.
    #[error(
        "the schema has {applied} of {needed} migrations, and the role {role:?} may not make the others; run `backstitch \
         migrate` as {owner}, then start this again"
    )]
    Behind {
        /// How many there are.
        applied: usize,
        /// How many there have to be.
        needed: usize,
        /// Who asks.
        role: String,
        /// Who may.
        owner: String,
    },
    /// Somebody else owns the tables.
    #[error("only the owner of the tables may migrate them ({0}); log in as that role")]
    NotOwner(#[source] sqlx::migrate::MigrateError),
    /// The tables are in another schema than the one that is looked into, and nobody has said that others are to be made.
    #[error(
        "the tables are in the schema {found:?}, and not in {wanted:?}, which is looked into; use them with --schema \
         {found}, or have others made with --schema {wanted}"
    )]
    Elsewhere {
        /// Where they are.
        found: String,
        /// Where they were looked for.
        wanted: String,
    },
    /// There is no such schema, or the role may not use it.
    #[error(
        "there is no schema {wanted:?} that the role {role:?} may use; CREATE SCHEMA {wanted}, or GRANT USAGE on it"
    )]
    NoSchema {
        /// Where the tables were looked for.
        wanted: String,
        /// Who asks.
        role: String,
    },
    /// The role lacks permissions.
    #[error(
        "the role {role:?} may not use these tables: {}; `backstitch migrate --role {role}`, run by their owner, gives it \
         what a host needs", tables.join(", ")
    )]
    Denied {
        /// Who asks.
        role: String,
        /// What it may not use.
        tables: Vec<String>,
    },
    /// A migration failed. It was rolled back.
    #[error("a migration failed and was rolled back: {0}")]
    Failed(#[source] sqlx::migrate::MigrateError),
}

impl Ledger {
    /// Makes sure that the schema is up to date and may be used: makes what is missing if the role may, else says who has
    /// to. May be repeated, and by several hosts at once.
    pub async fn prepare_schema(&self) -> Result<(), MigrateError> {
        let standing = self.standing().await?;
        self.check_place(&standing)?;
        let needed = MIGRATIONS.iter().count();
        match self.applied(&standing).await? {
            applied if applied == needed => {}
            _ if standing.may_create => self.bring_up_to_date().await?,
            applied => {
                let owner = match standing.owner {
                    Some(owner) => format!("the owner of the tables, {owner:?}"),
                    None => "a role that has CREATE on the schema".to_owned(),
                };
                return Err(MigrateError::Behind { applied, needed, role: standing.role, owner });
            }
        }
        let tables = self.forbidden().await.map_err(MigrateError::Unavailable)?;
        if tables.is_empty() { Ok(()) } else { Err(MigrateError::Denied { role: standing.role, tables }) }
    }

    /// Whether the tables are, or may be made, where they are looked for.
    fn check_place(&self, standing: &Standing) -> Result<(), MigrateError> {
        let (role, wanted) = (standing.role.clone(), self.options.schema().to_owned());
        match &standing.found {
            Some(found) if !standing.is_here && self.options.schema.is_none() => {
                Err(match standing.may_look {
                    true => MigrateError::Elsewhere { found: found.clone(), wanted },
                    false => MigrateError::Denied { role, tables: vec![format!("schema {found}")] },
                })
            }
            _ if standing.here.is_none() => Err(MigrateError::NoSchema { wanted, role }),
            _ => Ok(()),
        }
    }

    /// How many of the migrations are there; an error if there are others.
    async fn applied(&self, standing: &Standing) -> Result<usize, MigrateError> {
        use sqlx::migrate::MigrateError as Error;
        if !standing.is_begun {
            return Ok(0);
        }
        let applied: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("select version, checksum from _sqlx_migrations where success order by version")
                .fetch_all(&self.pool)
                .await
                .map_err(|error| match is_denied(&error) {
                    true => MigrateError::Denied {
                        role: standing.role.clone(),
                        tables: vec!["_sqlx_migrations".to_owned()],
                    },
                    false => MigrateError::Unavailable(error),
                })?;
        for (version, checksum) in &applied {
            match MIGRATIONS.iter().find(|migration| migration.version == *version) {
                None => return Err(MigrateError::Foreign(Error::VersionMissing(*version))),
                Some(known) if *known.checksum != **checksum => {
                    return Err(MigrateError::Foreign(Error::VersionMismatch(*version)));
                }
                Some(_) => {}
            }
        }
        Ok(applied.len())
    }

    async fn standing(&self) -> Result<Standing, MigrateError> {
        let standing = sqlx::query_as(
            "select current_user::text as role, current_schema()::text as here,
                    to_regclass('_sqlx_migrations') is not null as is_begun,
                    to_regclass('ledger_default') is not null as is_here,
                    coalesce(has_schema_privilege(current_schema(), 'create'), false)
                        and coalesce((select pg_has_role(c.relowner, 'usage') from pg_class c
                                      where c.oid = to_regclass('ledger_default')), true) as may_create,
                    (select pg_get_userbyid(c.relowner)::text from pg_class c
                     where c.oid = to_regclass('ledger_default')) as owner,
                    (select min(n.nspname)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where c.relname = 'ledger_default') as found,
                    coalesce((select bool_or(has_schema_privilege(n.oid, 'usage'))
                              from pg_class c join pg_namespace n on n.oid = c.relnamespace
                              where c.relname = 'ledger_default'), false) as may_look",
        );
        standing.fetch_one(&self.pool).await.map_err(MigrateError::Unavailable)
    }

    /// Our tables that the role may not use. Reads only.
    async fn forbidden(&self) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar(
            "select t.name from unnest($1::text[]) as t (name)
             where not (coalesce(has_table_privilege(to_regclass(t.name), 'select')
                                 and has_table_privilege(to_regclass(t.name), 'insert')
                                 and has_table_privilege(to_regclass(t.name), 'update')
                                 and has_table_privilege(to_regclass(t.name), 'delete'), false))",
        )
        .bind(tables())
        .fetch_all(&self.pool)
        .await
    }

    /// Lets a role do what a host does: use the tables, and look at the views. Only their owner can. May be repeated.
    pub async fn grant(&self, role: &str) -> Result<(), LedgerError> {
        let (role, here): (String, String) =
            sqlx::query_as("select quote_ident($1), quote_ident(current_schema())")
                .bind(role)
                .fetch_one(&self.pool)
                .await?;
        let mut statements = vec![format!("grant usage on schema {here} to {role}")];
        statements.extend(
            tables()
                .into_iter()
                .map(|table| format!("grant select, insert, update, delete on {table} to {role}")),
        );
        let readable = views().into_iter().chain(["_sqlx_migrations"]);
        statements.extend(readable.map(|name| format!("grant select on {name} to {role}")));
        let mut transaction = self.pool.begin().await?;
        for statement in statements {
            // Names of ours, and such as the server has quoted.
            sqlx::query(AssertSqlSafe(statement)).execute(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Brings the schema up to date, over its own connection and without a statement timeout.
    ///
    /// May be repeated, and run by several hosts at once: an advisory lock puts them in a row, and
    /// each migration is one transaction.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        self.check_place(&self.standing().await?)?;
        self.bring_up_to_date().await
    }

    async fn bring_up_to_date(&self) -> Result<(), MigrateError> {
        use sqlx::migrate::MigrateError as Error;
        let opening = Opening::patient(&self.options).map_err(MigrateError::Unavailable)?;
        let mut connection = opening.open().await.map_err(MigrateError::Unavailable)?;
        let migrated = MIGRATIONS.run(&mut connection).await;
        // Ends the session, and with it the advisory lock, also after a failure.
        connection.close().await.ok();
        migrated.map_err(|error| match error {
            Error::Execute(ref source) | Error::ExecuteMigration(ref source, _) if is_denied(source) => {
                MigrateError::NotOwner(error)
            }
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
        if !self.owns_ledger().await? {
            self.look_ahead(FIRST_MONDAY_MS + (current + 1) * WEEK_MS).await?;
            return Ok(Partitions::default());
        }
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

    async fn owns_ledger(&self) -> Result<bool, LedgerError> {
        let owns = "select pg_has_role(relowner, 'usage') from pg_class where oid = to_regclass('ledger')";
        Ok(sqlx::query_scalar(owns).fetch_optional(&self.pool).await?.unwrap_or(true))
    }

    /// Says in time that nobody has made the partition of the next week. Without it, rows go to the default one.
    async fn look_ahead(&self, monday_ms: u64) -> Result<(), LedgerError> {
        let name = week(monday_ms);
        let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
            .bind(&name)
            .fetch_one(&self.pool)
            .await?;
        if !exists {
            tracing::warn!(
                partition = name,
                "nobody has made the partition of the next week: have the owner of the tables run `backstitch migrate` \
                 every two weeks"
            );
        }
        Ok(())
    }

    async fn ensure_week(&self, monday_ms: u64, is_past: bool) -> Result<bool, LedgerError> {
        let name = week(monday_ms);
        // Nearly always all are there: that costs no lock.
        let state = self.table_state(&name, &self.pool).await?;
        if state == Table::Attached || (state == Table::Detached && is_past) {
            // A week that is past was detached by somebody who wants it so.
            return Ok(false);
        }
        let mut transaction = self.pool.begin().await?;
        let timeout = format!("set local lock_timeout = {}", limits::PARTITION_LOCK_MS);
        sqlx::query(AssertSqlSafe(timeout)).execute(&mut transaction).await?;
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(PARTITIONS_LOCK)
            .execute(&mut transaction)
            .await?;
        // Another host may have been at it.
        let state = self.table_state(&name, &mut transaction).await?;
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
        .fetch_one(&mut transaction)
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
            sqlx::query(AssertSqlSafe(statement)).execute(&mut transaction).await?;
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
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "55P03")
}

/// The partition of the week that begins with this Monday.
fn week(monday_ms: u64) -> String {
    let (year, month, day) = civil(monday_ms);
    format!("ledger_{year:04}{month:02}{day:02}")
}

from_row! {
    /// What a role finds where it looks for the schema.
    struct Standing {
        role: String,
        here: Option<String>,
        is_begun: bool,
        is_here: bool,
        may_create: bool,
        owner: Option<String>,
        found: Option<String>,
        may_look: bool,
    }
}

/// What the migrations create of a kind, by name.
fn created(kind: &str) -> Vec<&'static str> {
    let lines = MIGRATIONS.iter().flat_map(|migration| migration.sql.as_str().lines());
    let names = lines.filter_map(|line| {
        let line = line.strip_prefix("create ")?;
        let name = line.strip_prefix("or replace ").unwrap_or(line).strip_prefix(kind)?;
        name.split([' ', '(']).find(|word| !word.is_empty())
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn tables() -> Vec<&'static str> {
    created("table ")
}

fn views() -> Vec<&'static str> {
    created("view ")
}

/// The smallest run id of this millisecond: UUID v7 begins with 48 bits of time.
fn first_id(ms: u64) -> RunId {
    RunId(uuid::Uuid::from_u128(u128::from(ms) << 80))
}
