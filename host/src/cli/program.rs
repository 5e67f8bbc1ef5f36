//! This program as a process: its log, the signals that stop it, and how it starts itself to compile a component.

use backstitch_engine::ambient;
use backstitch_sandbox::Compiler;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, CliResult, Exit};
use super::output::Output;
use crate::telemetry::{self, LogFormat};

/// The arguments with which this program starts itself to compile a component; the job follows.
pub(super) const COMPILE_ARGS: [&str; 2] = ["internal", "compile"];

/// What a command that goes on and on says of its work, on stderr.
#[derive(Debug, clap::Args)]
pub(super) struct LogArgs {
    /// Which events to log, such as info,backstitch=debug
    #[arg(long, env = "BACKSTITCH_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How to write them
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

impl LogArgs {
    pub(super) fn start(&self, out: Output) -> CliResult {
        let started = telemetry::init(self.log.as_deref(), self.log_format, out.colours_notes());
        started.map_err(|error| CliError::new(Exit::Invalid, "log", "cannot log").because(error.to_string()))
    }
}

/// Compiles components in a process of its own, which is this program again.
pub(super) fn compiler() -> CliResult<Compiler> {
    let program = ambient::program().map_err(|error| {
        CliError::new(Exit::Internal, "program", "cannot find this program's own file")
            .because(error.to_string())
    })?;
    Ok(Compiler::Child { program, args: COMPILE_ARGS.map(Into::into).into() })
}

/// A token that the first signal cancels. The second ends the process: a private Postgres dies with it,
/// and the ledger was made for that.
pub(super) fn stop_on_signals(out: Output) -> CancellationToken {
    let stopping = CancellationToken::new();
    let token = stopping.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupts), Ok(mut terminations)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            tracing::error!("signals cannot be caught; only SIGKILL stops this host");
            return;
        };
        let mut next = async || {
            tokio::select! { _ = interrupts.recv() => {}, _ = terminations.recv() => {} }
        };
        next().await;
        token.cancel();
        next().await;
        out.note("stopped at once");
        #[expect(clippy::disallowed_methods, reason = "asked for twice: nothing may hold the process")]
        std::process::exit(Exit::Interrupted.code().into());
    });
    stopping
}
