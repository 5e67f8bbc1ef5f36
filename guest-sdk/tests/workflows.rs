//! What workflow authors rely on, played through the test executor: the order of commands, the ways
//! to wait, the ways to end.

use backstitch_sdk::futures::StreamExt;
use backstitch_sdk::futures::stream::FuturesUnordered;
use backstitch_sdk::testing::{self, Command, Ending, TestRun};
use backstitch_sdk::{
    ActivityOptions, ChildOptions, Error, ErrorKind, Level, Pending, Result, RetryPolicy, activities,
    activity, activity_table, call_activity, continue_as_new, duration, entity, exec_child, info, join,
    join_all, now, patched, proxy_activities, random_u64, remove_attribute, select_biased, set_attribute,
    show, sleep_for, start_child, start_child_named, try_join_all, uuid, wait_for, workflow,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

fn call<T>(name: &str, argument: impl Serialize) -> Pending<T> {
    call_activity(name, &(argument,), &ActivityOptions::default())
}

fn first(arguments: &Value) -> Value {
    arguments[0].clone()
}

// Order.

#[workflow]
async fn two_rounds(width: u32) -> Result<Vec<u32>> {
    let branches = (0..width).map(|branch| async move {
        let half: u32 = call("first", branch).await?;
        call::<u32>("second", half).await
    });
    join_all(branches).await.into_iter().collect()
}

#[test]
fn the_size_of_a_batch_never_changes_the_order_of_commands() {
    let story = |events| {
        let run = TestRun::<two_rounds>::new()
            .activity("first", |arguments| Ok(first(&arguments)))
            .activity("second", |arguments| Ok(first(&arguments)))
            .events_per_activation(events)
            .run(50);
        assert_eq!(run.output().expect("completes"), (0..50).collect::<Vec<_>>());
        run.story()
    };
    let one_by_one = story(1);
    assert_eq!(one_by_one.len(), 100);
    for events in [2, 7, 50, 1_000] {
        assert_eq!(story(events), one_by_one, "{events} events an activation");
    }
}

#[workflow]
async fn hare_and_tortoise() -> Result<()> {
    let tortoise = async {
        call::<()>("slow", 1).await?;
        call::<()>("slow", 2).await
    };
    let hare = async {
        call::<()>("quick", 1).await?;
        call::<()>("quick", 2).await
    };
    let (tortoise, hare) = join!(tortoise, hare);
    tortoise.and(hare)
}

#[test]
fn who_is_served_first_goes_on_first_even_within_a_batch() {
    for events in [1, 2, 10] {
        let run = TestRun::<hare_and_tortoise>::new()
            .activity("slow", |_| Ok(()))
            .activity_takes("slow", "2 seconds")
            .activity("quick", |_| Ok(()))
            .activity_takes("quick", "1 second")
            .events_per_activation(events)
            .run(());
        run.output().expect("completes");
        // The first branch of the `join!` is polled first, but its outcome comes second.
        assert_eq!(
            run.story(),
            ["activity slow [1]", "activity quick [1]", "activity quick [2]", "activity slow [2]"],
            "{events} events an activation",
        );
    }
}

#[workflow]
async fn eager() -> Result<()> {
    let sleep = sleep_for("1 second");
    let call = call::<()>("a", 1);
    let _never_awaited = wait_for::<()>("b");
    call.await?;
    sleep.await
}

#[test]
fn a_call_is_a_command_before_it_is_awaited() {
    let run = TestRun::<eager>::new().activity("a", |_| Ok(())).run(());
    run.output().expect("completes");
    assert_eq!(run.story(), ["sleep-for 1000 ms", "activity a [1]", "wait-for b", "cancel 2"]);
}

thread_local! {
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// Counts the polls of the future inside.
struct Counted<T>(Pending<T>);

impl<T: serde::de::DeserializeOwned> Future for Counted<T> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        POLLS.set(POLLS.get() + 1);
        Pin::new(&mut self.0).poll(cx)
    }
}

#[workflow]
async fn wide(width: u32) -> Result<usize> {
    POLLS.set(0);
    let results = join_all((0..width).map(|n| Counted(call::<u32>("echo", n)))).await;
    Ok(results.len())
}

#[test]
fn a_wide_join_polls_only_what_was_woken() {
    let run = TestRun::<wide>::new().activity("echo", |arguments| Ok(first(&arguments))).run(1_000);
    assert_eq!(run.output().expect("completes"), 1_000);
    // Once to register, once with the outcome.
    assert_eq!(POLLS.get(), 2_000);
}

#[workflow]
async fn as_they_come(width: u32) -> Result<Vec<u32>> {
    let mut calls: FuturesUnordered<_> = (0..width).map(|n| call::<u32>("echo", n)).collect();
    let mut outputs = Vec::new();
    while let Some(output) = calls.next().await {
        outputs.push(output?);
    }
    Ok(outputs)
}

#[test]
fn an_unordered_set_yields_outcomes_as_they_come() {
    let run = TestRun::<as_they_come>::new()
        .activity("echo", |arguments| Ok(first(&arguments)))
        .events_per_activation(1_000)
        .run(300);
    assert_eq!(run.output().expect("completes"), (0..300).collect::<Vec<_>>());
}

/// Pends once and wakes itself, as combinators do that give others a turn.
struct Yield(bool);

impl Future for Yield {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[workflow]
async fn yields() -> Result<()> {
    Yield(false).await;
    sleep_for("1 s").await?;
    Yield(false).await;
    Ok(())
}

#[test]
fn a_future_that_wakes_itself_is_polled_again() {
    assert_eq!(TestRun::<yields>::new().run(()).output(), Ok(()));
}

// Ways to wait.

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Decision {
    Yes,
    No,
    Late,
}

#[workflow(signals("manager-approval"))]
async fn decide() -> Result<Decision> {
    select_biased! {
        approved = wait_for::<bool>("manager-approval") => Ok(if approved? { Decision::Yes } else { Decision::No }),
        passed = sleep_for("3 days") => passed.map(|()| Decision::Late),
    }
}

#[test]
fn the_loser_of_a_select_is_cancelled() {
    let run = TestRun::<decide>::new().signal("manager-approval", true, "1 day").run(());
    assert_eq!(run.output().expect("completes"), Decision::Yes);
    assert_eq!(run.elapsed(), duration!("1 day"));
    assert_eq!(run.commands().last(), Some(&Command::Cancel { op: 1 }));

    let run = TestRun::<decide>::new().signal("manager-approval", true, "4 days").run(());
    assert_eq!(run.output().expect("completes"), Decision::Late);
    assert_eq!(run.commands().last(), Some(&Command::Cancel { op: 0 }));
}

#[test]
fn the_first_branch_wins_when_both_are_due() {
    // The signal is on the agenda before the timer.
    let run = TestRun::<decide>::new()
        .signal("manager-approval", false, "3 days")
        .events_per_activation(10)
        .run(());
    assert_eq!(run.output().expect("completes"), Decision::No);
}

#[workflow]
async fn both() -> Result<(u32, bool)> {
    let (number, signal) = join!(call::<u32>("number", ()), wait_for::<bool>("go"));
    Ok((number?, signal?))
}

#[test]
fn a_join_waits_for_both_at_once() {
    let run = TestRun::<both>::new()
        .activity("number", |_| Ok(7))
        .activity_takes("number", "10 minutes")
        .signal("go", true, "10 minutes")
        .run(());
    assert_eq!(run.output().expect("completes"), (7, true));
    assert_eq!(run.elapsed(), duration!("10 minutes"));
}

#[workflow]
async fn signals_in_turn() -> Result<Vec<String>> {
    sleep_for("1 hour").await?;
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(wait_for("name").await?);
    }
    Ok(names)
}

#[test]
fn signals_are_kept_and_come_in_order() {
    let run = TestRun::<signals_in_turn>::new()
        .signal("name", "a", "1 s")
        .signal("name", "b", "2 s")
        .signal("name", "c", "2 hours")
        .run(());
    assert_eq!(run.output().expect("completes"), ["a", "b", "c"]);
}

#[workflow]
async fn clock() -> Result<Vec<u64>> {
    let start = now();
    let mut seconds = Vec::new();
    for pause in ["5 seconds", "2 minutes", "30 days"] {
        sleep_for(pause).await?;
        seconds.push(now().duration_since(start)?.as_secs());
    }
    sleep_for(std::time::Duration::from_micros(1)).await?;
    Ok(seconds)
}

#[test]
fn time_passes_by_being_skipped() {
    let run = TestRun::<clock>::new().run(());
    assert_eq!(run.output().expect("completes"), [5, 125, 30 * 86_400 + 125]);
    assert_eq!(run.commands().last(), Some(&Command::Sleep { ms: 1 }), "rounded up");
}

#[workflow]
async fn sleepy(pause: String) -> Result<()> {
    sleep_for(&pause).await
}

#[test]
fn a_bad_duration_is_an_error_and_no_command() {
    let run = TestRun::<sleepy>::new().run("a fortnight");
    let error = run.output().expect_err("no such duration");
    assert_eq!(error.code(), "invalid-duration");
    assert!(error.message().contains("a fortnight"), "{error}");
    assert!(run.commands().is_empty());
}

#[workflow]
async fn dropped_and_detached() -> Result<()> {
    drop(call::<()>("dropped", 1));
    call::<()>("detached", 2).detach();
    start_child_and_leave();
    sleep_for("1 s").await
}

fn start_child_and_leave() {
    start_child::<sleepy>("1 year".to_owned(), ChildOptions::default().workflow_id("left")).detach();
}

#[test]
fn dropping_cancels_and_detaching_does_not() {
    let run = TestRun::<dropped_and_detached>::new()
        .activity("dropped", |_| Ok(()))
        .activity("detached", |_| Ok(()))
        .child("sleepy", |_| Ok(()))
        .run(());
    run.output().expect("the outcomes of what was left are ignored");
    assert_eq!(
        run.story(),
        [
            "activity dropped [1]",
            "cancel 0",
            "activity detached [2]",
            r#"child sleepy "1 year""#,
            "sleep-for 1000 ms",
        ],
    );
}

#[workflow]
async fn all_or_none() -> Result<Vec<u32>> {
    try_join_all((0..3).map(|n| call::<u32>("maybe", n))).await
}

#[test]
fn the_first_failure_of_a_try_join_cancels_the_rest() {
    let run = TestRun::<all_or_none>::new()
        .activity("maybe", |arguments| match arguments[0].as_u64() {
            Some(0) => Err(Error::application("zero", "not that one").non_retryable()),
            _ => Ok(first(&arguments)),
        })
        .run(());
    assert_eq!(run.output().expect_err("one failed").code(), "zero");
    assert_eq!(run.story()[3..], ["cancel 1", "cancel 2"]);
}

// Activities.

#[activities(task_queue = "inventory-tasks")]
trait Inventory {
    /// Documentation stays where it is.
    async fn check(item_id: String) -> i64;
    async fn reserve(item_id: String, quantity: i64) -> String;
    #[activity(name = "countAll")]
    async fn count_all() -> u32;
    async fn notify(item_id: String);
}

struct Warehouse;

impl Inventory for Warehouse {
    async fn check(item_id: String) -> Result<i64> {
        Ok(i64::try_from(item_id.len())?)
    }
    async fn reserve(item_id: String, quantity: i64) -> Result<String> {
        let attempt = activity::context().attempt;
        if attempt < 3 {
            return Err(Error::application("busy", format!("attempt {attempt}")));
        }
        Ok(format!("{item_id}/{quantity}/{attempt}/{}", activity::context().idempotency_key))
    }
    async fn count_all() -> Result<u32> {
        Ok(42)
    }
    async fn notify(_item_id: String) -> Result<()> {
        Err(Error::application("no-such-item", "gone").non_retryable().with_details(json!({"b": 1, "a": 2})))
    }
}

#[workflow]
async fn typed() -> Result<(i64, String, u32)> {
    let retry = RetryPolicy::default().initial_interval("200ms").backoff_coefficient(2.0);
    let inventory = proxy_activities::<dyn Inventory>(ActivityOptions::default().retry(retry));
    let urgent = inventory.with_options(ActivityOptions::default().task_queue("urgent"));
    let checked = urgent.check("item-1".to_owned()).await?;
    let reserved = inventory.reserve("item-1".to_owned(), 5).await?;
    Ok((checked, reserved, inventory.count_all().await?))
}

#[test]
fn a_proxy_and_an_implementation_understand_each_other() {
    let run = TestRun::<typed>::new().activities(activity_table!(Warehouse as Inventory)).run(());
    let (checked, reserved, count) = run.output().expect("completes");
    assert_eq!((checked, count), (6, 42));
    assert!(reserved.starts_with("item-1/5/3/") && reserved.ends_with(":1"), "{reserved}");
    assert_eq!(
        run.story(),
        [r#"activity check ["item-1"]"#, r#"activity reserve ["item-1",5]"#, "activity countAll []"],
    );
    let queues: Vec<_> = run
        .commands()
        .iter()
        .map(|command| match command {
            Command::Activity { task_queue, .. } => task_queue.as_deref(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(queues, [Some("urgent"), Some("inventory-tasks"), Some("inventory-tasks")]);
    assert_eq!(run.elapsed(), duration!("600ms"), "200 ms and 400 ms between three attempts");
}

#[workflow]
async fn notify() -> Result<()> {
    proxy_activities::<dyn Inventory>(ActivityOptions::default()).notify("x".to_owned()).await
}

#[test]
fn an_activitys_failure_ends_the_run_unchanged() {
    let run = TestRun::<notify>::new().activities(activity_table!(Warehouse as Inventory)).run(());
    let error = run.output().expect_err("fails");
    assert_eq!((error.code(), error.message(), error.is_retryable()), ("no-such-item", "gone", false));
    assert_eq!(error.details_json(), Some(r#"{"a":2,"b":1}"#));
}

#[test]
fn what_an_activity_cannot_read_is_an_invalid_input() {
    let table = activity_table!(Warehouse as Inventory);
    let invoke = |name: &str, input: &str| {
        backstitch_sdk::testing::invoke(table, name, input, backstitch_sdk::testing::context())
    };
    assert_eq!(invoke("countAll", "[]").expect("no arguments"), "42");
    for input in ["[1]", r#"["x"]"#, r#"["x","y"]"#, "null", "{"] {
        let error = invoke("reserve", input).expect_err(input);
        assert_eq!((error.code(), error.is_retryable()), ("invalid-input", false), "{input}: {error}");
    }
    let error = invoke("count_all", "[]").expect_err("it has another name");
    assert_eq!((error.code(), error.is_retryable()), ("unknown-activity", false));
    assert!(error.message().contains("countAll"), "{error}");
}

#[workflow]
async fn misread() -> Result<u32> {
    call("number", ()).await
}

#[test]
fn an_output_of_another_form_is_an_error_that_names_the_activity() {
    let run = TestRun::<misread>::new().activity("number", |_| Ok("seven")).run(());
    let error = run.output().expect_err("not a number");
    assert_eq!(error.code(), "invalid-output");
    assert!(error.message().contains("activity `number` is not a u32"), "{error}");
}

#[test]
#[should_panic(expected = "an activity waits for something")]
fn an_activity_that_would_hang_panics_instead() {
    let body = std::future::pending::<Result<()>>();
    let _ = backstitch_sdk::testing::run_activity(backstitch_sdk::testing::context(), body);
}

// Children.

#[workflow]
async fn parent(pause: String) -> Result<()> {
    let handle = start_child::<sleepy>(pause.clone(), ChildOptions::default());
    exec_child::<sleepy>(pause, ChildOptions::default().workflow_id("second")).await?;
    handle.result().await
}

#[test]
fn a_childs_failure_is_the_parents_unless_handled() {
    let run = TestRun::<parent>::new()
        .child("sleepy", |_| Err::<(), _>(Error::application("asleep", "never woke")))
        .run("1 s");
    assert_eq!(run.output().expect_err("fails").code(), "asleep");
    // The first child's outcome has come by then: there is nothing left to cancel.
    assert_eq!(run.story(), [r#"child sleepy "1 s""#; 2]);
}

// Ways to end.

#[derive(Debug, Deserialize, Serialize)]
struct Order {
    item_id: String,
}

#[workflow(name = "order")]
async fn order_by_another_name(order: Order) -> Result<String> {
    Ok(order.item_id)
}

#[test]
fn an_input_that_cannot_be_read_fails_with_what_was_wrong() {
    for (input, complaint) in [
        (r#"{"item":"x"}"#, "missing field `item_id`"),
        ("null", "invalid type: null"),
        ("{", "EOF while parsing"),
    ] {
        let error = TestRun::<order_by_another_name>::new().run_json(input).output().expect_err(input);
        assert_eq!((error.code(), error.is_retryable()), ("invalid-input", false));
        assert!(error.message().contains("workflow `order`"), "{error}");
        assert!(error.message().contains(complaint), "{error}");
    }
    let error = TestRun::<decide>::new().run_json("[1]").output().expect_err("takes no input");
    assert_eq!(error.code(), "invalid-input");
}

#[workflow]
async fn counter(round: u32) -> Result<()> {
    sleep_for("1 hour").await?;
    continue_as_new(round + 1)
}

#[test]
fn a_run_can_go_on_as_a_new_one() {
    let run = TestRun::<counter>::new().run(7);
    assert_eq!(run.ending(), &Ending::ContinuedAsNew("8".to_owned()));
}

#[test]
fn an_unhandled_cancellation_ends_the_run_as_cancelled() {
    let run = TestRun::<sleepy>::new().cancel("1 hour").run("30 days");
    let error = run.output().expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(run.elapsed(), duration!("1 hour"));
}

#[workflow]
async fn tidy() -> Result<String> {
    match sleep_for("30 days").await {
        Err(error) if error.is_cancelled() => call("clean_up", ()).await,
        other => other.map(|()| "slept".to_owned()),
    }
}

#[test]
fn a_cancellation_can_be_handled() {
    let run = TestRun::<tidy>::new().activity("clean_up", |_| Ok("clean")).cancel("1 hour").run(());
    assert_eq!(run.output().expect("completes"), "clean");
}

#[workflow]
async fn parses(text: String) -> Result<u8, std::num::ParseIntError> {
    text.parse()
}

#[test]
fn any_std_error_ends_a_run() {
    let error = TestRun::<parses>::new().run("256").output().expect_err("too large");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Application, "error"));
}

#[test]
fn a_run_that_nothing_wakes_says_what_it_waits_for() {
    let run = TestRun::<signals_in_turn>::new().signal("name", "a", "1 s").run(());
    assert_eq!(run.ending(), &Ending::Blocked(vec![Command::WaitFor { signal: "name".to_owned() }]));
}

// Ambients, changes, queries.

#[workflow]
async fn ambient() -> Result<(u64, String)> {
    info!("once, and {} on replay", "silent");
    Ok((random_u64(), uuid()))
}

#[test]
fn randomness_repeats_and_uuids_are_well_formed() {
    let run = TestRun::<ambient>::new().run(());
    let (number, id) = run.output().expect("completes");
    assert_eq!(TestRun::<ambient>::new().run(()).output().expect("completes"), (number, id.clone()));
    let bytes = id.as_bytes();
    assert_eq!(id.len(), 36);
    assert_eq!((bytes[14], bytes[8], bytes[13], bytes[18], bytes[23]), (b'4', b'-', b'-', b'-', b'-'));
    assert!(b"89ab".contains(&bytes[19]), "{id}");
    assert_eq!(run.logs(), [(Level::Info, "once, and silent on replay".to_owned())]);
}

#[workflow]
async fn changed() -> Result<&'static str> {
    Ok(if patched("louder") { "HELLO" } else { "hello" })
}

#[test]
fn a_change_is_in_force_only_for_runs_that_meet_it_first() {
    let run = TestRun::<changed>::new().run(());
    assert_eq!(run.ending(), &Ending::Completed(r#""HELLO""#.to_owned()));
    assert_eq!(run.story(), ["patched louder"]);
    let run = TestRun::<changed>::new().before_change("louder").run(());
    assert_eq!(run.ending(), &Ending::Completed(r#""hello""#.to_owned()));
    assert!(run.story().is_empty());
}

#[workflow(queries("progress"))]
async fn progress() -> Result<()> {
    for step in 1..=2 {
        show("progress", &json!({ "step": step }))?;
        wait_for::<()>("next").await?;
    }
    Ok(())
}

#[test]
fn a_query_shows_what_the_run_showed_last() {
    let run = TestRun::<progress>::new().run(());
    assert_eq!(run.query("progress"), Some(r#"{"step":1}"#));
    let run = TestRun::<progress>::new().signal("next", (), "0s").run(());
    assert_eq!(run.query("progress"), Some(r#"{"step":2}"#));
    assert_eq!(run.query("other"), None);
}

// The test executor itself.

thread_local! {
    static RUNS: Cell<u64> = const { Cell::new(0) };
}

#[workflow]
async fn forgetful() -> Result<()> {
    RUNS.set(RUNS.get() + 1);
    sleep_for(std::time::Duration::from_secs(RUNS.get())).await
}

#[test]
#[should_panic(expected = "the workflow is not deterministic: command 0 differs on replay")]
fn a_workflow_that_is_not_deterministic_fails_its_test() {
    let _ = TestRun::<forgetful>::new().run(());
}

#[test]
#[should_panic(expected = "the script answers no activity `number`")]
fn a_call_that_is_not_in_the_script_fails_the_test() {
    let _ = TestRun::<misread>::new().run(());
}

#[test]
#[should_panic(expected = "workflow code runs in a component, or natively under `testing::TestRun`")]
fn workflow_code_outside_of_a_run_panics() {
    drop(sleep_for("1 s"));
}

#[workflow]
async fn remembers(times: u32) -> Result<Vec<String>> {
    set_attribute("who", "ada");
    for time in 0..times {
        entity().append("times", &time)?;
    }
    let refused = entity().increment("times", 1.0).expect_err("it fails");
    remove_attribute("who");
    let unreadable = entity().get::<String>("times").expect_err("it fails");
    Ok(vec![refused.code().to_owned(), unreadable.code().to_owned(), info().workflow])
}

#[test]
fn an_entity_is_edited_as_on_a_host() {
    let run = TestRun::<remembers>::new().run(2);
    assert_eq!(run.output().unwrap(), ["invalid-edit", "invalid-entity", "remembers"]);
    assert_eq!(run.entity(), r#"{"times":[0,1]}"#);
    assert_eq!(
        run.story(),
        ["attribute who ada", "append entity times 0", "append entity times 1", "attribute who removed"]
    );
}

#[workflow]
async fn patient(_: ()) -> Result<(u32, Option<String>)> {
    let error = call_activity::<()>("busy", &(), &ActivityOptions::default()).await.expect_err("it fails");
    let child = start_child_named::<()>("child", &(), ChildOptions::default());
    let id = child.workflow_id();
    child.result().await?;
    Ok((error.attempts(), id))
}

#[test]
fn a_call_by_name_without_arguments_says_what_a_proxy_says() {
    let run = TestRun::<imports_rows>::new().activity("import", |_| Ok(1)).run(());
    assert!(run.story().iter().any(|line| line.contains("activity import []")), "{:?}", run.story());
}

#[test]
fn an_activity_says_when_it_wants_to_be_tried_again() {
    let busy = |_| Err::<(), _>(Error::application("busy", "later").retry_after("1 hour"));
    let run = TestRun::<patient>::new().activity("busy", busy).child("child", |_| Ok(())).run(());
    let (attempts, id) = run.output().unwrap();
    assert_eq!((attempts, run.elapsed()), (3, duration!("2 hours")));
    assert_eq!(id.as_deref(), Some("00000000-0000-7000-8000-000000000001:1"));
    let error = Error::application("busy", "later").retry_after("an hour");
    assert_eq!(error.code(), "invalid-duration");
}

#[workflow]
async fn imports_rows(_: ()) -> Result<u32> {
    let policy = RetryPolicy::default().maximum_attempts(4);
    call_activity("import", &(), &ActivityOptions::default().retry(policy)).await
}

#[test]
fn an_attempt_is_told_what_the_last_heartbeat_before_it_said() {
    let run = TestRun::<imports_rows>::new().activity("import", |_| {
        let context = activity::context();
        let done: u32 = context.heartbeat_details().unwrap_or(0);
        if context.attempt == 4 {
            return Ok(done);
        }
        // The third attempt fails before it can say anything.
        if context.attempt < 3 {
            assert!(!activity::heartbeat(&(done + 10)));
        }
        Err(Error::application("broken", "the line is dead"))
    });
    assert_eq!(run.run(()).output().unwrap(), 20);
}

#[activities]
trait Clerk {
    async fn sign(document: String) -> String;
}

struct Office;

impl Clerk for Office {
    /// The post takes no letter on the first day.
    async fn sign(document: String) -> Result<String> {
        let call = activity::defer()?;
        assert_eq!(activity::defer()?, call, "one token for each attempt");
        if activity::context().attempt == 1 {
            return Err(Error::application("unsent", document));
        }
        call.later()
    }
}

#[workflow]
async fn signature(document: String) -> Result<String> {
    let policy = RetryPolicy::default().initial_interval("1 minute").maximum_attempts(3);
    proxy_activities::<dyn Clerk>(ActivityOptions::default().retry(policy)).sign(document).await
}

#[test]
fn a_deferred_call_is_answered_later_or_stays_open() {
    let office = || TestRun::<signature>::new().activities(activity_table!(Office as Clerk));
    let run = office().deferred("sign", "2 days", |token| Ok(token.to_owned())).run("a lease");
    let token = run.output().unwrap();
    assert!(token.ends_with(".0.2.test"), "of the second attempt: {token}");
    assert_eq!(run.elapsed(), duration!("2 days 1 minute"));

    let run = office().run("a lease");
    assert!(matches!(run.ending(), Ending::Blocked(open) if open.len() == 1), "{:?}", run.ending());

    let refused = |_: &str| Err::<(), _>(Error::application("refused", "not like this").non_retryable());
    let error = office().deferred("sign", "1 hour", refused).run("a lease").output().unwrap_err();
    assert_eq!((error.code(), error.attempts()), ("refused", 2));
}

#[test]
fn an_attempt_that_nobody_waits_for_cannot_defer() {
    let (ended, _) = testing::watch_activity(testing::context(), Some(0), Office::sign("a lease".to_owned()));
    assert!(ended.unwrap_err().is_cancelled());
    let mut second = testing::context();
    second.attempt = 2;
    let ended = testing::run_activity(second, Office::sign("a lease".to_owned()));
    assert!(ended.unwrap_err().is_deferred());
}
