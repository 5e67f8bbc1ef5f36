//! What a command that is a client works with.

use backstitch_client::Client;

use super::exit::{CliError, CliResult};
use super::output::Output;

/// What a client command works with.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) out: Output,
}

/// A client of the host at `url`.
pub(super) fn connect(url: &str, tenant: Option<String>) -> CliResult<Client> {
    let client = Client::new(url).map_err(|error| CliError::client("reach the host", error))?;
    Ok(match tenant {
        Some(tenant) => client.for_tenant(tenant),
        None => client,
    })
}
