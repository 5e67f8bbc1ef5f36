//! Guards, timers and wake-ups; what is decided is tested where it is, in core.

use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// By when everything has happened that is to happen.
const SOON: Duration = Duration::from_secs(10);

fn queue() -> Queue {
    Queue { tenant: TenantId::DEFAULT, name: "q".into() }
}

fn request(max: u32) -> PollRequest {
    PollRequest { names: None, max, lease_ms: 1_000, worker: "w".into() }
}

fn task(token: &str) -> TaskView {
    TaskView {
        token: token.to_owned(),
        run_id: backstitch_core::RunId(ambient::id_at(1)),
        workflow_id: String::new(),
        op: backstitch_core::Op(0),
        attempt: 1,
        name: "a".to_owned(),
        task_queue: "q".to_owned(),
        input: backstitch_core::Json::null(),
        idempotency_key: String::new(),
        lease_ms: 1_000,
        deadline: None,
        heartbeat_details: None,
        traceparent: String::new(),
    }
}

/// A matcher, and the tokens of what it has given back.
fn matcher() -> (TaskMatcher, Arc<Mutex<Vec<String>>>) {
    let returned = Arc::new(Mutex::new(Vec::new()));
    let given_back = Arc::clone(&returned);
    let give_back = Arc::new(move |_, given: Vec<TaskView>| {
        given_back.lock().unwrap().extend(tokens(given));
    });
    (TaskMatcher::new(give_back), returned)
}

fn tokens(tasks: Vec<TaskView>) -> Vec<String> {
    tasks.into_iter().map(|task| task.token).collect()
}

/// A poll that waits no longer than it must.
async fn over(poll: &PollGuard) -> Woken {
    poll.wait(Instant::now(), poll.backlog().version).await
}

#[tokio::test]
async fn a_poll_that_waits_is_woken_by_a_task_and_by_an_offer() {
    let (matcher, _) = matcher();
    let poll = matcher.poll(&queue(), request(1));
    let version = poll.backlog().version;
    for woken in [Woken::Check, Woken::Tasks] {
        let version = poll.backlog().version;
        let mut waits = pin!(poll.wait(Instant::now() + DAY, version));
        let idle = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(idle, Poll::Pending);
        match woken {
            Woken::Check => matcher.offered(&queue(), "a"),
            _ => matcher.reserve(&queue(), "a").unwrap().deliver(task("1")),
        }
        assert_eq!(tokio::time::timeout(SOON, waits).await, Ok(woken));
    }
    assert_eq!(tokens(poll.leave(Vec::new())), ["1"]);
    let late = matcher.poll(&queue(), request(1));
    assert_eq!(late.wait(Instant::now(), version).await, Woken::Check, "there was an offer since");
}

#[tokio::test]
async fn what_is_dropped_is_released_or_goes_back() {
    let (matcher, returned) = matcher();
    let poll = matcher.poll(&queue(), request(2));
    assert_eq!(over(&poll).await, Woken::Over);
    let (first, second) = (matcher.reserve(&queue(), "a").unwrap(), matcher.reserve(&queue(), "a").unwrap());
    assert!(matcher.reserve(&queue(), "a").is_none());
    drop(second);
    let late = matcher.reserve(&queue(), "a").unwrap();
    first.deliver(task("1"));
    drop(poll);
    late.deliver(task("2"));
    drop(matcher.undelivered(TenantId::DEFAULT, vec![task("3")]));
    assert_eq!(tokens(matcher.undelivered(TenantId::DEFAULT, vec![task("4")]).deliver()), ["4"]);
    assert_eq!(*returned.lock().unwrap(), ["1", "2", "3"]);
    assert!(matcher.queues().is_empty());
}

#[tokio::test]
async fn an_answer_counts_ahead_until_its_worker_hears_of_it() {
    let (matcher, _) = matcher();
    let poll = matcher.poll(&queue(), request(1));
    let lease = poll.grant().lease;
    assert_eq!(over(&poll).await, Woken::Over);
    let answered = matcher.answered(lease).unwrap();
    let two = (matcher.reserve(&queue(), "a"), matcher.reserve(&queue(), "a"));
    assert!(two.0.is_some() && two.1.is_some() && matcher.reserve(&queue(), "a").is_none());
    drop(answered);
    drop(poll);
    assert!(matcher.answered(lease).is_none(), "its worker is gone");
}

#[tokio::test]
async fn a_timer_gives_back_what_nobody_comes_for() {
    let (matcher, returned) = matcher();
    for token in ["0", "1"] {
        let poll = matcher.poll(&queue(), request(2));
        assert_eq!(tokens(poll.leave(vec![task(token)])), [token]);
    }
    // It was back in time, and is expected.
    matcher.reserve(&queue(), "a").unwrap().deliver(task("2"));
    let deadline = Instant::now() + SOON;
    while returned.lock().unwrap().is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*returned.lock().unwrap(), ["2"]);
    assert!(matcher.queues().is_empty());
}
