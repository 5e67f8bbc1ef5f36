//! `backstitch dev` and `backstitch serve`: become a host.
//!
//! The door is opened first, so that a port in use is noticed before anything is started, and closed
//! first: requests under way are answered, then the host gives up its runs, then a private Postgres
//! stops. The first Ctrl-C or SIGTERM asks for that, the second ends the process where it stands.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstitch_core::{HostId, limits};
use backstitch_ledger::{Cluster, ClusterError, ClusterOptions, KeyError, Payloads};
use backstitch_sandbox::{EgressConfig, GuestTime, Network};
use backstitch_server::api::{Door, Room};
use backstitch_server::embed::{BuildError, HostBuilder};
use backstitch_server::host::{Host, HostConfig, HostError};
use backstitch_server::push::{PushKeys, PushTarget};
use backstitch_server::seal::PayloadKeys;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, CliResult, Exit};
use super::output::Output;
use super::program::{LogArgs, compiler, stop_on_signals};
use crate::config::{self, DataDir};
use crate::process;

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub(super) struct DevArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Where the Postgres programs are [default: looked for in PATH and the usual places]
    #[arg(long, env = "BACKSTITCH_PG_BIN", value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    host: HostArgs,
    /// The database, such as postgres://user@host:5432/database. Every user of the machine can read a command line: a
    /// password belongs into DATABASE_URL or a .pgpass file
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// The schema of the tables, whatever `search_path` the role or the database has [default: public]
    #[arg(long, env = "BACKSTITCH_SCHEMA", value_name = "NAME")]
    schema: Option<String>,
}

/// Arguments of both.
#[derive(Debug, clap::Args)]
struct HostArgs {
    /// Where to answer clients
    #[arg(long, default_value = config::LISTEN_DEFAULT, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Where to keep compiled components and, with dev, the database
    /// [default: /var/lib/backstitch for root, else ~/.local/share/backstitch]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How long this host may be silent before others take its runs over, in milliseconds
    #[arg(long, default_value_t = limits::LEASE_MS, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    lease_ms: u64,
    /// Guests kept in memory; the others are replayed when something happens to them
    #[arg(long, default_value_t = limits::WARM_RUNS_MAX)]
    warm_runs_max: usize,
    /// Activity attempts running at once
    #[arg(long, default_value_t = limits::ACTIVITIES_RUNNING_MAX)]
    activities_max: usize,
    /// Memory of all guests together, in MiB: warm ones are dropped, attempts wait
    /// [default: half of the machine's, or of the control group's]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1 << 24))]
    guest_memory_mib: Option<u64>,
    /// Memory for whole ledgers, in MiB: so much for runs that are taken over, and as much for exports and queries. One
    /// that is larger is read alone
    /// [default: an eighth of the machine's, or of the control group's, and 640 at most]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    ledger_memory_mib: Option<u64>,
    /// How long a workflow may compute over one event, in milliseconds of processor time; 60 times that in one
    /// replay
    #[arg(long, default_value_t = limits::EVENT_MS_MAX, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    event_ms_max: u64,
    /// A network that activities may reach although it is not of the public internet, such as 10.1.0.0/16;
    /// may be given several times
    #[arg(
        long = "allow-network",
        env = "BACKSTITCH_ALLOW_NETWORKS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    allow_networks: Vec<Network>,
    /// A network that activities may not reach, allowed or not, such as the public address of this host behind a
    /// router; may be given several times
    #[arg(
        long = "deny-network",
        env = "BACKSTITCH_DENY_NETWORKS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    deny_networks: Vec<Network>,
    /// Where the secrets are that activities send: a file NAME each, and NAME.hosts with those who may have it
    #[arg(long, env = "BACKSTITCH_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    /// Certificate authorities that activities and pushes trust beside Mozilla's, in PEM
    #[arg(long, env = "BACKSTITCH_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Push the tasks of a queue to an endpoint instead of waiting for workers, such as
    /// mail=https://mail.example.com/tasks; may be repeated
    #[arg(long, value_name = "QUEUE=URL", requires = "push_keys")]
    push: Vec<PushTarget>,
    /// What pushed tasks are signed with: a file with `whsec_` and the base64 of 24 to 64 random bytes on each line
    #[arg(long, env = "BACKSTITCH_PUSH_KEYS", value_name = "FILE")]
    push_keys: Option<PathBuf>,
    /// Seal payloads in the database: a file with a name and the base64 of 32 random bytes on each line. The first
    /// key seals, all open
    #[arg(
        long,
        env = "BACKSTITCH_PAYLOAD_KEYS",
        value_name = "FILE",
        conflicts_with = "payload_keys_command"
    )]
    payload_keys: Option<PathBuf>,
    /// The same, where a shell command prints the keys
    #[arg(long, env = "BACKSTITCH_PAYLOAD_KEYS_COMMAND", value_name = "COMMAND")]
    payload_keys_command: Option<String>,
    /// Connections of clients at once
    #[arg(long, default_value_t = limits::API_CONNECTIONS_MAX)]
    connections_max: usize,
    /// Connections of clients at once from one address; of a proxy in front of this host, those of all its clients
    #[arg(long, default_value_t = limits::API_CONNECTIONS_PER_PEER_MAX)]
    peer_connections_max: usize,
    /// Let debuggers look into this process, and the system write its memory to a file when it crashes: payloads,
    /// keys and secrets are in it
    #[arg(long)]
    allow_dumps: bool,
    /// How long the calls of one activation may be carried out on its thread, in ms
    #[arg(long, hide = true, default_value_t = limits::CALLS_AT_ONCE_MS)]
    at_once_ms: u64,
    /// Appends committed in one statement
    #[arg(long, hide = true, default_value_t = limits::BATCH_APPENDS_MAX)]
    batch_max: usize,
    /// Repeat every activation and compare, in debug builds
    #[arg(long, hide = true)]
    check_activations: bool,
    #[command(flatten)]
    log: LogArgs,
}

fn bytes(mib: u64) -> usize {
    usize::try_from(mib << 20).unwrap_or(usize::MAX)
}

impl HostArgs {
    fn config(&self, database_url: &str, data: &DataDir) -> CliResult<HostConfig> {
        let compiler = compiler()?;
        Ok(HostConfig {
            cache_dir: Some(data.cache()),
            lease_ms: self.lease_ms,
            warm_runs_max: self.warm_runs_max,
            activities_max: self.activities_max.max(1),
            guest_time: GuestTime::per_event(Duration::from_millis(self.event_ms_max)),
            guest_memory_bytes_max: self
                .guest_memory_mib
                .map_or_else(backstitch_engine::memory::guest_memory_bytes_max, bytes),
            ledger_memory_bytes_max: self
                .ledger_memory_mib
                .map_or_else(backstitch_engine::memory::ledger_memory_bytes_max, bytes),
            at_once_ms: self.at_once_ms,
            batch_max: self.batch_max.max(1),
            check_activations: self.check_activations,
            egress: EgressConfig {
                networks: self.allow_networks.clone(),
                denied: self.deny_networks.clone(),
                secrets_dir: self.secrets_dir.clone(),
                ca_file: self.ca_file.clone(),
            },
            payloads: self.payloads()?,
            ..HostConfig::new(database_url, compiler)
        })
    }

    /// How payloads are stored.
    fn payloads(&self) -> CliResult<Payloads> {
        let (keys, from) = match (&self.payload_keys, &self.payload_keys_command) {
            (Some(file), _) => (PayloadKeys::read(file), file.display().to_string()),
            (None, Some(command)) => (PayloadKeys::ask(command), format!("`{command}`")),
            (None, None) => return Ok(Payloads::default()),
        };
        let keys = keys.map_err(|error| {
            CliError::new(Exit::Invalid, "payload-keys", "payloads cannot be sealed")
                .because(format!("{from}: {error}"))
                .hint("for a key, write a name, a space and what `openssl rand -base64 32` says")
        })?;
        Ok(Payloads::sealed_by(Arc::new(keys)))
    }

    /// The host, and whatever carries out activities beside its sandbox.
    fn builder(&self, config: HostConfig) -> CliResult<HostBuilder> {
        let builder = HostBuilder::new(config);
        let Some(file) = &self.push_keys else { return Ok(builder) };
        let failed = |why: String| {
            CliError::new(Exit::Invalid, "push", "tasks cannot be pushed").because(why).hint(format!(
                "for a key, write `whsec_` and what `openssl rand -base64 32` says into {}",
                file.display()
            ))
        };
        let keys = PushKeys::read(file).map_err(|error| failed(format!("{}: {error}", file.display())))?;
        builder
            .push(self.push.clone(), &keys, self.ca_file.as_deref())
            .map_err(|error| failed(error.to_string()))
    }

    /// Hides this process' memory, and makes room for files. Before there is anything to hide, or a file is open.
    fn settle_in(&self) {
        if !self.allow_dumps
            && let Err(error) = process::hide_memory()
        {
            tracing::warn!(%error, "others may look into the memory of this process");
        }
    }

    /// As many connections as were asked for, if there may be as many files.
    fn room(&self) -> Room {
        let files = process::raise_open_files();
        let all = self.connections_max.min(process::files_for_connections(files));
        if all < self.connections_max {
            tracing::warn!(
                files,
                connections = all,
                "fewer connections than asked for: the bound on open files is low"
            );
        }
        Room { all, peer: self.peer_connections_max }
    }

    async fn open_door(&self) -> CliResult<Door> {
        let door = Door::open(self.listen).await.map_err(|error| {
            CliError::new(Exit::Invalid, "listen", format!("cannot listen on {}", self.listen))
                .because(error.to_string())
                .hint("another host may be running there; choose another with --listen")
        })?;
        let door = door.with_room(self.room());
        if !door.is_loopback() {
            tracing::warn!(url = door.url(), "there is no login: whoever can connect can steer all runs");
        }
        Ok(door)
    }

    /// The data directory, made if it is missing.
    fn data_dir(&self) -> CliResult<DataDir> {
        let failed = |why: String| {
            CliError::new(Exit::Invalid, "data-dir", "there is no place for data")
                .because(why)
                .hint("name a directory with --data-dir")
        };
        let data = DataDir::resolve(self.data_dir.clone()).map_err(|error| failed(error.to_string()))?;
        fs::create_dir_all(data.path())
            .map_err(|error| failed(format!("{}: {error}", data.path().display())))?;
        Ok(data)
    }
}

pub(super) async fn dev(args: DevArgs, out: Output) -> CliResult {
    let DevArgs { host, pg_bin } = args;
    host.log.start(out)?;
    host.settle_in();
    let stopping = stop_on_signals(out);
    let data = host.data_dir()?;
    let door = host.open_door().await?;
    out.note(&format!("starting Postgres in {}", data.postgres().display()));
    let cluster = start_cluster(&data, pg_bin).await?;
    let url = cluster.service_url().await.map_err(no_postgres)?;
    let mut config = host.config(&url, &data)?;
    // Only one Postgres can run in the directory: whoever was host here before is dead.
    let memory = HostMemory(data.path().join("host-id"));
    config.predecessor = memory.recall();
    let served = live(door, host.builder(config)?, stopping, Some(memory), out, |door, host| {
        let document = json!({
            "url": door.url(), "host_id": host.host_id(), "data_dir": data.path(), "database_url": url,
        });
        let welcome = || welcome(door, &data, &url);
        announce(out, &document, welcome)
    });
    let served = Box::pin(served).await;
    blocking(move || cluster.stop(true)).await?;
    served
}

async fn start_cluster(data: &DataDir, pg_bin: Option<PathBuf>) -> CliResult<Cluster> {
    let options = ClusterOptions { pg_bin, ..ClusterOptions::new(data.postgres()) };
    blocking(|| Cluster::start(options)).await?.map_err(no_postgres)
}

fn no_postgres(error: ClusterError) -> CliError {
    CliError::new(Exit::Unavailable, "postgres", "cannot start a private Postgres")
        .because(error.to_string())
        .hint("`backstitch doctor` says what is missing; `backstitch serve` uses a Postgres of yours")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> CliResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        CliError::new(Exit::Internal, "thread", "a thread broke down").because(error.to_string())
    })
}

pub(super) async fn serve(args: ServeArgs, out: Output) -> CliResult {
    let ServeArgs { host, database_url, schema } = args;
    host.log.start(out)?;
    host.settle_in();
    let url = database_url.ok_or_else(|| {
        CliError::new(Exit::Usage, "database-url", "no database is named")
            .because("neither --database-url nor DATABASE_URL is set")
            .hint("set DATABASE_URL, or run `backstitch dev`, which brings its own Postgres")
    })?;
    let stopping = stop_on_signals(out);
    let data = host.data_dir()?;
    let door = host.open_door().await?;
    let config = HostConfig { schema, ..host.config(&url, &data)? };
    let served = live(door, host.builder(config)?, stopping, None, out, |door, host| {
        let database = config::without_password(&url);
        let document = json!({ "url": door.url(), "host_id": host.host_id(), "database_url": database });
        announce(out, &document, || format!("serving {database} at {}", door.url()))
    });
    Box::pin(served).await
}

/// A host's life between its start and a signal.
async fn live(
    door: Door,
    host: HostBuilder,
    stopping: CancellationToken,
    memory: Option<HostMemory>,
    out: Output,
    announce: impl FnOnce(&Door, &Host) -> CliResult,
) -> CliResult {
    let host = tokio::select! {
        host = host.start() => host.map_err(not_started)?,
        () = stopping.cancelled() => return Err(CliError::silent(Exit::Interrupted)),
    };
    let announced = announce(&door, &host);
    if announced.is_err() {
        stopping.cancel();
    }
    let served = {
        let remembering = async {
            match memory {
                Some(memory) => memory.keep(&host).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            served = door.serve(host.service(), stopping) => served,
            () = remembering => Ok(()),
        }
    };
    out.note("stopping: finishing what is on its way");
    host.shutdown().await;
    announced?;
    served.map_err(|error| {
        CliError::new(Exit::Internal, "accept", "cannot answer clients any more").because(error.to_string())
    })
}

fn not_started(error: BuildError) -> CliError {
    let exit = match error {
        BuildError::Host(
            HostError::Connect(_) | HostError::Migrate(_) | HostError::Ledger(_) | HostError::Clock(_),
        ) => Exit::Unavailable,
        BuildError::Host(HostError::Keys(KeyError::Unusable { .. })) => Exit::Invalid,
        _ => Exit::Internal,
    };
    CliError::new(exit, "host", "the host cannot start").because(error.to_string())
}

fn announce(out: Output, document: &serde_json::Value, text: impl FnOnce() -> String) -> CliResult {
    if out.is_json() {
        return out.document(document);
    }
    out.note(&text());
    Ok(())
}

fn welcome(door: &Door, data: &DataDir, database: &str) -> String {
    let url = door.url();
    let host = if url == config::HOST_URL_DEFAULT { String::new() } else { format!(" --host {url}") };
    format!(
        "\nready at {url}\n  data      {}\n  database  psql '{database}'\n\n\
         in another terminal:\n  \
         backstitch build PATH\n  \
         backstitch deploy{host} FILE.wasm\n  \
         backstitch run start{host} WORKFLOW '{{\"some\": \"input\"}}' --follow\n\n\
         Ctrl-C stops this host; its runs go on when it starts again.\n",
        data.path().display()
    )
}

/// Who was host on a private Postgres: its successor need not wait for its lease to run out.
struct HostMemory(PathBuf);

impl HostMemory {
    fn recall(&self) -> Option<HostId> {
        fs::read_to_string(&self.0).ok()?.trim().parse().ok()
    }

    /// Writes down who the host is, whenever that changes.
    async fn keep(&self, host: &Host) {
        loop {
            let changed = host.host_ids();
            if let Some(id) = host.host_id()
                && let Err(error) = replace(&self.0, &id.to_string())
            {
                tracing::warn!(%error, "a restart will have to wait for this host's lease");
            }
            changed.await;
        }
    }
}

/// Whole or not at all: half an id would be read as none.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstitch_engine::ambient;

    #[test]
    fn a_host_is_remembered_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let memory = HostMemory(dir.path().join("host-id"));
        assert_eq!(memory.recall(), None);
        let id = ambient::new_host_id();
        replace(&memory.0, &id.to_string()).unwrap();
        assert_eq!(memory.recall(), Some(id));
        replace(&memory.0, "half").unwrap();
        assert_eq!(memory.recall(), None);
    }
}
