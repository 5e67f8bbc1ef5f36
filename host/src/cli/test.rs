//! `backstitch test`: a guest's own tests, which need neither a host nor a database.

use std::path::PathBuf;

use serde_json::json;

use super::build::failed;
use super::exit::{CliError, CliResult, Exit};
use super::output::Output;
use crate::componentize::{self, Report};

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// Directory of a guest crate
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Packages of the workspace at PATH
    #[arg(long = "package", short, value_name = "NAME")]
    packages: Vec<String>,
    /// For the test programs, such as part of a test's name
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(super) fn test(args: &TestArgs, out: Output) -> CliResult {
    let guests = componentize::find(&args.path, &args.packages).map_err(failed)?;
    let report = match (out.is_json(), out.is_quiet()) {
        (false, _) => Report::Stdout,
        // Where the document goes nothing else may.
        (true, false) => Report::Stderr,
        (true, true) => Report::None,
    };
    let passed = componentize::test(&guests, &args.args, out.is_quiet(), report).map_err(failed)?;
    let names: Vec<&str> = guests.iter().map(|guest| guest.package.as_str()).collect();
    if out.is_json() {
        out.document(&json!({ "passed": passed, "packages": names }))?;
    }
    if passed {
        return Ok(());
    }
    let what = format!("tests of {} failed", names.join(", "));
    Err(CliError::new(Exit::Unhealthy, "tests-failed", what))
}
