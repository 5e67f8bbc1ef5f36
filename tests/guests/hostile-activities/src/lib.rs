//! Activities that misbehave, each by its name, and `echo`, which does not. All on the queue
//! `default`. Written on the bare contract, because the SDK writes only valid JSON.

mod contract {
    #![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]
    wit_bindgen::generate!({ path: "../../../wit", world: "activity" });
    use super::Hostile;
    export!(Hostile);
}

use contract::backstitch::workflow::types::FailureKind;
use contract::{ActivityDescription, Context, Failure, Guest};
use std::hint::black_box;

struct Hostile;

const NAMES: &[&str] = &[
    "echo",
    "spin",
    "busy",
    "fail_always",
    "fail_times",
    "fail_finally",
    "panic_activity",
    "panic_unsaid",
    "memory_bomb",
    "bad_json",
    "huge_output",
    "huge_failure",
    "fills",
    "context",
];

impl Guest for Hostile {
    fn describe() -> Vec<ActivityDescription> {
        let describe = |name: &&str| ActivityDescription {
            name: (*name).to_owned(),
            task_queue: None,
            input_schema: None,
            output_schema: None,
        };
        NAMES.iter().map(describe).collect()
    }

    fn invoke(name: String, input: String, context: Context) -> Result<String, Failure> {
        match name.as_str() {
            // Its whole input, the array of arguments, byte for byte.
            "echo" => Ok(input),
            "spin" => spin(),
            "busy" => Ok(busy(number(&input, 100))),
            "fail_always" => Err(failure("flaky", format!("attempt {}", context.attempt), true)),
            // As many attempts as the argument says.
            "fail_times" if u64::from(context.attempt) <= number(&input, 2) => {
                Err(failure("flaky", format!("attempt {}", context.attempt), true))
            }
            "fail_times" => Ok(context.attempt.to_string()),
            "fail_finally" => Err(failure("final", "no further attempt can succeed".to_owned(), false)),
            "panic_activity" => {
                std::panic::set_hook(Box::new(|info| {
                    contract::backstitch::workflow::last_words::report_panic(&format!(
                        "{info}\nERROR forged"
                    ));
                }));
                panic!("on purpose, in an activity")
            }
            "panic_unsaid" => panic!("nobody hears this"),
            "memory_bomb" => memory_bomb(),
            "bad_json" => Ok("{not json".to_owned()),
            "huge_output" => Ok(format!("\"{}\"", "x".repeat(bytes(&input)))),
            "huge_failure" => Err(failure(&"c".repeat(bytes(&input)), "m".repeat(bytes(&input)), true)),
            "fills" => Ok(fills(number(&input, 1))),
            "context" => Ok(described(&context)),
            _ => Err(failure("unknown-activity", format!("no activity `{name}` here"), false)),
        }
    }
}

fn failure(code: &str, message: String, retryable: bool) -> Failure {
    let (kind, code) = (FailureKind::Application, code.to_owned());
    Failure { kind, code, message, details: None, retryable, retry_after_ms: None, attempts: 0 }
}

/// The first number in the arguments.
fn number(input: &str, default: u64) -> u64 {
    let digits: String =
        input.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(default)
}

fn bytes(input: &str) -> usize {
    usize::try_from(number(input, 64 << 20)).unwrap_or(usize::MAX)
}

fn spin() -> ! {
    loop {
        black_box(0_u8);
    }
}

/// Keeps a core busy for as many million rounds as the argument says, and comes back.
fn busy(millions: u64) -> String {
    let mut mixed = 1_u64;
    for round in 0..millions.saturating_mul(1_000_000) {
        mixed = black_box(mixed.rotate_left(7) ^ round);
    }
    mixed.to_string()
}

/// Takes so many mebibytes, one at a time, and touches all of them.
fn fills(mebibytes: u64) -> String {
    const MEBIBYTE: usize = 1 << 20;
    const PAGE: usize = 4 << 10;
    let mut taken = Vec::new();
    for _ in 0..mebibytes {
        let mut block = Vec::<u8>::with_capacity(MEBIBYTE);
        for page in block.spare_capacity_mut().chunks_mut(PAGE) {
            page[0].write(0xa5);
        }
        taken.push(black_box(block));
    }
    taken.len().to_string()
}

fn memory_bomb() -> Result<String, Failure> {
    let mut taken = Vec::new();
    loop {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(1 << 20).is_err() {
            return Ok(format!(r#"{{"refused_after_mib":{}}}"#, taken.len()));
        }
        block.resize(1 << 20, 0xa5);
        taken.push(black_box(block));
    }
}

/// What the host says about the attempt. Ids hold nothing that JSON would escape.
fn described(context: &Context) -> String {
    let Context { run_id, workflow_id, op, attempt, idempotency_key, deadline_ms, heartbeat_details: _ } =
        context;
    let deadline = deadline_ms.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
    format!(
        r#"{{"run_id":"{run_id}","workflow_id":"{workflow_id}","op":{op},"attempt":{attempt},"idempotency_key":"{idempotency_key}","deadline_ms":{deadline}}}"#
    )
}
