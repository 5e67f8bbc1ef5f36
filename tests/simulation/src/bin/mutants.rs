//! `./x mutants`: plants one mutant after the other in a copy of the repository, and plays clusters until one fails. A
//! mutant that survives is a hole in what clusters are held to, and the command fails.
//!
//! The repository itself is only read, so that it may be stopped at any time.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde_json::json;
use simulation::mutants::{Mutant, parse};

/// Where the mutants are, from the root of the repository.
const TABLE: &str = "tests/simulation/mutants.txt";
/// How much longer than without a mutant clusters may take, in seconds and as a factor: then one of them never ends.
const LONGER: (u64, u32) = (120, 5);
/// Memory that clusters may take, in KiB, where the system knows such a bound: a mutant may have no end of anything.
const MEMORY_KIB: &str = "6000000";

/// Plants mutants in the code that a host runs, and plays clusters that have to notice
#[derive(Debug, Parser)]
struct Cli {
    /// These alone; none: all
    names: Vec<String>,
    /// How many seeds may pass before a mutant has survived; unless told, as many as CI plays
    #[arg(long, default_value_t = simulation::SEEDS)]
    seeds: u64,
    /// Say at the end what came of each, as JSON on the standard output
    #[arg(long)]
    json: bool,
    /// Where cargo builds; the copy goes there too
    #[arg(long, env = "CARGO_TARGET_DIR", hide = true)]
    target: Option<PathBuf>,
}

/// What became of a mutant.
enum Fate {
    /// By what.
    Killed(String),
    Survives,
    /// It was never alive: this is what the compiler says.
    DoesNotBuild(String),
}

/// The copy in which mutants are planted, and where it is built.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
    seeds: u64,
    /// When a cluster has taken too long.
    timeout: Duration,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let text = fs::read_to_string(root.join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    let mutants = chosen(parse(&text).map_err(anyhow::Error::msg)?, &cli.names)?;
    let place = cli.target.unwrap_or_else(|| root.join("target")).join("mutants");
    let (tree, target) = (place.join("tree"), place.join("target"));
    copy_files(&root, &tree)?;

    let mut copy = Copy { tree, target, seeds: cli.seeds, timeout: Duration::from_secs(3_600) };
    copy.expect_sound(&mutants)?;
    let width = mutants.iter().map(|mutant| mutant.name.len()).max().unwrap_or_default();
    let mut fates = Vec::with_capacity(mutants.len());
    for mutant in mutants {
        let began = Instant::now();
        let fate = copy.fate_of(&mutant)?;
        let seconds = began.elapsed().as_secs_f64();
        say(cli.json, &format!("{:<width$} | {} | {seconds:.0} s", mutant.name, shown(&fate)));
        fates.push((mutant, fate, seconds));
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&fates.iter().map(as_json).collect::<Vec<_>>())?);
    }
    Ok(conclude(cli.json, &fates))
}

/// Progress goes where the result does not.
fn say(is_json: bool, line: &str) {
    if is_json { eprintln!("{line}") } else { println!("{line}") }
}

fn chosen(mutants: Vec<Mutant>, names: &[String]) -> Result<Vec<Mutant>> {
    if let Some(name) = names.iter().find(|name| mutants.iter().all(|mutant| mutant.name != **name)) {
        bail!("no mutant is called {name}: see {TABLE}");
    }
    Ok(mutants.into_iter().filter(|mutant| names.is_empty() || names.contains(&mutant.name)).collect())
}

/// Makes the copy what the repository is now. What is the same stays as it is, so that it is not built again.
fn copy_files(root: &Path, tree: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot ask git for the files of the repository")?;
    ensure!(listed.status.success(), "git does not list the files of the repository");
    let listed = String::from_utf8(listed.stdout)?;
    let names: Vec<&str> = listed.split('\0').filter(|name| root.join(name).is_file()).collect();
    for name in &names {
        let (from, to) = (fs::read(root.join(name))?, tree.join(name));
        if fs::read(&to).is_ok_and(|there| there == from) {
            continue;
        }
        let folder = to.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder)?;
        fs::write(&to, from)?;
    }
    // What the repository has no more would be built as well, if it is a test or a binary.
    for file in files_of(tree)? {
        let name = file.strip_prefix(tree)?;
        if names.iter().all(|known| Path::new(known) != name) {
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

fn files_of(tree: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![tree.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let found = if entry.file_type()?.is_dir() { &mut folders } else { &mut files };
            found.push(entry.path());
        }
    }
    Ok(files)
}

impl Copy {
    /// Without a mutant, nothing may fail. How long that takes is how long it takes with one.
    fn expect_sound(&mut self, mutants: &[Mutant]) -> Result<()> {
        eprintln!("without a mutant, in {} …", self.tree.display());
        if let Some(problem) = self.build()? {
            bail!("the copy does not build:\n{problem}");
        }
        let began = Instant::now();
        if let Some(what) = self.play()? {
            bail!("without a mutant, {what}");
        }
        self.timeout = began.elapsed() * LONGER.1 + Duration::from_secs(LONGER.0);
        let mut commands: Vec<&str> = mutants.iter().filter_map(|mutant| mutant.by.as_deref()).collect();
        commands.sort_unstable();
        commands.dedup();
        for command in commands {
            ensure!(self.passes(command)?, "without a mutant, `{command}` fails");
        }
        Ok(())
    }

    fn fate_of(&self, mutant: &Mutant) -> Result<Fate> {
        let file = self.tree.join(&mutant.file);
        let source = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        fs::write(&file, mutant.apply(&source).map_err(anyhow::Error::msg)?)?;
        let fate = self.fate(mutant);
        fs::write(&file, source)?;
        fate
    }

    /// Of the mutant that is planted.
    fn fate(&self, mutant: &Mutant) -> Result<Fate> {
        if let Some(problem) = self.build()? {
            return Ok(Fate::DoesNotBuild(problem));
        }
        Ok(match &mutant.by {
            Some(command) if self.passes(command)? => Fate::Survives,
            Some(command) => Fate::Killed(format!("`{command}` fails")),
            None => self.play()?.map_or(Fate::Survives, Fate::Killed),
        })
    }

    /// What the compiler has against it.
    fn build(&self) -> Result<Option<String>> {
        let built = self
            .cargo("cargo")
            .args(["build", "--quiet", "--package", "simulation", "--bin", "simulation"])
            .output()?;
        let problem = String::from_utf8_lossy(&built.stderr).into_owned();
        Ok((!built.status.success()).then_some(problem))
    }

    /// Whether a command passes. It has to build.
    fn passes(&self, command: &str) -> Result<bool> {
        let mut words = command.split_whitespace();
        let program = words.next().context("a command has a word")?;
        let output = self.cargo(program).args(words).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!said.contains("could not compile"), "`{command}` does not compile:\n{said}");
        Ok(output.status.success())
    }

    fn cargo(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Plays clusters; what fails, if something does.
    fn play(&self) -> Result<Option<String>> {
        let program = self.target.join("debug/simulation");
        let log = self.target.join("played.txt");
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -v {MEMORY_KIB} 2>/dev/null; exec \"$0\" \"$@\"")])
            .arg(program)
            .args(["--brief", "--seeds", &self.seeds.to_string()])
            .stdout(fs::File::create(&log)?)
            .stderr(Stdio::null())
            .spawn()?;
        let until = Instant::now() + self.timeout;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > until => {
                    child.kill()?;
                    child.wait()?;
                    return Ok(Some("a seed has no end".to_owned()));
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let said = fs::read_to_string(&log)?;
        let failed = said.lines().find(|line| line.starts_with("seed ")).map(ToOwned::to_owned);
        Ok(match (failed, status.success()) {
            (Some(failed), _) => Some(failed),
            (None, true) => None,
            (None, false) => Some(format!("the simulation ends with {status}")),
        })
    }
}

fn shown(fate: &Fate) -> String {
    match fate {
        Fate::Killed(by) => by.clone(),
        Fate::Survives => "survives".to_owned(),
        Fate::DoesNotBuild(problem) => {
            let line = problem.lines().find(|line| line.starts_with("error")).unwrap_or_default();
            format!("does not compile: {line}")
        }
    }
}

fn as_json((mutant, fate, seconds): &(Mutant, Fate, f64)) -> serde_json::Value {
    let Mutant { name, breaks, file, .. } = mutant;
    let is_killed = matches!(fate, Fate::Killed(_));
    json!({
        "name": name, "breaks": breaks, "file": file,
        "killed": is_killed, "fate": shown(fate), "seconds": seconds,
    })
}

fn conclude(is_json: bool, fates: &[(Mutant, Fate, f64)]) -> ExitCode {
    let alive: Vec<_> = fates.iter().filter(|(_, fate, _)| !matches!(fate, Fate::Killed(_))).collect();
    say(is_json, &format!("{} of {} mutants are killed", fates.len() - alive.len(), fates.len()));
    for (mutant, fate, _) in &alive {
        eprintln!("{} ({}): {}", mutant.name, shown(fate), mutant.breaks);
    }
    if alive.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "What survives is a hole in tests/simulation/src/cluster/checks.rs, or changes nothing that was ever promised."
    );
    ExitCode::FAILURE
}
