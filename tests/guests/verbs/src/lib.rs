//! One workflow for each verb that a crash could break, as small as it can be.

use backstitch_sdk::{
    ActivityOptions, ChildOptions, Error, ParentClose, Result, RetryPolicy, call_activity, cancel_workflow,
    continue_as_new, deprecate_patch, entity, exec_child, export_workflows, history_size, info, join_all,
    now_ms, patched, proxy_activities, random_u64, remove_attribute, set_attribute, shielded,
    signal_workflow, sleep_for, start_child, try_join_all, validate_update, wait_for, wait_for_update,
    workflow,
};
use example_api::Echo;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Waits for so many signals `item`, and returns them in the order they came.
#[workflow]
async fn collect(count: usize) -> Result<Vec<u64>> {
    let mut items = Vec::with_capacity(count);
    while items.len() < count {
        items.push(wait_for("item").await?);
    }
    Ok(items)
}

/// What [`relay`] is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Relay {
    /// A workflow id.
    pub to: String,
    /// How many signals it gets.
    pub count: u64,
}

/// Sends signals `item` one after the other, and returns what became of each.
#[workflow]
async fn relay(relay: Relay) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for item in 0..relay.count {
        let sent = signal_workflow(&relay.to, "item", &item).await;
        told.push(sent.map_or_else(|error| error.code().to_owned(), |()| "sent".to_owned()));
    }
    Ok(told)
}

/// Starts a child that collects, and sends it everything at once.
#[workflow]
async fn feed_child(count: u64) -> Result<Vec<u64>> {
    let options = ChildOptions::default();
    let child = start_child::<collect>(usize::try_from(count)?, options);
    let sent = join_all((0..count).map(|item| child.signal("item", &item))).await;
    sent.into_iter().collect::<Result<Vec<()>>>()?;
    child.result().await
}

/// Starts a child that sleeps, asks it to cancel, and returns what it ended with.
#[workflow]
async fn stop_child(_: ()) -> Result<String> {
    let child = start_child::<careful>("child".into(), ChildOptions::default());
    child.cancel().await?;
    let error = child.result().await.err();
    let unknown = cancel_workflow("nobody").await.err();
    Ok([error, unknown]
        .into_iter()
        .flatten()
        .map(|error| error.code().to_owned())
        .collect::<Vec<_>>()
        .join(" "))
}

/// Sleeps until it is asked to cancel, and cleans up for as long as that takes.
#[workflow]
async fn careful(what: String) -> Result<()> {
    let sleep = sleep_for("30 days").await;
    shielded(async {
        sleep_for("1 second").await?;
        let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
        echo.echo(format!("{what} is cleaned up")).await
    })
    .await?;
    sleep
}

/// The same, with a clean-up that takes until somebody says that it is enough.
#[workflow]
async fn thorough(what: String) -> Result<()> {
    let sleep = sleep_for("30 days").await;
    shielded(async {
        sleep_for("1 second").await?;
        wait_for::<()>("enough").await?;
        let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
        echo.echo(format!("{what} is cleaned up")).await
    })
    .await?;
    sleep
}

/// Keeps one op through a request to cancel, and loses the other.
#[workflow]
async fn keeps_one(_: ()) -> Result<String> {
    let kept = wait_for::<String>("kept").shielded();
    let lost = wait_for::<String>("lost").await.err();
    let lost = lost.map(|error| error.code().to_owned()).unwrap_or_default();
    Ok(format!("{lost} {}", kept.await?))
}

/// Counts signals `add` up to 60, in runs of a few rows each.
#[workflow]
async fn rolling(mut total: u64) -> Result<u64> {
    while total < 60 {
        total += wait_for::<u64>("add").await?;
        if history_size().rows >= 9 {
            return continue_as_new(total);
        }
    }
    Ok(total)
}

/// What [`baton`] is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Baton {
    /// What has come so far.
    pub items: Vec<u64>,
    /// How many are to come.
    pub count: usize,
    /// How many a run takes before it goes on as a new one.
    pub each: usize,
    /// How long it sleeps before that, in milliseconds; 0: not at all.
    #[serde(default)]
    pub pause_ms: u64,
}

/// Takes signals `item`, so many in each run, and returns all of them in the order they came.
#[workflow]
async fn baton(mut baton: Baton) -> Result<Vec<u64>> {
    for _ in 0..baton.each {
        if baton.items.len() < baton.count {
            baton.items.push(wait_for("item").await?);
        }
    }
    if baton.items.len() >= baton.count {
        return Ok(baton.items);
    }
    if baton.pause_ms > 0 {
        sleep_for(format!("{} ms", baton.pause_ms)).await?;
    }
    continue_as_new(baton)
}

/// Goes on as a new run so many times at once, then waits for a signal `item`.
#[workflow]
async fn hop(left: u32) -> Result<u64> {
    if left > 0 { continue_as_new(left - 1) } else { wait_for("item").await }
}

/// Answers updates `count` with how many there were, so many in each run, and ends after so many in all.
#[workflow]
async fn counter((mut counted, count): (u32, u32)) -> Result<u32> {
    for _ in 0..3 {
        if counted < count {
            let update = wait_for_update::<()>("count").await?;
            counted += 1;
            update.answer(Ok(counted));
        }
    }
    if counted < count { continue_as_new((counted, count)) } else { Ok(counted) }
}

/// Asks another run to cancel, and waits for a signal `close`.
#[workflow]
async fn canceller(to: String) -> Result<()> {
    cancel_workflow(&to).await?;
    wait_for("close").await
}

/// Starts a child whose workflow id may be taken, gives it up at once, and says how it ended.
#[workflow]
async fn regretful(child_id: String) -> Result<String> {
    let options = ChildOptions::default().workflow_id(child_id);
    let child = start_child::<collect>(1, options);
    child.cancel().await.ok();
    let ended = child.result().await;
    Ok(ended.err().map(|error| error.code().to_owned()).unwrap_or_default())
}

/// Sells what there is, on request: no more than it has, and never 13.
#[workflow]
async fn shop(mut stock: u32) -> Result<u32> {
    validate_update("buy", |count: &u32| match *count {
        0 => Err(Error::application("nothing", "buy something")),
        _ => Ok(()),
    });
    while stock > 0 {
        let update = wait_for_update::<u32>("buy").await?;
        let count = update.input;
        sleep_for("20 ms").await?;
        if count > stock || count == 13 {
            update.answer(Err::<(), _>(Error::application("sold-out", format!("{stock} left"))));
        } else {
            stock -= count;
            update.answer(Ok(stock));
        }
    }
    Ok(stock)
}

/// Calls what nobody serves, and returns how that ended.
#[workflow]
async fn unserved(_: ()) -> Result<String> {
    let options = ActivityOptions::default().task_queue("nobody").schedule_to_start("300 ms");
    let error = call_activity::<()>("nothing", &(), &options).await.err();
    Ok(error.map(|error| format!("{:?} {}", error.kind(), error.code())).unwrap_or_default())
}

/// Keeps each signal `note` in its entity, in runs of a few rows each, and returns so many of them.
#[workflow]
async fn notebook(count: u32) -> Result<Vec<String>> {
    set_attribute("kind", "notebook");
    while entity().get::<u32>("count")?.unwrap_or(0) < count {
        let note: String = wait_for("note").await?;
        entity().append("notes", &note)?;
        entity().increment("count", 1.0)?;
        set_attribute("latest", note);
        set_attribute("full", entity().get::<u32>("count")? == Some(count));
        if history_size().rows >= 16 {
            return continue_as_new(count);
        }
    }
    remove_attribute("kind");
    Ok(entity().get("notes")?.unwrap_or_default())
}

/// Draws a number, waits for two words, and says both with the number and who it is.
#[workflow]
async fn deliberate(_: ()) -> Result<String> {
    let drawn = random_u64();
    let first: String = wait_for("word").await?;
    let echo = proxy_activities::<dyn Echo>(ActivityOptions::default());
    let echoed = echo.echo(format!("{first} {drawn}")).await?;
    sleep_for("1 second").await?;
    let second: String = wait_for("word").await?;
    Ok(format!("{echoed} {second} {}", info().original_run_id))
}

/// When it began, and by whom it was started.
#[workflow]
async fn birth(_: ()) -> Result<(u64, Option<String>)> {
    Ok((now_ms(), info().parent_workflow_id))
}

/// Starts a child like itself, and returns how many there are below, or why there is no more.
#[workflow]
async fn descend(_: ()) -> Result<String> {
    let options = ChildOptions::default();
    let parent = exec_child::<birth>((), options.clone()).await;
    match (exec_child::<descend>((), options).await, parent) {
        (Ok(below), Ok((_, Some(_)))) => {
            let (code, depth) = below.split_once(' ').unwrap_or((&below, "0"));
            Ok(format!("{code} {}", depth.parse::<u32>()? + 1))
        }
        (Err(error), _) => Ok(format!("{} 0", error.code())),
        (Ok(_), parent) => Ok(format!("{parent:?}")),
    }
}

/// Calls an activity that is not served yet.
#[workflow]
async fn queues(name: String) -> Result<String> {
    call_activity("late", &(name,), &ActivityOptions::default()).await
}

/// Waits for one thing of a kind.
#[workflow]
async fn awaits(what: String) -> Result<String> {
    match what.as_str() {
        "signal" => wait_for("go").await,
        "timer" => sleep_for("400 ms").await.map(|()| "slept".to_owned()),
        "activity" => call_activity("late", &((),), &ActivityOptions::default()).await,
        "child" => {
            let options = ChildOptions::default().workflow_id(format!("{}/child", info().workflow_id));
            let options = options.parent_close(ParentClose::RequestCancel);
            exec_child::<awaits>("signal".into(), options).await
        }
        other => Err(Error::application("unknown", other)),
    }
}

/// What the standard library says of what a workflow has not.
#[allow(clippy::disallowed_methods, reason = "what comes of them is the question")]
#[workflow]
async fn borrows(what: String) -> Result<String> {
    let answer = |is_none: bool| if is_none { "none" } else { "some" }.to_owned();
    Ok(match what.as_str() {
        "order" => {
            let one: HashSet<u32> = (0..16).collect();
            sleep_for("1 ms").await?;
            format!("{one:?} {:?}", (0..16).collect::<HashSet<u32>>())
        }
        "thread" => answer(std::thread::Builder::new().spawn(|| ()).is_err()),
        "file" => answer(std::fs::read("/etc/passwd").is_err()),
        "socket" => answer(std::net::TcpStream::connect("127.0.0.1:5432").is_err()),
        "environment" => answer(std::env::var("PATH").is_err()),
        "time" => format!("{:?}", std::time::SystemTime::now()),
        _ => format!("{:?}", std::time::Instant::now()),
    })
}

/// On the new side of one change, and past the end of another.
#[workflow]
async fn changed(_: ()) -> Result<bool> {
    let is_new = patched("receipt-with-charge");
    sleep_for("1 ms").await?;
    deprecate_patch("charge-in-cents");
    Ok(is_new && patched("receipt-with-charge"))
}

/// Calls an activity that may be silent for 300 ms at a time, and returns what came of it, and after how
/// many attempts. Left to its policy, the second attempt is made after three seconds.
#[workflow]
async fn patient(activity: String) -> Result<String> {
    let policy = RetryPolicy::default().initial_interval("3 seconds");
    let options =
        ActivityOptions::default().task_queue("long-tasks").start_to_close("1 minute").heartbeat("300 ms");
    match call_activity::<Option<u32>>(&activity, &[(); 0], &options.retry(policy)).await {
        Ok(output) => Ok(format!("{output:?}")),
        Err(error) if error.is_cancelled() => Err(error),
        Err(error) => Ok(format!("{} after {} attempts", error.code(), error.attempts())),
    }
}

/// Calls an activity whose attempts may take so long, if that is said, and makes two of them at most.
#[workflow]
async fn deferred((activity, bound): (String, Option<String>)) -> Result<String> {
    let policy = RetryPolicy::default().initial_interval("10 ms").maximum_attempts(2);
    let mut options = ActivityOptions::default().task_queue("long-tasks").retry(policy);
    if let Some(bound) = bound {
        options = options.start_to_close(bound);
    }
    call_activity(&activity, &[(); 0], &options).await
}

/// Calls `work` so many times at once, in attempts without end, and returns the sum of what came back.
#[workflow]
async fn outside(calls: u64) -> Result<u64> {
    let policy =
        RetryPolicy::default().initial_interval("10 ms").maximum_interval("100 ms").maximum_attempts(0);
    let options = ActivityOptions::default().task_queue("outside").retry(policy);
    let sums = (0..calls).map(|n| call_activity::<u64>("work", &(n,), &options));
    Ok(try_join_all(sums).await?.iter().sum())
}

/// Says what it is about, then waits for a signal `close` and says that it is through.
#[workflow]
async fn tagged(customer: String) -> Result<()> {
    set_attribute("customer", &*customer);
    set_attribute("stage", "open");
    wait_for::<()>("close").await?;
    set_attribute("stage", "done");
    Ok(())
}

export_workflows!(
    collect, relay, feed_child, stop_child, baton, hop, counter, canceller, regretful, careful, keeps_one,
    rolling, shop, unserved, notebook, deliberate, birth, descend, queues, awaits, borrows, changed, patient,
    deferred, outside, tagged, thorough,
);
