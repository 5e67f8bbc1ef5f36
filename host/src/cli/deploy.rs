//! `backstitch deploy` and `backstitch deployments`.

use std::path::{Path, PathBuf};

use backstitch_client::views::{DeployedView, DeploymentView};
use backstitch_core::{Json, limits};
use backstitch_sandbox::Manifest;
use indicatif::ProgressBar;
use serde_json::json;

use super::context::Context;
use super::exit::{CliError, CliResult, Exit};
use super::input;
use super::output::{Output, cell, foreign, optional};
use crate::componentize::MANIFEST_EXTENSION;

/// Arguments of `deploy`.
#[derive(Debug, clap::Args)]
pub(super) struct DeployArgs {
    /// Components, as `backstitch build` makes them
    #[arg(value_name = "FILE.wasm", required = true)]
    files: Vec<PathBuf>,
    /// What their activities may reach, as JSON [default: FILE.manifest.json beside a component, if there is one]
    #[arg(long, value_name = "FILE.json")]
    manifest: Option<PathBuf>,
}

/// Deploys one file after the other. One that is refused does not keep the others from being tried.
pub(super) async fn deploy(args: &DeployArgs, context: &Context) -> CliResult {
    let mut results = Vec::new();
    for file in &args.files {
        let spinner = spinner(context.out, format!("deploying {}", file.display()));
        let result = deploy_file(file, args.manifest.as_deref(), context).await;
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

async fn deploy_file(file: &Path, manifest: Option<&Path>, context: &Context) -> CliResult<DeployedView> {
    let component = input::component(file)?;
    if component.get(..8) == Some(b"\0asm\x01\0\0\0") {
        let what = format!("cannot deploy {}", file.display());
        return Err(CliError::new(Exit::Refused, "component-is-module", what)
            .because("it is a core module, not a component")
            .hint(format!("backstitch build {}", file.display())));
    }
    let what = format!("deploy {}", file.display());
    let deployed = match manifest_text(file, manifest)? {
        Some(manifest) => context.client.deploy_with_manifest(component, &manifest).await,
        None => context.client.deploy(component).await,
    };
    let deployed = deployed.map_err(|error| CliError::client(&what, error))?;
    for warning in &deployed.warnings {
        context.out.note(&format!("{}: this host cannot do all of the manifest: {warning}", file.display()));
    }
    Ok(deployed)
}

/// The manifest that was named, or the one that `backstitch build` has left beside the component.
fn manifest_text(component: &Path, named: Option<&Path>) -> CliResult<Option<String>> {
    let beside = component.with_extension(MANIFEST_EXTENSION);
    let file = match named {
        Some(named) => named,
        None if beside.exists() => &beside,
        None => return Ok(None),
    };
    let bytes =
        input::bounded(input::open(file)?, limits::MANIFEST_BYTES_MAX as u64, &file.display().to_string())?;
    let manifest = String::from_utf8(bytes).map_err(|error| {
        let what = format!("{} is not text", file.display());
        CliError::new(Exit::Invalid, "manifest-invalid", what).because(error.to_string())
    })?;
    Ok(Some(manifest))
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
        let row = |one: &DeploymentView| {
            let (queue, reaches) = (one.name.task_queue.as_deref(), one.manifest.as_ref().map(places));
            [
                cell(&one.kind),
                foreign(&one.name.name),
                optional(queue),
                cell(one.digest.short()),
                cell(&one.deployed_at),
                optional(reaches.as_deref()),
            ]
        };
        out.table(
            ["KIND", "NAME", "QUEUE", "DIGEST", "SINCE", "REACHES"],
            deployments.iter().map(row).collect(),
        )
    })
}

/// Where a manifest reaches, in a few words.
fn places(manifest: &Json) -> String {
    match Manifest::parse(manifest.as_str()) {
        Ok(manifest) => manifest.places().join(", "),
        Err(_) => "a manifest that this program does not know".to_owned(),
    }
}
