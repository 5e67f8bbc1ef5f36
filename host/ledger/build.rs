//! Lists the migrations: each file of `migrations/` is `NNNN_what.sql`, and is embedded as it stands.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

#[expect(clippy::disallowed_methods, reason = "Cargo tells a build script by the environment where to write")]
fn main() -> io::Result<()> {
    let dir = fs::canonicalize("../../migrations")?;
    println!("cargo:rerun-if-changed={}", dir.display());
    let mut files: Vec<_> = fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    let mut list = String::from("[\n");
    for path in files {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((version, what)) = name.split_once('_') else {
            return Err(io::Error::other(format!("{} is not called NNNN_what.sql", path.display())));
        };
        let version: i64 = version.parse().map_err(io::Error::other)?;
        let what = what.replace('_', " ");
        let text = format!("({version}, {what:?}, include_str!({:?})),\n", path.display().to_string());
        list.write_str(&text).map_err(io::Error::other)?;
    }
    list.push_str("]\n");
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    fs::write(Path::new(&out).join("migrations.rs"), list)
}
