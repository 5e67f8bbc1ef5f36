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
//! again under the same [`Context::idempotency_key`].
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
//!         Ok(format!("sent {} bytes under {}", text.len(), context.idempotency_key()))
//!     });
//! worker.run(async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await?;
//! # Ok(())
//! # }
//! ```

mod answers;
mod attempt;
mod port;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstitch_client::tasks::{PollTasks, TaskFailure, TaskView};
use backstitch_client::{Client, ClientError};
use backstitch_core::Json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use answers::Answers;
pub use attempt::Context;
pub use port::Port;

/// How an attempt fails.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {}", .0.code, .0.message)]
pub struct Failure(pub TaskFailure);

impl Failure {
    /// Another attempt may succeed.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(TaskFailure { code: code.into(), message: message.into(), ..TaskFailure::default() })
    }

    /// No other attempt can succeed.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self(TaskFailure { retryable: false, ..Self::retryable(code, message).0 })
    }

    /// The next attempt is made no sooner than this, whatever the call's policy says.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after_ms = Some(millis(delay));
        self
    }
}

/// How an attempt ends.
#[derive(Debug)]
pub enum Ending {
    /// The workflow gets this.
    Completed(Json),
    /// The attempt has failed.
    Failed(Failure),
    /// Somebody else will answer, who has the token: [`Context::token`].
    Later,
}

type Attempting = Pin<Box<dyn Future<Output = Ending> + Send>>;
type Activity = Arc<dyn Fn(Context) -> Attempting + Send + Sync>;

/// How long a worker that is stopped waits for the poll under way: if there are tasks, they are on the way, and
/// who does not hear of them has them until their lease is over.
const LAST_POLL: Duration = Duration::from_millis(200);
/// Pauses between questions that no host answers: from 100 ms on each twice as long, up to 5 s.
pub(crate) struct Pace(Duration);

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Duration::from_millis(100))
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(5));
    }
}

/// A worker that is being set up, or runs.
#[derive(Clone)]
pub struct Worker<P = Client> {
    port: P,
    task_queue: String,
    name: String,
    concurrency: u32,
    lease: Duration,
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

impl<P: Port> Worker<P> {
    /// A worker of the host behind `port`, with the settings of [`Worker::connect`].
    pub fn new(port: P) -> Self {
        Self {
            port,
            task_queue: backstitch_core::command::DEFAULT_TASK_QUEUE.to_owned(),
            name: format!("rust-{}", std::process::id()),
            concurrency: 16,
            lease: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            activities: HashMap::new(),
            any: None,
        }
    }

    /// Which queue it takes tasks from.
    pub fn task_queue(mut self, task_queue: impl Into<String>) -> Self {
        self.task_queue = task_queue.into();
        self
    }

    /// What it calls itself, for people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Attempts at a time, 1 to 1,000.
    pub fn concurrency(mut self, attempts: u32) -> Self {
        self.concurrency = attempts.clamp(1, 1_000);
        self
    }

    /// How long it may be silent about a task before others get it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
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
        I: DeserializeOwned + Send + 'static,
        O: Serialize,
        F: Fn(Context, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        self.raw_activity(name, move |context| {
            let attempt = serde_json::from_str(context.input().as_str()).map(|input| run(context, input));
            async move {
                match attempt {
                    Err(error) => Ending::Failed(Failure::fatal("bad-input", error.to_string())),
                    Ok(attempt) => match attempt.await {
                        Ok(output) => completed(&output),
                        Err(failure) => Ending::Failed(failure),
                    },
                }
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
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ClientError> {
        let room = Arc::new(Semaphore::new(self.concurrency as usize));
        let (answers, answering) = Answers::start(self.port.clone());
        let (stopping, stopped) = watch::channel(false);
        let mut attempts = JoinSet::new();
        let worker = Arc::new(self);
        let over = AtomicBool::new(false);
        let polls = async {
            let mut pace = Pace::new();
            loop {
                // Not one task more than can be begun at once: a lease must not be spent waiting.
                let first = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
                let free = u32::try_from(room.available_permits()).unwrap_or(u32::MAX).saturating_add(1);
                drop(first);
                if over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                match worker.port.poll(worker.poll(free)).await {
                    Ok(tasks) if over.load(Ordering::Relaxed) => {
                        for task in tasks {
                            let port = worker.port.clone();
                            attempts.spawn(async move { attempt::release(&port, &task).await });
                        }
                        return Ok(());
                    }
                    Ok(tasks) => {
                        pace = Pace::new();
                        for task in tasks {
                            let place = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
                            let run = worker.begin(task, answers.clone(), stopped.clone());
                            attempts.spawn(async move {
                                run.await;
                                drop(place);
                            });
                        }
                        while attempts.try_join_next().is_some() {}
                    }
                    Err(ClientError::Problem { status, .. }) if is_final(status) => {
                        // It will say the same again.
                        return worker.port.poll(worker.poll(free)).await.map(drop);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no tasks can be had; asking again");
                        pace.wait().await;
                    }
                }
            }
        };
        let refused = {
            tokio::pin!(polls);
            tokio::select! {
                refused = &mut polls => refused,
                () = stop => {
                    over.store(true, Ordering::Relaxed);
                    tokio::time::timeout(LAST_POLL, polls).await.unwrap_or(Ok(()))
                }
            }
        };
        if tokio::time::timeout(worker.grace, async { while attempts.join_next().await.is_some() {} })
            .await
            .is_err()
        {
            let _ = stopping.send(true);
            while attempts.join_next().await.is_some() {}
        }
        drop(answers);
        let _ = answering.await;
        refused
    }

    fn poll(&self, max: u32) -> PollTasks {
        let names = self.any.is_none().then(|| self.activities.keys().cloned().collect());
        PollTasks {
            names,
            max,
            wait_ms: 30_000,
            lease_ms: Some(millis(self.lease)),
            worker: self.name.clone(),
            ..PollTasks::new(self.task_queue.clone())
        }
    }

    /// One attempt, from its task to its answer.
    fn begin(
        &self,
        task: TaskView,
        answers: Answers,
        stopping: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + use<P> {
        let activity = self.activities.get(&task.name).or(self.any.as_ref()).cloned();
        attempt::run(self.port.clone(), task, activity, answers, stopping)
    }
}

fn completed(output: &impl Serialize) -> Ending {
    match Json::of(output) {
        Ok(output) => Ending::Completed(output),
        Err(error) => Ending::Failed(Failure::fatal("bad-output", error.to_string())),
    }
}

/// Whether a host that has refused would say the same again.
fn is_final(status: u16) -> bool {
    status < 500 && status != 408 && status != 429
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
