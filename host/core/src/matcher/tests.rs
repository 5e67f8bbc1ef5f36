//! What the matcher does with pollers that come, wait and leave.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::limits::{POLLER_GRACE_MS, RESERVED_WAIT_MS};

/// How long a poll waits.
const LONG: Duration = Duration::from_secs(50);

/// A task is its number.
struct Host {
    matcher: Matcher<u32, ()>,
    now: Moment,
    leases: u128,
    given_back: Vec<u32>,
    timers: Vec<(PollerId, Moment)>,
    woken: Vec<PollerId>,
}

fn queue() -> Queue {
    Queue { tenant: TenantId::DEFAULT, name: "q".into() }
}

fn request(names: Option<&[&str]>, max: u32) -> PollRequest {
    let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    PollRequest { names: names.map(std::sync::Arc::new), max, lease_ms: 1_000, worker: "w".into() }
}

impl Host {
    fn new() -> Self {
        let (given_back, timers, woken) = (Vec::new(), Vec::new(), Vec::new());
        Self { matcher: Matcher::new(7), now: Moment::default(), leases: 0, given_back, timers, woken }
    }

    fn carry_out(&mut self, actions: impl IntoIterator<Item = Action<u32, ()>>) {
        for action in actions {
            match action {
                Action::Wake(poller, ()) => self.woken.push(poller),
                Action::GiveBack(tenant, tasks) => {
                    assert_eq!(tenant, queue().tenant);
                    self.given_back.extend(tasks);
                }
                Action::SetTimer(poller, at) => self.timers.push((poller, at)),
            }
        }
    }

    /// Time goes by, and the timers ring.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        let (due, later) = self.timers.drain(..).partition(|(_, at)| *at <= self.now);
        self.timers = later;
        for (poller, _) in due {
            let actions = self.matcher.tick(self.now, poller);
            self.carry_out(actions);
        }
    }

    fn poll(&mut self, request: PollRequest) -> PollerId {
        self.matcher.poll(self.now, &queue(), request, || ()).0
    }

    /// A worker that waits.
    fn waiting(&mut self, names: Option<&[&str]>, max: u32) -> PollerId {
        let poller = self.poll(request(names, max));
        assert_eq!(self.wait(poller), Step::Wait(self.now + LONG));
        poller
    }

    fn wait(&mut self, poller: PollerId) -> Step {
        let version = self.matcher.backlog(poller).unwrap().version;
        self.matcher.wait(self.now, poller, self.now + LONG, version)
    }

    fn resume(&mut self, poller: PollerId) -> Step {
        self.matcher.resume(self.now, poller)
    }

    /// What a poll leaves with.
    fn leave(&mut self, poller: PollerId, found: &[u32]) -> Vec<u32> {
        let (tasks, actions) = self.matcher.leave(self.now, poller, found.to_vec());
        self.carry_out(actions);
        tasks
    }

    fn hang_up(&mut self, poller: PollerId) {
        let actions = self.matcher.hang_up(poller);
        self.carry_out(actions);
    }

    fn reserve_leased(&mut self, name: &str) -> Option<(Reservation, LeaseGrant)> {
        self.leases += 1;
        let lease = TaskLease(Uuid::from_u128(self.leases));
        self.matcher.reserve(&queue(), name, || lease)
    }

    fn reserve(&mut self, name: &str) -> Option<Reservation> {
        Some(self.reserve_leased(name)?.0)
    }

    /// A call that is reserved for somebody, and not recorded.
    fn is_reserved(&mut self, name: &str) -> bool {
        let reserved = self.reserve(name);
        let is_reserved = reserved.is_some();
        if let Some(reservation) = reserved {
            self.release(reservation);
        }
        is_reserved
    }

    fn commit(&mut self, reservation: Reservation, task: u32) {
        let action = self.matcher.commit(reservation, task);
        self.carry_out(action);
    }

    fn release(&mut self, reservation: Reservation) {
        let action = self.matcher.release(reservation);
        self.carry_out(action);
    }

    /// A call that is reserved and recorded.
    fn deliver(&mut self, name: &str, task: u32) {
        let reservation = self.reserve(name).unwrap();
        self.commit(reservation, task);
    }

    fn offer(&mut self, name: &str) {
        let action = self.matcher.offered(&queue(), name);
        self.carry_out(action);
    }

    /// A worker that takes two, leaves with one, and came back the last time.
    fn away(&mut self) {
        for _ in 0..2 {
            let poller = self.waiting(None, 2);
            assert_eq!(self.leave(poller, &[0]), [0]);
        }
        assert_eq!(self.timers.len(), 1);
    }

    /// How many pollers of the queue have been asked for something.
    fn asked(&self) -> u64 {
        self.matcher.queues[&queue()].asked
    }
}

#[test]
fn calls_are_reserved_in_turns_and_only_for_those_that_take_them() {
    let mut host = Host::new();
    let (any, only) = (host.waiting(None, 2), host.waiting(Some(&["b"]), 1));
    host.deliver("a", 1);
    host.deliver("b", 2);
    host.deliver("b", 3);
    assert!(host.reserve("b").is_none(), "nobody takes more");
    assert_eq!(host.woken, [any, only, any]);
    assert_eq!((host.resume(any), host.resume(only)), (Step::Deliver, Step::Deliver));
    assert_eq!(host.leave(any, &[]), [1, 3]);
    assert_eq!(host.leave(only, &[]), [2]);
    assert!(host.reserve("a").is_none() && host.matcher.queues().is_empty());
}

#[test]
fn a_reservation_that_is_released_is_no_loss() {
    let mut host = Host::new();
    let poller = host.waiting(None, 1);
    assert!(host.is_reserved("a"));
    assert_eq!(host.woken, [], "it has nothing to do");
    host.deliver("a", 1);
    assert_eq!(host.resume(poller), Step::Deliver);
    assert_eq!(host.leave(poller, &[]), [1]);
    assert!(host.given_back.is_empty());
}

#[test]
fn what_a_worker_left_behind_goes_back_and_so_does_what_comes_after_it() {
    let mut host = Host::new();
    let poller = host.waiting(None, 3);
    host.deliver("a", 1);
    let (late, never) = (host.reserve("a").unwrap(), host.reserve("a").unwrap());
    host.hang_up(poller);
    host.commit(late, 2);
    assert_eq!(host.matcher.release(never), None);
    assert_eq!(host.given_back, [1, 2]);
}

#[test]
fn a_poll_with_tasks_waits_for_those_that_are_being_committed_and_not_for_long() {
    let mut host = Host::new();
    let poller = host.waiting(None, 4);
    let mut reserved: Vec<_> = (0..3).map(|_| host.reserve("a").unwrap()).collect();
    host.commit(reserved.pop().unwrap(), 1);
    let until = host.now + Duration::from_millis(RESERVED_WAIT_MS);
    assert_eq!(host.resume(poller), Step::Wait(until));
    assert!(host.reserve("a").is_none(), "it leaves with what it has, and may not come back");
    host.pass(Duration::from_millis(RESERVED_WAIT_MS - 1));
    host.commit(reserved.pop().unwrap(), 2);
    assert_eq!(host.woken, [poller], "one is missing");
    assert_eq!(host.resume(poller), Step::Wait(until));
    host.pass(Duration::from_millis(1));
    assert_eq!(host.resume(poller), Step::Deliver);
    assert_eq!(host.leave(poller, &[]), [1, 2]);
    host.commit(reserved.pop().unwrap(), 3);
    assert_eq!(host.given_back, [3]);
    // The last one that it waits for may also not come.
    let poller = host.waiting(None, 2);
    let never = host.reserve("a").unwrap();
    host.deliver("a", 4);
    assert!(matches!(host.resume(poller), Step::Wait(_)));
    host.woken.clear();
    host.release(never);
    assert_eq!(host.woken, [poller]);
    assert_eq!(host.resume(poller), Step::Deliver);
}

#[test]
fn a_worker_that_comes_back_gets_what_was_reserved_meanwhile() {
    let mut host = Host::new();
    host.away();
    host.deliver("a", 1);
    assert!(host.reserve("a").is_none(), "it has no room for more");
    let other = host.poll(PollRequest { worker: "other".into(), ..request(None, 2) });
    assert_eq!(host.wait(other), Step::Wait(host.now + LONG), "it is another's");
    host.hang_up(other);
    let poller = host.poll(request(None, 3));
    assert_eq!(host.matcher.check(poller), 2, "what it has is its own");
    assert_eq!(host.wait(poller), Step::Deliver);
    host.deliver("a", 2);
    let late = host.reserve("a").unwrap();
    assert_eq!(host.leave(poller, &[]), [1, 2]);
    host.commit(late, 3);
    let poller = host.poll(request(None, 3));
    assert_eq!(host.leave(poller, &[]), [3]);
    assert!(host.given_back.is_empty());
}

#[test]
fn a_worker_is_expected_when_it_was_back_in_time() {
    let mut host = Host::new();
    let mut is_expected = |max, away_ms| {
        let poller = host.waiting(None, max);
        assert_eq!(host.leave(poller, &[0]), [0]);
        let is_expected = host.is_reserved("a");
        host.pass(Duration::from_millis(away_ms));
        is_expected
    };
    assert!(!is_expected(2, POLLER_GRACE_MS), "nobody knows yet whether it comes back");
    assert!(!is_expected(1, 0), "it has as many as it takes");
    assert!(is_expected(2, POLLER_GRACE_MS + 1), "it was back in time when it had room for more");
    assert!(!is_expected(2, 0), "it was late");
}

#[test]
fn an_answer_makes_room_for_the_next_call_and_no_poll_gets_more_than_it_asks_for() {
    let mut host = Host::new();
    host.away();
    let (first, LeaseGrant { lease, .. }) = host.reserve_leased("a").unwrap();
    host.commit(first, 1);
    assert!(host.reserve("a").is_none(), "it has as many as it takes");
    let answered = host.matcher.answered(lease).unwrap();
    host.deliver("a", 2);
    assert!(host.reserve("a").is_none(), "one answer, one task more");
    let poller = host.poll(request(None, 1));
    assert!(host.reserve("a").is_none(), "it has not checked yet");
    assert_eq!(host.matcher.check(poller), 0, "it has two");
    assert_eq!(host.wait(poller), Step::Deliver, "it did not know of the answer when it asked");
    assert_eq!(host.leave(poller, &[]), [1]);
    host.matcher.heard(answered);
    let poller = host.poll(request(None, 1));
    assert_eq!(host.leave(poller, &[]), [2]);
    assert!(host.matcher.answered(lease).is_none(), "its worker is gone");
    let poller = host.poll(request(None, 1));
    let lease = host.matcher.grant(poller, TaskLease(Uuid::from_u128(u128::MAX))).unwrap().lease;
    assert!(host.matcher.answered(lease).is_some());
    assert_eq!(host.matcher.check(poller), 1, "the database gives no more than is asked for either");
    assert!(host.given_back.is_empty());
}

#[test]
fn a_worker_that_comes_back_for_less_gets_no_more_than_it_asks_for() {
    let mut host = Host::new();
    host.away();
    host.deliver("a", 1);
    let none = host.poll(request(None, 0));
    assert!(host.leave(none, &[]).is_empty());
    assert_eq!(host.given_back, [1]);
}

#[test]
fn what_was_reserved_for_a_worker_that_does_not_come_goes_to_the_next() {
    let mut host = Host::new();
    host.away();
    host.deliver("a", 1);
    host.pass(Duration::from_millis(POLLER_GRACE_MS - 1));
    assert!(host.given_back.is_empty());
    host.pass(Duration::from_millis(1));
    assert_eq!(host.given_back, [1]);
    assert!(host.reserve("a").is_none() && host.matcher.queues().is_empty());
    host.pass(Duration::from_millis(1));
    let poller = host.waiting(None, 2);
    assert_eq!(host.leave(poller, &[2]), [2]);
    assert!(host.reserve("a").is_none(), "it was too late: it is not expected again");
}

#[test]
fn the_timer_of_an_earlier_absence_ends_no_later_one() {
    let mut host = Host::new();
    host.away();
    host.pass(Duration::from_millis(POLLER_GRACE_MS - 1));
    let poller = host.poll(request(None, 2));
    assert_eq!(host.leave(poller, &[1]), [1]);
    host.deliver("a", 2);
    host.pass(Duration::from_millis(1));
    assert!(host.given_back.is_empty(), "it has been away for a millisecond");
    host.pass(Duration::from_millis(POLLER_GRACE_MS - 1));
    assert_eq!(host.given_back, [2]);
}

#[test]
fn while_a_poll_checks_a_part_of_its_room_is_for_reservations_if_there_was_little_the_last_time() {
    let mut host = Host::new();
    host.away();
    let poller = host.poll(request(None, 9));
    assert_eq!(host.matcher.check(poller), 9, "there may be much");
    assert!(host.reserve("a").is_none());
    let version = host.matcher.backlog(poller).unwrap().version;
    assert_eq!(host.matcher.checked(poller, version, false), []);
    assert_eq!(host.matcher.check(poller), 5);
    host.deliver("a", 1);
    assert_eq!(host.matcher.checked(poller, version, true), [], "it knows");
    assert_eq!(host.matcher.check(poller), 8);
    assert_eq!(host.leave(poller, &[2]), [2, 1]);
}

#[test]
fn no_offer_falls_between_a_check_and_a_wait() {
    let mut host = Host::new();
    let poller = host.poll(request(None, 1));
    let seen = host.matcher.backlog(poller).unwrap().version;
    assert_eq!(host.matcher.check(poller), 1);
    host.offer("a");
    assert_eq!(host.matcher.wait(host.now, poller, host.now, seen), Step::Check);
    host.hang_up(poller);
    let (deaf, first) = (host.waiting(Some(&["b"]), 1), host.waiting(None, 1));
    let second = host.waiting(None, 1);
    host.offer("a");
    assert_eq!(host.woken, [first], "one is told, who takes it");
    // It leaves without having checked: one of each kind is told, for nobody knows any more what it was.
    host.hang_up(first);
    assert_eq!(host.woken, [first, deaf, second]);
    assert_eq!((host.resume(second), host.resume(deaf)), (Step::Check, Step::Check));
    assert_eq!(host.resume(deaf), Step::Wait(host.now + LONG), "once");
}

#[test]
fn who_was_told_to_check_and_leaves_instead_has_another_told() {
    let mut host = Host::new();
    host.away();
    let poller = host.poll(request(None, 2));
    assert_eq!(host.wait(poller), Step::Wait(host.now + LONG));
    host.offer("a");
    let other = host.waiting(Some(&["a"]), 1);
    assert_eq!(host.woken, [poller]);
    host.deliver("b", 1);
    assert_eq!(host.resume(poller), Step::Deliver);
    assert_eq!(host.leave(poller, &[]), [1]);
    assert!(host.is_reserved("b"), "it is expected back");
    assert_eq!(host.woken, [poller, poller, other]);
}

#[test]
fn a_poll_that_was_told_to_check_does_so_when_what_was_reserved_for_it_is_not_recorded() {
    let mut host = Host::new();
    let poller = host.waiting(None, 2);
    host.offer("a");
    let reservation = host.reserve("a").unwrap();
    assert_eq!(host.resume(poller), Step::Wait(host.now + LONG), "a task is about to come");
    host.woken.clear();
    host.release(reservation);
    assert_eq!(host.woken, [poller]);
    assert_eq!(host.resume(poller), Step::Check);
}

#[test]
fn what_was_checked_in_vain_is_checked_again_after_an_offer() {
    let mut host = Host::new();
    let (any, only) = (host.poll(request(None, 1)), host.poll(request(Some(&["b"]), 1)));
    let is_empty = |host: &mut Host, poller| host.matcher.backlog(poller).unwrap().is_known_empty;
    assert!(!is_empty(&mut host, any));
    let version = host.matcher.backlog(any).unwrap().version;
    host.matcher.checked(any, version, false);
    assert!(is_empty(&mut host, any) && !is_empty(&mut host, only));
    host.offer("a");
    assert!(!is_empty(&mut host, any));
}

#[test]
fn a_fan_out_asks_only_those_who_get_something_however_many_wait() {
    const CROWD: usize = 4_000;
    const CALLS: usize = 10_000;
    let mut host = Host::new();
    for index in 0..CROWD {
        // A quarter takes all there is, the others one of a few things.
        let name = ["a", "b", "c"][index % 3];
        host.waiting((index % 4 != 0).then_some(&[name]), 1);
    }
    let begun = host.asked();
    let mut reserved = Vec::new();
    for _ in 0..CALLS {
        match host.reserve("a") {
            Some(reservation) => reserved.push(reservation),
            None => host.offer("a"),
        }
    }
    assert_eq!(reserved.len(), CROWD / 2, "all that take it");
    // Each poller is met in vain once in each list.
    let asked_for_calls = host.asked() - begun;
    assert!(asked_for_calls <= 2 * CROWD as u64, "{asked_for_calls}");
    // The same, for offers to those who have no room for reservations any more.
    for _ in 0..CALLS {
        host.offer("a");
        host.matcher.offered_any(&queue());
    }
    let asked_for_offers = host.asked() - begun - asked_for_calls;
    assert!(asked_for_offers <= CROWD as u64, "{asked_for_offers}");
    // What is given up goes to whoever waits, as soon as there is room.
    for reservation in reserved.drain(reserved.len() - 10..) {
        assert_eq!(host.matcher.release(reservation), None);
    }
    (0..10).for_each(|number| host.deliver("a", number));
    assert!(host.reserve("a").is_none());
}

#[test]
fn nothing_is_kept_of_kinds_of_workers_that_have_left() {
    let mut host = Host::new();
    let (one, two) = (host.waiting(Some(&["a", "b"]), 1), host.waiting(Some(&["b"]), 1));
    host.hang_up(one);
    assert_eq!(host.matcher.queues[&queue()].kinds().len(), 1);
    assert!(host.reserve("a").is_none());
    assert!(host.is_reserved("b"));
    host.hang_up(two);
    assert!(host.matcher.queues.is_empty() && host.matcher.pollers.is_empty());
}
