//! Every example, run on a host that goes over each activation twice more, and the histories that
//! come of it: those of today, and those in `tests/corpus/`, which were recorded once and are
//! replayed for ever.
//!
//! To record what is missing, such as the history of a new example (delete the file of one that was
//! changed on purpose; the others stay as they are):
//!
//!     BACKSTITCH_RECORD=1 cargo test -p backstitch --test replay the_corpus
//!
//! A history of the corpus that no longer replays although no example was changed is a finding: runs
//! that are open in somebody's database would be parked by an upgrade.

use std::collections::BTreeSet;

use backstitch_client::history::{History as Exported, Part};
use backstitch_client::views::RunView;
use backstitch_client::{ListRuns, StartOptions, StartRun};
use backstitch_core::{FaultKind, Json, Kind, Row, Run, RunId, RunStatus, Status};
use tokio::sync::OnceCell;

use crate::corrupt::terminated;
use crate::prefixes;
use crate::support::{HostOptions, TestHost, check_ledgers, connect, database, eventually, root};

/// What somebody does to a run while it is open.
#[derive(Clone, Copy)]
enum Steer {
    Nothing,
    Signal(&'static str, &'static str),
    /// Is paused, gets this signal, and is resumed.
    Hold(&'static str, &'static str),
    Cancel,
    Terminate,
    /// May take so many milliseconds, and takes longer.
    Bound(u64),
}

struct Example {
    /// Also the workflow id.
    name: &'static str,
    package: &'static str,
    workflow: &'static str,
    /// None: another example starts it, or it is [`RETRIED`].
    input: Option<&'static str>,
    steer: Steer,
    ends: RunStatus,
    /// What happens to it on the way, with which its ledger shows that the example does what it is for.
    passes: &'static [Kind],
}

const ORDER: &str = "order-workflow";
const VERBS: &str = "verbs-guest";
const CHILD: &str = "child-workflow";
const FAN_OUT: &str = "fan-out-workflow";

/// A run that was parked and goes on.
const RETRIED: &str = "retried";

impl Example {
    const fn new(
        name: &'static str,
        package: &'static str,
        workflow: &'static str,
        input: Option<&'static str>,
    ) -> Self {
        Self {
            name,
            package,
            workflow,
            input,
            steer: Steer::Nothing,
            ends: RunStatus::Completed,
            passes: &[],
        }
    }

    const fn steered(self, steer: Steer) -> Self {
        Self { steer, ..self }
    }

    const fn ends(self, ends: RunStatus) -> Self {
        Self { ends, ..self }
    }

    const fn passes(self, passes: &'static [Kind]) -> Self {
        Self { passes, ..self }
    }
}

macro_rules! order {
    ($item:literal, $quantity:literal) => {
        Some(concat!(
            r#"{"order_id":"o-1","customer":{"name":"A","email":"a@example.com","city":"Cork"},"item_id":""#,
            $item,
            r#"","quantity":"#,
            $quantity,
            r#","unit_price_cents":995}"#
        ))
    };
}

macro_rules! approval {
    ($timeout:literal) => {
        Some(concat!(
            r#"{"subject":"a desk","requester":"ada@example.com","manager":"grace@example.com","timeout":""#,
            $timeout,
            r#""}"#
        ))
    };
}

const EXAMPLES: &[Example] = &[
    Example::new("order-reserved", ORDER, "order_workflow", order!("SKU-1", 1)),
    Example::new("order-backordered", ORDER, "order_workflow", order!("SKU-1", 1000)),
    Example::new("order-flaky", ORDER, "order_workflow", order!("LEG-3374", 3))
        .passes(&[Kind::ActivityAttemptFailed]),
    Example::new("approved", "approval-workflow", "approval", approval!("3 days"))
        .steered(Steer::Signal("manager-approval", r#"{"approved":true}"#))
        .passes(&[Kind::SignalReceived, Kind::OpCancelled]),
    Example::new("approval-timed-out", "approval-workflow", "approval", approval!("50ms"))
        .passes(&[Kind::TimerFired, Kind::OpCancelled]),
    Example::new("approval-cancelled", "approval-workflow", "approval", approval!("3 days"))
        .steered(Steer::Cancel)
        .ends(RunStatus::Cancelled)
        .passes(&[Kind::CancelRequested]),
    Example::new("fan-out", FAN_OUT, "fan_out", Some(r#"{"n":25,"text":"é"}"#)),
    Example::new("steps", FAN_OUT, "steps", Some(r#"{"n":12,"text":"x"}"#)),
    Example::new("steps-then-wait", FAN_OUT, "steps_then_wait", Some(r#"{"n":2}"#))
        .steered(Steer::Signal("go", "null"))
        .passes(&[Kind::SignalReceived]),
    Example::new(
        "trip",
        "saga-workflow",
        "book_trip",
        Some(r#"{"trip_id":"lisbon","parts":["flight","hotel","car"]}"#),
    ),
    Example::new(
        "trip-undone",
        "saga-workflow",
        "book_trip",
        Some(r#"{"trip_id":"oslo-no-car","parts":["flight","hotel","car"]}"#),
    )
    .ends(RunStatus::Failed)
    .passes(&[Kind::ActivityFailed]),
    Example::new(
        "batch",
        CHILD,
        "validate_batch",
        Some(r#"[{"order_id":"a","sku":"SKU-1","quantity":1},{"order_id":"b","sku":"SKU-2","quantity":0}]"#),
    )
    .passes(&[Kind::ChildCompleted, Kind::ChildFailed]),
    Example::new("validate-a", CHILD, "validate_order", None),
    Example::new("validate-b", CHILD, "validate_order", None).ends(RunStatus::Failed),
    Example::new(
        "batch-of-one",
        CHILD,
        "validate_one",
        Some(r#"{"order_id":"c","sku":"SKU-1","quantity":1}"#),
    )
    .passes(&[Kind::ChildCompleted]),
    Example::new(
        "follow-up",
        "follow-up-workflow",
        "follow_up",
        Some(r#"{"customer":"ada@example.com","after":"30ms"}"#),
    )
    .passes(&[Kind::TimerFired]),
    Example::new("relay-refused", VERBS, "relay", Some(r#"{"to":"nobody","count":2}"#))
        .passes(&[Kind::SignalSent, Kind::MessageRefused]),
    Example::new("feed-child", VERBS, "feed_child", Some("3")).passes(&[
        Kind::SignalSent,
        Kind::MessageAccepted,
        Kind::ChildCompleted,
    ]),
    Example::new("stop-child", VERBS, "stop_child", Some("null")).passes(&[
        Kind::CancelSent,
        Kind::MessageAccepted,
        Kind::ChildFailed,
    ]),
    Example::new("shop", VERBS, "shop", Some("1"))
        .steered(Steer::Signal("update:buy", r#"{"id":"first","input":1}"#))
        .passes(&[Kind::SignalReceived, Kind::UpdateAnswered]),
    Example::new("careful", VERBS, "careful", Some(r#""the desk""#))
        .steered(Steer::Cancel)
        .ends(RunStatus::Cancelled)
        .passes(&[Kind::OpShielded, Kind::CancelRequested]),
    Example::new(
        "shipment",
        "shipment-workflow",
        "shipment",
        Some(r#"{"order_id":"o-1","amount_cents":1990}"#),
    ),
    Example::new(
        "shipment-stopped",
        "shipment-workflow",
        "shipment",
        Some(r#"{"order_id":"o-1-no-stock","amount_cents":1990}"#),
    )
    .ends(RunStatus::Failed)
    .passes(&[Kind::ActivityFailed]),
    Example::new(
        "payment",
        "payment-workflow",
        "payment",
        Some(r#"{"order_id":"o-1","customer":"ada@example.com","amount_cents":1990}"#),
    ),
    Example::new(
        "payment-refused",
        "payment-workflow",
        "payment",
        Some(r#"{"order_id":"o-1","customer":"ada@example.com","amount_cents":0}"#),
    )
    .ends(RunStatus::Failed)
    .passes(&[Kind::ActivityFailed]),
    Example::new("poll", "poll-workflow", "poll", Some(r#"{"job_id":"job-3","every":"PT0S"}"#))
        .passes(&[Kind::TimerFired]),
    Example::new(
        "poll-continued",
        "poll-workflow",
        "poll",
        Some(r#"{"job_id":"job-5","every":"20ms","looks_per_run":2}"#),
    )
    .ends(RunStatus::Continued)
    .passes(&[Kind::TimerFired]),
    Example::new("notebook", VERBS, "notebook", Some("1"))
        .steered(Steer::Signal("note", r#""remember""#))
        .passes(&[Kind::EntityEdited, Kind::AttributesSet]),
    Example::new("changed", VERBS, "changed", Some("null")).passes(&[Kind::ChangePatched]),
    Example::new("held", VERBS, "collect", Some("1"))
        .steered(Steer::Hold("item", "7"))
        .passes(&[Kind::RunPaused, Kind::RunResumed]),
    Example::new(RETRIED, VERBS, "collect", None).passes(&[Kind::RunRetried]),
    Example::new("bounded", VERBS, "collect", Some("1")).steered(Steer::Bound(50)).ends(RunStatus::TimedOut),
    Example::new("stopped", VERBS, "collect", Some("1"))
        .steered(Steer::Terminate)
        .ends(RunStatus::Terminated),
    Example::new("perspectives", "perspectives-workflow", "perspectives", Some(r#""rain""#)),
    Example::new("two-steps", "bare-workflow", "two_steps", Some(r#""said twice""#)),
];

/// A run that has ended, and the guest that made it.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// The example.
    pub(crate) name: String,
    /// The guest that made it.
    pub(crate) package: String,
    pub(crate) run: RunId,
    pub(crate) workflow: String,
    /// How it ended.
    pub(crate) status: RunStatus,
    pub(crate) rows: Vec<Row>,
    /// As it was exported.
    text: Vec<u8>,
}

impl History {
    /// What an export says of a run of `package`. It must be what this program would write.
    fn read(package: &str, text: Vec<u8>) -> Self {
        let mut exported = Exported::read(&text).unwrap();
        assert!(exported.text() == text, "{} is not written as it was read", exported.workflow_id);
        let rows = exported.rows().unwrap();
        let Exported { workflow_id: name, run_id: run, workflow, status, .. } = exported;
        let status = status.expect("exported with its status");
        Self { name, package: package.to_owned(), run, workflow, status, rows, text }
    }

    /// What the guest returned at last; none if the run was ended from outside.
    pub(crate) fn end(&self) -> Option<Status> {
        let last = self.rows.last().expect("a history has rows");
        let text = || last.payload.as_deref().expect("a run that ended by itself says with what");
        Some(match Kind::from_tag(last.kind) {
            Some(Kind::RunCompleted) => Status::Completed(Json::new(text()).unwrap()),
            Some(Kind::RunContinued) => Status::ContinueAsNew(Json::new(text()).unwrap()),
            Some(Kind::RunFailed | Kind::RunCancelled) => {
                Status::Failed(serde_json::from_str(text()).unwrap())
            }
            Some(Kind::RunTerminated | Kind::RunTimedOut) => return None,
            other => panic!("{}: ends with {other:?}", self.name),
        })
    }
}

/// The histories of all examples, made once.
pub(crate) async fn histories() -> &'static [History] {
    static HISTORIES: OnceCell<Vec<History>> = OnceCell::const_new();
    HISTORIES.get_or_init(|| Box::pin(run_examples())).await
}

async fn run_examples() -> Vec<History> {
    let database = database().await;
    leave_damaged(&database).await;
    let host = TestHost::start(HostOptions::new(&database).arg("--check-activations")).await;
    mend(&database, &host).await;
    let packages: BTreeSet<&str> = EXAMPLES.iter().map(|example| example.package).collect();
    host.deploy(&packages.into_iter().collect::<Vec<_>>()).await;
    host.deploy(&["order-activities", "example-activities", "hostile-guest"]).await;
    for Example { name, workflow, input, steer, .. } in EXAMPLES {
        if let Some(input) = input {
            let start = StartRun::new(*workflow, Some((*name).to_owned()), Json::new(*input).unwrap());
            let run_timeout_ms = match steer {
                Steer::Bound(ms) => Some(*ms),
                _ => None,
            };
            let options = StartOptions { run_timeout_ms, ..StartOptions::default() };
            host.client.start(StartRun { options, ..start }).await.unwrap();
        }
        match steer {
            Steer::Nothing | Steer::Bound(_) => {}
            Steer::Hold(signal, payload) => {
                host.client.pause(name, "not yet").await.unwrap();
                eventually("it is paused", async || {
                    (host.client.run(name).await.ok()?.run.status == RunStatus::Paused).then_some(())
                })
                .await;
                host.client.signal(name, signal, &Json::new(*payload).unwrap()).await.unwrap();
                host.client.resume(name, "now").await.unwrap();
            }
            Steer::Terminate => host.client.terminate(name, "no longer wanted").await.unwrap(),
            Steer::Signal(signal, payload) => {
                host.client.signal(name, signal, &Json::new(*payload).unwrap()).await.unwrap();
            }
            Steer::Cancel => host.client.cancel(name, "no longer wanted").await.unwrap(),
        }
    }
    for Example { name, ends, .. } in EXAMPLES {
        let view = last_run(&host, name).await;
        // What a run continued as ends by completing.
        let last = if *ends == RunStatus::Continued { RunStatus::Completed } else { *ends };
        assert_eq!(view.status, last, "{name}: {view:#?}\n{}", host.log());
    }
    caught_red_handed(&host).await;
    check_ledgers(&database).await;
    kept(&host).await
}

/// The run with which an example ends, when it has ended.
async fn last_run(host: &TestHost, id: &str) -> RunView {
    eventually(&format!("{id} ends"), async || {
        let view = host.ended_run(id).await;
        (view.status != RunStatus::Continued).then_some(view)
    })
    .await
}

/// That the host does compare is shown by the guest that does not stand it.
async fn caught_red_handed(host: &TestHost) {
    let id = host.start_run("nondeterministic", "nondeterministic", "1").await;
    let view = host.ended_run(&id).await;
    assert_eq!(view.status, RunStatus::Parked, "{view:#?}");
    let fault = view.fault.unwrap();
    assert_eq!(fault.kind, FaultKind::Divergence);
    assert!(fault.message.contains("the warm guest gave"), "{}", fault.message);
    terminated(host, &id, "has shown what it is for").await;
}

async fn kept(host: &TestHost) -> Vec<History> {
    let mut histories = Vec::new();
    for Example { name, package, ends, passes, .. } in EXAMPLES {
        let history = history(host, name, package, *ends).await;
        for kind in *passes {
            let rows = &history.rows;
            assert!(rows.iter().any(|row| row.kind == kind.tag()), "{name}: no {kind:?} in {rows:#?}");
        }
        histories.push(history);
    }
    histories
}

/// Leaves [`RETRIED`] behind, with a ledger that the next host cannot read.
async fn leave_damaged(database: &str) {
    let mut host = TestHost::with(database, &[VERBS]).await;
    host.start_run("collect", RETRIED, "1").await;
    eventually("it waits", async || {
        host.rows(RETRIED).await.iter().any(|row| row.kind == "signal-awaited").then_some(())
    })
    .await;
    host.kill();
    sqlx::query("update ledger set attempt = 1").execute(&mut connect(database).await).await.unwrap();
}

/// Lets it go on.
async fn mend(database: &str, host: &TestHost) {
    assert_eq!(host.ended_run(RETRIED).await.status, RunStatus::Parked);
    sqlx::query("update ledger set attempt = null").execute(&mut connect(database).await).await.unwrap();
    host.client.retry(RETRIED).await.unwrap();
    host.client.signal(RETRIED, "item", &Json::new("7").unwrap()).await.unwrap();
}

/// Exports the history of a run that has ended: of the first of its id that continued as another when
/// `status` is that, else of the last.
pub(crate) async fn history(host: &TestHost, id: &str, package: &str, status: RunStatus) -> History {
    let run = match status {
        RunStatus::Continued => first_run(host, id).await.to_string(),
        _ => id.to_owned(),
    };
    let text = host.client.history(&run, &[Part::Status, Part::Timeline]).await.unwrap();
    History::read(package, text)
}

async fn first_run(host: &TestHost, id: &str) -> RunId {
    let continued = ListRuns { status: Some(RunStatus::Continued), ..ListRuns::default() };
    let runs = host.client.list(continued).await.unwrap().runs;
    let first = runs.iter().find(|run| run.workflow_id == id && run.generation == 0);
    first.expect("it continued as another").run_id
}

#[tokio::test]
async fn every_activation_of_every_example_is_the_same_when_it_is_run_twice_more_in_fresh_stores() {
    assert_eq!(histories().await.len(), EXAMPLES.len());
}

#[tokio::test]
async fn every_example_does_from_every_prefix_what_it_did_live() {
    for history in histories().await {
        let program = prefixes::program(&history.package).await;
        prefixes::check(&program, history).unwrap_or_else(|problem| panic!("{}: {problem}", history.name));
    }
}

#[tokio::test]
async fn the_corpus_still_replays() {
    let corpus = root().join("tests/corpus");
    if backstitch::ambient::variable("BACKSTITCH_RECORD").is_some() {
        for history in histories().await {
            let file = corpus.join(&history.name).with_extension("json");
            if !file.exists() {
                std::fs::write(file, &history.text).unwrap();
            }
        }
    }
    let mut seen = BTreeSet::new();
    for example in EXAMPLES {
        let text = std::fs::read(corpus.join(example.name).with_extension("json")).unwrap();
        let history = History::read(example.package, text);
        let named = (history.name.as_str(), history.workflow.as_str());
        assert_eq!(named, (example.name, example.workflow));
        assert_eq!(history.status, example.ends, "{}", example.name);
        sealed_as_then(&history);
        seen.extend(history.rows.iter().map(|row| row.kind));
        let program = prefixes::program(&history.package).await;
        prefixes::check(&program, &history).unwrap_or_else(|problem| {
            panic!(
                "{}: {problem}\nwas the example changed? examples.rs says how to record anew",
                example.name
            )
        });
    }
    let missing: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !seen.contains(&kind.tag())).collect();
    assert_eq!(missing, [], "kinds of rows that no file of the corpus has");
    let files = std::fs::read_dir(corpus).unwrap().count();
    assert_eq!(files, EXAMPLES.len(), "a file of the corpus that no example is named after");
}

/// Events made of the rows make the very same rows again.
fn sealed_as_then(history: &History) {
    let (_, events) = Run::load_all(history.run, &history.rows)
        .unwrap_or_else(|corrupt| panic!("{}: the format of rows has changed: {corrupt}", history.name));
    let mut run = Run::new(history.run);
    for (row, event) in history.rows.iter().zip(&events) {
        assert_eq!(&run.append(row.at_ms, event).unwrap(), row, "{}", history.name);
    }
    assert_eq!(run.status(), Some(history.status), "{}", history.name);
}
