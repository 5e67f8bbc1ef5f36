//! `backstitch worker exec`: any program that reads stdin and writes stdout carries out activities.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstitch_core::{Json, limits, printable};
use backstitch_server::api::trim;
use backstitch_worker::{Context as Attempt, Ending, Failure, Hosts, Worker};
use clap::Subcommand;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::context::Context;
use super::exit::{CliError, CliResult};
use super::program::{LogArgs, stop_on_signals};
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum WorkerCommand {
    /// Carry out activities with a program: one process for each attempt
    ///
    /// The program reads the call's arguments from stdin, a JSON array on one line, and writes its result to
    /// stdout, as JSON. It has BACKSTITCH_ACTIVITY, _RUN_ID, _WORKFLOW_ID, _OP, _ATTEMPT, _IDEMPOTENCY_KEY,
    /// _TOKEN, _DEADLINE (if there is one) and TRACEPARENT in its environment.
    ///
    /// Exit status 0: the workflow gets the result. 65: the attempt has failed, and no other can succeed. 75:
    /// whoever has the token will answer later. Any other, and a signal: the attempt has failed, and another may
    /// succeed. The end of stderr goes with the failure.
    ///
    /// A program whose outcome nobody waits for any more gets SIGTERM, and SIGKILL five seconds later, with the
    /// processes that it has started. ^C or SIGTERM: no new tasks, and time for those under way to finish.
    Exec(ExecArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// Take tasks from this queue
    #[arg(long, value_name = "NAME", default_value = backstitch_core::command::DEFAULT_TASK_QUEUE)]
    queue: String,
    /// Only of this activity; may be repeated [default: all of the queue]
    #[arg(long = "activity", value_name = "NAME")]
    activities: Vec<String>,
    /// Processes at a time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    concurrency: u32,
    /// How long the worker may be silent before others get its tasks, such as 30s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = config::parse_duration)]
    lease: Duration,
    /// How long processes may go on when the worker is stopped
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::parse_duration)]
    grace: Duration,
    /// What stdout says is text, not JSON: the workflow gets it as a string
    #[arg(long)]
    text: bool,
    /// Stdin has all that is known of the task, as one JSON document on one line, and not only the arguments
    #[arg(long)]
    envelope: bool,
    /// Another host of the same database, which is asked when the one of --host does not answer; may be repeated
    #[arg(long = "also-host", value_name = "URL")]
    also_hosts: Vec<String>,
    /// What the worker calls itself [default: exec-PID]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    log: LogArgs,
    /// The program and its arguments, after --
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// No other attempt can succeed: `EX_DATAERR` of sysexits.h.
const FATAL: i32 = 65;
/// Somebody else answers: `EX_TEMPFAIL`.
const LATER: i32 = 75;
/// What of stderr goes with a failure: its end.
const STDERR_BYTES_MAX: usize = 4 << 10;
/// How long a program has between SIGTERM and SIGKILL.
const TERM: Duration = Duration::from_secs(5);

pub(super) async fn worker(command: WorkerCommand, context: &Context) -> CliResult {
    let WorkerCommand::Exec(args) = command;
    exec(args, context).await
}

async fn exec(args: ExecArgs, context: &Context) -> CliResult {
    let ExecArgs { queue, activities, concurrency, lease, grace, text, envelope, .. } = args;
    let ExecArgs { also_hosts, name, log, program, .. } = args;
    log.start(context.out)?;
    let unusable = |error| CliError::client("take tasks", error);
    let others = also_hosts.iter().map(|url| context.client.elsewhere(url)).collect::<Result<Vec<_>, _>>();
    let hosts = std::iter::once(context.client.clone()).chain(others.map_err(unusable)?);
    let hosts = Hosts::new(hosts).map_err(unusable)?;
    let program = Arc::new(Program { line: program, text, envelope });
    let worker = Worker::new(hosts)
        .task_queue(&queue)
        .name(name.unwrap_or_else(|| format!("exec-{}", std::process::id())))
        .concurrency(concurrency)
        .lease(lease)
        .grace(grace);
    let run = move |attempt: Attempt| {
        let program = Arc::clone(&program);
        async move { program.carry_out(&attempt).await }
    };
    let worker = if activities.is_empty() {
        worker.any_activity(run)
    } else {
        activities.into_iter().fold(worker, |worker, name| worker.raw_activity(name, run.clone()))
    };
    let url = context.client.url();
    context.out.note(&format!("taking tasks from {queue:?} at {url}, {concurrency} at a time; ^C to stop"));
    let stopping = stop_on_signals(context.out);
    let ended = worker.run(stopping.cancelled_owned()).await;
    ended.map_err(|error| CliError::client("take tasks", error))
}

/// What carries out attempts.
struct Program {
    line: Vec<String>,
    text: bool,
    envelope: bool,
}

/// What a process left behind.
struct Left {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Program {
    async fn carry_out(&self, attempt: &Attempt) -> Ending {
        let group = match self.begin(attempt) {
            Ok(child) => Group(child),
            Err(error) => {
                // The same program may be there the next time, or on another machine.
                let message = format!("cannot start {:?}: {error}", self.line[0]);
                return Ending::Failed(Failure::retryable("exec", message));
            }
        };
        match group.end(self.input(attempt), attempt).await {
            Ok(left) => self.ending(left),
            Err(error) => Ending::Failed(Failure::retryable("exec", error.to_string())),
        }
    }

    fn begin(&self, attempt: &Attempt) -> std::io::Result<Child> {
        let task = &attempt.task;
        let mut command = Command::new(&self.line[0]);
        command
            .args(&self.line[1..])
            .env("BACKSTITCH_ACTIVITY", &task.name)
            .env("BACKSTITCH_RUN_ID", task.run_id.to_string())
            .env("BACKSTITCH_WORKFLOW_ID", &task.workflow_id)
            .env("BACKSTITCH_OP", task.op.to_string())
            .env("BACKSTITCH_ATTEMPT", task.attempt.to_string())
            .env("BACKSTITCH_IDEMPOTENCY_KEY", &task.idempotency_key)
            .env("BACKSTITCH_TOKEN", &task.token)
            .env("TRACEPARENT", &task.traceparent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(deadline) = &task.deadline {
            command.env("BACKSTITCH_DEADLINE", deadline);
        }
        command.spawn()
    }

    fn input(&self, attempt: &Attempt) -> Vec<u8> {
        let mut line = if self.envelope {
            serde_json::to_vec(&*attempt.task).unwrap_or_default()
        } else {
            attempt.task.input.as_str().as_bytes().to_vec()
        };
        line.push(b'\n');
        line
    }

    fn ending(&self, left: Left) -> Ending {
        let Left { status, stdout, stderr } = left;
        let message = || {
            let mut said = String::from_utf8_lossy(&stderr).trim().to_owned();
            printable::cut(&mut said, STDERR_BYTES_MAX);
            if said.is_empty() { format!("{:?} ended with {status}", self.line[0]) } else { said }
        };
        match (status.code(), status.signal()) {
            (Some(0), _) => self.output(stdout),
            (Some(LATER), _) => Ending::Later,
            (Some(FATAL), _) => Ending::Failed(Failure::fatal("exit-65", message())),
            (Some(code), _) => Ending::Failed(Failure::retryable(format!("exit-{code}"), message())),
            (None, signal) => Ending::Failed(Failure::retryable(
                format!("signal-{}", signal.unwrap_or_default()),
                message(),
            )),
        }
    }

    fn output(&self, stdout: Vec<u8>) -> Ending {
        let bad = |why: String| Ending::Failed(Failure::fatal("bad-output", why));
        if stdout.len() > limits::PAYLOAD_BYTES_MAX {
            return bad(format!("more than {} bytes on stdout", limits::PAYLOAD_BYTES_MAX));
        }
        let text = match String::from_utf8(stdout) {
            Ok(text) => text,
            Err(error) => return bad(format!("what is on stdout is not UTF-8: {error}")),
        };
        let output = if self.text { Json::of(&text) } else { Json::new(or_null(trim(&text))) };
        match output {
            Ok(output) => Ending::Completed(output),
            Err(error) => bad(format!("what is on stdout is not JSON: {error}; --text takes it as a string")),
        }
    }
}

/// Nothing is `null`.
fn or_null(text: &str) -> &str {
    if text.is_empty() { "null" } else { text }
}

/// A process and those that it has started. Killed when dropped.
struct Group(Child);

impl Group {
    /// Waits until it has ended, and ends it if nobody waits for what it does.
    async fn end(mut self, input: Vec<u8>, attempt: &Attempt) -> std::io::Result<Left> {
        let Some((mut stdin, (stdout, stderr))) =
            self.0.stdin.take().zip(self.0.stdout.take().zip(self.0.stderr.take()))
        else {
            return Err(std::io::Error::other("no pipes to the process"));
        };
        let told = async move {
            // A program need not read all that it is told.
            let _ = stdin.write_all(&input).await;
            drop(stdin);
        };
        let all = async {
            let ((), stdout, stderr) = tokio::join!(
                told,
                read_all(stdout, limits::PAYLOAD_BYTES_MAX + 1),
                read_end(stderr, STDERR_BYTES_MAX)
            );
            (stdout, stderr)
        };
        tokio::pin!(all);
        let said = tokio::select! {
            said = &mut all => said,
            () = attempt.cancelled() => {
                self.signal(Signal::TERM);
                let ended = tokio::time::timeout(TERM, &mut all).await;
                match ended {
                    Ok(said) => said,
                    Err(_) => {
                        self.signal(Signal::KILL);
                        all.await
                    }
                }
            }
        };
        let status = self.0.wait().await?;
        Ok(Left { status, stdout: said.0, stderr: said.1 })
    }

    /// None if the process is known to have ended: its number may be another's by now.
    fn signal(&self, signal: Signal) {
        let group = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Reads to the end, and keeps so many bytes of the beginning.
async fn read_all(mut from: impl AsyncRead + Unpin, bytes_max: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = vec![0; 8 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        let room = bytes_max - kept.len();
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
    kept
}

/// Reads to the end, and keeps so many bytes of it.
async fn read_end(mut from: impl AsyncRead + Unpin, bytes_max: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = vec![0; 8 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        kept.drain(..kept.len().saturating_sub(bytes_max));
    }
    kept
}
