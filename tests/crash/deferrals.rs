//! Calls that a component leaves to be answered later, while hosts die, answers come early, and attempts
//! fail after they have deferred.

use backstitch_client::Client;
use backstitch_client::tasks::{ActivityView, AnswerTask, HeartbeatTask, HeartbeatView, ListActivities};
use backstitch_core::{Json, RunStatus, TaskLease, TaskToken};
use sqlx::Connection;
use sqlx::types::Uuid;

use crate::load::{attempts, count, deployed_database, options};
use crate::support::{TestHost, check_ledgers, connect, eventually, refusal};

fn answer(token: &str, output: &str) -> AnswerTask {
    AnswerTask::completed(token, Json::new(output).unwrap())
}

fn stale() -> (u16, String) {
    (409, "stale-token".to_owned())
}

async fn heartbeat(client: &Client, token: &str) -> HeartbeatView {
    client.heartbeat_task(&HeartbeatTask { token: token.to_owned(), details: None }).await.unwrap()
}

/// The one call of a run that is held, as soon as it is.
async fn held(host: &TestHost, run: &str) -> ActivityView {
    eventually("the call is held", async || {
        let list = ListActivities { run: Some(run.to_owned()), ..ListActivities::default() };
        let call = host.client.activities(&list).await.ok()?.activities.pop()?;
        assert_eq!((call.state.as_str(), call.worker.as_deref()), ("held", None), "{call:?}");
        Some(call)
    })
    .await
}

/// The token under which a call is held, from the database: nothing shows it.
async fn token(database: &str, call: &ActivityView) -> String {
    let held = "select attempt, lease from tasks where run_id = $1 and op = $2";
    let (attempt, lease): (i32, Uuid) = sqlx::query_as(held)
        .bind(call.run_id.0)
        .bind(call.op.0.cast_signed())
        .fetch_one(&mut connect(database).await)
        .await
        .unwrap();
    let attempt = attempt.cast_unsigned();
    TaskToken { run: call.run_id, op: call.op, attempt, lease: TaskLease(lease) }.to_string()
}

/// Waits until the attempt has returned, and gives the token that it has told.
async fn left(host: &TestHost, run: &str) -> String {
    eventually("the attempt has left its call to others", async || {
        let details = held(host, run).await.heartbeat_details?;
        (host.client.health().await.ok()?.activities_running == 0).then_some(())?;
        Some(serde_json::from_str(details.as_str()).unwrap())
    })
    .await
}

async fn nothing_runs(host: &TestHost) {
    eventually("no attempt runs", async || {
        (host.client.health().await.ok()?.activities_running == 0).then_some(())
    })
    .await;
}

async fn kinds(host: &TestHost, run: &str) -> Vec<String> {
    let rows = host.rows(run).await;
    rows.into_iter().map(|row| row.kind).filter(|kind| kind.starts_with("activity-")).collect()
}

#[tokio::test]
async fn a_call_that_a_component_has_deferred_outlives_its_host_and_is_not_made_again() {
    let database = deployed_database().await;
    let mut dead = TestHost::start(options(&database)).await;
    dead.start_run("deferred", "left", r#"["leaves", null]"#).await;
    let told = left(&dead, "left").await;
    dead.start_run("deferred", "lingering", r#"["lingers", null]"#).await;
    let of_lingering = held(&dead, "lingering").await;
    assert_eq!(dead.client.health().await.unwrap().activities_running, 1);
    dead.kill();
    assert_eq!(attempts(&dead).len(), 2);

    let heir = TestHost::start(options(&database)).await;
    eventually("the heir has them", async || {
        (heir.client.health().await.ok()?.runs_taken_over == 2).then_some(())
    })
    .await;
    let call = held(&heir, "left").await;
    assert_eq!(told, token(&database, &call).await, "what the guest was given is what holds the call");
    let tokens = [("left", told), ("lingering", token(&database, &of_lingering).await)];
    for (run, token) in &tokens {
        assert_eq!(heartbeat(&heir.client, token).await, HeartbeatView { cancel: false, lease_ms: None });
        heir.client.answer_task(&answer(token, r#""by hand""#)).await.unwrap();
        assert_eq!(heir.output(run).await, r#""by hand""#);
        assert_eq!(kinds(&heir, run).await, ["activity-scheduled", "activity-completed"]);
    }
    assert_eq!(attempts(&heir).len(), 0, "the calls were held");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_answer_is_the_outcome_though_the_attempt_still_runs_and_fails_later() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let other = TestHost::start(options(&database)).await;
    host.start_run("deferred", "early", r#"["lingers", null]"#).await;
    let token = token(&database, &held(&host, "early").await).await;
    let first = answer(&token, "\"first\"");
    other.client.answer_task(&first).await.unwrap();
    for client in [&host.client, &other.client] {
        client.answer_task(&first).await.unwrap();
        assert_eq!(refusal(client.answer_task(&answer(&token, "\"second\"")).await), stale());
    }
    assert_eq!(host.output("early").await, "\"first\"");
    // It hears that it is not waited for, and what it ends with is nowhere but in the log.
    nothing_runs(&host).await;
    assert!(host.log().contains(r#""code":"late""#), "{}", host.log());
    assert_eq!(kinds(&host, "early").await, ["activity-scheduled", "activity-completed"]);
    assert_eq!(attempts(&host).len(), 1);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_attempt_that_fails_after_it_has_deferred_is_made_again_and_its_token_is_worth_nothing() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    for (activity, code) in
        [("leaves_and_fails", r#""code":"unsent""#), ("leaves_and_breaks", r#""code":"trap""#)]
    {
        host.start_run("deferred", activity, &format!(r#"["{activity}", null]"#)).await;
        let token: String = serde_json::from_str(&host.output(activity).await).unwrap();
        assert!(token.contains(".0.1."), "told by the first attempt: {token}");
        assert_eq!(refusal(host.client.answer_task(&answer(&token, "\"late\"")).await), stale());
        let rows = host.rows(activity).await;
        let failed: Vec<_> = rows.iter().filter(|row| row.kind == "activity-attempt-failed").collect();
        let [failed] = failed[..] else { panic!("{rows:#?}") };
        assert!(failed.payload.as_ref().unwrap().as_str().contains(code), "{failed:?}");
    }
    assert_eq!(attempts(&host).iter().map(|attempt| attempt.attempt).collect::<Vec<_>>(), [1, 2, 1, 2]);
    let open = host.client.activities(&ListActivities::default()).await.unwrap();
    assert_eq!(open.activities.len(), 0, "{open:?}");
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_deferred_call_ends_with_its_bounds_and_with_an_operators_word() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("deferred", "bounded", r#"["leaves", "1 second"]"#).await;
    let failure = host.ended_run("bounded").await.failure.unwrap();
    assert_eq!(failure.code, "start-to-close", "{failure:?}");
    assert_eq!(attempts(&host).iter().map(|attempt| attempt.attempt).collect::<Vec<_>>(), [1, 2]);

    // Without a bound of the call's own there is none: not that of attempts here.
    host.start_run("deferred", "overruled", r#"["leaves", null]"#).await;
    let token = left(&host, "overruled").await;
    let said = host.cli(&["activity", "list", "overruled", "--json"]).await;
    let list: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let call = &list["activities"][0];
    assert_eq!((&call["state"], &call["attempt"]), (&"held".into(), &1.into()), "{list}");
    assert!(call.get("deadline").is_none_or(serde_json::Value::is_null), "{list}");
    let said = host.cli(&["activity", "complete", "overruled", "0", r#""a person""#]).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(host.output("overruled").await, r#""a person""#);
    assert_eq!(refusal(host.client.answer_task(&answer(&token, "1")).await), stale());

    host.start_run("deferred", "cancelled", r#"["lingers", null]"#).await;
    let token = self::token(&database, &held(&host, "cancelled").await).await;
    host.client.cancel("cancelled", "enough").await.unwrap();
    assert_eq!(host.ended_run("cancelled").await.status, RunStatus::Cancelled);
    nothing_runs(&host).await;
    assert!(heartbeat(&host.client, &token).await.cancel);
    let refused = refusal(host.client.answer_task(&answer(&token, "1")).await);
    assert_eq!(refused, (409, "task-given-up".to_owned()));
    check_ledgers(&database).await;
}

#[tokio::test]
async fn a_deferred_call_that_is_given_back_is_attempted_once_more_under_another_token() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    host.start_run("deferred", "back", r#"["lingers", null]"#).await;
    let first = token(&database, &held(&host, "back").await).await;
    host.client.release_task(&first).await.unwrap();
    let second = eventually("it is held once more", async || {
        let call = held(&host, "back").await;
        let token = token(&database, &call).await;
        (token != first).then_some(token)
    })
    .await;
    assert_eq!(refusal(host.client.answer_task(&answer(&first, "1")).await), stale());
    host.client.answer_task(&answer(&second, "\"done\"")).await.unwrap();
    assert_eq!(host.output("back").await, "\"done\"");
    nothing_runs(&host).await;
    assert_eq!(attempts(&host).iter().map(|attempt| attempt.attempt).collect::<Vec<_>>(), [1, 1]);
    check_ledgers(&database).await;
}

#[tokio::test]
async fn an_attempt_has_its_token_only_when_the_database_has_it() {
    let database = deployed_database().await;
    let host = TestHost::start(options(&database)).await;
    let mut connection = connect(&database).await;
    let mut blocking = connection.begin().await.unwrap();
    sqlx::query("lock table tasks in share mode").execute(&mut *blocking).await.unwrap();
    host.start_run("deferred", "waits", r#"["leaves_and_fails", null]"#).await;
    let mut looking = connect(&database).await;
    let waiting = "select count(*) from pg_locks join pg_stat_activity using (pid)
                   where not granted and relation = 'tasks'::regclass and query like '%insert into tasks%'";
    eventually("the task is on its way", async || (count(&mut looking, waiting).await == 1).then_some(()))
        .await;
    // Time enough for an attempt that had a token to do something with it.
    for _ in 0..100 {
        assert_eq!(host.client.health().await.unwrap().activities_running, 1);
    }
    assert!(!host.log().contains("had deferred its call"), "{}", host.log());
    blocking.rollback().await.unwrap();
    let token: String = serde_json::from_str(&host.output("waits").await).unwrap();
    assert!(token.contains(".0.1."), "{token}");
    assert!(host.log().contains("had deferred its call"));
    check_ledgers(&database).await;
}
