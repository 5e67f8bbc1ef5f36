//! Which file names items of which other file, and where that goes in a circle.
//!
//! A name that is passed on by `pub use` leads to the file that defines it; the declaration `mod x;` alone names nothing.
//! Calls of methods cannot be seen: a type whose `impl` lies in several files has no arrows between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::mentions::Import;
use crate::modules::{Module, ModulePath, Source};

/// How many `use` declarations a name is followed through.
const HOPS_MAX: usize = 8;

/// Arrows between the files of a crate, each with what it is drawn for.
pub(crate) type Arrows = BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeSet<String>>>;

/// Every arrow of a crate.
pub(crate) fn arrows(source: &Source) -> Arrows {
    let mut arrows = Arrows::new();
    for (path, module) in &source.modules {
        let imports = module.imports.iter().map(|import| &import.path);
        for named in imports.chain(&module.mentions) {
            let Some(target) =
                absolute(source, path, &module.imports, named).and_then(|named| resolve(source, named))
            else {
                continue;
            };
            if target != module.file {
                let targets = arrows.entry(module.file.clone()).or_default();
                targets.entry(target.to_owned()).or_default().insert(named.join("::"));
            }
        }
    }
    arrows
}

/// A path from the crate's root, if it leads into the crate.
fn absolute(source: &Source, here: &ModulePath, imports: &[Import], named: &[String]) -> Option<ModulePath> {
    let (first, rest) = named.split_first()?;
    let mut base = here.clone();
    match first.as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => drop(base.pop()?),
        child => {
            base.push(child.to_owned());
            if !source.modules.contains_key(&base) {
                return None;
            }
            // A local name hides a module of the same name only in other namespaces: the import was counted already.
            if imports.iter().any(|import| import.name.as_deref() == Some(child)) {
                return None;
            }
        }
    }
    let mut rest = rest;
    while let [first, behind @ ..] = rest
        && first == "super"
    {
        base.pop()?;
        rest = behind;
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

/// The file that defines what a path from the root names.
fn resolve(source: &Source, named: ModulePath) -> Option<&Path> {
    let mut named = named;
    for _ in 0..HOPS_MAX {
        let depth = (0..=named.len()).rev().find(|depth| source.modules.contains_key(&named[..*depth]))?;
        let (path, rest) = named.split_at(depth);
        let module = &source.modules[path];
        let Some(name) = rest.first() else { return Some(&module.file) };
        if module.definitions.contains(name) {
            return Some(&module.file);
        }
        let path = path.to_vec();
        let passed_on = module.imports.iter().find(|import| import.name.as_ref() == Some(name));
        let next = match passed_on {
            Some(import) => absolute(source, &path, &[], &import.path)?,
            None => match through_glob(source, &path, module, name) {
                Some(next) => next,
                None => return Some(&module.file),
            },
        };
        named = next.into_iter().chain(rest[1..].iter().cloned()).collect();
    }
    None
}

/// Where a `use …::*` leads that brings a name in.
fn through_glob(source: &Source, path: &ModulePath, module: &Module, name: &String) -> Option<ModulePath> {
    let globs = module.imports.iter().filter(|import| import.name.is_none());
    globs.filter_map(|import| absolute(source, path, &[], &import.path)).find_map(|mut glob| {
        let defines = source.modules.get(&glob)?.definitions.contains(name);
        glob.push(name.clone());
        defines.then_some(glob)
    })
}

/// The files that reach each other, group by group: the strongly connected parts with more than one file.
pub(crate) fn circles(arrows: &Arrows) -> Vec<BTreeSet<PathBuf>> {
    let reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> =
        arrows.keys().map(|file| (file, reach(arrows, file))).collect();
    let mut circles: Vec<BTreeSet<PathBuf>> = Vec::new();
    for (file, others) in &reached {
        if !others.contains(file) || circles.iter().any(|circle| circle.contains(*file)) {
            continue;
        }
        let back = |other: &&&PathBuf| reached.get(**other).is_some_and(|reached| reached.contains(file));
        circles.push(others.iter().filter(back).map(|other| (**other).clone()).collect());
    }
    circles
}

/// Everything that can be reached from a file.
fn reach<'a>(arrows: &'a Arrows, from: &PathBuf) -> BTreeSet<&'a PathBuf> {
    let mut reached = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(file) = todo.pop() {
        for next in arrows.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(next) {
                todo.push(next);
            }
        }
    }
    reached
}

/// A shortest way from a file of a circle back to itself: what a person has to look at first.
pub(crate) fn way_round(arrows: &Arrows, circle: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let ways = circle.iter().filter_map(|start| way_back(arrows, circle, start));
    ways.min_by_key(Vec::len).unwrap_or_default()
}

fn way_back(arrows: &Arrows, circle: &BTreeSet<PathBuf>, start: &PathBuf) -> Option<Vec<PathBuf>> {
    let mut came_from: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
    let mut todo = std::collections::VecDeque::from([start]);
    while let Some(file) = todo.pop_front() {
        for next in arrows.get(file)?.keys().filter(|next| circle.contains(*next)) {
            if next == start {
                let mut way = vec![start.clone()];
                let mut at = file;
                while at != start {
                    way.push(at.clone());
                    at = came_from.get(at)?;
                }
                way.push(start.clone());
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, file);
                todo.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(pairs: &[(&str, &str)]) -> Arrows {
        let mut arrows = Arrows::new();
        for (from, to) in pairs {
            arrows.entry(PathBuf::from(from)).or_default().entry(PathBuf::from(to)).or_default();
        }
        arrows
    }

    #[test]
    fn a_circle_is_found_with_its_shortest_way_and_a_line_is_none() {
        let line = drawn(&[("a", "b"), ("b", "c"), ("a", "c")]);
        assert!(circles(&line).is_empty());
        let ring = drawn(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "b"), ("d", "a")]);
        let found = circles(&ring);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0], ["a", "b", "c"].map(PathBuf::from).into());
        assert_eq!(way_round(&ring, &found[0]).len(), 3, "b, c and b again");
    }
}
