//! The compiler in a process of its own. This program is its own child, as the host is: it has no
//! test harness, because a child must begin in `compile_child_main`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Command, ExitCode, Stdio};

use backstitch_sandbox::{
    CompileError, Compiler, EgressConfig, LoadError, Sandbox, SandboxConfig, compile_child_main,
};
use support::*;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["compile", kind] => return compile_child_main(kind.parse().unwrap()),
        ["hang", _] => loop {
            std::thread::park();
        },
        _ => {}
    }
    for (name, test) in [
        ("a_child_compiles_what_runs_here", a_child_compiles_what_runs_here as fn()),
        ("a_child_says_what_does_not_compile", a_child_says_what_does_not_compile),
        ("a_load_that_is_given_up_leaves_no_child", a_load_that_is_given_up_leaves_no_child),
        ("a_child_has_little_memory", a_child_has_little_memory),
    ] {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn sandbox_with(argument: &str) -> Sandbox {
    let compiler = Compiler::Child { program: std::env::current_exe().unwrap(), args: vec![argument.into()] };
    Sandbox::new(SandboxConfig {
        cache_dir: None,
        compiler,
        warm_runs_max: 1,
        activities_max: 1,
        egress: EgressConfig::default(),
    })
    .unwrap()
}

fn a_child_compiles_what_runs_here() {
    let sandbox = sandbox_with("compile");
    block_on(async {
        load_workflow(&sandbox, &SLEEPS_ONCE).await;
        load(&sandbox, activity("", "(unreachable)")).await;
    });
}

fn a_child_says_what_does_not_compile() {
    let sandbox = sandbox_with("compile");
    let bytes = b"\0asm\x0d\0\x01\0garbage".to_vec();
    let digest = backstitch_core::Digest(
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &bytes))
            .into(),
    );
    let fetch = || async { Ok::<_, std::io::Error>(bytes) };
    let error =
        block_on(sandbox.load(digest, backstitch_sandbox::ComponentKind::Workflow, fetch)).unwrap_err();
    assert!(matches!(&error, LoadError::Compile { error: CompileError::Rejected(_), .. }), "{error}");
}

fn a_load_that_is_given_up_leaves_no_child() {
    let children = || {
        let me = std::process::id();
        let list = std::fs::read_to_string(format!("/proc/self/task/{me}/children")).unwrap();
        list.split_whitespace().count()
    };
    let sandbox = sandbox_with("hang");
    block_on(async {
        let component = SLEEPS_ONCE.component();
        let admitted = sandbox.admit(&component).unwrap();
        let fetch = || async { Ok::<_, std::io::Error>(component) };
        let load = sandbox.load(admitted.digest, admitted.kind, fetch);
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(300), load).await;
        assert!(given_up.is_err());
        // Killed at once; tokio reaps it in its own time.
        for _ in 0..500 {
            if children() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{} children are left", children());
    });
}

fn a_child_has_little_memory() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["compile", "workflow"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let limits = || std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let expected = backstitch_core::limits::COMPILE_MEMORY_BYTES_MAX.to_string();
    let is_bounded = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        limits().lines().any(|line| line.starts_with("Max address space") && line.contains(&expected))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_bounded, "the address space is not bounded");
}
