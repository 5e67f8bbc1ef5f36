//! The command line: parses, calls a host's API or becomes a host, and ends with a code of [`exit`].
//!
//! Every command but `dev`, `serve`, `migrate`, `build`, `test`, `doctor` and `replay --history` is a client: it talks to a
//! host by HTTP and touches neither database nor sandbox.

// The printing macros panic when a reader has left; `output` looks at the error.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod activity;
mod build;
mod context;
mod deploy;
mod doctor;
pub mod exit;
mod export;
mod follow;
mod fork;
mod input;
mod migrate;
mod offline;
mod output;
mod pages;
mod program;
mod replay;
mod run;
mod schedule;
mod serve;
mod show;
mod start;
mod tenant;
mod test;
mod tree;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use backstitch_client::Client;
use clap::{CommandFactory, Parser, Subcommand};

use self::context::{Context, connect};
use self::exit::{CliError, CliResult, Exit};
use self::output::Output;
use crate::config;

/// Durable workflows as sandboxed WebAssembly components on nothing but Postgres.
#[derive(Debug, Parser)]
#[command(name = "backstitch", version, after_long_help = Exit::help(), max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// The host to talk to
    #[arg(long, global = true, env = "BACKSTITCH_HOST", value_name = "URL",
          default_value = config::HOST_URL_DEFAULT)]
    host: String,
    /// The tenant to act for
    #[arg(long, global = true, value_name = "NAME")]
    tenant: Option<String>,
    /// One JSON document on stdout instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing on stderr but errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a host with a Postgres of its own, for development
    Dev(serve::DevArgs),
    /// Run a host on the Postgres of DATABASE_URL
    Serve(serve::ServeArgs),
    /// Bring a database up to date, as the owner of its tables
    ///
    /// A host does so itself if its role may. If it may not, because it is to own and create nothing, this has to be
    /// run before a new version starts, and every two weeks for the partitions of the weeks to come.
    Migrate(migrate::MigrateArgs),
    /// Compile guest crates to components
    Build(build::BuildArgs),
    /// Run the tests of a guest crate, without a host and a database
    ///
    /// This is `cargo test` for the machine you are on, not for the sandbox. A workflow under `TestRun` has its
    /// timers skipped: one that sleeps for 30 days is tested in no time. Every test run is replayed as well, so
    /// that a workflow which is not deterministic fails.
    Test(test::TestArgs),
    /// Deploy components
    Deploy(deploy::DeployArgs),
    /// List what serves which name now
    Deployments,
    /// Start, inspect and steer runs
    #[command(subcommand)]
    Run(run::RunCommand),
    /// Start a workflow again and again by the calendar
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Look after calls that workers outside carry out
    #[command(subcommand)]
    Activity(activity::ActivityCommand),
    /// Carry out activities on this machine
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// Look at what a tenant may store, and bound it
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Lead a component along a run's ledger and say where they disagree
    Replay(replay::ReplayArgs),
    /// Check that this machine and the host can do their work
    Doctor(doctor::DoctorArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version of this program and of the host, if one answers
    Version,
    /// For the host itself
    #[command(subcommand, hide = true)]
    Internal(Internal),
}

#[derive(Debug, Subcommand)]
enum Internal {
    /// Look at the component on stdin, compile it and ask it what it holds, in a cage
    Compile {
        /// `component`, `component-0` (for runs under the first rules), or `probe`: try to get out of the cage
        job: String,
    },
    /// Print the OpenAPI document of the HTTP API
    Openapi {
        /// Its types in TypeScript instead
        #[arg(long)]
        typescript: bool,
    },
}

/// The whole program: arguments in, exit code out.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, and go to stdout. Nobody may be listening.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    if let Command::Internal(Internal::Compile { job }) = &cli.command {
        // Before any runtime and thread: the child shuts itself in.
        return job.parse().map_or(Exit::Usage.into(), backstitch_sandbox::compile_child_main);
    }
    let out = Output::new(cli.global.json, cli.global.quiet);
    match dispatch(cli, out) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            out.error(&error);
            error.exit.into()
        }
    }
}

fn dispatch(cli: Cli, out: Output) -> CliResult {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        CliError::new(Exit::Internal, "runtime", "cannot start threads").because(error.to_string())
    })?;
    runtime.block_on(Box::pin(run_command(cli, out)))
}

async fn run_command(cli: Cli, out: Output) -> CliResult {
    let Global { host, tenant, .. } = cli.global;
    let client = || connect(&host, tenant);
    match cli.command {
        Command::Dev(args) => serve::dev(args, out).await,
        Command::Serve(args) => serve::serve(args, out).await,
        Command::Migrate(args) => migrate::migrate(args, out).await,
        Command::Build(args) => build::build(&args, out),
        Command::Test(args) => test::test(&args, out),
        Command::Deploy(args) => deploy::deploy(&args, &Context { client: client()?, out }).await,
        Command::Deployments => deploy::deployments(&Context { client: client()?, out }).await,
        Command::Run(command) => run::run(command, &Context { client: client()?, out }).await,
        Command::Schedule(command) => schedule::schedule(command, &Context { client: client()?, out }).await,
        Command::Activity(command) => activity::activity(command, &Context { client: client()?, out }).await,
        Command::Worker(command) => worker::worker(command, &Context { client: client()?, out }).await,
        Command::Tenant(command) => tenant::tenant(command, &Context { client: client()?, out }).await,
        Command::Replay(replay::ReplayArgs { run: Some(run), component, .. }) => {
            replay::replay(&run, component.as_deref(), &Context { client: client()?, out }).await
        }
        Command::Replay(args) => offline::replay(&args, out).await,
        Command::Doctor(args) => doctor::doctor(args, &client()?, out).await,
        Command::Completions { shell } => completions(shell),
        Command::Version => version(&client()?, out).await,
        Command::Internal(Internal::Compile { .. }) => Ok(()),
        Command::Internal(Internal::Openapi { typescript: false }) => {
            output::raw(backstitch_server::api::openapi::text().as_bytes())
        }
        Command::Internal(Internal::Openapi { typescript: true }) => {
            output::raw(backstitch_server::api::typescript::text().as_bytes())
        }
    }
}

fn completions(shell: clap_complete::Shell) -> CliResult {
    // Into memory first: the generator panics when a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "backstitch", &mut script);
    output::raw(&script)
}

async fn version(client: &Client, out: Output) -> CliResult {
    let own = env!("CARGO_PKG_VERSION");
    let host = client.health().await.ok().map(|health| health.version);
    let document = serde_json::json!({ "version": own, "host": host });
    out.answer(&document, || match &host {
        Some(host) => format!("backstitch {own}\nhost {host} at {}", client.url()),
        None => format!("backstitch {own}"),
    })
}

#[cfg(test)]
mod tests {
    use backstitch_sandbox::Job;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for (exit, meaning) in Exit::TABLE {
            assert!(help.contains(&format!("{:>3}  {meaning}", exit.code())), "{exit:?}");
        }
    }

    #[test]
    fn the_compile_child_is_called_as_it_is_parsed() {
        let args = ["backstitch"].into_iter().chain(program::COMPILE_ARGS).chain([Job::Component.as_str()]);
        let cli = Cli::try_parse_from(args).unwrap();
        assert!(matches!(cli.command, Command::Internal(Internal::Compile { job }) if job == "component"));
    }

    #[test]
    fn contradicting_arguments_are_a_usage_error() {
        for line in [
            "run start w 1 --from f.jsonl",
            "run start w --from f.jsonl --follow",
            "run start w --from f.jsonl --id x",
            "run result",
            "run list --status runing",
            "run result x --timeout 1w",
            "run start w --priority 6",
            "run start w --attribute customer",
            "run fork x",
            "replay",
            "replay --history f.json",
            "replay x --history f.json --component f.wasm",
            "run export x --allow everything",
            "dev --listen nowhere",
            "serve --payload-keys f --payload-keys-command c",
            "tenant limit --payload-bytes lots",
            "schedule create s w --overlap sometimes",
            "schedule create s w --every 1week",
            "schedule create s w --start-at tomorrow",
            "schedule create s w --note why",
            "schedule backfill s --from 2026-01-01T00:00:00Z",
        ] {
            let args = ["backstitch"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(args).is_err(), "{line}");
        }
    }
}
