//! What is there is not yet safe: a commit whose wait for a synchronous standby was cut short (its session was ended, the
//! server was restarted) can be seen by everybody, and the next failover may lose it. So whoever is told of a write
//! because it was found, and not because its own commit has come back, is told after this.

use sqlx::PgExecutor;

use crate::connect::Ledger;
use crate::error::LedgerError;

/// Waits until everything that can be seen so far is as safe as a commit can be: commits one more record, which comes
/// after all of it in the log. A synchronous standby that is waited for has then got what came before too.
pub(crate) async fn confirm(executor: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_logical_emit_message(true, 'backstitch', 'confirm')").execute(executor).await?;
    Ok(())
}

impl Ledger {
    /// To be called before somebody is told that a write is there which another statement has made. Statements that lock or
    /// change a row, if only one that is there already, are confirmed by their own commit. May be repeated.
    pub async fn confirm(&self) -> Result<(), LedgerError> {
        Ok(confirm(&self.pool).await?)
    }
}
