//! What a guest may use of the host's time: fuel, which repeats, and the clock, which has the last word.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use backstitch_core::{Fault, FaultKind, Json, Rules};
use backstitch_sandbox::{GuestTime, Stop, Stopped, WorkflowInstance};
use support::*;

/// Many times as long as it takes a guest of [`DIVIDES`] to look up, and a fraction of what its fuel lasts for.
const SHORT: Duration = Duration::from_millis(30);

/// Under the first rules an instruction costs one unit, whatever it takes: a tank of these is most of a second.
const DIVIDES: &str = "(local $n i64)
    (local.set $n (i64.const -1))
    (loop $again
      (local.set $n (i64.div_u (i64.const -1) (i64.div_u (i64.const -1) (local.get $n))))
      (br $again))
    (unreachable)";

fn fault(outcome: Result<backstitch_sandbox::Activation, Stopped>) -> Fault {
    match outcome {
        Err(Stopped::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// A guest of the first rules that may compute for so long.
fn old(guest: &Guest<'_>, guest_time: GuestTime) -> WorkflowInstance {
    let program = block_on(async { built(&sandbox_with(guest_time), guest, Rules::First).await });
    WorkflowInstance::new(&program, beginning(STARTED_MS), info(), Json::null()).unwrap()
}

/// The fuel that a guest of these rules uses for its start.
fn fuel(rules: Rules, start: &str) -> u64 {
    let start = format!("{start} (drop (call $sleep (i64.const 5))) (call $next) (call $blocked)");
    let program = block_on(async { built(&sandbox(), &Guest { start: &start, ..SLEEPS_ONCE }, rules).await });
    let guest = WorkflowInstance::new(&program, beginning(STARTED_MS), info(), Json::null());
    guest.unwrap().activate().unwrap().fuel
}

#[test]
fn a_guest_that_computes_for_too_long_is_stopped_by_the_clock() {
    let time = GuestTime::per_event(SHORT);
    let slow = fault(old(&Guest { start: DIVIDES, ..SLEEPS_ONCE }, time).activate());
    assert_eq!(slow.kind, FaultKind::TooSlow, "{slow}");
    assert!(slow.message.contains("30 ms over one event"), "{slow}");

    // So is the sum over many events of a replay.
    let time = GuestTime { event: Duration::from_secs(600), activation: SHORT };
    let slow = fault(old(&Guest { start: DIVIDES, ..SLEEPS_ONCE }, time).activate());
    assert_eq!(slow.kind, FaultKind::TooSlow, "{slow}");
    assert!(slow.message.contains("in one activation"), "{slow}");
}

#[test]
fn describing_and_asking_are_under_the_clock_as_well() {
    let time = GuestTime::per_event(SHORT);
    let slow = block_on(async {
        let sandbox = sandbox_with(time);
        let program = built(&sandbox, &Guest { describe: DIVIDES, ..SLEEPS_ONCE }, Rules::First).await;
        program.described().unwrap_err().clone()
    });
    assert_eq!(slow.kind, FaultKind::TooSlow, "{slow}");

    let mut guest = old(&Guest { query: DIVIDES, ..SLEEPS_ONCE }, time);
    guest.activate().unwrap();
    let slow = guest.into_reader().unwrap().query("q", &Json::null()).unwrap_err();
    assert_eq!(slow.kind, FaultKind::TooSlow, "{slow}");
}

#[test]
fn a_guest_gives_its_thread_away_and_is_dropped_when_nobody_waits_for_it() {
    let mut guest = old(&Guest { start: DIVIDES, ..SLEEPS_ONCE }, GuestTime::default());
    let stop = Stop::default();
    guest.heed(stop.clone());
    {
        let mut activation = pin!(guest.activate_in_turns());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let begun = Instant::now();
            assert!(activation.as_mut().poll(&mut cx).is_pending(), "it computes for ever");
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        }
        stop.now();
        let Poll::Ready(ended) = activation.as_mut().poll(&mut cx) else { panic!("it was told to stop") };
        assert!(matches!(ended, Err(Stopped::Unwanted)), "{ended:?}");
    }
    guest.heed(Stop::default());
    assert!(fault(guest.activate()).message.contains("cannot be entered again"));
}

#[test]
fn the_prices_of_a_list_never_change() {
    let thousand = |what: &str| {
        format!(
            "(local $n i32) (local $x i64) (local.set $x (i64.const 7))
            (loop $again
              {what}
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $again (i32.ne (local.get $n) (i32.const 1000))))"
        )
    };
    let prices = |rules| {
        let nothing = fuel(rules, &thousand(""));
        let each = |what: &str| (fuel(rules, &thousand(what)) - nothing) / 1000;
        [
            each("(local.set $x (i64.add (local.get $x) (i64.const 3)))"),
            each("(local.set $x (i64.div_u (local.get $x) (i64.const 3)))"),
            each("(local.set $x (i64.load (i32.const 8192)))"),
            each("(i64.store (i32.const 8192) (local.get $x))"),
            each("(memory.copy (i32.const 8192) (i32.const 16384) (i32.const 1000))"),
            each("(memory.fill (i32.const 8192) (i32.const 0) (i32.const 0))"),
        ]
    };
    assert_eq!(prices(Rules::First), [4, 4, 3, 3, 1004, 4]);
    assert_eq!(prices(Rules::Second), [4, 27, 10, 10, 1053, 53]);
}

/// The start of a guest that calls an activity with `codes` that are not retried, and a task queue of `queue` bytes.
fn calls(codes: usize, queue: usize) -> String {
    format!(
        "(memory.fill (i32.const 16384) (i32.const 113) (i32.const 256))
        (i32.store (i32.const 2048) (i32.const 4097)) (i32.store (i32.const 2052) (i32.const 4))
        (i32.store (i32.const 2056) (i32.const 4096)) (i32.store (i32.const 2060) (i32.const 6))
        (i32.store (i32.const 2064) (i32.const 1))
        (i32.store (i32.const 2068) (i32.const 16384)) (i32.store (i32.const 2072) (i32.const {queue}))
        (i32.store (i32.const 2144) (i32.const 1)) (f64.store (i32.const 2168) (f64.const 1))
        (i32.store (i32.const 2184) (i32.const 8192)) (i32.store (i32.const 2188) (i32.const {codes}))
        (drop (call $call (i32.const 2048)))"
    )
}

#[test]
fn every_byte_and_every_part_that_is_handed_over_costs_fuel() {
    let more = |rules, codes, queue| fuel(rules, &calls(codes, queue)) - fuel(rules, &calls(0, 1));
    // As it was for runs that began before: neither the parts nor the queue cost anything.
    assert_eq!((more(Rules::First, 1000, 1), more(Rules::First, 0, 251)), (0, 0));
    assert_eq!((more(Rules::Second, 1000, 1), more(Rules::Second, 0, 251)), (50_000, 250));
}
