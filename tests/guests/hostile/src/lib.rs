//! Workflows that misbehave, each by its name: what the sandbox is tested against.
//!
//! Written on the bare contract, because the SDK makes most of this impossible. Each entry of
//! [`WORKFLOWS`] says what the guest does; what must become of it is for the tests to say.

mod misdeeds;

mod contract {
    #![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]
    wit_bindgen::generate!({ path: "../../../wit", world: "workflow" });
    use super::Hostile;
    export!(Hostile);
}

use contract::backstitch::workflow::host;
use contract::backstitch::workflow::types::{ActivityOptions, Event, Failure, FailureKind, RetryPolicy};
use contract::{Guest, Status, WorkflowDescription};
use std::cell::Cell;

struct Hostile;

/// A first activation: gets the input as JSON text.
type Start = fn(&str) -> Status;
/// What follows from each event.
type OnEvent = fn(Event) -> Status;

struct Workflow {
    name: &'static str,
    start: Start,
    on_event: OnEvent,
}

const fn ends_at_once(name: &'static str, start: Start) -> Workflow {
    Workflow { name, start, on_event: misdeeds::completes_with_what_comes }
}

const WORKFLOWS: &[Workflow] = &[
    // Resources.
    ends_at_once("endless_loop", misdeeds::endless_loop),
    ends_at_once("memory_bomb", misdeeds::memory_bomb),
    ends_at_once("deep_recursion", misdeeds::deep_recursion),
    ends_at_once("deep_frames", misdeeds::deep_frames),
    ends_at_once("million_commands", misdeeds::million_commands),
    ends_at_once("million_log_lines", misdeeds::million_log_lines),
    ends_at_once("huge_log_line", misdeeds::huge_log_line),
    ends_at_once("gigabyte_string", misdeeds::gigabyte_string),
    ends_at_once("huge_result", misdeeds::huge_result),
    ends_at_once("huge_failure", misdeeds::huge_failure),
    ends_at_once("long_names", misdeeds::long_names),
    Workflow { name: "loop_in_resume", start: misdeeds::sleeps, on_event: misdeeds::endless_resume },
    ends_at_once("holds", misdeeds::holds),
    Workflow { name: "computes", start: misdeeds::waits_to_compute, on_event: misdeeds::computes },
    Workflow { name: "loop_in_query", start: misdeeds::waits_for_ever, on_event: misdeeds::blocks },
    // The contract.
    ends_at_once("panics", misdeeds::panics),
    Workflow { name: "panics_in_resume", start: misdeeds::sleeps, on_event: misdeeds::panics_later },
    ends_at_once("command_after_drain", misdeeds::command_after_drain),
    ends_at_once("cancel_unknown_op", misdeeds::cancel_unknown_op),
    ends_at_once("blocked_undrained", misdeeds::blocked_undrained),
    ends_at_once("blocked_on_nothing", misdeeds::blocked_on_nothing),
    ends_at_once("sleeps_for_ever", misdeeds::sleeps_for_ever),
    Workflow { name: "command_in_query", start: misdeeds::waits_for_ever, on_event: misdeeds::blocks },
    Workflow { name: "nondeterministic", start: misdeeds::sleeps, on_event: misdeeds::counts_resumes },
    // No misdeeds of their own: for those of others.
    Workflow { name: "waits_for_ever", start: misdeeds::waits_for_ever, on_event: misdeeds::blocks },
    ends_at_once("calls", misdeeds::calls),
    Workflow { name: "hoards", start: misdeeds::hoards, on_event: misdeeds::hoards_more },
    // JSON.
    ends_at_once("invalid_json", misdeeds::invalid_json),
    ends_at_once("invalid_json_input", misdeeds::invalid_json_input),
    ends_at_once("invalid_json_continue", misdeeds::invalid_json_continue),
    ends_at_once("deep_json", misdeeds::deep_json),
    ends_at_once("deep_json_input", misdeeds::deep_json_input),
    Workflow { name: "json_echo", start: misdeeds::json_echo, on_event: misdeeds::json_echoed },
    Workflow { name: "json_relay", start: misdeeds::json_relay, on_event: misdeeds::json_relayed },
];

thread_local! {
    static ON_EVENT: Cell<OnEvent> = const { Cell::new(misdeeds::blocks) };
    static RESUMES: Cell<u64> = const { Cell::new(0) };
}

impl Guest for Hostile {
    fn describe() -> Vec<WorkflowDescription> {
        let describe = |workflow: &Workflow| WorkflowDescription {
            name: workflow.name.to_owned(),
            signals: Vec::new(),
            queries: Vec::new(),
            input_schema: None,
            output_schema: None,
        };
        WORKFLOWS.iter().map(describe).collect()
    }

    fn start(workflow: String, input: String) -> Status {
        std::panic::set_hook(Box::new(|info| host::report_panic(&info.to_string())));
        let Some(found) = WORKFLOWS.iter().find(|entry| entry.name == workflow) else {
            return failed("unknown-workflow", workflow);
        };
        ON_EVENT.set(found.on_event);
        (found.start)(&input)
    }

    fn resume() -> Status {
        RESUMES.set(RESUMES.get() + 1);
        drain()
    }

    fn query(name: String, input: String) -> Result<String, String> {
        match name.as_str() {
            "command" => Ok(host::sleep_for(1).to_string()),
            // The second is how a validator is asked.
            "loop" | "update:loop" => misdeeds::spin(),
            "panic" => panic!("a panic in a query"),
            "invalid-json" => Ok("{not json".to_owned()),
            "ok" | "update:ok" => Ok("true".to_owned()),
            "echo" => Ok(input),
            _ => Err(format!("unknown query `{name}`")),
        }
    }
}

/// Hands events on until there is none, as every guest must before it returns `blocked`. On replay all
/// of them come while `start` runs.
fn drain() -> Status {
    while let Some(event) = host::next_event() {
        match ON_EVENT.get()(event) {
            Status::Blocked => {}
            ended => return ended,
        }
    }
    Status::Blocked
}

fn failed(code: &str, message: String) -> Status {
    Status::Failed(Failure {
        kind: FailureKind::Application,
        code: code.to_owned(),
        message,
        details: None,
        retryable: false,
        retry_after_ms: None,
        attempts: 0,
    })
}
