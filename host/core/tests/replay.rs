//! What a guest meets: every scenario is a list of steps with the answer that each must get.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::fmt::Write as _;

use std::sync::Arc;

use backstitch_core::replay::Refusal;
use backstitch_core::{
    ActivityOptions, Attribute, ChildOptions, Command, Edit, Event, Failure, FailureKind, Json, Op, Replay,
    RetryPolicy, Run, RunId, Seed, Seq, Source, StartOptions, Status, Target, limits,
};
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));

/// One step of a scenario. The time of row n is n × 10.
#[derive(Clone)]
enum Do {
    /// A committed row is enqueued for the guest. Answers nothing.
    Enqueue(Event),
    /// Opens an activation. Answers nothing.
    Begin,
    /// The guest gives a command: `op n`.
    Give(Command),
    /// The guest asks for a change: `true` or `false`.
    Patched(&'static str),
    /// The guest asks for an event: `op = outcome @now` or `none`.
    Next,
    /// The guest reads the time.
    Now,
    /// The guest returns: `ok`.
    Return(Status),
    /// The host records what is new: the commands.
    Commit,
    /// A cold start: another guest, the same ledger. Answers nothing.
    Restart,
}
use Do::{Begin, Commit, Enqueue, Give, Next, Now, Patched, Restart, Return};

/// Walks through the steps and compares every answer. The `Run` beside the `Replay` makes sure that
/// the ledger of the scenario is one that a host can have written.
fn check(steps: &[(Do, &str)]) {
    let (mut run, mut rows) = (Run::new(RUN), Vec::new());
    let started = Event::RunStarted { workflow: "w".into(), input: Json::null(), options: Arc::default() };
    rows.push(run.append(0, &started).unwrap());
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    let mut transcript = String::new();
    for (index, (step, expected)) in steps.iter().enumerate() {
        let answer = match step.clone() {
            Enqueue(event) => {
                let row = run.append(u64::from(run.next_seq().0) * 10, &event).unwrap();
                replay.enqueue(row.seq, row.at_ms, event);
                rows.push(row);
                Ok(String::new())
            }
            Begin => {
                replay.begin();
                Ok(String::new())
            }
            Give(command) => replay.command(command).map(|op| format!("op {op}")),
            Patched(change) => replay.patched(change.into()).map(|answer| answer.to_string()),
            Next => replay.next_event().map(|delivery| {
                delivery.map_or("none".into(), |delivery| {
                    let outcome =
                        delivery.outcome.map_or_else(|failure| failure.code, |json| json.to_string());
                    format!("{} = {outcome} @{}", delivery.op, replay.now_ms())
                })
            }),
            Now => Ok(format!("@{}", replay.now_ms())),
            Return(status) => replay.finish(&status).map(|()| "ok".into()),
            Commit => {
                let issued = replay.take_issued();
                let shown: Vec<_> = issued.iter().map(|(op, command)| format!("{op}: {command}")).collect();
                for (op, command) in issued {
                    let at_ms = u64::from(run.next_seq().0) * 10;
                    rows.push(run.append(at_ms, &Event::Commanded { op, command }).unwrap());
                }
                Ok(shown.join(", "))
            }
            Restart => {
                replay = Replay::new(RUN, 0, &StartOptions::default());
                let (_, events) = Run::load_all(RUN, &rows).unwrap();
                for (row, event) in rows.iter().zip(events) {
                    replay.enqueue(row.seq, row.at_ms, event);
                }
                Ok(String::new())
            }
        };
        let answer = answer.unwrap_or_else(|refusal| match refusal {
            Refusal::Divergence(divergence) => format!("divergence {divergence}"),
            Refusal::Protocol(what) => format!("protocol {what}"),
            Refusal::Limit(what) => format!("limit {what}"),
        });
        writeln!(transcript, "{index:>3} {answer}").unwrap();
        assert_eq!(answer, *expected, "step {index} of\n{transcript}");
    }
}

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

fn activity(name: &str) -> Command {
    Command::ScheduleActivity { name: name.into(), input: json("[1]"), options: ActivityOptions::default() }
}

fn child(workflow: &str) -> Command {
    Command::StartChild { workflow: workflow.into(), input: json("{}"), options: ChildOptions::default() }
}

fn sleep(ms: u64) -> Command {
    Command::StartTimer { ms }
}

fn wait(signal: &str) -> Command {
    Command::AwaitSignal { name: signal.into() }
}

fn cancel(target: u32) -> Command {
    Command::Cancel { target: Op(target) }
}

fn recorded(op: u32, command: Command) -> Do {
    Enqueue(Event::Commanded { op: Op(op), command })
}

fn done(op: u32, output: &str) -> Do {
    Enqueue(Event::ActivityClosed { op: Op(op), attempt: 1, outcome: Ok(json(output)) })
}

fn fired(op: u32) -> Do {
    Enqueue(Event::TimerFired { op: Op(op) })
}

fn signal(name: &str, payload: &str) -> Do {
    Enqueue(Event::SignalReceived { name: name.into(), payload: json(payload), id: None })
}

fn cancel_requested() -> Do {
    Enqueue(Event::CancelRequested { reason: "enough".into(), id: None })
}

fn completed(output: &str) -> Status {
    Status::Completed(json(output))
}

fn failure(code: &str) -> Failure {
    Failure::fatal(FailureKind::Application, code, "m")
}

#[test]
fn new_commands_take_numbers_in_call_order_and_are_handed_over_once() {
    check(&[
        (Begin, ""),
        (Give(activity("pay")), "op 0"),
        (Give(sleep(5)), "op 1"),
        (Give(child("ship")), "op 2"),
        (Give(wait("stop")), "op 3"),
        (Give(cancel(1)), "op 4"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (
            Commit,
            "0: activity pay([1]), 1: sleep 5 ms, 2: child ship({}), 3: wait for signal \"stop\", 4: cancel op 1",
        ),
        (Commit, ""),
    ]);
}

#[test]
fn a_cold_guest_repeats_its_commands_and_gets_the_same_outcomes_at_the_same_times() {
    check(&[
        (recorded(0, activity("pay")), ""),
        (recorded(1, sleep(5)), ""),
        (fired(1), ""),
        (done(0, "\"paid\""), ""),
        (recorded(2, activity("ship")), ""),
        (Begin, ""),
        (Give(activity("pay")), "op 0"),
        (Give(sleep(5)), "op 1"),
        (Next, "1 = null @30"),
        (Next, "0 = \"paid\" @40"),
        (Give(activity("ship")), "op 2"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, ""),
    ]);
}

#[test]
fn options_may_be_tuned_under_an_open_run() {
    let options = ActivityOptions { heartbeat_ms: Some(7), ..ActivityOptions::default() };
    let tuned = Command::ScheduleActivity { name: "pay".into(), input: json("[1]"), options };
    check(&[(recorded(0, activity("pay")), ""), (Begin, ""), (Give(tuned), "op 0"), (Commit, "")]);
}

#[test]
fn another_command_diverges_at_its_op_and_row() {
    let changes = [
        (activity("refund"), "activity refund([1])"),
        (
            Command::ScheduleActivity {
                name: "pay".into(),
                input: json("[ 1]"),
                options: ActivityOptions::default(),
            },
            "activity pay([ 1])",
        ),
        (sleep(6), "sleep 6 ms"),
        (wait("pay"), "wait for signal \"pay\""),
        (child("pay"), "child pay({})"),
        (cancel(0), "cancel op 0"),
    ];
    for (now, shown) in changes {
        let report = format!(
            "divergence at op 1 (row 2) the ledger holds activity pay([1]), the guest now gave {shown}"
        );
        check(&[
            (recorded(0, sleep(1)), ""),
            (recorded(1, activity("pay")), ""),
            (Begin, ""),
            (Give(sleep(1)), "op 0"),
            (Give(now), &report),
        ]);
    }
}

#[test]
fn a_report_shows_an_unchecked_name_on_one_short_line() {
    let name = "a\nb".repeat(100);
    let shown = format!("{}a… 300 bytes", "a b".repeat(53));
    check(&[
        (recorded(0, sleep(1)), ""),
        (Begin, ""),
        (
            Give(wait(&name)),
            &format!(
                "divergence at op 0 (row 1) the ledger holds sleep 1 ms, the guest now gave wait for signal \"{shown}\""
            ),
        ),
    ]);
}

#[test]
fn a_missing_command_is_named_and_not_the_event_that_came_after_it() {
    check(&[
        (recorded(0, sleep(1)), ""),
        (recorded(1, activity("pay")), ""),
        (recorded(2, activity("ship")), ""),
        (done(2, "2"), ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (
            Next,
            "divergence at op 1 (row 2) the ledger holds activity pay([1]), \
             the guest now gave no command: it took the next event",
        ),
    ]);
}

#[test]
fn a_command_given_after_a_later_event_than_before_diverges() {
    // Then: `ship` followed the first timer. Now: the second.
    check(&[
        (recorded(0, sleep(1)), ""),
        (recorded(1, sleep(2)), ""),
        (fired(0), ""),
        (recorded(2, activity("ship")), ""),
        (fired(1), ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Give(sleep(2)), "op 1"),
        (Next, "0 = null @30"),
        (
            Next,
            "divergence at op 2 (row 4) the ledger holds activity ship([1]), \
             the guest now gave no command: it took the next event",
        ),
    ]);
}

#[test]
fn rows_of_one_batch_may_stand_above_the_commands_that_the_first_of_them_caused() {
    check(&[
        (recorded(0, sleep(1)), ""),
        (recorded(1, sleep(2)), ""),
        (fired(0), ""),
        (fired(1), ""),
        (recorded(2, activity("ship")), ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Give(sleep(2)), "op 1"),
        (Next, "0 = null @30"),
        (Give(activity("ship")), "op 2"),
        (Next, "1 = null @40"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
    ]);
}

#[test]
fn returning_short_of_the_ledger_diverges() {
    let statuses = [
        (Status::Blocked, "`blocked`"),
        (completed("7"), "`completed` with 7"),
        (Status::Failed(failure("no")), "`failed` with no: m"),
        (Status::ContinueAsNew(json("8")), "`continue-as-new` with 8"),
    ];
    for (status, shown) in statuses {
        let report =
            format!("divergence at op 1 (row 2) the ledger holds sleep 2 ms, the guest now gave {shown}");
        check(&[
            (recorded(0, sleep(1)), ""),
            (recorded(1, sleep(2)), ""),
            (Begin, ""),
            (Give(sleep(1)), "op 0"),
            (Next, "none"),
            (Return(status), &report),
        ]);
    }
}

#[test]
fn a_closed_run_must_end_as_it_did() {
    let ends = [
        (Event::RunCompleted { output: json("7") }, completed("7"), "ok"),
        (
            Event::RunCompleted { output: json("7") },
            completed("7.0"),
            "divergence at op 0 (row 1) the ledger holds `completed` with 7, the guest now gave `completed` with 7.0",
        ),
        (Event::RunFailed { failure: failure("no") }, Status::Failed(failure("no")), "ok"),
        (Event::RunCancelled { failure: failure("no") }, Status::Failed(failure("no")), "ok"),
        (
            Event::RunFailed { failure: failure("no") },
            Status::Failed(failure("nay")),
            "divergence at op 0 (row 1) the ledger holds `failed` with no: m, the guest now gave `failed` with nay: m",
        ),
        (Event::RunContinued { input: json("[]") }, Status::ContinueAsNew(json("[]")), "ok"),
        (
            Event::RunContinued { input: json("[]") },
            Status::Blocked,
            "divergence at op 0 (row 1) the ledger holds `continue-as-new` with [], the guest now gave `blocked`",
        ),
    ];
    for (event, status, answer) in ends {
        check(&[(Enqueue(event), ""), (Begin, ""), (Next, "none"), (Return(status), answer)]);
    }
}

#[test]
fn a_command_beyond_the_end_diverges() {
    check(&[
        (Enqueue(Event::RunCompleted { output: json("7") }), ""),
        (Begin, ""),
        (
            Give(sleep(1)),
            "divergence at op 0 (row 1) the ledger holds `completed` with 7, the guest now gave sleep 1 ms",
        ),
    ]);
}

#[test]
fn a_run_that_is_stopped_ends_wherever_its_guest_was() {
    let ends = [
        Event::RunTerminated { reason: "so".into() },
        Event::RunTimedOut { failure: Failure::fatal(FailureKind::Timeout, "run-timeout", "") },
    ];
    let cases = ends.iter().flat_map(|end| [(end, Status::Blocked), (end, completed("7"))]);
    for (end, status) in cases {
        check(&[
            (recorded(0, sleep(1)), ""),
            (Enqueue(end.clone()), ""),
            (Begin, ""),
            (Give(sleep(1)), "op 0"),
            (Give(sleep(2)), "op 1"),
            (Next, "none"),
            (Return(status), "ok"),
        ]);
    }
}

#[test]
fn a_guest_may_end_with_events_left() {
    check(&[
        (recorded(0, sleep(1)), ""),
        (recorded(1, sleep(2)), ""),
        (fired(0), ""),
        (fired(1), ""),
        (Enqueue(Event::RunCompleted { output: json("7") }), ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Give(sleep(2)), "op 1"),
        (Next, "0 = null @30"),
        (Return(completed("7")), "ok"),
    ]);
}

#[test]
fn signals_wait_for_waits_in_the_order_they_came() {
    check(&[
        (signal("a", "1"), ""),
        (signal("b", "2"), ""),
        (signal("a", "3"), ""),
        (Begin, ""),
        (Give(sleep(9)), "op 0"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: sleep 9 ms"),
        (fired(0), ""),
        (Begin, ""),
        (Next, "0 = null @50"),
        (Give(wait("a")), "op 1"),
        (Give(wait("b")), "op 2"),
        (Give(wait("a")), "op 3"),
        (Give(wait("a")), "op 4"),
        (Next, "1 = 1 @50"),
        (Next, "2 = 2 @50"),
        (Next, "3 = 3 @50"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
    ]);
}

#[test]
fn a_signal_goes_to_the_oldest_open_wait_of_its_name() {
    check(&[
        (Begin, ""),
        (Give(wait("a")), "op 0"),
        (Give(wait("b")), "op 1"),
        (Give(wait("a")), "op 2"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: wait for signal \"a\", 1: wait for signal \"b\", 2: wait for signal \"a\""),
        (signal("a", "1"), ""),
        (signal("b", "2"), ""),
        (signal("a", "3"), ""),
        (signal("a", "4"), ""),
        (Begin, ""),
        (Next, "0 = 1 @40"),
        (Next, "1 = 2 @50"),
        (Next, "2 = 3 @60"),
        (Give(wait("a")), "op 3"),
        (Next, "3 = 4 @70"),
        (Next, "none"),
    ]);
}

#[test]
fn a_wait_given_up_before_its_signal_was_delivered_costs_no_signal() {
    check(&[
        (signal("a", "1"), ""),
        (signal("a", "2"), ""),
        (recorded(0, sleep(9)), ""),
        (Begin, ""),
        (Give(sleep(9)), "op 0"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (fired(0), ""),
        (Begin, ""),
        (Next, "0 = null @40"),
        (Give(wait("a")), "op 1"),
        (Give(wait("a")), "op 2"),
        (Give(cancel(1)), "op 3"),
        (Next, "2 = 1 @40"),
        (Give(wait("a")), "op 4"),
        (Next, "4 = 2 @40"),
        (Give(wait("a")), "op 5"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
    ]);
}

#[test]
fn a_wait_given_up_before_its_row_is_reached_leaves_the_signal_to_the_next() {
    check(&[
        (Begin, ""),
        (Give(wait("a")), "op 0"),
        (Give(sleep(1)), "op 1"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: wait for signal \"a\", 1: sleep 1 ms"),
        (fired(1), ""),
        (signal("a", "1"), ""),
        (Begin, ""),
        (Next, "1 = null @30"),
        (Give(cancel(0)), "op 2"),
        (Give(wait("a")), "op 3"),
        (Next, "3 = 1 @40"),
    ]);
}

#[test]
fn no_outcome_of_a_cancelled_op_is_delivered_and_time_stands_still() {
    check(&[
        (Begin, ""),
        (Give(activity("pay")), "op 0"),
        (Give(sleep(1)), "op 1"),
        (Give(sleep(2)), "op 2"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: activity pay([1]), 1: sleep 1 ms, 2: sleep 2 ms"),
        (fired(1), ""),
        (done(0, "7"), ""),
        (Begin, ""),
        (Next, "1 = null @40"),
        (Give(cancel(0)), "op 3"),
        (Next, "none"),
        (Now, "@40"),
        (Return(Status::Blocked), "ok"),
        (Commit, "3: cancel op 0"),
        (fired(2), ""),
        (Begin, ""),
        (Next, "2 = null @70"),
    ]);
}

#[test]
fn cancel_of_a_closed_op_is_a_command_without_effect_and_of_a_future_one_is_refused() {
    check(&[
        (recorded(0, sleep(1)), ""),
        (fired(0), ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Next, "0 = null @20"),
        (Give(cancel(0)), "op 1"),
        (Give(cancel(1)), "op 2"),
        (Give(cancel(3)), "protocol cancel op 3: op 3 does not exist yet"),
        (Commit, "1: cancel op 0, 2: cancel op 1"),
    ]);
}

#[test]
fn a_cancel_request_ends_every_op_that_is_open_when_it_is_reached_and_no_later_one() {
    check(&[
        (Begin, ""),
        (Give(activity("pay")), "op 0"),
        (Give(wait("a")), "op 1"),
        (Give(child("ship")), "op 2"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: activity pay([1]), 1: wait for signal \"a\", 2: child ship({})"),
        (cancel_requested(), ""),
        (signal("a", "1"), ""),
        (Begin, ""),
        (Next, "0 = cancelled @40"),
        (Give(wait("a")), "op 3"),
        (Give(cancel(1)), "op 4"),
        (Next, "2 = cancelled @40"),
        (Next, "3 = 1 @50"),
        (Give(activity("refund")), "op 5"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "3: wait for signal \"a\", 4: cancel op 1, 5: activity refund([1])"),
        (done(5, "6"), ""),
        (Restart, ""),
        (Begin, ""),
        (Give(activity("pay")), "op 0"),
        (Give(wait("a")), "op 1"),
        (Give(child("ship")), "op 2"),
        (Next, "0 = cancelled @40"),
        (Give(wait("a")), "op 3"),
        (Give(cancel(1)), "op 4"),
        (Next, "2 = cancelled @40"),
        (Next, "3 = 1 @50"),
        (Give(activity("refund")), "op 5"),
        (Next, "5 = 6 @90"),
    ]);
}

#[test]
fn what_is_shielded_ends_as_if_nobody_had_asked_to_cancel() {
    let shield = |target| Command::Shield { target: Op(target) };
    check(&[
        (Begin, ""),
        (Give(activity("pay")), "op 0"),
        (Give(activity("ship")), "op 1"),
        (Give(shield(0)), "op 2"),
        (Give(shield(4)), "protocol shield op 4: op 4 does not exist yet"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: activity pay([1]), 1: activity ship([1]), 2: shield op 0"),
        (cancel_requested(), ""),
        (Begin, ""),
        (Next, "1 = cancelled @40"),
        (Give(shield(1)), "op 3"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "3: shield op 1"),
        (done(0, "5"), ""),
        (Begin, ""),
        (Next, "0 = 5 @60"),
    ]);
}

#[test]
fn messages_to_other_runs_are_commands_with_an_outcome() {
    let to_child = Command::SignalRun { target: Target::Child(Op(0)), name: "go".into(), payload: json("1") };
    let to_other = Command::CancelRun { target: Target::Workflow("other".into()) };
    let closed = |op, outcome| Enqueue(Event::MessageClosed { op: Op(op), outcome });
    check(&[
        (Begin, ""),
        (Give(to_child.clone()), "protocol signal \"go\" to the child of op 0: 1: op 0 does not exist yet"),
        (Give(child("ship")), "op 0"),
        (Give(to_child), "op 1"),
        (Give(to_other), "op 2"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: child ship({}), 1: signal \"go\" to the child of op 0: 1, 2: cancel workflow \"other\""),
        (closed(1, Ok(())), ""),
        (closed(2, Err(failure("unknown-run"))), ""),
        (Begin, ""),
        (Next, "1 = null @40"),
        (Next, "2 = unknown-run @50"),
    ]);
}

#[test]
fn a_deprecated_change_takes_old_marks_and_leaves_no_new_ones() {
    let with_mark = [recorded(0, Command::Patch { change_id: "c".into() }), recorded(1, sleep(5))];
    let without = [recorded(0, sleep(5))];
    for (rows, op) in [(&with_mark[..], 1), (&without[..], 0)] {
        let mut replay = Replay::new(RUN, 0, &StartOptions::default());
        for (seq, row) in (1..).zip(rows) {
            let Enqueue(event) = row.clone() else { unreachable!() };
            replay.enqueue(Seq(seq), 10, event);
        }
        replay.begin();
        replay.deprecate_patch("c".into()).unwrap();
        replay.deprecate_patch("c".into()).unwrap();
        assert_eq!(replay.command(sleep(5)), Ok(Op(op)));
        assert_eq!(replay.patched("c".into()), Ok(true));
        assert_eq!(replay.next_event(), Ok(None));
        replay.finish(&Status::Blocked).unwrap();
        assert_eq!(replay.take_issued(), []);
    }
}

#[test]
fn the_size_of_a_history_counts_rows_up_to_the_event_and_what_was_given_since() {
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    let size = |replay: &Replay| (replay.history_size().rows, replay.history_size().bytes);
    replay.begin();
    assert_eq!(size(&replay), (1, 0));
    replay.command(activity("pay")).unwrap();
    replay.command(sleep(5)).unwrap();
    assert_eq!(size(&replay), (3, 6), "a name and an input");
    assert_eq!(replay.next_event(), Ok(None));
    replay.finish(&Status::Blocked).unwrap();
    replay.take_issued();
    // Two attempts failed in rows 3 and 4.
    let Enqueue(event) = done(0, "12345") else { unreachable!() };
    replay.enqueue(Seq(5), 10, event);
    replay.begin();
    replay.next_event().unwrap().unwrap();
    assert_eq!(size(&replay), (6, 11));
}

#[test]
fn unused_signals_come_in_ledger_order_whatever_their_names() {
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    // Interleaved, so that no order of names gives the order of rows.
    let names = ["b", "a", "c", "b"];
    for (seq, name) in (1..).zip(names) {
        let Enqueue(event) = signal(name, "1") else { unreachable!() };
        replay.enqueue(Seq(seq), 10, event);
    }
    replay.begin();
    replay.command(wait("a")).unwrap();
    assert_eq!(replay.next_event().unwrap().unwrap().op, Op(0));
    let Enqueue(late) = signal("a", "2") else { unreachable!() };
    replay.enqueue(Seq(5), 10, late);
    let unused: Vec<_> =
        replay.unused_signals().into_iter().map(|unused| (unused.seq.0, unused.name.to_string())).collect();
    assert_eq!(unused, [(1, "b".into()), (3, "c".into()), (4, "b".into()), (5, "a".into())]);
}

#[test]
fn a_new_run_takes_the_new_side_and_repeats_it() {
    check(&[
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Patched("fees"), "true"),
        (Patched("fees"), "true"),
        (Give(sleep(2)), "op 2"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Patched("fees"), "true"),
        (Commit, "0: sleep 1 ms, 1: patched \"fees\", 2: sleep 2 ms"),
        (Restart, ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Patched("fees"), "true"),
        (Patched("fees"), "true"),
        (Give(sleep(2)), "op 2"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, ""),
    ]);
}

#[test]
fn an_old_run_that_went_past_stays_on_the_old_side_for_good() {
    check(&[
        (recorded(0, sleep(1)), ""),
        (recorded(1, sleep(2)), ""),
        (fired(0), ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Patched("fees"), "false"),
        (Give(sleep(2)), "op 1"),
        (Next, "0 = null @30"),
        (Patched("fees"), "false"),
        (Patched("tips"), "true"),
        (Give(sleep(3)), "op 3"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "2: patched \"tips\", 3: sleep 3 ms"),
        (Restart, ""),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Patched("fees"), "false"),
        (Give(sleep(2)), "op 1"),
        (Next, "0 = null @30"),
        (Patched("fees"), "false"),
        (Patched("tips"), "true"),
        (Give(sleep(3)), "op 3"),
    ]);
}

#[test]
fn a_run_that_ended_went_past_every_change() {
    check(&[
        (Enqueue(Event::RunCompleted { output: json("7") }), ""),
        (Begin, ""),
        (Patched("fees"), "false"),
        (Return(completed("7")), "ok"),
    ]);
}

#[test]
fn code_that_lost_a_recorded_change_diverges_at_its_mark() {
    check(&[
        (recorded(0, Command::Patch { change_id: "fees".into() }), ""),
        (Begin, ""),
        (Patched("tips"), "false"),
        (
            Give(sleep(1)),
            "divergence at op 0 (row 1) the ledger holds patched \"fees\", the guest now gave sleep 1 ms",
        ),
    ]);
}

#[test]
fn nothing_but_reading_is_allowed_outside_an_activation() {
    check(&[
        (Give(sleep(1)), "protocol sleep 1 ms: a command where only reading is allowed"),
        (Patched("fees"), "protocol patched \"fees\": a command where only reading is allowed"),
        (Next, "protocol next-event where only reading is allowed"),
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Give(sleep(1)), "protocol sleep 1 ms: a command where only reading is allowed"),
        (Patched("fees"), "protocol patched \"fees\": a command where only reading is allowed"),
        (Next, "protocol next-event where only reading is allowed"),
    ]);
}

#[test]
fn a_drained_guest_may_only_return() {
    check(&[
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Next, "none"),
        (
            Give(sleep(2)),
            "protocol sleep 2 ms: a command after next-event returned none; return `blocked` first",
        ),
        (
            Patched("fees"),
            "protocol patched \"fees\": a command after next-event returned none; return `blocked` first",
        ),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
    ]);
}

#[test]
fn a_resumed_guest_takes_an_event_before_it_gives_a_command() {
    check(&[
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Next, "none"),
        (Return(Status::Blocked), "ok"),
        (Commit, "0: sleep 1 ms"),
        (fired(0), ""),
        (Begin, ""),
        (Give(sleep(2)), "protocol sleep 2 ms: a command before next-event gave a first event"),
        (Next, "0 = null @20"),
        (Give(sleep(2)), "op 1"),
    ]);
}

#[test]
fn a_guest_that_stops_early_or_for_ever_breaks_a_rule() {
    let early = "protocol returned `blocked` before next-event returned none";
    let for_ever = "protocol returned `blocked` while nothing is open that could ever wake it";
    check(&[(Begin, ""), (Give(sleep(1)), "op 0"), (Return(Status::Blocked), early)]);
    check(&[(Begin, ""), (Next, "none"), (Return(Status::Blocked), for_ever)]);
    check(&[
        (Begin, ""),
        (Give(sleep(1)), "op 0"),
        (Give(cancel(0)), "op 1"),
        (Next, "none"),
        (Return(Status::Blocked), for_ever),
    ]);
}

#[test]
fn the_random_stream_moves_only_while_an_event_is_handled() {
    let (first, second, third) = ("b10a02637bab9080", "d86abf2c55d06089", "8961e7960b3d6580");
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    replay.begin();
    let numbers: Vec<_> = (0..3).map(|_| format!("{:016x}", replay.random_u64())).collect();
    assert_eq!(numbers, [first, second, third], "old ledgers depend on these numbers");

    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    let mut aside = vec![replay.random_u64()];
    replay.begin();
    assert_eq!(format!("{:016x}", replay.random_u64()), first);
    replay.command(sleep(1)).unwrap();
    assert_eq!(replay.next_event(), Ok(None));
    aside.push(replay.random_u64());
    replay.finish(&Status::Blocked).unwrap();
    aside.push(replay.random_u64());
    replay.enqueue(Seq(2), 20, Event::TimerFired { op: Op(0) });
    replay.begin();
    aside.push(replay.random_u64());
    assert!(replay.next_event().unwrap().is_some());
    assert_eq!(format!("{:016x}", replay.random_u64()), second);
    aside.sort_unstable();
    aside.dedup();
    assert_eq!(aside.len(), 4, "a guest that draws until it likes a number must not draw for ever");
}

#[test]
fn a_run_draws_from_the_bytes_of_its_first_row_and_a_fork_from_its_own_behind_the_cut() {
    let source = |from, byte| Source { from: Seq(from), seed: Seed([byte; 32]) };
    let drawn = |random: &[Source]| {
        let options = StartOptions { random: random.to_vec(), ..StartOptions::default() };
        let mut replay = Replay::new(RUN, 0, &options);
        replay.begin();
        let mut numbers = vec![replay.random_u64()];
        for op in 0..3 {
            replay.command(sleep(1)).unwrap();
            replay.enqueue(Seq(2 * op + 2), 20, Event::TimerFired { op: Op(op) });
            replay.next_event().unwrap().unwrap();
            numbers.push(replay.random_u64());
        }
        numbers
    };
    let original = drawn(&[source(0, 1)]);
    assert_eq!(drawn(&[source(0, 1)]), original);
    assert_ne!(drawn(&[source(0, 2)])[0], original[0]);
    let fork = drawn(&[source(0, 1), source(4, 9)]);
    assert_eq!(fork[..2], original[..2]);
    assert!(fork[2] != original[2] && fork[3] != original[3]);
    // Of a run that has none, as old ones.
    let old = drawn(&[]);
    let fork = drawn(&[source(4, 9)]);
    assert_eq!((&fork[..2], fork[2] != old[2]), (&old[..2], true));
}

#[test]
fn what_is_drawn_before_an_event_does_not_depend_on_how_the_guest_came_there() {
    // One guest had its events one by one, and drew on every occasion; the other had them in one batch.
    let options = StartOptions::default().beginning(Seed([1; 32]));
    let begun = || {
        let mut replay = Replay::new(RUN, 0, &options);
        replay.begin();
        for _ in 0..3 {
            replay.command(sleep(1)).unwrap();
        }
        replay
    };
    let fired = |n: u32| (Seq(4 + n), 20, Event::TimerFired { op: Op(n) });
    let mut one_by_one = begun();
    let mut at_once = begun();
    for n in 0..2 {
        let (seq, at_ms, event) = fired(n);
        at_once.enqueue(seq, at_ms, event.clone());
        assert_eq!(one_by_one.next_event(), Ok(None));
        one_by_one.random_u64();
        one_by_one.finish(&Status::Blocked).unwrap();
        one_by_one.enqueue(seq, at_ms, event);
        one_by_one.begin();
        one_by_one.random_u64();
        one_by_one.next_event().unwrap().unwrap();
    }
    while at_once.next_event().unwrap().is_some() {}
    at_once.finish(&Status::Blocked).unwrap();
    assert_eq!(one_by_one.next_event(), Ok(None));
    one_by_one.finish(&Status::Blocked).unwrap();
    for replay in [&mut one_by_one, &mut at_once] {
        let (seq, at_ms, event) = fired(2);
        replay.enqueue(seq, at_ms, event);
        replay.begin();
    }
    assert_eq!(one_by_one.random_u64(), at_once.random_u64());
}

#[test]
fn what_a_guest_hears_of_an_edit_that_cannot_be_done_is_of_its_runs_rules() {
    let heard = |options: &StartOptions| {
        let mut replay = Replay::new(RUN, 0, options);
        replay.begin();
        replay.edit_entity("n".into(), Edit::Set(Json::null())).unwrap().unwrap();
        replay.edit_entity("n.x.y".into(), Edit::Increment(f64::NAN)).unwrap().unwrap_err()
    };
    assert_eq!(heard(&StartOptions::default()), "an increment by NaN", "old ledgers depend on every byte");
    assert_eq!(heard(&StartOptions::default().beginning(Seed([1; 32]))), "not-finite");
}

#[test]
fn options_are_bounded_on_a_replay_as_they_are_live() {
    let call = |codes: usize| {
        let retry = RetryPolicy { non_retryable: vec!["x".into(); codes], ..RetryPolicy::default() };
        let options = ActivityOptions { retry: Some(retry), ..ActivityOptions::default() };
        Command::ScheduleActivity { name: "a".into(), input: Json::null(), options }
    };
    let led = |recorded: bool, codes: usize| {
        let mut replay = Replay::new(RUN, 0, &StartOptions::default());
        if recorded {
            replay.enqueue(Seq(1), 10, Event::Commanded { op: Op(0), command: call(1) });
        }
        replay.begin();
        replay.command(call(codes))
    };
    for recorded in [false, true] {
        assert_eq!(led(recorded, 2), Ok(Op(0)));
        assert!(matches!(led(recorded, limits::COMPONENT_NAMES_MAX + 1), Err(Refusal::Limit(_))));
    }
}

#[test]
fn what_no_row_holds_never_changes() {
    let failure = serde_json::to_string(&Failure::cancelled()).unwrap();
    assert_eq!(
        failure,
        r#"{"kind":"cancelled","code":"cancelled","message":"the run was asked to cancel","retryable":false}"#
    );
    assert_eq!(Json::null().as_str(), "null");
}

#[test]
fn a_failure_is_the_same_to_a_warm_and_to_a_cold_guest() {
    let deepest = format!("{}{}", "[".repeat(limits::JSON_DEPTH_MAX), "]".repeat(limits::JSON_DEPTH_MAX));
    let odd = ["null", " {\"b\":1.0,\"a\":1 }\n", "\"\\u0000\"", deepest.as_str()];
    for details in odd.into_iter().map(Some).chain([None]) {
        let failure = Failure { details: details.map(json), ..failure(&"c".repeat(1000)) };
        let event = Event::ActivityClosed { op: Op(0), attempt: 1, outcome: Err(failure) };
        let command = Event::Commanded { op: Op(0), command: activity("pay") };
        let mut run = Run::new(RUN);
        let started =
            Event::RunStarted { workflow: "w".into(), input: Json::null(), options: Arc::default() };
        for event in [&started, &command] {
            run.append(0, event).unwrap();
        }
        let stored = run.append(0, &event).unwrap().event().unwrap();
        let [warm, cold] = [event, stored].map(|event| {
            let mut replay = Replay::new(RUN, 0, &StartOptions::default());
            replay.enqueue(Seq(2), 0, event);
            replay.begin();
            replay.command(activity("pay")).unwrap();
            replay.next_event().unwrap().unwrap()
        });
        assert_eq!(warm, cold);
    }
}

#[test]
fn a_failure_with_odd_details_still_ends_the_run_as_it_did() {
    let now = Failure { details: Some(json(" [1]\n")), ..failure(&"c".repeat(1000)) };
    let mut run = Run::new(RUN);
    run.append(0, &Event::RunStarted { workflow: "w".into(), input: Json::null(), options: Arc::default() })
        .unwrap();
    let row = run.append(0, &Event::RunFailed { failure: now.clone() }).unwrap();
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    replay.enqueue(row.seq, row.at_ms, row.event().unwrap());
    replay.begin();
    assert_eq!(replay.finish(&Status::Failed(now)), Ok(()));
}

#[test]
fn a_guest_is_repeating_itself_until_commands_and_end_are_reached() {
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    assert!(!replay.is_replaying());
    replay.enqueue(Seq(1), 0, Event::Commanded { op: Op(0), command: sleep(1) });
    replay.begin();
    assert!(replay.is_replaying());
    replay.command(sleep(1)).unwrap();
    assert!(!replay.is_replaying());
    replay.enqueue(Seq(2), 0, Event::RunCompleted { output: Json::null() });
    assert!(replay.is_replaying());
}

#[test]
fn unbounded_or_unstorable_commands_are_refused() {
    let with = |options| Command::ScheduleActivity { name: "a".into(), input: Json::null(), options };
    let retry = |retry| with(ActivityOptions { retry: Some(retry), ..ActivityOptions::default() });
    let refused = [
        activity("a\0b"),
        wait(""),
        sleep(limits::SLEEP_MS_MAX + 1),
        Command::StartChild {
            workflow: "c".into(),
            input: Json::null(),
            options: ChildOptions { workflow_id: Some("q\0".into()), ..ChildOptions::default() },
        },
        with(ActivityOptions { start_to_close_ms: Some(u64::MAX), ..ActivityOptions::default() }),
        with(ActivityOptions { heartbeat_ms: Some(u64::MAX), ..ActivityOptions::default() }),
        with(ActivityOptions { schedule_to_close_ms: Some(u64::MAX), ..ActivityOptions::default() }),
        retry(RetryPolicy { non_retryable: vec!["x".repeat(129)], ..RetryPolicy::default() }),
        retry(RetryPolicy { backoff_coefficient: f64::NAN, ..RetryPolicy::default() }),
    ];
    for command in refused {
        let mut replay = Replay::new(RUN, 0, &StartOptions::default());
        replay.begin();
        assert!(matches!(replay.command(command.clone()), Err(Refusal::Limit(_))), "{command}");
        assert_eq!(replay.command(sleep(1)), Ok(Op(0)), "a refused command takes no number");
    }
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    replay.begin();
    // On old ground, where the answer is no and makes no row, it is remembered all the same.
    replay.enqueue(Seq(1), 0, Event::Commanded { op: Op(0), command: sleep(1) });
    assert!(matches!(replay.patched("x".repeat(257).into()), Err(Refusal::Limit(_))));
    let asked = (0..=limits::RUN_CHANGES_MAX).map(|n| replay.patched(n.to_string().into()));
    assert_eq!(asked.filter(Result::is_err).count(), 1);
}

/// Lays `events` timers' ends in one batch or in many and lets the guest give `each` commands on each.
fn answer_timers(events: u32, each: usize, is_one_batch: bool) -> Result<usize, Refusal> {
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    replay.begin();
    for _ in 0..events {
        replay.command(sleep(1))?;
    }
    assert_eq!(replay.next_event(), Ok(None));
    replay.finish(&Status::Blocked)?;
    let mut given = replay.take_issued().len();
    let batch = if is_one_batch { events } else { 1 };
    for first in (0..events).step_by(batch as usize) {
        for op in first..first + batch {
            replay.enqueue(Seq(events + op), 0, Event::TimerFired { op: Op(op) });
        }
        replay.begin();
        while replay.next_event()?.is_some() {
            for _ in 0..each {
                replay.command(sleep(1))?;
            }
        }
        replay.finish(&Status::Blocked)?;
        given += replay.take_issued().len();
    }
    Ok(given)
}

#[test]
fn the_size_of_a_batch_does_not_decide_who_meets_a_bound() {
    let most = limits::ACTIVATION_COMMANDS_MAX;
    for is_one_batch in [true, false] {
        assert_eq!(answer_timers(3, most, is_one_batch), Ok(3 + 3 * most), "one batch: {is_one_batch}");
        let refusal = answer_timers(3, most + 1, is_one_batch);
        assert!(matches!(refusal, Err(Refusal::Limit(_))), "one batch: {is_one_batch}");
    }
}

#[test]
fn a_whole_activation_is_bounded_by_what_a_run_may_hold() {
    let events = limits::RUN_ROWS_MAX / limits::ACTIVATION_COMMANDS_MAX as u32 + 1;
    assert!(matches!(answer_timers(events, limits::ACTIVATION_COMMANDS_MAX, true), Err(Refusal::Limit(_))));
}

#[test]
fn options_count_as_bytes() {
    let retry = RetryPolicy { non_retryable: vec!["x".repeat(128); 1000], ..RetryPolicy::default() };
    let options = ActivityOptions { retry: Some(retry), ..ActivityOptions::default() };
    let command = Command::ScheduleActivity { name: "a".into(), input: Json::null(), options };
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    replay.begin();
    let fit = limits::ACTIVATION_BYTES_MAX / command.payload_bytes();
    let given = (0..=fit).map_while(|_| replay.command(command.clone()).ok()).count();
    assert_eq!((given, fit), (131, 131));
}

/// Ten thousand open ops and as many signals: a search for each would be 10⁸ steps, half a minute here.
#[test]
fn signals_find_their_wait_among_ten_thousand_open_ops() {
    const N: u32 = 10_000;
    let started = std::time::Instant::now();
    let (mut run, mut replay) = (Run::new(RUN), Replay::new(RUN, 0, &StartOptions::default()));
    run.append(0, &Event::RunStarted { workflow: "w".into(), input: Json::null(), options: Arc::default() })
        .unwrap();
    replay.begin();
    for n in 0..N {
        // The wait that gets the signals comes last.
        let command = if n + 1 == N { wait("a") } else { wait("never") };
        replay.command(command).unwrap();
    }
    assert_eq!(replay.next_event(), Ok(None));
    for (op, command) in replay.take_issued() {
        run.append(0, &Event::Commanded { op, command }).unwrap();
    }
    replay.finish(&Status::Blocked).unwrap();
    for _ in 0..N {
        let event = Event::SignalReceived { name: "a".into(), payload: Json::null(), id: None };
        let row = run.append(0, &event).unwrap();
        replay.enqueue(row.seq, 0, event);
    }
    assert_eq!(run.signals_kept(), N - 1);
    replay.begin();
    let mut delivered = 0;
    while replay.next_event().unwrap().is_some() {
        delivered += 1;
        if delivered < N {
            replay.command(wait("a")).unwrap();
        }
    }
    assert_eq!(delivered, N);
    assert!(started.elapsed().as_secs() < 5, "took {:?}", started.elapsed());
}

#[test]
fn an_entity_is_a_fold_over_the_edits() {
    let options = StartOptions { entity: Some(json(r#"{"n":1}"#)), ..StartOptions::default() };
    let append = |text: &str| Edit::Append(json(text));
    let mut live = Replay::new(RUN, 0, &options);
    live.begin();
    assert_eq!(live.edit_entity("log".into(), append("1")).unwrap(), Ok(()));
    let refused = live.edit_entity("n".into(), append("1")).unwrap().unwrap_err();
    assert_eq!(refused, "\"n\" is a number, not an array");
    live.set_attributes([("a".into(), Some(Attribute::Flag(true)))].into()).unwrap();
    assert_eq!(live.edit_entity("n".into(), Edit::Increment(1.0)).unwrap(), Ok(()));
    let issued = live.take_issued();
    assert_eq!(issued.len(), 3, "what cannot be done is no row: {issued:?}");
    let projection_changes = live.take_projection_changes();
    assert_eq!(
        projection_changes.entity.unwrap().as_str(),
        r#"{"log":[1],"n":2}"#,
        "the last word of an activation"
    );
    assert_eq!(projection_changes.attributes.len(), 1);

    // Over the same rows, the same answers, and nothing that is new; another edit diverges.
    let again = || {
        let mut replay = Replay::new(RUN, 0, &options);
        for ((op, command), seq) in issued.clone().into_iter().zip(1..) {
            replay.enqueue(Seq(seq), 0, Event::Commanded { op, command });
        }
        replay.begin();
        replay
    };
    let mut replay = again();
    assert_eq!(replay.edit_entity("log".into(), append("1")).unwrap(), Ok(()));
    assert_eq!(replay.edit_entity("n".into(), append("1")).unwrap().unwrap_err(), refused);
    replay.set_attributes([("a".into(), Some(Attribute::Flag(true)))].into()).unwrap();
    assert_eq!(replay.edit_entity("n".into(), Edit::Increment(1.0)).unwrap(), Ok(()));
    assert_eq!(replay.take_projection_changes(), Default::default());
    assert_eq!(replay.entity(), live.entity());
    let Err(Refusal::Divergence(divergence)) = again().edit_entity("log".into(), append("2")) else {
        panic!("it should have diverged");
    };
    assert_eq!(divergence.ledger, "append entity \"log\": 1");
    assert_eq!(divergence.guest, "append entity \"log\": 2");

    // Nobody edits in a query; everybody may read.
    let mut asked = Replay::new(RUN, 0, &options);
    assert!(matches!(asked.edit_entity("n".into(), Edit::Delete), Err(Refusal::Protocol(_))));
    assert!(matches!(asked.set_attributes(Default::default()), Err(Refusal::Protocol(_))));
    assert_eq!(asked.entity().get("n").unwrap().as_str(), "1");
}

#[test]
fn attributes_beyond_their_bounds_are_refused_before_they_are_recorded() {
    let mut replay = Replay::new(RUN, 0, &StartOptions::default());
    replay.begin();
    let named = |n: usize| (format!("a{n}").into(), Some(Attribute::Flag(true)));
    replay.set_attributes((0..limits::ATTRIBUTES_MAX).map(named).collect()).unwrap();
    assert!(matches!(replay.set_attributes([named(999)].into()), Err(Refusal::Limit(_))));
    let text = Attribute::Text("x".repeat(limits::ATTRIBUTE_BYTES_MAX + 1).into());
    assert!(matches!(replay.set_attributes([("a0".into(), Some(text))].into()), Err(Refusal::Limit(_))));
    assert_eq!(replay.take_issued().len(), 1);
}
