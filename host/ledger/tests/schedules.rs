//! Schedules as the database has them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests may panic, and make their own world"
)]

mod common;

use backstitch_core::{RunStatus, TenantId};
use backstitch_ledger::{Ledger, ScheduleChange};
use common::*;

async fn create(ledger: &Ledger, name: &str, due_ms: Option<u64>) -> bool {
    ledger.create_schedule(SCOPE, name, r#"{"b":1, "a":[]}"#, "{}", due_ms, 7).await.unwrap()
}

fn names(schedules: &[backstitch_ledger::Schedule]) -> Vec<&str> {
    schedules.iter().map(|schedule| schedule.name.as_str()).collect()
}

#[tokio::test]
async fn a_schedule_is_made_once_and_comes_back_byte_for_byte() {
    let ledger = ledger().await;
    assert!(create(&ledger, "nightly", Some(5)).await);
    assert!(!create(&ledger, "nightly", Some(6)).await);
    let schedule = ledger.schedule(SCOPE, "nightly").await.unwrap().unwrap();
    assert_eq!((schedule.spec.as_str(), schedule.state.as_str()), (r#"{"b":1, "a":[]}"#, "{}"));
    assert_eq!((schedule.revision, schedule.due_ms, schedule.created_ms), (1, Some(5), 7));
    let elsewhere = ledger.scope(TenantId(2));
    assert_eq!(ledger.schedule(elsewhere, "nightly").await.unwrap(), None);
    assert!(!ledger.delete_schedule(elsewhere, "nightly").await.unwrap());
    assert!(ledger.delete_schedule(SCOPE, "nightly").await.unwrap());
    assert!(!ledger.delete_schedule(SCOPE, "nightly").await.unwrap());
    assert_eq!(ledger.schedule(SCOPE, "nightly").await.unwrap(), None);
}

#[tokio::test]
async fn a_schedule_is_changed_by_one_of_those_who_have_read_it() {
    let ledger = ledger().await;
    create(&ledger, "nightly", Some(5)).await;
    let states: Vec<String> = (0..8).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let changes = states.iter().map(|state| {
        let change = ScheduleChange { spec: None, state, due_ms: None };
        ledger.change_schedule(SCOPE, "nightly", 1, change)
    });
    let changed: Vec<bool> = futures_of(changes).await.into_iter().map(|changed| changed.unwrap()).collect();
    assert_eq!(changed.iter().filter(|changed| **changed).count(), 1);
    let winner = changed.iter().position(|changed| *changed).unwrap();
    let schedule = ledger.schedule(SCOPE, "nightly").await.unwrap().unwrap();
    assert_eq!((schedule.revision, schedule.due_ms, &schedule.state), (2, None, &states[winner]));
    assert_eq!(schedule.spec, r#"{"b":1, "a":[]}"#, "none means as before");

    let change = ScheduleChange { spec: Some("{ }"), state: "[]", due_ms: Some(9) };
    assert!(ledger.change_schedule(SCOPE, "nightly", 2, change).await.unwrap());
    assert!(!ledger.change_schedule(SCOPE, "absent", 1, change).await.unwrap());
    let schedule = ledger.schedule(SCOPE, "nightly").await.unwrap().unwrap();
    assert_eq!((schedule.spec.as_str(), schedule.state.as_str(), schedule.due_ms), ("{ }", "[]", Some(9)));
}

/// All at the same time, each on a connection of the pool.
async fn futures_of<T, F: Future<Output = T>>(futures: impl Iterator<Item = F>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn due_are_those_whose_time_has_come_the_oldest_first() {
    let ledger = ledger().await;
    for (name, due_ms) in [("late", Some(30)), ("never", None), ("soon", Some(10)), ("next", Some(20))] {
        create(&ledger, name, due_ms).await;
    }
    assert_eq!(names(&ledger.due_schedules(0, 20, 10).await.unwrap()), ["soon", "next"]);
    assert_eq!(names(&ledger.due_schedules(0, 99, 2).await.unwrap()), ["soon", "next"]);
    assert_eq!(ledger.next_schedule_due(0).await.unwrap(), Some(10));
    assert_eq!(names(&ledger.due_schedules(11, 99, 2).await.unwrap()), ["next", "late"]);
    assert_eq!(ledger.next_schedule_due(11).await.unwrap(), Some(20));
    for name in ["soon", "next", "late"] {
        ledger.delete_schedule(SCOPE, name).await.unwrap();
    }
    assert_eq!(ledger.next_schedule_due(0).await.unwrap(), None);
}

#[tokio::test]
async fn schedules_are_listed_page_by_page_by_name() {
    let ledger = ledger().await;
    for name in ["c", "a", "B", "d"] {
        create(&ledger, name, None).await;
    }
    let page = ledger.schedules(SCOPE, None, 3).await.unwrap();
    assert_eq!(names(&page), ["B", "a", "c"]);
    assert_eq!(names(&ledger.schedules(SCOPE, Some("c"), 3).await.unwrap()), ["d"]);
    assert!(ledger.schedules(ledger.scope(TenantId(2)), None, 3).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_latest_run_of_a_workflow_id_says_how_it_stands() {
    let ledger = ledger().await;
    let mut host = Host::new(&ledger).await;
    let (mut closed, open) = (Grown::named("closed"), Grown::named("open"));
    let mut first = Grown::named("twice");
    let mut second = Grown::named("twice");
    second.new.generation = 1;
    for run in [&closed, &open, &first] {
        host.commit(run.start()).await;
    }
    host.commit(closed.complete("1")).await;
    host.commit(first.complete("1")).await;
    host.commit(second.start()).await;
    let mut found = ledger.latest_statuses(SCOPE, &["closed", "open", "twice", "nobody"]).await.unwrap();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("closed".to_owned(), RunStatus::Completed),
        ("open".to_owned(), RunStatus::Running),
        ("twice".to_owned(), RunStatus::Running),
    ];
    assert_eq!(found, expected);
}
