//! Compiled code on disk, so that a restarted host need not compile again.
//!
//! An artefact is a file, which is mapped when it is loaded; beside it lie its SHA-256 and what its component says that
//! it holds, as JSON. What does not match its hash, or has lost another part, is as if it were not there. The directory
//! must be ours alone, because whoever can write a
//! file there with a matching hash can run machine code as us; it is refused otherwise.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use backstitch_core::{Digest, limits};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;

use crate::artefact::Artefact;
use crate::described::Described;
use crate::engine::Build;

/// A directory of compiled components.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It can be neither made nor read.
    #[error("{}: {error}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may write to it.
    #[error("{}: {problem}. Compiled code is run as it stands: the directory must be ours alone (0700)", dir.display())]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// Who may do what.
        problem: String,
    },
}

impl Cache {
    /// Opens `dir`, or makes it.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, CacheError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        let metadata = made.and_then(|()| std::fs::metadata(&dir));
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => return Err(CacheError::Io { dir, error }),
        };
        let us = rustix::process::geteuid().as_raw();
        if metadata.uid() != us {
            let problem = format!("it belongs to user {}, not to {us}", metadata.uid());
            return Err(CacheError::NotOurs { dir, problem });
        }
        if metadata.mode() & 0o022 != 0 {
            let problem = format!("others may write to it (mode {:o})", metadata.mode() & 0o7777);
            return Err(CacheError::NotOurs { dir, problem });
        }
        Ok(Self { dir })
    }

    /// The artefact of a component and what it holds, if there is a sound one for this engine.
    pub(crate) fn get(
        &self,
        digest: Digest,
        build: Build,
        engine: &Engine,
    ) -> Option<(Artefact, Vec<Described>)> {
        let path = self.path(digest, build, engine);
        let described = serde_json::from_slice(&std::fs::read(path.with_extension("json")).ok()?).ok()?;
        let hash = std::fs::read(sum(&path)).ok()?;
        let mut hasher = Sha256::new();
        io::copy(&mut std::fs::File::open(&path).ok()?, &mut hasher).ok()?;
        if *hash != *hasher.finalize() {
            tracing::warn!(path = %path.display(), "compiled code does not match its hash; compiling anew");
            return None;
        }
        Some((Artefact::vouched_file(path), described))
    }

    /// Keeps an artefact and what its component holds. Nobody ever sees half a file: it gets its name when it is complete.
    pub(crate) fn put(
        &self,
        digest: Digest,
        build: Build,
        engine: &Engine,
        artefact: &Artefact,
        described: &[Described],
    ) -> io::Result<()> {
        let Some(code) = artefact.bytes() else { return Ok(()) };
        let path = self.path(digest, build, engine);
        let described = serde_json::to_vec(described)?;
        self.write(&path.with_extension("json"), &described)?;
        self.write(&path, code)?;
        // The hash last: code without one is not looked at.
        self.write(&sum(&path), &Sha256::digest(code))?;
        self.prune()
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let write = WRITES.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.dir.join(format!("{}-{write}.part", std::process::id()));
        let written = write_file(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, path));
        if written.is_err() {
            // Best effort: what is left behind is pruned one day.
            let _ = std::fs::remove_file(&unfinished);
        }
        written
    }

    /// `<digest>-<what the code depends on besides it>.cwasm`.
    fn path(&self, digest: Digest, build: Build, engine: &Engine) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        build.hash(&mut hasher);
        // Wasmtime's version, target, compiler flags and tunables.
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.dir.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
    }

    /// Removes the oldest files beyond [`limits::CACHE_FILES_MAX`]: old versions, unfinished writes.
    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(&self.dir)?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
            })
            .collect();
        files.sort_unstable();
        let surplus = files.len().saturating_sub(limits::CACHE_FILES_MAX);
        for (_, path) in &files[..surplus] {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Where the hash of an artefact is.
fn sum(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use backstitch_core::Rules;

    use super::*;
    use crate::engine;

    const DIGEST: Digest = Digest([7; 32]);
    const BUILD: Build = Build::Workflow(Rules::CURRENT);

    #[test]
    fn an_artefact_comes_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cwasm")).unwrap();
        let engine = engine::compiler(BUILD).unwrap();
        assert!(cache.get(DIGEST, BUILD, &engine).is_none());
        let described = [Described {
            name: "w".to_owned(),
            signals: vec!["go".to_owned()],
            queries: Vec::new(),
            task_queue: None,
            input_schema: Some(backstitch_core::Json::new(r#"{ "type":"null"}"#).unwrap()),
            output_schema: None,
        }];
        cache.put(DIGEST, BUILD, &engine, &Artefact::vouched(vec![1, 2, 3]), &described).unwrap();
        let (artefact, held) = cache.get(DIGEST, BUILD, &engine).unwrap();
        assert_eq!((artefact.bytes(), &held[..]), (None, &described[..]), "it is mapped from its file");
        assert!(cache.get(DIGEST, Build::Activity, &engine).is_none(), "another engine's");

        let path = cache.path(DIGEST, BUILD, &engine);
        let sound = std::fs::read(&path).unwrap();
        assert_eq!(sound, [1, 2, 3]);
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert!(cache.get(DIGEST, BUILD, &engine).is_none(), "byte {at}");
            std::fs::write(&path, &sound[..at]).unwrap();
            assert!(cache.get(DIGEST, BUILD, &engine).is_none(), "cut at {at}");
        }
        std::fs::write(&path, &sound).unwrap();
        assert!(cache.get(DIGEST, BUILD, &engine).is_some());
        std::fs::remove_file(path.with_extension("json")).unwrap();
        assert!(cache.get(DIGEST, BUILD, &engine).is_none(), "without its other half");
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        for mode in [0o777, 0o770, 0o702] {
            std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(Cache::open(open.clone()), Err(CacheError::NotOurs { .. })), "{mode:o}");
        }
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Cache::open(open).is_ok());
    }

    #[test]
    fn the_oldest_files_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned()).unwrap();
        for n in 0..limits::CACHE_FILES_MAX + 3 {
            let file = std::fs::File::create(dir.path().join(n.to_string())).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n as u64)).unwrap();
        }
        cache.prune().unwrap();
        assert!(!dir.path().join("2").exists());
        assert!(dir.path().join("3").exists());
    }
}
