//! Many things at once, and waiting until a time.

use backstitch_sdk::futures::StreamExt;
use backstitch_sdk::futures::future::join;
use backstitch_sdk::futures::stream::FuturesUnordered;
use backstitch_sdk::testing::{Command, Finished, TestRun};
use backstitch_sdk::{
    ActivityOptions, Error, Pending, Result, Semaphore, all, call_activity, duration, join_all, now, now_ms,
    select_biased, sleep_for, sleep_until, wait_for, wait_for_timeout, workflow,
};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::time::{Duration, SystemTime};

fn call<T>(name: &str, argument: impl Serialize) -> Pending<T> {
    call_activity(name, &(argument,), &ActivityOptions::default())
}

// All of them.

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum How {
    JoinAll,
    All,
    Unordered,
    Semaphore(usize),
}

#[workflow]
async fn thousand(how: How) -> Result<Vec<u32>> {
    let echo = |n: u32| call::<u32>("echo", n);
    match how {
        How::JoinAll => join_all((0..1_000).map(echo)).await.into_iter().collect(),
        How::All => all((0..1_000).map(echo)).await,
        How::Unordered => {
            let mut running: FuturesUnordered<_> = (0..1_000).map(echo).collect();
            let mut outputs = Vec::new();
            while let Some(output) = running.next().await {
                outputs.push(output?);
            }
            outputs.sort_unstable();
            Ok(outputs)
        }
        How::Semaphore(permits) => {
            let at_once = Semaphore::new(permits);
            all((0..1_000).map(|n| at_once.run(move || echo(n)))).await
        }
    }
}

#[test]
fn a_thousand_activities_run_at_once_or_so_many_at_a_time() {
    for (how, seconds) in [
        (How::JoinAll, 1),
        (How::All, 1),
        (How::Unordered, 1),
        (How::Semaphore(1), 1_000),
        (How::Semaphore(64), 16),
        (How::Semaphore(2_000), 1),
    ] {
        let mut stories = [1, 3, 5_000].map(|events| {
            let run = TestRun::<thousand>::new()
                .activity("echo", |arguments| Ok(arguments[0].clone()))
                .activity_takes("echo", "1 second")
                .events_per_activation(events)
                .run(how);
            assert_eq!(run.output(), Ok((0..1_000).collect()), "{how:?}");
            assert_eq!(run.elapsed(), Duration::from_secs(seconds), "{how:?}");
            run.story()
        });
        let expected: Vec<_> = (0..1_000).map(|n| format!("activity echo [{n}]")).collect();
        for story in &mut stories {
            assert!(*story == expected, "{how:?}: {story:?}");
        }
    }
}

#[workflow]
async fn one_of_them_fails(failing: u32) -> Result<Vec<u32>> {
    all((0..1_000).map(|n| call::<u32>(if n == failing { "fails" } else { "echo" }, n))).await
}

#[test]
fn all_fails_at_the_first_error_in_time_and_gives_the_others_up() {
    for failing in [0, 500, 999] {
        let run = TestRun::<one_of_them_fails>::new()
            .activity("echo", |arguments| Ok(arguments[0].clone()))
            .activity_takes("echo", "1 day")
            .activity("fails", |_| Err::<(), _>(Error::application("no", "not this one").non_retryable()))
            .activity_takes("fails", "1 second")
            .run(failing);
        assert_eq!(run.output().expect_err("one failed").code(), "no");
        assert_eq!(run.elapsed(), duration!("1 second"), "{failing}");
        let given_up = run.commands().iter().filter(|command| matches!(command, Command::Cancel { .. }));
        assert_eq!(given_up.count(), 999);
    }
}

#[workflow]
async fn none_at_all() -> Result<Vec<u32>> {
    all(Vec::<Pending<u32>>::new()).await
}

#[test]
fn all_of_none_is_none() {
    assert_eq!(TestRun::<none_at_all>::new().run(()).output(), Ok(vec![]));
}

#[workflow]
async fn longest_first() -> Result<Vec<u64>> {
    all([3_u64, 1, 2].map(|seconds| async move {
        sleep_for(Duration::from_secs(seconds)).await?;
        Ok(seconds)
    }))
    .await
}

#[test]
fn all_keeps_the_order_of_the_futures() {
    assert_eq!(TestRun::<longest_first>::new().run(()).output(), Ok(vec![3, 1, 2]));
}

#[workflow]
async fn quickest() -> Result<u32> {
    let mut racing: FuturesUnordered<_> = (0..5_u32).map(|n| call::<u32>(&format!("lane-{n}"), n)).collect();
    racing.next().await.expect("five are in it")
}

#[test]
fn the_first_of_a_race_wins_and_the_others_are_given_up() {
    let mut run = TestRun::<quickest>::new();
    for n in 0..5 {
        let lane = format!("lane-{n}");
        run = run.activity(&lane, |arguments| Ok(arguments[0].clone()));
        run = run.activity_takes(&lane, if n == 3 { "1 s" } else { "2 s" });
    }
    let run = run.run(());
    assert_eq!(run.output(), Ok(3));
    assert_eq!(run.story().iter().filter(|line| line.starts_with("cancel")).count(), 4);
}

#[workflow]
async fn dropped_by_a_timer(permits: usize) -> Result<&'static str> {
    let at_once = Semaphore::new(permits);
    select_biased! {
        output = all((0..100).map(|n| at_once.run(move || call::<u32>("echo", n)))) => output.map(|_| "all"),
        passed = sleep_for("90 s") => passed.map(|()| "late"),
    }
}

#[test]
fn dropping_the_whole_cancels_what_is_in_flight_and_starts_no_more() {
    let run = TestRun::<dropped_by_a_timer>::new()
        .activity("echo", |arguments| Ok(arguments[0].clone()))
        .activity_takes("echo", "1 minute")
        .run(10);
    assert!(matches!(run.ending(), backstitch_sdk::testing::Ending::Completed(json) if json == r#""late""#));
    let story = run.story();
    assert_eq!(story.iter().filter(|line| line.starts_with("activity")).count(), 20);
    assert_eq!(story.iter().filter(|line| line.starts_with("cancel")).count(), 10, "{story:?}");
}

// The semaphore by itself.

thread_local! {
    static SERVED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

#[workflow]
async fn in_line() -> Result<Vec<u32>> {
    SERVED.take();
    let one = Semaphore::new(1);
    let stay = |n: u32| {
        let place = one.acquire();
        async move {
            let _permit = place.await;
            SERVED.with_borrow_mut(|served| served.push(n));
            sleep_for("1 s").await
        }
    };
    let first = stay(0);
    let leaves = one.acquire();
    let (second, third) = (stay(2), stay(3));
    // Polled in another order than that in which they came.
    let together = join(third, join(second, first));
    drop(leaves);
    let (third, (second, first)) = together.await;
    third.and(second).and(first)?;
    let (kept, served_and_left) = (one.acquire().await, one.acquire());
    drop(kept); // Hands its permit to one that does not want it any more.
    drop(served_and_left);
    drop(one.acquire().await);
    Ok(SERVED.take())
}

#[test]
fn permits_go_to_who_came_first_and_past_who_has_left() {
    let run = TestRun::<in_line>::new().run(());
    assert_eq!(run.output(), Ok(vec![0, 2, 3]));
    assert_eq!(run.elapsed(), duration!("3 s"));
}

#[test]
#[should_panic(expected = "a semaphore has at least one permit")]
fn a_semaphore_without_permits_is_refused() {
    let _ = Semaphore::new(0);
}

// Until a time.

#[workflow]
async fn sleeps_until(ms_from_now: i64) -> Result<u64> {
    sleep_for("1 hour").await?;
    let begun = now_ms();
    sleep_until(begun.saturating_add_signed(ms_from_now)).await?;
    let by_number = now_ms() - begun;
    // The same again, by the other type.
    let begun = now();
    let length = Duration::from_millis(ms_from_now.unsigned_abs());
    sleep_until(if ms_from_now < 0 { begun - length } else { begun + length }).await?;
    assert_eq!(now().duration_since(begun)?, Duration::from_millis(by_number));
    Ok(by_number)
}

#[test]
fn a_sleep_ends_at_its_time_and_at_once_when_that_is_past() {
    const CENTURY: i64 = 36_525 * 86_400_000;
    for ms in [0, 1, 999, 86_400_000, CENTURY] {
        let run = TestRun::<sleeps_until>::new().run(ms);
        assert_eq!(run.output(), Ok(ms.unsigned_abs()));
    }
    for ms in [-1, -86_400_000, i64::MIN / 1_000_000] {
        let run = TestRun::<sleeps_until>::new().run(ms);
        assert_eq!(run.output(), Ok(0));
        assert_eq!(run.commands()[1..], [Command::Sleep { ms: 0 }, Command::Sleep { ms: 0 }]);
    }
}

#[workflow]
async fn before_all_time() -> Result<()> {
    sleep_until(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).await?;
    sleep_until(now() + Duration::from_micros(1)).await
}

#[test]
fn a_time_before_1970_is_past_and_part_of_a_millisecond_is_waited_for() {
    let run = TestRun::<before_all_time>::new().run(());
    assert_eq!(run.output(), Ok(()));
    assert_eq!(run.story(), ["sleep-for 0 ms", "sleep-for 1 ms"]);
}

#[workflow]
async fn patient(timeout: String) -> Result<(Option<u32>, Option<u32>)> {
    let first = wait_for_timeout("number", &timeout).await?;
    Ok((first, wait_for_timeout("number", &timeout).await?))
}

fn patient_run(timeout: &str, script: TestRun<patient>) -> Finished<(Option<u32>, Option<u32>)> {
    script.run(timeout)
}

#[test]
fn a_signal_is_waited_for_until_the_timeout_and_no_longer() {
    let run = patient_run("P3D", TestRun::new().signal("number", 7, "2 days"));
    assert_eq!(run.output(), Ok((Some(7), None)));
    assert_eq!(run.elapsed(), duration!("5 days"));
    assert_eq!(
        run.story(),
        [
            "wait-for number",
            "sleep-for 259200000 ms",
            "cancel 1",
            "wait-for number",
            "sleep-for 259200000 ms",
            "cancel 2"
        ]
    );
    // A wait that was given up takes no signal.
    let run = patient_run("1 day", TestRun::new().signal("number", 7, "36 hours"));
    assert_eq!(run.output(), Ok((None, Some(7))));

    let run = patient_run("3 fortnights", TestRun::new());
    assert_eq!(run.output().expect_err("no duration").code(), "invalid-duration");
    assert!(run.commands().is_empty());

    let run = patient_run("3 days", TestRun::new().signal("number", "seven", "1 s"));
    assert_eq!(run.output().expect_err("no number").code(), "invalid-signal");

    let run = patient_run("3 days", TestRun::new().cancel("1 s"));
    assert!(run.output().expect_err("cancelled").is_cancelled());
}

#[workflow]
async fn races_a_timeout() -> Result<bool> {
    select_biased! {
        number = wait_for_timeout::<u32>("number", "3 days") => number.map(|number| number.is_some()),
        stopped = wait_for::<()>("stop") => stopped.map(|()| false),
    }
}

#[test]
fn a_wait_with_a_timeout_stands_in_a_race_and_loses_both_ways() {
    let run = TestRun::<races_a_timeout>::new().signal("stop", (), "1 s").run(());
    assert_eq!(run.output(), Ok(false));
    assert_eq!(run.story()[3..], ["cancel 1", "cancel 0"]);
}
