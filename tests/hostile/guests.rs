//! Hostile workflows: each is parked with its reason, and nobody else notices.

use backstitch::cli::exit::Exit;
use backstitch_client::views::RunView;
use backstitch_core::{FaultKind, Json, RunStatus};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::program::{Files, ORDER, call, command, peak_mib, rows_of_tables, tell};
use crate::support::{HostOptions, TestHost, check_ledgers, component, connect, database, eventually, wat};

/// A workflow of `hostile-guest`, and what it is parked for.
struct Misdeed {
    workflow: &'static str,
    input: &'static str,
    kind: &'static str,
    message: &'static str,
    /// Of its ledger: what was committed before, and nothing of the fault.
    rows: &'static [&'static str],
}

const fn misdeed(
    workflow: &'static str,
    input: &'static str,
    kind: &'static str,
    message: &'static str,
) -> Misdeed {
    Misdeed { workflow, input, kind, message, rows: &["run-started"] }
}

/// The same for one that has slept before.
const fn later(workflow: &'static str, kind: &'static str, message: &'static str) -> Misdeed {
    let rows = &["run-started", "timer-started", "timer-fired"];
    Misdeed { workflow, input: "1", kind, message, rows }
}

const FUEL: &str = "used up its units of fuel";
const MEMORY: &str = "it may have 67108864. Hold less at a time";
const HANDED_OVER: &str = "more than 8388608 bytes handed over in one call";
const PAYLOAD: &str = "bytes of JSON; a payload holds at most 2097152";
const TOO_DEEP: &str = "JSON nested deeper than 128 levels";

const MISDEEDS: [Misdeed; 32] = [
    misdeed("endless_loop", "null", "fuel", FUEL),
    later("loop_in_resume", "fuel", FUEL),
    misdeed("million_log_lines", "null", "fuel", FUEL),
    misdeed("memory_bomb", "null", "memory", MEMORY),
    misdeed("deep_recursion", "null", "stack", "the guest's stack of 512 KiB is full"),
    misdeed("deep_frames", "null", "trap", "out of bounds memory access"),
    misdeed("million_commands", "null", "limit", "more than 10000 commands between two events"),
    // A gibibyte, what one call may carry, what a payload may hold.
    misdeed("gigabyte_string", "null", "memory", MEMORY),
    misdeed("gigabyte_string", "9000000", "limit", HANDED_OVER),
    misdeed("gigabyte_string", "2097153", "limit", PAYLOAD),
    misdeed("huge_result", "null", "memory", MEMORY),
    misdeed("huge_result", "9000000", "limit", HANDED_OVER),
    misdeed("huge_result", "2097153", "limit", PAYLOAD),
    misdeed("huge_failure", "null", "memory", MEMORY),
    misdeed("huge_log_line", "null", "memory", MEMORY),
    misdeed("long_names", "257", "limit", "a signal name of 257 bytes; the longest is 256"),
    misdeed("long_names", "null", "limit", "a signal name of 1048576 bytes; the longest is 256"),
    misdeed("panics", "null", "panic", "panicked at tests/guests/hostile/src/misdeeds.rs:"),
    misdeed("panics", "null", "panic", "on purpose, with a message: 42"),
    later("panics_in_resume", "panic", "on purpose, in resume"),
    misdeed("command_after_drain", "null", "protocol", "a command after next-event returned none"),
    misdeed("cancel_unknown_op", "null", "protocol", "op 4000000000 does not exist yet"),
    misdeed("blocked_undrained", "null", "protocol", "returned `blocked` before next-event returned none"),
    misdeed("blocked_on_nothing", "null", "protocol", "while nothing is open that could ever wake it"),
    misdeed("sleeps_for_ever", "null", "limit", "a sleep of 18446744073709551615 ms; the longest is"),
    misdeed("invalid_json", "null", "protocol", "the workflow's output: not JSON: key must be a string"),
    misdeed("invalid_json_input", "null", "protocol", "the input of activity \"echo\": not JSON"),
    misdeed("invalid_json_continue", "null", "protocol", "the next run's input: not JSON"),
    misdeed("deep_json", "null", "limit", TOO_DEEP),
    misdeed("deep_json", "129", "limit", TOO_DEEP),
    misdeed("deep_json_input", "null", "limit", TOO_DEEP),
    misdeed("deep_json_input", "129", "limit", TOO_DEEP),
];

/// Two guests at a time with 64 MiB each, the text that one of them hands over, and the host itself:
/// some 130 MiB. One that got what it asks for would take a gibibyte.
const PEAK_MIB_MAX: u64 = 512;
/// What a million lines would not fit into, and what a thousand of each of 64 runs would.
const LOG_BYTES_MAX: usize = 8 << 20;

#[tokio::test]
async fn a_hostile_guest_is_parked_with_its_reason_and_nobody_else_notices() {
    let database = database().await;
    let mut host = TestHost::with(&database, &["order-workflow", "order-activities", "hostile-guest"]).await;
    let mut runs = Vec::new();
    for (number, misdeed) in MISDEEDS.iter().enumerate() {
        let order = host.start_run("order_workflow", &format!("order-{number}"), ORDER).await;
        let id = format!("{}-{number}", misdeed.workflow);
        runs.push((host.start_run(misdeed.workflow, &id, misdeed.input).await, order, misdeed));
    }
    for (id, order, misdeed) in &runs {
        assert!(host.output(order).await.contains("reserv"), "{id}");
        check_parked(&host, id, misdeed).await;
    }
    assert!(host.is_running());
    let peak = peak_mib(host.pid());
    assert!(peak < PEAK_MIB_MAX, "{peak} MiB");
    let log = host.log();
    assert!(log.len() < LOG_BYTES_MAX, "{} bytes of log", log.len());
    assert!(log.contains("more lines dropped: an activation may log 1000"));
    check_ledgers(&database).await;
}

/// Events that a guest computes over, each for some tens of milliseconds: a replay has all of them in one activation.
const LONG_EVENTS: usize = 20;
const LONG_ROUNDS: &str = "4000000";

#[tokio::test]
async fn guests_that_compute_for_long_keep_nobody_waiting_and_hear_that_they_are_to_stop() {
    let database = database().await;
    let mut dead = TestHost::with(&database, &["order-workflow", "order-activities", "hostile-guest"]).await;
    // One more than there are threads for guests.
    let threads = std::thread::available_parallelism().unwrap().get();
    let long: Vec<String> = (0..=threads).map(|number| format!("long-{number}")).collect();
    for id in &long {
        dead.start_run("computes", id, "null").await;
        for _ in 0..LONG_EVENTS {
            dead.client.signal(id, "compute", &Json::new(LONG_ROUNDS).unwrap()).await.unwrap();
        }
    }
    let waits = async |host: &TestHost, id: &str| {
        host.rows(id).await.iter().filter(|row| row.kind == "signal-awaited").count()
    };
    for id in &long {
        eventually("all of it is done once", async || {
            (waits(&dead, id).await == LONG_EVENTS + 1).then_some(())
        })
        .await;
    }
    dead.kill();

    let heir = TestHost::start(HostOptions::new(&database)).await;
    for id in &long {
        heir.client.signal(id, "compute", &Json::new("1").unwrap()).await.unwrap();
    }
    eventually("the runs are taken over", async || {
        (heir.client.health().await.ok()?.runs_loaded > threads as u64).then_some(())
    })
    .await;
    let order = heir.start_run("order_workflow", "order", ORDER).await;
    assert!(heir.output(&order).await.contains("reserv"));
    heir.client.terminate(&long[0], "enough").await.unwrap();
    assert_eq!(heir.ended_run(&long[0]).await.status, RunStatus::Terminated);
    heir.client.pause(&long[1], "lunch").await.unwrap();
    eventually("it is paused", async || {
        (heir.client.run(&long[1]).await.ok()?.run.status == RunStatus::Paused).then_some(())
    })
    .await;
    // Nothing is lost of one that was given up on its way.
    heir.client.resume(&long[1], "back").await.unwrap();
    for id in &long[1..] {
        eventually("it goes on", async || (waits(&heir, id).await == LONG_EVENTS + 2).then_some(())).await;
    }
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_guest_that_meets_the_clock_is_parked_and_leaves_no_trace() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database).arg("--event-ms-max").arg("10")).await;
    host.deploy(&["order-workflow", "order-activities", "hostile-guest"]).await;
    // On a machine that has no time for the thread that moves the epoch on, a loop may run out of fuel first.
    let mut tries = 0;
    let slow = eventually("a guest meets the clock", async || {
        tries += 1;
        let id = host.start_run("endless_loop", &format!("slow-{tries}"), "null").await;
        assert_eq!(host.ended_run(&id).await.status, RunStatus::Parked);
        let fault = host.client.run(&id).await.unwrap().run.fault.unwrap();
        assert!(matches!(fault.kind, FaultKind::TooSlow | FaultKind::Fuel), "{fault}");
        let kinds: Vec<String> = host.rows(&id).await.into_iter().map(|row| row.kind).collect();
        assert_eq!(kinds, ["run-started"]);
        (fault.kind == FaultKind::TooSlow).then_some(id)
    });
    slow.await;
    let order = host.start_run("order_workflow", "order", ORDER).await;
    assert!(host.output(&order).await.contains("reserv"));
    check_ledgers(&database).await;
}

#[tokio::test]
async fn warm_guests_are_dropped_when_they_have_too_much_memory_together() {
    const RUNS: usize = 30;
    const ROOM_MIB: u64 = 200;
    let database = database().await;
    let options = HostOptions::new(&database).arg("--guest-memory-mib").arg(ROOM_MIB.to_string());
    let host = TestHost::start(options).await;
    host.deploy(&["hostile-guest"]).await;
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let id = host.start_run("holds", &format!("holds-{number}"), "30").await;
        eventually("it waits", async || {
            host.rows(&id).await.iter().any(|row| row.kind == "signal-awaited").then_some(())
        })
        .await;
        runs.push(id);
        let warm = host.client.health().await.unwrap().runs_warm;
        assert!(warm * 30 <= ROOM_MIB, "{warm} guests of 30 MiB");
    }
    for id in &runs {
        host.client.signal(id, "go", &Json::new("1").unwrap()).await.unwrap();
        assert_eq!(host.output(id).await, "1", "{id}");
    }
    let peak = peak_mib(host.pid());
    assert!(peak < ROOM_MIB + 320, "{peak} MiB");
    check_ledgers(&database).await;
}

async fn check_parked(host: &TestHost, id: &str, misdeed: &Misdeed) {
    let Misdeed { kind, message, rows, .. } = misdeed;
    assert_eq!(host.ended_run(id).await.status, RunStatus::Parked, "{id}");
    let shown = tell(host, &["run", "show", id, "--json"]).await.exits(Exit::Ok).json();
    assert_eq!(
        (&shown["status"], &shown["fault"]["kind"]),
        (&"parked".into(), &(*kind).into()),
        "{id}: {shown:#}"
    );
    assert!(shown["fault"]["message"].as_str().unwrap().contains(message), "{id}: {shown:#}");
    let text = tell(host, &["run", "show", id]).await.exits(Exit::Ok).stdout;
    assert!(text.contains(&format!("fault        {kind}: ")), "{id}: {text}");
    let result = tell(host, &["run", "result", id]).await.exits(Exit::RunParked);
    assert!(result.stderr.contains("backstitch run retry") && result.stderr.contains(message), "{result:?}");
    let kinds: Vec<String> = host.rows(id).await.into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds, *rows, "{id}");
}

/// A step short of its limit, a guest is an ordinary one.
#[tokio::test]
async fn what_a_guest_says_at_its_end_is_one_line_of_the_log_and_moves_no_cursor() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    // What a panic says repeats the input, with line breaks between its values and what a terminal obeys within.
    let input = "[\n\"2026-01-01T00:00:00Z ERROR forged \u{9b}2J\u{202e}\u{2028}\"\r\n]";
    let id = host.start_run("panics", "forged", input).await;
    let message = host.ended_run(&id).await.fault.unwrap().message;
    assert!(message.contains("[\\n\"2026-01-01T00:00:00Z ERROR forged \\u{9b}2J\\u{202e}"), "{message}");
    let log = eventually("the log has it", async || {
        let log = host.log();
        log.contains("forged").then_some(log)
    })
    .await;
    assert!(!log.contains(['\u{9b}', '\u{202e}', '\u{2028}', '\r']), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("\"2026-01-01")), "{log}");
    let shown = tell(&host, &["run", "show", &id]).await.exits(Exit::Ok).stdout;
    assert!(!shown.contains(['\u{9b}', '\u{202e}', '\u{2028}']), "{shown:?}");
    // What was stored is what was given.
    assert_eq!(host.rows(&id).await[0].payload.as_ref().unwrap().as_str(), input);
}

#[tokio::test]
async fn a_guest_may_go_to_the_very_limit() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest", "hostile-activities"]).await;
    for (workflow, input, bytes) in [
        ("huge_result", "2097152", 2_097_152),
        ("deep_json", "128", 256),
        ("gigabyte_string", "2097152", 2_097_152),
        ("deep_json_input", "128", 256),
        ("huge_log_line", "1000000", "null".len()),
    ] {
        let id = host.start_run(workflow, &format!("{workflow}-{input}"), input).await;
        assert_eq!(host.output(&id).await.len(), bytes, "{workflow}");
        // Whatever it is, it can be shown, with its bytes.
        let last = host.rows(&id).await.pop().unwrap().seq.to_string();
        let payload = tell(&host, &["run", "payload", &id, &last]).await.exits(Exit::Ok);
        assert_eq!(payload.stdout.len(), bytes, "{workflow}");
        tell(&host, &["run", "ledger", &id]).await.exits(Exit::Ok);
    }
    // A failure's text is for people, so it is cut rather than refused.
    let id = host.start_run("huge_failure", "huge_failure", "1000000").await;
    let failure = host.ended_run(&id).await.failure.unwrap();
    assert_eq!((failure.code.len(), failure.message.len()), (128, 16 << 10));
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_parked_run_can_be_retried_and_parks_again_and_can_be_stopped() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    for workflow in ["endless_loop", "memory_bomb", "panics_in_resume", "deep_json"] {
        let id = host.start_run(workflow, workflow, "1000").await;
        let parked = host.ended_run(&id).await;
        let (rows, activations) = (host.rows(&id).await, host.client.health().await.unwrap().activations);
        tell(&host, &["run", "retry", &id]).await.exits(Exit::Ok);
        eventually("the guest was activated again", async || {
            let now = host.client.health().await.ok()?.activations;
            (now > activations).then_some(())
        })
        .await;
        let again = host.ended_run(&id).await;
        // From its ledger, and so by another way through its code.
        let told = |view: &RunView| view.fault.as_ref().map(|fault| (fault.kind, fault.message.clone()));
        assert_eq!((again.status, told(&again)), (RunStatus::Parked, told(&parked)), "{workflow}");
        let now = host.rows(&id).await;
        assert_eq!(now.len(), rows.len() + 1, "{workflow}: a fault leaves no row, a retry leaves one");
        assert_eq!(now.last().unwrap().kind, "run-retried", "{workflow}");
        tell(&host, &["run", "cancel", &id]).await.exits(Exit::Ok);
        assert_eq!(host.ended_run(&id).await.status, RunStatus::Parked, "its guest is not asked");
        tell(&host, &["run", "terminate", &id, "--reason", "hopeless"]).await.exits(Exit::Ok);
        let stopped = eventually("the run is stopped", async || {
            let view = host.ended_run(&id).await;
            (view.status == RunStatus::Terminated).then_some(view)
        })
        .await;
        assert_eq!(stopped.failure.unwrap().message, "hopeless");
        tell(&host, &["run", "retry", &id]).await.exits(Exit::Conflict);
        let last = host.rows(&id).await.pop().unwrap();
        assert_eq!(last.kind, "run-terminated", "{workflow}");
    }
    let mut connection = connect(&database).await;
    eventually("every message is consumed", async || {
        let left: i64 =
            sqlx::query_scalar("select count(*) from inbox").fetch_one(&mut connection).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    check_ledgers(&database).await;
}

/// What is done to a database behind a host's back, how it is undone, and what a run is parked for.
struct Damage {
    kind: &'static str,
    message: &'static str,
    does: &'static str,
    undoes: &'static str,
}

const DAMAGES: [Damage; 2] = [
    Damage {
        kind: "corrupt",
        message: "the ledger is damaged",
        does: "update ledger set payload = '\"forged\"' where seq = 0",
        undoes: "update ledger set payload = '\"input\"' where seq = 0",
    },
    Damage {
        kind: "component",
        message: "",
        does: "update components set bytes = bytes || '\\x00' where kind = 1",
        undoes: "update components set bytes = substring(bytes from 1 for octet_length(bytes) - 1) where kind = 1",
    },
];

#[tokio::test]
async fn a_run_whose_fault_is_gone_goes_on_with_what_came_in_between() {
    for damage in DAMAGES {
        check_mended(&damage, "signal", RunStatus::Completed).await;
        check_mended(&damage, "cancel", RunStatus::Cancelled).await;
    }
}

async fn check_mended(damage: &Damage, message: &str, ends: RunStatus) {
    let database = database().await;
    let mut first = TestHost::with(&database, &["hostile-guest", "hostile-activities"]).await;
    let id = first.start_run("json_echo", "damaged", "\"input\"").await;
    eventually("the activity is done", async || {
        first.rows(&id).await.iter().any(|row| row.kind == "activity-completed").then_some(())
    })
    .await;
    first.kill();
    let mut connection = connect(&database).await;
    let does = AssertSqlSafe(damage.does);
    assert_eq!(sqlx::raw_sql(does).execute(&mut connection).await.unwrap().rows_affected(), 1);

    let host = TestHost::start(HostOptions::new(&database)).await;
    let parked = host.ended_run(&id).await;
    let fault = parked.fault.unwrap_or_else(|| panic!("{damage}: {:?}", parked.status, damage = damage.kind));
    assert_eq!((fault.kind.as_str(), fault.message.contains(damage.message)), (damage.kind, true), "{fault}");
    match message {
        "signal" => tell(&host, &["run", "signal", &id, "bytes", "\"late\""]).await.exits(Exit::Ok),
        _ => tell(&host, &["run", "cancel", &id]).await.exits(Exit::Ok),
    };
    tell(&host, &["run", "retry", &id]).await.exits(Exit::Ok);
    eventually("the retry is taken and comes to nothing", async || {
        let left: i64 =
            sqlx::query_scalar("select count(*) from inbox").fetch_one(&mut connection).await.unwrap();
        (left == 1 && host.ended_run(&id).await.status == RunStatus::Parked).then_some(())
    })
    .await;

    sqlx::raw_sql(AssertSqlSafe(damage.undoes)).execute(&mut connection).await.unwrap();
    tell(&host, &["run", "retry", &id]).await.exits(Exit::Ok);
    let ended = eventually("the run goes on", async || {
        let view = host.ended_run(&id).await;
        (view.status != RunStatus::Parked).then_some(view)
    })
    .await;
    assert_eq!(ended.status, ends, "{ended:#?}");
    if ends == RunStatus::Completed {
        assert_eq!(ended.output.unwrap().as_str(), r#""\"late\"""#);
    }
    let retries = host.rows(&id).await.iter().filter(|row| row.kind == "run-retried").count();
    assert_eq!(retries, 1, "the one that came to something");
    check_ledgers(&database).await;
}

/// A component that never becomes a deployment: its WAT, the host's code, and what the message says.
const REFUSED: [(&str, &str, &[&str]); 10] = [
    ("loop-in-init", "describe-failed", &["used up its units of fuel"]),
    ("trap-in-init", "describe-failed", &["unreachable"]),
    ("loop-in-describe", "describe-failed", &["used up its units of fuel"]),
    ("command-in-describe", "describe-failed", &["command"]),
    (
        "undeclared-imports",
        "unknown-imports",
        &["wasi:sockets/tcp@0.2.0", "connect-anywhere", "acme:backdoor/shell@1.0.0", "through activities"],
    ),
    (
        "nested-components",
        "nested-components",
        &["$inner (at byte", "$outer (at byte", "one component of core modules"],
    ),
    ("no-exports", "missing-exports", &["does not export"]),
    ("describe-only", "missing-exports", &["start, resume, query"]),
    ("wrong-types", "does-not-load", &[]),
    ("core-module", "component-is-module", &["backstitch build"]),
];

#[tokio::test]
async fn a_component_that_misbehaves_is_not_deployed() {
    let database = database().await;
    let mut host = TestHost::with(&database, &["order-workflow", "order-activities"]).await;
    let before = rows_of_tables(&database).await;
    let files = Files::new();
    for (name, code, words) in REFUSED {
        let file = files.write(&format!("{name}.wasm"), wat(name));
        let said = tell(&host, &["deploy", &file, "--json"]).await.exits(Exit::Refused);
        let error = said.error();
        let text = format!("{} {} {}", error["what"], error["why"], error["hint"]);
        assert_eq!(error["code"], code, "{name}: {error:#}");
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {error:#}");
        assert_eq!(said.json()["files"][0]["error"]["code"], code, "{name}");
    }
    assert_eq!(rows_of_tables(&database).await, before, "nothing is kept of them");
    let id = host.start_run("order_workflow", "order", ORDER).await;
    host.output(&id).await;
    assert!(host.is_running());
}

#[tokio::test]
async fn one_bad_file_does_not_keep_the_others_from_being_deployed() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let files = Files::new();
    let good = files.write("order.wasm", component("order-workflow"));
    let bad = files.write("bad.wasm", wat("undeclared-imports"));
    let also_good = files.write("activities.wasm", component("order-activities"));
    let all = ["deploy", &good, &bad, &also_good];
    let said = call({
        let mut command = command(&all);
        command.args(["--json", "--host", &host.url]);
        command
    })
    .await
    .exits(Exit::Refused);
    let document = said.json();
    let created = |index: usize| document["files"][index]["deployed"]["created"].clone();
    assert_eq!([created(0), created(1), created(2)], [Value::Bool(true), Value::Null, Value::Bool(true)]);
    let again = tell(&host, &all).await.exits(Exit::Refused);
    assert_eq!(again.stdout.matches("unchanged").count(), 2, "{again:?}");
    assert!(again.stderr.contains("acme:backdoor/shell@1.0.0"), "{again:?}");
    let id = host.start_run("order_workflow", "order", ORDER).await;
    host.output(&id).await;
}
