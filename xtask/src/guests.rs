//! The guests of this workspace: which there are, and how they are built.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// A crate that becomes a component.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) package: String,
    pub(crate) target: &'static str,
}

/// Crates with this beginning are made for WASI's own target, whose linker makes components.
const WASI_PREFIX: &str = "wasi-";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

/// Every cdylib of the workspace.
pub(crate) fn find(root: &Path) -> anyhow::Result<Vec<Guest>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["metadata", "--no-deps", "--format-version=1"]).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata ended with {}", output.status);
    Ok(among(serde_json::from_slice::<Metadata>(&output.stdout)?.packages))
}

fn among(packages: Vec<Package>) -> Vec<Guest> {
    let is_guest = |package: &Package| {
        package.targets.iter().any(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
    };
    let target = |name: &str| match name.starts_with(WASI_PREFIX) {
        true => "wasm32-wasip2",
        false => "wasm32-unknown-unknown",
    };
    let guests = packages.into_iter().filter(is_guest);
    guests.map(|package| Guest { target: target(&package.name), package: package.name }).collect()
}

/// Builds them all, one call of cargo for each target.
pub(crate) fn build(root: &Path, guests: &[Guest]) -> anyhow::Result<()> {
    for target in ["wasm32-unknown-unknown", "wasm32-wasip2"] {
        let packages = guests.iter().filter(|guest| guest.target == target);
        let packages: Vec<&str> = packages.flat_map(|guest| ["--package", &guest.package]).collect();
        if packages.is_empty() {
            continue;
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root).args(["build", "--lib", "--profile", "guest", "--target", target]);
        let status = cargo.args(packages).status().context("cannot run cargo")?;
        ensure!(status.success(), "the guests for {target} cannot be built: cargo ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_the_cdylibs_each_with_its_target() {
        let package = |name: &str, kinds: &[&str]| Package {
            name: name.into(),
            targets: vec![Target { crate_types: kinds.iter().map(ToString::to_string).collect() }],
        };
        let packages = vec![
            package("host", &["lib"]),
            package("order-workflow", &["cdylib", "rlib"]),
            package("wasi-activities", &["cdylib"]),
        ];
        let guest = |package: &str, target| Guest { package: package.into(), target };
        assert_eq!(
            among(packages),
            [guest("order-workflow", "wasm32-unknown-unknown"), guest("wasi-activities", "wasm32-wasip2")]
        );
    }
}
