//! Tasks: who gets one, what becomes of it, and what is left in the inbox.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use std::sync::Arc;

use backstitch_core::task::LeaseGrant;
use backstitch_core::{
    ActivityOptions, Command, Event, Failure, Message, Op, RunId, TaskLease, TaskToken, TenantId,
};
use backstitch_ledger::{
    Append, Ledger, NewItem, NewTask, Settled, StatusChange, TakenTask, TaskCheck, TaskPage, TaskState,
};
use common::*;
use sqlx::types::Uuid;

fn grant() -> LeaseGrant {
    LeaseGrant { lease: TaskLease(Uuid::new_v4()), lease_ms: Some(60_000), worker: "w".into() }
}

fn check(limit: u32) -> TaskCheck<'static> {
    TaskCheck { task_queue: "q", names: None, limit }
}

/// A run that calls `names` at once, and offers what it calls.
fn calling(names: &[&str], change: impl Fn(&mut NewTask)) -> (Grown, Append) {
    let mut grown = Grown::named(&new_id().to_string());
    let mut append = Append { after: Some(grown.head()), ..Append::new(SCOPE, grown.id) };
    for (op, name) in names.iter().enumerate() {
        let name: Arc<str> = (*name).into();
        let options = ActivityOptions { task_queue: Some("q".into()), ..ActivityOptions::default() };
        let input = json(&format!("[{op}]"));
        let command = Command::ScheduleActivity { name: Arc::clone(&name), input, options };
        let row = grown.run.append(now_ms(), &Event::Commanded { op: Op(op as u32), command }).unwrap();
        let mut task = task(Op(op as u32), row.seq, &name);
        change(&mut task);
        append.rows.push(row);
        append.tasks.push(task);
    }
    (grown, append)
}

async fn offered(host: &mut Host, names: &[&str], change: impl Fn(&mut NewTask)) -> Grown {
    let (grown, append) = calling(names, change);
    host.commit(grown.start()).await;
    host.commit(append).await;
    grown
}

fn completion(token: TaskToken, output: &str) -> NewItem {
    let TaskToken { run, op, attempt, .. } = token;
    let message = Message::AttemptEnded { op, attempt, outcome: Ok(json(output)), heartbeat: None };
    NewItem { run, item_id: new_id(), at_ms: now_ms(), message: message.to_row() }
}

async fn messages(ledger: &Ledger, host: &Host) -> Vec<(RunId, Message)> {
    let items = inbox(ledger, host.id, &[]).await;
    items.into_iter().map(|item| (item.run, item.message.message().unwrap())).collect()
}

async fn open(ledger: &Ledger) -> Vec<(Op, u32, TaskState)> {
    let page = TaskPage { run: None, task_queue: None, after: None, limit: 1_000 };
    let tasks = ledger.tasks(SCOPE, page).await.unwrap();
    tasks.into_iter().map(|task| (task.op, task.attempt, task.state)).collect()
}

#[tokio::test]
async fn each_task_goes_to_one_worker_in_the_order_of_priority_and_age() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let names: Vec<&str> = std::iter::repeat_n("a", 300).collect();
    offered(&mut host, &names, |_| {}).await;
    offered(&mut host, &["b", "b"], |task| task.priority = 1).await;
    let first = ledger.take_tasks(SCOPE, check(1), &grant()).await.unwrap().tasks;
    assert_eq!((first[0].name.as_str(), first[0].input.as_str()), ("b", "[0]"));

    let take = async |limit| {
        let mut taken: Vec<TakenTask> = Vec::new();
        loop {
            let more = ledger.take_tasks(SCOPE, check(limit), &grant()).await.unwrap().tasks;
            assert!(more.len() <= limit as usize);
            if more.is_empty() {
                return taken;
            }
            taken.extend(more);
            assert!(taken.len() <= 301, "there are no more");
        }
    };
    let (one, two, three) = tokio::join!(take(7), take(11), take(1));
    let mut all: Vec<_> =
        [one, two, three].concat().iter().map(|task| (task.token.run, task.token.op)).collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!((count, all.len()), (301, 301));
}

#[tokio::test]
async fn a_worker_gets_what_it_names_of_its_own_tenant_and_of_running_runs_only() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let paused = offered(&mut host, &["a"], |_| {}).await;
    let pause = StatusChange::Pause;
    host.commit(Append { status: Some(pause), ..Append::new(SCOPE, paused.id) }).await;
    let running = offered(&mut host, &["a", "b"], |_| {}).await;
    let foreign = ledger.scope(TenantId(2));
    assert!(ledger.take_tasks(foreign, check(9), &grant()).await.unwrap().tasks.is_empty());
    let names = ["b".to_owned(), "c".to_owned()].into();
    let only = TaskCheck { names: Some(&names), ..check(9) };
    let taken = ledger.take_tasks(SCOPE, only, &grant()).await.unwrap().tasks;
    assert_eq!(
        taken.iter().map(|task| (task.token.run, task.token.op)).collect::<Vec<_>>(),
        [(running.id, Op(1))]
    );
    let rest = ledger.take_tasks(SCOPE, check(9), &grant()).await.unwrap().tasks;
    assert_eq!(rest.iter().map(|task| task.token.run).collect::<Vec<_>>(), [running.id]);
}

/// All that waits before it is more urgent and older.
#[tokio::test]
async fn a_flood_keeps_nobody_waiting_who_asks_for_something_else() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let flood = ["flood"; 2_000];
    offered(&mut host, &flood, |task| task.priority = 1).await;
    for name in ["b", "a", "b"] {
        offered(&mut host, &[name], |task| task.priority = 5).await;
    }
    offered(&mut host, &["c"], |task| (task.priority, task.task_queue) = (5, "other".into())).await;
    let foreign = ledger.scope(TenantId(2));
    let (grown, append) = calling(&["d"], |task| task.priority = 5);
    host.commit(Append { scope: foreign, ..grown.start() }).await;
    host.commit(Append { scope: foreign, ..append }).await;

    // One poll each, that finds what it asks for.
    let take = async |scope, check| {
        let taken = ledger.take_tasks(scope, check, &grant()).await.unwrap().tasks;
        taken.into_iter().map(|task| task.name).collect::<Vec<_>>()
    };
    let other = TaskCheck { task_queue: "other", ..check(2) };
    assert_eq!(take(SCOPE, other).await, ["c"]);
    assert_eq!(take(foreign, check(2)).await, ["d"]);
    let names = ["a".to_owned(), "b".to_owned()].into();
    assert_eq!(take(SCOPE, TaskCheck { names: Some(&names), ..check(2) }).await, ["b", "a"]);
    assert_eq!(take(SCOPE, check(2_001)).await.len(), 2_000 + 1, "the flood was there all the time");
}

#[tokio::test]
async fn of_two_answers_one_is_left_in_the_inbox_with_what_the_worker_had_said() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = offered(&mut host, &["a"], |_| {}).await;
    let token = ledger.take_tasks(SCOPE, check(1), &grant()).await.unwrap().tasks.remove(0).token;
    assert!(ledger.heartbeat_task(SCOPE, token, Some(&json("{\"b\":1.0}"))).await.unwrap().is_some());
    assert_eq!(ledger.tasks_of(&[run.id]).await.unwrap(), [(run.id, Op(0))]);
    let items = [completion(token, "1"), completion(token, "2")];
    let (one, two) = tokio::join!(
        ledger.settle_task(SCOPE, token, &items[0]),
        ledger.settle_task(SCOPE, token, &items[1])
    );
    let mut ends = [one.unwrap(), two.unwrap()];
    ends.sort_by_key(|end| *end == Settled::Stale);
    assert_eq!(ends, [Settled::Left { owner: Some(host.id) }, Settled::Stale]);
    let left = messages(&ledger, &host).await;
    let [(_, Message::AttemptEnded { attempt: 1, heartbeat: Some(said), .. })] = &left[..] else {
        panic!("{left:?}")
    };
    assert_eq!(said.as_str(), "{\"b\":1.0}");
    assert!(ledger.heartbeat_task(SCOPE, token, None).await.unwrap().is_none());
    // It is offered no more, but its end has not been read: whoever loads the run must not offer it again.
    assert_eq!(ledger.tasks_of(&[run.id]).await.unwrap(), [(run.id, Op(0))]);
}

#[tokio::test]
async fn what_ran_out_of_time_is_told_once_however_many_look() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let short = |attempt_ms, heartbeat_timeout_ms| {
        move |task: &mut NewTask| {
            (task.attempt_ms, task.heartbeat_timeout_ms) = (attempt_ms, heartbeat_timeout_ms);
        }
    };
    offered(&mut host, &["silent"], short(None, Some(1))).await;
    offered(&mut host, &["slow"], short(Some(1), None)).await;
    offered(&mut host, &["fine"], short(None, None)).await;
    let late = offered(&mut host, &["late"], |task| task.close_by_ms = Some(now_ms() + 1)).await;
    let taken = ledger.take_tasks(SCOPE, check(9), &grant()).await.unwrap().tasks;
    assert_eq!(taken.len(), 4);
    offered(&mut host, &["untaken"], |task| task.start_by_ms = Some(now_ms() - 1)).await;
    let swept = eventually("all has run out", || async {
        let (one, two) = tokio::join!(
            ledger.sweep_tasks(now_ms(), 100, new_id),
            ledger.sweep_tasks(now_ms(), 100, new_id)
        );
        assert!(one.unwrap().owners.iter().chain(&two.unwrap().owners).all(|owner| *owner == host.id));
        let left = messages(&ledger, &host).await;
        (left.len() >= 4).then_some(left)
    })
    .await;
    let code = |message: &Message| match message {
        Message::AttemptEnded { outcome: Err(Failure { code, retryable, .. }), .. } => {
            (code.clone(), *retryable)
        }
        other => panic!("{other:?}"),
    };
    let mut codes: Vec<_> = swept.iter().map(|(_, message)| code(message)).collect();
    codes.sort();
    let expected = [
        ("heartbeat", true),
        ("schedule-to-close", true),
        ("schedule-to-start", false),
        ("start-to-close", true),
    ];
    assert_eq!(codes, expected.map(|(code, retryable)| (code.to_owned(), retryable)));
    let of_late = swept.iter().find(|(run, _)| *run == late.id).unwrap();
    assert_eq!(code(&of_late.1).0, "schedule-to-close");
    assert_eq!(open(&ledger).await, [(Op(0), 1, TaskState::Leased)], "the one that is fine");
    assert_eq!(ledger.sweep_tasks(now_ms(), 100, new_id).await.unwrap().tasks, 0);
}

#[tokio::test]
async fn an_older_attempt_makes_room_for_the_next_and_a_newer_one_does_not() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = offered(&mut host, &["a"], |_| {}).await;
    let token = ledger.take_tasks(SCOPE, check(1), &grant()).await.unwrap().tasks.remove(0).token;
    let again = |attempt| {
        let (_, append) = calling(&["a"], |task| task.attempt = attempt);
        Append { after: None, rows: Vec::new(), run: run.id, ..append }
    };
    // The same once more, as after a commit whose reply was lost: it changes nothing.
    host.commit(again(1)).await;
    assert!(ledger.heartbeat_task(SCOPE, token, None).await.unwrap().is_some());
    host.commit(again(2)).await;
    assert!(ledger.heartbeat_task(SCOPE, token, None).await.unwrap().is_none());
    assert_eq!(open(&ledger).await, [(Op(0), 2, TaskState::Offered)]);
    host.commit(Append { tasks_done: vec![Op(0)], ..Append::new(SCOPE, run.id) }).await;
    assert_eq!(open(&ledger).await, []);
}

#[tokio::test]
async fn a_fenced_host_offers_nothing_and_takes_nothing_back() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    offered(&mut host, &["a"], |_| {}).await;
    let (other, append) = calling(&["b"], |_| {});
    host.commit(other.start()).await;
    ledger.declare_dead(host.id).await.unwrap();
    host.append(append).await;
    let taken = ledger.take_tasks(SCOPE, check(9), &grant()).await.unwrap().tasks;
    assert_eq!(taken.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn what_a_component_serves_is_taken_back_unless_a_worker_has_it() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = offered(&mut host, &["a", "a", "b"], |_| {}).await;
    ledger.take_tasks(SCOPE, check(1), &grant()).await.unwrap();
    let served = [("q".to_owned(), "a".to_owned()), ("other".to_owned(), "b".to_owned())];
    let freed = ledger.free_tasks(SCOPE, &served, now_ms(), 100, new_id).await.unwrap();
    assert_eq!((freed.tasks, freed.owners), (1, vec![host.id]));
    let told = messages(&ledger, &host).await;
    assert_eq!(told, [(run.id, Message::AttemptFreed { op: Op(1), attempt: 1, heartbeat: None })]);
    assert_eq!(open(&ledger).await, [(Op(0), 1, TaskState::Leased), (Op(2), 1, TaskState::Offered)]);
}

#[tokio::test]
async fn a_task_that_was_given_up_goes_without_a_word_when_its_worker_does() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = offered(&mut host, &["a", "b"], |_| {}).await;
    let token = ledger.take_tasks(SCOPE, check(1), &grant()).await.unwrap().tasks.remove(0).token;
    host.commit(Append { tasks_given_up: vec![Op(0), Op(1)], ..Append::new(SCOPE, run.id) }).await;
    assert!(ledger.take_tasks(SCOPE, check(9), &grant()).await.unwrap().tasks.is_empty());
    assert!(ledger.heartbeat_task(SCOPE, token, None).await.unwrap().unwrap().given_up);
    assert_eq!(ledger.sweep_tasks(now_ms(), 100, new_id).await.unwrap().tasks, 1, "the one that nobody has");
    let end = ledger.settle_task(SCOPE, token, &completion(token, "1")).await.unwrap();
    assert_eq!(end, Settled::GivenUp);
    assert_eq!((messages(&ledger, &host).await, open(&ledger).await), (vec![], vec![]));
}

#[tokio::test]
async fn a_task_whose_input_cannot_be_read_keeps_nobody_from_the_others() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let lost = offered(&mut host, &["a"], |task| task.heartbeat = Some("1".into())).await;
    offered(&mut host, &["b"], |_| {}).await;
    let mut sql = session(&ledger.options().url).await;
    let unreadable = r#"{"backstitch.payload":{"sealed":"AAAA"}}"#;
    for damage in [
        "update ledger set payload = $2::json where run_id = $1 and kind = 2",
        "update tasks set heartbeat = $2::json where run_id = $1",
    ] {
        sqlx::query(damage).bind(lost.id.0).bind(unreadable).execute(&mut sql).await.unwrap();
    }
    let short = LeaseGrant { lease_ms: Some(1), ..grant() };
    let taken = ledger.take_tasks(SCOPE, check(10), &short).await.unwrap().tasks;
    assert_eq!(taken.iter().map(|task| &*task.name).collect::<Vec<_>>(), ["b"]);
    // Both leases end, and both runs hear of it.
    let mut ended = 0;
    while ended < 2 {
        ended += ledger.sweep_tasks(now_ms(), 10, new_id).await.unwrap().tasks;
    }
    assert_eq!(messages(&ledger, &host).await.len(), 2);
}

#[tokio::test]
async fn a_task_that_is_held_from_the_first_has_no_lease_but_the_bounds_of_its_call() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let lease = TaskLease(Uuid::new_v4());
    let held =
        |task: &mut NewTask| task.taken = Some(LeaseGrant { lease, lease_ms: None, worker: "".into() });
    let run = offered(&mut host, &["a"], held).await;
    assert_eq!(open(&ledger).await, [(Op(0), 1, TaskState::Held)]);
    let token = TaskToken { run: run.id, op: Op(0), attempt: 1, lease };
    let heartbeat = ledger.heartbeat_task(SCOPE, token, None).await.unwrap().unwrap();
    assert_eq!((heartbeat.given_up, heartbeat.lease_ms), (false, None));
    let served = [("q".to_owned(), "a".to_owned())];
    assert_eq!(ledger.free_tasks(SCOPE, &served, now_ms(), 100, new_id).await.unwrap().tasks, 0);
    assert_eq!(ledger.take_tasks(SCOPE, check(9), &grant()).await.unwrap().tasks.len(), 0);
    assert_eq!(ledger.sweep_tasks(now_ms(), 100, new_id).await.unwrap().tasks, 0);
    let end = ledger.settle_task(SCOPE, token, &completion(token, "1")).await.unwrap();
    assert_eq!(end, Settled::Left { owner: Some(host.id) });

    let late = offered(&mut host, &["late"], |task| {
        held(task);
        task.attempt_ms = Some(1);
    })
    .await;
    let failure = eventually("its bound has passed", || async {
        ledger.sweep_tasks(now_ms(), 100, new_id).await.unwrap();
        messages(&ledger, &host).await.into_iter().find_map(|(run, message)| match message {
            Message::AttemptEnded { outcome: Err(failure), .. } if run == late.id => Some(failure),
            _ => None,
        })
    })
    .await;
    assert_eq!(failure.code, "start-to-close");
    assert!(failure.message.starts_with("whoever had the token of \"late\""), "{failure}");
}

#[tokio::test]
async fn who_holds_a_task_takes_the_place_of_the_same_one_on_offer_and_of_no_other() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let run = offered(&mut host, &["a"], |_| {}).await;
    let holding = |lease| {
        let (_, append) = calling(&["a"], |task| {
            task.taken = Some(LeaseGrant { lease, lease_ms: None, worker: "".into() });
        });
        Append { after: None, rows: Vec::new(), run: run.id, ..append }
    };
    let [first, second] = [TaskLease(Uuid::new_v4()), TaskLease(Uuid::new_v4())];
    host.commit(holding(first)).await;
    assert_eq!(open(&ledger).await, [(Op(0), 1, TaskState::Held)]);
    host.commit(holding(second)).await;
    let token = |lease| TaskToken { run: run.id, op: Op(0), attempt: 1, lease };
    assert!(ledger.heartbeat_task(SCOPE, token(first), None).await.unwrap().is_some());
    assert!(ledger.heartbeat_task(SCOPE, token(second), None).await.unwrap().is_none());
}

#[tokio::test]
async fn an_operators_word_counts_unless_an_answer_was_faster() {
    let ledger = ledger().await;
    let url = ledger.options().url.clone();
    let mut host = Host::new(&ledger).await;
    let large = format!("\"{}\"", "x".repeat(300_000));
    // What somebody leaves who takes the task away while the operator's word waits for its row.
    for (kind, counts) in [(9, false), (11, true)] {
        let grown = offered(&mut host, &["a"], |_| {}).await;
        let token = TaskToken { run: grown.id, op: Op(0), attempt: 1, lease: TaskLease(new_id()) };
        let mut other = session(&url).await;
        sqlx::raw_sql("begin").execute(&mut other).await.unwrap();
        let leaves = sqlx::query(
            "with gone as (delete from tasks where run_id = $1 returning *)
             insert into inbox (shard, tenant, run_id, item_id, kind, op, payload, detail, at)
             select shard, tenant, run_id, $2, $3, op, '1', '{\"attempt\":1}', now() from gone",
        );
        leaves.bind(grown.id.0).bind(new_id()).bind(kind).execute(&mut other).await.unwrap();
        let ruling = tokio::spawn({
            let (ledger, item) = (ledger.clone(), completion(token, &large));
            async move { ledger.overrule_task(SCOPE, Op(0), &item).await }
        });
        eventually("it waits for the task", || async {
            let waits = "select count(*) from pg_stat_activity
                         where datname = current_database() and wait_event_type = 'Lock'";
            let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut session(&url).await).await.unwrap();
            (waiting == 1).then_some(())
        })
        .await;
        sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
        assert_eq!(ruling.await.unwrap().unwrap(), counts, "{kind}");
        let left: Vec<i16> = sqlx::query_scalar("select kind from inbox where run_id = $1 order by kind")
            .bind(grown.id.0)
            .fetch_all(&mut session(&url).await)
            .await
            .unwrap();
        assert_eq!(left, if counts { vec![9, 11] } else { vec![9] });
        let parts: i64 = sqlx::query_scalar("select count(*) from payloads")
            .fetch_one(&mut session(&url).await)
            .await
            .unwrap();
        assert_eq!(parts > 0, counts, "a payload is kept with the word that it belongs to, and not without");
    }
}
