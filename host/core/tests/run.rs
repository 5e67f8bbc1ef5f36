//! The table of `run.rs`, row by row, and ledgers that came back damaged.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::sync::Arc;

use backstitch_core::run::{Corrupt, OpenOp};
use backstitch_core::{
    ActivityOptions, Chain, ChildOptions, Command, Event, Failure, HeardId, Json, Kind, Op, ParentClose, Row,
    Run, RunId, RunStatus, Seq, Target, limits,
};
use uuid::Uuid;

const RUN: RunId = RunId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));

fn started() -> Event {
    Event::RunStarted { workflow: "w".into(), input: Json::null(), options: Arc::default() }
}

fn given(op: u32, command: Command) -> Event {
    Event::Commanded { op: Op(op), command }
}

fn activity() -> Command {
    Command::ScheduleActivity { name: "a".into(), input: Json::null(), options: ActivityOptions::default() }
}

fn timer() -> Command {
    Command::StartTimer { ms: 5 }
}

fn wait(name: &str) -> Command {
    Command::AwaitSignal { name: name.into() }
}

fn child(parent_close: ParentClose) -> Command {
    let options = ChildOptions { parent_close, ..ChildOptions::default() };
    Command::StartChild { workflow: "c".into(), input: Json::null(), options }
}

fn cancel(target: u32) -> Command {
    Command::Cancel { target: Op(target) }
}

fn attempt_failed(op: u32, attempt: u32) -> Event {
    Event::AttemptFailed {
        op: Op(op),
        attempt,
        failure: Failure::cancelled(),
        retry_at_ms: 9,
        heartbeat: None,
    }
}

fn activity_closed(op: u32, attempt: u32) -> Event {
    Event::ActivityClosed { op: Op(op), attempt, outcome: Ok(Json::null()) }
}

fn child_closed(op: u32) -> Event {
    Event::ChildClosed { op: Op(op), outcome: Ok(Json::null()) }
}

fn fired(op: u32) -> Event {
    Event::TimerFired { op: Op(op) }
}

fn signal(name: &str) -> Event {
    Event::SignalReceived { name: name.into(), payload: Json::null(), id: None }
}

fn cancel_requested() -> Event {
    Event::CancelRequested { reason: "r".into(), id: None }
}

fn endings() -> [Event; 6] {
    [
        Event::RunCompleted { output: Json::null() },
        Event::RunFailed { failure: Failure::cancelled() },
        Event::RunCancelled { failure: Failure::cancelled() },
        Event::RunTerminated { reason: "r".into() },
        Event::RunContinued { input: Json::null() },
        Event::RunTimedOut { failure: Failure::cancelled() },
    ]
}

/// A run with one op of every kind open: activity 0, timer 1, wait 2, child 3; and closed: 4, 5.
fn everything_open() -> Vec<Event> {
    vec![
        started(),
        given(0, activity()),
        given(1, timer()),
        given(2, wait("s")),
        given(3, child(ParentClose::Terminate)),
        given(4, Command::Patch { change_id: "p".into() }),
        given(5, cancel(4)),
    ]
}

fn fold(history: &[Event]) -> (Run, Vec<Row>) {
    let mut run = Run::new(RUN);
    let rows = history.iter().zip(1..).map(|(event, n)| run.append(n * 10, event).unwrap()).collect();
    (run, rows)
}

/// A copy of `run` as it can be seen.
fn seen(run: &Run) -> String {
    let children = run.open_ops().filter(|(_, open)| matches!(open, OpenOp::Child { .. })).count();
    assert_eq!(run.children_open(), children);
    format!(
        "{:?} {} {} {} {} {:?} {} {:?}",
        run.status(),
        run.next_seq(),
        run.next_op(),
        run.chain(),
        run.at_ms(),
        run.open_ops().collect::<Vec<_>>(),
        run.signals_kept(),
        run.children_to_stop()
    )
}

/// After `history`, `event` is allowed (and leaves these ops open) or refused with these words.
fn check(history: &[Event], event: &Event, expected: Result<&[u32], &str>) {
    let (mut run, rows) = fold(history);
    let before = seen(&run);
    match run.append(1_000, event) {
        Ok(row) => {
            let open: Vec<_> = run.open_ops().map(|(op, _)| op.0).collect();
            assert_eq!(Ok(open.as_slice()), expected, "{event:?}");
            let mut loaded = Run::load_all(RUN, &[rows, vec![row.clone()]].concat()).unwrap().0;
            assert_eq!(seen(&loaded), seen(&run), "loaded and appended are one");
            assert_eq!(loaded.load(&row), Err(Corrupt::Gap { expected: run.next_seq(), found: row.seq }));
        }
        Err(illegal) => {
            assert_eq!(Err(illegal.why.as_str()), expected, "{event:?}");
            assert_eq!(illegal.event, event.kind().as_str());
            assert_eq!(seen(&run), before, "a refused event leaves no trace");
        }
    }
}

#[test]
fn a_run_starts_once_and_before_all_else() {
    check(&[], &started(), Ok(&[]));
    check(&[started()], &started(), Err("the run has started"));
    let others = [given(0, timer()), fired(0), signal("s"), cancel_requested()];
    for event in others.into_iter().chain(endings()) {
        check(&[], &event, Err("the run has not started"));
    }
}

#[test]
fn commands_come_in_order() {
    check(&[started()], &given(0, activity()), Ok(&[0]));
    check(&[started()], &given(1, activity()), Err("op 1 where op 0 comes next"));
    check(&everything_open(), &given(5, timer()), Err("op 5 where op 6 comes next"));
    check(&everything_open(), &given(6, timer()), Ok(&[0, 1, 2, 3, 6]));
    check(&everything_open(), &given(6, Command::Patch { change_id: "q".into() }), Ok(&[0, 1, 2, 3]));
}

#[test]
fn cancel_closes_an_op_that_exists() {
    for (target, open) in [(0, [1, 2, 3]), (1, [0, 2, 3]), (2, [0, 1, 3]), (3, [0, 1, 2])] {
        check(&everything_open(), &given(6, cancel(target)), Ok(&open));
    }
    check(&everything_open(), &given(6, cancel(4)), Ok(&[0, 1, 2, 3]));
    check(&everything_open(), &given(6, cancel(6)), Err("op 6 does not exist yet"));
    check(&everything_open(), &given(6, cancel(u32::MAX)), Err("op 4294967295 does not exist yet"));
}

#[test]
fn an_outcome_closes_an_open_op_of_its_kind() {
    check(&everything_open(), &activity_closed(0, 1), Ok(&[1, 2, 3]));
    check(&everything_open(), &fired(1), Ok(&[0, 2, 3]));
    check(&everything_open(), &child_closed(3), Ok(&[0, 1, 2]));
    for op in [0, 2, 3, 4, 5, 6, u32::MAX] {
        check(&everything_open(), &fired(op), Err(&format!("op {op} is no open timer")));
    }
    for op in [0, 1, 2, 4, 5, 6] {
        check(&everything_open(), &child_closed(op), Err(&format!("op {op} is no open child")));
    }
    for op in [1, 2, 3, 4, 5, 6] {
        check(&everything_open(), &activity_closed(op, 1), Err(&format!("op {op} is no open activity")));
        check(&everything_open(), &attempt_failed(op, 1), Err(&format!("op {op} is no open activity")));
    }
    let twice = [everything_open(), vec![fired(1)]].concat();
    check(&twice, &fired(1), Err("op 1 is no open timer"));
}

#[test]
fn attempts_are_counted_one_by_one() {
    let first = [started(), given(0, activity())];
    check(&first, &attempt_failed(0, 1), Ok(&[0]));
    check(&first, &attempt_failed(0, 2), Err("attempt 2 of op 0 after 0 attempts"));
    check(&first, &activity_closed(0, 0), Err("attempt 0 of op 0 after 0 attempts"));
    let second = [&first[..], &[attempt_failed(0, 1)]].concat();
    check(&second, &attempt_failed(0, 1), Err("attempt 1 of op 0 after 1 attempts"));
    check(&second, &activity_closed(0, 2), Ok(&[]));
    let (run, _) = fold(&second);
    let Some(OpenOp::Activity { attempts, retry_at_ms, scheduled_at_ms, .. }) = run.open_op(Op(0)) else {
        panic!("op 0 is open")
    };
    assert_eq!((*attempts, *retry_at_ms, *scheduled_at_ms), (1, Some(9), 20));
}

#[test]
fn a_shielded_op_outlives_a_request_to_cancel_and_nothing_else() {
    let shield = |target| Command::Shield { target: Op(target) };
    let kept =
        [everything_open(), vec![given(6, shield(1)), given(7, shield(3)), given(8, shield(4))]].concat();
    check(&kept, &cancel_requested(), Ok(&[1, 3]));
    check(&kept, &given(9, cancel(1)), Ok(&[0, 2, 3]));
    check(&kept, &fired(1), Ok(&[0, 2, 3]));
    for event in endings() {
        check(&kept, &event, Ok(&[]));
    }
    let asked = [kept.clone(), vec![cancel_requested()]].concat();
    check(&asked, &child_closed(3), Ok(&[1]));
    check(&asked, &cancel_requested(), Ok(&[1, 3]));
    check(&everything_open(), &given(6, shield(6)), Err("op 6 does not exist yet"));
    let (run, _) = fold(&kept);
    assert_eq!(run.children_to_cancel(), []);
    assert_eq!(run.children_to_stop().len(), 1);
    assert_eq!(fold(&everything_open()).0.children_to_cancel().len(), 1);
}

#[test]
fn a_message_is_open_until_it_is_known_what_became_of_it() {
    let to = || Target::Workflow("w".into());
    let sent = [
        started(),
        given(0, Command::SignalRun { target: to(), name: "s".into(), payload: Json::null() }),
        given(1, Command::CancelRun { target: Target::Child(Op(0)) }),
    ];
    let closed = |op, outcome| Event::MessageClosed { op: Op(op), outcome };
    check(&sent, &closed(0, Ok(())), Ok(&[1]));
    check(&sent, &closed(1, Err(Failure::cancelled())), Ok(&[0]));
    check(&sent, &closed(2, Ok(())), Err("op 2 is no open message"));
    check(&everything_open(), &closed(3, Ok(())), Err("op 3 is no open message"));
    check(&sent, &fired(0), Err("op 0 is no open timer"));
    check(&sent, &cancel_requested(), Ok(&[]));
}

#[test]
fn the_ids_of_signals_are_remembered_by_a_loaded_run_too() {
    let with_id = Event::SignalReceived { name: "s".into(), payload: Json::null(), id: Some("once".into()) };
    let (run, rows) = fold(&[started(), with_id, signal("s")]);
    let loaded = Run::load_all(RUN, &rows).unwrap().0;
    for run in [run, loaded] {
        let heard = |id| run.heard().contains(HeardId::signal(id));
        assert!(heard("once") && !heard("s") && !heard(""));
    }
}

#[test]
fn a_signal_closes_the_oldest_wait_of_its_name_or_is_kept() {
    let waits = [started(), given(0, wait("b")), given(1, wait("a")), given(2, wait("a"))];
    check(&waits, &signal("a"), Ok(&[0, 2]));
    check(&[&waits[..], &[signal("a")]].concat(), &signal("a"), Ok(&[0]));
    check(&[&waits[..], &[given(3, cancel(1))]].concat(), &signal("a"), Ok(&[0]));
    let kept = [started(), signal("a"), signal("a"), signal("c")];
    assert_eq!(fold(&kept).0.signals_kept(), 3);
    check(&kept, &given(0, wait("a")), Ok(&[]));
    check(&kept, &given(0, wait("b")), Ok(&[0]));
    let used = [&kept[..], &[given(0, wait("a")), given(1, wait("a"))]].concat();
    assert_eq!(fold(&used).0.signals_kept(), 1);
    check(&used, &given(2, wait("a")), Ok(&[2]));
}

#[test]
fn a_cancel_request_closes_every_open_op() {
    check(&everything_open(), &cancel_requested(), Ok(&[]));
    let after = [everything_open(), vec![cancel_requested()]].concat();
    check(&after, &fired(1), Err("op 1 is no open timer"));
    check(&after, &given(6, wait("s")), Ok(&[6]));
    // The wait that the request closed must not take the signal.
    let signalled = [after, vec![signal("s")]].concat();
    assert_eq!(fold(&signalled).0.signals_kept(), 1);
    check(&signalled, &cancel_requested(), Ok(&[]));
}

#[test]
fn nothing_follows_an_end() {
    let statuses = [
        RunStatus::Completed,
        RunStatus::Failed,
        RunStatus::Cancelled,
        RunStatus::Terminated,
        RunStatus::Continued,
    ];
    for (ending, status) in endings().into_iter().zip(statuses) {
        check(&everything_open(), &ending, Ok(&[]));
        let over = [everything_open(), vec![signal("kept"), ending]].concat();
        let run = fold(&over).0;
        assert_eq!((run.status(), run.is_open(), run.signals_kept()), (Some(status), false, 0));
        let why = format!("the run is {}", status.as_str());
        let others = [given(6, timer()), fired(1), signal("s"), cancel_requested(), activity_closed(0, 1)];
        for event in others.into_iter().chain(endings()) {
            check(&over, &event, Err(&why));
        }
        check(&over, &started(), Err("the run has started"));
    }
}

#[test]
fn the_clock_may_jump_back_but_rows_do_not() {
    let mut run = Run::new(RUN);
    let times = [50, 40, u64::MAX, 0].map(|now_ms| {
        let event = if run.status().is_none() { started() } else { given(run.next_op().0, timer()) };
        run.append(now_ms, &event).unwrap().at_ms
    });
    assert_eq!(times, [50, 50, u64::MAX, u64::MAX]);
    let due = run.open_ops().map(|(_, open)| match open {
        OpenOp::Timer { due_at_ms } => *due_at_ms,
        other => panic!("{other:?}"),
    });
    assert_eq!(due.collect::<Vec<_>>(), [55, u64::MAX, u64::MAX]);
}

#[test]
fn only_children_that_hang_on_their_parent_are_stopped_with_it() {
    let policies = [ParentClose::Terminate, ParentClose::Abandon, ParentClose::RequestCancel];
    let commands = policies.into_iter().zip(0..).map(|(policy, op)| given(op, child(policy)));
    let (run, rows) = fold(&std::iter::once(started()).chain(commands).collect::<Vec<_>>());
    let id = |op: u32| RunId::derived(RUN, Op(op), rows[op as usize + 1].at_ms);
    assert_eq!(
        run.children_to_stop(),
        [(id(0), ParentClose::Terminate), (id(2), ParentClose::RequestCancel)]
    );
}

#[test]
fn a_run_has_room_up_to_its_bounds() {
    let (run, _) = fold(&[started()]);
    let rows = limits::RUN_ROWS_MAX as usize - 1;
    assert!(run.has_room(rows, 0) && !run.has_room(rows + 1, 0) && !run.has_room(usize::MAX, 0));
    // Row 0 holds `w` and `null`.
    let bytes = limits::RUN_BYTES_MAX as usize - 5;
    assert!(run.has_room(0, bytes) && !run.has_room(0, bytes + 1) && !run.has_room(0, usize::MAX));
}

/// A damaged copy of a good ledger, and the complaint.
#[test]
fn a_damaged_ledger_is_named_as_such() {
    type Damage = fn(&mut Vec<Row>);
    let cases: [(&str, Damage, &str); 15] = [
        ("nothing", |_| {}, ""),
        ("emptied", Vec::clear, "the ledger is empty"),
        (
            "first row lost",
            |rows| drop(rows.remove(0)),
            "expected row 0, found row 1: rows are missing, doubled or swapped",
        ),
        (
            "row lost",
            |rows| drop(rows.remove(3)),
            "expected row 3, found row 4: rows are missing, doubled or swapped",
        ),
        (
            "row doubled",
            |rows| rows.insert(3, rows[2].clone()),
            "expected row 3, found row 2: rows are missing, doubled or swapped",
        ),
        (
            "rows swapped",
            |rows| rows.swap(2, 3),
            "expected row 2, found row 3: rows are missing, doubled or swapped",
        ),
        (
            "contents swapped",
            |rows| {
                rows.swap(2, 3);
                (rows[2].seq, rows[3].seq) = (Seq(2), Seq(3));
            },
            "row 2 does not match its checksum: it, or the row before it, was changed",
        ),
        (
            "payload edited",
            |rows| rows[1].payload = Some("[ ]".into()),
            "row 1 does not match its checksum: it, or the row before it, was changed",
        ),
        (
            "op edited",
            |rows| rows[1].op = Some(Op(9)),
            "row 1 does not match its checksum: it, or the row before it, was changed",
        ),
        (
            "time edited",
            |rows| rows[1].at_ms += 1,
            "row 1 does not match its checksum: it, or the row before it, was changed",
        ),
        (
            "chain edited",
            |rows| rows[1].chain.0 ^= 1,
            "row 1 does not match its checksum: it, or the row before it, was changed",
        ),
        // From here on whoever did it chained the row again.
        (
            "time turned back",
            |rows| rechain(rows, 2, |row| row.at_ms = 5),
            "row 2 is older than the row before it",
        ),
        (
            "kind unknown",
            |rows| rechain(rows, 2, |row| row.kind = 99),
            "row 2 cannot be read: unknown kind 99",
        ),
        (
            "not JSON",
            |rows| rechain(rows, 1, |row| row.payload = Some("{".into())),
            "row 1 cannot be read: payload: not JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            "kind changed",
            |rows| rechain(rows, 2, |row| row.kind = Kind::TimerFired.tag()),
            "row 2: timer-fired is not allowed here: op 1 is no open timer",
        ),
    ];
    for (name, damage, complaint) in cases {
        let (_, mut rows) = fold(&everything_open());
        damage(&mut rows);
        let answer = Run::load_all(RUN, &rows).map_or_else(|corrupt| corrupt.to_string(), |_| String::new());
        assert_eq!(answer, complaint, "{name}");
    }
}

fn rechain(rows: &mut [Row], at: usize, edit: impl Fn(&mut Row)) {
    edit(&mut rows[at]);
    let previous = rows[at - 1].chain;
    rows[at].chain = rows[at].link(RUN, previous);
}

#[test]
fn a_ledger_of_another_run_does_not_fit() {
    let (_, rows) = fold(&everything_open());
    let other = RunId(Uuid::from_u128(2));
    assert_eq!(Run::load_all(other, &rows).unwrap_err(), Corrupt::Chain { seq: Seq(0) });
}

/// Numbers that stored ledgers depend on: a change here makes every one of them unreadable.
#[test]
fn the_persisted_checksum_never_changes() {
    let (run, _) = fold(&everything_open());
    assert_eq!(run.chain(), Chain(11_325_701_934_845_382_907));
}

#[test]
fn a_run_is_paused_once_and_resumed_once() {
    let paused = || Event::RunPaused { reason: "r".into() };
    let resumed = || Event::RunResumed { reason: "r".into() };
    let open = everything_open();
    check(&open, &resumed(), Err("the run is not paused"));
    check(&open, &paused(), Ok(&[0, 1, 2, 3]));
    let held = [open, vec![paused()]].concat();
    check(&held, &paused(), Err("the run is paused"));
    check(&held, &resumed(), Ok(&[0, 1, 2, 3]));
    // What was under way when it was paused is recorded all the same, an end too.
    check(&held, &activity_closed(0, 1), Ok(&[1, 2, 3]));
    check(&held, &given(6, timer()), Ok(&[0, 1, 2, 3, 6]));
    for end in endings() {
        check(&held, &end, Ok(&[]));
    }
    let (run, _) = fold(&held);
    assert!(run.is_paused() && run.is_open());
}
