//! `./x test`: the guests first, because tests deploy them, then every test of the workspace.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::guests;
use crate::place::root;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let guests = guests::find(root())?;
    eprintln!("building {} guests", guests.len());
    guests::build(root(), &guests)?;
    let mut cargo = Command::new(env!("CARGO"));
    let status = cargo.current_dir(root()).args(["test", "--workspace"]).args(args).status();
    let status = status.context("cannot run cargo")?;
    ensure!(status.success(), "tests failed: cargo test ended with {status}");
    Ok(())
}
