//! What each hostile workflow does. Sizes come from the input where it is a number, so that a test can
//! go to a limit and one step beyond it.

use super::{ActivityOptions, Event, RESUMES, RetryPolicy, Status, drain, failed, host};
use std::cell::Cell;
use std::hint::black_box;

const MILLION: u32 = 1_000_000;

pub(super) fn spin() -> ! {
    loop {
        black_box(0_u8);
    }
}

fn size(input: &str, default: usize) -> usize {
    input.trim().parse().unwrap_or(default)
}

fn echo(input: &str) -> u32 {
    call("echo", input)
}

fn call(activity: &str, input: &str) -> u32 {
    let options = ActivityOptions {
        task_queue: None,
        start_to_close_ms: None,
        schedule_to_close_ms: None,
        schedule_to_start_ms: None,
        heartbeat_ms: None,
        retry: None,
    };
    host::proxy_activity(activity, input, &options)
}

/// A JSON string of `bytes` bytes, quotes included; less when memory gives out earlier.
fn long_string(bytes: usize) -> String {
    let mut text = String::new();
    // Copied in bulk: a byte at a time it would run out of fuel before it ran out of memory.
    let part = "x".repeat(bytes.min(1 << 20));
    text.push('"');
    while text.len() + 1 < bytes {
        let more = (bytes - 1 - text.len()).min(part.len());
        if text.try_reserve(more + 1).is_err() {
            break;
        }
        text.push_str(&part[..more]);
    }
    text.push('"');
    text
}

// Resources.

pub(super) fn endless_loop(_input: &str) -> Status {
    spin()
}

/// Takes a mebibyte at a time and writes to each page, until it is refused or trapped.
pub(super) fn memory_bomb(_input: &str) -> Status {
    let mut taken = Vec::new();
    loop {
        let mut block: Vec<u8> = Vec::new();
        if block.try_reserve_exact(1 << 20).is_err() {
            return Status::Completed(format!(r#"{{"refused_after_mib":{}}}"#, taken.len()));
        }
        block.resize(1 << 20, 0xa5);
        taken.push(black_box(block));
    }
}

/// Calls itself until the call stack is full. The limit is out of the compiler's sight and the work
/// after the call does not associate, so there is no loop to make of it.
pub(super) fn deep_recursion(_input: &str) -> Status {
    #[inline(never)]
    fn descend(depth: u64, limit: u64) -> u64 {
        if depth == limit { 0 } else { descend(depth + 1, limit).wrapping_mul(31) ^ depth }
    }
    Status::Completed(descend(0, black_box(u64::MAX)).to_string())
}

/// The same with frames that live in linear memory, where a guest keeps what it takes the address of:
/// it runs out of that stack first.
pub(super) fn deep_frames(_input: &str) -> Status {
    #[inline(never)]
    fn descend(depth: u64, limit: u64) -> u64 {
        let frame = black_box([depth; 32]);
        if depth == limit { 0 } else { descend(depth + 1, limit) ^ black_box(frame)[31] }
    }
    Status::Completed(descend(0, black_box(u64::MAX)).to_string())
}

pub(super) fn million_commands(_input: &str) -> Status {
    for _ in 0..MILLION {
        host::sleep_for(86_400_000);
    }
    drain()
}

pub(super) fn million_log_lines(_input: &str) -> Status {
    for line in 0..MILLION {
        host::log(host::Level::Info, &format!("line {line}"));
    }
    Status::Completed("null".to_owned())
}

/// One line of as many bytes as the input says (64 MiB).
pub(super) fn huge_log_line(input: &str) -> Status {
    host::log(host::Level::Error, &long_string(size(input, 64 << 20)));
    Status::Completed("null".to_owned())
}

/// An activity's input of as many bytes as the input says (1 GiB).
pub(super) fn gigabyte_string(input: &str) -> Status {
    echo(&long_string(size(input, 1 << 30)));
    drain()
}

/// A result of as many bytes as the input says (64 MiB).
pub(super) fn huge_result(input: &str) -> Status {
    Status::Completed(long_string(size(input, 64 << 20)))
}

/// A failure's code and message of as many bytes each as the input says (16 MiB).
pub(super) fn huge_failure(input: &str) -> Status {
    let text = long_string(size(input, 28 << 20));
    failed(&text, text.clone())
}

/// A signal and a change whose names have as many bytes as the input says (1 MiB).
pub(super) fn long_names(input: &str) -> Status {
    let name = long_string(size(input, 1 << 20));
    host::wait_for(&name);
    host::patched(&name);
    drain()
}

// The contract.

pub(super) fn panics(input: &str) -> Status {
    panic!("on purpose, with a message: {}, and {input}", 42)
}

pub(super) fn panics_later(_event: Event) -> Status {
    panic!("on purpose, in resume")
}

pub(super) fn command_after_drain(_input: &str) -> Status {
    host::sleep_for(1);
    while host::next_event().is_some() {}
    host::sleep_for(1);
    Status::Blocked
}

pub(super) fn cancel_unknown_op(_input: &str) -> Status {
    host::cancel(4_000_000_000);
    Status::Completed("null".to_owned())
}

/// Does not ask whether an event lies ahead: it could lie there for ever.
pub(super) fn blocked_undrained(_input: &str) -> Status {
    host::wait_for("never");
    Status::Blocked
}

pub(super) fn blocked_on_nothing(_input: &str) -> Status {
    drain()
}

/// The longest timer there is: its due time must not overflow.
pub(super) fn sleeps_for_ever(_input: &str) -> Status {
    host::sleep_for(u64::MAX);
    drain()
}

pub(super) fn waits_for_ever(_input: &str) -> Status {
    host::wait_for("never");
    drain()
}

/// As many milliseconds as the input says (50).
pub(super) fn sleeps(input: &str) -> Status {
    host::sleep_for(size(input, 50) as u64);
    drain()
}

/// Computes for as many rounds as each signal says, and waits for the next one.
pub(super) fn computes(event: Event) -> Status {
    let rounds = event.outcome.map_or(0, |json| size(&json, 0));
    // What costs the least fuel for the time that it takes.
    let root = (0..rounds).fold(0.0_f64, |root, _| (root + 3.0).sqrt());
    black_box(root);
    host::wait_for("compute");
    Status::Blocked
}

/// Keeps so many mebibytes, and waits.
pub(super) fn holds(input: &str) -> Status {
    std::mem::forget(black_box(vec![0xa5_u8; size(input, 1) << 20]));
    host::wait_for("go");
    drain()
}

pub(super) fn waits_to_compute(_input: &str) -> Status {
    host::wait_for("compute");
    drain()
}

pub(super) fn endless_resume(_event: Event) -> Status {
    spin()
}

/// Takes what comes and waits on.
pub(super) fn blocks(_event: Event) -> Status {
    Status::Blocked
}

pub(super) fn completes_with_what_comes(event: Event) -> Status {
    match event.outcome {
        Ok(json) => Status::Completed(json),
        Err(failure) => Status::Failed(failure),
    }
}

/// Sleeps five times, each time as long as it has been *resumed* so far: the one thing the host does
/// not promise to repeat. Live, every event comes in an activation of its own (50, 51, 52 … ms); a
/// replay that brings several events in one activation sees other durations.
pub(super) fn counts_resumes(_event: Event) -> Status {
    thread_local! {
        static SLEPT: Cell<u32> = const { Cell::new(0) };
    }
    SLEPT.set(SLEPT.get() + 1);
    if SLEPT.get() == 6 {
        return Status::Completed("null".to_owned());
    }
    host::sleep_for(49 + RESUMES.get());
    Status::Blocked
}

/// Calls an activity as the input says, and ends as the call does:
/// `{"name", "args", "queue"?, "start_to_close_ms"?, "schedule_to_close_ms"?, "attempts"?}`. Retries
/// follow at once: a retry is a thing to see here, not to wait for.
pub(super) fn calls(input: &str) -> Status {
    let call: serde_json::Value = serde_json::from_str(input).expect("a call");
    let options = ActivityOptions {
        task_queue: call["queue"].as_str().map(str::to_owned),
        start_to_close_ms: call["start_to_close_ms"].as_u64(),
        schedule_to_close_ms: call["schedule_to_close_ms"].as_u64(),
        schedule_to_start_ms: None,
        heartbeat_ms: None,
        retry: Some(RetryPolicy {
            maximum_attempts: call["attempts"].as_u64().unwrap_or(1) as u32,
            initial_interval_ms: 1,
            backoff_coefficient: 1.0,
            maximum_interval_ms: 1,
            non_retryable: Vec::new(),
        }),
    };
    let name = call["name"].as_str().expect("the activity's name");
    host::proxy_activity(name, &call["args"].to_string(), &options);
    drain()
}

thread_local! {
    /// How many outputs are still to come, and of how many bytes.
    static HOARD: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Has outputs in its ledger and none in its memory, `[how many, of how many bytes]`, one after the other; then waits
/// for the signal `go`.
pub(super) fn hoards(input: &str) -> Status {
    HOARD.set(serde_json::from_str(input).expect("two numbers"));
    ask_for_more();
    drain()
}

pub(super) fn hoards_more(event: Event) -> Status {
    match HOARD.get() {
        (0, _) => return completes_with_what_comes(event),
        (left, bytes) => HOARD.set((left - 1, bytes)),
    }
    if let Err(failure) = event.outcome {
        return Status::Failed(failure);
    }
    ask_for_more();
    Status::Blocked
}

fn ask_for_more() {
    let (left, bytes) = HOARD.get();
    if left == 0 {
        host::wait_for("go");
    } else {
        call("huge_output", &format!("[{bytes}]"));
    }
}

// JSON.

pub(super) fn invalid_json(_input: &str) -> Status {
    Status::Completed("{not json".to_owned())
}

pub(super) fn invalid_json_input(_input: &str) -> Status {
    echo("[1,]");
    drain()
}

pub(super) fn invalid_json_continue(_input: &str) -> Status {
    Status::ContinueAsNew(String::new())
}

fn nested(input: &str) -> String {
    let depth = size(input, 100_000);
    let mut json = "[".repeat(depth);
    json.extend(std::iter::repeat_n(']', depth));
    json
}

/// As many nested arrays as the input says (100,000), as the result.
pub(super) fn deep_json(input: &str) -> Status {
    Status::Completed(nested(input))
}

/// The same as an activity's input.
pub(super) fn deep_json_input(input: &str) -> Status {
    echo(&nested(input));
    drain()
}

thread_local! {
    static ECHOED: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Hands its input on to the activity `echo`, byte for byte, and waits for the signal `bytes`.
pub(super) fn json_echo(input: &str) -> Status {
    ECHOED.set(Some(echo(input)));
    host::wait_for("bytes");
    drain()
}

/// Completes with the text of the signal's payload, written as a JSON string: its exact bytes.
pub(super) fn json_echoed(Event { op, outcome }: Event) -> Status {
    match outcome {
        Ok(_) if ECHOED.get() == Some(op) => Status::Blocked,
        Ok(json) => Status::Completed(serde_json::Value::String(json).to_string()),
        Err(failure) => Status::Failed(failure),
    }
}

/// Passes JSON on through everything that carries it, byte for byte: the input to the activity `echo`,
/// its output to a second `echo`, the payload of the signal `bytes` to a third, and that one's output to
/// the result. On replay each of these is compared with what the ledger holds.
pub(super) fn json_relay(input: &str) -> Status {
    echo(input);
    drain()
}

pub(super) fn json_relayed(event: Event) -> Status {
    thread_local! {
        static EVENTS: Cell<u32> = const { Cell::new(0) };
    }
    let json = match event.outcome {
        Ok(json) => json,
        Err(failure) => return Status::Failed(failure),
    };
    EVENTS.set(EVENTS.get() + 1);
    match EVENTS.get() {
        1 | 3 => echo(&json),
        2 => host::wait_for("bytes"),
        _ => return Status::Completed(json),
    };
    Status::Blocked
}
