//! What `./x shape` prints: the circles of modules, the longest functions, files and parameter lists, how many public
//! items each crate has, which proofs the specification names that are not there, and which words are used that are not to
//! be. With `--check` it fails where the tree is worse than what is agreed below.
//!
//! It reads source files and nothing else, so that it needs no build of what it measures.

mod graph;
mod mentions;
mod modules;
mod promises;
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};

/// A function longer than this wants to be two.
const FUNCTION_LINES_MAX: usize = 70;
/// A file longer than this wants to be two.
const FILE_LINES_MAX: usize = 500;

/// How many functions and files may be over their bounds. Lower them when you can, never raise them.
const LONG_FUNCTIONS_MAX: usize = 1;
const LONG_FILES_MAX: usize = 6;

/// Measures the shape of the tree.
#[derive(Debug, Parser)]
struct Cli {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Fail if there is a circle, a proof is missing, a word is banned, or there are more long functions or files than
    /// agreed
    #[arg(long)]
    check: bool,
    /// Print which file of this crate names what of which other, circles only
    #[arg(long, value_name = "CRATE")]
    arrows: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Circle {
    files: BTreeSet<PathBuf>,
    way_round: Vec<PathBuf>,
    arrows: graph::Arrows,
}

#[derive(Debug, Serialize)]
struct CrateShape {
    name: String,
    files: usize,
    lines: usize,
    functions: usize,
    public_items: usize,
    circles: Vec<Circle>,
}

#[derive(Debug, Serialize)]
struct Sized {
    what: String,
    file: PathBuf,
    count: usize,
}

#[derive(Debug, Default, Serialize)]
struct Shape {
    crates: Vec<CrateShape>,
    long_functions: Vec<Sized>,
    long_files: Vec<Sized>,
    longest_parameter_lists: Vec<Sized>,
    /// Proofs that the specification names and that are not there.
    missing_proofs: Vec<String>,
    banned_words: Vec<words::Found>,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let shape = measure()?;
    if let Some(name) = &cli.arrows {
        print_arrows(&shape, name);
    } else if cli.json {
        println!("{}", serde_json::to_string_pretty(&shape)?);
    } else {
        print(&shape);
    }
    let complaints = complaints(&shape);
    for complaint in complaints.iter().filter(|_| cli.check) {
        eprintln!("shape: {complaint}");
    }
    Ok(if cli.check && !complaints.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure() -> anyhow::Result<Shape> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--no-deps", "--format-version=1"]).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo metadata ended with {}", output.status);
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let mut shape = Shape::default();
    for package in &metadata.packages {
        for target in package.targets.iter().filter(|target| ships(target)) {
            add(&mut shape, &metadata.workspace_root, package, target)?;
        }
    }
    for sized in [&mut shape.long_functions, &mut shape.long_files, &mut shape.longest_parameter_lists] {
        sized.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.file.cmp(&other.file)));
    }
    shape.longest_parameter_lists.truncate(5);
    shape.missing_proofs = promises::missing(&metadata.workspace_root)?;
    shape.banned_words = words::measure(&metadata.workspace_root)?;
    Ok(shape)
}

/// Tests, examples and build scripts are not measured, and neither are guests: each is one small file.
fn ships(target: &Target) -> bool {
    target.kind.iter().any(|kind| ["lib", "rlib", "bin", "proc-macro"].contains(&kind.as_str()))
}

fn add(shape: &mut Shape, repository: &Path, package: &Package, target: &Target) -> anyhow::Result<()> {
    let source = modules::read(repository, &target.src_path)?;
    let arrows = graph::arrows(&source);
    let circles = graph::circles(&arrows).into_iter().map(|files| {
        let way_round = graph::way_round(&arrows, &files);
        let mut inside = arrows.clone();
        inside.retain(|file, _| files.contains(file));
        inside.values_mut().for_each(|targets| targets.retain(|file, _| files.contains(file)));
        Circle { files, way_round, arrows: inside }
    });
    shape.crates.push(CrateShape {
        name: package.name.clone(),
        files: source.files.len(),
        lines: source.files.values().sum(),
        functions: source.functions.len(),
        public_items: source.public_items,
        circles: circles.collect(),
    });
    for function in source.functions {
        let parameters = function.parameters;
        let sized = |count| Sized { what: function.name.clone(), file: function.file.clone(), count };
        shape.longest_parameter_lists.push(sized(parameters));
        if function.lines > FUNCTION_LINES_MAX {
            shape.long_functions.push(sized(function.lines));
        }
    }
    let long = source.files.into_iter().filter(|(_, lines)| *lines > FILE_LINES_MAX);
    shape.long_files.extend(long.map(|(file, count)| Sized { what: String::new(), file, count }));
    Ok(())
}

fn complaints(shape: &Shape) -> Vec<String> {
    let mut complaints = Vec::new();
    for one in &shape.crates {
        for circle in &one.circles {
            let way: Vec<_> = circle.way_round.iter().map(|file| file.display().to_string()).collect();
            complaints.push(format!(
                "{}: a circle of {} files: {}",
                one.name,
                circle.files.len(),
                way.join(" → ")
            ));
        }
    }
    if shape.long_functions.len() > LONG_FUNCTIONS_MAX {
        let found = shape.long_functions.len();
        complaints.push(format!(
            "{found} functions of more than {FUNCTION_LINES_MAX} lines, {LONG_FUNCTIONS_MAX} agreed"
        ));
    }
    if shape.long_files.len() > LONG_FILES_MAX {
        let found = shape.long_files.len();
        complaints
            .push(format!("{found} files of more than {FILE_LINES_MAX} lines, {LONG_FILES_MAX} agreed"));
    }
    complaints.extend(shape.missing_proofs.iter().cloned());
    complaints.extend(shape.banned_words.iter().map(ToString::to_string));
    complaints
}

fn print_arrows(shape: &Shape, name: &str) {
    for circle in shape.crates.iter().filter(|one| one.name == name).flat_map(|one| &one.circles) {
        println!("a circle of {} files", circle.files.len());
        for (from, targets) in &circle.arrows {
            println!("  {}", from.display());
            for (to, named) in targets {
                let named: Vec<&str> = named.iter().map(String::as_str).collect();
                println!("    {}: {}", to.display(), named.join(", "));
            }
        }
    }
}

fn print(shape: &Shape) {
    println!(
        "{:30} {:>6} {:>7} {:>10} {:>7} {:>8}",
        "crate", "files", "lines", "functions", "public", "circles"
    );
    for one in shape.crates.iter().filter(|one| one.files > 1) {
        println!(
            "{:30} {:>6} {:>7} {:>10} {:>7} {:>8}",
            one.name,
            one.files,
            one.lines,
            one.functions,
            one.public_items,
            one.circles.len()
        );
    }
    for (one, circle) in
        shape.crates.iter().flat_map(|one| one.circles.iter().map(move |circle| (one, circle)))
    {
        println!("\n{}: a circle of {} files, for instance", one.name, circle.files.len());
        for file in &circle.way_round {
            println!("  {}", file.display());
        }
    }
    let lists = [
        (format!("functions of more than {FUNCTION_LINES_MAX} lines"), &shape.long_functions),
        (format!("files of more than {FILE_LINES_MAX} lines, without unit tests"), &shape.long_files),
        ("longest parameter lists, receivers included".to_owned(), &shape.longest_parameter_lists),
    ];
    for (title, list) in lists {
        println!("\n{title}: {}", list.len());
        for sized in list {
            println!("{:>6}  {}  {}", sized.count, sized.file.display(), sized.what);
        }
    }
}
