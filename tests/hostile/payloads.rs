//! Payloads that are large, too large, or nobody's business: out of row, over their tenant's bounds, sealed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstitch_client::schedules::CreateSchedule;
use backstitch_client::tasks::{AnswerTask, HeartbeatTask, PollTasks, TaskFailure, TaskView};
use backstitch_client::{ForkRun, LimitTenant, SendUpdate, StartOptions, StartRun};
use backstitch_core::schedule::{Every, Policy, Spec, Terms, What, When};
use backstitch_core::{Json, Op, RunStatus, Seq, limits};
use backstitch_ledger::Cluster;

use crate::support::{HostOptions, TestHost, component, connect, database, eventually, refusal};

const ONE: &str = "one AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const TWO: &str = "two Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=\n";

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

/// A JSON text of about so many bytes, with a word every now and then in what does not compress.
fn large(bytes: usize, word: &str) -> String {
    const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-";
    let mut text = String::from("\"");
    let mut state = 1_u64;
    for n in 0.. {
        if text.len() >= bytes {
            break;
        }
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        text.push(DIGITS[(state >> 58) as usize].into());
        if n % 200 == 0 {
            text.push_str(word);
        }
    }
    text + "\""
}

/// A schedule that starts nothing for a hundred days.
fn rare(workflow: &str, input: &str) -> CreateSchedule {
    let every = vec![Every { every_ms: 100 * 24 * 3_600_000, offset_ms: 0 }];
    let spec = Spec {
        what: What {
            workflow: workflow.into(),
            input: json(input),
            id_prefix: None,
            terms: Terms::default(),
        },
        when: When { every, ..When::default() },
        policy: Policy::default(),
    };
    CreateSchedule { name: "rare".to_owned(), spec, paused: false, note: String::new() }
}

async fn take(host: &TestHost, task_queue: &str) -> TaskView {
    let poll = PollTasks { wait_ms: 20_000, ..PollTasks::new(task_queue) };
    eventually("there is a task", async || host.client.poll_tasks(&poll).await.unwrap().pop()).await
}

#[tokio::test]
async fn a_large_payload_outlives_its_host_and_is_shown_by_reference() {
    let database = database().await;
    let mut host = TestHost::with(&database, &["hostile-guest", "hostile-activities"]).await;
    let text = large(1_500_000, "word");
    host.start_run("json_relay", "large", &text).await;
    eventually("it waits for its signal", async || {
        (host.client.run("large").await.unwrap().rows == 6).then_some(())
    })
    .await;
    host.kill();
    let host = TestHost::start(HostOptions::new(&database)).await;
    host.client.signal("large", "bytes", &json(&text)).await.unwrap();
    assert!(host.output("large").await == text);

    // Shown, it is a reference; its route and the CLI have all of it.
    let rows = host.rows("large").await;
    let stored: Vec<_> = rows.iter().filter_map(|row| row.stored).collect();
    assert_eq!((stored.len(), stored[0].bytes, stored[0].sealed), (9, text.len() as u64, false));
    assert!(rows.iter().all(|row| row.payload.is_none()));
    let url = format!("{}/v1/runs/large/ledger/0/payload", host.url);
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.headers()["content-length"], text.len().to_string().as_str());
    assert!(answer.text().await.unwrap() == text);
    let said = host.cli(&["run", "ledger", "large"]).await;
    assert!(said.stdout.len() < 10_000 && said.stdout.contains("backstitch run payload RUN 0"), "{said:?}");
    assert!(host.cli(&["run", "payload", "large", "0"]).await.stdout == text);
    let told = refusal(host.client.payload("large", Seq(5)).await);
    assert_eq!(told, (404, "no-such-payload".to_owned()), "a wait has none");

    // Nine times the same, stored once; and the replay reads it.
    let bytes: i64 = sqlx::query_scalar("select sum(length(bytes))::bigint from payloads")
        .fetch_one(&mut connect(&database).await)
        .await
        .unwrap();
    assert_eq!(bytes, text.len() as i64);
    assert_eq!(host.client.tenant().await.unwrap().stored_bytes, text.len() as u64);
    assert_eq!(host.cli(&["replay", "large"]).await.code, 0);

    // A part that is gone is told, and is nobody else's trouble.
    sqlx::query("delete from payloads where part = 1").execute(&mut connect(&database).await).await.unwrap();
    let said = host.cli(&["replay", "large"]).await;
    assert!(said.code != 0 && !said.stdout.contains("identical"), "{said:?}");
    host.start_run("json_relay", "small", "1").await;
    host.client.signal("small", "bytes", &json("1")).await.unwrap();
    assert_eq!(host.output("small").await, "1");
}

#[tokio::test]
async fn what_a_tenant_may_not_store_is_refused_before_anything_is_written() {
    let database = database().await;
    let packages = ["hostile-guest", "hostile-activities", "verbs-guest", "example-activities"];
    let host = TestHost::with(&database, &packages).await;
    let too_large = (413, "payload-too-large".to_owned());
    let over = large(2_000, "over");
    let start = |id: &str, input: &str| StartRun::new("json_relay", Some(id.to_owned()), json(input));

    let limit = LimitTenant { payload_bytes_max: Some(1_000), ..LimitTenant::default() };
    assert_eq!(host.client.limit_tenant(limit).await.unwrap().payload_bytes_max, Some(1_000));
    assert_eq!(refusal(host.client.start(start("refused", &over)).await), too_large);
    assert_eq!(refusal(host.client.run("refused").await), (404, "unknown-run".to_owned()));
    let schedule = rare("collect", &over);
    assert_eq!(refusal(host.client.create_schedule(&schedule).await), too_large);
    host.client.start(start("open", "1")).await.unwrap();
    assert_eq!(refusal(host.client.signal("open", "bytes", &json(&over)).await), too_large);
    let buy = SendUpdate {
        name: "buy".to_owned(),
        input: json("1"),
        id: Some("i".repeat(200)),
        wait: Duration::ZERO,
    };
    host.start_run("shop", "shop", "3").await;
    host.client.update("shop", buy).await.unwrap();

    // Workers and operators too; what is small enough is taken all the same.
    host.start_run("outside", "outside", "1").await;
    let task = take(&host, "outside").await;
    let answer = |output: &str| AnswerTask::completed(&*task.token, json(output));
    assert_eq!(refusal(host.client.answer_task(&answer(&over)).await), too_large);
    assert_eq!(refusal(host.client.complete_activity("outside", Op(0), &json(&over)).await), too_large);
    host.client.answer_task(&answer("7")).await.unwrap();
    assert_eq!(host.output("outside").await, "7");

    // An activity on the host fails for good. What a workflow gives is not asked about.
    let said = host.cli(&["tenant", "limit", "--payload-bytes", "10"]).await;
    assert!(said.code == 0 && said.stdout.contains("10"), "{said:?}");
    host.start_run("deliberate", "longer", "null").await;
    host.client.signal("longer", "word", &json("\"ab\"")).await.unwrap();
    let failed = host.ended_run("longer").await;
    assert_eq!(failed.status, RunStatus::Failed, "{failed:#?}");
    let failure = failed.failure.unwrap();
    assert_eq!((&*failure.code, failure.retryable), ("payload-too-large", false), "{failure:?}");
    assert!(host.rows("longer").await.iter().all(|row| row.kind != "activity-attempt-failed"));
    let limit = host.client.limit_tenant(LimitTenant::default()).await.unwrap();
    assert_eq!(limit.payload_bytes_max, None);
    host.client.start(start("refused", &over)).await.unwrap();
}

#[tokio::test]
async fn a_tenant_whose_store_is_full_keeps_what_fits_its_rows() {
    let database = database().await;
    let host = TestHost::with(&database, &["hostile-guest", "hostile-activities"]).await;
    let text = large(300_000, "word");
    let start = |id: &str, input: &str| StartRun::new("json_relay", Some(id.to_owned()), json(input));
    host.client.start(start("first", &text)).await.unwrap();
    let full = LimitTenant { stored_bytes_max: Some(300_000), ..LimitTenant::default() };
    assert_eq!(host.client.limit_tenant(full).await.unwrap().stored_bytes, text.len() as u64);
    let told = refusal(host.client.start(start("second", &text)).await);
    assert_eq!(told, (413, "storage-full".to_owned()));
    host.client.start(start("small", "1")).await.unwrap();
    for (limit, what) in [
        (LimitTenant { payload_bytes_max: Some(0), ..full }, "nothing at all"),
        (
            LimitTenant { payload_bytes_max: Some(limits::PAYLOAD_BYTES_MAX as u64 + 1), ..full },
            "more than others",
        ),
        (LimitTenant { stored_bytes_max: Some(u64::MAX), ..full }, "what no column holds"),
    ] {
        let told = refusal(host.client.limit_tenant(limit).await);
        assert_eq!(told, (400, "invalid-quota".to_owned()), "{what}");
    }
    let said = host.cli(&["tenant", "show", "--json"]).await;
    assert!(said.stdout.contains("\"stored_bytes_max\": 300000"), "{said:?}");
}

/// What is said in all the ways there are, each with a word of its own.
const WORDS: [&str; 14] = [
    "INPUT-9f2",
    "OUTPUT-3c1",
    "SIGNAL-77a",
    "LARGE-5d0",
    "BEAT-e41",
    "FAILURE-b08",
    "TASK-26c",
    "FOUND-BY-f19",
    "MEMO-a53",
    "SPEC-810",
    "REASON-4be",
    "PAUSE-d7e",
    "UPDATE-c62",
    "PARKED-095",
];

/// Says every one of [`WORDS`] to a host, and waits until all of it is in the database.
async fn say_everything(host: &TestHost) {
    let client = &host.client;
    for package in ["hostile-guest", "hostile-activities", "verbs-guest", "example-activities"] {
        client.deploy(component(package)).await.unwrap();
    }
    // Input, large and small; activity inputs and outputs; signals; the output.
    host.start_run("json_relay", "relayed", "\"INPUT-9f2\"").await;
    client.signal("relayed", "bytes", &json("\"SIGNAL-77a\"")).await.unwrap();
    assert_eq!(host.output("relayed").await, "\"SIGNAL-77a\"");
    host.start_run("json_relay", "large", &large(600_000, "LARGE-5d0")).await;
    host.start_run("deliberate", "said", "null").await;
    client.signal("said", "word", &json("\"OUTPUT-3c1\"")).await.unwrap();
    // A worker's heartbeat, failure and output, under a lease and in the inbox.
    host.start_run("queues", "failing", "\"TASK-26c\"").await;
    let task = take(host, "default").await;
    let details = Some(json("\"BEAT-e41\""));
    client.heartbeat_task(&HeartbeatTask { token: task.token.clone(), details }).await.unwrap();
    let failure = TaskFailure { message: "FAILURE-b08".to_owned(), ..TaskFailure::default() };
    client.answer_task(&AnswerTask::failed(&*task.token, failure)).await.unwrap();
    // An entity, a memo, a schedule, words of operators, an update, a parked run.
    let memo = StartOptions { memo: Some(json("\"MEMO-a53\"")), ..StartOptions::default() };
    let notebook = StartRun::new("notebook", Some("notes".to_owned()), json("9"));
    client.start(StartRun { options: memo, ..notebook }).await.unwrap();
    client.signal("notes", "note", &json("\"FOUND-BY-f19\"")).await.unwrap();
    let schedule = rare("tagged", "\"SPEC-810\"");
    client.create_schedule(&schedule).await.unwrap();
    client.pause("large", "PAUSE-d7e").await.unwrap();
    client.terminate("said", "REASON-4be").await.unwrap();
    host.start_run("shop", "shop", "3").await;
    let input = json("1");
    let update = SendUpdate { name: "buy".to_owned(), input, id: None, wait: Duration::from_secs(60) };
    client.update("shop", update).await.unwrap();
    client.signal("shop", "unasked", &json("\"UPDATE-c62\"")).await.unwrap();
    host.start_run("borrows", "unknown", "\"PARKED-095\"").await;
    eventually("all of it is in the database", async || {
        let attempts = host.rows("failing").await;
        let paused = client.run("large").await.unwrap().run.status == RunStatus::Paused;
        let noted = client.run("notes").await.unwrap().entity.is_some();
        let shop = client.run("shop").await.unwrap().signals_kept == 1;
        let failed = attempts.iter().any(|row| row.kind == "activity-attempt-failed");
        (paused && noted && shop && failed).then_some(())
    })
    .await;
    host.ended_run("said").await;
    host.ended_run("unknown").await;
    // Copied into another run, and followed by one of its own.
    let fork = ForkRun { at_seq: Seq(1), workflow_id: Some("forked".to_owned()), deployed: false };
    client.fork("shop", &fork).await.unwrap();
}

/// What the guests of these runs draw their numbers from: the texts that stand in their ledgers.
async fn seeds(host: &TestHost) -> Vec<String> {
    let mut seeds = Vec::new();
    for id in ["relayed", "large", "shop", "forked"] {
        seeds.extend(host.seeds(id).await.into_iter().map(|(_, seed)| seed));
    }
    seeds.dedup();
    assert_eq!(seeds.len(), 4, "the fork repeats that of its original, and has one of its own");
    seeds
}

/// Which of these are in the files under a directory, and so on the disk.
fn words_on_disk(dir: &Path, words: &[String]) -> Vec<String> {
    let mut found: BTreeSet<&String> = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = match std::fs::read(entry.path()) {
                    Ok(bytes) => bytes,
                    // The server has removed it since.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => panic!("{}: {error}", entry.path().display()),
                };
                let is_in =
                    |word: &&String| bytes.windows(word.len()).any(|window| window == word.as_bytes());
                found.extend(words.iter().filter(is_in));
            }
        }
    }
    words.iter().filter(|word| found.contains(word)).cloned().collect()
}

/// A host that says everything into a server of its own; what of it is on the disk afterwards, and how many of the seeds
/// of its runs.
async fn left_on_disk(args: &[&str]) -> (Vec<String>, usize) {
    let cluster = tokio::task::spawn_blocking(|| Cluster::ephemeral().unwrap()).await.unwrap();
    let database = cluster.create_database("disk").await.unwrap();
    let mut options = HostOptions::new(&database);
    options.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let host = TestHost::start(options).await;
    say_everything(&host).await;
    let seeds = seeds(&host).await;
    drop(host);
    sqlx::query("checkpoint").execute(&mut connect(&database).await).await.unwrap();
    let words = WORDS.map(str::to_owned);
    let search = move || (words_on_disk(cluster.dir(), &words), words_on_disk(cluster.dir(), &seeds).len());
    tokio::task::spawn_blocking(search).await.unwrap()
}

#[tokio::test]
async fn no_word_of_a_payload_is_on_the_disk_of_a_database_whose_payloads_are_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, ONE).unwrap();
    let args = ["--payload-keys", keys.to_str().unwrap()];
    let (sealed, plain) = tokio::join!(left_on_disk(&args), left_on_disk(&[]));
    // Without keys all of it is there: so the search finds what there is.
    assert_eq!((plain.0, plain.1), (WORDS.map(str::to_owned).to_vec(), 4));
    // What runs are found by has to be found: the notebook makes an attribute of what it is told.
    assert_eq!((sealed.0, sealed.1), (vec!["FOUND-BY-f19".to_owned()], 0));
}

#[tokio::test]
async fn no_view_of_a_run_shows_what_its_numbers_are_drawn_from_and_an_export_repeats_them() {
    let database = database().await;
    let host = TestHost::with(&database, &["verbs-guest", "example-activities"]).await;
    host.start_run("deliberate", "original", "null").await;
    for word in ["one", "two"] {
        host.client.signal("original", "word", &Json::of(&word).unwrap()).await.unwrap();
    }
    host.output("original").await;
    let fork = ForkRun { at_seq: Seq(1), workflow_id: Some("forked".to_owned()), deployed: false };
    host.client.fork("original", &fork).await.unwrap();
    host.client.terminate("forked", "").await.unwrap();
    host.ended_run("forked").await;

    for (id, sources) in [("original", 1), ("forked", 2)] {
        let seeds = host.seeds(id).await;
        assert_eq!(seeds.len(), sources, "{id}");
        let hides = |what: &str, text: &str| {
            let shown = seeds.iter().find(|(_, seed)| text.contains(&**seed));
            assert!(shown.is_none(), "{what} of {id} shows a seed: {text}");
        };
        for (route, accept) in [("", "*/*"), ("/ledger", "*/*"), ("/ledger", "text/event-stream")] {
            let url = format!("{}/v1/runs/{id}{route}", host.url);
            let answer = reqwest::Client::new().get(url).header("accept", accept).send().await.unwrap();
            let text = answer.text().await.unwrap();
            assert!(text.contains("\"random\":[{\"from\":0}"), "{route} {accept}: {text}");
            hides(&format!("{route} {accept}"), &text);
        }
        for args in [
            &["run", "show", id][..],
            &["--json", "run", "show", id],
            &["run", "ledger", id],
            &["--json", "run", "ledger", id],
            &["replay", id],
            &["--json", "replay", id],
        ] {
            let said = host.cli(args).await;
            assert_eq!(said.code, 0, "{said:?}");
            hides(&args.join(" "), &format!("{}{}", said.stdout, said.stderr));
        }
        hides("the log", &host.log());

        let dir = tempfile::tempdir().unwrap();
        let (document, wasm) = (dir.path().join("history.json"), dir.path().join("guest.wasm"));
        std::fs::write(&wasm, component("verbs-guest")).unwrap();
        let [document, wasm] = [&document, &wasm].map(|path| path.to_str().unwrap());
        assert_eq!(host.cli(&["run", "export", id, "-o", document]).await.code, 0);
        let said = host.cli(&["replay", "--history", document, "--component", wasm]).await;
        assert_eq!((said.code, said.stdout.starts_with("identical")), (0, true), "{said:?}");
    }
}

#[tokio::test]
async fn keys_are_replaced_while_runs_are_open_and_none_is_missed() {
    let database = database().await;
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let start = async |text: &str| {
        std::fs::write(&keys, text).unwrap();
        TestHost::start(HostOptions::new(&database).arg("--payload-keys").arg(keys.to_str().unwrap())).await
    };
    let large = large(400_000, "word");
    let mut host = TestHost::with(&database, &["hostile-guest", "hostile-activities"]).await;
    host.start_run("json_relay", "plain", "\"of old\"").await;
    // First every host is given the key, then one after the other uses it.
    for (keys, id) in [
        (format!("none\n{ONE}"), "opening"),
        (ONE.to_owned(), "sealed"),
        (format!("{ONE}{TWO}"), "both"),
        (format!("{TWO}{ONE}"), "renewed"),
    ] {
        // As a rolling restart does it. Hosts that are killed one after the other would tell of something else.
        host.signal("-TERM");
        host.ended().await;
        host = start(&keys).await;
        host.start_run("json_relay", id, &large).await;
    }
    host.signal("-TERM");
    host.ended().await;
    let command = format!("cat {}", keys.display());
    let options = HostOptions::new(&database).arg("--payload-keys-command").arg(command);
    let host = TestHost::start(options).await;
    for id in ["plain", "opening", "sealed", "both", "renewed"] {
        host.client.signal(id, "bytes", &json(&large)).await.unwrap();
        assert!(host.output(id).await == large, "{id}");
        assert_eq!(host.cli(&["replay", id]).await.code, 0, "{id}");
        let rows = host.rows(id).await;
        let signal = rows.iter().find(|row| row.kind == "signal-received").unwrap();
        let said = host.cli(&["run", "payload", id, &signal.seq.to_string()]).await;
        assert!(said.stdout == large, "{id}");
    }
    drop(host);

    // A host that has not got all of them does not start, and says which.
    let refused = async |args: &[&str]| {
        let mut command = std::process::Command::new(crate::support::PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path()).args(args);
        command.env("DATABASE_URL", &database);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(&[]).await;
    assert!(code == 3 && said.contains("\"one\"") && said.contains("--payload-keys"), "{code}: {said}");
    std::fs::write(&keys, ONE).unwrap();
    let (code, said) = refused(&["--payload-keys", keys.to_str().unwrap()]).await;
    assert!(code == 3 && said.contains("\"two\""), "{code}: {said}");
    std::fs::write(&keys, ONE.replace("one", "two")).unwrap();
    let (code, said) = refused(&["--payload-keys", keys.to_str().unwrap()]).await;
    assert!(code == 3 && !said.contains("AAEC"), "{code}: {said}");
    std::fs::write(&keys, "one\n").unwrap();
    let (code, said) = refused(&["--payload-keys", keys.to_str().unwrap()]).await;
    assert!(code == 3 && said.contains("line 1 is no key") && said.contains("openssl"), "{code}: {said}");
    let (code, said) = refused(&["--payload-keys-command", "exit 3"]).await;
    assert!(code == 3 && said.contains("the command ended with"), "{code}: {said}");
}
