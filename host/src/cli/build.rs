//! `backstitch build`: guest crates, or ready core modules, to components.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::{CliError, CliResult, Exit};
use super::input;
use super::output::{Output, cell};
use crate::componentize::{self, BuildError};

/// Arguments of `build`.
#[derive(Debug, clap::Args)]
pub(super) struct BuildArgs {
    /// Directories of guest crates, or ready core modules (.wasm)
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Packages of the workspace at PATH
    #[arg(long = "package", short, value_name = "NAME")]
    packages: Vec<String>,
    /// Where to write: a file, or a directory for `NAME.wasm` [default: target/backstitch]
    #[arg(long, short, value_name = "FILE|DIR")]
    out: Option<PathBuf>,
}

/// One component, made.
#[derive(Debug, Serialize)]
struct Built {
    name: String,
    file: PathBuf,
    bytes: usize,
}

pub(super) fn build(args: &BuildArgs, out: Output) -> CliResult {
    let (modules, dirs): (Vec<&PathBuf>, Vec<&PathBuf>) =
        args.paths.iter().partition(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    let mut guests = Vec::new();
    for dir in dirs {
        guests.extend(componentize::find(dir, &args.packages).map_err(failed)?);
    }
    let many = guests.len() + modules.len() > 1;
    let compiled = componentize::compile(&guests, out.is_quiet()).map_err(failed)?;
    let mut built = Vec::new();
    for (guest, module) in guests.iter().zip(compiled) {
        let file = place(args.out.as_deref(), &guest.package, many, guest.default_out());
        let may_remove = args.out.is_none();
        write_manifest(&file, guest.manifest.as_deref(), may_remove)?;
        built.push(wrap(&guest.package, &module, file)?);
    }
    for module in modules {
        let name = module.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = place(args.out.as_deref(), &name, many, module.with_extension("component.wasm"));
        built.push(wrap(&name, module, file)?);
    }
    report(&built, out)
}

/// Where a component goes. `--out` is a directory if it ends like one, is one, or has to take many.
fn place(out: Option<&Path>, name: &str, many: bool, default: PathBuf) -> PathBuf {
    match out {
        None => default,
        Some(out) => {
            let is_dir = many || out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
            if is_dir { out.join(format!("{name}.wasm")) } else { out.to_owned() }
        }
    }
}

fn wrap(name: &str, module: &Path, file: PathBuf) -> CliResult<Built> {
    let component = componentize::componentize(name, input::component(module)?).map_err(failed)?;
    write(&file, &component).map_err(|error| {
        CliError::new(Exit::Invalid, "file-unwritable", format!("cannot write {}", file.display()))
            .because(error.to_string())
    })?;
    Ok(Built { name: name.to_owned(), file, bytes: component.len() })
}

/// Beside the component, where `deploy` looks for it. One that an earlier build has left goes if
/// `may_remove`: elsewhere than among cargo's own files it may be somebody's work.
fn write_manifest(component: &Path, manifest: Option<&str>, may_remove: bool) -> CliResult {
    let file = component.with_extension(componentize::MANIFEST_EXTENSION);
    let written = match manifest {
        Some(manifest) => write(&file, manifest.as_bytes()),
        None if !may_remove => Ok(()),
        None => match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    };
    written.map_err(|error| {
        CliError::new(Exit::Invalid, "file-unwritable", format!("cannot write {}", file.display()))
            .because(error.to_string())
    })
}

/// A reader sees the old file or the new one, never half of it.
fn write(file: &Path, component: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".part");
    fs::write(&unfinished, component)?;
    fs::rename(&unfinished, file)
}

fn report(built: &[Built], out: Output) -> CliResult {
    out.answer(&serde_json::json!({ "components": built }), || {
        let row = |built: &Built| {
            let size = format!("{} KiB", built.bytes.div_ceil(1024));
            [cell(&built.name), cell(size), cell(built.file.display())]
        };
        out.table(["COMPONENT", "SIZE", "FILE"], built.iter().map(row).collect())
    })?;
    let files: Vec<String> = built.iter().map(|built| built.file.display().to_string()).collect();
    out.note(&format!("next: backstitch deploy {}", files.join(" ")));
    Ok(())
}

/// A build that came to nothing, as the command line says it.
pub(super) fn failed(error: BuildError) -> CliError {
    let BuildError { what, why, hint } = error;
    CliError { hint, ..CliError::new(Exit::Refused, "build", what).because(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_is_a_file_for_one_and_a_directory_for_many() {
        let place = |out: Option<&str>, many| place(out.map(Path::new), "flow", many, "default.wasm".into());
        assert_eq!(place(None, true), Path::new("default.wasm"));
        assert_eq!(place(Some("x.wasm"), false), Path::new("x.wasm"));
        assert_eq!(place(Some("x"), true), Path::new("x/flow.wasm"));
        assert_eq!(place(Some("x/"), false), Path::new("x/flow.wasm"));
    }

    #[test]
    fn a_written_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/c.wasm");
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
