//! One attempt: it runs beside its own heartbeats, and its answer is told until it is heard.

use std::sync::Arc;
use std::time::Duration;

use backstitch_client::ClientError;
use backstitch_client::tasks::{AnswerTask, HeartbeatTask, TaskFailure, TaskView};
use backstitch_core::Json;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::answers::Answers;
use crate::port::Port;
use crate::{Activity, Ending, Failure, Pace, is_final};

/// What an attempt is told, and can say while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    task: Arc<TaskView>,
    details: Arc<watch::Sender<Option<Json>>>,
    cancelled: watch::Receiver<bool>,
}

impl Context {
    /// The call's arguments: a JSON array.
    pub fn input(&self) -> &Json {
        &self.task.input
    }

    /// Everything that the host says of the task.
    pub fn task(&self) -> &TaskView {
        &self.task
    }

    /// The same for every attempt of one call, and for no other call.
    pub fn idempotency_key(&self) -> &str {
        &self.task.idempotency_key
    }

    /// Which attempt, 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.task.attempt
    }

    /// What whoever answers later has to show.
    pub fn token(&self) -> &str {
        &self.task.token
    }

    /// What the attempts before this one said last.
    pub fn heartbeat_details(&self) -> Option<&Json> {
        self.task.heartbeat_details.as_ref()
    }

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
        let mut cancelled = self.cancelled.clone();
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether nobody waits for the outcome any more.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }
}

/// Carries a task out, from its begin to its answer.
pub(crate) async fn run(
    port: impl Port,
    task: TaskView,
    activity: Option<Activity>,
    answers: Answers,
    mut stopping: watch::Receiver<bool>,
) {
    let taken = Instant::now();
    let Some(activity) = activity else {
        // A host that gives what was not asked for; another worker may know it.
        release(&port, &task).await;
        return;
    };
    let (details, said) = watch::channel(None);
    let last = said.clone();
    let (cancel, cancelled) = watch::channel(false);
    let task = Arc::new(task);
    let context = Context { task: Arc::clone(&task), details: Arc::new(details), cancelled };
    // It ends with whoever waits for it here: an outcome that nobody tells is worth nothing.
    let attempt = AbortOnDropHandle::new(tokio::spawn(activity(context)));
    let told = async {
        let ending = match attempt.await {
            Ok(ending) => ending,
            Err(error) => Ending::Failed(Failure::retryable("panic", error.to_string())),
        };
        let (took_ms, attempt) = (taken.elapsed().as_millis(), task.attempt);
        let (run, op, name) = (&task.run_id, task.op, &*task.name);
        match &ending {
            Ending::Failed(Failure(failure)) => {
                let (code, message) = (&*failure.code, &*failure.message);
                tracing::warn!(%run, %op, attempt, name, took_ms, code, message, "an attempt has failed");
                pass_on(&port, &task, &last).await;
            }
            Ending::Completed(_) => tracing::debug!(%run, %op, attempt, name, took_ms, "carried out"),
            Ending::Later => tracing::info!(%run, %op, attempt, name, took_ms, "to be answered later"),
        }
        tell(&port, &task, &answers, ending).await;
    };
    tokio::select! {
        () = told => {}
        () = beats(&port, &task, taken, said, &cancel) => {
            tracing::warn!(run = %task.run_id, op = %task.op, "the lease is lost; the attempt is dropped");
        }
        () = stop(&mut stopping) => {
            pass_on(&port, &task, &last).await;
            release(&port, &task).await;
        }
    }
}

/// Gives a task back.
pub(crate) async fn release(port: &impl Port, task: &TaskView) {
    if let Err(error) = port.release(task.token.clone()).await {
        tracing::warn!(%error, "a task could not be given back; it goes on when its lease is over");
    }
}

/// Has the next attempt know what this one said last, if a host is there to hear it now.
async fn pass_on(port: &impl Port, task: &TaskView, said: &watch::Receiver<Option<Json>>) {
    let Some(details) = said.borrow().clone() else { return };
    let beat = HeartbeatTask { token: task.token.clone(), details: Some(details) };
    if let Err(error) = port.heartbeat(beat).await {
        tracing::warn!(run = %task.run_id, op = %task.op, %error, "what an attempt said last is not known");
    }
}

/// Waits until attempts are to stop.
async fn stop(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Extends the lease until it is lost.
async fn beats(
    port: &impl Port,
    task: &TaskView,
    taken: Instant,
    said: watch::Receiver<Option<Json>>,
    cancel: &watch::Sender<bool>,
) {
    let mut lease = Duration::from_millis(task.lease_ms);
    let mut lives_until = taken + lease;
    let mut heard = None;
    loop {
        tokio::time::sleep(lease / 3).await;
        let asked = Instant::now();
        let details = said.borrow().clone();
        let news = details.clone().filter(|_| details != heard);
        let beat = HeartbeatTask { token: task.token.clone(), details: news };
        match tokio::time::timeout_at(lives_until, port.heartbeat(beat)).await {
            Ok(Ok(view)) => {
                heard = details;
                if view.cancel {
                    cancel.send_replace(true);
                }
                match view.lease_ms {
                    Some(ms) => lease = Duration::from_millis(ms),
                    // It is to be answered later: nothing is lost by silence.
                    None => std::future::pending().await,
                }
                lives_until = asked + lease;
            }
            Ok(Err(ClientError::Problem { status: 409, .. })) => return,
            Ok(Err(error)) if Instant::now() < lives_until => {
                tracing::warn!(%error, "a heartbeat did not get through");
                if let ClientError::Problem { status, .. } = error
                    && is_final(status)
                {
                    // Its details are too long. The next one is without them, and keeps the lease.
                    heard = details;
                }
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Tells what an attempt gave, until a host takes it or refuses it. Whoever calls ends it with the lease.
async fn tell(port: &impl Port, task: &TaskView, answers: &Answers, ending: Ending) {
    let mut answer = match ending {
        Ending::Completed(output) => AnswerTask::completed(&*task.token, output),
        Ending::Failed(Failure(failure)) => AnswerTask::failed(&*task.token, failure),
        Ending::Later => return defer(port, task).await,
    };
    let mut pace = Pace::new();
    loop {
        match answers.send(answer.clone()).await {
            Some(told) if told.status == 200 => return,
            Some(told) if is_final(told.status) => {
                let (code, detail) = (told.code.unwrap_or_default(), told.detail.unwrap_or_default());
                tracing::warn!(run = %task.run_id, op = %task.op, code, detail, "an answer was refused");
                match plain(answer, told.status, detail) {
                    Some(plain) => answer = plain,
                    None => return,
                }
            }
            _ => {
                pace.wait().await;
            }
        }
    }
}

/// What any host takes instead of an answer that one has refused. None if there is nothing left to say.
fn plain(refused: AnswerTask, status: u16, detail: String) -> Option<AnswerTask> {
    let AnswerTask { token, output, failure } = refused;
    match (status, output, failure) {
        (409, ..) => None,
        // The workflow would otherwise wait for attempts without end, each with the same output.
        (_, Some(_), _) => Some(AnswerTask::failed(token, Failure::fatal("bad-output", detail).0)),
        (_, _, Some(failure)) if failure.details.is_some() => {
            Some(AnswerTask::failed(token, TaskFailure { details: None, ..failure }))
        }
        _ => None,
    }
}

async fn defer(port: &impl Port, task: &TaskView) {
    let mut pace = Pace::new();
    while let Err(error) = port.defer(task.token.clone()).await {
        if error.has_status(409) {
            tracing::warn!(run = %task.run_id, op = %task.op, %error, "nobody waits for the answer");
            return;
        }
        pace.wait().await;
    }
}
