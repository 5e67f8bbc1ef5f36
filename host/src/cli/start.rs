//! `backstitch run start`: one run, or one for each line of a file.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstitch_client::views::StartedView;
use backstitch_client::{AttributeValue, IdReuse, SendSignal, StartOptions, StartRun};
use backstitch_core::{Json, limits, printable};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::context::Context;
use super::exit::{CliError, CliResult, Exit};
use super::follow;
use super::input;
use super::output::Output;
use crate::config;

/// A line of a file of starts: a payload, and room for the names around it.
const LINE_BYTES_MAX: u64 = limits::PAYLOAD_BYTES_MAX as u64 + (64 << 10);
/// Failures that are kept. If none of so many lines could be started, it is the wrong file.
const FAILURES_SHOWN_MAX: usize = 20;

/// Arguments of `run start`.
#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// The workflow's name
    workflow: String,
    /// JSON text, @FILE or - for stdin [default: null]
    input: Option<String>,
    /// The run's workflow id: repeating a start with it finds the same run [default: made up]
    #[arg(long)]
    id: Option<String>,
    /// What happens if the id is taken
    #[arg(long, value_enum, default_value_t, requires = "id")]
    reuse: Reuse,
    /// Also send the run a signal of this name, whether it is started now or was there
    #[arg(long, value_name = "NAME")]
    signal: Option<String>,
    /// The signal's payload: JSON text, @FILE or - for stdin [default: null]
    #[arg(long, value_name = "JSON", requires = "signal")]
    signal_payload: Option<String>,
    /// What you call the signal: a second one of the same id is dropped
    #[arg(long, value_name = "ID", requires = "signal")]
    signal_id: Option<String>,
    /// Begin so much later, such as 10m or 1d
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    delay: Option<Duration>,
    /// Close the run as timed out when it takes longer
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    run_timeout: Option<Duration>,
    /// The same for the run and those that continue it as new, together
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    execution_timeout: Option<Duration>,
    /// Shown with the run, never given to the workflow: JSON text, @FILE or - for stdin
    #[arg(long, value_name = "JSON")]
    memo: Option<String>,
    /// Whose activities get the next free place: 1 first, 5 last [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    priority: Option<u8>,
    /// What the run is found by, such as customer=acme, amount=12.5 or due=time:2026-12-24T18:00:00Z; may be
    /// repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = parse_attribute)]
    attributes: Vec<(String, AttributeValue)>,
    /// Show the ledger as it grows, then the result
    #[arg(long)]
    follow: bool,
    /// Start a run for each line {"id": …, "input": …} of a file
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["input", "id", "reuse", "signal", "follow"])]
    from: Option<PathBuf>,
    /// Starts under way at once with --from
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
}

/// [`IdReuse`] as it is written on the command line.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Reuse {
    /// Refused, unless it repeats the start of that run: same workflow, same input
    #[default]
    Reject,
    /// That run is the answer, whatever it runs
    UseExisting,
    /// A new run if that one has closed; else refused, or with a signal: that run is the answer
    AllowClosed,
}

impl From<Reuse> for IdReuse {
    fn from(reuse: Reuse) -> Self {
        match reuse {
            Reuse::Reject => Self::Reject,
            Reuse::UseExisting => Self::UseExisting,
            Reuse::AllowClosed => Self::AllowClosed,
        }
    }
}

/// One line of a file of starts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: Option<String>,
    #[serde(default = "Json::null")]
    input: Json,
}

/// What became of a file of starts.
#[derive(Debug, Default, Serialize)]
struct Tally {
    started: u64,
    existing: u64,
    failed: u64,
    /// The first of those that failed.
    failures: Vec<serde_json::Value>,
    #[serde(skip)]
    exit: Option<Exit>,
}

pub(super) async fn start(args: StartArgs, context: &Context) -> CliResult {
    match &args.from {
        Some(file) => start_lines(file, &args, context).await,
        None => start_one(args, context).await,
    }
}

async fn start_one(args: StartArgs, context: &Context) -> CliResult {
    let options = options(&args)?;
    let StartArgs { workflow, input, id, reuse, signal, signal_payload, signal_id, follow, .. } = args;
    let input = input::json(input.as_deref())?;
    let signal = match signal {
        Some(name) => {
            Some(SendSignal { name, payload: input::json(signal_payload.as_deref())?, id: signal_id })
        }
        None => None,
    };
    let what = format!("start {workflow}");
    let start = StartRun { reuse: reuse.into(), signal, options, ..StartRun::new(workflow, id, input) };
    let started = context.client.start(start).await;
    let started = started.map_err(|error| CliError::client(&what, error))?;
    if !follow {
        return report(&started, context.out);
    }
    context.out.note(&headline(&started));
    follow::follow(started.run, context).await
}

/// The options, as the arguments say.
fn options(args: &StartArgs) -> CliResult<StartOptions> {
    let ms = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    Ok(StartOptions {
        delay_ms: ms(args.delay),
        run_timeout_ms: ms(args.run_timeout),
        execution_timeout_ms: ms(args.execution_timeout),
        memo: args.memo.as_deref().map(|memo| input::json(Some(memo))).transpose()?,
        priority: args.priority,
        attributes: args.attributes.iter().cloned().collect(),
    })
}

/// `NAME=VALUE`: numbers and truth values as JSON writes them, times after `time:`, texts in double quotes or
/// as they are.
fn parse_attribute(text: &str) -> Result<(String, AttributeValue), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let value = if let Some(time) = value.strip_prefix("time:") {
        AttributeValue::Time { time: time.to_owned() }
    } else {
        match serde_json::from_str(value) {
            Ok(serde_json::Value::Number(number)) => {
                AttributeValue::Number(number.as_f64().unwrap_or(f64::MAX))
            }
            Ok(serde_json::Value::Bool(flag)) => AttributeValue::Flag(flag),
            Ok(serde_json::Value::String(text)) => AttributeValue::Text(text),
            _ => AttributeValue::Text(value.to_owned()),
        }
    };
    Ok((name.to_owned(), value))
}

fn report(started: &StartedView, out: Output) -> CliResult {
    out.answer(started, || started.run.run_id.to_string())?;
    out.note(&format!("{}; next: backstitch run result {}", headline(started), started.run.run_id));
    Ok(())
}

fn headline(started: &StartedView) -> String {
    let verb = if started.created { "started" } else { "was there already:" };
    format!(
        "{verb} {} as {}",
        printable::lines(&started.run.workflow),
        printable::lines(&started.run.workflow_id)
    )
}

async fn start_lines(file: &Path, args: &StartArgs, context: &Context) -> CliResult {
    let terms = &options(args)?;
    let bar = progress(context.out, count_lines(file)?);
    let lines = Lines { source: BufReader::new(input::open(file)?), number: 0 };
    let starts = lines.map(|(number, line)| async move {
        let started = match line {
            Ok(Line { id: workflow_id, input }) => {
                let start = StartRun::new(args.workflow.clone(), workflow_id, input);
                let start = StartRun { options: terms.clone(), ..start };
                let what = format!("start line {number}");
                context.client.start(start).await.map_err(|error| CliError::client(&what, error))
            }
            Err(error) => Err(error),
        };
        (number, started)
    });
    let mut starts = futures::stream::iter(starts).buffer_unordered(usize::from(args.parallel));
    let mut tally = Tally::default();
    while let Some((number, started)) = starts.next().await {
        bar.inc(1);
        tally.count(number, started);
        if tally.is_hopeless() {
            break;
        }
    }
    bar.finish_and_clear();
    let Tally { started, existing, failed, .. } = tally;
    context
        .out
        .answer(&tally, || format!("started {started}, were there already {existing}, failed {failed}"))?;
    tally.verdict(file)
}

impl Tally {
    fn count(&mut self, line: u64, started: CliResult<StartedView>) {
        match started {
            Ok(started) if started.created => self.started += 1,
            Ok(_) => self.existing += 1,
            Err(error) => {
                self.failed += 1;
                self.exit.get_or_insert(error.exit);
                if self.failures.len() < FAILURES_SHOWN_MAX {
                    self.failures.push(json!({ "line": line, "error": error.json()["error"] }));
                }
            }
        }
    }

    /// Whether the other lines need not be tried: the host is gone, or the file is no such file.
    fn is_hopeless(&self) -> bool {
        let gone = self.exit == Some(Exit::Unreachable);
        gone || (self.failures.len() >= FAILURES_SHOWN_MAX && self.started + self.existing == 0)
    }

    fn verdict(&self, file: &Path) -> CliResult {
        let (Some(exit), Some(first)) = (self.exit, self.failures.first()) else { return Ok(()) };
        let why = first["error"]["why"].as_str().unwrap_or_default();
        let what = format!("{} starts of {} failed", self.failed, file.display());
        Err(CliError::new(exit, "starts-failed", what)
            .because(format!("line {}: {why}", first["line"]))
            .hint("mend it and repeat: lines with an id that have been started are found, not doubled"))
    }
}

/// The lines of a file, numbered from 1, each read up to a bound. Ends at the first that cannot be read.
struct Lines<R> {
    source: R,
    number: u64,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = (u64, CliResult<Line>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let mut text = Vec::new();
            let bad = |why: String| {
                CliError::new(Exit::Invalid, "line-invalid", format!("line {} is no start", self.number))
                    .because(why)
                    .hint(r#"each line is {"id": "…", "input": …}"#)
            };
            let read = self.source.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
            let line = match read {
                Ok(0) => return None,
                Err(error) => Err(bad(error.to_string())),
                Ok(_) if text.len() as u64 == LINE_BYTES_MAX => {
                    Err(bad(format!("longer than {LINE_BYTES_MAX} bytes")))
                }
                Ok(_) if text.trim_ascii().is_empty() => continue,
                Ok(_) => serde_json::from_slice(&text).map_err(|error| bad(error.to_string())),
            };
            return Some((self.number, line));
        }
    }
}

/// For the progress bar only: a file that cannot be read twice, such as a pipe, counts as empty.
fn count_lines(file: &Path) -> CliResult<Option<u64>> {
    if !file.is_file() {
        return Ok(None);
    }
    let mut source = BufReader::new(input::open(file)?);
    let mut lines = 0;
    while let Ok(bytes) = source.skip_until(b'\n') {
        if bytes == 0 {
            break;
        }
        lines += 1;
    }
    Ok(Some(lines))
}

fn progress(out: Output, lines: Option<u64>) -> ProgressBar {
    if !out.is_watched() {
        return ProgressBar::hidden();
    }
    match lines {
        Some(lines) => ProgressBar::new(lines).with_style(
            ProgressStyle::with_template("starting {wide_bar} {pos}/{len} ({per_sec}, {eta} left)")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        ),
        None => ProgressBar::new_spinner().with_message("starting"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(u64, CliResult<Line>)> {
        Lines { source: text.as_bytes(), number: 0 }.collect()
    }

    #[test]
    fn each_line_is_a_start_and_blank_ones_are_none() {
        let lines = lines("{\"id\":\"a\",\"input\":{\"b\":1.0,\"a\":[ ]}}\n\n  \n{}");
        let [(1, Ok(first)), (4, Ok(second))] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((first.id.as_deref(), first.input.as_str()), (Some("a"), r#"{"b":1.0,"a":[ ]}"#));
        assert_eq!((second.id.as_deref(), second.input.as_str()), (None, "null"));
    }

    #[test]
    fn a_wrong_line_names_itself_and_spares_the_others() {
        let lines = lines("{\"id\":\"a\"}\n{\"ID\":\"b\"}\nx\n{\"id\":\"c\"}\n");
        let wrong: Vec<u64> = lines.iter().filter(|(_, line)| line.is_err()).map(|(n, _)| *n).collect();
        assert_eq!((lines.len(), wrong), (4, vec![2, 3]));
    }

    #[test]
    fn a_file_that_is_no_file_of_starts_is_given_up() {
        let mut tally = Tally::default();
        for (number, line) in lines(&"x\n".repeat(FAILURES_SHOWN_MAX)) {
            assert!(!tally.is_hopeless());
            tally.count(number, line.map(|_| unreachable!("no line of this file is a start")));
        }
        assert!(tally.is_hopeless());
        assert_eq!(tally.verdict(Path::new("f")).unwrap_err().exit, Exit::Invalid);
    }
}
