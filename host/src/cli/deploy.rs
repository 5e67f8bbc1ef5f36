//! `backstitch deploy` and `backstitch deployments`.

use std::path::{Path, PathBuf};

use backstitch_client::views::{DeployedView, NameView};
use backstitch_core::Digest;
use indicatif::ProgressBar;
use serde_json::json;

use super::Context;
use super::exit::{CliError, CliResult, Exit};
use super::input;
use super::output::{Output, cell, foreign, optional};

/// Arguments of `deploy`.
#[derive(Debug, clap::Args)]
pub(super) struct DeployArgs {
    /// Components, as `backstitch build` makes them
    #[arg(value_name = "FILE.wasm", required = true)]
    files: Vec<PathBuf>,
}

/// Deploys one file after the other. One that is refused does not keep the others from being tried.
pub(super) async fn deploy(args: &DeployArgs, context: &Context) -> CliResult {
    let mut results = Vec::new();
    for file in &args.files {
        let spinner = spinner(context.out, format!("deploying {}", file.display()));
        let result = deploy_file(file, context).await;
        spinner.finish_and_clear();
        results.push((file, result));
    }
    report(&results, context.out)?;
    let mut failed = results.into_iter().filter_map(|(_, result)| result.err()).peekable();
    let Some(first) = failed.next() else { return Ok(()) };
    if failed.peek().is_none() {
        return Err(first);
    }
    context.out.error(&first);
    let exit = first.exit;
    failed.for_each(|error| context.out.error(&error));
    Err(CliError::silent(exit))
}

async fn deploy_file(file: &Path, context: &Context) -> CliResult<DeployedView> {
    let component = input::component(file)?;
    if component.get(..8) == Some(b"\0asm\x01\0\0\0") {
        let what = format!("cannot deploy {}", file.display());
        return Err(CliError::new(Exit::Refused, "component-is-module", what)
            .because("it is a core module, not a component")
            .hint(format!("backstitch build {}", file.display())));
    }
    let what = format!("deploy {}", file.display());
    context.client.deploy(component).await.map_err(|error| CliError::client(&what, error))
}

fn spinner(out: Output, text: String) -> ProgressBar {
    if !out.is_watched() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(text);
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}

fn report(results: &[(&PathBuf, CliResult<DeployedView>)], out: Output) -> CliResult {
    if out.is_json() {
        let entry = |(file, result): &(&PathBuf, CliResult<DeployedView>)| match result {
            Ok(deployed) => json!({ "file": file, "deployed": deployed }),
            Err(error) => json!({ "file": file, "error": error.json()["error"] }),
        };
        return out.document(&json!({ "files": results.iter().map(entry).collect::<Vec<_>>() }));
    }
    let mut rows = Vec::new();
    for (file, deployed) in results.iter().filter_map(|(file, result)| Some((file, result.as_ref().ok()?))) {
        let names: Vec<&str> = deployed.names.iter().map(|name| name.name.as_str()).collect();
        rows.push([
            cell(file.display()),
            cell(&deployed.kind),
            cell(deployed.digest.short()),
            cell(if deployed.created { "new" } else { "unchanged" }),
            foreign(&names.join(", ")),
        ]);
    }
    if rows.is_empty() {
        Ok(())
    } else {
        out.line(&out.table(["FILE", "KIND", "DIGEST", "STATE", "SERVES"], rows))
    }
}

/// Lists what serves which name.
pub(super) async fn deployments(context: &Context) -> CliResult {
    let out = context.out;
    let deployments = context.client.deployments().await;
    let deployments = deployments.map_err(|error| CliError::client("list deployments", error))?;
    if deployments.is_empty() {
        out.note("nothing is deployed yet; backstitch deploy FILE.wasm changes that");
    }
    out.answer(&json!({ "deployments": deployments }), || {
        let row = |kind: &str, name: &NameView, digest: Digest, since: &str| {
            let queue = name.task_queue.as_deref();
            [cell(kind), foreign(&name.name), optional(queue), cell(digest.short()), cell(since)]
        };
        let rows = deployments.iter().map(|one| row(&one.kind, &one.name, one.digest, &one.deployed_at));
        out.table(["KIND", "NAME", "QUEUE", "DIGEST", "SINCE"], rows.collect())
    })
}
