//! `backstitch migrate`: what the owner of the tables does, so that hosts need not be it.

use backstitch_ledger::{ConnectOptions, Ledger};
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::output::Output;
use crate::config;

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {
    /// The database, such as postgres://owner@host:5432/database
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// The schema of the tables, whatever `search_path` the role or the database has [default: public]
    #[arg(long, env = "BACKSTITCH_SCHEMA", value_name = "NAME")]
    schema: Option<String>,
    /// Let this role do what a host does: use the tables, and own or create nothing
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
}

pub(super) async fn migrate(args: MigrateArgs, out: Output) -> CliResult {
    let url = args.database_url.ok_or_else(|| {
        CliError::new(Exit::Usage, "database-url", "no database is named")
            .because("neither --database-url nor DATABASE_URL is set")
    })?;
    let failed = |exit, why: String| {
        Err(CliError::new(exit, "migrate", "the database cannot be migrated").because(why))
    };
    let options = ConnectOptions { schema: args.schema, ..ConnectOptions::new(&url) };
    let ledger = match Ledger::connect(options).await {
        Ok(ledger) => ledger,
        Err(error) => return failed(Exit::Unavailable, error.to_string()),
    };
    if let Err(error) = ledger.migrate().await {
        return failed(Exit::Unavailable, error.to_string());
    }
    let made = async {
        let now_ms = ledger.clock_us().await? / 1_000;
        let partitions = ledger.ensure_partitions(now_ms).await?.made;
        if let Some(role) = &args.role {
            ledger.grant(role).await?;
        }
        Ok::<u32, backstitch_ledger::LedgerError>(partitions)
    };
    match made.await {
        Ok(partitions) => {
            let database = config::without_password(&url);
            let document = json!({ "database_url": database, "partitions": partitions, "role": args.role });
            out.answer(&document, || {
                let role = args.role.as_ref().map_or(String::new(), |role| format!("; {role} may serve it"));
                format!("{database} is up to date; {partitions} partitions were made{role}")
            })
        }
        Err(error) => failed(Exit::Unavailable, error.to_string()),
    }
}
