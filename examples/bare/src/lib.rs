//! A workflow on the bare contract (`wit/workflow.wit`): what any language without an SDK has to do.
//!
//! `two_steps` calls the activity `echo` twice, the second time with the outcome of the first. Without
//! an async runtime a workflow is a state machine: what it waits for is a value, and each activation
//! feeds it the events that have come.
//!
//! | state | event | then |
//! |---|---|---|
//! | `First` | outcome | call `echo` with it; `Second` |
//! | `Second` | outcome | completed with it |
//! | any | failure | failed with it |

mod contract {
    #![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all)]
    wit_bindgen::generate!({ path: "../../wit", world: "workflow" });
    use super::TwoSteps;
    export!(TwoSteps);
}

use contract::backstitch::workflow::host;
use contract::backstitch::workflow::types::{ActivityOptions, Event, Failure, FailureKind};
use contract::{Guest, Status, WorkflowDescription};
use std::cell::RefCell;

struct TwoSteps;

/// What the run waits for: the op of a call of `echo`.
#[derive(Clone, Copy)]
enum Waiting {
    First(u32),
    Second(u32),
}

thread_local! {
    static WAITING: RefCell<Option<Waiting>> = const { RefCell::new(None) };
}

impl Guest for TwoSteps {
    fn describe() -> Vec<WorkflowDescription> {
        vec![WorkflowDescription {
            name: "two_steps".to_owned(),
            signals: Vec::new(),
            queries: vec!["step".to_owned()],
            input_schema: None,
            output_schema: None,
        }]
    }

    fn start(workflow: String, input: String) -> Status {
        if workflow != "two_steps" {
            return refused("unknown-workflow", format!("no workflow `{workflow}` here"));
        }
        WAITING.set(Some(Waiting::First(echo(&input))));
        Self::resume()
    }

    /// Takes events until there is none: they come one at a time, in ledger order.
    fn resume() -> Status {
        while let Some(Event { op, outcome }) = host::next_event() {
            let output = match outcome {
                Ok(output) => output,
                Err(failure) => return Status::Failed(failure),
            };
            match WAITING.take() {
                Some(Waiting::First(first)) if first == op => {
                    WAITING.set(Some(Waiting::Second(echo(&output))));
                }
                Some(Waiting::Second(second)) if second == op => return Status::Completed(output),
                Some(Waiting::First(_) | Waiting::Second(_)) | None => {
                    return refused("unexpected-event", format!("nothing waits for op {op}"));
                }
            }
        }
        Status::Blocked
    }

    fn query(name: String, _input: String) -> Result<String, String> {
        match (name.as_str(), WAITING.with_borrow(|waiting| *waiting)) {
            ("step", Some(Waiting::First(_))) => Ok("1".to_owned()),
            ("step", Some(Waiting::Second(_))) => Ok("2".to_owned()),
            ("step", None) => Ok("null".to_owned()),
            _ => Err(format!("unknown query `{name}`")),
        }
    }
}

/// Calls `echo` with one argument, which is JSON already.
fn echo(argument: &str) -> u32 {
    let options = ActivityOptions {
        task_queue: Some("echo-tasks".to_owned()),
        start_to_close_ms: None,
        schedule_to_close_ms: None,
        schedule_to_start_ms: None,
        heartbeat_ms: None,
        retry: None,
    };
    host::proxy_activity("echo", &format!("[{argument}]"), &options)
}

fn refused(code: &str, message: String) -> Status {
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
