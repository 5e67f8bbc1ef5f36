//! Workers in the process of their host: they call the service where others send requests.

use std::time::Duration;

use backstitch_client::ClientError;
use backstitch_client::tasks::{AnswerTask, HeartbeatTask, HeartbeatView, PollTasks, SettledTask, TaskView};
use backstitch_core::Scope;
use backstitch_engine::tenure::Tenure;
use backstitch_worker::{Port, Worker};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::problem::Problem;
use crate::service::{Service, ServiceError};

/// The host of this process, as its workers see it.
#[derive(Clone)]
pub struct Local {
    pub(crate) service: Service,
    pub(crate) scope: Scope,
}

/// A worker of the host in this process.
pub type LocalWorker = Worker<Local>;

/// Makes a worker what it is to be.
pub(crate) type SetUp = Box<dyn FnOnce(LocalWorker, &Tenure) -> LocalWorker + Send>;

/// The workers of a host in its own process.
#[derive(Default)]
pub(crate) struct Workers {
    stopping: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts each of them.
    pub(crate) fn start(workers: Vec<SetUp>, local: &Local) -> Self {
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

    async fn heartbeat(&self, heartbeat: HeartbeatTask) -> Result<HeartbeatView, ClientError> {
        self.service.heartbeat_task(self.scope, heartbeat).await.map_err(told)
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
