//! What the desk does with workers that come, wait and leave.

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn queue() -> Queue {
    Queue { tenant: TenantId::DEFAULT, name: "q".into() }
}

fn wish(names: Option<&[&str]>, max: u32) -> Wish {
    let names = names.map(|names| Arc::new(names.iter().map(|name| (*name).to_owned()).collect()));
    Wish { names, max, lease_ms: 1_000, worker: "w".into() }
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

/// A desk, and the tokens of what it has given back.
fn desk() -> (Desk, Arc<Mutex<Vec<String>>>) {
    desk_expecting(DAY)
}

fn desk_expecting(return_wait: Duration) -> (Desk, Arc<Mutex<Vec<String>>>) {
    let returned = Arc::new(Mutex::new(Vec::new()));
    let tokens = Arc::clone(&returned);
    let give_back = Arc::new(move |_, tasks: Vec<TaskView>| {
        tokens.lock().unwrap().extend(tasks.into_iter().map(|task| task.token));
    });
    (Desk::expecting(return_wait, give_back), returned)
}

/// A worker that waits.
async fn sit(desk: &Desk, names: Option<&[&str]>, max: u32) -> Seat {
    let seat = desk.sit(&queue(), wish(names, max));
    assert_eq!(got(&seat).await, None);
    seat
}

/// What a worker has that waits no longer than it must: none is nothing, the empty one is to look.
async fn got(seat: &Seat) -> Option<Vec<String>> {
    match seat.wait(Instant::now(), seat.desk.offers(&queue())).await {
        Woken::Tasks => {
            let tasks = &locked(&seat.chair.state).tasks;
            Some(tasks.iter().map(|task| task.token.clone()).collect())
        }
        Woken::Look => Some(Vec::new()),
        Woken::Over => None,
    }
}

fn tokens(tasks: Vec<TaskView>) -> Vec<String> {
    tasks.into_iter().map(|task| task.token).collect()
}

#[tokio::test]
async fn promises_go_to_workers_in_turns_and_only_to_those_that_want_them() {
    let (desk, _) = desk();
    let (any, only) = (sit(&desk, None, 2).await, sit(&desk, Some(&["b"]), 1).await);
    desk.promise(&queue(), "a").unwrap().keep(task("1"));
    desk.promise(&queue(), "b").unwrap().keep(task("2"));
    desk.promise(&queue(), "b").unwrap().keep(task("3"));
    assert!(desk.promise(&queue(), "b").is_none(), "nobody wants more");
    assert_eq!(got(&any).await.unwrap(), ["1", "3"]);
    assert_eq!(got(&only).await.unwrap(), ["2"]);
    assert_eq!(tokens(any.leave(Vec::new())), ["1", "3"]);
    assert_eq!(tokens(only.leave(Vec::new())), ["2"]);
    assert!(desk.promise(&queue(), "a").is_none() && desk.queues().is_empty());
}

#[tokio::test]
async fn a_promise_that_is_not_kept_is_no_loss() {
    let (desk, returned) = desk();
    let seat = sit(&desk, None, 1).await;
    drop(desk.promise(&queue(), "a").unwrap());
    desk.promise(&queue(), "a").unwrap().keep(task("1"));
    assert_eq!(got(&seat).await.unwrap(), ["1"]);
    assert!(returned.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_worker_left_behind_goes_back_and_so_does_what_comes_after_it() {
    let (desk, returned) = desk();
    let seat = sit(&desk, None, 2).await;
    desk.promise(&queue(), "a").unwrap().keep(task("1"));
    let late = desk.promise(&queue(), "a").unwrap();
    drop(seat);
    late.keep(task("2"));
    assert_eq!(*returned.lock().unwrap(), ["1", "2"]);
}

/// A worker that takes two, leaves with one, and came back the last time.
async fn gone(desk: &Desk) {
    let returns = Departure { at: None, returns: true };
    locked(&desk.inner.departures).put((queue(), "w".into()), returns);
    assert_eq!(tokens(sit(desk, None, 2).await.leave(vec![task("0")])), ["0"]);
}

#[tokio::test]
async fn a_worker_that_comes_back_gets_what_was_promised_meanwhile() {
    let (desk, returned) = desk();
    gone(&desk).await;
    desk.promise(&queue(), "a").unwrap().keep(task("1"));
    assert!(desk.promise(&queue(), "a").is_none(), "it has no room for more");
    let other = desk.sit(&queue(), Wish { worker: "other".into(), ..wish(None, 2) });
    assert_eq!(got(&other).await, None, "it is another's");
    drop(other);
    let seat = desk.sit(&queue(), wish(None, 3));
    assert_eq!(seat.look(), 2, "what it has is its own");
    assert_eq!(got(&seat).await.unwrap(), ["1"]);
    desk.promise(&queue(), "a").unwrap().keep(task("2"));
    let late = desk.promise(&queue(), "a").unwrap();
    assert_eq!(tokens(seat.leave(Vec::new())), ["1", "2"]);
    late.keep(task("3"));
    assert_eq!(tokens(desk.sit(&queue(), wish(None, 3)).leave(Vec::new())), ["3"]);
    assert!(returned.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_worker_is_expected_when_it_was_back_in_time() {
    let (desk, _) = desk();
    drop(tokens(sit(&desk, None, 2).await.leave(vec![task("0")])));
    assert!(desk.promise(&queue(), "a").is_none(), "nobody knows yet whether it comes back");
    drop(tokens(sit(&desk, None, 1).await.leave(vec![task("1")])));
    assert!(desk.promise(&queue(), "a").is_none(), "it has as many as it takes");
    drop(tokens(sit(&desk, None, 2).await.leave(vec![task("2")])));
    assert!(desk.promise(&queue(), "a").is_some());
}

#[tokio::test]
async fn an_answer_makes_room_for_the_next_call_and_no_poll_gets_more_than_it_asks_for() {
    let (desk, returned) = desk();
    gone(&desk).await;
    let first = desk.promise(&queue(), "a").unwrap();
    let lease = first.taking.lease;
    first.keep(task("1"));
    assert!(desk.promise(&queue(), "a").is_none(), "it has as many as it takes");
    let answered = desk.answered(lease).unwrap();
    desk.promise(&queue(), "a").unwrap().keep(task("2"));
    assert!(desk.promise(&queue(), "a").is_none(), "one answer, one task more");
    let seat = desk.sit(&queue(), wish(None, 1));
    assert!(desk.promise(&queue(), "a").is_none(), "it has not looked yet");
    assert_eq!(seat.look(), 0, "two are promised");
    assert_eq!(got(&seat).await.unwrap(), ["1", "2"], "it did not know of the answer when it asked");
    assert_eq!(tokens(seat.leave(Vec::new())), ["1"]);
    drop(answered);
    assert_eq!(tokens(desk.sit(&queue(), wish(None, 1)).leave(Vec::new())), ["2"]);
    assert!(desk.answered(lease).is_none(), "its worker is gone");
    let seat = desk.sit(&queue(), wish(None, 1));
    let lease = seat.taking().lease;
    assert!(desk.answered(lease).is_some());
    assert_eq!(seat.look(), 1, "the database gives no more than is asked for either");
    assert!(returned.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_worker_that_comes_back_for_less_gets_no_more_than_it_wants() {
    let (desk, returned) = desk();
    gone(&desk).await;
    desk.promise(&queue(), "a").unwrap().keep(task("1"));
    let none = desk.sit(&queue(), wish(None, 0));
    assert!(none.leave(Vec::new()).is_empty());
    assert_eq!(*returned.lock().unwrap(), ["1"]);
}

#[tokio::test]
async fn what_was_promised_to_a_worker_that_does_not_come_goes_to_the_next() {
    let (desk, returned) = desk_expecting(Duration::from_millis(1));
    gone(&desk).await;
    desk.promise(&queue(), "a").unwrap().keep(task("1"));
    while returned.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*returned.lock().unwrap(), ["1"]);
    assert!(desk.promise(&queue(), "a").is_none() && desk.queues().is_empty());
    drop(tokens(sit(&desk, None, 2).await.leave(vec![task("2")])));
    assert!(desk.promise(&queue(), "a").is_none(), "it was too late: it is not expected again");
}

#[tokio::test]
async fn while_a_worker_looks_a_part_of_its_room_is_for_promises_if_there_was_little_the_last_time() {
    let (desk, _) = desk();
    gone(&desk).await;
    let seat = desk.sit(&queue(), wish(None, 9));
    assert_eq!(seat.look(), 9, "there may be much");
    assert!(desk.promise(&queue(), "a").is_none());
    desk.found_nothing(&queue(), &wish(None, 9), desk.offers(&queue()));
    assert_eq!(seat.look(), 5);
    desk.promise(&queue(), "a").unwrap().keep(task("1"));
    desk.found_more(&queue(), &wish(None, 9));
    assert_eq!(seat.look(), 8);
    assert_eq!(tokens(seat.leave(vec![task("2")])), ["2", "1"]);
}

#[tokio::test]
async fn no_offer_falls_between_a_look_and_a_wait() {
    let (desk, _) = desk();
    let seen = desk.offers(&queue());
    let seat = desk.sit(&queue(), wish(None, 1));
    desk.offered(&queue(), "a");
    assert!(matches!(seat.wait(Instant::now(), seen).await, Woken::Look));
    drop(seat);
    let (deaf, first) = (sit(&desk, Some(&["b"]), 1).await, sit(&desk, None, 1).await);
    let second = sit(&desk, None, 1).await;
    desk.offered(&queue(), "a");
    assert_eq!((got(&second).await, got(&deaf).await), (None, None), "one is told, who takes it");
    // It leaves without having looked: one of each kind is told, for nobody knows any more what it was.
    drop(first);
    assert_eq!((got(&second).await, got(&deaf).await), (Some(Vec::new()), Some(Vec::new())));
}

#[test]
fn what_was_looked_for_in_vain_is_there_again_after_an_offer() {
    let (desk, _) = desk();
    let (any, only) = (wish(None, 1), wish(Some(&["b"]), 1));
    assert!(!desk.is_known_empty(&queue(), &any));
    desk.found_nothing(&queue(), &any, desk.offers(&queue()));
    assert!(desk.is_known_empty(&queue(), &any) && !desk.is_known_empty(&queue(), &only));
    desk.offered(&queue(), "a");
    assert!(!desk.is_known_empty(&queue(), &any));
}

/// How many chairs of the queue have been asked for something.
fn asked(desk: &Desk) -> u64 {
    locked(&desk.inner.waiting)[&queue()].asked
}

#[tokio::test]
async fn a_fan_out_asks_only_those_who_get_something_however_many_wait() {
    const CROWD: usize = 4_000;
    const CALLS: usize = 10_000;
    let (desk, _) = desk();
    let mut seats = Vec::new();
    for index in 0..CROWD {
        // A quarter takes all there is, the others one of a few things.
        let name = ["a", "b", "c"][index % 3];
        seats.push(sit(&desk, (index % 4 != 0).then_some(&[name]), 1).await);
    }
    let begun = asked(&desk);
    let mut promises = Vec::new();
    for _ in 0..CALLS {
        match desk.promise(&queue(), "a") {
            Some(promise) => promises.push(promise),
            None => desk.offered(&queue(), "a"),
        }
    }
    assert_eq!(promises.len(), CROWD / 2, "all that take it");
    // Each chair is met in vain once in each list.
    let asked_for_calls = asked(&desk) - begun;
    assert!(asked_for_calls <= 2 * CROWD as u64, "{asked_for_calls}");
    // The same, for offers to those who have no room for promises any more.
    for _ in 0..CALLS {
        desk.offered(&queue(), "a");
        desk.look(&queue());
    }
    let asked_for_offers = asked(&desk) - begun - asked_for_calls;
    assert!(asked_for_offers <= CROWD as u64, "{asked_for_offers}");
    // What is given up goes to whoever waits, as soon as there is room.
    promises.truncate(promises.len() - 10);
    for number in 0..10 {
        desk.promise(&queue(), "a").unwrap().keep(task(&number.to_string()));
    }
    assert!(desk.promise(&queue(), "a").is_none());
}

#[tokio::test]
async fn nothing_is_kept_of_kinds_of_workers_that_have_left() {
    let (desk, _) = desk();
    let one = sit(&desk, Some(&["a", "b"]), 1).await;
    let two = sit(&desk, Some(&["b"]), 1).await;
    drop(one);
    assert!(desk.promise(&queue(), "a").is_none());
    assert!(desk.promise(&queue(), "b").is_some());
    drop(two);
    assert!(locked(&desk.inner.waiting).is_empty());
}
