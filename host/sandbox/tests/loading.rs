//! From bytes to programs: the cache of compiled code, and who compiles when.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use backstitch_core::Digest;
use backstitch_sandbox::{
    CompileError, Compiler, ComponentKind, EgressConfig, GuestTime, LoadError, Program, Sandbox,
    SandboxConfig,
};
use support::*;

fn sandbox_in(dir: &Path, compiler: Compiler) -> Sandbox {
    let cache_dir = Some(dir.to_owned());
    Sandbox::new(SandboxConfig {
        cache_dir,
        compiler,
        warm_runs_max: 1,
        activities_max: 1,
        guest_time: GuestTime::default(),
        memory_bytes_max: 1 << 30,
        egress: EgressConfig::default(),
    })
    .unwrap()
}

async fn load_from(
    sandbox: &Sandbox,
    bytes: io::Result<Vec<u8>>,
    fetches: &AtomicUsize,
) -> Result<Program, LoadError> {
    let digest = sandbox.admit(&SLEEPS_ONCE.component()).unwrap().digest;
    sandbox
        .load(digest, ComponentKind::Workflow, || async {
            fetches.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            bytes
        })
        .await
}

#[tokio::test]
async fn compiled_code_survives_a_restart_and_a_damaged_copy_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("cwasm");
    let fetches = AtomicUsize::new(0);
    let load = async || {
        let sandbox = sandbox_in(&dir, Compiler::InProcess);
        load_from(&sandbox, Ok(SLEEPS_ONCE.component()), &fetches).await.unwrap();
        fetches.load(Ordering::Relaxed)
    };
    assert_eq!(load().await, 1);
    assert_eq!(load().await, 1, "the second start compiled again");

    let mut files = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    let file = files.find(|file| file.extension().is_some_and(|extension| extension == "cwasm")).unwrap();
    let mut damaged = std::fs::read(&file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    assert_eq!(load().await, 2, "a damaged copy was loaded");
    assert_ne!(std::fs::read(&file).unwrap(), damaged);
    assert_eq!(load().await, 2);
}

#[tokio::test]
async fn callers_that_come_at_once_share_one_compilation() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox_in(dir.path(), Compiler::InProcess);
    let fetches = AtomicUsize::new(0);
    let load = || load_from(&sandbox, Ok(SLEEPS_ONCE.component()), &fetches);
    let (one, two, three) = tokio::join!(load(), load(), load());
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn other_bytes_than_those_deployed_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox_in(dir.path(), Compiler::InProcess);
    let fetches = AtomicUsize::new(0);
    let other = activity("", "(unreachable)");
    let wrong = load_from(&sandbox, Ok(other), &fetches).await.unwrap_err();
    assert!(matches!(wrong, LoadError::WrongBytes { .. }) && wrong.is_final(), "{wrong}");
    let gone = load_from(&sandbox, Err(io::Error::other("gone")), &fetches).await.unwrap_err();
    assert!(matches!(gone, LoadError::Fetch { .. }) && !gone.is_final(), "{gone}");
    assert!(load_from(&sandbox, Ok(SLEEPS_ONCE.component()), &fetches).await.is_ok(), "a failure stuck");
}

#[tokio::test]
async fn a_compiler_that_does_not_do_its_work_is_not_the_components_fault() {
    let fetches = AtomicUsize::new(0);
    for program in ["/nonexistent/compiler", "/bin/false", "/bin/echo"] {
        let dir = tempfile::tempdir().unwrap();
        let compiler = Compiler::Child { program: program.into(), args: Vec::new() };
        let sandbox = sandbox_in(dir.path(), compiler);
        let error = load_from(&sandbox, Ok(SLEEPS_ONCE.component()), &fetches).await.unwrap_err();
        assert!(!error.is_final(), "{program}: {error}");
        let is_host = matches!(error, LoadError::Compile { error: CompileError::Host(_), .. });
        assert!(is_host, "{program}: {error}");
    }
}

#[tokio::test]
async fn what_does_not_compile_is_said_to() {
    let sandbox = sandbox();
    let garbage = b"\0asm\x0d\0\x01\0garbage".to_vec();
    let digest = Digest(sha256(&garbage));
    let fetch = || async { Ok::<_, io::Error>(garbage) };
    let error = sandbox.load(digest, ComponentKind::Workflow, fetch).await.unwrap_err();
    assert!(matches!(error, LoadError::Compile { error: CompileError::Refused(_), .. }), "{error}");
    assert!(error.is_final());
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
