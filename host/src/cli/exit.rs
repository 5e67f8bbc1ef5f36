//! How commands end: exit codes that scripts can rely on, and errors that say what happened, why, and
//! what to do.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use backstitch_client::ClientError;
use backstitch_core::printable;

/// An exit code. Numbers are a contract; [`Exit::TABLE`] is what `--help` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the table says it all")]
pub enum Exit {
    Ok = 0,
    Internal = 1,
    Usage = 2,
    Invalid = 3,
    NotFound = 4,
    Conflict = 5,
    Unreachable = 6,
    Unavailable = 7,
    Refused = 8,
    RunClosed = 9,
    RunParked = 10,
    StillRunning = 11,
    Unhealthy = 12,
    Diverged = 20,
    Faulted = 21,
    Interrupted = 130,
}

impl Exit {
    /// Every code and what it says.
    pub const TABLE: [(Self, &'static str); 16] = [
        (Self::Ok, "done"),
        (Self::Internal, "a mistake of ours; the message or the host's log has more"),
        (Self::Usage, "the command line cannot be understood"),
        (Self::Invalid, "an input, a file or a setting is wrong"),
        (Self::NotFound, "no such run, workflow, schedule or tenant"),
        (Self::Conflict, "contradicts what is there, such as a workflow id in use"),
        (Self::Unreachable, "no host answers at that address"),
        (Self::Unavailable, "the host or its Postgres cannot serve right now; try again"),
        (Self::Refused, "a component was refused, or cannot be built"),
        (
            Self::RunClosed,
            "the run failed, was cancelled or was terminated (result, --follow); the update failed",
        ),
        (Self::RunParked, "the run is parked (result, --follow)"),
        (
            Self::StillRunning,
            "the run is still open when --timeout is over (result); the update is not answered",
        ),
        (Self::Unhealthy, "a check failed (doctor, test)"),
        (Self::Diverged, "the component does not repeat the ledger (replay, run query)"),
        (Self::Faulted, "the component or the ledger broke down under way (replay, run query)"),
        (Self::Interrupted, "interrupted"),
    ];

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The table as `--help` shows it.
    pub fn help() -> String {
        let mut help = String::from("Exit codes:\n");
        for (exit, meaning) in Self::TABLE {
            let _ = writeln!(help, "  {:>3}  {meaning}", exit.code());
        }
        help
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct CliError {
    /// What the process exits with.
    pub exit: Exit,
    /// For programs: the host's code, or the kind of our own error.
    pub code: String,
    /// What happened.
    pub what: String,
    /// Why, if that is known to be something else.
    pub why: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Nobody listens any more: say nothing.
    pub silent: bool,
}

/// What commands give.
pub type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    /// An error that needs no cause. Whatever is said may repeat what a guest said: it is made printable.
    pub fn new(exit: Exit, code: &str, what: impl AsRef<str>) -> Self {
        let what = printable::lines(what.as_ref()).into_owned();
        Self { exit, code: code.to_owned(), what, why: None, hint: None, silent: false }
    }

    /// An exit code without a word: it has been said already, or nobody listens.
    pub fn silent(exit: Exit) -> Self {
        Self { silent: true, ..Self::new(exit, "silent", "") }
    }

    /// Adds the cause.
    pub fn because(mut self, why: impl AsRef<str>) -> Self {
        self.why = Some(printable::lines(why.as_ref()).into_owned());
        self
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl AsRef<str>) -> Self {
        self.hint = Some(printable::lines(hint.as_ref()).into_owned());
        self
    }

    /// A call to the host that failed while the command tried `what`.
    pub fn client(what: &str, error: ClientError) -> Self {
        let failed = format!("cannot {what}");
        match error {
            ClientError::Unreachable { url, reason } => Self::new(Exit::Unreachable, "unreachable", failed)
                .because(format!("no host answers at {url}: {reason}"))
                .hint("start one with `backstitch dev`, or name another with --host or BACKSTITCH_HOST"),
            ClientError::Problem { status, code, detail } => {
                Self::new(exit_of(status, &code), &code, failed).because(detail)
            }
            ClientError::Protocol(why) => Self::new(Exit::Invalid, "protocol", failed)
                .because(why)
                .hint("check --host or BACKSTITCH_HOST, and that both sides have the same version"),
        }
    }

    /// Writing to stdout failed. A reader that left early, as `head` does, is no error.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::silent(Exit::Ok)
        } else {
            Self::new(Exit::Internal, "output", "cannot write the answer").because(error.to_string())
        }
    }

    /// The error as a person reads it on stderr.
    pub fn text(&self, colour: bool) -> String {
        let (red, dim, plain) = if colour { ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error:{plain} {}", self.what);
        for (label, line) in [("why", &self.why), ("try", &self.hint)] {
            if let Some(line) = line {
                let _ = write!(text, "\n  {dim}{label}:{plain} {}", line.replace('\n', "\n       "));
            }
        }
        text
    }

    /// The error as a program reads it on stderr.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "code": self.code,
            "exit": self.exit.code(),
            "what": self.what,
            "why": self.why,
            "hint": self.hint,
        }})
    }
}

/// What the host's refusal means for the caller.
fn exit_of(status: u16, code: &str) -> Exit {
    match status {
        _ if code == "run-diverged" => Exit::Diverged,
        _ if matches!(code, "ledger-damaged" | "run-faulted" | "query-faulted") => Exit::Faulted,
        _ if code.starts_with("component-") => Exit::Refused,
        422 => Exit::Refused,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        400..=499 => Exit::Invalid,
        502..=504 => Exit::Unavailable,
        _ => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, code: &str) -> Exit {
        let error = ClientError::Problem { status, code: code.into(), detail: "d".into() };
        CliError::client("x", error).exit
    }

    #[test]
    fn each_refusal_has_its_exit_code() {
        assert_eq!(problem(400, "invalid-query"), Exit::Invalid);
        assert_eq!(problem(404, "unknown-run"), Exit::NotFound);
        assert_eq!(problem(409, "workflow-id-taken"), Exit::Conflict);
        assert_eq!(problem(413, "body-too-large"), Exit::Invalid);
        assert_eq!(problem(413, "component-too-large"), Exit::Refused);
        assert_eq!(problem(409, "run-diverged"), Exit::Diverged);
        assert_eq!(problem(409, "query-faulted"), Exit::Faulted);
        assert_eq!(problem(422, "imports-forbidden"), Exit::Refused);
        assert_eq!(problem(500, "internal"), Exit::Internal);
        assert_eq!(problem(503, "database-down"), Exit::Unavailable);
        let nobody = ClientError::Unreachable { url: "u".into(), reason: "r".into() };
        assert_eq!(CliError::client("x", nobody).exit, Exit::Unreachable);
    }

    #[test]
    fn codes_are_told_apart_and_never_change() {
        let codes: Vec<u8> = Exit::TABLE.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 130]);
    }

    #[test]
    fn a_reader_that_left_early_is_no_error() {
        let left = CliError::output(&io::ErrorKind::BrokenPipe.into());
        assert_eq!((left.exit, left.silent), (Exit::Ok, true));
        assert_eq!(CliError::output(&io::ErrorKind::StorageFull.into()).exit, Exit::Internal);
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let error = CliError::new(Exit::Invalid, "c", "cannot x").because("y\nz").hint("do w");
        assert_eq!(error.text(false), "error: cannot x\n  why: y\n       z\n  try: do w");
        assert_eq!(error.json()["error"]["exit"], 3);
    }
}
