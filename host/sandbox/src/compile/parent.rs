//! The parent's side: starts a child, feeds it, hears it, and ends it when it takes too long.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Once, mpsc};
use std::time::Duration;

use backstitch_core::{Fault, FaultKind, limits, printable};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use super::frame::{self, BadFrame, Tag};
use super::job::{CompileError, Compiled, Job, out_of_memory};
use crate::admit::Refused;
use crate::artefact::Artefact;
use crate::cage::CageReport;
use crate::described::Described;
use crate::kind::ComponentKind;

/// How long a child may take for each part of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    admit_ms: u64,
    compile_ms: u64,
    describe_ms: u64,
}

impl Bounds {
    pub(super) const DEFAULT: Self = Self {
        admit_ms: limits::ADMIT_MS_MAX,
        compile_ms: limits::COMPILE_MS_MAX,
        describe_ms: limits::DESCRIBE_MS_MAX,
    };
}

pub(super) async fn compile(
    program: &Path,
    args: &[OsString],
    job: Job,
    bytes: Arc<[u8]>,
    bounds: Bounds,
) -> Result<Compiled, CompileError> {
    let mut running = Running::start(program, args, job).await?;
    let mut stdin = running.stdin.take().expect("nobody else takes it");
    let feed = async move {
        // A child that dies early closes the pipe; what it said before, or its exit, says why.
        let _ = stdin.write_all(&bytes).await;
        drop(stdin);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        compiled = running.converse(bounds) => compiled,
        () = feed => unreachable!("it never ends"),
    }
}

pub(super) async fn probe(program: &Path, args: &[OsString]) -> Result<CageReport, CompileError> {
    let mut running = Running::start(program, args, Job::Probe).await?;
    match within(limits::ADMIT_MS_MAX, frame::read(&mut running.stdout)).await {
        Some(Ok((Tag::Report, report))) => Ok(serde_json::from_slice(&report).map_err(io::Error::from)?),
        Some(Ok(_)) => Err(foreign(&BadFrame::Foreign)),
        Some(Err(bad)) => Err(running.failed(bad).await),
        None => Err(foreign(&"it takes too long")),
    }
}

/// A child, and the thread whose end the child would not outlive.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: ChildStderr,
    _parent: mpsc::Sender<()>,
}

impl Running {
    /// The kernel ends the child with the thread that started it, so it is one that stays as long as this does. Dropping
    /// this ends the child.
    async fn start(program: &Path, args: &[OsString], job: Job) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(args).arg(job.as_str()).env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let runtime = tokio::runtime::Handle::current();
        let (started, start) = oneshot::channel();
        let (parent, stays) = mpsc::channel::<()>();
        std::thread::Builder::new().name("compile-parent".into()).spawn(move || {
            let spawned = {
                let _inside = runtime.enter();
                command.spawn()
            };
            if started.send(spawned).is_ok() {
                // Until the other end is dropped.
                let _ = stays.recv();
            }
        })?;
        let mut child = start.await.map_err(io::Error::other)??;
        Ok(Self {
            stdin: Some(child.stdin.take().expect("asked for above")),
            stdout: child.stdout.take().expect("asked for above"),
            stderr: child.stderr.take().expect("asked for above"),
            child,
            _parent: parent,
        })
    }

    async fn converse(&mut self, bounds: Bounds) -> Result<Compiled, CompileError> {
        let verdict = within(bounds.admit_ms, async {
            match frame::read(&mut self.stdout).await? {
                (Tag::Report, report) => lament(&report),
                _ => return Err(BadFrame::Foreign),
            }
            frame::read(&mut self.stdout).await
        });
        let kind = match verdict.await.ok_or(CompileError::Refused(Refused::TooCostly))? {
            Ok((Tag::Verdict, verdict)) => {
                let verdict: Result<ComponentKind, Refused> =
                    serde_json::from_slice(&verdict).map_err(io::Error::from)?;
                verdict.map_err(CompileError::Refused)?
            }
            Ok(_) => return Err(foreign(&BadFrame::Foreign)),
            Err(bad) => return Err(self.failed(bad).await),
        };
        let code = within(bounds.compile_ms, frame::read(&mut self.stdout)).await;
        let too_slow = || CompileError::TooCostly { what: format!("{} s", bounds.compile_ms / 1000) };
        let artefact = match code.ok_or_else(too_slow)? {
            Ok((Tag::Code, code)) => Artefact::vouched(code),
            Ok((Tag::Rejected, why)) => return Err(rejected(&String::from_utf8_lossy(&why))),
            Ok(_) => return Err(foreign(&BadFrame::Foreign)),
            Err(bad) => return Err(self.failed(bad).await),
        };
        let described = self.described(bounds.describe_ms).await?;
        Ok(Compiled { kind, artefact, described: Some(described) })
    }

    /// The component's own code runs now: whatever happens is its doing.
    async fn described(&mut self, ms: u64) -> Result<Result<Vec<Described>, Fault>, CompileError> {
        Ok(match within(ms, frame::read(&mut self.stdout)).await {
            Some(Ok((Tag::Described, described))) => {
                serde_json::from_slice(&described).map_err(io::Error::from)?
            }
            Some(Ok(_)) => return Err(foreign(&BadFrame::Foreign)),
            Some(Err(bad @ BadFrame::Ended(_))) => {
                let ended = self.failed(bad).await.to_string();
                Err(Fault::new(
                    FaultKind::Limit,
                    format!("describe: its process did not live to answer: {ended}"),
                ))
            }
            Some(Err(bad)) => Err(Fault::new(FaultKind::Limit, format!("describe: {bad}"))),
            None => Err(Fault::new(FaultKind::Limit, format!("describe took longer than {ms} ms"))),
        })
    }

    /// A child that did not answer as it should.
    async fn failed(&mut self, bad: BadFrame) -> CompileError {
        match bad {
            BadFrame::TooLarge(_) => {
                let what = format!("{} bytes of machine code", limits::ARTEFACT_BYTES_MAX);
                CompileError::TooCostly { what }
            }
            BadFrame::Foreign => {
                let _ = self.child.start_kill();
                foreign(&bad)
            }
            BadFrame::Ended(_) => self.ended().await,
        }
    }

    /// Why a child has ended.
    async fn ended(&mut self) -> CompileError {
        const GRACE: u64 = 10_000;
        let ended = within(GRACE, async {
            let said = read_up_to(&mut self.stderr, limits::MESSAGE_BYTES_MAX).await?;
            Ok((self.child.wait().await?, said))
        });
        match ended.await {
            Some(Ok((status, said))) => of_status(status, &String::from_utf8_lossy(&said)),
            Some(Err(error)) => CompileError::Host(error),
            None => foreign(&"it closed its output and goes on"),
        }
    }
}

/// Says once what this kernel does not do for the cage.
fn lament(report: &[u8]) {
    static SAID: Once = Once::new();
    let report: CageReport = serde_json::from_slice(report).unwrap_or_default();
    if !report.missing.is_empty() {
        let missing = report.missing.join("; ");
        SAID.call_once(|| tracing::warn!(missing, "components are compiled in a cage that could be tighter"));
    }
}

fn of_status(status: ExitStatus, said: &str) -> CompileError {
    use std::os::unix::process::ExitStatusExt as _;
    let said = printable::line_of(said.trim(), limits::MESSAGE_BYTES_MAX);
    if is_memory(&said) {
        return out_of_memory();
    }
    if status.signal() == Some(rustix::process::Signal::XCPU.as_raw()) {
        return CompileError::TooCostly { what: "its share of the processor".to_owned() };
    }
    foreign(&format_args!("it ended with {status}: {said}"))
}

fn rejected(why: &str) -> CompileError {
    if is_memory(why) {
        return out_of_memory();
    }
    CompileError::Rejected(printable::line_of(why, limits::MESSAGE_BYTES_MAX).into_owned())
}

fn is_memory(said: &str) -> bool {
    said.contains("memory allocation") || said.contains("Cannot allocate memory")
}

fn foreign(what: &dyn std::fmt::Display) -> CompileError {
    CompileError::Host(io::Error::other(format!("the compiler: {what}")))
}

async fn within<T>(ms: u64, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(ms), work).await.ok()
}

/// Reads to the end and keeps `bytes_max` bytes.
async fn read_up_to(mut from: impl AsyncRead + Unpin, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut from).take(bytes_max as u64).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Bounds = Bounds { admit_ms: 60_000, compile_ms: 60_000, describe_ms: 60_000 };

    /// A child that says this much, and then does this.
    async fn told(frames: &[(Tag, &[u8])], then: &str, bounds: Bounds) -> Result<Compiled, CompileError> {
        let mut said = Vec::new();
        for (tag, content) in frames {
            frame::write(&mut said, *tag, content).unwrap();
        }
        let said: String = said.iter().map(|byte| format!("\\{byte:03o}")).collect();
        let script = format!("printf '{said}'; {then}");
        let args = ["-c", &script, "sh"].map(OsString::from);
        compile(Path::new("/bin/sh"), &args, Job::Component, Arc::from(vec![0; 1 << 20]), bounds).await
    }

    const REPORT: (Tag, &[u8]) = (Tag::Report, br#"{"missing":[],"escapes":[]}"#);
    const ADMITTED: (Tag, &[u8]) = (Tag::Verdict, br#"{"Ok":"activity"}"#);
    const CODE: (Tag, &[u8]) = (Tag::Code, b"code");

    #[tokio::test]
    async fn a_child_that_takes_too_long_is_ended_and_told_by_what_it_did() {
        let stays = "exec sleep 600";
        let slow = told(&[REPORT], stays, Bounds { admit_ms: 50, ..SHORT }).await.unwrap_err();
        assert!(matches!(slow, CompileError::Refused(Refused::TooCostly)), "{slow}");
        let slow = told(&[REPORT, ADMITTED], stays, Bounds { compile_ms: 50, ..SHORT }).await.unwrap_err();
        assert!(matches!(slow, CompileError::TooCostly { .. }), "{slow}");
        // It is compiled all the same: only whoever deploys wants to know what it holds.
        let bounds = Bounds { describe_ms: 50, ..SHORT };
        let compiled = told(&[REPORT, ADMITTED, CODE], stays, bounds).await.unwrap();
        assert_eq!((compiled.kind, compiled.artefact.bytes()), (ComponentKind::Activity, Some(&b"code"[..])));
        let fault = compiled.described.unwrap().unwrap_err();
        assert_eq!(fault.message, "describe took longer than 50 ms");
    }

    #[tokio::test]
    async fn a_child_that_dies_is_told_by_when_it_did() {
        let killed = "kill -9 $$";
        for frames in [&[][..], &[REPORT], &[REPORT, ADMITTED]] {
            let error = told(frames, killed, SHORT).await.unwrap_err();
            assert!(matches!(&error, CompileError::Host(_)), "{error}");
            assert!(error.to_string().contains("signal: 9"), "{error}");
        }
        let dies = "echo memory allocation of 9 bytes failed >&2; kill -6 $$";
        let error = told(&[REPORT, ADMITTED], dies, SHORT).await.unwrap_err();
        assert!(matches!(error, CompileError::TooCostly { .. }), "{error}");
        let compiled = told(&[REPORT, ADMITTED, CODE], killed, SHORT).await.unwrap();
        let fault = compiled.described.unwrap().unwrap_err();
        assert!(fault.message.contains("did not live to answer"), "{fault}");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_our_trouble_and_not_the_components() {
        for frames in [&[ADMITTED][..], &[REPORT, CODE], &[REPORT, REPORT], &[REPORT, ADMITTED, ADMITTED]] {
            let error = told(frames, "exec sleep 600", SHORT).await.unwrap_err();
            assert!(matches!(error, CompileError::Host(_)), "{error}");
        }
        let error = told(&[], "echo hello; exec sleep 600", SHORT).await.unwrap_err();
        assert!(matches!(error, CompileError::Host(_)), "{error}");
    }
}
