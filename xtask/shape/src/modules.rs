//! The modules of a crate, as its source says: which file holds each, what it names, and what it defines.
//!
//! Only what ships is read: items under `#[cfg(test)]` are left out, and so are files that only such items reach.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use syn::visit::Visit as _;

use crate::mentions::{Import, Reader, is_for_tests};

/// A path inside a crate, from its root: empty for the root itself.
pub(crate) type ModulePath = Vec<String>;

/// A module.
#[derive(Debug)]
pub(crate) struct Module {
    /// The file that holds it, from the repository's root.
    pub(crate) file: PathBuf,
    /// What its `use` declarations bring in.
    pub(crate) imports: Vec<Import>,
    /// Every other path in it, as it is written.
    pub(crate) mentions: BTreeSet<Vec<String>>,
    /// The names of its own items.
    pub(crate) definitions: BTreeSet<String>,
}

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) lines: usize,
    pub(crate) parameters: usize,
}

/// What the source of one crate says.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    pub(crate) functions: Vec<Function>,
    /// Lines of each file, without the unit tests at its foot.
    pub(crate) files: BTreeMap<PathBuf, usize>,
    /// Items that are `pub` without a restriction, those of `impl` blocks included.
    pub(crate) public_items: usize,
}

/// Where the modules below a file are looked for.
struct Place {
    path: ModulePath,
    file: PathBuf,
    folder: PathBuf,
}

/// Reads a crate from its root file. Paths are given from `repository`.
///
/// # Errors
/// A file that cannot be read or parsed.
pub(crate) fn read(repository: &Path, root: &Path) -> anyhow::Result<Source> {
    let mut source = Source::default();
    let folder = root.parent().context("a crate's root has a folder")?.to_owned();
    let mut todo = vec![Place { path: Vec::new(), file: root.to_owned(), folder }];
    while let Some(place) = todo.pop() {
        let text = std::fs::read_to_string(&place.file).with_context(|| place.file.display().to_string())?;
        let parsed = syn::parse_file(&text).with_context(|| place.file.display().to_string())?;
        let file = place.file.strip_prefix(repository).unwrap_or(&place.file).to_owned();
        source.files.insert(file.clone(), lines_without_tests(&text));
        take_items(&mut source, &mut todo, &parsed.items, place, file)?;
    }
    Ok(source)
}

/// One module's items, those of its inline modules included.
fn take_items(
    source: &mut Source,
    todo: &mut Vec<Place>,
    items: &[syn::Item],
    place: Place,
    file: PathBuf,
) -> anyhow::Result<()> {
    let mut inline = vec![(place, items)];
    while let Some((place, items)) = inline.pop() {
        let mut reader = Reader::default();
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            if let syn::Item::Mod(declared) = item {
                let below = below(&place, declared)?;
                match &declared.content {
                    Some((_, items)) => inline.push((below, items)),
                    None => todo.push(below),
                }
            } else {
                reader.visit_item(item);
            }
        }
        let found = reader.functions.into_iter();
        source.functions.extend(found.map(|(name, lines, parameters)| Function {
            name,
            file: file.clone(),
            lines,
            parameters,
        }));
        source.public_items += reader.public_items;
        let (imports, mentions, definitions) = (reader.imports, reader.mentions, reader.definitions);
        source.modules.insert(place.path, Module { file: file.clone(), imports, mentions, definitions });
    }
    Ok(())
}

/// Where a module that is declared at `place` lies.
fn below(place: &Place, declared: &syn::ItemMod) -> anyhow::Result<Place> {
    let name = declared.ident.to_string();
    let mut path = place.path.clone();
    path.push(name.clone());
    if declared.content.is_some() {
        return Ok(Place { path, file: place.file.clone(), folder: place.folder.join(name) });
    }
    let said = declared.attrs.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let beside = place.file.parent().context("a file has a folder")?;
    let candidates = match said {
        Some(said) => vec![beside.join(said)],
        None => vec![place.folder.join(format!("{name}.rs")), place.folder.join(&name).join("mod.rs")],
    };
    let file = candidates.into_iter().find(|file| file.is_file());
    let file = file.with_context(|| format!("{}: no file for mod {name}", place.file.display()))?;
    Ok(Place { path, file, folder: place.folder.join(name) })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Lines up to the unit tests at a file's foot.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}
