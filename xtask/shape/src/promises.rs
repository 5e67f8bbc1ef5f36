//! Whether what SPECIFICATION.md names as the proof of a promise is there: a test of that name, or a file, in the room
//! that it says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where the tests of a room are.
const ROOMS: [(&str, &str); 14] = [
    ("core", "host/core"),
    ("ledger", "host/ledger"),
    ("sandbox", "host/sandbox"),
    ("engine", "host/engine"),
    ("server", "host/server"),
    ("cli", "host/src"),
    ("sdk", "guest-sdk"),
    ("client", "client"),
    ("scheduler", "host/scheduler"),
    ("wire", "wire"),
    ("worker", "worker"),
    ("simulation", "tests/simulation"),
    ("tests", "tests"),
    ("xtask", "xtask"),
];
/// Folders that hold no source.
const SKIPPED: [&str; 3] = ["target", "node_modules", ".git"];

/// What is named and is not there.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn missing(repository: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(repository.join("SPECIFICATION.md")).context("SPECIFICATION.md")?;
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    let mut missing = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |")) {
        let mut columns = line.trim_end_matches(" |").rsplit(" | ");
        let proof = columns.next().unwrap_or_default();
        let number = line[2..].split(' ').next().unwrap_or_default();
        for part in proof.split("; ") {
            let Some((room, names)) = part.split_once(": ") else { continue };
            let Some((room, folder)) = ROOMS.iter().find(|(known, _)| *known == room) else { continue };
            let source = match sources.entry(room) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(source_of(&repository.join(folder))?)
                }
            };
            for name in names.split('`').skip(1).step_by(2) {
                if !is_there(repository, folder, source, name) {
                    missing.push(format!("SPECIFICATION.md {number}: {room} has no {name}"));
                }
            }
        }
    }
    Ok(missing)
}

fn is_there(repository: &Path, folder: &str, source: &str, name: &str) -> bool {
    let is_test = name.contains('_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_test {
        return source.contains(&format!("fn {name}("));
    }
    let is_file = name.contains('/') || name.contains('.');
    !is_file || repository.join(name).exists() || repository.join(folder).join(name).exists()
}

/// Every Rust file of a folder, one behind the other.
fn source_of(folder: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut todo: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !SKIPPED.contains(&name) {
            for entry in std::fs::read_dir(&path).with_context(|| path.display().to_string())? {
                todo.push(entry?.path());
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(text)
}
