//! `backstitch doctor`: shows what [`crate::doctor`] found.

use std::path::PathBuf;

use backstitch_client::Client;
use backstitch_client::views::RepairsView;
use backstitch_ledger::ConnectOptions;
use comfy_table::{Cell, Color};
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::output::{Output, cell};
use crate::config::DataDir;
use crate::doctor::{self, Check, State};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Check this database instead of the Postgres programs
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// The schema of the tables, whatever `search_path` the role or the database has [default: public]
    #[arg(long, env = "BACKSTITCH_SCHEMA", value_name = "NAME")]
    schema: Option<String>,
    /// Where the Postgres programs are
    #[arg(long, env = "BACKSTITCH_PG_BIN", value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// Have the hosts make anew what follows from the ledgers of all runs: timers, tasks, messages of children,
    /// entities and attributes
    #[arg(long)]
    repair: bool,
    /// The data directory to check [default: as for dev and serve]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) async fn doctor(args: DoctorArgs, client: &Client, out: Output) -> CliResult {
    if args.repair {
        return repair(client, out).await;
    }
    let data = DataDir::resolve(args.data_dir);
    let compiler = super::program::compiler()?;
    let database =
        args.database_url.map(|url| ConnectOptions { schema: args.schema, ..ConnectOptions::new(url) });
    let checks = doctor::examine(database, args.pg_bin, data, &compiler, client).await;
    let failed = checks.iter().filter(|check| check.state == State::Failed).count();
    out.answer(&json!({ "checks": checks, "ok": failed == 0 }), || text(&checks, out))?;
    if failed == 0 { Ok(()) } else { Err(CliError::silent(Exit::Unhealthy)) }
}

/// Has all runs compared with their ledgers, some with each request.
async fn repair(client: &Client, out: Output) -> CliResult {
    let mut all = RepairsView::default();
    loop {
        let RepairsView { runs, closed, amended, leftovers, damaged, next } =
            client.repair_all(all.next).await.map_err(|error| CliError::client("repair", error))?;
        all = RepairsView {
            runs: all.runs + runs,
            closed: all.closed + closed,
            amended: all.amended + amended,
            leftovers: all.leftovers + leftovers,
            damaged: all.damaged + damaged,
            next,
        };
        if all.next.is_none() {
            break;
        }
    }
    out.answer(&all, || {
        let RepairsView { runs, closed, amended, leftovers, damaged, .. } = &all;
        format!(
            "{runs} open runs are being compared with their ledgers; the hosts' logs tell what was missing\n\
             {closed} closed runs were compared: {amended} had wrong or missing attributes or entities, {leftovers} had \
             timers or tasks left, {damaged} have damaged ledgers"
        )
    })
}

fn text(checks: &[Check], out: Output) -> String {
    let row = |check: &Check| [state(check.state), cell(check.name), cell(&check.found)];
    let table = out.table(["STATE", "CHECK", "FOUND"], checks.iter().map(row).collect());
    let fixes = checks.iter().filter_map(|check| Some(format!("{}: {}", check.name, check.fix.as_ref()?)));
    let fixes: Vec<String> = fixes.collect();
    if fixes.is_empty() { table } else { format!("{table}\n\nto mend:\n  {}", fixes.join("\n  ")) }
}

fn state(state: State) -> Cell {
    match state {
        State::Ok => Cell::new("ok").fg(Color::Green),
        State::Warning => Cell::new("warning").fg(Color::Yellow),
        State::Failed => Cell::new("failed").fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failed_check_prints_its_fix() {
        let checks = [
            Check { name: "cargo", state: State::Ok, found: "cargo 1".into(), fix: None },
            Check { name: "host", state: State::Failed, found: "no".into(), fix: Some("start it".into()) },
        ];
        let text = text(&checks, Output::plain());
        assert!(text.ends_with("\n\nto mend:\n  host: start it"), "{text}");
    }
}
