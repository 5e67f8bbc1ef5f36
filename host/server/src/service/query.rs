//! Questions to a run: answered by a guest of its own that is led along the run's ledger, asked once,
//! and dropped. Nothing is written, the run's own guest is not touched, and a run that has ended is
//! asked as one that waits.
//!
//! | what goes wrong | code |
//! |---|---|
//! | the ledger is not what was written | `ledger-damaged` |
//! | the guest does not repeat the ledger | `run-diverged` |
//! | the guest breaks down on the way, as that of a parked run may | `run-faulted` |
//! | the guest breaks down over the question: a command, a loop, a panic | `query-faulted` |
//! | the guest refuses a question that the component describes | `query-failed` |
//! | the guest refuses another one | `unknown-query` |

use std::sync::Arc;

use backstitch_core::names::check_name;
use backstitch_core::{Fault, Json, Run, Scope};
use backstitch_engine::registry::rules_of;
use backstitch_engine::replay_check::{self, NO_ROOM, Recorded, ReplayError};
use backstitch_ledger::RunInfo;
use backstitch_sandbox::{Stop, Stopped, WorkflowProgram};
use backstitch_wire::views::QueryView;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{ServiceError, internal, invalid, unloadable};
use super::state::Service;

/// Names of queries that an error lists.
const NAMES_SHOWN_MAX: usize = 20;

impl Service {
    /// Asks a run about its state.
    pub async fn query(
        &self,
        scope: Scope,
        id: &str,
        name: &str,
        input: Json,
    ) -> Result<QueryView, ServiceError> {
        let Asked { info, program, answer } = self.ask(scope, id, name, input).await?;
        match answer {
            Ok((output, rows)) => {
                Ok(QueryView { run_id: info.summary.run, query: name.to_owned(), rows, output })
            }
            Err(message) => Err(self.refused(&info.summary.workflow, name, &message, program).await),
        }
    }

    /// Puts a question to a guest of its own.
    pub(super) async fn ask(
        &self,
        scope: Scope,
        id: &str,
        name: &str,
        input: Json,
    ) -> Result<Asked, ServiceError> {
        check_name("query", name).map_err(|problem| invalid("invalid-name", problem))?;
        let info = self.find(scope, id).await?;
        let run = info.summary.run;
        let turn = self.turn_to_compute().await;
        let (rows, permit) = self.whole(run, 1).await?;
        let (digest, rules) = (info.summary.digest, rules_of(&rows));
        let program = self.programs.load_workflow(scope, digest, rules).await.map_err(unloadable)?;
        let workflow_id = info.summary.workflow_id.as_str().into();
        let recorded = Recorded { run, workflow_id, rows, head: info.head };
        let hung_up = HungUp::default();
        let question = Question { recorded, name: name.to_owned(), input, stop: hung_up.0.clone() };
        let asked = program.clone();
        // The turn and the room go with the work, which ends soon after its client has hung up.
        let answer = tokio::task::spawn_blocking(move || (question.ask(&asked), permit, turn)).await;
        let (answer, ..) = answer.map_err(|error| internal(&error))?;
        Ok(Asked { info, program, answer: answer? })
    }

    /// Waits for a turn to lead a guest along a whole ledger.
    pub(super) async fn turn_to_compute(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.computing).acquire_owned().await.expect("never closed")
    }

    /// The guest has no answer: because nobody knows the name, or for a reason of its own.
    async fn refused(
        &self,
        workflow: &str,
        name: &str,
        message: &str,
        program: WorkflowProgram,
    ) -> ServiceError {
        let described = program.described().unwrap_or_default();
        let described = described.iter().find(|described| described.name == workflow);
        let names = described.map(|described| &described.queries[..]).unwrap_or_default();
        if names.iter().any(|known| known == name) {
            let message = format!("the run does not answer the query {name:?}: {message}");
            return invalid("query-failed", message);
        }
        let known = if names.is_empty() {
            "its component describes none".to_owned()
        } else {
            let shown = names.iter().take(NAMES_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("its component describes: {shown}{more}")
        };
        let message = format!("the workflow {workflow:?} answers no query {name:?}; {known}");
        ServiceError::NotFound { code: "unknown-query", message }
    }
}

/// A question that was put.
pub(super) struct Asked {
    info: RunInfo,
    program: WorkflowProgram,
    /// The guest's answer, with the number of rows that it knows of; or its refusal.
    pub(super) answer: Result<(Json, u32), String>,
}

/// All that it takes to ask.
struct Question {
    recorded: Recorded,
    name: String,
    input: Json,
    stop: Stop,
}

/// Gives the guest up when the client does.
#[derive(Default)]
struct HungUp(Stop);

impl Drop for HungUp {
    fn drop(&mut self) {
        self.0.now();
    }
}

impl Question {
    /// The guest's answer, or its refusal, with the number of rows that it knows of. Computes: call it
    /// on a thread that may.
    fn ask(self, program: &WorkflowProgram) -> Result<Result<(Json, u32), String>, ServiceError> {
        let Self { recorded, name, input, stop } = self;
        let run = recorded.run;
        let (_, events) = Run::load_closed(run, &recorded.rows, recorded.head).map_err(|corrupt| {
            conflict("ledger-damaged", format!("the ledger of run {run} is damaged: {corrupt}"))
        })?;
        let (guest, _) =
            replay_check::replay(&recorded, program, events, stop).map_err(|error| match error {
                ReplayError::NoRoom => {
                    ServiceError::Unavailable { code: "no-room", message: NO_ROOM.to_owned() }
                }
                ReplayError::Stopped(Stopped::Unwanted) => {
                    let message = "whoever asked has hung up".to_owned();
                    ServiceError::Unavailable { code: "no-room", message }
                }
                ReplayError::Stopped(Stopped::Divergence(divergence)) => {
                    let why =
                        format!("run {run} cannot be asked, because its component diverges: {divergence}");
                    conflict("run-diverged", traced(why, divergence.backtrace.as_deref()))
                }
                ReplayError::Stopped(Stopped::Fault(fault)) => {
                    let why = format!("run {run} cannot be asked, because its guest breaks down: {fault}");
                    conflict("run-faulted", traced(why, fault.backtrace.as_deref()))
                }
            })?;
        let broke = |fault: Fault| {
            let why = format!("the guest broke down over the query {name:?}: {fault}");
            conflict("query-faulted", traced(why, fault.backtrace.as_deref()))
        };
        let answer = guest.into_reader().and_then(|mut reader| reader.query(&name, &input)).map_err(broke)?;
        let known = u32::try_from(recorded.rows.len()).unwrap_or(u32::MAX);
        Ok(answer.map(|output| (output, known)))
    }
}

fn conflict(code: &'static str, message: String) -> ServiceError {
    ServiceError::Conflict { code, message }
}

/// With the guest's frames below it: its author reads them.
fn traced(message: String, backtrace: Option<&str>) -> String {
    backtrace.map_or_else(|| message.clone(), |frames| format!("{message}\n{}", frames.trim_end()))
}
