//! What can go wrong between here and Postgres, split by whose fault it is and who may retry.
//!
//! Callers see [`LedgerError`]; the writer, which must know whether a statement may have been
//! committed, asks [`Failure::of`].

use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Why a question to the database has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The database cannot be reached, is overloaded, out of space or read-only. Nobody's request is at
    /// fault: the same call may succeed later. A write may nevertheless have been committed.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The connection broke before the reply: whether the statement was committed is unknown, and matters.
    #[error("the database's reply was lost: {0}")]
    Unknown(#[source] sqlx::Error),
    /// The database refused what the caller gave it. The same call fails again.
    #[error("the database refused the request: {0}")]
    Refused(#[source] sqlx::Error),
    /// A row holds what no version of this program writes. An operator must look.
    #[error("the database holds what this program cannot have written: {0}")]
    Corrupt(String),
    /// The role may not do what was asked.
    #[error(
        "the role of the database URL may not do this: {0}; `backstitch migrate --role NAME` gives a role what it needs"
    )]
    Denied(#[source] sqlx::Error),
    /// The statement and the schema do not fit each other, or a defect of this crate.
    #[error("the database does not match this program (are all migrations applied?): {0}")]
    Mismatch(#[source] sqlx::Error),
}

impl LedgerError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        match Failure::of(&error) {
            Failure::Lost
            | Failure::Contended
            | Failure::LockTimeout
            | Failure::Exhausted
            | Failure::ReadOnly => Self::Unavailable(error),
            Failure::Data => Self::Refused(error),
            Failure::Mismatch => match error {
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
                error if is_denied(&error) => Self::Denied(error),
                error => Self::Mismatch(error),
            },
        }
    }
}

/// What an error says about the statement that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection is gone: whether the statement was committed is unknown. All others below
    /// mean that it was rolled back.
    Lost,
    /// It lost a race (serialisation, deadlock): the same statement may be repeated.
    Contended,
    /// It waited too long, for a lock or for itself: the same statement may be repeated, when somebody has let go.
    LockTimeout,
    /// The server is out of something: space, memory, connections. Repeat when an operator has helped.
    Exhausted,
    /// The server does not take writes now; another one may. Reconnect, then repeat.
    ReadOnly,
    /// The data is at fault: the same statement fails again.
    Data,
    /// The schema is not what this program expects.
    Mismatch,
}

impl Failure {
    /// Sorts an error by its SQLSTATE (PostgreSQL manual, appendix A).
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        let database = match error {
            sqlx::Error::Database(database) => database,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => return Self::Lost,
            sqlx::Error::Encode(_) => return Self::Data,
            _ => return Self::Mismatch,
        };
        let Some(database) = database.try_downcast_ref::<PgDatabaseError>() else {
            return Self::Mismatch;
        };
        // FATAL and PANIC end the session, maybe after the commit.
        if matches!(database.severity(), PgSeverity::Fatal | PgSeverity::Panic) {
            return Self::Lost;
        }
        match database.code() {
            "25006" => Self::ReadOnly,
            "40001" | "40P01" => Self::Contended,
            "55P03" | "57014" => Self::LockTimeout,
            // It has forgotten a statement that was prepared in it: somebody has reset it, and its settings are gone too.
            "26000" => Self::Lost,
            code if code.starts_with("08") || code.starts_with("57") => Self::Lost,
            code if code.starts_with("53") || code.starts_with("58") || code.starts_with("XX") => {
                Self::Exhausted
            }
            // 54: the text is nested too deeply, the index entry too long …
            "21000" => Self::Data,
            code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => Self::Data,
            _ => Self::Mismatch,
        }
    }
}

/// Whether the role lacks a permission.
pub(crate) fn is_denied(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "42501")
}

/// A column's value that must have one of few forms.
pub(crate) fn known<T>(
    value: Option<T>,
    what: &str,
    found: impl std::fmt::Display,
) -> Result<T, LedgerError> {
    value.ok_or_else(|| LedgerError::Corrupt(format!("{what} {found}")))
}
