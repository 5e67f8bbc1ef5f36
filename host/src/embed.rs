//! A host inside a program of one's own: what `backstitch serve` is, and activities that are closures of that
//! program.
//!
//! Such activities are carried out by workers in the same process, over the same tasks as those of workers
//! elsewhere: the runs that call them may be another host's, and what this process dies over is made again
//! by the next one that serves the queue. They are trusted code: nothing bounds what they compute or reach.

use std::path::Path;
use std::time::Duration;

use backstitch_client::ClientError;
use backstitch_client::tasks::{AnswerTask, HeartbeatTask, HeartbeatView, PollTasks, SettledTask, TaskView};
use backstitch_core::Scope;
use backstitch_sandbox::{Compiler, EgressError};
pub use backstitch_worker::{Context, Ending, Failure};
use backstitch_worker::{Port, Worker};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::problem::Problem;
use crate::host::{Host, HostConfig, HostError};
use crate::push::{self, PushKeys, PushTarget};
use crate::service::{Service, ServiceError};
use crate::tenure::Tenure;

/// The host of this process, as its workers see it.
#[derive(Clone)]
pub struct Local {
    service: Service,
    scope: Scope,
}

/// A worker of the host in this process.
pub type LocalWorker = Worker<Local>;

type SetUp = Box<dyn FnOnce(LocalWorker, &Tenure) -> LocalWorker + Send>;

/// A host that is being set up.
///
/// ```no_run
/// # async fn example(workflows: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
/// use backstitch::embed::Failure;
/// use backstitch::host::Host;
///
/// let host = Host::builder("postgres://localhost/app")
///     .component(workflows)
///     .worker(|worker| {
///         worker.task_queue("mail-tasks").activity("send_mail", async |context, (to, text): (String, String)| {
///             println!("{} gets {} bytes", to, text.len());
///             Ok::<_, Failure>(context.task.idempotency_key.clone())
///         })
///     })
///     .start()
///     .await?;
/// tokio::signal::ctrl_c().await?;
/// host.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub struct HostBuilder {
    config: HostConfig,
    workers: Vec<SetUp>,
    components: Vec<Vec<u8>>,
}

/// Why a host was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The host itself.
    #[error(transparent)]
    Host(#[from] HostError),
    /// One of its components.
    #[error("a component cannot be deployed: {0}")]
    Component(ServiceError),
}

impl Host {
    /// A host on this Postgres, with the defaults of `backstitch serve`, except that components are compiled in
    /// this process: [`HostBuilder::config`] has another [`Compiler`], for components of others.
    pub fn builder(database_url: impl Into<String>) -> HostBuilder {
        HostBuilder::new(HostConfig::new(database_url, Compiler::InProcess))
    }
}

impl HostBuilder {
    /// A host with these settings.
    pub fn new(config: HostConfig) -> Self {
        Self { config, workers: Vec::new(), components: Vec::new() }
    }

    /// Changes settings of the host.
    pub fn config(mut self, change: impl FnOnce(&mut HostConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Deploys a component before any worker begins.
    pub fn component(mut self, bytes: Vec<u8>) -> Self {
        self.components.push(bytes);
        self
    }

    /// Adds a worker in this process: `set_up` says which queue it serves, and its activities. May be called for
    /// each queue. What a deployed component serves is not for workers.
    pub fn worker(mut self, set_up: impl FnOnce(LocalWorker) -> LocalWorker + Send + 'static) -> Self {
        self.workers.push(Box::new(|worker, _| set_up(worker)));
        self
    }

    /// Pushes the tasks of queues to endpoints, signed with these keys. `ca_file`: certificate authorities that are
    /// trusted beside Mozilla's.
    ///
    /// # Errors
    ///
    /// If those authorities cannot be read.
    pub fn push(
        self,
        targets: Vec<PushTarget>,
        keys: &PushKeys,
        ca_file: Option<&Path>,
    ) -> Result<Self, EgressError> {
        let http = push::http(ca_file)?;
        Ok(targets.into_iter().fold(self, |mut builder, target| {
            let (keys, http) = (keys.clone(), http.clone());
            let set_up =
                move |worker, tenure: &Tenure| push::pusher(worker, tenure.clone(), target, keys, http);
            builder.workers.push(Box::new(set_up));
            builder
        }))
    }

    /// Connects, brings the schema up to date, deploys, and starts to work. Fails rather than waits.
    pub async fn start(self) -> Result<Host, BuildError> {
        let Self { config, workers, components } = self;
        let mut host = Host::start(config).await?;
        let service = host.service();
        for component in components {
            if let Err(error) = service.deploy(Scope::DEFAULT, component).await {
                host.shutdown().await;
                return Err(BuildError::Component(error));
            }
        }
        let local = Local { service, scope: Scope::DEFAULT };
        host.workers = Workers::start(workers, &local);
        Ok(host)
    }
}

/// The workers of a host in its own process.
#[derive(Default)]
pub(crate) struct Workers {
    stopping: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(workers: Vec<SetUp>, local: &Local) -> Self {
        let stopping = CancellationToken::new();
        let run = |set_up: SetUp| {
            let worker =
                set_up(Worker::new(local.clone()).grace(Duration::from_secs(5)), local.service.tenure());
            let stopped = stopping.clone().cancelled_owned();
            tokio::spawn(async move {
                if let Err(error) = worker.run(stopped).await {
                    tracing::error!(%error, "a worker in this process is refused its tasks");
                }
            })
        };
        let running = workers.into_iter().map(run).collect();
        Self { stopping, running }
    }

    /// Lets attempts finish for a while, and gives the others back.
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        for worker in self.running {
            let _ = worker.await;
        }
    }
}

/// As a client over HTTP would be told.
fn told(error: ServiceError) -> ClientError {
    let problem = Problem::from(error).document();
    ClientError::Problem { status: problem.status, code: problem.code, detail: problem.detail }
}

impl Port for Local {
    async fn poll(&self, poll: PollTasks) -> Result<Vec<TaskView>, ClientError> {
        self.service.poll_tasks(self.scope, poll).await.map_err(told)
    }

    async fn heartbeat(&self, beat: HeartbeatTask) -> Result<HeartbeatView, ClientError> {
        self.service.heartbeat_task(self.scope, beat).await.map_err(told)
    }

    async fn settle(&self, answers: Vec<AnswerTask>) -> Result<Vec<SettledTask>, ClientError> {
        self.service.settle_tasks(self.scope, answers).await.map_err(told)
    }

    async fn defer(&self, token: String) -> Result<(), ClientError> {
        self.service.defer_task(self.scope, &token).await.map_err(told)
    }

    async fn release(&self, token: String) -> Result<(), ClientError> {
        self.service.release_task(self.scope, &token).await.map_err(told)
    }
}
