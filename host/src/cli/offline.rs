//! `backstitch replay --history FILE.json --component FILE.wasm`: the same question as `replay RUN`, put
//! to two files. Neither a host nor a database is asked: an auditor needs nothing else.

use backstitch_client::history::{BadHistory, HISTORY_BYTES_MAX, History};
use backstitch_core::{Digest, Rules};
use backstitch_engine::registry::rules_of;
use backstitch_engine::replay_check::{self, Recorded};
use backstitch_sandbox::{
    CompileError, EgressConfig, GuestTime, LoadError, Program, Sandbox, SandboxConfig, WorkflowProgram,
};

use super::exit::{CliError, CliResult, Exit};
use super::input;
use super::output::Output;
use super::program::compiler;
use super::replay::{self, ReplayArgs};

pub(super) async fn replay(args: &ReplayArgs, out: Output) -> CliResult {
    let (Some(file), Some(component)) = (&args.history, &args.component) else {
        unreachable!("the command line requires both where it has no run");
    };
    let bad = |error: BadHistory| {
        CliError::new(Exit::Invalid, error.code(), format!("{} is no history to replay", file.display()))
            .because(error.to_string())
            .hint("write one with `backstitch run export RUN -o FILE.json`, without --allow")
    };
    let text = input::bounded(input::open(file)?, HISTORY_BYTES_MAX, &file.display().to_string())?;
    let mut history = History::read(&text).map_err(bad)?;
    drop(text);
    let rows = history.rows().map_err(bad)?;
    let (digest, program) = load(input::component(component)?, rules_of(&rows)).await?;
    let (run, head) = (history.run_id, history.head());
    let recorded = Recorded { run, workflow_id: history.workflow_id.into(), rows, head };
    let replay_check = move || replay_check::replay_check(&recorded, digest, &program);
    let replayed = tokio::task::spawn_blocking(replay_check).await.map_err(|error| broken(&error))?;
    replay::conclude(&replayed, out)
}

/// Takes a component in as a host would, in a process of its own and within its bounds.
async fn load(bytes: Vec<u8>, rules: Rules) -> CliResult<(Digest, WorkflowProgram)> {
    let refused = |code: &str, why: String| {
        CliError::new(Exit::Refused, code, "the component cannot be replayed").because(why)
    };
    let config = SandboxConfig {
        cache_dir: None,
        compiler: compiler()?,
        warm_runs_max: 1,
        activities_max: 1,
        guest_time: GuestTime::default(),
        memory_bytes_max: 1 << 30,
        egress: EgressConfig::default(),
    };
    let sandbox = Sandbox::new(config).map_err(|error| broken(&error))?;
    let taken = sandbox.take_in_for(bytes.into(), rules).await.map_err(|error| match error {
        LoadError::Compile { error: CompileError::Refused(why), .. } => refused(why.code(), why.to_string()),
        error if error.is_final() => refused("does-not-load", error.to_string()),
        error => broken(&error),
    })?;
    match taken.program {
        Program::Workflow(program) => Ok((taken.digest, program)),
        Program::Activity(_) => {
            Err(CliError::new(Exit::Invalid, "wrong-kind", "the component cannot be replayed")
                .because("an activity component has no ledger to be replayed against; give a workflow"))
        }
    }
}

fn broken(error: &dyn std::fmt::Display) -> CliError {
    CliError::new(Exit::Internal, "sandbox", "cannot replay on this machine").because(error.to_string())
}
