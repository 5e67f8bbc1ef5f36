//! Bad input, through the program and through HTTP: each has its own message that says what to do, its
//! own code, and leaves nothing behind.

use std::time::Duration;

use backstitch::cli::exit::Exit;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::program::{Files, call, command, peak_mib, rows_of_tables, tell};
use crate::support::{DEADLINE, HostOptions, TestHost, component, database, eventually, wat};

/// A command line with an error in it. `{…}` are files, and the address of a port where nobody listens.
struct Mistake {
    args: &'static str,
    exit: Exit,
    /// In the document of `--json`.
    code: &'static str,
    /// In the message for people.
    words: &'static str,
}

const fn mistake(args: &'static str, exit: Exit, code: &'static str, words: &'static str) -> Mistake {
    Mistake { args, exit, code, words }
}

const MISTAKES: [Mistake; 46] = [
    mistake("deploy {text}", Exit::Refused, "not-a-component", "does not begin as WebAssembly does"),
    mistake("deploy {elf}", Exit::Refused, "not-a-component", "upload the component"),
    mistake("deploy {wat}", Exit::Refused, "not-a-component", "wasm-tools parse"),
    mistake("deploy {module}", Exit::Refused, "component-is-module", "backstitch build"),
    mistake("deploy {import}", Exit::Refused, "unknown-imports", "reach the world through activities"),
    mistake("deploy {truncated}", Exit::Refused, "truncated", "Upload the whole file"),
    mistake("deploy {huge}", Exit::Invalid, "file-too-large", "more than 67108864 bytes"),
    mistake("deploy {empty}", Exit::Invalid, "empty-body", "send the component's bytes"),
    mistake("deploy /nowhere.wasm", Exit::Invalid, "file-unreadable", "No such file"),
    mistake("run start nobody", Exit::NotFound, "unknown-workflow", "deployed are: approval"),
    mistake("run start approval {bad", Exit::Invalid, "input-invalid", "write JSON text, such as"),
    mistake("run start approval @{deep}", Exit::Invalid, "input-invalid", "deeper than 128 levels"),
    mistake("run start approval @{large}", Exit::Invalid, "file-too-large", "is too large"),
    mistake("run start approval @/nowhere", Exit::Invalid, "file-unreadable", "No such file"),
    mistake(
        "run start waits_for_ever 2 --id taken",
        Exit::Conflict,
        "workflow-id-taken",
        "with another input; choose another id",
    ),
    mistake("run start panics 1 --id taken", Exit::Conflict, "workflow-id-taken", "with another workflow"),
    mistake(
        "run start approval 1 --id 01a2006b-0630-731c-914c-77ecc699939c",
        Exit::Invalid,
        "invalid-name",
        "choose another",
    ),
    mistake("run start approval 1 --id ..", Exit::Invalid, "invalid-name", "choose another"),
    mistake("run start waits_for_ever --from {lines}", Exit::Invalid, "starts-failed", "mend it and repeat"),
    mistake("run show nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run ledger nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run result nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run signal nobody x", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run signal taken x {bad", Exit::Invalid, "input-invalid", "write JSON text, such as"),
    mistake("run cancel nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run terminate nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run retry nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run retry taken", Exit::Conflict, "not-parked", "it is running"),
    mistake("run query nobody x", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run query taken x", Exit::NotFound, "unknown-query", "its component describes none"),
    mistake("run export nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("run export taken -o {dir}", Exit::Invalid, "file-unwritable", "Is a directory"),
    mistake("replay nobody", Exit::NotFound, "unknown-run", "backstitch run list"),
    mistake("replay taken --component {activities}", Exit::Invalid, "wrong-kind", "give a workflow"),
    mistake("replay taken --component {text}", Exit::Refused, "not-a-component", "WebAssembly"),
    mistake("run list --where status=5", Exit::Invalid, "invalid-filter", "(at byte 7)"),
    mistake("run list --where stats='failed'", Exit::Invalid, "invalid-filter", "no field `stats`"),
    mistake("run count --where status='failde'", Exit::Invalid, "invalid-filter", "one of running,"),
    mistake("run count --where started>'2026'", Exit::Invalid, "invalid-filter", "2026-01-31T12:00:00Z"),
    mistake("run list --tenant acme", Exit::NotFound, "unknown-tenant", "set it to `default`"),
    mistake(
        "run result taken --timeout 1ms",
        Exit::StillRunning,
        "still-running",
        "backstitch run show taken",
    ),
    mistake("run list --host {closed}", Exit::Unreachable, "unreachable", "start one with `backstitch dev`"),
    mistake("run list --host garbage", Exit::Invalid, "protocol", "check --host or BACKSTITCH_HOST"),
    mistake("run list --host https://127.0.0.1", Exit::Invalid, "protocol", "TLS is not built in"),
    mistake("build /nowhere", Exit::Refused, "build", "cannot read /nowhere"),
    mistake("build {dir}", Exit::Refused, "build", "name the directory of a crate"),
];

/// Command lines that are none. Nothing is sent anywhere.
const MISUSES: [(&str, &str); 13] = [
    ("", "Usage: backstitch"),
    ("--frobnicate", "unexpected argument '--frobnicate'"),
    ("frobnicate", "unrecognized subcommand 'frobnicate'"),
    ("deploy", "<FILE.wasm>..."),
    ("run list --status runing", "one of running, parked, paused, completed"),
    ("run list --limit 0", "0 is not in 1.."),
    ("replay", "<RUN>"),
    ("replay --history f.json", "--component <FILE.wasm>"),
    ("run export x --allow rows", "possible values: data, state, status, timeline"),
    ("run result x --timeout 1w", "write 1500ms, 30s, 5m, 2h or 1d"),
    ("run start w 1 --from f.jsonl", "cannot be used with"),
    ("serve --listen nowhere", "invalid socket address"),
    ("serve --lease-ms 1", "1 is not in 100..=600000"),
];

#[tokio::test]
async fn a_mistake_on_the_command_line_is_told_and_leaves_nothing_behind() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow", "hostile-guest"]).await;
    waiting_run(&host, "taken").await;
    let files = BadFiles::new();
    let before = rows_of_tables(&database).await;
    for mistake in &MISTAKES {
        check_mistake(&host, mistake, &files).await;
    }
    for (line, words) in MISUSES {
        let said = call(command(&split(line))).await.exits(Exit::Usage);
        assert!(said.stderr.contains(words) && said.stdout.is_empty(), "{line}: {said:?}");
    }
    let empty = call(command(&["run", "start", ""])).await;
    assert_ne!(empty.exit, 0, "{empty:?}");
    assert_eq!(rows_of_tables(&database).await, before);
}

async fn check_mistake(host: &TestHost, mistake: &Mistake, files: &BadFiles) {
    let Mistake { args, exit, code, words } = mistake;
    let line = files.name(args);
    let mut told = command(&split(&line));
    let mut documented = command(&split(&line));
    for command in [&mut told, &mut documented] {
        command.env("BACKSTITCH_HOST", &host.url);
    }
    documented.arg("--json");
    let said = call(told).await.exits(*exit);
    assert!(said.stderr.starts_with("error: "), "{args}: {said:?}");
    // The lines of a message are indented; a word at a line's end is not what is looked for.
    assert!(said.stderr.contains(words), "{args}: {}", said.stderr);
    let error = call(documented).await.exits(*exit).error();
    assert_eq!((&error["code"], &error["exit"]), (&(*code).into(), &exit.code().into()), "{args}: {error:#}");
}

/// Starts a run that stays open, and leaves it alone from then on.
async fn waiting_run(host: &TestHost, id: &str) {
    host.start_run("waits_for_ever", id, "1").await;
    waits(host, id).await;
}

async fn waits(host: &TestHost, id: &str) {
    eventually("the run waits", async || (host.rows(id).await.len() == 2).then_some(())).await;
}

fn split(line: &str) -> Vec<&str> {
    line.split(' ').filter(|word| !word.is_empty()).collect()
}

/// The files that the table names.
struct BadFiles(Files, Vec<(&'static str, String)>);

impl BadFiles {
    fn new() -> Self {
        let files = Files::new();
        let order = component("approval-workflow");
        // Nobody listens on a port that was just given back.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let named = vec![
            ("{text}", files.write("text.wasm", "not a component")),
            ("{elf}", files.write("elf.wasm", b"\x7fELF\x02\x01\x01\0")),
            ("{wat}", files.write("wat.wasm", "(component)")),
            ("{module}", files.write("module.wasm", wat("core-module"))),
            ("{import}", files.write("import.wasm", wat("undeclared-imports"))),
            ("{truncated}", files.write("truncated.wasm", &order[..order.len() / 2])),
            ("{huge}", files.sparse("huge.wasm", 200 << 20)),
            ("{empty}", files.write("empty.wasm", "")),
            ("{activities}", files.write("activities.wasm", component("hostile-activities"))),
            ("{deep}", files.write("deep.json", nested(100_000))),
            ("{large}", files.write("large.json", format!("\"{}\"", "x".repeat(3 << 20)))),
            ("{lines}", files.write("lines.jsonl", "{\"id\": \"taken\", \"input\": 1}\n{\"ID\": 2}\n")),
            ("{closed}", format!("http://{closed}")),
            ("{dir}", files.dir().to_str().unwrap().to_owned()),
        ];
        Self(files, named)
    }

    fn name(&self, line: &str) -> String {
        assert!(self.0.dir().exists());
        self.1.iter().fold(line.to_owned(), |line, (name, path)| line.replace(name, path))
    }
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test]
async fn a_start_that_is_repeated_finds_its_run() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow", "hostile-guest"]).await;
    let start = ["run", "start", "waits_for_ever", r#"{"b":1.0, "a":[]}"#, "--id", "twice", "--json"];
    let first = tell(&host, &start).await.exits(Exit::Ok).json();
    waits(&host, "twice").await;
    let before = rows_of_tables(&database).await;
    let second = tell(&host, &start).await.exits(Exit::Ok).json();
    assert_eq!((&first["created"], &second["created"]), (&true.into(), &false.into()));
    assert_eq!(first["run_id"], second["run_id"]);
    // The same value in other bytes is another input: bytes are what a replay repeats.
    let mut other = start;
    other[3] = r#"{"a":[],"b":1.0}"#;
    let refused = tell(&host, &other).await.exits(Exit::Conflict).error();
    assert_eq!(refused["code"], "workflow-id-taken");
    assert_eq!(rows_of_tables(&database).await, before);
}

/// A request with an error in it.
struct Request {
    method: &'static str,
    path: &'static str,
    header: Option<(&'static str, &'static str)>,
    body: Body,
    status: u16,
    code: &'static str,
    words: &'static str,
}

enum Body {
    None,
    Text(&'static str),
    Made(fn() -> String),
}

const fn request(method: &'static str, path: &'static str, body: Body) -> Request {
    Request {
        method,
        path,
        header: Some(("content-type", "application/json")),
        body,
        status: 0,
        code: "",
        words: "",
    }
}

impl Request {
    const fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    const fn gives(mut self, status: u16, code: &'static str, words: &'static str) -> Self {
        (self.status, self.code, self.words) = (status, code, words);
        self
    }
}

fn requests() -> Vec<Request> {
    let get = |path| request("GET", path, Body::None);
    let post = |path, body| request("POST", path, Body::Text(body));
    let made = |path, body| request("POST", path, Body::Made(body));
    let named = |id: &str| {
        let body = format!(r#"{{"workflow":"waits_for_ever","workflow_id":"{id}"}}"#);
        request("POST", "/v1/runs", Body::Text(body.leak()))
    };
    vec![
        get("/v1/nowhere").gives(404, "unknown-route", "routes begin with /v1/"),
        get("/").gives(404, "unknown-route", "routes begin with /v1/"),
        request("DELETE", "/v1/runs", Body::None).gives(405, "method-not-allowed", "the `allow` header"),
        request("PUT", "/v1/runs/taken/cancel", Body::None).gives(
            405,
            "method-not-allowed",
            "does not take PUT",
        ),
        get("/v1/health").with("host", "evil.test").gives(403, "forbidden-host", "such as 127.0.0.1"),
        get("/v1/health").with("host", "evil.test:80").gives(403, "forbidden-host", "start it with --listen"),
        get("/v1/runs").with("origin", "http://evil.test").gives(403, "forbidden-origin", "no login"),
        get("/v1/runs").with("backstitch-tenant", "acme").gives(
            404,
            "unknown-tenant",
            "leave the backstitch-tenant",
        ),
        get("/v1/runs?limit=0").gives(400, "invalid-limit", "1 to 1000"),
        get("/v1/runs?limit=1001").gives(400, "invalid-limit", "1 to 1000"),
        get("/v1/runs?limits=1").gives(400, "invalid-query", "unknown field `limits`"),
        get("/v1/runs?status=runing").gives(400, "invalid-query", "unknown variant `runing`"),
        get("/v1/runs?cursor=x").gives(400, "invalid-cursor", "the cursor"),
        get("/v1/runs?where=").gives(400, "invalid-filter", "begins with a field, not the end"),
        get("/v1/runs?where=status%20%3D%205").gives(400, "invalid-filter", "(at byte 9)"),
        get("/v1/runs?where=attributes.a%3D'%00'").gives(400, "invalid-filter", "NUL"),
        get("/v1/runs?where=%ff").gives(400, "invalid-filter", "has no meaning here"),
        get("/v1/run-count?where=attributes.a%3Ctrue").gives(400, "invalid-filter", "has no order"),
        get(format!("/v1/run-count?where={}", "(".repeat(4_096)).leak()).gives(
            400,
            "invalid-filter",
            "at most 16 deep",
        ),
        get(format!("/v1/runs?where={}", "%20".repeat(4_097)).leak()).gives(
            400,
            "invalid-filter",
            "the longest has 4096",
        ),
        get("/v1/runs/nobody").gives(404, "unknown-run", "backstitch run list"),
        get("/v1/runs/nobody/ledger").gives(404, "unknown-run", "backstitch run list"),
        get("/v1/runs/%ff").gives(400, "invalid-path", "UTF-8"),
        get("/v1/runs/a%00b").gives(400, "invalid-path", "NUL"),
        get("/v1/schedules/%00").gives(400, "invalid-path", "NUL"),
        post("/v1/runs/taken/signals/%00", "1").gives(400, "invalid-path", "NUL"),
        get("/v1/runs?workflow=%00").gives(400, "invalid-query", "NUL"),
        get("/v1/schedules?limit=1&cursor=a%00").gives(400, "invalid-query", "NUL"),
        get("/v1/activities?task_queue=%00").gives(400, "invalid-query", "NUL"),
        post("/v1/runs/taken/signals/x?signal_id=%00", "1").gives(400, "invalid-query", "NUL"),
        get("/v1/runs/taken/ledger?from_seq=-1").gives(400, "invalid-query", "from_seq"),
        get("/v1/runs/taken/result?wait_ms=60001").gives(400, "invalid-query", "ask again for longer"),
        get("/v1/runs/nobody/result").gives(404, "unknown-run", "backstitch run list"),
        post("/v1/runs", "").gives(400, "invalid-body", "missing field `workflow`"),
        post("/v1/runs", "{\"workflow\":").gives(400, "invalid-body", "line 1 column 12"),
        post("/v1/runs", r#"{"workflow":"approval","inptu":1}"#).gives(400, "invalid-body", "`inptu`"),
        post("/v1/runs", r#"{"workflow":"approval","input":{'a'}}"#).gives(400, "invalid-body", "line 1"),
        post("/v1/runs", r#"{"workflow":"nobody"}"#).gives(404, "unknown-workflow", "deployed are: approval"),
        post("/v1/runs", r#"{"workflow":""}"#).gives(400, "invalid-name", "workflow"),
        post("/v1/runs", r#"{"workflow":"waits_for_ever","workflow_id":"taken","input":2}"#).gives(
            409,
            "workflow-id-taken",
            "choose another id",
        ),
        post("/v1/runs", r#"{"workflow":"approval"}"#).with("content-type", "text/plain").gives(
            415,
            "unsupported-media-type",
            "JSON is sent as application/json",
        ),
        made("/v1/runs", || format!(r#"{{"workflow":"approval","input":{}}}"#, nested(129))).gives(
            400,
            "invalid-body",
            "deeper than 128 levels",
        ),
        made("/v1/runs", || format!(r#"{{"workflow":"approval","input":{}}}"#, nested(100_000))).gives(
            400,
            "invalid-body",
            "deeper than 128 levels",
        ),
        made("/v1/runs", || format!(r#"{{"workflow":"approval","input":"{}"}}"#, "x".repeat(2 << 20))).gives(
            400,
            "invalid-body",
            "a payload holds at most 2097152",
        ),
        made("/v1/runs", || format!(r#"{{"workflow":"approval","input":"{}"}}"#, "x".repeat(3 << 20))).gives(
            413,
            "body-too-large",
            "the most this request may carry",
        ),
        made("/v1/runs", || format!(r#"{{"workflow":"approval","workflow_id":"{}"}}"#, "x".repeat(257)))
            .gives(400, "invalid-name", "the longest is 256"),
        named("01a2006b-0630-731c-914c-77ecc699939c").gives(400, "invalid-name", "looks like a run id"),
        named("{01A2006B-0630-731C-914C-77ECC699939C}").gives(400, "invalid-name", "looks like a run id"),
        named("01a2006b-0630-731c-914c-77ecc699939c:7").gives(400, "invalid-name", "is made here"),
        named("idempotency-key:k-1").gives(400, "invalid-name", "is made here"),
        named(".").gives(400, "invalid-name", "no segment"),
        named("..").gives(400, "invalid-name", "no segment"),
        named("order\u{200b}-1").gives(400, "invalid-name", "U+200B, which cannot be seen"),
        named("order-\u{202e}1").gives(400, "invalid-name", "U+202E, which cannot be seen"),
        post("/v1/runs/taken/signals/x?signal_id=a%E2%80%AEb", "1").gives(400, "invalid-name", "U+202E"),
        post("/v1/runs/nobody/signals/x", "1").gives(404, "unknown-run", "backstitch run list"),
        post("/v1/runs/taken/signals/x", "{").gives(400, "invalid-body", "line 1"),
        post("/v1/runs/taken/retry", "").gives(409, "not-parked", "it is running"),
        post("/v1/deployments", "").gives(400, "empty-body", "send the component's bytes"),
        post("/v1/deployments", "(component)").gives(
            415,
            "unsupported-media-type",
            "sent as application/wasm",
        ),
        post("/v1/deployments", "(component)").with("content-type", "application/wasm").gives(
            422,
            "not-a-component",
            "wasm-tools parse",
        ),
    ]
}

#[tokio::test]
async fn a_wrong_request_gets_a_problem_document_and_leaves_nothing_behind() {
    let database = database().await;
    let host = TestHost::with(&database, &["approval-workflow", "hostile-guest"]).await;
    waiting_run(&host, "taken").await;
    let before = rows_of_tables(&database).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for request in requests() {
        let Request { method, path, header, body, status, code, words } = request;
        let mut sent = http.request(method.parse().unwrap(), format!("{}{path}", host.url));
        if let Some((name, value)) = header {
            sent = sent.header(name, value);
        }
        let answer = match body {
            Body::None => sent,
            Body::Text(text) => sent.body(text),
            Body::Made(make) => sent.body(make()),
        };
        let answer = answer.timeout(DEADLINE).send().await.unwrap();
        let media = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let got = answer.status().as_u16();
        let document: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!((got, document["code"].as_str()), (status, Some(code)), "{method} {path}: {document:#}");
        assert_eq!((media.as_str(), &document["status"]), ("application/problem+json", &status.into()));
        assert!(document["detail"].as_str().unwrap().contains(words), "{method} {path}: {document:#}");
        assert_eq!(document["help"], format!("/v1/reference#problem-{code}"), "{method} {path}");
    }
    assert_eq!(rows_of_tables(&database).await, before);
}

/// What a host may hold of an upload before it says no: the largest component, twice while it grows, and itself.
const PEAK_MIB_MAX: u64 = 320;

#[tokio::test]
async fn an_upload_without_an_end_is_refused_while_it_streams_in() {
    let database = database().await;
    let host = TestHost::start(HostOptions::new(&database)).await;
    let address = host.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/deployments HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/wasm\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut answers, mut uploads) = stream.split();
    let uploading = async {
        let mut chunk = format!("{:x}\r\n", 1 << 20).into_bytes();
        chunk.extend(vec![0_u8; 1 << 20]);
        chunk.extend(b"\r\n");
        // Ends only when nobody takes it any more.
        loop {
            if uploads.write_all(&chunk).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let answering = async {
        let mut answer = String::new();
        let mut bytes = [0; 4096];
        while !answer.contains("component-too-large") {
            let read = answers.read(&mut bytes).await.unwrap();
            assert_ne!(read, 0, "no answer: {answer}");
            answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, async {
        tokio::select! { answer = answering => answer, () = uploading => unreachable!() }
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let peak = peak_mib(host.pid());
    assert!(peak < PEAK_MIB_MAX, "{peak} MiB");
    assert_eq!(host.client.health().await.unwrap().status, "ok");
    // A length that is declared is believed: the answer comes before the first byte.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/deployments HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/wasm\r\n\
         content-length: {}\r\n\r\n",
        200 << 20
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; "HTTP/1.1 413".len()];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    let list = host.client.result("nobody", Duration::ZERO).await.unwrap_err();
    assert_eq!(list.code(), Some("unknown-run"), "it still serves");
}
