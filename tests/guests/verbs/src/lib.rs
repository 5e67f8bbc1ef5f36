//! One workflow for each verb that a crash could break, as small as it can be.

use backstitch_sdk::{
    ActivityOptions, ChildOptions, Error, Result, call_activity, cancel_workflow, continue_as_new,
    export_workflows, history_size, join_all, proxy_activities, shielded, signal_workflow, sleep_for,
    start_child, validate_update, wait_for, wait_for_update, workflow,
};
use example_api::Echo;
use serde::{Deserialize, Serialize};

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

export_workflows!(collect, relay, feed_child, stop_child, careful, keeps_one, rolling, shop, unserved);
