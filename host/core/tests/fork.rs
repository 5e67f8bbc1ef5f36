//! Forks: the first rows of a ledger under another identity.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::sync::Arc;

use backstitch_core::fork::{Unforkable, fork};
use backstitch_core::run::OpenOp;
use backstitch_core::{
    Attribute, Chain, ChildOptions, Command, Edit, Event, Json, Kind, Op, Replay, Row, Run, RunId, Seed, Seq,
    Source, StartOptions,
};
use uuid::Uuid;

const FROM: RunId = RunId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));
const INTO: RunId = RunId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0002));
const AGAIN: RunId = RunId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0003));

const SEED: Seed = Seed([9; 32]);

fn json(text: &str) -> Json {
    Json::new(text).unwrap()
}

fn given(op: u32, command: Command) -> Event {
    Event::Commanded { op: Op(op), command }
}

fn edit(path: &str, edit: Edit) -> Command {
    Command::EditEntity { path: path.into(), edit }
}

/// A run that remembers, is paused, and has everything open at its end.
fn ledger() -> Vec<Row> {
    let options = StartOptions {
        entity: Some(json(r#"{"n":1}"#)),
        attributes: [("kept".into(), Attribute::Flag(true))].into(),
        run_timeout_ms: Some(5),
        depth: 2,
        ..StartOptions::default()
    };
    let child = ChildOptions::default();
    let events = [
        Event::RunStarted { workflow: "w".into(), input: json("[1]"), options: Arc::new(options) },
        given(0, edit("n", Edit::Increment(1.0))),
        given(1, Command::StartChild { workflow: "c".into(), input: json("7"), options: child }),
        Event::RunPaused { reason: "r".into() },
        given(2, Command::StartTimer { ms: 50 }),
        Event::RunResumed { reason: "r".into() },
        Event::RunRetried,
        given(3, Command::SetAttributes { changes: [("late".into(), Some(Attribute::Number(1.0)))].into() }),
        Event::SignalReceived { name: "s".into(), payload: json("1"), id: None },
        Event::RunCompleted { output: json("2") },
    ];
    let mut run = Run::new(FROM);
    events.iter().zip(1..).map(|(event, n)| run.append(n * 100, event).unwrap()).collect()
}

#[test]
fn a_fork_is_chained_anew_and_goes_on_where_it_was_cut() {
    let rows = ledger();
    let fork = fork(FROM, &rows, None, Seq(4), INTO, SEED).unwrap();
    let kinds: Vec<Kind> = fork.rows.iter().map(|row| row.event().unwrap().kind()).collect();
    let (same, added) = kinds.split_at(5);
    let before =
        [Kind::RunStarted, Kind::EntityEdited, Kind::ChildStarted, Kind::RunPaused, Kind::TimerStarted];
    assert_eq!((same, added), (&before[..], &[Kind::RunResumed][..]), "each row at its place");
    let (again, events) = Run::load_all(INTO, &fork.rows).unwrap();
    assert!(Run::load_all(FROM, &fork.rows).is_err(), "it is not the other run's");
    assert_eq!((again.next_seq(), again.chain()), (fork.run.next_seq(), fork.run.chain()));
    assert_eq!(fork.rows.iter().map(|row| row.at_ms).collect::<Vec<_>>(), [100, 200, 300, 400, 500, 500]);
    assert!(!fork.run.is_paused() && fork.run.is_open());
    let start = fork.run.start();
    assert_eq!((start.original(INTO), start.depth, start.run_timeout_ms), (FROM, 2, None));

    // Its child is its own, its timer ends when the other's did.
    let open: Vec<_> = fork.run.open_ops().map(|(_, open)| open.clone()).collect();
    let [OpenOp::Child { run: child, input, .. }, OpenOp::Timer { due_at_ms: 550 }] = &open[..] else {
        panic!("{open:?}")
    };
    assert_eq!((*child, input.as_str()), (RunId::derived(INTO, Op(1), 300), "7"));

    // What is known is what was known at the cut, and what a guest is led to knows the same.
    assert_eq!(fork.projection.entity.to_json().as_str(), r#"{"n":2}"#);
    assert_eq!(fork.projection.attributes, [("kept".into(), Attribute::Flag(true))].into());
    let mut replay = Replay::new(INTO, 100, start);
    let mut original = Replay::new(FROM, 100, &StartOptions::default());
    for (row, event) in fork.rows.iter().zip(events) {
        replay.enqueue(row.seq, row.at_ms, event);
    }
    replay.begin();
    original.begin();
    assert_eq!(replay.random_u64(), original.random_u64());
    assert_eq!(replay.edit_entity("n".into(), Edit::Increment(1.0)).unwrap(), Ok(()));
    assert_eq!(*replay.entity(), fork.projection.entity);
    assert_eq!(replay.take_projection_changes(), Default::default(), "nothing of it is new");
}

#[test]
fn a_fork_of_a_fork_draws_from_the_first() {
    let once = fork(FROM, &ledger(), None, Seq(7), INTO, SEED).unwrap();
    let twice = fork(INTO, &once.rows, None, Seq(0), AGAIN, SEED).unwrap();
    assert_eq!(twice.run.start().original(AGAIN), FROM);
    let forked = twice.run.start().forked.clone().unwrap();
    assert_eq!((forked.run, forked.rows), (INTO, Seq(1)));
    assert_eq!((once.projection.attributes.len(), once.rows.len()), (2, 8));
}

#[test]
fn a_fork_goes_on_with_numbers_of_its_own() {
    let seeds = |fork: &[Source]| fork.iter().map(|source| (source.from, source.seed)).collect::<Vec<_>>();
    let once = fork(FROM, &ledger(), None, Seq(7), INTO, SEED).unwrap();
    assert_eq!(seeds(&once.run.start().random), [(Seq(8), SEED)]);
    let other = Seed([8; 32]);
    let later = fork(INTO, &once.rows, None, Seq(4), AGAIN, other).unwrap();
    assert_eq!(seeds(&later.run.start().random), [(Seq(5), other)], "nothing of the first was drawn yet");
    let sooner = fork(INTO, &once.rows, None, Seq(1), AGAIN, other).unwrap();
    assert_eq!(seeds(&sooner.run.start().random), [(Seq(2), other)]);
}

#[test]
fn what_cannot_be_forked_says_why() {
    let rows = ledger();
    let why = |rows: &[Row], head, at| fork(FROM, rows, head, Seq(at), INTO, SEED).unwrap_err();
    assert_eq!(why(&rows, None, 10), Unforkable::Beyond { at: Seq(10), rows: Seq(10) });
    assert_eq!(why(&rows, None, 9), Unforkable::Closing { at: Seq(9) });
    assert!(matches!(why(&rows[..3], Some((Seq(10), Chain(1))), 1), Unforkable::Corrupt(_)));
    let mut edited = rows;
    edited[1].at_ms += 1;
    assert!(matches!(why(&edited, None, 0), Unforkable::Corrupt(_)));
}
