//! What a client is told when a call is not answered, and how the errors of the rooms become that.

use backstitch_core::{RunId, RunStatus, limits};
use backstitch_ledger::LedgerError;
use backstitch_sandbox::{CompileError, LoadError, Refused};

/// What a client got wrong, or what the host cannot do right now. Codes are stable.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A component that cannot be deployed: 422.
    #[error("{message}")]
    Unfit {
        /// For programs.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The request itself is wrong: 400.
    #[error("{message}")]
    Invalid {
        /// For programs.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// Something named does not exist: 404.
    #[error("{message}")]
    NotFound {
        /// For programs.
        code: &'static str,
        /// What is missing and what to do.
        message: String,
    },
    /// The request contradicts what is there: 409.
    #[error("{message}")]
    Conflict {
        /// For programs.
        code: &'static str,
        /// What it contradicts and what to do.
        message: String,
    },
    /// Larger than a limit: 413.
    #[error("{message}")]
    TooLarge {
        /// For programs.
        code: &'static str,
        /// Which limit and what to do.
        message: String,
    },
    /// More of it than may wait: 429, try again.
    #[error("{message}")]
    Busy {
        /// For programs.
        code: &'static str,
        /// What is full and what to do.
        message: String,
    },
    /// Postgres does not answer or does not take writes, or the host is stopping: 503, try again.
    #[error("{message}")]
    Unavailable {
        /// For programs.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// A mistake of ours: 500. The text is for the log, not for the client.
    #[error("{0}")]
    Internal(String),
}

pub(super) fn invalid(code: &'static str, message: String) -> ServiceError {
    ServiceError::Invalid { code, message }
}

pub(super) fn unfit(code: &'static str, message: String) -> ServiceError {
    ServiceError::Unfit { code, message }
}

pub(super) fn internal(error: &dyn std::fmt::Display) -> ServiceError {
    ServiceError::Internal(error.to_string())
}

pub(super) fn unknown_run(id: &str) -> ServiceError {
    let message = format!("there is no run {id:?}; `backstitch run list` shows what there is");
    ServiceError::NotFound { code: "unknown-run", message }
}

pub(super) fn closed(run: RunId, status: RunStatus) -> ServiceError {
    let message = format!("run {run} is {}: it takes no more messages", status.as_str());
    ServiceError::Conflict { code: "run-closed", message }
}

pub(super) fn crowded(run: RunId) -> ServiceError {
    let message = format!(
        "{} messages wait for run {run}, which has not read them: send it again when it has",
        limits::INBOX_ITEMS_MAX
    );
    ServiceError::Busy { code: "inbox-full", message }
}

pub(super) fn away(reason: &str, consequence: &str) -> ServiceError {
    let message = format!("the database does not take writes ({reason}); {consequence}");
    ServiceError::Unavailable { code: "database-unavailable", message }
}

pub(super) fn between_terms() -> ServiceError {
    let message = "the host is stopping, or has lost its lease and is registering again; try again";
    ServiceError::Unavailable { code: "host-not-ready", message: message.to_owned() }
}

/// The host has given up its runs because its clock is wrong.
pub(super) fn out_of_time(wrong: String) -> ServiceError {
    ServiceError::Unavailable { code: "host-not-ready", message: wrong }
}

fn refused(refused: Refused) -> ServiceError {
    let (code, message) = (refused.code(), refused.to_string());
    match refused {
        Refused::TooLarge { .. } => ServiceError::TooLarge { code, message },
        _ => ServiceError::Unfit { code, message },
    }
}

pub(super) fn unloadable(error: LoadError) -> ServiceError {
    match error {
        LoadError::Fetch { .. } => {
            ServiceError::Unavailable { code: "database-unavailable", message: error.to_string() }
        }
        LoadError::Busy => ServiceError::Unavailable { code: "deployments-busy", message: error.to_string() },
        LoadError::Compile { error: CompileError::Refused(why), .. } => refused(why),
        error if error.is_final() => {
            ServiceError::Unfit { code: "does-not-load", message: error.to_string() }
        }
        error => internal(&error),
    }
}

impl From<LedgerError> for ServiceError {
    fn from(error: LedgerError) -> Self {
        if error.is_transient() {
            let message = format!(
                "{error}; a change that was asked for may have been made or not: try again later, under the same id"
            );
            Self::Unavailable { code: "database-unavailable", message }
        } else {
            Self::Internal(error.to_string())
        }
    }
}
