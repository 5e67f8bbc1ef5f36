//! Tasks: calls that no component of a host serves, offered to workers outside, and those that a component has
//! left to be answered later.
//!
//! | a task | becomes | by |
//! |---|---|---|
//! | | offered | its call, if no component serves it |
//! | | held | the attempt of a component, which leaves the answer to whoever it gives the token |
//! | offered | leased | a worker's poll: nobody else gets it while the lease lives |
//! | leased | leased for longer | a heartbeat |
//! | leased | held | a worker that will answer later: no lease, only the call's own bounds |
//! | leased, held | gone, with an outcome | its token's complete or fail, an operator's word, the end of its lease |
//! | offered | gone, with a failure | its call's bound on the wait for a worker |
//! | offered, leased | gone, to be offered again | a component that serves it now, a worker that gives it back |
//!
//! A task that goes leaves a [`crate::Message`] in the run's inbox, in the same statement; or it goes with
//! the row of its outcome. Only the run's owner makes one. So there is never a moment at which a
//! call has neither task, message nor outcome, and never one at which it has two leases.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use crate::failure::{Failure, FailureKind};
use crate::ids::{Op, RunId, TaskLease};

/// What a worker shows to say anything about a task: which attempt of which call, and under which lease.
/// Its text is opaque to workers, and cannot be guessed because the lease cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskToken {
    /// The run.
    pub run: RunId,
    /// The call.
    pub op: Op,
    /// Which attempt, 1 for the first.
    pub attempt: u32,
    /// Under which lease.
    pub lease: TaskLease,
}

impl fmt::Display for TaskToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, op, attempt, lease } = self;
        write!(f, "{}.{op}.{attempt}.{}", run.0.simple(), lease.0.simple())
    }
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the token of a task; pass on the one that the poll gave, unchanged")]
pub struct NoToken;

impl FromStr for TaskToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(NoToken);
        let (run, op, attempt, lease) = (part()?, part()?, part()?, part()?);
        let id = |text: &str| Uuid::try_parse(text).map_err(|_| NoToken);
        let number = |text: &str| text.parse::<u32>().map_err(|_| NoToken);
        let token = Self {
            run: RunId(id(run)?),
            op: Op(number(op)?),
            attempt: number(attempt)?,
            lease: TaskLease(id(lease)?),
        };
        // One token has one text: what is compared as text elsewhere must not have two.
        if token.to_string() == text { Ok(token) } else { Err(NoToken) }
    }
}

/// On which terms somebody has tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// The lease. All tasks of one grant have it.
    pub lease: TaskLease,
    /// How long the worker may be silent, in milliseconds. None: the task is held from the first, and nothing
    /// but its bounds ends it.
    pub lease_ms: Option<u64>,
    /// What the worker calls itself.
    pub worker: Arc<str>,
}

/// Which bound of a lease has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// The worker was silent.
    HeartbeatTimeout,
    /// The attempt took too long.
    StartToClose,
    /// The call took too long.
    ScheduleToClose,
}

/// What becomes of an attempt whose worker did not answer in time; without a name it is whoever had the token.
pub fn lapsed(lapse: Lapse, name: &str, worker: &str) -> Failure {
    let (code, what) = match lapse {
        Lapse::HeartbeatTimeout => ("heartbeat", "neither extended its lease nor answered; it may have died"),
        Lapse::StartToClose => ("start-to-close", "took longer than an attempt may"),
        Lapse::ScheduleToClose => ("schedule-to-close", "did not answer within the bound of the whole call"),
    };
    let message = match worker {
        "" => format!("whoever had the token of {name:?} {what}"),
        _ => format!("the worker {worker:?} that had {name:?} {what}"),
    };
    Failure { retryable: true, ..Failure::fatal(FailureKind::Timeout, code, message) }
}

/// What becomes of a call that nobody took in time. `whole` says which bound it was: schedule-to-close, or
/// schedule-to-start.
pub fn untaken(whole: bool, name: &str, queue: &str) -> Failure {
    let code = if whole { "schedule-to-close" } else { "schedule-to-start" };
    let message =
        format!("no deployed component and no worker took {name:?} from the task queue {queue:?} in time");
    Failure::fatal(FailureKind::Timeout, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_text_and_nothing_else_is_a_token() {
        let token = TaskToken {
            run: RunId(Uuid::from_u128(0xa1)),
            op: Op(7),
            attempt: 2,
            lease: TaskLease(Uuid::from_u128(u128::MAX)),
        };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token));
        let upper = text.to_uppercase();
        let padded = text.replace(".7.", ".07.");
        let hyphens = text.replacen("0000000000000000000000000000", "00000000-0000-0000-0000-00000000", 1);
        let longer = format!("{text}.");
        for other in ["", "x", "1.2.3.4", &upper, &padded, &hyphens, &longer] {
            assert_eq!(other.parse::<TaskToken>(), Err(NoToken), "{other}");
        }
    }
}
