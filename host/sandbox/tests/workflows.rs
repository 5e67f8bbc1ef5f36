//! What becomes of workflow guests, good and bad, and that it becomes of them again.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backstitch_core::{Command, Event, Fault, FaultKind, Json, Op, Replay, Status, limits};
use backstitch_sandbox::{Stopped, Unstarted, WorkflowInstance};
use support::*;

/// A guest that sleeps for ever and burns fuel after each event.
fn burns(fuel: u64) -> String {
    format!(
        "(local $left i64)
        (drop (call $sleep (i64.const 1)))
        (loop $events
          (call $next)
          (if (i32.load8_u (i32.const 512))
            (then
              (drop (call $sleep (i64.const 1)))
              (local.set $left (i64.const {}))
              (loop $burn
                (local.set $left (i64.sub (local.get $left) (i64.const 1)))
                (br_if $burn (i64.ne (local.get $left) (i64.const 0))))
              (br $events))))
        (call $blocked)",
        fuel / 9
    )
}

fn fault(outcome: Result<backstitch_sandbox::Activation, Stopped>) -> Fault {
    match outcome {
        Err(Stopped::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_workflow_blocks_goes_on_and_completes() {
    let mut guest = instance(&SLEEPS_ONCE);
    assert_eq!(guest.activate().unwrap().status, Status::Blocked);
    assert_eq!(guest.replay().take_issued().len(), 1);
    enqueue(guest.replay(), [fired(0)]);
    assert_eq!(guest.activate().unwrap().status, Status::Completed(Json::new("\"done\"").unwrap()));
    let again = fault(guest.activate());
    assert!(again.message.contains("cannot be entered again"), "{again}");
}

#[test]
fn a_replay_gives_the_same_commands_and_burns_the_same_fuel() {
    let run = || {
        let burn = burns(70_000);
        let mut guest = instance(&Guest { start: &burn, ..SLEEPS_ONCE });
        enqueue(guest.replay(), (0..5).map(fired));
        let activation = guest.activate().unwrap();
        (activation, guest.replay().take_issued())
    };
    let (first, commands) = run();
    assert_eq!(commands.len(), 6);
    assert!(first.fuel > 5 * 50_000, "{}", first.fuel);
    assert_eq!(run(), (first, commands));
}

#[test]
fn fuel_is_counted_between_events_whatever_the_batch() {
    let most = limits::FUEL_PER_EVENT;
    let (within, beyond) = (burns(most / 10 * 8), burns(most / 10 * 12));
    let mut guest = instance(&Guest { start: &within, ..SLEEPS_ONCE });
    enqueue(guest.replay(), (0..3).map(fired));
    let activation = guest.activate().unwrap();
    assert!(activation.fuel > 2 * most, "three events took {} in one batch", activation.fuel);

    let mut guest = instance(&Guest { start: &beyond, ..SLEEPS_ONCE });
    enqueue(guest.replay(), (0..1).map(fired));
    assert_eq!(fault(guest.activate()).kind, FaultKind::Fuel);
}

#[test]
fn a_divergence_names_the_call_and_the_guilty_function() {
    let mut replay = beginning(STARTED_MS);
    enqueue(&mut replay, [slept(0, 6), fired(0)]);
    let functions = "(func $reserve_item (result i32) (call $sleep (i64.const 5)))";
    let guest = Guest { functions, start: "(drop (call $reserve_item)) (call $blocked)", ..SLEEPS_ONCE };
    let Err(Stopped::Divergence(divergence)) = instance_on(&guest, replay).activate() else {
        panic!("it should have diverged");
    };
    assert_eq!((divergence.op, divergence.ledger.as_str()), (Op(0), "sleep 6 ms"));
    assert_eq!(divergence.guest, "sleep 5 ms");
    assert_eq!(divergence.backtrace.as_deref(), Some("guest: reserve_item\nguest: start"));
}

#[test]
fn stopping_short_of_the_ledger_diverges_too() {
    let mut replay = beginning(STARTED_MS);
    enqueue(&mut replay, [slept(0, 5), slept(1, 5)]);
    let Err(Stopped::Divergence(divergence)) = instance_on(&SLEEPS_ONCE, replay).activate() else {
        panic!("it should have diverged");
    };
    assert_eq!((divergence.op, divergence.guest.as_str()), (Op(1), "`blocked`"));
}

/// Everything that a guest can do to itself ends as a fault of the right kind, with its frames.
#[test]
fn every_way_to_break_is_a_fault_of_its_kind() {
    let grow = "(loop $more (drop (memory.grow (i32.const 1))) (br $more)) (unreachable)";
    let cases: [(&str, &str, FaultKind, &str); 9] = [
        ("", "(loop $for_ever (br $for_ever)) (unreachable)", FaultKind::Fuel, "units of fuel"),
        ("", grow, FaultKind::Memory, "it may have 67108864"),
        (
            "(func $deeper (param i64) (result i64) (call $deeper (i64.add (call $deeper (local.get 0)) (i64.const 1))))",
            "(drop (call $deeper (i64.const 0))) (unreachable)",
            FaultKind::Stack,
            "stack of 512 KiB is full",
        ),
        (
            "",
            "(drop (i32.div_u (i32.const 1) (i32.const 0))) (unreachable)",
            FaultKind::Trap,
            "divide by zero",
        ),
        ("", "(call $panic (i32.const 4096) (i32.const 6)) (unreachable)", FaultKind::Panic, "\"done\""),
        ("", "(unreachable)", FaultKind::Trap, "unreachable"),
        (
            "",
            "(drop (call $wait (i32.const 4096) (i32.const 0))) (unreachable)",
            FaultKind::Limit,
            "empty signal name",
        ),
        (
            "",
            "(drop (memory.grow (i32.const 200))) (drop (call $wait (i32.const 0) (i32.const 12000000))) (unreachable)",
            FaultKind::Limit,
            "handed over in one call",
        ),
        (
            "",
            "(drop (call $wait (i32.const 4096) (i32.const -1))) (unreachable)",
            FaultKind::Protocol,
            "out of bounds",
        ),
    ];
    for (functions, start, kind, message) in cases {
        let fault = fault(started(functions, start));
        assert_eq!(fault.kind, kind, "{start}: {fault}");
        assert!(fault.message.contains(message), "{start}: {fault}");
        let backtrace = fault.backtrace.unwrap();
        let innermost = if kind == FaultKind::Stack { "guest: deeper (64 times)" } else { "guest: start" };
        assert_eq!(backtrace, innermost, "{start}");
    }
}

#[test]
fn a_status_that_is_no_status_is_a_fault() {
    let cases = [
        (
            "(call $completed (i32.const 4097) (i32.const 3))",
            FaultKind::Protocol,
            "the workflow's output: not JSON",
        ),
        (
            "(drop (memory.grow (i32.const 64))) (call $completed (i32.const 65536) (i32.const 3000000))",
            FaultKind::Limit,
            "the workflow's output: 3000000 bytes",
        ),
        ("(call $blocked)", FaultKind::Protocol, "before next-event returned none"),
        ("(call $next) (call $blocked)", FaultKind::Protocol, "nothing is open"),
        (
            "(call $next) (drop (call $sleep (i64.const 5))) (call $blocked)",
            FaultKind::Protocol,
            "return `blocked` first",
        ),
        ("(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)", FaultKind::Protocol, "discriminant"),
    ];
    for (start, kind, message) in cases {
        let fault = fault(started("", start));
        assert_eq!(fault.kind, kind, "{start}: {fault}");
        assert!(fault.message.contains(message), "{start}: {fault}");
    }
}

#[test]
fn a_failure_is_checked_and_brought_within_bounds() {
    // kind: timeout, code of 200 bytes, message "done", details: (option), retryable.
    let failed = |details: &str| {
        format!(
            "(i32.store8 (i32.const 1024) (i32.const 2))
            (i32.store8 (i32.const 1032) (i32.const 1))
            (i32.store (i32.const 1036) (i32.const 8192)) (i32.store (i32.const 1040) (i32.const 200))
            (i32.store (i32.const 1044) (i32.const 4097)) (i32.store (i32.const 1048) (i32.const 4))
            {details} (i32.store8 (i32.const 1064) (i32.const 1))
            (i32.const 1024)"
        )
    };
    let details = |at: u32, length: u32| {
        format!(
            "(i32.store8 (i32.const 1052) (i32.const 1))
            (i32.store (i32.const 1056) (i32.const {at})) (i32.store (i32.const 1060) (i32.const {length}))"
        )
    };
    let Status::Failed(failure) = started("", &failed(&details(4096, 6))).unwrap().status else {
        panic!("it should have failed");
    };
    assert_eq!(failure.message, "done");
    assert!(failure.code.len() <= limits::CODE_BYTES_MAX && failure.retryable);
    assert_eq!(failure.details, Some(Json::new("\"done\"").unwrap()));
    let fault = fault(started("", &failed(&details(4097, 4))));
    assert!(fault.message.starts_with("the details of the workflow's failure: not JSON"), "{fault}");
}

/// Fuel stands for time only if nothing that is slow is cheap.
#[test]
fn whatever_a_guest_does_in_a_loop_runs_dry_in_good_time() {
    let own = "(table $own 1 1 funcref)";
    for call in [
        "(call $log (i32.const 1) (i32.const 0) (i32.const 60000))",
        "(drop (call $now))",
        "(drop (memory.grow (i32.const 0)))",
        "(drop (table.grow $own (ref.null func) (i32.const 0)))",
        "(memory.fill (i32.const 8192) (i32.const 0) (i32.const 50000))",
    ] {
        let thousand = format!(
            "(local $n i32)
            (loop $again
              {call}
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $again (i32.ne (local.get $n) (i32.const 1000))))
            (drop (call $sleep (i64.const 5))) (call $next) (call $blocked)"
        );
        let fuel = started(own, &thousand).unwrap().fuel;
        // The price of an instruction is a byte.
        assert!(fuel >= 1000 * limits::HOSTCALL_FUEL.min(255), "{call}: {fuel}");

        let begun = Instant::now();
        let fault = fault(started(own, &format!("(loop $again {call} (br $again)) (unreachable)")));
        assert_eq!(fault.kind, FaultKind::Fuel, "{call}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{call}: {:?}", begun.elapsed());
    }
}

#[test]
fn after_a_trap_nothing_enters_the_guest_again() {
    let mut guest = instance(&Guest { resume: "(unreachable)", ..SLEEPS_ONCE });
    guest.activate().unwrap();
    enqueue(guest.replay(), [fired(0)]);
    assert_eq!(fault(guest.activate()).kind, FaultKind::Trap);
    assert!(fault(guest.activate()).message.contains("cannot be entered again"));
    assert!(guest.into_reader().is_err());
}

#[test]
fn a_query_reads_and_only_reads() {
    let mut guest = instance(&SLEEPS_ONCE);
    guest.activate().unwrap();
    let mut reader = guest.into_reader().unwrap();
    for _ in 0..2 {
        assert_eq!(reader.query("q", &Json::null()), Ok(Ok(Json::new("\"done\"").unwrap())));
    }

    let commands = Guest { query: "(call $sleep (i64.const 1))", ..SLEEPS_ONCE };
    let mut guest = instance(&commands);
    guest.activate().unwrap();
    let mut reader = guest.into_reader().unwrap();
    let fault = reader.query("q", &Json::null()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Protocol);
    assert!(fault.message.contains("only reading is allowed"), "{fault}");
    assert!(reader.query("q", &Json::null()).unwrap_err().message.contains("cannot be entered again"));
}

#[test]
fn a_run_that_has_ended_can_still_be_asked_and_does_nothing_more() {
    let mut guest = instance(&SLEEPS_ONCE);
    guest.activate().unwrap();
    enqueue(guest.replay(), [fired(0)]);
    assert_ne!(guest.activate().unwrap().status, Status::Blocked);
    assert!(fault(guest.activate()).message.contains("cannot be entered again"));
    let mut reader = guest.into_reader().unwrap();
    assert_eq!(reader.query("q", &Json::null()), Ok(Ok(Json::new("\"done\"").unwrap())));

    let mut guest = instance(&Guest { query: "(call $sleep (i64.const 1))", ..SLEEPS_ONCE });
    guest.activate().unwrap();
    enqueue(guest.replay(), [fired(0)]);
    guest.activate().unwrap();
    let fault = guest.into_reader().unwrap().query("q", &Json::null()).unwrap_err();
    assert!(fault.message.contains("only reading is allowed"), "{fault}");
}

#[test]
fn describe_gives_names_and_commands_in_it_trap() {
    let describe = |guest: Guest<'_>| {
        block_on(async {
            let program = load_workflow(&sandbox(), &guest).await;
            program.described().map(<[_]>::to_vec).map_err(Clone::clone)
        })
    };
    let described = describe(SLEEPS_ONCE).unwrap();
    assert_eq!(described.len(), 1);
    assert_eq!((described[0].name.as_str(), described[0].task_queue.as_deref()), ("done", None));

    let cases = [
        ("(call $sleep (i64.const 1))", FaultKind::Protocol, "only reading"),
        (
            "(i64.store (i32.const 1024) (i64.const 0)) (i32.const 1024)",
            FaultKind::Protocol,
            "holds no workflow",
        ),
        (
            "(i32.store (i32.const 1024) (i32.const 8192)) (i32.store (i32.const 1028) (i32.const 1001)) (i32.const 1024)",
            FaultKind::Limit,
            "at most 1000",
        ),
        (
            "(i32.store (i32.const 1024) (i32.const 8192)) (i32.store (i32.const 1028) (i32.const 1)) (i32.const 1024)",
            FaultKind::Limit,
            "empty workflow name",
        ),
        ("(loop $l (br $l)) (unreachable)", FaultKind::Fuel, "fuel"),
    ];
    for (body, kind, message) in cases {
        let fault = describe(Guest { describe: body, ..SLEEPS_ONCE }).unwrap_err();
        assert_eq!(fault.kind, kind, "{body}: {fault}");
        assert!(fault.message.contains(message), "{body}: {fault}");
    }
}

#[test]
fn ambients_are_the_runs_own() {
    // Waits for a signal named by the number, so that it can be seen.
    let named = |call: &str| {
        format!("(local $n i64) (local $at i32)
            (local.set $n {call}) (local.set $at (i32.const 8192))
            (loop $digits
              (i32.store8 (local.get $at) (i32.add (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10))) (i32.const 48)))
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
              (br_if $digits (i64.ne (local.get $n) (i64.const 0))))
            (drop (call $wait (i32.const 8192) (i32.sub (local.get $at) (i32.const 8192))))
            (call $next) (call $blocked)")
    };
    let seen = |call: &str| {
        let mut guest = instance(&Guest { start: &named(call), ..SLEEPS_ONCE });
        guest.activate().unwrap();
        match guest.replay().take_issued().remove(0).1 {
            Command::AwaitSignal { name } => name.chars().rev().collect::<String>(),
            other => panic!("{other}"),
        }
    };
    assert_eq!(seen("(call $now)"), STARTED_MS.to_string());
    assert_eq!(seen("(call $random)"), seen("(call $random)"));
    assert_ne!(seen("(call $random)"), seen("(i64.add (call $random) (call $random))"));
}

#[test]
fn a_full_pool_is_nobodys_fault() {
    let program = block_on(async { load_workflow(&sandbox(), &SLEEPS_ONCE).await });
    let make = || WorkflowInstance::new(&program, beginning(0), info(), Json::null());
    let mut alive = Vec::new();
    let full = loop {
        match make() {
            Ok(instance) => alive.push(instance),
            Err(error) => break error,
        }
        assert!(alive.len() < 10_000);
    };
    assert!(matches!(full, Unstarted::NoRoom), "{full}");
    drop(alive);
    assert!(make().is_ok());
}

#[test]
fn outcomes_reach_the_guest_byte_for_byte() {
    // Completes with the payload of the first event: (option, op, result, pointer, length).
    let start = "(drop (call $wait (i32.const 4097) (i32.const 4))) (call $next)
        (call $completed (i32.load (i32.const 536)) (i32.load (i32.const 540)))";
    let mut guest = instance(&Guest { start, ..SLEEPS_ONCE });
    let payload = Json::new(r#"{"z":1.0,"a":[ ],"a":"\u0000é"}"#).unwrap();
    enqueue(
        guest.replay(),
        [Event::SignalReceived { name: "done".into(), payload: payload.clone(), id: None }],
    );
    assert_eq!(guest.activate().unwrap().status, Status::Completed(payload));
}

/// Everything that is logged while a guest with this `start` is activated on `replay`.
fn logged(start: &str, replay: Replay) -> String {
    logged_by(instance_on(&Guest { start, ..SLEEPS_ONCE }, replay))
}

fn logged_by(mut guest: WorkflowInstance) -> String {
    let written = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&written);
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || Written(Arc::clone(&writer)))
        .with_max_level(tracing::Level::TRACE)
        .finish();
    tracing::subscriber::with_default(subscriber, || guest.activate()).unwrap();
    String::from_utf8(written.lock().unwrap().clone()).unwrap()
}

struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_guest_that_repeats_itself_is_silent() {
    let line = "(call $log (i32.const 2) (i32.const 4096) (i32.const 6))";
    let start = format!("{line} (drop (call $sleep (i64.const 5))) (call $next) (call $blocked)");
    let live = logged(&start, beginning(STARTED_MS));
    assert!(live.contains("WARN guest: \"done\""), "{live}");
    assert!(live.contains(&RUN.to_string()), "{live}");
    let mut replay = beginning(STARTED_MS);
    enqueue(&mut replay, [slept(0, 5)]);
    assert_eq!(logged(&start, replay), "");

    // So is one that is only looked at, also where nobody has been before.
    let mut guest = instance_on(&Guest { start: &start, ..SLEEPS_ONCE }, beginning(STARTED_MS));
    guest.mute();
    assert_eq!(logged_by(guest), "");
}

#[test]
fn a_chatty_guest_is_cut_short() {
    let start = "(local $n i32)
        (loop $again
          (call $log (i32.const 0) (i32.const 4096) (i32.const 6))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $again (i32.ne (local.get $n) (i32.const 1500))))
        (drop (call $sleep (i64.const 5))) (call $next) (call $blocked)";
    let lines = logged(start, beginning(STARTED_MS));
    assert_eq!(lines.lines().count(), limits::LOG_LINES_PER_ACTIVATION_MAX + 1);
    assert!(lines.lines().last().unwrap().contains("500 more lines dropped"));
}
