//! `backstitch run export` and `run payload`: a run as one document, or one of its payloads, on stdout or in a file.

use std::path::{Path, PathBuf};

use backstitch_client::history::Part;
use backstitch_core::Seq;
use serde_json::json;

use super::context::Context;
use super::exit::{CliError, CliResult, Exit};
use super::output;

/// Arguments of `run export`.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    run: String,
    /// Only these parts [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    allow: Vec<AllowedPart>,
    /// Where to write it [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// [`Part`] as it is written on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AllowedPart {
    /// Input, and output or failure
    Data,
    /// What it waits for, and what is known about it
    State,
    /// How it stands
    Status,
    /// Every row of its ledger
    Timeline,
}

impl From<AllowedPart> for Part {
    fn from(part: AllowedPart) -> Self {
        match part {
            AllowedPart::Data => Self::Data,
            AllowedPart::State => Self::State,
            AllowedPart::Status => Self::Status,
            AllowedPart::Timeline => Self::Timeline,
        }
    }
}

pub(super) async fn export(args: &ExportArgs, context: &Context) -> CliResult {
    let allowed: Vec<Part> = args.allow.iter().copied().map(Part::from).collect();
    let parts = if allowed.is_empty() { &Part::ALL[..] } else { &allowed };
    let history = context.client.history(&args.run, parts).await;
    let history = history.map_err(|error| CliError::client(&format!("export {}", args.run), error))?;
    deliver(&history, args.output.as_deref(), context)
}

/// Arguments of `run payload`.
#[derive(Debug, clap::Args)]
pub(super) struct PayloadArgs {
    run: String,
    /// The row, as `run ledger` has it
    seq: u32,
    /// Where to write it [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn payload(args: &PayloadArgs, context: &Context) -> CliResult {
    let PayloadArgs { run, seq, output } = args;
    let payload = context.client.payload(run, Seq(*seq)).await;
    let what = format!("read the payload of row {seq} of {run}");
    let payload = payload.map_err(|error| CliError::client(&what, error))?;
    deliver(payload.as_str().as_bytes(), output.as_deref(), context)
}

/// Puts bytes into a file, or else on stdout.
fn deliver(bytes: &[u8], file: Option<&Path>, context: &Context) -> CliResult {
    let Some(file) = file else { return output::raw(bytes) };
    std::fs::write(file, bytes).map_err(|error| {
        CliError::new(Exit::Invalid, "file-unwritable", format!("cannot write {}", file.display()))
            .because(error.to_string())
    })?;
    if context.out.is_json() {
        return context.out.document(&json!({ "file": file, "bytes": bytes.len() }));
    }
    context.out.note(&format!("written to {}: {} bytes", file.display(), bytes.len()));
    Ok(())
}
