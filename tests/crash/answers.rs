//! Answers that meet: of two different ones to one task, one counts, and only that one is acknowledged.

use std::time::Duration;

use backstitch_client::tasks::{AnswerTask, PollTasks, TaskView};
use backstitch_client::{Client, ClientError};
use backstitch_core::{Json, Op};
use futures::future::{Either, select};

use crate::load::{deployed_database, options};
use crate::support::{Gates, TestHost, check_ledgers, eventually, refusal};

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

async fn take(client: &Client) -> TaskView {
    let poll = PollTasks { wait_ms: 20_000, lease_ms: Some(120_000), ..PollTasks::new("outside") };
    eventually("there is a task", async || client.poll_tasks(&poll).await.unwrap().pop()).await
}

fn stale() -> (u16, String) {
    (409, "stale-token".to_owned())
}

async fn answer(client: &Client, task: &TaskView, output: &str) -> Result<(), ClientError> {
    client.answer_task(&AnswerTask::completed(&*task.token, json(output))).await
}

#[tokio::test]
async fn of_two_answers_at_once_the_one_that_counts_is_acknowledged_and_no_other() {
    let database = deployed_database().await;
    let owner = TestHost::start(options(&database)).await;
    owner.start_run("outside", "warm", "1").await;
    let other = TestHost::start(options(&database)).await;
    answer(&owner.client, &take(&owner.client).await, "0").await.unwrap();
    owner.output("warm").await;
    // To the run's own host both, one each, and both to another.
    let hosts = [[&owner, &owner], [&owner, &other], [&other, &other]];
    for (place, [first, second]) in hosts.into_iter().enumerate() {
        for round in 0..10 {
            let id = format!("race-{place}-{round}");
            owner.start_run("outside", &id, "1").await;
            let task = take(&first.client).await;
            let answers = tokio::join!(answer(&first.client, &task, "1"), answer(&second.client, &task, "2"));
            let acknowledged = match answers {
                (Ok(()), Err(refused)) => {
                    assert_eq!(refusal(Err::<(), _>(refused)), stale(), "{id}");
                    "1"
                }
                (Err(refused), Ok(())) => {
                    assert_eq!(refusal(Err::<(), _>(refused)), stale(), "{id}");
                    "2"
                }
                both => panic!("{id}: {both:?}"),
            };
            assert_eq!(owner.output(&id).await, acknowledged, "{id}");
            // The same again is the same; the other is still refused.
            let (same, differs) = if acknowledged == "1" { ("1", "2") } else { ("2", "1") };
            answer(&second.client, &task, same).await.unwrap();
            assert_eq!(refusal(answer(&first.client, &task, differs).await), stale(), "{id}");
        }
    }
    check_ledgers(&database).await;
}

/// Has an answer be under way to the ledger, and gives the task.
async fn held_answer(host: &TestHost, gates: &Gates, id: &str) -> TaskView {
    host.start_run("outside", id, "1").await;
    let task = take(&host.client).await;
    gates.shut("append-before");
    task
}

#[tokio::test]
async fn an_answer_waits_for_the_one_that_is_under_way() {
    let database = deployed_database().await;
    let gates = Gates::new();
    let host = TestHost::start(options(&database).gates(&gates)).await;
    for (round, same) in [("differs", false), ("same", true)] {
        let task = held_answer(&host, &gates, round).await;
        let first = Box::pin(answer(&host.client, &task, "1"));
        let reached = eventually("it is under way", async || gates.is_reached("append-before").then_some(()));
        let Either::Right(((), first)) = select(first, Box::pin(reached)).await else {
            panic!("acknowledged before it was committed");
        };
        let second = Box::pin(answer(&host.client, &task, if same { "1" } else { "2" }));
        // However long the first one takes, nobody is told of the second.
        let timeout = Box::pin(tokio::time::sleep(Duration::from_millis(100)));
        let Either::Right(((), second)) = select(second, timeout).await else {
            panic!("acknowledged while another was under way");
        };
        gates.open("append-before");
        first.await.unwrap();
        match second.await {
            Ok(()) => assert!(same),
            refused => {
                assert!(!same, "{refused:?}");
                assert_eq!(refusal(refused), stale());
            }
        }
        assert_eq!(host.output(round).await, "1");
    }
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_operator_whose_word_came_too_late_is_told_so() {
    let database = deployed_database().await;
    let gates = Gates::new();
    let host = TestHost::start(options(&database).gates(&gates)).await;
    let task = held_answer(&host, &gates, "overruled").await;
    let first = Box::pin(answer(&host.client, &task, "1"));
    let reached = eventually("it is under way", async || gates.is_reached("append-before").then_some(()));
    let Either::Right(((), first)) = select(first, Box::pin(reached)).await else {
        panic!("acknowledged before it was committed");
    };
    let client = host.client.clone();
    let word = tokio::spawn(async move { client.complete_activity("overruled", Op(0), &json("2")).await });
    let mut connection = crate::support::connect(&database).await;
    let left = "select count(*) from inbox where kind = 9";
    eventually("the word is there", async || {
        (crate::load::count(&mut connection, left).await == 1).then_some(())
    })
    .await;
    gates.open("append-before");
    first.await.unwrap();
    assert_eq!(refusal(word.await.unwrap()), (409, "already-answered".to_owned()));
    assert_eq!(host.output("overruled").await, "1");
    // In time, it counts.
    host.start_run("outside", "in-time", "1").await;
    let task = take(&host.client).await;
    host.client.complete_activity("in-time", Op(0), &json("2")).await.unwrap();
    assert_eq!(refusal(answer(&host.client, &task, "1").await), stale());
    assert_eq!(host.output("in-time").await, "2");
    check_ledgers(&database).await;
}
