//! Carries out activities of Backstitch workflows in a program of one's own.
//!
//! What it promises:
//!
//! * Each attempt runs while its lease lives: heartbeats go out by themselves, three in each lease. An
//!   attempt whose lease is lost all the same is dropped where it stands, for somebody else may have it.
//! * What an attempt gave is told again until a host takes it or refuses it, as long as the lease lives.
//!   Answers that are ready together go in one request.
//! * [`Worker::run`] ends when it is told to: no new tasks; those under way get a grace to finish, and then
//!   go back to be done elsewhere, without counting as an attempt.
//!
//! What it refuses: exactly-once. A worker that dies may have had its effect; the same call is then made
//! again under the same [idempotency key](Context::task).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use backstitch_worker::{Failure, Worker};
//!
//! let worker = Worker::connect("http://127.0.0.1:7467")?
//!     .task_queue("mail-tasks")
//!     .activity("send_mail", async |context, (to, text): (String, String)| {
//!         if !to.contains('@') {
//!             return Err(Failure::fatal("bad-address", format!("{to:?} is no address")));
//!         }
//!         Ok(format!("sent {} bytes under {}", text.len(), context.task.idempotency_key))
//!     });
//! worker.run(async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await?;
//! # Ok(())
//! # }
//! ```

mod answers;
mod attempt;
mod hosts;
mod port;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backstitch_client::tasks::PollTasks;
pub use backstitch_client::tasks::TaskFailure as Failure;
use backstitch_client::{Client, ClientError};
use backstitch_core::Json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use answers::Answers;
use attempt::{Activity, pause};
pub use attempt::{Context, Ending};
pub use hosts::Hosts;
pub use port::Port;

/// How long a worker that is stopped waits for the poll under way: if there are tasks, they are on the way, and
/// who does not hear of them has them until their lease is over.
const LAST_POLL: Duration = Duration::from_millis(200);

/// A worker that is being set up, or runs.
#[derive(Clone)]
pub struct Worker<P = Client> {
    port: P,
    /// What it asks for, with room for all of its attempts.
    poll: PollTasks,
    grace: Duration,
    activities: HashMap<String, Activity>,
    any: Option<Activity>,
}

impl Worker {
    /// A worker of the host at `url`, such as `http://127.0.0.1:7467`; on the queue `default`, 16 attempts
    /// at a time, leases of 30 s, 10 s to finish when it is stopped.
    ///
    /// # Errors
    ///
    /// [`ClientError::Protocol`] if `url` is no address of a host.
    pub fn connect(url: &str) -> Result<Self, ClientError> {
        Ok(Self::new(Client::new(url)?))
    }
}

impl Worker<Hosts> {
    /// The same, of several hosts of one database: when one does not answer, the next is asked.
    ///
    /// # Errors
    ///
    /// [`ClientError::Protocol`] if there is none, or one of them is no address of a host.
    pub fn connect_any<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> Result<Self, ClientError> {
        let clients = urls.into_iter().map(|url| Client::new(url.as_ref()));
        Ok(Self::new(Hosts::new(clients.collect::<Result<Vec<_>, _>>()?)?))
    }
}

impl<P: Port> Worker<P> {
    /// A worker of the host behind `port`, with the settings of [`Worker::connect`].
    pub fn new(port: P) -> Self {
        let poll = PollTasks {
            max: 16,
            wait_ms: 30_000,
            lease_ms: Some(30_000),
            worker: format!("rust-{}", std::process::id()),
            ..PollTasks::new(backstitch_core::command::DEFAULT_TASK_QUEUE)
        };
        Self { port, poll, grace: Duration::from_secs(10), activities: HashMap::new(), any: None }
    }

    /// Which queue it takes tasks from.
    pub fn task_queue(mut self, task_queue: impl Into<String>) -> Self {
        self.poll.task_queue = task_queue.into();
        self
    }

    /// What it calls itself, for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.poll.worker = name.into();
        self
    }

    /// Attempts at a time, 1 to 1,000.
    pub fn concurrency(mut self, attempts: u32) -> Self {
        self.poll.max = attempts.clamp(1, 1_000);
        self
    }

    /// How long it may be silent about a task before others get it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.poll.lease_ms = Some(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// How long attempts may go on when it is stopped.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Carries out the activity `name`. Its input is the array of the call's arguments: a tuple. An input
    /// that is none fails the attempt for good, as `bad-input`.
    pub fn activity<I, O, F, R>(self, name: impl Into<String>, run: F) -> Self
    where
        F: Fn(Context, I) -> R + Send + Sync + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize,
        R: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        let bad = |code: &str, error: &dyn std::error::Error| Failure::fatal(code, error.to_string());
        self.raw_activity(name, move |context| {
            let input = serde_json::from_str(context.task.input.as_str());
            let attempt = input.map(|input| run(context, input)).map_err(|error| bad("bad-input", &error));
            async move {
                let output = async { Json::of(&attempt?.await?).map_err(|error| bad("bad-output", &error)) };
                output.await.map_or_else(Ending::Failed, Ending::Completed)
            }
        })
    }

    /// Carries out the activity `name`, with JSON as it is, and may leave the answer to somebody else.
    pub fn raw_activity<F, R>(mut self, name: impl Into<String>, run: F) -> Self
    where
        F: Fn(Context) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        self.activities.insert(name.into(), Arc::new(move |context| Box::pin(run(context))));
        self
    }

    /// Carries out every activity of the queue that has no entry of its own.
    pub fn any_activity<F, R>(mut self, run: F) -> Self
    where
        F: Fn(Context) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        self.any = Some(Arc::new(move |context| Box::pin(run(context))));
        self
    }

    /// Works until `stop` is over, then lets attempts finish for as long as the grace allows, and gives the
    /// others back.
    ///
    /// # Errors
    ///
    /// What a host refuses about the polls themselves, such as a name that is none. A host that is away is
    /// waited for.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ClientError> {
        self.poll.names = self.any.is_none().then(|| self.activities.keys().cloned().collect());
        let (over, stopping) = (CancellationToken::new(), CancellationToken::new());
        let mut attempts = JoinSet::new();
        let stopped = async {
            stop.await;
            over.cancel();
            tokio::time::sleep(LAST_POLL).await;
        };
        let ended = tokio::select! {
            biased;
            ended = self.take(&mut attempts, &over, &stopping) => ended,
            () = stopped => Ok(()),
        };
        let mut rest = pin!(async { while attempts.join_next().await.is_some() {} });
        if tokio::time::timeout(self.grace, &mut rest).await.is_err() {
            stopping.cancel();
            rest.await;
        }
        ended
    }

    /// Takes tasks and begins attempts at them, until it is `over`.
    async fn take(
        &self,
        attempts: &mut JoinSet<()>,
        over: &CancellationToken,
        stopping: &CancellationToken,
    ) -> Result<(), ClientError> {
        let answers = Answers::start(self.port.clone());
        let places = Arc::new(tokio::sync::Semaphore::new(self.poll.max as usize));
        let mut tries = 0;
        while !over.is_cancelled() {
            // Not one task more than can be begun at once: a lease must not be spent waiting.
            let max = places.available_permits() as u32;
            let tasks = match self.port.poll(PollTasks { max, ..self.poll.clone() }).await {
                Ok(tasks) => tasks,
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "no tasks can be had; asking again");
                    pause(tries).await;
                    tries += 1;
                    continue;
                }
            };
            tries = 0;
            for task in tasks {
                let (port, place) = (self.port.clone(), places.clone().try_acquire_owned().ok());
                match self.activities.get(&task.name).or(self.any.as_ref()).cloned() {
                    Some(activity) if !over.is_cancelled() => {
                        let (answers, stopping) = (answers.clone(), stopping.clone());
                        attempts.spawn(attempt::run(port, task, activity, answers, place, stopping));
                    }
                    // Too late, or what was not asked for: another worker may have it.
                    _ => drop(attempts.spawn(async move { attempt::release(&port, &task).await })),
                }
            }
            // An attempt that has ended keeps no place; but not without end are answers left untold.
            while attempts.try_join_next().is_some() {}
            while attempts.len() >= 2 * self.poll.max as usize {
                attempts.join_next().await;
            }
            let _ = places.acquire().await;
        }
        Ok(())
    }
}
