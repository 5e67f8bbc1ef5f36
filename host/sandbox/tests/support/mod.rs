//! Guests written by hand: as small as a component of either world can be, so that a test shows all
//! that its guest does.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses a part of it"
)]

use std::sync::Arc;

use backstitch_core::{Command, Event, Json, Op, Replay, Rules, RunId, Seq, StartOptions};
use backstitch_sandbox::{
    Activation, Build, Compiler, ComponentKind, EgressConfig, GuestTime, Program, RunInfo, Sandbox,
    SandboxConfig, Stopped, WorkflowInstance, WorkflowProgram,
};

pub const RUN: RunId = RunId(uuid::Uuid::from_u128(7));
pub const STARTED_MS: u64 = 1_700_000_000_000;

/// A workflow component whose core functions have these bodies (in WAT). Addresses: 1024 up to 2048
/// is free for results, 4096 up for `data`. Calls: `$call` (of an activity, with all of it at an address), `$sleep`, `$wait`, `$next` (writes the event at
/// 512; its first byte tells whether there is one), `$now`, `$random`, `$log`, `$panic`; `$blocked`
/// and `$completed` make a status.
pub struct Guest<'a> {
    pub functions: &'a str,
    pub start: &'a str,
    pub resume: &'a str,
    pub query: &'a str,
    pub describe: &'a str,
    pub data: &'a str,
}

/// What every guest does unless it says otherwise: sleeps once, then completes with `"done"`.
pub const SLEEPS_ONCE: Guest<'static> = Guest {
    functions: "",
    start: "(drop (call $sleep (i64.const 5))) (call $next) (call $blocked)",
    resume: "(call $next) (call $completed (i32.const 4096) (i32.const 6))",
    query: "(i32.store8 (i32.const 1024) (i32.const 0))
            (i32.store (i32.const 1028) (i32.const 4096))
            (i32.store (i32.const 1032) (i32.const 6))
            (i32.const 1024)",
    describe: "(i32.store (i32.const 1024) (i32.const 1040))
               (i32.store (i32.const 1028) (i32.const 1))
               (i32.store (i32.const 1040) (i32.const 4097))
               (i32.store (i32.const 1044) (i32.const 4))
               (i32.const 1024)",
    data: r#"\"done\""#,
};

impl Guest<'_> {
    pub fn component(&self) -> Vec<u8> {
        let text = include_str!("workflow.wat")
            .replace("{{functions}}", self.functions)
            .replace("{{start}}", self.start)
            .replace("{{resume}}", self.resume)
            .replace("{{query}}", self.query)
            .replace("{{describe}}", self.describe)
            .replace("{{data}}", self.data);
        wat::parse_str(text).unwrap()
    }
}

/// An activity component whose `invoke` has this body. `$input` and `$input-length` are its input;
/// `$ok` makes an outcome of a text.
pub fn activity(functions: &str, invoke: &str) -> Vec<u8> {
    importing("", "", "", functions, invoke)
}

/// The same with `$heartbeat` (whether there are details, their address and length), and `$sleep`, which
/// waits for so many nanoseconds.
pub fn beating_activity(invoke: &str) -> Vec<u8> {
    let core_imports = r#"
        (import "host" "heartbeat" (func $heartbeat (param i32 i32 i32) (result i32)))
        (import "host" "block" (func $block (param i32)))
        (import "host" "subscribe" (func $subscribe (param i64) (result i32)))"#;
    let sleep = "(func $sleep (param i64) (call $block (call $subscribe (local.get 0))))";
    let with = r#"(with "host" (instance $host))"#;
    importing(include_str!("attempt.wat"), core_imports, with, sleep, invoke)
}

/// An activity component with `$defer` and nothing else: it leaves whether there is a token, and its address and
/// length, where it is told to.
pub fn deferring_activity(invoke: &str) -> Vec<u8> {
    let imports = r#"
        (import "backstitch:workflow/attempt@0.1.0" (instance $attempt
          (export "defer" (func (result (option string))))))
        (core func $defer (canon lower (func $attempt "defer") (memory $memory) (realloc $realloc)))
        (core instance $host (export "defer" (func $defer)))"#;
    let core_imports = r#"(import "host" "defer" (func $defer (param i32)))"#;
    importing(imports, core_imports, r#"(with "host" (instance $host))"#, "", invoke)
}

fn importing(imports: &str, core_imports: &str, with: &str, functions: &str, invoke: &str) -> Vec<u8> {
    let text = include_str!("activity.wat")
        .replace("{{imports}}", imports)
        .replace("{{core-imports}}", core_imports)
        .replace("{{with}}", with)
        .replace("{{functions}}", functions)
        .replace("{{invoke}}", invoke);
    wat::parse_str(text).unwrap()
}

/// An activity component that could draw random numbers, and does not.
pub fn random_activity(invoke: &str) -> Vec<u8> {
    let random =
        r#"(import "wasi:random/random@0.2.6" (instance (export "get-random-u64" (func (result u64)))))"#;
    importing(random, "", "", "", invoke)
}

/// An import of what every HTTP request begins with.
pub const HTTP: &str = r#"(import "wasi:http/types@0.2.0" (instance
    (export "fields" (type $fields (sub resource)))
    (export "[constructor]fields" (func (result (own $fields))))))"#;

/// An activity component that could make HTTP requests, and does not.
pub fn http_activity(invoke: &str) -> Vec<u8> {
    importing(HTTP, "", "", "", invoke)
}

pub fn sandbox() -> Sandbox {
    sandbox_with(GuestTime::default())
}

/// One whose guests may compute for so long.
pub fn sandbox_with(guest_time: GuestTime) -> Sandbox {
    Sandbox::new(SandboxConfig {
        cache_dir: None,
        compiler: Compiler::InProcess,
        warm_runs_max: 8,
        activities_max: 4,
        guest_time,
        memory_bytes_max: 1 << 30,
        egress: EgressConfig::default(),
    })
    .unwrap()
}

pub async fn load(sandbox: &Sandbox, component: Vec<u8>) -> Program {
    let admitted = sandbox.admit(&component).unwrap();
    let fetch = || async { Ok::<_, std::io::Error>(component) };
    sandbox.load(admitted.digest, admitted.kind, fetch).await.unwrap()
}

/// The code of `guest` for runs under these rules.
pub async fn built(sandbox: &Sandbox, guest: &Guest<'_>, rules: Rules) -> WorkflowProgram {
    let component = guest.component();
    let digest = sandbox.admit(&component).unwrap().digest;
    let fetch = || async { Ok::<_, std::io::Error>(component) };
    match sandbox.load_build(digest, Build::Workflow(rules), fetch).await.unwrap() {
        Program::Workflow(program) => program,
        Program::Activity(_) => panic!("loaded as {}", ComponentKind::Activity),
    }
}

pub async fn load_workflow(sandbox: &Sandbox, guest: &Guest<'_>) -> WorkflowProgram {
    match load(sandbox, guest.component()).await {
        Program::Workflow(program) => program,
        Program::Activity(_) => panic!("loaded as {}", ComponentKind::Activity),
    }
}

/// An instance of `guest` that is led by `replay`, and the sandbox that keeps it alive.
pub fn instance_on(guest: &Guest<'_>, replay: Replay) -> WorkflowInstance {
    let program = block_on(async { load_workflow(&sandbox(), guest).await });
    WorkflowInstance::new(&program, replay, info(), Json::null()).unwrap()
}

/// The ledger's side of a guest that started at this time.
pub fn beginning(started_at_ms: u64) -> Replay {
    Replay::new(RUN, started_at_ms, &StartOptions::default())
}

pub fn info() -> RunInfo {
    RunInfo::new(RUN, Arc::from("w-1"), Arc::from("w"), &StartOptions::default())
}

pub fn instance(guest: &Guest<'_>) -> WorkflowInstance {
    instance_on(guest, beginning(STARTED_MS))
}

/// What becomes of the first activation of a guest with this `start`.
pub fn started(functions: &str, start: &str) -> Result<Activation, Stopped> {
    instance(&Guest { functions, start, ..SLEEPS_ONCE }).activate()
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn fired(op: u32) -> Event {
    Event::TimerFired { op: Op(op) }
}

pub fn slept(op: u32, ms: u64) -> Event {
    Event::Commanded { op: Op(op), command: Command::StartTimer { ms } }
}

/// Lays `events` before an instance, as rows from 1 on.
pub fn enqueue(replay: &mut Replay, events: impl IntoIterator<Item = Event>) {
    for (seq, event) in (1..).zip(events) {
        replay.enqueue(Seq(seq), STARTED_MS + u64::from(seq), event);
    }
}
