//! Functions that run beside a workflow's main function, in the same run.

use backstitch_sdk::testing::{Ending, TestRun};
use backstitch_sdk::{
    ActivityOptions, Error, Level, Pending, Result, call_activity, exec_hook, hook, join, join_all, raise,
    sleep_for, wait_for, workflow,
};
use serde::Serialize;
use std::cell::RefCell;
use std::rc::Rc;

fn call<T>(name: &str, argument: impl Serialize) -> Pending<T> {
    call_activity(name, &(argument,), &ActivityOptions::default())
}

#[workflow]
async fn main_and_hooks(hooks: u32) -> Result<Vec<u32>> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    for n in 0..hooks {
        let seen = Rc::clone(&seen);
        hook(async move {
            let first: u32 = call("first", n).await?;
            let second: u32 = call("second", first).await?;
            seen.borrow_mut().push(second);
            Ok(())
        });
    }
    wait_for::<()>("go").await?;
    Ok(seen.take())
}

#[test]
fn hooks_go_on_while_the_main_function_waits_for_something_else() {
    let story = |events| {
        let run = TestRun::<main_and_hooks>::new()
            .activity("first", |arguments| Ok(arguments[0].clone()))
            .activity("second", |arguments| Ok(arguments[0].clone()))
            .signal("go", (), "1 s")
            .events_per_activation(events)
            .run(300);
        (run.output().expect("completes"), run.story())
    };
    let (seen, one_by_one) = story(1);
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    assert_eq!(one_by_one.len(), 601);
    for events in [2, 7, 1_000] {
        assert_eq!(story(events).1, one_by_one, "{events} events an activation");
    }
}

#[workflow]
async fn waits_for_its_hooks() -> Result<u32> {
    let twice = |n: u32| async move { call::<u32>("echo", n).await.map(|n| 2 * n) };
    let (first, second) = (hook(twice(1)), hook(twice(2)));
    // Begun in answer to an event, while the others rest.
    let outer = hook(async move {
        sleep_for("1 s").await?;
        hook(twice(10)).await.map(|n| n + 1)
    });
    for _ in 0..3 {
        hook(async { wait_for::<()>("never").await });
    }
    Ok(second.await? + first.await? + outer.await?)
}

#[test]
fn a_hook_can_be_awaited_and_may_have_hooks() {
    let run =
        TestRun::<waits_for_its_hooks>::new().activity("echo", |arguments| Ok(arguments[0].clone())).run(());
    assert_eq!(run.output(), Ok(27));
}

#[workflow]
async fn perspectives(delays: Vec<u32>) -> Result<Vec<String>> {
    let hooks = delays.into_iter().enumerate().map(|(n, delay)| {
        let signal = format!("perspective-{n}");
        exec_hook::<String>(&signal, perspective(signal.clone(), delay))
    });
    join_all(hooks).await.into_iter().collect()
}

async fn perspective(signal: String, delay: u32) -> Result<()> {
    sleep_for(format!("{delay} s")).await?;
    raise(&signal, &format!("{signal} after {delay}"))?;
    call("file", signal).await
}

#[test]
fn a_hook_raises_what_its_caller_waits_for_and_goes_on() {
    let run = TestRun::<perspectives>::new().activity("file", |_| Ok(())).run([3, 1, 2]);
    let output = run.output().expect("completes");
    assert_eq!(output, ["perspective-0 after 3", "perspective-1 after 1", "perspective-2 after 2"]);
    assert_eq!(
        run.story()[3..],
        [
            r#"activity file ["perspective-1"]"#,
            r#"activity file ["perspective-2"]"#,
            // Called before the main function had its turn and returned, which did not wait for it.
            r#"activity file ["perspective-0"]"#,
        ],
    );
}

#[workflow]
async fn never_raised(fails: bool) -> Result<u32> {
    exec_hook("answer", async move {
        call::<u32>("find", ()).await?;
        if fails { Err(Error::application("lost", "nothing found")) } else { Ok(()) }
    })
    .await
}

#[test]
fn a_hook_that_ends_without_raising_ends_the_wait() {
    let run = |fails: bool| TestRun::<never_raised>::new().activity("find", |_| Ok(1)).run(fails);
    assert_eq!(run(true).output().expect_err("failed").code(), "lost");
    assert_eq!(run(false).output().expect_err("silent").code(), "hook-silent");
    let run = TestRun::<never_raised>::new()
        .activity("find", |_| Ok(1))
        .activity_takes("find", "1 day")
        .cancel("1 hour")
        .run(false);
    assert!(run.output().expect_err("cancelled").is_cancelled());
}

#[workflow]
async fn given_up() -> Result<()> {
    hook(async {
        let _guard = call::<()>("slow", 1);
        sleep_for("365 days").await
    });
    sleep_for("1 s").await
}

#[test]
fn hooks_are_given_up_without_a_command_when_the_main_function_returns() {
    let run = TestRun::<given_up>::new().activity("slow", |_| Ok(())).activity_takes("slow", "1 day").run(());
    assert_eq!(run.output(), Ok(()));
    assert_eq!(run.elapsed(), backstitch_sdk::duration!("1 s"));
    assert_eq!(run.story(), ["sleep-for 1000 ms", "activity slow [1]", "sleep-for 31536000000 ms"]);
}

#[workflow]
async fn unnoticed() -> Result<()> {
    hook(async { Err::<(), _>(Error::application("spilt", "milk")) });
    sleep_for("1 s").await
}

#[test]
fn a_hook_that_fails_unnoticed_is_logged() {
    let run = TestRun::<unnoticed>::new().run(());
    assert_eq!(run.output(), Ok(()));
    let expected = "a hook that nobody waits for has failed: spilt: milk".to_owned();
    assert_eq!(run.logs(), [(Level::Warn, expected)]);
}

#[workflow]
async fn line() -> Result<Vec<u32>> {
    raise("n", &1)?;
    raise("n", &2)?;
    let idle = || async { wait_for::<()>("never").await };
    let kept = join!(exec_hook::<u32>("n", idle()), exec_hook::<u32>("n", idle()));
    let given_up = exec_hook::<u32>("n", idle());
    let waits = exec_hook::<u32>("n", idle());
    drop(given_up);
    raise("n", &3)?;
    Ok(vec![kept.0?, kept.1?, waits.await?])
}

#[test]
fn what_is_raised_is_kept_and_goes_to_who_still_waits_in_order() {
    assert_eq!(TestRun::<line>::new().run(()).output(), Ok(vec![1, 2, 3]));
}

#[workflow]
async fn misread() -> Result<u32> {
    exec_hook("n", async { raise("n", "seven") }).await
}

#[test]
fn a_raised_value_of_another_form_is_an_error() {
    let error = TestRun::<misread>::new().run(()).output().expect_err("no number");
    assert_eq!((error.code(), error.is_retryable()), ("invalid-signal", false));
    assert!(error.message().contains("`n` is not a u32"), "{error}");
}

#[workflow]
async fn stuck() -> Result<()> {
    hook(async { wait_for::<()>("hook").await });
    wait_for::<()>("main").await
}

#[test]
fn a_run_waits_for_its_main_function_alone() {
    let run = TestRun::<stuck>::new().signal("hook", (), "1 s").run(());
    assert!(matches!(run.ending(), Ending::Blocked(open) if open.len() == 1));
    assert_eq!(TestRun::<stuck>::new().signal("main", (), "1 s").run(()).output(), Ok(()));
}
