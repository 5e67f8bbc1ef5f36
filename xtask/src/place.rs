//! Where things are: the repository, and what cargo makes of it.

use std::path::{Path, PathBuf};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Where cargo puts what it builds for this workspace: this program is in `target/PROFILE/`.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent);
    target.map(Path::to_owned).ok_or_else(|| anyhow::anyhow!("{} is not in target/", program.display()))
}
