//! One attempt: it runs beside its own heartbeats, and its answer is told until it is heard.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backstitch_client::ClientError;
use backstitch_client::tasks::{AnswerTask, HeartbeatTask, HeartbeatView, TaskFailure as Failure, TaskView};
use backstitch_core::Json;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::answers::Answers;
use crate::port::Port;

/// How an attempt ends.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The workflow gets this.
    Completed(Json),
    /// The attempt has failed.
    Failed(Failure),
    /// Somebody else will answer, who has the token of the task.
    Later,
}

type Attempting = Pin<Box<dyn Future<Output = Ending> + Send>>;
pub(crate) type Activity = Arc<dyn Fn(Context) -> Attempting + Send + Sync>;

/// What an attempt is told, and can say while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Everything that the host says of the task: which attempt it is, its idempotency key, what the attempts
    /// before this one said last.
    pub task: Arc<TaskView>,
    details: Arc<watch::Sender<Option<Json>>>,
    cancelled: CancellationToken,
}

impl Context {
    /// Tells how far it is: the next attempt hears of it if this one fails or is lost. Goes with the next
    /// heartbeat, at most a third of the lease from now, and before a failure. Something that is no JSON is not
    /// told.
    pub fn heartbeat(&self, details: &impl Serialize) {
        if let Ok(details) = Json::of(details) {
            self.details.send_replace(Some(details));
        }
    }

    /// Waits until nobody waits for the outcome any more.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Whether nobody waits for the outcome any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// An attempt, and the host that is told of it.
struct Attempt<P> {
    port: P,
    context: Context,
}

/// Carries a task out, from its begin to its answer. Its place is another's as soon as it has ended.
pub(crate) async fn run<P: Port>(
    port: P,
    task: TaskView,
    activity: Activity,
    answers: Answers,
    place: Option<OwnedSemaphorePermit>,
    stopping: CancellationToken,
) {
    let taken = Instant::now();
    let details = Arc::new(watch::Sender::new(None));
    let context = Context { task: Arc::new(task), details, cancelled: CancellationToken::new() };
    // It ends with whoever waits for it here: an outcome that nobody tells is worth nothing.
    let ending = AbortOnDropHandle::new(tokio::spawn(activity(context.clone())));
    let attempt = Attempt { port, context };
    let told = async {
        let panicked = |error: JoinError| Ending::Failed(Failure::retryable("panic", error.to_string()));
        let ending = ending.await.unwrap_or_else(panicked);
        drop(place);
        attempt.tell(&answers, ending, taken).await;
    };
    let TaskView { run_id: run, op, .. } = &*attempt.context.task;
    tokio::select! {
        () = told => {}
        () = attempt.heartbeats(taken) => tracing::warn!(%run, %op, "the lease is lost; the attempt is dropped"),
        () = stopping.cancelled() => {
            attempt.pass_on().await;
            release(&attempt.port, &attempt.context.task).await;
        }
    }
}

/// Gives a task back.
pub(crate) async fn release(port: &impl Port, task: &TaskView) {
    if let Err(error) = port.release(task.token.clone()).await {
        tracing::warn!(%error, "a task could not be given back; it goes on when its lease is over");
    }
}

impl<P: Port> Attempt<P> {
    async fn heartbeat(&self, details: Option<Json>) -> Result<HeartbeatView, ClientError> {
        self.port.heartbeat(HeartbeatTask { token: self.context.task.token.clone(), details }).await
    }

    /// Has the next attempt know what this one said last, if a host is there to hear it now.
    async fn pass_on(&self) {
        let details = self.context.details.borrow().clone();
        if details.is_some()
            && let Err(error) = self.heartbeat(details).await
        {
            let TaskView { run_id: run, op, .. } = &*self.context.task;
            tracing::warn!(%run, %op, %error, "what an attempt said last is not known");
        }
    }

    /// Extends the lease until it is lost.
    async fn heartbeats(&self, taken: Instant) {
        let mut lease = Duration::from_millis(self.context.task.lease_ms);
        let mut lives_until = taken + lease;
        let mut heard = None;
        let mut wait = lease / 3;
        loop {
            tokio::time::sleep_until(lives_until.min(Instant::now() + wait)).await;
            let asked = Instant::now();
            if asked >= lives_until {
                return;
            }
            let details = self.context.details.borrow().clone();
            let news = details.clone().filter(|_| details != heard);
            // A host that hangs is to leave time for another question, maybe to another host.
            let deadline = lives_until.min(asked + lease / 3);
            let Ok(answered) = tokio::time::timeout_at(deadline, self.heartbeat(news)).await else {
                tracing::warn!("a heartbeat is not answered; asking again");
                wait = Duration::ZERO;
                continue;
            };
            match answered {
                Ok(HeartbeatView { cancel, lease_ms }) => {
                    if cancel {
                        self.context.cancelled.cancel();
                    }
                    // It is to be answered later: nothing is lost by silence.
                    let Some(lease_ms) = lease_ms else { return std::future::pending().await };
                    lease = Duration::from_millis(lease_ms);
                    wait = lease / 3;
                    lives_until = asked + lease;
                    heard = details;
                }
                Err(error) if error.has_status(409) => return,
                Err(error) => {
                    tracing::warn!(%error, "a heartbeat did not get through");
                    // Soon: the lease goes on, and another host may hear it.
                    wait = lease / 10;
                    if error.is_final() {
                        // Its details are too long. The next one is without them, and keeps the lease.
                        heard = details;
                    }
                }
            }
        }
    }

    /// Tells what an attempt gave, until a host takes it or refuses it. Whoever calls ends it with the lease.
    async fn tell(&self, answers: &Answers, mut ending: Ending, taken: Instant) {
        let TaskView { token, run_id: run, op, attempt, name, .. } = &*self.context.task;
        let took_ms = taken.elapsed().as_millis();
        match &ending {
            Ending::Failed(Failure { code, message, .. }) => {
                tracing::warn!(%run, %op, attempt, name, took_ms, code, message, "an attempt has failed");
                self.pass_on().await;
            }
            Ending::Completed(_) => tracing::debug!(%run, %op, attempt, name, took_ms, "carried out"),
            Ending::Later => tracing::info!(%run, %op, attempt, name, took_ms, "to be answered later"),
        }
        for tries in 0.. {
            let answer = async |answer| answers.send(&self.port, answer, tries > 0).await;
            let told = match ending.clone() {
                Ending::Completed(output) => answer(AnswerTask::completed(token, output)).await,
                Ending::Failed(failure) => answer(AnswerTask::failed(token, failure)).await,
                Ending::Later => self.port.defer(token.clone()).await,
            };
            match told {
                Ok(()) => return,
                Err(error) if error.is_final() => {
                    tracing::warn!(%run, %op, %error, "an answer was refused");
                    let Some(plainer) = plainer(ending, &error) else { return };
                    ending = plainer;
                }
                Err(_) => pause(tries).await,
            }
        }
    }
}

/// What any host takes instead of an answer that one has refused. None if there is nothing left to say.
fn plainer(refused: Ending, error: &ClientError) -> Option<Ending> {
    match refused {
        _ if error.has_status(409) => None,
        // The workflow would otherwise wait for attempts without end, each with the same output.
        Ending::Completed(_) => Some(Ending::Failed(Failure::fatal("bad-output", error.to_string()))),
        Ending::Failed(failure) if failure.details.is_some() => {
            Some(Ending::Failed(Failure { details: None, ..failure }))
        }
        Ending::Failed(_) | Ending::Later => None,
    }
}

/// What separates questions that no host answers: 100 ms before the second, then each time twice as long, up to
/// 5 s.
pub(crate) async fn pause(tries: u32) {
    tokio::time::sleep(Duration::from_millis(100 << tries.min(6)).min(Duration::from_secs(5))).await;
}
