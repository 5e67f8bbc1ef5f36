//! Code around workflows, activities and children: in what order, with what commands, and what it may do.

use backstitch_sdk::testing::{Ending, TestRun};
use backstitch_sdk::{
    ActivityCall, ActivityOptions, ChildCall, ChildOptions, Error, Execution, Interceptor, Next, Pending,
    Result, call_activity, continue_as_new, duration, hook, info, join_all, select_biased, shielded,
    sleep_for, start_child, workflow,
};
use serde::Serialize;
use std::cell::Cell;

fn call<T>(name: &str, argument: impl Serialize) -> Pending<T> {
    call_activity(name, &(argument,), &ActivityOptions::default())
}

/// Writes down everything, by an activity of its own.
#[derive(Clone)]
struct Audit;

impl Interceptor for Audit {
    async fn execute(&self, run: Execution, next: Next<Execution>) -> Result<String> {
        call::<()>("audit", format!("{} {}", run.workflow, run.input)).await?;
        let output = next.run(run).await;
        call::<()>("audit", format!("{output:?}")).await?;
        output
    }

    async fn activity(&self, asked: ActivityCall, next: Next<ActivityCall>) -> Result<String> {
        call::<()>("audit", format!("{} {}", asked.name, asked.input)).await?;
        next.run(asked).await
    }

    async fn child(&self, asked: ChildCall, next: Next<ChildCall>) -> Result<String> {
        call::<()>("audit", format!("{} {}", asked.workflow, asked.input)).await?;
        next.run(asked).await
    }
}

#[workflow]
async fn shop(item: String) -> Result<u32> {
    let price: u32 = call("price", item.clone()).await?;
    start_child::<deliver>(item, ChildOptions::default()).result().await?;
    Ok(price)
}

#[workflow]
async fn deliver(item: String) -> Result<()> {
    call("carry", item).await
}

#[test]
fn an_interceptor_calls_activities_of_its_own_and_never_meets_them() {
    let story = |events| {
        let run = TestRun::<shop>::new()
            .interceptor(Audit)
            .activity("audit", |_| Ok(()))
            .activity("price", |_| Ok(7))
            .child("deliver", |_| Ok(()))
            .events_per_activation(events)
            .run("a mug");
        assert_eq!(run.output(), Ok(7));
        run.story()
    };
    assert_eq!(
        story(1),
        [
            r#"activity audit ["shop \"a mug\""]"#,
            r#"activity audit ["price [\"a mug\"]"]"#,
            r#"activity price ["a mug"]"#,
            r#"activity audit ["deliver \"a mug\""]"#,
            r#"child deliver "a mug""#,
            r#"activity audit ["Ok(\"7\")"]"#,
        ]
    );
    assert_eq!(story(100), story(1));
}

#[derive(Clone)]
struct Named(&'static str);

impl Interceptor for Named {
    async fn execute(&self, run: Execution, next: Next<Execution>) -> Result<String> {
        info!("{} in", self.0);
        let output = next.run(run).await;
        info!("{} out", self.0);
        output
    }

    async fn activity(&self, call: ActivityCall, next: Next<ActivityCall>) -> Result<String> {
        info!("{} before {}", self.0, call.name);
        let output = next.run(call).await;
        info!("{} after", self.0);
        output
    }
}

#[test]
fn the_first_interceptor_is_the_outermost() {
    let run = TestRun::<deliver>::new()
        .interceptor(Named("a"))
        .interceptor(Named("b"))
        .activity("carry", |_| Ok(()))
        .run("a mug");
    assert_eq!(run.output(), Ok(()));
    let logs: Vec<_> = run.logs().iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(
        logs,
        ["a in", "b in", "a before carry", "b before carry", "b after", "a after", "b out", "a out"]
    );
}

#[workflow]
async fn wide(width: u32) -> Result<Vec<u32>> {
    let branches = (0..width).map(|branch| async move {
        let half: u32 = call("first", branch).await?;
        call::<u32>("second", half).await
    });
    join_all(branches).await.into_iter().collect()
}

#[workflow]
async fn eager() -> Result<()> {
    let sleep = sleep_for("1 second");
    let number = call::<u32>("first", 1);
    let _never_awaited = call::<u32>("second", 2);
    number.await?;
    sleep.await
}

#[test]
fn interceptors_that_pass_on_change_no_command() {
    let wide = |interceptors: usize, events| {
        let mut run = TestRun::<wide>::new();
        for _ in 0..interceptors {
            run = run.interceptor(Named("n"));
        }
        let run = run
            .activity("first", |arguments| Ok(arguments[0].clone()))
            .activity("second", |arguments| Ok(arguments[0].clone()))
            .events_per_activation(events)
            .run(1_000);
        assert_eq!(run.output(), Ok((0..1_000).collect()));
        run.story()
    };
    let plain = wide(0, 1);
    for (interceptors, events) in [(1, 1), (3, 1), (3, 7), (1, 1_000)] {
        assert!(wide(interceptors, events) == plain, "{interceptors} interceptors, {events} events");
    }

    let run = TestRun::<eager>::new()
        .interceptor(Named("n"))
        .activity("first", |_| Ok(1))
        .activity("second", |_| Ok(2))
        .activity_takes("second", "1 day")
        .run(());
    assert_eq!(run.output(), Ok(()));
    assert_eq!(
        run.story(),
        ["sleep-for 1000 ms", "activity first [1]", "activity second [2]", "cancel 2"],
        "called at once, and given up when it is dropped",
    );
}

#[workflow]
async fn awaited_in_turn() -> Result<u32> {
    let (first, second) = (call::<u32>("price", "a"), call::<u32>("price", "b"));
    Ok(first.await? + second.await?)
}

#[test]
fn intercepted_calls_go_on_before_they_are_awaited() {
    let run = TestRun::<awaited_in_turn>::new()
        .interceptor(Audit)
        .activity("audit", |_| Ok(()))
        .activity("price", |_| Ok(1))
        .activity_takes("price", "1 hour")
        .run(());
    assert_eq!(run.output(), Ok(2));
    assert_eq!(run.elapsed(), duration!("1 hour"));
}

/// Changes, refuses, answers by itself and asks again, by the name of the activity.
#[derive(Clone)]
struct Meddler;

impl Interceptor for Meddler {
    async fn activity(&self, mut call: ActivityCall, next: Next<ActivityCall>) -> Result<String> {
        match call.name.as_str() {
            "renamed" => {
                call.name = "other".to_owned();
                call.input = "[2]".to_owned();
                next.run(call).await
            }
            "refused" => Err(Error::application("forbidden", "not in this shop")),
            "cached" => Ok("42".to_owned()),
            "garbled" => Ok("{".to_owned()),
            _ => match next.run(call.clone()).await {
                Err(_) => next.run(call).await,
                done => done,
            },
        }
    }
}

#[workflow]
async fn one(name: String) -> Result<u32> {
    call(&name, 1).await
}

#[test]
fn an_interceptor_may_change_refuse_answer_and_repeat_a_call() {
    let run = |name: &str| {
        let tries = Cell::new(0);
        TestRun::<one>::new()
            .interceptor(Meddler)
            .activity("other", |arguments| Ok(arguments[0].as_u64().map(|n| n * 10)))
            .activity("flaky", move |_| {
                tries.set(tries.get() + 1);
                if tries.get() == 1 {
                    Err(Error::application("no", "not yet").non_retryable())
                } else {
                    Ok(5)
                }
            })
            .run(name)
    };
    assert_eq!(
        (run("renamed").output(), run("renamed").story()),
        (Ok(20), vec!["activity other [2]".into()])
    );
    assert_eq!(run("refused").output().expect_err("refused").code(), "forbidden");
    assert!(run("refused").story().is_empty());
    assert_eq!((run("cached").output(), run("cached").story()), (Ok(42), vec![]));
    assert_eq!(run("garbled").output().expect_err("no JSON").code(), "invalid-output");
    assert_eq!((run("flaky").output(), run("flaky").story().len()), (Ok(5), 2));
}

#[workflow]
async fn impatient() -> Result<bool> {
    select_biased! {
        number = call::<u32>("slow", 1) => number.map(|_| true),
        passed = sleep_for("1 s") => passed.map(|()| false),
    }
}

#[test]
fn an_intercepted_call_that_loses_a_race_is_cancelled() {
    let run = TestRun::<impatient>::new()
        .interceptor(Named("n"))
        .activity("slow", |_| Ok(1))
        .activity_takes("slow", "1 day")
        .run(());
    assert_eq!(run.output(), Ok(false));
    assert_eq!(run.story(), ["activity slow [1]", "sleep-for 1000 ms", "cancel 0"]);
}

#[workflow]
async fn detaching(then_sleeps: String) -> Result<()> {
    call::<()>("detached", 1).detach();
    start_child::<deliver>("a mug".to_owned(), ChildOptions::default()).detach();
    sleep_for(&then_sleeps).await
}

#[test]
fn interceptors_see_the_end_of_a_detached_call_unless_the_run_ends_before() {
    let run = |sleeps: &str| {
        let run = TestRun::<detaching>::new()
            .interceptor(Named("n"))
            .activity("detached", |_| Ok(()))
            .activity_takes("detached", "1 hour")
            .child("deliver", |_| Ok(()))
            .run(sleeps);
        assert_eq!(run.output(), Ok(()));
        assert!(!run.story().iter().any(|line| line.starts_with("cancel")), "{:?}", run.story());
        run.logs().iter().filter(|(_, line)| line == "n after").count()
    };
    assert_eq!(run("2 hours"), 1);
    assert_eq!(run("1 minute"), 0);
}

/// Counts calls, and has a hook that calls too.
#[derive(Clone)]
struct Sentinel;

impl Interceptor for Sentinel {
    async fn execute(&self, run: Execution, next: Next<Execution>) -> Result<String> {
        hook(async {
            sleep_for("10 s").await?;
            call::<()>("own", 1).await
        });
        next.run(run).await
    }

    async fn activity(&self, call: ActivityCall, next: Next<ActivityCall>) -> Result<String> {
        info!("met {}", call.name);
        next.run(call).await
    }
}

#[workflow]
async fn with_a_hook() -> Result<()> {
    hook(async {
        sleep_for("20 s").await?;
        call::<()>("hooks", 1).await
    });
    sleep_for("1 minute").await
}

#[test]
fn calls_of_hooks_belong_to_whoever_began_the_hook() {
    let run = TestRun::<with_a_hook>::new()
        .interceptor(Sentinel)
        .activity("own", |_| Ok(()))
        .activity("hooks", |_| Ok(()))
        .run(());
    assert_eq!(run.output(), Ok(()));
    assert_eq!(run.story()[3..], ["activity own [1]", "activity hooks [1]"]);
    let met: Vec<_> = run.logs().iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(met, ["met hooks"]);
}

#[derive(Clone)]
struct Endings;

impl Interceptor for Endings {
    async fn execute(&self, run: Execution, next: Next<Execution>) -> Result<String> {
        let output = next.run(run).await;
        match &output {
            Ok(_) => info!("completed"),
            Err(error) if error.is_continue_as_new() => info!("continued"),
            Err(error) => info!("failed: {}", error.code()),
        }
        output
    }
}

#[workflow]
async fn again(round: u32) -> Result<()> {
    continue_as_new(round + 1)
}

#[test]
fn an_interceptor_sees_how_a_run_ends_and_leaves_it_so() {
    let run = TestRun::<again>::new().interceptor(Endings).run(1);
    assert_eq!(run.ending(), &Ending::ContinuedAsNew("2".to_owned()));
    assert_eq!(run.logs()[0].1, "continued");

    let run = TestRun::<again>::new().interceptor(Endings).run("one");
    assert_eq!(run.output().expect_err("no number").code(), "invalid-input");
    assert_eq!(run.logs()[0].1, "failed: invalid-input");

    let run = TestRun::<impatient>::new()
        .interceptor(Endings)
        .activity("slow", |_| Ok(1))
        .activity_takes("slow", "1 day")
        .cancel("100 ms")
        .run(());
    assert!(run.output().expect_err("cancelled").is_cancelled());
    assert_eq!(run.logs()[0].1, "failed: cancelled");
}

/// A limit for each run. The run and its replay begin with a clone each.
#[derive(Clone)]
struct AtMost {
    calls: Cell<u32>,
}

impl Interceptor for AtMost {
    async fn activity(&self, call: ActivityCall, next: Next<ActivityCall>) -> Result<String> {
        match self.calls.get().checked_sub(1) {
            Some(left) => self.calls.set(left),
            None => return Err(Error::application("too-many", "that was the last one")),
        }
        next.run(call).await
    }
}

#[test]
fn an_interceptor_may_have_state_which_is_the_runs() {
    let run = TestRun::<wide>::new()
        .interceptor(AtMost { calls: Cell::new(12) })
        .activity("first", |arguments| Ok(arguments[0].clone()))
        .activity("second", |arguments| Ok(arguments[0].clone()))
        .run(10);
    assert_eq!(run.output().expect_err("twelve of twenty").code(), "too-many");
    assert_eq!(run.story().len(), 12);
}

#[workflow]
async fn cleans_up() -> Result<()> {
    let slept = sleep_for("30 days").await;
    // The audit comes first, so the call itself is given in a later poll.
    shielded(async { call::<()>("undo", 1).await }).await?;
    slept
}

#[test]
fn what_interceptors_make_of_a_call_in_a_shielded_scope_is_shielded() {
    let run = TestRun::<cleans_up>::new()
        .interceptor(Audit)
        .activity("audit", |_| Ok(()))
        .activity("undo", |_| Ok(()))
        .activity_takes("audit", "1 minute")
        .activity_takes("undo", "1 minute")
        .cancel("1 hour")
        // Once while the audit is under way, and once while the call is.
        .cancel("3630 s")
        .cancel("3690 s")
        .run(());
    assert!(run.output().unwrap_err().is_cancelled());
    let shields = run.story().iter().filter(|line| line.starts_with("shield")).count();
    assert_eq!(shields, 2, "{:#?}", run.story());
    assert!(run.story().iter().any(|line| line.starts_with("activity undo")), "{:#?}", run.story());
}
