//! From a guest's crate to its component: what `backstitch build` does. And to its tests' verdict: what
//! `backstitch test` does.
//!
//! Cargo compiles the crate to a core module; `wit-component` wraps it into a component by the world
//! that the SDK left in a custom section. Nothing here talks to a host or a database.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use backstitch_engine::ambient;
use backstitch_sandbox::Manifest;
use serde::Deserialize;
use wit_component::{ComponentEncoder, metadata};

/// The target of guests: a bare machine, so that a component imports what the SDK asked for and
/// nothing else.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// What a component's manifest is called: the component's own name with this in place of `wasm`.
pub const MANIFEST_EXTENSION: &str = "manifest.json";

/// The profile of guests, if the workspace has it.
const PROFILE: &str = "guest";

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BuildError {
    /// What happened.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub hint: Option<String>,
}

impl BuildError {
    fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A guest's crate, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its package's name.
    pub package: String,
    id: String,
    workspace: PathBuf,
    target_dir: PathBuf,
    /// What its activities may reach: `[package.metadata.backstitch]` of its `Cargo.toml`, as JSON text.
    pub manifest: Option<String>,
}

impl Guest {
    /// Where its component goes unless told otherwise.
    pub fn default_out(&self) -> PathBuf {
        self.target_dir.join("backstitch").join(format!("{}.wasm", self.package))
    }
}

/// Looks up guests: the package at `dir`, or those named `packages` in its workspace.
pub fn find(dir: &Path, packages: &[String]) -> Result<Vec<Guest>, BuildError> {
    // First: a directory that is not there would look as if cargo were not.
    let manifest = absolute(dir)?.join("Cargo.toml");
    let metadata = Metadata::of(dir)?;
    let chosen = metadata.choose(&manifest, packages)?;
    chosen.into_iter().map(|package| metadata.guest(package)).collect()
}

/// Compiles `guests` to core modules, one call of cargo for each workspace. Cargo's own words go to
/// stderr unless `quiet`. Gives the module's file for each guest, in order.
pub fn compile(guests: &[Guest], quiet: bool) -> Result<Vec<PathBuf>, BuildError> {
    let mut workspaces: BTreeMap<&Path, Vec<&Guest>> = BTreeMap::new();
    for guest in guests {
        workspaces.entry(&guest.workspace).or_default().push(guest);
    }
    let mut modules = BTreeMap::new();
    for (workspace, guests) in workspaces {
        check_target(workspace)?;
        let messages = run_cargo(workspace, &guests, quiet)?;
        for guest in guests {
            let module = module_of(&messages, &guest.id).ok_or_else(|| {
                BuildError::new(
                    format!("{} was compiled, but left no module", guest.package),
                    "cargo reported no cdylib of it",
                )
            })?;
            modules.insert(&guest.id, module);
        }
    }
    Ok(guests.iter().map(|guest| modules[&guest.id].clone()).collect())
}

/// Where the tests' own report goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// To stdout, as the tests write it.
    Stdout,
    /// To stderr.
    Stderr,
    /// Nowhere.
    None,
}

impl Report {
    fn stdio(self) -> Stdio {
        match self {
            Self::Stdout => Stdio::inherit(),
            Self::Stderr => io::stderr().into(),
            Self::None => Stdio::null(),
        }
    }
}

/// Runs the tests of `guests`, which are of one workspace, natively; `args` are for the test programs.
/// Gives whether all of them passed. Tests that do not compile are an error.
pub fn test(guests: &[Guest], args: &[String], quiet: bool, report: Report) -> Result<bool, BuildError> {
    let Some(Guest { workspace, .. }) = guests.first() else { return Ok(true) };
    let tests = |more: &[&str], report: Stdio| {
        let mut cargo = cargo();
        cargo.current_dir(workspace).arg("test").args(more);
        cargo.args(guests.iter().flat_map(|guest| ["--package", &guest.package]));
        if quiet {
            cargo.arg("--quiet");
        }
        cargo.arg("--").args(args).stdin(Stdio::null()).stdout(report).stderr(Stdio::inherit());
        cargo.status().map_err(|error| cannot_run("cargo", &error))
    };
    // First: cargo's exit code does not tell tests that fail from tests that do not compile.
    let compiled = tests(&["--no-run"], Stdio::null())?;
    if !compiled.success() {
        return Err(not_compiled("the tests of ", guests.iter(), compiled));
    }
    Ok(tests(&["--no-fail-fast"], report.stdio())?.success())
}

/// Wraps a core module into a component. A component is given back as it is.
pub fn componentize(name: &str, wasm: Vec<u8>) -> Result<Vec<u8>, BuildError> {
    match wasm.get(..8) {
        Some(b"\0asm\x0d\0\x01\0") => return Ok(wasm),
        Some(b"\0asm\x01\0\0\0") => {}
        _ => {
            return Err(BuildError::new(
                format!("{name} is no WebAssembly"),
                "it begins neither like a core module nor like a component",
            ));
        }
    }
    let refused = |error: &dyn std::fmt::Display| {
        BuildError::new(format!("{name} cannot be made a component"), error.to_string())
            .hint("build it with the Backstitch SDK, which says what the component imports and exports")
    };
    // Without this section the encoder would make a component that imports and exports nothing.
    let (stripped, _) = metadata::decode(&wasm).map_err(|error| refused(&format!("{error:#}")))?;
    if stripped.is_none() {
        return Err(refused(&"it does not say which world it is made for"));
    }
    let encoder = ComponentEncoder::default().validate(true).module(&wasm);
    encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| refused(&format!("{error:#}")))
}

/// What `cargo metadata` says, as far as we ask.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    #[serde(default)]
    metadata: Option<Extra>,
}

/// What of a package's `metadata` is ours.
#[derive(Debug, Deserialize)]
struct Extra {
    backstitch: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

impl Package {
    fn is_cdylib(&self) -> bool {
        self.targets.iter().any(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
    }
}

impl Metadata {
    fn of(dir: &Path) -> Result<Self, BuildError> {
        let mut cargo = cargo();
        cargo.current_dir(dir).args(["metadata", "--no-deps", "--format-version=1"]).stderr(Stdio::piped());
        let output = run(cargo, "cargo")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(BuildError::new(format!("there is no crate to build in {}", dir.display()), why)
                .hint("name the directory of a crate, or -p PACKAGE inside its workspace"));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| BuildError::new("cargo metadata cannot be read", error.to_string()))
    }

    fn choose(&self, manifest: &Path, packages: &[String]) -> Result<Vec<&Package>, BuildError> {
        if packages.is_empty() {
            let here = self.packages.iter().find(|package| package.manifest_path == manifest);
            return here.map(|package| vec![package]).ok_or_else(|| {
                BuildError::new(
                    format!("{} is a workspace, not a crate", self.workspace_root.display()),
                    "which of its crates is meant is not said",
                )
                .hint(self.names_of_guests())
            });
        }
        let find = |name: &String| {
            self.packages.iter().find(|package| package.name == *name).ok_or_else(|| {
                let what = format!("there is no package {name} in {}", self.workspace_root.display());
                BuildError::new(what, "no crate of the workspace has that name").hint(self.names_of_guests())
            })
        };
        packages.iter().map(find).collect()
    }

    fn names_of_guests(&self) -> String {
        let guests = self.packages.iter().filter(|package| package.is_cdylib());
        let names: Vec<&str> = guests.map(|package| package.name.as_str()).collect();
        if names.is_empty() {
            "no crate of this workspace is a guest: none has crate-type = [\"cdylib\"]".to_owned()
        } else {
            format!("name one or more with -p: {}", names.join(", "))
        }
    }

    fn guest(&self, package: &Package) -> Result<Guest, BuildError> {
        if !package.is_cdylib() {
            return Err(BuildError::new(
                format!("{} cannot become a component", package.name),
                "its library is no cdylib",
            )
            .hint(format!(
                "add this to {}:\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]",
                package.manifest_path.display()
            )));
        }
        Ok(Guest {
            package: package.name.clone(),
            id: package.id.clone(),
            workspace: self.workspace_root.clone(),
            target_dir: self.target_directory.clone(),
            manifest: manifest_of(package)?,
        })
    }
}

/// What a package's `Cargo.toml` says its activities reach, if it is sound.
fn manifest_of(package: &Package) -> Result<Option<String>, BuildError> {
    let Some(manifest) = package.metadata.as_ref().and_then(|extra| extra.backstitch.as_ref()) else {
        return Ok(None);
    };
    let manifest = manifest.to_string();
    Manifest::parse(&manifest).map_err(|error| {
        let what = format!("[package.metadata.backstitch] of {} is wrong", package.manifest_path.display());
        BuildError::new(what, error.to_string())
    })?;
    Ok(Some(manifest))
}

/// A line of `cargo build --message-format=json`, as far as we ask.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// The core module of the package `id` among cargo's messages.
fn module_of(messages: &str, id: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages
        .filter(|message| message.reason == "compiler-artifact" && message.package_id == id)
        .filter(|message| {
            message
                .target
                .as_ref()
                .is_some_and(|target| target.crate_types.iter().any(|kind| kind == "cdylib"))
        })
        .flat_map(|message| message.filenames)
        .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

fn run_cargo(workspace: &Path, guests: &[&Guest], quiet: bool) -> Result<String, BuildError> {
    let mut cargo = cargo();
    cargo.current_dir(workspace).args(["build", "--lib", "--target", TARGET]);
    cargo.arg("--message-format=json-render-diagnostics");
    match has_profile(workspace) {
        true => cargo.args(["--profile", PROFILE]),
        false => cargo.arg("--release"),
    };
    if quiet {
        cargo.arg("--quiet");
    }
    for guest in guests {
        cargo.args(["--package", &guest.package]);
    }
    cargo.stderr(Stdio::inherit());
    let output = run(cargo, "cargo")?;
    if !output.status.success() {
        return Err(not_compiled("", guests.iter().copied(), output.status));
    }
    String::from_utf8(output.stdout)
        .map_err(|error| BuildError::new("cargo's messages cannot be read", error.to_string()))
}

/// Whether the workspace has a profile for guests: small code that keeps its names for backtraces.
fn has_profile(workspace: &Path) -> bool {
    let manifest = std::fs::read_to_string(workspace.join("Cargo.toml")).unwrap_or_default();
    manifest.lines().any(|line| line.trim() == format!("[profile.{PROFILE}]"))
}

/// Whether the toolchain that builds in `dir` has the target of guests installed.
pub fn has_target(dir: &Path) -> Result<bool, BuildError> {
    let mut rustc = Command::new(ambient::variable_path("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.current_dir(dir).args(["--print", "target-libdir", "--target", TARGET]).stderr(Stdio::piped());
    let output = run(rustc, "rustc")?;
    let libdir = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success() && Path::new(libdir.trim()).is_dir())
}

fn check_target(dir: &Path) -> Result<(), BuildError> {
    if has_target(dir)? {
        return Ok(());
    }
    let why = format!("the Rust target {TARGET} is not installed");
    Err(BuildError::new("guests cannot be compiled here", why).hint(format!("rustup target add {TARGET}")))
}

fn cargo() -> Command {
    Command::new(ambient::variable_path("CARGO").map_or_else(|| OsString::from("cargo"), OsString::from))
}

fn run(mut command: Command, name: &str) -> Result<Output, BuildError> {
    // Not `output`, which would keep a stderr that is meant for the terminal.
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let output = command.spawn().and_then(std::process::Child::wait_with_output);
    output.map_err(|error| cannot_run(name, &error))
}

fn cannot_run(name: &str, error: &io::Error) -> BuildError {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let error = BuildError::new(format!("cannot run {name}"), error.to_string());
    if missing { error.hint("install Rust from https://rustup.rs") } else { error }
}

fn not_compiled<'a>(what: &str, guests: impl Iterator<Item = &'a Guest>, status: ExitStatus) -> BuildError {
    let names: Vec<&str> = guests.map(|guest| guest.package.as_str()).collect();
    let why = format!("cargo ended with {status}; its messages are above");
    BuildError::new(format!("cannot compile {what}{}", names.join(", ")), why)
}

fn absolute(dir: &Path) -> Result<PathBuf, BuildError> {
    dir.canonicalize()
        .map_err(|error| BuildError::new(format!("cannot read {}", dir.display()), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, kind: &str) -> Package {
        Package {
            id: format!("path+file:///w/{name}#0.1.0"),
            name: name.into(),
            manifest_path: format!("/w/{name}/Cargo.toml").into(),
            targets: vec![Target { crate_types: vec![kind.into()] }],
            metadata: None,
        }
    }

    #[test]
    fn a_manifest_in_a_cargo_toml_is_looked_at_when_its_crate_is_found() {
        let mut package = package("flow", "cdylib");
        let with =
            |manifest: &str| Some(serde_json::from_str(&format!(r#"{{"backstitch": {manifest}}}"#)).unwrap());
        package.metadata = with(r#"{"egress": [{"host": "a.example", "methods": ["GET"]}]}"#);
        let found = workspace().guest(&package).unwrap().manifest.unwrap();
        assert_eq!(found, r#"{"egress":[{"host":"a.example","methods":["GET"]}]}"#);
        package.metadata = with(r#"{"egress": [{"host": "*", "methods": []}]}"#);
        let wrong = workspace().guest(&package).unwrap_err();
        assert!(
            wrong.why.contains("egress[0].host") && wrong.why.contains("egress[0].methods"),
            "{}",
            wrong.why
        );
    }

    fn workspace() -> Metadata {
        Metadata {
            packages: vec![package("flow", "cdylib"), package("api", "lib")],
            workspace_root: "/w".into(),
            target_directory: "/w/target".into(),
        }
    }

    #[test]
    fn the_module_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","package_id":"dep","target":{"crate_types":["cdylib"]},"filenames":["/t/dep.wasm"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"flow","target":{"crate_types":["bin"]},"filenames":["/t/bin.wasm"]}"#,
            "\n",
            "   Compiling something that is no JSON\n",
            r#"{"reason":"compiler-artifact","package_id":"flow","target":{"crate_types":["cdylib","rlib"]},"filenames":["/t/libflow.rlib","/t/flow.wasm"],"fresh":true}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        assert_eq!(module_of(messages, "flow"), Some("/t/flow.wasm".into()));
        assert_eq!(module_of(messages, "other"), None);
    }

    #[test]
    fn a_crate_is_chosen_by_place_or_name() {
        let workspace = workspace();
        let names = |manifest: &str, packages: &[&str]| {
            let packages: Vec<String> = packages.iter().map(ToString::to_string).collect();
            let chosen = workspace.choose(Path::new(manifest), &packages);
            chosen.map(|chosen| chosen.iter().map(|package| package.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names("/w/flow/Cargo.toml", &[]).unwrap(), ["flow"]);
        assert_eq!(names("/w/Cargo.toml", &["api", "flow"]).unwrap(), ["api", "flow"]);
        let unsaid = names("/w/Cargo.toml", &[]).unwrap_err();
        assert_eq!(unsaid.hint.as_deref(), Some("name one or more with -p: flow"));
        assert!(names("/w/Cargo.toml", &["x"]).unwrap_err().what.starts_with("there is no package x"));
    }

    #[test]
    fn a_library_that_is_no_cdylib_is_told_what_to_add() {
        let workspace = workspace();
        let hint = workspace.guest(&workspace.packages[1]).unwrap_err().hint.unwrap();
        assert!(hint.contains("/w/api/Cargo.toml") && hint.contains("cdylib"), "{hint}");
        let guest = workspace.guest(&workspace.packages[0]).unwrap();
        assert_eq!(guest.default_out(), Path::new("/w/target/backstitch/flow.wasm"));
    }

    #[test]
    fn only_modules_are_wrapped() {
        let component = b"\0asm\x0d\0\x01\0".to_vec();
        assert_eq!(componentize("c", component.clone()).unwrap(), component);
        assert_eq!(componentize("x", b"#!/bin/sh".to_vec()).unwrap_err().what, "x is no WebAssembly");
        let worldless = componentize("m", b"\0asm\x01\0\0\0".to_vec()).unwrap_err();
        assert_eq!(worldless.why, "it does not say which world it is made for");
    }
}
