//! Histories in files: what `run export` writes, `replay --history` reads with nobody's help.

use std::path::{Path, PathBuf};

use backstitch_client::views::ReplayView;
use backstitch_core::{RunId, RunStatus};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{PROGRAM, Said, TestHost, check_ledgers, component, database, eventually, root, wat};

/// Files of a test: histories and components.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn component(&self, package: &str) -> PathBuf {
        self.write(&format!("{package}.wasm"), component(package))
    }
}

/// Replays files. There is no host at the address that the program is given, and no database.
async fn replay(history: &Path, component: &Path, args: &[&str]) -> Said {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(["replay", "--history"]).arg(history).arg("--component").arg(component).args(args);
    command.env("BACKSTITCH_HOST", "http://127.0.0.1:1").env_remove("DATABASE_URL").kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    Said { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn kept(name: &str) -> PathBuf {
    root().join("tests/corpus").join(name).with_extension("json")
}

fn document(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_history_is_replayed_without_a_host_and_a_database() {
    let files = Files::new();
    for (name, package) in [("approved", "approval-workflow"), ("batch-of-one", "child-workflow")] {
        let said = replay(&kept(name), &files.component(package), &[]).await;
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{name}: {said:?}");
        assert!(said.stdout.starts_with("identical\n"), "{name}: {said:?}");
    }
    let json = replay(&kept("order-flaky"), &files.component("order-workflow"), &["--json"]).await;
    let view: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&view["verdict"], json.code), (&"identical".into(), 0), "{json:?}");
    assert_eq!(view["rows"], document(&kept("order-flaky"))["timeline"].as_array().unwrap().len());

    let other = files.component("order-v2-workflow");
    let said = replay(&kept("order-reserved"), &other, &[]).await;
    assert_eq!((said.code, said.stderr.as_str()), (20, ""), "{said:?}");
    for words in ["diverged at op 1, row 3", "activity charge", "activity reserve_item", "order_v2_workflow"]
    {
        assert!(said.stdout.contains(words), "{words}: {said:?}");
    }
}

#[tokio::test]
async fn an_export_says_what_the_run_says_and_nothing_that_was_not_asked_for() {
    let database = database().await;
    let guests = ["order-workflow", "order-activities", "hostile-guest"];
    let mut host = TestHost::with(&database, &guests).await;
    let input = r#"{"order_id":"o-1","customer":{"name":"A","email":"a@example.com","city":"Cork"},"item_id":"SKU-1","quantity":1,"unit_price_cents":995}"#;
    host.start_run("order_workflow", "order", input).await;
    let output = host.output("order").await;
    let run = host.client.run("order").await.unwrap().run;
    host.start_run("waits_for_ever", "waits", "1").await;
    eventually("the run waits", async || (host.rows("waits").await.len() == 2).then_some(())).await;

    let said = host.cli(&["run", "export", "order"]).await;
    let whole: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    assert_eq!(host.cli(&["--json", "run", "export", "order"]).await.stdout, said.stdout);
    for (field, is) in [
        ("format", "backstitch-history/1".to_owned()),
        ("run_id", run.run_id.to_string()),
        ("workflow_id", "order".to_owned()),
        ("workflow", "order_workflow".to_owned()),
        ("digest", run.digest.to_string()),
        ("status", "completed".to_owned()),
        ("started_at", run.started_at),
        ("closed_at", run.closed_at.unwrap()),
    ] {
        assert_eq!(whole[field], is, "{field}");
    }
    assert_eq!((&whole["data"]["input"], &whole["data"]["output"]), (&input.into(), &output.into()));
    let timeline = whole["timeline"].as_array().unwrap();
    assert_eq!(timeline.len(), host.rows("order").await.len());
    assert_eq!(whole["head"]["chain"], timeline.last().unwrap()["chain"]);

    let facts = ["closed_at", "digest", "format", "head", "run_id", "started_at", "workflow", "workflow_id"];
    for parts in [&["data"][..], &["state"], &["status"], &["timeline"], &["data", "timeline"]] {
        let said = host.cli(&["run", "export", "order", "--allow", &parts.join(",")]).await;
        let part: Value = serde_json::from_str(&said.stdout).unwrap();
        let mut expected = [&facts, parts].concat();
        expected.sort_unstable();
        let mut found: Vec<&str> = part.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{parts:?}");
        assert!(parts.iter().all(|name| part[name] == whole[name]), "{parts:?}");
    }
    let open: Value = serde_json::from_str(&host.cli(&["run", "export", "waits"]).await.stdout).unwrap();
    assert_eq!(
        (&open["status"], &open["state"]["waits_for"][0]["what"]),
        (&"running".into(), &"never".into())
    );
    assert!(open.get("head").is_none() && open.get("closed_at").is_none(), "{open:#}");

    assert_eq!(host.cli(&["run", "export", "nobody"]).await.code, 4);
    assert_eq!(host.cli(&["run", "export", "order", "--allow", "everything"]).await.code, 2);
    let url = format!("{}/v1/runs/order/history?allow=data,everything", host.url);
    let problem: Value =
        serde_json::from_str(&reqwest::get(url).await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!((&problem["code"], &problem["status"]), (&"invalid-query".into(), &400.into()));
    assert!(problem["detail"].as_str().unwrap().contains("\"everything\""), "{problem}");

    let files = Files::new();
    let mut exported = Vec::new();
    for (id, package) in [("order", "order-workflow"), ("waits", "hostile-guest")] {
        let file = files.0.path().join(id);
        let said = host.cli(&["run", "export", id, "-o", file.to_str().unwrap()]).await;
        assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
        let online = host.cli(&["--json", "replay", id]).await;
        exported.push((file, package, serde_json::from_str::<ReplayView>(&online.stdout).unwrap()));
    }
    let said = host.cli(&["run", "export", "order", "-o", "/nowhere/file"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    host.kill();
    for (file, package, online) in exported {
        let said = replay(&file, &files.component(package), &["--json"]).await;
        let offline: ReplayView = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!((said.code, offline.fuel, offline.rows), (0, online.fuel, online.rows), "{said:?}");
        assert_eq!((offline.run_id, offline.digest), (online.run_id, online.digest));
    }
    check_ledgers(&database).await;
}

/// An edit of an exported history, and what is said about it.
type Edit = (&'static str, fn(&mut Value), &'static str);

const EDITS: [Edit; 7] = [
    ("a-payload", |file| file["timeline"][2]["payload"] = "\"another\"".into(), "row 2 does not match"),
    ("a-time", |file| file["timeline"][4]["at_ms"] = 1.into(), "row 4 does not match its checksum"),
    ("a-kind", |file| file["timeline"][1]["kind"] = 77.into(), "row 1 does not match its checksum"),
    ("a-row-dropped", |file| drop(rows(file).remove(3)), "expected row 3, found row 4"),
    ("rows-swapped", |file| rows(file).swap(5, 6), "expected row 5, found row 6"),
    ("the-tail-cut-off", |file| drop(rows(file).pop()), "closed with 10 rows"),
    (
        "another-run",
        |file| file["run_id"] = RunId(uuid::Uuid::nil()).to_string().into(),
        "row 0 does not match",
    ),
];

fn rows(file: &mut Value) -> &mut Vec<Value> {
    file["timeline"].as_array_mut().unwrap()
}

#[tokio::test]
async fn an_edited_history_is_damaged_and_its_row_is_named() {
    let files = Files::new();
    let component = files.component("approval-workflow");
    for (name, edit, noticed) in EDITS {
        let mut history = document(&kept("approved"));
        edit(&mut history);
        let file = files.write(name, history.to_string());
        let said = replay(&file, &component, &[]).await;
        assert_eq!((said.code, said.stderr.as_str()), (21, ""), "{name}: {said:?}");
        assert!(said.stdout.starts_with("faulted (corrupt): the ledger is damaged"), "{name}: {said:?}");
        assert!(said.stdout.contains(noticed), "{name}: {said:?}");
        let said = replay(&file, &component, &["--json"]).await;
        let view: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!((said.code, &view["fault"]["kind"]), (21, &"corrupt".into()), "{name}: {view}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_history_is_told_from_the_others() {
    let files = Files::new();
    let component = files.component("approval-workflow");
    let text = std::fs::read_to_string(kept("approved")).unwrap();
    let half = &text[..text.len() / 2];
    let odd_chain = text.replacen("\"chain\": \"", "\"chain\": \"+", 1);
    let cases = [
        ("text", "not json", "history-not-json", "it is not JSON: expected ident at line 1 column 2"),
        ("half", half, "history-not-json", "it is not JSON: EOF while parsing"),
        ("empty", "", "history-not-json", "it is not JSON: EOF while parsing"),
        ("array", "[]", "history-invalid", "no \"format\" that says \"backstitch-history/1\""),
        ("other", r#"{"format":"x"}"#, "history-invalid", "no \"format\" that says"),
        ("newer", &text.replacen("history/1", "history/2", 1), "history-format", "\"backstitch-history/2\""),
        ("no-run", r#"{"format":"backstitch-history/1"}"#, "history-invalid", "missing field `run_id`"),
        ("column", &text.replacen("\"at_ms\"", "\"at\"", 1), "history-invalid", "unknown field `at`"),
        ("chain", &odd_chain, "history-invalid", "a chain is 16 hexadecimal digits"),
        (
            "no-rows",
            &text.replacen("\"timeline\"", "\"x\"", 1),
            "history-without-timeline",
            "without its timeline",
        ),
    ];
    for (name, text, code, words) in cases {
        let file = files.write(name, text);
        let said = replay(&file, &component, &[]).await;
        assert_eq!((said.code, said.stdout.as_str()), (3, ""), "{name}: {said:?}");
        assert!(said.stderr.contains(words), "{name}: {said:?}");
        assert!(said.stderr.contains("backstitch run export RUN -o FILE.json"), "{name}: {said:?}");
        let error: Value =
            serde_json::from_str(&replay(&file, &component, &["--json"]).await.stderr).unwrap();
        assert_eq!(error["error"]["code"], code, "{name}");
    }
    for (name, bytes, code, words) in [
        (
            "activities",
            crate::support::component("example-activities"),
            3,
            "an activity component has no ledger",
        ),
        ("no-wasm", b"not wasm".to_vec(), 8, "does not begin as WebAssembly does"),
        ("import", wat("undeclared-imports"), 8, "reach the world through activities"),
    ] {
        let said = replay(&kept("approved"), &files.write(name, bytes), &[]).await;
        assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{name}: {said:?}");
        assert!(said.stderr.contains(words), "{name}: {said:?}");
    }
    assert_eq!(replay(Path::new("/nowhere"), &component, &[]).await.code, 3);
    assert_eq!(replay(&kept("approved"), Path::new("/nowhere"), &[]).await.code, 3);
}

/// A guest that broke down live breaks down over its file: what an author takes home from an operator.
#[tokio::test]
async fn the_fault_of_a_parked_run_is_repeated_from_its_file() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest"]).await;
    host.start_run("panics", "parked", "null").await;
    assert_eq!(host.ended_run("parked").await.status, RunStatus::Parked);
    let files = Files::new();
    let said = host.cli(&["run", "export", "parked"]).await;
    let file: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(file["state"]["fault"]["kind"], "panic", "{file:#}");
    let said = replay(&files.write("parked", &said.stdout), &files.component("hostile-guest"), &[]).await;
    assert_eq!(said.code, 21, "{said:?}");
    assert!(said.stdout.starts_with("faulted (panic)") && said.stdout.contains("misdeeds.rs:"), "{said:?}");
}
