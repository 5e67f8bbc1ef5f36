//! From a component's bytes to machine code.
//!
//! Compiling is the one step where a small input can ask for hours and gigabytes, so it happens in a
//! child process with bounds on both: this program again, started with a hidden subcommand, fed
//! through its standard input. The child inherits neither environment nor descriptors of use.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstitch_core::{limits, printable};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::admit::ComponentKind;
use crate::artefact::Artefact;
use crate::engine;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, without bounds. For tests and for components of one's own.
    InProcess,
    /// In a child: `program args… workflow|activity`, which must end in [`compile_child_main`].
    Child {
        /// The executable, usually our own.
        program: PathBuf,
        /// What makes it compile, before the component's kind.
        args: Vec<OsString>,
    },
}

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler does not take the component.
    #[error("the component does not compile: {0}")]
    Rejected(String),
    /// The component is a compile bomb, or the bounds of [`limits`] are too tight for it.
    #[error("the component takes more than {what} to compile")]
    TooCostly {
        /// The bound it met.
        what: String,
    },
    /// Our side failed; another attempt may succeed.
    #[error("the compiler could not be run: {0}")]
    Host(#[from] std::io::Error),
}

/// How a child says that the component is at fault.
const REJECTED: u8 = 2;

impl Compiler {
    /// Compiles for [`engine::runner`].
    pub(crate) async fn compile(
        &self,
        kind: ComponentKind,
        bytes: Arc<[u8]>,
    ) -> Result<Artefact, CompileError> {
        match self {
            Self::InProcess => tokio::task::spawn_blocking(move || compile_here(kind, &bytes))
                .await
                .unwrap_or_else(|panic| {
                    Err(CompileError::Rejected(format!("the compiler panicked: {panic}")))
                })
                .map(Artefact::vouched),
            Self::Child { program, args } => {
                let mut command = Command::new(program);
                command.args(args).arg(kind.as_str());
                let bound = Duration::from_millis(limits::COMPILE_MS_MAX);
                // Dropping the child kills it.
                tokio::time::timeout(bound, compile_in_child(command, &bytes)).await.unwrap_or_else(|_| {
                    Err(CompileError::TooCostly { what: format!("{} s", bound.as_secs()) })
                })
            }
        }
    }
}

/// The child's side: reads a component from standard input, writes its machine code to standard
/// output. What goes wrong is told on standard error and by the exit code.
pub fn compile_child_main(kind: ComponentKind) -> ExitCode {
    match compile_child(kind) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            match error {
                CompileError::Rejected(_) => ExitCode::from(REJECTED),
                CompileError::TooCostly { .. } | CompileError::Host(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn compile_child(kind: ComponentKind) -> Result<(), CompileError> {
    let bound = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    bound(Resource::As, limits::COMPILE_MEMORY_BYTES_MAX).map_err(std::io::Error::from)?;
    // The parent watches the clock; this is for a child whose parent is gone.
    bound(Resource::Cpu, cpu_seconds_max()).map_err(std::io::Error::from)?;
    bound(Resource::Core, 0).map_err(std::io::Error::from)?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(limits::COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let code = compile_here(kind, &bytes)?;
    std::io::stdout().lock().write_all(&code)?;
    Ok(())
}

/// Processor time of a child: its threads share the work.
fn cpu_seconds_max() -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    limits::COMPILE_MS_MAX.div_ceil(1000).saturating_mul(threads)
}

fn compile_here(kind: ComponentKind, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let rejected = |error: wasmtime::Error| CompileError::Rejected(format!("{error:#}"));
    engine::compiler(kind).and_then(|engine| engine.precompile_component(bytes)).map_err(rejected)
}

async fn compile_in_child(mut command: Command, bytes: &[u8]) -> Result<Artefact, CompileError> {
    let mut child = command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("asked for above");
    let stdout = child.stdout.take().expect("asked for above");
    let stderr = child.stderr.take().expect("asked for above");
    let feed = async move {
        // A child that dies early closes the pipe; its exit says why.
        let _ = stdin.write_all(bytes).await;
    };
    let ((), code, said) = tokio::join!(
        feed,
        read_up_to(stdout, limits::ARTEFACT_BYTES_MAX),
        read_up_to(stderr, limits::MESSAGE_BYTES_MAX)
    );
    let status = child.wait().await?;
    if !status.success() {
        return Err(failed(status, &String::from_utf8_lossy(&said?)));
    }
    let code = code?;
    if code.len() > limits::ARTEFACT_BYTES_MAX {
        let what = format!("{} bytes of machine code", limits::ARTEFACT_BYTES_MAX);
        return Err(CompileError::TooCostly { what });
    }
    Ok(Artefact::vouched(code))
}

/// Reads to the end, keeps `bytes_max` bytes and one more, which tells that there were others.
async fn read_up_to(mut from: impl AsyncRead + Unpin, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut from).take(bytes_max as u64 + 1).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

fn failed(status: ExitStatus, said: &str) -> CompileError {
    let said = printable::line_of(said.trim(), limits::MESSAGE_BYTES_MAX);
    if status.code() == Some(REJECTED.into()) {
        return CompileError::Rejected(said.into_owned());
    }
    if said.contains("memory allocation") || said.contains("Cannot allocate memory") {
        let what = format!("{} MiB of memory", limits::COMPILE_MEMORY_BYTES_MAX >> 20);
        return CompileError::TooCostly { what };
    }
    CompileError::Host(std::io::Error::other(format!("the compiler ended with {status}: {said}")))
}
