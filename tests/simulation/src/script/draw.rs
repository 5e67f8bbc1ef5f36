//! Draws scripts. Figures are weights and ranges, chosen so that a run has some ten commands and every verb comes up.

use backstitch_core::command::DEFAULT_TASK_QUEUE;
use backstitch_core::{ActivityOptions, ChildOptions, ParentClose, RetryPolicy};

use super::names::{
    ACTIVITIES_FAR, ACTIVITIES_HERE, ACTIVITY_INLINE, CHILD_IDS, SIGNALS, UPDATES, WORKFLOW_IDS, WORKFLOWS,
    WORKFLOWS_CONFLUENT,
};
use super::rules::{Edit, End, Place, Rule, Script, To, Value, Verb, shared};
use crate::rng::Rng;

const MARKS: [&str; 2] = ["p0", "p1"];
const ATTRIBUTES: [&str; 3] = ["a0", "a1", "a2"];
/// Of a timer.
const SLEEP_MS_MAX: u64 = 30_000;

impl Script {
    /// Any verbs in any order.
    pub fn random(rng: &mut Rng) -> Self {
        let mut start = vec![call(rng, options)];
        start.extend(verbs(rng, 0, 4));
        if rng.chance(500) {
            start.push(update(rng));
        }
        let start = Rule { verbs: start, end: End::No };
        let others = (0..between(rng, 2, 7)).map(|_| {
            let mut verbs = verbs(rng, 1, 5);
            if rng.chance(300) {
                verbs.push(Verb::Answer { fails: rng.chance(300) });
            }
            Rule { verbs, end: end(rng) }
        });
        Self { is_confluent: false, rules: std::iter::once(start).chain(others).collect() }
    }

    /// One wait after the other; what it asks for depends on nothing but its input and outcomes that are the same in
    /// each history. So each history has the same commands and outcomes, in the same order.
    pub fn confluent(rng: &mut Rng) -> Self {
        // Not what it was told of a failure: its text may name a run.
        let ends = [End::Complete, End::Fail { retryable: true }, End::Continue];
        let start = step(rng, End::No);
        let others = (0..between(rng, 2, 6)).map(|_| {
            let end = if rng.chance(850) { End::No } else { *rng.pick(&ends) };
            step(rng, end)
        });
        Self { is_confluent: true, rules: std::iter::once(start).chain(others).collect() }
    }
}

/// Some of what ends at once, then one thing to wait for.
fn step(rng: &mut Rng, end: End) -> Rule {
    let mut verbs: Vec<Verb> = (0..rng.below(3)).map(|_| quiet(rng, false)).collect();
    verbs.push(match rng.below(10) {
        0..5 => call(rng, |_, _| steadfast()),
        5..8 => Verb::Sleep { ms: sleep_ms(rng) },
        _ => Verb::Child { workflow: name(rng, &WORKFLOWS_CONFLUENT), options: ChildOptions::default() },
    });
    Rule { verbs, end }
}

fn verbs(rng: &mut Rng, least: u64, bound: u64) -> Vec<Verb> {
    (0..between(rng, least, bound)).map(|_| verb(rng)).collect()
}

fn verb(rng: &mut Rng) -> Verb {
    match rng.below(23) {
        0..6 => call(rng, options),
        6..8 => Verb::Sleep { ms: sleep_ms(rng) },
        8..11 => Verb::Wait { name: name(rng, &SIGNALS), ms: sleep_ms(rng), tidies: rng.chance(700) },
        11..13 => Verb::Child { workflow: name(rng, &WORKFLOWS), options: child(rng) },
        13..15 => Verb::Cancel(Place(rng.below(4) as u32)),
        15 => Verb::Shield(Place(rng.below(3) as u32)),
        16 => Verb::Signal { to: to(rng), name: name(rng, &SIGNALS) },
        17 => Verb::CancelRun(to(rng)),
        18..20 => update(rng),
        20 => Verb::Answer { fails: rng.chance(300) },
        _ => quiet(rng, true),
    }
}

fn update(rng: &mut Rng) -> Verb {
    Verb::Update {
        name: name(rng, &UPDATES),
        ms: sleep_ms(rng),
        tidies: rng.chance(700),
        at_once: rng.chance(400),
    }
}

/// A verb that opens nothing.
fn quiet(rng: &mut Rng, with_time: bool) -> Verb {
    match rng.below(10) {
        0..2 => Verb::Patched(name(rng, &MARKS)),
        2..7 => Verb::Edit(match rng.below(8) {
            0..2 => Edit::Append,
            2 => Edit::IncrementList,
            3..5 => Edit::Increment(rng.below(9) as u32),
            5 => Edit::Merge,
            6 => Edit::Set,
            _ => Edit::Delete,
        }),
        _ => Verb::Attribute {
            name: name(rng, &ATTRIBUTES),
            value: match rng.below(4) {
                0 => Value::None,
                1 => Value::Number(rng.below(9) as u32),
                2 if with_time => Value::Now,
                _ => Value::Told,
            },
        },
    }
}

/// `options` says on which terms: of a call that is far or not.
fn call(rng: &mut Rng, options: impl Fn(&mut Rng, bool) -> ActivityOptions) -> Verb {
    let (name, is_far) = match rng.below(7) {
        0..3 => (name(rng, &ACTIVITIES_HERE), false),
        3..6 => (name(rng, &ACTIVITIES_FAR), true),
        _ => (ACTIVITY_INLINE, false),
    };
    let mut options = options(rng, is_far);
    if is_far && rng.chance(500) {
        options.task_queue = Some(shared(DEFAULT_TASK_QUEUE));
    }
    Verb::Call { name, options }
}

/// On no terms that a slow or lost worker could break.
fn steadfast() -> ActivityOptions {
    let retry = RetryPolicy {
        maximum_attempts: 0,
        initial_interval_ms: 100,
        backoff_coefficient: 2.0,
        maximum_interval_ms: 5_000,
        non_retryable: Vec::new(),
    };
    ActivityOptions { retry: Some(retry), ..ActivityOptions::default() }
}

fn options(rng: &mut Rng, is_far: bool) -> ActivityOptions {
    let mut bound_ms = |per_mille, most_s| rng.chance(per_mille).then(|| 1_000 * (1 + rng.below(most_s)));
    ActivityOptions {
        task_queue: None,
        start_to_close_ms: bound_ms(300, 10),
        schedule_to_close_ms: bound_ms(300, 30),
        schedule_to_start_ms: bound_ms(if is_far { 300 } else { 0 }, 20),
        heartbeat_ms: bound_ms(200, 5),
        retry: rng.chance(600).then(|| retry(rng)),
    }
}

fn retry(rng: &mut Rng) -> RetryPolicy {
    RetryPolicy {
        maximum_attempts: between(rng, 1, 5) as u32,
        initial_interval_ms: *rng.pick(&[0, 10, 500, 2_000]),
        backoff_coefficient: *rng.pick(&[1.0, 1.5, 2.0]),
        maximum_interval_ms: *rng.pick(&[1_000, 10_000]),
        non_retryable: if rng.chance(200) { vec!["fatal".to_owned()] } else { Vec::new() },
    }
}

fn child(rng: &mut Rng) -> ChildOptions {
    let close = [ParentClose::Terminate, ParentClose::RequestCancel, ParentClose::Abandon];
    ChildOptions {
        workflow_id: rng.chance(300).then(|| shared(name(rng, &CHILD_IDS))),
        parent_close: *rng.pick(&close),
    }
}

fn name(rng: &mut Rng, names: &[&'static str]) -> &'static str {
    let picked: &&str = rng.pick(names);
    picked
}

fn to(rng: &mut Rng) -> To {
    if rng.chance(500) { To::Child(rng.below(2) as usize) } else { To::Workflow(name(rng, &WORKFLOW_IDS)) }
}

fn end(rng: &mut Rng) -> End {
    match rng.below(32) {
        0..26 => End::No,
        26 => End::Complete,
        27 => End::Fail { retryable: rng.chance(500) },
        28..30 => End::PassOn,
        _ => End::Continue,
    }
}

/// As many short ones as long ones.
fn sleep_ms(rng: &mut Rng) -> u64 {
    let most = *rng.pick(&[10, 1_000, 5_000, SLEEP_MS_MAX]);
    1 + rng.below(most)
}

/// From `least` on, below `bound`.
fn between(rng: &mut Rng, least: u64, bound: u64) -> u64 {
    least + rng.below(bound - least)
}
