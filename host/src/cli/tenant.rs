//! `backstitch tenant …`: what the tenant of `--tenant` may store. For operators.

use backstitch_client::LimitTenant;
use backstitch_client::views::TenantView;
use clap::Subcommand;

use super::context::Context;
use super::exit::{CliError, CliResult};
use super::output::{Output, cell};

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Show what the tenant may store, and what it has stored
    Show,
    /// Bound what the tenant may store; a bound that is left out goes
    Limit {
        /// The largest payload that is taken from clients, workers and activities, in bytes
        #[arg(long, value_name = "BYTES")]
        payload_bytes: Option<u64>,
        /// Bytes of large payloads from which on none above 256 KiB is taken
        #[arg(long, value_name = "BYTES")]
        stored_bytes: Option<u64>,
    },
}

pub(super) async fn tenant(command: TenantCommand, context: &Context) -> CliResult {
    let client = &context.client;
    let view = match command {
        TenantCommand::Show => {
            client.tenant().await.map_err(|error| CliError::client("look at the tenant", error))?
        }
        TenantCommand::Limit { payload_bytes, stored_bytes } => {
            let limit = LimitTenant { payload_bytes_max: payload_bytes, stored_bytes_max: stored_bytes };
            client.limit_tenant(limit).await.map_err(|error| CliError::client("bound the tenant", error))?
        }
    };
    context.out.answer(&view, || table(&view, context.out))
}

fn table(view: &TenantView, out: Output) -> String {
    let bound =
        |bytes: Option<u64>, usual: &str| bytes.map_or_else(|| usual.to_owned(), |bytes| bytes.to_string());
    let fields = [
        ("largest payload", bound(view.payload_bytes_max, "2097152, as for everybody")),
        ("stored at most", bound(view.stored_bytes_max, "no bound")),
        ("stored", view.stored_bytes.to_string()),
    ];
    out.table(["BYTES", "VALUE"], fields.map(|(name, value)| [cell(name), cell(value)]).into())
}
