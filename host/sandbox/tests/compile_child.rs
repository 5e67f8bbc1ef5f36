//! The compiler in a process of its own. This program is its own child, as the host is: it has no
//! test harness, because a child must begin in `compile_child_main`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Command, ExitCode, Stdio};

use backstitch_core::{FaultKind, limits};
use backstitch_sandbox::{
    CompileError, Compiler, EgressConfig, GuestTime, LoadError, Sandbox, SandboxConfig, compile_child_main,
};
use support::*;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["compile", job] => return compile_child_main(job.parse().unwrap()),
        ["hang", _] => loop {
            std::thread::park();
        },
        ["host", "that", "compiles"] => return a_host_that_compiles(),
        _ => {}
    }
    for (name, test) in [
        ("a_child_compiles_what_runs_here", a_child_compiles_what_runs_here as fn()),
        ("a_child_says_what_does_not_compile", a_child_says_what_does_not_compile),
        ("a_load_that_is_given_up_leaves_no_child", a_load_that_is_given_up_leaves_no_child),
        ("a_child_has_little_of_everything", a_child_has_little_of_everything),
        ("nothing_gets_out_of_the_cage", nothing_gets_out_of_the_cage),
        ("a_child_does_not_outlive_its_host", a_child_does_not_outlive_its_host),
        ("a_child_says_what_is_refused", a_child_says_what_is_refused),
        ("a_component_describes_itself_in_the_child", a_component_describes_itself_in_the_child),
        (
            "more_deployments_than_a_host_holds_are_told_to_come_again",
            more_deployments_than_a_host_holds_are_told_to_come_again,
        ),
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
        guest_time: GuestTime::default(),
        memory_bytes_max: 1 << 30,
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
    let error = block_on(sandbox.take_in(bytes.into())).unwrap_err();
    assert!(error.is_final(), "{error}");
    let LoadError::Compile { error: CompileError::Refused(refused), .. } = error else { panic!("{error}") };
    assert_eq!(refused.code(), "truncated");
}

/// What the parent learns is what it would have found itself.
fn a_child_says_what_is_refused() {
    let sandbox = sandbox_with("compile");
    for text in [
        "(component (component $inner))",
        "(component (core module (memory 1) (memory 1)))",
        "(component (core module (memory 5000)))",
        "(component (import \"wasi:sockets/tcp@0.2.0\" (func)))",
    ] {
        let bytes = wat::parse_str(text).unwrap();
        let own = sandbox.admit(&bytes).unwrap_err();
        let error = block_on(sandbox.take_in(bytes.into())).unwrap_err();
        let LoadError::Compile { error: CompileError::Refused(told), .. } = error else { panic!("{error}") };
        assert_eq!(told, own);
    }
}

fn a_component_describes_itself_in_the_child() {
    let sandbox = sandbox_with("compile");
    let workflow = block_on(sandbox.take_in(SLEEPS_ONCE.component().into())).unwrap();
    let described = workflow.program.described().unwrap();
    assert_eq!((described[0].name.as_str(), described[0].task_queue.as_deref()), ("done", None));
    // It imports what it could not have in the cage, and does not use it.
    for component in [activity("", "(unreachable)"), http_activity("(unreachable)")] {
        let taken = block_on(sandbox.take_in(component.into())).unwrap();
        let described = taken.program.described().unwrap();
        assert_eq!(
            (described[0].name.as_str(), described[0].task_queue.as_deref()),
            ("work", Some("default"))
        );
    }
    let trapping = Guest { describe: "(unreachable)", ..SLEEPS_ONCE };
    let taken = block_on(sandbox.take_in(trapping.component().into())).unwrap();
    assert_eq!(taken.program.described().unwrap_err().kind, FaultKind::Trap);
}

fn more_deployments_than_a_host_holds_are_told_to_come_again() {
    let sandbox = sandbox_with("hang");
    block_on(async {
        let mut open: Vec<_> = (0..limits::DEPLOYMENTS_OPEN_MAX)
            .map(|_| Box::pin(sandbox.take_in(SLEEPS_ONCE.component().into())))
            .collect();
        for deployment in &mut open {
            assert!(futures::poll!(deployment).is_pending());
        }
        let next = sandbox.take_in(SLEEPS_ONCE.component().into()).await.unwrap_err();
        assert!(matches!(next, LoadError::Busy) && !next.is_final(), "{next}");
        // Runs that need a component do not wait for them: this one has a turn, and its child is given up.
        let bytes = activity("", "(unreachable)");
        let admitted = sandbox.admit(&bytes).unwrap();
        let (asked, fetched) = tokio::sync::oneshot::channel();
        let fetch = || async {
            asked.send(()).unwrap();
            Ok::<_, std::io::Error>(bytes)
        };
        tokio::select! {
            loaded = sandbox.load(admitted.digest, admitted.kind, fetch) => panic!("{loaded:?}"),
            fetched = fetched => fetched.unwrap(),
        }
        drop(open);
        let again = Box::pin(sandbox.take_in(SLEEPS_ONCE.component().into()));
        assert!(futures::poll!(again).is_pending());
    });
}

/// It tries from within to read, to write, to open sockets, to start threads and processes.
fn nothing_gets_out_of_the_cage() {
    let compiler =
        Compiler::Child { program: std::env::current_exe().unwrap(), args: vec!["compile".into()] };
    let report = block_on(compiler.probe()).unwrap().unwrap();
    assert_eq!(report.escapes, Vec::<String>::new());
    if cfg!(target_os = "linux") {
        let missing: Vec<&String> =
            report.missing.iter().filter(|missing| !missing.starts_with("Landlock")).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
    assert!(block_on(Compiler::InProcess.probe()).unwrap().is_none());
}

/// Starts a child that does not end by itself.
fn a_host_that_compiles() -> ExitCode {
    let sandbox = sandbox_with("compile");
    let spins = "(func $spin (loop $for_ever (br $for_ever))) (start $spin)";
    let taken = block_on(sandbox.take_in(activity(spins, "(unreachable)").into()));
    panic!("it has ended: {taken:?}")
}

/// The first child of a process; none: there is none yet.
fn child_of(process: u32) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    children.filter_map(|list| list.split_whitespace().next()?.parse().ok()).next()
}

/// What a file of the kernel's about a process says, if it is there.
fn about(process: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default()
}

fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{what} has not happened in half a minute")
}

fn a_child_does_not_outlive_its_host() {
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["host", "that", "compiles"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child = soon("a child", || child_of(host.id()));
    soon("its cage", || about(child, "status").contains("Seccomp:\t2").then_some(()));
    host.kill().unwrap();
    host.wait().unwrap();
    soon("its end", || {
        let status = about(child, "status");
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    });
}

fn a_load_that_is_given_up_leaves_no_child() {
    let sandbox = sandbox_with("hang");
    block_on(async {
        let component = SLEEPS_ONCE.component();
        let admitted = sandbox.admit(&component).unwrap();
        let fetch = || async { Ok::<_, std::io::Error>(component) };
        let mut load = Box::pin(sandbox.load(admitted.digest, admitted.kind, fetch));
        while child_of(std::process::id()).is_none() {
            let given_up = tokio::time::timeout(std::time::Duration::from_millis(10), &mut load).await;
            assert!(given_up.is_err());
        }
        drop(load);
        // Killed at once; tokio reaps it in its own time.
        for _ in 0..3_000 {
            if child_of(std::process::id()).is_none() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("a child is left");
    });
}

fn a_child_has_little_of_everything() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["compile", "component"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    soon("a cage", || about(child.id(), "status").contains("Seccomp:\t2").then_some(()));
    let (most, status, stat) =
        (about(child.id(), "limits"), about(child.id(), "status"), about(child.id(), "stat"));
    child.kill().unwrap();
    child.wait().unwrap();
    for (resource, bound) in [
        ("Max data size", limits::COMPILE_MEMORY_BYTES_MAX),
        ("Max file size", limits::ACTIVITY_MEMORY_BYTES_MAX as u64),
        ("Max open files", limits::COMPILE_DESCRIPTORS_MAX),
        ("Max processes", 0),
        ("Max core file size", 0),
    ] {
        let line = most.lines().find(|line| line.starts_with(resource)).unwrap();
        let words: Vec<&str> = line[resource.len()..].split_whitespace().collect();
        assert_eq!(words[..2], [bound.to_string(), bound.to_string()], "{line}");
    }
    assert!(!most.lines().any(|line| line.starts_with("Max address space") && line.contains("unlimited")));
    assert!(!most.lines().any(|line| line.starts_with("Max cpu time") && line.contains("unlimited")));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // The nineteenth word; the second may have blanks, and ends with a parenthesis.
    let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap();
    assert!(nice.parse::<i32>().unwrap() >= limits::COMPILE_NICENESS, "{stat}");
}
