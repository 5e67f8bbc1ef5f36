//! A host inside a program of one's own: what `backstitch serve` is, and activities that are closures of that
//! program.
//!
//! Such activities are carried out by workers in the same process, over the same tasks as those of workers
//! elsewhere: the runs that call them may be another host's, and what this process dies over is made again
//! by the next one that serves the queue. They are trusted code: nothing bounds what they compute or reach.

use std::path::Path;

use backstitch_core::Scope;
use backstitch_engine::tenure::Tenure;
use backstitch_sandbox::{Compiler, EgressError};
pub use backstitch_worker::{Context, Ending, Failure};

use crate::host::{Host, HostConfig, HostError};
pub use crate::local::{Local, LocalWorker};
use crate::local::{SetUp, Workers};
use crate::push::{self, PushKeys, PushTarget};
use crate::service::ServiceError;

/// A host that is being set up.
///
/// ```no_run
/// # async fn example(workflows: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
/// use backstitch_server::embed::Failure;
/// use backstitch_server::host::Host;
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
