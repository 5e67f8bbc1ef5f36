//! A host in this process, on a database of its own, with the guests of `examples/` deployed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use backstitch::api::Door;
use backstitch::host::{Host, HostConfig};
use backstitch::service::Service;
use backstitch_client::StartRun;
use backstitch_core::{Json, RunId, Scope};
use backstitch_ledger::Cluster;
use backstitch_sandbox::Compiler;
use backstitch_worker::Worker;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::cpu::{self, Cpu};

/// A database server and the way to it.
pub(crate) struct Server {
    /// Stops the private server when it goes.
    _cluster: Option<Cluster>,
    /// Where to connect.
    pub(crate) url: String,
    postmaster: u32,
    /// What compiled guests are kept in.
    pub(crate) cache: tempfile::TempDir,
}

impl Server {
    /// The server behind `url`, or a private one.
    pub(crate) async fn start(url: Option<&str>) -> Result<Self> {
        let (cluster, url) = match url {
            Some(url) => (None, url.to_owned()),
            None => {
                let cluster =
                    tokio::task::spawn_blocking(Cluster::ephemeral).await?.context("no private Postgres")?;
                let url = cluster.create_database("bench").await?;
                (Some(cluster), url)
            }
        };
        let mut connection = PgConnection::connect(&url).await?;
        let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
        let postmaster =
            cpu::parent_of(backend.unsigned_abs()).context("the server is not on this machine")?;
        connection.close().await?;
        Ok(Self { _cluster: cluster, url, postmaster, cache: tempfile::tempdir()? })
    }

    /// CPU spent so far, by us and by the server.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Cpu::now(self.postmaster)
    }

    /// The configuration of a host on this server.
    pub(crate) fn config(&self) -> HostConfig {
        HostConfig {
            cache_dir: Some(self.cache.path().join("code")),
            ..HostConfig::new(&self.url, Compiler::InProcess)
        }
    }

    /// A connection for questions and floors.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }
}

/// A host with the examples deployed.
pub(crate) struct Rig {
    host: Host,
    /// The worker outside the host and the host's door, if there are any: they end with it.
    stopping: CancellationToken,
    /// What clients call.
    pub(crate) service: Service,
}

impl Rig {
    /// Starts a host and deploys the guests.
    pub(crate) async fn start(config: HostConfig, guests: &[Vec<u8>]) -> Result<Self> {
        let host = Host::start(config).await?;
        let service = host.service();
        for guest in guests {
            service.deploy(Scope::DEFAULT, guest.clone()).await?;
        }
        Ok(Self { host, service, stopping: CancellationToken::new() })
    }

    /// Starts a host that serves no activities, and beside it, over HTTP on the loopback, a worker that does.
    pub(crate) async fn start_remote(
        config: HostConfig,
        guests: &[Vec<u8>],
        concurrency: usize,
    ) -> Result<Self> {
        let rig = Self::start(config, guests).await?;
        let serves = rig.service.deployments(Scope::DEFAULT).await?;
        ensure!(
            serves.iter().all(|served| served.name.task_queue.is_none()),
            "the database has activities that the host would carry out itself; give an empty one"
        );
        let door = Door::open(([127, 0, 0, 1], 0).into()).await?;
        let worker = Worker::connect(&door.url())?
            .task_queue("echo-tasks")
            .concurrency(u32::try_from(concurrency)?)
            .activity("echo", async |_, (text,): (String,)| Ok(text));
        tokio::spawn(door.serve(rig.service.clone(), rig.stopping.clone()));
        tokio::spawn(worker.run(rig.stopping.clone().cancelled_owned()));
        Ok(rig)
    }

    /// Starts one run.
    pub(crate) async fn start_run(&self, workflow: &str, input: &str) -> Result<RunId> {
        let start = StartRun::new(workflow, None, Json::new(input)?);
        Ok(self.service.start(Scope::DEFAULT, start).await?.run.run_id)
    }

    /// Ends the host.
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        self.host.shutdown().await;
    }
}

/// The guests of these packages, built.
pub(crate) fn guests(packages: &[&str]) -> Result<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let packages: Vec<String> = packages.iter().map(|package| (*package).to_owned()).collect();
    let guests = backstitch::componentize::find(&root, &packages)?;
    let modules: Vec<PathBuf> = backstitch::componentize::compile(&guests, true)?;
    ensure!(modules.len() == packages.len(), "as many guests as packages");
    let component = |(package, module): (&String, &PathBuf)| {
        Ok(backstitch::componentize::componentize(package, std::fs::read(module)?)?)
    };
    packages.iter().zip(&modules).map(component).collect()
}

/// The guests that take durable steps.
pub(crate) fn step_guests() -> Result<Vec<Vec<u8>>> {
    guests(&["fan-out-workflow", "example-activities"])
}

/// Where activities are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the host's sandbox.
    Host,
    /// By a worker outside, so many at a time.
    Worker(usize),
}

/// A host and whatever carries out the activities of [`step_guests`].
pub(crate) async fn step_rig(config: HostConfig, guests: &[Vec<u8>], place: Place) -> Result<Shared> {
    Ok(Arc::new(match place {
        Place::Host => Rig::start(config, guests).await?,
        // The first is the workflow.
        Place::Worker(concurrency) => Rig::start_remote(config, &guests[..1], concurrency).await?,
    }))
}

/// What the machine is, for the report.
pub(crate) fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown");
    let kernel = Command::new("uname").arg("-r").output().ok();
    let kernel = kernel.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{cpus} × {}, Linux {}", model.trim_start_matches([' ', '\t', ':']), kernel.unwrap_or_default())
}

/// Shared by tasks.
pub(crate) type Shared = Arc<Rig>;
