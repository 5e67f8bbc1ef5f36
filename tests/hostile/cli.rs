//! The command line as people and scripts use it.

use std::process::Stdio;

use backstitch::cli::exit::Exit;
use backstitch_client::{AttributeValue, ListRuns, StartOptions, StartRun};
use backstitch_core::{Json, RunStatus};
use serde_json::json;
use tokio::io::AsyncBufReadExt;

use crate::program::{Files, ORDER, Said, call, call_that_compiles, command, tell};
use crate::support::{DEADLINE, HostOptions, PROGRAM, TestHost, component, database, eventually, root};

const COMMANDS: [&str; 34] = [
    "",
    "dev",
    "serve",
    "build",
    "test",
    "deploy",
    "deployments",
    "run",
    "run start",
    "run list",
    "run count",
    "run show",
    "run ledger",
    "run result",
    "run signal",
    "run query",
    "run export",
    "run cancel",
    "run terminate",
    "run retry",
    "schedule",
    "schedule create",
    "schedule list",
    "schedule show",
    "schedule update",
    "schedule pause",
    "schedule resume",
    "schedule trigger",
    "schedule backfill",
    "schedule delete",
    "replay",
    "doctor",
    "completions",
    "version",
];

#[tokio::test]
async fn every_command_explains_itself() {
    for line in COMMANDS {
        let args: Vec<&str> = line.split_whitespace().chain(["--help"]).collect();
        let said = call(command(&args)).await.exits(Exit::Ok);
        let usage = format!("Usage: backstitch {line}");
        assert!(said.stdout.contains(usage.trim_end()) && said.stderr.is_empty(), "{line}: {said:?}");
    }
    let help = call(command(&["--help"])).await.stdout;
    for (exit, meaning) in Exit::TABLE {
        assert!(help.contains(&format!("{:>3}  {meaning}", exit.code())), "{exit:?}");
    }
}

/// A command of a session, in order: what it exits with, and what its stdout holds for people.
const SESSION: [(&str, Exit, &str); 36] = [
    ("deployments", Exit::Ok, "order_workflow"),
    ("run list", Exit::Ok, "WORKFLOW ID"),
    ("run start waits_for_ever 1 --id waits", Exit::Ok, ""),
    ("run start waits_for_ever 1 --id waits", Exit::Ok, ""),
    ("run show waits", Exit::Ok, "never"),
    ("run query waits echo {\"b\":1.0,\"a\":[]}", Exit::Ok, "{\"b\":1.0,\"a\":[]}"),
    ("run export waits", Exit::Ok, "\"format\": \"backstitch-history/1\""),
    ("run export waits --allow status,data", Exit::Ok, "\"status\": \"running\""),
    ("run result waits --timeout 1ms", Exit::StillRunning, ""),
    ("run start json_echo 1 --id echoed", Exit::Ok, ""),
    ("run signal echoed bytes {\"b\":1.0,\"a\":[]}", Exit::Ok, ""),
    ("run result echoed", Exit::Ok, "{\\\"b\\\":1.0,\\\"a\\\":[]}"),
    ("run ledger echoed", Exit::Ok, "signal-received"),
    ("run ledger echoed --from 1 --limit 1", Exit::Ok, "activity-scheduled"),
    ("run signal echoed bytes", Exit::Conflict, ""),
    ("run query echoed ok", Exit::Ok, "true"),
    ("replay echoed", Exit::Ok, "identical"),
    ("replay echoed --component {order}", Exit::Diverged, "diverged at op 0"),
    ("run start json_echo 1 --id cancelled", Exit::Ok, ""),
    ("run cancel cancelled --reason enough", Exit::Ok, ""),
    ("run result cancelled", Exit::RunClosed, ""),
    ("run start json_echo 1 --id terminated", Exit::Ok, ""),
    ("run terminate terminated", Exit::Ok, ""),
    ("run result terminated", Exit::RunClosed, ""),
    ("run show terminated", Exit::Ok, "terminated"),
    ("run start panics 1 --id parked", Exit::Ok, ""),
    ("run result parked", Exit::RunParked, ""),
    ("run retry parked", Exit::Ok, ""),
    ("run list --status completed", Exit::Ok, "echoed"),
    ("run list --workflow waits_for_ever --limit 1", Exit::Ok, "waits"),
    ("run list --all", Exit::Ok, "terminated"),
    ("run count", Exit::Ok, "all         5"),
    ("run count --status completed", Exit::Ok, "completed  1"),
    ("run count --status running --workflow json_echo", Exit::Ok, "all     0"),
    ("version", Exit::Ok, "host 0."),
    ("deploy {order}", Exit::Ok, "unchanged"),
];

/// Commands that say nothing on stdout, also with `--json`: there is nothing to say but the exit code.
const SILENT: [&str; 4] = ["signal", "cancel", "terminate", "retry"];

#[tokio::test]
async fn data_goes_to_stdout_and_everything_else_to_stderr() {
    let files = Files::new();
    let order = files.write("order.wasm", component("order-workflow"));
    let mut sessions = Vec::new();
    for json in [false, true] {
        let database = database().await;
        let packages = ["order-workflow", "hostile-guest", "hostile-activities"];
        let host = TestHost::with(&database, &packages).await;
        for (line, exit, holds) in SESSION {
            let line = line.replace("{order}", &order);
            let mut args: Vec<&str> = line.split(' ').collect();
            if json {
                args.push("--json");
            }
            let said = tell(&host, &args).await.exits(exit);
            let silent = args.get(1).is_some_and(|word| SILENT.contains(word));
            if json {
                check_documents(&line, &said, exit, silent);
            } else {
                assert!(said.stdout.contains(holds), "{line}: {said:?}");
                assert_eq!(
                    said.stderr.contains("error:"),
                    exit != Exit::Ok && exit != Exit::Diverged,
                    "{line}: {said:?}"
                );
            }
            let quiet = [&args[..], &["--quiet"]].concat();
            if exit == Exit::Ok && !silent {
                let said = tell(&host, &quiet).await.exits(Exit::Ok);
                assert_eq!(said.stderr, "", "{line}");
            }
        }
        sessions.push(host);
    }
}

fn check_documents(line: &str, said: &Said, exit: Exit, silent: bool) {
    // A wait that is over in vain, or a refusal, has no document; how a run ended has both.
    let answers = !silent && !matches!(exit, Exit::StillRunning | Exit::Conflict);
    if answers {
        said.json();
    } else {
        assert_eq!(said.stdout, "", "{line}");
    }
    match exit {
        Exit::Ok | Exit::Diverged => assert_eq!(said.stderr, "", "{line}"),
        exit => assert_eq!(said.error()["exit"], exit.code(), "{line}"),
    }
}

#[tokio::test]
async fn runs_are_found_by_what_they_say_about_themselves() {
    let host = TestHost::with(&database().await, &["verbs-guest"]).await;
    for (id, customer) in [("one", "\"acme\""), ("two", "\"acme\""), ("three", "\"Zoë\"")] {
        host.start_run("tagged", id, customer).await;
    }
    let found = async |condition: &str| -> Vec<String> {
        let said = tell(&host, &["run", "list", "--json", "--where", condition]).await.exits(Exit::Ok);
        let document = said.json();
        let runs = document["runs"].as_array().unwrap();
        runs.iter().map(|run| run["workflow_id"].as_str().unwrap().to_owned()).collect()
    };
    let open = "status = \"running\" and attributes.customer = \"acme\"";
    eventually("both runs say whose they are", async || (found(open).await == ["two", "one"]).then_some(()))
        .await;
    let listed = tell(&host, &["run", "list", "--json", "--where", "workflow_id = 'two'"]).await.json();
    assert_eq!(listed["runs"][0]["attributes"], json!({"customer": "acme", "stage": "open"}), "{listed}");

    let ask =
        |cursor| ListRuns { condition: Some(open.to_owned()), limit: Some(1), cursor, ..ListRuns::default() };
    let first = host.client.list(ask(None)).await.unwrap();
    let second = host.client.list(ask(first.next_cursor)).await.unwrap();
    assert_eq!((&*first.runs[0].workflow_id, &*second.runs[0].workflow_id), ("two", "one"));

    host.client.signal("one", "close", &Json::null()).await.unwrap();
    host.output("one").await;
    assert_eq!(found(open).await, ["two"]);
    assert_eq!(found("attributes.customer = 'acme' and attributes.stage = 'done'").await, ["one"]);
    assert_eq!(found(&format!("closed >= '{}'", first.runs[0].started_at)).await, ["one"]);
    assert_eq!(found("not attributes.customer in ('acme', 'nobody')").await, ["three"]);
    let counted = tell(&host, &["run", "count", "--where", "attributes.customer = 'acme'"]).await;
    assert_eq!(counted.exits(Exit::Ok).stdout, "STATUS     RUNS\nrunning    1\ncompleted  1\nall        2\n");
}

#[tokio::test]
async fn the_answer_to_a_start_shows_the_attributes_as_a_listing_does() {
    let host = TestHost::with(&database().await, &["verbs-guest"]).await;
    let time = AttributeValue::Time { time: "2026-01-31T13:00:00+01:00".into() };
    let attributes = [
        ("due", time),
        ("express", AttributeValue::Flag(true)),
        ("region", AttributeValue::Text("eu".into())),
        ("total", AttributeValue::Number(20.5)),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value)).into();
    let options = StartOptions { attributes, ..StartOptions::default() };
    let start = StartRun { options, ..StartRun::new("collect", Some("c".into()), Json::new("1").unwrap()) };
    let started = host.client.start(start).await.unwrap().run.attributes.unwrap();
    let due = "attributes.due = time('2026-01-31T12:00:00Z')";
    let asked = ListRuns { condition: Some(due.into()), ..ListRuns::default() };
    let listed = host.client.list(asked).await.unwrap().runs.remove(0).attributes.unwrap();
    let value = |json: &Json| serde_json::from_str::<serde_json::Value>(json.as_str()).unwrap();
    assert_eq!(value(&started), value(&listed));
    let shown = json!({"due": "2026-01-31T12:00:00.000Z", "express": true, "region": "eu", "total": 20.5});
    assert_eq!(value(&listed), shown);
}

#[tokio::test]
async fn a_start_can_be_followed_to_its_end() {
    let database = database().await;
    let packages = ["order-workflow", "order-activities", "hostile-guest", "hostile-activities"];
    let host = TestHost::with(&database, &packages).await;
    let good = tell(&host, &["run", "start", "order_workflow", ORDER, "--follow"]).await.exits(Exit::Ok);
    assert!(good.stdout.contains("reserv"), "{good:?}");
    assert!(good.stderr.contains("run-started") && good.stderr.contains("run-completed"), "{good:?}");
    let json = tell(&host, &["run", "start", "order_workflow", ORDER, "--follow", "--json"]).await;
    assert_eq!(json.exits(Exit::Ok).json()["status"], "completed");
    let fails = r#"{"name":"fail_finally","args":[]}"#;
    let failed = tell(&host, &["run", "start", "calls", fails, "--follow"]).await.exits(Exit::RunClosed);
    assert!(failed.stderr.contains("no further attempt can succeed"), "{failed:?}");
    let parked = tell(&host, &["run", "start", "panics", "--follow"]).await.exits(Exit::RunParked);
    assert!(parked.stderr.contains("misdeeds.rs:"), "{parked:?}");
    // Ctrl-C ends the looking, not the run.
    let mut follow =
        command(&["run", "start", "json_echo", "1", "--id", "watched", "--follow", "--host", &host.url]);
    let child = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the run is there", async || host.client.run("watched").await.ok()).await;
    eventually("the rows are shown, and it ends", async || {
        let pid = child.id()?.to_string();
        std::process::Command::new("kill").args(["-INT", &pid]).status().ok()?;
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.contains(") Z "))
            .then_some(())
    })
    .await;
    let left = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    if let Some(code) = left.status.code() {
        assert_eq!(code, i32::from(Exit::Interrupted.code()));
    }
    assert_eq!(host.client.run("watched").await.unwrap().run.status, RunStatus::Running);
}

#[tokio::test]
async fn who_waits_for_a_run_that_is_paused_waits_and_is_told_that_it_is() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    host.start_run("waits_for_ever", "held", "1").await;
    tell(&host, &["run", "pause", "held"]).await.exits(Exit::Ok);
    eventually("it is paused", async || {
        (host.client.run("held").await.unwrap().run.status == RunStatus::Paused).then_some(())
    })
    .await;
    let over = tell(&host, &["run", "result", "held", "--timeout", "100ms"]).await.exits(Exit::StillRunning);
    assert!(over.stderr.contains("held is still paused") && over.stdout.is_empty(), "{over:?}");
    let mut waiting = command(&["run", "result", "held", "--host", &host.url]);
    let mut following = command(&["run", "start", "waits_for_ever", "1", "--id", "held", "--follow"]);
    following.args(["--host", &host.url]);
    for command in [&mut waiting, &mut following] {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stderr = tokio::io::BufReader::new(child.stderr.take().unwrap());
        while !said.contains("held is paused; it goes on after `backstitch run resume ") {
            let read = tokio::time::timeout(DEADLINE, stderr.read_line(&mut said)).await;
            assert_ne!(read.expect("it says so").unwrap(), 0, "it has ended: {said}");
        }
        assert!(child.try_wait().unwrap().is_none(), "it waits");
    }
    let mut child = waiting.spawn().unwrap();
    tell(&host, &["run", "resume", "held"]).await.exits(Exit::Ok);
    tell(&host, &["run", "terminate", "held"]).await.exits(Exit::Ok);
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(Exit::RunClosed.code().into()));
}

/// What a command shows on a terminal, which Python has one of.
async fn on_a_terminal(host: &TestHost, args: &[&str]) -> String {
    const SPAWN: &str = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut command = tokio::process::Command::new("python3");
    command.args(["-c", SPAWN, PROGRAM]).args(args).args(["--host", &host.url]);
    let output = command.stdin(Stdio::null()).output();
    let output = tokio::time::timeout(DEADLINE, output).await.expect("it ends").unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_terminal_is_shown_json_of_the_same_value_and_all_others_get_the_bytes() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    let input = "[\"\u{9b}2J\",\r\n\"\u{202e}\u{e0041}\"]";
    host.start_run("waits_for_ever", "said", input).await;
    let args = ["run", "payload", "said", "0"];
    assert_eq!(tell(&host, &args).await.exits(Exit::Ok).stdout, input);
    for args in [&args[..], &["run", "show", "said", "--json"]] {
        let shown = on_a_terminal(&host, args).await;
        assert!(!shown.contains(['\u{9b}', '\u{202e}', '\u{e0041}']), "{args:?}: {shown:?}");
        assert!(shown.contains("2J"), "{args:?}: {shown:?}");
    }
    let shown = on_a_terminal(&host, &args).await;
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&shown), value(input));
}

#[tokio::test]
async fn a_file_of_starts_is_started_once_however_often_it_is_given() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow"]).await;
    let files = Files::new();
    let lines: String = (0..50).map(|n| format!("{{\"id\":\"line-{n}\",\"input\":{n}}}\n")).collect();
    let file = files.write("starts.jsonl", lines);
    for (started, existing) in [(50, 0), (0, 50)] {
        let said = tell(&host, &["run", "start", "approval", "--from", &file, "--json"]).await;
        let tally = said.exits(Exit::Ok).json();
        assert_eq!(
            (&tally["started"], &tally["existing"], &tally["failed"]),
            (&started.into(), &existing.into(), &0.into())
        );
    }
}

#[tokio::test]
async fn a_crate_is_built_and_its_component_deployed() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let files = Files::new();
    let out = files.path("echo.wasm");
    let mut build = command(&["build", "--json", "--out"]);
    build.arg(&out).arg(root().join("examples/bare"));
    let built = call_that_compiles(build).await.exits(Exit::Ok).json();
    assert_eq!(built["components"][0]["file"], out.to_str().unwrap());
    let said = tell(&host, &["deploy", out.to_str().unwrap()]).await.exits(Exit::Ok);
    assert!(said.stdout.contains("two_steps") && said.stdout.contains("new"), "{said:?}");
    let mut library = command(&["build"]);
    library.arg(root().join("examples/api"));
    let said = call(library).await.exits(Exit::Refused);
    assert!(said.stderr.contains("crate-type = [\"cdylib\", \"rlib\"]"), "{said:?}");
}

/// A crate of its own, without dependencies: what is tested is who says what, and that takes a second.
fn tested_crate(files: &Files) -> String {
    std::fs::create_dir(files.path("src")).unwrap();
    files.write(
        "Cargo.toml",
        "[package]\nname = \"tested\"\nedition = \"2024\"\n\
         [lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n[workspace]\n",
    );
    files.write(
        "src/lib.rs",
        "#[test]\nfn holds() {}\n#[test]\nfn breaks() {\n    panic!(\"as it should\");\n}\n",
    );
    files.dir().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_crates_tests_pass_or_fail_or_do_not_compile() {
    let files = Files::new();
    let tested = tested_crate(&files);
    let test = async |more: &[&str]| call_that_compiles(command(&[&["test", &tested], more].concat())).await;

    let said = test(&["--", "holds"]).await.exits(Exit::Ok);
    assert!(said.stdout.contains("test holds ... ok") && !said.stdout.contains("breaks"), "{said:?}");
    let said = test(&[]).await.exits(Exit::Unhealthy);
    assert!(said.stdout.contains("as it should"), "{said:?}");
    assert!(said.stderr.contains("error: tests of tested failed"), "{said:?}");

    let json = test(&["--json", "--", "holds"]).await.exits(Exit::Ok);
    assert_eq!(json.json(), serde_json::json!({ "passed": true, "packages": ["tested"] }));
    assert!(json.stderr.contains("test holds ... ok"), "{json:?}");
    let json = test(&["--json", "--quiet", "--", "breaks"]).await.exits(Exit::Unhealthy);
    assert_eq!(json.json()["passed"], false, "{json:?}");

    files.write("src/lib.rs", "#[test]\nfn lacks() { nothing() }\n");
    let said = test(&["--json", "--quiet"]).await.exits(Exit::Refused);
    assert!(said.stdout.is_empty() && said.stderr.contains("cannot compile the tests of tested"), "{said:?}");
    let mut without_cargo = command(&["test", &tested]);
    without_cargo.env("PATH", "");
    let said = call(without_cargo).await.exits(Exit::Refused);
    assert!(said.stderr.contains("install Rust from https://rustup.rs"), "{said:?}");
}

#[tokio::test]
async fn the_doctor_says_what_mends_each_thing_that_is_missing() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let files = Files::new();
    let data = files.dir().to_str().unwrap();
    let well = ["doctor", "--database-url", &database, "--data-dir", data, "--json"];
    let report = tell(&host, &well).await.exits(Exit::Ok).json();
    assert_eq!(report["ok"], true, "{report:#}");

    // Nothing in the search path, no Postgres where it is said to be, no host, no place for data.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = files.write("file", "");
    let host = format!("http://{closed}");
    let ill = ["doctor", "--pg-bin", "/nowhere", "--data-dir", &file, "--host", &host];
    let mut doctor = command(&ill);
    doctor.env("PATH", "");
    let said = call(doctor).await.exits(Exit::Unhealthy);
    let (table, fixes) = said.stdout.split_once("to mend:").unwrap_or_else(|| panic!("{said:?}"));
    for (state, check, fix) in [
        ("failed", "private postgres", "or set DATABASE_URL"),
        ("warning", "cargo", "install Rust from https://rustup.rs"),
        ("warning", "wasm target", "install Rust from https://rustup.rs"),
        ("failed", "data directory", "with --data-dir"),
        ("warning", "host", "backstitch dev"),
    ] {
        let line =
            table.lines().find(|line| line.contains(check)).unwrap_or_else(|| panic!("{check}: {table}"));
        assert!(line.starts_with(state), "{line}");
        let mends = fixes.lines().find(|line| line.trim().starts_with(&format!("{check}: ")));
        assert!(mends.is_some_and(|line| line.contains(fix)), "{check}: {fixes}");
    }
    assert!(table.contains("Install them"), "{table}");
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = call(command(&["completions", shell])).await.exits(Exit::Ok);
        for name in ["deploy", "terminate", "--tenant", "doctor"] {
            let name = if shell == "fish" { name.trim_start_matches("--") } else { name };
            assert!(script.stdout.contains(name), "{shell}: {name}");
        }
        assert_eq!(script.stderr, "");
    }
    call(command(&["completions", "csh"])).await.exits(Exit::Usage);
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_met_with_silence() {
    let database = database().await;
    let host = TestHost::with(&database, &["order-workflow", "order-activities"]).await;
    let id = host.start_run("order_workflow", "order", ORDER).await;
    host.output(&id).await;
    for line in [
        "completions bash",
        "run list",
        "run list --json",
        "run ledger order",
        "run ledger order --json",
        "run export order",
        "run show order",
        "run result order",
        "deployments",
        "version",
        "--help",
        "run --help",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let mut command = command(&args);
        command.env("BACKSTITCH_HOST", &host.url).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{line}");
    }
}
